"""Memory of a training step, by its trace: on how many GPUs it fits, and whether it fits here."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from locbench.distributed import group as processes
from locbench.errors import RunFailed
from locbench.recipes.identity import identity_hash
from locbench.recipes.recipe import Recipe
from locbench.runs.device import Hardware
from locbench.runs.estimate import size
from locbench.runs.kinds.base import network_identity, rule_identity
from locbench.runs.spec import RunSpec

if TYPE_CHECKING:
    import torch

GIGA = 1e9
GPU_BYTES = 80 * GIGA  # of the GPUs that are counted where there is none: A100 and H100
# A step is refused where it needs so many times what there is: a trace knows the operators of a
# CPU, and where activations dominate it is within a few percent of the allocator of either.
CLEARLY = 1.1
# Far more than any network here keeps of a pixel of the batch (ResNet-110: 9,000 bytes). What this
# leaves below the memory there is needs no trace.
MOST_BYTES_A_PIXEL = 30_000
# Of a parameter that is updated: its gradient, its momentum, and the copy to undo a step.
COPIES = 3

logger = logging.getLogger(__name__)
_TRACED: dict[str, StepMemory | None] = {}


@dataclass(frozen=True)
class StepMemory:
    """Bytes of a step, in one of its batches.

    `shared_bytes` are of the images and of what is computed from them: processes divide them.
    `kept_bytes` every process has: weights, gradients, the optimizer's state. `parts` is the number
    of equal parts that processes may share: images, or groups of batch norm.
    """

    shared_bytes: int
    kept_bytes: int
    parts: int

    def on(self, processes: int) -> float:
        """Bytes of one of so many processes."""
        return self.shared_bytes / processes + self.kept_bytes

    def least(self, capacity: float = GPU_BYTES) -> int | None:
        """The least number of GPUs of so many bytes that share it equally; None where none does."""
        counts = (n for n in range(1, self.parts + 1) if self.parts % n == 0)
        return next((n for n in counts if self.on(n) <= capacity), None)


def traced_memory(spec: RunSpec) -> StepMemory | None:
    """The memory of a step of a training; None where it cannot be traced. Imports torch.

    Runs that differ in nothing that a step's size depends on are traced once a process.
    """
    key = form_of(spec)
    if key not in _TRACED:
        from locbench.evaluation.cost.case import Case
        from locbench.evaluation.cost.traced import trace

        recipe, classes = spec.recipe, spec.recipe.data.classes or spec.data["classes"]
        try:
            step = trace(Case(recipe, spec.rule, spec.network, classes))
        except Exception as error:  # of a rule that asks what a tensor holds; the run may go well
            logger.info("%s cannot be traced: %s", spec.id, error)
            _TRACED[key] = None
        else:
            shared = step.peak_bytes - step.gradient_bytes + step.image_bytes
            kept = step.parameter_bytes + step.buffer_bytes + COPIES * step.gradient_bytes
            images, groups = recipe.training.batch, recipe.training.batch_norm_groups
            parts = groups if groups > 1 else images // recipe.training.accumulate
            _TRACED[key] = StepMemory(shared, kept, parts)
    return _TRACED[key]


def form_of(spec: RunSpec) -> str:
    """A hash of all that the memory of a training's step, and how it is shared, depends on."""
    recipe = spec.recipe
    return identity_hash(
        {
            "network": network_identity(spec),
            "rule": rule_identity(spec),
            "gives": recipe.gives,
            "side": recipe.data.resolution,
            "classes": recipe.data.classes or spec.data["classes"],
            "images": recipe.training.batch // recipe.training.accumulate,
            "groups": recipe.training.batch_norm_groups,
            "precision": recipe.training.precision,
        }
    )


def may_be_large(spec: RunSpec, capacity: float) -> bool:
    """Whether a training's step may need more than so many bytes; without a trace."""
    return spec.of.trains and _bound(spec.recipe) > capacity


def _bound(recipe: Recipe) -> float:
    """More bytes than a step needs, by its pixels alone."""
    images = recipe.training.batch // recipe.training.accumulate
    pixels = (2 if recipe.gives == "views" else 1) * images * recipe.data.resolution**2
    return MOST_BYTES_A_PIXEL * max(1.0, recipe.network.width) * pixels


def largest_step(specs: Sequence[RunSpec], steps: Mapping[str, StepMemory], here: Hardware) -> str:
    """What the largest step of these runs needs, and on how many GPUs it fits, for people.

    `steps` are the traced ones by run.
    """
    capacity = here.gpu_bytes or GPU_BYTES
    of = f"of {capacity / GIGA:.0f} GB" + (f" ({here.name}, as here)" if here.gpu_bytes else "")
    if not steps:
        bound = max(_bound(spec.recipe) for spec in specs if spec.of.trains)
        if bound > capacity:
            return "largest step: unknown, for it cannot be traced"
        return f"largest step: below {size(bound)}, by its pixels; fits on one GPU {of}"
    spec = max((s for s in specs if s.id in steps), key=lambda s: steps[s.id].on(1))
    memory = steps[spec.id]
    least = memory.least(capacity)
    number = {None: "no number of GPUs", 1: "one GPU"}.get(least, f"{least} or more GPUs")
    untraced = sum(may_be_large(s, capacity) and s.id not in steps for s in specs)
    but = f"; {untraced} more cannot be traced" if untraced else ""
    return (
        f"largest step: {size(memory.on(1))} in {spec.recipe.training.precision}, as traced "
        f"({spec.of.describe(spec)}); fits on {number} {of}{but}"
    )


def check_fits(spec: RunSpec, device: torch.device) -> None:
    """RunFailed where a step clearly needs more memory than this device has.

    Of processes on one CPU all of the machine's together.
    """
    from locbench.evaluation.cost.memory import memory_of

    capacity, on_gpu = memory_of(device), device.type == "cuda"
    if capacity is None or not may_be_large(spec, capacity):
        return
    memory, count = spec.of.step_memory(spec), processes.launched()
    if memory is None:
        return
    needed = memory.on(count) * (1 if on_gpu else processes.local_world_size())
    if needed <= CLEARLY * capacity:
        return
    here, least = ("GPU", memory.least(capacity)) if on_gpu else ("machine", memory.least())
    gpus = "such GPUs" if on_gpu else f"GPUs of {GPU_BYTES / GIGA:.0f} GB"
    way = f"share it among {least} or more {gpus} with torchrun" if least else "no sharing helps"
    raise RunFailed(
        f"{spec.id}: a step of {spec.recipe.training.batch:,} images in "
        f"{spec.recipe.training.precision}{f' in {count} processes' if count > 1 else ''} takes "
        f"{size(needed)} of memory, and this {here} has {size(capacity)}: {way}, or set a smaller "
        "training.batch"
    )
