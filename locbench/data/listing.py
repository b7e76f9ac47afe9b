"""Lists the images of an image-folder data set, by split and class, and identifies them.

Layouts, under the data root or under a folder of the data set's name in it:

    train/CLASS/*.jpg   val/CLASS/*.jpg
    train.tar           val.tar            (or .tar.gz, .tgz)

with members `train/CLASS/x.jpg` or `CLASS/x.jpg`. Folder and archive may be mixed. `val` is what
locbench calls the test split; it may be called `test` too, but `val` is taken where both are there,
as in ImageNet, whose `test` has no labels. Images are sorted by class and name, so that every
layout of the same files gives the same order, targets and checksum. No image is decoded here.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locbench.data.archives import SUFFIXES as ARCHIVES
from locbench.data.archives import is_archive, member_name, members, split_name
from locbench.data.digests import archive_digests, checksum_of, folder_digests
from locbench.data.files import Files, stamp
from locbench.errors import UserError

if TYPE_CHECKING:
    from locbench.data import Progress

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
SPLITS = {"train": ("train",), "test": ("val", "test")}  # and what each may be called, in order
LAYOUT = (
    "expected train/CLASS/*.jpg and val/CLASS/*.jpg, or train.tar and val.tar "
    "(val may be called test)"
)


@dataclass(frozen=True)
class Listing:
    """Both splits, sorted by `CLASS/name`; `checksum` is of the classes and bytes of the images."""

    classes: list[str]
    train: Files
    test: Files
    checksum: str

    @property
    def parts(self) -> tuple[Files, Files]:
        """The files of train and test."""
        return self.train, self.test


def data_root(root: Path | None) -> Path:
    """`root`, else $LOCBENCH_DATA, else ./data."""
    return Path(root or os.environ.get("LOCBENCH_DATA") or "data").expanduser()


def existing_root(root: Path | None, expected: str = LAYOUT) -> Path:
    """The data root; UserError where there is no such folder, which says what is expected in it."""
    path = data_root(root)
    if not path.is_dir():
        raise UserError(
            f"data root {path} is not a folder: give --data-root or LOCBENCH_DATA; {expected}"
        )
    return path


def find_folder(name: str, base: Path) -> Path | None:
    """Where images of `name` are in the layout above: `base/name` or `base`; None in neither."""
    for folder in (base / name, base):
        if any(_container(folder, split) for split in SPLITS):
            return folder
    return None


def find_containers(folder: Path) -> tuple[Path, Path]:
    """The folders or archives of train and test; UserError names what is missing."""
    train, test = _container(folder, "train"), _container(folder, "test")
    if train is None or test is None:
        missing = "train" if train is None else "val"
        raise UserError(f"{folder} has no {missing} folder and no {missing}.tar: {LAYOUT}")
    return train, test


def read_listing(train: Path, test: Path, *, progress: Progress | None = None) -> Listing:
    """List two folders or archives, and read the files whose digests are not remembered.

    UserError where a class has no image, the two have different classes, or a file cannot be read.
    """
    train_files, train_digests, classes = _list_split(train, progress=progress)
    test_files, test_digests, test_classes = _list_split(test, progress=progress)
    if classes != test_classes:
        raise UserError(_different_classes(train, classes, test, test_classes))

    def entries() -> Iterator[tuple[str, int, bytes]]:
        splits = (("train", train_files, train_digests), ("test", test_files, test_digests))
        for split, files, digests in splits:
            indices = class_indices(files, classes)
            yield from zip([split] * len(files), indices, digests, strict=True)

    return Listing(classes, train_files, test_files, checksum_of(entries()))


def class_indices(files: Files, classes: list[str]) -> list[int]:
    """The class of each image, as an index into `classes`."""
    indices = {name: index for index, name in enumerate(classes)}
    return [indices[name.split("/", 1)[0]] for name in files.names]


def _container(base: Path, split: str) -> Path | None:
    """The folder or archive of a split, under the first of its names that is there."""
    for name in SPLITS[split]:
        for path in (base / name, *(base / f"{name}{suffix}" for suffix in ARCHIVES)):
            if path.is_dir() if path.name == name else path.is_file():
                return path
    return None


def _list_split(path: Path, *, progress: Progress | None) -> tuple[Files, list[bytes], list[str]]:
    """The images of a folder or archive, the sha256 of each, and the classes."""
    if is_archive(path):
        list_files = partial(_list_archive, path)
        files, digests, notes = archive_digests(path, list_files, progress=progress)
        return files, digests, notes["classes"]
    files, classes = _list_folder(path)
    return files, folder_digests(files, progress=progress), classes


def _list_folder(path: Path) -> tuple[Files, list[str]]:
    images, classes = {}, set()
    with os.scandir(path) as entries:
        folders = [e for e in entries if e.is_dir() and not e.name.startswith(".")]
    for folder in folders:
        classes.add(folder.name)
        with os.scandir(folder.path) as entries:
            for entry in entries:
                if _is_image(entry.name) and entry.is_file():
                    images[f"{folder.name}/{entry.name}"] = stamp(entry.stat())
    return _sorted_files(path, images, classes)


def _list_archive(path: Path) -> tuple[Files, dict[str, Any]]:
    images, classes = {}, set()
    for _, member in members(path):
        name = member_name(member.name, split=split_name(path))
        if name is None:
            continue
        if member.isdir() and "/" not in name:
            classes.add(name)
        elif member.isfile() and "/" in name and _is_image(name.split("/")[1]):
            images[name] = (member.size, member.offset_data, 0)  # of two by one name the last
            classes.add(name.split("/")[0])
    files, names = _sorted_files(path, images, classes)
    return files, {"classes": names}


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _sorted_files(
    path: Path, images: dict[str, tuple[int, int, int]], classes: set[str]
) -> tuple[Files, list[str]]:
    """The images in their order, and the classes; UserError where one of them has no image."""
    empty = sorted(classes - {name.split("/", 1)[0] for name in images})
    if empty:
        kinds = ", ".join(SUFFIXES)
        raise UserError(
            f"{path}: class folder {empty[0]} has no image ({kinds}); fill or delete it"
        )
    if not images:
        raise UserError(f"{path} has no class folder with images; {LAYOUT}")
    names = sorted(images)
    numbers = array("q", (number for name in names for number in images[name]))
    return Files(str(path.absolute()), names, numbers), sorted(classes)


def _different_classes(
    train: Path, train_classes: list[str], test: Path, test_classes: list[str]
) -> str:
    classes = {split_name(train): set(train_classes), split_name(test): set(test_classes)}
    one, other = classes
    parts = []
    for split, names in (
        (one, classes[one] - classes[other]),
        (other, classes[other] - classes[one]),
    ):
        if names:
            listed = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
            parts.append(f"only in {split}: {listed} ({len(names)})")
    return (
        f"{train.parent}: {one} and {other} have different classes ({'; '.join(parts)}); "
        "give both the same"
    )
