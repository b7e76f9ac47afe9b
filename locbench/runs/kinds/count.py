"""Count: multiply-adds and parameters of a network and its auxiliary networks, from the modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from locbench.errors import UserError
from locbench.evaluation.cost.case import Case
from locbench.plugins.entry import UNTRAINED
from locbench.plugins.registry import NETWORKS, RULES
from locbench.published.datasets import PUBLISHED_DATA
from locbench.recipes.identity import differing_keys
from locbench.rules import check_settings, known_to
from locbench.runs.estimate import RECORD_BYTES, Estimate, Size
from locbench.runs.kinds.base import Kind, Tell, network_identity, rule_identity
from locbench.runs.spec import RunSpec, check_teaches

if TYPE_CHECKING:
    import torch

    from locbench.recipes.recipe import Recipe
    from locbench.runs.context import Context
    from locbench.runs.plan import Planner
    from locbench.runs.record import Record

COUNTING_S = 2.0  # ResNet-110 with AugLocal's auxiliary networks, on one core


class Count(Kind):
    """Operations of one image, exact; needs no data, no weights and no seed."""

    name = "count"
    metrics = (
        *("encoder_flops (*)", "flops (*)", "flops_share (*) of *", "memory_share of *"),
        *("encoder_parameters", "auxiliary_parameters"),
    )
    takes_untrained = True
    seeded = False
    scaled = False
    exact = True
    uses_data = False

    @classmethod
    def plan(
        cls, fill: dict[str, Any], recipe: Recipe, *, seed: int, planner: Planner
    ) -> list[RunSpec]:
        classes = recipe.data.classes or PUBLISHED_DATA.get(recipe.data.name, {}).get("classes")
        if not classes:
            raise UserError(
                f"how many classes '{recipe.data.name}' has is not known here: set data.classes"
            )
        network, over = fill["network"], None
        if "over" in fill:
            rival = fill["over"]["rule"]
            kept = known_to(rival, fill.get("set", {}))
            theirs = {**fill, "set": {**kept, **fill["over"].get("set", {})}}
            rival_recipe = planner.recipe(theirs, known_to(rival, planner.options.overrides))
            over = cls.spec(rival_recipe, rival, network, classes=classes)
        return [cls.spec(recipe, fill["rule"], network, classes=classes, over=over)]

    @classmethod
    def spec(
        cls,
        recipe: Recipe,
        rule: str,
        network: str,
        *,
        classes: int,
        over: RunSpec | None = None,
    ) -> RunSpec:
        """What training `network` with `rule` costs, or with "untrained" the network alone.

        `over` is the run that bytes and seconds are compared with; itself where it is the same.
        """
        NETWORKS.entry(network)
        recipe_of_run = recipe.for_run(rule, network)
        if rule != UNTRAINED:
            check_teaches(recipe, rule)
            check_settings(RULES.entry(rule).settings, rule, recipe_of_run.rule)
        data = {"classes": classes}
        alone = RunSpec(cls.name, recipe_of_run, rule, network, 0, data)
        if over is None or over.id == alone.id:
            return alone
        return RunSpec(cls.name, recipe_of_run, rule, network, 0, data, over)

    @classmethod
    def settings(cls, spec: RunSpec) -> dict[str, Any]:
        resolution = differing_keys(spec.recipe.data, ("resolution",))
        return {
            "data": {"classes": spec.data["classes"], **resolution},
            "network": network_identity(spec),
            "rule": {} if spec.rule == UNTRAINED else rule_identity(spec),
            "over": {} if spec.parent is None else spec.parent.hash,
        }

    @classmethod
    def title(cls, spec: RunSpec) -> str:
        return "count operations,"

    @classmethod
    def outcome(cls, record: Record) -> str:
        return f"{record.metrics['flops (all)']['last']:.2f} G multiply-adds"

    @classmethod
    def data_tags(cls, spec: RunSpec, data: Any) -> dict[str, Any]:
        return {"classes": spec.data["classes"], "resolution": spec.recipe.data.resolution}

    @classmethod
    def check(cls, spec: RunSpec, context: Context, device: torch.device) -> None:
        """Nothing: it reads no data."""

    @classmethod
    def estimate(cls, spec: RunSpec, records: Sequence[Record], size: Size | None) -> Estimate:
        return Estimate(COUNTING_S, RECORD_BYTES, 0, "a count of one of the largest")

    @property
    def case(self) -> Case:
        """What is counted, traced or measured."""
        return case_of(self.spec)

    def parent_figure(self, name: str) -> float | None:
        """A figure of the run that this one is compared with; None where there is none."""
        if self.spec.parent is None:
            return None
        metric = self.context.store.load(self.spec.parent.id).metrics.get(name)
        return None if metric is None else metric["last"]

    def run(self, tell: Tell) -> None:
        import torch

        from locbench.evaluation.cost.counts import counts
        from locbench.networks import make_network
        from locbench.rules import build_units

        case = self.case
        with torch.device("meta"):
            side = case.recipe.data.resolution
            network = make_network(case.network, case.recipe.network, case.classes, side)
            units = []
            if case.rule != UNTRAINED:
                units = build_units(case.rule, network, case.recipe.rule)
        self.figures = counts(network, units)

    def finish(self, record: Record) -> None:
        self.set_metrics(record, self.figures)


def case_of(spec: RunSpec) -> Case:
    """What a run that counts, traces or measures a step is of."""
    return Case(spec.recipe, spec.rule, spec.network, spec.data["classes"])
