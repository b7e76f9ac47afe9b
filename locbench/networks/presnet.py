"""PResNet-50 (LoCo sec. 5.6, Tables 6 to 8): six stages that cost about the same.

Later stages are smaller by less than half, wider, and of grouped convolutions; the first block of
a stage resizes its map by bilinear interpolation. No code was published. Table 8 leaves the place
of the interpolation open: it is where the FLOPs of Table 6 have it.
"""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from itertools import pairwise
from math import gcd

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, conv1x1, conv3x3

from locbench.networks.base import (
    Block,
    Kind,
    Network,
    Stride,
    check_settings,
    consecutive,
    he_normal,
    joined,
    make_stage,
    pooled_network,
    scaled,
)
from locbench.networks.resnet import stem_parts
from locbench.recipes import schema

STEM, DEPTH, EXPANSION = 32, 3, 4
SIDES = (56, 36, 24, 16, 12, 8)  # of the maps of res2 ... res7, for images of 224 pixels
PLANES = (56, 96, 144, 256, 512, 1024)
GROUPS = (0, 0, 1, 2, 16, 128)  # 0: basic blocks, the others bottlenecks
DENSE = (2, 16)  # groups of the stages whose last 1x1 convolutions have none: res5 and res6


def presnet50(settings: schema.Network, num_classes: int = 1000) -> Network:
    """PResNet-50: 19 blocks (stem, 18 residual ones) in six stages; the stem belongs to the first.

    The last 1x1 convolutions of res5 and res6 are not grouped: so the FLOPs of Table 6 have it, in
    all (4.16 G) and by stage, and not Table 8. 23.16 million parameters but for the classifier.
    A stage resizes by the ratio of its published side to that before it (36/56, 24/36, ...), to
    whole pixels, rounded up: 56 36 24 16 12 8 for images of 224 pixels.
    `settings` as for `resnet50`. Where a width is no multiple of the published number of groups,
    there are as many as divide both. Raises UserError for settings that no network can have.
    """
    return _presnet(settings, num_classes)


def presnet50_table8(settings: schema.Network, num_classes: int = 1000) -> Network:
    """PResNet-50 as Table 8 prints it: of each stage from res5 on, two last 1x1s are grouped.

    20.93 million parameters and 3.79 G but for the classifier; otherwise as `presnet50`.
    """
    return _presnet(settings, num_classes, dense=())


def presnet50_res4_128(settings: schema.Network, num_classes: int = 1000) -> Network:
    """PResNet-50 with the width of 128 in res4, not 144, that the memory of Table 6 implies."""
    planes = (*PLANES[:2], 128, *PLANES[3:])
    return _presnet(settings, num_classes, planes=planes)


def _presnet(
    settings: schema.Network,
    num_classes: int,
    planes: tuple[int, ...] = PLANES,
    dense: tuple[int, ...] = DENSE,
) -> Network:
    check_settings(settings)
    small, depth = settings.stem == "small", settings.blocks or DEPTH
    stem_width, *planes = (
        scaled(channels, settings.width, multiple=8) for channels in (STEM, *planes)
    )
    parts = stem_parts(stem_width, small)
    stem = nn.Sequential(*parts.values())
    blocks = [Block(stem, 3, stem_width, 1 if small else 4, Basic)]
    strides = [1, *(Fraction(*sides) for sides in pairwise(SIDES))]
    for number, (channels, groups, stride) in enumerate(
        zip(planes, GROUPS, strides, strict=True), start=2
    ):
        kind: Kind = partial(Bottleneck, groups=groups, dense=groups in dense) if groups else Basic
        width = channels * EXPANSION if groups else channels
        stage = make_stage(kind, blocks[-1].out_channels, width, stride, depth)
        parts[f"res{number}"] = joined(stage)
        blocks += stage
    stages = consecutive([1 + depth, *[depth] * (len(SIDES) - 1)])
    return pooled_network(parts, blocks=blocks, stages=stages, num_classes=num_classes)


class Basic(BasicBlock):
    """A basic block of which both branches begin with the interpolation, where there is one.

    He's normal initialisation; the last batch norm's scale is zero, as in `resnet.bottleneck`.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: Stride) -> None:
        shortcut = _shortcut(in_channels, out_channels, stride)
        super().__init__(in_channels, out_channels, downsample=shortcut)
        self.ratio = stride
        nn.init.zeros_(he_normal(self).bn2.weight)

    def forward(self, features: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, H / stride, W / stride], rounded up."""
        return super().forward(resized(features, self.ratio))


class Bottleneck(nn.Module):
    """A bottleneck in groups: the first 1x1 convolution, the interpolation, the 3x3, the last 1x1.

    The shortcut, and the last 1x1 of a block that changes the shape, are not grouped, and none of
    the last where `dense`. Initialised as `Basic`. Raises ValueError when out_channels is no
    multiple of 4.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: Stride,
        *,
        groups: int,
        dense: bool,
    ) -> None:
        super().__init__()
        if out_channels % EXPANSION:
            raise ValueError(f"a bottleneck's width must be a multiple of 4, not {out_channels}")
        planes, self.ratio = out_channels // EXPANSION, stride
        self.downsample = _shortcut(in_channels, out_channels, stride)
        inner = gcd(groups, planes)
        last = 1 if dense or self.downsample is not None else inner
        first = gcd(inner, in_channels)
        self.conv1 = nn.Conv2d(in_channels, planes, kernel_size=1, groups=first, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes, groups=inner)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, out_channels, kernel_size=1, groups=last, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        nn.init.zeros_(he_normal(self).bn3.weight)

    def forward(self, features: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, H / stride, W / stride], rounded up."""
        shortcut = features
        if self.downsample is not None:
            shortcut = self.downsample(resized(features, self.ratio))
        x = self.relu(self.bn1(self.conv1(features)))
        x = self.relu(self.bn2(self.conv2(resized(x, self.ratio))))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


def resized(features: Tensor, stride: Stride) -> Tensor:
    """[N, C, H, W] -> [N, C, H / stride, W / stride], rounded up, by bilinear interpolation."""
    if stride == 1:
        return features
    size = [int(-(-int(side) // stride)) for side in features.shape[-2:]]
    return F.interpolate(features, size=size, mode="bilinear", align_corners=False)


def _shortcut(in_channels: int, out_channels: int, stride: Stride) -> nn.Sequential | None:
    """1x1 convolution and batch norm at the output's resolution; None where shapes agree."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(conv1x1(in_channels, out_channels), nn.BatchNorm2d(out_channels))
