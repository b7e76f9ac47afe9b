"""VGG-19 and VGG-13: one convolution a block, and max-pooling at the entry of the block above."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from meta import meta_device, on_meta

from locbench.evaluation.cost.operations import multiply_adds, parameters
from locbench.networks.vgg import convolution, vgg13, vgg19
from locbench.recipes.schema import Network as Settings

POOLING = (2, 4, 8, 12)  # the blocks that begin with a pooling: after convolutions 2, 4, 8 and 12


def test_layout_is_the_published_one():
    network = on_meta("vgg19")
    assert network.stages == (range(0, 2), range(2, 4), range(4, 8), range(8, 12), range(12, 16))
    assert network.out_indices == (1, 3, 7, 11, 15)
    assert network.widths == (*[64] * 2, *[128] * 2, *[256] * 4, *[512] * 8)
    assert tuple(k for k, block in enumerate(network.blocks) if block.stride == 2) == POOLING


def test_a_map_is_pooled_at_the_entry_of_the_block_above():
    network = on_meta("vgg19")
    maps = network.features_at(torch.empty(1, 3, 32, 32, device="meta"), range(16))
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


def test_a_stride_of_four_is_refused():
    with pytest.raises(ValueError, match="not 4"):
        convolution(8, 8, 4)


# --- VGG-13 ----------------------------------------------------------------------------------


def test_vgg13_has_ten_local_layers_and_the_published_size():
    with meta_device():
        network, theirs = vgg13(Settings()), torchvision.models.vgg13_bn()
    assert network.stages == tuple(range(k, k + 2) for k in range(0, 10, 2))
    assert network.widths == (*[64] * 2, *[128] * 2, *[256] * 2, *[512] * 4)
    assert parameters(network) == parameters(theirs) == 133_053_736
    counted = multiply_adds([*network.blocks, network.head], (3, 224, 224))
    assert counted == 11_308_466_176  # 11.31 G, torchvision's documentation
    network.resolution = 224
    assert network.sides() == [side for side in (224, 112, 56, 28, 14) for _ in range(2)]


def test_vgg13_is_torchvisions_network():
    """With the same weights: at an eighth of the width, of which torchvision has none built."""
    torch.manual_seed(0)
    ours = vgg13(Settings(width=0.125), num_classes=10)
    features = torchvision.models.vgg.make_layers(
        [8, 8, "M", 16, 16, "M", 32, 32, "M", 64, 64, "M", 64, 64, "M"], batch_norm=True
    )
    theirs = torchvision.models.VGG(features, num_classes=10)
    theirs.classifier = torch.nn.Sequential(
        *(torch.nn.Linear(64 * 49, 512), torch.nn.ReLU(True), torch.nn.Dropout(0.5)),
        *(torch.nn.Linear(512, 512), torch.nn.ReLU(True), torch.nn.Dropout(0.5)),
        torch.nn.Linear(512, 10),
    )
    ours(torch.rand(4, 3, 64, 64))  # statistics other than 0 and 1
    weights = zip(theirs.state_dict(), ours.state_dict().values(), strict=True)
    theirs.load_state_dict(dict(weights))
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(ours.eval()(images), theirs.eval()(images))


def test_vgg13_drops_half_of_both_hidden_layers_and_starts_as_in_the_code():
    network = vgg13(Settings(width=0.125), num_classes=10)
    fc = network.head[-1]
    assert [part.p for part in fc if isinstance(part, torch.nn.Dropout)] == [0.5, 0.5]
    for linear in fc[:-1:3]:
        assert abs(linear.weight.std() / 0.01 - 1) < 0.05 and not linear.bias.any()
    made = network.blocks[2].like(16, 32, 1)
    for block in (*network.blocks, made):
        assert not block.module.conv.bias.any()
