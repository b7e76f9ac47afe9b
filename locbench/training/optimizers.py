"""Optimizers by the names the recipes use."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from locbench.recipes import schema
from locbench.training.lars import Lars


def make_optimizer(
    parameters: Iterable[nn.Parameter], settings: schema.Lars | schema.SGD
) -> torch.optim.Optimizer:
    """The recipe's optimizer over these parameters.

    SGD is torch's, over all parameters alike (AugLocal, sec. A.2 and code); LARS is that of the
    SimCLR code.
    """
    if isinstance(settings, schema.SGD):
        return torch.optim.SGD(
            parameters,
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov and settings.momentum > 0,
            weight_decay=settings.weight_decay,
            fused=True,
        )
    return Lars(
        parameters,
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        trust=settings.trust,
    )
