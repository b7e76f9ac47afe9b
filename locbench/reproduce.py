"""From a published table to runs, records, a pandas frame, and verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locbench import runs, verdict
from locbench.data.fingerprint import fingerprint
from locbench.errors import UserError
from locbench.paths import runs_dir
from locbench.recipes import Recipe, load_recipe
from locbench.records import Record, Store, summarize
from locbench.registry import NETWORKS, RULES
from locbench.runs import UNTRAINED, RunSpec
from locbench.tables import Cell, Table, load_table, resolve_name

if TYPE_CHECKING:
    import pandas as pd

FIRST_SEED = 1234


@dataclass(frozen=True)
class Options:
    """What of a table is wanted, and how."""

    scale: str = "smoke"
    rows: str | None = None
    columns: str | None = None
    seeds: int = 1
    data_root: Path | None = None
    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PlannedCell:
    """A cell and the runs, one a seed, whose records fill it."""

    cell: Cell
    specs: tuple[RunSpec, ...]
    baseline: bool = False


@dataclass(frozen=True)
class Plan:
    """A table's cells with their runs; `runs()` lists each run once, parents first."""

    table: Table
    options: Options
    cells: tuple[PlannedCell, ...]

    def runs(self) -> list[RunSpec]:
        """Every run that the wanted cells need."""
        return runs.unique([spec for planned in self.cells for spec in planned.specs])


def _probe_cell(fill: dict[str, Any], recipe: Recipe, seed: int, data: dict[str, Any]) -> RunSpec:
    return runs.plan_probe(recipe, fill["rule"], fill["network"], seed, data)


EVALUATIONS: dict[str, Callable[..., RunSpec]] = {"probe": _probe_cell}


def can_run(cell: Cell) -> bool:
    """Whether this cell can be filled today: its evaluation, rule and network exist."""
    fill = cell.fill or {}
    return (
        fill.get("evaluation") in EVALUATIONS
        and fill.get("rule") in RULES.names()
        and fill.get("network") in NETWORKS.names()
    )


class _Planner:
    """Turns fills into specs; recipes and fingerprints are read once."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._recipes: dict[str, Recipe] = {}
        self._fingerprints: dict[tuple[str, int], dict[str, Any]] = {}

    def recipe(self, fill: dict[str, Any]) -> Recipe:
        changes = {**fill.get("set", {}), **self.options.overrides}
        key = f"{fill['recipe']} {sorted(changes.items())}"
        if key not in self._recipes:
            self._recipes[key] = load_recipe(fill["recipe"], self.options.scale, changes)
        return self._recipes[key]

    def data(self, recipe: Recipe) -> dict[str, Any]:
        key = (recipe.data.name, recipe.data.resolution)
        if key not in self._fingerprints:
            self._fingerprints[key] = fingerprint(*key, self.options.data_root)
        return self._fingerprints[key]

    def specs(self, fill: dict[str, Any]) -> tuple[RunSpec, ...]:
        recipe = self.recipe(fill)
        make = EVALUATIONS[fill["evaluation"]]
        seeds = range(FIRST_SEED, FIRST_SEED + self.options.seeds)
        return tuple(make(fill, recipe, seed, self.data(recipe)) for seed in seeds)


def _wanted(cell: Cell, options: Options) -> bool:
    def hit(pattern: str | None, values: Iterable[Any]) -> bool:
        if pattern is None:
            return True
        words = [word.strip().lower() for word in pattern.split(",") if word.strip()]
        return any(word in str(value).lower() for word in words for value in values)

    rows = hit(options.rows, cell.row.labels.values())
    return rows and hit(options.columns, (cell.column.key, cell.column.label))


def make_plan(table: Table, options: Options) -> Plan:
    """The runs of the wanted cells and of the baselines beside them.

    UserError when the selection leaves no cell, or a recipe, scale or override is wrong.
    """
    planner = _Planner(options)
    wanted = [cell for cell in table.cells() if _wanted(cell, options)]
    if not wanted:
        labels = sorted({str(v) for row in table.rows for v in row.labels.values()})
        raise UserError(
            f"{table.name}: no cell matches --rows {options.rows} --columns {options.columns}; "
            f"rows have the labels {', '.join(labels)}"
        )
    cells = [
        PlannedCell(cell, planner.specs(cell.fill) if can_run(cell) else ())
        for cell in wanted
        if cell.published is not None or cell.fill is not None
    ]
    return Plan(table, options, (*cells, *_baselines(cells, planner)))


def _baselines(cells: list[PlannedCell], planner: _Planner) -> list[PlannedCell]:
    """For every probed network: the same untrained, and logistic regression on pixels."""
    found: dict[str, PlannedCell] = {}
    for planned in cells:
        if not planned.specs or planned.cell.fill["evaluation"] != "probe":
            continue
        for rule in (UNTRAINED, "pixels"):
            specs = tuple(_baseline_spec(spec, rule) for spec in planned.specs)
            specs = tuple(runs.unique(list(specs)))
            key = specs[0].id
            found.setdefault(key, PlannedCell(_baseline_cell(planned.cell, rule), specs, True))
    return sorted(found.values(), key=lambda planned: planned.specs[0].kind == "pixels")


def _baseline_spec(spec: RunSpec, rule: str) -> RunSpec:
    if rule == "pixels":
        return runs.plan_pixels(spec.recipe, spec.fingerprint)
    return runs.plan_probe(spec.recipe, rule, spec.network, spec.seed, spec.fingerprint)


def _baseline_cell(cell: Cell, rule: str) -> Cell:
    """A row of our own: the labels of the cell's row with the method replaced."""
    labels = dict.fromkeys(cell.row.labels, "")
    labels |= {k: v for k, v in cell.row.labels.items() if k == "network" and rule == UNTRAINED}
    labels["method"] = "untrained" if rule == UNTRAINED else "logistic regression on pixels"
    from dataclasses import replace

    row = replace(cell.row, labels=labels, cited=False, source="", inferred=(), published={})
    return replace(cell, row=row, published=None, fill=None)


def run_plan(plan: Plan, workshop: Any, each: Callable[[RunSpec, Record], None]) -> list[str]:
    """Carry out the runs that have no record yet; returns one line for each that failed.

    A failed run ends only what depends on it: the rest of the table is still filled.
    """
    from locbench.errors import RunFailed
    from locbench.execute import execute

    failures: dict[str, str] = {}
    for spec in plan.runs():
        if spec.parent is not None and spec.parent.id in failures:
            failures[spec.id] = f"{spec.id} was not run: {spec.parent.id} failed"
            continue
        try:
            each(spec, execute(spec, workshop))
        except RunFailed as error:
            failures[spec.id] = str(error)
    return list(failures.values())


def frame(plan: Plan, store: Store) -> pd.DataFrame:
    """The table as a long pandas frame: one line a cell, published beside measured."""
    import pandas as pd

    return pd.DataFrame([_line(planned, plan, store) for planned in plan.cells])


def _line(planned: PlannedCell, plan: Plan, store: Store) -> dict[str, Any]:
    cell, published = planned.cell, planned.cell.published
    column = cell.column
    records = [store.load(spec.id) for spec in planned.specs]
    done = [r for r in records if r is not None and r.status == "done"]
    values = [r.metrics[column.metric]["last"] for r in done]
    mean, spread, n = summarize(values) if values else (None, None, 0)
    value = published.value if published is not None else None
    decision = _judge(planned, plan, records, values)
    numeric = isinstance(value, int | float) and mean is not None
    return {
        **cell.row.labels,
        "column": column.label,
        "column_key": column.key,
        "published": value,
        "published_std": published.std if published is not None else None,
        "measured": mean,
        "n": n,
        "spread": spread,
        "difference": mean - value if numeric else None,
        "verdict": decision.name,
        "detail": decision.detail,
        "decoder": done[0].tags.get("decoder") if done else None,
        "scale": plan.options.scale,
        "unit": column.unit,
        "decimals": column.decimals,
        "cited": cell.row.cited,
        "baseline": planned.baseline,
        "runs": " ".join(spec.id for spec in planned.specs),
    }


def _judge(
    planned: PlannedCell, plan: Plan, records: list[Record | None], values: list[float]
) -> verdict.Verdict:
    cell, published = planned.cell, planned.cell.published
    if cell.row.cited:
        return verdict.Verdict("cited", "the paper only quotes this number")
    if planned.baseline or published is None:
        return verdict.Verdict("", "no published number")
    if isinstance(published.value, str):
        return verdict.Verdict("", "text, not a number")
    return verdict.judge(
        published.value,
        published.std,
        published.n,
        values,
        cell.tolerance,
        plan.options.scale,
        statuses=[record.status for record in records if record is not None],
        higher_is_better=cell.column.higher_is_better,
    )


def claim_values(plan: Plan, cells: pd.DataFrame) -> dict[tuple[int, str], float]:
    """Measured means by (row index, column key), for judging claims."""
    values: dict[tuple[int, str], float] = {}
    for planned, line in zip(plan.cells, cells.to_dict("records"), strict=True):
        if planned.baseline or line["n"] == 0:
            continue
        values[planned.cell.key] = line["measured"]
    return values


def table(
    name: str,
    paper: str | None = None,
    *,
    run: bool = False,
    runs: Path | None = None,
    device: str = "auto",
    **options: Any,
) -> pd.DataFrame:
    """The table as a frame (published, measured, n, spread, difference, verdict, decoder, scale).

    Filled from the records at hand; with `run=True` what is missing is trained first. `options`
    are those of `Options`: scale, rows, columns, seeds, data_root, overrides.
    """
    plan = make_plan(load_table(resolve_name(name, paper)), Options(**options))
    store = Store(runs or runs_dir())
    if run:
        from locbench.errors import RunFailed
        from locbench.execute import Workshop

        root = plan.options.data_root
        failures = run_plan(plan, Workshop(store, device, root), lambda spec, record: None)
        if failures:
            raise RunFailed("; ".join(failures))
    return frame(plan, store)
