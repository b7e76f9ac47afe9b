"""Published tables: their cells, their claims, and what fills each cell that can be measured.

One TOML file a table, tables/PAPER/tableN.toml; tables/README.md says how to write one. A file of
another name is a table of ours, on what a paper leaves open: its cells need no published number.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from locbench.errors import UserError
from locbench.paths import tables_dir
from locbench.plugins.entry import suggest
from locbench.published.claims import Claim, Key, build_claim, check_keys, take, take_words
from locbench.published.table import Cell, Column, Published, Row
from locbench.recipes.validation import merge

PAPERS = ("loco", "auglocal")  # in this order; `table1` alone is the first one's
FILL_KEYS = (
    "recipe",
    "downstream",
    "evaluation",
    "rule",
    "network",
    "weights",
    "convention",
    "over",
    "set",
)
ON_A_GPU = ("gpu",)  # evaluations that need one
# Evaluations that stand beside published numbers alone: a stage of one network may not be there
# in another, and not every rule has a published time.
BESIDE_PRINT = ("count", *ON_A_GPU)
MARKS = {"cited": "*", "inferred": "?", "ours": "†"}


@dataclass(frozen=True)
class Table:
    """A published table in the order of the paper, or one of ours, which has no number."""

    name: str  # "loco/table1"
    paper: str
    number: int | None
    title: str
    source: str
    caption: str
    notes: tuple[str, ...]
    label_names: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...] = ()
    fill: dict[str, Any] = field(default_factory=dict)
    smoke: dict[str, str] = field(default_factory=dict)  # rows and columns run there unless asked

    def cells(self) -> Iterator[Cell]:
        """The cells row by row: those with a published value, or that a run can fill.

        Some columns and evaluations (BESIDE_PRINT) stand beside published numbers alone.
        """
        for row in self.rows:
            for column in self.columns:
                published, fill = row.published.get(column.key), self._fill(row, column)
                if published is not None or (fill is not None and _shown(row, column, fill)):
                    yield Cell(self.name, row, column, published, fill, self.number is None)

    def values(self) -> dict[Key, float]:
        """The published numbers, as claims take them; cells of text are left out."""
        return {
            cell.key: cell.published.value
            for cell in self.cells()
            if cell.published is not None and not isinstance(cell.published.value, str)
        }

    def _fill(self, row: Row, column: Column) -> dict[str, Any] | None:
        # A row says that it can be filled; the table and the column only say how.
        if row.cited or not row.fill:
            return None
        own = {"set": row.sets[column.key]} if column.key in row.sets else {}
        fill = merge(merge(merge(self.fill, column.fill), row.fill), own)
        return None if row.further and sets_rule(fill) else fill


def sets_rule(fill: dict[str, Any]) -> bool:
    """Whether a fill sets something of a rule, which another rule has not."""
    return any(key.startswith("rule.") for key in fill.get("set", {}))


def _shown(row: Row, column: Column, fill: dict[str, Any]) -> bool:
    """Whether a cell that nobody published is one of the table."""
    evaluation = fill.get("evaluation")
    if row.further:
        return evaluation not in ON_A_GPU
    if column.beside:
        return column.beside in row.published
    return evaluation not in BESIDE_PRINT


def table_names() -> list[str]:
    """Names of all tables: LoCo's, AugLocal's, then any other paper's.

    Of each paper those that it printed, by number, then ours.
    """

    def order(path: Path) -> tuple[int, str, float, str]:
        paper, number = path.parent.name, _number(path.stem)
        place = PAPERS.index(paper) if paper in PAPERS else len(PAPERS)
        return place, paper, math.inf if number is None else number, path.stem

    found = sorted(tables_dir().glob("*/*.toml"), key=order)
    return [f"{path.parent.name}/{path.stem}" for path in found]


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

    Raises UserError, naming the file and the key, for anything that the format does not know.
    """
    full = resolve_name(name)
    path = tables_dir() / f"{full}.toml"
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}") from error
    return _table(full, raw, str(path))


def _table(name: str, raw: dict[str, Any], where: str) -> Table:
    check_keys(raw, (*_TEXTS, "notes", "labels", "defaults", "columns", "rows", *_LATER), where)
    labels = take_words(raw, "labels", where)
    defaults = take(raw, "defaults", dict, where, {})
    columns = tuple(
        _column({**defaults, **_entry(entry, f"{where}: column {n}")}, f"{where}: column {n}")
        for n, entry in enumerate(take(raw, "columns", list, where), start=1)
    )
    for n, column in enumerate(columns, start=1):
        if column.beside:
            keys = [other.key for other in columns]
            check_keys([column.beside], keys, f"{where}: column {n}: beside")
    names = [*labels, *(column.key for column in columns), *_ROW_KEYS]
    if twice := sorted({x for x in names if names.count(x) > 1} | {"column"} & set(names)):
        raise UserError(f"{where}: '{twice[0]}' names two things; labels and columns share names")
    reasons = take(raw, "reasons", dict, where, {})
    rows = tuple(
        _row(_entry(entry, f"{where}: row {n + 1}"), n, labels, columns, reasons, where)
        for n, entry in enumerate(take(raw, "rows", list, where))
    )
    _check_rows(rows, reasons, where)
    paper, stem = name.split("/")
    fill = _fill(take(raw, "fill", dict, where, {}), f"{where}: fill")
    texts = {key: take(raw, key, str, where) for key in _TEXTS}
    notes = tuple(take_words(raw, "notes", where, []))
    parts = (notes, tuple(labels), columns, rows)
    smoke = take(raw, "smoke", dict, where, {})
    check_keys(smoke, ("rows", "columns"), f"{where}: smoke")
    smoke = {key: take(smoke, key, str, f"{where}: smoke") for key in smoke}
    table = Table(name, paper, _number(stem), *texts.values(), *parts, fill=fill, smoke=smoke)
    for cell in table.cells():
        if cell.fill is not None and (lacks := [k for k in _FILL_NEEDS if k not in cell.fill]):
            raise UserError(f"{where}: row {cell.row.index + 1}: its fill has no '{lacks[0]}'")
    return _with_claims(table, take(raw, "claims", list, where, []), where)


_TEXTS = ("title", "source", "caption")
_LATER = ("reasons", "fill", "smoke", "claims")
_ROW_KEYS = ("cited", "source", "inferred", "fill")
_FILL_NEEDS = ("recipe", "evaluation", "rule", "network")


def _with_claims(table: Table, raw: list[Any], where: str) -> Table:
    cells = {cell.key: {**cell.row.labels, "column": cell.column.key} for cell in table.cells()}
    text = {c.column.key for c in table.cells() if c.published and _is_text(c.published.value)}
    columns = [c.key for c in table.columns if not c.ours and c.key not in text]
    claims = [
        build_claim(_entry(entry, f"{where}: claim {n}"), cells, columns, f"{where}: claim {n}")
        for n, entry in enumerate(raw, start=1)
    ]
    return Table(**{**vars(table), "claims": tuple(claims)})


def _entry(entry: Any, where: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise UserError(f"{where}: must be a table of keys, not {entry!r}")
    return entry


def _column(raw: dict[str, Any], where: str) -> Column:
    check_keys(raw, Column.__dataclass_fields__, where)
    key = take(raw, "key", str, where)
    where = f"{where} ('{key}')"
    column = Column(
        key=key,
        label=take(raw, "label", str, where),
        metric=take(raw, "metric", str, where),
        unit=take(raw, "unit", str, where, ""),
        decimals=take(raw, "decimals", int, where, 0),
        tolerance=take(raw, "tolerance", float, where, None),
        higher_is_better=take(raw, "higher_is_better", bool, where, None),
        ours=take(raw, "ours", bool, where, False),
        fill=_fill(take(raw, "fill", dict, where, {}), f"{where}: fill"),
        tolerance_percent=take(raw, "tolerance_percent", float, where, None),
        beside=take(raw, "beside", str, where, ""),
    )
    if column.tolerance is not None and column.tolerance_percent is not None:
        raise UserError(f"{where}: give 'tolerance' or 'tolerance_percent', not both")
    return column


def _row(
    raw: dict[str, Any],
    index: int,
    labels: list[str],
    columns: tuple[Column, ...],
    reasons: dict[str, Any],
    where: str,
) -> Row:
    where = f"{where}: row {index + 1}"
    check_keys(raw, [*labels, *(column.key for column in columns), *_ROW_KEYS], where)
    named = {label: raw[label] for label in labels if label in raw}
    for label, value in named.items():
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise UserError(f"{where}: label '{label}' must be text or a number, not {value!r}")
    published = {c.key: _published(raw[c.key], c, where) for c in columns if c.key in raw}
    sets = {c.key: _cell_set(raw.get(c.key), f"{where}: '{c.key}'") for c in columns}
    inferred = take(raw, "inferred", dict, where, {})
    check_keys(inferred, [*named, *published], f"{where}: inferred")
    check_keys((take(inferred, key, str, where) for key in inferred), reasons, f"{where}: inferred")
    cited, source = take(raw, "cited", bool, where, False), take(raw, "source", str, where, "")
    if cited and not source:
        raise UserError(f"{where}: 'source' is missing: a cited row says where it is cited from")
    return Row(
        labels=named,
        cited=cited,
        source=source,
        inferred=tuple(inferred),
        fill=_fill(take(raw, "fill", dict, where, {}), f"{where}: fill"),
        published=published,
        index=index,
        reasons={key: take(reasons, code, str, where) for key, code in inferred.items()},
        sets={key: values for key, values in sets.items() if values},
    )


def _published(raw: Any, column: Column, where: str) -> Published:
    """93.73, [93.73, 0.04] with a standard deviation, {value, std, n, ours, set}, or text."""
    where = f"{where}: '{column.key}'"
    if isinstance(raw, list):
        if len(raw) != 2:
            raise UserError(f"{where}: a list is [value, standard deviation], not {raw!r}")
        raw = {"value": raw[0], "std": raw[1]}
    elif not isinstance(raw, dict):
        raw = {"value": raw}
    check_keys(raw, ("value", "std", "n", "ours", "set"), where)
    ours = take(raw, "ours", bool, where, False) or column.ours
    if _is_text(raw.get("value")):
        check_keys(raw, ("value", "ours"), f"{where} (text)")
        return Published(raw["value"], ours=ours)
    value, std = take(raw, "value", float, where), take(raw, "std", float, where, None)
    for number in (value, std):
        if number is not None and round(number, column.decimals) != number:
            raise UserError(f"{where}: {number} has more than {column.decimals} decimals")
    std = None if std is None else float(std)
    return Published(float(value), std, take(raw, "n", int, where, None), ours)


def _cell_set(raw: Any, where: str) -> dict[str, Any]:
    """What one cell sets of the recipe, over its row's and its column's."""
    own = raw.get("set", {}) if isinstance(raw, dict) else {}
    return _fill({"set": own}, where)["set"] if own else {}


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _fill(raw: dict[str, Any], where: str) -> dict[str, Any]:
    check_keys(raw, FILL_KEYS, where)
    for key in raw:
        take(raw, key, dict if key in ("set", "over") else str, where)
    for key, value in raw.get("set", {}).items():
        if not isinstance(value, str | int | float):
            hint = 'quote the key, as in set = { "probe.profile" = "moco" }'
            raise UserError(f"{where}: set: '{key}' must be one value, not {value!r}; {hint}")
    if "over" in raw:
        check_keys(raw["over"], ("rule", "set"), f"{where}: over")
        take(raw["over"], "rule", str, f"{where}: over")
        _fill({"set": raw["over"].get("set", {})}, f"{where}: over")
    return raw


def _check_rows(rows: tuple[Row, ...], reasons: dict[str, Any], where: str) -> None:
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


def layout(table: Table) -> tuple[list[str], list[list[str]]]:
    """The published table as the paper lays it out: header labels, and rows of text.

    Marks (see `legend`): `*` cited, `?` inferred, `†` ours. No value: an empty text.
    """
    headers = list(table.label_names)
    for column in table.columns:
        unit = f" ({column.unit})" if column.unit else ""
        headers.append(f"{column.label}{unit}{MARKS['ours'] if column.ours else ''}")
    return headers, [_line(table, row) for row in table.rows]


def _line(table: Table, row: Row) -> list[str]:
    def guess(name: str) -> str:
        return MARKS["inferred"] if name in row.inferred else ""

    line = [f"{row.labels.get(label, '')}{guess(label)}" for label in table.label_names]
    for column in table.columns:
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
    others = [row for row in table.rows if row.source and not row.cited]
    lines += [f"{' '.join(map(str, row.labels.values()))}: {row.source}" for row in others]
    if any(p.ours for p in published) or any(column.ours for column in table.columns):
        lines.append(f"{MARKS['ours']} ours: not printed in the paper")
    return lines


def count(table: Table) -> dict[str, int]:
    """How many cells are published (in print), ours (computed from print) and fillable here."""
    cells = list(table.cells())
    return {
        "published": sum(cell.published is not None and not cell.published.ours for cell in cells),
        "ours": sum(cell.published is not None and cell.published.ours for cell in cells),
        "fillable": sum(cell.fill is not None for cell in cells),
    }
