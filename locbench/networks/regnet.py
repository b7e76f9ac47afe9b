"""RegNetX-400MF for small images, in the form that AugLocal's table 8 trains."""

from __future__ import annotations

from torch import nn
from torchvision.models.regnet import ResBottleneckBlock
from torchvision.ops import Conv2dNormActivation

from locbench.networks.base import (
    Block,
    Network,
    check_settings,
    consecutive,
    he_normal,
    joined,
    make_stage,
    pooled_network,
    scaled,
)
from locbench.recipes import schema

DEPTHS = (1, 2, 7, 12)
WIDTHS = (32, 64, 160, 384)
STRIDES = (1, 1, 2, 2)
STEM_WIDTH, GROUP_WIDTH = 64, 16


def regnetx_400mf(settings: schema.Network, num_classes: int = 10) -> Network:
    """RegNetX-400MF: stem and 22 bottlenecks in four stages; the stem belongs to the first.

    `settings.width` multiplies every width (to multiples of the group width, 16, and at least
    that), `settings.blocks` is the number of bottlenecks in each stage (0: 1, 2, 7, 12). Made for
    small images: its one stem is 3x3 of stride 1, whatever settings.stem says.
    Raises UserError for settings that no network can have.
    """
    check_settings(settings)
    depths = [settings.blocks or depth for depth in DEPTHS]
    stem_width, *widths = (
        max(GROUP_WIDTH, scaled(channels, settings.width, multiple=GROUP_WIDTH))
        for channels in (STEM_WIDTH, *WIDTHS)
    )
    parts: dict[str, nn.Module] = {"stem": he_normal(Conv2dNormActivation(3, stem_width))}
    blocks = [Block(parts["stem"], 3, stem_width, 1, bottleneck)]
    for number, (depth, width, stride) in enumerate(zip(depths, widths, STRIDES, strict=True), 1):
        stage = make_stage(bottleneck, blocks[-1].out_channels, width, stride, depth)
        parts[f"stage{number}"] = joined(stage)
        blocks += stage
    stages = consecutive([1 + depths[0], *depths[1:]])
    return pooled_network(parts, blocks=blocks, stages=stages, num_classes=num_classes)


def bottleneck(in_channels: int, out_channels: int, stride: int) -> ResBottleneckBlock:
    """1x1, 3x3 in groups of 16 channels, 1x1, all as wide as the output; projected shortcut.

    Convolutions start from He's normal initialisation.
    Raises ValueError when out_channels is no multiple of 16.
    """
    if out_channels % GROUP_WIDTH:
        raise ValueError(f"a RegNetX width must be a multiple of {GROUP_WIDTH}, not {out_channels}")
    block = ResBottleneckBlock(
        in_channels, out_channels, stride, nn.BatchNorm2d, nn.ReLU, group_width=GROUP_WIDTH
    )
    return he_normal(block)
