"""The engine: one training step of any list of units, each with a backward pass of its own.

The network is cut at every unit's start and stop; the pieces are segments. A segment runs forward
once a step on a detached leaf and keeps a graph of its own. As soon as a unit's last segment is
done its loss goes backward, from segment to segment through the gradients left in the leaves, and
stops at the unit's first block. The graph of a segment lives only while a later unit needs it, so
peak memory is that of the largest unit.

Where several processes train together each has a share of the images: a segment's gradients are
summed over them from when the last unit that uses it is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from locbench.distributed.collectives import Reduction
from locbench.training.recompute import recomputed
from locbench.units import Batch, Unit, trainable


@dataclass
class _Graphs:
    """Inputs and outputs of the segments whose graphs are alive."""

    x: dict[int, Tensor] = field(default_factory=dict)
    y: dict[int, Tensor] = field(default_factory=dict)

    def drop(self, segment: int) -> None:
        self.x.pop(segment, None)
        self.y.pop(segment, None)


class _Handed(torch.autograd.Function):
    """A scalar whose backward pass gives y the gradient in `box`, and holds it no longer.

    torch.autograd.backward(y, gradient) would hold it, a whole feature map, to the end.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, box: list[Tensor]) -> Tensor:
        ctx.box = box
        return y.new_zeros(())

    @staticmethod
    def backward(ctx: Any, one: Tensor) -> tuple[Tensor, None]:
        return ctx.box.pop(), None


class Engine:
    """Computes, for a batch, every unit's loss and leaves the gradients in `.grad`.

    Gradients equal those of separate autograd on each unit's loss, summed where units overlap, and
    weighted by the batch's weight.
    `autocast` is the dtype of the forward pass (None: the dtype of the weights); backward runs
    outside of it. Raises ValueError for a unit that is empty or reaches past the last block.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        units: Sequence[Unit],
        autocast: torch.dtype | None = None,
    ) -> None:
        for unit in units:
            if not 0 <= unit.start < unit.stop <= len(blocks):
                raise ValueError(
                    f"unit [{unit.start}, {unit.stop}) does not fit a network of "
                    f"{len(blocks)} blocks"
                )
        self.blocks = tuple(blocks)
        self.units = sorted(units, key=lambda unit: (unit.stop, -unit.start))
        self.autocast = autocast
        cuts = sorted({0} | {u.start for u in units} | {u.stop for u in units})
        self.segments = list(pairwise(cuts))
        self._first = [cuts.index(unit.start) for unit in self.units]
        self._ending = [
            [i for i, unit in enumerate(self.units) if unit.stop == stop]
            for _, stop in self.segments
        ]
        self._last = [
            max((i for i, u in enumerate(self.units) if u.start <= a and b <= u.stop), default=-1)
            for a, b in self.segments
        ]
        self._recompute = [
            any(u.recompute for u in self.units if u.start <= a and b <= u.stop)
            for a, b in self.segments
        ]
        self._parameters = [
            [self._updated(unit, a, b) for a, b in self.segments] for unit in self.units
        ]
        self._own = [trainable([unit.objective], unit.ties) for unit in self.units]
        self._complete = self._completed()
        self._reduction = Reduction()

    def _updated(self, unit: Unit, start: int, stop: int) -> list[nn.Parameter]:
        return trainable(self.blocks[b] for b in unit.updated_blocks() if start <= b < stop)

    def _completed(self) -> dict[tuple[int, int], list[nn.Parameter]]:
        """By (unit, segment): what has its whole gradient after that backward of the step.

        An objective's own come before those of its unit's segments, under the number of segments.
        """
        last: dict[int, tuple[nn.Parameter, tuple[int, int]]] = {}
        for i, own in enumerate(self._own):
            last |= {id(p): (p, (i, len(self.segments))) for p in own}
            for t in range(len(self.segments) - 1, -1, -1):
                last |= {id(p): (p, (i, t)) for p in self._parameters[i][t]}
        complete: dict[tuple[int, int], list[nn.Parameter]] = {}
        for parameter, backward in last.values():
            complete.setdefault(backward, []).append(parameter)
        return complete

    def parameters(self) -> list[nn.Parameter]:
        """Every parameter that some unit updates, blocks first, ties last, each once."""
        updated = {b for unit in self.units for b in unit.updated_blocks()}
        modules = [self.blocks[b] for b in sorted(updated)]
        ties = [parameter for unit in self.units for parameter in unit.ties]
        return trainable([*modules, *(unit.objective for unit in self.units)], ties)

    def step(self, batch: Batch, last: bool = True) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """Forward and backward of all units: losses [units], in the engine's order, and logs.

        Losses and logs are this process's, of this batch, and not weighted. Of a step in several
        batches only the `last` sums the gradients over the processes.
        """
        losses: list[Tensor] = []
        logs: list[dict[str, Tensor]] = []
        graphs = _Graphs()
        out = batch.images
        for s in range(len(self.segments)):
            out = self._forward(s, out, graphs)
            for i in self._ending[s]:
                loss, log = self._local_step(i, s, out, batch, graphs, last)
                losses.append(loss)
                logs.append(log)
            out = out.detach()  # a leaf; and what was left of the graph goes
        self._reduction.finish()
        return torch.stack(losses), logs

    def _precision(self, like: Tensor):
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(like.device.type, self.autocast)

    def _forward(self, s: int, x: Tensor, graphs: _Graphs) -> Tensor:
        """Run segment s on a leaf; its graph is kept if some unit needs it."""
        start, stop = self.segments[s]
        if any(u.start < start and stop <= u.stop for u in self.units):
            x.requires_grad_()
        with torch.set_grad_enabled(self._last[s] >= 0), self._precision(x):
            y = x
            for block in self.blocks[start:stop]:
                y = recomputed(block, y) if self._recompute[s] else block(y)
        if self._last[s] >= 0:
            graphs.x[s], graphs.y[s] = x, y
        return y

    def _objective(
        self, i: int, out: Tensor, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """Unit i's loss on a leaf of its own: its graph is freed before the blocks go backward."""
        features = out.detach().requires_grad_()
        with self._precision(out):
            loss, log = self.units[i].objective(features, batch)
        if loss.ndim:
            raise ValueError(f"the loss has to be a scalar, and has the shape {tuple(loss.shape)}")
        weight = torch.full_like(loss, batch.weight)
        torch.autograd.backward(loss, weight, inputs=[*self._own[i], features])
        return loss.detach(), log, features.grad

    def _local_step(
        self, i: int, s: int, out: Tensor, batch: Batch, graphs: _Graphs, last: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Unit i's loss, and its gradient from segment s down, freeing what no later unit needs."""
        loss, log, gradient = self._objective(i, out, batch)
        complete = self._complete if last else {}
        self._reduction.start(complete.get((i, len(self.segments)), ()))
        for t in range(s, self._first[i] - 1, -1):
            x, y = graphs.x[t], graphs.y[t]
            goes_on = t > self._first[i]
            inputs = [*self._parameters[i][t], x] if goes_on else self._parameters[i][t]
            box, gradient = [gradient], None
            if inputs:
                keep = self._last[t] != i
                torch.autograd.backward(_Handed.apply(y, box), retain_graph=keep, inputs=inputs)
            gradient, x.grad = x.grad, None
            if self._last[t] == i:
                graphs.drop(t)
            self._reduction.start(complete.get((i, t), ()))
        return loss, log
