"""Trace: bytes that a training step keeps and allocates, on tensors without content."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from locbench.recipes.identity import differing
from locbench.runs.kinds.base import Tell
from locbench.runs.kinds.count import Count

if TYPE_CHECKING:
    from locbench.runs.record import Record
    from locbench.runs.spec import RunSpec

GIGA = 1e9


class Trace(Count):
    """One step of the recipe's batch by the engine, and how many times fewer bytes than another."""

    name = "trace"
    version = 4
    takes_untrained = False
    exact = False
    metrics = (
        *("saved_gigabytes", "predicted_gigabytes", "process_gigabytes"),
        *("memory_saving", "memory_reduction", "process_reduction"),
    )

    @classmethod
    def settings(cls, spec: RunSpec) -> dict[str, Any]:
        training = differing(spec.recipe.training)
        training.pop("batch_norm_groups", None)  # of which the traced step knows nothing
        if training.get("precision") == "fp32":  # as "auto" is here
            training.pop("precision")
        return {**super().settings(spec), "training": training}

    @classmethod
    def title(cls, spec: RunSpec) -> str:
        return "trace a step,"

    @classmethod
    def outcome(cls, record: Record) -> str:
        return f"{record.metrics['saved_gigabytes']['last']:.2f} GB saved"

    def begin(self, record: Record) -> None:
        if self.spec.recipe.training.precision == "bf16":
            record.tags["precision"] = "bfloat16"

    def run(self, tell: Tell) -> None:
        from locbench.evaluation.cost.traced import trace

        traced = trace(self.case)
        saved, over = traced.saved_bytes / GIGA, self.parent_figure("saved_gigabytes")
        self.figures = {
            "saved_gigabytes": saved,
            "predicted_gigabytes": traced.peak_bytes / GIGA,
            "process_gigabytes": traced.process_bytes / GIGA,
            "memory_saving": over / saved if over else 1.0,
            "memory_reduction": 100 * (1 - saved / over) if over else 0.0,
        }
        if rival := self.parent_figure("process_gigabytes"):
            share = self.figures["process_gigabytes"] / rival
            self.figures["process_reduction"] = 100 * (1 - share)
