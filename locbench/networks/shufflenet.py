"""ShuffleNet v2-50, the large network in the appendix of the ShuffleNet v2 paper."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import Conv2dNormActivation

from locbench.networks.base import (
    Block,
    Network,
    check_settings,
    consecutive,
    joined,
    last_at_each_size,
    make_stage,
    pooled_network,
    scaled,
)
from locbench.recipes import schema

DEPTHS = (3, 4, 6, 3)
CHANNELS = (244, 488, 976, 1952)
STEM_CHANNELS, LAST_CHANNELS = 64, 2048


def shufflenet_v2_50(settings: schema.Network, num_classes: int = 1000) -> Network:
    """ShuffleNet v2-50: stem, conv2_x to conv5_x, conv6; 18 blocks in four stages.

    The stem belongs to the first stage and the 1x1 convolution conv6 to the last; a feature
    pyramid reads conv5_x before it. conv2_x keeps the resolution: its first unit only widens.
    `settings` as for `resnet50`, widths to even numbers. Weights start as PyTorch's modules do,
    as in torchvision's ShuffleNet v2. Raises UserError for settings that no network can have.
    """
    check_settings(settings)
    small = settings.stem == "small"
    depths = [settings.blocks or depth for depth in DEPTHS]
    stem_channels, *channels, last_channels = (
        scaled(count, settings.width, multiple=2)
        for count in (STEM_CHANNELS, *CHANNELS, LAST_CHANNELS)
    )
    parts = _stem_parts(stem_channels, small)
    stem = nn.Sequential(*parts.values())
    blocks = [Block(stem, 3, stem_channels, 1 if small else 4, ShuffleUnit)]
    for number, (depth, width) in enumerate(zip(depths, channels, strict=True), start=2):
        stride = 1 if number == 2 else 2
        stage = make_stage(ShuffleUnit, blocks[-1].out_channels, width, stride, depth)
        parts[f"conv{number}_x"] = joined(stage)
        blocks += stage
    out_indices = last_at_each_size(blocks)
    parts["conv6"] = Conv2dNormActivation(channels[-1], last_channels, kernel_size=1)
    blocks.append(Block(parts["conv6"], channels[-1], last_channels, 1, ShuffleUnit))
    stages = consecutive([1 + depths[0], *depths[1:-1], depths[-1] + 1])
    return pooled_network(
        parts, blocks=blocks, stages=stages, out_indices=out_indices, num_classes=num_classes
    )


class ShuffleUnit(nn.Module):
    """A unit of ShuffleNet v2 (its figures 3c and 3d), with torchvision's keys.

    Shape kept: half of the channels pass through, the other half go 1x1, 3x3 depthwise, 1x1.
    Shape changed: both branches see all channels. Then concatenate and shuffle in two groups.
    Ours because torchvision's InvertedResidual refuses to widen at stride 1 (conv2_x does), and
    its shuffle gives up the channels_last layout. Raises ValueError for an odd width.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        if out_channels % 2:
            raise ValueError(f"a shuffle unit's width must be even, not {out_channels}")
        half = out_channels // 2
        self.split = stride == 1 and in_channels == out_channels
        self.branch1 = nn.Sequential()
        if not self.split:
            self.branch1.extend([*_depthwise(in_channels, stride), *_pointwise(in_channels, half)])
        self.branch2 = nn.Sequential(
            *_pointwise(half if self.split else in_channels, half),
            *_depthwise(half, stride),
            *_pointwise(half, half),
        )

    def forward(self, features: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, H / stride, W / stride], rounded up."""
        first, second = features.chunk(2, dim=1) if self.split else (features, features)
        joint = torch.cat((self.branch1(first), self.branch2(second)), dim=1)
        return functional.channel_shuffle(joint, 2)


def _pointwise(in_channels: int, out_channels: int) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


def _depthwise(channels: int, stride: int) -> list[nn.Module]:
    kind = nn.Conv2d if stride == 1 else StridedDepthwise
    conv = kind(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
    return [conv, nn.BatchNorm2d(channels)]


class StridedDepthwise(nn.Conv2d):
    """A convolution that leaves bf16 for fp32 on a CPU.

    There the bf16 backward of a strided depthwise convolution has no fast kernel: it takes 14 to
    17 times as long as in fp32 (16x16 maps, one AVX512-BF16 core), and so most of a whole step.
    """

    def forward(self, features: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H / stride, W / stride], in the dtype of the input."""
        if features.device.type != "cpu" or features.dtype != torch.bfloat16:
            return super().forward(features)
        with torch.autocast("cpu", enabled=False):
            return super().forward(features.float()).to(features.dtype)


def _stem_parts(channels: int, small: bool) -> dict[str, nn.Module]:
    parts = {"conv1": Conv2dNormActivation(3, channels, kernel_size=3, stride=1 if small else 2)}
    if not small:
        parts["maxpool"] = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
    return parts
