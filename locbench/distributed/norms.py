"""Batch norm over the images of all processes that train together, or over equal parts of them.

Over all it is torch's SyncBatchNorm on GPUs, which refuses CPU tensors; for those there is a
function here. Parts are what a GPU each would have, with batch norm that knows of no other.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from locbench.distributed.collectives import all_gather, all_reduce, broadcast, cut
from locbench.distributed.group import world_size


def _norms(modules: Iterable[nn.Module], kinds: tuple[type, ...]) -> list[nn.Module]:
    parts = [part for module in modules for part in module.modules()]
    return [part for part in parts if isinstance(part, kinds)]


def synchronise(modules: Iterable[nn.Module], *, groups: int = 1, views: int = 1) -> None:
    """Make every batch norm inside one over all images of a step's batch, or over equal parts.

    In place: the modules stay the same objects, for a network holds some of its parts under two
    names. Each of the `groups` has its own statistics, of all `views` of its images; processes have
    as many groups each.
    """
    for norm in _norms(modules, (nn.BatchNorm1d, nn.BatchNorm2d)):
        if groups > 1:
            norm.__class__ = GroupedBatchNorm
            norm.groups, norm.views = groups // world_size(), views
        elif world_size() > 1:
            norm.__class__, norm.process_group = SharedBatchNorm, None


def share_statistics(modules: Iterable[nn.Module]) -> None:
    """Give every process the running statistics of the first, where each has groups of its own."""
    if world_size() > 1:
        for norm in _norms(modules, (GroupedBatchNorm,)):
            for buffer in norm.buffers():
                broadcast(buffer)


class GroupedBatchNorm(_BatchNorm):
    """Batch norm whose statistics in training are those of each of some equal parts of the batch.

    As batch norm on so many GPUs that is not synchronised. Running statistics are those of the
    first part, as DistributedDataParallel leaves them: it hands on the first process's. A batch
    that is no multiple has parts as like as can be.
    """

    groups: int
    views: int

    def _check_input_dim(self, input: Tensor) -> None:
        """Any: it was a batch norm of one or of two dimensions."""

    def forward(self, features: Tensor) -> Tensor:
        """[views * N, C, ...], the first views of all images first -> the same, normalised."""
        if not self.training:
            return super().forward(features)
        views, tracks = features.chunk(self.views), self.track_running_stats
        parts = []
        for start, stop in pairwise(cut(len(views[0]), self.groups)):
            pieces = [view[start:stop] for view in views]
            self.track_running_stats = tracks and start == 0
            part = super().forward(pieces[0] if self.views == 1 else torch.cat(pieces))
            parts.append(part.chunk(self.views))
        self.track_running_stats = tracks
        return torch.cat([piece for view in zip(*parts, strict=True) for piece in view])


class SharedBatchNorm(nn.SyncBatchNorm):
    """SyncBatchNorm that takes CPU tensors too, and is a plain one where a process is alone.

    Output, gradients and running statistics are those of one process with all the images. Also
    where processes have unlike numbers of them, and where one has a single value a channel.
    """

    def forward(self, features: Tensor) -> Tensor:
        """[N, C, ...] -> the same shape, normalised."""
        if not self.training or world_size() == 1:
            return _BatchNorm.forward(self, features)
        if features.device.type != "cpu":
            return super().forward(features)
        weight, bias = self.weight, self.bias
        if weight is None:  # affine=False
            dtype = torch.promote_types(features.dtype, torch.float32)
            weight = features.new_ones(self.num_features, dtype=dtype)
            bias = torch.zeros_like(weight)
        result, mean, variance, count = _Normalised.apply(features, weight, bias, self.eps)
        if self.track_running_stats:
            self._track(mean, variance * (count / (count - 1)))
        return result

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        self.num_batches_tracked.add_(1)
        part = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, part)
        self.running_var.lerp_(variance, part)


def _statistics(features: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and (biased) variance [C] over all processes' images, and their number of values."""
    statistics = torch.batch_norm_update_stats(
        features, torch.zeros_like(like), torch.ones_like(like), 0
    )
    count = like.new_full((1,), features.numel() // features.shape[1])
    rows = all_gather(torch.cat([*statistics, count]))  # one a process
    means, variances = rows[:, :-1].unflatten(1, (2, -1)).unbind(1)
    shares = rows[:, -1:] / rows[:, -1].sum()
    mean = (shares * means).sum(dim=0)
    variance = (shares * (variances + (means - mean).square())).sum(dim=0)
    return mean, variance, rows[:, -1].sum()


class _Normalised(torch.autograd.Function):
    """Batch norm with the statistics of all processes; also gives those (without gradient)."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, variance, count = _statistics(features, weight)
        ctx.save_for_backward(features, weight, mean, variance)
        ctx.eps, ctx.count = eps, count
        result = F.batch_norm(features, mean, variance, weight, bias, False, 0.0, eps)
        ctx.mark_non_differentiable(mean, variance, count)
        return result, mean, variance, count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *none: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, mean, variance = ctx.saved_tensors
        # With fixed statistics: what else the features' gradient is made of is two sums.
        plain, scale, shift = torch.ops.aten.native_batch_norm_backward(
            gradient, features, weight, mean, variance, None, None, False, ctx.eps, [True] * 3
        )
        sums = all_reduce(torch.stack([scale, shift])) / ctx.count
        deviation = (variance + ctx.eps).sqrt()
        slope = -weight * sums[0] / deviation.square()
        offset = -weight * sums[1] / deviation - slope * mean
        # slope * features + offset, in one pass: torch.addcmul is slow where dtypes differ.
        nothing, one = torch.zeros_like(mean), torch.ones_like(mean)
        plain += F.batch_norm(features, nothing, one, slope, offset, False, 0.0, 0.0)
        return plain, scale, shift, None
