"""InfoPro (Wang et al. 2021): cross-entropy, and the image reconstructed from every block.

Loss of unit i of K: x(i) * reconstruction + y(i) * cross-entropy, both weights linear in depth
from the first unit to the last that has an auxiliary network. Cross-entropy: a 3x3 convolution to
the next stage's width, pool, a hidden layer, classifier. Reconstruction: binary cross-entropy of
the pixels (AugLocal's Table 6). The defaults are those of ResNet-32 on CIFAR-10.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from locbench.networks.base import Network, he_normal
from locbench.rules.auxiliary import conv_layer, scaled_or
from locbench.rules.supervised import Supervised, linear, local_units
from locbench.units import Batch, Unit

HIDDEN, DECODED = 128, 12


def infopro(
    network: Network,
    *,
    x_first: float = 5.0,
    y_first: float = 0.05,
    x_last: float = 0.2,
    y_last: float = 0.5,
    depth: int = 0,
    decay: float = 0.5,
    multiplier: float = 1.0,
) -> list[Unit]:
    """One unit a block; x weighs the reconstruction, y the cross-entropy. `depth` as in DGL."""

    def own(index: int) -> tuple[nn.Module, str]:
        return conv_classifier(network, index), "conv 3x3 + 2 linear"

    build, joint = scaled_or(own, network, depth=depth, decay=decay, multiplier=multiplier)

    def objective(index: int, ratio: float) -> Supervised:
        classifier, text = build(index)
        return Supervised(
            classifier,
            description=f"{text}, decoder",
            weight=linear(y_first, y_last, ratio),
            further=Reconstruction(network.widths[index]),
            further_weight=linear(x_first, x_last, ratio),
        )

    return local_units(network, objective, joint=joint)


def conv_classifier(network: Network, index: int) -> nn.Sequential:
    """3x3 convolution to the next stage's width at stride 2 (last stage: as it is), two linear."""
    stage = network.stage_of(index)
    last = stage == len(network.stages) - 1
    channels = network.widths[index if last else network.stages[stage + 1][-1]]
    return nn.Sequential(
        conv_layer(network.widths[index], channels, 3, stride=1 if last else 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, HIDDEN),
        nn.ReLU(inplace=True),
        nn.Linear(HIDDEN, network.num_classes),
    )


class Reconstruction(nn.Module):
    """The decoder: features brought to the image's side, two 3x3 convolutions, a sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.widen = nn.Conv2d(channels, DECODED, 3, padding=1)
        self.norm = nn.BatchNorm2d(DECODED)
        self.image = nn.Conv2d(DECODED, 3, 3, padding=1)
        for conv in (self.widen, self.image):
            he_normal(conv)

    def forward(self, features: Tensor, batch: Batch) -> Tensor:
        """features [B, C, H, W] -> mean binary cross-entropy with batch.pixels, in fp32 or more."""
        side = batch.pixels.shape[-2:]
        x = F.interpolate(features, size=side, mode="bilinear", align_corners=True)
        x = self.image(F.relu(self.norm(self.widen(x))))
        with torch.autocast(features.device.type, enabled=False):
            x = x if x.dtype == torch.float64 else x.float()
            return F.binary_cross_entropy_with_logits(x, batch.pixels.to(x.dtype))
