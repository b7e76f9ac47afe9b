"""ResNet-34, ResNet-50 and ResNet-101 are torchvision's, in keys, outputs and shapes."""

import pytest
import torch
import torchvision
from meta import meta_device

from locbench.networks.resnet import basic, bottleneck, resnet34, resnet50, resnet101
from locbench.recipes.schema import Network as Settings

DEEPEST = pytest.param(resnet101, marks=pytest.mark.full)
BUILDS = pytest.mark.parametrize("build", [resnet34, resnet50, DEEPEST])


def theirs_of(build) -> torch.nn.Module:
    with meta_device():
        return getattr(torchvision.models, build.__name__)()


@BUILDS
def test_at_full_size_it_is_torchvisions_network(build):
    torch.manual_seed(0)
    ours, theirs = build(Settings()), theirs_of(build)
    # Branches with a scale, so that what is compared is not the shortcuts alone.
    for block in ours.blocks[1:]:
        torch.nn.init.ones_(getattr(block.module, "bn3", block.module.bn2).weight)
    ours(torch.rand(2, 3, 64, 64))  # statistics other than 0 and 1
    theirs.load_state_dict(ours.state_dict(), strict=True, assign=True)
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(ours.eval()(images), theirs.eval()(images))


@BUILDS
def test_the_encoder_loads_into_torchvision_but_for_the_classifier(build):
    with meta_device():
        encoder = build(Settings(), num_classes=7).encoder_state_dict()
    result = theirs_of(build).load_state_dict(encoder, strict=False, assign=True)
    assert result.missing_keys == ["fc.weight", "fc.bias"]
    assert result.unexpected_keys == []


@pytest.mark.parametrize(("build", "expansion"), [(resnet34, 1), (resnet50, 4)])
def test_layout_is_that_of_the_papers(build, expansion):
    with meta_device():
        network = build(Settings())
    assert network.stages == (range(0, 4), range(4, 8), range(8, 14), range(14, 17))
    assert network.out_indices == (3, 7, 13, 16)
    planes = (*[64] * 3, *[128] * 4, *[256] * 6, *[512] * 3)
    assert network.widths == (64, *(expansion * width for width in planes))
    assert [k for k, block in enumerate(network.blocks) if block.stride > 1] == [0, 4, 8, 14]


def test_resnet101_has_23_blocks_in_its_third_stage():
    with meta_device():
        network = resnet101(Settings())
    assert network.stages == (range(0, 4), range(4, 8), range(8, 31), range(31, 34))
    assert network.out_indices == (3, 7, 30, 33)
    assert network.widths == (64, *[256] * 3, *[512] * 4, *[1024] * 23, *[2048] * 3)


def test_inner_widths_are_multiples_of_eight():
    with meta_device():
        network = resnet50(Settings(width=0.3))
    assert network.widths[0] == 16  # 19.2
    assert sorted(set(network.widths[1:])) == [4 * 16, 4 * 40, 4 * 80, 4 * 152]
    assert network.blocks[1].module.conv2.out_channels == 16


def test_a_shortcut_is_projected_only_where_the_shape_changes():
    for kind in (basic, bottleneck):
        assert kind(16, 16, 1).downsample is None
        assert kind(16, 32, 1).downsample is not None
        assert kind(16, 16, 2).downsample is not None


def test_the_stride_is_on_the_three_by_three():
    block = bottleneck(16, 16, 2)
    strides = [conv.stride for conv in (block.conv1, block.conv2, block.conv3)]
    assert strides == [(1, 1), (2, 2), (1, 1)]
    assert block.conv2.in_channels == block.conv2.out_channels == 4


def test_a_fresh_branch_adds_nothing_where_it_is_a_bottlenecks():
    """As SimCLR's code starts; torchvision's and the AugLocal code's ResNets do not."""
    torch.manual_seed(0)
    features = torch.rand(2, 16, 8, 8)
    assert torch.equal(bottleneck(16, 16, 1)(features), features)
    assert not torch.equal(basic(16, 16, 1)(features), features)
    for build, count in ((resnet34, 36), (resnet101, 104)):
        norms = [m for m in build(Settings(width=0.125)).modules() if hasattr(m, "running_var")]
        assert len(norms) == count and all((norm.weight == 1).all() for norm in norms)
