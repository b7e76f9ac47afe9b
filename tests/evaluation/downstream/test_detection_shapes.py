"""Detection Shapes: what is annotated is what can be seen, in COCO's format."""

import json

import numpy as np
import pytest
from PIL import Image

from locbench.data.scenes import SURFACES
from locbench.errors import UserError
from locbench.evaluation.downstream import shapes
from locbench.evaluation.downstream.sets import SHAPES, only, training_images

SIDE = 64


@pytest.fixture(scope="module")
def known():
    return SHAPES.load(None, SIDE)


def content(part) -> dict:
    return json.loads(part.annotations.read_text())


def test_five_categories_one_to_six_objects_an_image_overlapping():
    scenes, category = shapes.draw_objects(400, 0)
    assert set(scenes.count) == {1, 2, 3, 4, 5, 6} and set(category.ravel()) == set(range(5))
    assert np.array_equal(scenes.surface.kind, 5 + category)
    assert np.array_equal(scenes.outline % 5, category) and len(set(scenes.outline.ravel())) == 10
    hidden = sum(
        sum(map(shapes.area, polygons)) < 0.9 * shapes.area(list(whole.ravel() * SIDE))
        for image in range(100)
        for item, polygons in enumerate(shapes.visible(scenes, image, SIDE))
        for whole in [scenes.polygon(image, item)]
    )
    assert hidden > 50


def test_polygons_are_where_the_object_is_on_top():
    from shapely import Point, Polygon

    scenes, _ = shapes.draw_objects(60, 1)
    rng = np.random.default_rng(0)
    for image in range(60):
        outlines = [Polygon(scenes.polygon(image, k)).buffer(0) for k in range(scenes.count[image])]
        seen = shapes.visible(scenes, image, 1000)
        for spot in rng.random((40, 2)):
            on = [k for k, outline in enumerate(outlines) if outline.contains(Point(spot))]
            held = [
                k
                for k, polygons in enumerate(seen)
                if any(
                    Polygon(np.reshape(p, (-1, 2))).contains(Point(1000 * spot)) for p in polygons
                )
            ]
            edge = min((o.exterior.distance(Point(spot)) for o in outlines), default=1)
            assert edge < 0.003 or held == on[-1:]


def test_a_ring_is_cut_into_polygons_without_holes():
    from shapely import Point

    ring = Point(0, 0).buffer(5) - Point(0, 0).buffer(2)
    parts = shapes._without_holes(ring)
    assert len(parts) == 2 and not any(part.interiors for part in parts)
    assert sum(part.area for part in parts) == pytest.approx(ring.area)


def test_files_are_as_coco_has_them(known):
    assert known.classes == SURFACES and len(known.train) == 1000 and len(known.test) == 300
    from pycocotools.coco import COCO

    for part in (known.train, known.test):
        found = content(part)
        assert len(found["images"]) == len(part)
        coco = COCO(str(part.annotations))
        with Image.open(part.images / found["images"][0]["file_name"]) as image:
            assert image.size == (SIDE, SIDE)
        for entry in found["annotations"][:300]:
            mask = coco.annToMask(entry)
            assert abs(int(mask.sum()) - entry["area"]) <= 0.15 * entry["area"] + 12
            rows, columns = np.nonzero(mask)
            x, y, width, height = entry["bbox"]
            assert x - 1 <= columns.min() and columns.max() <= x + width + 1
            assert y - 1 <= rows.min() and rows.max() <= y + height + 1
            assert entry["area"] >= shapes.SMALLEST


def test_splits_are_drawn_by_their_number_and_written(known, tmp_path):
    one, other = (training_images(known.train, 100, split) for split in (0, 1))
    assert one == training_images(known.train, 100, 0) == sorted(set(one)) and len(one) == 100
    assert 0 < len(set(one) & set(other)) < 40
    part = only(known.train, one, tmp_path / "part.json")
    found = content(part)
    assert [entry["id"] for entry in found["images"]] == one and len(part) == 100
    assert {entry["image_id"] for entry in found["annotations"]} <= set(one)
    with pytest.raises(UserError, match=r"detection\.train_images = 2000: .* has 1,000 images"):
        training_images(known.train, 2000, 0)
