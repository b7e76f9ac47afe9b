"""How the cells of a table are filled: every name of a fill is one that locbench has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Annotated, Any

from locbench.errors import UserError
from locbench.plugins.entry import UNTRAINED, suggest
from locbench.plugins.registry import KINDS, NETWORKS, RULES
from locbench.published.table import Cell
from locbench.recipes.load import recipe_path
from locbench.recipes.reading import check_keys, check_name, errors_at, read
from locbench.recipes.schema import Count
from locbench.recipes.validation import check_dotted

NEEDS = ("recipe", "evaluation", "rule", "network")


@dataclass(frozen=True)
class Fill:
    """What a table, a column or a row may say of the runs that fill it.

    gpus: how many print sums over, where a run here has one. unknown: what of the protocol no paper
    says, so that there is no verdict.
    """

    recipe: str = ""
    downstream: str = ""
    evaluation: Annotated[str, KINDS] = ""
    rule: str = ""
    network: Annotated[str, NETWORKS] = ""
    weights: str = ""
    gpus: Count = 1
    unknown: tuple[str, ...] = ()
    over: dict[str, Any] = field(default_factory=dict)
    set: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Over:
    """The rule that a cost is compared with, and what is set of it."""

    rule: Annotated[str, RULES]
    set: dict[str, Any] = field(default_factory=dict)


def check_fill(raw: Mapping[str, Any], *, where: str) -> None:
    """UserError, with the nearest name, for what of a fill locbench has not, where it is written.

    The settings of a rule are left to `check_cell`: the rule may be said elsewhere.
    """
    if not raw:
        return
    fill = read(raw, Fill, where=where)
    for recipe in filter(None, (fill.recipe, fill.downstream)):
        with errors_at(where):
            recipe_path(recipe)
    if fill.evaluation and not KINDS.get(fill.evaluation).fills:
        able = [name for name in KINDS.names() if KINDS.get(name).fills]
        raise UserError(f"{where}: '{fill.evaluation}' fills no cell; known: {', '.join(able)}")
    if fill.rule and fill.rule != UNTRAINED:
        check_name(fill.rule, RULES, where=where)
    _check_set(fill.set, where=where)
    if fill.over:
        over = read(fill.over, Over, where=f"{where}: over")
        _check_set(over.set, where=f"{where}: over")
        _check_settings(over.rule, over.set, where=f"{where}: over")


def _check_set(values: Mapping[str, Any], *, where: str) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping):
            hint = 'quote the key, as in set = { "probe.profile" = "moco" }'
            raise UserError(f"{where}: set: '{key}' must be one value, not {value!r}; {hint}")
    check_dotted(values, where=f"{where}: set")


def _check_settings(rule: str, values: Mapping[str, Any], *, where: str) -> None:
    keys = [key for key in values if key.startswith("rule.")]
    if keys and rule != UNTRAINED:
        settings = [f"rule.{name}" for name in RULES.entry(rule).settings]
        check_keys(keys, settings, where=f"{where}: rule '{rule}'")


def check_cell(cell: Cell, *, where: str) -> None:
    """UserError for a cell whose fill, put together, lacks a key or asks for what no run gives."""
    fill = cell.fill
    if fill is None:
        return
    if missing := [key for key in NEEDS if key not in fill]:
        raise UserError(f"{where}: its fill has no '{missing[0]}'")
    _check_settings(fill["rule"], fill.get("set", {}), where=where)
    kind, rule = KINDS.get(fill["evaluation"]), fill["rule"]
    if missing := [key for key in kind.needs if key not in fill]:
        raise UserError(f"{where}: evaluation '{kind.name}' needs '{missing[0]}' in its fill")
    if rule == UNTRAINED and not kind.takes_untrained:
        raise UserError(f"{where}: evaluation '{kind.name}' trains, and rule '{rule}' does not")
    if kind.learns and rule != UNTRAINED and RULES.entry(rule).learns != kind.learns:
        other = RULES.entry(rule).learns
        raise UserError(f"{where}: rule '{rule}' learns from {other}, '{kind.name}' {kind.learns}")
    metrics = kind.metrics
    with errors_at(where):
        metric = cell.metric
    if not any(fnmatchcase(metric, pattern) for pattern in metrics):
        column = f"{where}: column '{cell.column.key}': evaluation '{fill['evaluation']}'"
        raise UserError(f"{column} gives no metric '{metric}'{suggest(metric, metrics)}")
