"""ConvNeXt (Liu et al. 2022), as a user would add it: no batch norm, and biases everywhere."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from locbench.networks.base import (
    Block,
    Network,
    consecutive,
    joined,
    last_at_each_size,
    make_stage,
    pooled_classifier,
    scaled,
)
from locbench.recipes.schema import Network as Settings


class LayerNorm(nn.LayerNorm):
    """Of the channels at every pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Residual(nn.Module):
    """Depthwise 7x7 - layer norm - 1x1 - GELU - 1x1 - layer scale, added to what came in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, channels, 7, padding=3, groups=channels),
            LayerNorm(channels),
            nn.Conv2d(channels, 4 * channels, 1),
            nn.GELU(),
            nn.Conv2d(4 * channels, channels, 1),
        )
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.branch(x)


def kind(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """A residual block, after a convolution where the width or the resolution changes."""
    if in_channels == out_channels and stride == 1:
        return Residual(out_channels)
    change = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1)
    return nn.Sequential(LayerNorm(in_channels), change, Residual(out_channels))


def convnext(settings: Settings, *, num_classes: int) -> Network:
    """ConvNeXt-T: a stem, then four stages; the last block of each is read by a pyramid."""
    widths = [scaled(width, settings.width, 4) for width in (96, 192, 384, 768)]
    patch = 4 if settings.stem == "imagenet" else 1
    stem = nn.Sequential(nn.Conv2d(3, widths[0], patch, patch), LayerNorm(widths[0]))
    blocks, sizes = [Block(stem, 3, widths[0], patch, kind)], []
    for stage, (width, depth) in enumerate(zip(widths, (3, 3, 9, 3), strict=True)):
        depth = settings.blocks or depth
        blocks += make_stage(kind, blocks[-1].out_channels, width, 2 if stage else 1, depth)
        sizes.append(depth + (not stage))
    fc = nn.Linear(widths[-1], num_classes)
    parts = {"features": joined(blocks), "fc": fc}
    stages, ends = consecutive(sizes), last_at_each_size(blocks)
    return Network(parts, blocks, stages, ends, pooled_classifier(fc), num_classes)
