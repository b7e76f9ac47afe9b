"""Filled tables on a terminal: the grid of a section, then its claims and notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from locbench.report.claims import MARKS, JudgedClaim
from locbench.report.grid import Column, print_grid, terminal
from locbench.report.layout import STACKED, Section, columns, columns_as_printed

if TYPE_CHECKING:
    from rich.console import Console

STYLES = {
    "reproduced": "green",
    "better": "cyan",
    "worse": "red",
    "differs": "red",
    "inconclusive": "yellow",
    "diverged": "bold red",
}
MARK_STYLES = {True: "green", False: "red", None: "yellow"}


def on_screen(section: Section, console: Console | None = None) -> str:
    """The section laid out and coloured for the console; nothing is printed."""
    from rich.text import Text

    console = console or terminal()
    printed = columns_as_printed(section)
    shown = printed or _labelled_once(columns(section), section.labels)
    with console.capture() as capture:
        console.print(Text(f"{section.name}  {section.title}", style="bold"))
        _print_cells(shown, console)
        if section.claims:
            console.print()
            print_claims(section.claims, console)
        for k, note in enumerate([*([STACKED] if printed else []), *section.notes]):
            console.print(Text(note if k else f"\n{note}", style="dim"))
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def print_claims(claims: Sequence[JudgedClaim], console: Console) -> None:
    """Each with a mark and its sentence, and under it where it is from and what decided it."""
    from rich.text import Text

    for claim in claims:
        lines = Text(claim.text).wrap(console, console.width - 2)
        if claim.note:
            lines.extend(Text(claim.note, style="dim").wrap(console, console.width - 2))
        mark = (MARKS[claim.holds], MARK_STYLES[claim.holds])
        for k, line in enumerate(lines):
            line.rstrip()
            console.print(Text.assemble("  " if k else mark, "" if k else " ", line))


def _print_cells(columns: Sequence[Column], console: Console) -> None:
    """With verdicts in their colours, and cited rows dim."""
    *others, last = columns
    if last.head != "verdict":
        print_grid(columns, console)
        return
    styles = [STYLES.get(text.partition(";")[0], "") for text in last.cells]
    rows = ["dim" if text == "cited" else "" for text in last.cells]
    print_grid([*others, replace(last, styles=styles)], console, styles=rows)


def _labelled_once(columns: Sequence[Column], labels: Sequence[str]) -> list[Column]:
    """Cells of one row of the table show its labels once."""
    rows = list(zip(*(c.cells for c in columns if c.head in labels), strict=True))
    repeated = [k > 0 and row == rows[k - 1] for k, row in enumerate(rows)]
    return [
        replace(c, cells=["" if r else x for r, x in zip(repeated, c.cells, strict=True)])
        if c.head in labels
        else c
        for c in columns
    ]
