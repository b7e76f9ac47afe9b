"""Learning-rate schedules of the two papers, and how they count steps."""

from __future__ import annotations

import math

from locbench.recipes.schema import EpochCosine


def epoch_cosine(epoch: int, *, schedule: EpochCosine, base: float) -> float:
    """The rate of an epoch, counted from 1: half a cosine that is 0 in the last (AugLocal's code).

    Over the warm-up's epochs it is mixed with `warmup_lr`, which the first has.
    """
    rate = 0.5 * base * (1 + math.cos(math.pi * epoch / schedule.epochs))
    if epoch > schedule.warmup_epochs:
        return rate
    share = (epoch - 1) / schedule.warmup_epochs
    return rate * share + schedule.warmup_lr * (1 - share)


def warmup_cosine(step: int, *, total: int, warmup: int, base: float) -> float:
    """Linear from 0 to `base` over `warmup` steps, then half a cosine to 0 over the rest.

    The schedule of the SimCLR code, per step, without restart (LoCo sec. 5.1).
    """
    if step < warmup:
        return base * step / warmup
    return base * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def count_steps(images: int, *, epochs: float, batch: int) -> int:
    """Steps of a schedule: images * epochs // batch + 1, as the SimCLR code counts."""
    return int(images * epochs) // batch + 1


def count_warmup(images: int, *, epochs: float, batch: int) -> int:
    """Steps of the warm-up: images * epochs // batch, rounded down as in the SimCLR code."""
    return int(images * epochs) // batch
