"""Linear probes, calibration of untrained networks, and the baseline on pixels."""

import dataclasses
from functools import partial

import pytest
import torch
from pairs import FAMILIES
from torch import nn

from locbench.data import ImageData, Split
from locbench.data.augmentation import centre
from locbench.data.views import read
from locbench.errors import RunFailed, UserError
from locbench.evaluation import probe as probing
from locbench.evaluation.probe import (
    LinearProbe,
    ProbeDiverged,
    calibrate,
    pixel_baseline,
)
from locbench.networks import Block, Network
from locbench.networks.base import pooled_classifier
from locbench.plugins.entry import UNTRAINED
from locbench.plugins.registry import NETWORKS
from locbench.recipes.load import load_recipe
from locbench.recipes.recipe import Recipe
from locbench.recipes.schema import Augmentation, Data, Probe, Training
from locbench.recipes.schema import Network as Settings
from locbench.runs.context import Context
from locbench.runs.encoders import probed_encoder
from locbench.runs.kinds.probe import probe_spec
from locbench.runs.store import Store
from locbench.training.guard import Diverged
from locbench.training.loop import Trainer

CPU = torch.device("cpu")
SIDE = 8
TINY = Settings(width=0.125, blocks=1, stem="small")
WHOLE = Augmentation(area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0)  # a "random" crop of everything


def silent(done, total, figures):
    pass


def colour_network(classes: int) -> Network:
    """One block that passes pixels through: its pooled features are the mean colour."""
    stem = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False))
    with torch.no_grad():
        stem[0].weight.copy_(torch.eye(3).view(3, 3, 1, 1))
    fc = nn.Linear(3, classes)
    block = Block(stem, 3, 3, 1, nn.Identity)
    parts = {"stem": stem, "fc": fc}
    return Network(
        parts,
        blocks=[block],
        stages=[range(1)],
        out_indices=[0],
        head=pooled_classifier(fc),
        num_classes=classes,
    )


def tiny_network(name: str = "resnet50", classes: int = 3) -> Network:
    torch.manual_seed(1)
    return NETWORKS.get(name)(TINY, num_classes=classes)


def coloured(images: int, seed: int, shuffled: bool = False) -> Split:
    """Images of class k are bright in channel k; `shuffled` ones have labels that say nothing."""
    draw = torch.Generator().manual_seed(seed)
    targets = torch.arange(images) % 3
    pixels = torch.randint(0, 100, (images, 3, SIDE, SIDE), generator=draw)
    pixels[torch.arange(images), targets] += 120
    if shuffled:
        targets = targets[torch.randperm(images, generator=draw)]
    return Split(pixels.to(torch.uint8), targets)


def data_of(train: Split, test: Split, classes: int = 3) -> ImageData:
    return ImageData("fake", 1, "0" * 64, tuple("abcdefgh"[:classes]), train, test)


def coloured_data(shuffled: bool = False, images: int = 120) -> ImageData:
    return data_of(coloured(images, 1, shuffled), coloured(300, 2, shuffled))


def recipe_of(augmentation: Augmentation = WHOLE, **probe) -> Recipe:
    settings = {"epochs": 4, "lr": 1.0, "batch": 16, "milestones": (3,), "augment": False} | probe
    return Recipe(
        name="test",
        scale="smoke",
        data=Data("shapes", SIDE),
        augmentation=augmentation,
        network=TINY,
        training=Training(batch=4, precision="fp32"),
        probe=Probe(**settings),
    )


def make_probe(network: Network | None = None, data: ImageData | None = None, **settings):
    data = data or coloured_data()
    network = network or colour_network(len(data.classes))
    return LinearProbe(network, data, recipe_of(**settings), 0, CPU)


def weights(probe: LinearProbe) -> list[torch.Tensor]:
    return [p.detach().clone() for p in probe.heads.parameters()]


@pytest.mark.parametrize("augment", [False, True])
def test_separable_features_are_separated(augment):
    augmentation = Augmentation(area=(0.3, 1.0))
    (score,) = make_probe(augment=augment, augmentation=augmentation, epochs=6).fit(silent)
    assert score.last > 99
    assert score.best >= score.last
    assert score.top5 == 100


def test_accuracy_is_the_share_of_test_images_with_the_class_among_the_first():
    targets = torch.arange(80) % 8
    pixels = torch.randint(0, 255, (80, 3, SIDE, SIDE), dtype=torch.uint8)
    split = Split(pixels, targets)
    probe = make_probe(data=data_of(split, split, classes=8), epochs=1, lr=0.1)
    (score,) = probe.fit(silent)
    logits = probe.heads[0](centre(pixels, SIDE, WHOLE).mean(dim=(2, 3)))
    above = (logits > logits.gather(1, targets[:, None])).sum(dim=1)
    for accuracy, first in ((score.last, 1), (score.top5, 5)):
        assert accuracy == pytest.approx(100 * int((above < first).sum()) / 80)
    assert score.last < score.top5 < 100


def test_best_is_the_best_epoch_and_last_the_last(monkeypatch):
    scripted = iter([(40.0, 90.0), (70.0, 95.0), (60.0, 99.0), (50.0, 80.0)])
    monkeypatch.setattr(LinearProbe, "_evaluate", lambda *_: [next(scripted)])
    seen = []
    (score,) = make_probe().fit(lambda *figures: seen.append(figures))
    top1 = [40.0, 70.0, 60.0, 50.0]
    assert seen == [(k + 1, 4, {"top1": value}) for k, value in enumerate(top1)]
    assert (score.best, score.last, score.top5) == (70.0, 50.0, 80.0)


def test_evaluating_in_parts_changes_nothing(monkeypatch):
    data = coloured_data(shuffled=True)
    (whole,) = make_probe(data=data).fit(silent)
    monkeypatch.setattr(probing, "ROWS", 7)
    monkeypatch.setattr(probing, "CHUNK", 11)
    (parts,) = make_probe(data=data).fit(silent)
    assert whole == parts
    assert 0 < whole.last < 100


def test_the_cache_is_a_short_cut_and_nothing_else():
    """With crops of the whole image, augmenting anew every epoch must come to the same."""
    quick, slow = (make_probe(tiny_network(), augment=augment) for augment in (False, True))
    quick.fit(silent)
    slow.fit(silent)
    for one, other in zip(weights(quick), weights(slow), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_augmented_epochs_and_batches_differ_and_come_again():
    def batches(epoch):
        pixels = torch.linspace(0, 255, SIDE).expand(32, 3, SIDE, SIDE).to(torch.uint8)
        split = Split(pixels, torch.arange(32) % 3)  # all alike: the augmentation alone differs
        probe = make_probe(data=data_of(split, split), augment=True, augmentation=Augmentation())
        return [features[0] for features, _ in probe._batches(epoch, None)]

    (a, b), (c, d) = batches(0), batches(1)
    assert len({tuple(part.flatten().tolist()) for part in (a, b, c, d)}) == 4
    assert all(map(torch.equal, batches(1), (c, d)))


def test_the_next_part_is_begun_before_the_last_is_waited_for():
    calls = []

    class Asked(Split):
        def start(self, indices, make_cut):
            calls.append(("start", indices.tolist(), make_cut()))
            return partial(self.batch, indices)

        def batch(self, indices):
            calls.append(("batch", indices.tolist()))
            return super().batch(indices)

    split = Asked(torch.zeros(3, 3, 2, 2, dtype=torch.uint8), torch.arange(3))
    parts = read(split, torch.arange(3).split(2), lambda k: k)
    assert [targets.tolist() for _, targets in parts] == [[0, 1], [2]]
    assert calls == [("start", [0, 1], 0), ("start", [2], 1), ("batch", [0, 1]), ("batch", [2])]


def test_probing_every_block_gives_one_accuracy_a_block():
    network = tiny_network()
    scores = make_probe(network, blocks="all", epochs=1, lr=0.01).fit(silent)
    assert len(scores) == len(network.blocks)
    assert len({score.last for score in scores}) > 1


def test_a_blocks_accuracy_does_not_depend_on_the_others_probed():
    alone = make_probe(tiny_network(), blocks="last", epochs=2, lr=0.1)
    together = make_probe(tiny_network(), blocks="all", epochs=2, lr=0.1)
    assert alone.fit(silent)[-1] == together.fit(silent)[-1]
    assert torch.equal(alone.heads[0].weight, together.heads[-1].weight)


def test_classifiers_start_as_mocos_do():
    probe = make_probe(NETWORKS.get("resnet50")(Settings(width=0.5, blocks=1)), blocks="all")
    for head in probe.heads:
        assert not head.bias.detach().any()
        assert float(head.weight.detach().std()) == pytest.approx(0.01, rel=0.25)


def test_what_is_learnt_does_not_depend_on_the_test_images():
    def learnt(test):
        probe = make_probe(tiny_network(), data_of(coloured(60, 1), test))
        probe.fit(silent)
        return weights(probe)

    pairs = zip(learnt(coloured(30, 2)), learnt(coloured(30, 3, shuffled=True)), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_the_encoder_stays_in_evaluation_mode_and_unchanged():
    network = tiny_network().train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    modes = []
    network.blocks[1].register_forward_hook(lambda module, *_: modes.append(module.training))
    make_probe(network, augment=True, epochs=1).fit(silent)
    assert set(modes) == {False}
    assert all(torch.equal(network.state_dict()[key], value) for key, value in before.items())


def test_the_rate_falls_to_a_tenth_at_every_milestone():
    probe = recipe_of(lr=30.0, epochs=7, milestones=(2, 3, 6)).probe
    rates = [probing.learning_rate(probe, epoch) for epoch in range(7)]
    assert rates == pytest.approx([30, 30, 3, 0.3, 0.3, 0.3, 0.03])
    trained = make_probe(lr=1.0, epochs=2, milestones=(1,))
    trained.fit(silent)
    assert trained.optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


def test_profiles_differ_in_momentum_and_milestones_alone():
    """Facts B.5: what the paper says, and what the MoCo code that it names does."""
    recipe = load_recipe("loco/imagenet", "paper")
    loco = recipe.probe
    moco = load_recipe("loco/imagenet", "paper", {"probe.profile": "moco"}).probe
    assert (loco.momentum, loco.milestones) == (0.0, (30, 60, 90))
    assert (moco.momentum, moco.milestones) == (0.9, (60, 80))
    both = (loco, moco)
    assert {(p.lr, p.batch, p.weight_decay, p.epochs) for p in both} == {(30.0, 256, 0.0, 100)}
    assert {(p.augment, p.blocks) for p in both} == {(True, "last")}
    for settings in both:
        probe = make_probe(**dataclasses.asdict(settings))
        (group,) = probe.optimizer.param_groups
        assert group["momentum"] == settings.momentum
        assert (group["lr"], group["weight_decay"], group["nesterov"]) == (30.0, 0.0, False)


@pytest.mark.parametrize("settings", [{"augment": False}, {"augment": True, "momentum": 0.9}])
def test_a_probe_that_was_stopped_ends_bit_identical(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(probing, "SAVE_EVERY_S", -1.0)

    def probe():
        augmentation = Augmentation()
        return make_probe(tiny_network(), blocks="all", augmentation=augmentation, **settings)

    def stop(done, total, figures):
        if done == 3:
            raise KeyboardInterrupt

    whole, stopped, again = probe(), probe(), probe()
    expected = whole.fit(silent)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(stop, tmp_path / "probe.pt")
    seen = []
    assert again.fit(lambda done, *_: seen.append(done), tmp_path / "probe.pt") == expected
    assert seen == [3, 4]
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(again), strict=True))


def test_a_checkpoint_of_another_probe_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(probing, "SAVE_EVERY_S", -1.0)
    path = tmp_path / "probe.pt"
    make_probe(tiny_network(), blocks="all").fit(silent, path)
    with pytest.raises(UserError, match=r"probe\.pt is no checkpoint of this probe; move it away"):
        make_probe().fit(silent, path)


def test_a_probe_that_is_not_finite_says_so_and_what_to_do():
    """Features that are not normalised, and a learning rate made for those that are."""
    network = colour_network(3)
    with torch.no_grad():
        network.blocks[0].module[0].weight.mul_(1e30)
    message = r"probe of block 0 .* epoch 1; lower probe\.lr"
    with pytest.raises(ProbeDiverged, match=message) as info:
        make_probe(network, lr=30.0).fit(silent)
    assert isinstance(info.value, Diverged)  # so the record says `diverged`


def norms_of(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize("name", FAMILIES)
def test_calibration_sets_every_statistic_and_no_weight(name):
    network, data = tiny_network(name).eval(), coloured_data()
    parameters = [p.detach().clone() for p in network.parameters()]
    calibrate(network, data.train, recipe_of(), CPU)
    norms = norms_of(network)
    assert norms
    for norm in norms:
        # Of a linear bottleneck's input the mean is 0 but for rounding: it comes from a batch norm.
        assert norm.running_mean.abs().max() > 0
        assert (norm.running_var - 1).abs().min() > 0
        assert norm.momentum == 0.1
    assert not any(module.training for module in network.modules())
    pairs = zip(parameters, network.parameters(), strict=True)
    assert all(torch.equal(before, after) for before, after in pairs)


def test_calibrated_statistics_are_those_of_the_data(monkeypatch):
    """And whatever statistics were there before leave no trace."""
    network, data = tiny_network(), coloured_data()
    first = network.blocks[0].module
    for norm in norms_of(network):
        norm.running_mean.fill_(7)
    monkeypatch.setattr(probing, "CHUNK", 40)
    calibrate(network, data.train, recipe_of(), CPU)
    with torch.no_grad():
        inputs = first[0](centre(data.train.images, SIDE, WHOLE))
    mean, variance = inputs.mean(dim=(0, 2, 3)), inputs.var(dim=(0, 2, 3))
    torch.testing.assert_close(first[1].running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first[1].running_var, variance, rtol=5e-2, atol=1e-3)


def test_calibration_reads_equal_chunks_of_some_training_images(monkeypatch):
    """16 + 16 + 1 images would end in a chunk whose last maps are single pixels."""
    monkeypatch.setattr(probing, "CHUNK", 16)
    monkeypatch.setattr(probing, "CALIBRATION_IMAGES", 33)
    sizes = []
    network = tiny_network()
    network.blocks[0].register_forward_hook(lambda m, args, out: sizes.append(len(args[0])))
    calibrate(network, coloured(40, 1), recipe_of(), CPU)
    assert sizes == [11, 11, 11]


def test_an_untrained_network_is_probed_with_the_datas_statistics(tmp_path):
    data = coloured_data()
    context = Context(Store(tmp_path), device="cpu", _data={("shapes", SIDE, 0, 0): data})
    fingerprint = {"name": "fake", "version": 1, "checksum": data.checksum}
    spec = probe_spec(recipe_of(), UNTRAINED, "resnet50", seed=3, data=fingerprint)
    network = probed_encoder(spec, context, CPU)
    assert all(norm.running_mean.abs().min() > 0 for norm in norms_of(network))
    trainer = Trainer(recipe_of(), "simclr", "resnet50", 3, data, "cpu")
    initial = dict(trainer.network.named_parameters())
    assert all(torch.equal(initial[name], p) for name, p in network.named_parameters())


def test_separable_pixels_are_separated():
    steps = []
    accuracy = pixel_baseline(coloured_data(), SIDE, recipe_of(), lambda *step: steps.append(step))
    assert accuracy > 99
    fits = len(probing.PENALTIES)
    assert [step[:2] for step in steps] == [(k, fits + 1) for k in range(1, fits + 1)]
    assert max(figures["top1"] for *_, figures in steps) > 99


def noisy_data(train: int) -> ImageData:
    """Colours that overlap: a weak penalty fits the noise."""

    def split(images, seed):
        draw = torch.Generator().manual_seed(seed)
        targets = torch.arange(images) % 3
        pixels = torch.randint(0, 240, (images, 3, SIDE, SIDE), generator=draw)
        pixels[torch.arange(images), targets] += 15
        return Split(pixels.to(torch.uint8), targets)

    return data_of(split(train, 1), split(300, 2))


def test_the_penalty_is_chosen_without_the_test_images(monkeypatch):
    """Fitted to training images, in parts and then in full, before a test image is read."""
    from sklearn.linear_model import LogisticRegression

    events, fit = [], LogisticRegression.fit

    def spied_fit(model, x, y):
        events.append((len(y), round(1 / (model.C * len(y)), 6)))
        return fit(model, x, y)

    class Test(Split):
        def batch(self, indices):
            events.append("test")
            return super().batch(indices)

    monkeypatch.setattr(LogisticRegression, "fit", spied_fit)
    data = noisy_data(train=150)
    data = dataclasses.replace(data, test=Test(data.test.images, data.test.targets))
    pixel_baseline(data, SIDE, recipe_of())
    *chosen_from, final, test = events
    assert chosen_from == [(120, penalty) for penalty in probing.PENALTIES]
    assert final[0] == 150 and final[1] in probing.PENALTIES
    assert test == "test"


def test_noise_is_met_with_a_strong_penalty(monkeypatch):
    """The weakest fits the images it has seen better than any, and those held out worse."""
    data = noisy_data(train=150)
    chosen = pixel_baseline(data, SIDE, recipe_of())
    alone = {}
    for penalty in probing.PENALTIES:
        with monkeypatch.context() as patch:
            patch.setattr(probing, "PENALTIES", (penalty,))
            alone[penalty] = pixel_baseline(data, SIDE, recipe_of())
    assert len(set(alone.values())) == len(alone)
    assert chosen == alone[max(alone)] > alone[min(alone)]


def test_pixels_that_no_memory_holds_are_refused_before_they_are_read(monkeypatch):
    monkeypatch.setattr(probing, "PIXEL_BYTES", 2**10)
    monkeypatch.setattr(Split, "batch", lambda *_: pytest.fail("read images"))
    with pytest.raises(RunFailed, match=r"pixels of fake .* set a smaller data\.resolution"):
        pixel_baseline(coloured_data(), SIDE, recipe_of())
