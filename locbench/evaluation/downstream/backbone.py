"""A locbench network as a backbone of mmdetection's."""

from __future__ import annotations

from typing import Any, Literal

import torch
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from locbench.networks import Network

Frozen = Literal["all", "first", "none"]


@MODELS.register_module()
class BlockBackbone(BaseModule):
    """The encoder of a network; gives the feature maps at its out_indices, the finest first.

    frozen: "all" of it, its "first" stage (a ResNet's conv1 and res2), or "none". What is frozen
    has no gradient, and its batch norm keeps its statistics.
    fixed_norm: batch norm that is trained keeps its statistics too, as mmdet's `norm_eval` does.
    """

    def __init__(self, network: Network, frozen: Frozen = "all", fixed_norm: bool = True) -> None:
        super().__init__()
        self.network, self.frozen, self.fixed_norm = network, frozen, fixed_norm
        whole = range(max(network.out_indices) + 1)
        self.kept = {"all": whole, "first": network.stages[0], "none": range(0)}[frozen]
        # What no pyramid reads is not trained: the head, and ShuffleNet's conv6.
        network.requires_grad_(False)
        for index in whole:
            network.blocks[index].requires_grad_(index not in self.kept)

    def init_weights(self) -> None:
        """Nothing: the network comes with its weights."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """[N, 3, H, W] normalised images -> maps [N, C, H / stride, W / stride] at every tap."""
        return tuple(self.network.features_at(images, self.network.out_indices))

    def train(self, mode: bool = True) -> BlockBackbone:
        """Training or evaluation, but for batch norm that keeps its statistics."""
        super().train(mode)
        for index, block in enumerate(self.network.blocks):
            block.train(mode and index not in self.kept)
        if self.fixed_norm:
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


@torch.no_grad()
def set_statistics(network: Network, batches: Any) -> None:
    """Batch-norm statistics of untrained weights from these images, averaged over the batches.

    With mean 0 and variance 1, which no layer's input has, an untrained backbone is an easy rival.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    momentum = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    network.train()
    for images in batches:
        network.encode(images)
    network.eval()
    for norm, value in zip(norms, momentum, strict=True):
        norm.momentum = value


def strides(network: Network) -> list[int | float]:
    """By how much the map at every tap is smaller than the image; PResNet's are not whole."""
    found, total = [], 1
    for index, block in enumerate(network.blocks):
        total *= block.stride
        if index in network.out_indices:
            found.append(int(total) if total == int(total) else float(total))
    return found


def widths(network: Network) -> list[int]:
    """The channels of the map at every tap."""
    return [network.widths[index] for index in network.out_indices]
