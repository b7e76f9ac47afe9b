"""Detection data sets: what identifies them, and what can be wrong with their files."""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO as COCOFile

from locbench.data.files import Files
from locbench.errors import UserError
from locbench.evaluation.downstream import categories, operators, sets
from locbench.evaluation.downstream.cityscapes import convert
from locbench.evaluation.downstream.sets import CITYSCAPES, COCO, only

FORMS = {"coco": (COCO, "CocoDataset"), "cityscapes": (CITYSCAPES, "CityscapesDataset")}


def write(folder: Path, layout, names=categories.COCO, count=3) -> Path:
    for images, file in layout:
        (folder / images).mkdir(parents=True, exist_ok=True)
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        entries = []
        for k in range(count):
            Image.new("RGB", (40, 36), (k, 0, 0)).save(folder / images / f"{k}.png")
            entries.append({"id": k, "file_name": f"{k}.png", "width": 40, "height": 36})
        box = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81}
        box |= {"iscrowd": 0, "segmentation": [[1, 1, 10, 1, 10, 10, 1, 10]]}
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(names)]
        content = {"images": entries, "annotations": [box], "categories": categories}
        (folder / file).write_text(json.dumps(content))
    return folder


def checksum(root: Path) -> str:
    return COCO.fingerprint(root, 0)["checksum"]


def test_official_layout_and_images_in_its_place(tmp_path):
    write(tmp_path / "coco", COCO.layouts[0])
    found = COCO.fingerprint(tmp_path, 0)
    assert (found["name"], found["classes"], found["train"], found["test"]) == ("coco", 80, 3, 3)
    data = COCO.load(tmp_path, 0)
    assert data.classes == categories.COCO and data.form == "coco" and len(data.train) == 3
    write(tmp_path / "slice", COCO.layouts[1])
    other = COCO.fingerprint(tmp_path / "slice", 0)
    assert other["name"] == "slice"
    write(tmp_path / "inner/coco", COCO.layouts[1])
    assert COCO.fingerprint(tmp_path / "inner", 0)["name"] == "coco-images"


def test_checksum_is_of_annotations_and_pictures(tmp_path):
    """Records are found by it: it may never change."""
    folder, lines = write(tmp_path / "coco", COCO.layouts[0]), []
    for _, file in COCO.layouts[0]:
        lines.append(("annotations", folder / file))
    for split, (images, _) in zip(("train", "test"), COCO.layouts[0], strict=True):
        lines += [(split, folder / images / f"{k}.png") for k in range(3)]
    text = "".join(f"{p} 0 {hashlib.sha256(f.read_bytes()).hexdigest()}\n" for p, f in lines)
    assert checksum(tmp_path) == hashlib.sha256(text.encode()).hexdigest()
    assert COCO.load(tmp_path, 0).checksum == checksum(tmp_path)


@pytest.mark.parametrize("layout", COCO.layouts)
def test_other_pictures_or_annotations_are_other_data(tmp_path, layout):
    folder = write(tmp_path / "coco", layout)
    (_, _), (images, file) = layout
    seen = [checksum(tmp_path)]
    Image.new("RGB", (40, 36), (9, 9, 9)).save(folder / images / "1.png")
    seen.append(checksum(tmp_path))
    change(folder / file, lambda content: content["annotations"][0].update(area=80))
    seen.append(checksum(tmp_path))
    assert len(set(seen)) == 3
    Image.new("RGB", (40, 36)).save(folder / images / "unnamed.png")  # in no annotation file
    assert checksum(tmp_path) == seen[-1]


def test_the_second_look_reads_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("locbench.data.digests.SETTLED_S", 0.0)
    folder = write(tmp_path / "coco", COCO.layouts[0])
    first = COCO.fingerprint(tmp_path, 0)
    names = []
    read = Files.read
    monkeypatch.setattr(Files, "read", lambda files, k: names.append(k) or read(files, k))
    monkeypatch.setattr(sets, "_read", lambda path: pytest.fail(f"{path} is read"))
    assert COCO.fingerprint(tmp_path, 0) == first and not names
    (folder / "val2017/2.png").write_bytes(b"other")
    assert COCO.fingerprint(tmp_path, 0) != first and names == [7]


def change(path: Path, edit) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def mmdets(name: str):
    operators.install()
    from mmdet import datasets

    return getattr(datasets, name)


def test_categories_are_mmdets():
    for form, (_, name) in FORMS.items():
        assert getattr(categories, form.upper()) == mmdets(name).METAINFO["classes"]


@pytest.mark.parametrize("form", FORMS)
def test_images_of_an_epoch_are_those_that_mmdet_trains_on(tmp_path, form):
    known, name = FORMS[form]
    folder = write(tmp_path / form, known.layouts[0], getattr(categories, form.upper()), count=6)
    path = folder / known.layouts[0][0][1]

    def spread(content):
        first = content["annotations"][0]
        for id, image, crowd in ((2, 0, 1), (3, 1, 1), (4, 2, 0), (5, 4, 0), (6, 5, 0)):
            content["annotations"].append({**first, "id": id, "image_id": image, "iscrowd": crowd})
        content["annotations"][-1]["category_id"] = 99  # of no category
        content["images"][0].update(height=32)  # just large enough; the others are 40 x 40
        for entry in content["images"][1:]:
            entry.update(height=40)
        content["images"][4].update(width=31)

    change(path, spread)
    data, whole = known.load(tmp_path, 0), known.fingerprint(tmp_path, 0)
    theirs = mmdets(name)(
        ann_file=str(path), data_prefix={"img": str(data.train.images)}, pipeline=[],
        metainfo={"classes": data.classes}, filter_cfg={"filter_empty_gt": True, "min_size": 32},
    )  # fmt: skip
    used = {theirs.get_data_info(k)["img_id"] for k in range(len(theirs))}
    assert used == {"coco": {0, 1, 2}, "cityscapes": {0, 2}}[form]
    assert data.train.usable == used and data.train.used == len(theirs)
    assert len(data.train) == whole["train"] == 6
    part = only(data.train, [1, 2, 3], tmp_path / "part.json")
    assert len(part) == 3 and part.usable == used & {1, 2, 3}


def test_classes_are_in_the_order_of_mmdets_labels(tmp_path):
    folder = write(tmp_path / "coco", COCO.layouts[0])
    for _, file in COCO.layouts[0]:
        change(folder / file, lambda content: content["categories"].reverse())
    data = COCO.load(tmp_path, 0)
    theirs = mmdets("CocoDataset")(
        ann_file=str(data.train.annotations), data_prefix={"img": str(data.train.images)},
        metainfo={"classes": data.classes}, pipeline=[],
    )  # fmt: skip
    label = theirs.get_data_info(0)["instances"][0]["bbox_label"]
    assert data.classes[label] == "person"  # category 1, and the last in the file


def missing_annotations(folder: Path) -> str:
    path = folder / "annotations/instances_val2017.json"
    path.unlink()
    return rf"^{path} is missing: expected train2017/ and annotations/instances_train2017.json, "


def missing_everything(folder: Path) -> str:
    shutil.rmtree(folder)
    path = folder.parent / "annotations/instances_train2017.json"
    return rf"^{path} is missing, and there is no {folder}: expected train2017/ and "


def missing_annotations_of_a_slice(folder: Path) -> str:
    shutil.rmtree(folder)
    path = write(folder, COCO.layouts[1]) / "annotations/instances_train.json"
    path.unlink()
    return rf"^{path} is missing: expected train2017/ .*; or images/ with annotations/instances_"


def missing_image(folder: Path) -> str:
    (folder / "train2017/1.png").unlink()
    return rf"{folder}/train2017/1.png is missing, and 1 of the 3 images in .*train2017.json"


def missing_folder(folder: Path) -> str:
    (folder / "val2017").rename(folder / "val")
    return rf"{folder}/val2017 is missing: .*val2017.json names 3 images in it"


def other_categories(folder: Path) -> str:
    write(folder, COCO.layouts[0][:1], names=("cow", "horse"))
    write(folder, COCO.layouts[0][1:], names=("cow", "zebra"))
    return "have different categories: 'zebra' is missing and 'horse' is there"


def not_cocos(folder: Path) -> str:
    write(folder, COCO.layouts[0], names=("cat", "dogs"))
    path = folder / "annotations/instances_train2017.json"
    return rf"{path} has other categories than coco: 'person' is missing and 'dogs' is there"


def no_coco(folder: Path) -> str:
    path = folder / "annotations/instances_val2017.json"
    path.write_text('{"images": []}')
    return rf"{path} is not in COCO's format: it needs the lists images, annotations, categories"


@pytest.mark.parametrize(
    "spoil",
    [missing_annotations, missing_everything, missing_annotations_of_a_slice, no_coco,
     missing_image, missing_folder, other_categories, not_cocos],
)  # fmt: skip
def test_files_that_do_not_fit_are_named_in_one_line(tmp_path, spoil):
    words = spoil(write(tmp_path / "coco", COCO.layouts[0]))
    with pytest.raises(UserError, match=words) as error:
        COCO.load(tmp_path, 0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda c: c["images"].insert(1, "0.png"), r"images\[1\] is no object"),
        (lambda c: c["annotations"][-1].pop("bbox"), r"annotations\[0\] has no 'bbox'$"),
        (lambda c: c["images"][1].update(file_name=1), r"images\[1\]: file_name must be text"),
        (lambda c: c["images"][1].update(file_name="a\0b"), "is missing, and 1 of the 3 images in"),
        (lambda c: c["images"][1].update(width="40"), r"\[1\]: width and height must be above 0"),
        (lambda c: c["annotations"][0].update(image_id=77), r"\[0\]: image_id 77 is of no image"),
        (
            lambda c: c["annotations"][0].update(segmentation=[]),
            r"annotations\[0\]: segmentation must be polygons or a run-length code",
        ),
        (lambda c: c["categories"].reverse(), "different categories: their order differs"),
        (
            lambda c: c["categories"][2].update(id=90),
            "number their categories differently: 'car' is 90 and 3",
        ),
        (
            lambda c: [entry.update(height=31) for entry in c["images"]],
            "has no image to train on: none has objects and sides of at least 32 pixels",
        ),
    ],
)
def test_entries_that_are_wrong_are_named_in_one_line(tmp_path, edit, words):
    path = write(tmp_path / "coco", COCO.layouts[0]) / "annotations/instances_train2017.json"
    change(path, edit)
    with pytest.raises(UserError, match=words) as error:
        COCO.load(tmp_path, 0)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


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


def ground_truth(folder: Path) -> np.ndarray:
    """Write Cityscapes with an image a split; the ids in each."""
    ids = np.zeros((40, 60), np.uint16)
    ids[2:6, 3:9], ids[10:15, 10:20], ids[16:19, 1:5] = 26000, 26001, 24
    ids[0, :5], ids[1, :5] = 29000, 7  # a caravan does not count; a road has no instances
    for split in ("train", "val"):
        truth, images = folder / "gtFine" / split / "bonn", folder / "leftImg8bit" / split
        truth.mkdir(parents=True)
        (images / "bonn").mkdir(parents=True)
        Image.fromarray(ids).save(truth / "bonn_0_gtFine_instanceIds.png")
        Image.new("RGB", (60, 40)).save(images / "bonn/bonn_0_leftImg8bit.png")
    return ids


def no_extra(folder: Path, patch: pytest.MonkeyPatch) -> str:
    patch.setitem(sys.modules, "pycocotools", None)
    return "^detection needs pycocotools, which is not installed: run python -m pip install"


def in_colour(folder: Path, patch: pytest.MonkeyPatch) -> str:
    path = folder / "gtFine/val/bonn/bonn_0_gtFine_instanceIds.png"
    Image.new("RGB", (60, 40)).save(path)
    return rf"^{path} is no map of ids but an image in colour"


def cut_short(folder: Path, patch: pytest.MonkeyPatch) -> str:
    path = folder / "gtFine/train/bonn/bonn_0_gtFine_instanceIds.png"
    path.write_bytes(path.read_bytes()[:60])
    return rf"^{path} cannot be read as an image"


@pytest.mark.parametrize("spoil", [no_extra, in_colour, cut_short])
def test_what_keeps_cityscapes_from_being_converted(tmp_path, monkeypatch, spoil):
    ground_truth(tmp_path)
    with pytest.raises(UserError, match=spoil(tmp_path, monkeypatch)) as error:
        convert(tmp_path)
    assert "\n" not in str(error.value)


def test_cityscapes_is_converted(tmp_path):
    ids = ground_truth(tmp_path)
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
