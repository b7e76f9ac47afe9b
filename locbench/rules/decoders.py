"""Forms of decoder: what lies between a unit's last block and InfoNCE (LoCo sec. 5.4, Table 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from locbench.errors import UserError
from locbench.networks.base import Block, Network, Stride
from locbench.plugins.entry import suggest
from locbench.rules.contrastive import Contrastive

WORDS = {"blocks": "", "stage": "1 stage", "full": "full network", "rest": "rest of the network"}


@dataclass(frozen=True, kw_only=True)
class Decoders:
    """The form of all decoders of a rule; errors are UserErrors that name the setting.

    decoder: "blocks", `decoder_blocks` conv blocks of the kind of the block they follow, channels
    kept; "stage", blocks as in the next stage of the encoder, and after the last stage as many as
    it has; "full", a decoder as deep as the full encoder: blocks as in all stages that follow, then
    more of the last stage's, until there are as many as the encoder has after its stem; "rest", the
    former alone, so that what a loss sees is as deep as the encoder, and none after the last stage.
    decoder_downsampling: whether they shrink the map: a conv block by 2, the others as the encoder
    does, and the first of those that go on past its last stage by 2. Without it all strides are 1.
    mlp_layers: linear layers of the MLP after the pool.

    The paper gives the depths ("full" is Table 4's "full network"; "rest" is another reading of
    it). That a conv block keeps its channels, that each of two shrinks the map, that the others
    have the encoder's widths and strides, and what goes on past its last stage are our choices.
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
        block = network.blocks[last]
        if self.decoder == "blocks":
            width = block.out_channels
            return [block.like(width, width, self._stride(2)) for _ in range(self.decoder_blocks)]
        following, depth = self._following(network, last)
        convs = [self._as(later) for later in following]
        block = [block, *convs][-1]
        width, strides = block.out_channels, [2, *[1] * depth][: depth - len(convs)]
        return [*convs, *(block.like(width, width, self._stride(stride)) for stride in strides)]

    def _following(self, network: Network, last: int) -> tuple[Sequence[Block], int]:
        """The blocks of the encoder that those of the decoder are like at first, and its depth."""
        if self.decoder == "stage":
            _, *later = network.stages[network.stage_of(last) :]
            following = [network.blocks[index] for index in (later or [[]])[0]]
            return following, len(following or network.stages[-1])
        following = network.blocks[last + 1 :]
        return following, len(network.blocks) - 1 if self.decoder == "full" else len(following)

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
