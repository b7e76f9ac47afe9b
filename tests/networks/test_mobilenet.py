"""MobileNetV2: rows of the paper's table, ReLU, and projected shortcuts at stride 1."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from meta import on_meta
from torch import nn

from locbench.networks.mobilenet import InvertedResidual

meta = partial(on_meta, "mobilenet_v2")


def test_layout_is_that_of_the_table():
    network = meta()
    assert network.widths == (
        *(32, 16, 24, 24, 32, 32, 32, 64, 64, 64, 64),
        *(96, 96, 96, 160, 160, 160, 320, 1280),
    )
    assert [k for k, block in enumerate(network.blocks) if block.stride == 2] == [4, 7, 14]
    assert [stage.stop for stage in network.stages] == [2, 4, 7, 11, 14, 17, 19]
    assert network.out_indices == (3, 6, 13, 17)


def test_the_last_block_is_a_1x1_convolution_whose_kind_is_the_inverted_residual():
    last = meta().blocks[18]
    conv, norm, relu = last.module
    assert (conv.in_channels, conv.out_channels, conv.kernel_size) == (320, 1280, (1, 1))
    assert isinstance(norm, nn.BatchNorm2d) and isinstance(relu, nn.ReLU)
    made = last.like(24, 32, 2).module
    assert isinstance(made, InvertedResidual)
    assert made.expand[0].out_channels == 6 * 24


def test_only_the_first_inverted_residual_does_not_expand():
    blocks = meta().blocks[1:18]
    factors = [b.module.expand[0].out_channels // b.in_channels for b in blocks]
    assert factors == [1, *[6] * 16]
    assert blocks[0].like(16, 32, 2).module.expand[0].out_channels == 16
    assert blocks[5].like(16, 32, 2).module.expand[0].out_channels == 96


@pytest.mark.parametrize(
    ("out_channels", "stride", "shortcut"),
    [(8, 1, "identity"), (16, 1, "projected"), (16, 2, "none"), (8, 2, "none")],
)
def test_a_block_is_what_the_formula_says(out_channels, stride, shortcut):
    torch.manual_seed(0)
    block = InvertedResidual(8, out_channels, stride, expansion=6)
    block(3 * torch.randn(4, 8, 6, 6))  # statistics other than 0 and 1
    features = 20 * torch.randn(2, 8, 6, 6)  # beyond ReLU6's six
    block.eval()
    wide = F.relu(block.expand[1](F.conv2d(features, block.expand[0].weight)))
    conv, norm, _ = block.depthwise
    deep = F.conv2d(wide, conv.weight, stride=stride, padding=1, groups=48)
    expected = block.project[1](F.conv2d(F.relu(norm(deep)), block.project[0].weight))
    if shortcut == "identity":
        expected = expected + features
    elif shortcut == "projected":
        assert block.shortcut[0].kernel_size == (1, 1)
        expected = expected + block.shortcut(features)
    assert wide.max() > 6
    torch.testing.assert_close(block(features), expected)
