"""ConvNeXt (Liu et al. 2022), as a user would add it: no batch norm, and biases everywhere."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from locbench.networks.base import (
    Block,
    Network,
    check_settings,
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
    """Depthwise 7x7 - layer norm - 1x1 - GELU - 1x1 - layer scale, added to what came in.

    After a convolution where the width or the resolution changes.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.change = nn.Identity()
        if stride > 1 or in_channels != channels:
            conv = nn.Conv2d(in_channels, channels, 3, stride, padding=1)
            self.change = nn.Sequential(LayerNorm(in_channels), conv)
        self.branch = nn.Sequential(
            nn.Conv2d(channels, channels, 7, padding=3, groups=channels),
            LayerNorm(channels),
            nn.Conv2d(channels, 4 * channels, 1),
            nn.GELU(),
            nn.Conv2d(4 * channels, channels, 1),
        )
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.change(x)
        return x + self.scale * self.branch(x)


def convnext(settings: Settings, *, num_classes: int = 1000) -> Network:
    """ConvNeXt-T, with patches that overlap, so that sides are rounded up as a block says."""
    check_settings(settings)
    widths = [scaled(width, settings.width, 4) for width in (96, 192, 384, 768)]
    patch = 4 if settings.stem == "imagenet" else 1
    stem = nn.Sequential(nn.Conv2d(3, widths[0], 7, patch, padding=3), LayerNorm(widths[0]))
    blocks, sizes = [Block(stem, 3, widths[0], patch, Residual)], []
    for stage, (width, depth) in enumerate(zip(widths, (3, 3, 9, 3), strict=True)):
        depth = settings.blocks or depth
        blocks += make_stage(Residual, blocks[-1].out_channels, width, 2 if stage else 1, depth)
        sizes.append(depth + (not stage))
    fc = nn.Linear(widths[-1], num_classes)
    parts = {"features": joined(blocks), "fc": fc}
    return Network(
        parts,
        blocks=blocks,
        stages=consecutive(sizes),
        out_indices=last_at_each_size(blocks),
        head=pooled_classifier(fc),
        num_classes=num_classes,
    )
