"""timm's LARS against that of the SimCLR code, and the schedule's numbers."""

from collections.abc import Iterable
from functools import partial
from itertools import pairwise

import pytest
import torch
from tiny import NETWORK
from torch import Tensor, nn

from locbench.networks.resnet import resnet50
from locbench.recipes.schema import Lars
from locbench.rules import build_units
from locbench.training.engine import Engine
from locbench.training.optimizers import make_optimizer
from locbench.training.schedules import count_steps, count_warmup, warmup_cosine
from locbench.units import Batch

STEPS = 20


class SimCLRLars:
    """The update of SimCLR's lars_optimizer.py, which has the learning rate inside the momentum.

    g += wd * w; trust = eta * |w| / |g|, 1 where a norm is 0 (both only for weights of
    convolutions and linear layers); v = m * v + lr * trust * g; w -= v.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], settings: Lars) -> None:
        self.parameters, self.settings = list(parameters), settings
        self.velocity = [torch.zeros_like(p) for p in self.parameters]
        self.lr = settings.lr

    @torch.no_grad()
    def step(self) -> None:
        for parameter, velocity in zip(self.parameters, self.velocity, strict=True):
            gradient, trust = parameter.grad, 1.0
            if parameter.ndim > 1:
                gradient = gradient + self.settings.weight_decay * parameter
                norm, slope = parameter.norm(), gradient.norm()
                if norm > 0 and slope > 0:
                    trust = self.settings.trust * norm / slope
            velocity.mul_(self.settings.momentum).add_(self.lr * trust * gradient)
            parameter.sub_(velocity)


class Race:
    """LoCo on a small ResNet-50, trained by SimCLR's LARS; timm's gets the same gradients.

    The same, because training itself is chaotic: two roundings of one optimizer part as fast.
    `branches` sets the scale of the residual branches, which start from 0 in our networks.
    """

    def __init__(self, settings: Lars, dtype: torch.dtype, branches: float | None = 1.0) -> None:
        torch.manual_seed(0)
        self.net = resnet50(NETWORK, num_classes=4).train()
        self.units = build_units("loco", self.net, {})
        for module in (self.net, *(unit.objective for unit in self.units)):
            module.to(dtype)
            for name, parameter in module.named_parameters():
                if branches is not None and name.endswith("bn3.weight"):
                    nn.init.constant_(parameter, branches)
        self.engine = Engine(self.net.blocks, self.units)
        self.theirs = self.engine.parameters()
        self.ours = [nn.Parameter(p.detach().clone()) for p in self.theirs]
        self.start = [p.detach().clone() for p in self.theirs]
        self.reference = SimCLRLars(self.theirs, settings)
        self.optimizer = make_optimizer(self.ours, settings)
        self.dtype, self.draw = dtype, torch.Generator().manual_seed(7)
        self.images = torch.rand(32, 3, 8, 8, generator=self.draw).to(dtype)

    def batch(self) -> Batch:
        images = self.images[torch.randperm(32, generator=self.draw)[:8]]
        noise = torch.rand(images.shape, generator=self.draw).to(self.dtype)
        return Batch(torch.cat([images, images.flip(3) + 0.1 * noise]))

    def step(self, lr: float) -> list[Tensor]:
        """One step of both at this rate; the gradients."""
        for parameter in self.theirs:
            parameter.grad = None
        self.engine.step(self.batch())
        gradients = [p.grad.clone() for p in self.theirs]
        for parameter, gradient in zip(self.ours, gradients, strict=True):
            parameter.grad = gradient.clone()
        self.reference.lr = lr
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.reference.step()
        self.optimizer.step()
        return gradients

    def run(self, rates: list[float]) -> list[list[Tensor]]:
        """Steps at these rates; the gradients of each."""
        return [self.step(lr) for lr in rates]

    @torch.no_grad()
    def apart(self) -> list[float]:
        """The distance of the two, relative to the weights, of every parameter."""
        pairs = zip(self.ours, self.theirs, strict=True)
        return [float((a - b).norm() / b.norm()) for a, b in pairs if b.any()]

    @torch.no_grad()
    def moved(self) -> list[float]:
        """How far every parameter has gone, relative to where it is."""
        pairs = zip(self.theirs, self.start, strict=True)
        return [float((a - b).norm() / a.norm()) for a, b in pairs if a.any()]


@pytest.mark.parametrize(
    ("lr", "weight_decay", "dtype"),
    [(4.8, 1e-6, torch.float32), (1.2, 0.0, torch.float64)],
)
def test_lars_is_that_of_simclr_at_a_constant_rate(lr, weight_decay, dtype):
    race = Race(Lars(lr=lr, weight_decay=weight_decay), dtype)
    race.run([lr] * STEPS)
    assert max(race.apart()) < 1e-5
    assert min(race.moved()) > 0.01
    assert len(race.apart()) == len(race.ours)


@pytest.mark.full
def test_weights_without_a_gradient_shrink_in_simclr_and_not_in_timm():
    # The first step of zero-initialised residual branches: |g| is wd * |w| there and 0 here.
    settings = Lars(lr=4.8)
    race = Race(settings, torch.float64, branches=0.0)
    gradients = race.run([settings.lr])[0]
    behind = [k for k, gradient in enumerate(gradients) if not gradient.any()]
    behind = [k for k in behind if race.ours[k].ndim > 1]
    assert len(behind) == 3 * 7  # of four stages and three decoders
    for k in behind:
        ours, theirs, start = race.ours[k].detach(), race.theirs[k].detach(), race.start[k]
        shrunk = (1 - settings.trust * settings.lr) * start
        torch.testing.assert_close(theirs, shrunk, rtol=1e-12, atol=0)
        torch.testing.assert_close(ours, start, rtol=1e-5, atol=0)
    race.run([settings.lr] * (STEPS - 1))
    total = settings.trust * settings.lr / (1 - settings.momentum)
    apart = dict(zip(range(len(race.ours)), race.apart(), strict=True))
    assert all(0.5 * total < apart[k] < 1.05 * total for k in behind)
    assert max(apart.values()) < 1.05 * total


@pytest.mark.full
def test_under_a_schedule_timm_weights_old_gradients_with_the_present_rate():
    settings = Lars(lr=1.2)
    rates = [warmup_cosine(step, total=STEPS, warmup=5, base=settings.lr) for step in range(STEPS)]
    race = Race(settings, torch.float64)
    history = race.run(rates)
    m = settings.momentum
    weights = [  # of the gradient of step j in all, timm's less SimCLR's
        sum(m ** (t - j) * (rates[t] - rates[j]) for t in range(j, STEPS)) for j in range(STEPS)
    ]
    variation = sum(abs(b - a) for a, b in pairwise(rates))
    reach = m / (1 - m) ** 2 * variation
    assert reach < 18 * settings.lr / (1 - m)
    for k, pair in enumerate(zip(race.ours, race.theirs, strict=True)):
        ours, theirs = (parameter.detach() for parameter in pair)
        apart = ours - theirs
        if ours.ndim <= 1:  # neither adapted nor decayed: both add up the same gradients
            wanted = -sum(w * step[k] for w, step in zip(weights, history, strict=True))
            torch.testing.assert_close(apart, wanted, rtol=1e-8, atol=1e-10)
            longest = max(float(step[k].norm()) for step in history)
        else:
            longest = settings.trust * float(max(ours.norm(), theirs.norm(), race.start[k].norm()))
        assert float(apart.norm()) < reach * longest


def test_groups_of_parameters():
    torch.manual_seed(0)
    net = resnet50(NETWORK, num_classes=4)
    settings = Lars(lr=0.7, momentum=0.8, weight_decay=1e-3, trust=0.01)
    optimizer = make_optimizer(net.parameters(), settings)
    adapted, plain = optimizer.param_groups
    assert (adapted["weight_decay"], adapted["always_adapt"]) == (1e-3, True)
    assert (plain["weight_decay"], plain["always_adapt"]) == (0.0, False)
    for group in (adapted, plain):
        assert (group["lr"], group["momentum"], group["trust_coeff"]) == (0.7, 0.8, 0.01)
        assert not group["nesterov"]
        assert not group["dampening"]
        assert not group["trust_clip"]
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    kinds = dict(net.named_modules())
    of = [{names[id(p)] for p in group["params"]} for group in (adapted, plain)]
    weights = {
        f"{name}.weight" for name, kind in kinds.items() if isinstance(kind, nn.Conv2d | nn.Linear)
    }
    assert of[0] == weights
    assert of[1] == set(names.values()) - weights
    assert {"bn1.weight", "bn1.bias", "layer1.0.bn3.bias", "fc.bias"} <= of[1]


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
