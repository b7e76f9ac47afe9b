"""Filled tables for Python: `locbench.table("loco/table1")` is a pandas data frame."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from locbench.paths import runs_dir
from locbench.published.load import load_table, resolve_name
from locbench.report.filled import FilledTable, fill_table
from locbench.runs.context import Context
from locbench.runs.executor import Watch, carry_out, failure
from locbench.runs.plan import Options, make_plan
from locbench.runs.store import Store

if TYPE_CHECKING:
    import pandas as pd


def frame(filled: FilledTable) -> pd.DataFrame:
    """The table as a long pandas frame: one line a cell, published beside measured."""
    import pandas as pd

    rows = filled.rows()
    cells = pd.DataFrame(rows)
    numbers = ["published_std", "measured", "spread", "difference"]
    cells[numbers] = cells[numbers].astype(float)  # also where there is none at all
    for name in filled.plan.table.label_names:  # or whole numbers with gaps become floats
        cells[name] = pd.Series([row[name] for row in rows], dtype=object)
    return cells


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
        failures = carry_out(plan.runs(), Context(store, device, plan.options.data_root), Watch())
        if failures:
            raise failure(failures)
    return frame(fill_table(plan, store))
