"""ResNet-34 and ResNet-50 (v1.5: stride on the 3x3): torchvision's modules and keys."""

from __future__ import annotations

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, conv1x1

from locbench.networks.base import (
    Block,
    Kind,
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

DEPTHS, DEPTHS_101 = (3, 4, 6, 3), (3, 4, 23, 3)
PLANES = (64, 128, 256, 512)


def resnet34(settings: schema.Network, num_classes: int = 1000) -> Network:
    """ResNet-34: 17 blocks (stem, 16 basic blocks) in four stages; otherwise as `resnet50`."""
    return _resnet(settings, basic, BasicBlock.expansion, num_classes)


def resnet50(settings: schema.Network, num_classes: int = 1000) -> Network:
    """ResNet-50: 17 blocks (stem, 16 bottlenecks) in four stages; the stem belongs to the first.

    `settings.width` multiplies every width (to multiples of 8), `settings.blocks` is the number
    of bottlenecks in each stage (0: 3, 4, 6, 3), and the stem is the ImageNet one (7x7 stride 2,
    max-pooling) or, for images up to 64 pixels, "small" (3x3 stride 1, no pooling).
    At full width and depth the state dict is torchvision's `resnet50`.
    Raises UserError for settings that no network can have.
    """
    return _resnet(settings, bottleneck, Bottleneck.expansion, num_classes)


def resnet101(settings: schema.Network, num_classes: int = 1000) -> Network:
    """ResNet-101: 34 blocks (stem, 33 bottlenecks) in four stages of 3, 4, 23 and 3.

    Its batch norms all start from scale 1, as in torchvision and in the AugLocal code; otherwise
    as `resnet50`.
    """
    return _resnet(settings, plain_bottleneck, Bottleneck.expansion, num_classes, DEPTHS_101)


def _resnet(
    settings: schema.Network,
    kind: Kind,
    expansion: int,
    num_classes: int,
    published: tuple[int, ...] = DEPTHS,
) -> Network:
    """Stages of blocks of one kind, `expansion` times as wide as the planes of their stage."""
    check_settings(settings)
    depths = [settings.blocks or depth for depth in published]
    planes = [scaled(channels, settings.width, multiple=8) for channels in PLANES]
    parts = stem_parts(planes[0], small=settings.stem == "small")
    stem = nn.Sequential(*parts.values())
    blocks = [Block(stem, 3, planes[0], 1 if settings.stem == "small" else 4, kind)]
    for number, (depth, channels) in enumerate(zip(depths, planes, strict=True), start=1):
        out_channels, stride = channels * expansion, 1 if number == 1 else 2
        stage = make_stage(kind, blocks[-1].out_channels, out_channels, stride, depth)
        parts[f"layer{number}"] = joined(stage)
        blocks += stage
    stages = consecutive([1 + depths[0], *depths[1:]])
    return pooled_network(parts, blocks=blocks, stages=stages, num_classes=num_classes)


def basic(in_channels: int, out_channels: int, stride: int) -> BasicBlock:
    """A basic block (ReLU after the addition), projected only where the shape changes.

    Convolutions start from He's normal initialisation (fan-out), batch norms from scale 1: as in
    torchvision and in the AugLocal code.
    """
    shortcut = projection(in_channels, out_channels, stride)
    return he_normal(BasicBlock(in_channels, out_channels, stride, shortcut))


def bottleneck(in_channels: int, out_channels: int, stride: int) -> Bottleneck:
    """A bottleneck of inner width out_channels / 4, projected only where the shape changes.

    Convolutions start from He's normal initialisation (fan-out) and the last batch norm's scale
    from zero, so that a fresh residual branch adds nothing (as SimCLR's code does).
    Raises ValueError when out_channels is no multiple of 4.
    """
    if out_channels % Bottleneck.expansion:
        raise ValueError(f"a bottleneck's width must be a multiple of 4, not {out_channels}")
    shortcut = projection(in_channels, out_channels, stride)
    planes = out_channels // Bottleneck.expansion
    block = he_normal(Bottleneck(in_channels, planes, stride, shortcut))
    nn.init.zeros_(block.bn3.weight)
    return block


def plain_bottleneck(in_channels: int, out_channels: int, stride: int) -> Bottleneck:
    """As `bottleneck`, with a scale of one on the last batch norm too."""
    block = bottleneck(in_channels, out_channels, stride)
    nn.init.ones_(block.bn3.weight)
    return block


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """The shortcut of a residual block: 1x1 convolution and batch norm; None where shapes agree."""
    if stride == 1 and in_channels == out_channels:
        return None
    conv = conv1x1(in_channels, out_channels, stride)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


def stem_parts(channels: int, small: bool) -> dict[str, nn.Module]:
    """7x7 convolution of stride 2, batch norm, ReLU, max-pooling; small: 3x3 of stride 1, none."""
    size, stride = (3, 1) if small else (7, 2)
    conv = he_normal(nn.Conv2d(3, channels, size, stride, padding=size // 2, bias=False))
    parts = {"conv1": conv, "bn1": nn.BatchNorm2d(channels), "relu": nn.ReLU(inplace=True)}
    if not small:
        parts["maxpool"] = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
    return parts
