"""Where a detection data set is, what is in it, and whether all of it is there.

Needs neither torch nor mmdet: it tells which data a run uses.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from locbench.data import Progress
from locbench.data.kept import Kept
from locbench.data.listing import existing_root
from locbench.data.sources import own_name
from locbench.errors import UserError
from locbench.evaluation.downstream import categories, shapes
from locbench.paths import write_atomic
from locbench.plugins.registry import DETECTION_SETS

# What every entry of an annotation file has in COCO's format.
KEYS = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": (
        "id", "image_id", "category_id", "bbox", "area", "segmentation", "iscrowd",
    ),
    "categories": ("id", "name"),
}  # fmt: skip
# The side in pixels below which mmdet trains on no image; Shapes is drawn as large as is asked for.
MIN_SIDE = {"coco": 32, "cityscapes": 32, "shapes": 0}


@dataclass(frozen=True)
class Part:
    """One split: a folder of images, and an annotation file in COCO's format.

    usable: the ids of the images that mmdet trains on (`_usable`).
    """

    images: Path
    annotations: Path
    count: int
    usable: frozenset[int] = field(repr=False)

    def __len__(self) -> int:
        return self.count

    @property
    def used(self) -> int:
        """How many images an epoch has: those that are trained on."""
        return len(self.usable)


@dataclass(frozen=True)
class DetectionSet:
    """A detection data set whose files were all found; `test` is what is evaluated on.

    classes: in the order of the files, which is that of mmdet's labels.
    """

    name: str
    version: int
    checksum: str
    form: str  # whose categories it must have: coco, cityscapes, or shapes
    classes: tuple[str, ...]
    train: Part
    test: Part


# Folder of the images and annotation file, of training and of evaluation.
Layout = tuple[tuple[str, str], tuple[str, str]]


@dataclass(frozen=True)
class Published:
    """A published data set: the layouts its files may have, the official one first.

    `missing(folder)` says what to do where a folder of that name has none of them.
    """

    name: str
    layouts: tuple[Layout, ...]
    categories: tuple[str, ...]
    missing: Callable[[Path], str]

    def find(self, root: Path | None) -> tuple[Path, Layout]:
        """The folder, `root/name` or `root`, and its layout; UserError where there is none."""
        base = existing_root(root, self.expected)
        for folder in (base / self.name, base):
            for layout in self.layouts:
                if all((folder / annotations).is_file() for _, annotations in layout):
                    return folder, layout
        folder = base / self.name if (base / self.name).is_dir() else base
        lacks = ([p for _, file in x if not (p := folder / file).is_file()] for x in self.layouts)
        nearest = min(lacks, key=len)  # of the layout that most is there of
        neither = "" if folder != base else f", and there is no {base / self.name}"
        raise UserError(f"{nearest[0]} is missing{neither}: {self.missing(folder)}")

    @property
    def expected(self) -> str:
        """The official layout in words."""
        return "expected " + ", ".join(f"{images}/ and {file}" for images, file in self.layouts[0])

    def fingerprint(self, root: Path | None, resolution: int) -> dict[str, Any]:
        """name, version, checksum, classes, train and test (numbers of images).

        The checksum is over the two annotation files; of images only names are compared with them
        (`load`). The first look reads the files, later ones take milliseconds.
        """
        folder, layout = self.find(root)
        official = layout == self.layouts[0]
        files = tuple(folder / annotations for _, annotations in layout)
        kept = Kept(files)
        found = kept.known() or _summary(kept, files)
        counts = {key: found[key] for key in ("checksum", "classes", "train", "test")}
        name = self.name if official else own_name(folder, DETECTION_SETS)
        return {"name": name, "version": DETECTION_SETS.entry(self.name).version, **counts}

    def load(
        self, root: Path | None, resolution: int, progress: Progress | None = None
    ) -> DetectionSet:
        """The data set, after a look whether every annotated image is there."""
        folder, layout = self.find(root)
        known = self.fingerprint(root, resolution)
        parts, found = [], []
        for images, file in layout:
            content = _read(folder / file)
            _check_images(content, folder / images, folder / file)
            parts.append(_part(folder / images, folder / file, content, self.name))
            found.append(content["categories"])
        if not parts[0].used:
            raise UserError(
                f"{parts[0].annotations} has no image to train on: none has objects and sides of "
                f"at least {MIN_SIDE[self.name]} pixels"
            )
        classes = self._classes(parts, found)
        return DetectionSet(
            known["name"], known["version"], known["checksum"], self.name, classes, *parts
        )

    def _classes(self, parts: list[Part], found: list[list[dict[str, Any]]]) -> tuple[str, ...]:
        """Names in the files' order; UserError if the files differ, or are not of this data."""
        names = [tuple(category["name"] for category in held) for held in found]
        paths = f"{parts[0].annotations} and {parts[1].annotations}"
        if names[0] != names[1]:
            raise UserError(f"{paths} have different categories: {difference(*names)}")
        for one, other in zip(*found, strict=True):
            if one["id"] != other["id"]:
                ids = f"'{one['name']}' is {one['id']} and {other['id']}"
                raise UserError(f"{paths} number their categories differently: {ids}")
        if sorted(names[0]) != sorted(self.categories):
            raise UserError(
                f"{parts[0].annotations} has other categories than {self.name}: "
                f"{difference(names[0], self.categories)}"
            )
        return names[0]


def _summary(kept: Kept, files: tuple[Path, ...]) -> dict[str, Any]:
    stamps, digest, counts, classes = kept.stamps(), hashlib.sha256(), [], []
    for path in files:
        content = _read(path, digest)
        counts.append(len(content["images"]))
        classes.append(len(content["categories"]))
    summary = {"checksum": digest.hexdigest(), "classes": classes[0]}
    summary |= {"train": counts[0], "test": counts[1]}
    kept.keep(stamps, summary)
    return summary


def _read(path: Path, digest: Any = None) -> dict[str, Any]:
    """An annotation file; UserError where it is not one."""
    try:
        raw = path.read_bytes()
        content = json.loads(raw)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as JSON ({error}): copy or download it again"
        ) from None
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in KEYS):
        raise UserError(f"{path} is not in COCO's format: it needs the lists {', '.join(KEYS)}")
    if not content["images"] or not content["annotations"]:
        raise UserError(f"{path} has no images or no annotations")
    _check_entries(path, content)
    if digest is not None:
        digest.update(hashlib.sha256(raw).digest())
    return content


def _check_entries(path: Path, content: dict[str, Any]) -> None:
    for name, keys in KEYS.items():
        for number, entry in enumerate(content[name]):
            if not isinstance(entry, dict):
                raise UserError(f"{path} is not in COCO's format: {name}[{number}] is no object")
            if gone := [key for key in keys if key not in entry]:
                raise UserError(
                    f"{path} is not in COCO's format: {name}[{number}] has no '{gone[0]}'"
                )
    images = {image["id"] for image in content["images"]}
    for number, image in enumerate(content["images"]):
        if not all(_is_number(image[key]) and image[key] > 0 for key in ("width", "height")):
            raise UserError(f"{path}: images[{number}]: width and height must be above 0")
    for number, entry in enumerate(content["annotations"]):
        if wrong := _wrong(entry, images):
            raise UserError(f"{path}: annotations[{number}]: {wrong}")


def _wrong(entry: dict[str, Any], images: set[Any]) -> str:
    """What an annotation's values are not; pycocotools would fail on it in the end."""
    box, shape = entry["bbox"], entry["segmentation"]
    if entry["image_id"] not in images:
        return f"image_id {entry['image_id']} is of no image"
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return "bbox must be four numbers"
    if not isinstance(shape, list | dict) or not shape:
        return "segmentation must be polygons or a run-length code"
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _part(images: Path, annotations: Path, content: dict[str, Any], form: str) -> Part:
    return Part(images, annotations, len(content["images"]), _usable(content, form))


def _usable(content: dict[str, Any], form: str) -> frozenset[int]:
    """The images that mmdet's data set of this form trains on.

    They have objects, and are not too small. On Cityscapes a crowd is no object, on COCO it is.
    """
    known = {category["id"] for category in content["categories"]}
    objects = (entry for entry in content["annotations"] if entry["category_id"] in known)
    if form == "cityscapes":
        objects = (entry for entry in objects if not entry["iscrowd"])
    seen, side = {entry["image_id"] for entry in objects}, MIN_SIDE[form]
    large = (i for i in content["images"] if min(i["width"], i["height"]) >= side)
    return frozenset(image["id"] for image in large if image["id"] in seen)


def difference(found: tuple[str, ...], wanted: tuple[str, ...]) -> str:
    """How two lists of names differ, by the first that one lacks."""
    lacks = [name for name in wanted if name not in found]
    more = [name for name in found if name not in wanted]
    if lacks:
        return f"'{lacks[0]}' is missing" + (f" and '{more[0]}' is there" if more else "")
    if more:
        return f"'{more[0]}' is one too many"
    return "their order differs" if len(found) == len(wanted) else "one is there twice"


def _check_images(content: dict[str, Any], folder: Path, annotations: Path) -> None:
    if not folder.is_dir():
        raise UserError(
            f"{folder} is missing: {annotations} names {len(content['images']):,} images in it"
        )
    held = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    gone = [entry["file_name"] for entry in content["images"] if entry["file_name"] not in held]
    if gone:
        raise UserError(
            f"{folder / gone[0]} is missing, and {len(gone):,} of the {len(content['images']):,} "
            f"images in {annotations}: copy or download them again"
        )


def _coco_missing(folder: Path) -> str:
    return COCO.expected + "; or images/ with annotations/instances_{train,val}.json"


def _cityscapes_missing(folder: Path) -> str:
    if (folder / "gtFine").is_dir():
        return (
            "its ground truth in gtFine/ is not in COCO's format yet: run "
            f"locbench data cityscapes-to-coco {folder}"
        )
    return f"{CITYSCAPES.expected} (locbench data cityscapes-to-coco makes them from gtFine/)"


COCO = Published(
    "coco",
    (
        (
            ("train2017", "annotations/instances_train2017.json"),
            ("val2017", "annotations/instances_val2017.json"),
        ),
        (
            ("images", "annotations/instances_train.json"),
            ("images", "annotations/instances_val.json"),
        ),
    ),
    categories.COCO,
    _coco_missing,
)
CITYSCAPES = Published(
    "cityscapes",
    (
        (
            ("leftImg8bit/train", "annotations/instancesonly_filtered_gtFine_train.json"),
            ("leftImg8bit/val", "annotations/instancesonly_filtered_gtFine_val.json"),
        ),
    ),
    categories.CITYSCAPES,
    _cityscapes_missing,
)


class _Shapes:
    """The built-in set, with what `Published` offers."""

    def fingerprint(self, root: Path | None, resolution: int) -> dict[str, Any]:
        """As `Published.fingerprint`; of the version, the settings and the resolution."""
        return shapes.fingerprint(resolution)

    def load(
        self, root: Path | None, resolution: int, progress: Progress | None = None
    ) -> DetectionSet:
        """The data set, drawn into the cache on first use."""
        folder, known = shapes.folder(resolution, progress), shapes.fingerprint(resolution)
        parts = []
        for split in shapes.SPLITS:
            file = folder / "annotations" / f"instances_{split}.json"
            parts.append(_part(folder / split, file, _read(file), "shapes"))
        identity = ("shapes", known["version"], known["checksum"], "shapes")
        return DetectionSet(*identity, shapes.CATEGORIES, *parts)


SHAPES = _Shapes()


def only(part: Part, ids: list[int], path: Path) -> Part:
    """The split with these images alone; their annotations are written to `path`."""
    content, wanted = _read(part.annotations), set(ids)
    content["images"] = [entry for entry in content["images"] if entry["id"] in wanted]
    objects = content["annotations"]
    content["annotations"] = [entry for entry in objects if entry["image_id"] in wanted]
    write_atomic(path, json.dumps(content))
    return Part(part.images, path, len(ids), part.usable & wanted)


def training_images(part: Part, count: int, split: int) -> list[int]:
    """The ids of `count` images drawn at random, in order; `split` says which drawing.

    Of all images of the annotation file, in the order of their ids. UserError for more than it has.
    """
    import numpy as np

    ids = sorted(entry["id"] for entry in _read(part.annotations)["images"])
    if count > len(ids):
        raise UserError(
            f"detection.train_images = {count}: {part.annotations} has {len(ids):,} images"
        )
    # numpy's own streams do not change between versions, and neither may the drawing.
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([count, split])))
    chosen = np.argsort(rng.random(len(ids)), kind="stable")[:count]
    return sorted(ids[index] for index in chosen)
