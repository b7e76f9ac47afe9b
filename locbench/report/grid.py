"""Tables on a terminal, the one way to print them: words wrap, numbers are never split or cut."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

WORD = re.compile(r"(?:± )?\S+")
# Where a word too long for its column may break, never in a number: a-name before a letter,
# 94.61±0.18 before its deviation.
SEAM = re.compile(r"(?<=[-_/=])(?=[^\W\d_])|(?<=\d)(?=±)")


@dataclass(frozen=True)
class Column:
    """A column of texts; one of numbers is flush right, and its texts are the last to be wrapped.

    `short` is its head where a terminal is narrow, `styles` rich's style of each text.
    """

    head: str
    cells: Sequence[str]
    numeric: bool = False
    short: str = ""
    styles: Sequence[str] = ()


def columns(
    heads: Sequence[str], rows: Iterable[Sequence[Any]], *, words: Collection[int] = (0,)
) -> list[Column]:
    """Columns from rows; those at the places `words` hold words, the others numbers."""
    texts = [[str(value) for value in row] for row in rows]
    return [Column(head, [row[k] for row in texts], k not in words) for k, head in enumerate(heads)]


def terminal(stderr: bool = False) -> Console:
    """A console of the terminal's width, 80 at least; it has colours only on a terminal."""
    from rich.console import Console

    width = shutil.get_terminal_size((100, 24)).columns
    return Console(stderr=stderr, width=max(80, width), highlight=False)


def print_grid(
    columns: Sequence[Column], console: Console, *, title: str = "", styles: Sequence[str] = ()
) -> None:
    """Print columns under their heads, as wide as the console; `styles` are those of the rows.

    One too narrow for the longest number or word of every column gets longer lines.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    heads, widths, gap = _arranged(columns, console.width)
    table = Table(
        box=box.SIMPLE_HEAD,
        show_header=any(heads),
        show_edge=False,
        pad_edge=False,
        padding=(0, gap, 0, 0),
        header_style="bold",
        width=sum(widths) + (len(columns) - 1) * (1 + gap),
    )
    for column, head, width in zip(columns, heads, widths, strict=True):
        justify = "right" if column.numeric else "left"
        table.add_column(Text("\n".join(wrap(head, width))), justify=justify, width=width)
    for n in range(len(columns[0].cells)):
        texts = ("\n".join(wrap(c.cells[n], w)) for c, w in zip(columns, widths, strict=True))
        shades = (column.styles[n] if column.styles else "" for column in columns)
        cells = [Text(text, style=style) for text, style in zip(texts, shades, strict=True)]
        table.add_row(*cells, style=styles[n] if styles else None)
    if title:
        console.print(Text(title, style="bold"))
    console.print(table, crop=False, no_wrap=True)


def wrap(text: str, width: int) -> list[str]:
    """The lines of a text at this width; a word that is too long breaks at its seams alone."""
    lines = []
    for part in text.splitlines() or [""]:
        line = ""
        for word in [part] if len(part) <= width else WORD.findall(part):
            for k, piece in enumerate([word] if len(word) <= width else SEAM.split(word)):
                gap = " " if line and k == 0 else ""
                if line and len(line + gap + piece) > width:
                    lines.append(line)
                    line = piece
                else:
                    line += gap + piece
        lines.append(line)
    return lines


def _arranged(columns: Sequence[Column], width: int) -> tuple[list[str], list[int], int]:
    """Heads, widths, and 1 if there is a second blank between columns.

    One blank comes with the box; a second one, or a long head, where it costs no line.
    """
    long, short = [c.head for c in columns], [c.short or c.head for c in columns]
    choices = []
    for heads, gap in ((long, 1), (short, 1), (short, 0)):
        room = width - (len(columns) - 1) * (1 + gap)
        widths, height = _fit(columns, heads, room)
        choices.append((sum(widths) <= room, height, (heads, widths, gap)))
    *_, least, narrowest = choices[-1]
    return next((it for fits, height, it in choices if fits and height <= least), narrowest)


def _fit(columns: Sequence[Column], heads: Sequence[str], room: int) -> tuple[list[int], int]:
    """Widths that fit in `room` characters as far as numbers and words allow, and the height.

    Characters are taken where they cost the fewest lines, else from the widest column. (rich's own
    layout keeps to a column's minimum only after it has handed out the room.)
    """
    texts = [[head, *column.cells] for head, column in zip(heads, columns, strict=True)]
    full = [_longest(column) for column in texts]
    for seams in (False, True):  # long names and "94.61 ± 0.18 (3)" break if nothing else helps
        least = [
            max(_longest(_words(column, seams)), _longest(c.cells) if c.numeric > seams else 0)
            for column, c in zip(texts, columns, strict=True)
        ]
        if sum(least) <= room:
            break
    spare = max(0, room - sum(least))
    widths = [min(high, low + spare) for low, high in zip(least, full, strict=True)]

    @cache
    def lines(k: int, width: int) -> list[int]:
        return [len(wrap(text, width)) for text in texts[k]]

    def height(less: int | None = None) -> int:
        heights = [lines(k, width - (k == less)) for k, width in enumerate(widths)]
        return sum(map(max, zip(*heights, strict=True)))

    while sum(widths) > room and widths != least:
        free = [k for k, width in enumerate(widths) if width > least[k]]
        widths[min(free, key=lambda k: (height(k), -widths[k]))] -= 1
    # What costs no line by now goes to those that can be whole with it.
    for k in range(len(widths)):
        while widths[k] > least[k] and height(k) == height():
            widths[k] -= 1
    for k in sorted(range(len(widths)), key=lambda k: full[k] - widths[k]):
        if full[k] - widths[k] <= room - sum(widths):
            widths[k] = full[k]
    return widths, height()


def _words(texts: Iterable[str], seams: bool) -> list[str]:
    words = [word for text in texts for word in WORD.findall(text)]
    return [piece for word in words for piece in SEAM.split(word)] if seams else words


def _longest(texts: Iterable[str]) -> int:
    return max((len(line) for text in texts for line in text.splitlines()), default=1)
