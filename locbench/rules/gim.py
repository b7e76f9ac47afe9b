"""Greedy InfoMax as LoCo runs it (sec. 3.2): an InfoNCE loss at the end of every stage.

Units {S1}, {S2}, {S3}, {S4}: no gradient crosses a stage's first block. The decoder is the plain
one of sec. 5.1 (our choice: the paper does not say which GIM had in Tables 1 to 3); the "no
sharing" row of Table 5 has `decoder_blocks = 1`.
"""

from __future__ import annotations

from locbench.networks.base import Network
from locbench.rules.contrastive import Contrastive
from locbench.training.engine import Unit


def gim(
    network: Network, *, temperature: float = 0.1, decoder_blocks: int = 0, mlp_layers: int = 2
) -> list[Unit]:
    """One unit a stage, disjoint."""
    return [
        Unit(
            stage.start,
            stage.stop,
            Contrastive(network.blocks[stage[-1]], temperature, decoder_blocks, mlp_layers),
        )
        for stage in network.stages
    ]
