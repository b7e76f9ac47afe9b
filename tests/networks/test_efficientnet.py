"""EfficientNet-B0: torchvision's blocks after a stem of stride 1, no branch dropped."""

from functools import partial

import pytest
import torch
import torchvision
from meta import meta_device, on_meta
from torch import nn

from locbench.networks.efficientnet import mbconv

meta = partial(on_meta, "efficientnet_b0")


def test_layout_is_that_of_the_table():
    network = meta()
    assert network.widths == (
        *(32, 16, 24, 24, 40, 40, 80, 80, 80),
        *(112, 112, 112, 192, 192, 192, 192, 320),
    )
    assert [k for k, block in enumerate(network.blocks) if block.stride == 2] == [2, 4, 6, 12]
    assert [stage.stop for stage in network.stages] == [2, 4, 6, 9, 12, 16, 17]
    assert network.out_indices == (1, 3, 5, 11, 16)
    kernels = [block.module.block[-3][0].kernel_size[0] for block in network.blocks[1:]]
    assert kernels == [3, 3, 3, 5, 5, 3, 3, 3, 5, 5, 5, 5, 5, 5, 5, 3]


def test_the_blocks_are_torchvisions_efficientnets():
    """All of its features but the stem's stride and the closing convolution."""
    with meta_device():
        theirs = torchvision.models.efficientnet_b0()
    modules = [part for stage in theirs.features[1:8] for part in stage]
    for block, module in zip(meta().blocks[1:], modules, strict=True):
        ours = {key: tensor.shape for key, tensor in block.module.state_dict().items()}
        assert ours == {key: tensor.shape for key, tensor in module.state_dict().items()}
        assert block.module.use_res_connect == module.use_res_connect
        assert block.module.stochastic_depth.p == 0


@pytest.mark.parametrize("kernel", [3, 5])
def test_a_strided_block_is_torchvisions(kernel):
    torch.manual_seed(0)
    ours = mbconv(8, 16, 2, expansion=6, kernel=kernel)
    shape = torchvision.models.efficientnet.MBConvConfig(6, kernel, 2, 8, 16, 1)
    theirs = torchvision.models.efficientnet.MBConv(shape, 0.0, nn.BatchNorm2d)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    features = torch.randn(4, 8, 9, 9)
    assert torch.equal(ours(features), theirs(features))


def test_like_keeps_kernel_expansion_and_squeeze():
    blocks = meta().blocks
    for index, kernel, expansion in ((0, 3, 6), (1, 3, 1), (4, 5, 6), (6, 3, 6), (16, 3, 6)):
        *_, depthwise, squeeze, _ = blocks[index].like(16, 24, 2).module.block
        assert depthwise[0].kernel_size == (kernel, kernel)
        assert depthwise[0].in_channels == 16 * expansion
        assert squeeze.fc1.out_channels == 4


def test_dropout_is_before_the_classifier_alone():
    network = meta()
    assert [m.p for m in network.head if isinstance(m, nn.Dropout)] == [0.2]
    assert isinstance(network.head[-2], nn.Dropout)
    assert (network.head[-1].in_features, network.head[-1].out_features) == (320, 10)
