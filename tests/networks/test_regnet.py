"""RegNetX-400MF: torchvision's bottlenecks in groups of 16 channels."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from meta import on_meta

from locbench.networks.regnet import bottleneck

meta = partial(on_meta, "regnetx_400mf")


def test_layout_is_the_published_one():
    network = meta()
    assert network.widths == (64, 32, *[64] * 2, *[160] * 7, *[384] * 12)
    assert [k for k, block in enumerate(network.blocks) if block.stride == 2] == [4, 11]
    assert network.stages == (range(0, 2), range(2, 4), range(4, 11), range(11, 23))
    assert network.out_indices == (3, 10, 22)


def test_groups_are_of_sixteen_channels_and_nothing_is_squeezed():
    for block in meta().blocks[1:]:
        conv = block.module.f.b[0]
        assert conv.in_channels == conv.out_channels == block.out_channels
        assert conv.in_channels // conv.groups == 16
        assert [name for name, _ in block.module.f.named_children()] == ["a", "b", "c"]


def test_a_block_is_what_the_formula_says():
    torch.manual_seed(0)
    block = bottleneck(16, 32, 2)
    block(3 * torch.randn(4, 16, 7, 7))  # statistics other than 0 and 1
    features = torch.randn(2, 16, 7, 7)
    block.eval()
    inner = F.relu(block.f.a[1](F.conv2d(features, block.f.a[0].weight)))
    deep = F.conv2d(inner, block.f.b[0].weight, stride=2, padding=1, groups=2)
    branch = block.f.c[1](F.conv2d(F.relu(block.f.b[1](deep)), block.f.c[0].weight))
    shortcut = block.proj[1](F.conv2d(features, block.proj[0].weight, stride=2))
    torch.testing.assert_close(block(features), F.relu(branch + shortcut))


def test_a_shortcut_is_projected_only_where_the_shape_changes():
    assert bottleneck(16, 16, 1).proj is None
    assert bottleneck(16, 32, 1).proj is not None
    assert bottleneck(16, 16, 2).proj is not None


@pytest.mark.parametrize("width", [8, 24])
def test_a_width_that_is_no_multiple_of_sixteen_is_refused(width):
    with pytest.raises(ValueError, match=f"not {width}"):
        bottleneck(16, width, 1)


def test_widths_are_scaled_to_multiples_of_sixteen():
    assert meta(width=0.3, blocks=1).widths == (16, 16, 16, 48, 112)  # 19.2, 9.6, 19.2, 48, 115.2
    assert set(meta(width=0.001, blocks=1).widths) == {16}
