"""Test accuracy of a network with its classifier, and of every auxiliary classifier beside it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from locbench.data import Images
from locbench.data.views import Settings, plain_views
from locbench.distributed.collectives import all_reduce
from locbench.distributed.group import rank, world_size
from locbench.networks.base import Network

CHUNK = 500  # images at a time, at least
GPU_PIXELS = 2_500 * 32**2  # at a time, of one colour: small images take as long as their launches


@dataclass(frozen=True)
class Scores:
    """In percent: top-1 and top-5 of the network; top-1 by block of the auxiliary classifiers."""

    top1: float
    top5: float
    by_block: dict[int, float] = field(default_factory=dict)


@torch.no_grad()
def evaluate(
    network: Network,
    *,
    split: Images,
    augmentation: Settings,
    resolution: int,
    device: torch.device,
    autocast: torch.dtype | None = None,
    auxiliary: Mapping[int, nn.Module] | None = None,
) -> Scores:
    """Accuracy on all images of the split, in evaluation mode; leaves every mode as it was.

    `auxiliary` are objectives with `logits`, by the block that they hang on. The arithmetic is
    that of training (`autocast`).
    """
    auxiliary = auxiliary or {}
    modules = [network, *auxiliary.values()]
    modes = [module.training for module in modules]
    for module in modules:
        module.eval()
    hits = torch.zeros(2 + len(network.blocks), dtype=torch.int64, device=device)
    chunk = CHUNK if device.type == "cpu" else max(CHUNK, GPU_PIXELS // resolution**2)
    # Each process has its share of the chunks, and no chunk is another for it.
    parts = torch.arange(len(split)).split(chunk)[rank() :: world_size()]
    settings = {"resolution": resolution, "augmentation": augmentation, "device": device}
    for view, labels in plain_views(split, parts, **settings):
        targets = labels.to(device)
        precision = nullcontext() if autocast is None else torch.autocast(device.type, autocast)
        with precision:
            x = view.contiguous(memory_format=torch.channels_last)
            for index, block in enumerate(network.blocks):
                x = block(x)
                if index in auxiliary:
                    hits[2 + index] += _hits(auxiliary[index].logits(x), targets, 1)
            logits = network.head(x)
        hits[0] += _hits(logits, targets, 1)
        hits[1] += _hits(logits, targets, 5)
    all_reduce(hits)
    for module, mode in zip(modules, modes, strict=True):
        module.train(mode)
    top1, top5, *blocks = (100 * hits.double() / len(split)).tolist()
    return Scores(top1, top5, {index: blocks[index] for index in auxiliary})


def _hits(logits: Tensor, targets: Tensor, k: int) -> Tensor:
    """How many targets are among the k largest logits."""
    top = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (top == targets[:, None]).sum()
