"""VGG with batch norm, one convolution a block: 19 for small images, 13 for ImageNet (AugLocal)."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from locbench.networks.base import (
    Block,
    Kind,
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
from locbench.recipes import schema

DEPTHS, DEPTHS_13 = (2, 2, 4, 4, 4), (2, 2, 2, 2, 2)
WIDTHS = (64, 128, 256, 512, 512)
HIDDEN, GRID, DROPOUT = 4096, 7, 0.5  # of VGG-13's classifier


def vgg19(settings: schema.Network, num_classes: int = 10) -> Network:
    """VGG-19: 16 convolutions in five stages, then max-pooling, average pooling and one layer.

    The pooling between two stages is the entry of the later one, and the last pooling belongs to
    the head: an auxiliary network sees the map before it is pooled.
    `settings.width` multiplies every width (to multiples of 8, at least 8), `settings.blocks` is
    the number of convolutions in each stage (0: 2, 2, 4, 4, 4). Made for small images: its first
    convolution is 3x3, whatever settings.stem says. Raises UserError for settings that no network
    can have.
    """
    stages = _stages(settings, convolution, DEPTHS)
    fc = nn.Linear(stages[-1][-1].out_channels, num_classes)
    head = nn.Sequential(_pool(), *pooled_classifier(fc))
    return _network(stages, fc, head, num_classes)


def vgg13(settings: schema.Network, num_classes: int = 1000) -> Network:
    """VGG-13: 10 convolutions in five stages, max-pooling, and three linear layers on 7x7 maps.

    In the form for ImageNet: the hidden layers are 4096 wide, with dropout, and the map is averaged
    to 7x7 whatever the size of the image. `settings.width` multiplies their width as well, and
    `settings.blocks` is the number of convolutions in each stage (0: 2). Otherwise as `vgg19`; the
    weights of linear layers start from N(0, 0.01) and all biases from 0, as in the AugLocal code.
    """
    stages = _stages(settings, zero_biased, DEPTHS_13)
    hidden = scaled(HIDDEN, settings.width, multiple=8)
    steps: list[nn.Module] = []
    for width in (stages[-1][-1].out_channels * GRID**2, hidden):
        steps += [nn.Linear(width, hidden), nn.ReLU(inplace=True), nn.Dropout(DROPOUT)]
    fc = nn.Sequential(*steps, nn.Linear(hidden, num_classes))
    for linear in fc[::3]:
        nn.init.normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)
    head = nn.Sequential(_pool(), nn.AdaptiveAvgPool2d(GRID), nn.Flatten(), fc)
    return _network(stages, fc, head, num_classes)


def _stages(settings: schema.Network, kind: Kind, depths: tuple[int, ...]) -> list[list[Block]]:
    """Convolutions as wide as published; UserError for settings that no network can have."""
    check_settings(settings)
    stages: list[list[Block]] = []
    for depth, channels in zip(depths, WIDTHS, strict=True):
        width = scaled(channels, settings.width, multiple=8)
        in_channels, stride = (stages[-1][-1].out_channels, 2) if stages else (3, 1)
        stages.append(make_stage(kind, in_channels, width, stride, settings.blocks or depth))
    return stages


def _network(
    stages: list[list[Block]], fc: nn.Module, head: nn.Module, num_classes: int
) -> Network:
    parts = {f"stage{number}": joined(stage) for number, stage in enumerate(stages, start=1)}
    blocks = [block for stage in stages for block in stage]
    return Network(
        {**parts, "fc": fc},
        blocks=blocks,
        stages=consecutive(map(len, stages)),
        out_indices=last_at_each_size(blocks),
        head=head,
        num_classes=num_classes,
    )


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


def zero_biased(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """As `convolution`, its bias zero at the start."""
    block = convolution(in_channels, out_channels, stride)
    nn.init.zeros_(block.conv.bias)
    return block


def _pool() -> nn.MaxPool2d:
    """Rounds an odd side up, as strided convolutions do: a map of one pixel stays one."""
    return nn.MaxPool2d(kernel_size=2, ceil_mode=True)
