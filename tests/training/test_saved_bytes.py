"""Saved bytes on networks small enough to count by hand, and the allocator's own peak."""

import gc

import pytest
import torch
from torch import nn

from locbench.training.saved_bytes import SavedBytes, allocation_peak

FLOAT = 4
MEGABYTE = 2**20


@pytest.fixture(autouse=True)
def no_garbage_collector():
    """Handles must be freed by reference counts alone: a cycle would show as bytes that stay."""
    gc.disable()
    yield
    gc.enable()


CHAINS = {
    "linear": (nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 5)), (8, 10), 8 * (10 + 20)),
    # ReLU saves its output, and shares it with the next layer.
    "relu": (nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5)), (8, 10), 8 * (10 + 20)),
    "convolution": (nn.Conv2d(3, 6, 3), (2, 3, 8, 8), 2 * 3 * 8 * 8),
    # Its input, and two figures a channel.
    "batch norm": (nn.BatchNorm2d(6), (4, 6, 5, 5), 4 * 6 * 5 * 5 + 2 * 6),
}


@pytest.mark.parametrize("name", CHAINS)
def test_what_is_saved_is_counted_until_the_graph_is_gone(name):
    module, shape, numbers = CHAINS[name]
    with SavedBytes(module) as saved:
        out = module(torch.rand(shape, requires_grad=True))
    assert saved.current == saved.peak == FLOAT * numbers
    out.sum().backward()
    assert saved.current == 0 and saved.peak == FLOAT * numbers
    with SavedBytes(module) as saved:
        out = module(torch.rand(shape))
        del out
        assert saved.current == 0 < saved.peak


def test_a_storage_saved_by_several_counts_once():
    features = torch.rand(16, 10, requires_grad=True)
    with SavedBytes() as saved:
        outputs = [features.square(), features.view(160).square(), features[:4].square()]
        assert saved.current == FLOAT * 160
        outputs.pop(0)
        outputs.pop(0)
        assert saved.current == FLOAT * 160  # the part keeps all of it in memory
        outputs.pop()
        assert saved.current == 0


@pytest.mark.parametrize("exclude", ["module", "list", "tensors", "nothing"])
def test_parameters_are_left_out_when_given(exclude):
    linear = nn.Linear(10, 20)
    features = torch.rand(8, 10, requires_grad=True)
    given = {
        "module": linear,
        "list": [nn.ModuleList([linear]), torch.zeros(3)],
        "tensors": iter(linear.parameters()),
        "nothing": (),
    }[exclude]
    with SavedBytes(given) as saved:
        out = linear(features)
    assert saved.current == FLOAT * (8 * 10 + (200 if exclude == "nothing" else 0))
    del out


def test_gradients_are_the_same_as_without():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    images = torch.rand(2, 3, 9, 9)
    net(images).square().sum().backward()
    expected = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    with SavedBytes(net):
        net(images).square().sum().backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), expected, strict=True))


def test_a_retained_graph_is_kept_and_then_does_not_leak():
    # relu, sigmoid and exp save their own output: keeping that tensor itself would be a cycle.
    chain = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 20), nn.Sigmoid())
    with SavedBytes(chain) as saved:
        loss = chain(torch.rand(8, 10)).exp().sum()
        held = saved.current
        assert held == FLOAT * 8 * (10 + 20 + 20 + 20)
        for _ in range(2):
            loss.backward(retain_graph=True)
            assert saved.current == held
        del loss
    assert saved.current == 0 and saved.peak == held


def test_graphs_built_outside_do_not_count():
    linear = nn.Linear(10, 20)
    before = linear(torch.rand(8, 10))
    with SavedBytes(linear) as saved:
        before.sum().backward()
    linear(torch.rand(8, 10))
    assert saved.peak == 0


def test_allocation_peak_of_a_known_pattern():
    before = [torch.empty(8 * MEGABYTE, dtype=torch.uint8)]

    def allocate():
        before.clear()  # what was there before neither adds nor takes away
        first = torch.empty(2 * MEGABYTE, dtype=torch.uint8)
        second = torch.empty(3 * MEGABYTE, dtype=torch.uint8)
        del first
        third = torch.empty(4 * MEGABYTE, dtype=torch.uint8)  # peak: second and third
        del second, third
        return torch.empty(MEGABYTE, dtype=torch.uint8)

    assert allocation_peak(allocate) == 7 * MEGABYTE
    assert allocation_peak(lambda: None) == 0


def test_allocations_confirm_the_saved_bytes():
    torch.manual_seed(0)
    width, depth, batch = 64, 6, 512
    layers = [nn.Sequential(nn.Linear(width, width), nn.Sigmoid()) for _ in range(depth)]
    chain = nn.Sequential(*layers)
    features = torch.rand(batch, width)

    def step():
        chain(features).sum().backward()

    with SavedBytes([chain, features]) as saved:
        step()
    chain.zero_grad(set_to_none=True)
    assert saved.peak == FLOAT * batch * width * depth
    # Beside them: a layer's result before the sigmoid, gradients of two maps and of the weights.
    beside = FLOAT * (3 * batch * width + depth * width * (width + 1)) + 4096
    assert saved.peak < allocation_peak(step) <= saved.peak + beside
