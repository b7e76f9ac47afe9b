"""Where a detection data set is, what is in it, and whether all of it is there.

Needs neither torch nor mmdet: it tells which data a run uses.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locbench.data import Progress
from locbench.data.kept import Kept
from locbench.data.listing import existing_root
from locbench.data.sources import own_name
from locbench.downstream import shapes
from locbench.errors import UserError
from locbench.paths import write_atomic
from locbench.registry import DETECTION_SETS


@dataclass(frozen=True)
class Part:
    """One split: a folder of images, and an annotation file in COCO's format."""

    images: Path
    annotations: Path
    count: int

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True)
class DetectionSet:
    """A detection data set whose files were all found; `test` is what is evaluated on."""

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
    missing: Callable[[Path], str]

    def find(self, root: Path | None) -> tuple[Path, Layout]:
        """The folder, `root/name` or `root`, and its layout; UserError where there is none."""
        base = existing_root(root, self.expected)
        for folder in (base / self.name, base):
            for layout in self.layouts:
                if all((folder / annotations).is_file() for _, annotations in layout):
                    return folder, layout
        folder = base / self.name if (base / self.name).is_dir() else base
        raise UserError(f"no '{self.name}' in {folder}: {self.missing(folder)}")

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
        parts, classes = [], []
        for images, file in layout:
            content = _read(folder / file)
            _check_images(content, folder / images, folder / file)
            parts.append(Part(folder / images, folder / file, len(content["images"])))
            classes.append(_classes(content))
        if classes[0] != classes[1]:
            raise UserError(
                f"{parts[0].annotations} and {parts[1].annotations} have different categories: "
                f"{difference(*classes)}"
            )
        return DetectionSet(
            known["name"], known["version"], known["checksum"], self.name, classes[0], *parts
        )


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
    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in keys):
        raise UserError(f"{path} is not in COCO's format: it needs the lists {', '.join(keys)}")
    if not content["images"] or not content["annotations"]:
        raise UserError(f"{path} has no images or no annotations")
    if digest is not None:
        digest.update(hashlib.sha256(raw).digest())
    return content


def _classes(content: dict[str, Any]) -> tuple[str, ...]:
    return tuple(c["name"] for c in sorted(content["categories"], key=lambda c: c["id"]))


def difference(found: tuple[str, ...], wanted: tuple[str, ...]) -> str:
    """How two lists of names differ, by the first that one lacks."""
    lacks = [name for name in wanted if name not in found]
    more = [name for name in found if name not in wanted]
    if lacks:
        return f"'{lacks[0]}' is missing" + (f" and '{more[0]}' is there" if more else "")
    return f"'{more[0]}' is one too many" if more else "their order differs"


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
        parts = (
            Part(folder / split, folder / "annotations" / f"instances_{split}.json", known[split])
            for split in shapes.SPLITS
        )
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
    return Part(part.images, path, len(ids))


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
