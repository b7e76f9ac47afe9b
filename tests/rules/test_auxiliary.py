"""Of which layers, how deep and how wide AugLocal's auxiliary networks are, on every network."""

from collections import Counter
from functools import cache
from itertools import pairwise
from math import prod

import pytest
import torch
from pairs import FAMILIES
from torch import Tensor, nn

from locbench.errors import UserError
from locbench.networks import Block, Network, make_network
from locbench.recipes.load import load_recipe
from locbench.recipes.schema import Network as Settings
from locbench.rules import build_units
from locbench.rules.auxiliary import (
    Auxiliary,
    carried_strides,
    hidden_layers,
    select,
    width_strides,
)
from locbench.units import Unit

pytestmark = pytest.mark.usefixtures("nothing_drawn")

LAYERS = {"resnet32": 16, "resnet110": 55}
UNIFORM = Auxiliary()


@cache
def on_meta(name: str, blocks: int = 0) -> Network:
    with torch.device("meta"):
        return make_network(name, Settings(blocks=blocks), 10, 32).eval()


def units_on_meta(rule: str, network: Network, **settings) -> list[Unit]:
    with torch.device("meta"):
        return build_units(rule, network, settings)


def make(auxiliary: Auxiliary, network: str, layer: int, count: int) -> nn.Sequential:
    with torch.device("meta"):
        return auxiliary.build(on_meta(network), layer, count)[0]


def built(auxiliary: Auxiliary, layer: int, count: int) -> list[tuple[int, int, int]]:
    """(in_channels, out_channels, stride) of every hidden layer on ResNet-32."""
    hidden = list(make(auxiliary, "resnet32", layer, count))[:count]
    convs = [made.module.conv1 if isinstance(made, Block) else made[0] for made in hidden]
    return [(conv.in_channels, conv.out_channels, conv.stride[0]) for conv in convs]


# --- which layers


@pytest.mark.parametrize(
    ("network", "layer", "count", "chosen"),
    [
        ("resnet110", 0, 5, [11, 22, 32, 43, 54]),
        ("resnet110", 20, 4, [28, 37, 46, 54]),  # 28.5 and 45.5: halves to the even one
        ("resnet32", 0, 5, [3, 6, 9, 12, 15]),
        ("resnet32", 6, 4, [8, 10, 13, 15]),
        ("resnet110", 0, 1, [54]),
    ],
)
def test_uniform_selection_takes_the_official_codes_layers(network, layer, count, chosen):
    assert select("uniform", layers=LAYERS[network], layer=layer, count=count) == chosen


@pytest.mark.parametrize("layers", LAYERS.values())
def test_uniform_selection_rises_and_ends_with_the_last_layer(layers):
    for layer in range(layers - 1):
        for count in range(1, 9):
            chosen = select("uniform", layers=layers, layer=layer, count=count)
            assert chosen[-1] == layers - 1 and len(chosen) == min(count, layers - 1 - layer)
            assert [layer, *chosen] == sorted({layer, *chosen})


def test_sequential_selection_takes_what_follows_and_repetitive_the_layer_itself():
    assert select("sequential", layers=16, layer=4, count=3) == [5, 6, 7]
    assert select("repetitive", layers=16, layer=4, count=3) == [4, 4, 4]


def test_where_fewer_layers_are_left_than_asked_for_all_are_taken():
    for selection in ("uniform", "sequential"):
        assert (
            select(selection, layers=16, layer=13, count=5)
            == select(selection, layers=16, layer=13, count=2)
            == [14, 15]
        )
    assert select("repetitive", layers=16, layer=13, count=5) == [13] * 5


# --- how deep

# How many auxiliary networks have how many hidden layers, at decay 0.5 (the official code).
DEPTHS = [
    ("resnet110", 2, {1: 53}),
    ("resnet110", 3, {2: 52}),
    ("resnet110", 4, {3: 25, 2: 26}),
    ("resnet110", 5, {4: 17, 3: 32, 2: 1}),
    ("resnet110", 6, {5: 12, 4: 25, 3: 12}),
    ("resnet110", 7, {6: 10, 5: 19, 4: 19}),
    ("resnet110", 8, {7: 8, 6: 16, 5: 15, 4: 8}),
    ("resnet110", 9, {8: 7, 7: 13, 6: 13, 5: 12, 4: 1}),
    ("resnet32", 2, {1: 14}),
    ("resnet32", 3, {2: 13}),
    ("resnet32", 4, {3: 6, 2: 6}),
    ("resnet32", 5, {4: 4, 3: 6, 2: 1}),
    ("resnet32", 6, {5: 3, 4: 4, 3: 3}),
]


@pytest.mark.parametrize(("network", "depth", "expected"), DEPTHS)
def test_the_depth_falls_as_in_the_official_code(network, depth, expected):
    counts = hidden_layers(LAYERS[network], depth=depth, decay=0.5, joint=True)
    assert Counter(counts) == expected
    assert counts == sorted(counts, reverse=True)


def test_without_decay_all_are_as_deep_and_with_full_decay_the_last_has_one_layer():
    assert hidden_layers(16, depth=6, decay=0.0, joint=True) == [5] * 10
    assert hidden_layers(16, depth=6, decay=1.0, joint=True) == [5, 5, 4, 4, 3, 3, 2, 2, 1, 1]


def test_where_only_the_last_block_is_joint_the_depth_is_what_is_left():
    """The form for ImageNet, on the 17 layers of ResNet-34."""
    assert hidden_layers(17, depth=5, decay=0.0, joint=False) == [4] * 13 + [3, 2, 1]
    assert hidden_layers(17, depth=16, decay=0.0, joint=False) == [15, *range(15, 0, -1)]


@pytest.mark.parametrize("depth", [0, 1, 16, 40])
def test_a_depth_that_does_not_fit_is_named_with_those_that_do(depth):
    with pytest.raises(UserError) as error:
        units_on_meta("auglocal", on_meta("resnet32"), depth=depth)
    message = str(error.value)
    assert message.startswith(f"rule.depth = {depth}: give 2 ") and " to 15:" in message
    assert "\n" not in message


def test_the_largest_depth_trains_the_stem_alone():
    first, last = units_on_meta("auglocal", on_meta("resnet32"), depth=15)
    assert (first.stop, last.start) == (1, 1)


# --- widths and strides


@pytest.mark.parametrize(
    ("layer", "count", "expected"),
    [
        (0, 2, [(16, 32, 2), (32, 64, 2)]),
        (0, 5, [(16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)]),
        (5, 1, [(16, 64, 2)]),  # two halvings, and one layer to make them
        (6, 4, [(32, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1)]),
        (11, 2, [(64, 64, 1), (64, 64, 1)]),
    ],
)
def test_hidden_layers_have_the_widths_and_strides_of_the_selected(layer, count, expected):
    assert built(UNIFORM, layer, count) == expected


@pytest.mark.parametrize(
    ("layer", "chosen", "strides"),
    [
        (0, [3, 6, 15], [1, 2, 2]),
        (5, [11, 15], [2, 2]),  # from 16 channels to 64: the second halving is the next layer's
        (5, [15], [2]),
        (0, [11, 12, 13], [2, 2, 1]),
        (11, [12, 15], [1, 1]),
    ],
)
def test_a_second_halving_is_carried_to_the_next_layer(layer, chosen, strides):
    assert carried_strides(on_meta("resnet32"), layer, chosen) == strides


def test_by_strides_three_halvings_are_made_one_by_one():
    assert select("uniform", layers=16, layer=0, count=2) == [8, 15]
    assert carried_strides(on_meta("vgg19"), 0, [8, 9, 10, 15]) == [2, 2, 2, 2]
    net = make(UNIFORM, "vgg19", 0, 2)
    assert net[:2](torch.empty(1, 64, 32, 32, device="meta")).shape == (1, 512, 8, 8)


@pytest.mark.parametrize(
    ("network", "layer", "chosen", "strides"),
    [
        ("vgg19", 0, [8, 15], [2, 1]),  # 64 512 | 512: one pooling however much wider
        ("vgg19", 3, [6, 9, 12, 15], [2, 2, 1, 1]),  # 128 256 512 | 512 512
        ("mobilenet_v2", 0, [9, 18], [2, 2]),  # 32 64 1280
        ("mobilenet_v2", 3, [8, 13, 18], [2, 1, 2]),  # 24 64 96 1280
        ("efficientnet_b0", 4, [8, 12, 16], [2, 2, 1]),  # 40 80 192 320
        ("regnetx_400mf", 0, [11, 22], [2, 1]),  # 64 384 | 384
    ],
)
def test_by_widths_the_map_is_halved_where_a_layer_is_twice_as_wide(
    network, layer, chosen, strides
):
    assert width_strides(on_meta(network), layer, chosen) == strides


@pytest.mark.parametrize("network", ["vgg19", "mobilenet_v2", "efficientnet_b0", "regnetx_400mf"])
def test_other_networks_have_no_batch_norm_before_the_classifier(network):
    rule = load_recipe("auglocal/cifar10").for_run("auglocal", network).rule
    *units, _ = units_on_meta("auglocal", on_meta(network), **rule, depth=2)
    for unit in units:
        _, *top = unit.objective.classifier
        norms = [part for part in top if isinstance(part, nn.BatchNorm1d)]
        assert len(norms) == (2 if network == "vgg19" else 0)


@pytest.mark.parametrize(
    ("selection", "layer", "expected"),
    [
        ("sequential", 4, [(16, 16, 1), (16, 32, 2), (32, 32, 1)]),
        ("repetitive", 0, [(16, 16, 1)] * 3),  # the stem repeats as a basic block
        ("repetitive", 6, [(32, 32, 1)] * 3),  # the block that halves does not halve again
        ("repetitive s2", 0, [(16, 16, 1), (16, 16, 2), (16, 16, 2)]),
        ("repetitive s2", 6, [(32, 32, 1), (32, 32, 2), (32, 32, 1)]),
    ],
)
def test_other_selections_have_their_own_widths_and_strides(selection, layer, expected):
    assert built(Auxiliary(selection=selection), layer, 3) == expected


def test_a_selection_for_each_stage():
    mixed = Auxiliary(selection="uniform/repetitive/uniform")
    for layer in range(13):
        kind = "repetitive" if 6 <= layer <= 10 else "uniform"
        assert built(mixed, layer, 2) == built(Auxiliary(selection=kind), layer, 2)
    assert built(mixed, 5, 2) != built(Auxiliary(selection="repetitive"), 5, 2)
    assert built(mixed, 6, 2) != built(UNIFORM, 6, 2)


def test_layers_can_be_plain_convolutions():
    assert built(Auxiliary(selection="repetitive", layer="conv3x3", multiplier=1.42), 0, 2) == [
        (16, 23, 1),
        (23, 23, 1),
    ]
    assert built(Auxiliary(layer="conv3x3"), 0, 2) == [(16, 32, 2), (32, 64, 2)]
    for name, side, padding in (("conv1x1", 1, 0), ("conv3x3", 3, 1)):
        net, text = Auxiliary(selection="repetitive", layer=name).build(on_meta("resnet32"), 0, 2)
        conv, norm, relu = net[0]
        assert conv.kernel_size == (side, side) and conv.padding == (padding, padding)
        assert conv.bias is None
        assert isinstance(norm, nn.BatchNorm2d) and isinstance(relu, nn.ReLU)
        assert text == f"2 conv {side}x{side}s + linear"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"selection": "unifrom"}, r"rule.selection = 'unifrom'; did you mean 'uniform'\?"),
        ({"selection": "uniform/repetitive"}, "rule.selection = 'uniform/repetitive': .* 3 of"),
        ({"layer": "conv5x5"}, r"rule.layer = 'conv5x5'; did you mean 'conv[13]x[13]'\?"),
        ({"halving": "widht"}, r"rule.halving = 'widht'; did you mean 'width'\?"),
        ({"classifier": "lnear"}, r"rule.classifier = 'lnear'; did you mean 'linear'\?"),
        ({"initial": "touch"}, r"rule.initial = 'touch'; did you mean 'torch'\?"),
    ],
)
def test_wrong_settings_are_named_with_the_nearest_right_one(settings, message):
    with pytest.raises(UserError, match=message) as error:
        units_on_meta("auglocal", on_meta("resnet32"), **settings)
    assert "\n" not in str(error.value)


# --- the classifier on top


def norms_before_the_classifier(units: list[Unit]) -> list[int]:
    """Of every auxiliary network, the number of batch norms between the pool and the classifier."""
    return [
        sum(isinstance(part, nn.BatchNorm1d) for part in unit.objective.classifier.modules())
        for unit in units[:-1]
    ]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"depth": 2}, [1] * 14),
        ({"depth": 3}, [0] * 13),
        ({"depth": 6, "decay": 1.0}, [0] * 8 + [1] * 2),
        ({"depth": 3, "decay": 0.0, "joint": False}, [0] * 15),
    ],
)
def test_a_batch_norm_precedes_the_classifier_only_after_one_hidden_layer(settings, expected):
    units = units_on_meta("auglocal", on_meta("resnet32"), **settings)
    assert norms_before_the_classifier(units) == expected
    for unit, norm in zip(units[:-1], expected, strict=True):
        pool, flat, *between, linear = unit.objective.classifier[-4 if norm else -3 :]
        assert isinstance(pool, nn.AdaptiveAvgPool2d) and isinstance(flat, nn.Flatten)
        assert [part.num_features for part in between] == [64] * norm
        assert (linear.in_features, linear.out_features) == (64, 10)


# --- on every network


def features_of(network: Network, unit: Unit) -> Tensor:
    """What the unit's last block gives for two images, values apart."""
    side = network.sides()[unit.stop - 1]
    return torch.empty(2, network.widths[unit.stop - 1], side, side, device="meta")


@pytest.mark.parametrize("network", FAMILIES)
def test_every_classifier_takes_its_blocks_features_to_logits(network):
    net = on_meta(network, blocks=1)
    for rule in ("dgl", "predsim", "infopro"):
        for unit in units_on_meta(rule, net):
            assert unit.objective.logits(features_of(net, unit)).shape == (2, 10)


@pytest.mark.parametrize("network", FAMILIES)
def test_auxiliary_networks_run_on_every_network_and_halve_no_more_than_it_does(network):
    net, depth = on_meta(network, blocks=2), 4
    *units, last = units_on_meta("auglocal", net, depth=depth)
    assert last.objective.logits(features_of(net, last)).shape == (2, 10)
    for unit in units:
        features = features_of(net, unit)
        sides = [features.shape[-1]]
        hidden = [part for part in unit.objective.classifier if isinstance(part, Block)]
        for layer in hidden:
            features = layer(features)
            sides.append(features.shape[-1])
        assert 1 <= len(hidden) < depth and features.shape[1] == net.widths[-1]
        # One halving a layer; those that find no layer are left out.
        assert all(after in (before, -(-before // 2)) for before, after in pairwise(sides))
        due = prod(block.stride for block in net.blocks[unit.stop :])
        assert sides[0] / sides[-1] <= due and (sides[0] > sides[-1]) == (due >= 2)
        assert unit.objective.classifier[len(hidden) :](features).shape == (2, 10)
