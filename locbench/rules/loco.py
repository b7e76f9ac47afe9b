"""LoCo (sec. 4): units of two stages that overlap by one.

Units {S1, S2}, {S2, S3}, {S3, S4}. The loss at the end of a unit reaches both of its stages, so a
shared stage is trained by its own loss and by that of the stage above; the sum is not weighted.
The last stage is only in the last unit. Decoder: one conv block with down-sampling, then the MLP.

Section 4 and Figure 1 have these three losses on ResNet-50. Appendix A lists decoders at res2,
res3 and res4 for GIM *and LoCo* beside the full encoder's, which would be four: `first_loss` adds
the one at res2, the end of the first stage, and the units are {S1}, {S1, S2}, {S2, S3}, {S3, S4}.
That it is off is our choice.

Other ways of sharing (sec. 5.5, Table 5), and units of more stages: see `locbench.rules.sharing`.
"""

from __future__ import annotations

from functools import partial

from locbench.networks.base import Network
from locbench.rules.decoders import Decoders
from locbench.rules.sharing import Sharing
from locbench.units import Unit


def loco(
    network: Network,
    *,
    temperature: float = 0.1,
    decoder: str = "blocks",
    decoder_blocks: int = 1,
    decoder_downsampling: bool = True,
    mlp_layers: int = 2,
    sharing: str = "stage",
    shared_blocks: int = 0,
    penalty: float = 0.0,
    unit_stages: int = 2,
    first_loss: bool = False,
) -> list[Unit]:
    """One unit for every pair of neighbouring stages, or as `sharing` and `unit_stages` say.

    The decoders' settings: see `Decoders`; the others: see `Sharing`.
    """
    decoders = Decoders(
        temperature=temperature,
        decoder=decoder,
        decoder_blocks=decoder_blocks,
        decoder_downsampling=decoder_downsampling,
        mlp_layers=mlp_layers,
    )
    way = Sharing(
        sharing=sharing,
        shared_blocks=shared_blocks,
        penalty=penalty,
        unit_stages=unit_stages,
        first_loss=first_loss,
    )
    return way.units(network, partial(decoders.after, network))
