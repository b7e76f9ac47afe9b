"""Traces one training step on fake tensors: the bytes it keeps and allocates, its multiply-adds."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from locbench.evaluation.cost.case import Case
from locbench.evaluation.cost.operations import torch_multiply_adds
from locbench.networks import Network, make_network
from locbench.recipes.recipe import Recipe
from locbench.rules import build_units
from locbench.training.engine import Engine
from locbench.training.saved_bytes import SavedBytes, storage_key, tensors_of
from locbench.units import Batch, Unit

VIEWS = {"views": 2, "label": 1}

# The one operator whose CPU kernel needs a whole map as workspace, beside its results (tested). A
# convolution may need its weights once or twice more, in oneDNN's own order, by shapes and
# processor: little where activations dominate, and not counted.
NEEDS_A_MAP = torch.ops.aten.native_batch_norm_backward


@dataclass(frozen=True)
class TracedStep:
    """The figures of a step, in bytes and in multiply-adds of the whole batch.

    saved_bytes: the peak of what autograd keeps for backward passes.
    peak_bytes: the peak of all that the step allocates: what autograd keeps, gradients (those of
    parameters too), and the workspace of operators. Neither counts what exists before the step:
    weights, the optimizer's state, images.
    timeline: (multiply-adds done, bytes saved, bytes allocated) after each operator.
    parameter_bytes, buffer_bytes: of the network and the objectives.
    gradient_bytes, image_bytes: of the parameters that are updated, and of the batch's images.
    """

    saved_bytes: int
    peak_bytes: int
    multiply_adds: int
    timeline: tuple[tuple[int, int, int], ...]
    parameter_bytes: int
    buffer_bytes: int
    gradient_bytes: int
    image_bytes: int

    @property
    def process_bytes(self) -> int:
        """What one of several data-parallel processes holds when it keeps the most.

        Of every parameter the weight, the gradient, the momentum, and the gradient once more in the
        buckets that `DistributedDataParallel` sends; buffers; what autograd keeps of its share.
        """
        return 4 * self.parameter_bytes + self.buffer_bytes + self.saved_bytes


@dataclass(frozen=True)
class Setting:
    """A network with the units that a rule makes of it, in training mode, and a batch for them."""

    network: Network
    units: list[Unit]
    batch: Batch

    @property
    def modules(self) -> list[nn.Module]:
        """The modules that have parameters."""
        return [self.network, *(unit.objective for unit in self.units)]

    @property
    def held_before(self) -> list[nn.Module | Tensor]:
        """What exists before a step, and is not counted as saved."""
        return [*self.modules, self.batch.images, self.batch.pixels]


def set_up(case: Case, *, device: torch.device | str = "cpu") -> Setting:
    """Initial weights, channels last as in training, and a batch of noise of the recipe's size."""
    recipe = case.recipe
    side, training = recipe.data.resolution, recipe.training
    images = VIEWS[recipe.gives] * (training.batch // training.accumulate)
    with torch.device(device):
        network = make_network(case.network, recipe.network, case.classes, side).train()
        units = build_units(case.rule, network, recipe.rule)
        pixels = torch.rand(images, 3, side, side).contiguous(memory_format=torch.channels_last)
        targets = torch.arange(images) % case.classes
    for tensor in tensors_of([network, *(unit.objective.train() for unit in units)]):
        if tensor.ndim == 4:  # Module.to would swap parameters, which tracing cannot do
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return Setting(network, units, Batch(pixels, targets, pixels.clone()))


def autocast_of(recipe: Recipe) -> torch.dtype | None:
    """The dtype in which the steps of a cost run forward; "auto" is fp32, as the papers' costs."""
    return torch.bfloat16 if recipe.training.precision == "bf16" else None


def trace(case: Case) -> TracedStep:
    """One step of the recipe's batch by the engine itself, on tensors without content.

    In bf16 under the autocast of a CPU, which casts the same operators of these networks as a
    GPU's.
    """
    with FakeTensorMode():
        setting = set_up(case)
        engine = Engine(setting.network.blocks, setting.units, autocast_of(case.recipe))
        with (
            SavedBytes(setting.held_before) as saved,
            _Tape([*setting.held_before, setting.batch.targets], saved) as tape,
        ):
            engine.step(setting.batch)
        tape.sample()
    parameters, buffers = (
        sum({id(t): t.nbytes for module in setting.modules for t in each(module)}.values())
        for each in (nn.Module.parameters, nn.Module.buffers)
    )
    return TracedStep(
        saved.peak,
        tape.peak,
        tape.work,
        timeline=tuple(tape.timeline),
        parameter_bytes=parameters,
        buffer_bytes=buffers,
        gradient_bytes=sum(parameter.nbytes for parameter in engine.parameters()),
        image_bytes=setting.batch.images.nbytes,
    )


class _Tape(TorchDispatchMode):
    """Follows the storages that operators make, until they are freed, and the multiply-adds."""

    def __init__(self, held_before: Iterable[nn.Module | Tensor], saved: SavedBytes) -> None:
        super().__init__()
        self._held_before = {storage_key(tensor) for tensor in tensors_of(held_before)}
        self._alive: dict[int, int] = {}
        self._saved = saved
        self.current = self.peak = 0
        self.work = 0
        self.timeline: list[tuple[int, int, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.sample()
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                self._hold(tensor)
        if func.overloadpacket is NEEDS_A_MAP:
            workspace = args[0].numel() * args[0].element_size()
            self.peak = max(self.peak, self.current + workspace)
        self.work += torch_multiply_adds(func, args, kwargs, out)
        return out

    def sample(self) -> None:
        """Add a point to the timeline."""
        self.timeline.append((self.work, self._saved.current, self.current))

    def _hold(self, tensor: Tensor) -> None:
        storage, key = tensor.untyped_storage(), storage_key(tensor)
        if key in self._held_before or key in self._alive:
            return
        self._alive[key] = storage.nbytes()
        self.current += storage.nbytes()
        self.peak = max(self.peak, self.current)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.current -= self._alive.pop(key)
