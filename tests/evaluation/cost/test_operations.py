"""Counts against the published ones, and that counting leaves no trace."""

import copy
from functools import cache

import pytest
import torch
from torch import nn

from locbench.evaluation.cost.operations import multiply_adds, multiply_adds_of_each, parameters
from locbench.networks import Network, make_network
from locbench.recipes.schema import Network as Settings

IMAGE = (3, 224, 224)


@cache
def on_meta(name: str) -> Network:
    with torch.device("meta"):
        return make_network(name, Settings(), 1000, 224)


def test_parameters_are_counted_once():
    linear = nn.Linear(3, 5)
    assert parameters([linear, nn.Sequential(linear, nn.Linear(5, 1))]) == 20 + 6
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    assert parameters(tied) == 16 + 4 + 4


@pytest.mark.parametrize(
    ("module", "shape", "by_hand"),
    [
        (nn.Conv2d(3, 8, 5, padding=2, stride=2), (3, 16, 16), {"conv": 3 * 8 * 25 * 64}),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), (8, 4, 4), {"conv": 8 * 9 * 16}),
        (nn.ConvTranspose2d(3, 4, 2, stride=2), (3, 8, 8), {"conv": 3 * 4 * 4 * 64}),
        (nn.Linear(12, 7), (5, 12), {"linear": 5 * 12 * 7}),
        (nn.Linear(12, 7, bias=False), (12,), {"linear": 12 * 7}),
        (nn.BatchNorm2d(4), (4, 8, 8), {"batch_norm": 2 * 4 * 64}),
        (nn.AdaptiveAvgPool2d(1), (4, 8, 8), {"adaptive_avg_pool2d": 4 * 64}),
        (nn.AdaptiveAvgPool2d(2), (4, 8, 8), {"adaptive_avg_pool2d": 4 * 64}),
        (nn.Upsample(20, mode="bilinear"), (3, 8, 8), {"upsample_bilinear2d": 4 * 3 * 400}),
        (nn.Sequential(nn.ReLU(), nn.Dropout(), nn.Flatten()), (3, 8, 8), {}),
    ],
)
def test_every_operator_by_hand(module, shape, by_hand):
    names = ("conv", "linear", "batch_norm", "adaptive_avg_pool2d", "upsample_bilinear2d")
    for name in names:
        assert multiply_adds(module, shape, [name]) == by_hand.get(name, 0)
    assert multiply_adds(module, shape, names) == sum(by_hand.values())


def test_attention_counts_as_matrix_products():
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    projections, attention, mlp = 4 * 5 * 8 * 8, 2 * 5 * 5 * 8, 2 * 5 * 8 * 16
    assert multiply_adds(layer, (5, 8)) == projections + attention + mlp


def test_a_chain_is_counted_module_by_module():
    chain = [nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 5, 1, stride=2)]
    assert multiply_adds_of_each(chain, (3, 8, 8)) == [3 * 4 * 64, 0, 4 * 5 * 16]
    assert multiply_adds(chain, (3, 8, 8)) == multiply_adds(nn.Sequential(*chain), (3, 8, 8))


@pytest.mark.parametrize(
    ("name", "weights", "operations"),
    [  # torchvision's documentation: 4.09, 3.66 and 7.80 G
        ("resnet50", 25_557_032, 4_089_184_256),
        ("resnet34", 21_797_672, 3_663_761_408),
        ("resnet101", 44_549_160, 7_801_405_440),
    ],
)
def test_resnets_have_the_published_size(name, weights, operations):
    network = on_meta(name)
    assert parameters(network) == weights
    assert multiply_adds([*network.blocks, network.head], IMAGE) == operations


def test_resnet50_splits_over_the_stages_as_in_table_6():
    network = on_meta("resnet50")
    each = multiply_adds_of_each(network.blocks, IMAGE)
    shares = [100 * sum(each[k] for k in stage) / sum(each) for stage in network.stages]
    assert shares == pytest.approx([19.23, 25.14, 35.83, 19.80], abs=0.005)
    # LoCo Table 6 prints 19.39 25.09 35.80 19.73: nearest with batch norm counted as well.
    assert shares == pytest.approx([19.39, 25.09, 35.80, 19.73], abs=0.17)


def test_with_batch_norm_resnet50_is_mmpretrains_figure():
    counted = multiply_adds(on_meta("resnet50").blocks, IMAGE, ("conv", "batch_norm"))
    assert counted == 4_109_364_224


def test_shufflenet_v2_50_has_the_published_size():
    blocks = on_meta("shufflenet_v2_50").blocks
    assert round(multiply_adds(blocks, IMAGE) / 1e9, 3) == 2.302  # printed: 2.3 G
    assert round(parameters(blocks) / 1e6, 1) == 14.5


def test_counting_leaves_no_trace_whatever_the_precision():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Conv2d(4, 2, 1))
    module[3].eval()
    module.bfloat16()
    before = copy.deepcopy(module.state_dict())
    modes = [part.training for part in module.modules()]
    state = torch.get_rng_state()
    assert multiply_adds(module, (3, 8, 8)) == 36 * (3 * 4 * 9 + 4 * 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in module.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert all(p.dtype == torch.bfloat16 and p.requires_grad for p in module.parameters())
