"""SimCLR's augmentation of a whole batch at once, every view with parameters of its own.

Parameters are drawn on the CPU from one generator, so a seed means the same views on every device,
and applied on the device of the images. Nothing waits for the device: the CPU knows which operation
runs on which sample. A chunk of views is held as [3, n, R * R], colour planes outermost, so that an
operation on a plane is one pass over contiguous memory.

torchvision's transforms draw one set of parameters for a whole batched tensor. Each view here is
what torchvision computes on one float image, clamped to [0, 1] after the crop. SimCLR v1: LoCo,
section 5.1; Chen et al. 2020, appendix A.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
import torchvision.transforms.v2.functional as vision
from torch import Generator, Tensor
from torchvision.transforms import InterpolationMode

from locbench.data.cuts import RandomCut
from locbench.data.resample import (
    Crops,
    Samples,
    chance,
    draw_crops,
    draw_numbers,
    resample,
    uniform,
)
from locbench.recipes.schema import Augmentation, ResizedCrop

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
GREY = (0.2989, 0.587, 0.114)  # luma of ITU-R 601, as torchvision
CROPPED = 224  # a square source of this side has been through a centre crop already
# Bytes of temporaries at a time: what the cache of a CPU thread holds, or a bound on GPU memory.
CPU_CHUNK, DEVICE_CHUNK = 12 << 20, 256 << 20


@dataclass(frozen=True)
class Colour(Samples):
    """Colour distortion and blur of n samples, on the CPU."""

    jitter: Tensor  # bool [n]: whether the four operations run
    factors: Tensor  # float32 [n, 4]: of brightness, contrast, saturation; hue in turns
    order: Tensor  # int64 [n, 4]: the operation that runs first, second, ...
    grayscale: Tensor  # bool [n]
    blur: Tensor  # bool [n]
    sigma: Tensor  # float32 [n], in target pixels


def draw_colour(n: int, aug: Augmentation, generator: Generator) -> Colour:
    """Draw the colour distortion of n samples as torchvision's ColorJitter, RandomGrayscale, ..."""
    ranges = [(max(0.0, 1 - s), 1 + s) for s in (aug.brightness, aug.contrast, aug.saturation)]
    factors = [uniform((n,), low, high, generator) for low, high in (*ranges, (-aug.hue, aug.hue))]
    return Colour(
        jitter=chance(n, aug.jitter, generator),
        factors=torch.stack(factors, dim=1).float(),
        order=uniform((n, 4), 0.0, 1.0, generator).argsort(dim=1),
        grayscale=chance(n, aug.grayscale, generator),
        blur=chance(n, aug.blur, generator),
        sigma=uniform((n,), *aug.sigma, generator).float(),
    )


@dataclass(frozen=True)
class Parameters:
    """Everything drawn for some views of each of n images: sample v * n + i is view v of image i.

    Indexing is along the images and keeps all views of each. cut: whether the images are the views
    already, cropped and flipped when they were decoded.
    """

    crops: Crops
    colour: Colour | None
    views: int
    cut: bool = False

    def __len__(self) -> int:
        return len(self.crops) // self.views

    def __getitem__(self, index: slice | Tensor) -> Parameters:
        rows = torch.arange(len(self.crops)).view(self.views, -1)[:, index].reshape(-1)
        colour = None if self.colour is None else self.colour[rows]
        return Parameters(self.crops[rows], colour, self.views, self.cut)


def kernel_size(share: float, side: int) -> int:
    """Odd size of the blur kernel: a share of the image side (23 at 224 pixels), at least 3."""
    return max(3, 2 * (int(share * side) // 2) + 1)


def _runs(mask: Tensor) -> Iterator[slice]:
    """The stretches of a bool [n] CPU tensor that are true."""
    edges = torch.nn.functional.pad(mask.int(), (1, 1)).diff().nonzero().flatten().tolist()
    return map(slice, edges[::2], edges[1::2])


def grey(x: Tensor) -> Tensor:
    """Luma of [3, n, P] -> [n, P]."""
    return torch.mul(x[0], GREY[0]).add_(x[1], alpha=GREY[1]).add_(x[2], alpha=GREY[2])


def blend_(x: Tensor, scale: Tensor, luma: Tensor, mean: Tensor) -> Tensor:
    """clamp(scale * x + luma * grey(x) + mean * mean(grey(x))) in place; x [3, n, P].

    The weights are [n, 1]. With f the factor, (scale, luma, mean) is (f, 0, 0) for brightness,
    (f, 0, 1 - f) for contrast, (f, 1 - f, 0) for saturation: samples with different operations
    share the passes.
    """
    towards = grey(x)
    average = towards.mean(dim=1, keepdim=True)
    towards.mul_(luma).add_(average.mul_(mean))
    return torch.addcmul(towards, x, scale, out=x).clamp_(0, 1)


def rotate_hue_(x: Tensor, turns: Tensor) -> Tensor:
    """Shift the hue of HSV in place; x [3, n, P] in [0, 1], turns [n, 1] in [-0.5, 0.5].

    Both ways through HSV are written without sectors. From red towards green the hue h rises from
    0 to 1/2 as the sum of the rising, the falling and again the rising channel, mirrored where blue
    is above green; each channel is a trapezium of |h - centre|.
    """
    red, green, blue = x.unbind(0)
    high, low = x.amax(dim=0), x.amin(dim=0)
    chroma = high - low
    six = chroma * 6
    h = (green + blue).sub_(red).sub_(low).div_(six.clamp(min=1e-30)).add_(1 / 6)
    h = torch.copysign(h, green - blue, out=h).add_(turns + 1).frac_()
    for plane, centre in ((red, 1 / 2), (green, 1 / 3), (blue, 2 / 3)):
        torch.sub(h, centre, out=plane).abs_().clamp_(1 / 6, 1 / 3)
    torch.addcmul(low.sub_(chroma), red, six, out=red)
    high.add_(chroma)
    torch.addcmul(high, green, six, value=-1, out=green)
    torch.addcmul(high, blue, six, value=-1, out=blue)
    return x


def reflect(index: Tensor, side: int) -> Tensor:
    """Indices outside of 0 ... side - 1 mirrored at the first and last pixel."""
    return (side - 1) - ((side - 1) - index.abs()).abs()


@lru_cache(maxsize=8)
def _shifts(kernel: int, side: int, device: torch.device) -> Tensor:
    """0/1 matrices that shift a reflected line by -k//2 ... k//2: [kernel, side * side]."""
    reach = kernel // 2
    index = reflect(torch.arange(side) + torch.arange(-reach, reach + 1)[:, None], side)
    return torch.nn.functional.one_hot(index, side).float().flatten(1).to(device)


def blur_(x: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """Gaussian blur with reflected borders in place; x [3, n, R, R], sigma [n, 1]."""
    n, side = x.shape[1:3]
    limit = (kernel - 1) / (2 * math.sqrt(2))
    t = torch.linspace(-limit, limit, kernel, device=x.device) / sigma
    band = t.square_().neg_().softmax(dim=1) @ _shifts(kernel, side, x.device)
    band = band.view(n, side, side)
    for plane in x:
        torch.bmm(torch.bmm(band, plane), band.transpose(1, 2), out=plane)
    return x


def _sorted_rows(colour: Colour) -> Tensor:
    """An order of the samples in which those with the same operations are neighbours."""
    hue_at = torch.where(colour.jitter, (colour.order == HUE).int().argmax(dim=1), 4)
    return (hue_at * 4 + colour.blur * 2 + colour.grayscale).argsort(stable=True)


def _numbers(crops: Crops, colour: Colour | None) -> Tensor:
    """All parameters that the device needs, float32 [rows, n], for one transfer."""
    box = [crops.top, crops.left, crops.height, crops.width, crops.flip]
    if colour is None:
        return torch.stack([row.float() for row in box])
    scale = colour.factors.gather(1, colour.order)
    luma = (1 - scale) * (colour.order == SATURATION)
    mean = (1 - scale) * (colour.order == CONTRAST)
    steps = torch.stack([scale, luma, mean], dim=2).flatten(1).unbind(1)
    return torch.stack(
        [row.float() for row in (*box, colour.factors[:, HUE], colour.sigma, *steps)]
    )


def _distort_(x: Tensor, colour: Colour, numbers: Tensor, kernel: int) -> None:
    """Jitter, grayscale and blur in place; x [3, n, R, R]."""
    flat = x.flatten(2)
    hue, sigma, *steps = numbers.unsqueeze(2)
    for step in range(4):
        is_hue = colour.order[:, step] == HUE
        for run in _runs(colour.jitter & ~is_hue):
            blend_(flat[:, run], *(weight[run] for weight in steps[3 * step : 3 * step + 3]))
        for run in _runs(colour.jitter & is_hue):
            rotate_hue_(flat[:, run], hue[run])
    for run in _runs(colour.grayscale):
        flat[:, run] = grey(flat[:, run])
    for run in _runs(colour.blur):
        blur_(x[:, run], sigma[run], kernel)


def _chunk(height: int, width: int, side: int, device: torch.device) -> int:
    """How many views to hold at a time."""
    floats = 3 * height * (width + side) + 12 * side * side + 6 * side * (height + width)
    budget = CPU_CHUNK * torch.get_num_threads() if device.type == "cpu" else DEVICE_CHUNK
    return max(1, min(budget, DEVICE_CHUNK) // (4 * floats))


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to the device without waiting for it: to a GPU from pinned memory."""
    pinned = tensor.pin_memory() if device.type == "cuda" else tensor
    return pinned.to(device, non_blocking=True)


def _normalise_(planes: Iterable[Tensor], aug: Augmentation | ResizedCrop) -> None:
    for plane, mean, std in zip(planes, aug.mean, aug.std, strict=True):
        plane.sub_(mean).mul_(1 / std)


def check_images(images: Tensor) -> None:
    """ValueError where images are not uint8 [N, 3, H, W]."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"images are {images.dtype} {list(images.shape)}; pass uint8 [N, 3, H, W] in 0..255"
        )


@torch.no_grad()
def render(
    images: Tensor,
    params: Parameters,
    aug: Augmentation | ResizedCrop,
    side: int,
    channels_last: bool = False,
) -> Tensor:
    """The views that `params` describes: uint8 [n, 3, H, W] -> float32 [views * n, 3, side, side].

    Where they are cut already, the images are [views * n, 3, side, side].
    Computed in float32 also under autocast; where a GPU may use TF32 for matrix products, pixels
    are off by a fraction of a grey level. Temporaries stay below DEVICE_CHUNK bytes.
    """
    check_images(images)
    if len(params.crops if params.cut else params) != len(images):
        raise ValueError(f"{len(params)} parameters for {len(images)} images; slice both alike")
    device, total, (height, width) = images.device, len(params.crops), images.shape[2:]
    crops, colour, rows = params.crops, params.colour, torch.arange(total)
    if colour is not None:
        rows = _sorted_rows(colour)
        crops, colour = crops[rows], colour[rows]
    numbers, rows = send(_numbers(crops, colour), device), send(rows, device)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    out = torch.empty((total, 3, side, side), device=device, memory_format=layout)
    size = _chunk(height, width, side, device)
    # Autocast would round the matrix products; the meta device knows none.
    device_type = "cpu" if device.type == "meta" else device.type
    with torch.autocast(device_type, enabled=False):
        for part in (slice(start, start + size) for start in range(0, total, size)):
            index, boxes = rows[part] % len(images), numbers[:5, part]
            if params.cut:
                x = images.index_select(0, index).transpose(0, 1).float().div_(255).contiguous()
            else:
                x = resample(images, index, crops[part], boxes, side, aug.interpolation)
            if colour is not None:
                _distort_(x, colour[part], numbers[5:, part], kernel_size(aug.kernel, side))
            _normalise_(x, aug)
            out.index_copy_(0, rows[part], x.transpose(0, 1))
    return out


@dataclass(frozen=True)
class Share:
    """Images [start, stop) of a batch of `whole`: those that one process augments."""

    start: int
    stop: int
    whole: int


def draw_share(draw: Callable[[int], Any], images: int, share: Share | None) -> Any:
    """The draws of `draw(n)` for so many images, which are a whole batch or a share of one.

    The draw of an image depends on its index in the whole batch alone.
    """
    share = share or Share(0, images, images)
    return draw(share.whole)[share.start : share.stop]


class ResizedCropAugmentation:
    """One view of every image, for labels and linear probes: random resized crop and flip."""

    VIEWS = 1

    def __init__(
        self, aug: Augmentation | ResizedCrop, resolution: int, channels_last: bool = False
    ) -> None:
        self.aug, self.resolution, self.channels_last = aug, resolution, channels_last

    def draw(self, n: int, height: int, width: int, generator: Generator) -> Parameters:
        """Parameters of all views of n images of height x width."""
        samples = self.VIEWS * n
        crops = draw_crops(samples, height, width, self.aug, generator)
        return Parameters(crops, self._draw_colour(samples, generator), self.VIEWS)

    def cut(self, generator: Generator, share: Share) -> RandomCut:
        """The same crops, to be cut out of the images of the share while they are decoded."""
        draws = draw_numbers(self.VIEWS * share.whole, self.aug, generator)
        rows = torch.arange(len(draws)).view(self.VIEWS, -1)[:, share.start : share.stop].flatten()
        return RandomCut(draws[rows], self.VIEWS, self.resolution, self.aug)

    def _draw_colour(self, samples: int, generator: Generator) -> Colour | None:
        return None

    def apply(self, images: Tensor, params: Parameters) -> Tensor:
        """The views drawn: uint8 [N, 3, H, W] -> float32 [views * N, 3, R, R], normalised."""
        return render(images, params, self.aug, self.resolution, self.channels_last)

    def views(
        self,
        images: Tensor,
        generator: Generator,
        share: Share | None = None,
        *,
        cut: bool = False,
    ) -> Tensor:
        """Draw and apply; `images` may be a share of a batch, or what `cut` has left of one."""
        return self.apply(images, self._draw_share(images, generator, share, cut))

    def _draw_share(
        self, images: Tensor, generator: Generator, share: Share | None, cut: bool
    ) -> Parameters:
        size, count = images.shape[2:], len(images) // (self.VIEWS if cut else 1)
        params = draw_share(lambda n: self.draw(n, *size, generator), count, share)
        return replace(params, cut=cut)

    def pixels(
        self,
        images: Tensor,
        generator: Generator,
        share: Share | None = None,
        *,
        cut: bool = False,
    ) -> Tensor:
        """As `views`, before normalisation: in [0, 1]."""
        params = self._draw_share(images, generator, share, cut)
        plain = replace(self.aug, mean=(0.0,) * 3, std=(1.0,) * 3)
        return render(images, params, plain, self.resolution, self.channels_last)


class SimCLRAugmentation(ResizedCropAugmentation):
    """Two views of every image: random resized crop, flip, colour jitter, grayscale, blur.

    All first views come before all second views.
    """

    VIEWS = 2

    def _draw_colour(self, samples: int, generator: Generator) -> Colour | None:
        return draw_colour(samples, self.aug, generator)


def resize(images: Tensor, size: list[int], side: int, interpolation: str) -> Tensor:
    """uint8 [N, 3, H, W] resized to `size`, and of that the centre: float32 [N, 3, side, side].

    `size` is [height, width], or [short side]. In [0, 1]; images of that size keep their pixels.
    """
    check_images(images)
    out = torch.empty((len(images), 3, side, side), device=images.device)
    step = _chunk(*images.shape[2:], max(side, *size), images.device)
    for source, target in zip(images.split(step), out.split(step), strict=True):
        x = source.float().div_(255)
        x = vision.resize(x, size, InterpolationMode(interpolation), antialias=True)
        target.copy_(vision.center_crop(x, [side, side]).clamp_(0, 1))
    return out


def short_side(square: int, resolution: int) -> int:
    """The side to which a test image's short one is resized, before the centre is cut out.

    That is 256/224 of the resolution. A square (`square`: its side, else 0) that is not larger than
    the resolution, or was cropped to 224 when it was stored, has nothing to cut away.
    """
    whole = 0 < square <= resolution or square == CROPPED
    return resolution if whole else round(resolution * 256 / 224)


@torch.no_grad()
def centre(images: Tensor, resolution: int, aug: Augmentation | ResizedCrop) -> Tensor:
    """The test transform: uint8 [N, 3, H, W] -> float32 [N, 3, R, R], normalised.

    The short side is resized (see `short_side`), then the centre is cut out.
    """
    height, width = images.shape[-2:]
    short = short_side(height if height == width else 0, resolution)
    out = resize(images, [short], resolution, aug.interpolation)
    _normalise_(out.unbind(1), aug)
    return out
