"""Loads image folders and archives: ImageNet, Imagenette, or any folder of classes.

A set of at most `CACHED_BYTES` is decoded once into the cache and memory-mapped. Images that are
all square and of one size keep their pixels; otherwise the short side is resized to the median
short side, at most 256, and the centre square kept. Training crops are drawn from that square. A
larger set is decoded when it is read (`StreamingSplit`), from a folder or plain tar.
"""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path
from typing import Any

from locbench.data import ImageData, Progress, memory_mapped
from locbench.data.cache import Builder, CacheEntry, cached, has_entry
from locbench.data.files import Files, each
from locbench.data.images import decode, guarded, header
from locbench.data.listing import Listing, class_indices, read_listing
from locbench.data.locate import ImageFolder, find_source
from locbench.errors import UserError

DECODING = 1  # goes up when the same files would decode to other pixels
CACHED_BYTES = 4_000_000_000
LARGEST_SIDE = 256
SAMPLED = 64  # images by which the size of a set is estimated


def _side(sizes: list[tuple[int, int]]) -> int:
    """The side in pixels at which images of these (width, height) are kept."""
    if len(set(sizes)) == 1 and sizes[0][0] == sizes[0][1]:
        return sizes[0][0]
    return min(LARGEST_SIDE, round(statistics.median(min(size) for size in sizes)))


def _sampled_side(files: Files) -> int:
    sample = range(0, len(files), max(1, len(files) // SAMPLED))
    return _side([size for _, size in each(files, sample, partial(guarded, files, header))])


def _fill(builder: Builder, listing: Listing, progress: Progress | None) -> dict[str, Any]:
    splits = {"train": listing.train, "test": listing.test}
    tell = progress or (lambda what, done, total: None)
    sizes = []
    for files in splits.values():
        for _, size in each(files, range(len(files)), partial(guarded, files, header)):
            sizes.append(size)
            tell("reading sizes", len(sizes), len(listing.train) + len(listing.test))
    side = _side(sizes)
    for split, files in splits.items():
        count = len(files)
        images = builder.array(f"{split}_images", (count, 3, side, side), "uint8")
        work = partial(guarded, files, partial(decode, side=side))
        for done, (index, image) in enumerate(each(files, range(count), work), 1):
            images[index] = image
            tell(f"decoding {split}", done, count)
        builder.array(f"{split}_targets", (count,), "int64")[:] = class_indices(
            files, listing.classes
        )
    return {"side": side}


def _decoded(listing: Listing, progress: Progress | None) -> CacheEntry | None:
    """The decoded set; None where it is too large for that.

    The checksum says nothing of class names: the same images may have others elsewhere.
    """
    key = f"images-{listing.checksum[:16]}-d{DECODING}"
    identity = {"checksum": listing.checksum, "decoding": DECODING}
    count = len(listing.train) + len(listing.test)
    if not has_entry(key) and 3 * count * _sampled_side(listing.train) ** 2 > CACHED_BYTES:
        return None
    return cached(key, identity, lambda builder: _fill(builder, listing, progress))


def _streamed(listing: Listing) -> tuple[Any, Any]:
    import torch

    from locbench.data.streaming import StreamingSplit

    side = _sampled_side(listing.train)
    for files in (listing.train, listing.test):
        if files.compressed:
            raise UserError(
                f"{files.container}: too large to decode beforehand, and a compressed archive "
                "cannot be read in random order; unpack it to a .tar or a folder"
            )
    return tuple(
        StreamingSplit(files, torch.tensor(class_indices(files, listing.classes)), side)
        for files in (listing.train, listing.test)
    )


def load_folder(source: ImageFolder, progress: Progress | None = None) -> ImageData:
    """The images of a source, decoded or streamed. Raises UserError: see `load_data`."""
    listing = read_listing(source.train, source.test, progress=progress)
    entry = _decoded(listing, progress)
    if entry is None:
        train, test = _streamed(listing)
    else:
        train, test = (memory_mapped(entry.arrays, split) for split in ("train", "test"))
    name, version, classes = source.name, source.version, tuple(listing.classes)
    return ImageData(name, version, listing.checksum, classes, train, test, entry is None)


def load_images(
    resolution: int, root: Path | None, progress: Progress | None = None, *, name: str
) -> ImageData:
    """The image folder or archives of data set `name`: under `root/name` or `root`.

    Images keep their resolution. Raises UserError: see `locbench.data.load_data`.
    """
    source = find_source(name, root)
    assert isinstance(source, ImageFolder)  # others are read by `torchvision_sets`
    return load_folder(source, progress)


imagenet = partial(load_images, name="imagenet")
imagenette = partial(load_images, name="imagenette")
folder = partial(load_images, name="folder")
