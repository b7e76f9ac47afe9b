"""The augmentation of supervised training: pad, crop at random and flip a whole batch at once.

Every image has a draw of its own, made on the CPU from one generator, so that a seed means the same
views on every device. Pad, crop and flip are one gather of uint8 pixels, without waiting for the
device. That is also the published order: the official AugLocal code pads a float image, which loses
nothing, and is back at 8 bits before it crops.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from locbench.data.augmentation import Share, check_images, draw_share, reflect, resize, send
from locbench.data.cuts import CentreCut
from locbench.data.resample import Samples, chance
from locbench.errors import UserError
from locbench.recipes.schema import Crop, ResizedCrop


@dataclass(frozen=True)
class Shifts(Samples):
    """Crop positions in n padded images, in pixels, and flips; on the CPU."""

    top: Tensor  # int64 [n], 0 ... 2 * padding, as left
    left: Tensor
    flip: Tensor  # bool [n], left to right, after the crop


@lru_cache(maxsize=32)
def _colours(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)


def normalise(pixels: Tensor, aug: Crop | ResizedCrop) -> Tensor:
    """(pixels - mean) / std of each colour: float32 [N, 3, H, W] in [0, 1], its layout kept."""
    mean, std = (_colours(values, pixels.device) for values in (aug.mean, aug.std))
    if pixels.is_contiguous() or not pixels.is_contiguous(memory_format=torch.channels_last):
        return (pixels - mean[:, None, None]).div_(std[:, None, None])
    # In whole lines, RGBRGB...: three values at a time would take a CPU six times as long.
    width, lines = pixels.shape[3], pixels.permute(0, 2, 3, 1).flatten(2)
    lines = (lines - mean.repeat(width)).div_(std.repeat(width))
    return lines.unflatten(2, (width, 3)).permute(0, 3, 1, 2)


def _squared(images: Tensor, side: int, aug: Crop) -> Tensor:
    """Images of R pixels a side as they are, uint8; others resized, float32 in [0, 1].

    A square is resized whole; of an oblong image the centre is kept.
    """
    check_images(images)
    height, width = images.shape[2:]
    if height == width == side:
        return images
    return resize(images, [side], side, aug.interpolation)


def _unit(images: Tensor) -> Tensor:
    """uint8 to float32 in [0, 1]; float images are in [0, 1] already."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images


@torch.no_grad()
def evaluation_view(images: Tensor, resolution: int, aug: Crop) -> Tensor:
    """The test transform, without draws: uint8 [N, 3, H, W] -> float32 [N, 3, R, R], normalised.

    The whole image, also of a square larger than R, because training sees images whole here;
    `augmentation.centre` cuts the margins away, as a random resized crop does.
    """
    return normalise(_unit(_squared(images, resolution, aug)), aug)


def _cut(images: Tensor, shifts: Tensor, aug: Crop) -> Tensor:
    """Pad, crop and flip [n, 3, R, R] of any type; `shifts` int64 [3, n] on the images' device."""
    side, padding = images.shape[3], aug.padding
    top, left, flip = shifts[:, :, None]
    pixel = torch.arange(side, device=images.device)
    rows, columns = top + pixel, left + torch.where(flip > 0, side - 1 - pixel, pixel)
    if aug.padding_mode == "reflect":
        rows, columns = reflect(rows - padding, side), reflect(columns - padding, side)
    elif padding:
        images = F.pad(images, (padding,) * 4)
    index = rows[:, :, None] * images.shape[3] + columns[:, None]
    index = index.flatten(1)[:, None].expand(-1, 3, -1)
    return images.flatten(2).gather(2, index).unflatten(2, (side, side))


class CropAugmentation:
    """One view of every image: padded, cropped at random and flipped.

    Images of another side than `resolution` are resized to it first, whole where they are square.
    """

    def __init__(self, aug: Crop, resolution: int, channels_last: bool = False) -> None:
        if aug.padding_mode == "reflect" and aug.padding >= resolution:
            raise UserError(
                f"augmentation.padding = {aug.padding} cannot be reflected in images of "
                f"{resolution} pixels: set it below {resolution}, or augmentation.padding_mode "
                "to zeros"
            )
        self.aug, self.resolution, self.channels_last = aug, resolution, channels_last

    def draw(self, n: int, generator: Generator) -> Shifts:
        """Draw the crop positions and flips of n images."""
        top, left = torch.randint(2 * self.aug.padding + 1, (2, n), generator=generator)
        return Shifts(top, left, chance(n, self.aug.flip, generator))

    def cut(self, generator: Generator, share: Share) -> CentreCut:
        """What `apply` starts from, to be cut out of images while they are decoded: no draw."""
        return CentreCut(self.resolution, self.resolution, self.aug.interpolation)

    @torch.no_grad()
    def apply(self, images: Tensor, shifts: Shifts) -> Tensor:
        """The pixels of the views drawn: uint8 [N, 3, H, W] -> float32 [N, 3, R, R] in [0, 1]."""
        squared = _squared(images, self.resolution, self.aug)
        if len(shifts) != len(images):
            raise ValueError(f"{len(shifts)} draws for {len(images)} images; draw as many")
        drawn = torch.stack([shifts.top, shifts.left, shifts.flip.long()])
        pixels = _unit(_cut(squared, send(drawn, images.device), self.aug))
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return pixels.contiguous(memory_format=layout)

    def pixels(
        self,
        images: Tensor,
        generator: Generator,
        share: Share | None = None,
        *,
        cut: bool = False,
    ) -> Tensor:
        """Draw and apply, in [0, 1]; `images` may be a share of a batch, cut already or not."""
        return self.apply(images, draw_share(lambda n: self.draw(n, generator), len(images), share))

    def views(
        self,
        images: Tensor,
        generator: Generator,
        share: Share | None = None,
        *,
        cut: bool = False,
    ) -> Tensor:
        """As `pixels`, normalised: the input of the network in training."""
        return normalise(self.pixels(images, generator, share), self.aug)
