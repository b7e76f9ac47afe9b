"""What neighbouring units of LoCo share, and how (LoCo sec. 5.5, Table 5)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from torch import Tensor, nn

from locbench.errors import UserError
from locbench.networks.base import Block, Network
from locbench.plugins.entry import suggest
from locbench.rules.contrastive import Contrastive
from locbench.units import Batch, Unit, trainable

SHARING = ("stage", "none", "upper", "penalty", "blocks")
OVER_MORE = ("stage", "upper")  # those that units of any number of stages can have
Objectives = Callable[[int], Contrastive]  # from the index of a unit's last block


class SoftlyShared(nn.Module):
    """InfoNCE after a copy of the stage above, and the squared distance of the two (Table 5).

    loss = InfoNCE + penalty * |copy - stage|^2, summed over all parameters, those of batch norm
    included. Its gradient reaches the copy, which starts as the same, and the stage itself, whose
    parameters have to be the unit's `ties`. Logs the distance without its factor.

    Where the paper is silent: there is no factor of a half; batch-norm statistics are not tied,
    each copy keeps those of its own.
    """

    capturable = True

    def __init__(
        self, stage: Sequence[Block], *, number: int, inner: Contrastive, penalty: float
    ) -> None:
        super().__init__()
        self.copy = copied(nn.Sequential(*stage))
        self.inner, self.penalty = inner, penalty
        # In a tuple: as parameters of this module they would be in its state a second time.
        self.tied = tuple(trainable(stage))
        self.description = f"copy of stage {number} + {inner.description}"

    @property
    def head(self) -> nn.Module:
        """What turns the features into projections."""
        return nn.Sequential(self.copy, self.inner.head)

    def distance(self) -> Tensor:
        """The squared distance of the copy's parameters from the stage's."""
        pairs = zip(trainable([self.copy]), self.tied, strict=True)
        return sum((own - theirs).square().sum() for own, theirs in pairs)

    def forward(self, features: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """features [2N, C, H, W] -> the loss, {"accuracy": ..., "distance": ...}."""
        loss, log = self.inner(self.copy(features), batch)
        distance = self.distance()
        return loss + self.penalty * distance, {**log, "distance": distance.detach()}


def copied(module: nn.Sequential) -> nn.Sequential:
    """The same module with equal weights of its own; no random number is drawn.

    Given its tensors as already copied, deepcopy takes those: tensors without content, as costs
    are traced with, it cannot copy itself.
    """
    memo: dict[int, Tensor] = {id(b): b.clone() for b in module.buffers()}
    for parameter in module.parameters():
        values = parameter.detach().clone()
        memo[id(parameter)] = nn.Parameter(values, requires_grad=parameter.requires_grad)
    return copy.deepcopy(module, memo)


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """How units overlap; errors are UserErrors that name the setting.

    sharing: one of SHARING.
      stage: units of `unit_stages` neighbouring stages, one starting at every stage but the last
        ones; each loss updates all of its unit. 2 is LoCo, 1 is GIM, as many as there are SimCLR.
      none: GIM with LoCo's decoder.
      upper: as "stage", but a shared stage is updated by the topmost of its units alone (the
        gradient of the others goes through it): by the one that it is first in, if there is one.
      penalty: units {S1}, {S2}, {S3, S4}, whose losses but the last see the next stage through a
        copy, which `penalty` * |difference|^2 holds to it. What is read out is the copy that is
        first in its unit, a choice: the paper does not say which.
      blocks: units of a stage and the first `shared_blocks` blocks of the next, and the last stage
        in one of its own, a choice too: else the rest of it would never be trained.
    first_loss: one more unit, of the first stage alone (see `locbench.rules.loco`); for "stage".
    """

    sharing: str
    shared_blocks: int
    penalty: float
    unit_stages: int
    first_loss: bool

    def __post_init__(self) -> None:
        if self.sharing not in SHARING:
            raise UserError(f"rule.sharing = '{self.sharing}'{suggest(self.sharing, SHARING)}")
        if self.unit_stages != 2 and self.sharing not in OVER_MORE:
            raise UserError(
                f"rule.unit_stages = {self.unit_stages} is for rule.sharing "
                f"{' and '.join(OVER_MORE)}, not '{self.sharing}': leave it at 2"
            )
        if self.first_loss and (self.sharing != "stage" or self.unit_stages < 2):
            raise UserError(
                "rule.first_loss = true is for rule.sharing = 'stage' and units of two stages or "
                "more: leave it at false"
            )
        for key, of in (("shared_blocks", "blocks"), ("penalty", "penalty")):
            value, is_used = getattr(self, key), self.sharing == of
            if is_used and not value > 0:
                raise UserError(f"rule.{key} = {value}: rule.sharing = '{of}' wants one above 0")
            if value and not is_used:
                raise UserError(
                    f"rule.{key} = {value} is for rule.sharing = '{of}', not '{self.sharing}'"
                )

    def units(self, network: Network, objective: Objectives) -> list[Unit]:
        """The units of a network, with an objective after the last block of each."""
        if self.sharing == "penalty":
            return self._softly(network, objective)
        if self.sharing == "blocks":
            return self._by_blocks(network, objective)
        units = self._by_stages(network, objective)
        if self.first_loss:
            first = network.stages[0]
            return [Unit(first.start, first.stop, objective(first[-1])), *units]
        if self.sharing != "upper":
            return units
        stages = [frozenset(stage) for stage in network.stages]
        lower = [replace(u, updates=stages[k]) for k, u in enumerate(units[:-1])]
        return [*lower, units[-1]]

    def _by_stages(self, network: Network, objective: Objectives) -> list[Unit]:
        stages, count = network.stages, 1 if self.sharing == "none" else self.unit_stages
        if not 1 <= count <= len(stages):
            raise UserError(
                f"rule.unit_stages = {count}: give 1 to {len(stages)}, the stages of the network"
            )
        spans = zip(stages, stages[count - 1 :], strict=False)
        return [Unit(first.start, last.stop, objective(last[-1])) for first, last in spans]

    def _softly(self, network: Network, objective: Objectives) -> list[Unit]:
        *below, (first, second) = pairwise(network.stages)
        units = []
        for number, (stage, upper) in enumerate(below, start=2):
            blocks = network.blocks[upper.start : upper.stop]
            soft = SoftlyShared(
                blocks, number=number, inner=objective(upper[-1]), penalty=self.penalty
            )
            units.append(Unit(stage.start, stage.stop, soft, ties=soft.tied))
        return [*units, Unit(first.start, second.stop, objective(second[-1]))]

    def _by_blocks(self, network: Network, objective: Objectives) -> list[Unit]:
        count, units = self.shared_blocks, []
        for number, (stage, upper) in enumerate(pairwise(network.stages), start=2):
            if count >= len(upper):
                raise UserError(
                    f"rule.shared_blocks = {count}: stage {number} has {len(upper)}; share fewer "
                    "of them, set a larger network.blocks, or share whole stages"
                )
            stop = upper.start + count
            units.append(Unit(stage.start, stop, objective(stop - 1)))
        top = network.stages[-1]
        return [*units, Unit(top.start, top.stop, objective(top[-1]))]
