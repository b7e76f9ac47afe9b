"""A step that is only traced keeps as many bytes as one that is run."""

import pytest
import torch

from locbench.cost.activations import SavedBytes
from locbench.cost.traced import VIEWS, saved_step
from locbench.networks import make_network
from locbench.recipes import load_recipe
from locbench.rules import build_units
from locbench.training.engine import Batch, Engine


@pytest.mark.parametrize(
    ("recipe", "rule", "network"),
    [
        ("loco/imagenet", "loco", "resnet50"),
        ("loco/imagenet", "gim", "presnet50"),
        ("auglocal/cifar10", "bp", "resnet32"),
        ("auglocal/cifar10", "infopro", "resnet32"),
        ("auglocal/cifar10", "auglocal", "resnet32"),
    ],
)
def test_as_many_bytes_as_a_step_that_is_run(recipe, rule, network):
    asked = load_recipe(recipe, "smoke", {"training.batch": 4}).for_run(rule, network)
    traced = saved_step(asked, rule, network, 10)

    made = make_network(network, asked.network, 10, asked.data.resolution)
    units = build_units(rule, made, asked.rule)
    objectives = [unit.objective for unit in units]
    images = torch.rand(4 * VIEWS[asked.gives], 3, asked.data.resolution, asked.data.resolution)
    batch = Batch(images, torch.zeros(len(images), dtype=torch.long), images.clone())
    with SavedBytes([made, *objectives, images, batch.pixels], timeline=True) as saved:
        Engine(made.blocks, units).step(batch)
    assert traced.peak == saved.peak > 0
    assert [size for _, size in traced.timeline] == [size for _, size in saved.timeline]
    assert traced.timeline[-1][1] == 0


def test_checkpointing_keeps_less():
    asked = load_recipe("auglocal/cifar10").for_run("bp", "resnet110")
    plain = saved_step(asked, "bp", "resnet110", 10).peak
    fewer = saved_step(
        load_recipe("auglocal/cifar10", "paper", {"rule.checkpoint": True}), "bp", "resnet110", 10
    ).peak
    assert plain / 1e9 == pytest.approx(8.65, abs=0.05)  # the facts' independent count: 8.66
    assert fewer < 0.3 * plain
