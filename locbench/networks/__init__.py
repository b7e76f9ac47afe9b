"""Networks as lists of blocks: one file a family, each of which returns a `Network`."""

from __future__ import annotations

from locbench.networks.base import Block, Network
from locbench.plugins.registry import NETWORKS
from locbench.recipes import load as recipes

__all__ = ["Block", "Network", "make_network"]


def make_network(
    name: str, settings: recipes.Network, num_classes: int, resolution: int
) -> Network:
    """A registered network for images of `resolution` pixels; UserError for an unknown name."""
    network = NETWORKS.get(name)(settings, num_classes=num_classes)
    network.resolution = resolution
    return network
