"""Shapes: the built-in classification data set, generated and kept in the cache.

10 balanced classes, 8,000 training and 4,000 test images. A class is a tendency, never a certainty:
the texture of the background and that of the objects (each shared by two classes, so it takes
both), and more weakly the objects' outline, number, hue and layout. Colour, contrast, polarity,
orientation, scale, light and noise vary freely: pixels and their plain statistics say little about
the class, what survives cropping and colour distortion says more.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from locbench.data import ImageData, Progress, memory_mapped
from locbench.data.cache import Builder, cached
from locbench.data.render import render
from locbench.data.scenes import CLASSES, chunks, draw_scenes
from locbench.data.settings import ShapesSettings, shapes_checksum
from locbench.plugins.registry import DATASETS

CHUNK_PIXELS = 64 * 32 * 32  # images at a time, in pixels: what a processor's cache takes best
SPLITS = ("train", "test")  # the index of a split is the stream of its scenes


def _fill(
    builder: Builder, settings: ShapesSettings, resolution: int, progress: Progress | None
) -> dict[str, Any]:
    for stream, split in enumerate(SPLITS):
        count = getattr(settings, split)
        scenes = draw_scenes(settings, count, stream)
        images = builder.array(f"{split}_images", (count, 3, resolution, resolution), "uint8")
        for piece in chunks(count, max(1, CHUNK_PIXELS // resolution**2)):
            images[piece] = render(scenes[piece], resolution, settings.noise)
            if progress is not None:
                progress(f"drawing Shapes ({split})", piece.stop, count)
        builder.array(f"{split}_targets", (count,), "int64")[:] = scenes.label
    return {}


def shapes(
    resolution: int,
    root: Path | None = None,
    progress: Progress | None = None,
    settings: ShapesSettings | None = None,
) -> ImageData:
    """Shapes at `resolution` pixels a side, drawn into the cache on first use; `root` is unused."""
    settings = settings or ShapesSettings()
    version = DATASETS.entry("shapes").version
    checksum = shapes_checksum(settings, version, resolution)
    identity = {"version": version, "resolution": resolution, **asdict(settings)}
    entry = cached(
        f"shapes-{resolution}-{checksum[:16]}",
        identity,
        lambda builder: _fill(builder, settings, resolution, progress),
    )
    train, test = (memory_mapped(entry.arrays, split) for split in SPLITS)
    return ImageData("shapes", version, checksum, CLASSES, train, test)
