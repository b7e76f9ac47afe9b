"""Supervised augmentation: every view against torchvision's functionals, every draw's distribution.

Image by image: given a batch, torchvision's v2 transforms draw one set of parameters for all.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torchvision.transforms.v2 as transforms
import torchvision.transforms.v2.functional as vision
from scipy import stats
from torch import Tensor
from torchvision.transforms import InterpolationMode

from locbench.data.crop import CropAugmentation, Shifts, evaluation_view, normalise
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


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_images(n: int, height: int, width: int | None = None, seed: int = 0) -> Tensor:
    shape = (n, 3, height, width or height)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=seeded(seed))


def reference(image: Tensor, shifts: Shifts, i: int, aug: Crop) -> Tensor:
    """One view of an 8-bit image: padded, then cropped, then flipped; uint8 [3, R, R]."""
    mode = "constant" if aug.padding_mode == "zeros" else "reflect"
    padded = vision.pad(image, [aug.padding] * 4, fill=0, padding_mode=mode)
    side = image.shape[-1]
    view = vision.crop(padded, int(shifts.top[i]), int(shifts.left[i]), side, side)
    return vision.horizontal_flip(view) if shifts.flip[i] else view


# --- views --------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("aug", "side"),
    [(CIFAR10, 32), (SVHN, 32), (STL10, 96), (Crop(padding=0), 8), (Crop(padding=7), 8)],
)
def test_views_equal_torchvision_image_by_image(aug, side, channels_last):
    images, augment = some_images(40, side), CropAugmentation(aug, side, channels_last)
    shifts = augment.draw(len(images), seeded(1))
    cut = torch.stack([reference(image, shifts, i, aug) for i, image in enumerate(images)])
    pixels = augment.apply(images, shifts)
    assert torch.equal(pixels, cut.float() / 255)
    assert torch.equal(augment.pixels(images, seeded(1)), pixels)
    expected = vision.normalize(cut.float() / 255, aug.mean, aug.std)
    assert torch.equal(normalise(pixels, aug), expected)
    assert torch.equal(augment.views(images, seeded(1)), expected)


@pytest.mark.parametrize("aug", [CIFAR10, STL10])
def test_every_place_and_flip(aug):
    """All 81 places, flipped and not, of one image: none is off at an edge."""
    places = torch.cartesian_prod(torch.arange(9), torch.arange(9), torch.arange(2))
    shifts = Shifts(places[:, 0], places[:, 1], places[:, 2] > 0)
    image = some_images(1, 12)
    pixels = CropAugmentation(aug, 12).apply(image.expand(len(shifts), -1, -1, -1), shifts)
    cut = torch.stack([reference(image[0], shifts, i, aug) for i in range(len(shifts))])
    assert torch.equal(pixels, cut.float() / 255)
    assert len(pixels.unique(dim=0)) == 162


def test_reflection_is_of_the_image_and_comes_before_the_crop():
    """As in the AugLocal code: padded as floats, back to 8 bits, then cropped."""
    image = some_images(1, 32)
    shifts = Shifts(torch.tensor([0]), torch.tensor([7]), torch.tensor([False]))
    padded = torch.nn.functional.pad(image.float(), (4, 4, 4, 4), mode="reflect").byte()
    pixels = CropAugmentation(CIFAR10, 32).apply(image, shifts)
    assert torch.equal(pixels * 255, padded[:, :, 0:32, 7:39].float())
    assert torch.equal(pixels[0, :, 0], pixels[0, :, 8])  # row 4 is the image's first
    assert not torch.equal(pixels[0, :, 3], pixels[0, :, 4])  # the edge itself is not repeated


def test_zeros_are_black_before_normalisation():
    white = torch.full((1, 3, 16, 16), 255, dtype=torch.uint8)
    shifts = Shifts(torch.tensor([0]), torch.tensor([8]), torch.tensor([False]))
    view = normalise(CropAugmentation(STL10, 16).apply(white, shifts), STL10)
    assert (view[0, :, :4] == -1).all() and (view[0, :, :, 12:] == -1).all()
    assert (view[0, :, 4:, :12] == 1).all()


@pytest.mark.parametrize("aug", [CIFAR10, STL10])
@pytest.mark.parametrize(("height", "width"), [(20, 20), (48, 48), (32, 50)])
def test_other_sizes_are_resized_first(aug, height, width):
    images, augment = some_images(6, height, width), CropAugmentation(aug, 32)
    shifts = augment.draw(6, seeded(2))
    size = [32, 32] if height == width else [32]
    whole = vision.resize(images.float() / 255, size, InterpolationMode.BICUBIC, antialias=True)
    whole = vision.center_crop(whole.clamp(0, 1), [32, 32])
    expected = torch.stack([reference(image, shifts, i, aug) for i, image in enumerate(whole)])
    torch.testing.assert_close(augment.apply(images, shifts), expected, rtol=0, atol=1e-6)


def test_interpolation_is_the_recipes():
    images = some_images(2, 20)
    linear = evaluation_view(images, 32, replace(CIFAR10, interpolation="bilinear"))
    assert not torch.allclose(linear, evaluation_view(images, 32, CIFAR10), atol=0.1)


# --- draws --------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [1, 2, 4])
def test_places_are_uniform(padding):
    shifts = CropAugmentation(Crop(padding=padding), 32).draw(DRAWS, seeded(3))
    for place in (shifts.top, shifts.left):
        counts = torch.bincount(place, minlength=2 * padding + 1)
        assert len(counts) == 2 * padding + 1 and (counts > 0).all()
        assert stats.chisquare(counts.numpy()).pvalue > LEAST_P
    both = torch.bincount(shifts.top * (2 * padding + 1) + shifts.left)
    assert len(both) == (2 * padding + 1) ** 2
    assert stats.chisquare(both.numpy()).pvalue > LEAST_P


def test_places_are_distributed_as_torchvision():
    aug, image = Crop(padding=2, padding_mode="zeros", flip=0.0), torch.zeros(1, 8, 8)
    image[0, 2, 2] = 1  # shows where the crop was, wherever it was
    torch.manual_seed(4)
    random_crop = transforms.RandomCrop(8, padding=2)
    theirs = torch.stack([random_crop(image).flatten().argmax() for _ in range(DRAWS)])
    marked = (image * 255).byte().expand(DRAWS, 3, 8, 8)
    ours = CropAugmentation(aug, 8).pixels(marked, seeded(4))[:, 0].flatten(1).argmax(dim=1)
    counts = torch.stack([torch.bincount(places, minlength=64) for places in (ours, theirs)])
    assert ((counts > 0).sum(dim=1) == 25).all()
    assert stats.chi2_contingency(counts[:, counts.sum(dim=0) > 0]).pvalue > LEAST_P


@pytest.mark.parametrize("flip", [0.0, 0.25, 0.5, 1.0])
def test_flips_are_as_frequent_as_asked(flip):
    drawn = CropAugmentation(Crop(flip=flip), 32).draw(DRAWS, seeded(5)).flip
    flips = int(drawn.sum())
    assert flips == flip * DRAWS or 0 < flip < 1
    assert stats.binomtest(flips, DRAWS, flip).pvalue > LEAST_P


def test_draws_are_independent():
    shifts = CropAugmentation(Crop(), 32).draw(DRAWS, seeded(6))
    top, left, flip = shifts.top.double(), shifts.left.double(), shifts.flip.double()
    for one, two in ((top, left), (top, flip), (left, flip)):
        assert stats.pearsonr(one, two).pvalue > LEAST_P
    for values in (top, left, flip):  # of one image and the next
        assert stats.pearsonr(values[:-1], values[1:]).pvalue > LEAST_P


def test_images_of_a_batch_differ():
    images = some_images(1, 32).expand(64, -1, -1, -1)
    views = CropAugmentation(CIFAR10, 32).views(images, seeded(7))
    assert len(views.unique(dim=0)) > 45  # of 162 views, 64 draws give 53 different ones


def test_the_generator_alone_decides():
    images, augment = some_images(16, 32), CropAugmentation(CIFAR10, 32)
    torch.manual_seed(0)
    first = augment.views(images, seeded(8))
    torch.manual_seed(1)
    assert torch.equal(augment.views(images, seeded(8)), first)
    assert not torch.equal(augment.views(images, seeded(9)), first)


def test_the_same_places_with_and_without_flips():
    draws = [CropAugmentation(Crop(flip=flip), 32).draw(50, seeded(10)) for flip in (0.0, 0.5)]
    assert torch.equal(draws[0].top, draws[1].top) and torch.equal(draws[0].left, draws[1].left)


# --- layout and errors --------------------------------------------------------------------------


@pytest.mark.parametrize("side", [32, 20])
def test_channels_last_changes_no_value(side):
    images = some_images(8, side)
    views = CropAugmentation(CIFAR10, 32, channels_last=True).views(images, seeded(11))
    assert views.is_contiguous(memory_format=torch.channels_last)
    plain = CropAugmentation(CIFAR10, 32).views(images, seeded(11))
    assert plain.is_contiguous() and views.dtype == torch.float32
    assert torch.equal(views, plain)


@pytest.mark.parametrize("channels_last", [False, True])
def test_images_and_pixels_are_left_alone(channels_last):
    images = some_images(4, 32)
    before, augment = images.clone(), CropAugmentation(CIFAR10, 32, channels_last)
    pixels = augment.pixels(images, seeded(12))
    kept = pixels.clone()
    normalise(pixels, CIFAR10)
    evaluation_view(images, 32, CIFAR10)
    assert torch.equal(images, before) and torch.equal(pixels, kept)


def test_autocast_changes_no_value():
    images, augment = some_images(4, 32), CropAugmentation(CIFAR10, 32)
    expected = augment.views(images, seeded(13))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augment.views(images, seeded(13)), expected)


@pytest.mark.parametrize("aug", [CIFAR10, STL10])
def test_nothing_waits_for_the_device(aug):
    """On the meta device an operation that reads a value back, as `.item()` would, fails."""
    for side in (32, 48):
        images = torch.empty(6, 3, side, side, dtype=torch.uint8, device="meta")
        assert CropAugmentation(aug, 32).views(images, seeded()).shape == (6, 3, 32, 32)
        assert evaluation_view(images, 32, aug).shape == (6, 3, 32, 32)


def test_wrong_input_is_named():
    augment = CropAugmentation(CIFAR10, 32)
    for images in (torch.rand(2, 3, 32, 32), some_images(2, 32).long(), some_images(2, 32)[:, :1]):
        with pytest.raises(ValueError, match="uint8"):
            augment.views(images, seeded())
        with pytest.raises(ValueError, match="uint8"):
            evaluation_view(images, 32, CIFAR10)
    with pytest.raises(ValueError, match="3 draws for 2 images"):
        augment.apply(some_images(2, 32), augment.draw(3, seeded()))


def test_padding_that_cannot_be_reflected():
    with pytest.raises(UserError, match=r"augmentation\.padding = 8 .*below 8") as caught:
        CropAugmentation(Crop(padding=8), 8)
    assert "\n" not in str(caught.value)
    images = some_images(3, 8)
    zeros = CropAugmentation(Crop(padding=8, padding_mode="zeros"), 8)
    assert zeros.views(images, seeded()).shape == (3, 3, 8, 8)


# --- test transform -----------------------------------------------------------------------------


def test_evaluation_of_the_right_side_is_the_normalised_pixels():
    images = some_images(5, 32)
    view = evaluation_view(images, 32, CIFAR10)
    assert torch.equal(view, vision.normalize(images.float() / 255, CIFAR10.mean, CIFAR10.std))
    middle = Shifts(torch.full((5,), 4), torch.full((5,), 4), torch.zeros(5, dtype=torch.bool))
    drawn = CropAugmentation(CIFAR10, 32).apply(images, middle)
    assert torch.equal(normalise(drawn, CIFAR10), view)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(20, 20, [32, 32]), (48, 48, [32, 32]), (224, 224, [32, 32]), (40, 60, [32]), (20, 24, [32])],
)
def test_evaluation_of_other_sides_sees_the_whole_image(height, width, size):
    images = some_images(3, height, width)
    steps = [
        transforms.Resize(size, InterpolationMode.BICUBIC, antialias=True),
        transforms.CenterCrop(32),
    ]
    expected = transforms.Compose(steps)(images.float() / 255).clamp(0, 1)
    expected = vision.normalize(expected, CIFAR10.mean, CIFAR10.std)
    torch.testing.assert_close(evaluation_view(images, 32, CIFAR10), expected, rtol=0, atol=1e-5)
