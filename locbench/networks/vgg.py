"""VGG-19 with batch norm for small images, one convolution a block (AugLocal sec. 4.2)."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from locbench import recipes
from locbench.networks.base import (
    Block,
    Network,
    check_settings,
    consecutive,
    he_normal,
    joined,
    last_at_each_size,
    make_stage,
    pooled_classifier,
    scaled,
)

DEPTHS = (2, 2, 4, 4, 4)
WIDTHS = (64, 128, 256, 512, 512)


def vgg19(settings: recipes.Network, num_classes: int = 10) -> Network:
    """VGG-19: 16 convolutions in five stages, then max-pooling, average pooling and one layer.

    The pooling between two stages is the entry of the later one, and the last pooling belongs to
    the head: an auxiliary network sees the map before it is pooled.
    `settings.width` multiplies every width (to multiples of 8, at least 8), `settings.blocks` is
    the number of convolutions in each stage (0: 2, 2, 4, 4, 4). Made for small images: its first
    convolution is 3x3, whatever settings.stem says. Raises UserError for settings that no network
    can have.
    """
    check_settings(settings)
    depths = [settings.blocks or depth for depth in DEPTHS]
    parts: dict[str, nn.Module] = {}
    blocks: list[Block] = []
    for number, (depth, channels) in enumerate(zip(depths, WIDTHS, strict=True), start=1):
        width = scaled(channels, settings.width, multiple=8)
        in_channels, stride = (blocks[-1].out_channels, 2) if blocks else (3, 1)
        stage = make_stage(convolution, in_channels, width, stride, depth)
        parts[f"stage{number}"] = joined(stage)
        blocks += stage
    parts["fc"] = nn.Linear(blocks[-1].out_channels, num_classes)
    head = nn.Sequential(_pool(), *pooled_classifier(parts["fc"]))
    taps = last_at_each_size(blocks)
    return Network(parts, blocks, consecutive(depths), taps, head, num_classes)


def convolution(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """[2x2 max-pooling if stride is 2] - 3x3 convolution - batch norm - ReLU.

    The convolution has a bias, as published, though the batch norm takes it out again. Its weight
    starts from He's normal initialisation. Raises ValueError for another stride than 1 and 2.
    """
    if stride not in (1, 2):
        raise ValueError(f"a VGG block's stride must be 1 or 2, not {stride}")
    steps: OrderedDict[str, nn.Module] = OrderedDict()
    if stride == 2:
        steps["pool"] = _pool()
    steps["conv"] = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
    steps["bn"] = nn.BatchNorm2d(out_channels)
    steps["relu"] = nn.ReLU(inplace=True)
    return he_normal(nn.Sequential(steps))


def _pool() -> nn.MaxPool2d:
    """Rounds an odd side up, as strided convolutions do: a map of one pixel stays one."""
    return nn.MaxPool2d(kernel_size=2, ceil_mode=True)
