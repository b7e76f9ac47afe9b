"""`locbench list` and `locbench show`: what there is, as rows, and published tables."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from locbench.errors import UserError
from locbench.plugins import registry
from locbench.plugins.entry import suggest
from locbench.published.load import Table, laid_out, layout, legend, load_table, table_names
from locbench.recipes.load import load_recipe, recipe_names
from locbench.report.check import any_precision, reference_store
from locbench.report.claims import claims_in_print
from locbench.report.grid import columns, print_grid
from locbench.report.terminal import print_claims
from locbench.runs.plan import Options, make_plan
from locbench.runs.store import Store

if TYPE_CHECKING:
    from rich.console import Console

Listing = tuple[str, list[str], list[list[Any]]]


def _tables(store: Store) -> Listing:
    rows, committed = [], set(any_precision(reference_store().readable()).values())
    done = {record.id for record in store.readable() if record.status == "done"}

    def filled(table: Table, scale: str) -> int:
        """Cells that have a record: here, or committed in whatever precision."""
        try:
            cells = make_plan(table, Options(scale)).cells
        except UserError:  # data of this scale is not here, so nothing can be told
            return 0
        inside = [planned for planned in cells if planned.cell.inside and not planned.baseline]
        return sum(
            any(spec.id in done or spec.any_precision in committed for spec in planned.specs)
            for planned in inside
        )

    for name in table_names():
        try:
            table = load_table(name)
        except UserError as error:  # listed with what is wrong, so that the others are seen too
            rows.append([name, f"cannot be read: {error}", "", "", ""])
            continue
        inside = [cell for cell in table.cells() if cell.inside]
        fillable = sum(cell.fill is not None for cell in inside)
        counts = [(scale, filled(table, scale)) for scale in ("smoke", "small")]
        records = ", ".join(f"{n} {scale}" for scale, n in counts if n) or "-"
        rows.append([name, table.title, len(inside), fillable, records])
    return "Published tables", ["table", "title", "cells", "can run", "records"], rows


def _recipes(store: Store) -> Listing:
    rows = []
    for name in recipe_names():
        recipe = load_recipe(name)
        detection = recipe.detection
        if detection is None:
            length, gives, frozen = f"{recipe.schedule.epochs} epochs", recipe.gives, ""
            rows.append([name, recipe.title, recipe.data.name, length, gives, frozen])
            continue
        steps, epochs = detection.iterations, detection.epochs
        length = f"{steps:,} steps" if steps else f"{epochs} epochs"
        rows.append([name, recipe.title, detection.data, length, "objects", detection.frozen])
    return "Recipes", ["recipe", "title", "data", "length", "gives", "frozen"], rows


def _runs(store: Store) -> Listing:
    rows = []
    for id in store.ids():
        try:
            record = store.load(id)
        except UserError as error:  # listed with what is wrong, so that the others are seen too
            rows.append([id, "broken", "", "", str(error)])
            continue
        if record is not None:
            started = record.created[:16].replace("T", " ")
            rows.append([id, record.status, record.scale, started, record.error or ""])
    return f"Runs in {store.root}", ["run", "status", "scale", "started (UTC)", "error"], rows


def _networks(store: Store) -> Listing:
    rows = [[entry.name, entry.version, entry.summary] for entry in registry.NETWORKS]
    return "Networks", ["name", "version", "what"], rows


def _rules(store: Store) -> Listing:
    rows = []
    for r in registry.RULES:
        # As --set rule.KEY=VALUE has it.
        texts = {k: str(v).lower() if isinstance(v, bool) else v for k, v in r.settings.items()}
        settings = " ".join(f"{key}={text}" for key, text in texts.items())
        rows.append([r.name, r.version, r.learns, r.origin, r.summary, settings])
    broken = [entry for entry in registry.RULES.installed.values() if entry.fault]
    rows += [[r.name, r.version, "", r.origin, f"cannot be used: {r.fault}", ""] for r in broken]
    return "Learning rules", ["name", "version", "learns from", "from", "what", "settings"], rows


def _datasets(store: Store) -> Listing:
    kinds = {"images": registry.DATASETS, "detection": registry.DETECTION_SETS}
    rows = [[e.name, kind, e.version, e.summary] for kind, sets in kinds.items() for e in sets]
    return "Data sets", ["name", "for", "version", "what"], rows


LISTINGS = {
    "tables": _tables,
    "recipes": _recipes,
    "rules": _rules,
    "networks": _networks,
    "datasets": _datasets,
    "runs": _runs,
}


def listing(what: str, store: Store) -> Listing:
    """Title, column names and rows; UserError for a kind there is not."""
    if what not in LISTINGS:
        raise UserError(f"cannot list '{what}'{suggest(what, LISTINGS)}")
    return LISTINGS[what](store)


def print_listing(listing: Listing, console: Console) -> None:
    """Print a listing for a person; a column that is empty in every row is left out."""
    title, heads, rows = listing
    if not rows:
        console.print(f"{title}: none yet", markup=False)
        return
    numeric = {k for k in range(len(heads)) if all(isinstance(r[k], int) or not r[k] for r in rows)}
    words = [k for k in range(len(heads)) if k not in numeric]
    shown = [column for column in columns(heads, rows, words=words) if any(column.cells)]
    print_grid(shown, console, title=title)


def print_published(table: Table, console: Console) -> None:
    """Print a published table with its caption, legend, notes, and claims judged on print."""
    from rich.text import Text

    heads, rows = layout(table)
    labels = len(table.label_names)
    texts = [
        k
        for k, column in enumerate(laid_out(table), start=labels)
        if any(isinstance(p.value, str) for r in table.rows if (p := r.published.get(column.key)))
    ]
    console.print(Text(f"{table.name}  {table.title}", style="bold"), Text(table.caption), sep="\n")
    print_grid(columns(heads, rows, words=(*range(labels), *texts)), console)
    console.print()
    for line in (table.source, *legend(table)):
        console.print(Text(line, style="dim"))
    for note in table.notes:
        console.print(Text(f"Note: {note}", style="dim"))
    console.print()
    claims = claims_in_print(table)
    if claims and table.number is not None:
        console.print("What a reader takes away, judged on the printed numbers:")
    print_claims(claims, console)


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
        "notes": list(table.notes),
        "claims": [
            {
                "text": claim.text,
                "section": claim.section,
                "margin_ours": claim.margin_ours,
                "holds_in_print": in_print.holds,
            }
            for claim, in_print in zip(table.claims, claims_in_print(table), strict=True)
        ],
    }
