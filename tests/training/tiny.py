"""Data, recipe and trainer so small that a whole run of ten steps takes a fraction of a second."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from locbench.data import ImageData, Split
from locbench.plugins.registry import RULES
from locbench.recipes.recipe import Recipe
from locbench.recipes.schema import SGD, Augmentation, Crop, Data, Lars, Network, Schedule, Training
from locbench.training.loop import Trainer

SIDE, IMAGES, BATCH, EPOCHS = 16, 26, 8, 3
STEPS = 10  # 26 * 3 // 8 + 1; the fourth batch runs across the end of the first epoch
NETWORK = Network(width=0.125, blocks=1, stem="small")


def tiny_data(images: int = IMAGES) -> ImageData:
    """Coloured noise, a different hue for every class; nothing is read from a disk."""
    draw = torch.Generator().manual_seed(5)
    targets = torch.arange(images) % 4
    hue = torch.tensor([[200, 40, 40], [40, 200, 40], [40, 40, 200], [120, 120, 120]])
    noise = torch.randint(0, 56, (images, 3, SIDE, SIDE), generator=draw)
    split = Split((hue[targets][:, :, None, None] + noise).to(torch.uint8), targets)
    return ImageData("shapes", 1, "tiny", tuple("abcd"), split, split)


def tiny_recipe(
    precision: str = "fp32", lr: float = 0.3, rule: str = "loco", **sections: Any
) -> Recipe:
    """Ten steps of eight images on the tiny network; twelve where the rule learns labels."""
    labels = RULES.entry(rule).learns == "label"
    defaults = {
        "data": Data("shapes", SIDE),
        "augmentation": Crop(padding=2) if labels else Augmentation(),
        "network": NETWORK,
        "optimizer": SGD(lr=lr) if labels else Lars(lr=lr),
        "schedule": Schedule(EPOCHS, warmup_epochs=1.0),
        "training": Training(BATCH, precision),
    }
    return Recipe("tiny", "smoke", **(defaults | sections))


def tiny_trainer(
    rule: str, recipe: Recipe | None = None, network: str = "resnet50", seed: int = 3
) -> Trainer:
    """A trainer at its first step, on the CPU."""
    return Trainer(recipe or tiny_recipe(rule=rule), rule, network, seed, tiny_data(), "cpu")


def weights(trainer: Trainer) -> list[Tensor]:
    """Copies of all that the optimizer may change."""
    return [parameter.detach().clone() for parameter in trainer.engine.parameters()]


def same(a: Any, b: Any) -> bool:
    """Whether two nested states are equal to the last bit."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and a == b
