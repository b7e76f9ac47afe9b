"""Which rules are tried on which networks, where all on all would take too long (`-m full` does).

Every rule on the network of its paper, and one rule of one unit and one of overlapping units on one
network of every family: blocks of every kind, in units of every kind.
"""

from __future__ import annotations

from locbench.plugins.registry import NETWORKS, RULES

_OF_FAMILY = {entry.target.split(":")[0]: entry.name for entry in reversed(list(NETWORKS))}
FAMILIES = [entry.name for entry in NETWORKS if entry.name in _OF_FAMILY.values()]


def home(rule: str) -> str:
    """The network of a rule's paper, by what it learns from."""
    return {"views": "resnet50", "label": "resnet32"}[RULES.entry(rule).learns]


HOMES = [(rule, home(rule)) for rule in RULES.names()]
PAIRS = [*HOMES, *((r, n) for r in ("bp", "loco") for n in FAMILIES if (r, n) not in HOMES)]
