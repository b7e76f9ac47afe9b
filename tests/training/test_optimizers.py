"""LARS against the formula of the SimCLR code, and the schedule's numbers."""

from collections.abc import Iterable
from functools import partial

import pytest
import torch
from tiny import NETWORK
from torch import nn

from locbench.networks.resnet import resnet50
from locbench.recipes.schema import Lars
from locbench.rules import build_units
from locbench.training.engine import Engine
from locbench.training.optimizers import make_optimizer
from locbench.training.schedules import count_steps, count_warmup, warmup_cosine
from locbench.units import Batch

STEPS = 12


class Formula:
    """SimCLR's lars_optimizer.py, one weight after the other.

    Weights of convolutions and linear layers are told by their layer, not by their dimensions.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], settings: Lars) -> None:
        self.named, self.settings = list(named), settings
        self.velocity = {name: torch.zeros_like(p) for name, p in self.named}

    @torch.no_grad()
    def step(self, lr: float, adapted: set[str]) -> None:
        for name, parameter in self.named:
            gradient, rate = parameter.grad, 1.0
            if name in adapted:
                gradient = gradient + self.settings.weight_decay * parameter
                norm, slope = parameter.norm(), gradient.norm()
                if norm > 0 and slope > 0:
                    rate = self.settings.trust * norm / slope
            velocity = self.velocity[name]
            velocity.mul_(self.settings.momentum).add_(lr * rate * gradient)
            parameter.sub_(velocity)


@pytest.mark.parametrize("trust", [0.001, 0.02])
def test_lars_is_that_of_the_simclr_code(trust):
    """Under warm-up and cosine, with residual branches that start from 0, given the same gradients.

    The same, because training itself is chaotic: two roundings of one optimizer part as fast.
    """
    torch.manual_seed(0)
    settings = Lars(lr=1.2, weight_decay=1e-4, trust=trust)
    net = resnet50(NETWORK, num_classes=4).double().train()
    units = build_units("loco", net, {})
    whole = nn.ModuleList([net, *(unit.objective.double() for unit in units)])
    adapted = {
        f"{name}.weight"
        for name, layer in whole.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }
    engine = Engine(net.blocks, units)
    trained = {id(parameter) for parameter in engine.parameters()}
    named = [(name, p) for name, p in whole.named_parameters() if id(p) in trained]
    start = [p.detach().clone() for _, p in named]
    ours = [nn.Parameter(p.detach().clone()) for _, p in named]
    formula, optimizer = Formula(named, settings), make_optimizer(ours, settings)
    for step in range(STEPS):
        for _, parameter in named:
            parameter.grad = None
        engine.step(Batch(torch.rand(16, 3, 8, 8, dtype=torch.float64)))
        for parameter, (_, theirs) in zip(ours, named, strict=True):
            parameter.grad = theirs.grad.clone()
        lr = warmup_cosine(step, total=STEPS, warmup=3, base=settings.lr)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        formula.step(lr, adapted)
    for parameter, (name, theirs), before in zip(ours, named, start, strict=True):
        torch.testing.assert_close(parameter, theirs, rtol=1e-12, atol=1e-14, msg=name)
        assert not torch.equal(parameter, before), name


def test_steps_are_counted_as_in_the_simclr_code():
    images = 1_281_167  # ImageNet
    assert count_steps(images, epochs=800, batch=4096) == 250_228
    assert count_steps(80, epochs=1, batch=8) == 11
    assert count_warmup(images, epochs=10.0, batch=4096) == 3127
    assert count_warmup(80, epochs=2.55, batch=8) == 25


def test_rates_rise_in_a_line_and_fall_by_half_a_cosine():
    long = partial(warmup_cosine, total=250_228, warmup=3127, base=4.8)
    rates = [long(step) for step in (0, 1, 1000, 3127)]
    assert rates == pytest.approx([0, 4.8 / 3127, 4.8 * 1000 / 3127, 4.8])
    middle, third = (3127 + 250_228) / 2, 3127 + (250_228 - 3127) / 3
    rates = [long(step) for step in (third, middle, 250_227, 250_228)]
    assert rates == pytest.approx([3.6, 2.4, 0, 0], abs=1e-9)
    assert warmup_cosine(0, total=20, warmup=0, base=1.0) == 1.0
    assert warmup_cosine(4, total=5, warmup=5, base=1.0) == pytest.approx(0.8)  # all warm-up
