"""A case of the cost tables: a rule on a network under a recipe. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from locbench.recipes.recipe import Recipe


@dataclass(frozen=True)
class Case:
    """A rule on a network, and the classes of its classifier; the recipe has the batch."""

    recipe: Recipe
    rule: str
    network: str
    classes: int
