"""What a network and a rule's auxiliary networks cost, counted from the built modules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import nn

from locbench.evaluation.cost.operations import (
    CONV_AND_LINEAR,
    operations_of_each,
    parameters,
    total,
)
from locbench.networks.base import Network
from locbench.units import Unit

GIGA = 1e9
# What counts as a multiply-add, in fvcore's names of operators. "all": as its own sum has it, batch
# norm 2 an element, adaptive average pooling 1 an input element, bilinear interpolation 4 an output
# element; ReLU and additions nothing.
CONVENTIONS = {
    "conv+linear": CONV_AND_LINEAR,
    "all": (*CONV_AND_LINEAR, "batch_norm", "adaptive_avg_pool2d", "upsample_bilinear2d"),
}
SHORTCUTS = ("downsample", "shortcut")  # names of the modules beside a residual branch


@dataclass(frozen=True)
class Part:
    """A block of the network, or its classifier, and the auxiliary networks on its output.

    `stage` counts from 0, and is None of the classifier. Operators are fvcore's counts for one
    image; `shape` is the output's, without the batch. The auxiliary operators are of what turns
    features into logits or projections: not of InfoPro's reconstruction and PredSim's similarity,
    which tell nothing in evaluation. The auxiliary parameters are all.
    """

    name: str
    stage: int | None
    shape: tuple[int, ...]
    parameters: int
    operators: Counter[str]
    auxiliary_parameters: int = 0
    auxiliary_operators: Counter[str] | None = None

    def multiply_adds(self, operators: Collection[str]) -> int:
        """Of the network's own part."""
        return total(self.operators, operators)

    def auxiliary_multiply_adds(self, operators: Collection[str]) -> int:
        """Of the auxiliary networks; 0 where there is none."""
        return total(self.auxiliary_operators or Counter(), operators)


def parts(network: Network, units: Sequence[Unit]) -> list[Part]:
    """Block by block, for an image of `network.resolution` pixels; last the classifier, if trained.

    An auxiliary network stands with the block that it reads. Of an objective without `head` (see
    `Part`) no operations are counted.
    """
    side, head = network.resolution, network.head
    trains_head = any(module is head for unit in units for module in unit.objective.modules())
    found = []
    for k, (operators, shape) in enumerate(operations_of_each(network.blocks, (3, side, side))):
        ending = [u for u in units if u.stop == k + 1]
        # An objective from outside need not say which of its parts turns features into outputs.
        heads = [getattr(unit.objective, "head", None) for unit in ending]
        heads = [part for part in heads if part is not None and part is not head]
        counted = sum((operations_of_each(head, shape)[0][0] for head in heads), Counter())
        objectives = nn.ModuleList(unit.objective for unit in ending)
        own = {id(p) for p in network.parameters()}
        auxiliary = sum(p.numel() for p in objectives.parameters() if id(p) not in own)
        block = parameters(network.blocks[k])
        name = f"block {k + 1}"
        found.append(Part(name, network.stage_of(k), shape, block, operators, auxiliary, counted))
    if trains_head:
        [(operators, shape)] = operations_of_each(network.head, found[-1].shape)
        found.append(Part("classifier", None, shape, parameters(network.head), operators))
    return found


def counts(network: Network, units: Sequence[Unit]) -> dict[str, float]:
    """Figures by name, of one image of `network.resolution` pixels.

    flops (CONVENTION): multiply-adds in G of the network and of what turns every unit's output
    into logits or projections; not of InfoPro's reconstruction and PredSim's similarity, which
    tell nothing in evaluation. encoder_flops (CONVENTION): of the blocks alone.
    flops_share (CONVENTION) and memory_share of every stage in percent of all, the stem in the
    first, named as ResNet's: res2, res3, ...: of the encoder's multiply-adds, and of the numbers
    that the convolutions of residual branches put out (LoCo's Table 6).
    """
    whole = parts(network, units)
    blocks = whole[: len(network.blocks)]
    found: dict[str, float] = {}
    for name, operators in CONVENTIONS.items():
        each = [part.multiply_adds(operators) for part in blocks]
        everything = sum(
            part.multiply_adds(operators) + part.auxiliary_multiply_adds(operators)
            for part in whole
        )
        found[f"encoder_flops ({name})"] = sum(each) / GIGA
        found[f"flops ({name})"] = everything / GIGA
        found |= _shares(f"flops_share ({name})", network, each)
    numbers = [
        branch_outputs(block, part.shape)
        for block, part in zip(network.blocks, blocks, strict=True)
    ]
    found |= _shares("memory_share", network, numbers)
    found["encoder_parameters"] = parameters(network.blocks)
    found["auxiliary_parameters"] = parameters([unit.objective for unit in units])
    return found


def branch_outputs(block: nn.Module, shape: Sequence[int]) -> int:
    """How many numbers the convolutions of a block's residual branch put out for one image.

    Every one counts at the side of the block's output, as LoCo's Table 6 has it. A stem, which has
    no branch, puts out none.
    """
    _, height, width = shape
    convolutions = [
        module
        for name, module in block.named_modules()
        if isinstance(module, nn.Conv2d) and not any(part in SHORTCUTS for part in name.split("."))
    ]
    residual = len(convolutions) > 1
    return sum(conv.out_channels for conv in convolutions) * height * width if residual else 0


def _shares(name: str, network: Network, each: Sequence[int]) -> dict[str, float]:
    whole = max(1, sum(each))
    stages = (sum(each[index] for index in stage) for stage in network.stages)
    return {f"{name} of res{k}": 100 * part / whole for k, part in enumerate(stages, start=2)}
