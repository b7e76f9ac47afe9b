"""Says how large the images of a set are, and whether it is decoded beforehand.

No torch; numpy and Pillow where images have to be looked at, which plans of small sets do without.
"""

from __future__ import annotations

import statistics
from functools import partial

from locbench.data.files import Files, each
from locbench.data.listing import Listing

DECODING = 1  # goes up when the same files would decode to other pixels
CACHED_BYTES = 4_000_000_000
FEW_BYTES = 100_000_000  # of files: sets below are decoded without a look at their images
LARGEST_SIDE = 256
SAMPLED = 64  # images by which the size of a set is estimated


def square_of(sizes: list[tuple[int, int]]) -> int:
    """The side of images of these (width, height) where all are one square, else 0."""
    (width, height), *others = set(sizes)
    return width if width == height and not others else 0


def kept_side(sizes: list[tuple[int, int]]) -> int:
    """The side in pixels at which images of these (width, height) are kept where they are decoded.

    Squares of one size keep theirs; others get the median short side, at most 256.
    """
    short = round(statistics.median(min(size) for size in sizes))
    return square_of(sizes) or min(LARGEST_SIDE, short)


def sampled_sizes(files: Files) -> list[tuple[int, int]]:
    """(width, height) of some images. UserError names one that is damaged."""
    from locbench.data.images import guarded, header

    sample = range(0, len(files), max(1, len(files) // SAMPLED))
    return [size for _, size in each(files, sample, partial(guarded, files, header))]


def entry_key(listing: Listing) -> str:
    """The name of the decoded set in the cache.

    By the checksum, which says nothing of class names: the same images may have others elsewhere.
    """
    return f"images-{listing.checksum[:16]}-d{DECODING}"


def too_large(listing: Listing) -> bool:
    """Whether a set would take more room in the cache than it may, by a sample of its images."""
    if sum(sum(files.numbers[::3]) for files in listing.parts) <= FEW_BYTES:
        return False
    from locbench.data.cache import has_entry

    if has_entry(entry_key(listing)):
        return False
    count = sum(map(len, listing.parts))
    return 3 * count * kept_side(sampled_sizes(listing.train)) ** 2 > CACHED_BYTES


def streams(listing: Listing) -> bool:
    """Whether images are decoded as they are read, because the set is too large for the cache.

    Training crops are then drawn from whole images; else from the squares that the cache has. A
    compressed archive is never read so.
    """
    return not any(files.compressed for files in listing.parts) and too_large(listing)
