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


def test_a_chain_of_linear_layers_saves_its_inputs():
    chain = nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 30), nn.Linear(30, 5))
    with SavedBytes(chain) as saved:
        out = chain(torch.rand(8, 10))
    assert saved.current == saved.peak == FLOAT * 8 * (10 + 20 + 30)
    out.sum().backward()
    assert saved.current == 0
    assert saved.peak == FLOAT * 8 * (10 + 20 + 30)


def test_relu_saves_its_output_and_shares_it_with_the_next_layer():
    chain = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))
    with SavedBytes(chain) as saved:
        out = chain(torch.rand(8, 10))
    assert saved.current == FLOAT * 8 * (10 + 20)
    del out
    assert saved.current == 0


def test_a_convolution_saves_its_input():
    conv = nn.Conv2d(3, 6, kernel_size=3, padding=1)
    with SavedBytes(conv) as saved:
        out = conv(torch.rand(2, 3, 8, 8))
    assert saved.current == FLOAT * 2 * 3 * 8 * 8
    out.sum().backward()
    assert saved.current == 0


def test_batch_norm_saves_its_input_and_two_figures_a_channel():
    norm = nn.BatchNorm2d(6)
    features = torch.rand(4, 6, 5, 5)
    with SavedBytes(norm) as saved:
        out = norm(features)
    assert saved.current == FLOAT * (features.numel() + 2 * 6)
    del out


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


def test_a_graph_dropped_without_a_backward_pass_is_freed():
    linear = nn.Linear(10, 20)
    with SavedBytes(linear) as saved:
        out = linear(torch.rand(8, 10)).sigmoid()
        assert saved.current == FLOAT * 8 * (10 + 20)
        del out
        assert saved.current == 0


def test_a_retained_graph_is_kept_and_then_does_not_leak():
    # relu, sigmoid and exp save their own output: keeping that tensor itself would be a cycle.
    chain = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 20), nn.Sigmoid())
    with SavedBytes(chain) as saved:
        loss = chain(torch.rand(8, 10)).exp().sum()
        held = saved.current
        assert held == FLOAT * 8 * (10 + 20 + 20 + 20)
        loss.backward(retain_graph=True)
        assert saved.current == held
        loss.backward(retain_graph=True)
        assert saved.current == held
        del loss
    assert saved.current == 0
    assert saved.peak == held


def test_the_peak_of_cut_parts_is_that_of_the_largest():
    parts = [nn.Linear(10, 10) for _ in range(4)]
    with SavedBytes(nn.ModuleList(parts)) as saved:
        features = torch.rand(8, 10)
        for part in parts:
            out = part(features).sigmoid()
            out.sum().backward()
            features = out.detach()
            del out
    assert saved.peak == FLOAT * 8 * (10 + 10)
    assert saved.current == 0


def test_timeline_has_every_change():
    linear = nn.Linear(10, 20)
    with SavedBytes(linear, timeline=True) as saved:
        out = linear(torch.rand(8, 10)).sigmoid()
        del out
    assert [index for index, _ in saved.timeline] == [0, 1, 2, 3]
    bytes_at = [current for _, current in saved.timeline]
    assert bytes_at[:2] == [320, 320 + 640]
    assert max(bytes_at) == saved.peak
    assert bytes_at[-1] == 0
    with SavedBytes(linear) as plain:
        linear(torch.rand(8, 10))
    assert plain.timeline == []


def test_it_counts_on_the_meta_device():
    chain = nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 5)).to("meta")
    with SavedBytes(chain) as saved:
        out = chain(torch.empty(8, 10, device="meta"))
    assert saved.current == FLOAT * 8 * (10 + 20)
    del out


def test_graphs_built_outside_do_not_count():
    linear = nn.Linear(10, 20)
    before = linear(torch.rand(8, 10))
    with SavedBytes(linear) as saved:
        before.sum().backward()
    linear(torch.rand(8, 10))
    assert saved.peak == 0


def test_allocation_peak_of_a_known_pattern():
    def allocate():
        first = torch.empty(2 * MEGABYTE, dtype=torch.uint8)
        second = torch.empty(3 * MEGABYTE, dtype=torch.uint8)
        del first
        third = torch.empty(4 * MEGABYTE, dtype=torch.uint8)  # peak: second and third
        del second, third
        return torch.empty(MEGABYTE, dtype=torch.uint8)

    assert allocation_peak(allocate) == 7 * MEGABYTE


def test_what_was_allocated_before_neither_adds_nor_takes_away():
    held = [torch.empty(8 * MEGABYTE, dtype=torch.uint8)]

    def replace():
        held.clear()
        held.append(torch.empty(2 * MEGABYTE, dtype=torch.uint8))

    assert allocation_peak(replace) == 2 * MEGABYTE
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
    peak = allocation_peak(step)
    # Beside them: a layer's result before the sigmoid, gradients of two maps and of the weights.
    beside = FLOAT * (3 * batch * width + depth * width * (width + 1)) + 4096
    assert saved.peak < peak <= saved.peak + beside
