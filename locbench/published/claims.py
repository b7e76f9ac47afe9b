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
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, product
from typing import Any

from locbench.errors import UserError
from locbench.plugins.entry import suggest

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
        self, values: Mapping[Key, float], asked: Collection[Key] | None = None
    ) -> ClaimResult:
        """Judge the claim on `values`: cell to number, in the unit of the cell's column.

        A missing or non-finite value leaves the claim open (None), whatever the others say. With
        `asked`, only comparisons between those cells are judged, and it says how many of how many.
        """
        if asked is None or all(key in asked for key in self.needs()):
            return self._judge(values)
        within = tuple(c for c in self.comparisons if all(key in asked for key in c))
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


def build_claim(
    raw: Mapping[str, Any], cells: Mapping[Key, Labels], numeric: Sequence[str], where: str
) -> Claim:
    """A claim from its TOML entry, bound to its cells.

    `cells` are all cells of the table with their labels (`column` among them), in reading order;
    `numeric` are the columns a claim is about when it names none; `where` starts error lines.
    Raises UserError for an unknown key, kind, label or value, and when nothing is left to compare.
    """
    text = take(raw, "text", str, where)
    where = f"{where} ('{text}')"
    name = take(raw, "kind", str, where)
    if name not in KINDS:
        raise UserError(f"{where}: unknown kind '{name}'{suggest(name, KINDS)}")
    kind = KINDS[name]
    extra = {"pair": ["b"], "series": ["along"], "single": []}[kind.shape]
    allowed = ["text", "kind", "a", *extra, "over", "columns", kind.number, "holds_in_print"]
    check_keys(raw, allowed, where)
    default = REQUIRED if kind.default is None else kind.default
    number = take(raw, kind.number, float, where, default)
    if kind.default == 0.0 and number < 0:
        raise UserError(f"{where}: {kind.number} {number:g} is negative")

    columns = take_words(raw, "columns", where, numeric)
    picked = _select(cells, {"column": columns}, where)
    comparisons = {"pair": _pairs, "series": _series, "single": _singles}[kind.shape](
        raw, picked, where
    )
    if not comparisons:
        raise UserError(f"{where}: its labels leave nothing to compare")
    used = {key: cells[key] for keys in comparisons for key in keys}
    holds = take(raw, "holds_in_print", bool, where, True)
    return Claim(text, name, float(number), tuple(comparisons), holds, _names(raw, used))


def _pairs(raw: Mapping[str, Any], cells: Mapping[Key, Labels], where: str) -> list:
    a = _select(cells, take(raw, "a", dict, where), where)
    b = _select(cells, take(raw, "b", dict, where), where)
    others = {key: labels for key, labels in b.items() if key not in a}
    seconds = _groups(raw, others, where)
    return [
        pair
        for group, firsts in _groups(raw, a, where).items()
        for pair in product(firsts, seconds.get(group, []))
    ]


def _series(raw: Mapping[str, Any], cells: Mapping[Key, Labels], where: str) -> list:
    along = take(raw, "along", str, where)
    chosen = _select(cells, take(raw, "a", dict, where, {}), where)
    order = raw["columns"] if along == "column" and "columns" in raw else _order(raw, along)
    result = []
    for keys in _groups(raw, chosen, where).values():
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


def _order(raw: Mapping[str, Any], along: str) -> list:
    listed = raw.get("a", {}).get(along)
    return listed if isinstance(listed, list) else []


def _singles(raw: Mapping[str, Any], cells: Mapping[Key, Labels], where: str) -> list:
    return [(key,) for key in _select(cells, take(raw, "a", dict, where, {}), where)]


def _select(cells: Mapping[Key, Labels], wanted: Mapping[str, Any], where: str) -> dict:
    """The cells whose labels have the wanted values; one that no cell has is an error."""
    known = {label: {labels.get(label) for labels in cells.values()} for label in _labels(cells)}
    check_keys(wanted, known, where)
    choices = {label: v if isinstance(v, list) else [v] for label, v in wanted.items()}
    for label, values in choices.items():
        for value in values:
            if not isinstance(value, str | int | float) or value not in known[label]:
                near = suggest(str(value), sorted(str(v) for v in known[label] if v is not None))
                raise UserError(f"{where}: no cell to compare has {label} = {value!r}{near}")
    return {
        key: labels
        for key, labels in cells.items()
        if all(labels.get(label) in values for label, values in choices.items())
    }


def _groups(raw: Mapping[str, Any], cells: Mapping[Key, Labels], where: str) -> dict:
    over = take_words(raw, "over", where, [])
    check_keys(over, _labels(cells), where)
    free = {*raw.get("a", {}), *raw.get("b", {}), raw.get("along")}
    if "column" not in free:
        over = [*over, "column"]
    groups: dict[tuple, list[Key]] = {}
    for key, labels in cells.items():
        groups.setdefault(tuple(labels.get(label) for label in over), []).append(key)
    return groups


def _labels(cells: Mapping[Key, Labels]) -> list[str]:
    return list(dict.fromkeys(label for labels in cells.values() for label in labels))


def _names(raw: Mapping[str, Any], cells: Mapping[Key, Labels]) -> dict[Key, str]:
    """What to call each cell: by the labels the claim speaks of, and more where two look alike."""
    mentioned = {*raw.get("a", {}), *raw.get("b", {}), *raw.get("over", []), raw.get("along")}
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


def check_keys(raw: Iterable[str], allowed: Iterable[str], where: str) -> None:
    """Raise UserError, with the nearest known one, for a key that is not allowed."""
    allowed = list(allowed)
    for key in raw:
        if key not in allowed:
            raise UserError(f"{where}: unknown key '{key}'{suggest(str(key), allowed)}")


REQUIRED: Any = object()  # not None, which is a default like another


def take(raw: Mapping[str, Any], key: str, kind: type, where: str, default: Any = REQUIRED) -> Any:
    """The value of `key`, checked to be a `kind` (an integer passes as a float).

    Raises UserError when it is of another type, or missing without a default.
    """
    if key not in raw:
        if default is REQUIRED:
            raise UserError(f"{where}: '{key}' is missing")
        return default
    value = raw[key]
    fits = isinstance(value, (int, float) if kind is float else kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{where}: '{key}' must be {_TYPE_NAMES[kind]}, not {value!r}")
    return value


def take_words(
    raw: Mapping[str, Any], key: str, where: str, default: Sequence[str] = REQUIRED
) -> list[str]:
    """The list of texts at `key`; errors as `take`."""
    words = list(take(raw, key, list, where, default))
    if not all(isinstance(word, str) for word in words):
        raise UserError(f"{where}: '{key}' must be a list of texts, not {words!r}")
    return words


_TYPE_NAMES = {str: "text", float: "a number", int: "a whole number", bool: "true or false"}
_TYPE_NAMES |= {list: "a list", dict: "a table"}
