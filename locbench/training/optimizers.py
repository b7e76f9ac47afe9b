"""Optimizers and learning-rate schedules by the names the recipes use."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from locbench.recipes import Optimizer as OptimizerSettings


def make_optimizer(
    parameters: Iterable[nn.Parameter], settings: OptimizerSettings
) -> torch.optim.Optimizer:
    """The recipe's optimizer over these parameters.

    LARS is timm's. Convolution and linear weights are adapted and decayed; batch norm and biases
    (fewer than two dimensions) are neither, as in the SimCLR code. timm differs from that code in
    two ways: weight decay enters the trust ratio's denominator as a norm of its own, and the
    learning rate multiplies the momentum buffer instead of entering it. At constant learning rate
    and weight decay 1e-6 the weights of both agree to better than 1e-4 (tests hold the bound).
    """
    parameters = list(parameters)
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
    from timm.optim.lars import Lars

    return Lars(
        groups, lr=settings.lr, momentum=settings.momentum, trust_coeff=settings.trust, foreach=True
    )


def warmup_cosine(step: int, total: int, warmup: int, base: float) -> float:
    """Linear from 0 to `base` over `warmup` steps, then half a cosine to 0 over the rest.

    The schedule of the SimCLR code, per step, without restart (LoCo sec. 5.1).
    """
    if step < warmup:
        return base * step / warmup
    return base * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def count_steps(images: int, epochs: float, batch: int) -> int:
    """Steps of a schedule: images * epochs // batch + 1, as the SimCLR code counts (facts B.3)."""
    return int(images * epochs) // batch + 1
