"""From a plan and the records at hand to a pandas frame: published beside measured, judged."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locbench.errors import UserError
from locbench.paths import runs_dir
from locbench.plugins.entry import suggest
from locbench.published.load import load_table, resolve_name
from locbench.report import verdict
from locbench.runs.context import Context
from locbench.runs.executor import Silence, carry_out, failure
from locbench.runs.plan import Options, Plan, PlannedCell, make_plan
from locbench.runs.record import Record, summarize
from locbench.runs.spec import RunSpec
from locbench.runs.store import Store

if TYPE_CHECKING:
    import pandas as pd


def frame(plan: Plan, store: Store) -> pd.DataFrame:
    """The table as a long pandas frame: one line a cell, published beside measured."""
    import pandas as pd

    lines = [_line(planned, plan, store) for planned in plan.cells]
    cells = pd.DataFrame(lines)
    numbers = ["published_std", "measured", "spread", "difference"]
    cells[numbers] = cells[numbers].astype(float)  # also where there is none at all
    for name in plan.table.label_names:  # or whole numbers with gaps become floats
        cells[name] = pd.Series([line[name] for line in lines], dtype=object)
    return cells


def _line(planned: PlannedCell, plan: Plan, store: Store) -> dict[str, Any]:
    cell, published, column = planned.cell, planned.cell.published, planned.cell.column
    records = [store.load(spec.id) for spec in planned.specs]
    done = [r for r in records if r is not None and r.status == "done"]
    values = [_value(r, cell.metric, store) for r in done]
    mean, spread, n = summarize(values) if values else (None, None, 0)
    value = published.value if published is not None else None
    found = [_status(spec, store) for spec in planned.specs]
    statuses = [status for status in found if status is not None]
    scale = planned.specs[0].scale if planned.specs else plan.options.scale
    decision = _judge(planned, scale, statuses, values)
    numeric = isinstance(value, int | float) and mean is not None
    return {
        **{name: cell.row.labels.get(name) for name in plan.table.label_names},
        "column": column.label,
        "column_key": column.key,
        "published": value,
        "published_std": published.std if published is not None else None,
        "measured": mean,
        "n": n,
        "asked": sum(spec.seeded for spec in planned.specs),
        "unfinished": _unfinished(found),
        "spread": spread,
        "difference": mean - value if numeric else None,
        "verdict": decision.name,
        "detail": decision.detail,
        "decoder": done[0].tags.get("decoder") if done else None,
        "scale": scale,
        "unit": column.unit,
        "decimals": column.decimals,
        "cited": cell.row.cited,
        "baseline": planned.baseline,
        "beside": planned.baseline or not cell.inside,
        "runs": " ".join(spec.id for spec in planned.specs),
    }


def _value(record: Record, metric: str, store: Store) -> float:
    """A figure of a finished record; UserError where it has none of that name."""
    if metric not in record.metrics:
        raise UserError(
            f"{store.path(record.id)} has no '{metric}'{suggest(metric, record.metrics)}"
        )
    last = record.metrics[metric]["last"]
    return math.nan if last is None else last  # JSON has no nan: it comes back as null


def _status(spec: RunSpec, store: Store) -> str | None:
    """The status of a run; while it has none, that of the unfinished run it waits for."""
    record = store.load(spec.id)
    if record is not None:
        return record.status
    status = None if spec.parent is None else _status(spec.parent, store)
    return None if status == "done" else status


def _unfinished(statuses: list[str | None]) -> str:
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
    planned: PlannedCell, scale: str, statuses: list[str], values: list[float]
) -> verdict.Verdict:
    cell, published = planned.cell, planned.cell.published
    if cell.row.cited:
        return verdict.Verdict("cited", "the paper only quotes this number")
    if planned.baseline or not cell.inside:
        return verdict.Verdict("", "no published number")
    if published is None:
        return verdict.unpublished(values, statuses)
    if isinstance(published.value, str):
        return verdict.Verdict("", "text, not a number")
    return verdict.judge(
        published.value,
        published.std,
        published.n,
        values,
        cell.tolerance,
        scale,
        statuses=statuses,
        mismatches=planned.mismatches,
        higher_is_better=cell.column.higher_is_better,
    )


def claim_values(plan: Plan, cells: pd.DataFrame) -> dict[tuple[int, str], float]:
    """Measured means by (row index, column key), for judging claims."""
    values: dict[tuple[int, str], float] = {}
    for planned, line in zip(plan.cells, cells.to_dict("records"), strict=True):
        # What is left of a cell that diverged would flatter the rule.
        if planned.baseline or line["n"] == 0 or line["verdict"] == "diverged":
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

    `measured` is the mean of `n` runs and `spread` their sample standard deviation (n - 1), nan of
    one; `asked` are the runs that the cell asks for, 0 for what has no seed.
    Filled from the records at hand; with `run=True` what is missing is trained first. `options`
    are those of `Options`: scale, rows, columns, seeds, data_root, overrides, rules.
    """
    plan = make_plan(load_table(resolve_name(name, paper)), Options(device=device, **options))
    store = Store(runs or runs_dir())
    if run:
        failures = carry_out(plan.runs(), Context(store, device, plan.options.data_root), Silence())
        if failures:
            raise failure(failures)
    return frame(plan, store)
