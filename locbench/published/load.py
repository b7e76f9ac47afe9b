"""Published tables: their cells, their claims, and what fills each cell that can be measured.

One TOML file a table, tables/PAPER/tableN.toml; tables/README.md says how to write one. A file of
another name is a table of ours, on what a paper leaves open: its cells need no published number.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from locbench.errors import UserError
from locbench.paths import tables_dir
from locbench.plugins.entry import suggest
from locbench.published.claim_entries import build_claim
from locbench.published.claims import Claim
from locbench.published.fills import check_cell, check_fill
from locbench.published.table import Cell, Column, Published, Row, Table
from locbench.recipes.reading import NotNegative, Number, check_keys, hints, read, read_toml, typed

logger = logging.getLogger(__name__)
PAPERS = ("loco", "auglocal")  # in this order; `table1` alone is the first one's
Label = str | int | float  # of a row: ours are texts and depths
MARKS = {"cited": "*", "inferred": "?", "ours": "†"}


def table_names() -> list[str]:
    """Names of all tables: LoCo's, AugLocal's, then any other paper's.

    Of each paper those that it printed, by number, then ours.
    """

    def order(path: Path) -> tuple[int, str, float, str]:
        paper, number = path.parent.name, _number(path.stem)
        place = PAPERS.index(paper) if paper in PAPERS else len(PAPERS)
        return place, paper, math.inf if number is None else number, path.stem

    paths = sorted(tables_dir().glob("*/*.toml"), key=order)
    return [f"{path.parent.name}/{path.stem}" for path in paths]


def _number(stem: str) -> int | None:
    """The number of a printed table by the name of its file; None for one of ours."""
    printed = re.fullmatch(r"table(\d+)", stem)
    return int(printed[1]) if printed else None


def resolve_name(name: str, paper: str | None = None) -> str:
    """The full name of a table: `table1` is LoCo's unless `paper` says otherwise.

    Raises UserError, with the nearest name, when there is none.
    """
    names = table_names()
    papers = list(dict.fromkeys(full.split("/")[0] for full in names))
    if paper is not None and paper not in papers:
        raise UserError(f"unknown paper '{paper}'{suggest(paper, papers)}")
    full = name if "/" in name else f"{paper or PAPERS[0]}/{name}"
    if paper is not None and not full.startswith(f"{paper}/"):
        raise UserError(f"table '{name}' is not one of paper '{paper}': leave one of the two out")
    if full in names:
        return full
    elsewhere = [other for other in names if other.endswith(f"/{name}")]
    hint = f"; did you mean '{elsewhere[0]}'?" if elsewhere and not paper else suggest(full, names)
    raise UserError(f"unknown table '{full}'{hint}")


def load_table(name: str) -> Table:
    """Read and check a table: `loco/table1`, or any name that `resolve_name` takes.

    Raises UserError, naming the file and the key, for anything that the format does not know, and
    for a rule, network, evaluation, recipe, setting or metric that locbench has not.
    """
    full = resolve_name(name)
    path = tables_dir() / f"{full}.toml"
    return _table(full, read(read_toml(path), TableFile, where=str(path)), str(path))


def readable_tables() -> Iterator[Table]:
    """Every table whose file can be read; a warning says what is wrong with another."""
    for name in table_names():
        try:
            yield load_table(name)
        except UserError as error:
            logger.warning("table %s is left out: %s", name, error)


@dataclass(frozen=True)
class TableFile:
    """What the file of a table may hold."""

    title: str
    source: str
    caption: str
    labels: tuple[str, ...]
    columns: list
    rows: list
    notes: tuple[str, ...] = ()
    defaults: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    fill: dict[str, Any] = field(default_factory=dict)
    smoke: dict[str, str] = field(default_factory=dict)
    claims: list = field(default_factory=list)


@dataclass(frozen=True)
class RowFile:
    """What a row may hold besides its labels and cells."""

    cited: bool = False
    source: str = ""
    inferred: dict[str, str] = field(default_factory=dict)
    fill: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CellFile:
    """What a cell may hold, written out."""

    value: Number | str
    std: NotNegative | None = None
    n: int | None = None
    ours: bool = False
    set: dict[str, Any] = field(default_factory=dict)


def _table(name: str, file: TableFile, where: str) -> Table:
    printed = [_column(raw, n, file, where) for n, raw in enumerate(file.columns, 1)]
    best = [column.of_best_epoch() for column in printed if column.best]
    columns = (*printed, *best)
    keys = [column.key for column in columns]
    for column in columns:
        if column.beside:
            check_keys([column.beside], keys, where=f"{where}: column '{column.key}': beside")
    names = [*file.labels, *keys, *hints(RowFile)]
    if twice := sorted({x for x in names if names.count(x) > 1} | {"column"} & set(names)):
        raise UserError(f"{where}: '{twice[0]}' names two things; labels and columns share names")
    rows = tuple(_row(raw, n, file, columns, where) for n, raw in enumerate(file.rows))
    _check_rows(rows, file.reasons, where)
    check_keys(file.smoke, ("rows", "columns"), where=f"{where}: smoke")
    check_fill(file.fill, where=f"{where}: fill")
    paper, stem = name.split("/")
    table = Table(
        name=name,
        paper=paper,
        number=_number(stem),
        title=file.title,
        source=file.source,
        caption=file.caption,
        notes=file.notes,
        label_names=file.labels,
        columns=columns,
        rows=rows,
        fill=file.fill,
        smoke=file.smoke,
    )
    cells = list(table.cells())
    for cell in cells:
        check_cell(cell, where=f"{where}: row {cell.row.index + 1}")
    return replace(table, claims=_claims(cells, columns, file.claims, where))


def _column(raw: Any, number: int, file: TableFile, where: str) -> Column:
    values = {**file.defaults, **typed(raw, dict, where=f"{where}: column {number}")}
    where = f"{where}: column {values.get('key', number)!r}"
    column = read(values, Column, where=where)
    check_fill(column.fill, where=f"{where}: fill")
    if column.tolerance is not None and column.tolerance_percent is not None:
        raise UserError(f"{where}: give 'tolerance' or 'tolerance_percent', not both")
    return column


def _row(raw: Any, index: int, file: TableFile, columns: tuple[Column, ...], where: str) -> Row:
    where, keys = f"{where}: row {index + 1}", [column.key for column in columns]
    check_keys(typed(raw, dict, where=where), [*file.labels, *keys, *hints(RowFile)], where=where)
    row = read({key: raw[key] for key in hints(RowFile) if key in raw}, RowFile, where=where)
    labels = {k: typed(raw[k], Label, where=f"{where}: '{k}'") for k in file.labels if k in raw}
    cells = {c.key: _cell(raw[c.key], c, where) for c in columns if c.key in raw}
    check_keys(row.inferred, [*labels, *cells], where=f"{where}: inferred")
    check_keys(row.inferred.values(), file.reasons, where=f"{where}: inferred")
    if row.cited and not row.source:
        raise UserError(f"{where}: 'source' is missing: a cited row says where it is cited from")
    check_fill(row.fill, where=f"{where}: fill")
    return Row(
        labels=labels,
        cited=row.cited,
        source=row.source,
        inferred=tuple(row.inferred),
        fill=row.fill,
        published={key: published for key, (published, _) in cells.items()},
        index=index,
        reasons={key: file.reasons[reason] for key, reason in row.inferred.items()},
        sets={key: values for key, (_, values) in cells.items() if values},
    )


def _cell(raw: Any, column: Column, where: str) -> tuple[Published, dict[str, Any]]:
    """What is published, and what the cell sets of the recipe.

    93.73, [93.73, 0.04] with a standard deviation, {value, std, n, ours, set}, or text.
    """
    where = f"{where}: '{column.key}'"
    if isinstance(raw, list):
        value, std = typed(raw, tuple[Number, Number], where=f"{where}: [value, std]")
        raw = {"value": value, "std": std}
    elif not isinstance(raw, dict):
        raw = {"value": raw}
    cell = read(raw, CellFile, where=where)
    if isinstance(cell.value, str):
        check_keys(raw, ("value", "ours"), where=f"{where} (text)")
    for number in (cell.value, cell.std):
        if isinstance(number, float) and round(number, column.decimals) != number:
            raise UserError(f"{where}: {number} has more than {column.decimals} decimals")
    if cell.set:
        check_fill({"set": cell.set}, where=where)
    return Published(cell.value, cell.std, cell.n, cell.ours or column.ours), cell.set


def _check_rows(rows: tuple[Row, ...], reasons: dict[str, str], where: str) -> None:
    seen: dict[tuple, int] = {}
    for row in rows:
        labels = tuple(row.labels.items())
        if labels in seen:
            raise UserError(f"{where}: rows {seen[labels] + 1} and {row.index + 1} are the same")
        seen[labels] = row.index
    used = {reason for row in rows for reason in row.reasons.values()}
    for code, text in reasons.items():
        if text not in used:
            raise UserError(f"{where}: reason '{code}' is not used by any row")


def _claims(
    cells: list[Cell], columns: tuple[Column, ...], entries: list[Any], where: str
) -> tuple[Claim, ...]:
    labels = {cell.key: {**cell.row.labels, "column": cell.column.key} for cell in cells}
    texts = {c.column.key for c in cells if c.published and isinstance(c.published.value, str)}
    numeric = [column.key for column in columns if not column.ours and column.key not in texts]
    titles = {column.key: column.label for column in columns}
    return tuple(
        build_claim(entry, labels, numeric, where=f"{where}: claim {n}", titles=titles)
        for n, entry in enumerate(entries, 1)
    )


def layout(table: Table) -> tuple[list[str], list[list[str]]]:
    """The published table as the paper lays it out: header labels, and rows of text.

    Marks (see `legend`): `*` cited, `?` inferred, `†` ours. No value: an empty text.
    """
    headers = list(table.label_names)
    for column in laid_out(table):
        unit = f" ({column.unit})" if column.unit else ""
        headers.append(f"{column.label}{unit}{MARKS['ours'] if column.ours else ''}")
    return headers, [_line(table, row) for row in table.rows]


def laid_out(table: Table) -> list[Column]:
    """The columns that have a number; of a table of ours all but those of the best epoch."""
    published = {key for row in table.rows for key in row.published}
    ours = table.number is None
    return [c for c in table.columns if c.key in published or (ours and c.epoch == "last")]


def _line(table: Table, row: Row) -> list[str]:
    def guess(name: str) -> str:
        return MARKS["inferred"] if name in row.inferred else ""

    line = [f"{row.labels.get(label, '')}{guess(label)}" for label in table.label_names]
    for column in laid_out(table):
        published = row.published.get(column.key)
        text = "" if published is None else format_published(published, column)
        line.append(text and f"{text}{MARKS['cited'] if row.cited else ''}{guess(column.key)}")
    return line


def format_published(published: Published, column: Column) -> str:
    """A published value to the digits of print: `69.5`, `93.73±0.04`, `†` if it is ours."""
    mark = MARKS["ours"] if published.ours and not column.ours else ""
    if isinstance(published.value, str):
        return published.value + mark
    spread = "" if published.std is None else f"±{published.std:.{column.decimals}f}"
    return f"{published.value:.{column.decimals}f}{spread}{mark}"


def legend(table: Table) -> list[str]:
    """A line for every mark that `layout` uses on this table, with the sources and reasons."""
    cited = list(dict.fromkeys(row.source for row in table.rows if row.cited))
    reasons = list(dict.fromkeys(text for row in table.rows for text in row.reasons.values()))
    published = [cell.published for cell in table.cells() if cell.published]
    lines = [f"{MARKS['cited']} the paper quotes it from {source}" for source in cited]
    lines += [f"{MARKS['inferred']} inferred: {reason}" for reason in reasons]
    lines += [
        f"{' '.join(map(str, row.labels.values()))}: {row.source}"
        for row in table.rows
        if row.source and not row.cited
    ]
    if any(p.ours for p in published) or any(column.ours for column in laid_out(table)):
        lines.append(f"{MARKS['ours']} ours: not printed in the paper")
    hidden = [column for column in table.columns if column not in laid_out(table)]
    if labels := [column.label for column in hidden if column.epoch == "last"]:
        lines.append(f"Columns of ours, measured and not in print: {'; '.join(labels)}")
    return lines


def count(table: Table) -> dict[str, int]:
    """How many cells are published (in print), ours (computed from print) and fillable here.

    Those of the best epoch are left out: the runs of others fill them.
    """
    cells = [cell for cell in table.cells() if cell.column.epoch == "last"]
    return {
        "published": sum(cell.published is not None and not cell.published.ours for cell in cells),
        "ours": sum(cell.published is not None and cell.published.ours for cell in cells),
        "fillable": sum(cell.fill is not None for cell in cells),
    }
