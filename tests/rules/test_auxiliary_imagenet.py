"""AugLocal's and DGL's auxiliary networks on ImageNet are those of the AugLocal code, all of them.

That code's `exp_imagenet`, with the settings of the recipe: which layers, how wide, where they
halve the map, and the parameters in all.
"""

import pytest
import torch
from torch import nn

from locbench.networks import Network, make_network
from locbench.recipes.load import load_recipe
from locbench.recipes.schema import Network as Settings
from locbench.rules import build_units
from locbench.rules.auxiliary import select
from locbench.units import Unit

pytestmark = pytest.mark.usefixtures("nothing_drawn")


def imagenet_units(rule: str, name: str, **overrides) -> tuple[Network, list[Unit]]:
    """As the recipe has it, but for `overrides`."""
    settings = load_recipe("auglocal/imagenet").for_run(rule, name).rule | overrides
    with torch.device("meta"):
        network = make_network(name, Settings(), 1000, 224)
        return network, build_units(rule, network, settings)


def held(units: list[Unit]) -> int:
    return sum(p.numel() for unit in units for p in unit.objective.parameters())


# Of ResNet-34 in the form for ImageNet at d = 5, from the stem up: which layers the official code
# (exp_imagenet) builds each auxiliary network of, with (input, output, stride) of its blocks.
A, B, C, D = (64, 128, 2), (128, 256, 2), (256, 512, 2), (128, 128, 1)
E, F = (256, 256, 1), (512, 512, 1)
RESNET34 = [
    ([4, 8, 12, 16], [A, B, E, C]),
    ([5, 8, 12, 16], [A, B, E, C]),
    ([6, 9, 12, 16], [A, B, E, C]),
    ([6, 10, 13, 16], [A, B, E, C]),
    ([7, 10, 13, 16], [D, B, E, C]),
    ([8, 10, 13, 16], [B, E, E, C]),
    ([8, 11, 14, 16], [B, E, C, F]),
    ([9, 12, 14, 16], [B, E, C, F]),
    ([10, 12, 14, 16], [E, E, C, F]),
    ([11, 12, 14, 16], [E, E, C, F]),
    ([12, 13, 14, 16], [E, E, C, F]),
    ([12, 14, 15, 16], [E, C, F, F]),
    ([13, 14, 15, 16], [E, C, F, F]),
    ([14, 15, 16], [C, F, F]),
    ([15, 16], [F, F]),
    ([16], [F]),
]


def test_on_resnet34_auxiliary_networks_are_those_of_the_official_code_for_imagenet():
    network, (*units, last) = imagenet_units("auglocal", "resnet34")
    assert [(unit.start, unit.stop) for unit in [*units, last]] == [(k, k + 1) for k in range(17)]
    assert last.objective.classifier is network.head
    for layer, (unit, (chosen, blocks)) in enumerate(zip(units, RESNET34, strict=True)):
        assert select("uniform", layers=17, layer=layer, count=len(chosen)) == chosen
        *hidden, pool, flat, linear = unit.objective.classifier
        convs = [(b.module.conv1, b.module.conv2) for b in hidden]
        assert [(c.in_channels, c.out_channels, c.stride[0]) for c, _ in convs] == blocks
        assert all(c.stride == (1, 1) for _, c in convs)
        assert isinstance(pool, nn.AdaptiveAvgPool2d) and isinstance(flat, nn.Flatten)
        assert (linear.in_features, linear.out_features) == (512, 1000)
    assert held(units) == 154_359_936  # counted in that code's modules


# Of ResNet-101 at d = 4, likewise: (input, inner, output width, stride) of bottlenecks; from which
# block on auxiliary networks are built of which.
P, Q, R, S = (256, 256, 1024, 2), (1024, 256, 1024, 1), (1024, 512, 2048, 2), (2048, 512, 2048, 1)
HALVED = (1024, 256, 1024, 2)
RESNET101 = {
    0: [(64, 256, 1024, 2), HALVED, R],
    1: [P, HALVED, R],
    4: [(512, 256, 1024, 2), Q, R],
    8: [Q, Q, R],
    26: [Q, R, S],
    30: [R, S, S],
    31: [S, S],
    32: [S],
}
# Which layers, from the stem up.
CHOSEN101 = [
    *([11, 22], [12, 22], [12, 23], [13, 23], [14, 23], [14, 24], [15, 24], [16, 24], [16, 25]),
    *([17, 25], [18, 25], [18, 26], [19, 26], [20, 26], [20, 27], [21, 27], [22, 27], [22, 28]),
    *([23, 28], [24, 28], [24, 29], [25, 29], [26, 29], [26, 30], [27, 30], [28, 30], [28, 31]),
    *([29, 31], [30, 31], [30, 32], [31, 32], [32], []),
]


def test_on_resnet101_auxiliary_networks_are_those_of_the_official_code():
    network, (*units, last) = imagenet_units("auglocal", "resnet101")
    assert [(unit.start, unit.stop) for unit in [*units, last]] == [(k, k + 1) for k in range(34)]
    assert last.objective.classifier is network.head
    expected = []
    for layer, (unit, chosen) in enumerate(zip(units, CHOSEN101, strict=True)):
        assert select("uniform", layers=34, layer=layer, count=len(chosen) + 1) == [*chosen, 33]
        expected = RESNET101.get(layer, expected)
        *hidden, _, _, linear = unit.objective.classifier
        made = [(b.module.conv1, b.module.conv2, b.module.conv3) for b in hidden]
        shapes = [(a.in_channels, a.out_channels, c.out_channels, b.stride[0]) for a, b, c in made]
        assert shapes == expected
        assert (linear.in_features, linear.out_features) == (2048, 1000)
    assert held(units) == 363_376_872  # counted in that code's modules


# Of VGG-13 at d = 6, likewise: (input, output width, whether a max-pooling goes before it).
VGG13 = [
    ([2, 4, 5, 7, 9], [(64, 128, 2), (128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1)]),
    ([3, 4, 6, 7, 9], [(64, 128, 2), (128, 256, 2), (256, 512, 2), *[(512, 512, 1)] * 2]),
    ([3, 5, 6, 8, 9], [(128, 128, 1), (128, 256, 2), (256, 512, 2), *[(512, 512, 1)] * 2]),
    ([4, 5, 7, 8, 9], [(128, 256, 2), (256, 256, 1), (256, 512, 2), *[(512, 512, 1)] * 2]),
    ([5, 6, 7, 8, 9], [(256, 256, 1), (256, 512, 2), *[(512, 512, 1)] * 3]),
    ([6, 7, 8, 9], [(256, 512, 2), *[(512, 512, 1)] * 3]),
    ([7, 8, 9], [(512, 512, 1)] * 3),
    ([8, 9], [(512, 512, 1)] * 2),
    ([9], [(512, 512, 1)]),
]


def test_on_vgg13_auxiliary_networks_are_those_of_the_official_code():
    network, (*units, last) = imagenet_units("auglocal", "vgg13")
    assert last.objective.classifier is network.head and last.start == 9
    for layer, (unit, (chosen, convs)) in enumerate(zip(units, VGG13, strict=True)):
        assert select("uniform", layers=10, layer=layer, count=len(chosen)) == chosen
        hidden, top = unit.objective.classifier[: len(chosen)], unit.objective.classifier[-9:]
        assert len(unit.objective.classifier) == len(chosen) + 9
        made = [(b.module.conv.in_channels, b.module.conv.out_channels, b.stride) for b in hidden]
        assert made == convs
        kinds = [type(part).__name__ for part in top]
        layers = ["Linear", "BatchNorm1d", "ReLU"]
        assert kinds == ["Flatten", "AdaptiveAvgPool1d", *layers, *layers, "Linear"]
        shapes = [tuple(part.weight.shape) for part in top[2::3]]
        assert shapes == [(512, 512), (512, 512), (1000, 512)] and top[1].output_size == 512
        assert unit.objective.description == f"{len(chosen)} block{'s'[: layer < 8]} + 3 linear"
        side = network.sides()[layer]
        features = torch.empty(2, network.widths[layer], side, side, device="meta")
        assert unit.objective.logits(features).shape == (2, 1000)
    assert held(units) == 64_556_712  # counted in that code's modules


def test_dgl_on_vgg13_has_the_official_codes_auxiliary_networks():
    network, (*units, _) = imagenet_units("dgl", "vgg13")
    first = [unit.objective.classifier[0].output_size for unit in units]
    assert first == [56, 56, 28, 28, 14, 14, 7, 7, 7]
    flat = [unit.objective.classifier[-1].in_features for unit in units]
    assert flat == [4 * width for width in network.widths[:-1]]
    assert held(units) == 43_336_744  # counted in that code's modules
    *own, _ = imagenet_units("dgl", "vgg13", by_width=False)[1]
    assert [unit.objective.classifier[0].output_size for unit in own] == [*first[:-1], 4]
