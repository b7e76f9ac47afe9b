"""Shapes for detection: scenes of the built-in generator, with annotations in COCO's format.

Five categories, each a surface texture; an outline goes with one category only. One to six objects
an image, anywhere, so that they overlap: the annotation of an object is its visible part.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from locbench.data import Progress
from locbench.data.cache import Builder, cached
from locbench.data.render import render
from locbench.data.scenes import OUTLINES, SURFACES, Scenes, chunks, draw_scenes
from locbench.data.settings import DETECTION_SHAPES, shapes_checksum
from locbench.paths import cache_dir
from locbench.plugins.registry import DETECTION_SETS

CHUNK_PIXELS = 64 * 32 * 32
SPLITS = ("train", "test")
CATEGORIES = SURFACES
SMALLEST = 12.0  # square pixels; a smaller visible part of an object is not annotated


def draw_objects(count: int, stream: int) -> tuple[Scenes, np.ndarray]:
    """`count` scenes and the category [count, K] of each of their objects."""
    scenes = draw_scenes(DETECTION_SHAPES, count, stream)
    seeds = np.random.SeedSequence([DETECTION_SHAPES.seed, stream, len(CATEGORIES)])
    rng = np.random.Generator(np.random.PCG64(seeds))
    category = rng.integers(0, len(CATEGORIES), scenes.outline.shape)
    outline = category + len(CATEGORIES) * rng.integers(
        0, len(OUTLINES) // len(CATEGORIES), category.shape
    )
    # A scene's objects share their surface's kind, and here each has its own.
    surface = replace(scenes.surface, kind=len(SURFACES) + category)
    return replace(scenes, surface=surface, outline=outline), category


def visible(scenes: Scenes, image: int, side: int) -> list[list[list[float]]]:
    """The polygons of each object in pixels, x and y by turns: what later objects leave of it."""
    from shapely import Polygon, box, union_all

    frame, outlines = box(0, 0, side, side), []
    for item in range(scenes.count[image]):
        outlines.append(Polygon(scenes.polygon(image, item) * side).buffer(0))
    polygons = []
    for item, outline in enumerate(outlines):
        shown = outline.intersection(frame) - union_all(outlines[item + 1 :])
        parts = [part for whole in _polygons(shown) for part in _without_holes(whole)]
        polygons.append([_flat(part) for part in parts if part.area >= 1])
    return polygons


def _polygons(shape: Any) -> list[Any]:
    """The polygons in a geometry; touching outlines can leave lines and points."""
    parts = getattr(shape, "geoms", [shape])
    return [part for part in parts if part.geom_type == "Polygon" and not part.is_empty]


def _without_holes(polygon: Any) -> list[Any]:
    """The polygon cut through its holes: a polygon of COCO's has none."""
    from shapely import box

    if not polygon.interiors:
        return [polygon]
    left, low, right, high = polygon.bounds
    cut = polygon.interiors[0].centroid.x
    halves = box(left, low, cut, high), box(cut, low, right, high)
    parts = [part for half in halves for part in _polygons(polygon.intersection(half))]
    return [whole for part in parts for whole in _without_holes(part)]


def _flat(polygon: Any) -> list[float]:
    return [round(float(value), 2) for point in polygon.exterior.coords[:-1] for value in point]


def area(polygon: list[float]) -> float:
    """Of a polygon without crossings, by the shoelace formula."""
    x, y = np.array(polygon[::2]), np.array(polygon[1::2])
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def annotations(scenes: Scenes, category: np.ndarray, side: int) -> dict[str, Any]:
    """All of an annotation file of COCO's form; categories, images and objects count from 1."""
    images, objects = [], []
    for image in range(len(scenes)):
        name = f"{image + 1:06d}.png"
        images.append({"id": image + 1, "file_name": name, "width": side, "height": side})
        for item, polygons in enumerate(visible(scenes, image, side)):
            size = sum(area(polygon) for polygon in polygons)
            if size < SMALLEST:
                continue
            xs = [x for polygon in polygons for x in polygon[::2]]
            ys = [y for polygon in polygons for y in polygon[1::2]]
            corner = [min(xs), min(ys)]
            extent = [round(max(xs) - corner[0], 2), round(max(ys) - corner[1], 2)]
            objects.append(
                {
                    "id": len(objects) + 1,
                    "image_id": image + 1,
                    "category_id": int(category[image, item]) + 1,
                    "segmentation": polygons,
                    "area": round(size, 2),
                    "bbox": [*corner, *extent],
                    "iscrowd": 0,
                }
            )
    named = [{"id": k + 1, "name": name} for k, name in enumerate(CATEGORIES)]
    return {"images": images, "annotations": objects, "categories": named}


def fingerprint(resolution: int) -> dict[str, Any]:
    """name, version, checksum, classes, train and test (numbers of images)."""
    version = DETECTION_SETS.entry("shapes").version
    settings = DETECTION_SHAPES
    counts = {"classes": len(CATEGORIES), "train": settings.train, "test": settings.test}
    checksum = shapes_checksum(settings, version, resolution)
    return {"name": "shapes", "version": version, "checksum": checksum, **counts}


def folder(resolution: int, progress: Progress | None = None) -> Path:
    """The folder with train/, test/ and annotations/, drawn into the cache on first use."""
    described = fingerprint(resolution)
    identity = {**described, "resolution": resolution, **asdict(DETECTION_SHAPES)}
    key = f"shapes-detection-{resolution}-{described['checksum'][:16]}"
    cached(key, identity, lambda builder: _fill(builder, resolution, progress))
    return cache_dir() / "data" / key


def _fill(builder: Builder, side: int, progress: Progress | None) -> dict[str, Any]:
    from PIL import Image

    (builder.folder / "annotations").mkdir()
    for stream, split in enumerate(SPLITS):
        count = getattr(DETECTION_SHAPES, split)
        scenes, category = draw_objects(count, stream)
        (builder.folder / split).mkdir()
        for piece in chunks(count, max(1, CHUNK_PIXELS // side**2)):
            pixels = render(scenes[piece], side, DETECTION_SHAPES.noise)
            for index, image in zip(range(count)[piece], pixels, strict=True):
                path = builder.folder / split / f"{index + 1:06d}.png"
                Image.fromarray(image.transpose(1, 2, 0)).save(path)
            if progress is not None:
                progress(f"drawing Shapes for detection ({split})", piece.stop, count)
        text = json.dumps(annotations(scenes, category, side))
        (builder.folder / "annotations" / f"instances_{split}.json").write_text(text)
    return {}
