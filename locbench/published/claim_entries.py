"""Claims of a table's file: each entry of `[[claims]]` read, checked and bound to its cells.

Keys of an entry (tables/README.md has examples):
    text            the sentence, as a person reads it
    section         where the paper says it; without one the claim is ours
    kind            one of `KINDS`
    a, b            which cells: label = value or list of values; b only where two are compared, and
                    b = {} is every other cell. `column` is a label too: the key of the column
    over            labels to compare within ("on every network"): one comparison per combination
    columns         the columns to look at (default: every published one); each is compared apart,
                    unless a, b or along names `column`
    along           the label, or "column", that a series runs along
    minus           labels of the cell that is taken from each one first, where the claim is on gaps
    cases           how many of the comparisons must hold: "all" (default), "most" or "some"
    of              "mean" (default), or "variance": what of each cell is compared
    margin, factor, value       the number of the claim, by kind
    margin_ours     true where the sentence has no number and we set it
    holds_in_print  false where the paper says it and its own numbers do not bear it out
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import Any, Literal

from locbench.errors import UserError
from locbench.plugins.entry import suggest
from locbench.published.claims import CASES, KINDS, Claim, Key
from locbench.recipes.reading import Number, check_keys, hints, read, typed

Labels = Mapping[str, str | int | float]


@dataclass(frozen=True)
class ClaimFile:
    """What an entry of `[[claims]]` may hold."""

    text: str
    kind: Literal[tuple(KINDS)]
    section: str = ""
    a: dict[str, Any] = field(default_factory=dict)
    b: dict[str, Any] | None = None
    over: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None
    along: str = ""
    minus: dict[str, Any] | None = None
    cases: Literal[tuple(CASES)] = "all"
    of: Literal["mean", "variance"] = "mean"
    margin: Number | None = None
    factor: Number | None = None
    value: Number | None = None
    margin_ours: bool = False
    holds_in_print: bool = True

    @property
    def labels(self) -> set[str]:
        """The labels that it speaks of, besides those in `over`."""
        return {*self.a, *(self.b or {}), self.along}


def build_claim(
    raw: Any,
    cells: Mapping[Key, Labels],
    numeric: Sequence[str],
    *,
    where: str,
    titles: Mapping[str, str] | None = None,
) -> Claim:
    """A claim from its TOML entry, bound to its cells.

    `cells` are all cells of the table with their labels (`column` among them), in reading order;
    `numeric` are the columns a claim is about when it names none; `titles` are what columns are
    called, if not by their keys; `where` starts error lines.
    Raises UserError for an unknown key, kind, label or value, and when nothing is left to compare.
    """
    where = f"{where} ('{typed(raw, dict, where=where).get('text', '')}')"
    entry = read(raw, ClaimFile, where=where)
    kind = KINDS[entry.kind]
    needed = {"pair": ["a", "b"], "series": ["along"], "single": []}[kind.shape]
    needed += [] if kind.order else kind.numbers
    general = {*hints(ClaimFile)} - {"b", "along", "margin", "factor", "value"}
    check_keys(raw, [*general, *needed, *kind.numbers], where=where)
    if missing := [key for key in needed if key not in raw]:
        raise UserError(f"{where}: '{missing[0]}' is missing")
    if raw.get("margin", 0) < 0:
        raise UserError(f"{where}: margin {raw['margin']:g} is negative")
    if entry.margin_ours and not any(key in raw for key in kind.numbers):
        raise UserError(f"{where}: margin_ours, and there is no {' or '.join(kind.numbers)}")

    columns = numeric if entry.columns is None else entry.columns
    picked = _select(cells, {"column": list(columns)}, where)
    compare = {"pair": _pairs, "series": _series, "single": _singles}[kind.shape]
    comparisons = tuple(compare(entry, picked, where))
    if not comparisons:
        raise UserError(f"{where}: its labels leave nothing to compare")
    compared = {key: cells[key] for keys in comparisons for key in keys}
    minus = {} if entry.minus is None else _minus(entry.minus, picked, compared, where)
    return Claim(
        text=entry.text,
        kind=entry.kind,
        numbers=tuple(float(raw.get(key, 0.0)) for key in kind.numbers),
        comparisons=comparisons,
        section=entry.section,
        margin_ours=entry.margin_ours,
        cases=entry.cases,
        of=entry.of,
        holds_in_print=entry.holds_in_print,
        minus=minus,
        minus_name=_taken(entry.minus or {}),
        names={
            **{key: _words(cells[key], list(cells[key]), titles) for key in minus.values()},
            **_names(entry, compared, titles),
        },
    )


def _minus(
    wanted: Mapping[str, Any],
    cells: Mapping[Key, Labels],
    compared: Mapping[Key, Labels],
    where: str,
) -> dict[Key, Key]:
    """For each compared cell the one that is taken from it.

    It is the cell of the same column with the wanted labels; of several, the one whose other labels
    are the same, as far as it has them.
    """
    named, result = _select(cells, wanted, where), {}
    for key, labels in compared.items():
        column = {"column": labels["column"]} if "column" not in wanted else {}
        there = {k: v for k, v in named.items() if column.items() <= v.items()}
        if len(there) > 1:
            same = {label: v for label, v in labels.items() if label not in wanted}
            there = {
                k: other
                for k, other in there.items()
                if all(other.get(label, v) == v for label, v in same.items())
            }
        if len(there) != 1:
            cell = " ".join(_words(labels, list(labels), None))
            raise UserError(f"{where}: 'minus' names {len(there)} cells for {cell}, not one")
        result[key] = next(iter(there))
    if all(key == other for key, other in result.items()):
        raise UserError(f"{where}: 'minus' takes every cell from itself")
    return result


def _taken(minus: Mapping[str, Any]) -> str:
    """What is taken, in words: "BP", "None or Ours"."""
    choices = ((label, v if isinstance(v, list) else [v]) for label, v in minus.items())
    words = [" or ".join(_word(label, v) for v in values) for label, values in choices]
    return ", ".join([word for word in words if "=" not in word] or words)


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


def _names(
    entry: ClaimFile, cells: Mapping[Key, Labels], titles: Mapping[str, str] | None
) -> dict[Key, list[str]]:
    """What to call each cell: by the labels the claim speaks of, and more where two look alike."""
    mentioned = {*entry.labels, *entry.over}
    labels = sorted(_labels(cells), key="column".__eq__)  # the column comes last
    chosen = [label for label in labels if label in mentioned]
    for extra in [label for label in labels if label not in mentioned]:
        names = {tuple(_words(cell, chosen, titles)) for cell in cells.values()}
        if len(names) < len(cells) and len({cell.get(extra) for cell in cells.values()}) > 1:
            chosen = [label for label in labels if label in {*chosen, extra}]
    differing = [name for name in chosen if len({cell.get(name) for cell in cells.values()}) > 1]
    return {key: _words(cell, differing or chosen or labels, titles) for key, cell in cells.items()}


def _words(labels: Labels, chosen: Sequence[str], titles: Mapping[str, str] | None) -> list[str]:
    words = [(label, labels[label]) for label in chosen if label in labels]
    return [
        (titles or {}).get(value, value) if label == "column" else _word(label, value)
        for label, value in words
    ]


def _word(label: str, value: str | int | float) -> str:
    """A text stands for itself; yes, no and numbers are shown with their label."""
    return value if isinstance(value, str) and value not in ("yes", "no") else f"{label}={value}"
