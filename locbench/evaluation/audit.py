"""Audit of a rule: which stages each unit's loss reaches, by plain autograd on a fresh forward."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from locbench.networks import Network, make_network
from locbench.plugins.rule_errors import blamed
from locbench.recipes.schema import Network as NetworkSettings
from locbench.rules import build_units
from locbench.training.engine import Engine
from locbench.training.loop import unit_name
from locbench.units import Batch, Unit, trainable


@dataclass(frozen=True)
class Reach:
    """The largest gradient a unit's loss leaves in each stage, and what the rule allows.

    Judged by blocks, which a unit may hold a part of a stage of: `faults` are the indices of those
    that have a gradient and must not, or have none and should. `tied` are stages that the loss
    reaches by the unit's ties, outside of the blocks that it updates.
    """

    unit: str
    auxiliary: str
    allowed: tuple[bool, ...]
    tied: tuple[bool, ...]
    gradients: tuple[float, ...]
    faults: tuple[int, ...]

    @property
    def lacking(self) -> bool:
        """Whether a stage that it may update has no gradient."""
        return any(a and not g for a, g in zip(self.allowed, self.gradients, strict=True))

    @property
    def holds(self) -> bool:
        """A gradient in every block that it may update or ties, exactly zero in all others."""
        return not self.faults


@dataclass(frozen=True)
class Audit:
    """All units' reach, and the worst relative error of the engine against plain autograd.

    The error is infinite where one of the two has a gradient that the other lacks, and where a
    loss does not reach all of its unit: the engine has no gradient to send down then.
    """

    rule: str
    network: str
    units: tuple[Reach, ...]
    engine_error: float

    @property
    def holds(self) -> bool:
        """Isolation as declared, and the engine's gradients are the sum of the units'."""
        return all(unit.holds for unit in self.units) and self.engine_error < 1e-10


@torch.no_grad()
def block_inputs(network: Network, images: Tensor) -> list[Tensor]:
    """What every block is given in training, without a graph."""
    inputs = [images]
    for block in network.blocks[:-1]:
        inputs.append(block(inputs[-1]))
    return inputs


def plain_gradients(
    network: Network, unit: Unit, batch: Batch, inputs: list[Tensor]
) -> dict[nn.Parameter, Tensor]:
    """Gradients of one unit's loss by autograd on a forward of its own, without the engine.

    The only cut is before the unit's first block. Parameters of blocks that the rule does not let
    the unit update are left out; all others of the network and of the objective are asked for, also
    those that the loss must not reach.
    """
    x = inputs[unit.start]
    torch.manual_seed(0)  # as before the engine's step: where there is dropout, it is the same
    for block in network.blocks[unit.start : unit.stop]:
        x = block(x)
    loss, _ = unit.objective(x, batch)
    if not loss.requires_grad:
        return {}
    frozen = {
        id(p)
        for b in set(range(unit.start, unit.stop)) - set(unit.updated_blocks())
        for p in network.blocks[b].parameters()
    }
    wanted = [p for p in trainable([network, unit.objective]) if id(p) not in frozen]
    wanted += [p for p in unit.ties if id(p) not in {id(q) for q in wanted}]
    gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
    return {p: g for p, g in zip(wanted, gradients, strict=True) if g is not None}


def _perturb(modules: Iterable[nn.Module]) -> None:
    """Move every parameter off its special values: a zero batch-norm scale hides its branch."""
    with torch.no_grad():
        for parameter in trainable(modules):
            parameter.add_(0.05 * torch.randn_like(parameter))


def audit(
    rule: str,
    network: str,
    settings: NetworkSettings | None = None,
    rule_settings: dict | None = None,
    images: int = 4,
    resolution: int = 0,
) -> Audit:
    """Audit a registered rule on a registered network: float64, random weights and images.

    The images have 64 pixels a side unless `resolution` says otherwise, and 32 for networks whose
    stem keeps the resolution, which are made for small ones.
    """
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        net = make_network(network, settings or NetworkSettings(), 10, resolution).train()
        net.resolution = resolution = resolution or (32 if net.blocks[0].stride == 1 else 64)
        units = build_units(rule, net, rule_settings or {})
        _perturb([net, *(unit.objective for unit in units)])
        pixels = torch.rand(2 * images, 3, resolution, resolution)
        batch = Batch(pixels, torch.arange(2 * images) % net.num_classes, pixels)
        with blamed(rule):
            return _measure(rule, network, net, units, batch)
    finally:
        torch.set_default_dtype(default)


def _measure(rule: str, name: str, net: Network, units: list[Unit], batch: Batch) -> Audit:
    engine = Engine(net.blocks, units)
    total: dict[nn.Parameter, Tensor] = {}
    reaches, inputs = [], block_inputs(net, batch.images)
    for unit in engine.units:
        gradients = plain_gradients(net, unit, batch, inputs)
        for parameter, gradient in gradients.items():
            total[parameter] = total.get(parameter, 0) + gradient
        reaches.append(_reach(net, unit, gradients))
    error = float("inf")
    if not any(reach.lacking for reach in reaches):
        torch.manual_seed(0)
        engine.step(batch)
        error = _worst_error(net, units, total)
    return Audit(rule, name, tuple(reaches), error)


def _reach(net: Network, unit: Unit, gradients: dict[nn.Parameter, Tensor]) -> Reach:
    """What these gradients of the unit's loss say of its isolation."""
    largest = [
        max(
            (float(gradients[p].abs().max()) for p in block.parameters() if p in gradients),
            default=0.0,
        )
        for block in net.blocks
    ]
    updated, ties = set(unit.updated_blocks()), {id(p) for p in unit.ties}
    tied = {
        index
        for index, block in enumerate(net.blocks)
        if index not in updated and any(id(p) in ties for p in block.parameters())
    }
    return Reach(
        unit=unit_name(net, unit),
        auxiliary=getattr(unit.objective, "description", type(unit.objective).__name__),
        allowed=tuple(bool(updated & set(stage)) for stage in net.stages),
        tied=tuple(bool(tied & set(stage)) for stage in net.stages),
        gradients=tuple(max(largest[b] for b in stage) for stage in net.stages),
        faults=tuple(b for b, g in enumerate(largest) if (g > 0) != (b in updated | tied)),
    )


def _worst_error(net: Network, units: list[Unit], total: dict[nn.Parameter, Tensor]) -> float:
    """Engine's `.grad` against the summed plain gradients; infinite if one of them lacks a part.

    Relative to the largest entry of the parameter's gradient, but to no less than a millionth of
    the largest of all: gradients that are zero but for rounding (a shift before a batch norm) are
    not compared with themselves.
    """
    floor = 1e-6 * max(float(gradient.abs().max()) for gradient in total.values())
    worst = 0.0
    for parameter in trainable([net, *(unit.objective for unit in units)]):
        mine, plain = parameter.grad, total.get(parameter)
        if (mine is None) != (plain is None):
            return float("inf")
        if mine is not None:
            scale = max(float(plain.abs().max()), floor)
            worst = max(worst, float((mine - plain).abs().max()) / scale)
    return worst
