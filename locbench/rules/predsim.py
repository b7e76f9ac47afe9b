"""PredSim (Nokland & Eidnes 2019): cross-entropy and similarity matching at every block.

Cross-entropy: average pool to at most 512 features, linear classifier. Similarity matching: a 3x3
convolution of the features, whose similarities between the images of a batch are to be those of
their labels. Loss 0.01 * cross-entropy + 0.99 * similarity, as in the AugLocal code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from locbench.distributed.collectives import gathered
from locbench.networks.base import Network, he_normal
from locbench.rules.auxiliary import scaled_or
from locbench.rules.supervised import Supervised, local_units
from locbench.units import Batch, Unit

FEATURES = 512  # that the classifier sees, at most


def predsim(
    network: Network,
    *,
    beta: float = 0.99,
    depth: int = 0,
    decay: float = 0.5,
    multiplier: float = 1.0,
) -> list[Unit]:
    """One unit a block; `beta` weighs the similarity. `depth`: a scaled classifier, as DGL's."""
    sides = network.sides()

    def own(index: int) -> tuple[nn.Module, str]:
        channels = network.widths[index]
        return pooled_to(channels, sides[index], network.num_classes), "pool + linear"

    build, joint = scaled_or(own, network, depth=depth, decay=decay, multiplier=multiplier)

    def objective(index: int, ratio: float) -> Supervised:
        classifier, text = build(index)
        return Supervised(
            classifier,
            description=f"{text}, conv 3x3",
            weight=1 - beta,
            further=SimilarityMatching(network.widths[index], network.num_classes),
            further_weight=beta,
        )

    return local_units(network, objective, joint=joint)


def pooled_to(channels: int, side: int, num_classes: int, most: int = FEATURES) -> nn.Sequential:
    """Average pool until at most `most` features are left, then a linear classifier.

    The kernel's height and width are doubled by turns; where it does not divide the side, zeros
    are padded on both sides (96 pixels: AugLocal's STL-10).
    """
    height = width = 1
    while channels * -(-side // height) * -(-side // width) > most and width < side:
        height, width = (height * 2, width) if height == width else (height, width * 2)
    kernel = (height, width)
    padding = tuple(k * (-(-side // k) - side // k) // 2 for k in kernel)
    flat = channels * -(-side // height) * -(-side // width)
    pool = nn.AvgPool2d(kernel, padding=padding)
    return nn.Sequential(pool, nn.Flatten(), nn.Linear(flat, num_classes))


class SimilarityMatching(nn.Module):
    """Mean squared difference of two similarity matrices: of the features, and of the labels."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        he_normal(self.conv)
        self.num_classes = num_classes

    def forward(self, features: Tensor, batch: Batch) -> Tensor:
        """features [B, C, H, W] -> scalar, in at least fp32."""
        mapped = self.conv(features)
        with torch.autocast(features.device.type, enabled=False):
            mapped = mapped if mapped.dtype == torch.float64 else mapped.float()
            labels = F.one_hot(batch.targets, self.num_classes).to(mapped.dtype)
            matrix = similarity(spread(mapped), batch.sizes)
            return F.mse_loss(matrix, similarity(labels, batch.sizes))


def spread(features: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C], every channel's standard deviation over space.

    Maps of one pixel, or of three channels and fewer, have none: they are flattened.
    """
    flat = features.flatten(2)
    return flat.std(dim=2) if flat.shape[1] > 3 and features.shape[2] > 1 else flat.flatten(1)


def similarity(x: Tensor, sizes: Sequence[int] = ()) -> Tensor:
    """[B, D] -> [B, B]: cosine of the rows, each less its mean.

    Of several processes with `sizes` rows each: [B, sum of sizes], with the rows of all of them.
    """
    centred = x - x.mean(dim=1, keepdim=True)
    unit = centred / (1e-8 + torch.linalg.vector_norm(centred, dim=1, keepdim=True))
    return (unit @ gathered(unit, sizes).T).clamp(-1, 1)
