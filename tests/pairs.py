"""Which rules are tried on which networks, where all on all would take too long (`-m full` does).

Every rule on the network of its paper, and one rule of one unit and one of overlapping units on one
network of every family: blocks of every kind, in units of every kind.
"""

from __future__ import annotations

from locbench.plugins.registry import NETWORKS, RULES

HOME = {"views": "resnet50", "label": "resnet32"}  # by what a rule learns from
_OF_FAMILY = {entry.target.split(":")[0]: entry.name for entry in reversed(list(NETWORKS))}
FAMILIES = [entry.name for entry in NETWORKS if entry.name in _OF_FAMILY.values()]
PAIRS = list(
    dict.fromkeys(
        [
            *((entry.name, HOME[entry.learns]) for entry in RULES),
            *((rule, network) for rule in ("bp", "loco") for network in FAMILIES),
        ]
    )
)
