"""Makes a locbench network a backbone of mmdetection: its feature maps, and what is frozen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from locbench.networks import Network

Frozen = Literal["all", "first", "none"]


@MODELS.register_module()
class BlockBackbone(BaseModule):
    """The encoder of a network: images to the feature maps at its out_indices, the finest first.

    frozen: "all" blocks, the "first" stage (a ResNet's conv1 and res2), or "none". Frozen blocks
    have no gradient, and their batch norm keeps its statistics.
    fixed_norm: batch norm of trained blocks keeps its statistics too, as with mmdet's `norm_eval`.
    """

    def __init__(self, network: Network, frozen: Frozen = "all", fixed_norm: bool = True) -> None:
        super().__init__()
        self.network, self.frozen, self.fixed_norm = network, frozen, fixed_norm
        encoder = range(max(network.out_indices) + 1)
        self.kept = {"all": encoder, "first": network.stages[0], "none": range(0)}[frozen]
        # What no pyramid reads is not trained: the head, and ShuffleNet's conv6.
        network.requires_grad_(False)
        for index in encoder:
            network.blocks[index].requires_grad_(index not in self.kept)

    def init_weights(self) -> None:
        """Nothing: the network comes with its weights."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """[N, 3, H, W] normalised images -> maps [N, C, H / stride, W / stride]."""
        return tuple(self.network.features_at(images, self.network.out_indices))

    def train(self, mode: bool = True) -> BlockBackbone:
        """Training or evaluation mode, except for batch norm that keeps its statistics."""
        super().train(mode)
        for index, block in enumerate(self.network.blocks):
            block.train(mode and index not in self.kept)
        if self.fixed_norm:
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


def set_statistics(network: Network, batches: Iterable[Tensor]) -> None:
    """Batch-norm statistics of untrained weights from these images, averaged over the batches.

    With mean 0 and variance 1, which no layer's input has, an untrained backbone is an easy rival.
    """
    update_bn(batches, nn.Sequential(*network.blocks))
    network.eval()


def strides(network: Network) -> list[int | float]:
    """The stride of the map at each of the out_indices; PResNet's are not whole."""
    each, total = [], 1
    for index, block in enumerate(network.blocks):
        total *= block.stride
        if index in network.out_indices:
            each.append(int(total) if total == int(total) else float(total))
    return each


def widths(network: Network) -> list[int]:
    """The channels of the map at each of the out_indices."""
    return [network.widths[index] for index in network.out_indices]
