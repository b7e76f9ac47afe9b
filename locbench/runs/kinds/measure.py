"""Measurement: time and memory of training steps on this machine, or on a GPU alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from locbench.errors import RunFailed
from locbench.recipes.identity import differing
from locbench.runs.estimate import RECORD_BYTES, Estimate, Size, rate
from locbench.runs.kinds.base import Tell
from locbench.runs.kinds.count import Count, case_of
from locbench.runs.kinds.pretrain import FORWARDS_A_STEP, Pretrain
from locbench.runs.kinds.trace import Trace

if TYPE_CHECKING:
    import torch

    from locbench.runs.context import Context
    from locbench.runs.record import Record
    from locbench.runs.spec import RunSpec

STEPS = 10  # of a rule and, in turns, of what it is compared with


class Measure(Count):
    """Steps that are run, of noise images, beside those of the rule they are compared with."""

    name = "measure"
    metrics = (
        *("allocated_gigabytes", "resident_gigabytes", "images_per_s", "wall_clock_overhead"),
        *("wall_clock_overhead_low", "wall_clock_overhead_high", "predicted_gigabytes"),
        *("saved_gigabytes", "allocated_share"),
    )
    exact = False
    takes_untrained = False
    repeatable = False
    apart = True

    @classmethod
    def settings(cls, spec: RunSpec) -> dict[str, Any]:
        return {**Trace.settings(spec), "optimizer": differing(spec.recipe.optimizer)}

    @classmethod
    def title(cls, spec: RunSpec) -> str:
        return "measure steps,"

    @classmethod
    def outcome(cls, record: Record) -> str:
        figures = (record.metrics[key]["last"] for key in ("images_per_s", "allocated_gigabytes"))
        speed, memory = figures
        return f"{speed:.1f} images/s, {memory:.2f} GB allocated"

    @classmethod
    def estimate(cls, spec: RunSpec, records: Sequence[Record], size: Size | None) -> Estimate:
        """Of a few steps of the network; of a rule's auxiliary networks it knows nothing."""
        speed, basis = rate(records)
        seconds = None
        if size is not None and speed is not None:
            views = STEPS * spec.recipe.training.batch * Pretrain.views
            seconds = views * FORWARDS_A_STEP * size.multiply_adds / speed
        return Estimate(seconds, RECORD_BYTES, 0, basis, rough=True)

    begin = Trace.begin

    def run(self, tell: Tell) -> None:
        from locbench.evaluation.cost.measured import measure

        parent = self.spec.parent
        over = None if parent is None else case_of(parent)
        self.figures = measure(self.case, over, str(self.device))

    def finish(self, record: Record) -> None:
        super().finish(record)
        record.cost["images_per_s"] = round(self.figures["images_per_s"], 1)


class Gpu(Measure):
    """The same on a GPU alone, with the least memory that it can do with."""

    name = "gpu"
    metrics = (
        *(name for name in Measure.metrics if name != "resident_gigabytes"),
        *("gpu_memory", "gpu_memory_reserved", "gpu_memory_least", "gpu_memory_reduction"),
    )

    @classmethod
    def title(cls, spec: RunSpec) -> str:
        return "measure steps on a GPU,"

    @classmethod
    def check(cls, spec: RunSpec, context: Context, device: torch.device) -> None:
        if device.type != "cuda":
            raise RunFailed(f"{spec.id} is of a GPU, and there is none: leave its column out")

    @classmethod
    def estimate(cls, spec: RunSpec, records: Sequence[Record], size: Size | None) -> Estimate:
        return Estimate(None, RECORD_BYTES, 0, rate(records)[1], rough=True)

    def run(self, tell: Tell) -> None:
        super().run(tell)
        memory, over = self.figures["gpu_memory"], self.parent_figure("gpu_memory")
        self.figures["gpu_memory_reduction"] = 100 * (1 - memory / over) if over else 0.0
