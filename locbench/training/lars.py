"""LARS, the optimizer of SimCLR's code (lars_optimizer.py): a rate for every weight by its norm."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Lars(torch.optim.Optimizer):
    """LARS with the learning rate inside the momentum, as in SimCLR's code.

    Of convolution and linear weights w with gradient g: g += weight_decay * w, and
    rate = trust * |w| / |g|, or 1 where a norm is 0. Batch norm and biases (fewer than two
    dimensions) are neither decayed nor adapted: rate = 1. Then
    v = momentum * v + lr * rate * g and w -= v.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        trust: float,
    ) -> None:
        parameters = list(parameters)
        adapted, plain = ([p for p in parameters if (p.ndim > 1) is side] for side in (True, False))
        groups = [{"params": adapted, "adapt": True}, {"params": plain, "adapt": False}]
        values = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust}
        super().__init__([group for group in groups if group["params"]], values)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update of every parameter that has a gradient; nothing waits for the device."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, group)

    def _update(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        if not self.state[weight]:
            self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        velocity = self.state[weight]["momentum_buffer"].mul_(group["momentum"])
        if group["adapt"]:
            gradient = gradient.add(weight, alpha=group["weight_decay"])
            norm, slope = weight.norm(), gradient.norm()
            usable = (norm > 0) & (slope > 0)
            rate = torch.where(usable, group["trust"] * norm / slope, 1.0)
            velocity.addcmul_(gradient, rate, value=group["lr"])
        else:
            velocity.add_(gradient, alpha=group["lr"])
        weight.sub_(velocity)
