"""The built-in Shapes data: what a seed means, what a class is told by, and what it is not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from locbench.data import load_data
from locbench.data.fingerprint import fingerprint
from locbench.data.render import label_map, render
from locbench.data.scenes import (
    BACKGROUNDS,
    CLASSES,
    MAX_OBJECTS,
    OUTLINES,
    TEXTURES,
    Scenes,
    draw_scenes,
)
from locbench.data.settings import DETECTION_SHAPES, ShapesSettings, shapes_checksum
from locbench.data.shapes import shapes
from locbench.evaluation.downstream.shapes import area
from locbench.plugins.registry import DATASETS

SMALL = ShapesSettings(train=60, test=40)

pytestmark = pytest.mark.usefixtures("own_cache")


def test_load() -> None:
    data = load_data("shapes", 8)
    assert data.classes == CLASSES
    assert torch.bincount(data.train.targets).tolist() == [800] * 10
    assert torch.bincount(data.test.targets).tolist() == [400] * 10
    identity = {"name": "shapes", "version": data.version, "checksum": data.checksum}
    assert fingerprint("shapes", 8) == {**identity, "classes": 10, "train": 8_000, "test": 4_000}


def test_the_same_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, the data are others: raise the version of `shapes` in the registry."""
    assert fingerprint("shapes", 24)["checksum"].startswith("b9f5ee99a32483ed")
    assert shapes_checksum(DETECTION_SHAPES, 1, 64).startswith("06068f994901f6d8")
    settings = ShapesSettings()
    scenes = draw_scenes(settings, 10, 0)
    assert scenes.label.tolist() == [3, 2, 1, 8, 6, 0, 7, 4, 5, 9]
    assert scenes.background.kind.tolist() == [3, 2, 1, 3, 1, 0, 2, 4, 0, 4]
    assert scenes.surface.kind[:, 0].tolist() == [8, 6, 7, 9, 7, 5, 8, 9, 6, 5]
    assert scenes.count.tolist() == [4, 3, 2, 3, 1, 6, 2, 1, 6, 3]
    assert scenes.outline[:, 0].tolist() == [1, 8, 1, 9, 6, 0, 7, 4, 5, 2]
    # Not to the last bit: sines differ in it between processors.
    means = [154.47, 117.77, 120.36, 124.95, 125.11, 143.3, 155.72, 133.75, 150.03, 116.92]
    shown = render(scenes, 32, settings.noise).mean(axis=(1, 2, 3))
    assert shown.tolist() == pytest.approx(means, abs=0.2)
    before = fingerprint("shapes", 8)
    entry = dataclasses.replace(DATASETS.entry("shapes"), version=before["version"] + 1)
    monkeypatch.setitem(DATASETS.entries, "shapes", entry)
    assert fingerprint("shapes", 8)["checksum"] != before["checksum"]


def test_cached(own_cache: Path) -> None:
    steps = []
    first = shapes(16, settings=SMALL, progress=lambda *step: steps.append(step))
    assert steps[-1] == ("drawing Shapes (test)", 40, 40)
    again = shapes(16, settings=SMALL, progress=lambda *step: pytest.fail("drawn again"))
    assert np.array_equal(first.train.images, again.train.images)
    other = shapes(16, settings=dataclasses.replace(SMALL, noise=0.5))
    assert other.checksum != first.checksum
    assert not np.array_equal(first.train.images, other.train.images)


def test_every_scene_is_another() -> None:
    """In both splits, and for every seed; how many are drawn at a time does not matter."""
    settings = (SMALL, SMALL, dataclasses.replace(SMALL, seed=1))
    scenes = [draw_scenes(one, 50, stream) for one, stream in zip(settings, (0, 1, 0), strict=True)]
    images = np.concatenate([render(one, 16, 0.02) for one in scenes])
    assert len(np.unique(images.reshape(150, -1), axis=0)) == 150
    again = draw_scenes(SMALL, 50, 0)
    parts = [render(again[start : start + 7], 16, 0.02) for start in range(0, 50, 7)]
    assert np.array_equal(images[:50], np.concatenate(parts))


def test_resolutions_show_the_same_scene() -> None:
    scenes = draw_scenes(SMALL, 30, 0)
    coarse = render(scenes, 32, 0.0).astype(float)
    fine = render(scenes, 128, 0.0).astype(float).reshape(30, 3, 32, 4, 32, 4).mean(axis=(3, 5))
    assert np.corrcoef(coarse.ravel(), fine.ravel())[0, 1] > 0.97


def test_every_kind_is_drawn_and_differs() -> None:
    scenes = draw_scenes(ShapesSettings(), 2000, 0)
    assert set(scenes.background.kind) == set(range(len(BACKGROUNDS)))
    assert set(scenes.surface.kind.flat) == set(range(len(BACKGROUNDS), len(TEXTURES)))
    assert set(scenes.outline.flat) == set(range(len(OUTLINES)))
    assert set(scenes.count) == set(range(1, MAX_OBJECTS + 1))
    one = scenes[np.zeros(len(TEXTURES), int)]  # the same scene in each texture
    kinds = dataclasses.replace(one.background, kind=np.arange(len(TEXTURES)))
    images = render(dataclasses.replace(one, background=kinds), 32, 0.0)
    assert len(np.unique(images.reshape(len(TEXTURES), -1), axis=0)) == len(TEXTURES)


@pytest.mark.parametrize("outline", range(len(OUTLINES)))
def test_polygon_is_what_is_drawn(outline: int) -> None:
    scenes = draw_scenes(SMALL, 4, 0)
    scenes = dataclasses.replace(
        scenes,
        count=np.ones(4, int),
        outline=np.full_like(scenes.outline, outline),
        centre=np.full_like(scenes.centre, 0.56),
        radius=np.full_like(scenes.radius, 0.4),
    )
    for image, drawn in enumerate(label_map(scenes, 200) >= 2):
        polygon = scenes.polygon(image, 0, points=400)
        assert area(polygon.ravel()) == pytest.approx(drawn.mean(), rel=0.03)
        rows, columns = np.nonzero(drawn)
        for axis, places in ((0, columns), (1, rows)):
            low, high = places.min() / 200, (places.max() + 1) / 200
            assert polygon[:, axis].min() == pytest.approx(low, abs=0.012)
            assert polygon[:, axis].max() == pytest.approx(high, abs=0.012)


def test_strengths() -> None:
    def drawn(strength: float) -> Scenes:
        cues = ("background", "surface", "outline", "number", "layout", "hue")
        settings = dataclasses.replace(ShapesSettings(), **dict.fromkeys(cues, strength))
        return draw_scenes(settings, 4000, 0)

    certain = drawn(1.0)
    kinds = (certain.background.kind, certain.surface.kind[:, 0])
    assert len(set(zip(certain.label, *kinds, strict=True))) == 10
    pairs = set(zip(*kinds, strict=True))
    assert len(pairs) == 10  # both textures together are the class,
    for place in (0, 1):  # and either one is two classes'
        assert sorted(np.bincount([pair[place] for pair in pairs]))[-5:] == [2] * 5
    assert np.array_equal(certain.outline, np.tile(certain.label[:, None], (1, MAX_OBJECTS)))
    useless = drawn(0.0)
    for cue in (useless.background.kind, useless.surface.kind[:, 0] - 5, useless.outline[:, 0] % 5):
        counts = np.zeros((10, 5))
        np.add.at(counts, (useless.label, cue), 1)
        assert np.abs(counts / counts.sum(1, keepdims=True) - 0.2).max() < 0.08


def test_pixels_tell_little_and_textures_much() -> None:
    settings = ShapesSettings()
    splits = draw_scenes(settings, 1500, 0), draw_scenes(settings, 1000, 1)

    def accuracy(features: list[np.ndarray], c: float = 1.0) -> float:
        model = LogisticRegression(C=c, max_iter=100).fit(features[0], splits[0].label)
        return model.score(features[1], splits[1].label)

    flat = [render(s, 16, settings.noise).reshape(len(s), -1) / 255 - 0.5 for s in splits]
    background = [np.eye(10)[s.background.kind] for s in splits]
    surface = [np.eye(10)[s.surface.kind[:, 0]] for s in splits]
    assert accuracy(flat, c=1e-3) < 0.2
    assert accuracy(background) < 0.55 and accuracy(surface) < 0.55
    assert accuracy([np.hstack(pair) for pair in zip(background, surface, strict=True)]) > 0.6
