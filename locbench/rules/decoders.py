"""Forms of decoder: what lies between a unit's last block and InfoNCE (LoCo sec. 5.4, Table 4)."""

from __future__ import annotations

from dataclasses import dataclass

from locbench.errors import UserError
from locbench.networks.base import Block, Network, Stride
from locbench.plugins.entry import suggest
from locbench.rules.contrastive import Contrastive

WORDS = {"blocks": "", "stage": "1 stage", "network": "full network"}


@dataclass(frozen=True, kw_only=True)
class Decoders:
    """The form of all decoders of a rule; errors are UserErrors that name the setting.

    decoder: "blocks", `decoder_blocks` conv blocks of the kind of the block they follow, channels
    kept; "stage", blocks as in the next stage of the encoder, and after the last stage as many as
    it has; "network", blocks as in all stages that follow, so that what a loss sees is as deep as
    the whole encoder, and none after the last.
    decoder_downsampling: whether they shrink the map: a conv block by 2, the others as the encoder
    does. Without it all their strides are 1.
    mlp_layers: linear layers of the MLP after the pool.

    The paper gives the depths. That a conv block keeps its channels, that each of two shrinks the
    map, that "stage" and "network" have the encoder's widths and strides, and what follows the
    last stage are our choices.
    """

    temperature: float
    decoder: str
    decoder_blocks: int
    decoder_downsampling: bool
    mlp_layers: int

    def __post_init__(self) -> None:
        if self.decoder not in WORDS:
            raise UserError(f"rule.decoder = '{self.decoder}'{suggest(self.decoder, WORDS)}")

    def after(self, network: Network, last: int) -> Contrastive:
        """InfoNCE on a fresh decoder after the block of this index."""
        return Contrastive(
            network.blocks[last],
            temperature=self.temperature,
            conv_blocks=self._convs(network, last),
            mlp_layers=self.mlp_layers,
            description=self._words(),
        )

    def _convs(self, network: Network, last: int) -> list[Block]:
        block, stage = network.blocks[last], network.stage_of(last)
        width = block.out_channels
        if self.decoder == "blocks":
            return [block.like(width, width, self._stride(2)) for _ in range(self.decoder_blocks)]
        if self.decoder == "network":
            return [self._as(later) for later in network.blocks[last + 1 :]]
        if stage + 1 < len(network.stages):
            return [self._as(network.blocks[index]) for index in network.stages[stage + 1]]
        strides = [2, *[1] * (len(network.stages[stage]) - 1)]
        return [block.like(width, width, self._stride(stride)) for stride in strides]

    def _as(self, block: Block) -> Block:
        return block.like(block.in_channels, block.out_channels, self._stride(block.stride))

    def _stride(self, stride: Stride) -> Stride:
        return stride if self.decoder_downsampling else 1

    def _words(self) -> str:
        count, mlp = self.decoder_blocks, f"{self.mlp_layers}-layer MLP"
        convs = {0: "", 1: "1 conv block"}.get(count, f"{count} conv blocks")
        convs = WORDS[self.decoder] or convs
        still = "" if self.decoder_downsampling else " w/o down-sampling"
        return f"{convs}{still} + {mlp}" if convs else mlp
