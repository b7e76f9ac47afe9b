"""The views that go with a recipe's augmentation: of a test image, and for training a probe."""

from __future__ import annotations

from torch import Tensor

from locbench.data.augmentation import ProbeAugmentation, centre
from locbench.data.crop import CropAugmentation, evaluation_view
from locbench.recipes import Augmentation, Crop


def test_view(images: Tensor, resolution: int, aug: Augmentation | Crop) -> Tensor:
    """uint8 [N, 3, H, W] -> float32 [N, 3, R, R], normalised, with nothing drawn."""
    if isinstance(aug, Crop):
        return evaluation_view(images, resolution, aug)
    return centre(images, resolution, aug)


def probe_augmentation(
    aug: Augmentation | Crop, resolution: int
) -> ProbeAugmentation | CropAugmentation:
    """What a linear probe is trained on: a random crop and a flip."""
    kind = CropAugmentation if isinstance(aug, Crop) else ProbeAugmentation
    return kind(aug, resolution, channels_last=True)
