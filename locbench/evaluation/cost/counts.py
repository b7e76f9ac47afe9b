"""What a network and a rule's auxiliary networks cost, counted from the built modules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

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
# What counts as a multiply-add; see `multiply_adds`. "all" is the sum that fvcore gives: ReLU
# and additions are nothing.
CONVENTIONS = {
    "conv+linear": CONV_AND_LINEAR,
    "all": (*CONV_AND_LINEAR, "batch_norm", "adaptive_avg_pool2d", "upsample_bilinear2d"),
}
SHORTCUTS = ("downsample", "shortcut")  # names of the modules beside a residual branch


@dataclass(frozen=True)
class BlockCost:
    """What a block of the network, or its classifier, costs with the auxiliary networks on it.

    `stage` counts from 0, and is None of the classifier. `operators` are multiply-adds for one
    image by operator; `shape` is the output's, without the batch. The auxiliary operators are of
    what turns features into logits or projections: not of InfoPro's reconstruction and PredSim's
    similarity, which tell nothing in evaluation. The auxiliary parameters are all.
    """

    name: str
    stage: int | None
    shape: tuple[int, ...]
    parameters: int
    operators: Counter[str]
    auxiliary_parameters: int = 0
    auxiliary_operators: Counter[str] = field(default_factory=Counter)

    def multiply_adds(self, operators: Collection[str]) -> int:
        """Of the block itself."""
        return total(self.operators, operators)

    def auxiliary_multiply_adds(self, operators: Collection[str]) -> int:
        """Of the auxiliary networks; 0 where there is none."""
        return total(self.auxiliary_operators, operators)


def block_costs(network: Network, units: Sequence[Unit]) -> list[BlockCost]:
    """Block by block, for an image of `network.resolution` pixels; last the classifier, if trained.

    An auxiliary network stands with the block that it reads. Of an objective without `head` (an
    objective from outside need not say which part turns features into outputs) no operations are
    counted.
    """
    side, head = network.resolution, network.head
    of_network = {id(p) for p in network.parameters()}
    costs = []
    for k, (operators, shape) in enumerate(operations_of_each(network.blocks, (3, side, side))):
        objectives = [unit.objective for unit in units if unit.stop == k + 1]
        heads = [getattr(objective, "head", None) for objective in objectives]
        auxiliary = [
            operations_of_each(module, shape)[0][0]
            for module in heads
            if module is not None and module is not head
        ]
        weights = nn.ModuleList(objectives).parameters()
        costs.append(
            BlockCost(
                name=f"block {k + 1}",
                stage=network.stage_of(k),
                shape=shape,
                parameters=parameters(network.blocks[k]),
                operators=operators,
                auxiliary_parameters=sum(p.numel() for p in weights if id(p) not in of_network),
                auxiliary_operators=sum(auxiliary, Counter()),
            )
        )
    if any(module is head for unit in units for module in unit.objective.modules()):
        [(operators, shape)] = operations_of_each(head, costs[-1].shape)
        costs.append(BlockCost("classifier", None, shape, parameters(head), operators))
    return costs


def counts(network: Network, units: Sequence[Unit]) -> dict[str, float]:
    """Figures by name, of one image of `network.resolution` pixels.

    flops (CONVENTION): multiply-adds in G of the network and of what turns every unit's output
    into logits or projections; not of InfoPro's reconstruction and PredSim's similarity, which
    tell nothing in evaluation. encoder_flops (CONVENTION): of the blocks alone.
    flops_share (CONVENTION) and memory_share of every stage in percent of all, the stem in the
    first, named as ResNet's: res2, res3, ...: of the encoder's multiply-adds, and of the numbers
    that the convolutions of residual branches put out (LoCo's Table 6).
    """
    costs = block_costs(network, units)
    blocks = costs[: len(network.blocks)]
    figures: dict[str, float] = {}
    for name, operators in CONVENTIONS.items():
        encoder = [cost.multiply_adds(operators) for cost in blocks]
        others = sum(cost.multiply_adds(operators) for cost in costs[len(blocks) :])
        auxiliary = sum(cost.auxiliary_multiply_adds(operators) for cost in costs)
        figures[f"encoder_flops ({name})"] = sum(encoder) / GIGA
        figures[f"flops ({name})"] = (sum(encoder) + others + auxiliary) / GIGA
        figures |= _shares(f"flops_share ({name})", network, encoder)
    numbers = [
        branch_outputs(block, cost.shape)
        for block, cost in zip(network.blocks, blocks, strict=True)
    ]
    figures |= _shares("memory_share", network, numbers)
    figures["encoder_parameters"] = parameters(network.blocks)
    figures["auxiliary_parameters"] = parameters([unit.objective for unit in units])
    return figures


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
