"""Pixels: logistic regression on the images themselves, which every method must beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from locbench.errors import UserError
from locbench.plugins.entry import PIXELS
from locbench.recipes.identity import differing_keys
from locbench.runs.kinds.base import Kind, Tell, data_identity
from locbench.runs.spec import RunSpec

if TYPE_CHECKING:
    from locbench.recipes.recipe import Recipe
    from locbench.runs.plan import Planner
    from locbench.runs.record import Record

# scikit-learn's logistic regression holds all pixels, in double precision, twice.
MOST_BYTES = 2e9


class Pixels(Kind):
    """Logistic regression (scikit-learn) on standardised pixels: no network, no seed."""

    name = "pixels"
    metrics = ("top1",)
    fills = False
    seeded = False

    @classmethod
    def plan(
        cls, fill: dict[str, Any], recipe: Recipe, *, seed: int, planner: Planner
    ) -> list[RunSpec]:
        raise UserError("pixels stand beside a table's probes, and fill no cell")

    @classmethod
    def settings(cls, spec: RunSpec) -> dict[str, Any]:
        view = differing_keys(spec.recipe.augmentation, ("interpolation",))
        return {"data": data_identity(spec), "view": view}

    @classmethod
    def words(cls, spec: RunSpec) -> list[str]:
        return []

    @classmethod
    def describe(cls, spec: RunSpec) -> str:
        return "pixels, logistic regression"

    @classmethod
    def outcome(cls, record: Record) -> str:
        return f"top-1 {record.metrics['top1']['last']:.1f} %"

    def run(self, tell: Tell) -> None:
        from locbench.evaluation.probe import pixel_baseline

        data, recipe = self.context.data(self.spec), self.spec.recipe
        self.accuracy = pixel_baseline(data, recipe.data.resolution, recipe, tell)

    def finish(self, record: Record) -> None:
        record.metrics = {"top1": {"last": self.accuracy, "best": self.accuracy}}
        record.tags["decoder"] = "none"


def pixels_spec(recipe: Recipe, data: dict[str, Any]) -> RunSpec:
    """Logistic regression on the pixels of this data."""
    return RunSpec(Pixels.name, recipe, PIXELS, "", 0, data)


def pixels_fit(recipe: Recipe, data: dict[str, Any]) -> bool:
    """Whether the memory of such a regression is within bounds."""
    return 2 * 8 * 3 * recipe.data.resolution**2 * data["train"] <= MOST_BYTES
