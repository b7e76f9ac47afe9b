"""Supervised augmentation: every view against torchvision's functionals, every draw's distribution.

Image by image: given a batch, torchvision's v2 transforms draw one set of parameters for all.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torchvision.transforms.v2.functional as vision
from image_sets import noise, seeded
from scipy import stats
from torch import Tensor
from torchvision.transforms import InterpolationMode

from locbench.data.crop import CropAugmentation, Shifts, evaluation_view
from locbench.errors import UserError
from locbench.recipes.schema import Crop

# CIFAR-10, SVHN and STL-10 as published.
CIFAR10 = Crop(
    padding=4,
    mean=(125.3 / 255, 123.0 / 255, 113.9 / 255),
    std=(63.0 / 255, 62.1 / 255, 66.7 / 255),
)
SVHN = Crop(padding=2, padding_mode="zeros", flip=0.0)
STL10 = Crop(padding=4, padding_mode="zeros")
DRAWS = 4000
LEAST_P = 1e-3  # seeds are fixed, so this is no chance of failure but how far off a draw may be
PUBLISHED = pytest.mark.parametrize("aug", [CIFAR10, STL10])


def reference(images: Tensor, shifts: Shifts, aug: Crop) -> Tensor:
    """Views as in the AugLocal code: padded, then cropped, then flipped; of the images' type."""
    mode, side = "constant" if aug.padding_mode == "zeros" else "reflect", images.shape[-1]
    views = []
    for image, top, left, flip in zip(images, shifts.top, shifts.left, shifts.flip, strict=True):
        padded = vision.pad(image, [aug.padding] * 4, fill=0, padding_mode=mode)
        view = vision.crop(padded, int(top), int(left), side, side)
        views.append(vision.horizontal_flip(view) if flip else view)
    return torch.stack(views)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("aug", "side"),
    [(CIFAR10, 32), (SVHN, 32), (STL10, 96), (Crop(padding=0), 8), (Crop(padding=7), 8)],
)
def test_views_equal_torchvision_image_by_image(aug, side, channels_last):
    images, augment = noise(40, side), CropAugmentation(aug, side, channels_last)
    before = images.clone()
    pixels = reference(images, augment.draw(len(images), seeded(1)), aug).float() / 255
    assert torch.equal(augment.pixels(images, seeded(1)), pixels)
    with torch.autocast("cpu", torch.bfloat16):
        views = augment.views(images, seeded(1))
    assert torch.equal(views, vision.normalize(pixels, aug.mean, aug.std))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert views.is_contiguous(memory_format=layout) and torch.equal(images, before)


@PUBLISHED
def test_every_place_and_flip(aug):
    """All 81 places, flipped and not, of one image: none is off at an edge."""
    places = torch.cartesian_prod(torch.arange(9), torch.arange(9), torch.arange(2))
    shifts = Shifts(places[:, 0], places[:, 1], places[:, 2] > 0)
    images = noise(1, 12).expand(len(shifts), -1, -1, -1)
    pixels = CropAugmentation(aug, 12).apply(images, shifts)
    assert torch.equal(pixels, reference(images, shifts, aug).float() / 255)
    assert len(pixels.unique(dim=0)) == 162


@PUBLISHED
@pytest.mark.parametrize(("height", "width"), [(20, 20), (48, 48), (32, 50)])
def test_other_sizes_are_resized_first(aug, height, width):
    images, augment = noise(6, height, width), CropAugmentation(aug, 32)
    shifts = augment.draw(6, seeded(2))
    size = [32, 32] if height == width else [32]
    whole = vision.resize(images.float() / 255, size, InterpolationMode.BICUBIC, antialias=True)
    whole = vision.center_crop(whole.clamp(0, 1), [32, 32])
    expected = reference(whole, shifts, aug)
    torch.testing.assert_close(augment.apply(images, shifts), expected, rtol=0, atol=1e-6)


def test_places_are_uniform():
    shifts = CropAugmentation(Crop(padding=4), 32).draw(DRAWS, seeded(3))
    counts = torch.bincount(shifts.top * 9 + shifts.left, minlength=81)
    assert len(counts) == 81 and (counts > 0).all()
    assert stats.chisquare(counts.numpy()).pvalue > LEAST_P


@pytest.mark.parametrize("flip", [0.0, 0.25, 1.0])
def test_flips_are_as_frequent_as_asked(flip):
    flips = int(CropAugmentation(Crop(flip=flip), 32).draw(DRAWS, seeded(5)).flip.sum())
    assert flips == flip * DRAWS or 0 < flip < 1
    assert stats.binomtest(flips, DRAWS, flip).pvalue > LEAST_P


def test_draws_are_independent():
    shifts = CropAugmentation(Crop(), 32).draw(DRAWS, seeded(6))
    top, left, flip = shifts.top.double(), shifts.left.double(), shifts.flip.double()
    neighbours = [(values[:-1], values[1:]) for values in (top, left, flip)]  # one image, the next
    for one, two in ((top, left), (top, flip), (left, flip), *neighbours):
        assert stats.pearsonr(one, two).pvalue > LEAST_P


def test_padding_that_cannot_be_reflected():
    with pytest.raises(UserError, match=r"^[^\n]*augmentation\.padding = 8 .*below 8[^\n]*$"):
        CropAugmentation(Crop(padding=8), 8)
    zeros = CropAugmentation(Crop(padding=8, padding_mode="zeros"), 8)
    assert zeros.views(noise(3, 8), seeded()).shape == (3, 3, 8, 8)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(32, 32, [32, 32]), (20, 20, [32, 32]), (224, 224, [32, 32]), (40, 60, [32])],
)
def test_evaluation_sees_the_whole_image(height, width, size, interpolation):
    images, aug = noise(3, height, width), replace(CIFAR10, interpolation=interpolation)
    mode = InterpolationMode(interpolation)
    resized = vision.resize(images.float() / 255, size, mode, antialias=True)
    expected = vision.center_crop(resized, [32, 32]).clamp(0, 1)
    expected = vision.normalize(expected, aug.mean, aug.std)
    torch.testing.assert_close(evaluation_view(images, 32, aug), expected, rtol=0, atol=1e-5)
