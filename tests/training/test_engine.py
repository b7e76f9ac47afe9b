"""The engine's gradients against plain autograd, for every way in which units can lie."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from tiny import NETWORK
from torch import Tensor, nn

from locbench.distributed.collectives import Reduction
from locbench.networks import make_network
from locbench.rules import build_units
from locbench.training.engine import Engine
from locbench.units import Batch, Unit

WIDTHS = (3, 4, 6, 4, 8, 4, 6, 4)  # of seven blocks


class Residual(nn.Module):
    """Two convolutions with batch norm, and a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        return F.relu(y + self.shortcut(x), inplace=True)


class Classifier(nn.Module):
    """Cross-entropy of a small auxiliary network, with a penalty that draws it to `tied`."""

    def __init__(self, channels: int, tied: nn.Parameter | None = None) -> None:
        super().__init__()
        self.hidden = nn.Conv2d(channels, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.fc = nn.Linear(5, 3)
        self.tied = (tied,)  # in a tuple: it belongs to the network
        self.copy = None if tied is None else nn.Parameter(tied.detach() + 0.3)

    def forward(self, features: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self.fc(self.norm(self.hidden(features)).relu().mean(dim=(2, 3)))
        loss = F.cross_entropy(logits, batch.targets)
        if self.copy is not None:
            loss = loss + 0.5 * (self.copy - self.tied[0]).square().sum()
        return loss, {"top": logits.detach().argmax(dim=1)}


# (start, stop, updates) of every unit; in an order that is not the engine's
LAYOUTS = {
    "end to end": [(0, 7, None)],
    "disjoint": [(0, 2, None), (2, 4, None), (4, 7, None)],
    "one block each": [(b, b + 1, None) for b in range(7)],
    "overlapping by one": [(0, 4, None), (2, 6, None), (4, 7, None)],
    "overlapping by one block": [(0, 3, None), (2, 5, None), (4, 7, None)],
    "overlapping by two": [(0, 3, None), (1, 4, None), (2, 5, None), (3, 6, None), (4, 7, None)],
    "nested": [(0, 7, None), (1, 5, None), (2, 4, None), (3, 4, None)],
    "same stop": [(0, 4, None), (3, 4, None), (2, 4, None), (2, 4, None), (4, 7, None)],
    "same start": [(0, 6, None), (0, 2, None), (0, 4, None)],
    "gaps": [(1, 2, None), (3, 5, None)],
    "gaps below and above an overlap": [(2, 5, None), (1, 4, None)],
    "upper gradient only": [(0, 4, frozenset({0, 1})), (2, 6, frozenset({2, 3})), (4, 7, None)],
    "through, not into": [
        (0, 7, frozenset({1})),
        (2, 5, frozenset({4})),
        (3, 7, frozenset({3, 6})),
    ],
    "updates nothing": [(0, 3, frozenset()), (1, 5, None)],
    "an extra first loss": [(0, 2, None), (0, 4, None), (2, 6, None)],
}


def blocks(dtype: torch.dtype = torch.float64) -> nn.ModuleList:
    return nn.ModuleList(Residual(*pair) for pair in pairwise(WIDTHS)).to(dtype)


def units_of(layout: list[tuple]) -> list[Unit]:
    return [
        Unit(start, stop, Classifier(WIDTHS[stop]).double(), updates)
        for start, stop, updates in layout
    ]


def batch_of(dtype: torch.dtype = torch.float64, images: int = 6) -> Batch:
    return Batch(torch.rand(images, 3, 6, 6, dtype=dtype), torch.arange(images) % 3)


def apart(net, unit: Unit, batch: Batch) -> dict[nn.Parameter, Tensor]:
    """One unit's gradients: a forward pass of its own with a single cut, plain autograd."""
    x = batch.images
    for index in range(unit.stop):
        x = net[index](x.detach() if index == unit.start else x)
    loss, _ = unit.objective(x, batch)
    span = range(unit.start, unit.stop)
    updated = [b for b in span if unit.updates is None or b in unit.updates]
    found = {p for b in updated for p in net[b].parameters()}
    found |= {*unit.objective.parameters(), *unit.ties}
    wanted = [parameter for parameter in found if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, wanted)
    return dict(zip(wanted, gradients, strict=True))


def total(parts: list[dict[nn.Parameter, Tensor]]) -> dict[nn.Parameter, Tensor]:
    summed: dict[nn.Parameter, Tensor] = {}
    for part in parts:
        for parameter, gradient in part.items():
            summed[parameter] = summed.get(parameter, 0) + gradient
    return summed


def worst_error(modules: list[nn.Module], wanted: dict[nn.Parameter, Tensor]) -> float:
    """Largest relative error of `.grad`; what no unit updates must have none at all."""
    worst = 0.0
    for parameter in {p for module in modules for p in module.parameters()}:
        if parameter not in wanted:
            assert parameter.grad is None
            continue
        scale = wanted[parameter].abs().max().clamp_min(1e-6)
        worst = max(worst, float((parameter.grad - wanted[parameter]).abs().max() / scale))
    return worst


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_gradients_equal_those_of_each_unit_apart(layout):
    net, batch = blocks(), batch_of()
    units = units_of(layout)
    wanted = total([apart(net, unit, batch) for unit in units])
    losses, logs = Engine(net, units).step(batch)
    assert worst_error([net, *(unit.objective for unit in units)], wanted) < 1e-10
    assert losses.shape == (len(units),) and all("top" in log for log in logs)
    assert not losses.requires_grad


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_a_gradient_is_sent_to_other_processes_once_and_whole(layout, monkeypatch):
    sent = []

    def start(self, parameters):
        sent.extend((p, p.grad.clone()) for p in parameters if p.grad is not None)

    monkeypatch.setattr(Reduction, "start", start)
    net, units = blocks(), units_of(layout)
    weight = net[5].conv1.weight  # a penalty of every unit's draws it too, wherever it lies
    tied = [
        replace(u, objective=Classifier(WIDTHS[u.stop], weight).double(), ties=(weight,))
        for u in units
    ]
    engine = Engine(net, tied)
    engine.step(batch_of(), last=False)
    assert not sent
    engine.step(batch_of())
    assert len(sent) == len({id(p) for p, _ in sent})
    assert {id(p) for p, _ in sent} == {id(p) for p in engine.parameters()}
    assert all(torch.equal(p.grad, gradient) for p, gradient in sent)


def test_gradients_are_weighted_by_the_batchs_share_of_the_step():
    net, units = blocks(), units_of(LAYOUTS["overlapping by one"])
    engine, batch = Engine(net, units), batch_of()
    engine.step(batch)
    whole = [p.grad.clone() for p in engine.parameters()]
    for p in engine.parameters():
        p.grad = None
    for share in (0.25, 0.75):
        engine.step(replace(batch, weight=share))
    for p, gradient in zip(engine.parameters(), whole, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("tied", [1, 3, 5, 6])
def test_ties_get_the_gradient_of_the_penalty_too(tied):
    # Of a block below the unit (detached there), inside it, above it, and of no unit at all.
    net, batch = blocks(), batch_of()
    weight = net[tied].conv2.weight
    objective = Classifier(WIDTHS[4], weight).double()
    units = [Unit(0, 2, Classifier(WIDTHS[2]).double()), Unit(2, 4, objective, ties=(weight,))]
    units.append(Unit(4, 6, Classifier(WIDTHS[6]).double()))
    wanted = total([apart(net, unit, batch) for unit in units])
    assert float(wanted[weight].abs().max()) > 0.1
    engine = Engine(net, units)
    for _ in range(2):  # what the optimizer does not know of would add up from step to step
        for parameter in engine.parameters():
            parameter.grad = None
        engine.step(batch)
    assert worst_error([net, *(unit.objective for unit in units)], wanted) < 1e-10


def test_a_loss_of_its_own_parameters_alone_leaves_the_blocks_without_a_gradient():
    class Deaf(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, dtype=torch.float64))

        def forward(self, features: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            return self.weight.square().sum(), {}

    net, batch = blocks(), batch_of()
    heard = Unit(2, 5, Classifier(WIDTHS[5]).double())
    units = [Unit(0, 3, Deaf()), Unit(1, 3, Deaf()), heard]
    Engine(net, units).step(batch)
    deaf = {unit.objective.weight: torch.full((3,), 2.0).double() for unit in units[:2]}
    wanted = apart(net, heard, batch) | deaf
    assert worst_error([net, *(unit.objective for unit in units)], wanted) < 1e-10


def test_losses_and_logs_are_in_the_engines_order():
    net, batch = blocks().eval(), batch_of()
    units = units_of(LAYOUTS["same stop"])
    engine = Engine(net, units)
    spans = [(unit.start, unit.stop) for unit in engine.units]
    assert spans == [(3, 4), (2, 4), (2, 4), (0, 4), (4, 7)]
    losses, logs = engine.step(batch)
    for unit, loss, log in zip(engine.units, losses, logs, strict=True):
        x = batch.images
        for block in net[: unit.stop]:
            x = block(x)
        alone, told = unit.objective(x, batch)
        torch.testing.assert_close(loss, alone.detach(), rtol=1e-12, atol=0)
        assert torch.equal(log["top"], told["top"])


def test_a_shared_stage_of_loco_gets_the_sum_of_its_two_units():
    net = make_network("resnet50", NETWORK, 4, 16)
    units = build_units("loco", net, {})
    for module in (net, *(unit.objective for unit in units)):
        module.double().train()
        with torch.no_grad():  # a zero scale would hide the branch behind it
            for parameter in module.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    batch = Batch(torch.rand(8, 3, 16, 16, dtype=torch.float64))
    parts = [apart(net.blocks, unit, batch) for unit in units]
    Engine(net.blocks, units).step(batch)
    for number, stage in enumerate(net.stages):
        parameters = [p for b in stage for p in net.blocks[b].parameters()]
        holding = [part for part in parts if parameters[0] in part]
        assert len(holding) == (1 if number in (0, len(net.stages) - 1) else 2)
        wanted = total([{p: part[p] for p in parameters} for part in holding])
        scale = max(float(gradient.abs().max()) for gradient in wanted.values())
        errors = [float((p.grad - wanted[p]).abs().max()) for p in parameters]
        assert max(errors) < 1e-10 * scale
        for part in holding:  # neither of the two is nothing
            assert max(float(part[p].abs().max()) for p in parameters) > 0.01 * scale


def test_blocks_above_the_last_unit_do_not_run():
    net = blocks()
    for block in net[5:]:
        block.register_forward_pre_hook(lambda *_: pytest.fail("ran a block for nothing"))
    Engine(net, units_of(LAYOUTS["gaps"])).step(batch_of())


def test_parameters_are_those_that_get_a_gradient_each_once():
    for layout in LAYOUTS.values():
        net = blocks()
        net[1].conv1.weight.requires_grad_(False)
        units = units_of(layout)
        engine = Engine(net, units)
        engine.step(batch_of())
        modules = [net, *(unit.objective for unit in units)]
        got = {p for module in modules for p in module.parameters() if p.grad is not None}
        listed = engine.parameters()
        assert len(listed) == len(set(listed))
        assert set(listed) == got


@pytest.mark.parametrize("span", [(0, 8), (-1, 2), (3, 3), (4, 2), (7, 9)])
def test_a_unit_that_does_not_fit_is_refused(span):
    with pytest.raises(ValueError, match="does not fit a network of 7 blocks") as caught:
        Engine(blocks(), [Unit(0, 2, Classifier(6)), Unit(*span, Classifier(4))])
    assert f"[{span[0]}, {span[1]})" in str(caught.value)


def test_forward_runs_under_autocast_and_backward_outside_of_it():
    seen: list[tuple[str, bool]] = []

    class Watch(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            seen.append(("forward", torch.is_autocast_enabled("cpu")))
            return x.clone()

        @staticmethod
        def backward(ctx, gradient: Tensor) -> Tensor:
            seen.append(("backward", torch.is_autocast_enabled("cpu")))
            return gradient

    class Watched(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: Tensor, *batch: Batch):
            return self.module(Watch.apply(x), *batch)

    net = [Watched(block) for block in blocks(torch.float32)]
    units = [
        replace(u, objective=Watched(u.objective.float()))
        for u in units_of([(0, 3, None), (2, 7, None)])
    ]
    losses, _ = Engine(net, units, torch.bfloat16).step(batch_of(torch.float32))
    assert set(seen) == {("forward", True), ("backward", False)}
    assert losses.dtype == torch.float32 and losses.isfinite().all()
    assert all(p.grad.dtype == torch.float32 for p in net[0].parameters())
