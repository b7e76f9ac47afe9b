"""Layout of filled tables for people, in whatever format: sections, columns, texts, notes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from locbench.plugins.registry import RULES
from locbench.published.table import Table
from locbench.recipes.chosen import chosen_keys
from locbench.report.baselines import margin_lines, margins
from locbench.report.claims import JudgedClaim
from locbench.report.filled import FilledCell, FilledTable
from locbench.report.grid import Column

NOTHING = "–"  # noqa: RUF001 - the dash of an empty cell

SCALE_NOTES = {
    "smoke": "Scale smoke: these measurements show that everything runs; "
    "they say nothing about the paper.",
    "small": "Scale small: real data at a reduced budget; "
    "claims are judged on it; published numbers are shown beside and not compared.",
}
MORE = (
    "Claims on what is trained are not judged at smoke. More: --scale small (real data, a reduced "
    "budget), --scale paper (as published), `locbench show {table}` (claims on printed numbers)."
)
STACKED = "In each cell: measured ± sd (n), and under it the published number."


@dataclass(frozen=True)
class Section:
    """Cells that are shown as one table, and what is said under it."""

    name: str
    title: str
    labels: Sequence[str]
    cells: Sequence[FilledCell]
    notes: Sequence[str] = ()
    claims: Sequence[JudgedClaim] = ()
    auxiliary: str = "decoder"  # what the networks that hang on the units are called
    named: bool = False  # says which column a number is of, also where there is one alone


def sections(filled: FilledTable) -> list[Section]:
    """The table itself, then what is shown beside it: baselines and columns of ours."""
    table = filled.plan.table
    cells = [cell for cell in filled.cells if not _hidden(cell)]
    inside, beside = ([c for c in cells if c.beside is side] for side in (False, True))
    word = _auxiliary(filled)
    notes = [*scale_notes(inside), *added_notes(filled), *_later_notes(filled)] if inside else []
    notes += recipe_notes(inside)
    whole = Section(
        table.name,
        table.title,
        table.label_names,
        inside,
        notes,
        filled.claims,
        word,
        named=len([column for column in table.columns if not column.ours]) > 1,
    )
    scales = [note for note in scale_notes(beside) if note not in notes]
    ours = Section(
        f"{table.name}/beside",
        "Baselines and our own columns",
        _labels_beside(table, beside),
        beside,
        [*scales, *margin_lines(margins(filled.cells))],
        auxiliary=word,
        named=True,
    )
    shown = [section for section in (whole, ours) if section.cells]
    ends = [replace(section, notes=[*section.notes, *_more(filled)]) for section in shown[-1:]]
    return [*shown[:-1], *ends]


def _more(filled: FilledTable) -> list[str]:
    """How to have the claims judged, where they were not for the scale."""
    unjudged = len(filled.claims) < len(filled.plan.table.claims)
    return [MORE.format(table=filled.plan.table.name)] if unjudged else []


def _hidden(cell: FilledCell) -> bool:
    """Whether a cell is not shown: what was left out, or has no number, without a place in print.

    Nor the best epoch of the few at smoke.
    """
    best = cell.column.epoch == "best"
    without_number = cell.mean is None and cell.beside and (cell.planned.later or best)
    return without_number or (best and cell.scale == "smoke")


def scale_notes(cells: Sequence[FilledCell]) -> list[str]:
    """What the scales of the measured numbers mean."""
    scales = {c.scale for c in [c for c in cells if c.mean is not None] or cells}
    return [note for scale, note in SCALE_NOTES.items() if scale in scales]


def recipe_notes(cells: Sequence[FilledCell]) -> list[str]:
    """What readers of the trained cells have to know of their recipes.

    Which values are ours at the paper's scale, and what a recipe itself says of another.
    """
    trained = [c for c in cells if c.planned.specs and c.planned.specs[0].of.uses_data]
    notes = dict.fromkeys(spec.recipe.note for c in trained for spec in c.planned.specs)
    fills = [c.cell.fill for c in trained if c.scale == "paper"]
    names = dict.fromkeys(fill.get(key) for key in ("recipe", "downstream") for fill in fills)
    for name in filter(None, names):
        keys = [key for key in chosen_keys(name) if any(_reads(fill, key) for fill in fills)]
        notes |= {f"Chosen by us in {name}: {', '.join(keys)}.": None} if keys else {}
    return list(filter(None, notes))


def _reads(fill: dict[str, Any], key: str) -> bool:
    """Whether the runs of a cell read this key of a recipe."""
    section, *keys = key.split(".")
    if section == "rules":
        return fill["rule"] == keys[0] and (len(keys) < 3 or fill["network"] == keys[1])
    evaluation = {"probe": "probe", "detection": "detect"}.get(section)
    return evaluation in (None, fill["evaluation"])


def added_notes(filled: FilledTable) -> list[str]:
    """Where the rules of added rows are from, a line each."""
    names = dict.fromkeys(c.cell.fill["rule"] for c in filled.cells if c.cell.row.added)
    return [f"Rule {RULES.entry(name).described}: not in the paper." for name in names]


def _later_notes(filled: FilledTable) -> list[str]:
    """Which columns have cells that are run only when they are asked for."""
    later, first = (
        dict.fromkeys(
            c.column.label
            for c in filled.cells
            if c.planned.later is side and c.column.epoch == "last"
        )
        for side in (True, False)
    )
    names = [label for label in later if label not in first] or ["further rows"]
    note = f"Not run unless asked for (--rows all --columns all): cells of {', '.join(names)}."
    return [note] if later else []


def _auxiliary(filled: FilledTable) -> str:
    """Contrastive rules have decoders, supervised ones auxiliary networks."""
    rules = {c.cell.fill["rule"] for c in filled.cells if c.cell.fill}
    learns = {RULES.entry(rule).learns for rule in rules if rule in RULES}
    return "auxiliary network" if learns == {"label"} else "decoder"


def _labels_beside(table: Table, cells: Sequence[FilledCell]) -> list[str]:
    """Method and network, where they tell the rows apart; else all labels of the table."""

    def distinct(names: Iterable[str]) -> int:
        return len({(*map(c.label, names), c.column.label) for c in cells})

    few = [name for name in table.label_names if name in ("method", "network")]
    apart = few and distinct(few) == distinct(table.label_names)
    return few if apart else list(table.label_names)


def columns(section: Section) -> list[Column]:
    """A row a cell; columns without any content are left out."""
    cells, units = section.cells, {c.column.unit for c in section.cells}
    shown = [Column(name, [c.label(name) for c in cells]) for name in section.labels]
    names = [_with_unit(c.column.label, c.column.unit if len(units) > 1 else "") for c in cells]
    if len(set(names)) > 1 or section.named:
        shown.append(Column("column", names))
    head = _with_unit("measured", min(units) if len(units) == 1 else "")
    head += "\n± sd (n)" if any(c.seeds for c in cells) else ""
    shown.append(Column(head, [_measured(c) for c in cells], True))
    if any(c.published is not None for c in cells):
        numeric = not any(isinstance(c.published, str) for c in cells)
        differences = [_number(c.difference, c.column.decimals, sign="+") for c in cells]
        shown.append(Column("published", [_published(c) for c in cells], numeric, short="paper"))
        shown.append(Column("difference", differences, True, short="diff."))
    shown.append(Column(section.auxiliary, [c.decoder for c in cells]))
    if _scales(cells) > 1:
        shown.append(Column("scale", [c.scale for c in cells]))
    if any(c.cell.row.cited or c.verdict.name or c.unfinished for c in cells):
        shown.append(Column("verdict", [_verdict(c) for c in cells]))
    return _with_content(shown, section)


def columns_as_printed(section: Section) -> list[Column] | None:
    """The paper's own layout: a row a row, a column a column, measured over published.

    None for a table of one column, without published numbers, or whose columns have several units
    or scales.
    """
    cells, units = section.cells, {c.column.unit for c in section.cells}
    names = list(dict.fromkeys(c.column.label for c in cells))
    rows: dict[tuple[str, ...], dict[str, FilledCell]] = {}
    for c in cells:
        rows.setdefault(tuple(map(c.label, section.labels)), {})[c.column.label] = c
    once = sum(map(len, rows.values())) == len(cells)
    published = any(c.published is not None for c in cells)
    if len(names) < 2 or len(units) > 1 or not (once and published) or _scales(cells) > 1:
        return None
    shown = [Column(k, [key[n] for key in rows]) for n, k in enumerate(section.labels)]
    for name in names:
        row_cells = [row.get(name) for row in rows.values()]
        texts = ["" if c is None else f"{_measured(c)}\n{_published(c)}" for c in row_cells]
        shown.append(Column(_with_unit(name, min(units)), texts, True))
    judged = [_judged(list(row.values())) for row in rows.values()]
    decoders = [", ".join(dict.fromkeys(c.decoder for c in row)) for row in judged]
    shown.append(Column(section.auxiliary, decoders))
    shown.append(Column("verdict", [_verdicts(row) for row in judged]))
    return _with_content(shown, section)


def _with_content(columns: Sequence[Column], section: Section) -> list[Column]:
    optional = {*section.labels, section.auxiliary, "verdict"}
    return [column for column in columns if column.head not in optional or any(column.cells)]


def _scales(cells: Sequence[FilledCell]) -> int:
    return len({c.scale for c in cells if c.mean is not None})


def _with_unit(text: str, unit: str) -> str:
    return f"{text} [{unit}]" if unit else text


def _judged(row: Sequence[FilledCell]) -> Sequence[FilledCell]:
    """The cells that a row's verdict is about: those measured; all where none is."""
    return [c for c in row if c.mean is not None or c.verdict.name == "diverged"] or row


def _verdicts(row: Sequence[FilledCell]) -> str:
    """The verdicts of a row, each with its columns where they differ."""
    names: dict[str, list[str]] = {}
    for cell in row:
        names.setdefault(_verdict(cell), []).append(cell.column.label)
    if len(names) == 1:
        return next(iter(names))
    return "; ".join(f"{', '.join(labels)}: {text}" for text, labels in names.items())


def _number(value: float | str | None, decimals: int, *, sign: str = "") -> str:
    """A number to the digits of print; text as it is; a dash for nothing."""
    if value is None:
        return NOTHING
    if isinstance(value, str):
        return value
    # Adding zero after rounding turns -0.0 into 0.0.
    return f"{round(value, decimals) + 0.0:{sign}.{decimals}f}"


def _with_spread(text: str, spread: float | None, decimals: int) -> str:
    """Two digits of a spread at least where the value has any: most would show 0.1."""
    if spread is None:
        return text
    return f"{text} ± {_number(spread, max(decimals, 2) if decimals > 0 else decimals)}"


def _measured(cell: FilledCell) -> str:
    decimals = cell.column.decimals
    text = _with_spread(_number(cell.mean, decimals), cell.spread, decimals)
    if cell.mean is None or not cell.seeds:
        return text
    return f"{text} ({cell.n})" if cell.n >= cell.seeds else f"{text} ({cell.n} of {cell.seeds})"


def _published(cell: FilledCell) -> str:
    decimals = cell.column.decimals
    return _with_spread(_number(cell.published, decimals), cell.published_std, decimals)


def _verdict(cell: FilledCell) -> str:
    if cell.cell.row.cited:
        return "cited"
    text = str(cell.verdict) or ("baseline" if cell.planned.baseline else "")
    return "; ".join(part for part in (text, cell.unfinished) if part)
