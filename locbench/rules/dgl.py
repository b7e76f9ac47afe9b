"""DGL (Belilovsky et al. 2019): every block on its own, cross-entropy on an auxiliary network.

MLP-SR, as in the AugLocal code (its Table 6): average pool to a quarter of the side, three 1x1
convolutions, average pool to at most 2x2, two hidden linear layers of that width, classifier.

`depth` 2 or more takes the network of AugLocal's Table 9 in its place, scaled up to the cost of
AugLocal at that depth: 3x3 convolutions `multiplier` times as wide as the block.
"""

from __future__ import annotations

from torch import nn

from locbench.networks.base import Network
from locbench.rules.auxiliary import conv_layer, scaled_or, started
from locbench.rules.supervised import Supervised, local_units
from locbench.units import Unit

CONVS, LINEARS = 3, 2
QUARTER, POOLED = 4, 2  # the side is divided by the one, and then at most the other


def dgl(
    network: Network,
    *,
    depth: int = 0,
    decay: float = 0.5,
    multiplier: float = 1.0,
    by_width: bool = False,
    initial: str = "he",
) -> list[Unit]:
    """One unit a block: MLP-SR auxiliary networks, or scaled ones of the given depth.

    `by_width`: their first pooling is that of the first block as wide, as in the AugLocal code for
    VGG-13 on ImageNet, whose last stage is as wide as the one before it. `initial`: how auxiliary
    networks start, see `started`.
    """
    sides, widths = network.sides(), network.widths

    def own(index: int) -> tuple[nn.Module, str]:
        side = sides[widths.index(widths[index]) if by_width else index]
        classifier = mlp_sr(widths[index], side, network.num_classes)
        return classifier, f"{CONVS} conv 1x1s + {LINEARS + 1} linear"

    build, joint = scaled_or(own, network, depth=depth, decay=decay, multiplier=multiplier)

    def objective(index: int, ratio: float) -> Supervised:
        classifier, text = build(index)
        return Supervised(started(classifier, initial), description=text)

    return local_units(network, objective, joint=joint)


def mlp_sr(channels: int, side: int, num_classes: int) -> nn.Sequential:
    """[B, channels, side, side] -> [B, num_classes]."""
    first = -(-side // QUARTER)
    last = min(first, POOLED)
    flat = channels * last**2
    hidden = [
        layer
        for _ in range(LINEARS)
        for layer in (nn.Linear(flat, flat, bias=False), nn.BatchNorm1d(flat), nn.ReLU())
    ]
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(first),
        *(conv_layer(channels, channels, 1) for _ in range(CONVS)),
        nn.AdaptiveAvgPool2d(last),
        nn.Flatten(),
        *hidden,
        nn.Linear(flat, num_classes),
    )
