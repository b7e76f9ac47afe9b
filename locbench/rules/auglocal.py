"""AugLocal (Ma et al. 2024): every block on its own; auxiliary networks of later layers' kind.

The auxiliary network of a block is built of fresh blocks like some of those that follow it,
selected evenly (sec. 3), then pool and classifier; its depth falls linearly along the network.
Loss: cross-entropy. With the paper's depth d = 2 ... 9, d - 1 hidden layers and the classifier.

On small images the official code trains the last d blocks and the classifier together (`joint`);
on ImageNet only the last block, without falling depth (`decay` = 0).
"""

from __future__ import annotations

from locbench.networks.base import Network
from locbench.rules.auxiliary import Auxiliary, hidden_layers
from locbench.rules.infopro import Reconstruction
from locbench.rules.supervised import Supervised, linear, local_units
from locbench.units import Unit

# Of the reconstruction in Table 13, from the first unit to the last; the paper does not give them.
RECONSTRUCTION = (5.0, 0.5)


def auglocal(
    network: Network,
    *,
    depth: int = 2,
    decay: float = 0.5,
    joint: bool = True,
    selection: str = "uniform",
    layer: str = "block",
    multiplier: float = 1.0,
    halving: str = "stride",
    classifier: str = "linear",
    initial: str = "he",
    reconstruction: bool = False,
) -> list[Unit]:
    """One unit a block; the last `depth` blocks and the classifier are one where `joint`.

    `selection`, `layer`, `multiplier`: see `Auxiliary` (Tables 5 and 10); so `halving`,
    `classifier` and `initial`, which are others for networks that are no ResNets.
    `reconstruction` adds InfoPro's loss to the cross-entropy (Table 13).
    """
    counts = hidden_layers(len(network.blocks), depth=depth, decay=decay, joint=joint)
    auxiliary = Auxiliary(
        selection=selection,
        layer=layer,
        multiplier=multiplier,
        halving=halving,
        classifier=classifier,
        initial=initial,
    )

    def objective(index: int, ratio: float) -> Supervised:
        network_of_unit, text = auxiliary.build(network, index, counts[index], norm=joint)
        if not reconstruction:
            return Supervised(network_of_unit, description=text)
        return Supervised(
            network_of_unit,
            description=f"{text}, decoder",
            further=Reconstruction(network.widths[index]),
            further_weight=linear(*RECONSTRUCTION, ratio),
        )

    return local_units(network, objective, joint=len(network.blocks) - len(counts))
