"""ShuffleNet v2-50 has the widths of the paper's table, and its units are torchvision's."""

from functools import partial

import pytest
import torch
from meta import on_meta
from torchvision.models.shufflenetv2 import InvertedResidual

from locbench.networks.shufflenet import ShuffleUnit

meta = partial(on_meta, "shufflenet_v2_50")


@pytest.mark.parametrize(("in_channels", "stride"), [(12, 1), (12, 2), (8, 2)])
def test_a_unit_equals_torchvisions_where_it_has_one(in_channels, stride):
    torch.manual_seed(0)
    ours, theirs = ShuffleUnit(in_channels, 12, stride), InvertedResidual(in_channels, 12, stride)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    features = torch.randn(3, in_channels, 9, 9)
    leaves = [features.clone().requires_grad_() for _ in range(2)]
    outputs = [unit(leaf) for unit, leaf in zip((ours, theirs), leaves, strict=True)]
    assert torch.equal(*outputs)
    weights = torch.randn_like(outputs[0])
    for output in outputs:
        (output * weights).sum().backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad)


def test_a_unit_that_keeps_its_shape_passes_half_of_it_through():
    torch.manual_seed(0)
    features = torch.randn(2, 8, 5, 5)
    unit = ShuffleUnit(8, 8, 1)
    assert torch.equal(unit(features)[:, 0::2], features[:, :4])
    assert not unit.branch1


def test_a_unit_that_widens_has_two_branches_over_all_channels():
    unit = ShuffleUnit(8, 20, 1)
    assert unit.branch1[0].groups == unit.branch1[0].in_channels == 8
    assert unit.branch2[0].in_channels == 8
    assert unit(torch.randn(2, 8, 5, 5)).shape == (2, 20, 5, 5)


def test_layout_is_that_of_the_papers_table():
    network = meta()
    assert network.stages == (range(0, 4), range(4, 8), range(8, 14), range(14, 18))
    assert network.out_indices == (3, 7, 13, 16)
    assert network.widths == (64, *[244] * 3, *[488] * 4, *[976] * 6, *[1952] * 3, 2048)
    assert [b.stride for b in network.blocks] == [4, 1, 1, 1, 2, 1, 1, 1, 2, *[1] * 5, 2, 1, 1, 1]
    splits = [block.module.split for block in network.blocks[1:17]]
    assert [k for k, split in enumerate(splits, start=1) if not split] == [1, 4, 8, 14]


def test_widths_are_scaled_to_even_numbers():
    assert meta(width=0.3, blocks=1).widths == (20, 74, 146, 292, 586, 614)
