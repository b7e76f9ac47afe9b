"""What the engine holds: the largest unit and no more, by two independent measures."""

import copy
import dataclasses
import gc
from collections.abc import Callable

import pytest
import torch
from pairs import HOMES, PAIRS
from tiny import SIDE
from torch import Tensor, nn

from locbench.networks import Network, make_network
from locbench.recipes.schema import Network as Settings
from locbench.rules import build_units
from locbench.training.engine import Engine
from locbench.training.saved_bytes import SavedBytes, allocation_peak
from locbench.units import Batch, Unit

HUGE = 1 << 30


@pytest.fixture(autouse=True)
def no_garbage_collector():
    """Graphs must go by reference counts alone: a cycle would show as bytes that stay."""
    gc.disable()
    yield
    gc.enable()


def setting(rule: str, name: str = "resnet50", blocks: int = 1) -> tuple[Network, list[Unit]]:
    torch.manual_seed(0)
    net = make_network(name, Settings(width=0.125, blocks=blocks, stem="small"), 4, SIDE)
    return net.train(), build_units(rule, net, {})


def batch_of(images: int = 8, side: int = SIDE) -> Batch:
    pixels = torch.rand(images, 3, side, side)
    return Batch(pixels, torch.arange(images) % 4, pixels)


def objectives(units: list[Unit]) -> nn.ModuleList:
    return nn.ModuleList(unit.objective for unit in units)


def saved_alone(net: Network, unit: Unit, batch: Batch) -> int:
    """Peak saved bytes of one unit by plain autograd, from the detached input of its blocks."""
    with torch.no_grad():
        x = batch.images
        for block in net.blocks[: unit.start]:
            x = block(x)
    with SavedBytes([net, unit.objective]) as saved:
        for block in net.blocks[unit.start : unit.stop]:
            x = block(x)
        loss, _ = unit.objective(x, batch)
        loss.backward()
    return saved.peak


def saved_by_engine(net: Network, units: list[Unit], batch: Batch) -> SavedBytes:
    with SavedBytes([net, objectives(units)]) as saved:
        Engine(net.blocks, units).step(batch)
    return saved


@pytest.mark.parametrize(
    ("rule", "name"),
    [pytest.param(*p, marks=() if p in HOMES else pytest.mark.full) for p in PAIRS],
)
def test_saved_bytes_are_exactly_those_of_the_largest_unit(rule, name):
    net, units = setting(rule, name)
    batch = batch_of()
    alone = [saved_alone(net, unit, batch) for unit in units]
    saved = saved_by_engine(net, units, batch)
    assert saved.peak == max(alone)
    assert saved.current == 0
    spans = {"simclr": 1, "gim": 4, "loco": len(net.stages) - 1, "bp": 1}
    assert len(alone) == spans.get(rule, len(units)) and (len(alone) > 2 or rule in spans)


def test_the_peak_is_also_the_largest_units_where_units_nest_and_leave_gaps():
    net, _ = setting("simclr", blocks=2)
    spans = {"gaps": [(0, 2), (4, 6)], "chain of three": [(0, 3), (1, 4), (2, 5), (3, 6)]}
    for layout in spans.values():
        units = []
        for start, stop in layout:
            [unit] = build_units("simclr", cut(net, stop), {})
            units.append(Unit(start, stop, unit.objective))
        batch = batch_of()
        alone = [saved_alone(net, unit, batch) for unit in units]
        saved = saved_by_engine(net, units, batch)
        assert saved.peak == max(alone)
        assert saved.current == 0


def test_what_a_unit_passes_through_and_does_not_update_is_freed_too():
    net, units = setting("gim", blocks=2)
    units = [
        dataclasses.replace(unit, updates=frozenset({unit.stop - 1} if k != 1 else ()))
        for k, unit in enumerate(units)
    ]
    batch = batch_of()
    saved = saved_by_engine(net, units, batch)
    assert saved.peak == max(saved_alone(net, unit, batch) for unit in units)
    assert saved.current == 0


def cut(net: Network, stop: int) -> Network:
    """The same network, ending earlier (for an objective of the right width)."""
    short = copy.copy(net)
    short.blocks = net.blocks[:stop]
    return short


def test_local_rules_save_less_than_end_to_end():
    peaks = {}
    for rule in ("simclr", "gim", "loco"):
        net, units = setting(rule, blocks=2)
        peaks[rule] = saved_by_engine(net, units, batch_of()).peak
    assert peaks["gim"] < peaks["loco"] < peaks["simclr"]
    assert peaks["gim"] < 0.7 * peaks["simclr"]


class Spread(nn.Module):
    """The least an objective can be, so that the blocks decide the peak: pool, and a distance."""

    def forward(self, features: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        pooled = features.mean(dim=(2, 3))
        return -(pooled - pooled.roll(1, dims=0)).square().sum(), {}


DEPTH, CHANNELS, IMAGES = 8, 8, 32
SPANS = {
    "simclr": [(0, 8)],
    "loco": [(0, 4), (2, 6), (4, 8)],
    "gim": [(0, 2), (2, 4), (4, 6), (6, 8)],
}


def even_step(kind: str) -> tuple[nn.ModuleList, Callable[[], object]]:
    """A network whose maps are all of one size, and a step of it whose gradients are made anew."""
    net = nn.ModuleList(
        nn.Sequential(
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.BatchNorm2d(CHANNELS), nn.ReLU()
        )
        for _ in range(DEPTH)
    )
    engine = Engine(net, [Unit(*span, Spread()) for span in SPANS[kind]])
    batch = Batch(torch.rand(IMAGES, CHANNELS, 24, 24))

    def step() -> object:
        net.zero_grad(set_to_none=True)
        return engine.step(batch)

    step()  # what an operation makes once, and keeps, is made here
    net.zero_grad(set_to_none=True)
    return net, step


def test_the_allocator_confirms_it():
    saved, seen = {}, {}
    for kind in SPANS:
        net, step = even_step(kind)
        with SavedBytes(net) as counted:
            step()
        saved[kind] = counted.peak
        net.zero_grad(set_to_none=True)
        seen[kind] = allocation_peak(step)
    for local in ("loco", "gim"):
        fall = saved["simclr"] - saved[local]
        assert fall > 0.4 * saved["simclr"]
        assert seen["simclr"] - seen[local] > 0.7 * fall


def test_the_engine_allocates_no_more_than_plain_autograd_on_one_unit():
    net, step = even_step("gim")
    kept = []

    def alone() -> None:
        net.zero_grad(set_to_none=True)
        images = torch.rand(IMAGES, CHANNELS, 24, 24)  # in the place of the unit below
        features = net[1](net[0](images))
        kept.append(features)  # as the next unit's input
        Spread()(features, Batch(images))[0].backward()

    alone()
    kept.clear()
    net.zero_grad(set_to_none=True)
    plain = allocation_peak(alone)
    one_map = 4 * IMAGES * CHANNELS * 24 * 24
    assert allocation_peak(step) < plain + 0.2 * one_map


@pytest.mark.parametrize("kind", SPANS)
def test_nothing_stays_after_a_step_but_gradients(kind):
    net, step = even_step(kind)
    returned = []

    def step_and_more() -> object:
        returned.append(step())
        return torch.empty(HUGE, dtype=torch.uint8)  # on top of all that is alive: the peak

    left = allocation_peak(step_and_more) - HUGE
    gradients = sum(4 * parameter.numel() for parameter in net.parameters())
    one_map = 4 * IMAGES * CHANNELS * 24 * 24
    assert gradients <= left < gradients + 4096 < one_map / 10
