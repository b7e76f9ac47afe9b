"""Networks as lists of blocks: one file a family, each of which returns a `Network`."""

from locbench.networks.base import Block, Network

__all__ = ["Block", "Network"]
