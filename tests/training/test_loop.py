"""The loop around the engine: precision, memory layout, rates, figures."""

import dataclasses
from functools import partial

import pytest
import torch
from pairs import FAMILIES, HOMES
from tiny import BATCH, SIDE, STEPS, tiny_data, tiny_recipe, tiny_trainer
from torch import nn

from locbench.data import Split
from locbench.errors import UserError
from locbench.recipes.schema import Schedule, Training
from locbench.training import loop
from locbench.training.loop import Trainer, unit_name
from locbench.training.saved_bytes import SavedBytes

LAST = torch.channels_last


@pytest.mark.parametrize(("rule", "name"), HOMES)
def test_bf16_is_near_fp32(rule, name):
    losses, gradients = {}, {}
    for precision in ("fp32", "bf16"):
        trainer = tiny_trainer(rule, tiny_recipe(precision, lr=0.05, rule=rule), name)
        dtypes = set()
        for block in trainer.network.blocks:
            block.register_forward_hook(lambda _, __, y, seen=dtypes: seen.add(y.dtype))
        rows = []
        for _ in range(3):
            trainer.train_step()
            rows.append(list(trainer.read().values()))
            if len(rows) == 1:
                flat = [p.grad.flatten() for p in trainer.engine.parameters()]
                gradients[precision] = torch.cat(flat)
        losses[precision] = torch.tensor(rows)
        assert (torch.bfloat16 in dtypes) == (precision == "bf16")  # a layer norm's is float32
        kept = [*trainer.network.parameters(), *trainer.objectives.parameters()]
        assert {p.dtype for p in kept} == {torch.float32}
    assert losses["bf16"].isfinite().all()
    apart = ((losses["bf16"] - losses["fp32"]) / losses["fp32"]).abs()
    assert 0 < apart[:2].max() < 0.04  # with the first weights: the rate of the first step is 0
    alike = torch.cosine_similarity(gradients["fp32"], gradients["bf16"], dim=0)
    assert alike > 0.9


@pytest.mark.parametrize("name", FAMILIES)
def test_channels_last_is_kept_from_the_images_to_the_momentum(name):
    trainer = tiny_trainer("loco", tiny_recipe("bf16"), name)
    maps: list[torch.Tensor] = []

    def keep(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        maps.extend(x.detach() for x in (*inputs, output) if x.ndim == 4)

    for module in (*trainer.network.modules(), *trainer.objectives.modules()):
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.register_forward_hook(keep)
    for _ in range(2):
        trainer.train_step()
    assert maps[0].shape == (2 * BATCH, 3, SIDE, SIDE)
    maps += [p for p in trainer.engine.parameters() if p.ndim == 4]
    maps += [entry["momentum_buffer"] for entry in trainer.optimizer.state.values()]
    four = [x for x in maps if x.ndim == 4]
    assert len(four) > 80
    assert all(x.is_contiguous(memory_format=LAST) for x in four)
    ambiguous = [x for x in four if x.is_contiguous()]  # one channel or one pixel: both at once
    assert len(ambiguous) < 0.7 * len(four)


def test_the_schedule_reaches_the_optimizer_at_every_step():
    trainer = tiny_trainer("loco")
    assert (trainer.total, trainer.feed.steps(1.0)) == (STEPS, 3)
    rates = []
    for step in range(STEPS):
        trainer.train_step()
        used = {group["lr"] for group in trainer.optimizer.param_groups}
        assert used == {trainer.learning_rate(step)}
        rates += used
        trainer.read()
    assert rates[:4] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert trainer.curves["lr"] == [*rates[1:], pytest.approx(0)]


def test_the_warm_up_of_imagenet_is_that_of_the_simclr_code():
    class Many:
        def __len__(self) -> int:
            return 1_281_167

    data = tiny_data()
    object.__setattr__(data, "train", Many())
    recipe = tiny_recipe(schedule=Schedule(800, 10.0), training=Training(4096, "fp32"))
    trainer = Trainer(recipe, "simclr", "resnet50", 0, data, "cpu")
    assert (trainer.total, trainer.feed.steps(10.0)) == (250_228, 3127)
    assert trainer.window == loop.LONGEST_WINDOW  # a long run is read, and saved, often enough


def test_figures_are_means_over_a_window(monkeypatch):
    each, means = tiny_trainer("gim"), tiny_trainer("gim")
    for _ in range(4):
        each.train_step()
        each.read()
        means.train_step()
    told = means.read()
    assert list(told) == ["stage 1", "stage 2", "stage 3", "stage 4"]
    assert means.curves["step"] == [4]
    for name, curve in each.curves["units"].items():
        assert set(curve) == {"loss", "accuracy"}
        for key, values in curve.items():
            assert means.curves["units"][name][key] == [pytest.approx(sum(values) / 4, rel=1e-5)]
        assert told[name] == means.curves["units"][name]["loss"][-1]


def test_activation_bytes_are_those_of_a_step(tmp_path):
    trainer, other = tiny_trainer("loco"), tiny_trainer("loco")
    trainer.fit(tmp_path / "checkpoint.pt", lambda *_: None)
    with SavedBytes([other.network, other.objectives]) as saved:
        other.engine.step(other.feed.batch(0))
    assert trainer.activation_bytes == saved.peak > 0


@dataclasses.dataclass(frozen=True)
class Asked(Split):
    """Notes what is asked for, and in what order."""

    starts: list[list[int]] = dataclasses.field(default_factory=list)
    waits: list[list[int]] = dataclasses.field(default_factory=list)

    def start(self, indices, make_cut):
        self.starts.append(indices.tolist())
        make_cut()
        return partial(self._wait, indices)

    def _wait(self, indices):
        self.waits.append(indices.tolist())
        return self.batch(indices)


@pytest.mark.parametrize("ahead", [False, True])
def test_steps_take_the_images_as_they_come(ahead, monkeypatch):
    monkeypatch.setattr(Asked, "cuts", ahead)
    feed = tiny_trainer("bp", tiny_recipe(rule="bp")).feed
    feed.train = split = Asked(feed.train.images, feed.train.targets)
    right = [feed._indices(step).tolist() for step in range(feed.total)]
    for step in range(feed.total):
        feed.batch(step)
        # Of images that are decoded the next step's are begun with, and none after the last.
        assert split.starts == right[: step + 1 + ahead]
        assert split.waits == right[: step + 1]
    feed.batch(0)  # of another step than the one that was begun with
    assert split.waits[-1] == right[0]


def test_units_are_named_by_their_stages():
    trainer = tiny_trainer("loco")
    assert trainer.names == ["stages 1-2", "stages 2-3", "stages 3-4"]
    assert tiny_trainer("simclr").names == ["stages 1-4"]
    network, [unit, *_] = trainer.network, trainer.engine.units
    for span, name in {(0, 3): "stages 1-2", (0, 1): "block 1", (1, 4): "blocks 2-4"}.items():
        object.__setattr__(unit, "start", span[0])
        object.__setattr__(unit, "stop", span[1])
        assert unit_name(network, unit) == name


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(UserError, match=r"training.batch = 27 .* 26 training images of shapes"):
        tiny_trainer("loco", tiny_recipe(training=Training(27, "fp32")))
