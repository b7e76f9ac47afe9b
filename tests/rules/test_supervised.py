"""The supervised rules' units, their auxiliary networks layer by layer, and their losses."""

import math
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from meta import meta_device
from torch import Tensor, nn

from locbench.data import ImageData, Split
from locbench.networks import Network, make_network
from locbench.recipes.load import load_recipe
from locbench.recipes.schema import Network as Settings
from locbench.rules import build_units
from locbench.rules.infopro import Reconstruction
from locbench.rules.predsim import SimilarityMatching, pooled_to, similarity, spread
from locbench.training.engine import Engine
from locbench.training.feeds import make_feed
from locbench.units import Batch, Unit

SMALL = Settings(width=0.5, blocks=2)
LOCAL = ("dgl", "predsim", "infopro", "auglocal")
# Blocks of ResNet-32 in each of its stages: (index, channels, side).
STAGES = [(0, 16, 32), (3, 16, 32), (6, 32, 16), (11, 64, 8), (14, 64, 8)]


@cache
def on_meta(name: str, resolution: int = 32) -> Network:
    with meta_device():
        return make_network(name, Settings(), 10, resolution)


@cache
def units_on_meta(rule: str, network: Network, **settings) -> list[Unit]:
    with meta_device():
        return build_units(rule, network, settings)


def small_network() -> Network:
    return make_network("resnet32", SMALL, 10, 16).train()


def random_batch(images: int = 6, side: int = 16) -> Batch:
    pixels = torch.rand(images, 3, side, side)
    return Batch((pixels - 0.5) / 0.25, torch.arange(images) % 4, pixels)


def spans(units: list[Unit]) -> list[tuple[int, int]]:
    return [(unit.start, unit.stop) for unit in units]


def words(module: nn.Module) -> list[str]:
    """The layers of a module in their order, each with what decides its shape."""
    return [_words(part) for part in module.modules() if not list(part.children())]


def _words(layer: nn.Module) -> str:
    match layer:
        case nn.Conv2d():
            (k, _), (s, _) = layer.kernel_size, layer.stride
            assert layer.padding == (k // 2, k // 2) and layer.groups == 1
            bias = " bias" if layer.bias is not None else ""
            return f"conv{k} {layer.in_channels}-{layer.out_channels} s{s}{bias}"
        case nn.Linear():
            bias = " bias" if layer.bias is not None else ""
            return f"linear {layer.in_features}-{layer.out_features}{bias}"
        case nn.BatchNorm1d() | nn.BatchNorm2d():
            return f"norm{1 if isinstance(layer, nn.BatchNorm1d) else 2} {layer.num_features}"
        case nn.AdaptiveAvgPool2d():
            return f"pool to {layer.output_size}"
    return type(layer).__name__.lower()


# --- units


@pytest.mark.parametrize("rule", ["dgl", "predsim", "infopro"])
def test_every_block_is_a_unit_of_its_own(rule):
    net = on_meta("resnet32")
    units = units_on_meta(rule, net)
    assert spans(units) == [(k, k + 1) for k in range(16)]
    assert units[-1].objective.classifier is net.head


@pytest.mark.parametrize("depth", [2, 6])
def test_auglocal_trains_the_last_d_blocks_together(depth):
    net = on_meta("resnet32")
    units = units_on_meta("auglocal", net, depth=depth)
    assert spans(units) == [*((k, k + 1) for k in range(16 - depth)), (16 - depth, 16)]
    assert units[-1].objective.classifier is net.head
    assert all(unit.objective.weight == 1 and unit.objective.further is None for unit in units)


def test_auglocal_without_joint_blocks_trains_every_block_alone():
    units = units_on_meta("auglocal", on_meta("resnet32"), depth=4, decay=0.0, joint=False)
    assert spans(units) == [(k, k + 1) for k in range(16)]
    counts = [unit.objective.description.split()[0] for unit in units[:-1]]
    assert counts == ["3"] * 13 + ["2", "1"]


def test_bp_is_one_unit_and_recomputes_only_when_asked():
    net = on_meta("resnet32")
    for settings in ({}, {"checkpoint": False}, {"checkpoint": True}):
        (unit,) = units_on_meta("bp", net, **settings)
        assert (unit.start, unit.stop, unit.updates) == (0, 16, None)
        assert unit.objective.classifier is net.head and unit.objective.weight == 1
        assert unit.recompute is settings.get("checkpoint", False)
    for rule in LOCAL:
        assert not any(unit.recompute for unit in units_on_meta(rule, net))


def test_checkpointing_runs_every_block_twice_and_learns_the_same():
    batch = random_batch()
    found = []
    for checkpoint in (False, True):
        torch.manual_seed(3)
        net = small_network()
        runs = [0] * len(net.blocks)
        for index, block in enumerate(net.blocks):
            block.register_forward_hook(lambda *_, r=runs, i=index: r.__setitem__(i, r[i] + 1))
        losses, _ = Engine(net.blocks, build_units("bp", net, {"checkpoint": checkpoint})).step(
            batch
        )
        assert runs == [1 + checkpoint] * len(net.blocks)
        statistics = [tensor for name, tensor in net.named_buffers() if "running" in name]
        found.append([losses, *(p.grad for p in net.parameters()), *statistics])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# --- weights of their own


@pytest.mark.parametrize(
    ("rule", "settings"),
    [
        ("dgl", {}),
        ("dgl", {"depth": 3}),
        ("predsim", {}),
        ("infopro", {}),
        ("auglocal", {"depth": 3}),
        ("auglocal", {"depth": 3, "selection": "repetitive", "reconstruction": True}),
    ],
)
def test_auxiliary_weights_are_fresh_and_belong_to_one_unit(rule, settings):
    net = small_network()
    units = build_units(rule, net, settings)
    own = [p for unit in units[:-1] for p in unit.objective.parameters()]
    everything = [*net.parameters(), *own]
    assert len({p.data_ptr() for p in everything}) == len(everything)
    matrices = [p for p in everything if p.ndim > 1]
    assert len({float(p.detach().double().sum()) for p in matrices}) == len(matrices), "a copy"
    assert {id(p) for p in units[-1].objective.parameters()} == {id(net.fc.weight), id(net.fc.bias)}


@pytest.mark.parametrize("rule", LOCAL)
def test_auxiliary_networks_start_as_the_official_ones(rule):
    """Convolutions: He's normal by fan-out. Linear layers: PyTorch's uniform. Norms: 1 and 0."""
    net = make_network("resnet32", Settings(blocks=1), 10, 32)
    modules = [m for unit in build_units(rule, net, {})[:-1] for m in unit.objective.modules()]
    for conv in (m for m in modules if isinstance(m, nn.Conv2d) and m.weight.numel() > 2000):
        wanted = math.sqrt(2 / (conv.kernel_size[0] ** 2 * conv.out_channels))
        assert float(conv.weight.detach().std()) == pytest.approx(wanted, rel=0.08)
    for linear in (m for m in modules if isinstance(m, nn.Linear)):
        bound = 1 / math.sqrt(linear.in_features)
        assert 0.9 * bound < float(linear.weight.detach().abs().max()) <= bound
    for norm in (m for m in modules if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)):
        assert (norm.weight == 1).all() and (norm.bias == 0).all()


# --- DGL


@pytest.mark.parametrize(("index", "channels", "side"), STAGES)
def test_dgls_classifier_is_that_of_the_papers_table_6(index, channels, side):
    unit = units_on_meta("dgl", on_meta("resnet32"))[index]
    wide = 4 * channels
    assert words(unit.objective.classifier) == [
        f"pool to {side // 4}",
        *[f"conv1 {channels}-{channels} s1", f"norm2 {channels}", "relu"] * 3,
        "pool to 2",
        "flatten",
        *[f"linear {wide}-{wide}", f"norm1 {wide}", "relu"] * 2,
        f"linear {wide}-10 bias",
    ]
    assert unit.objective.weight == 1 and unit.objective.further is None


# --- PredSim


@pytest.mark.parametrize(
    ("resolution", "index", "kernel", "padding", "flat"),
    [
        (32, 0, (8, 4), (0, 0), 512),
        (32, 5, (8, 4), (0, 0), 512),
        (32, 6, (4, 4), (0, 0), 512),
        (32, 14, (4, 2), (0, 0), 512),
        (96, 0, (32, 16), (0, 0), 288),
        (96, 6, (16, 16), (0, 0), 288),
        (96, 14, (16, 8), (8, 0), 384),
    ],
)
def test_predsim_pools_to_at_most_512_features(resolution, index, kernel, padding, flat):
    net = on_meta("resnet32", resolution)
    unit = units_on_meta("predsim", net)[index]
    pool, _, linear = unit.objective.classifier
    assert (pool.kernel_size, pool.padding) == (kernel, padding)
    assert pool.stride == kernel
    assert (linear.in_features, linear.out_features) == (flat, 10)
    side = net.sides()[index]
    features = torch.empty(2, net.widths[index], side, side, device="meta")
    assert unit.objective.logits(features).shape == (2, 10)


def test_predsims_padded_pool_averages_zeros_in():
    """24 rows by 16, as in the last stage of 96-pixel images: eight of zeros, then all 24."""
    pool = pooled_to(64, 24, 10)[0]
    rows = torch.arange(24.0).expand(1, 1, 24, 24).transpose(2, 3)
    expected = torch.tensor([sum(range(8)) / 16, sum(range(8, 24)) / 16])
    assert torch.equal(pool(rows), expected[:, None].expand(1, 1, 2, 3))


def test_predsim_weighs_similarity_and_cross_entropy_alike_at_every_unit():
    units = units_on_meta("predsim", on_meta("resnet32"))
    weights = [(unit.objective.further_weight, unit.objective.weight) for unit in units[:-1]]
    assert weights == [(0.99, pytest.approx(0.01))] * 15
    for unit in units[:-1]:
        width = on_meta("resnet32").widths[unit.start]
        assert words(unit.objective.further) == [f"conv3 {width}-{width} s1"]
    assert units[-1].objective.further is None and units[-1].objective.weight == 1
    (other, *_) = units_on_meta("predsim", on_meta("resnet32"), beta=0.25)
    assert (other.objective.further_weight, other.objective.weight) == (0.25, 0.75)


def similarity_by_hand(rows: list[list[float]]) -> list[list[float]]:
    """Every pair of rows: the cosine of what is left of each without its mean."""
    centred = [[x - sum(row) / len(row) for x in row] for row in rows]
    lengths = [math.sqrt(sum(x * x for x in row)) for row in centred]
    unit = [[x / n for x in row] for row, n in zip(centred, lengths, strict=True)]
    return [[sum(x * y for x, y in zip(a, b, strict=True)) for b in unit] for a in unit]


def spread_by_hand(features: Tensor) -> list[list[float]]:
    """Every image and channel: the deviation over space, with one less than the pixels."""
    found = []
    for image in features.tolist():
        found.append([])
        for channel in image:
            values = [x for line in channel for x in line]
            mean = sum(values) / len(values)
            found[-1].append(math.sqrt(sum((x - mean) ** 2 for x in values) / (len(values) - 1)))
    return found


def test_the_similarity_matrix_is_that_of_a_plain_loop():
    features = torch.randn(5, 6, 4, 4, dtype=torch.float64)
    rows = spread_by_hand(features)
    torch.testing.assert_close(spread(features), torch.tensor(rows, dtype=torch.float64))
    expected = torch.tensor(similarity_by_hand(rows), dtype=torch.float64)
    found = similarity(spread(features))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    assert found.abs().max() <= 1 and found.min() < 0


def test_similarity_matching_is_the_mean_squared_difference_to_the_labels_matrix():
    matching = SimilarityMatching(6, 10).double()
    nn.init.dirac_(matching.conv.weight)
    features = torch.randn(5, 6, 4, 4, dtype=torch.float64)
    targets = [3, 1, 3, 0, 9]
    mine = similarity_by_hand(spread_by_hand(features))
    labels = similarity_by_hand([[float(k == t) for k in range(10)] for t in targets])
    pairs = [(i, j) for i in range(5) for j in range(5)]
    expected = sum((mine[i][j] - labels[i][j]) ** 2 for i, j in pairs) / len(pairs)
    found = matching(features, Batch(features, torch.tensor(targets)))
    assert float(found.detach()) == pytest.approx(expected, rel=1e-6)


def test_maps_of_one_pixel_and_equal_rows_have_a_similarity_too():
    assert torch.equal(spread(torch.ones(2, 5, 1, 1)), torch.ones(2, 5))
    assert torch.equal(similarity(torch.ones(2, 5)), torch.zeros(2, 2))


# --- InfoPro


@pytest.mark.parametrize(
    ("index", "conv", "width"),
    [
        (0, "conv3 16-32 s2", 32),
        (5, "conv3 16-32 s2", 32),
        (6, "conv3 32-64 s2", 64),
        (11, "conv3 64-64 s1", 64),
        (14, "conv3 64-64 s1", 64),
    ],
)
def test_infopros_classifier_and_decoder_are_those_of_the_papers_table_6(index, conv, width):
    net = on_meta("resnet32")
    objective = units_on_meta("infopro", net)[index].objective
    assert words(objective.classifier) == [
        *(conv, f"norm2 {width}", "relu", "pool to 1", "flatten"),
        *(f"linear {width}-128 bias", "relu", "linear 128-10 bias"),
    ]
    channels = net.widths[index]
    decoder = [f"conv3 {channels}-12 s1 bias", "norm2 12", "conv3 12-3 s1 bias"]
    assert words(objective.further) == decoder


@pytest.mark.parametrize(
    ("network", "count", "first", "last"),
    [("resnet32", 16, (5.0, 0.05), (0.2, 0.5)), ("resnet110", 55, (5.0, 0.0), (0.5, 1.0))],
)
def test_infopros_weights_go_from_the_first_unit_to_the_last(network, count, first, last):
    """Those of the recipe for CIFAR-10, as they come out of the losses and what is logged."""
    settings = load_recipe("auglocal/cifar10", "paper").for_run("infopro", network).rule
    net = make_network(network, Settings(width=0.5), 10, 32)
    units = build_units("infopro", net, settings)
    assert len(units) == count
    middle = tuple((a + b) / 2 for a, b in zip(first, last, strict=True))
    places = {0: first, count - 2: last} | ({7: middle} if count == 16 else {})
    for index, (x, y) in places.items():
        side = net.sides()[index]
        features = torch.randn(4, net.widths[index], side, side)
        loss, log = units[index].objective(features, random_batch(4, side=32))
        expected = x * log["further"] + y * log["cross-entropy"]
        torch.testing.assert_close(loss.detach(), expected)
        assert (units[index].objective.further_weight, units[index].objective.weight) == (
            pytest.approx(x),
            pytest.approx(y),
        )
    assert units[-1].objective.further is None and units[-1].objective.weight == 1


def test_the_reconstruction_is_a_cross_entropy_of_pixels_at_the_images_side():
    decoder = Reconstruction(8).double()
    features = torch.randn(3, 8, 4, 4, dtype=torch.float64)
    pixels = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    wide = nn.Upsample(size=16, mode="bilinear", align_corners=True)(features)
    p = torch.sigmoid(decoder.image(torch.relu(decoder.norm(decoder.widen(wide)))))
    expected = -(pixels * p.log() + (1 - pixels) * (1 - p).log()).mean()
    found = decoder(features, Batch(pixels, None, pixels))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dataset", ["cifar10", "svhn"])
def test_what_is_reconstructed_lies_between_0_and_1_and_is_the_image_as_it_was_cropped(dataset):
    recipe = load_recipe(f"auglocal/{dataset}", "paper", {"training.batch": 8})
    images = torch.randint(256, (16, 3, 32, 32), dtype=torch.uint8)
    split = Split(images, torch.arange(16) % 10)
    data = ImageData("fake", 1, "0" * 64, tuple("0123456789"), split, split)
    batch = make_feed(recipe, data=data, seed=0, device=torch.device("cpu")).batch(0)
    pixels, aug = batch.pixels, recipe.augmentation
    assert pixels.shape == (8, 3, 32, 32)
    assert 0 <= pixels.min() < 0.01 and 0.99 < pixels.max() <= 1
    torch.testing.assert_close((255 * pixels).round(), 255 * pixels)
    mean, std = (torch.tensor(v)[:, None, None] for v in (aug.mean, aug.std))
    torch.testing.assert_close(batch.images * std + mean, pixels)


# --- what the rules share


def test_the_loss_is_the_cross_entropy_and_the_accuracy_is_logged():
    net = small_network()
    unit = build_units("auglocal", net, {"depth": 2})[1]
    features = torch.randn(6, net.widths[1], 16, 16)
    batch = random_batch()
    loss, log = unit.objective(features, batch)
    logits = unit.objective.logits(features).detach()
    picked = logits.softmax(dim=1)[torch.arange(6), batch.targets]
    torch.testing.assert_close(loss.detach(), -picked.log().mean())
    hits = [int(row.argmax()) == int(t) for row, t in zip(logits, batch.targets, strict=True)]
    assert float(log["accuracy"]) == pytest.approx(sum(hits) / 6)
    assert log.keys() == {"accuracy"}


@pytest.mark.parametrize("rule", ["predsim", "infopro", "auglocal"])
def test_losses_are_computed_in_fp32_under_autocast(rule):
    net = small_network()
    settings = {"depth": 2, "reconstruction": True} if rule == "auglocal" else {}
    unit = build_units(rule, net, settings)[1]
    features = torch.randn(6, net.widths[1], 16, 16).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        logits = unit.objective.logits(features)
        loss, log = unit.objective(features, random_batch())
    assert logits.dtype == torch.bfloat16
    assert loss.dtype == log["cross-entropy"].dtype == log["further"].dtype == torch.float32
    entropy = F.cross_entropy(logits.float(), random_batch().targets)
    torch.testing.assert_close(log["cross-entropy"], entropy.detach(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("rule", ["dgl", "predsim", "infopro"])
def test_scaled_baselines_have_one_classifier_and_their_own_second_network(rule):
    """Table 9: 3x3 convolutions as wide as asked, at the block's own resolution."""
    net = on_meta("resnet32")
    plain = units_on_meta(rule, net)
    scaled = units_on_meta(rule, net, depth=4, multiplier=1.42)
    likewise = units_on_meta(
        "auglocal", net, depth=4, selection="repetitive", layer="conv3x3", multiplier=1.42
    )
    assert spans(scaled) == spans(likewise) == [*((k, k + 1) for k in range(12)), (12, 16)]
    for mine, other, own in zip(scaled[:-1], likewise[:-1], plain, strict=False):
        assert words(mine.objective.classifier) == words(other.objective.classifier)
        assert repr(mine.objective.further) == repr(own.objective.further)
    assert words(scaled[6].objective.classifier) == [
        *("conv3 32-45 s1", "norm2 45", "relu"),
        *("conv3 45-45 s1", "norm2 45", "relu"),
        *("pool to 1", "flatten", "linear 45-10 bias"),
    ]


def test_auglocal_can_add_infopros_reconstruction():
    net = on_meta("resnet32")
    plain = units_on_meta("auglocal", net, depth=3)
    more = units_on_meta("auglocal", net, depth=3, reconstruction=True)
    for mine, other in zip(more[:-1], plain[:-1], strict=True):
        assert repr(mine.objective.classifier) == repr(other.objective.classifier)
        assert isinstance(mine.objective.further, Reconstruction)
        assert mine.objective.weight == 1
    weights = [unit.objective.further_weight for unit in more[:-1]]
    assert (weights[0], weights[6], weights[-1]) == (5.0, pytest.approx(2.75), 0.5)
    assert more[-1].objective.further is None


@pytest.mark.parametrize("rule", ["auglocal", "dgl"])
def test_on_vgg13_auxiliary_networks_start_from_torchs_default_as_in_the_official_code(rule):
    """That is uniform within 1 / sqrt(inputs), as He's normal, which is the network's, is not."""
    network = make_network("vgg13", Settings(width=0.125), 10, 32)
    *units, _ = build_units(
        rule, network, load_recipe("auglocal/imagenet").for_run(rule, "vgg13").rule
    )

    def beyond(modules: list[nn.Module]) -> list[bool]:
        convs = [p for m in modules for p in m.modules() if isinstance(p, nn.Conv2d)]
        return [bool(c.weight.abs().max() > c.weight[0].numel() ** -0.5) for c in convs]

    auxiliary = beyond([unit.objective for unit in units])
    assert auxiliary and not any(auxiliary)
    assert all(beyond([*network.blocks]))
