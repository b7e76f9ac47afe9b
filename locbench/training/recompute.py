"""Gradient checkpointing: a block keeps its input only, and runs again when its gradient is due.

Not torch.utils.checkpoint: what that keeps does not go through saved-tensor hooks, so the memory
that checkpointing takes could not be counted; and it moves batch-norm statistics twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd


def recomputed(block: nn.Module, features: Tensor) -> Tensor:
    """The block's output; what it saves for its gradient is computed again in the backward pass.

    Batch norm normalises with the same statistics both times and adds them to its running ones
    once; dropout draws the same numbers both times.
    """
    return _Recomputed.apply(block, features, *block.parameters())


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, block: nn.Module, features: Tensor, *parameters: Tensor) -> Tensor:
        kind = features.device.type
        ctx.block, ctx.parameters = block, parameters
        ctx.autocast = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        ctx.random = None if _captured(block, features) else _random_states(features.device)
        ctx.save_for_backward(features)
        return block(features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features = ctx.saved_tensors[0].detach().requires_grad_(ctx.needs_input_grad[1])
        enabled, dtype = ctx.autocast
        kind = features.device.type
        with (
            torch.enable_grad(),
            torch.autocast(kind, dtype, enabled=enabled),
            nullcontext() if ctx.random is None else _drawing_from(ctx.random, features.device),
            untracked(ctx.block),
        ):
            output = ctx.block(features)
        tensors, needed = (features, *ctx.parameters), ctx.needs_input_grad[1:]
        inputs = [tensor for tensor, needs in zip(tensors, needed, strict=True) if needs]
        gradients = iter(torch.autograd.grad(output, inputs, gradient))
        return None, *(next(gradients) if needs else None for needs in needed)


def _captured(block: nn.Module, features: Tensor) -> bool:
    """Whether the step is being captured as a CUDA graph, in which no state may be asked for."""
    if not (features.is_cuda and torch.cuda.is_current_stream_capturing()):
        return False
    if any(isinstance(part, _DropoutNd) and part.p > 0 for part in block.modules()):
        raise RuntimeError("a block with dropout would draw other numbers when it is recomputed")
    return True


def _random_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _set_random_states(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


@contextmanager
def _drawing_from(states: list[Tensor], device: torch.device) -> Iterator[None]:
    """Random numbers as from these states; those of afterwards are not moved by it."""
    before = _random_states(device)
    _set_random_states(states, device)
    try:
        yield
    finally:
        _set_random_states(before, device)


@contextmanager
def untracked(module: nn.Module) -> Iterator[None]:
    """Batch norms inside leave their running statistics as they are, and normalise as before."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    tracked = [norm.track_running_stats for norm in norms]
    # In training mode this alone decides whether they are updated; the batch's own are used.
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm, value in zip(norms, tracked, strict=True):
            norm.track_running_stats = value
