"""Image files and archive members to uint8 arrays, on a pool of threads."""

from __future__ import annotations

import os
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from locbench.data.listing import Files, member_name, members, split_name
from locbench.errors import UserError

# What Pillow raises for damaged files, by format.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error,
           Image.DecompressionBombError)  # fmt: skip
IN_FLIGHT = 16  # images a thread may be ahead of the reader of the results

T = TypeVar("T")


class DamagedImage(UserError):
    """An image that does not decode."""


def threads() -> int:
    """How many images to decode at once: the processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read(files: Files, index: int) -> bytes:
    """The bytes of one image of a folder or plain archive. Raises OSError."""
    if files.offsets is None:
        return (Path(files.container) / files.names[index]).read_bytes()
    with Path(files.container).open("rb") as archive:
        archive.seek(files.offsets[index])
        return archive.read(files.sizes[index])


def header(data: bytes) -> tuple[int, int]:
    """Width and height. Raises one of DAMAGED."""
    with Image.open(BytesIO(data)) as image:
        return image.size


def decode(data: bytes, side: int, fast: bool = False) -> np.ndarray:
    """uint8 [3, side, side]: short side resized to `side` (bicubic), the centre square, as RGB.

    An image of that size keeps its pixels. Greyscale, palette and CMYK images become RGB;
    transparency is dropped. `fast` lets the JPEG decoder shrink by 2, 4 or 8 first. Raises one of
    DAMAGED.
    """
    with Image.open(BytesIO(data)) as image:
        if fast:
            image.draft("RGB", (side, side))
        # From P straight to RGB, Pillow complains of a palette with transparent entries.
        picture = image.convert("RGBA") if image.info.get("transparency") is not None else image
        picture = picture.convert("RGB")
    if picture.size != (side, side):
        width, height = picture.size
        short = min(width, height)
        left, top = (width - short) / 2, (height - short) / 2
        box = (left, top, left + short, top + short)
        picture = picture.resize((side, side), Image.Resampling.BICUBIC, box)
    return np.asarray(picture).transpose(2, 0, 1)


def guarded(files: Files, index: int, work: Callable[[bytes], T], data: bytes | None = None) -> T:
    """`work` on the bytes of one image (read first, if not given); DamagedImage names the image."""
    try:
        return work(read(files, index) if data is None else data)
    except DAMAGED as error:
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "not an image, or empty" if unknown else " ".join(str(error).split())
        raise DamagedImage(
            f"{files.where(index)} does not decode ({reason}); replace or delete it"
        ) from error


def _sources(files: Files, wanted: Iterable[int]) -> Iterator[tuple[int, bytes | None]]:
    """The wanted images as they lie in storage; with their bytes where the order is not free."""
    if files.offsets is not None:
        wanted = sorted(wanted, key=files.offsets.__getitem__)
    if not files.compressed:
        yield from ((index, None) for index in wanted)
        return
    places = {files.names[index]: index for index in wanted}
    split = split_name(files.container)
    for archive, member in members(Path(files.container)):
        index = places.get(member_name(member.name, split) or "")
        if index is not None and member.isfile():
            yield index, archive.extractfile(member).read()


def each(
    files: Files, wanted: Iterable[int], work: Callable[[bytes], T]
) -> Iterator[tuple[int, T]]:
    """`work` on every wanted image, in threads: (index, result) in the order of storage.

    Raises DamagedImage for the first image that fails, and UserError for a damaged archive.
    """
    count = threads()
    with ThreadPoolExecutor(count) as pool:
        waiting: deque[tuple[int, Future[T]]] = deque()
        try:
            for index, data in _sources(files, wanted):
                waiting.append((index, pool.submit(guarded, files, index, work, data)))
                if len(waiting) >= IN_FLIGHT * count:
                    index, future = waiting.popleft()
                    yield index, future.result()
            for index, future in waiting:
                yield index, future.result()
        finally:
            pool.shutdown(cancel_futures=True)
