"""Isolation, gradients and cost: every registered rule and form, and every registered network."""

import pytest
import torch
from conformance_kit import (
    CLASSES,
    engine_step,
    make_batch,
    make_network,
    make_units,
    plain_loss,
    size_for,
    small_recipe,
)
from torch.nn.modules.batchnorm import _BatchNorm

from locbench.evaluation.audit import audit
from locbench.evaluation.cost.case import Case
from locbench.evaluation.cost.counts import counts
from locbench.evaluation.cost.operations import parameters
from locbench.evaluation.cost.traced import trace
from locbench.plugins.registry import RULES
from locbench.recipes.schema import Training
from locbench.training.engine import Engine
from locbench.training.saved_bytes import SavedBytes


def test_the_audit_holds(rule, network, settings):
    assert audit(rule, network, size_for(settings), settings, images=3, resolution=16).holds


def test_every_block_is_trained_and_runs_once_a_step(rule, network, float64):
    """Else batch-norm statistics move twice, and the step costs more than it says."""
    net = make_network(network)
    units = make_units(rule, net)
    assert {b for unit in units for b in unit.updated_blocks()} == set(range(len(net.blocks)))
    assert all(unit.objective.description for unit in units)
    batch = make_batch()
    plain = torch.stack([plain_loss(net, unit, batch) for unit in units]).detach()
    runs = [0] * len(net.blocks)
    for index, block in enumerate(net.blocks):
        block.register_forward_hook(lambda *_, i=index: runs.__setitem__(i, runs[i] + 1))
    norms = [m for block in net.blocks for m in block.modules() if isinstance(m, _BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
    losses, logs = engine_step(net, units, batch)
    torch.testing.assert_close(losses, plain, rtol=1e-10, atol=0)
    assert not [value for log in logs for value in log.values() if value.requires_grad]
    assert set(runs) == {1}
    assert all(norm.num_batches_tracked == 1 for norm in norms)


@pytest.mark.full
def test_what_it_costs_can_be_counted_and_traced(rule, network, settings):
    recipe = small_recipe(rule, settings, network=size_for(settings), training=Training(4, "fp32"))
    traced = trace(Case(recipe, rule, network, CLASSES))
    net = make_network(network, size_for(settings))
    units = make_units(rule, net, settings)
    objectives = [unit.objective for unit in units]
    batch = make_batch(4 if RULES.entry(rule).learns == "views" else 2)
    with SavedBytes([net, *objectives, batch.images, batch.pixels]) as saved:
        Engine(net.blocks, units).step(batch)
    assert traced.saved_bytes == saved.peak > 0 and traced.timeline[-1][1] == 0
    found = counts(net, units)
    assert found["auxiliary_parameters"] == parameters(objectives)
    assert found["flops (all)"] > found["encoder_flops (all)"] > 0
