"""EfficientNet-B0 for small images, in the form that AugLocal's table 8 trains."""

from __future__ import annotations

from functools import partial

from torch import nn
from torchvision.models.efficientnet import MBConv, MBConvConfig
from torchvision.ops import Conv2dNormActivation

from locbench.networks.base import (
    Block,
    Network,
    check_settings,
    consecutive,
    he_normal,
    joined,
    last_at_each_size,
    scaled,
)
from locbench.networks.shufflenet import StridedDepthwise
from locbench.recipes import schema

# The rows of the EfficientNet paper's table 1: (expansion, width, blocks, stride, kernel).
ROWS = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
STEM_WIDTH = 32
DROPOUT = 0.2


def efficientnet_b0(settings: schema.Network, num_classes: int = 10) -> Network:
    """EfficientNet-B0: stem and 16 MBConv blocks in seven stages; the stem belongs to the first.

    Nothing follows the last block but pooling, dropout and the classifier: there is no 1x1
    convolution to 1280. No branch is dropped: the code that AugLocal's layer counts point to sets
    a rate of 0.2 for its last block, but the counter that scales it stays at 0. `settings.width`
    multiplies every width (to multiples of 8, at least 8), `settings.blocks` is the number of
    blocks in each stage (0: as published).
    Made for small images: its one stem is 3x3 of stride 1, whatever settings.stem says.
    Raises UserError for settings that no network can have.
    """
    check_settings(settings)
    depths = [settings.blocks or row[2] for row in ROWS]
    stem_width = scaled(STEM_WIDTH, settings.width, multiple=8)
    stem = he_normal(Conv2dNormActivation(3, stem_width, activation_layer=nn.SiLU))
    parts: dict[str, nn.Module] = {"stem": stem}
    blocks = [Block(stem, 3, stem_width, 1, partial(mbconv, expansion=6, kernel=3))]
    for number, (row, depth) in enumerate(zip(ROWS, depths, strict=True), start=1):
        expansion, channels, _, stride, kernel = row
        width = scaled(channels, settings.width, multiple=8)
        for index in range(depth):
            kind = partial(mbconv, expansion=expansion, kernel=kernel)
            in_channels = blocks[-1].out_channels
            blocks.append(Block.make(kind, in_channels, width, stride if index == 0 else 1))
        parts[f"stage{number}"] = joined(blocks[-depth:])
    parts["fc"] = nn.Linear(blocks[-1].out_channels, num_classes)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(DROPOUT), parts["fc"])
    stages = consecutive([1 + depths[0], *depths[1:]])
    return Network(
        parts,
        blocks=blocks,
        stages=stages,
        out_indices=last_at_each_size(blocks),
        head=head,
        num_classes=num_classes,
    )


def mbconv(
    in_channels: int, out_channels: int, stride: int, *, expansion: int, kernel: int
) -> MBConv:
    """torchvision's MBConv: expand, depthwise, squeeze to a quarter of in_channels, project.

    Its shortcut is the identity where the shape is kept, else there is none. Widths inside are
    multiples of 8. Convolutions start from He's normal initialisation.
    """
    shape = MBConvConfig(expansion, kernel, stride, in_channels, out_channels, num_layers=1)
    block = MBConv(shape, 0.0, nn.BatchNorm2d)
    if stride != 1:
        depthwise = block.block[-3]
        inner = depthwise[0].in_channels
        depthwise[0] = StridedDepthwise(
            inner, inner, kernel, stride, padding=kernel // 2, groups=inner, bias=False
        )
    return he_normal(block)
