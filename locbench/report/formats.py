"""A filled table as text: for a terminal, Markdown, LaTeX, CSV and JSON.

`locbench.report.layout` says which columns the frame has. CSV and JSON hold all of them, at machine
precision; the others hold what a person reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from locbench.errors import UserError
from locbench.plugins.entry import suggest
from locbench.report.layout import MARKS, NOTHING, JudgedClaim, Report, shown_columns

if TYPE_CHECKING:
    from rich.console import Console

FORMATS = ("rich", "md", "csv", "json", "latex")
WORDS = {True: "holds", False: "fails", None: "open"}


def render(report: Report, format: str = "rich", console: Console | None = None) -> str:
    """The report as text in one of FORMATS; UserError for another.

    `rich` is laid out and coloured for `console`, or plain at 100 columns. Nothing is printed.
    """
    if format not in FORMATS:
        raise UserError(f"unknown format '{format}'{suggest(format, FORMATS)}")
    if format == "rich":
        from locbench.report.terminal import on_screen

        return on_screen(report, console)
    writers = {"md": _markdown, "latex": _latex, "csv": _csv, "json": _json}
    return writers[format](report)


# --- Markdown --------------------------------------------------------------------------------


def _markdown(report: Report) -> str:
    columns = shown_columns(report)
    lines = [f"### {_md(report.title)} (`{report.name}`)", ""]
    if report.caption:
        lines += [_md(report.caption), ""]
    lines.append(_md_row([c.head for c in columns]))
    lines.append("|" + "|".join(" ---: " if c.numeric else " --- " for c in columns) + "|")
    lines += [_md_row(row) for row in zip(*(c.cells for c in columns), strict=True)]
    if report.claims:
        lines += ["", *(f"- {MARKS[c.holds]} {_md(_claim_text(c))}" for c in report.claims)]
    for note in report.notes():
        lines += ["", _md(note)]
    return "\n".join(lines) + "\n"


def _md_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_md, cells)) + " |"


def _md(text: str) -> str:
    """Text that Markdown would read as a mark is escaped: `SimCLR*` opens no emphasis."""
    return re.sub(r"([\\|*_`<])", r"\\\1", " ".join(text.split()))


def _claim_text(claim: JudgedClaim) -> str:
    return f"{claim.text} ({claim.detail})" if claim.detail else claim.text


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


def _latex(report: Report) -> str:
    columns = shown_columns(report)
    rows = zip(*([_tex(x, c.head) for x in c.cells] for c in columns), strict=True)
    caption = f"{report.title}. {report.caption}" if report.caption else report.title
    below = [_tex(note) for note in report.notes()]
    below += [rf"\emph{{{WORDS[c.holds]}}}: {_tex(_claim_text(c))}" for c in report.claims]
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_tex(caption)}}}",
        rf"\label{{tab:{report.name.replace('/', '-')}}}",
        rf"\begin{{tabular}}{{{''.join('r' if c.numeric else 'l' for c in columns)}}}",
        r"\toprule",
        " & ".join(_tex(c.head) for c in columns) + r" \\",
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


def _csv(report: Report) -> str:
    return report.frame.to_csv(index=False, lineterminator="\n")


def _json(report: Report) -> str:
    cells = [{k: _plain(v) for k, v in x.items()} for x in report.frame.to_dict("records")]
    claims = [{"text": c.text, "holds": c.holds, "detail": c.detail} for c in report.claims]
    whole = {
        "table": report.name,
        "title": report.title,
        "caption": report.caption,
        "labels": list(report.labels),
        "cells": cells,
        "claims": claims,
        "footnotes": report.notes(),
    }
    return json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """Numbers of numpy as Python's, what is missing or infinite as null."""
    item: Callable[[], Any] | None = getattr(value, "item", None)
    value = item() if item is not None else value
    missing = value is None or value != value or value in (float("inf"), float("-inf"))
    return None if missing else value
