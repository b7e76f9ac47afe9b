"""A filled table as text: for a terminal, Markdown, LaTeX, CSV and JSON.

The frame has one line a cell, in the paper's order. These columns are read: the labels of the row,
`column`, `measured`, `spread` (sample standard deviation), `n`, `published`, `published_std`,
`difference`, `decimals`, `unit`, `decoder`, `scale`, `verdict`, `cited`, and where there are any
`detail` (of the verdict) and `baseline`. CSV and JSON hold all columns at machine precision.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from locbench.errors import UserError
from locbench.registry import suggest

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

FORMATS = ("rich", "md", "csv", "json", "latex")
WIDTH = 100  # columns of a terminal, where no console says otherwise
NOTHING = "–"  # noqa: RUF001 - the dash of an empty cell

SCALE_NOTES = {
    "smoke": "Scale smoke: these measurements show that everything runs; "
    "they say nothing about the paper.",
    "small": "Scale small: real data at a reduced budget; "
    "published numbers are shown beside and not judged.",
}
MARKS = {True: "✓", False: "✗", None: "?"}
WORDS = {True: "holds", False: "fails", None: "open"}
STYLES = {
    "reproduced": "green",
    "better": "cyan",
    "worse": "red",
    "inconclusive": "yellow",
    "diverged": "bold red",
}


@dataclass(frozen=True)
class Report:
    """A table with what is said around it; `claims` have .text, .holds (bool or None), .detail."""

    name: str
    title: str
    frame: pd.DataFrame
    labels: Sequence[str]
    caption: str = ""
    claims: Sequence[Any] = ()
    footnotes: Sequence[str] = ()

    def notes(self) -> list[str]:
        """What the scales of the measured numbers mean, then the footnotes."""
        scales = [s for s in SCALE_NOTES if s in set(self.frame["scale"])]
        return [*(SCALE_NOTES[scale] for scale in scales), *self.footnotes]


@dataclass(frozen=True)
class Column:
    """A shown column: its head, whether it holds numbers, and its text for each line."""

    head: str
    numeric: bool
    cells: list[str]


def render(report: Report, format: str = "rich", console: Console | None = None) -> str:
    """The report as text in one of FORMATS; UserError for another.

    `rich` is laid out and coloured for `console`, or plain at 100 columns. Nothing is printed.
    """
    if format not in FORMATS:
        raise UserError(f"unknown format '{format}'{suggest(format, FORMATS)}")
    if format == "rich":
        return _rich(report, console)
    writers = {"md": _markdown, "latex": _latex, "csv": _csv, "json": _json}
    return writers[format](report)


# --- what every layout shows -----------------------------------------------------------------


def shown_columns(report: Report) -> list[Column]:
    """The columns that people see; those without any content are left out."""
    lines = report.frame.to_dict("records")
    columns = [Column(name, False, [_label(x.get(name)) for x in lines]) for name in report.labels]
    names = [_with_unit(x) for x in lines]
    single = len(set(names)) == 1
    if not single:
        columns.append(Column("column", False, names))
    unit = f" [{lines[0]['unit']}]" if single and _present(lines[0]["unit"]) else ""
    numbers = not any(isinstance(x["published"], str) for x in lines)
    columns += [
        Column(f"measured{unit} ± sd (n)", True, [_measured(x) for x in lines]),
        Column("published", numbers, [_published(x) for x in lines]),
        Column("difference", True, [_difference(x) for x in lines]),
        Column("decoder", False, [_label(x["decoder"]) for x in lines]),
    ]
    if len({x["scale"] for x in lines if _present(x["measured"])}) > 1:
        columns.append(Column("scale", False, [_label(x["scale"]) for x in lines]))
    columns.append(Column("verdict", False, [_verdict(x) for x in lines]))
    optional = {*report.labels, "decoder", "verdict"}
    return [c for c in columns if c.head not in optional or any(c.cells)]


def _present(value: Any) -> bool:
    """Whether a frame's entry holds something: not None, nan or empty text."""
    return value is not None and value == value and value != ""


def _label(value: Any) -> str:
    """A label as text; a column of whole numbers with gaps comes as floats."""
    if not _present(value):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _with_unit(line: dict[str, Any]) -> str:
    unit = f" [{line['unit']}]" if _present(line["unit"]) else ""
    return f"{line['column']}{unit}"


def _number(value: Any, decimals: Any, sign: str = "") -> str:
    """A number to the digits of print; text as it is; a dash for nothing."""
    if not _present(value):
        return NOTHING
    if isinstance(value, str):
        return value
    if not _present(decimals):
        return f"{value:{sign}g}"
    # Adding zero after rounding turns -0.0 into 0.0.
    return f"{round(value, int(decimals)) + 0.0:{sign}.{int(decimals)}f}"


def _measured(line: dict[str, Any]) -> str:
    if not _present(line["measured"]):
        return NOTHING
    text = _number(line["measured"], line["decimals"])
    if _present(line["spread"]):
        text += f" ± {_number(line['spread'], _finer(line))}"
    return f"{text} ({int(line['n'])})" if _present(line["n"]) else text


def _finer(line: dict[str, Any]) -> Any:
    """Digits of a spread: two at least where the value has any, or most spreads would show 0.1."""
    decimals = line["decimals"]
    return max(int(decimals), 2) if _present(decimals) and decimals > 0 else decimals


def _published(line: dict[str, Any]) -> str:
    text = _number(line["published"], line["decimals"])
    if _present(line["published_std"]):
        text += f" ± {_number(line['published_std'], _finer(line))}"
    return text


def _difference(line: dict[str, Any]) -> str:
    return _number(line["difference"], line["decimals"], sign="+")


def _verdict(line: dict[str, Any]) -> str:
    if line["cited"]:
        return "cited"
    text = _label(line["verdict"])
    if text == "not comparable" and _present(line.get("detail")):
        return f"{text} ({line['detail']})"
    return text or ("baseline" if line.get("baseline") else "")


# --- terminal --------------------------------------------------------------------------------


def _rich(report: Report, console: Console | None) -> str:
    from rich.console import Console
    from rich.text import Text

    console = console or Console(width=WIDTH, file=io.StringIO(), color_system=None)
    with console.capture() as capture:
        console.print(Text(f"{report.name}  {report.title}", style="bold"))
        if report.caption:
            console.print(Text(report.caption))
        # A console that is too narrow gets long lines rather than numbers cut in two.
        console.print(_rich_table(report, console.width), crop=False, no_wrap=True)
        if report.claims:
            console.print()
            console.print(_rich_claims(report.claims))
        for k, note in enumerate(report.notes()):
            console.print(Text(note if k else f"\n{note}", style="dim"))
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def _rich_table(report: Report, width: int) -> Any:
    """The table for a terminal of so many columns."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    columns = shown_columns(report)
    heads = [column.head.replace(" ±", "\n±") for column in columns]
    # One blank between columns comes with the box; a second one where there is room.
    blanks = len(columns) - 1
    gap = 1 if sum(_fit(columns, heads, 0)) + blanks + len(columns) <= width else 0
    blanks += gap * len(columns)
    widths = _fit(columns, heads, width - blanks)
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, gap, 0, 0),
        header_style="bold",
        width=sum(widths) + blanks,
    )
    for column, head, columns_wide in zip(columns, heads, widths, strict=True):
        justify = "right" if column.numeric else "left"
        table.add_column(Text(head), justify=justify, width=columns_wide)
    repeated = _repeats(report)
    for k, line in enumerate(report.frame.to_dict("records")):
        texts = [
            "" if column.head in report.labels and repeated[k] else column.cells[k]
            for column in columns
        ]
        style = STYLES.get(str(line["verdict"]), "") if not line["cited"] else ""
        cells = [*map(Text, texts[:-1]), Text(texts[-1], style=style)]
        table.add_row(*cells, style="dim" if line["cited"] else None)
    return table


def _fit(columns: Sequence[Column], heads: Sequence[str], room: int) -> list[int]:
    """Widths that fit in `room` characters as far as numbers and words may not be cut.

    rich's own layout keeps to a column's minimum only after it has handed out the room.
    """
    pairs = list(zip(columns, heads, strict=True))
    least = [_longest(c.cells if c.numeric else " ".join(c.cells).split(), h) for c, h in pairs]
    widths = [_longest(c.cells, h) for c, h in pairs]
    while sum(widths) > room and widths != least:
        slack = [k for k, width in enumerate(widths) if width > least[k]]
        widths[max(slack, key=lambda k: widths[k])] -= 1
    return widths


def _longest(texts: Sequence[str], head: str) -> int:
    return max(map(len, [*texts, *head.splitlines()]), default=1)


def _repeats(report: Report) -> list[bool]:
    """Whether a line belongs to the same row of the table as the line above it."""
    columns = [report.frame[name].map(_label) for name in report.labels if name in report.frame]
    rows = list(zip(*columns, strict=True))
    return [k > 0 and row == rows[k - 1] for k, row in enumerate(rows)]


def _rich_claims(claims: Sequence[Any]) -> Any:
    from rich.table import Table
    from rich.text import Text

    styles = {True: "green", False: "red", None: "yellow"}
    grid = Table.grid(padding=(0, 1))
    for claim in claims:
        text = Text(claim.text)
        if claim.detail:
            text.append(f" ({claim.detail})", style="dim")
        grid.add_row(Text(MARKS[claim.holds], style=styles[claim.holds]), text)
    return grid


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


def _claim_text(claim: Any) -> str:
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
