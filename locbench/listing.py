"""What `locbench list` and `locbench show` print."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from locbench import registry
from locbench.check import reference_store
from locbench.errors import UserError
from locbench.paths import recipes_dir
from locbench.recipes import load_recipe
from locbench.records import Store
from locbench.registry import suggest
from locbench.reproduce import Options, can_run, make_plan
from locbench.tables import Table, count, layout, legend, load_table, table_names

if TYPE_CHECKING:
    from rich.console import Console

Listing = tuple[str, list[str], list[list[Any]]]


def _tables(store: Store) -> Listing:
    rows = []
    for name in table_names():
        table = load_table(name)
        runnable = sum(can_run(cell) for cell in table.cells())
        filled = {scale: _filled(table, scale, store) for scale in ("smoke", "small")}
        records = " ".join(f"{n} {scale}" for scale, n in filled.items() if n) or "-"
        rows.append([name, table.title, count(table)["published"], runnable, records])
    return "Published tables", ["table", "title", "cells", "can run", "records"], rows


def _filled(table: Table, scale: str, store: Store) -> int:
    """Cells that have a record, here or among the committed results."""
    if not any(can_run(cell) for cell in table.cells()):
        return 0
    places = {id.rsplit("-", 1)[0] for id in reference_store().ids()}
    have = set(store.ids())
    try:
        plan = make_plan(table, Options(scale))
    except UserError:  # data of this scale is not here: count the committed records by name
        return 0
    return sum(
        any(spec.id in have or spec.id.rsplit("-", 1)[0] in places for spec in planned.specs)
        for planned in plan.cells
        if not planned.baseline
    )


def _recipes(store: Store) -> Listing:
    rows = []
    for path in sorted(recipes_dir().rglob("*.toml")):
        name = str(path.relative_to(recipes_dir()).with_suffix(""))
        recipe = load_recipe(name)
        rows.append([name, recipe.title, recipe.data.name, recipe.schedule.epochs])
    return "Recipes", ["recipe", "title", "data", "epochs"], rows


def _runs(store: Store) -> Listing:
    rows = [[r.id, r.status, r.scale, r.created, r.error or ""] for r in store.all()]
    return f"Runs in {store.root}", ["run", "status", "scale", "started", "error"], rows


def _registered(kind: str, entries: registry.Registry) -> Listing:
    rows = [[entry.name, entry.version, entry.summary] for entry in entries]
    return kind, ["name", "version", "what"], rows


LISTINGS = {
    "tables": _tables,
    "recipes": _recipes,
    "rules": lambda store: _registered("Learning rules", registry.RULES),
    "networks": lambda store: _registered("Networks", registry.NETWORKS),
    "datasets": lambda store: _registered("Data sets", registry.DATASETS),
    "runs": _runs,
}


def listing(what: str, store: Store) -> Listing:
    """Title, column names and rows; UserError for a kind there is not."""
    if what not in LISTINGS:
        raise UserError(f"cannot list '{what}'{suggest(what, LISTINGS)}")
    return LISTINGS[what](store)


def published_table(table: Table, console: Console) -> None:
    """Print a published table with its caption, legend, notes, and claims judged on print."""
    from rich.table import Table as RichTable

    headers, rows = layout(table)
    shown = RichTable(title=f"{table.name}: {table.title}", title_justify="left", caption=None)
    for k, header in enumerate(headers):
        numeric = k >= len(table.label_names)
        shown.add_column(header, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    console.print(shown)
    console.print(f"{table.caption}\n{table.source}", style="dim", soft_wrap=False)
    for line in legend(table):
        console.print(line, style="dim")
    for note in table.notes:
        console.print(f"note: {note}")
    values = {
        cell.key: cell.published.value
        for cell in table.cells()
        if cell.published is not None and not isinstance(cell.published.value, str)
    }
    for claim in table.claims:
        result = claim.judge(values)
        mark = {True: "holds in print", False: "does not hold in print", None: "open"}[result.holds]
        console.print(f"claim: {claim.text}: {mark} ({result.detail})")


def published_json(table: Table) -> dict[str, Any]:
    """The published table for a program."""
    return {
        "table": table.name,
        "title": table.title,
        "source": table.source,
        "cells": [
            {
                **cell.row.labels,
                "column": cell.column.key,
                "metric": cell.column.metric,
                "unit": cell.column.unit,
                "cited": cell.row.cited,
                "inferred": list(cell.row.inferred),
                **(asdict(cell.published) if cell.published else {"value": None}),
            }
            for cell in table.cells()
        ],
        "claims": [claim.text for claim in table.claims],
    }
