"""Collectives: sums and gathers of tensors over processes that train together; none with one.

A step's loss is a sum over its images, and every process has a share of them: gradients, losses
and figures are summed over processes, each weighted before by its share.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from locbench.distributed.group import connected, rank, world_size


def cut(count: int, parts: int) -> list[int]:
    """Where so many images are cut into parts as like as can be: from 0 to `count`."""
    return [count * k // parts for k in range(parts + 1)]


def all_reduce(tensor: Tensor) -> Tensor:
    """The tensor, in place, summed over the processes."""
    if world_size() > 1:
        with connected():
            dist.all_reduce(tensor)
    return tensor


def broadcast(tensor: Tensor) -> None:
    """Overwrite the tensor with that of the first process."""
    with connected():
        dist.broadcast(tensor, src=0)


def all_gather(tensor: Tensor) -> Tensor:
    """The tensors of all processes, of one shape, one after the other: [processes, ...]."""
    tensors = tensor.new_empty((world_size(), *tensor.shape))
    with connected():
        dist.all_gather(list(tensors), tensor.contiguous())
    return tensors


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: Sequence[int]) -> Tensor:
        ctx.start, ctx.stop = sum(sizes[: rank()]), sum(sizes[: rank() + 1])
        padded = x.new_zeros((max(sizes), *x.shape[1:]))  # those of one call have one shape
        padded[: len(x)] = x
        parts = all_gather(padded)
        return torch.cat([part[:n] for part, n in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        whole = all_reduce(gradient.clone(memory_format=torch.contiguous_format))
        return whole[ctx.start : ctx.stop], None


def gathered(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """[n, ...] of every process, the first one's first: [sum n, ...], with gradient.

    `sizes` are their n, as `Batch.sizes`; empty: the same for all. The gradient is that of the sum
    of all processes' losses, of which each knows its own. ValueError where x has other rows.
    """
    if sizes and len(x) != sizes[rank()]:
        raise ValueError(f"{len(x)} rows to gather, and there are {sizes[rank()]} images here")
    if world_size() == 1:
        return x
    return _Gathered.apply(x, sizes or (len(x),) * world_size())


class Reduction:
    """Gradients on their way: summed over the processes while the rest of a step goes on."""

    def __init__(self) -> None:
        self._under_way: list[tuple[Any, Tensor, list[Tensor]]] = []

    def start(self, parameters: Iterable[nn.Parameter]) -> None:
        """Begin with the gradients of these, as one tensor; they are left alone until `finish`."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if world_size() == 1 or not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        with connected():
            self._under_way.append((dist.all_reduce(flat, async_op=True), flat, gradients))

    def finish(self) -> None:
        """Wait for all that was begun (a GPU's stream does, this process does not)."""
        for work, flat, gradients in self._under_way:
            with connected():
                work.wait()
            parts = flat.split([gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view(gradient.shape))
        self._under_way = []
