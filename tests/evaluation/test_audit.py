"""The audit must hold for what is right, and must not for what leaks or is dead."""

import json
from dataclasses import asdict

import pytest
import torch
from torch import nn

import locbench.evaluation.audit as auditing
from locbench.evaluation.audit import audit
from locbench.plugins.entry import Entry
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
    blocks = [network.blocks[b] for b in network.stages[1]]
    upper = gim(network)[1].objective

    def change(features):
        for block in blocks:
            features = block(features)
        return features

    return [Unit(first.start, first.stop, Wrapped(upper, change)), *others]


def dead(network):
    """Its first loss sees the features without their graph."""
    first, *others = gim(network)
    return [Unit(first.start, first.stop, Wrapped(first.objective, torch.detach)), *others]


class Constant(nn.Module):
    def forward(self, features, batch):
        return features.new_zeros(()), {}


def constant(network):
    """A loss that depends on nothing at all."""
    first, *others = gim(network)
    return [Unit(first.start, first.stop, Constant()), *others]


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


def test_settings_reach_the_rule():
    options = {"rule_settings": {"decoder_blocks": 2}, "images": 3, "resolution": 16}
    result = audit("gim", "shufflenet_v2_50", TINY, **options)
    assert {unit.auxiliary for unit in result.units} == {"2 conv blocks + 2-layer MLP"}


def test_a_loss_that_reaches_the_stage_above_is_found(audit_of):
    result = audit_of(borrow_next_stage)
    assert not result.holds
    leak, *others = result.units
    assert not leak.holds
    assert leak.faults == (2,)
    assert leak.gradients[1] > 0 and not leak.allowed[1]
    assert all(unit.holds for unit in others)


def test_a_leak_past_the_objectives_own_parameters_is_found(audit_of):
    result = audit_of(borrow_unseen)
    assert result.units[0].faults == (2,)
    assert not result.holds


@pytest.mark.parametrize("rule", [dead, constant])
def test_a_unit_without_a_gradient_is_found(audit_of, rule):
    result = audit_of(rule)
    assert not result.holds
    assert result.units[0].gradients == (0, 0, 0, 0)
    assert result.units[0].faults == (0, 1)
    assert all(unit.holds for unit in result.units[1:])
    assert result.engine_error == float("inf")


def test_a_stage_of_a_unit_without_a_gradient_is_found(audit_of):
    result = audit_of(dead_below)
    assert not result.holds
    first = result.units[0]
    assert first.gradients[0] == 0 and first.gradients[1] > 0
    assert first.faults == (0, 1)


def test_blocks_that_a_unit_must_not_update_are_told_from_the_others_of_a_stage(audit_of):
    result = audit_of(part_of_a_stage)
    assert result.holds
    assert all(
        unit.allowed == tuple(unit.gradients[k] > 0 for k in range(4)) for unit in result.units
    )


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


def test_it_leaves_the_default_dtype_as_it_was(audit_of):
    for rule in (gim, constant):
        audit_of(rule)
        assert torch.get_default_dtype() == torch.float32
    with pytest.raises(RuntimeError):
        audit_of(lambda network: torch.zeros(2).view(3))
    assert torch.get_default_dtype() == torch.float32


def test_the_registry_is_what_it_audits(monkeypatch):
    entry = Entry("borrowing", f"{__name__}:borrow_next_stage", "a wrong rule")
    monkeypatch.setitem(RULES.entries, "borrowing", entry)
    assert not audit("borrowing", "resnet50", TINY, images=3, resolution=16).holds
