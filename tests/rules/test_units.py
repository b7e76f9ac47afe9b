"""Which blocks the units of the three rules hold, and what each loss reaches."""

import inspect

import pytest
import torch
from meta import meta_device, on_meta

import locbench.rules
from locbench.errors import UserError
from locbench.plugins.registry import RULES
from locbench.recipes.load import load_recipe
from locbench.rules import build_units, check_settings

STOPS = {"resnet50": (4, 8, 14, 17), "shufflenet_v2_50": (4, 8, 14, 18)}
# By stages, first and last.
SPANS = {
    "simclr": [(1, 4)],
    "gim": [(1, 1), (2, 2), (3, 3), (4, 4)],
    "loco": [(1, 2), (2, 3), (3, 4)],
}


def units_on_meta(rule: str, network, settings=None):
    with meta_device():
        return build_units(rule, network, settings or {})


@pytest.mark.parametrize("network", STOPS)
@pytest.mark.parametrize("rule", SPANS)
def test_units_hold_the_stages_that_the_paper_says(rule, network):
    stops = STOPS[network]
    starts = (0, *stops)
    net = on_meta(network)
    assert tuple(stage.stop for stage in net.stages) == stops
    expected = [(starts[first - 1], stops[last - 1]) for first, last in SPANS[rule]]
    units = units_on_meta(rule, net)
    assert [(unit.start, unit.stop) for unit in units] == expected
    assert all(unit.updates is None and unit.ties == () for unit in units)


@pytest.mark.parametrize("network", STOPS)
def test_loco_trains_the_inner_stages_twice_and_the_outer_once(network):
    net = on_meta(network)
    units = units_on_meta("loco", net)
    times = [sum(b in unit.updated_blocks() for unit in units) for b in range(len(net.blocks))]
    by_stage = [{times[b] for b in stage} for stage in net.stages]
    assert by_stage == [{1}, {2}, {2}, {1}]
    assert [unit.stop == len(net.blocks) for unit in units] == [False, False, True]


@pytest.mark.parametrize(("rule", "convs"), [("simclr", 0), ("gim", 0), ("loco", 1)])
def test_decoders_are_those_of_the_main_tables(rule, convs):
    net = on_meta("resnet50")
    for unit in units_on_meta(rule, net):
        decoder = unit.objective.decoder
        assert len(decoder.convs) == convs
        assert unit.objective.temperature == 0.1
        width = net.blocks[unit.stop - 1].out_channels
        linears = [m for m in decoder.mlp if isinstance(m, torch.nn.Linear)]
        assert [(m.in_features, m.out_features) for m in linears] == [(width, width), (width, 128)]


@pytest.mark.parametrize("rule", SPANS)
def test_settings_change_every_decoder(rule):
    settings = {"temperature": 0.5, "decoder_blocks": 2, "mlp_layers": 4}
    for unit in units_on_meta(rule, on_meta("resnet50"), settings):
        assert len(unit.objective.decoder.convs) == 2
        assert unit.objective.temperature == 0.5
        assert unit.objective.description == "2 conv blocks + 4-layer MLP"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temprature": 0.1}, "no setting 'temprature'; did you mean 'temperature'"),
        ({"mlp_layers": 2.5}, "mlp_layers = 2.5: rule 'loco' wants int"),
        ({"temperature": "warm"}, "temperature = 'warm': rule 'loco' wants float"),
        ({"decoder_blocks": -1}, "decoder_blocks = -1: rule 'loco' wants no negative number"),
        ({"temperature": 0}, "temperature = 0: give a number above 0"),
    ],
)
def test_wrong_settings_are_named_with_the_nearest_right_one(settings, message):
    with pytest.raises(UserError, match=message):
        units_on_meta("loco", on_meta("resnet50"), settings)


def test_what_authors_of_rules_were_promised_can_be_imported():
    """The line that the README shows stays, wherever the things themselves live."""
    from locbench.rules import Batch, Block, Network, Unit, gathered

    assert {Batch.__module__, Unit.__module__} == {"locbench.units"}
    assert {Block.__module__, Network.__module__} == {"locbench.networks.base"}
    assert callable(gathered)
    with pytest.raises(AttributeError, match="no attribute 'Blok'"):
        _ = locbench.rules.Blok


def test_settings_of_every_rule_are_keywords_with_defaults():
    """The contract: a rule's settings are what a recipe's [rule] section may hold."""
    for name in RULES.names():
        _, *settings = inspect.signature(RULES.get(name)).parameters.values()
        assert all(s.kind is s.KEYWORD_ONLY for s in settings)
        assert all(isinstance(s.default, str | int | float) for s in settings)
        read = RULES.entry(name).settings
        assert read == {s.name: s.default for s in settings}, "read from the source, not imported"


def test_the_recipe_of_the_paper_suits_all_three():
    for scale in ("paper", "small", "smoke"):
        recipe = load_recipe("loco/imagenet", scale)
        for rule in SPANS:
            own = recipe.for_run(rule, "resnet50").rule
            check_settings(RULES.entry(rule).settings, rule, own)
            assert "temperature" in own
