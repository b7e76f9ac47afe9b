"""The settings of the built-in Shapes data. Standard library only: run identities need them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class ShapesSettings:
    """How strongly each cue tells the class, and how strongly everything else varies.

    A cue's strength is the probability that it is drawn from what is typical of the class; else it
    is drawn from all there is, so 0 makes it useless and 1 makes it certain. The two texture cues
    are each shared by two classes: none of them gives the class alone. Ranges are (low, high).

    Found by trial at 32 pixels: a ResNet of one bottleneck block a stage and a quarter of the width
    reached about 44 % in a linear probe after SimCLR on 30,000 images (three epochs; AdamW, batch
    64, one seed), 20 % with untrained weights; logistic regression on pixels reaches 12 %.
    """

    train: int = 8_000
    test: int = 4_000
    seed: int = 0
    background: float = 0.98
    surface: float = 0.98
    outline: float = 0.6
    number: float = 0.6
    hue: float = 0.4
    layout: float = 0.4
    radius: tuple[float, float] = (0.24, 0.42)
    period: tuple[float, float] = (0.18, 0.26)
    surface_period: tuple[float, float] = (0.14, 0.22)
    duty: tuple[float, float] = (0.35, 0.65)
    contrast: tuple[float, float] = (0.5, 0.95)
    shade: float = 0.1
    noise: float = 0.02


def shapes_checksum(settings: ShapesSettings, version: int, resolution: int) -> str:
    """sha256 of all that decides the pixels: code version, settings and resolution."""
    content = {"version": version, "resolution": resolution, **asdict(settings)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# Objects of the size in pixels that classification's have at the resolutions of `smoke`, on larger
# images, with the same grain: what was pretrained there can be used here.
DETECTION_SHAPES = ShapesSettings(
    train=1_000,
    test=300,
    seed=1,
    number=0.0,
    layout=0.0,
    radius=(0.12, 0.22),
    period=(0.07, 0.1),
    surface_period=(0.053, 0.083),
)
