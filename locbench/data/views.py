"""Chooses the views that go with a recipe's augmentation: of test images, and for a probe."""

from __future__ import annotations

from torch import Tensor

from locbench.data.augmentation import ResizedCropAugmentation, centre
from locbench.data.crop import CropAugmentation, evaluation_view
from locbench.recipes.schema import Augmentation, Crop, ResizedCrop

Settings = Augmentation | Crop | ResizedCrop


def test_view(images: Tensor, resolution: int, aug: Settings) -> Tensor:
    """The test transform, without draws: uint8 [N, 3, H, W] -> float32 [N, 3, R, R], normalised."""
    if isinstance(aug, Crop):
        return evaluation_view(images, resolution, aug)
    return centre(images, resolution, aug)


def one_view(aug: Settings, resolution: int) -> ResizedCropAugmentation | CropAugmentation:
    """The augmentation for training with labels and for linear probes: a random crop and a flip."""
    kind = CropAugmentation if isinstance(aug, Crop) else ResizedCropAugmentation
    return kind(aug, resolution, channels_last=True)
