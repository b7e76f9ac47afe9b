"""LoCo (sec. 4): units of two stages that overlap by one.

Units {S1, S2}, {S2, S3}, {S3, S4}. The loss at the end of a unit reaches both of its stages, so a
shared stage is trained by its own loss and by that of the stage above; the sum is not weighted.
The last stage is only in the last unit. Decoder: one conv block with down-sampling, then the MLP.
"""

from __future__ import annotations

from itertools import pairwise

from locbench.networks.base import Network
from locbench.rules.contrastive import Contrastive
from locbench.training.engine import Unit


def loco(
    network: Network, *, temperature: float = 0.1, decoder_blocks: int = 1, mlp_layers: int = 2
) -> list[Unit]:
    """One unit for every pair of neighbouring stages."""
    return [
        Unit(
            lower.start,
            upper.stop,
            Contrastive(network.blocks[upper[-1]], temperature, decoder_blocks, mlp_layers),
        )
        for lower, upper in pairwise(network.stages)
    ]
