"""Loads image folders and archives: ImageNet, Imagenette, or any folder of classes.

A set of at most `CACHED_BYTES` is decoded once into the cache and memory-mapped. Images that are
all square and of one size keep their pixels; otherwise the short side is resized to the median
short side, at most 256, and the centre square kept. Training crops are drawn from that square. A
larger set is decoded when it is read (`StreamingSplit`), from a folder or plain tar, and training
crops are drawn from the whole images.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from locbench.data import ImageData, Images, Progress, memory_mapped
from locbench.data.cache import Builder, cached
from locbench.data.files import each
from locbench.data.images import decode, guarded, header
from locbench.data.listing import Listing, class_indices, read_listing
from locbench.data.locate import ImageFolder, find_source
from locbench.data.sizes import (
    DECODING,
    entry_key,
    kept_side,
    sampled_sizes,
    square_of,
    streams,
    too_large,
)
from locbench.errors import UserError


def _fill(builder: Builder, listing: Listing, progress: Progress | None) -> dict[str, Any]:
    splits = {"train": listing.train, "test": listing.test}
    tell = progress or (lambda what, done, total: None)
    sizes = []
    for files in splits.values():
        for _, size in each(files, range(len(files)), partial(guarded, files, header)):
            sizes.append(size)
            tell("reading sizes", len(sizes), len(listing.train) + len(listing.test))
    side = kept_side(sizes)
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


def _decoded(listing: Listing, progress: Progress | None) -> tuple[Images, Images]:
    for files in listing.parts:
        if files.compressed and too_large(listing):
            raise UserError(
                f"{files.container}: too large to decode beforehand, and a compressed archive "
                "cannot be read in random order; unpack it to a .tar or a folder"
            )
    identity = {"checksum": listing.checksum, "decoding": DECODING}
    entry = cached(entry_key(listing), identity, lambda builder: _fill(builder, listing, progress))
    return memory_mapped(entry.arrays, "train"), memory_mapped(entry.arrays, "test")


def _streamed(listing: Listing) -> tuple[Images, Images]:
    import torch

    from locbench.data.streaming import StreamingSplit

    square = square_of(sampled_sizes(listing.train))
    train, test = (
        StreamingSplit(files, torch.tensor(class_indices(files, listing.classes)), square=square)
        for files in listing.parts
    )
    return train, test


def load_folder(source: ImageFolder, progress: Progress | None = None) -> ImageData:
    """The images of a source, decoded or streamed. Raises UserError: see `load_data`."""
    listing = read_listing(source.train, source.test, progress=progress)
    version, classes = source.version_of(listing), tuple(listing.classes)
    splits = _streamed(listing) if streams(listing) else _decoded(listing, progress)
    return ImageData(source.name, version, listing.checksum, classes, *splits)


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
