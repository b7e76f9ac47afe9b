"""SimCLR (LoCo sec. 3.1): one unit over all stages, one InfoNCE loss at the end.

The decoder is a global average pool and a 2-layer MLP; an extra conv block brings nothing
(LoCo Table 4: 65.6 against 65.7).
"""

from __future__ import annotations

from locbench.networks.base import Network
from locbench.rules.contrastive import Contrastive
from locbench.training.engine import Unit


def simclr(
    network: Network, *, temperature: float = 0.1, decoder_blocks: int = 0, mlp_layers: int = 2
) -> list[Unit]:
    """One unit {S1 ... S4}: gradients go from the last stage down to the stem."""
    last = network.blocks[-1]
    objective = Contrastive(last, temperature, decoder_blocks, mlp_layers)
    return [Unit(0, len(network.blocks), objective)]
