"""Training with labels: a network and its classifier, tested after every epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from locbench.errors import UserError
from locbench.runs.kinds.pretrain import Pretrain

if TYPE_CHECKING:
    from locbench.runs.record import Record
    from locbench.runs.spec import RunSpec


class Train(Pretrain):
    """A supervised rule on a network (AugLocal, sec. 4.1)."""

    name = "train"
    metrics = (*Pretrain.metrics, "top1", "top5")
    fills = True
    views = 1

    @classmethod
    def words(cls, spec: RunSpec) -> list[str]:
        return [*super().words(spec), spec.data["name"]]

    @classmethod
    def describe(cls, spec: RunSpec) -> str:
        name, comma, seed = super().describe(spec).partition(", seed")
        return f"{name}, {spec.recipe.name.split('/')[-1]}{comma}{seed}"

    @classmethod
    def outcome(cls, record: Record) -> str:
        return f"top-1 {record.metrics['top1']['last']:.1f} %"

    def build(self) -> None:
        super().build()
        if not self.trainer.classifies:
            raise UserError(
                f"rule '{self.spec.rule}' learns from labels and leaves the network's classifier, "
                "network.head, as it was: no unit's objective has it, so there is nothing to test"
            )

    def weights(self) -> dict[str, Any]:
        """The encoder and the trained classifier; a probe does without that."""
        return self.trainer.network.state_dict()

    def finish(self, record: Record) -> None:
        super().finish(record)
        trainer = self.trainer
        for key in ("top1", "top5"):
            curve = trainer.curves["test"][key]
            record.metrics[key] = {"last": curve[-1], "best": max(curve)}
        for block, top1 in trainer.by_block.items():
            stage = trainer.network.stage_of(block) + 1
            record.per_block[str(block)] = {"stage": stage, "top1": top1}
        record.tags["decoder"] = record.units[0]["auxiliary"]
