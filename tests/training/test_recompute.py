"""Gradient checkpointing: the same training, fewer saved bytes."""

import copy

import pytest
import torch
from pairs import HOMES
from torch import nn

from locbench.networks import make_network
from locbench.recipes.schema import Network as Settings
from locbench.rules import build_units
from locbench.training.engine import Engine
from locbench.training.recompute import recomputed
from locbench.training.saved_bytes import SavedBytes
from locbench.units import Batch

SIDE = 16


def batch_of(step: int, images: int = 8) -> Batch:
    pixels = torch.rand(images, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(step))
    return Batch(pixels, torch.arange(images) % 4, pixels)


def trained(network: nn.Module, checkpoint: bool, autocast=None) -> tuple[list[float], int]:
    """Losses of three steps of SGD, and the most bytes saved at once in the last."""
    units = build_units("bp", network, {"checkpoint": checkpoint})
    engine = Engine(network.blocks, units, autocast)
    optimizer = torch.optim.SGD(engine.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for step in range(3):
        torch.manual_seed(step)  # for dropout
        optimizer.zero_grad()
        with SavedBytes([network]) as saved:
            losses.append(engine.step(batch_of(step))[0].item())
        optimizer.step()
    return losses, saved.peak


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", sorted({network for _, network in HOMES}))
def test_it_is_backpropagation_bit_for_bit(name, autocast):
    plain = make_network(name, Settings(width=0.125, blocks=1, stem="small"), 4, SIDE).train()
    checkpointed = copy.deepcopy(plain)
    expected, _ = trained(plain, False, autocast)
    found, _ = trained(checkpointed, True, autocast)
    assert found == expected
    state = checkpointed.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in plain.state_dict().items())


def test_saved_bytes_are_the_inputs_of_the_blocks_and_the_largest_block():
    network = make_network("resnet32", Settings(width=0.5), 4, SIDE).train()
    _, everything = trained(network, False)
    _, checkpointed = trained(network, True)
    x, inputs, largest = batch_of(0).images, 0, 0
    for block in network.blocks:
        inputs += x.numel() * 4
        with SavedBytes([network]) as saved:
            y = block(x.detach().requires_grad_())
        largest = max(largest, saved.peak)
        x = y.detach()
    assert checkpointed < 0.5 * everything
    assert inputs < checkpointed < 1.05 * (inputs + largest)


class Noisy(nn.Module):
    """Dropout between two linear layers, and a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def test_dropout_draws_the_same_twice_and_later_draws_are_not_moved():
    torch.manual_seed(0)
    block, x = Noisy(), torch.randn(5, 6)
    outputs, gradients, later = [], [], []
    for run in (block, lambda x: recomputed(block, x)):
        block.zero_grad()
        torch.manual_seed(1)
        y = run(x)
        y.square().sum().backward()
        outputs.append(y.detach())
        gradients.append([p.grad.clone() for p in block.parameters()])
        later.append(torch.rand(3))
    assert torch.equal(*outputs) and torch.equal(*later)
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert (outputs[0] == 0).any(), "nothing was left out"


def test_a_block_without_a_gradient_to_pass_down_gets_its_own():
    torch.manual_seed(0)
    block, x = Noisy().train(), torch.randn(5, 6)
    block.layers[0].bias.requires_grad_(False)
    recomputed(block, x).sum().backward()
    assert block.layers[0].weight.grad is not None and block.layers[0].bias.grad is None


def test_a_failing_block_leaves_its_batch_norms_tracking():
    block = Noisy()
    y = recomputed(block, torch.randn(5, 6))
    block.layers.append(nn.Linear(7, 7))
    with pytest.raises(RuntimeError):
        y.sum().backward()
    assert block.layers[1].track_running_stats
