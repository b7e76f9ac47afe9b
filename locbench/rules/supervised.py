"""Parts of the supervised rules: cross-entropy on a classifier, and a unit for every block."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from locbench.networks.base import Network
from locbench.units import Batch, Unit


class Supervised(nn.Module):
    """Cross-entropy of a classifier on the features, and what else a rule asks of them.

    `classifier` takes [B, C, H, W] to logits [B, classes]. `further`, where there is one, takes
    the features and the batch to a scalar loss of its own. The loss is
    `weight` * cross-entropy + `further_weight` * further, each a mean over the batch, in at least
    fp32. Logs the accuracy (a share) and, beside a further loss, both parts.
    """

    capturable = True  # see `locbench.training.captured`

    def __init__(
        self,
        classifier: nn.Module,
        *,
        description: str,
        weight: float = 1.0,
        further: nn.Module | None = None,
        further_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.classifier, self.weight = classifier, weight
        self.further, self.further_weight = further, further_weight
        self.description = description

    @property
    def head(self) -> nn.Module:
        """What turns the features into logits."""
        return self.classifier

    def logits(self, features: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, classes]: what the layer alone would answer."""
        return self.classifier(features)

    def forward(self, features: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """features [B, C, H, W] -> the loss and figures to log."""
        logits = self.logits(features)
        with torch.autocast(features.device.type, enabled=False):
            logits = logits if logits.dtype == torch.float64 else logits.float()
            entropy = F.cross_entropy(logits, batch.targets)
        log = {"accuracy": (logits.detach().argmax(dim=1) == batch.targets).float().mean()}
        if self.further is None:
            return self.weight * entropy, log
        further = self.further(features, batch)
        log |= {"cross-entropy": entropy.detach(), "further": further.detach()}
        return self.weight * entropy + self.further_weight * further, log


def head_unit(network: Network, *, start: int, recompute: bool = False) -> Unit:
    """The unit that ends with the network's own classifier: blocks from `start` to the last."""
    stop = len(network.blocks)
    objective = Supervised(network.head, description="classifier")
    return Unit(start, stop, objective, recompute=recompute)


def local_units(
    network: Network, objective: Callable[[int, float], nn.Module], *, joint: int = 1
) -> list[Unit]:
    """Blocks on their own with `objective(index, ratio)`; the last `joint` with the classifier.

    `ratio` goes from 0 at the first unit to 1 at the last that has an auxiliary network.
    """
    alone = len(network.blocks) - joint
    ratios = [index / max(1, alone - 1) for index in range(alone)]
    units = [Unit(k, k + 1, objective(k, ratio)) for k, ratio in enumerate(ratios)]
    return [*units, head_unit(network, start=alone)]


def linear(first: float, last: float, ratio: float) -> float:
    """A weight on the way from the first unit (ratio 0) to the last (ratio 1)."""
    return first * (1 - ratio) + last * ratio


def pooled(channels: int, num_classes: int, *, norm: bool = False) -> nn.Sequential:
    """Global average pool and a linear classifier, with batch norm between them if asked for."""
    between = [nn.BatchNorm1d(channels)] if norm else []
    pool = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(pool, nn.Flatten(), *between, nn.Linear(channels, num_classes))
