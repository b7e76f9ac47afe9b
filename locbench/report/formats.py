"""Filled tables in every format: for a terminal, Markdown, LaTeX, CSV and JSON.

CSV and JSON hold every field of a cell, at machine precision; the others what a person reads.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from locbench.errors import UserError
from locbench.plugins.entry import suggest
from locbench.report.baselines import margins
from locbench.report.claims import MARKS
from locbench.report.filled import FilledTable, fill_table
from locbench.report.layout import (
    NOTHING,
    Section,
    added_notes,
    columns,
    scale_notes,
    sections,
)
from locbench.report.terminal import on_screen
from locbench.runs.plan import Plan
from locbench.runs.store import Store

if TYPE_CHECKING:
    from rich.console import Console

FORMATS = ("rich", "md", "csv", "json", "latex")
WORDS = {True: "holds", False: "fails", None: "open"}


def render(plan: Plan, store: Store, format: str, *, console: Console | None = None) -> str:
    """The planned table, filled from the store, as text; see `write`."""
    return write(fill_table(plan, store), format, console=console)


def write(filled: FilledTable, format: str, *, console: Console | None = None) -> str:
    """The table in one of FORMATS; UserError for another.

    `rich` is laid out and coloured for the console, by default the terminal's. Nothing is printed.
    """
    if format not in FORMATS:
        raise UserError(f"unknown format '{format}'{suggest(format, FORMATS)}")
    if format in WHOLE:
        return WHOLE[format](filled)
    shown = sections(filled)
    if format == "rich":
        return "\n".join(on_screen(section, console) for section in shown)
    return "\n".join(SECTIONS[format](section) for section in shown)


# --- Markdown --------------------------------------------------------------------------------


def markdown(section: Section) -> str:
    """A heading, a table, a list of claims, and the notes."""
    shown = columns(section)
    lines = [f"### {_md(section.title)} (`{section.name}`)", ""]
    lines.append(_md_row([c.head for c in shown]))
    lines.append("|" + "|".join(" ---: " if c.numeric else " --- " for c in shown) + "|")
    lines += [_md_row(row) for row in zip(*(c.cells for c in shown), strict=True)]
    if section.claims:
        lines += ["", *(f"- {MARKS[c.holds]} {_md(str(c))}" for c in section.claims)]
    for note in section.notes:
        lines += ["", _md(note)]
    return "\n".join(lines) + "\n"


def _md_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_md, cells)) + " |"


def _md(text: str) -> str:
    """Text that Markdown would read as a mark is escaped: `SimCLR*` opens no emphasis."""
    return re.sub(r"([\\|*_`<])", r"\\\1", " ".join(text.split()))


# --- LaTeX -----------------------------------------------------------------------------------

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{character: "\\" + character for character in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "±": r"$\pm$",
        "×": r"$\times$",  # noqa: RUF001 - the sign itself
        "≤": r"$\leq$",
        "≥": r"$\geq$",
        "−": "$-$",  # noqa: RUF001 - the sign itself
        "–": "--",  # noqa: RUF001 - the sign itself
        "†": r"\dag{}",
        "λ": r"$\lambda$",
        "τ": r"$\tau$",
    }
)


def latex(section: Section) -> str:
    """A floating table with booktabs; notes and claims stand below it."""
    shown = columns(section)
    rows = zip(*([_tex(x, c.head) for x in c.cells] for c in shown), strict=True)
    below = [_tex(note) for note in section.notes]
    below += [rf"\emph{{{WORDS[c.holds]}}}: {_tex(str(c))}" for c in section.claims]
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_tex(section.title)}}}",
        rf"\label{{tab:{section.name.replace('/', '-')}}}",
        rf"\begin{{tabular}}{{{''.join('r' if c.numeric else 'l' for c in shown)}}}",
        r"\toprule",
        " & ".join(_tex(c.head) for c in shown) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\smallskip{{\footnotesize {text}}}" for text in below),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _tex(text: str, head: str = "") -> str:
    if head == "difference" and text != NOTHING:
        return f"${text}$"  # a minus and not a hyphen
    return " ".join(text.split()).translate(_LATEX)


# --- for programs ----------------------------------------------------------------------------


def to_csv(filled: FilledTable) -> str:
    """A line a cell under the names of its fields."""
    rows, text = filled.rows(), io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_json(filled: FilledTable) -> str:
    """One document: the cells with their fields, the claims, the margins, the footnotes."""
    table = filled.plan.table
    whole = {
        "table": table.name,
        "title": table.title,
        "labels": list(table.label_names),
        "cells": filled.rows(),
        "claims": [vars(claim) for claim in filled.claims],
        "margins": [{**vars(margin), "holds": margin.holds} for margin in margins(filled.cells)],
        "footnotes": [*scale_notes(filled.cells), *added_notes(filled)],
    }
    return json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


WHOLE: dict[str, Callable[[FilledTable], str]] = {"csv": to_csv, "json": to_json}
SECTIONS: dict[str, Callable[[Section], str]] = {"md": markdown, "latex": latex}
