"""A loss that is not finite changes no weight and stops the run; nothing measured is lost."""

import math
from pathlib import Path

import pytest
import torch
from tiny import SIDE, same, tiny_data, tiny_recipe, tiny_trainer, weights
from torch import Tensor, nn

from locbench.errors import RunFailed, UserError
from locbench.rules.contrastive import Contrastive
from locbench.runs.context import Context
from locbench.runs.executor import execute
from locbench.runs.spec import RunSpec, training_spec
from locbench.runs.store import Store
from locbench.training import guard as guards
from locbench.training import loop
from locbench.training.guard import Diverged, FiniteGuard, pick_device, pick_precision

CPU = torch.device("cpu")
BAD = [math.inf, -math.inf, math.nan]


def poison(
    monkeypatch: pytest.MonkeyPatch,
    units: int,
    steps: set[int],
    unit: int,
    factor: float,
    kind: type[nn.Module] = Contrastive,
) -> None:
    """Make the loss of one unit not finite at these steps (from 0), in every trainer made now."""
    calls = iter(range(10**6))
    forward = kind.forward

    def poisoned(self: nn.Module, features: Tensor, batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, log = forward(self, features, batch)
        step, number = divmod(next(calls), units)
        return (loss * factor if step in steps and number == unit else loss), log

    monkeypatch.setattr(kind, "forward", poisoned)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("bad", BAD)
def test_the_guard_takes_steps_until_a_loss_is_not_finite(bad, fused):
    def run(losses: list[list[float]], guarded: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "fused": fused}
        optimizer = torch.optim.SGD(model.parameters(), **settings)
        guard = FiniteGuard(model.parameters(), CPU)
        for loss in losses:
            for parameter in model.parameters():
                fine = all(map(math.isfinite, loss))
                parameter.grad = torch.full_like(parameter, 0.5 if fine else bad)
            if guarded:
                guard.step(optimizer, torch.tensor(loss))
            else:
                optimizer.step()
        return [parameter.detach() for parameter in model.parameters()]

    fine = [[1.0, 2.0], [0.5, 3.0]]
    expected = run(fine, guarded=False)
    assert same(run(fine, guarded=True), expected)
    assert same(run([*fine, [1.0, bad], *fine, *fine], guarded=True), expected)
    assert not same(run([*fine, *fine], guarded=True), expected)


@pytest.mark.parametrize(
    ("rule", "bad"),
    [("loco", math.nan), ("infopro", math.inf), ("auglocal", -math.inf)],
)
def test_no_weight_changes_from_the_bad_step_on(rule, bad, monkeypatch):
    trainer = tiny_trainer(rule)
    count = len(trainer.names)
    poison(monkeypatch, count, {3}, count - 1, bad, type(trainer.objectives[0]))
    for _ in range(3):
        trainer.train_step()
    before, first = weights(trainer), weights(tiny_trainer(rule))
    for _ in range(3):  # the loss is finite again after the first of them
        trainer.train_step()
        assert same(weights(trainer), before)
    assert not any(torch.equal(a, b) for a, b in zip(before, first, strict=True) if a.ndim > 1)
    with pytest.raises(Diverged) as caught:
        trainer.read()
    assert f"loss of {trainer.names[-1]} was not finite at step 4;" in str(caught.value)


def test_curves_keep_the_steps_before_the_bad_one_also_within_a_window(monkeypatch, tmp_path):
    monkeypatch.setattr(loop, "WINDOWS", 2)
    whole = tiny_trainer("loco")
    whole.window = 1
    whole.fit(tmp_path / "whole.pt", lambda *_: None)
    poison(monkeypatch, 3, {7, 8}, 1, math.inf)
    trainer = tiny_trainer("loco")
    assert trainer.window == 5
    with pytest.raises(Diverged, match=r"stages 2-3 was not finite at step 8;"):
        trainer.fit(tmp_path / "checkpoint.pt", lambda *_: None)
    assert trainer.curves["step"] == [5, 7]
    assert trainer.curves["lr"] == [trainer.learning_rate(5), trainer.learning_rate(7)]
    for name, curve in trainer.curves["units"].items():
        for key, values in curve.items():
            each = whole.curves["units"][name][key]
            means = [sum(each[:5]) / 5, sum(each[5:7]) / 2]
            assert values == pytest.approx(means, rel=1e-5)


def spec_of(rule: str = "loco") -> RunSpec:
    fingerprint = {"name": "shapes", "version": 1, "checksum": "tiny"}
    return training_spec(tiny_recipe(), rule, "resnet50", seed=3, data=fingerprint)


def context_at(folder: Path, **more) -> Context:
    return Context(Store(folder), "cpu", _data={("shapes", SIDE, 0, 0): tiny_data()}, **more)


@pytest.mark.parametrize("bad_step", [0, 3])
def test_the_record_says_diverged_and_has_all_that_was_measured(bad_step, tmp_path, monkeypatch):
    good = execute(spec_of(), context_at(tmp_path / "good"))
    poison(monkeypatch, 3, {bad_step}, 2, math.nan)
    context = context_at(tmp_path / "bad")
    with pytest.raises(Diverged):
        execute(spec_of(), context)
    record = context.store.load(spec_of().id)
    assert record.status == "diverged"
    assert f"stages 3-4 was not finite at step {bad_step + 1};" in record.error
    assert record.finished is not None
    assert record.curves["step"] == list(range(1, bad_step + 1))
    for name, curve in record.curves["units"].items():
        for key, values in curve.items():
            assert values == good.curves["units"][name][key][:bad_step]
    assert len(record.units) == 3
    assert not list(context.store.folder(record.id).glob("*.safetensors"))
    context.progress = lambda spec: pytest.fail("ran it again")
    with pytest.raises(RunFailed, match="diverged"):
        execute(spec_of(), context)


def test_what_was_measured_before_a_failure_is_kept_and_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    good = execute(spec_of(), context_at(tmp_path / "good"))

    def fall(done: int, total: int, figures: dict[str, float]) -> None:
        if done == 4:
            raise OSError("no space left")

    context = context_at(tmp_path / "bad", progress=lambda spec: fall)
    with pytest.raises(OSError, match="no space"):
        execute(spec_of(), context)
    record = context.store.load(spec_of().id)
    assert (record.status, record.error) == ("failed", "OSError: no space left")
    assert record.curves["step"] == [1, 2, 3, 4]
    again = execute(spec_of(), context_at(tmp_path / "bad"))
    assert (again.status, again.error) == ("done", None)
    assert again.curves == good.curves
    assert again.metrics == good.metrics
    encoders = [
        (tmp_path / name / good.id / "encoder.safetensors").read_bytes() for name in ("good", "bad")
    ]
    assert encoders[0] == encoders[1]


@pytest.mark.parametrize("name", ["", "gpu", "CUDA", "cuda:-1", "meta", "mps"])
def test_what_is_no_device_is_refused(name):
    with pytest.raises(UserError, match="use auto, cpu, cuda or cuda:N") as caught:
        pick_device(name)
    assert str(caught.value).startswith(f"--device {name}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("gpus", [0, 2])
def test_devices_by_what_is_there(gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert pick_device("cpu") == CPU
    if gpus:
        assert pick_device("auto") == torch.device("cuda")
        assert pick_device("cuda:1") == torch.device("cuda:1")
        with pytest.raises(UserError, match="--device cuda:2: there are only 2 GPUs"):
            pick_device("cuda:2")
        return
    assert pick_device("auto") == CPU
    with pytest.raises(UserError, match=r"^--device cuda:1: .* sees no GPU; try --device cpu$"):
        pick_device("cuda:1")


def test_precision_by_what_the_processor_has(monkeypatch):
    for fast in (False, True):
        monkeypatch.setattr(guards, "has_fast_bf16", lambda device, fast=fast: fast)
        assert pick_precision("fp32", CPU) is None
        assert pick_precision("bf16", CPU) is torch.bfloat16
        assert pick_precision("auto", CPU) is (torch.bfloat16 if fast else None)
    with pytest.raises(UserError, match="'fp16' is unknown; use auto, fp32 or bf16"):
        pick_precision("fp16", CPU)
