"""Isolation, gradients and the audit: every registered rule on every registered network."""

import pytest
import torch
from conformance_kit import (
    TINY,
    engine_step,
    largest_by_block,
    make_batch,
    make_network,
    make_units,
    plain_gradients,
    plain_loss,
)

from locbench.evaluation.audit import audit

pytestmark = pytest.mark.usefixtures("float64")


def in_blocks(network, indices) -> set[int]:
    return {id(p) for index in indices for p in network.blocks[index].parameters()}


def test_a_units_loss_reaches_the_blocks_it_updates_and_no_other(rule, network):
    net = make_network(network)
    batch = make_batch()
    for unit in make_units(rule, net):
        largest = largest_by_block(net, plain_gradients(net, unit, batch))
        reached = [index for index, gradient in enumerate(largest) if gradient != 0]
        assert reached == unit.updated_blocks()


def test_the_engine_with_one_unit_alone_leaves_no_gradient_elsewhere(rule, network):
    net = make_network(network)
    units = make_units(rule, net)
    batch = make_batch()
    everything = [*net.parameters(), *(p for u in units for p in u.objective.parameters())]
    for unit in units:
        for parameter in everything:
            parameter.grad = None
        engine_step(net, [unit], batch)
        own = {id(p) for p in (*unit.objective.parameters(), *unit.ties)}
        touched = {id(p) for p in everything if p.grad is not None}
        assert touched <= own | in_blocks(net, unit.updated_blocks())
        gradients = {p: p.grad for p in net.parameters() if p.grad is not None}
        for index, gradient in enumerate(largest_by_block(net, gradients)):
            assert (gradient > 0) == (index in unit.updated_blocks())
        assert all(p.grad is not None for p in unit.objective.parameters() if p.requires_grad)


def test_every_block_is_trained_by_some_unit(rule, network):
    net = make_network(network)
    trained = {index for unit in make_units(rule, net) for index in unit.updated_blocks()}
    assert trained == set(range(len(net.blocks)))


def test_the_engines_gradients_are_the_sum_of_the_units_apart(rule, network):
    net = make_network(network)
    units = make_units(rule, net)
    batch = make_batch()
    expected = {}
    for unit in units:
        for parameter, gradient in plain_gradients(net, unit, batch).items():
            expected[parameter] = expected.get(parameter, 0) + gradient
    engine_step(net, units, batch)
    parameters = [*net.parameters(), *(p for u in units for p in u.objective.parameters())]
    assert {id(p) for p in parameters if p.grad is not None} == {id(p) for p in expected}
    for parameter, gradient in expected.items():
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-12)


def test_the_engine_returns_the_losses_of_a_plain_forward(rule, network):
    net = make_network(network)
    batch = make_batch()
    units = make_units(rule, net)
    losses, logs = engine_step(net, units, batch)
    plain = torch.stack([plain_loss(net, unit, batch) for unit in units])
    torch.testing.assert_close(losses, plain.detach(), rtol=1e-10, atol=0)
    assert not losses.requires_grad
    assert not [value for log in logs for value in log.values() if value.requires_grad]


def test_a_step_runs_every_block_once(rule, network):
    """Else batch-norm statistics move twice, and the step costs more than it says."""
    net = make_network(network)
    units = make_units(rule, net)
    runs = [0] * len(net.blocks)
    for index, block in enumerate(net.blocks):
        block.register_forward_hook(lambda *_, i=index: runs.__setitem__(i, runs[i] + 1))
    engine_step(net, units, make_batch())
    assert runs == [1] * len(net.blocks)
    counts = {k: int(v) for k, v in net.state_dict().items() if k.endswith("num_batches_tracked")}
    assert set(counts.values()) == {1}


def test_the_audit_holds(rule, network):
    result = audit(rule, network, TINY, images=3, resolution=16)
    assert result.holds
    assert len(result.units) == len(make_units(rule, make_network(network)))


def test_units_say_in_words_what_hangs_on_them(rule, network):
    for unit in make_units(rule, make_network(network)):
        assert unit.objective.description
