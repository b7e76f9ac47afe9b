"""What is cut out of an image while it is decoded: random crops for training, or the centre.

A cut takes an image, a Pillow picture in RGB, and its row in the batch, and gives its views as
pictures of the side of the network's input. Crop and resize are torchvision's for Pillow pictures,
as in the official code: antialiased, and rounded to 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torchvision.transforms.v2.functional as vision
from PIL import Image
from torchvision.transforms import InterpolationMode

from locbench.data.resample import Draws, crop_boxes
from locbench.recipes.schema import Augmentation, ResizedCrop


class Cut(Protocol):
    """`views` pictures of each image, of `side` pixels a side."""

    @property
    def side(self) -> int: ...

    @property
    def views(self) -> int: ...

    def __call__(self, row: int, picture: Image.Image) -> list[Image.Image]: ...


@dataclass(frozen=True)
class RandomCut:
    """Random resized crops of the whole image, flipped or not; view v of image i is draw v * n + i.

    draws: of all views of n images.
    """

    draws: Draws
    views: int
    side: int
    aug: Augmentation | ResizedCrop

    def __call__(self, row: int, picture: Image.Image) -> list[Image.Image]:
        mine = self.draws[row :: len(self.draws) // self.views]
        crops = crop_boxes(mine, picture.height, picture.width, self.aug.aspect)
        size, mode = [self.side, self.side], InterpolationMode(self.aug.interpolation)
        boxes = (crops.top, crops.left, crops.height, crops.width, crops.flip)
        pictures = []
        for *box, flip in zip(*(values.tolist() for values in boxes), strict=True):
            view = vision.resized_crop(picture, *box, size, mode, antialias=True)
            pictures.append(vision.horizontal_flip(view) if flip else view)
        return pictures


@dataclass(frozen=True)
class CentreCut:
    """The centre square of `side` pixels, after the short side was resized to `short`."""

    short: int
    side: int
    interpolation: str
    views: int = 1

    def __call__(self, row: int, picture: Image.Image) -> list[Image.Image]:
        mode = InterpolationMode(self.interpolation)
        picture = vision.resize(picture, [self.short], mode, antialias=True)
        return [vision.center_crop(picture, [self.side, self.side])]
