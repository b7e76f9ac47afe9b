"""Random crops of a batch, each image with its own, resized and flipped by matrix products.

Resizing is separable and linear: `out = Wy @ image @ Wx.T`. With one pair of matrices per image, a
whole batch of different crops is two batched products on any device: crop box, filter and flip are
only positions and order of the weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Protocol, Self

import numpy as np
import torch
from torch import Generator, Tensor

ATTEMPTS = 10  # of torchvision's RandomResizedCrop, before it falls back to a centre crop
RADIUS = {"bilinear": 1, "bicubic": 2}  # of the filter, in source pixels when not shrinking
LARGE = 112 * 112  # pixels of a source from which one thread is faster on each crop alone


class CropSettings(Protocol):
    """The settings of a recipe's augmentation that crops need."""

    area: tuple[float, float]
    aspect: tuple[float, float]
    flip: float


@dataclass(frozen=True)
class Samples:
    """Drawn parameters of n samples, tensors [n, ...]; indexing is along the samples."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def __getitem__(self, index: slice | Tensor) -> Self:
        return type(self)(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


@dataclass(frozen=True)
class Draws(Samples):
    """What decides n random crops, whatever the size of their images; on the CPU."""

    area: Tensor  # float64 [n, ATTEMPTS], shares of the image
    aspect: Tensor  # float64 [n, ATTEMPTS], width / height
    place: Tensor  # float64 [n, 2] in [0, 1), of the free rows and columns
    flip: Tensor  # bool [n], left to right, after the crop


@dataclass(frozen=True)
class Crops(Samples):
    """Crop boxes and flips of n samples, on the CPU."""

    top: Tensor  # int64 [n], in source pixels, as left, height and width
    left: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor  # bool [n], left to right, after the crop


def uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    """Uniform draws in [low, high) on the CPU, float64 so that rounding is Python's."""
    return torch.rand(shape, dtype=torch.float64, generator=generator) * (high - low) + low


def chance(n: int, probability: float, generator: Generator) -> Tensor:
    """n independent coin flips, bool [n], true with the given probability."""
    return uniform((n,), 0.0, 1.0, generator) < probability


def _fallback(height: int, width: int, aspect: tuple[float, float]) -> tuple[int, int]:
    """Height and width of torchvision's centre crop when no attempt fitted."""
    if width / height < min(aspect):
        return round(width / min(aspect)), width
    if width / height > max(aspect):
        return height, round(height * max(aspect))
    return height, width


def draw_numbers(n: int, aug: CropSettings, generator: Generator) -> Draws:
    """Draw n random crops of torchvision's RandomResizedCrop, and flips.

    For each 10 attempts at an area (uniform) and an aspect ratio (log-uniform).
    """
    area = uniform((ATTEMPTS, n), *aug.area, generator)
    low, high = (math.log(ratio) for ratio in aug.aspect)
    aspect = uniform((ATTEMPTS, n), low, high, generator).exp()
    place = uniform((2, n), 0.0, 1.0, generator)
    return Draws(area.T, aspect.T, place.T, chance(n, aug.flip, generator))


def crop_boxes(draws: Draws, height: int, width: int, aspect: tuple[float, float]) -> Crops:
    """The crops drawn, in an image of height x width: of each the first attempt that fits.

    Where none does, torchvision's: the largest centre crop whose ratio is in the range `aspect`.
    """
    # By numpy: a decoder asks for those of one image, and torch's operations take their time.
    area, aspects, place = height * width * draws.area.numpy(), draws.aspect.numpy(), draws.place
    widths, heights = np.sqrt(area * aspects).round(), np.sqrt(area / aspects).round()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = np.arange(len(fits)), fits.argmax(axis=1)
    h, w, (down, right) = heights[first], widths[first], place.numpy().T
    top, left = np.trunc(down * (height - h + 1)), np.trunc(right * (width - w + 1))
    if not (fitted := fits[first]).all():
        centre_h, centre_w = _fallback(height, width, aspect)
        h, w = np.where(fitted, h, centre_h), np.where(fitted, w, centre_w)
        top = np.where(fitted, top, (height - centre_h) // 2)
        left = np.where(fitted, left, (width - centre_w) // 2)
    box = (torch.from_numpy(edge.astype(np.int64)) for edge in (top, left, h, w))
    return Crops(*box, draws.flip)


def draw_crops(n: int, height: int, width: int, aug: CropSettings, generator: Generator) -> Crops:
    """Draw n crop boxes, with flips, in images of height x width."""
    return crop_boxes(draw_numbers(n, aug, generator), height, width, aug.aspect)


def _filter(t: Tensor, interpolation: str) -> Tensor:
    """The resampling filter at distances t >= 0: triangle, or Keys' cubic with a = -0.5 (PIL's)."""
    if interpolation == "bilinear":
        return (1 - t).clamp_(min=0)
    t = t.clamp(max=2)
    near = ((1.5 * t - 2.5) * t).mul_(t).add_(1)
    far = ((2.5 - 0.5 * t) * t).sub_(4).mul_(t).add_(2)
    return torch.where(t < 1, near, far)


def resize_weights(
    start: Tensor, length: Tensor, flip: Tensor | None, source: int, target: int, interpolation: str
) -> Tensor:
    """Matrices that crop, resize (antialiased) and flip along one axis: [n, target, source].

    `start`, `length` (float32 [n]) place the crop in a source of `source` pixels; `flip` (bool [n])
    reverses the target. As in torch's antialiased interpolation, the filter is stretched when
    shrinking and its window is cut at the border of the crop, not of the image. Only the taps
    inside the window are computed, then put in their places in the matrix.
    """
    scale = (length / target)[:, None]
    stretch = scale.clamp(min=1)
    support = RADIUS[interpolation] * stretch
    pixel = torch.arange(target, device=start.device).expand(len(start), target)
    if flip is not None:
        pixel = torch.where(flip[:, None], target - 1 - pixel, pixel)
    centre = (pixel + 0.5) * scale
    first = (centre - support + 0.5).floor()
    taps = 2 * math.ceil(RADIUS[interpolation] * max(1.0, source / target)) + 1

    # Taps lead, so that every operation below runs over long contiguous rows.
    k = torch.arange(taps, device=start.device)[:, None, None]
    weights = _filter(((first - centre + 0.5) + k).abs_().div_(stretch), interpolation)
    position = first + k
    weights *= (position >= 0) & (position < length[:, None])
    weights /= weights.sum(dim=0)

    # Taps that stick out of the image (all zero) land in a margin that the view leaves out.
    padded = source + 2 * taps
    row = torch.arange(len(start) * target, device=start.device).view(-1, target) * padded
    index = (first + (start[:, None] + taps)).long() + row + k
    matrix = torch.zeros(row.numel() * padded, device=start.device)
    matrix.scatter_(0, index.view(-1), weights.view(-1))
    return matrix.view(-1, target, padded)[:, :, taps : taps + source]


def _together(images: Tensor, index: Tensor, rows: Tensor, columns: Tensor, out: Tensor) -> None:
    """All crops at once, from whole images: batched products only."""
    source = images.index_select(0, index).float()
    n, channels, height, width = source.shape
    narrow = torch.bmm(source.view(n, channels * height, width), columns.transpose(1, 2))
    narrow = narrow.view(n, channels, height, -1)
    for channel in range(channels):
        torch.bmm(rows, narrow[:, channel], out=out[channel])


def _one_by_one(
    images: Tensor, index: Tensor, crops: Crops, rows: Tensor, columns: Tensor, out: Tensor
) -> None:
    """Each crop alone, so that what lies outside of it is neither read nor multiplied."""
    box = (crops.top, crops.left, crops.height, crops.width)
    places = zip(index.tolist(), *(side.tolist() for side in box), strict=True)
    for i, (image, top, left, height, width) in enumerate(places):
        source = images[image, :, top : top + height, left : left + width].float()
        narrow = torch.mm(source.view(-1, width), columns[i, :, left : left + width].T)
        out[:, i] = torch.matmul(rows[i, :, top : top + height], narrow.view(3, height, -1))


def resample(
    images: Tensor, index: Tensor, crops: Crops, boxes: Tensor, side: int, interpolation: str
) -> Tensor:
    """Crop, resize and flip `images[index]`: uint8 [N, 3, H, W] -> [3, n, side, side] in [0, 1].

    `boxes` (float32 [5, n]) is `crops` on the device of the images. The colour planes come out
    outermost: each is one contiguous block for what follows. Bicubic overshoot is clamped.
    """
    height, width = images.shape[2:]
    top, left, high, wide, flip = boxes
    rows = resize_weights(top, high, None, height, side, interpolation)
    columns = resize_weights(left, wide, flip > 0, width, side, interpolation).div_(255)
    out = rows.new_empty((3, len(crops), side, side))
    # Many threads share a batched product better than many small ones.
    alone = images.device.type == "cpu" and torch.get_num_threads() == 1
    if alone and height * width >= LARGE:
        _one_by_one(images, index, crops, rows, columns, out)
    else:
        _together(images, index, rows, columns, out)
    return out.clamp_(0, 1)
