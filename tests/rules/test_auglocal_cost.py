"""The FLOPs that AugLocal prints (Tables 7 and 11), counted on our own networks.

Multiply-adds on one 32x32 image in evaluation mode: of convolutions and linear layers, 2 for an
element that is batch-normalised and 1 for one that is pooled; the network and the classifiers of
all its units, without InfoPro's decoder and PredSim's similarity branch.
"""

import tomllib
from functools import cache

import pytest
import torch
from torch import nn

from locbench.evaluation.cost.operations import CONV_AND_LINEAR, multiply_adds
from locbench.networks import Network, make_network
from locbench.paths import tables_dir
from locbench.published.load import load_table
from locbench.recipes.schema import Network as Settings
from locbench.rules import build_units
from locbench.rules.auxiliary import Auxiliary, hidden_layers, select

pytestmark = pytest.mark.usefixtures("nothing_drawn")

ALL = (*CONV_AND_LINEAR, "batch_norm", "adaptive_avg_pool2d")
G = 1e9
UNIFORM = Auxiliary()
DEPTHS = range(2, 10)
# What makes the convolutions of Table 5 as costly as AugLocal at decay 0.5, for d = 2 ... 9, as its
# cells set it.
MULTIPLIERS = {
    layer: [
        load_table("auglocal/table5").rows[row].sets[f"d{d}"]["rule.multiplier"] for d in DEPTHS
    ]
    for layer, row in (("conv1x1", 3), ("conv3x3", 4))
}
counted: dict[tuple, int] = {}


@cache
def on_meta(name: str) -> Network:
    with torch.device("meta"):
        return make_network(name, Settings(), 10, 32)


def printed(table: str) -> list[dict]:
    return tomllib.loads((tables_dir() / f"auglocal/{table}.toml").read_text())["rows"]


def count(module: nn.Module, shape: tuple[int, ...], operators: tuple[str, ...] = ALL) -> int:
    """Multiply-adds; of modules that look the same one is counted."""
    key = (repr(module), shape, operators)
    if key not in counted:
        counted[key] = multiply_adds(module, shape, operators)
    return counted[key]


def shape_after(network: Network, index: int) -> tuple[int, int, int]:
    return (network.widths[index], network.sides()[index], network.sides()[index])


@cache
def trunk(name: str, operators: tuple[str, ...] = ALL) -> int:
    """The network by itself, its classifier included."""
    net = on_meta(name)
    shapes = [(3, 32, 32), *(shape_after(net, index) for index in range(len(net.blocks)))]
    parts = [*net.blocks, net.head]
    return sum(count(part, shape, operators) for part, shape in zip(parts, shapes, strict=True))


def units_cost(rule: str, settings: dict, operators: tuple[str, ...] = ALL) -> int:
    """ResNet-110 and the classifiers of a rule's units; the last unit's is the network's own."""
    net = on_meta("resnet110")
    with torch.device("meta"):
        *units, _ = build_units(rule, net, settings)
    heads = [
        count(unit.objective.classifier, shape_after(net, unit.stop - 1), operators)
        for unit in units
    ]
    return trunk("resnet110", operators) + sum(heads)


def heads_cost(name: str, depth: int, decay: float = 0.5, auxiliary: Auxiliary = UNIFORM) -> int:
    """All of AugLocal's auxiliary networks; of those built of the same stages one is counted.

    Much faster than to build every unit; `test_both_ways_of_counting_agree` compares the two.
    """
    net, total = on_meta(name), 0
    layers = len(net.blocks)
    for layer, hidden in enumerate(hidden_layers(layers, depth=depth, decay=decay, joint=True)):
        chosen = select(auxiliary.selection, layers=layers, layer=layer, count=hidden)
        key = (name, auxiliary, *(net.stage_of(index) for index in (layer, *chosen)))
        if key not in counted:
            with torch.device("meta"):
                head, _ = auxiliary.build(net, layer, hidden)
            counted[key] = count(head, shape_after(net, layer))
        total += counted[key]
    return total


# --- Table 7

# (rule, settings): in G, of all operators, then of convolutions and linear layers alone.
TABLE7 = [
    ("bp", {}, 0.2553, 0.2531),
    ("predsim", {}, 0.2556, 0.2534),
    ("dgl", {}, 0.2618, 0.2589),
    ("infopro", {}, 0.3404, 0.3373),
    ("auglocal", {"depth": 2}, 0.6290, 0.6239),
    ("auglocal", {"depth": 3}, 0.6902, 0.6852),
    ("auglocal", {"depth": 4}, 0.7992, 0.7937),
    ("auglocal", {"depth": 5}, 0.9844, 0.9777),
    ("auglocal", {"depth": 6}, 1.1268, 1.1193),
]
DEEPER = [pytest.param(*row, marks=pytest.mark.full) for row in TABLE7[5:]]


@pytest.mark.parametrize(("rule", "settings", "wanted", "_"), [*TABLE7[:5], *DEEPER])
def test_multiply_adds_of_every_rule_are_those_of_table_7(rule, settings, wanted, _):
    found = units_cost(rule, settings) / G
    assert round(found, 4) == wanted
    names = {"bp": "BP", "predsim": "PredSim", "dgl": "DGL", "infopro": "InfoPro"}
    (in_print,) = [
        row["flops"]
        for row in printed("table7")
        if row["method"] == names.get(rule, "AugLocal") and row.get("d") == settings.get("depth")
    ]
    # BP and PredSim are printed as 0.25: see below.
    assert round(found, 2) == (0.26 if rule in ("bp", "predsim") else in_print)


@pytest.mark.full
@pytest.mark.parametrize(("depth", "decay"), [(2, 0.5), (6, 0.5), (5, 1.0)])
def test_both_ways_of_counting_agree(depth, decay):
    apart = trunk("resnet110") + heads_cost("resnet110", depth, decay)
    assert apart == units_cost("auglocal", {"depth": depth, "decay": decay})


@pytest.mark.parametrize(
    ("depth", "wanted"), [(2, 0.1058), (3, 0.1056), (4, 0.1246), (5, 0.1532), (6, 0.1733)]
)
def test_resnet32s_auxiliary_networks_cost_more_than_it(depth, wanted):
    assert round(heads_cost("resnet32", depth) / G, 4) == wanted
    assert round(trunk("resnet32") / G, 4) == 0.0698


# --- Table 11

DECAYS = {"10": 1.0, "09": 0.9, "08": 0.8, "07": 0.7, "06": 0.6}
# An independent count, by depth, in the order of DECAYS.
RECOMPUTED = {
    5: (0.7901, 0.8327, 0.8706, 0.8943, 0.9322),
    6: (0.8945, 0.9467, 0.9893, 1.0320, 1.0889),
    7: (0.9942, 1.0558, 1.1079, 1.1695, 1.2216),
    8: (1.0891, 1.1603, 1.2219, 1.2930, 1.3594),
    9: (1.1794, 1.2553, 1.3454, 1.4070, 1.4876),
}


@pytest.mark.full
def test_24_of_the_25_values_of_table_11_are_the_printed_ones():
    differ = {}
    for row in printed("table11"):
        for (key, decay), counted in zip(DECAYS.items(), RECOMPUTED[row["d"]], strict=True):
            found = (trunk("resnet110") + heads_cost("resnet110", row["d"], decay)) / G
            assert round(found, 4) == counted
            if round(found, 2) != row[f"r{key}"]:
                differ[row["d"], decay] = (round(found, 4), row[f"r{key}"])
    assert differ == {(6, 1.0): (0.8945, 0.90)}


@pytest.mark.full
def test_falling_depth_saves_45_percent():
    """Figure 5: d = 9, decay 1.0 beside a constant depth."""
    falling, constant = (heads_cost("resnet110", 9, decay) for decay in (1.0, 0.0))
    assert (round(falling / G, 4), round(constant / G, 4)) == (0.9242, 1.6873)
    assert 1 - falling / constant == pytest.approx(0.45, abs=0.005)


# --- Tables 5 and 9


@pytest.mark.full
@pytest.mark.parametrize("layer", MULTIPLIERS)
def test_convolutions_can_be_made_as_costly_as_auglocals_layers(layer):
    """Whole channels allow it to within 1.5 % of the auxiliary networks' own cost."""
    for depth, multiplier in enumerate(MULTIPLIERS[layer], start=2):
        plain = heads_cost(
            "resnet110",
            depth,
            0.5,
            Auxiliary(selection="repetitive", layer=layer, multiplier=multiplier),
        )
        assert plain == pytest.approx(heads_cost("resnet110", depth), rel=0.015)


@pytest.mark.full
def test_the_scaled_dgl_is_as_costly_as_auglocal():
    """Through the rule itself; PredSim's and InfoPro's classifiers are the same."""
    auglocal = units_cost("auglocal", {"depth": 6})
    scaled = units_cost("dgl", {"depth": 6, "multiplier": MULTIPLIERS["conv3x3"][6 - 2]})
    assert scaled == pytest.approx(auglocal, rel=0.001)
    assert units_cost("dgl", {"depth": 6}) < 0.75 * auglocal
