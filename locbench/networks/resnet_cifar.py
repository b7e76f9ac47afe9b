"""ResNets of basic blocks for small images: those of AugLocal sec. 4.1."""

from __future__ import annotations

from torch import nn

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
from locbench.networks.resnet import basic
from locbench.recipes import schema

WIDTHS = (16, 32, 64)


def resnet32(settings: schema.Network, num_classes: int = 10) -> Network:
    """ResNet-32: 16 blocks (stem, 15 basic blocks) in three stages; as `basic_resnet`."""
    return basic_resnet(settings, 5, num_classes)


def resnet110(settings: schema.Network, num_classes: int = 10) -> Network:
    """ResNet-110: 55 blocks (stem, 54 basic blocks) in three stages; as `basic_resnet`."""
    return basic_resnet(settings, 18, num_classes)


def basic_resnet(settings: schema.Network, depth: int, num_classes: int) -> Network:
    """A stem, which belongs to the first stage, and three stages of `depth` basic blocks.

    `settings.width` multiplies every width (to multiples of 8, at least 8), `settings.blocks` is
    the number of basic blocks in each stage (0: as published). Made for small images: its one
    stem is 3x3, whatever settings.stem says. Raises UserError for settings that no network can
    have.
    """
    check_settings(settings)
    depth = settings.blocks or depth
    widths = [scaled(channels, settings.width, multiple=8) for channels in WIDTHS]
    conv = he_normal(nn.Conv2d(3, widths[0], kernel_size=3, padding=1, bias=False))
    parts: dict[str, nn.Module] = {
        "conv1": conv,
        "bn1": nn.BatchNorm2d(widths[0]),
        "relu": nn.ReLU(inplace=True),
    }
    blocks = [Block(nn.Sequential(*parts.values()), 3, widths[0], 1, basic)]
    for number, width in enumerate(widths, start=1):
        stage = make_stage(basic, blocks[-1].out_channels, width, 1 if number == 1 else 2, depth)
        parts[f"layer{number}"] = joined(stage)
        blocks += stage
    stages = consecutive([1 + depth, depth, depth])
    return pooled_network(parts, blocks=blocks, stages=stages, num_classes=num_classes)
