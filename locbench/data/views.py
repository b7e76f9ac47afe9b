"""Reads images, and makes the views that go with a recipe's augmentation: of tests, for a probe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from locbench.data import Images
from locbench.data.augmentation import ResizedCropAugmentation, centre, short_side
from locbench.data.crop import CropAugmentation, evaluation_view
from locbench.data.cuts import CentreCut, Cut
from locbench.recipes.schema import Augmentation, Crop, ResizedCrop

Settings = Augmentation | Crop | ResizedCrop


def read(
    split: Images, parts: Sequence[Tensor], make_cut: Callable[[int], Cut]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images (uint8 [..., 3, H, W]) and targets of each part; a part is a tensor of indices.

    A split that decodes images as they are read takes the cut `make_cut(k)` of those of part k, and
    starts on the next part while this one is used.
    """
    started = (split.start(part, partial(make_cut, k)) for k, part in enumerate(parts))
    ahead = next(started, None)
    for part in parts:
        images, ahead = ahead, next(started, None)
        yield images(), split.targets[part]


def test_cut(split: Images, resolution: int, aug: Settings) -> CentreCut:
    """What `test_view` leaves of an image, for a split that decodes images as they are read."""
    short = resolution if isinstance(aug, Crop) else short_side(split.square, resolution)
    return CentreCut(short, resolution, aug.interpolation)


def test_view(images: Tensor, resolution: int, aug: Settings) -> Tensor:
    """The test transform, without draws: uint8 [N, 3, H, W] -> float32 [N, 3, R, R], normalised."""
    if isinstance(aug, Crop):
        return evaluation_view(images, resolution, aug)
    return centre(images, resolution, aug)


def plain_views(
    split: Images,
    parts: Sequence[Tensor],
    *,
    resolution: int,
    augmentation: Settings,
    device: torch.device,
) -> Iterator[tuple[Tensor, Tensor]]:
    """`test_view` and targets (on the CPU) of each part, on the device."""
    for images, targets in read(split, parts, lambda k: test_cut(split, resolution, augmentation)):
        yield test_view(images.to(device), resolution, augmentation), targets


def one_view(aug: Settings, resolution: int) -> ResizedCropAugmentation | CropAugmentation:
    """The augmentation for training with labels and for linear probes: a random crop and a flip."""
    kind = CropAugmentation if isinstance(aug, Crop) else ResizedCropAugmentation
    return kind(aug, resolution, channels_last=True)
