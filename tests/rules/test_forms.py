"""LoCo's forms, one by one: which blocks a unit holds, what its loss changes, what its decoder is.

That the engine gives the gradients of each is tested over all of them in tests/conformance.
"""

from itertools import chain

import pytest
import torch

from locbench.errors import UserError
from locbench.networks import make_network
from locbench.plugins.registry import NETWORKS
from locbench.recipes.load import load_recipe
from locbench.recipes.schema import Network as Settings
from locbench.rules import build_units, known_to
from locbench.training.engine import Engine
from locbench.units import Batch

DEEP = Settings(width=0.125, blocks=3, stem="small")
LAMBDA = 0.01
PENALTY = {"sharing": "penalty", "penalty": LAMBDA}
STARTS = (0, 4, 7, 10, 13)  # of the stages of DEEP, the stem in the first


@pytest.fixture(autouse=True)
def double():
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)


def net_and_units(rule="loco", **settings):
    """Equal weights for equal objectives, whatever the form; off the zero scales."""
    torch.manual_seed(1)
    net = make_network("resnet50", DEEP, 4, 16).train()
    torch.manual_seed(2)
    units = build_units(rule, net, settings)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net, units


def batch():
    torch.manual_seed(4)
    return Batch(torch.randn(8, 3, 16, 16))


def step(net, units):
    net.zero_grad()
    return Engine(net.blocks, units).step(batch())[0]


def gradients(net, stage):
    blocks = range(STARTS[stage - 1], STARTS[stage])
    return [p.grad.clone() for p in chain(*(net.blocks[b].parameters() for b in blocks))]


def same(ours, theirs):
    pairs = list(zip(ours, theirs, strict=True))
    return all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in pairs)


def spans(units):
    return [(unit.start, unit.stop) for unit in units]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [(0, 7), (4, 10), (7, 13)]),
        ({"sharing": "none"}, [(0, 4), (4, 7), (7, 10), (10, 13)]),
        ({"sharing": "upper"}, [(0, 7), (4, 10), (7, 13)]),
        (PENALTY, [(0, 4), (4, 7), (7, 13)]),
        ({"sharing": "blocks", "shared_blocks": 1}, [(0, 5), (4, 8), (7, 11), (10, 13)]),
        ({"sharing": "blocks", "shared_blocks": 2}, [(0, 6), (4, 9), (7, 12), (10, 13)]),
        ({"unit_stages": 3}, [(0, 10), (4, 13)]),
        ({"unit_stages": 4}, [(0, 13)]),
        ({"first_loss": True}, [(0, 4), (0, 7), (4, 10), (7, 13)]),
    ],
)
def test_units_hold_the_blocks_that_the_form_says(settings, expected):
    _, units = net_and_units(**settings)
    assert spans(units) == expected
    assert all(unit.objective.description.endswith("1 conv block + 2-layer MLP") for unit in units)


@pytest.mark.parametrize("rule, stages", [("gim", 1), ("simclr", 4)])
def test_units_of_one_stage_and_of_all_are_gim_and_simclr(rule, stages):
    losses = [
        step(*net_and_units(rule, decoder_blocks=1)),
        step(*net_and_units("loco", unit_stages=stages)),
    ]
    assert torch.equal(*losses)
    if stages == 1:
        assert torch.equal(losses[0], step(*net_and_units("loco", sharing="none")))


def test_upper_only_drops_the_lower_units_gradient_and_lets_it_through():
    net, units = net_and_units()
    step(net, units)
    whole = {stage: gradients(net, stage) for stage in (1, 2, 3, 4)}
    step(net, units[:1])
    lower = gradients(net, 2)
    net, units = net_and_units(sharing="upper")
    assert [unit.updated_blocks() for unit in units] == [
        [*range(0, 4)],
        [*range(4, 7)],
        [*range(7, 13)],
    ]
    step(net, units)
    mine = {stage: gradients(net, stage) for stage in (1, 2, 3, 4)}
    assert same(mine[1], whole[1]), "through the shared stage it reaches the one below"
    assert same(mine[4], whole[4])
    assert same(mine[2], [a - b for a, b in zip(whole[2], lower, strict=True)])
    assert any(gradient.abs().max() > 1e-6 for gradient in lower)
    assert not same(mine[3], whole[3])


def copies(units):
    return [list(unit.objective.copy.parameters()) for unit in units[:-1]]


def test_copies_start_the_same_with_weights_of_their_own():
    torch.manual_seed(1)
    net = make_network("resnet50", DEEP, 4, 16).train()
    units = build_units("loco", net, PENALTY)
    for number, copy in enumerate(copies(units), start=1):
        blocks = range(STARTS[number], STARTS[number + 1])
        stage = list(chain(*(net.blocks[b].parameters() for b in blocks)))
        assert units[number - 1].ties == tuple(stage)
        assert all(torch.equal(a, b) for a, b in zip(copy, stage, strict=True))
        assert {id(p) for p in copy}.isdisjoint(map(id, net.parameters()))
        assert float(units[number - 1].objective.distance().detach()) == 0
    assert units[-1].ties == ()
    assert not any("tied" in key for unit in units for key in unit.objective.state_dict())


def test_at_the_start_soft_sharing_has_the_losses_of_hard():
    def losses(**settings):
        torch.manual_seed(1)
        net = make_network("resnet50", DEEP, 4, 16).train()
        torch.manual_seed(2)
        return step(net, build_units("loco", net, settings))

    torch.testing.assert_close(losses(**PENALTY), losses(), rtol=1e-12, atol=0)


def test_the_penalty_is_in_the_loss_and_pulls_both_copies():
    """Its gradient is 2 penalty (own - other) on each, beside what InfoNCE gives."""
    net, units = net_and_units(**PENALTY)  # of which the stages have moved, and the copies not
    apart = [
        [a.detach() - b.detach() for a, b in zip(copy, unit.ties, strict=True)]
        for copy, unit in zip(copies(units), units, strict=False)
    ]
    losses = step(net, units)
    with_it = [gradients(net, stage) for stage in (2, 3)]
    on_copies = [[p.grad.clone() for p in copy] for copy in copies(units)]
    for unit in units[:-1]:
        unit.objective.penalty = 0.0
    for unit in units:
        unit.objective.zero_grad()
    plain = step(net, units)
    without = [gradients(net, stage) for stage in (2, 3)]
    distances = torch.stack([sum(d.square().sum() for d in pair) for pair in apart])
    torch.testing.assert_close(losses[:2] - plain[:2], LAMBDA * distances, rtol=1e-9, atol=1e-12)
    assert float(losses[2]) == float(plain[2])
    for k, difference in enumerate(apart):
        pull = [2 * LAMBDA * d for d in difference]
        own = [p.grad + d for p, d in zip(copies(units)[k], pull, strict=True)]
        assert same(on_copies[k], own)
        assert same(with_it[k], [g - d for g, d in zip(without[k], pull, strict=True)])
        assert max(float(d.abs().max()) for d in pull) > 1e-5


def convs_of(decoder, **settings):
    """In and out channels and stride of every block, of every decoder of ResNet-50."""
    with torch.device("meta"):
        net = NETWORKS.get("resnet50")(Settings())
        units = build_units("gim", net, {"decoder": decoder, **settings})
    return net, [
        [(b.in_channels, b.out_channels, b.stride) for b in unit.objective.decoder.convs]
        for unit in units
    ]


def test_a_decoder_of_one_stage_is_as_deep_as_the_next(nothing_drawn):
    net, decoders = convs_of("stage")
    assert [len(convs) for convs in decoders] == [4, 6, 3, 3]
    for convs, stage in zip(decoders, net.stages[1:], strict=False):
        blocks = [net.blocks[k] for k in stage]
        assert convs == [(b.in_channels, b.out_channels, b.stride) for b in blocks]
    assert decoders[-1] == [(2048, 2048, 2), (2048, 2048, 1), (2048, 2048, 1)]


def test_a_decoder_of_the_full_network_is_as_deep_as_the_encoder(nothing_drawn):
    _, decoders = convs_of("full")
    assert [len(convs) for convs in decoders] == [16] * 4
    _, rests = convs_of("rest")
    for convs, rest in zip(decoders, rests, strict=True):
        further = [(2048, 2048, 2), *[(2048, 2048, 1)] * (15 - len(rest))]
        assert convs == [*rest, *further]


def test_a_decoder_of_the_rest_of_the_network_makes_every_module_as_deep_as_it(nothing_drawn):
    net, decoders = convs_of("rest")
    depths = [stage.stop + len(convs) for stage, convs in zip(net.stages, decoders, strict=True)]
    assert depths == [len(net.blocks)] * 4
    assert [convs[-1][1] for convs in decoders[:-1]] == [2048] * 3
    assert decoders[-1] == []


@pytest.mark.parametrize(("decoder", "blocks"), [("blocks", 2), ("stage", 0), ("full", 0)])
def test_without_down_sampling_no_decoder_shrinks_its_map(decoder, blocks, nothing_drawn):
    kinds = {"decoder_blocks": blocks, "decoder_downsampling": False}
    _, decoders = convs_of(decoder, **kinds)
    assert {stride for convs in decoders for _, _, stride in convs} == {1}
    _, shrinking = convs_of(decoder, decoder_blocks=blocks)
    assert [[c[:2] for c in convs] for convs in decoders] == [
        [c[:2] for c in convs] for convs in shrinking
    ]
    assert 2 in {stride for convs in shrinking for _, _, stride in convs}


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"decoder_blocks": 1, "decoder_downsampling": False}, "1 conv block w/o down-sampling + "),
        ({"decoder": "stage"}, "1 stage + "),
        ({"decoder": "full", "mlp_layers": 4}, "full network + "),
        ({}, ""),
    ],
)
def test_every_decoder_says_what_it_is(settings, text):
    _, units = net_and_units("gim", **settings)
    layers = settings.get("mlp_layers", 2)
    assert {unit.objective.description for unit in units} == {f"{text}{layers}-layer MLP"}


def test_the_objective_of_a_copy_says_so():
    _, units = net_and_units(**PENALTY)
    assert [unit.objective.description.split(" + ")[0] for unit in units] == [
        "copy of stage 2",
        "copy of stage 3",
        "1 conv block",
    ]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"sharing": "uper"}, "rule.sharing = 'uper'; did you mean 'upper'?"),
        ({"decoder": "stages"}, "rule.decoder = 'stages'; did you mean 'stage'?"),
        ({"unit_stages": 5}, "rule.unit_stages = 5: give 1 to 4"),
        ({"unit_stages": 3, "sharing": "none"}, "leave it at 2"),
        ({"unit_stages": 3, **PENALTY}, "is for rule.sharing stage and upper, not 'penalty'"),
        ({"penalty": 0.1}, "rule.penalty = 0.1 is for rule.sharing = 'penalty', not 'stage'"),
        ({"shared_blocks": 1}, "rule.shared_blocks = 1 is for rule.sharing = 'blocks'"),
        ({"sharing": "penalty"}, "rule.penalty = 0.0: rule.sharing = 'penalty' wants one above 0"),
        ({"sharing": "blocks"}, "rule.shared_blocks = 0: rule.sharing = 'blocks' wants one above"),
        ({"sharing": "blocks", "shared_blocks": 3}, "rule.shared_blocks = 3: stage 2 has 3"),
        ({"sharing": 1}, "rule.sharing = 1: rule 'loco' wants str"),
        ({"decoder_downsampling": 1}, "rule 'loco' wants bool"),
        ({"first_loss": True, "unit_stages": 1}, "units of two stages or more: leave it at false"),
        ({"first_loss": True, **PENALTY}, "rule.first_loss = true is for rule.sharing = 'stage'"),
    ],
)
def test_a_wrong_form_is_one_line_that_says_what_there_is(settings, says):
    with pytest.raises(UserError) as error:
        net_and_units(**settings)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_bytes_are_compared_with_a_rule_that_lacks_the_setting():
    recipe = load_recipe("loco/imagenet", "paper", {"rule.unit_stages": 3, "rule.mlp_layers": 4})
    known = known_to("simclr", {f"rule.{key}": value for key, value in recipe.rule.items()})
    assert known == {"rule.mlp_layers": 4}
    assert recipe.rule["unit_stages"] == 3
