"""What a report shows, whatever the format: its columns, and the text of every cell.

The frame has one line a cell, in the paper's order. These columns are read: the labels of the row,
`column`, `measured`, `spread` (sample standard deviation), `n`, `asked` (runs, 0 for what has no
seed), `published`, `published_std`, `difference`, `decimals`, `unit`, `decoder`, `scale`,
`verdict`, `cited`, and where there are any `detail` (of the verdict), `unfinished` (runs that are
not done) and `baseline`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

NOTHING = "–"  # noqa: RUF001 - the dash of an empty cell

SCALE_NOTES = {
    "smoke": "Scale smoke: these measurements show that everything runs; "
    "they say nothing about the paper.",
    "small": "Scale small: real data at a reduced budget; "
    "published numbers are shown beside and not judged.",
}
MARKS = {True: "✓", False: "✗", None: "?"}


@dataclass(frozen=True)
class JudgedClaim:
    """A claim with its outcome on what was measured; `holds` is None where it is open."""

    text: str
    holds: bool | None
    detail: str


@dataclass(frozen=True)
class Report:
    """A table with what is said around it."""

    name: str
    title: str
    frame: pd.DataFrame
    labels: Sequence[str]
    caption: str = ""
    claims: Sequence[JudgedClaim] = ()
    footnotes: Sequence[str] = ()
    quiet: bool = False  # does not say what the scale means
    named: bool = False  # says which column a number is of, also where there is one alone
    auxiliary: str = "decoder"  # what the networks that hang on the units are called

    def notes(self) -> list[str]:
        """What the scales of the measured numbers mean, then the footnotes."""
        if self.quiet:
            return list(self.footnotes)
        measured = self.frame[self.frame["measured"].notna()]
        shown = set((self.frame if measured.empty else measured)["scale"])
        scales = [s for s in SCALE_NOTES if s in shown]
        return [*(SCALE_NOTES[scale] for scale in scales), *self.footnotes]


@dataclass(frozen=True)
class Column:
    """A shown column: its head, whether it holds numbers, and its text for each line."""

    head: str
    numeric: bool
    cells: list[str]


def shown_columns(report: Report) -> list[Column]:
    """The columns that people see; those without any content are left out."""
    lines = report.frame.to_dict("records")
    columns = [Column(name, False, [label(x.get(name)) for x in lines]) for name in report.labels]
    units = {x["unit"] if _present(x["unit"]) else "" for x in lines}
    names = [str(x["column"]) if len(units) == 1 else _with_unit(x) for x in lines]
    if len(set(names)) > 1 or report.named:
        columns.append(Column("column", False, names))
    unit = f" [{units.pop()}]" if len(units) == 1 and units != {""} else ""
    seeded = " ± sd (n)" if any(x["asked"] for x in lines) else ""
    columns.append(Column(f"measured{unit}{seeded}", True, [_measured(x) for x in lines]))
    if any(_present(x["published"]) for x in lines):
        numbers = not any(isinstance(x["published"], str) for x in lines)
        columns.append(Column("published", numbers, [_published(x) for x in lines]))
        columns.append(Column("difference", True, [_difference(x) for x in lines]))
    columns.append(Column(report.auxiliary, False, [label(x["decoder"]) for x in lines]))
    if _scales(lines) > 1:
        columns.append(Column("scale", False, [label(x["scale"]) for x in lines]))
    if any(x["cited"] or _present(x["verdict"]) or _present(x.get("unfinished")) for x in lines):
        columns.append(Column("verdict", False, [_verdict(x) for x in lines]))
    optional = {*report.labels, report.auxiliary, "verdict"}
    return [c for c in columns if c.head not in optional or any(c.cells)]


STACKED = "In each cell: measured ± sd (n), and under it the published number."


def as_printed(report: Report) -> tuple[list[Column], list[dict[str, Any]]] | None:
    """The paper's own layout: a line a row, a column a column, measured over published.

    Beside the columns, a line of the frame for each row, with a verdict of the whole row. None for
    a table of one column, without published numbers, or whose columns have several units or scales.
    """
    lines = report.frame.to_dict("records")
    names = list(dict.fromkeys(str(x["column"]) for x in lines))
    rows: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for line in lines:
        held = rows.setdefault(tuple(label(line.get(k)) for k in report.labels), {})
        held[str(line["column"])] = line
    one_unit = len({x["unit"] if _present(x["unit"]) else "" for x in lines}) == 1
    once = sum(len(held) for held in rows.values()) == len(lines)
    published = any(_present(x["published"]) for x in lines)
    if len(names) < 2 or not (one_unit and once and published) or _scales(lines) > 1:
        return None
    columns = [Column(k, False, [key[n] for key in rows]) for n, k in enumerate(report.labels)]
    unit = f" [{lines[0]['unit']}]" if _present(lines[0]["unit"]) else ""
    for name in names:
        cells = [_stacked(held[name]) if name in held else "" for held in rows.values()]
        columns.append(Column(f"{name}{unit}", True, cells))
    told = [_of_row(list(held.values())) for held in rows.values()]
    columns.append(Column(report.auxiliary, False, [label(x["decoder"]) for x in told]))
    columns.append(Column("verdict", False, [x["said"] for x in told]))
    optional = {*report.labels, report.auxiliary, "verdict"}
    return [c for c in columns if c.head not in optional or any(c.cells)], told


def _scales(lines: Sequence[dict[str, Any]]) -> int:
    return len({x["scale"] for x in lines if _present(x["measured"])})


def _stacked(line: dict[str, Any]) -> str:
    return f"{_measured(line)}\n{_published(line)}"


def _of_row(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """What is said of a whole row: its verdicts, each with its columns where they differ."""
    judged = [x for x in lines if _present(x["measured"]) or x["verdict"] == "diverged"]
    said: dict[str, list[str]] = {}
    for line in judged or lines:
        said.setdefault(_verdict(line), []).append(str(line["column"]))
    whole = len(said) == 1
    texts = [text if whole else f"{', '.join(names)}: {text}" for text, names in said.items()]
    decoders = list(dict.fromkeys(label(x["decoder"]) for x in judged))
    first = (judged or lines)[0]
    row = {**first, "said": "; ".join(texts), "decoder": ", ".join(decoders)}
    return row if whole else {**row, "verdict": ""}


def _present(value: Any) -> bool:
    """Whether a frame's entry holds something: not None, nan or empty text."""
    return value is not None and value == value and value != ""


def label(value: Any) -> str:
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
    n, asked = int(line["n"]), int(line["asked"])
    if not asked:
        return text
    return f"{text} ({n})" if n >= asked else f"{text} ({n} of {asked})"


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
    text = label(line["verdict"])
    if text == "not comparable" and _present(line.get("detail")):
        text = f"{text} ({line['detail']})"
    text = text or ("baseline" if line.get("baseline") else "")
    return "; ".join(part for part in (text, label(line.get("unfinished"))) if part)
