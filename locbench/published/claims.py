"""Claims: the sentences a reader takes away from a table, in a form that can be checked.

A claim picks cells of its table by their labels and compares them, in one of the ways of `KINDS`.
It is bound to its cells when the table is loaded, so that a misspelt label is an error then; it is
judged on any set of values: the published ones, measured ones, some of them.

Keys of a `[[claims]]` entry (tables/README.md has examples):
    text            the sentence, as a person reads it
    kind            one of `KINDS`
    a, b            which cells: label = value or list of values; b only where two are compared, and
                    b = {} is every other cell. `column` is a label too: the key of the column
    over            labels to compare within ("on every network"): one comparison per combination
    columns         the columns to look at (default: every published one); each is compared apart,
                    unless a, b or along names `column`
    along           the label, or "column", that a series runs along
    margin, factor, value       the number of the claim, by kind
    holds_in_print  false where the paper says it and its own numbers do not bear it out
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, product
from typing import Any, Literal

from locbench.errors import UserError
from locbench.plugins.entry import suggest
from locbench.recipes.reading import Number, check_keys, read, typed

Key = tuple[int, str]  # row index, column key
Labels = Mapping[str, str | int | float]

# Published values have few digits; their differences, as binary fractions, miss by about 1e-14.
EPSILON = 1e-9


@dataclass(frozen=True)
class Kind:
    """One way to compare: `slack` is how far the comparison is from failing, negative if it does.

    A kind whose number defaults to 0 is an order: with 0 it asks for a real difference.
    """

    shape: str  # "pair": a against b; "series": each cell against the next; "single": a alone
    number: str  # the key of the claim that holds its number
    default: float | None  # None: the claim has to state it
    slack: Callable[[Sequence[float], float], float]


KINDS = {
    "within": Kind("pair", "margin", None, lambda v, margin: margin - abs(v[0] - v[1])),
    "above": Kind("pair", "margin", 0.0, lambda v, margin: v[0] - v[1] - margin),
    "below": Kind("pair", "margin", 0.0, lambda v, margin: v[1] - v[0] - margin),
    "ratio_at_most": Kind("pair", "factor", None, lambda v, factor: factor * v[1] - v[0]),
    "increases": Kind("series", "margin", 0.0, lambda v, margin: v[1] - v[0] - margin),
    "decreases": Kind("series", "margin", 0.0, lambda v, margin: v[0] - v[1] - margin),
    "at_least": Kind("single", "value", None, lambda v, value: v[0] - value),
    "at_most": Kind("single", "value", None, lambda v, value: value - v[0]),
}


@dataclass(frozen=True)
class ClaimResult:
    """What became of a claim: `holds` is None where a cell that it needs has no value."""

    holds: bool | None
    detail: str


@dataclass(frozen=True)
class Claim:
    """One sentence and the comparisons that must all hold for it to be true."""

    text: str
    kind: str
    number: float  # margin, factor or value
    comparisons: tuple[tuple[Key, ...], ...]
    holds_in_print: bool = True
    names: Mapping[Key, str] = field(default_factory=dict, repr=False)

    def needs(self) -> list[Key]:
        """The cells that the claim is about, each once, in order of use."""
        return list(dict.fromkeys(key for keys in self.comparisons for key in keys))

    def judge(
        self, values: Mapping[Key, float], cells: Collection[Key] | None = None
    ) -> ClaimResult:
        """Judge the claim on `values`: cell to number, in the unit of the cell's column.

        A missing or non-finite value leaves the claim open (None), whatever the others say. With
        `cells`, only comparisons between those are judged, and it says how many of how many.
        """
        if cells is None or all(key in cells for key in self.needs()):
            return self._judge(values)
        within = tuple(c for c in self.comparisons if all(key in cells for key in c))
        count = f"{len(within)} of {len(self.comparisons)} comparisons"
        if not within:
            return ClaimResult(None, f"{count} asked for")
        part = replace(self, comparisons=within)._judge(values)
        return ClaimResult(part.holds, f"on {count}; {part.detail}")

    def _judge(self, values: Mapping[Key, float]) -> ClaimResult:
        keys = self.needs()
        missing = [key for key in keys if not math.isfinite(values.get(key, math.nan))]
        if missing:
            what = _some([self.names[key] for key in missing])
            return ClaimResult(None, f"{len(missing)} of {len(keys)} cells missing: {what}")
        slacks = {c: self._slack([values[key] for key in c]) for c in self.comparisons}
        failed = [c for c in self.comparisons if slacks[c] < 0]
        if failed:
            what = _some([self._describe(c, values) for c in failed])
            return ClaimResult(False, f"fails in {len(failed)} of {len(slacks)}: {what}")
        closest = min(self.comparisons, key=slacks.__getitem__)
        return ClaimResult(True, f"closest of {len(slacks)}: {self._describe(closest, values)}")

    def _slack(self, values: Sequence[float]) -> float:
        kind = KINDS[self.kind]
        strict = kind.default == 0.0 and self.number == 0.0
        # Shifted so that "fails" is "< 0" for both: equal is enough for "at least", not for "more".
        return kind.slack(values, self.number) + (-EPSILON if strict else EPSILON)

    def _describe(self, keys: tuple[Key, ...], values: Mapping[Key, float]) -> str:
        link = " to " if KINDS[self.kind].shape == "series" else " against "
        return link.join(f"{self.names[key]} {values[key]:.4g}" for key in keys)


@dataclass(frozen=True)
class ClaimFile:
    """What an entry of `[[claims]]` may hold."""

    text: str
    kind: Literal[tuple(KINDS)]
    a: dict[str, Any] = field(default_factory=dict)
    b: dict[str, Any] | None = None
    over: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None
    along: str = ""
    margin: Number | None = None
    factor: Number | None = None
    value: Number | None = None
    holds_in_print: bool = True

    @property
    def labels(self) -> set[str]:
        """The labels that it speaks of, besides those in `over`."""
        return {*self.a, *(self.b or {}), self.along}


def build_claim(
    raw: Any, cells: Mapping[Key, Labels], numeric: Sequence[str], *, where: str
) -> Claim:
    """A claim from its TOML entry, bound to its cells.

    `cells` are all cells of the table with their labels (`column` among them), in reading order;
    `numeric` are the columns a claim is about when it names none; `where` starts error lines.
    Raises UserError for an unknown key, kind, label or value, and when nothing is left to compare.
    """
    where = f"{where} ('{typed(raw, dict, where=where).get('text', '')}')"
    entry = read(raw, ClaimFile, where=where)
    kind = KINDS[entry.kind]
    needed = {"pair": ["a", "b"], "series": ["along"], "single": []}[kind.shape]
    needed += [kind.number] if kind.default is None else []
    general = ("text", "kind", "a", "over", "columns", "holds_in_print")
    check_keys(raw, [*general, *needed, kind.number], where=where)
    if missing := [key for key in needed if key not in raw]:
        raise UserError(f"{where}: '{missing[0]}' is missing")
    number = raw.get(kind.number, kind.default)
    if kind.default == 0.0 and number < 0:
        raise UserError(f"{where}: {kind.number} {number:g} is negative")

    columns = numeric if entry.columns is None else entry.columns
    picked = _select(cells, {"column": list(columns)}, where)
    compare = {"pair": _pairs, "series": _series, "single": _singles}[kind.shape]
    comparisons = tuple(compare(entry, picked, where))
    if not comparisons:
        raise UserError(f"{where}: its labels leave nothing to compare")
    names = _names(entry, {key: cells[key] for keys in comparisons for key in keys})
    return Claim(entry.text, entry.kind, float(number), comparisons, entry.holds_in_print, names)


def _pairs(entry: ClaimFile, cells: Mapping[Key, Labels], where: str) -> list:
    a, b = _select(cells, entry.a, where), _select(cells, entry.b, where)
    others = {key: labels for key, labels in b.items() if key not in a}
    seconds = _groups(entry, others, where)
    return [
        pair
        for group, firsts in _groups(entry, a, where).items()
        for pair in product(firsts, seconds.get(group, []))
    ]


def _series(entry: ClaimFile, cells: Mapping[Key, Labels], where: str) -> list:
    along, listed = entry.along, entry.a.get(entry.along)
    order = entry.columns if along == "column" and entry.columns else listed
    order = order if isinstance(order, list | tuple) else ()
    result = []
    for keys in _groups(entry, _select(cells, entry.a, where), where).values():
        steps = [cells[key].get(along) for key in keys]
        if None in steps or len(set(steps)) < len(steps):
            raise UserError(f"{where}: '{along}' does not order its cells; add labels to 'over'")
        if order:
            keys = sorted(keys, key=lambda key: order.index(cells[key][along]))
        elif along != "column":
            if any(isinstance(step, str) for step in steps):
                raise UserError(f"{where}: '{along}' is text; list its values, in order, in 'a'")
            keys = sorted(keys, key=lambda key: cells[key][along])
        result += pairwise(keys)
    return result


def _singles(entry: ClaimFile, cells: Mapping[Key, Labels], where: str) -> list:
    return [(key,) for key in _select(cells, entry.a, where)]


def _select(cells: Mapping[Key, Labels], wanted: Mapping[str, Any], where: str) -> dict:
    """The cells whose labels have the wanted values; one that no cell has is an error."""
    check_keys(wanted, _labels(cells), where=where)
    choices = {label: v if isinstance(v, list) else [v] for label, v in wanted.items()}
    for label, values in choices.items():
        there = {labels[label] for labels in cells.values() if label in labels}
        for value in values:
            if not isinstance(value, str | int | float) or value not in there:
                near = suggest(str(value), sorted(map(str, there)))
                raise UserError(f"{where}: no cell to compare has {label} = {value!r}{near}")
    return {
        key: labels
        for key, labels in cells.items()
        if all(labels.get(label) in values for label, values in choices.items())
    }


def _groups(entry: ClaimFile, cells: Mapping[Key, Labels], where: str) -> dict:
    check_keys(entry.over, _labels(cells), where=where)
    over = entry.over if "column" in entry.labels else (*entry.over, "column")
    groups: dict[tuple, list[Key]] = {}
    for key, labels in cells.items():
        groups.setdefault(tuple(labels.get(label) for label in over), []).append(key)
    return groups


def _labels(cells: Mapping[Key, Labels]) -> list[str]:
    return list(dict.fromkeys(label for labels in cells.values() for label in labels))


def _names(entry: ClaimFile, cells: Mapping[Key, Labels]) -> dict[Key, str]:
    """What to call each cell: by the labels the claim speaks of, and more where two look alike."""
    mentioned = {*entry.labels, *entry.over}
    labels = sorted(_labels(cells), key="column".__eq__)  # the column comes last
    chosen = [label for label in labels if label in mentioned]
    for extra in [label for label in labels if label not in mentioned]:
        names = {_name(cell, chosen) for cell in cells.values()}
        if len(names) < len(cells) and len({cell.get(extra) for cell in cells.values()}) > 1:
            chosen = [label for label in labels if label in {*chosen, extra}]
    return {key: _name(cell, chosen or labels) for key, cell in cells.items()}


def _name(labels: Labels, chosen: Sequence[str]) -> str:
    words = [(label, labels[label]) for label in chosen if label in labels]
    return " ".join(
        f"[{value}]"
        if label == "column"
        else value
        if isinstance(value, str)
        else f"{label}={value}"
        for label, value in words
    )


def _some(texts: Sequence[str], most: int = 3) -> str:
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
