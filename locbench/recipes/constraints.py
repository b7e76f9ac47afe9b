"""What of a recipe one key alone cannot show: values that have to fit together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from locbench.errors import UserError
from locbench.recipes.schema import Detection

if TYPE_CHECKING:
    from locbench.recipes.recipe import Recipe


def check_units(overrides: Mapping[str, Any], before: Detection, after: Detection) -> None:
    """UserError for overrides of a detector's length that would not mean what they say."""
    if "detection.split" in overrides:
        raise UserError("override detection.split: every split is a run; set detection.splits")
    if after.iterations and "detection.epochs" in overrides:
        raise UserError(
            f"override detection.epochs: detection.iterations = {after.iterations} goes before it; "
            "set detection.iterations and detection.milestones"
        )
    other_unit = bool(before.iterations) != bool(after.iterations)
    if other_unit and "detection.milestones" not in overrides:
        unit = ("epochs", "iterations") if after.iterations else ("iterations", "epochs")
        raise UserError(
            f"override detection.iterations: detection.milestones = {list(before.milestones)} are "
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
    if (detection := recipe.detection) is not None:
        length = detection.iterations or detection.epochs
        if milestones and milestones[-1] >= length:
            unit = "iterations" if detection.iterations else "epochs"
            raise UserError(
                f"{where}: detection.milestones {milestones} must lie before the end, "
                f"detection.{unit} = {length}; set both"
            )
        if detection.iterations and detection.warmup > detection.iterations:
            raise UserError(
                f"{where}: detection.warmup = {detection.warmup} is longer than "
                f"detection.iterations = {detection.iterations}; set both"
            )
    training = recipe.training
    accumulate, groups, batch = training.accumulate, training.batch_norm_groups, training.batch
    if batch % accumulate or batch < 2 * accumulate:
        raise UserError(
            f"{where}: training.batch = {batch} images cannot be cut into training.accumulate = "
            f"{accumulate} batches of two or more; set a multiple"
        )
    parts = accumulate * groups
    if batch % parts or batch < 2 * parts:
        raise UserError(
            f"{where}: training.batch_norm_groups = {groups} cannot be equal parts, of two images "
            f"or more, of {batch // accumulate} images; set training.batch to a multiple of "
            f"{parts}, or the groups to 1"
        )
    warmup, epochs = recipe.schedule.warmup_epochs, recipe.schedule.epochs
    if warmup > epochs:
        raise UserError(
            f"{where}: schedule.warmup_epochs = {warmup:g} is longer than "
            f"schedule.epochs = {epochs}; set both"
        )


def check_images(recipe: Recipe, *, images: int, name: str, processes: int = 1) -> None:
    """UserError for a batch that is not to be had of so many training images of a data set.

    It may not be larger than the set, and the processes have to share it, and batch norm's groups,
    equally.
    """
    size, batches = recipe.training.batch, recipe.training.accumulate
    groups = recipe.training.batch_norm_groups
    if size > images:
        raise UserError(
            f"training.batch = {size} is more than the {images} training images of {name}; set a "
            "smaller one with --set training.batch=N"
        )
    if size % (batches * processes):
        words = f"{processes} processes"
        if batches > 1:
            words += f" in training.accumulate = {batches} batches each"
        raise UserError(
            f"training.batch = {size} images cannot be shared equally by {words}: set a multiple "
            f"of {batches * processes}"
        )
    if groups > 1 and groups % processes:
        raise UserError(
            f"training.batch_norm_groups = {groups} cannot be shared equally by {processes} "
            "processes: set a multiple, or 1 for statistics of the whole batch"
        )
    if recipe.gives == "label":
        least = batches * max(2 * groups, processes)
        _check_last(size, images=images, name=name, least=least)


def _check_last(size: int, *, images: int, name: str, least: int) -> None:
    """An epoch's last batch takes what is left: each part of it has to have two images or more."""
    left = images % size
    if 0 < left < least:
        few = "one" if left == 1 else left
        why = "batch norm needs two" if least == 2 else f"{least} are the least here"
        raise UserError(
            f"training.batch = {size} leaves {few} of the {images} training images of {name} for "
            f"the last batch, and {why}; set another one"
        )
