"""Detection data sets in COCO's format: finds their files, checks and identifies them.

Needs neither torch nor mmdet, for commands that plan runs identify data too.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from locbench.data import Progress
from locbench.data.digests import checksum_of, folder_digests, remembered
from locbench.data.files import Files, folder_files, stamp
from locbench.data.listing import existing_root
from locbench.data.locate import own_name
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
# The side in pixels below which mmdet trains on no image; Shapes has any side.
MIN_SIDE = {"coco": 32, "cityscapes": 32, "shapes": 0}
FILE = "annotations/instances"  # how the names of COCO's annotation files begin
IDENTITY = ("name", "version", "checksum")  # of a fingerprint, and of a set


@dataclass(frozen=True)
class DetectionSplit:
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
    train: DetectionSplit
    test: DetectionSplit


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
        missing = ([p for _, file in x if not (p := folder / file).is_file()] for x in self.layouts)
        nearest = min(missing, key=len)  # the layout of which the fewest files are missing
        neither = "" if folder != base else f", and there is no {base / self.name}"
        raise UserError(f"{nearest[0]} is missing{neither}: {self.missing(folder)}")

    @property
    def expected(self) -> str:
        """The official layout in words."""
        return "expected " + ", ".join(f"{images}/ and {file}" for images, file in self.layouts[0])

    def fingerprint(
        self, root: Path | None, resolution: int, *, progress: Progress | None = None
    ) -> dict[str, Any]:
        """name, version, checksum, classes, train and test (numbers of images).

        The checksum is of the bytes of both annotation files and of every picture that they name.
        The first look reads them all; later ones read what changed, at the cost of a `stat` for
        each file. UserError where one is missing.
        """
        folder, layout = self.find(root)
        files, counts = _files_of(folder, layout, label=self.name)
        digests = folder_digests(files, label=self.name, notes=counts, progress=progress)
        parts = ["annotations"] * 2 + ["train"] * counts["train"] + ["test"] * counts["test"]
        checksum = checksum_of((part, 0, one) for part, one in zip(parts, digests, strict=True))
        official = layout == self.layouts[0]
        name = self.name if official else own_name(folder, DETECTION_SETS)
        version = DETECTION_SETS.entry(self.name).version
        return {"name": name, "version": version, "checksum": checksum, **counts}

    def load(
        self, root: Path | None, resolution: int, progress: Progress | None = None
    ) -> DetectionSet:
        """The data set; UserError where files are missing or do not fit together."""
        folder, layout = self.find(root)
        identity = self.fingerprint(root, resolution, progress=progress)
        splits, categories = zip(
            *(_read_split(folder / images, folder / file, self.name) for images, file in layout),
            strict=True,
        )
        if not splits[0].used:
            raise UserError(
                f"{splits[0].annotations} has no image to train on: none has objects and sides of "
                f"at least {MIN_SIDE[self.name]} pixels"
            )
        return DetectionSet(
            **{key: identity[key] for key in IDENTITY},
            form=self.name,
            classes=self._classes(splits, categories),
            train=splits[0],
            test=splits[1],
        )

    def _classes(
        self, splits: Sequence[DetectionSplit], categories: Sequence[list[dict[str, Any]]]
    ) -> tuple[str, ...]:
        """Names in the files' order; UserError if the files differ, or are not of this data."""
        names = [tuple(category["name"] for category in listed) for listed in categories]
        paths = f"{splits[0].annotations} and {splits[1].annotations}"
        if names[0] != names[1]:
            raise UserError(f"{paths} have different categories: {difference(*names)}")
        for one, other in zip(*categories, strict=True):
            if one["id"] != other["id"]:
                ids = f"'{one['name']}' is {one['id']} and {other['id']}"
                raise UserError(f"{paths} number their categories differently: {ids}")
        if sorted(names[0]) != sorted(self.categories):
            raise UserError(
                f"{splits[0].annotations} has other categories than {self.name}: "
                f"{difference(names[0], self.categories)}"
            )
        return names[0]


def _files_of(folder: Path, layout: Layout, *, label: str) -> tuple[Files, dict[str, int]]:
    """Both annotation files, then the pictures that they name; numbers of classes and pictures.

    Annotation files are only read where they changed since the set was last looked at.
    """
    names = [file for _, file in layout]
    annotations = folder_files(folder, names)
    table = remembered(annotations.container, label=label)
    remains = table is not None and table.files.names[:2] == names
    if remains and table.files.numbers[:6] == annotations.numbers:
        names, counts = table.files.names, table.notes
    else:
        contents = [_read(folder / file) for _, file in layout]
        counts = {"classes": len(contents[0]["categories"])}
        for split, (images, _), content in zip(("train", "test"), layout, contents, strict=True):
            counts[split] = len(content["images"])
            names += [f"{images}/{entry['file_name']}" for entry in content["images"]]
    numbers, start = annotations.numbers, 2
    for split, (images, file) in zip(("train", "test"), layout, strict=True):
        pictures = names[start : start + counts[split]]
        numbers += _stamps(folder, pictures, images=folder / images, annotations=folder / file)
        start += counts[split]
    return Files(annotations.container, names, numbers), counts


def _stamps(folder: Path, names: list[str], *, images: Path, annotations: Path) -> array[int]:
    """The stamps of pictures; UserError where some that the annotations name are missing."""
    if not images.is_dir():
        raise UserError(f"{images} is missing: {annotations} names {len(names):,} images in it")
    numbers, missing = array("q"), []
    for name in names:
        try:
            numbers.extend(stamp((folder / name).stat()))
        except (OSError, ValueError):  # ValueError: no file can have such a name
            missing.append(name)
    if missing:
        raise UserError(
            f"{folder / missing[0]} is missing, and {len(missing):,} of the {len(names):,} "
            f"images in {annotations}: copy or download them again"
        )
    return numbers


def _read(path: Path) -> dict[str, Any]:
    """An annotation file; UserError where it is not one."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as JSON ({error}): copy or download it again"
        ) from None
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in KEYS):
        raise UserError(f"{path} is not in COCO's format: it needs the lists {', '.join(KEYS)}")
    if not content["images"] or not content["annotations"]:
        raise UserError(f"{path} has no images or no annotations")
    _check_entries(path, content)
    return content


def _check_entries(path: Path, content: dict[str, Any]) -> None:
    for name, keys in KEYS.items():
        for number, entry in enumerate(content[name]):
            if not isinstance(entry, dict):
                raise UserError(f"{path} is not in COCO's format: {name}[{number}] is no object")
            if missing := [key for key in keys if key not in entry]:
                raise UserError(
                    f"{path} is not in COCO's format: {name}[{number}] has no '{missing[0]}'"
                )
    images = {image["id"] for image in content["images"]}
    for number, image in enumerate(content["images"]):
        if not isinstance(image["file_name"], str):
            raise UserError(f"{path}: images[{number}]: file_name must be text")
        if not all(_is_number(image[key]) and image[key] > 0 for key in ("width", "height")):
            raise UserError(f"{path}: images[{number}]: width and height must be above 0")
    for number, entry in enumerate(content["annotations"]):
        if fault := _fault(entry, images):
            raise UserError(f"{path}: annotations[{number}]: {fault}")


def _fault(entry: dict[str, Any], images: set[Any]) -> str:
    """What is wrong with an annotation; pycocotools would fail on it in the end."""
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


def _read_split(
    images: Path, annotations: Path, form: str
) -> tuple[DetectionSplit, list[dict[str, Any]]]:
    """A split and its categories."""
    content = _read(annotations)
    usable = _usable(content, form)
    split = DetectionSplit(images, annotations, len(content["images"]), usable)
    return split, content["categories"]


def _usable(content: dict[str, Any], form: str) -> frozenset[int]:
    """The ids of the images that mmdet trains on: those with objects that are not too small.

    On Cityscapes a crowd is no object, on COCO it is.
    """
    ids = {category["id"] for category in content["categories"]}
    objects = (entry for entry in content["annotations"] if entry["category_id"] in ids)
    if form == "cityscapes":
        objects = (entry for entry in objects if not entry["iscrowd"])
    seen, side = {entry["image_id"] for entry in objects}, MIN_SIDE[form]
    large = (i for i in content["images"] if min(i["width"], i["height"]) >= side)
    return frozenset(image["id"] for image in large if image["id"] in seen)


def difference(names: tuple[str, ...], expected: tuple[str, ...]) -> str:
    """How two lists of names differ, by the first that one lacks."""
    missing = [name for name in expected if name not in names]
    surplus = [name for name in names if name not in expected]
    if missing:
        return f"'{missing[0]}' is missing" + (f" and '{surplus[0]}' is there" if surplus else "")
    if surplus:
        return f"'{surplus[0]}' is one too many"
    return "their order differs" if len(names) == len(expected) else "one is there twice"


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
        (("train2017", f"{FILE}_train2017.json"), ("val2017", f"{FILE}_val2017.json")),
        (("images", f"{FILE}_train.json"), ("images", f"{FILE}_val.json")),
    ),
    categories.COCO,
    _coco_missing,
)
_FILE = "annotations/instancesonly_filtered_gtFine"
CITYSCAPES = Published(
    "cityscapes",
    ((("leftImg8bit/train", f"{_FILE}_train.json"), ("leftImg8bit/val", f"{_FILE}_val.json")),),
    categories.CITYSCAPES,
    _cityscapes_missing,
)


class _Shapes:
    """The built-in set, with what `Published` offers."""

    def fingerprint(
        self, root: Path | None, resolution: int, *, progress: Progress | None = None
    ) -> dict[str, Any]:
        """As `Published.fingerprint`; of the version, the settings and the resolution."""
        return shapes.fingerprint(resolution)

    def load(
        self, root: Path | None, resolution: int, progress: Progress | None = None
    ) -> DetectionSet:
        """The data set, drawn into the cache on first use."""
        folder, identity = shapes.folder(resolution, progress), shapes.fingerprint(resolution)
        train, test = (
            _read_split(folder / name, folder / f"{FILE}_{name}.json", "shapes")[0]
            for name in shapes.SPLITS
        )
        return DetectionSet(
            **{key: identity[key] for key in IDENTITY},
            form="shapes",
            classes=shapes.CATEGORIES,
            train=train,
            test=test,
        )


SHAPES = _Shapes()


def only(split: DetectionSplit, ids: list[int], path: Path) -> DetectionSplit:
    """The split with these images alone; their annotations are written to `path`."""
    content, kept = _read(split.annotations), set(ids)
    for name, key in (("images", "id"), ("annotations", "image_id")):
        content[name] = [entry for entry in content[name] if entry[key] in kept]
    write_atomic(path, json.dumps(content))
    return DetectionSplit(split.images, path, len(ids), split.usable & kept)


def training_images(split: DetectionSplit, count: int, drawing: int) -> list[int]:
    """The ids of `count` images drawn at random, in order; `drawing` says which time.

    Of all images of the annotation file, in the order of their ids. UserError for more than it has.
    """
    import numpy as np

    ids = sorted(entry["id"] for entry in _read(split.annotations)["images"])
    if count > len(ids):
        raise UserError(
            f"detection.train_images = {count}: {split.annotations} has {len(ids):,} images"
        )
    # numpy's own streams do not change between versions, and neither may the drawing.
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([count, drawing])))
    chosen = np.argsort(rng.random(len(ids)), kind="stable")[:count]
    return sorted(ids[index] for index in chosen)
