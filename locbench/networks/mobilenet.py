"""MobileNetV2 for small images, in the form that AugLocal's table 8 trains."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from locbench.networks.base import (
    Block,
    Network,
    check_settings,
    consecutive,
    he_normal,
    joined,
    last_at_each_size,
    make_stage,
    pooled_network,
    scaled,
)
from locbench.networks.shufflenet import StridedDepthwise
from locbench.recipes import schema

# The rows of the MobileNetV2 paper's table 2: (expansion, width, blocks, stride); the second keeps
# the resolution of small images.
ROWS = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM_WIDTH, LAST_WIDTH = 32, 1280


def mobilenet_v2(settings: schema.Network, num_classes: int = 10) -> Network:
    """MobileNetV2: stem, 17 inverted residuals in seven stages, 1x1 convolution; 19 blocks.

    The stem belongs to the first stage and the 1x1 convolution to the last; a feature pyramid
    reads the block before it. `settings.width` multiplies every width (to multiples of 8, at
    least 8), `settings.blocks` is the number of inverted residuals in each stage (0: as
    published). Made for small images: its one stem is 3x3, whatever settings.stem says.
    Raises UserError for settings that no network can have.
    """
    check_settings(settings)
    depths = [settings.blocks or row[2] for row in ROWS]
    stem_width, last_width = (
        scaled(channels, settings.width, multiple=8) for channels in (STEM_WIDTH, LAST_WIDTH)
    )
    usual = partial(InvertedResidual, expansion=6)
    parts: dict[str, nn.Module] = {"stem": he_normal(Conv2dNormActivation(3, stem_width))}
    blocks = [Block(parts["stem"], 3, stem_width, 1, usual)]
    for number, (row, depth) in enumerate(zip(ROWS, depths, strict=True), start=1):
        expansion, channels, _, stride = row
        kind = partial(InvertedResidual, expansion=expansion)
        width = scaled(channels, settings.width, multiple=8)
        stage = make_stage(kind, blocks[-1].out_channels, width, stride, depth)
        parts[f"stage{number}"] = joined(stage)
        blocks += stage
    out_indices = last_at_each_size(blocks)
    closing = he_normal(Conv2dNormActivation(blocks[-1].out_channels, last_width, kernel_size=1))
    parts["closing"] = closing
    blocks.append(Block(closing, blocks[-1].out_channels, last_width, 1, usual))
    stages = consecutive([1 + depths[0], *depths[1:-1], depths[-1] + 1])
    return pooled_network(
        parts, blocks=blocks, stages=stages, out_indices=out_indices, num_classes=num_classes
    )


class InvertedResidual(nn.Module):
    """1x1 convolution to `expansion` times the width, 3x3 depthwise, 1x1 to the new width.

    Ours because torchvision's has ReLU6, no expanding convolution at expansion 1, and no shortcut
    where the width changes; this one is projected there, and has none at stride 2 alone.
    Convolutions start from He's normal initialisation.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = expansion * in_channels
        conv = nn.Conv2d if stride == 1 else StridedDepthwise
        self.expand = Conv2dNormActivation(in_channels, inner, kernel_size=1)
        self.depthwise = nn.Sequential(
            conv(inner, inner, 3, stride, padding=1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
        )
        self.project = _linear(inner, out_channels)
        self.shortcut: nn.Module | None = None
        if stride == 1:
            same = in_channels == out_channels
            self.shortcut = nn.Identity() if same else _linear(in_channels, out_channels)
        he_normal(self)

    def forward(self, features: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, H / stride, W / stride], rounded up."""
        branch = self.project(self.depthwise(self.expand(features)))
        return branch if self.shortcut is None else branch + self.shortcut(features)


def _linear(in_channels: int, out_channels: int) -> nn.Sequential:
    return Conv2dNormActivation(in_channels, out_channels, kernel_size=1, activation_layer=None)
