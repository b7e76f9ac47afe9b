"""Claims: the sentences a reader takes away from a table, in a form that can be checked.

A claim compares cells of its table in one of the ways of `KINDS`. It is bound to its cells when the
table is loaded (`claim_entries.py`), so that a misspelt label is an error then; it is judged on any
set of values: the published ones, or measured ones with their standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Key = tuple[int, str]  # row index, column key
# The standard error of a weighted sum of cells.
StandardError = Callable[[Mapping[Key, float]], float]

# Published values have few digits; their differences, as binary fractions, miss by about 1e-14.
EPSILON = 1e-9
# A comparison nearer to its edge than this could well fall on the other side of it.
STANDARD_ERRORS = 2.0
# How many of n comparisons must hold.
CASES = {"all": lambda n: n, "most": lambda n: n // 2 + 1, "some": lambda n: 1}


@dataclass(frozen=True)
class Kind:
    """One way to compare. `slack` says how far it is from failing, negative where it fails.

    It takes the first cell minus the second (minus `factor` times the second, where `numbers` have
    one), or the only cell, and the claim's numbers. An order needs no number, and asks for a real
    difference without one.
    """

    shape: Literal["pair", "series", "single"]  # a against b; each against the next; a alone
    numbers: tuple[str, ...]  # the keys of the entry that hold them
    slack: Callable[..., float]
    order: bool = False


KINDS = {
    "within": Kind("pair", ("margin",), lambda x, margin: margin - abs(x)),
    "above": Kind("pair", ("margin",), lambda x, margin: x - margin, order=True),
    "below": Kind("pair", ("margin",), lambda x, margin: -x - margin, order=True),
    "ratio_at_most": Kind("pair", ("factor",), lambda x, factor: -x),
    "increases": Kind("series", ("margin",), lambda x, margin: -x - margin, order=True),
    "decreases": Kind("series", ("margin",), lambda x, margin: x - margin, order=True),
    "at_least": Kind("single", ("value",), lambda x, value: x - value),
    "at_most": Kind("single", ("value",), lambda x, value: value - x),
    "about": Kind("single", ("value", "margin"), lambda x, value, margin: margin - abs(x - value)),
}


@dataclass(frozen=True)
class ClaimResult:
    """What became of a claim: `holds` is None where it is open; `detail` says what decided it."""

    holds: bool | None
    detail: str


def clear(difference: float, error: float) -> bool:
    """Whether a difference is two standard errors or more from zero; never where one is nan."""
    return error == 0 or abs(difference) >= STANDARD_ERRORS * error


@dataclass(frozen=True)
class Comparison:
    """One comparison of a claim, made: its slack, the standard error of that, and both in words."""

    slack: float
    error: float  # 0: exact; nan: unknown
    text: str

    @property
    def holds(self) -> bool | None:
        """None where it is too close to its edge to call, or its error is not known."""
        return self.slack >= 0 if clear(self.slack, self.error) else None


@dataclass(frozen=True)
class Claim:
    """One sentence and the comparisons that decide it.

    With `minus`, a value is a cell's own minus that of the cell that `minus` names for it.
    """

    text: str
    kind: str
    numbers: tuple[float, ...]  # margin, factor or value, as the kind has them
    comparisons: tuple[tuple[Key, ...], ...]
    section: str = ""  # where the paper says it; "" for a claim of ours
    margin_ours: bool = False
    cases: str = "all"
    of: str = "mean"  # or "variance": what of each cell is compared
    holds_in_print: bool = True
    minus: Mapping[Key, Key] = field(default_factory=dict, repr=False)
    minus_name: str = ""
    names: Mapping[Key, Sequence[str]] = field(default_factory=dict, repr=False)

    def needs(self) -> list[Key]:
        """The cells that the claim is about, each once, in order of use."""
        return list(dict.fromkeys(key for keys in self.comparisons for key in self.cells_of(keys)))

    def cells_of(self, keys: Sequence[Key]) -> list[Key]:
        """The cells of one comparison, with those that are taken from them."""
        return [cell for key in keys for cell in (key, self.minus.get(key)) if cell is not None]

    def judge(
        self, values: Mapping[Key, float], standard_error: StandardError | None = None
    ) -> ClaimResult:
        """Judge the claim on `values`: cell to number, in the unit of the cell's column.

        A missing or non-finite value leaves the claim open (None), whatever the others say, and so
        do comparisons nearer to their edge than two standard errors. Without `standard_error` the
        values are exact.
        """
        keys = self.needs()
        missing = [key for key in keys if not math.isfinite(values.get(key, math.nan))]
        if missing:
            what = _some([" ".join(self.names[key]) for key in missing])
            return ClaimResult(None, f"{len(missing)} of {len(keys)} cells missing: {what}")
        made = [self._compare(keys, values, standard_error) for keys in self.comparisons]
        return self._decide(sorted(made, key=lambda comparison: comparison.slack))

    def _compare(
        self,
        keys: tuple[Key, ...],
        values: Mapping[Key, float],
        standard_error: StandardError | None,
    ) -> Comparison:
        weights = self._weights(keys)
        # Counted weight by weight, so that a cell taken from both sides has no error of its own.
        error = standard_error(weights) if standard_error else 0.0
        x = sum(weight * values[key] for key, weight in weights.items())
        kind = KINDS[self.kind]
        strict = kind.order and self.numbers == (0.0,)
        # Shifted so that "fails" is "< 0" for both: equal is enough for "at least", not for "more".
        slack = kind.slack(x, *self.numbers) + (-EPSILON if strict else EPSILON)
        return Comparison(slack, error, self._describe(keys, values, x, error))

    def _weights(self, keys: tuple[Key, ...]) -> dict[Key, float]:
        second = -self.numbers[0] if KINDS[self.kind].numbers == ("factor",) else -1.0
        weights: dict[Key, float] = {}
        for weight, key in zip((1.0, second), keys, strict=False):
            weights[key] = weights.get(key, 0.0) + weight
            if key in self.minus:
                taken = self.minus[key]
                weights[taken] = weights.get(taken, 0.0) - weight
        return {key: weight for key, weight in weights.items() if weight}

    def _decide(self, made: Sequence[Comparison]) -> ClaimResult:
        """`made` is sorted, what fails most first."""
        n, groups = len(made), {x: [c for c in made if c.holds is x] for x in (True, False, None)}
        wanted = CASES[self.cases](n)
        suffix = f" (minus {self.minus_name})" if self.minus else ""
        if len(groups[True]) >= wanted:
            if self.cases == "all":
                closest = f"closest of {n}: " if n > 1 else ""
                return ClaimResult(True, f"{closest}{made[0].text}{suffix}")
            others = [comparison.text for comparison in made if not comparison.holds]
            but = f", not {_some(others)}{suffix}" if others else ""
            return ClaimResult(True, f"in {len(groups[True])} of {n}{but}")
        holds = False if n - len(groups[False]) < wanted else None
        texts = [comparison.text for comparison in groups[holds]]
        unknown = any(math.isnan(c.error) for c in groups[None])
        why = "" if holds is False else "no spread of one run " if unknown else "too close to call "
        return ClaimResult(holds, f"{why}in {len(texts)} of {n}: {_some(texts)}{suffix}")

    def _describe(
        self, keys: tuple[Key, ...], values: Mapping[Key, float], x: float, error: float
    ) -> str:
        kind, names = KINDS[self.kind], [self.names[key] for key in keys]
        texts = [
            f"{values[key] - values[self.minus[key]]:+.4g}" if self.minus else f"{values[key]:.4g}"
            for key in keys
        ]
        shared = [word for word in names[0] if all(word in name for name in names)]
        shared = shared if len(names) > 1 else []
        sides = [
            " ".join([*(word for word in name if word not in shared), text])
            for name, text in zip(names, texts, strict=True)
        ]
        text = (" to " if kind.shape == "series" else " against ").join(sides)
        if error > 0:
            text += f" ± {error:.2f}" if len(keys) == 1 else f": {x:+.2f} ± {error:.2f}"
        return f"{', '.join(shared)}: {text}" if shared else text


def _some(texts: Sequence[str], most: int = 3) -> str:
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return "; ".join(texts[:most]) + more
