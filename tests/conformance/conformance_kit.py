"""What the conformance tests share: tiny networks, batches, data, and a plain forward."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from forms import FORMS
from torch import Tensor, nn

from locbench import networks
from locbench.data import ImageData, Split
from locbench.networks import Network
from locbench.plugins.registry import RULES
from locbench.recipes.recipe import Recipe
from locbench.recipes.schema import SGD, Augmentation, Crop, Data, Lars, Probe, Schedule, Training
from locbench.recipes.schema import Network as Settings
from locbench.rules import build_units
from locbench.training.engine import Engine
from locbench.units import Batch, Unit

TINY = Settings(width=0.125, blocks=1, stem="small")
DEEP = Settings(width=0.125, blocks=3, stem="small")
SIDE = 16
CLASSES = 4
SEED = 11
FINGERPRINT = {"name": "fake", "version": 1, "checksum": "0" * 64}


def size_for(settings: dict[str, Any]) -> Settings:
    """Forms may share some of a stage's blocks, or select among many."""
    return DEEP if settings else TINY


def make_network(name: str, settings: Settings = TINY, side: int = SIDE) -> Network:
    """A network in training mode, moved off special values: no zero scale hides a branch."""
    network = networks.make_network(name, settings, CLASSES, side).train()
    perturb([network])
    return network


def make_units(rule: str, network: Network, settings: dict[str, Any] | None = None) -> list[Unit]:
    """The units of a registered rule, their objectives moved off special values as well."""
    units = build_units(rule, network, settings or {})
    inside = {id(p) for p in network.parameters()}
    perturb([unit.objective for unit in units], leave=inside)
    return units


@torch.no_grad()
def perturb(modules: Iterable[nn.Module], leave: Iterable[int] = ()) -> None:
    seen = set(leave)
    for parameter in (p for module in modules for p in module.parameters()):
        if parameter.requires_grad and id(parameter) not in seen:
            parameter.add_(0.05 * torch.randn_like(parameter))
            seen.add(id(parameter))


def make_batch(images: int = 4, side: int = SIDE) -> Batch:
    """Two views of each image in the default dtype, with targets and pixels for rules that ask."""
    pixels = torch.rand(2 * images, 3, side, side)
    return Batch((pixels - 0.5) / 0.25, torch.arange(2 * images) % CLASSES, pixels)


def plain_loss(network: Network, unit: Unit, batch: Batch) -> Tensor:
    """A unit's loss on a forward of its own; below its first block there is no graph at all.

    Seeded as `engine_step` is: where there is dropout, both leave out the same.
    """
    torch.manual_seed(SEED)
    with torch.no_grad():
        x = batch.images
        for block in network.blocks[: unit.start]:
            x = block(x)
    for block in network.blocks[unit.start : unit.stop]:
        x = block(x)
    return unit.objective(x, batch)[0]


def engine_step(net: Network, units: list[Unit], batch: Batch):
    """Losses and logs of one step of the engine, whose gradients are left in the parameters."""
    torch.manual_seed(SEED)
    return Engine(net.blocks, units).step(batch)


def variations(rule: str) -> list[dict[str, Any]]:
    """A rule's defaults, each of its numbers + 1 and switches turned by itself, and its forms."""
    defaults = RULES.entry(rule).settings.items()
    alone = [
        {key: not default if isinstance(default, bool) else default + 1}
        for key, default in defaults
        if not isinstance(default, str)
    ]
    forms = [settings for name, settings in FORMS if name == rule]
    return [{}, *alone, *(settings for settings in forms if settings not in alone)]


def fake_split(images: int, seed: int) -> Split:
    """Noise around a colour of the class."""
    draw = torch.Generator().manual_seed(seed)
    targets = torch.arange(images) % CLASSES
    colours = torch.randint(40, 216, (CLASSES, 3, 1, 1), generator=torch.Generator().manual_seed(9))
    noise = torch.randint(-40, 40, (images, 3, SIDE, SIDE), generator=draw)
    return Split((colours[targets] + noise).to(torch.uint8), targets)


def fake_data() -> ImageData:
    """A data set that needs no cache and no files."""
    names = tuple(f"class {k}" for k in range(CLASSES))
    train, test = fake_split(24, seed=1), fake_split(16, seed=2)
    return ImageData("fake", 1, FINGERPRINT["checksum"], names, train, test)


def small_recipe(rule: str, settings: dict[str, Any] | None = None, **sections: Any) -> Recipe:
    """Six or seven steps of training on `fake_data`, then three epochs of probe."""
    labels = RULES.entry(rule).learns == "label"
    return Recipe(
        name="conformance",
        scale="smoke",
        rule=settings or {},
        **{
            "data": Data("shapes", SIDE),
            "augmentation": Crop(padding=2) if labels else Augmentation(),
            "network": TINY,
            "optimizer": SGD() if labels else Lars(lr=0.5),
            "schedule": Schedule(epochs=2, warmup_epochs=0.5),
            "training": Training(batch=8, precision="fp32"),
            "probe": Probe(epochs=3, lr=1.0, batch=8, milestones=(2,), augment=False, blocks="all"),
        }
        | sections,
    )
