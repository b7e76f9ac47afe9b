"""Counts against the published ones, and that counting leaves no trace."""

import copy

import pytest
import torch
from torch import nn

from locbench.evaluation.cost.operations import multiply_adds, multiply_adds_of_each, parameters
from locbench.networks.resnet import resnet34, resnet50, resnet101
from locbench.networks.shufflenet import shufflenet_v2_50
from locbench.recipes.schema import Network as Settings

IMAGE = (3, 224, 224)


@pytest.fixture(scope="module")
def resnet():
    with torch.device("meta"):
        return resnet50(Settings())


@pytest.fixture(scope="module")
def resnet_counts(resnet):
    return multiply_adds_of_each([*resnet.blocks, resnet.head], IMAGE)


def test_parameters_are_counted_once():
    linear = nn.Linear(3, 5)
    assert parameters(linear) == 3 * 5 + 5
    assert parameters([linear, nn.Sequential(linear, nn.Linear(5, 1))]) == 20 + 6
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    assert parameters(tied) == 16 + 4 + 4


def test_multiply_adds_by_hand():
    conv = nn.Conv2d(3, 8, kernel_size=5, padding=2, stride=2)
    assert multiply_adds(conv, (3, 16, 16)) == 3 * 8 * 25 * 8 * 8
    grouped = nn.Conv2d(8, 8, kernel_size=3, padding=1, groups=8)
    assert multiply_adds(grouped, (8, 4, 4)) == 8 * 9 * 16
    linear = nn.Sequential(nn.Flatten(), nn.Linear(12, 7))
    assert multiply_adds(linear, (3, 2, 2)) == 12 * 7


def test_a_chain_is_counted_module_by_module():
    chain = [nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 5, 1, stride=2)]
    assert multiply_adds_of_each(chain, (3, 8, 8)) == [3 * 4 * 64, 0, 4 * 5 * 16]
    assert multiply_adds(chain, (3, 8, 8)) == multiply_adds(nn.Sequential(*chain), (3, 8, 8))


def test_other_operators_are_counted_when_named():
    block = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1))
    assert multiply_adds(block, (3, 8, 8)) == 3 * 4 * 64
    assert multiply_adds(block, (3, 8, 8), ["batch_norm"]) == 2 * 4 * 64
    assert multiply_adds(block, (3, 8, 8), ["conv", "adaptive_avg_pool2d"]) == 3 * 4 * 64 + 4 * 64


def test_resnet50_has_the_published_size(resnet, resnet_counts):
    assert parameters(resnet) == 25_557_032  # torchvision's documentation
    assert sum(resnet_counts) == 4_089_184_256  # 4.089 G, torchvision's 4.09
    assert resnet_counts[-1] == 2048 * 1000


def test_resnet34_has_the_published_size():
    with torch.device("meta"):
        network = resnet34(Settings())
    assert parameters(network) == 21_797_672  # torchvision's documentation
    counted = multiply_adds([*network.blocks, network.head], IMAGE)
    assert counted == 3_663_761_408  # 3.664 G, torchvision's 3.66


def test_resnet101_has_the_published_size():
    with torch.device("meta"):
        network = resnet101(Settings())
    assert parameters(network) == 44_549_160  # torchvision's documentation
    counted = multiply_adds([*network.blocks, network.head], IMAGE)
    assert counted == 7_801_405_440  # torchvision's 7.80


def test_resnet50_splits_over_the_stages_as_in_table_6(resnet, resnet_counts):
    encoder = sum(resnet_counts[:-1])
    shares = [100 * sum(resnet_counts[k] for k in stage) / encoder for stage in resnet.stages]
    assert shares == pytest.approx([19.23, 25.14, 35.83, 19.80], abs=0.005)
    # LoCo Table 6 prints 19.39 25.09 35.80 19.73: nearest with batch norm counted as well.
    assert shares == pytest.approx([19.39, 25.09, 35.80, 19.73], abs=0.17)


def test_with_batch_norm_resnet50_is_mmpretrains_figure(resnet):
    counted = multiply_adds(resnet.blocks, IMAGE, ("conv", "batch_norm"))
    assert counted == 4_109_364_224


def test_shufflenet_v2_50_has_the_published_size():
    with torch.device("meta"):
        network = shufflenet_v2_50(Settings())
    assert round(multiply_adds(network.blocks, IMAGE) / 1e9, 3) == 2.302  # printed: 2.3 G
    assert round(parameters(network.blocks) / 1e6, 1) == 14.5


def test_counting_leaves_no_trace():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Conv2d(4, 2, 1))
    module[3].eval()
    before = copy.deepcopy(module.state_dict())
    modes = [part.training for part in module.modules()]
    state = torch.get_rng_state()
    multiply_adds(module, (3, 8, 8))
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in module.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in module.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_precision_of_the_weights_does_not_matter():
    module = nn.Conv2d(3, 4, 1).to(torch.bfloat16)
    assert multiply_adds(module, (3, 8, 8)) == 3 * 4 * 64
    assert module.weight.dtype == torch.bfloat16
