"""Loads CIFAR-10, SVHN and STL-10 from torchvision's files, or an image folder in their place.

torchvision reads the files once into the cache, from where they are memory-mapped like all other
sets. Nothing is downloaded. An image folder is read as any other, and records give its own name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torchvision.datasets as published

from locbench.data import ImageData, Progress, memory_mapped
from locbench.data.cache import Builder, cached
from locbench.data.folders import load_folder
from locbench.data.locate import ImageFolder, OfficialFiles, find_source
from locbench.errors import UserError

READING = 1  # goes up when the same files would be read to other arrays

# Images uint8 [N, 3, H, W], targets, class names.
Arrays = tuple[np.ndarray, Any, list[str]]


class LabelledSTL10(published.STL10):
    """STL-10 that does without the 2.6 GB of unlabelled images."""

    train_list = published.STL10.train_list[:2]


def _read_cifar10(folder: Path, split: str) -> Arrays:
    data = published.CIFAR10(folder, train=split == "train")
    return data.data.transpose(0, 3, 1, 2), data.targets, data.classes


def _read_svhn(folder: Path, split: str) -> Arrays:
    data = published.SVHN(folder, split)  # needs scipy, a dependency of ours
    return data.data, data.labels, [str(digit) for digit in range(10)]


def _read_stl10(folder: Path, split: str) -> Arrays:
    data = LabelledSTL10(folder, split)
    return data.data, data.labels, data.classes


def _read(source: OfficialFiles, split: str, reader: Callable[[Path, str], Arrays]) -> Arrays:
    try:
        images, targets, classes = reader(source.folder, split)
    except (RuntimeError, OSError, ValueError) as error:
        source.summary()  # names the file, if it was damaged since it was last looked at
        raise UserError(f"{source.folder}: {source.name} cannot be read ({error})") from error
    assert len(images) == len(targets) == getattr(source.official, split)  # the md5 is right
    return images, targets, classes


def _class_names(source: OfficialFiles) -> list[str] | None:
    """The class names, where they are in a file of their own, which is not in the checksum."""
    if source.official.names is None:
        return None
    path = source.folder / source.official.names
    try:
        classes = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); {source.again}") from error
    if len(classes) != source.official.classes:
        raise UserError(
            f"{path} names {len(classes)} classes, not {source.official.classes}; {source.again}"
        )
    return classes


def _fill(
    builder: Builder,
    source: OfficialFiles,
    reader: Callable[[Path, str], Arrays],
    progress: Progress | None,
) -> dict[str, Any]:
    for split in ("train", "test"):
        images, targets, classes = _read(source, split, reader)
        builder.array(f"{split}_images", images.shape, "uint8")[:] = images
        builder.array(f"{split}_targets", (len(images),), "int64")[:] = targets
        if progress is not None:
            progress(f"reading {source.name} ({split})", len(images), len(images))
    return {"classes": list(classes)}


def _load(
    resolution: int,
    root: Path | None,
    progress: Progress | None = None,
    *,
    name: str,
    reader: Callable[[Path, str], Arrays],
) -> ImageData:
    source = find_source(name, root)
    if isinstance(source, ImageFolder):
        return load_folder(source, progress)
    checksum = source.summary(progress=progress)["checksum"]
    names = _class_names(source)
    entry = cached(
        f"{name}-{checksum[:16]}-r{READING}",
        {"checksum": checksum, "reading": READING},
        lambda builder: _fill(builder, source, reader, progress),
    )
    train, test = (memory_mapped(entry.arrays, split) for split in ("train", "test"))
    classes = tuple(names or entry.notes["classes"])
    return ImageData(name, source.version, checksum, classes, train, test)


# Under `root` or `root/NAME`: `cifar-10-batches-py`; `train_32x32.mat` and `test_32x32.mat`, which
# are SVHN's cropped digits; `stl10_binary`, of which the labelled images are read.
cifar10 = partial(_load, name="cifar10", reader=_read_cifar10)
svhn = partial(_load, name="svhn", reader=_read_svhn)
stl10 = partial(_load, name="stl10", reader=_read_stl10)
