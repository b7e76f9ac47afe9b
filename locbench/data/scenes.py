"""Scenes of the built-in Shapes data: what is in a picture, drawn from a seed, as plain arrays.

A scene is a textured background and one to six textured objects. Everything a renderer needs is in
`Scenes`: `locbench.data.render` turns it into pixels, and outlines give polygons, boxes and masks
of the same objects. Only numpy is used, and of its generator only `random()` and `integers()`, so
that a seed means the same scenes on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

from locbench.data.settings import ShapesSettings

CLASSES = tuple(f"scene{index}" for index in range(10))
OUTLINES = (  # in the order of `_RADII`
    "circle", "triangle", "square", "pentagon", "star", "flower", "cross", "gear", "bean", "shard",
)  # fmt: skip
BACKGROUNDS = ("stripes", "checker", "blobs", "grid", "zigzag")
SURFACES = ("dots", "rings", "bricks", "cells", "triangles")
TEXTURES = BACKGROUNDS + SURFACES
MAX_OBJECTS = 6


@dataclass(frozen=True)
class Textures:
    """Surfaces, one an entry, of any leading shape; lengths are in units of the image's side."""

    kind: np.ndarray  # index into TEXTURES
    period: np.ndarray
    angle: np.ndarray  # radians
    phase: np.ndarray  # [..., 2] in periods
    duty: np.ndarray  # share of a period in the first colour
    seed: np.ndarray  # uint32, for the kinds that are random fields
    colors: np.ndarray  # [..., 2, 3] in [0, 1]

    def __getitem__(self, index: object) -> Textures:
        return Textures(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


@dataclass(frozen=True)
class Scenes:
    """N scenes of up to `MAX_OBJECTS` objects; object k lies over object k-1."""

    label: np.ndarray  # [N] index into CLASSES
    background: Textures  # [N]
    shade: np.ndarray  # [N, 2] change of brightness from the centre to the right and lower edge
    noise: np.ndarray  # [N] uint32, the seed of the sensor noise
    count: np.ndarray  # [N] objects present: the first `count` of each row
    outline: np.ndarray  # [N, K] index into OUTLINES
    centre: np.ndarray  # [N, K, 2] (x, y) in units of the image's side
    radius: np.ndarray  # [N, K]
    rotation: np.ndarray  # [N, K] radians
    surface: Textures  # [N, K]

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: slice | np.ndarray) -> Scenes:
        return Scenes(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def polygon(self, image: int, item: int, points: int = 64) -> np.ndarray:
        """The outline of one object as [points, 2] (x, y) in units of the image's side."""
        theta = np.linspace(0, 2 * np.pi, points, endpoint=False)
        kind = self.outline[image, item : item + 1]
        length = self.radius[image, item] * radial(kind, theta[None])[0]
        turned = theta + self.rotation[image, item]
        return self.centre[image, item] + length[:, None] * np.stack(
            [np.cos(turned), np.sin(turned)], axis=1
        )


def _polygon_radius(theta: np.ndarray, corners: int) -> np.ndarray:
    sector = np.pi / corners
    return np.cos(sector) / np.cos((theta + sector) % (2 * sector) - sector)


def _cross_radius(theta: np.ndarray) -> np.ndarray:
    x, y = np.abs(np.cos(theta)), np.abs(np.sin(theta))
    return np.minimum(0.95 / np.maximum(x, y), 0.30 / np.maximum(np.minimum(x, y), 1e-3))


def radial(kind: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Distance of an outline from its centre in direction `theta` (radians), at most 1.

    `kind` [M] holds indices into OUTLINES; `theta` is [M, ...].
    """
    length = np.empty_like(theta)
    for index, formula in enumerate(_RADII):
        chosen = np.flatnonzero(kind == index)
        if len(chosen):
            length[chosen] = formula(theta[chosen])
    return length


_RADII = (
    lambda t: np.full_like(t, 0.85),
    lambda t: _polygon_radius(t, 3),
    lambda t: _polygon_radius(t, 4),
    lambda t: _polygon_radius(t, 5),
    lambda t: 0.42 + 0.58 * np.abs((t * 5 / (2 * np.pi)) % 1 - 0.5) * 2,
    lambda t: 0.72 + 0.28 * np.cos(6 * t),
    _cross_radius,
    lambda t: np.where(np.sin(9 * t) > 0, 0.95, 0.68),
    lambda t: 0.62 + 0.38 * np.cos(2 * t),
    lambda t: 0.61 + 0.25 * np.cos(t) + 0.13 * np.cos(4 * t + 1),
)


def _uniform(rng: np.random.Generator, bounds: tuple[float, float], shape: tuple) -> np.ndarray:
    low, high = bounds
    return low + (high - low) * rng.random(shape)


def _cue(rng: np.random.Generator, typical: np.ndarray, strength: float, total: int) -> np.ndarray:
    """`typical` with probability `strength`, else any of `total` values."""
    return np.where(
        rng.random(typical.shape) < strength, typical, rng.integers(0, total, typical.shape)
    )


def _colors(rng: np.random.Generator, hue: np.ndarray, contrast: tuple[float, float]) -> np.ndarray:
    """Two colours [..., 2, 3] a texture: hues near `hue` and anywhere, brightness apart."""
    shape = hue.shape
    hues = np.stack([hue, rng.random(shape)], axis=-1)
    saturation = 0.7 * rng.random((*shape, 2))
    apart = _uniform(rng, contrast, shape) * np.where(rng.random(shape) < 0.5, -1, 1)
    low = rng.random(shape) * (1 - np.abs(apart))
    low = np.where(apart < 0, low - apart, low)
    luma = np.stack([low, low + apart], axis=-1)
    wheel = 2 * np.pi * (hues[..., None] + np.array([0, 1 / 3, 2 / 3]))
    room = np.minimum(luma, 1 - luma)
    return np.clip(luma[..., None] + (saturation * room)[..., None] * np.cos(wheel), 0, 1)


def _textures(
    rng: np.random.Generator,
    kind: np.ndarray,
    hue: np.ndarray,
    period: tuple[float, float],
    settings: ShapesSettings,
) -> Textures:
    shape = kind.shape
    return Textures(
        kind=kind,
        period=_uniform(rng, period, shape),
        angle=2 * np.pi * rng.random(shape),
        phase=rng.random((*shape, 2)),
        duty=_uniform(rng, settings.duty, shape),
        seed=rng.integers(0, 2**32, shape, dtype=np.uint32),
        colors=_colors(rng, hue, settings.contrast),
    )


def _centres(rng: np.random.Generator, label: np.ndarray, settings: ShapesSettings) -> np.ndarray:
    """Anywhere, or near the line (classes 0-4) or the ring (5-9) that the class prefers."""
    shape = (len(label), MAX_OBJECTS)
    free = 0.1 + 0.8 * rng.random((*shape, 2))
    turn = np.pi * (label % 5)[:, None] / 5
    along = rng.random(shape) - 0.5
    line = 0.5 + 0.9 * along[..., None] * np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    around = 2 * np.pi * rng.random(shape)
    ring = 0.5 + 0.35 * np.stack([np.cos(around), np.sin(around)], axis=-1)
    typical = np.where((label < 5)[:, None, None], line, ring)
    chosen = rng.random(len(label)) < settings.layout
    return np.where(chosen[:, None, None], typical, free)


def draw_scenes(settings: ShapesSettings, count: int, stream: int) -> Scenes:
    """`count` scenes of balanced classes in random order; another `stream` gives other scenes."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([settings.seed, stream])))
    label = np.argsort(rng.random(count), kind="stable") % len(CLASSES)
    shape = (count, MAX_OBJECTS)
    each = np.broadcast_to(label[:, None], shape)
    ground = _cue(rng, label % 5, settings.background, 5)
    surface = 5 + _cue(rng, (label + label // 5) % 5, settings.surface, 5)
    surface = np.broadcast_to(surface[:, None], shape)
    number = 1 + _cue(rng, label * 7 % MAX_OBJECTS, settings.number, MAX_OBJECTS)
    near = (each * 3 % 10 + rng.random(shape)) / 10
    hue = np.where(rng.random((count, 1)) < settings.hue, near, rng.random(shape))
    return Scenes(
        label=label,
        background=_textures(rng, ground, rng.random(count), settings.period, settings),
        shade=settings.shade * (2 * rng.random((count, 2)) - 1),
        noise=rng.integers(0, 2**32, count, dtype=np.uint32),
        count=number,
        outline=_cue(rng, each, settings.outline, len(OUTLINES)),
        centre=_centres(rng, label, settings),
        radius=_uniform(rng, settings.radius, shape),
        rotation=2 * np.pi * rng.random(shape),
        surface=_textures(rng, surface, hue, settings.surface_period, settings),
    )


def chunks(total: int, size: int) -> Iterator[slice]:
    """Slices that cut `total` items into pieces of at most `size`."""
    return (slice(start, min(start + size, total)) for start in range(0, total, size))
