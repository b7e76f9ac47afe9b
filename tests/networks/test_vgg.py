"""VGG-19: one convolution a block, and max-pooling at the entry of the block above."""

import pytest
import torch
import torch.nn.functional as F

from locbench.networks.vgg import convolution, vgg19
from locbench.recipes import Network as Settings

POOLING = (2, 4, 8, 12)  # the blocks that begin with a pooling: after convolutions 2, 4, 8 and 12


def test_layout_is_the_published_one():
    with torch.device("meta"):
        network = vgg19(Settings())
    assert network.stages == (range(0, 2), range(2, 4), range(4, 8), range(8, 12), range(12, 16))
    assert network.taps == (1, 3, 7, 11, 15)
    assert network.widths == (*[64] * 2, *[128] * 2, *[256] * 4, *[512] * 8)
    assert tuple(k for k, block in enumerate(network.blocks) if block.stride == 2) == POOLING


def test_a_map_is_pooled_at_the_entry_of_the_block_above():
    with torch.device("meta"):
        network = vgg19(Settings())
        maps = network.features_at(torch.empty(1, 3, 32, 32), range(16))
    assert [m.shape[-1] for m in maps] == [32, 32, 16, 16, *[8] * 4, *[4] * 4, *[2] * 4]
    first = [next(iter(block.module)) for block in network.blocks]
    assert tuple(k for k, m in enumerate(first) if isinstance(m, torch.nn.MaxPool2d)) == POOLING
    assert isinstance(network.head[0], torch.nn.MaxPool2d)


def test_the_network_is_convolutions_with_a_pooling_after_2_4_8_12_and_16():
    torch.manual_seed(0)
    network = vgg19(Settings(width=0.125), num_classes=10)
    network(torch.rand(4, 3, 32, 32))  # statistics other than 0 and 1
    images = torch.rand(2, 3, 32, 32)
    network.eval()
    x = images
    for number, block in enumerate(network.blocks, start=1):
        module = block.module
        x = F.relu(module.bn(F.conv2d(x, module.conv.weight, module.conv.bias, padding=1)))
        if number in (2, 4, 8, 12, 16):
            x = F.max_pool2d(x, kernel_size=2)
    fc = network.head[-1]
    torch.testing.assert_close(network(images), F.linear(x.mean(dim=(2, 3)), fc.weight, fc.bias))


def test_a_map_of_one_pixel_stays_one():
    assert convolution(8, 8, 2)(torch.randn(2, 8, 1, 1)).shape == (2, 8, 1, 1)
    assert convolution(8, 8, 2)(torch.randn(2, 8, 5, 5)).shape == (2, 8, 3, 3)


def test_a_block_pools_before_it_convolves():
    torch.manual_seed(0)
    block, features = convolution(4, 8, 2).eval(), torch.randn(2, 4, 6, 6)
    pooled = F.max_pool2d(features, 2)
    expected = F.relu(block.bn(F.conv2d(pooled, block.conv.weight, block.conv.bias, padding=1)))
    torch.testing.assert_close(block(features), expected)


def test_a_stride_of_four_is_refused():
    with pytest.raises(ValueError, match="not 4"):
        convolution(8, 8, 4)


def test_settings_give_as_many_convolutions_to_every_stage():
    with torch.device("meta"):
        network = vgg19(Settings(blocks=1, width=0.25))
    assert network.stages == tuple(range(k, k + 1) for k in range(5))
    assert network.widths == (16, 32, 64, 128, 128)
