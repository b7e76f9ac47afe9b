"""A report for a terminal: as wide as that is, no number or word cut."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from locbench.report.layout import (
    MARKS,
    STACKED,
    Column,
    JudgedClaim,
    Report,
    as_printed,
    label,
    shown_columns,
)

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 100  # columns of a terminal, where no console says otherwise
SHORT = {
    "published": "paper",
    "difference": "diff.",
    "auxiliary network": "auxiliary",
}  # where a terminal is narrow
STYLES = {
    "reproduced": "green",
    "better": "cyan",
    "worse": "red",
    "inconclusive": "yellow",
    "diverged": "bold red",
}


def on_screen(report: Report, console: Console | None = None) -> str:
    """The report laid out and coloured for `console`, or plain at WIDTH; nothing is printed."""
    from rich.console import Console
    from rich.text import Text

    printed = as_printed(report)
    console = console or Console(width=WIDTH, file=io.StringIO(), color_system=None)
    with console.capture() as capture:
        console.print(Text(f"{report.name}  {report.title}", style="bold"))
        if report.caption:
            console.print(Text(report.caption))
        # A console that is too narrow gets long lines rather than numbers cut in two.
        console.print(_rich_table(report, printed, console.width), crop=False, no_wrap=True)
        if report.claims:
            console.print()
            console.print(_rich_claims(report.claims))
        stacked = [] if printed is None else [STACKED]
        for k, note in enumerate([*stacked, *report.notes()]):
            console.print(Text(note if k else f"\n{note}", style="dim"))
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def _rich_table(
    report: Report, printed: tuple[list[Column], list[dict[str, Any]]] | None, width: int
) -> Any:
    """The table for a terminal of so many columns; `printed` is of `as_printed`."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    columns, lines = printed or (shown_columns(report), report.frame.to_dict("records"))
    repeated = _repeats(report) if printed is None else [False] * len(lines)
    heads, widths, gap = _room(columns, width)
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, gap, 0, 0),
        header_style="bold",
        width=sum(widths) + len(columns) * (1 + gap) - 1,
    )
    for column, head, columns_wide in zip(columns, heads, widths, strict=True):
        justify = "right" if column.numeric else "left"
        table.add_column(Text(head), justify=justify, width=columns_wide)
    for k, line in enumerate(lines):
        texts = [
            "" if column.head in report.labels and repeated[k] else column.cells[k]
            for column in columns
        ]
        judged = columns[-1].head == "verdict" and not line["cited"]
        style = STYLES.get(str(line["verdict"]), "") if judged else ""
        cells = [*map(Text, texts[:-1]), Text(texts[-1], style=style)]
        table.add_row(*cells, style="dim" if line["cited"] else None)
    return table


def _room(columns: Sequence[Column], width: int) -> tuple[list[str], list[int], int]:
    """Heads, widths, and 1 if there is a second blank between columns.

    One blank comes with the box; a second one, or a long head, where it costs no line.
    """
    count = len(columns)
    short = [SHORT.get(column.head, column.head).replace(" ±", "\n±") for column in columns]
    narrow = _fit(columns, short, width - count + 1)
    if sum(narrow) + count - 1 > width:
        short = [_broken(column, head) for column, head in zip(columns, short, strict=True)]
        narrow = _fit(columns, short, width - count + 1)
    for heads, gap in (([c.head.replace(" ±", "\n±") for c in columns], 1), (short, 1)):
        widths = _fit(columns, heads, width - count * (1 + gap) + 1)
        fits = sum(widths) + count * (1 + gap) - 1 <= width
        if fits and _height(columns, widths) == _height(columns, narrow):
            return heads, widths, gap
    return short, narrow, 0


def _broken(column: Column, head: str) -> str:
    """The head of a column of numbers over several lines, as wide as its numbers or a word."""
    if not column.numeric:
        return head
    room = max(_longest(column.cells, ""), _longest(head.split(), ""))
    return "\n".join(line for part in head.splitlines() for line in textwrap.wrap(part, room))


def _fit(columns: Sequence[Column], heads: Sequence[str], room: int) -> list[int]:
    """Widths that fit in `room` characters as far as numbers and words may not be cut.

    Characters are taken where they cost the fewest lines, else from the widest column. (rich's own
    layout keeps to a column's minimum only after it has handed out the room.)
    """
    pairs = list(zip(columns, heads, strict=True))
    least = [_longest(c.cells if c.numeric else " ".join(c.cells).split(), h) for c, h in pairs]
    widths = [_longest(c.cells, h) for c, h in pairs]

    def cost(k: int) -> tuple[int, int]:
        return _height(columns, [w - (j == k) for j, w in enumerate(widths)]), -widths[k]

    while sum(widths) > room and widths != least:
        widths[min((k for k, w in enumerate(widths) if w > least[k]), key=cost)] -= 1
    return widths


def _height(columns: Sequence[Column], widths: Sequence[int]) -> int:
    """How many lines the rows take at these widths."""
    rows = zip(*(column.cells for column in columns), strict=True)
    return sum(max(map(_lines, row, widths)) for row in rows)


@cache
def _lines(text: str, width: int) -> int:
    parts = (textwrap.wrap(part, width, break_on_hyphens=False) for part in text.splitlines())
    return max(1, sum(max(1, len(part)) for part in parts))


def _longest(texts: Sequence[str], head: str) -> int:
    return max((len(part) for text in [*texts, head] for part in text.splitlines()), default=1)


def _repeats(report: Report) -> list[bool]:
    """Whether a line belongs to the same row of the table as the line above it."""
    columns = [report.frame[name].map(label) for name in report.labels if name in report.frame]
    rows = list(zip(*columns, strict=True))
    return [k > 0 and row == rows[k - 1] for k, row in enumerate(rows)]


def _rich_claims(claims: Sequence[JudgedClaim]) -> Any:
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
