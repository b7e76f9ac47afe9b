"""Seeds: a random draw depends on (seed, purpose, position) alone, so that a run can go on."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch


def derive(seed: int, *path: str | int) -> int:
    """A 63-bit seed for one draw, such as derive(seed, "augmentation", step)."""
    text = "/".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *path: str | int) -> torch.Generator:
    """A CPU generator for one draw: the same numbers whatever device the tensors go to."""
    return torch.Generator().manual_seed(derive(seed, *path))


def stream(seed: int, images: int, start: int, stop: int) -> torch.Tensor:
    """Positions [start, stop) of the endless stream of images: every epoch a new permutation.

    Batches run across the ends of epochs, as in the SimCLR code, so none is smaller than another.
    Returns int64 indices into the data set.
    """
    parts = []
    while start < stop:
        epoch, offset = divmod(start, images)
        parts.append(_order(seed, images, epoch)[offset : offset + stop - start])
        start += len(parts[-1])
    return torch.cat(parts)


@lru_cache(maxsize=2)
def _order(seed: int, images: int, epoch: int) -> torch.Tensor:
    return torch.randperm(images, generator=generator(seed, "order", epoch))
