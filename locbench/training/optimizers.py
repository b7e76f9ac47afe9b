"""Optimizers by the names the recipes use."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from locbench.recipes.schema import SGD, Lars


def make_optimizer(
    parameters: Iterable[nn.Parameter], settings: Lars | SGD
) -> torch.optim.Optimizer:
    """The recipe's optimizer over these parameters.

    SGD is torch's, over all parameters alike (AugLocal, sec. A.2 and code).

    LARS is timm's. Convolution and linear weights are adapted and decayed; batch norm and biases
    (fewer than two dimensions) are neither, as in the SimCLR code. timm differs from that code in
    two ways. Bounds are held by tests, given the same gradients (training is chaotic: two
    roundings of one optimizer part within ten steps).

    Weight decay enters the trust ratio's denominator as a norm of its own: at constant learning
    rate and weight decay 1e-6 every weight agrees to 1e-5 after 30 steps. Where a gradient is
    exactly 0, as behind a zero-initialised branch at first, SimCLR's rule shrinks the weights by
    trust * lr and timm's does not; under warm-up lr is all but 0 then.

    The learning rate multiplies the momentum buffer instead of entering it, so a gradient counts
    with the rate of the step it still acts on, on average momentum / (1 - momentum) steps later.
    Over warm-up and cosine this moves a weight by less than 18 updates at the peak rate (momentum
    0.9): little of the 250,228 steps of a paper's run, much of a smoke run.
    """
    parameters = list(parameters)
    if isinstance(settings, SGD):
        return torch.optim.SGD(
            parameters,
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov and settings.momentum > 0,
            weight_decay=settings.weight_decay,
            fused=True,
        )
    groups = [
        {
            "params": [p for p in parameters if p.ndim > 1],
            "weight_decay": settings.weight_decay,
            "always_adapt": True,
        },
        {
            "params": [p for p in parameters if p.ndim <= 1],
            "weight_decay": 0.0,
            "always_adapt": False,
        },
    ]
    from timm.optim.lars import Lars as TimmLars

    return TimmLars(groups, lr=settings.lr, momentum=settings.momentum, trust_coeff=settings.trust)
