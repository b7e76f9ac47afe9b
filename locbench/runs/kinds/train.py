"""Training with labels: a network and its classifier, tested after every epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from locbench.errors import UserError
from locbench.plugins.entry import PIXELS
from locbench.runs.kinds.pretrain import Pretrain

if TYPE_CHECKING:
    from locbench.runs.record import Record
    from locbench.runs.spec import RunSpec


class Train(Pretrain):
    """A supervised rule on a network (AugLocal, sec. 4.1)."""

    name = "train"
    metrics = (*Pretrain.metrics, "top1", "top5")
    fills = True
    baselines = (PIXELS,)
    learns = "label"
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
