"""What holds for every registered network whatever the rule: backpropagation, and the probe."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from conformance_kit import CLASSES, fake_data, make_batch, make_network, small_recipe
from pairs import HOMES
from torch import nn

from locbench.evaluation.probe import LinearProbe
from locbench.training.engine import Engine
from locbench.units import Unit


class Classify(nn.Module):
    """Backpropagation as an objective: cross-entropy on the network's own head."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, features, batch):
        logits = self.head(features)
        correct = (logits.argmax(dim=1) == batch.targets).float().mean()
        return F.cross_entropy(logits, batch.targets), {"accuracy": correct.detach()}


def train(network, step, steps: int = 3):
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    losses = []
    for k in range(steps):
        torch.manual_seed(k)
        optimizer.zero_grad()
        losses.append(step(make_batch()))
        optimizer.step()
    return losses


def trained_twice(name):
    """Losses and weights after some steps of the engine, and of plain backpropagation."""
    torch.manual_seed(0)
    local = make_network(name)
    torch.manual_seed(0)
    plain = make_network(name)
    engine = Engine(local.blocks, [Unit(0, len(local.blocks), Classify(local.head))])

    def backpropagation(batch):
        loss = F.cross_entropy(plain(batch.images), batch.targets)
        loss.backward()
        return loss.item()

    losses = train(local, lambda batch: engine.step(batch)[0].item())
    expected = train(plain, backpropagation)
    assert losses[-1] != losses[0]
    return (losses, local.state_dict()), (expected, plain.state_dict())


def test_one_unit_over_all_blocks_is_backpropagation(network, float64):
    """Up to rounding: a gradient is laid out anew where the engine cuts.

    Some kernels, such as the sum for a bias, then add in another order.
    """
    (losses, weights), (expected, plain) = trained_twice(network)
    assert losses == pytest.approx(expected, rel=1e-10)
    for key, value in plain.items():
        torch.testing.assert_close(weights[key], value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("network", sorted({network for _, network in HOMES}))
def test_on_the_papers_networks_it_is_so_bit_for_bit(network):
    (losses, weights), (expected, plain) = trained_twice(network)
    assert losses == expected
    assert all(torch.equal(weights[key], value) for key, value in plain.items())


@pytest.mark.parametrize(("blocks", "augment"), [("last", True), ("all", False)])
def test_a_probe_leaves_the_network_bit_identical(network, blocks, augment):
    net = make_network(network)
    net.encode(make_batch().images)  # statistics that are not 0 and 1
    before = {key: value.clone() for key, value in net.state_dict().items()}
    recipe = small_recipe("loco")
    settings = dataclasses.replace(recipe.probe, blocks=blocks, augment=augment)
    recipe = dataclasses.replace(recipe, probe=settings)
    probe = LinearProbe(net, fake_data(), recipe, 0, torch.device("cpu"))
    scores = probe.fit(lambda *_: None)
    assert len(scores) == (1 if blocks == "last" else len(net.blocks))
    after = net.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(p.grad is None for p in net.parameters())


def test_a_probe_classifies_each_blocks_width(network):
    net = make_network(network)
    probe = LinearProbe(net, fake_data(), small_recipe("loco"), 0, torch.device("cpu"))
    assert probe.blocks == list(range(len(net.blocks)))
    shapes = [(head.in_features, head.out_features) for head in probe.heads]
    assert shapes == [(width, CLASSES) for width in net.widths]
