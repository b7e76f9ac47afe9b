"""Verdicts: whether a measured number reproduces the published one, computed and never typed.

In this order, the first that applies:

1. `diverged`: a run of the cell diverged, or measured a number that is not finite. The mean of the
   seeds that survived would flatter the rule, so one is enough, at every scale.
2. `not run`: there is no measured value.
3. `not comparable`: the scale is not the paper's, or a tag of the protocol differs (it says which).
   Counts do not depend on training, so their scale is not looked at.
4. A count (parameters, multiply-adds; `decimals` given) is `reproduced` if it rounds to the
   published digits; else it is off. The table's tolerance is not looked at. What is off, here and
   below, is `better` or `worse`, or `differs` where neither direction is better (shares of FLOPs).
5. A published standard deviation: Welch's t test, two-sided at 5 %. Ours is the sample standard
   deviation (n - 1); where the paper prints no n, 3 is assumed and said.
   - significant: it is off;
   - not significant, and the least significant difference t(0.975, df) * SE is within the
     tolerance: `reproduced`. So a difference as large as the tolerance would have been called: no
     difference was found by a test that could have found one that matters;
   - otherwise, and always for a single run, which has no spread: `inconclusive`.
   Where the table states no tolerance, three published standard deviations stand in for it: with
   equal spreads three runs against three can decide that (2.3 of them), two cannot (3.5).
   A true difference of exactly the least significant one is found with a probability of 0.55 to
   0.6. To ask for the customary 0.8 (3.1 standard deviations at three against three) would leave
   most cells open for ever, as the published n cannot be raised: even with ten runs of ours it
   takes 2.7.
6. A tolerance alone: `reproduced` if the mean is within it, else it is off. The tolerance is what
   a single run may be off, so one run can be judged. With two or more it is `inconclusive` where
   the edge of the tolerance is nearer to the mean than two standard errors of ours: another set of
   seeds could well fall on its other side. (Two standard errors and not a t quantile: that is 12.7
   for two runs, and would make two runs that agree say less than one.)
7. Neither: `inconclusive`.

Too good is a finding as well, hence `better`. Cells are judged one by one, without correction for
their number: where all numbers are true, one cell in twenty differs by chance under rule 5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from locbench.published.table import Published
from locbench.runs.record import summarize

ALPHA = 0.05
ASSUMED_N = 3
SPREADS = 3.0  # published standard deviations that stand in for a tolerance
STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class Verdict:
    """A name, and the numbers or tags that decided it.

    Beside those that `judge` gives there are `unpublished`, `cited`, and none for what no number
    is compared with.
    """

    name: str
    detail: str

    def __str__(self) -> str:
        """The name, for `not comparable` with what differs: it means nothing without."""
        return f"{self.name} ({self.detail})" if self.name == "not comparable" else self.name


@dataclass(frozen=True)
class Welch:
    """Welch's test of two means: t, degrees of freedom, two-sided p, least significant difference.

    `least` is the smallest difference of the means that would have had p < ALPHA.
    """

    t: float
    df: float
    p: float
    least: float


def welch(ours: tuple[float, float, int], theirs: tuple[float, float, int]) -> Welch:
    """Welch's t test of two means from their summaries (mean, sample deviation, n of at least 2).

    Without any spread on either side p is 1 for equal means and 0 for different ones.
    """
    from scipy import stats

    (mean, _, n), (other, _, other_n) = ours, theirs
    variances = [(std**2 / count, count) for _, std, count in (ours, theirs)]
    total = sum(variance for variance, _ in variances)
    error = math.sqrt(total)
    if error == 0:
        same = math.isclose(mean, other, rel_tol=1e-9, abs_tol=1e-12)
        t = 0.0 if same else math.copysign(math.inf, mean - other)
        return Welch(t, float(n + other_n - 2), float(same), 0.0)
    df = total**2 / sum(variance**2 / (count - 1) for variance, count in variances)
    t = (mean - other) / error
    p = 2 * float(stats.t.sf(abs(t), df))
    return Welch(t, df, p, float(stats.t.ppf(1 - ALPHA / 2, df)) * error)


def judge(
    measured: Sequence[float],
    *,
    published: Published,
    tolerance: float | None,
    scale: str,
    statuses: Sequence[str] = (),
    mismatches: Sequence[str] = (),
    higher_is_better: bool | None = True,
    decimals: int | None = None,
) -> Verdict:
    """The verdict on one cell; the module's text is the rule.

    `measured` holds a value per finished run and `statuses` those of all its runs. `mismatches`
    names the tags that differ from the published protocol. `decimals` asks for the comparison to
    the last published digit. `higher_is_better` is None where neither direction is.
    """
    early = _without_numbers(measured, statuses)
    if early:
        return early
    differing = [f"scale {scale}"] if scale != "paper" and decimals is None else []
    differing += mismatches
    if not isinstance(published.value, int | float):
        return Verdict("not comparable", ", ".join([*differing, "no published number"]))
    if differing:
        return Verdict("not comparable", ", ".join(differing))
    above = summarize(measured)[0] > published.value
    outside = "better" if above == higher_is_better else "worse"
    outside = "differs" if higher_is_better is None else outside
    if decimals is not None:
        return _to_the_digit(measured, published.value, decimals, outside)
    if published.std is not None:
        verdict = _by_spread(measured, published, tolerance, outside)
    else:
        verdict = _by_tolerance(measured, published.value, tolerance, outside)
    open_runs = len(statuses) - len(measured)
    rest = f"; {open_runs} more not finished" if open_runs > 0 else ""
    return Verdict(verdict.name, verdict.detail + rest)


def unpublished(measured: Sequence[float], *, statuses: Sequence[str]) -> Verdict:
    """Of what no paper has: only whether it was measured."""
    there = Verdict("unpublished", "measured; no paper has this number")
    return _without_numbers(measured, statuses) or there


def _without_numbers(measured: Sequence[float], statuses: Sequence[str]) -> Verdict | None:
    """`diverged` and `not run`, which need no comparison."""
    lost = list(statuses).count("diverged")
    strange = sum(not math.isfinite(value) for value in measured)
    if lost or strange:
        total = max(len(statuses), len(measured))
        return Verdict("diverged", f"{max(lost, strange)} of {total} runs")
    if measured:
        return None
    others = [f"{list(statuses).count(s)} {s}" for s in ("running", "failed") if s in statuses]
    return Verdict("not run", ", ".join(others) or "no runs")


def _to_the_digit(
    measured: Sequence[float], published: float, decimals: int, outside: str
) -> Verdict:
    """A tie (0.125 for 0.12 and for 0.13) rounds to both: papers round either way."""
    half = 0.5 * 10.0**-decimals
    mean = summarize(measured)[0]
    fits = abs(mean - published) <= half + 1e-9 * max(1.0, abs(published))
    text = f"{mean:.{decimals + 2}f} against {published:.{decimals}f}, to the last digit"
    return Verdict("reproduced" if fits else outside, text)


def _by_spread(
    measured: Sequence[float], published: Published, tolerance: float | None, outside: str
) -> Verdict:
    mean, std, n = summarize(measured)
    other, other_std = published.value, published.std
    other_n = ASSUMED_N if published.n is None else published.n
    if other_n < 2:
        raise ValueError(f"a published standard deviation needs n of at least 2, not {other_n}")
    theirs = f"{other:g} ± {other_std:g} (n = {other_n}"
    theirs += ", assumed)" if published.n is None else ")"
    if std is None:
        return Verdict(
            "inconclusive",
            f"{mean:.4g} against {theirs}: one run has no spread; two are the least, three better",
        )
    test = welch((mean, std, n), (other, other_std, other_n))
    target = SPREADS * other_std if tolerance is None else tolerance
    source = f"{SPREADS:g} published deviations" if tolerance is None else "tolerance"
    text = (
        f"{mean:.4g} ± {std:.2g} (n = {n}) against {theirs}: difference {mean - other:+.3g}, "
        f"t = {test.t:.2f}, df = {test.df:.1f}, p = {test.p:.2g}; least significant difference "
        f"{test.least:.2g}, {source} {target:.2g}"
    )
    if test.p < ALPHA:
        return Verdict(outside, text)
    return Verdict("reproduced" if test.least <= target else "inconclusive", text)


def _by_tolerance(
    measured: Sequence[float], published: float, tolerance: float | None, outside: str
) -> Verdict:
    mean, std, n = summarize(measured)
    difference = mean - published
    text = f"{mean:.4g} (n = {n}) against {published:g}: difference {difference:+.3g}"
    if tolerance is None:
        return Verdict("inconclusive", f"{text}; the table states neither spread nor tolerance")
    text += f", tolerance {tolerance:g}"
    # 1.1 - 0.8 is 0.30000000000000004, which is no more than a tolerance of 0.3.
    edge = tolerance + 1e-9 * max(1.0, abs(published))
    if std is not None:
        error = std / math.sqrt(n)
        text += f", standard error {error:.2g}"
        if abs(abs(difference) - edge) < STANDARD_ERRORS * error:
            return Verdict("inconclusive", text)
    return Verdict("reproduced" if abs(difference) <= edge else outside, text)
