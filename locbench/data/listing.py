"""Which images an image-folder data set has, without decoding one. Standard library only.

Layouts, under the data root or under a folder of the data set's name in it:

    train/CLASS/*.jpg   val/CLASS/*.jpg
    train.tar           val.tar            (or .tar.gz, .tgz)

with members `train/CLASS/x.jpg` or `CLASS/x.jpg`. Folder and archive may be mixed. `val` is what
locbench calls the test split. Images are sorted by class and name, so that every layout of the same
files gives the same order, targets and checksum.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tarfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from locbench.errors import UserError
from locbench.paths import cache_dir, write_atomic

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"))
ARCHIVES = (".tar", ".tar.gz", ".tgz")
LAYOUT = "expected train/CLASS/*.jpg and val/CLASS/*.jpg, or train.tar and val.tar"
# A folder changed within the resolution of its own time stamp looks unchanged: not to be trusted.
SETTLED_S = 2.0


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
    """`root`, else $LOCBENCH_DATA, else ./data; UserError where there is no such folder."""
    path = Path(root or os.environ.get("LOCBENCH_DATA") or "data").expanduser()
    if not path.is_dir():
        raise UserError(
            f"data root {path} is not a folder: give --data-root or LOCBENCH_DATA; {LAYOUT} in it"
        )
    return path


def _container(base: Path, split: str) -> Path | None:
    for path in (base / split, *(base / f"{split}{suffix}" for suffix in ARCHIVES)):
        if path.is_dir() if path.name == split else path.is_file():
            return path
    return None


def find_containers(name: str, root: Path | None) -> tuple[Path, Path]:
    """The folders or archives of train and val; UserError names what is missing."""
    base = data_root(root)
    if any(_container(base / name, split) for split in ("train", "val")):
        base = base / name
    train, val = _container(base, "train"), _container(base, "val")
    if train is None and val is None:
        raise UserError(f"no images of '{name}' in {base} or {base / name}: {LAYOUT}")
    if train is None or val is None:
        missing = "train" if train is None else "val"
        raise UserError(f"{base} has no {missing} folder and no {missing}.tar: {LAYOUT}")
    return train, val


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")


def _subfolders(path: Path) -> list[os.DirEntry]:
    with os.scandir(path) as entries:
        return [e for e in entries if e.is_dir() and not e.name.startswith(".")]


def _list_folder(path: Path) -> tuple[list[tuple[str, int, int]], set[str]]:
    found, classes = [], set()
    for folder in _subfolders(path):
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


def _list_archive(path: Path, split: str) -> tuple[list[tuple[str, int, int]], set[str]]:
    found, classes = {}, set()
    for _, member in members(path):
        name = member_name(member.name, split)
        if name is None:
            continue
        if member.isdir() and "/" not in name:
            classes.add(name)
        elif member.isfile() and "/" in name and _is_image(name.split("/")[1]):
            found[name] = (name, member.size, member.offset_data)
    return list(found.values()), classes | {name.split("/")[0] for name in found}


def list_split(path: Path, split: str) -> tuple[Files, list[str]]:
    """The images and classes in a folder or archive; UserError where a class has no image."""
    archive = not path.is_dir()
    found, classes = _list_archive(path, split) if archive else _list_folder(path)
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
    for split, files in (("train", train), ("val", test)):
        for name, size in zip(files.names, files.sizes, strict=True):
            digest.update(f"{split}/{name}\0{size}\n".encode())
    return digest.hexdigest()


def _same_classes(train: list[str], val: list[str], where: Path) -> list[str]:
    if train == val:
        return train
    only = []
    for split, names in (("train", set(train) - set(val)), ("val", set(val) - set(train))):
        if names:
            shown = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
            only.append(f"only in {split}: {shown} ({len(names)})")
    raise UserError(
        f"{where}: train and val have different classes ({'; '.join(only)}); give both the same"
    )


def read_listing(train: Path, val: Path) -> Listing:
    """List both splits afresh."""
    train_files, train_classes = list_split(train, "train")
    test_files, test_classes = list_split(val, "val")
    classes = _same_classes(train_classes, test_classes, train.parent)
    return Listing(classes, train_files, test_files, _checksum(train_files, test_files))


def _stamp(path: Path) -> list[Any]:
    """What changes when images are added, removed or renamed: times of the folders, or archive."""
    status = path.stat()
    if not path.is_dir():
        return [str(path.resolve()), status.st_size, status.st_mtime_ns]
    inner = sorted((f.name, f.stat().st_mtime_ns) for f in _subfolders(path))
    return [str(path.resolve()), status.st_mtime_ns, [list(pair) for pair in inner]]


def _newest(stamp: list[Any]) -> int:
    last = stamp[-1]
    return max([time_ns for _, time_ns in last] + [stamp[1]]) if isinstance(last, list) else last


@dataclass(frozen=True)
class Index:
    """A listing kept in the cache: a small summary, and the files in a document of their own."""

    train: Path
    val: Path

    @property
    def _stem(self) -> Path:
        key = f"{self.train.absolute()}\0{self.val.absolute()}"
        return cache_dir() / "listings" / hashlib.sha256(key.encode()).hexdigest()[:16]

    @property
    def _summary(self) -> Path:
        return self._stem.with_suffix(".json")

    @property
    def _files(self) -> Path:
        return self._stem.with_suffix(".files.json")

    def forget(self) -> None:
        """List afresh next time."""
        self._summary.unlink(missing_ok=True)
        self._files.unlink(missing_ok=True)

    def _known(self) -> dict[str, Any] | None:
        try:
            known = json.loads(self._summary.read_text())
        except (OSError, ValueError):
            return None
        current = [_stamp(self.train), _stamp(self.val)]
        return known if isinstance(known, dict) and known.get("stamp") == current else None

    def summary(self) -> dict[str, Any]:
        """checksum, classes, train and test (numbers of images); milliseconds once it is known.

        Known until a class folder or an archive changes. A file overwritten in place by one of
        another size changes neither: `forget` is called where an image does not decode.
        """
        return self._known() or self._read()[0]

    def listing(self) -> Listing:
        """All files, from the cache where nothing changed."""
        known = self._known()
        if known is None:
            return self._read()[1]
        try:
            held = json.loads(self._files.read_text())
            train, test = Files(**held["train"]), Files(**held["test"])
        except (OSError, ValueError, KeyError, TypeError):
            return self._read()[1]
        if _checksum(train, test) != known["checksum"]:
            return self._read()[1]
        return Listing(known["classes"], train, test, known["checksum"])

    def _read(self) -> tuple[dict[str, Any], Listing]:
        stamp = [_stamp(self.train), _stamp(self.val)]
        found = read_listing(self.train, self.val)
        summary = {
            "stamp": stamp,
            "checksum": found.checksum,
            "classes": found.classes,
            "train": len(found.train.names),
            "test": len(found.test.names),
        }
        if max(_newest(part) for part in stamp) < time.time_ns() - SETTLED_S * 1e9:
            files = {"train": asdict(found.train), "test": asdict(found.test)}
            try:
                write_atomic(self._files, json.dumps(files))
                write_atomic(self._summary, json.dumps(summary))
            except OSError as error:
                raise UserError(
                    f"{self._stem.parent} cannot be written ({error.strerror}): "
                    "set LOCBENCH_CACHE to a folder that can"
                ) from error
        return summary, found
