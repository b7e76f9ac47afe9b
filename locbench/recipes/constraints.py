"""What of a recipe one key alone cannot show: values that have to fit together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from locbench.errors import UserError
from locbench.recipes.schema import Detection

if TYPE_CHECKING:
    from locbench.recipes.recipe import Recipe


def check_units(asked: Mapping[str, Any], own: Detection, found: Detection) -> None:
    """UserError for overrides of a detector's length that would not mean what they say."""
    if "detection.split" in asked:
        raise UserError("override detection.split: every split is a run; set detection.splits")
    if found.iterations and "detection.epochs" in asked:
        raise UserError(
            f"override detection.epochs: detection.iterations = {found.iterations} goes before it; "
            "set detection.iterations and detection.milestones"
        )
    if bool(own.iterations) != bool(found.iterations) and "detection.milestones" not in asked:
        unit = ("epochs", "iterations") if found.iterations else ("iterations", "epochs")
        raise UserError(
            f"override detection.iterations: detection.milestones = {list(own.milestones)} are "
            f"{unit[0]}; set them too, in {unit[1]}"
        )


def check_together(recipe: Recipe, where: str) -> None:
    """UserError, beginning with `where`, for values that do not fit together."""
    for key in ("area", "aspect", "sigma"):
        low, high = getattr(recipe.augmentation, key, (0, 0))
        if low > high:
            raise UserError(f"{where}: augmentation.{key} must be [low, high], not [{low}, {high}]")
    for section in (recipe.probe, *([recipe.detection] if recipe.detection else [])):
        milestones, name = list(section.milestones), type(section).__name__.lower()
        if milestones != sorted(set(milestones)):
            raise UserError(f"{where}: {name}.milestones must rise, not {milestones}")
    if (asked := recipe.detection) is not None:
        length = asked.iterations or asked.epochs
        if milestones and milestones[-1] >= length:
            unit = "iterations" if asked.iterations else "epochs"
            raise UserError(
                f"{where}: detection.milestones {milestones} must lie before the end, "
                f"detection.{unit} = {length}; set both"
            )
        if asked.iterations and asked.warmup > asked.iterations:
            raise UserError(
                f"{where}: detection.warmup = {asked.warmup} is longer than "
                f"detection.iterations = {asked.iterations}; set both"
            )
    accumulate, batch = recipe.training.accumulate, recipe.training.batch
    if batch % accumulate or batch < 2 * accumulate:
        raise UserError(
            f"{where}: training.batch = {batch} images cannot be cut into training.accumulate = "
            f"{accumulate} batches of two or more; set a multiple"
        )
    warmup, epochs = recipe.schedule.warmup_epochs, recipe.schedule.epochs
    if warmup > epochs:
        raise UserError(
            f"{where}: schedule.warmup_epochs = {warmup:g} is longer than "
            f"schedule.epochs = {epochs}; set both"
        )
