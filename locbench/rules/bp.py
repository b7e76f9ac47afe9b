"""Backpropagation: one unit, all blocks and the classifier; with or without checkpointing."""

from __future__ import annotations

from locbench.networks.base import Network
from locbench.rules.supervised import head_unit
from locbench.units import Unit


def bp(network: Network, *, checkpoint: bool = False) -> list[Unit]:
    """One unit end to end; with `checkpoint` every block is recomputed in the backward pass."""
    return [head_unit(network, start=0, recompute=checkpoint)]
