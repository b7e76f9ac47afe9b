"""Pictures: what is there on the left, what is found beside it, on the image as mmcv reads it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from locbench.evaluation.downstream import operators

operators.install()

from mmcv.transforms import LoadImageFromFile  # noqa: E402
from mmdet.structures import DetDataSample  # noqa: E402
from mmdet.structures.mask import BitmapMasks  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

from locbench.evaluation.downstream.pictures import GAP, SIDE, color, draw, read  # noqa: E402

CLASSES = ("cat", "dog")
SMALL = 40  # pixels, enlarged 8 times
TIMES = SIDE // SMALL


class Finds(torch.nn.Module):
    """A detector that finds what it is told."""

    def __init__(self, objects: InstanceData) -> None:
        super().__init__()
        self.objects = objects

    def test_step(self, batch: dict) -> list[DetDataSample]:
        sample = batch["data_samples"][0]
        sample.pred_instances = self.objects
        return [sample]


def instances(*objects: tuple[int, tuple[int, int, int, int]]) -> tuple:
    """Labels, boxes and masks of objects that fill their boxes."""
    masks = np.zeros((len(objects), SMALL, SMALL), np.uint8)
    for mask, (_, (left, top, right, bottom)) in zip(masks, objects, strict=True):
        mask[top:bottom, left:right] = 1
    boxes = torch.tensor([box for _, box in objects]).float().reshape(-1, 4)
    return torch.tensor([label for label, _ in objects]), boxes, masks


def a_set(path: Path, *objects) -> list[dict]:
    there = InstanceData()
    there.labels, there.bboxes, masks = instances(*objects)
    there.masks = BitmapMasks(masks, SMALL, SMALL)
    sample = DetDataSample(metainfo={"img_path": str(path)})
    sample.gt_instances = there
    return [{"inputs": torch.zeros(3, SMALL, SMALL), "data_samples": sample}]


def found(scores: list[float], *objects) -> InstanceData:
    result = InstanceData(scores=torch.tensor(scores))
    result.labels, result.bboxes, masks = instances(*objects)
    result.masks = torch.from_numpy(masks).bool()
    return result


def halves(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with Image.open(path) as image:
        pixels = np.asarray(image).astype(int)
    assert pixels.shape == (SIDE, 2 * SIDE + GAP, 3)
    assert (pixels[:, SIDE : SIDE + GAP] == 255).all()
    return pixels[:, :SIDE], pixels[:, SIDE + GAP :]


def changed(half: np.ndarray) -> np.ndarray:
    """Which pixels of the small image were drawn on: half of those that one became, or more."""
    drawn = (half != 100).any(axis=2).reshape(SMALL, TIMES, SMALL, TIMES)
    return drawn.mean(axis=(1, 3)) > 0.5


def test_what_is_there_and_what_is_surely_found_are_drawn_apart(tmp_path):
    path = tmp_path / "one.jpg"
    Image.new("RGB", (SMALL, SMALL), (100, 100, 100)).save(path, quality=95)
    dog, cat, doubtful = (1, (4, 20, 12, 36)), (0, (22, 22, 34, 38)), (1, (2, 2, 12, 10))
    model = Finds(found([0.9, 0.29], cat, doubtful))
    draw(model, a_set(path, dog), CLASSES, tmp_path / "pictures", count=5)
    assert [file.name for file in (tmp_path / "pictures").iterdir()] == ["one.png"]
    for half, (label, (left, top, right, bottom)) in zip(
        halves(tmp_path / "pictures/one.png"), (dog, cat), strict=True
    ):
        drawn, inside = changed(half), np.zeros((SMALL, SMALL), bool)
        inside[top:bottom, left:right] = True
        assert drawn[inside].all() and not drawn[~inside].any()
        middle = half[TIMES * (top + bottom) // 2, TIMES * (left + right) // 2]
        assert middle == pytest.approx(0.6 * 100 + 0.4 * np.array(color(label)), abs=2)


def test_where_nothing_is_found_the_image_stays_plain(tmp_path):
    path = tmp_path / "one.png"
    Image.new("RGB", (SMALL, SMALL), (100, 100, 100)).save(path)
    draw(Finds(found([])), a_set(path, (0, (5, 5, 20, 20))), CLASSES, tmp_path / "pictures", 1)
    left, right = halves(tmp_path / "pictures/one.png")
    assert changed(left).any() and (right == 100).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_it_is_for_the_detector(tmp_path, orientation):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    image, path = Image.fromarray(pixels).resize((48, 32)), tmp_path / "turned.jpg"
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(path, exif=exif, quality=95)
    theirs = LoadImageFromFile().transform({"img_path": str(path)})["img"][..., ::-1]
    ours = read(path)
    assert ours.shape == theirs.shape == ((32, 48, 3) if orientation < 5 else (48, 32, 3))
    assert np.abs(ours.astype(int) - theirs).max() <= 8
