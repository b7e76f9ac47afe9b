"""Every operation against torchvision's functionals, every draw against its transforms.

Sample by sample: given a batch, torchvision's v2 transforms draw one set of parameters for all.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch
import torchvision.transforms.v2 as transforms
import torchvision.transforms.v2.functional as vision
from image_sets import noise, seeded
from scipy import stats
from torch import Tensor
from torchvision.transforms import InterpolationMode

from locbench.data import augmentation
from locbench.data.augmentation import (
    BRIGHTNESS,
    CONTRAST,
    HUE,
    SATURATION,
    Parameters,
    ResizedCropAugmentation,
    Share,
    SimCLRAugmentation,
    blur_,
    centre,
    draw_colour,
    kernel_size,
    rotate_hue_,
)
from locbench.data.crop import CropAugmentation
from locbench.data.resample import Crops, draw_crops, resample
from locbench.data.views import test_view as view_of_a_test_image
from locbench.recipes.schema import Augmentation, Crop

AUG = Augmentation()
DRAWS = 3000
LEAST_P = 1e-3  # seeds are fixed, so this is no chance of failure but how far off a draw may be
BOTH = pytest.mark.parametrize("kind", [SimCLRAugmentation, ResizedCropAugmentation])
EVERY = pytest.mark.parametrize(
    "augment",
    [
        SimCLRAugmentation(AUG, 32),
        ResizedCropAugmentation(AUG, 32),
        CropAugmentation(Crop(), 32),
        CropAugmentation(Crop(padding_mode="zeros"), 32),
    ],
)


def some_images(n: int, height: int, width: int | None = None) -> Tensor:
    """uint8 images with the cases that colour operations treat apart: greys, extremes, ties."""
    images = noise(n, height, width)
    images[0, :, : height // 2] = images[0, :1, : height // 2]
    if n > 1:
        images[1] = torch.where(images[1] < 128, 0, 255)
    return images


def planes(n: int, side: int) -> Tensor:
    """Images in [0, 1] as the operations hold them, [3, n, side, side]."""
    return (some_images(n, side).float() / 255).transpose(0, 1).contiguous()


def box_numbers(crops: Crops) -> Tensor:
    return torch.stack([getattr(crops, field.name).float() for field in fields(crops)])


def reference_crop(image: Tensor, crops: Crops, i: int, side: int, interpolation: str) -> Tensor:
    box = [int(edge[i]) for edge in (crops.top, crops.left, crops.height, crops.width)]
    mode = InterpolationMode(interpolation)
    out = vision.resized_crop(image.float() / 255, *box, [side, side], mode, antialias=True)
    return (vision.horizontal_flip(out) if crops.flip[i] else out).clamp(0, 1)


def reference_view(image: Tensor, params: Parameters, i: int, side: int) -> Tensor:
    """One view through torchvision's functionals, in the order drawn."""
    x = reference_crop(image, params.crops, i, side, AUG.interpolation)
    colour = params.colour
    if colour is not None:
        operations = {
            BRIGHTNESS: vision.adjust_brightness,
            CONTRAST: vision.adjust_contrast,
            SATURATION: vision.adjust_saturation,
            HUE: vision.adjust_hue,
        }
        for operation in colour.order[i].tolist() if colour.jitter[i] else []:
            x = operations[operation](x, float(colour.factors[i, operation]))
        if colour.grayscale[i]:
            x = vision.rgb_to_grayscale(x, num_output_channels=3)
        if colour.blur[i]:
            x = vision.gaussian_blur(x, kernel_size(AUG.kernel, side), float(colour.sigma[i]))
    return vision.normalize(x, AUG.mean, AUG.std)


def assert_close(actual: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("large", [0, 10**9])  # crops one by one, or all together
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("height", "width", "side"), [(40, 56, 32), (20, 20, 32), (96, 128, 48)])
def test_resampling_equals_resized_crop(height, width, side, interpolation, large, monkeypatch):
    monkeypatch.setattr("locbench.data.resample.LARGE", large)
    images, index = some_images(5, height, width), torch.tensor([3, 0, 0, 1, 4, 2, 1])
    crops = draw_crops(7, height, width, AUG, seeded(1))
    assert 0 < crops.flip.sum() < 7
    out = resample(images, index, crops, box_numbers(crops), side, interpolation)
    for i, image in enumerate(images[index]):
        assert_close(out[:, i], reference_crop(image, crops, i, side, interpolation))


@pytest.mark.parametrize("turns", [-0.5, -1 / 6, 0.0, 0.07, 1 / 3, 0.5])
def test_hue_equals_torchvision(turns):
    x, level = planes(8, 16), torch.linspace(0, 1, 16)
    x[:, 2] = torch.stack([level, level.flip(0), level.clamp(max=0.5)])[:, None, :]
    expected = [vision.adjust_hue(x[:, i], turns) for i in range(8)]
    rotate_hue_(x.flatten(2), torch.full((8, 1), turns))
    assert_close(x, torch.stack(expected, dim=1))


@pytest.mark.parametrize(("side", "kernel"), [(16, 3), (40, 5), (64, 23)])
def test_blur_equals_torchvision(side, kernel):
    x, sigma = planes(3, side), torch.tensor([0.1, 0.9, 2.0])
    expected = [vision.gaussian_blur(x[:, i], kernel, float(sigma[i])) for i in range(3)]
    assert_close(blur_(x, sigma[:, None], kernel), torch.stack(expected, dim=1))


def test_blur_kernel_is_a_tenth_of_the_side_and_odd():
    assert [kernel_size(0.1, side) for side in (224, 96, 64, 32, 8)] == [23, 9, 7, 3, 3]


@BOTH
@pytest.mark.parametrize(("height", "width", "side"), [(32, 32, 32), (120, 112, 40)])
def test_views_equal_torchvision_sample_by_sample(kind, height, width, side):
    n, augment = 24, kind(AUG, side)
    images, params = some_images(n, height, width), augment.draw(n, height, width, seeded(3))
    out = augment.views(images, seeded(3))
    assert len(out) == n * params.views
    for i, view in enumerate(out):
        assert_close(view, reference_view(images[i % n], params, i, side), atol=1e-4)


def test_crops_are_distributed_as_torchvision():
    """In an image of 60 x 90."""
    ours = draw_crops(DRAWS, 60, 90, AUG, seeded(5))
    torch.manual_seed(6)
    transform = transforms.RandomResizedCrop(32, AUG.area, AUG.aspect)
    boxes = [transform.make_params([torch.zeros(3, 60, 90)]) for _ in range(DRAWS)]
    theirs = {key: torch.tensor([box[key] for box in boxes]) for key in boxes[0]}

    def figures(top: Tensor, left: Tensor, height: Tensor, width: Tensor) -> list[Tensor]:
        places = (top / (60 - height).clamp(min=1), left / (90 - width).clamp(min=1))
        return [top, left, height, width, height * width, width / height, *places]

    mine = figures(**{key: getattr(ours, key) for key in theirs})
    for one, other in zip(mine, figures(**theirs), strict=True):
        assert stats.ks_2samp(one, other).pvalue > LEAST_P
    assert ours.top.min() == 0 and (ours.top + ours.height).max() == 60
    assert ours.left.min() == 0 and (ours.left + ours.width).max() == 90


@pytest.mark.parametrize(("height", "width"), [(11, 100), (100, 11), (30, 30)])
def test_fallback_equals_torchvision(height, width):
    """Areas that never fit: the largest centre crop of an allowed ratio."""
    impossible = replace(AUG, area=(1.5, 2.0))
    crops = draw_crops(3, height, width, impossible, seeded())
    transform = transforms.RandomResizedCrop(8, impossible.area, AUG.aspect)
    for key, value in transform.make_params([torch.zeros(3, height, width)]).items():
        assert getattr(crops, key).tolist() == [value] * 3


def test_draws_take_the_same_numbers_whatever_fits():
    one, other = seeded(8), seeded(8)
    draw_crops(20, 32, 32, AUG, one)
    draw_crops(20, 10, 100, AUG, other)
    assert torch.equal(one.get_state(), other.get_state())


def test_colours_are_distributed_as_torchvision():
    torch.manual_seed(9)
    strengths = (AUG.brightness, AUG.contrast, AUG.saturation, AUG.hue)
    jitter, blur = transforms.ColorJitter(*strengths), transforms.GaussianBlur(3, AUG.sigma)
    theirs = [jitter.make_params([]) for _ in range(DRAWS)]
    ours = draw_colour(DRAWS, AUG, seeded(10))
    names = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
    for operation, name in enumerate(names):
        sample = stats.ks_2samp(ours.factors[:, operation], [one[name] for one in theirs])
        assert sample.pvalue > LEAST_P
    sigmas = [blur.make_params([])["sigma"][0] for _ in range(DRAWS)]
    assert stats.ks_2samp(ours.sigma, sigmas).pvalue > LEAST_P
    orders = (ours.order, torch.stack([one["fn_idx"] for one in theirs]))
    counts = [order.unique(dim=0, return_counts=True)[1] for order in orders]
    assert len(counts[0]) == 24
    assert stats.chi2_contingency(torch.stack(counts)).pvalue > LEAST_P


def test_rates_are_the_recipes():
    crops, colour = draw_crops(DRAWS, 8, 8, AUG, seeded(12)), draw_colour(DRAWS, AUG, seeded(13))
    for name in ("flip", "jitter", "grayscale", "blur"):
        drawn = int(getattr(crops if name == "flip" else colour, name).sum())
        assert stats.binomtest(drawn, DRAWS, getattr(AUG, name)).pvalue > LEAST_P


def test_parameters_of_a_sample_are_independent():
    """No draw decides another: a shared stream would show as correlation."""
    colour, crops = draw_colour(DRAWS, AUG, seeded(14)), draw_crops(DRAWS, 64, 64, AUG, seeded(15))
    drawn = [colour.jitter, *colour.factors.T, colour.order[:, 0], colour.grayscale, colour.blur]
    drawn += [colour.sigma, crops.flip, crops.height * crops.width]
    drawn += [(crops.top + 0.5) / (65 - crops.height), (crops.left + 0.5) / (65 - crops.width)]
    correlation = torch.corrcoef(torch.stack([row.double() for row in drawn])).fill_diagonal_(0)
    assert correlation.abs().max() < 5 / math.sqrt(DRAWS)


def test_views_of_an_image_and_images_of_a_batch_differ():
    """The same picture throughout: only parameters of its own can make a view different."""
    images = some_images(1, 32).expand(16, -1, -1, -1)
    views = SimCLRAugmentation(AUG, 32).views(images, seeded(16)).flatten(1)
    assert (torch.cdist(views, views) + torch.eye(32) * 1e9).min() > 1


@EVERY
def test_the_generator_alone_decides(augment):
    images, before = some_images(8, 32), torch.get_rng_state()
    one, same, other = (augment.views(images, seeded(s)) for s in (17, 17, 18))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


@EVERY
def test_a_share_of_a_batch_has_the_views_of_the_whole(augment):
    images = some_images(9, 40)
    whole = augment.views(images, seeded(19)).unflatten(0, (-1, 9))
    share = augment.views(images[2:7], seeded(19), share=Share(2, 7, 9))
    assert_close(share, whole[:, 2:7].flatten(0, 1), atol=1e-6)


def test_chunks_change_nothing(monkeypatch):
    images, augment = some_images(10, 32), SimCLRAugmentation(AUG, 24)
    whole = augment.views(images, seeded(22))
    monkeypatch.setattr(augmentation, "CPU_CHUNK", 3 * 1024 * 60)
    assert 1 <= augmentation._chunk(32, 32, 24, images.device) < 10
    assert_close(augment.views(images, seeded(22)), whole, atol=1e-6)


def test_channels_last_and_autocast_change_no_value():
    images, augment = some_images(4, 32), SimCLRAugmentation(AUG, 32)
    expected = augment.views(images, seeded(23))
    with torch.autocast("cpu", torch.bfloat16):
        views = SimCLRAugmentation(AUG, 32, channels_last=True).views(images, seeded(23))
    assert views.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(views, expected)


@EVERY
def test_nothing_waits_for_the_device(augment):
    """On the meta device an operation that reads a value back, as `.item()` would, fails."""
    images = torch.empty(6, 3, 48, 48, dtype=torch.uint8, device="meta")
    assert augment.views(images, seeded()).shape[1:] == (3, 32, 32)
    assert view_of_a_test_image(images, 32, augment.aug).shape == (6, 3, 32, 32)


@EVERY
def test_wrong_input_is_named(augment):
    for images in (torch.rand(2, 3, 32, 32), some_images(2, 32)[:, :1]):
        with pytest.raises(ValueError, match="uint8"):
            augment.views(images, seeded())
        with pytest.raises(ValueError, match="uint8"):
            view_of_a_test_image(images, 32, augment.aug)
    n = () if isinstance(augment, CropAugmentation) else (32, 32)
    with pytest.raises(ValueError, match=r"3 .* for 2 images"):
        augment.apply(some_images(2, 32), augment.draw(3, *n, seeded()))


@pytest.mark.parametrize(
    ("height", "width", "side", "size"),
    [
        (20, 20, 32, [32, 32]),  # a square that is not larger
        (224, 224, 64, [64, 64]),  # cropped when it was stored
        (96, 96, 64, [73]),
        (60, 90, 32, [37]),
        (20, 30, 32, [37]),
    ],
)
def test_centre_equals_torchvision(height, width, side, size):
    images = some_images(3, height, width)
    resized = vision.resize(images.float() / 255, size, InterpolationMode.BICUBIC, antialias=True)
    expected = vision.center_crop(resized, [side, side]).clamp(0, 1)
    assert_close(centre(images, side, AUG), vision.normalize(expected, AUG.mean, AUG.std))
