"""The networks for small images: their published size, shapes and initialisation."""

import pytest
import torch
from meta import on_meta
from pairs import FAMILIES
from torch import nn

from locbench.evaluation.cost.operations import multiply_adds, parameters
from locbench.networks.base import he_normal
from locbench.plugins.registry import NETWORKS
from locbench.recipes.schema import Network as Settings

# Blocks: AugLocal's local layers (its sec. 4.2). Parameters at 10 classes: of the ResNets,
# AugLocal's code; of the others, the code of kuangliu/pytorch-cifar (commit 49b7aa9). That counts
# 1088 more for EfficientNet-B0, 3,599,686: a convolution and a batch norm that it never runs.
# Multiply-adds of convolutions and linear layers on one 32x32 image, one each: counted apart from
# fvcore by summing, over all layers, the outputs times the weights that go into each.
PUBLISHED = {
    "resnet32": (16, 466_906, 69_124_736),
    "resnet110": (55, 1_730_714, 253_149_824),
    "vgg19": (16, 20_040_522, 398_136_320),
    "mobilenet_v2": (19, 2_296_922, 91_154_944),
    "efficientnet_b0": (17, 3_599_686 - 1088, 30_331_392),
    "regnetx_400mf": (23, 4_779_338, 466_161_408),
}
# The side of the map after each stage, of a 32x32 image.
SIDES = {
    "resnet32": (32, 16, 8),
    "resnet110": (32, 16, 8),
    "vgg19": (32, 16, 8, 4, 2),
    "mobilenet_v2": (32, 32, 16, 8, 8, 4, 4),
    "efficientnet_b0": (32, 16, 8, 4, 4, 2, 2),
    "regnetx_400mf": (32, 32, 16, 8),
}
small_families = pytest.mark.parametrize("name", [n for n in PUBLISHED if n in FAMILIES])


full = {"resnet110": pytest.mark.full}


@pytest.mark.parametrize("name", [pytest.param(n, marks=full.get(n, ())) for n in PUBLISHED])
def test_size_cost_and_maps_are_the_published_ones(name):
    network = on_meta(name)
    blocks, weights, operations = PUBLISHED[name]
    assert (len(network.blocks), parameters(network)) == (blocks, weights)
    assert multiply_adds([*network.blocks, network.head], (3, 32, 32)) == operations
    for scale in (1, 3):  # 32x32 images, and the 96x96 ones of STL-10
        images = torch.empty(1, 3, 32 * scale, 32 * scale, device="meta")
        maps = network.features_at(images, [stage[-1] for stage in network.stages])
        assert [m.shape[-1] for m in maps] == [scale * side for side in SIDES[name]]


@small_families
def test_the_stem_is_the_small_one_whatever_the_settings_say(name):
    networks = [on_meta(name, stem=stem, blocks=1) for stem in ("imagenet", "small")]
    shapes = [{key: t.shape for key, t in net.state_dict().items()} for net in networks]
    assert shapes[0] == shapes[1]
    stem = next(m for m in networks[0].modules() if isinstance(m, nn.Conv2d))
    assert (stem.in_channels, stem.kernel_size, stem.stride) == (3, (3, 3), (1, 1))


def assert_fresh_weights(module: nn.Module) -> None:
    """He's normal, by fan-out, for convolutions; 1 and 0 for batch norms."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert bool((part.weight == 1).all()) and not part.bias.any()
        elif isinstance(part, nn.Conv2d):
            wanted = (2 / (part.out_channels * part.kernel_size[0] ** 2)) ** 0.5
            slack = 4 / (2 * part.weight.numel()) ** 0.5  # four standard errors
            assert abs(float(part.weight.detach().std()) / wanted - 1) < slack
            # Not uniform: a normal of so many draws goes beyond the uniform's sqrt(3).
            if part.weight.numel() > 1000:
                assert part.weight.abs().max() > 2 * wanted


@small_families
def test_weights_start_as_in_the_paper_in_the_network_and_in_blocks_of_its_kind(name):
    network = NETWORKS.get(name)(Settings(width=0.5, blocks=2), num_classes=10)
    assert_fresh_weights(network)
    for index in (0, 2, len(network.blocks) - 1):
        assert_fresh_weights(network.blocks[index].like(16, 32, 2))
    linear = next(m for m in network.head.modules() if isinstance(m, nn.Linear))
    assert linear.weight.abs().max() <= linear.in_features**-0.5  # PyTorch's default


def test_he_normal_changes_nothing_but_convolutions():
    module = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Flatten(), nn.Linear(8, 2))
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    assert he_normal(module) is module
    same = {key for key, tensor in module.state_dict().items() if torch.equal(tensor, before[key])}
    assert same == {"0.bias", "2.weight", "2.bias"}


@small_families
def test_a_block_like_another_has_its_shapes_and_none_of_its_weights(name):
    network = NETWORKS.get(name)(Settings(width=0.25, blocks=1), num_classes=10)
    for block in network.blocks[1:-1]:
        made = block.like(block.in_channels, block.out_channels, block.stride)
        ours, theirs = made.state_dict(), block.state_dict()
        assert {k: t.shape for k, t in ours.items()} == {k: t.shape for k, t in theirs.items()}
        drawn = [key for key, tensor in ours.items() if tensor.dim() == 4]
        assert drawn and not [key for key in drawn if torch.equal(ours[key], theirs[key])]
