"""One training step without data or memory: what autograd keeps of it."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from locbench.cost.activations import SavedBytes
from locbench.networks import make_network
from locbench.recipes import Recipe
from locbench.rules import build_units
from locbench.training.engine import Batch, Engine

VIEWS = {"views": 2, "label": 1}


def saved_step(recipe: Recipe, rule: str, network: str, classes: int) -> SavedBytes:
    """The bytes saved over one fp32 step of the recipe's batch: `peak`, and the `timeline`.

    The step is the engine's own, on tensors that have shapes and no content.
    """
    side = recipe.data.resolution
    images = VIEWS[recipe.gives] * recipe.training.batch
    with FakeTensorMode():
        made = make_network(network, recipe.network, classes, side).train()
        units = build_units(rule, made, recipe.rule)
        objectives = [unit.objective.train() for unit in units]
        pixels = torch.empty(images, 3, side, side)
        batch = Batch(pixels, torch.zeros(images, dtype=torch.long), torch.empty_like(pixels))
        with SavedBytes([made, *objectives, pixels, batch.pixels], timeline=True) as saved:
            Engine(made.blocks, units).step(batch)
    return saved
