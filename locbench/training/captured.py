"""Training steps as CUDA graphs, so that a GPU waits for no launch of a small kernel.

A step of 55 blocks with an auxiliary network each is thousands of kernels, most of them shorter
than the time Python takes to ask for one. Of every shape of a batch the first steps are taken
plainly, then one is captured: from then on a step is one launch, which computes the same from the
same addresses. What Python alone keeps from step to step would stay as it was when the step was
captured: hence objectives have to say that they are `capturable`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from locbench.distributed.group import world_size
from locbench.training.engine import Engine
from locbench.units import Batch

logger = logging.getLogger(__name__)

PLAIN = 3  # steps of a shape before it is captured: what libraries make once is made in them

Result = tuple[Tensor, list[dict[str, Tensor]]]


@dataclass
class _Capture:
    """A captured step: where it reads its batch, and where it leaves gradients and figures."""

    graph: torch.cuda.CUDAGraph
    batch: Batch
    gradients: list[tuple[nn.Parameter, Tensor]]
    result: Result

    def replay(self, batch: Batch) -> Result:
        for name in _tensors(batch):
            getattr(self.batch, name).copy_(getattr(batch, name), non_blocking=True)
        self.graph.replay()
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        return self.result


def _tensors(batch: Batch) -> list[str]:
    return [f.name for f in fields(batch) if isinstance(getattr(batch, f.name), Tensor)]


class CapturedEngine:
    """`Engine.step` for a GPU: losses and logs are overwritten by the next step.

    Gradients have to be None before a step, as after `zero_grad(set_to_none=True)`. A step that
    cannot be captured, because a rule waits for the device in it or a block that is computed again
    draws random numbers, is taken plainly, and so are all after it; that is said once.

    To its end it holds the memory that the step takes at its peak: torch gives it to nothing else.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._taken: dict[object, int] = {}  # steps so far, by shape
        self._captures: dict[object, _Capture] = {}
        self._possible = True
        self._pool: tuple[int, int] | None = None  # the memory of all captures, which take turns

    def step(self, batch: Batch, last: bool = True) -> Result:
        """As the engine's; `last` is always so."""
        shape = tuple((name, getattr(batch, name).shape) for name in _tensors(batch))
        self._taken[shape] = 1 + self._taken.get(shape, 0)
        if self._possible and self._taken[shape] > PLAIN and shape not in self._captures:
            with torch.cuda.device(batch.images.device):
                self._capture(shape, batch)
        capture = self._captures.get(shape)
        return self.engine.step(batch) if capture is None else capture.replay(batch)

    def _capture(self, shape: object, batch: Batch) -> None:
        """Record the step, which is not carried out, on a copy of the batch."""
        copy = replace(batch, **{name: getattr(batch, name).clone() for name in _tensors(batch)})
        graph, parameters = torch.cuda.CUDAGraph(), self.engine.parameters()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        current = torch.cuda.stream(torch.cuda.current_stream())  # afterwards, come what may
        try:
            with current, torch.cuda.graph(graph, self._pool, torch.cuda.Stream()):
                result = self.engine.step(copy)
        except RuntimeError as error:
            torch.cuda.synchronize()
            for parameter in parameters:
                parameter.grad = None
            reason = str(error).splitlines()[0]
            logger.warning("steps are taken one by one, and not as a CUDA graph: %s", reason)
            self._possible = False  # torch may not be as it was
            return
        gradients = [(p, p.grad) for p in parameters if p.grad is not None]
        self._captures[shape] = _Capture(graph, copy, gradients, result)


def stepping(engine: Engine, device: torch.device, batches: int = 1) -> Engine | CapturedEngine:
    """What takes the engine's steps on this device, each in so many batches.

    Plainly on a CPU, where gradients are summed over several processes or batches, and where an
    objective does not say that it is `capturable`.
    """
    capturable = all(getattr(unit.objective, "capturable", False) for unit in engine.units)
    if device.type == "cpu" or world_size() > 1 or batches > 1 or not capturable:
        return engine
    return CapturedEngine(engine)
