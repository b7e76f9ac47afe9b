"""Greedy InfoMax as LoCo runs it (sec. 3.2): an InfoNCE loss at the end of every stage.

Units {S1}, {S2}, {S3}, {S4}: no gradient crosses a stage's first block. The decoder is the plain
one of sec. 5.1 (our choice: the paper does not say which GIM had in Tables 1 to 3); the "no
sharing" row of Table 5 has `decoder_blocks = 1`.
"""

from __future__ import annotations

from locbench.networks.base import Network
from locbench.rules.decoders import Decoders
from locbench.units import Unit


def gim(
    network: Network,
    *,
    temperature: float = 0.1,
    decoder: str = "blocks",
    decoder_blocks: int = 0,
    decoder_downsampling: bool = True,
    mlp_layers: int = 2,
) -> list[Unit]:
    """One unit a stage, disjoint. The decoders' settings: see `Decoders`."""
    decoders = Decoders(
        temperature=temperature,
        decoder=decoder,
        decoder_blocks=decoder_blocks,
        decoder_downsampling=decoder_downsampling,
        mlp_layers=mlp_layers,
    )
    return [
        Unit(stage.start, stage.stop, decoders.after(network, stage[-1]))
        for stage in network.stages
    ]
