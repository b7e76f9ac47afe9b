"""Which steps are captured, and when; what a GPU computes then is in `test_on_a_gpu`."""

from contextlib import nullcontext

import pytest
import torch
from forms import FORMS
from pairs import home
from tiny import tiny_trainer
from torch import nn

from locbench.networks import make_network
from locbench.plugins.registry import RULES
from locbench.recipes.schema import Network
from locbench.rules import build_units
from locbench.training import captured
from locbench.training.captured import PLAIN, CapturedEngine, stepping
from locbench.training.engine import Engine
from locbench.units import Batch, Unit

GPU = torch.device("cuda")  # is only named
DEEP = Network(width=0.125, blocks=3, stem="small")


def engine_of(rule: str, settings: dict | None = None) -> Engine:
    network = make_network(home(rule), DEEP, 4, 16)
    return Engine(network.blocks, build_units(rule, network, settings or {}))


@pytest.mark.parametrize("rule", RULES.names())
def test_every_rule_of_ours_is_captured_on_a_gpu_and_not_on_a_cpu(rule):
    for settings in ({}, *(more for name, more in FORMS if name == rule)):
        engine = engine_of(rule, settings)
        assert isinstance(stepping(engine, GPU), CapturedEngine)
        assert stepping(engine, torch.device("cpu")) is engine


def test_sums_over_batches_or_processes_are_not_captured(monkeypatch):
    engine = engine_of("gim")
    assert stepping(engine, GPU, batches=2) is engine
    monkeypatch.setattr(captured, "world_size", lambda: 2)
    assert stepping(engine, GPU) is engine


def test_an_objective_has_to_say_that_it_is_capturable():
    engine = engine_of("gim")
    engine.units[1] = Unit(0, 1, nn.Identity())
    assert stepping(engine, GPU) is engine


@pytest.mark.parametrize("works", [True, False])
def test_every_shape_is_captured_once_after_some_plain_steps(works, monkeypatch):
    taken = []

    class Capture:
        def replay(self, batch):
            taken.append("replayed")

    def capture(self, shape, batch):
        taken.append("captured")
        self._possible = works
        self._captures |= {shape: Capture()} if works else {}

    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(CapturedEngine, "_capture", capture)
    monkeypatch.setattr(Engine, "step", lambda self, batch: taken.append("plain"))
    own = CapturedEngine(tiny_trainer("gim").engine)
    large, small = Batch(torch.zeros(8, 3, 16, 16)), Batch(torch.zeros(6, 3, 16, 16))
    for batch in [large, small] * (PLAIN + 2):
        own.step(batch)
    plain = ["plain"] * 2 * PLAIN
    if works:
        assert taken == [*plain, *["captured", "replayed"] * 2, *["replayed"] * 2]
    else:
        assert taken == [*plain, "captured", *["plain"] * 4], "no other shape is tried"
    own.step(Batch(large.images, torch.zeros(8)))
    assert taken[-1] == "plain", "with targets it is another shape"
