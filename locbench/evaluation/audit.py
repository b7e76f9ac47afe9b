"""Audit of a rule: which blocks each unit's loss reaches, and whether the engine's step agrees.

The reference is plain autograd on a fresh forward. The network and its units are built anew, from
one seed, for the engine's step and for each plain forward: the state of every module (averages,
counters, queues) is then the same on both sides. Every block and objective draws random numbers
from a seed of its own, so dropout is the same on both sides too.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from locbench.networks import Network, make_network
from locbench.plugins.rule_errors import blamed
from locbench.recipes.schema import Network as NetworkSettings
from locbench.rules import build_units
from locbench.training.engine import Engine
from locbench.training.loop import unit_name
from locbench.units import Batch, Unit, trainable

TOLERANCE = 1e-10
Gradients = dict[str, Tensor]  # by the name of the parameter


@dataclass(frozen=True)
class Reach:
    """The largest gradient of a unit's loss in each stage, and what the rule allows.

    allowed, tied, gradients: one entry a stage. `tied` are stages that the loss reaches by the
    unit's ties, outside of the blocks that the unit updates.
    leaks: blocks with a gradient that must have none; gaps: blocks without one that must have one.
    By the index of the block: its parameter of the largest gradient, or else its first.
    """

    unit: str
    auxiliary: str
    allowed: tuple[bool, ...]
    tied: tuple[bool, ...]
    gradients: tuple[float, ...]
    leaks: dict[int, str]
    gaps: dict[int, str]

    @property
    def holds(self) -> bool:
        """Whether every block that the unit updates or ties has a gradient, and no other block.

        Blocks without parameters need none; a unit that trains no block at all does not hold.
        """
        return not self.leaks and not self.gaps and any(self.gradients)


@dataclass(frozen=True)
class Audit:
    """The reach of all units, and the largest error of the engine against plain autograd.

    engine_error: relative to the largest gradient of the units that reach the parameter (the
    gradient of a bias before a batch norm is zero up to rounding). Infinite where only one of the
    two has a gradient, and where a loss does not reach all of its unit: no step is taken then.
    worst: the parameter of this error, empty where no step was taken.
    """

    rule: str
    network: str
    units: tuple[Reach, ...]
    engine_error: float
    worst: str

    @property
    def holds(self) -> bool:
        """Whether every unit holds, and the engine's gradients are the sum of the units'."""
        return all(unit.holds for unit in self.units) and self.engine_error < TOLERANCE


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

    def build() -> _Build:
        _seed(0)
        net = make_network(network, settings or NetworkSettings(), 10, resolution).train()
        net.resolution = side = resolution or (32 if net.blocks[0].stride == 1 else 64)
        units = build_units(rule, net, rule_settings or {})
        _perturb([net, *(unit.objective for unit in units)])
        pixels = torch.rand(2 * images, 3, side, side)
        return _Build(net, units, Batch(pixels, torch.arange(2 * images) % net.num_classes, pixels))

    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with blamed(rule):
            return _measure(rule, network, build)
    finally:
        torch.set_default_dtype(default)


def _measure(rule: str, network: str, build: Callable[[], _Build]) -> Audit:
    last = build()
    by_unit: dict[int, Gradients] = {}
    for unit_numbers in apart(last.units):
        by_unit |= build().plain_gradients(unit_numbers)
    gradients = [by_unit[number] for number in range(len(last.units))]
    reaches = tuple(last.reach(unit, g) for unit, g in zip(last.units, gradients, strict=True))
    error, worst = math.inf, ""
    if all(any(reach.gradients) and not reach.gaps for reach in reaches):
        last.engine.step(last.batch)
        error, worst = last.engine_error(gradients)
    return Audit(rule, network, reaches, error, worst)


def _seed(seed: int) -> None:
    """Seed every generator that a block or an objective may draw from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _perturb(modules: Iterable[nn.Module]) -> None:
    """Move every parameter off its special values: a zero batch-norm scale hides its branch."""
    with torch.no_grad():
        for parameter in trainable(modules):
            parameter.add_(0.05 * torch.randn_like(parameter))


def apart(units: Sequence[Unit]) -> list[list[int]]:
    """The units, in order of their ends, in groups of which no two share a block."""
    groups: list[list[int]] = []
    for number, unit in enumerate(units):
        fitting = (group for group in groups if units[group[-1]].stop <= unit.start)
        if (group := next(fitting, None)) is None:
            groups.append(group := [])
        group.append(number)
    return groups


class _Build:
    """A network and its units, in the engine's order, as they are before the first step.

    Every block and every objective draws from a seed of its own.
    """

    def __init__(self, net: Network, units: list[Unit], batch: Batch) -> None:
        self.net, self.batch = net, batch
        self.engine = Engine(net.blocks, units)
        self.units = self.engine.units
        objectives = [unit.objective for unit in self.units]
        self.parameters = trainable([net, *objectives], [p for u in self.units for p in u.ties])
        self.names = self._names()
        for seed, module in enumerate([*net.blocks, *objectives]):
            module.register_forward_pre_hook(lambda *_, seed=seed: _seed(seed))

    def _names(self) -> dict[int, str]:
        """The names of parameters by id: in the network, or else in their unit."""
        names = {id(p): name for name, p in self.net.named_parameters()}
        for unit in self.units:
            ties = ((f"tie {k}", tie) for k, tie in enumerate(unit.ties))
            for name, parameter in (*unit.objective.named_parameters(), *ties):
                names.setdefault(id(parameter), f"{unit_name(self.net, unit)}: {name}")
        return names

    def plain_gradients(self, numbers: list[int]) -> dict[int, Gradients]:
        """Gradients of the losses of these units, which share no block, by autograd alone.

        One forward, without the engine; the only cut is before each unit's first block.
        """
        gradients, x, done = {}, self.batch.images, 0
        for number in numbers:
            unit = self.units[number]
            with torch.no_grad():
                for block in self.net.blocks[done : unit.start]:
                    x = block(x)
            for block in self.net.blocks[unit.start : unit.stop]:
                x = block(x)
            gradients[number] = self._gradients(unit, unit.objective(x, self.batch)[0])
            x, done = x.detach(), unit.stop
        return gradients

    def _gradients(self, unit: Unit, loss: Tensor) -> Gradients:
        """Of all parameters, except in blocks of the unit that the rule does not let it update."""
        if not loss.requires_grad:
            return {}
        passed = set(range(unit.start, unit.stop)) - set(unit.updated_blocks())
        frozen = {id(p) for b in passed for p in self.net.blocks[b].parameters()}
        frozen -= {id(p) for p in unit.ties}
        inputs = [p for p in self.parameters if id(p) not in frozen]
        gradients = zip(inputs, torch.autograd.grad(loss, inputs, allow_unused=True), strict=True)
        return {self.names[id(p)]: g for p, g in gradients if g is not None}

    def reach(self, unit: Unit, gradients: Gradients) -> Reach:
        """The reach of a unit whose loss has these gradients."""
        sizes = {name: _largest([gradient]) for name, gradient in gradients.items()}
        updated, ties = set(unit.updated_blocks()), {id(p) for p in unit.ties}
        blocks = [[self.names[id(p)] for p in trainable([b])] for b in self.net.blocks]
        tops = [max(names, key=lambda name: sizes.get(name, 0.0), default="") for names in blocks]
        largest = [sizes.get(top, 0.0) for top in tops]
        tied = {
            index
            for index, block in enumerate(self.net.blocks)
            if index not in updated and any(id(p) in ties for p in block.parameters())
        }
        allowed = updated | tied
        return Reach(
            unit=unit_name(self.net, unit),
            auxiliary=getattr(unit.objective, "description", type(unit.objective).__name__),
            allowed=tuple(bool(updated & set(stage)) for stage in self.net.stages),
            tied=tuple(bool(tied & set(stage)) for stage in self.net.stages),
            gradients=tuple(max(largest[b] for b in stage) for stage in self.net.stages),
            leaks={b: tops[b] for b, size in enumerate(largest) if size and b not in allowed},
            gaps={b: tops[b] for b in sorted(allowed) if blocks[b] and not largest[b]},
        )

    def engine_error(self, gradients: list[Gradients]) -> tuple[float, str]:
        """The largest error of `.grad` against the sum of the units' gradients, and where it is."""
        scales = [_largest(of_unit.values()) for of_unit in gradients]
        errors = {}
        for parameter in self.parameters:
            name, gradient = self.names[id(parameter)], parameter.grad
            parts = [k for k, of_unit in enumerate(gradients) if name in of_unit]
            if (gradient is None) != (not parts):
                return math.inf, name
            if gradient is not None:
                difference = gradient - sum(gradients[k][name] for k in parts)
                errors[name] = _largest([difference / max(scales[k] for k in parts)])
        worst = max(errors, key=errors.get)
        return errors[worst], worst


def _largest(tensors: Iterable[Tensor]) -> float:
    """The largest absolute value; infinite where one is no number."""
    sizes = (float(tensor.abs().max()) for tensor in tensors)
    return max((math.inf if math.isnan(size) else size for size in sizes), default=0.0)
