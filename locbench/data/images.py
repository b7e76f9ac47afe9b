"""Decodes the bytes of an image file to a uint8 array, and names the image where that fails."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from locbench.data.files import Files
from locbench.errors import UserError

# What Pillow raises for damaged files, by format.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error,
           Image.DecompressionBombError)  # fmt: skip

T = TypeVar("T")


def header(data: bytes) -> tuple[int, int]:
    """Width and height. Raises one of DAMAGED."""
    with Image.open(BytesIO(data)) as image:
        return image.size


def picture_of(data: bytes) -> Image.Image:
    """The whole image, in RGB. Raises one of DAMAGED.

    Greyscale, palette and CMYK images become RGB; transparency is dropped.
    """
    with Image.open(BytesIO(data)) as image:
        # From P straight to RGB, Pillow complains of a palette with transparent entries.
        picture = image.convert("RGBA") if image.info.get("transparency") is not None else image
        return picture.convert("RGB")


def decode(data: bytes, side: int) -> np.ndarray:
    """uint8 [3, side, side]: short side resized to `side` (bicubic), the centre square, as RGB.

    An image of that size keeps its pixels. Raises one of DAMAGED.
    """
    picture = ImageOps.fit(picture_of(data), (side, side), Image.Resampling.BICUBIC)
    return np.asarray(picture).transpose(2, 0, 1)


def guarded(files: Files, work: Callable[[bytes], T], index: int, data: bytes | None = None) -> T:
    """`work` on the bytes of one image (read first, if not given); UserError if it is damaged."""
    try:
        return work(files.read(index) if data is None else data)
    except DAMAGED as error:
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "not an image, or empty" if unknown else " ".join(str(error).split())
        raise UserError(
            f"{files.where(index)} does not decode ({reason}); replace or delete it"
        ) from error
