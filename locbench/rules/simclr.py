"""SimCLR (LoCo sec. 3.1): one unit over all stages, one InfoNCE loss at the end.

The decoder is a global average pool and a 2-layer MLP; an extra conv block brings nothing
(LoCo Table 4: 65.6 against 65.7).
"""

from __future__ import annotations

from locbench.networks.base import Network
from locbench.rules.decoders import Decoders
from locbench.units import Unit


def simclr(
    network: Network,
    *,
    temperature: float = 0.1,
    decoder: str = "blocks",
    decoder_blocks: int = 0,
    decoder_downsampling: bool = True,
    mlp_layers: int = 2,
) -> list[Unit]:
    """One unit {S1 ... S4}: gradients go from the last stage down to the stem.

    The decoder's settings: see `Decoders`.
    """
    decoders = Decoders(
        temperature=temperature,
        decoder=decoder,
        decoder_blocks=decoder_blocks,
        decoder_downsampling=decoder_downsampling,
        mlp_layers=mlp_layers,
    )
    count = len(network.blocks)
    return [Unit(0, count, decoders.after(network, count - 1))]
