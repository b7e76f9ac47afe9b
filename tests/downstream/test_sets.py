"""What can be wrong with the files of a detection data set: one line, with the path."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO as COCOFile

from locbench.downstream.cityscapes import convert
from locbench.downstream.sets import CITYSCAPES, COCO
from locbench.errors import UserError


def write(folder: Path, layout, names=("cat", "dog"), count=3) -> Path:
    for images, file in layout:
        (folder / images).mkdir(parents=True, exist_ok=True)
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        entries = []
        for k in range(count):
            Image.new("RGB", (40, 30), (k, 0, 0)).save(folder / images / f"{k}.png")
            entries.append({"id": k, "file_name": f"{k}.png", "width": 40, "height": 30})
        box = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81}
        box |= {"iscrowd": 0, "segmentation": [[1, 1, 10, 1, 10, 10, 1, 10]]}
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(names)]
        content = {"images": entries, "annotations": [box], "categories": categories}
        (folder / file).write_text(json.dumps(content))
    return folder


def test_official_layout_and_images_in_its_place(tmp_path):
    write(tmp_path / "coco", COCO.layouts[0])
    found = COCO.fingerprint(tmp_path, 0)
    assert (found["name"], found["classes"], found["train"], found["test"]) == ("coco", 2, 3, 3)
    data = COCO.load(tmp_path, 0)
    assert data.classes == ("cat", "dog") and data.form == "coco" and len(data.train) == 3
    write(tmp_path / "slice", COCO.layouts[1])
    other = COCO.fingerprint(tmp_path / "slice", 0)
    assert other["name"] == "slice"
    write(tmp_path / "inner/coco", COCO.layouts[1])
    assert COCO.fingerprint(tmp_path / "inner", 0)["name"] == "coco-images"


def test_checksum_is_of_the_annotations(tmp_path):
    folder = write(tmp_path / "coco", COCO.layouts[0])
    before = COCO.fingerprint(tmp_path, 0)["checksum"]
    write(folder, COCO.layouts[0][:1], count=4)
    assert COCO.fingerprint(tmp_path, 0)["checksum"] != before


def missing_annotations(folder: Path) -> str:
    (folder / "annotations/instances_train2017.json").unlink()
    return rf"no 'coco' in {folder}: expected train2017/ and annotations/instances_train2017.json"


def no_json(folder: Path) -> str:
    path = folder / "annotations/instances_val2017.json"
    path.write_text("{")
    return rf"{path} cannot be read as JSON"


def no_coco(folder: Path) -> str:
    path = folder / "annotations/instances_val2017.json"
    path.write_text('{"images": []}')
    return rf"{path} is not in COCO's format: it needs the lists images, annotations, categories"


def missing_image(folder: Path) -> str:
    (folder / "train2017/1.png").unlink()
    return rf"{folder}/train2017/1.png is missing, and 1 of the 3 images in .*train2017.json"


def missing_folder(folder: Path) -> str:
    (folder / "val2017").rename(folder / "val")
    return rf"{folder}/val2017 is missing: .*val2017.json names 3 images in it"


def other_categories(folder: Path) -> str:
    write(folder, COCO.layouts[0][:1], names=("cat", "cow"))
    return "have different categories: 'dog' is missing and 'cow' is there"


@pytest.mark.parametrize(
    "spoil",
    [missing_annotations, no_json, no_coco, missing_image, missing_folder, other_categories],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, spoil):
    words = spoil(write(tmp_path / "coco", COCO.layouts[0]))
    with pytest.raises(UserError, match=words) as error:
        COCO.load(tmp_path, 0)
    assert "\n" not in str(error.value)


def test_cityscapes_that_is_not_converted(tmp_path):
    folder = tmp_path / "cityscapes"
    (folder / "gtFine").mkdir(parents=True)
    with pytest.raises(UserError, match=f"run locbench data cityscapes-to-coco {folder}"):
        CITYSCAPES.fingerprint(tmp_path, 0)
    (folder / "gtFine").rmdir()
    with pytest.raises(UserError, match=r"expected leftImg8bit/train/ and annotations/instances"):
        CITYSCAPES.fingerprint(tmp_path, 0)
    with pytest.raises(UserError, match="is not a folder: give --data-root"):
        CITYSCAPES.fingerprint(tmp_path / "nowhere", 0)


def test_cityscapes_is_converted(tmp_path):
    ids = np.zeros((20, 30), np.uint16)
    ids[2:6, 3:9], ids[10:15, 10:20], ids[16:19, 1:5] = 26000, 26001, 24
    ids[0, :5], ids[1, :5] = 29000, 7  # a caravan does not count; a road has no instances
    for split in ("train", "val"):
        truth, images = tmp_path / "gtFine" / split / "bonn", tmp_path / "leftImg8bit" / split
        truth.mkdir(parents=True)
        (images / "bonn").mkdir(parents=True)
        Image.fromarray(ids).save(truth / "bonn_0_gtFine_instanceIds.png")
        Image.new("RGB", (30, 20)).save(images / "bonn/bonn_0_leftImg8bit.png")
    assert [path.is_file() for path in convert(tmp_path)] == [True, True]
    data = CITYSCAPES.load(tmp_path, 0)
    assert data.name == "cityscapes" and len(data.classes) == 8 and len(data.test) == 1
    coco = COCOFile(str(data.train.annotations))
    found = [(a["category_id"], a["iscrowd"], a["area"], a["bbox"]) for a in coco.anns.values()]
    assert found == [
        (24, 1, 12, [1, 16, 4, 3]),
        (26, 0, 24, [3, 2, 6, 4]),
        (26, 0, 50, [10, 10, 10, 5]),
    ]
    assert np.array_equal(coco.annToMask(coco.anns[2]), ids == 26000)
    (tmp_path / "leftImg8bit/val/bonn/bonn_0_leftImg8bit.png").unlink()
    with pytest.raises(UserError, match=r"bonn_0_leftImg8bit.png is missing"):
        convert(tmp_path)
    with pytest.raises(UserError, match=r"has no CITY/\*_gtFine_instanceIds.png"):
        convert(tmp_path / "leftImg8bit")
