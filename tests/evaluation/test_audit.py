"""The audit must hold for what is right, and must not for what leaks or is dead."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import locbench.evaluation.audit as auditing
from locbench.evaluation.audit import audit
from locbench.plugins.registry import RULES
from locbench.recipes.schema import Network as Settings
from locbench.rules.gim import gim
from locbench.rules.loco import loco
from locbench.training.engine import Engine
from locbench.units import Unit

TINY = Settings(width=0.125, blocks=1, stem="small")


class Wrapped(nn.Module):
    """An objective with features changed before it sees them."""

    def __init__(self, inner: nn.Module, change) -> None:
        super().__init__()
        self.inner, self.change = inner, change

    def forward(self, features, batch):
        return self.inner(self.change(features), batch)


def borrow_next_stage(network):
    """GIM whose first decoder begins with the next stage itself in the place of a copy."""
    first, *others = gim(network)
    upper = gim(network)[1].objective
    stage = nn.Sequential(*(network.blocks[b] for b in network.stages[1]))
    return [Unit(first.start, first.stop, Wrapped(upper, stage)), *others]


def borrow_unseen(network):
    """The same, held so that it is no part of the objective: no optimizer would be told."""
    first, *others = gim(network)
    stage = nn.Sequential(*(network.blocks[b] for b in network.stages[1]))
    upper = gim(network)[1].objective
    return [Unit(first.start, first.stop, Wrapped(upper, lambda x: stage(x))), *others]


def dead(network):
    """Its first loss sees the features without their graph."""
    first, *others = gim(network)
    return [Unit(first.start, first.stop, Wrapped(first.objective, torch.detach)), *others]


def dead_below(network):
    """LoCo whose second stage lets no gradient through: the first gets none from unit 1."""
    entry = network.blocks[network.stages[1][0]]
    entry.register_forward_pre_hook(lambda module, args: (args[0].detach(),))
    return loco(network)


def part_of_a_stage(network):
    """Each stage's first block is trained by a unit of its own, the rest only passed through."""
    return [
        Unit(unit.start, unit.stop, unit.objective, updates=frozenset({unit.start}))
        for unit in gim(network)
    ]


def wrapped(change):
    """GIM whose objectives see changed features: a new `change` for each."""

    def rule(network):
        units = gim(network)
        return [replace(unit, objective=Wrapped(unit.objective, change())) for unit in units]

    return rule


def mixed(features):
    """Mixup, whose ratio numpy draws."""
    ratio = float(np.random.beta(1, 1))
    return ratio * features + (1 - ratio) * features.flip(0)


def dropping(network):
    """Units that overlap and are recomputed; dropout after every block."""
    for block in network.blocks:
        block.register_forward_hook(lambda module, args, features: F.dropout(features))
    return [replace(unit, recompute=True) for unit in loco(network)]


class Averaged(nn.Module):
    """Features around their moving average, a buffer that every step moves first."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, features):
        self.mean += 0.5 * (features.detach().mean() - self.mean)
        return (features - self.mean).square()


class Counting(nn.Module):
    """Features times the number of steps, which is kept as an attribute alone."""

    steps = 0

    def forward(self, features):
        self.steps += 1
        return (features * self.steps).square()


def idle(network):
    """Its first unit trains nothing of the network."""
    first, *others = gim(network)
    return [replace(first, updates=frozenset()), *others]


class Weighted(nn.Module):
    def __init__(self, inner: nn.Module, weight: float) -> None:
        super().__init__()
        self.inner, self.weight = inner, weight

    def forward(self, features, batch):
        loss, log = self.inner(features, batch)
        return self.weight * loss, log


def faint(network):
    """Its third loss is tiny beside the others."""
    first, second, third, last = gim(network)
    third = replace(third, objective=Weighted(third.objective, 1e-12))
    return [first, second, third, last]


class NoNumber(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")


@pytest.fixture
def audit_of(monkeypatch):
    def run(rule, **options):
        monkeypatch.setattr(RULES, "get", lambda name: rule)
        return audit(rule.__name__, "resnet50", TINY, images=3, resolution=16, **options)

    return run


def test_it_holds_for_loco_and_says_what_reaches_what():
    result = audit("loco", "resnet50", TINY, images=3, resolution=16)
    assert result.holds
    assert [unit.unit for unit in result.units] == ["stages 1-2", "stages 2-3", "stages 3-4"]
    assert [unit.auxiliary for unit in result.units] == ["1 conv block + 2-layer MLP"] * 3
    for lower, unit in enumerate(result.units):
        assert [bool(g) for g in unit.gradients] == [k in (lower, lower + 1) for k in range(4)]
        assert unit.allowed == tuple(k in (lower, lower + 1) for k in range(4))
    assert result.engine_error < 1e-12
    json.dumps(asdict(result), allow_nan=False)


def test_ties_are_told_from_what_is_updated():
    settings = {"sharing": "penalty", "penalty": 1e-3}
    result = audit("loco", "resnet50", TINY, settings, images=3, resolution=16)
    assert result.holds
    tied = [unit.tied for unit in result.units]
    assert tied == [(False, True, False, False), (False, False, True, False), (False,) * 4]
    assert all(unit.gradients[k + 1] > 0 for k, unit in enumerate(result.units[:2]))


def test_a_loss_that_reaches_the_stage_above_is_found(audit_of):
    result = audit_of(borrow_next_stage)
    assert not result.holds
    leak, *others = result.units
    assert not leak.holds
    assert list(leak.leaks) == [2] and not leak.gaps
    assert leak.leaks[2].startswith("layer2.0.")
    assert leak.gradients[1] > 0 and not leak.allowed[1]
    assert all(unit.holds for unit in others)


def test_a_leak_past_the_objectives_own_parameters_is_found(audit_of):
    result = audit_of(borrow_unseen)
    assert list(result.units[0].leaks) == [2]
    assert not result.holds


def test_a_unit_without_a_gradient_is_found(audit_of):
    result = audit_of(dead)
    assert not result.holds
    assert result.units[0].gradients == (0, 0, 0, 0)
    assert list(result.units[0].gaps) == [0, 1]
    assert all(unit.holds for unit in result.units[1:])
    assert result.engine_error == float("inf") and not result.worst


def test_a_stage_of_a_unit_without_a_gradient_is_found(audit_of):
    result = audit_of(dead_below)
    assert not result.holds
    first = result.units[0]
    assert first.gradients[0] == 0 and first.gradients[1] > 0
    assert first.gaps == {0: "conv1.weight", 1: "layer1.0.conv1.weight"} and not first.leaks


def test_blocks_that_a_unit_must_not_update_are_told_from_the_others_of_a_stage(audit_of):
    result = audit_of(part_of_a_stage)
    assert result.holds
    assert all(
        unit.allowed == tuple(unit.gradients[k] > 0 for k in range(4)) for unit in result.units
    )


CHANGES = (lambda: F.dropout, lambda: mixed, Averaged, Counting)


@pytest.mark.parametrize("rule", [dropping, *map(wrapped, CHANGES)])
def test_draws_and_state_are_the_same_on_both_sides(audit_of, rule):
    result = audit_of(rule)
    assert result.holds
    assert result.engine_error < 1e-12


def test_a_unit_that_trains_no_block_does_not_hold(audit_of):
    first, *others = audit_of(idle).units
    assert not first.holds and all(unit.holds for unit in others)


def test_a_gradient_that_is_no_number_does_not_hold(audit_of):
    result = audit_of(wrapped(lambda: NoNumber.apply))
    assert not result.holds
    assert result.engine_error == float("inf") and result.worst


class Undetached(Engine):
    """An engine that forgets to stop gradients between units: all losses at once, one graph."""

    def step(self, batch):
        out, losses = batch.images, []
        for index, block in enumerate(self.blocks):
            out = block(out)
            ending = [unit for unit in self.units if unit.stop == index + 1]
            losses += [unit.objective(out, batch)[0] for unit in ending]
        sum(losses).backward()


class OneUnitLost(Engine):
    """An engine that forgets a unit."""

    def step(self, batch):
        Engine(self.blocks, self.units[1:]).step(batch)


class Scaled(Engine):
    """An engine that gets one parameter's gradient wrong."""

    def step(self, batch):
        super().step(batch)
        self.blocks[3].module.conv2.weight.grad *= 1.001


class Doubled(Engine):
    """An engine that counts a loss twice."""

    def step(self, batch):
        super().step(batch)
        super().step(batch)


@pytest.mark.parametrize("engine", [Undetached, OneUnitLost, Doubled])
def test_a_wrong_engine_is_found(engine, monkeypatch):
    monkeypatch.setattr(auditing, "Engine", engine)
    result = audit("loco", "resnet50", TINY, images=3, resolution=16)
    assert all(unit.holds for unit in result.units)
    assert result.engine_error > 1e-3
    assert not result.holds


@pytest.mark.parametrize("rule", [loco, faint])
def test_the_parameter_that_the_engine_gets_wrong_is_named(rule, audit_of, monkeypatch):
    monkeypatch.setattr(auditing, "Engine", Scaled)
    result = audit_of(rule)
    assert result.worst == "layer3.0.conv2.weight" and not result.holds


def test_it_leaves_the_default_dtype_as_it_was(audit_of):
    with pytest.raises(RuntimeError):
        audit_of(lambda network: torch.zeros(2).view(3))
    assert torch.get_default_dtype() == torch.float32
