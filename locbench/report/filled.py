"""Filled tables: a published table's cells with what was measured of each, and the verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from locbench.errors import UserError
from locbench.plugins.entry import suggest
from locbench.published.table import Cell, Column
from locbench.report.claims import JudgedClaim, claims_measured
from locbench.report.verdict import Verdict, judge, unpublished
from locbench.runs.plan import Plan, PlannedCell
from locbench.runs.precision import PRECISIONS
from locbench.runs.record import Record, summarize
from locbench.runs.spec import RunSpec
from locbench.runs.store import Store


@dataclass(frozen=True)
class FilledCell:
    """A cell, a record for each of its runs, and what they say together.

    `records` has None for a run without one. `mean` and `spread` (sample standard deviation,
    n - 1; None below two) are of the `n` runs that are done; `seeds` is how many the cell asks
    for, 0 where no seed can change it. `unfinished` says how many runs are not done, and why.
    """

    planned: PlannedCell
    scale: str
    verdict: Verdict
    records: tuple[Record | None, ...] = ()
    mean: float | None = None
    spread: float | None = None
    n: int = 0
    seeds: int = 0
    unfinished: str = ""

    @property
    def cell(self) -> Cell:
        """The cell of the published table."""
        return self.planned.cell

    @property
    def column(self) -> Column:
        """Its column."""
        return self.cell.column

    @property
    def published(self) -> float | str | None:
        """The value in print, which may be text; None where nothing is."""
        return self.cell.published and self.cell.published.value

    @property
    def published_std(self) -> float | None:
        """The standard deviation in print, where one is."""
        return self.cell.published and self.cell.published.std

    @property
    def difference(self) -> float | None:
        """Measured minus published, where both are numbers."""
        if self.mean is None or not isinstance(self.published, int | float):
            return None
        return self.mean - self.published

    @property
    def decoder(self) -> str:
        """What hung on the units, by the first run that is done; empty where no record says."""
        done = [r for r in self.records if r is not None and r.status == "done"]
        return (done[0].tags.get("decoder") or "") if done else ""

    @property
    def beside(self) -> bool:
        """Whether it is shown beside the table: a baseline, or a column of ours."""
        return self.planned.baseline or not self.cell.inside

    def label(self, name: str) -> str:
        """A label of its row as text; empty where the row has none of that name."""
        return str(self.cell.row.labels.get(name, ""))


@dataclass(frozen=True)
class FilledTable:
    """A planned table with its cells filled, in the paper's order, and its claims judged."""

    plan: Plan
    cells: tuple[FilledCell, ...]
    claims: tuple[JudgedClaim, ...]

    def rows(self) -> list[dict[str, Any]]:
        """A row a cell with all its fields, at machine precision: for programs."""
        return [_fields(cell, self.plan.table.label_names) for cell in self.cells]


def fill_table(plan: Plan, store: Store) -> FilledTable:
    """The table with what the store has of it; nothing is run.

    UserError where a record has not the figure of its cell.
    """
    cells = tuple(_fill(planned, plan.options.scale, store) for planned in plan.cells)
    claims = claims_measured(plan.table, cells, plan.options.scale)
    return FilledTable(plan, cells, tuple(claims))


def _fill(planned: PlannedCell, scale: str, store: Store) -> FilledCell:
    planned = _in_one_precision(planned, store)
    records = tuple(store.load(spec.id) for spec in planned.specs)
    done = [record for record in records if record is not None and record.status == "done"]
    values = [_value(record, planned.cell, store) for record in done]
    mean, spread, n = summarize(values) if values else (None, None, 0)
    statuses = [_status(spec, store) for spec in planned.specs]
    scale = planned.specs[0].scale if planned.specs else scale
    return FilledCell(
        planned,
        scale,
        _judge(planned, scale, [status for status in statuses if status is not None], values),
        records=records,
        mean=None if mean is None or math.isnan(mean) else mean,
        spread=None if spread is None or math.isnan(spread) else spread,
        n=n,
        seeds=sum(spec.seeded for spec in planned.specs),
        unfinished=_unfinished(statuses),
    )


def _in_one_precision(planned: PlannedCell, store: Store) -> PlannedCell:
    """The cell with the same runs in another precision, where those of its protocol have no record.

    A mean never mixes the two: one record in the protocol's precision hides all others.
    """
    if planned.precision is None or any(store.load(spec.id) for spec in planned.specs):
        return planned
    for precision in PRECISIONS.keys() - {planned.precision}:
        specs = tuple(spec.in_precision(precision) for spec in planned.specs)
        if any(store.load(spec.id) for spec in specs):
            mismatches = (*planned.mismatches, f"precision {PRECISIONS[precision]}")
            return replace(planned, specs=specs, mismatches=mismatches)
    return planned


def _value(record: Record, cell: Cell, store: Store) -> float:
    """The cell's figure of a finished record; UserError where it has none of that name."""
    metric, epoch = cell.metric, cell.column.epoch
    if metric not in record.metrics:
        raise UserError(
            f"{store.path(record.id)} has no '{metric}'{suggest(metric, record.metrics)}"
        )
    if epoch not in record.metrics[metric]:
        raise UserError(f"{store.path(record.id)} has no {epoch} '{metric}', only a last one")
    value = record.metrics[metric][epoch]
    if value is None:  # JSON has no nan: it comes back as null
        return math.nan
    return value * cell.gpus if cell.column.each_gpu == "sum" else value


def _status(spec: RunSpec, store: Store) -> str | None:
    """The status of a run; while it has none, that of the unfinished run it waits for."""
    record = store.load(spec.id)
    if record is not None:
        return record.status
    status = None if spec.parent is None else _status(spec.parent, store)
    return None if status == "done" else status


def _unfinished(statuses: Sequence[str | None]) -> str:
    """How many runs of a cell are not done and why, in a few words; nothing where none was begun.

    A status is None where there is no record. Of a single run the verdict says that it diverged.
    """
    if not any(statuses) or statuses == ["diverged"]:
        return ""
    if len(statuses) == 1:
        return "" if statuses[0] == "done" else str(statuses[0])
    counts = {word: statuses.count(word) for word in ("diverged", "failed", "running", None)}
    return ", ".join(f"{count} {word or 'not run'}" for word, count in counts.items() if count)


def _judge(
    planned: PlannedCell, scale: str, statuses: Sequence[str], values: Sequence[float]
) -> Verdict:
    cell, column = planned.cell, planned.cell.column
    if cell.row.cited:
        return Verdict("cited", "the paper only quotes this number")
    if planned.baseline or not cell.inside:
        return Verdict("", "no published number")
    if cell.published is None:
        return unpublished(values, statuses=statuses)
    if isinstance(cell.published.value, str):
        return Verdict("", "text, not a number")
    counted = bool(planned.specs) and planned.specs[0].of.exact
    return judge(
        values,
        published=cell.published,
        tolerance=cell.tolerance,
        scale=scale,
        statuses=statuses,
        mismatches=planned.mismatches,
        higher_is_better=column.higher_is_better,
        decimals=column.decimals if counted else None,
    )


def _fields(cell: FilledCell, label_names: Sequence[str]) -> dict[str, Any]:
    return {
        **{name: cell.cell.row.labels.get(name) for name in label_names},
        "column": cell.column.label,
        "column_key": cell.column.key,
        "published": cell.published,
        "published_std": cell.published_std,
        "measured": cell.mean,
        "n": cell.n,
        "asked": cell.seeds,
        "unfinished": cell.unfinished,
        "spread": cell.spread,
        "difference": cell.difference,
        "verdict": cell.verdict.name,
        "detail": cell.verdict.detail,
        "decoder": cell.decoder or None,
        "scale": cell.scale,
        "unit": cell.column.unit,
        "decimals": cell.column.decimals,
        "cited": cell.cell.row.cited,
        "baseline": cell.planned.baseline,
        "beside": cell.beside,
        "runs": " ".join(spec.id for spec in cell.planned.specs),
    }
