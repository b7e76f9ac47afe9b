"""A step that is only traced keeps and allocates as many bytes as one that is run."""

import pytest
import torch
from torch import nn

from locbench.evaluation.cost.case import Case
from locbench.evaluation.cost.operations import multiply_adds
from locbench.evaluation.cost.traced import autocast_of, set_up, trace
from locbench.recipes.load import load_recipe
from locbench.training.engine import Engine
from locbench.training.saved_bytes import SavedBytes, allocation_peak

CASES = [
    ("loco/imagenet", "loco", "resnet50", {}),
    ("loco/imagenet", "gim", "presnet50", {}),
    ("auglocal/cifar10", "bp", "resnet32", {}),
    ("auglocal/cifar10", "bp", "resnet32", {"rule.checkpoint": True}),
    ("auglocal/cifar10", "infopro", "resnet32", {}),
    ("auglocal/cifar10", "auglocal", "resnet32", {}),
    ("loco/imagenet", "loco", "resnet50", {"training.precision": "bf16"}),
    ("auglocal/cifar10", "bp", "resnet32", {"training.precision": "bf16"}),
]


@pytest.mark.parametrize(("recipe", "rule", "network", "sets"), CASES)
def test_as_many_bytes_as_a_step_that_is_run(recipe, rule, network, sets):
    small = load_recipe(recipe, "smoke", {"training.batch": 4, "network.blocks": 1, **sets})
    case = Case(small.for_run(rule, network), rule, network, 10)
    traced, setting = trace(case), set_up(case)
    with SavedBytes(setting.held_before) as saved:
        autocast = autocast_of(case.recipe)
        Engine(setting.network.blocks, setting.units, autocast).step(setting.batch)
    # In bf16 batch norm's statistics are of another precision there: of some channels, not maps.
    assert traced.saved_bytes == pytest.approx(saved.peak, rel=0.005 if autocast else 0)
    assert traced.peak_bytes > traced.saved_bytes > 0
    kept = [size for _, size, _ in traced.timeline]
    assert max(kept) == traced.saved_bytes and kept[0] == kept[-1] == 0
    whole = nn.ModuleList(setting.modules)  # which counts what is shared once
    assert traced.parameter_bytes == sum(p.nbytes for p in whole.parameters())
    assert traced.buffer_bytes == sum(b.nbytes for b in whole.buffers())


def test_where_maps_are_large_the_prediction_is_the_allocator_s_peak():
    sets = {"training.batch": 16, "network.blocks": 1}
    recipe = load_recipe("auglocal/cifar10", "paper", sets)
    case = Case(recipe.for_run("auglocal", "resnet32"), "auglocal", "resnet32", 10)
    setting = set_up(case)
    engine = Engine(setting.network.blocks, setting.units)
    measured = allocation_peak(lambda: engine.step(setting.batch))
    assert measured == pytest.approx(trace(case).peak_bytes, rel=0.01)


def test_the_work_of_a_step_is_three_forward_passes_but_for_the_first_layer():
    recipe = load_recipe("auglocal/cifar10").for_run("bp", "resnet32")
    case = Case(recipe, "bp", "resnet32", 10)
    blocks = set_up(case, device="meta").network.blocks
    forward = multiply_adds(blocks, (3, 32, 32)) + 64 * 10
    first = 3 * 16 * 9 * 32 * 32  # the images need no gradient
    traced = trace(case)
    assert traced.multiply_adds == recipe.training.batch * (3 * forward - first)
    assert traced.timeline[-1][0] == traced.multiply_adds


@pytest.mark.parametrize(
    ("network", "gigabytes"),
    # The facts count 8.66 for ResNet-110.
    [("resnet32", 2.53), pytest.param("resnet110", 8.65, marks=pytest.mark.full)],
)
def test_checkpointing_keeps_less_and_computes_more(network, gigabytes):
    plain, fewer = (
        trace(Case(load_recipe("auglocal/cifar10", "paper", sets), "bp", network, 10))
        for sets in ({}, {"rule.checkpoint": True})
    )
    assert plain.saved_bytes / 1e9 == pytest.approx(gigabytes, abs=0.05)
    assert fewer.saved_bytes < 0.3 * plain.saved_bytes
    assert fewer.multiply_adds == pytest.approx(4 / 3 * plain.multiply_adds, rel=0.01)


def test_the_workspace_of_batch_norm_is_a_map():
    norm = nn.BatchNorm2d(32).to(memory_format=torch.channels_last)
    x = torch.rand(16, 32, 24, 24).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = norm(x)
    gradient = torch.rand_like(y)
    results = x.nbytes + sum(parameter.nbytes for parameter in norm.parameters())
    taken = allocation_peak(lambda: y.backward(gradient)) - results
    assert taken == pytest.approx(x.nbytes, rel=0.02)
