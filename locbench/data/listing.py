"""Which images an image-folder data set has, without decoding one. Standard library only.

Layouts, under the data root or under a folder of the data set's name in it:

    train/CLASS/*.jpg   val/CLASS/*.jpg
    train.tar           val.tar            (or .tar.gz, .tgz)

with members `train/CLASS/x.jpg` or `CLASS/x.jpg`. Folder and archive may be mixed. `val` is what
locbench calls the test split; it may be called `test` too, but `val` is taken where both are there,
as in ImageNet, whose `test` has no labels. Images are sorted by class and name, so that every
layout of the same files gives the same order, targets and checksum.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from locbench.data.kept import Kept, subfolders
from locbench.errors import UserError

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"))
ARCHIVES = (".tar", ".tar.gz", ".tgz")
SPLITS = {"train": ("train",), "test": ("val", "test")}  # and what each may be called, in order
LAYOUT = (
    "expected train/CLASS/*.jpg and val/CLASS/*.jpg, or train.tar and val.tar "
    "(val may be called test)"
)


@dataclass(frozen=True)
class Files:
    """The images of one split, sorted by `CLASS/name`; `offsets` are set for a plain tar."""

    container: str
    names: list[str]
    sizes: list[int]
    offsets: list[int] | None = None

    @property
    def compressed(self) -> bool:
        """Whether the images can only be read one after the other."""
        return self.container.endswith((".gz", ".tgz"))

    def where(self, index: int) -> str:
        """One image, for a person: its path, or archive and member."""
        archive = self.container.endswith(ARCHIVES)
        return f"{self.container}{': ' if archive else '/'}{self.names[index]}"


@dataclass(frozen=True)
class Listing:
    """Both splits; `checksum` is the sha256 over split, `CLASS/name` and size of every image."""

    classes: list[str]
    train: Files
    test: Files
    checksum: str


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


def _container(base: Path, split: str) -> Path | None:
    """The folder or archive of a split, under the first of its names that is there."""
    for name in SPLITS[split]:
        for path in (base / name, *(base / f"{name}{suffix}" for suffix in ARCHIVES)):
            if path.is_dir() if path.name == name else path.is_file():
                return path
    return None


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


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")


def _list_folder(path: Path) -> tuple[list[tuple[str, int, int]], set[str]]:
    found, classes = [], set()
    for folder in subfolders(path):
        classes.add(folder.name)
        with os.scandir(folder.path) as entries:
            found += [
                (f"{folder.name}/{entry.name}", entry.stat().st_size, 0)
                for entry in entries
                if _is_image(entry.name) and entry.is_file()
            ]
    return found, classes


def member_name(path: str, split: str) -> str | None:
    """`CLASS/name`, or `CLASS` of a folder, from a path in an archive; None where it is neither."""
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", ".")]
    if parts and parts[0] == split:
        parts = parts[1:]
    return "/".join(parts) if 1 <= len(parts) <= 2 else None


def members(path: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Every member of an archive in its order; UserError where it is damaged or ends too early."""
    plain = path.suffix == ".tar"
    try:
        # Not tarfile's own gzip reader, which takes a stream that breaks off for one that ends.
        with (
            path.open("rb") if plain else gzip.open(path) as stream,
            tarfile.open(fileobj=stream, mode="r:" if plain else "r|") as archive,
        ):
            for member in archive:
                yield archive, member
                archive.members = []  # or a large archive is held in memory twice
            ended = archive.offset
            while not plain and stream.read(1 << 20):
                pass  # to the end, where the check sum is
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise UserError(
            f"{path} is truncated or no tar archive ({error}); copy it again"
        ) from error
    # tarfile takes an end on a member's boundary for the end of the archive.
    if plain and path.stat().st_size < ended + tarfile.BLOCKSIZE:
        raise UserError(f"{path} is truncated (no end-of-archive block); copy it again")


def _list_archive(path: Path) -> tuple[list[tuple[str, int, int]], set[str]]:
    found, classes = {}, set()
    for _, member in members(path):
        name = member_name(member.name, split_name(path))
        if name is None:
            continue
        if member.isdir() and "/" not in name:
            classes.add(name)
        elif member.isfile() and "/" in name and _is_image(name.split("/")[1]):
            found[name] = (name, member.size, member.offset_data)
    return list(found.values()), classes | {name.split("/")[0] for name in found}


def split_name(path: Path | str) -> str:
    """What a container calls its split: train, val or test."""
    return Path(path).name.split(".")[0]


def list_split(path: Path) -> tuple[Files, list[str]]:
    """The images and classes in a folder or archive; UserError where a class has no image."""
    archive = not path.is_dir()
    found, classes = _list_archive(path) if archive else _list_folder(path)
    empty = sorted(classes - {name.split("/")[0] for name, _, _ in found})
    if empty:
        kinds = ", ".join(sorted(SUFFIXES))
        raise UserError(
            f"{path}: class folder {empty[0]} has no image ({kinds}); fill or delete it"
        )
    if not found:
        raise UserError(f"{path} has no class folder with images; {LAYOUT}")
    found.sort()
    names, sizes, offsets = (list(column) for column in zip(*found, strict=True))
    plain = archive and path.suffix == ".tar"
    return Files(str(path.absolute()), names, sizes, offsets if plain else None), sorted(classes)


def _checksum(train: Files, test: Files) -> str:
    digest = hashlib.sha256()
    for split, files in (("train", train), ("val", test)):  # "val" whatever it is called on disk
        for name, size in zip(files.names, files.sizes, strict=True):
            digest.update(f"{split}/{name}\0{size}\n".encode())
    return digest.hexdigest()


def _same_classes(
    train: Path, train_classes: list[str], test: Path, test_classes: list[str]
) -> None:
    if train_classes == test_classes:
        return
    one, other = split_name(train), split_name(test)
    only = []
    for split, names in (
        (one, set(train_classes) - set(test_classes)),
        (other, set(test_classes) - set(train_classes)),
    ):
        if names:
            shown = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
            only.append(f"only in {split}: {shown} ({len(names)})")
    raise UserError(
        f"{train.parent}: {one} and {other} have different classes ({'; '.join(only)}); "
        "give both the same"
    )


def read_listing(train: Path, test: Path) -> Listing:
    """List both splits afresh."""
    train_files, classes = list_split(train)
    test_files, test_classes = list_split(test)
    _same_classes(train, classes, test, test_classes)
    return Listing(classes, train_files, test_files, _checksum(train_files, test_files))


@dataclass(frozen=True)
class Index:
    """A listing kept in the cache: a small summary, and the files in a document of their own."""

    train: Path
    test: Path

    @property
    def _kept(self) -> Kept:
        return Kept((self.train, self.test))

    def forget(self) -> None:
        """List afresh next time."""
        self._kept.forget()

    def summary(self) -> dict[str, Any]:
        """checksum, classes, train and test (numbers of images); milliseconds once it is known.

        Known until a class folder or an archive changes. A file overwritten in place by one of
        another size changes neither: `forget` is called where an image does not decode.
        """
        return self._kept.known() or self._read()[0]

    def listing(self) -> Listing:
        """All files, from the cache where nothing changed."""
        known = self._kept.known()
        if known is None:
            return self._read()[1]
        try:
            held = json.loads(self._kept.details.read_text())
            train, test = Files(**held["train"]), Files(**held["test"])
        except (OSError, ValueError, KeyError, TypeError):
            return self._read()[1]
        if _checksum(train, test) != known["checksum"]:
            return self._read()[1]
        return Listing(known["classes"], train, test, known["checksum"])

    def _read(self) -> tuple[dict[str, Any], Listing]:
        stamps = self._kept.stamps()
        found = read_listing(self.train, self.test)
        summary = {
            "checksum": found.checksum,
            "classes": found.classes,
            "train": len(found.train.names),
            "test": len(found.test.names),
        }
        files = {"train": asdict(found.train), "test": asdict(found.test)}
        self._kept.keep(stamps, summary, files)
        return summary, found
