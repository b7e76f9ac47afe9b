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
from scipy import stats
from torch import Tensor
from torchvision.transforms import InterpolationMode

from locbench.data import augmentation
from locbench.data.augmentation import (
    BRIGHTNESS,
    CONTRAST,
    HUE,
    SATURATION,
    Colour,
    Parameters,
    ResizedCropAugmentation,
    SimCLRAugmentation,
    blend_,
    blur_,
    centre,
    draw_colour,
    grey,
    kernel_size,
    render,
    rotate_hue_,
)
from locbench.data.resample import Crops, draw_crops, resample
from locbench.recipes.schema import Augmentation

AUG = Augmentation()
DRAWS = 3000
LEAST_P = 1e-3  # seeds are fixed, so this is no chance of failure but how far off a draw may be


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_images(n: int, height: int, width: int | None = None, seed: int = 0) -> Tensor:
    """uint8 images with the cases that colour operations treat apart: greys, extremes, ties."""
    images = torch.randint(
        0, 256, (n, 3, height, width or height), dtype=torch.uint8, generator=seeded(seed)
    )
    images[0, :, : height // 2] = images[0, :1, : height // 2]
    if n > 1:
        images[1] = torch.where(images[1] < 128, 0, 255)
    return images


def box_numbers(crops: Crops) -> Tensor:
    return torch.stack([getattr(crops, field.name).float() for field in fields(crops)])


def reference_crop(image: Tensor, crops: Crops, i: int, side: int, interpolation: str) -> Tensor:
    box = [int(side_[i]) for side_ in (crops.top, crops.left, crops.height, crops.width)]
    mode = InterpolationMode(interpolation)
    out = vision.resized_crop(image.float() / 255, *box, [side, side], mode, antialias=True)
    return vision.horizontal_flip(out) if crops.flip[i] else out


def reference_view(image: Tensor, params: Parameters, i: int, side: int) -> Tensor:
    """One view through torchvision's functionals, in the order drawn."""
    x = reference_crop(image, params.crops, i, side, AUG.interpolation).clamp(0, 1)
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


# --- operations ---------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("height", "width", "side"), [(32, 32, 32), (40, 56, 32), (20, 20, 32), (96, 128, 48)]
)
def test_resampling_equals_resized_crop(height, width, side, interpolation):
    images = some_images(5, height, width)
    index = torch.tensor([3, 0, 0, 1, 4, 2, 1])
    crops = draw_crops(7, height, width, AUG, seeded(1))
    assert 0 < crops.flip.sum() < 7
    out = resample(images, index, crops, box_numbers(crops), side, interpolation)
    for i, image in enumerate(images[index]):
        expected = reference_crop(image, crops, i, side, interpolation).clamp(0, 1)
        assert_close(out[:, i], expected)


def test_the_border_of_the_crop_not_of_the_image_cuts_the_filter():
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    images[:, :, 8:24, 8:24] = 200
    crops = Crops(*(torch.tensor([v]) for v in (8, 8, 16, 16)), flip=torch.tensor([False]))
    out = resample(images, torch.tensor([0]), crops, box_numbers(crops), 8, "bicubic")
    assert_close(out, torch.full_like(out, 200 / 255))


@pytest.mark.parametrize("large", [0, 10**9])
def test_both_ways_to_resample_agree(monkeypatch, large):
    images, crops = some_images(4, 48, 40), draw_crops(4, 48, 40, AUG, seeded(2))
    arguments = (images, torch.arange(4), crops, box_numbers(crops), 24, "bicubic")
    monkeypatch.setattr("locbench.data.resample.LARGE", large)
    out = resample(*arguments)
    for i, image in enumerate(images):
        assert_close(out[:, i], reference_crop(image, crops, i, 24, "bicubic").clamp(0, 1))


def planes(n: int = 8, side: int = 16) -> Tensor:
    """Images in [0, 1] as the operations hold them, [3, n, side, side]."""
    return (some_images(n, side).float() / 255).transpose(0, 1).contiguous()


@pytest.mark.parametrize(
    ("operation", "weights"),
    [
        (vision.adjust_brightness, lambda f: (f, 0 * f, 0 * f)),
        (vision.adjust_contrast, lambda f: (f, 0 * f, 1 - f)),
        (vision.adjust_saturation, lambda f: (f, 1 - f, 0 * f)),
    ],
)
def test_blends_equal_torchvision(operation, weights):
    x = planes()
    factors = torch.linspace(0, 1.8, 8)[:, None]
    expected = [operation(x[:, i], float(factors[i])) for i in range(8)]
    blend_(x.flatten(2), *weights(factors))
    assert_close(x, torch.stack(expected, dim=1))


@pytest.mark.parametrize("turns", [-0.5, -0.2, -1 / 6, 0.0, 0.07, 1 / 3, 0.5])
def test_hue_equals_torchvision(turns):
    x = planes()
    level = torch.linspace(0, 1, 16)
    x[:, 2] = torch.stack([level, level.flip(0), level.clamp(max=0.5)])[:, None, :]
    expected = [vision.adjust_hue(x[:, i], turns) for i in range(8)]
    rotate_hue_(x.flatten(2), torch.full((8, 1), turns))
    assert_close(x, torch.stack(expected, dim=1))


def test_grey_equals_torchvision():
    x = planes()
    expected = torch.stack([vision.rgb_to_grayscale(x[:, i])[0] for i in range(8)])
    assert_close(grey(x), expected)


@pytest.mark.parametrize(("side", "kernel"), [(16, 3), (40, 5), (64, 23)])
def test_blur_equals_torchvision(side, kernel):
    x = planes(3, side)
    sigma = torch.tensor([0.1, 0.9, 2.0])
    expected = [vision.gaussian_blur(x[:, i], kernel, float(sigma[i])) for i in range(3)]
    assert_close(blur_(x, sigma[:, None], kernel), torch.stack(expected, dim=1))


@pytest.mark.parametrize(("side", "size"), [(224, 23), (96, 9), (64, 7), (32, 3), (8, 3)])
def test_blur_kernel_is_a_tenth_of_the_side_and_odd(side, size):
    assert kernel_size(0.1, side) == size


@pytest.mark.parametrize(("height", "width", "side"), [(32, 32, 32), (120, 112, 40)])
def test_views_equal_torchvision_sample_by_sample(height, width, side):
    n = 24
    images = some_images(n, height, width)
    augment = SimCLRAugmentation(AUG, side)
    params = augment.draw(n, height, width, seeded(3))
    out = augment.apply(images, params)
    for i in range(2 * n):
        assert_close(out[i], reference_view(images[i % n], params, i, side), atol=1e-4)


def test_probe_view_is_the_crop_normalised():
    images = some_images(6, 40)
    augment = ResizedCropAugmentation(AUG, 32)
    params = augment.draw(6, 40, 40, seeded(4))
    out = augment.views(images, seeded(4))
    for i in range(6):
        assert_close(out[i], reference_view(images[i], params, i, 32), atol=5e-5)


# --- draws --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crops_drawn() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Ours and torchvision's crops of a 60 x 90 image, as figures to compare."""
    ours = draw_crops(DRAWS, 60, 90, AUG, seeded(5))
    torch.manual_seed(6)
    transform = transforms.RandomResizedCrop(32, AUG.area, AUG.aspect)
    image = torch.zeros(3, 60, 90)
    boxes = [transform.make_params([image]) for _ in range(DRAWS)]
    theirs = {key: torch.tensor([box[key] for box in boxes]) for key in boxes[0]}
    boxes = {key: getattr(ours, key) for key in theirs}
    return tuple(
        {
            **{key: value.double() for key, value in drawn.items()},
            "area": (drawn["height"] * drawn["width"]).double(),
            "aspect": drawn["width"] / drawn["height"].double(),
            "vertical place": drawn["top"] / (60 - drawn["height"]).clamp(min=1).double(),
            "horizontal place": drawn["left"] / (90 - drawn["width"]).clamp(min=1).double(),
        }
        for drawn in (boxes, theirs)
    )


@pytest.mark.parametrize(
    "figure",
    ["area", "aspect", "top", "left", "height", "width", "vertical place", "horizontal place"],
)
def test_crops_are_distributed_as_torchvision(crops_drawn, figure):
    ours, theirs = crops_drawn
    assert stats.ks_2samp(ours[figure], theirs[figure]).pvalue > LEAST_P


def test_crops_stay_inside_the_image():
    crops = draw_crops(DRAWS, 17, 31, AUG, seeded(7))
    assert crops.top.min() == 0 and (crops.top + crops.height).max() == 17
    assert crops.left.min() == 0 and (crops.left + crops.width).max() == 31


@pytest.mark.parametrize(("height", "width"), [(11, 100), (100, 11), (30, 30)])
def test_fallback_equals_torchvision(height, width):
    """Areas that never fit: the largest centre crop of an allowed ratio."""
    impossible = replace(AUG, area=(1.5, 2.0))
    crops = draw_crops(3, height, width, impossible, seeded())
    transform = transforms.RandomResizedCrop(8, impossible.area, AUG.aspect)
    expected = transform.make_params([torch.zeros(3, height, width)])
    for key, value in expected.items():
        assert getattr(crops, key).tolist() == [value] * 3


def test_draws_take_the_same_numbers_whatever_fits():
    one, other = seeded(8), seeded(8)
    draw_crops(20, 32, 32, AUG, one)
    draw_crops(20, 10, 100, AUG, other)
    assert torch.equal(one.get_state(), other.get_state())


@pytest.fixture(scope="module")
def colours_drawn() -> tuple[Colour, dict[str, Tensor]]:
    """Our colour parameters, and those of torchvision's transforms, one image at a time."""
    torch.manual_seed(9)
    strengths = (AUG.brightness, AUG.contrast, AUG.saturation, AUG.hue)
    jitter, blur = transforms.ColorJitter(*strengths), transforms.GaussianBlur(3, AUG.sigma)
    drawn = [jitter.make_params([]) for _ in range(DRAWS)]
    names = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
    theirs = {
        "factors": torch.tensor([[one[name] for name in names] for one in drawn]),
        "order": torch.stack([one["fn_idx"] for one in drawn]),
        "sigma": torch.tensor([blur.make_params([])["sigma"][0] for _ in range(DRAWS)]),
    }
    return draw_colour(DRAWS, AUG, seeded(10)), theirs


@pytest.mark.parametrize("operation", [BRIGHTNESS, CONTRAST, SATURATION, HUE])
def test_factors_are_distributed_as_torchvision(colours_drawn, operation):
    ours, theirs = colours_drawn
    sample = stats.ks_2samp(ours.factors[:, operation], theirs["factors"][:, operation])
    assert sample.pvalue > LEAST_P


def test_sigma_is_distributed_as_torchvision(colours_drawn):
    ours, theirs = colours_drawn
    assert stats.ks_2samp(ours.sigma, theirs["sigma"]).pvalue > LEAST_P


def test_all_orders_are_as_frequent_as_torchvision(colours_drawn):
    ours, theirs = colours_drawn
    digits = torch.tensor([1000, 100, 10, 1])
    counts = [
        (order * digits).sum(1).unique(return_counts=True)
        for order in (ours.order, theirs["order"])
    ]
    assert len(counts[0][0]) == 24 and torch.equal(counts[0][0], counts[1][0])
    table = [count.tolist() for _, count in counts]
    assert stats.chi2_contingency(table).pvalue > LEAST_P


@pytest.mark.parametrize(
    ("name", "transform"),
    [
        ("flip", transforms.RandomHorizontalFlip(AUG.flip)),
        ("jitter", transforms.RandomApply([transforms.RandomInvert(1.0)], AUG.jitter)),
        ("grayscale", transforms.RandomGrayscale(AUG.grayscale)),
        ("blur", transforms.RandomApply([transforms.RandomInvert(1.0)], AUG.blur)),
    ],
)
def test_rates_equal_torchvision(name, transform):
    torch.manual_seed(11)
    image = torch.rand(3, 2, 2)
    theirs = sum(not torch.equal(transform(image), image) for _ in range(DRAWS))
    crops, colour = draw_crops(DRAWS, 8, 8, AUG, seeded(12)), draw_colour(DRAWS, AUG, seeded(13))
    ours = int(getattr(crops if name == "flip" else colour, name).sum())
    table = [[ours, DRAWS - ours], [theirs, DRAWS - theirs]]
    assert stats.chi2_contingency(table).pvalue > LEAST_P


def test_parameters_of_a_sample_are_independent():
    """No draw decides another: a shared stream would show as correlation."""
    colour, crops = draw_colour(DRAWS, AUG, seeded(14)), draw_crops(DRAWS, 64, 64, AUG, seeded(15))
    drawn = [colour.jitter, *colour.factors.T, colour.order[:, 0], colour.grayscale, colour.blur]
    drawn += [colour.sigma, crops.flip, crops.height * crops.width]
    drawn += [(crops.top + 0.5) / (65 - crops.height), (crops.left + 0.5) / (65 - crops.width)]
    correlation = torch.corrcoef(torch.stack([row.double() for row in drawn])).fill_diagonal_(0)
    assert correlation.abs().max() < 5 / math.sqrt(DRAWS)


# --- views --------------------------------------------------------------------------------------


def test_views_of_an_image_and_images_of_a_batch_differ():
    """The same picture throughout: only parameters of its own can make a view different."""
    images = some_images(1, 32).expand(16, -1, -1, -1)
    views = SimCLRAugmentation(AUG, 32).views(images, seeded(16)).flatten(1)
    distance = torch.cdist(views, views) + torch.eye(32) * 1e9
    assert distance.min() > 1


def test_no_two_views_share_parameters():
    params = SimCLRAugmentation(AUG, 32).draw(64, 224, 224, seeded(24))
    boxes = box_numbers(params.crops)[:4].T
    for rows in (boxes, params.colour.factors, params.colour.sigma[:, None]):
        assert len(rows.unique(dim=0)) == len(rows) == 128


def test_the_generator_alone_decides():
    images, augment = some_images(8, 32), SimCLRAugmentation(AUG, 32)
    before = torch.get_rng_state()
    one, same, other = (augment.views(images, seeded(s)) for s in (17, 17, 18))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("index", [slice(2, 7), torch.tensor([5, 0, 3])])
@pytest.mark.parametrize("kind", [SimCLRAugmentation, ResizedCropAugmentation])
def test_a_share_of_the_parameters_gives_that_share_of_the_views(kind, index):
    images, augment = some_images(9, 40), kind(AUG, 32)
    params = augment.draw(9, 40, 40, seeded(19))
    whole = augment.apply(images, params).unflatten(0, (params.views, 9))
    share = augment.apply(images[index], params[index])
    assert_close(share, whole[:, index].flatten(0, 1), atol=1e-6)


@pytest.mark.parametrize("kind", [SimCLRAugmentation, ResizedCropAugmentation])
def test_given_crops_are_used(kind):
    images, augment = some_images(4, 40), kind(AUG, 32)
    params = augment.draw(4, 40, 40, seeded(20))
    again = replace(AUG, area=(0.01, 0.02))
    views = kind(again, 32).views(images, seeded(21), crops=params.crops)
    colour = params.colour and draw_colour(8, AUG, seeded(21))
    assert torch.equal(views, augment.apply(images, replace(params, colour=colour)))


def test_chunks_change_nothing(monkeypatch):
    images, augment = some_images(10, 32), SimCLRAugmentation(AUG, 24)
    params = augment.draw(10, 32, 32, seeded(22))
    whole = augment.apply(images, params)
    monkeypatch.setattr(augmentation, "CPU_CHUNK", 3 * 1024 * 60)
    assert 1 <= augmentation._chunk(32, 32, 24, images.device) < 10
    assert_close(augment.apply(images, params), whole, atol=1e-6)


def test_channels_last_and_autocast_change_no_value():
    images, augment = some_images(4, 32), SimCLRAugmentation(AUG, 32)
    expected = augment.views(images, seeded(23))
    with torch.autocast("cpu", torch.bfloat16):
        views = SimCLRAugmentation(AUG, 32, channels_last=True).views(images, seeded(23))
    assert views.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(views, expected)


def test_nothing_waits_for_the_device():
    """On the meta device an operation that reads a value back, as `.item()` would, fails."""
    images = torch.empty(6, 3, 128, 128, dtype=torch.uint8, device="meta")
    assert SimCLRAugmentation(AUG, 64).views(images, seeded()).shape == (12, 3, 64, 64)
    assert centre(images, 64, AUG).shape == (6, 3, 64, 64)


def test_wrong_input_is_named():
    augment = SimCLRAugmentation(AUG, 32)
    with pytest.raises(ValueError, match="uint8"):
        augment.views(torch.rand(2, 3, 32, 32), seeded())
    params = augment.draw(3, 32, 32, seeded())
    with pytest.raises(ValueError, match="3 parameters for 2 images"):
        render(some_images(2, 32), params, AUG, 32)


# --- test transform -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "side", "size"),
    [
        (32, 32, 32, [32, 32]),  # nothing to do
        (20, 20, 32, [32, 32]),
        (224, 224, 64, [64, 64]),  # cropped when it was stored
        (96, 96, 64, [73]),
        (60, 90, 32, [37]),
        (20, 30, 32, [37]),
    ],
)
def test_centre_equals_torchvision(height, width, side, size):
    images = some_images(3, height, width)
    steps = [
        transforms.Resize(size, InterpolationMode.BICUBIC, antialias=True),
        transforms.CenterCrop(side),
    ]
    expected = transforms.Compose(steps)(images.float() / 255).clamp(0, 1)
    expected = vision.normalize(expected, AUG.mean, AUG.std)
    assert_close(centre(images, side, AUG), expected)
    assert_close(torch.cat([centre(image[None], side, AUG) for image in images]), expected)
