"""Networks as lists of blocks: one file a family, each of which returns a `Network`.

To add one: a function from settings and a number of classes to a `Network`, and its line in
`locbench.plugins.registry`. Names of parts are keys of saved weights: a change of one makes old
encoders unreadable, and a change in the order in which weights are drawn makes other networks of
every seed.
"""

from __future__ import annotations

from locbench.networks.base import Block, Network
from locbench.plugins.registry import NETWORKS
from locbench.recipes import schema

__all__ = ["Block", "Network", "make_network"]


def make_network(name: str, settings: schema.Network, num_classes: int, resolution: int) -> Network:
    """A registered network for images of `resolution` pixels; UserError for an unknown name."""
    network = NETWORKS.get(name)(settings, num_classes=num_classes)
    network.resolution = resolution
    return network
