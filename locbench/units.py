"""The contract of learning rules: a batch, and a unit of blocks with an objective."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Batch:
    """What a step sees: images [B,3,H,W] (two views stacked as 2N for contrastive rules).

    `targets` [B] and `pixels` (the images in [0, 1] before normalisation) where a rule needs them.
    `weight` is the share of a step's images that it holds, and `sizes` how many every process has
    beside it (empty: all as many).
    """

    images: Tensor
    targets: Tensor | None = None
    pixels: Tensor | None = None
    weight: float = 1.0
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Unit:
    """Blocks [start, stop), the objective on their output, and which blocks its loss may update.

    `updates` holds block indices (None: all blocks of the unit); gradients still flow through the
    others. `ties` are further parameters that the loss reaches, such as those of a soft penalty.
    With `recompute` each block keeps its input alone and runs again in the backward pass. An
    objective of which a step depends on tensors alone may say so: `capturable = True`, and a GPU
    takes its steps as CUDA graphs.
    """

    start: int
    stop: int
    objective: nn.Module
    updates: frozenset[int] | None = None
    ties: tuple[nn.Parameter, ...] = ()
    recompute: bool = False

    def updated_blocks(self) -> list[int]:
        """Indices of the blocks whose parameters the loss may change."""
        span = range(self.start, self.stop)
        return list(span) if self.updates is None else [b for b in span if b in self.updates]


def trainable(
    modules: Iterable[nn.Module], further: Iterable[nn.Parameter] = ()
) -> list[nn.Parameter]:
    """Parameters of the modules, and further ones, that require a gradient; each once."""
    candidates = [*(p for module in modules for p in module.parameters()), *further]
    return list({id(p): p for p in candidates if p.requires_grad}.values())
