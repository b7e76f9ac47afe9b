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
    SURFACES,
    TEXTURES,
    Scenes,
    draw_scenes,
    radial,
)
from locbench.data.settings import ShapesSettings
from locbench.data.shapes import shapes
from locbench.errors import UserError
from locbench.plugins.registry import DATASETS

SMALL = ShapesSettings(train=60, test=40)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOCBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def equal(one: Scenes, two: Scenes) -> bool:
    flat = [
        (a, b)
        for part in ("background", "surface")
        for a, b in zip(
            vars(getattr(one, part)).values(), vars(getattr(two, part)).values(), strict=True
        )
    ]
    flat += [(one.label, two.label), (one.outline, two.outline), (one.centre, two.centre)]
    return all(np.array_equal(a, b) for a, b in flat)


def test_load() -> None:
    data = load_data("shapes", 8)
    assert (len(data.train), len(data.test)) == (8_000, 4_000)
    assert data.classes == CLASSES and not data.streaming
    assert torch.bincount(data.train.targets).tolist() == [800] * 10
    assert torch.bincount(data.test.targets).tolist() == [400] * 10
    found = fingerprint("shapes", 8)
    assert found == {
        "name": "shapes",
        "version": DATASETS.entry("shapes").version,
        "checksum": data.checksum,
        "classes": 10,
        "train": 8_000,
        "test": 4_000,
    }
    assert fingerprint("shapes", 16)["checksum"] != data.checksum


def test_version_is_in_the_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint("shapes", 8)
    entry = dataclasses.replace(DATASETS.entry("shapes"), version=before["version"] + 1)
    monkeypatch.setitem(DATASETS.entries, "shapes", entry)
    after = fingerprint("shapes", 8)
    assert after["version"] != before["version"] and after["checksum"] != before["checksum"]


def test_unknown_name() -> None:
    for ask in (load_data, fingerprint):
        with pytest.raises(UserError, match="did you mean 'shapes'"):
            ask("shape", 8)


def test_cached(own_cache: Path) -> None:
    seen = []
    first = shapes(16, settings=SMALL, progress=lambda *step: seen.append(step))
    assert seen[-1] == ("drawing Shapes (test)", 40, 40)
    assert isinstance(first.train.images, np.memmap)
    again = shapes(16, settings=SMALL, progress=lambda *step: pytest.fail("drawn again"))
    assert np.array_equal(first.train.images, again.train.images)
    assert first.checksum == again.checksum
    (folder,) = (p for p in (own_cache / "data").iterdir() if p.is_dir())
    want = np.array(first.test.images)
    (folder / "test_images.npy").unlink()
    restored = shapes(16, settings=SMALL)
    assert np.array_equal(want, restored.test.images)
    other = shapes(16, settings=dataclasses.replace(SMALL, noise=0.5))
    assert other.checksum != first.checksum
    assert not np.array_equal(first.train.images, other.train.images)


def test_seed() -> None:
    one, same = (draw_scenes(SMALL, 50, 0) for _ in range(2))
    assert equal(one, same)
    assert not equal(one, draw_scenes(SMALL, 50, 1))
    assert not equal(one, draw_scenes(dataclasses.replace(SMALL, seed=1), 50, 0))
    images = render(one, 16, 0.02)
    assert images.dtype == np.uint8 and images.shape == (50, 3, 16, 16)
    assert np.array_equal(images, render(same, 16, 0.02))


def test_the_same_as_ever() -> None:
    """If this fails, the data are others: raise the version of `shapes` in the registry."""
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


def test_splits_share_no_image() -> None:
    data = shapes(16, settings=SMALL)
    images = np.concatenate([data.train.images, data.test.images]).reshape(100, -1)
    assert len(np.unique(images, axis=0)) == 100


def test_chunks_do_not_matter() -> None:
    scenes = draw_scenes(SMALL, 20, 0)
    whole = render(scenes, 16, 0.02)
    parts = [render(scenes[start : start + 7], 16, 0.02) for start in range(0, 20, 7)]
    assert np.array_equal(whole, np.concatenate(parts))


def test_resolutions_show_the_same_scene() -> None:
    scenes = draw_scenes(SMALL, 30, 0)
    coarse = render(scenes, 32, 0.0).astype(float)
    fine = render(scenes, 128, 0.0).astype(float).reshape(30, 3, 32, 4, 32, 4).mean(axis=(3, 5))
    assert np.abs(coarse - fine).mean() < 10
    assert np.corrcoef(coarse.ravel(), fine.ravel())[0, 1] > 0.97


def test_every_kind_is_drawn_and_differs() -> None:
    scenes = draw_scenes(ShapesSettings(), 2000, 0)
    assert set(scenes.background.kind) == set(range(len(BACKGROUNDS)))
    first = len(BACKGROUNDS)
    assert set(scenes.surface.kind.flat) == set(range(first, first + len(SURFACES)))
    assert set(scenes.outline.flat) == set(range(len(OUTLINES)))
    assert set(scenes.count) == set(range(1, MAX_OBJECTS + 1))
    theta = np.tile(np.linspace(0, 2 * np.pi, 500), (len(OUTLINES), 1))
    lengths = radial(np.arange(len(OUTLINES)), theta)
    assert lengths.min() > 0.2 and lengths.max() <= 1 + 1e-6
    assert len(np.unique(lengths.round(3), axis=0)) == len(OUTLINES)
    # The same scene in each texture.
    one = scenes[np.zeros(len(TEXTURES), int)]
    kinds = dataclasses.replace(one.background, kind=np.arange(len(TEXTURES)))
    images = render(dataclasses.replace(one, background=kinds), 32, 0.0)
    assert len(np.unique(images.reshape(len(TEXTURES), -1), axis=0)) == len(TEXTURES)


def shoelace(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


@pytest.mark.parametrize("outline", range(len(OUTLINES)))
def test_polygon_is_what_is_drawn(outline: int) -> None:
    scenes = draw_scenes(SMALL, 4, 0)
    scenes = dataclasses.replace(
        scenes,
        count=np.ones(4, int),
        outline=np.full_like(scenes.outline, outline),
        centre=np.full_like(scenes.centre, 0.5) + 0.06,
        radius=np.full_like(scenes.radius, 0.4),
    )
    drawn = label_map(scenes, 200) >= 2
    for image in range(4):
        polygon = scenes.polygon(image, 0, points=400)
        assert shoelace(polygon) == pytest.approx(drawn[image].mean(), rel=0.03)
        rows, columns = np.nonzero(drawn[image])
        for axis, places in ((0, columns), (1, rows)):
            low, high = places.min() / 200, (places.max() + 1) / 200
            assert polygon[:, axis].min() == pytest.approx(low, abs=0.012)
            assert polygon[:, axis].max() == pytest.approx(high, abs=0.012)


def test_later_objects_lie_on_top() -> None:
    scenes = draw_scenes(SMALL, 8, 0)
    scenes = dataclasses.replace(
        scenes,
        count=np.full(8, 2),
        centre=np.full_like(scenes.centre, 0.5),
        radius=np.tile([[0.4, 0.2, 0.2, 0.2, 0.2, 0.2]], (8, 1)),
    )
    labels = label_map(scenes, 64)
    assert (labels[:, 32, 32] // 2 == 2).all()
    assert (labels // 2 == 1).any(axis=(1, 2)).all()


def test_objects_over_the_edge() -> None:
    scenes = draw_scenes(SMALL, 3, 0)
    corners = np.array([[0.0, 0.0], [1.0, 0.5], [0.4, 1.05]])
    scenes = dataclasses.replace(
        scenes,
        count=np.ones(3, int),
        outline=np.zeros_like(scenes.outline),
        centre=np.tile(corners[:, None], (1, MAX_OBJECTS, 1)),
        radius=np.full_like(scenes.radius, 0.3),
    )
    drawn = label_map(scenes, 200) >= 2
    disc = np.pi * (0.3 * 0.85) ** 2
    assert drawn[0].mean() == pytest.approx(disc / 4, rel=0.02)
    assert drawn[1].mean() == pytest.approx(disc / 2, rel=0.02)
    assert 0 < drawn[2].mean() < disc / 2 and not drawn[2, :100].any()


def test_strengths() -> None:
    def drawn(strength: float) -> Scenes:
        cues = ("background", "surface", "outline", "number", "layout", "hue")
        settings = dataclasses.replace(ShapesSettings(), **dict.fromkeys(cues, strength))
        return draw_scenes(settings, 4000, 0)

    certain = drawn(1.0)
    pairs = set(
        zip(certain.label, certain.background.kind, certain.surface.kind[:, 0], strict=True)
    )
    assert len(pairs) == 10  # both textures together are the class,
    assert len({(b, s) for _, b, s in pairs}) == 10
    for place in (1, 2):  # and either one is two classes'
        assert sorted(np.bincount([p[place] for p in pairs]).tolist())[-5:] == [2] * 5
    assert np.array_equal(certain.outline, np.tile(certain.label[:, None], (1, MAX_OBJECTS)))
    useless = drawn(0.0)
    for cue in (useless.background.kind, useless.surface.kind[:, 0] - 5, useless.outline[:, 0] % 5):
        counts = np.zeros((10, 5))
        np.add.at(counts, (useless.label, cue), 1)
        assert np.abs(counts / counts.sum(1, keepdims=True) - 0.2).max() < 0.08


def accuracy(train: np.ndarray, test: np.ndarray, labels: tuple[np.ndarray, np.ndarray]) -> float:
    model = LogisticRegression(C=1e-3 if train.shape[1] > 100 else 1.0, max_iter=100)
    return model.fit(train, labels[0]).score(test, labels[1])


def test_pixels_tell_little_and_textures_much() -> None:
    settings = ShapesSettings()
    train, test = draw_scenes(settings, 1500, 0), draw_scenes(settings, 1000, 1)
    labels = (train.label, test.label)
    flat = [render(s, 16, settings.noise).reshape(len(s), -1) / 255 - 0.5 for s in (train, test)]
    assert accuracy(*flat, labels) < 0.2
    kinds = [
        np.concatenate([np.eye(10)[s.background.kind], np.eye(10)[s.surface.kind[:, 0]]], axis=1)
        for s in (train, test)
    ]
    assert accuracy(*kinds, labels) > 0.6
    assert accuracy(kinds[0][:, :10], kinds[1][:, :10], labels) < 0.55
    assert accuracy(kinds[0][:, 10:], kinds[1][:, 10:], labels) < 0.55
