"""Verdicts: what decides each of them, and that the statistics are scipy's."""

import math
import random
import statistics

import pytest
from scipy import stats

from locbench.paths import runs_dir
from locbench.published.load import load_table
from locbench.published.table import Published
from locbench.report.filled import fill_table
from locbench.report.verdict import ALPHA, judge, welch
from locbench.runs.plan import Options, make_plan
from locbench.runs.record import Record, summarize
from locbench.runs.store import Store


def by_spread(measured, published=93.96, std=0.15, n=3, tolerance=0.5, **more):
    printed = Published(published, std, n)
    return judge(measured, published=printed, tolerance=tolerance, scale="paper", **more)


def by_tolerance(measured, published=69.5, tolerance=0.5, scale="paper", **more):
    printed = Published(published)
    return judge(measured, published=printed, tolerance=tolerance, scale=scale, **more)


def sample(mean, std, n, draw):
    """n values with exactly this mean and sample standard deviation."""
    values = [draw.gauss(0, 1) for _ in range(n)]
    centre, spread = statistics.fmean(values), statistics.stdev(values)
    return [mean + std * (v - centre) / spread for v in values]


# --- Welch -----------------------------------------------------------------------------------


def test_welch_is_scipys():
    draw = random.Random(0)
    for _ in range(20):
        ours = [draw.gauss(90, draw.uniform(0.01, 3)) for _ in range(draw.randint(2, 9))]
        theirs = [draw.gauss(90, draw.uniform(0.01, 3)) for _ in range(draw.randint(2, 9))]
        test = welch(summarize(ours), summarize(theirs))
        expected = stats.ttest_ind(ours, theirs, equal_var=False)
        assert (test.t, test.p, test.df) == pytest.approx(
            (expected.statistic, expected.pvalue, expected.df)
        )
        interval = expected.confidence_interval(1 - ALPHA)
        assert test.least == pytest.approx((interval.high - interval.low) / 2)


def test_the_numbers_that_the_rule_quotes():
    least = {n: welch((0.0, 1.0, n), (0.0, 1.0, 3)).least for n in (2, 3, 10)}
    assert least[3] == pytest.approx(2.27, abs=0.01) and least[2] == pytest.approx(3.51, abs=0.01)

    def power(n, difference):
        test = welch((0.0, 1.0, n), (0.0, 1.0, 3))
        shift = difference / math.sqrt(1 / n + 1 / 3)
        return stats.nct.sf(stats.t.ppf(1 - ALPHA / 2, test.df), test.df, shift)

    assert all(0.55 <= power(n, least[n]) <= 0.61 for n in (2, 3, 10))
    assert power(3, 3.1) == pytest.approx(0.8, abs=0.01)
    assert power(10, 2.7) == pytest.approx(0.8, abs=0.01)
    assert stats.t.ppf(0.975, 1) == pytest.approx(12.7, abs=0.01)


def test_welch_without_any_spread():
    assert welch((1.0, 0.0, 3), (1.0, 0.0, 3)).p == 1.0
    apart = welch((0.9, 0.0, 3), (1.0, 0.0, 3))
    assert apart.p == 0.0 and apart.t == -math.inf
    assert by_spread([94.0, 94.0], published=94.0, std=0.0).name == "reproduced"
    assert by_spread([93.9, 93.9], published=94.0, std=0.0).name == "worse"


# --- with a published spread -----------------------------------------------------------------


def test_a_published_spread_decides_by_welch_from_both_sides():
    draw = random.Random(1)
    assert by_spread(sample(93.9, 0.15, 3, draw)).name == "reproduced"
    assert by_spread(sample(92.0, 0.15, 3, draw)).name == "worse"
    assert by_spread(sample(95.0, 0.15, 3, draw)).name == "better"
    assert by_spread(sample(95.0, 0.15, 3, draw), higher_is_better=False).name == "worse"
    # Not significant, but these runs could not have shown half a point either.
    wide = by_spread(sample(93.9, 0.9, 3, draw))
    assert wide.name == "inconclusive" and "tolerance 0.5" in wide.detail
    assert by_spread(sample(93.9, 0.9, 3, draw), tolerance=5.0).name == "reproduced"


def test_one_run_has_no_spread_however_far_it_is():
    for value in (93.96, 50.0):
        verdict = by_spread([value])
        assert verdict.name == "inconclusive" and "one run has no spread" in verdict.detail


def test_without_a_tolerance_three_runs_can_decide_and_two_cannot():
    draw = random.Random(2)
    for std in (0.01, 0.15, 2.0):
        three = by_spread(sample(93.96, std, 3, draw), std=std, tolerance=None)
        two = by_spread(sample(93.96, std, 2, draw), std=std, tolerance=None)
        assert (three.name, two.name) == ("reproduced", "inconclusive")
        assert "3 published deviations" in three.detail


def test_an_n_that_the_paper_does_not_give_is_three_and_said():
    measured = sample(93.7, 0.1, 3, random.Random(3))
    assumed, stated = by_spread(measured, n=None), by_spread(measured, n=3)
    assert "(n = 3, assumed)" in assumed.detail and "assumed" not in stated.detail
    assert assumed.name == stated.name
    test = welch(summarize(measured), (93.96, 0.15, 3))
    assert f"p = {test.p:.2g}" in assumed.detail and f"t = {test.t:.2f}" in assumed.detail
    with pytest.raises(ValueError, match="at least 2"):
        by_spread(measured, n=1)


# --- with a tolerance alone ------------------------------------------------------------------


def test_a_tolerance_decides_one_run_from_both_sides():
    cases = {69.5: "reproduced", 69.0: "reproduced", 70.0: "reproduced", 68.9: "worse"}
    for value, name in {**cases, 70.1: "better"}.items():
        assert by_tolerance([value]).name == name
    assert by_tolerance([68.9], higher_is_better=False).name == "better"
    assert by_tolerance([70.1], higher_is_better=False).name == "worse"
    assert by_tolerance([70.1], higher_is_better=None).name == "differs"
    assert by_tolerance([68.9], higher_is_better=None).name == "differs"


def test_the_edge_of_a_tolerance_is_inside_whatever_the_floats_say():
    for tenths in range(1, 1000, 7):
        published, value = tenths / 10, (tenths + 3) / 10
        assert by_tolerance([value], published=published, tolerance=0.3).name == "reproduced"
        assert by_tolerance([published], published=value, tolerance=0.3).name == "reproduced"
        beyond = (tenths + 4) / 10
        assert by_tolerance([beyond], published=published, tolerance=0.3).name == "better"


def test_runs_that_differ_more_than_the_tolerance_decide_nothing():
    assert by_tolerance([68.0, 71.0, 69.5]).name == "inconclusive"
    assert by_tolerance([69.4, 69.6]).name == "reproduced"
    assert by_tolerance([60.0, 62.0, 61.0]).name == "worse"
    near = by_tolerance([68.9, 69.1, 69.3])
    assert near.name == "inconclusive" and "standard error" in near.detail


def test_no_spread_and_no_tolerance_is_no_rule():
    verdict = by_tolerance([69.5], tolerance=None)
    assert verdict.name == "inconclusive" and "neither" in verdict.detail


# --- what is looked at first -----------------------------------------------------------------


def test_only_the_papers_scale_is_judged_and_every_tag_is_named():
    for scale in ("smoke", "small"):
        assert str(by_tolerance([69.5], scale=scale)) == f"not comparable (scale {scale})"
    verdict = by_tolerance([69.5], scale="smoke", mismatches=["probe moco"])
    assert str(verdict) == "not comparable (scale smoke, probe moco)"
    assert str(by_tolerance([69.5], mismatches=["probe moco"])) == "not comparable (probe moco)"
    assert str(by_tolerance([69.5])) == "reproduced"


@pytest.mark.parametrize("published", [None, "64R-AP-10FC"])
def test_a_cell_without_a_published_number_has_nothing_to_be_compared_with(published):
    assert "no published number" in str(by_tolerance([1.0], published=published))


def test_not_run_says_what_is_there():
    assert by_tolerance([], scale="smoke").name == "not run"
    verdict = by_tolerance([], statuses=["running", "failed", "failed"])
    assert (verdict.name, verdict.detail) == ("not run", "1 running, 2 failed")
    assert (
        "2 more not finished" in by_tolerance([69.5], statuses=["done", "running", "failed"]).detail
    )


def test_one_diverged_run_is_enough_at_every_scale():
    for scale in ("paper", "small", "smoke"):
        statuses = ["done", "diverged", "done"]
        verdict = by_tolerance([69.5, 69.6], scale=scale, statuses=statuses)
        assert (verdict.name, verdict.detail) == ("diverged", "1 of 3 runs")
    assert by_tolerance([], statuses=["diverged"]).name == "diverged"
    for value in (math.nan, math.inf):
        verdict = by_tolerance([69.5, value])
        assert (verdict.name, verdict.detail) == ("diverged", "1 of 2 runs")


# --- costs -----------------------------------------------------------------------------------


def test_costs_are_compared_to_the_last_digit_at_every_scale():
    def cost(value, **more):
        more = {"tolerance": None, "scale": "smoke", "published": 0.63, **more}
        return by_tolerance([value], higher_is_better=False, decimals=2, **more)

    for scale in ("paper", "small", "smoke"):
        assert cost(0.6290, scale=scale).name == "reproduced"
        assert cost(0.6239, scale=scale).name == "better"
        assert cost(0.6361, scale=scale).name == "worse"
    assert cost(0.635).name == cost(0.625).name == "reproduced", "a tie rounds either way"
    assert str(cost(0.629, mismatches=["input 64"])) == "not comparable (input 64)"
    assert "0.6290 against 0.63" in cost(0.629).detail


def test_counts_of_a_table_are_compared_to_the_digit_and_bytes_by_its_tolerance():
    def verdicts(table, values):
        plan, store = make_plan(load_table(table), Options()), Store(runs_dir())
        for planned in plan.cells:
            if planned.cell.metric in values and planned.cell.published:
                value = planned.cell.published.value + values[planned.cell.metric]
                (spec,), metrics = planned.specs, {planned.cell.metric: {"last": value}}
                store.save(Record(spec.id, spec.kind, "done", spec.scale, 0, metrics=metrics))
        filled = fill_table(plan, store).cells
        return {(c.verdict.name, "last digit" in c.verdict.detail) for c in filled if c.n}

    assert verdicts("auglocal/table11", {"flops (all)": 0.004}) == {("reproduced", True)}
    assert verdicts("loco/table7", {"memory_saving": 0.02}) == {("reproduced", False)}
