"""ResNet-32 and ResNet-110 have AugLocal's layout and projected shortcuts."""

import pytest
import torch
import torch.nn.functional as F
from meta import on_meta

from locbench.networks.resnet import basic


@pytest.mark.parametrize(("name", "depth"), [("resnet32", 5), ("resnet110", 18)])
def test_layout_is_the_papers(name, depth):
    network = on_meta(name)
    ends = [0, 1 + depth, 1 + 2 * depth, 1 + 3 * depth]
    assert [(stage.start, stage.stop) for stage in network.stages] == [
        (ends[k], ends[k + 1]) for k in range(3)
    ]
    assert network.out_indices == tuple(end - 1 for end in ends[1:])
    assert network.widths == (16, *[16] * depth, *[32] * depth, *[64] * depth)
    assert [b.stride for b in network.blocks] == [1, *[1] * depth, *([2] + [1] * (depth - 1)) * 2]


def test_shortcuts_are_projected_where_the_shape_changes_and_nowhere_else():
    network = on_meta("resnet32")
    projected = [k for k, b in enumerate(network.blocks[1:], 1) if b.module.downsample is not None]
    assert projected == [6, 11]
    conv, norm = network.blocks[6].module.downsample
    assert (conv.kernel_size, conv.stride, conv.bias) == ((1, 1), (2, 2), None)
    assert norm.num_features == 32
    assert basic(16, 32, 1).downsample is not None
    assert basic(16, 16, 2).downsample is not None
    assert basic(16, 16, 1).downsample is None


def test_a_block_adds_first_and_rectifies_then():
    torch.manual_seed(0)
    block, features = basic(8, 16, 2).eval(), torch.randn(2, 8, 7, 7)
    inner = F.relu(block.bn1(F.conv2d(features, block.conv1.weight, stride=2, padding=1)))
    branch = block.bn2(F.conv2d(inner, block.conv2.weight, padding=1))
    conv, norm = block.downsample
    expected = F.relu(branch + norm(F.conv2d(features, conv.weight, stride=2)))
    torch.testing.assert_close(block(features), expected)


def test_keys_are_named_as_torchvision_names_them():
    keys = set(on_meta("resnet32").state_dict())
    assert {"conv1.weight", "layer1.0.conv1.weight", "layer3.4.bn2.bias"} <= keys
    assert {"layer2.0.downsample.0.weight", "fc.weight"} <= keys


def test_widths_are_multiples_of_eight():
    assert on_meta("resnet32", width=0.7, blocks=1).widths == (8, 8, 24, 48)  # 11.2, 22.4, 44.8
