"""Claims: every kind at its edge, every error, and all claims of both papers on their numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest

from locbench.errors import UserError
from locbench.published.claim_entries import build_claim
from locbench.published.claims import CASES, KINDS, Claim
from locbench.published.load import load_table, table_names

ROWS = [
    {"method": "BP", "network": "R"},
    {"method": "X", "network": "R", "d": 2},
    {"method": "X", "network": "R", "d": 10},
    {"method": "BP", "network": "S"},
    {"method": "X", "network": "S", "d": 2},
    {"method": "X", "network": "S", "d": 10},
]
COLUMNS = ["u", "v"]
CELLS = {
    (index, column): {**labels, "column": column}
    for index, labels in enumerate(ROWS)
    for column in COLUMNS
}
VALUES = {key: 50.0 + 10 * key[0] + (key[1] == "v") for key in CELLS}


def claim(**keys: Any) -> Claim:
    return build_claim({"text": "it is so", **keys}, CELLS, COLUMNS, where="file: claim 1")


def holds(made: Claim, *values: float) -> bool | None:
    """Judge with these values for the needed cells, in order."""
    return made.judge(dict(zip(made.needs(), values, strict=True))).holds


ONE_PAIR = {"a": {"method": "X", "d": 2}, "b": {"method": "BP"}, "over": ["network"]}
ONE_PAIR |= {"columns": ["u"]}


@pytest.mark.parametrize(
    ("kind", "number", "true", "false"),
    [
        # 69.5 - 68.5 and the like are not exact in binary: the edge itself must hold
        ("within", {"margin": 0.3}, [(69.5, 69.8), (69.8, 69.5), (1, 1)], [(69.5, 69.81)]),
        ("above", {"margin": 0.3}, [(69.8, 69.5)], [(69.79, 69.5), (69.5, 69.8)]),
        ("above", {}, [(69.51, 69.5)], [(69.5, 69.5), (69.4, 69.5)]),
        ("below", {"margin": 0.3}, [(69.5, 69.8)], [(69.5, 69.79), (69.8, 69.5)]),
        ("below", {}, [(69.4, 69.5)], [(69.5, 69.5), (69.6, 69.5)]),
        ("ratio_at_most", {"factor": 0.1}, [(0.3, 3.0)], [(0.301, 3.0)]),
    ],
)
def test_pairs(kind: str, number: dict, true: list, false: list):
    made = claim(kind=kind, **number, **ONE_PAIR)
    assert made.comparisons == (((1, "u"), (0, "u")), ((4, "u"), (3, "u")))
    for pair in true:
        assert holds(made, *pair, *true[0]) is True, pair
    for pair in false:
        assert holds(made, *pair, *true[0]) is False, pair
        assert holds(made, *true[0], *pair) is False, pair


@pytest.mark.parametrize(
    ("kind", "numbers", "true", "false"),
    [
        ("at_least", {"value": 2.5}, [2.5, 3], [2.49]),
        ("at_most", {"value": 2.5}, [2.5, -3], [2.51]),
        ("about", {"value": 2.5, "margin": 0.3}, [2.2, 2.8], [2.19, 2.81]),
    ],
)
def test_single_values(kind: str, numbers: dict, true: list, false: list):
    made = claim(kind=kind, **numbers, a={"method": "BP", "network": "R"}, columns=["u"])
    assert [holds(made, x) for x in true] == [True] * len(true)
    assert [holds(made, x) for x in false] == [False] * len(false)


def test_series_along_a_label():
    made = claim(kind="increases", a={"method": "X"}, over=["network"], along="d", columns=["v"])
    assert made.comparisons == (((1, "v"), (2, "v")), ((4, "v"), (5, "v")))
    assert holds(made, 1, 2, 5, 6) is True
    assert holds(made, 1, 2, 6, 6) is False
    falls = claim(kind="decreases", a={"method": "X"}, over=["network"], along="d", margin=1)
    assert len(falls.comparisons) == 4  # both columns
    assert holds(falls, 2, 1, 2, 1, 2, 1, 2, 1) is True
    assert holds(falls, 2, 1, 2, 1.1, 2, 1, 2, 1) is False


def test_a_series_runs_by_number_whatever_the_order_of_the_rows():
    turned = dict(reversed(CELLS.items()))
    raw = {"text": "it rises", "kind": "increases", "a": {"method": "X"}, "over": ["network"]}
    made = build_claim(raw | {"along": "d", "columns": ["u"]}, turned, COLUMNS, where="file")
    assert set(made.comparisons) == {((1, "u"), (2, "u")), ((4, "u"), (5, "u"))}


def test_series_along_the_columns_in_the_order_given():
    rows = {"a": {"method": "BP"}, "over": ["network"], "along": "column"}
    assert claim(kind="increases", **rows).comparisons[0] == ((0, "u"), (0, "v"))
    turned = claim(kind="increases", columns=["v", "u"], **rows)
    assert turned.comparisons == (((0, "v"), (0, "u")), ((3, "v"), (3, "u")))


def test_series_of_text_runs_in_the_order_of_the_filter():
    made = claim(
        kind="increases",
        a={"network": ["S", "R"], "method": "BP"},
        along="network",
        columns=["u"],
    )
    assert made.comparisons == (((3, "u"), (0, "u")),)


def test_an_empty_b_is_every_other_cell():
    made = claim(kind="above", a={"method": "X", "d": 10}, b={}, over=["network"], columns=["u"])
    assert made.comparisons[:2] == (((2, "u"), (0, "u")), ((2, "u"), (1, "u")))
    assert len(made.comparisons) == 4


def test_columns_are_compared_apart_unless_named():
    made = claim(kind="below", a={"method": "BP"}, b={"d": 2}, over=["network"])
    assert all(a[1] == b[1] for a, b in made.comparisons) and len(made.comparisons) == 4
    across = claim(
        kind="below", a={"column": "u"}, b={"column": "v"}, over=["method", "network", "d"]
    )
    assert across.comparisons == tuple(((r, "u"), (r, "v")) for r in range(6))
    assert across.judge(VALUES).holds is True


def test_missing_and_non_finite_values_leave_a_claim_open():
    made = claim(kind="above", **ONE_PAIR)
    assert made.judge({}).holds is None
    values = {key: VALUES[key] for key in made.needs()}
    assert made.judge(values).holds is True
    for key in made.needs():
        without = {k: v for k, v in values.items() if k != key}
        assert made.judge(without).holds is None
        assert made.judge(values | {key: math.nan}).holds is None
        assert made.judge(values | {key: math.inf}).holds is None


def test_details_name_cells_and_values():
    made = claim(kind="above", **ONE_PAIR)
    values = {key: VALUES[key] for key in made.needs()}
    assert made.judge(values).detail == "closest of 2: R: X d=2 60 against BP 50"
    assert made.judge(values | {(1, "u"): 49.5}).detail == (
        "in 1 of 2: R: X d=2 49.5 against BP 50"
    )
    del values[3, "u"]
    assert made.judge(values).detail == "1 of 4 cells missing: BP S"
    both = claim(kind="above", a={"d": 2}, b={"method": "BP"}, over=["network"])
    assert "R, u: X d=2 60 against BP 50" in both.judge(VALUES).detail


def test_a_gap_is_a_cell_minus_the_one_that_minus_names():
    """X minus BP on its network: S against R; BP of R has neither a d nor another column."""
    gaps = claim(
        kind="above",
        a={"method": "X", "network": "S"},
        b={"method": "X", "network": "R"},
        over=["d"],
        columns=["u"],
        minus={"method": "BP"},
    )
    assert gaps.minus == {(r, "u"): (3 * (r > 3), "u") for r in (1, 2, 4, 5)}
    assert set(gaps.needs()) == {(row, "u") for row in range(6)}
    x, x10, bp_r, y, y10, bp_s = (VALUES[row, "u"] for row in (1, 2, 0, 4, 5, 3))
    assert (y - bp_s, y10 - bp_s) == (x - bp_r, x10 - bp_r), "equal gaps are none above"
    assert gaps.judge(VALUES).holds is False
    result = gaps.judge(VALUES | {(4, "u"): y + 1, (5, "u"): y10 + 2})
    assert result.holds is True
    assert result.detail == "closest of 2: d=2: S +11 against R +10 (minus BP)"
    assert gaps.judge({k: v for k, v in VALUES.items() if k != (3, "u")}).holds is None


def test_most_and_some_of_the_comparisons_are_enough_where_the_sentence_says_so():
    keys = {"kind": "above", "a": {"method": "X"}, "b": {"method": "BP"}, "over": ["network"]}
    made = {cases: claim(**keys, columns=["u"], cases=cases) for cases in CASES}
    for failing, wanted in enumerate([("all", "most", "some"), ("most", "some"), ("some",)]):
        # Four comparisons; of the first network's two both fail together.
        values = VALUES | {(0, "u"): 100.0 if failing else 0.0}
        values |= {(3, "u"): values[4, "u"] if failing == 2 else 0.0}
        values |= {(2, "u"): 200.0 if failing == 1 else VALUES[2, "u"]}
        assert tuple(c for c in CASES if made[c].judge(values).holds) == wanted
    assert made["some"].judge(VALUES | {(0, "u"): 900.0, (3, "u"): 900.0}).holds is False
    fails = VALUES | {(0, "u"): 65.0}
    assert made["most"].judge(fails).detail == "in 3 of 4, not R: X d=2 60 against BP 65"


def test_what_is_nearer_than_two_standard_errors_is_too_close_to_call():
    made = claim(kind="above", **ONE_PAIR)  # the first pair, then the second, decided at +10

    def judged(difference: float, error: float, second: float = 10.0):
        values = dict(zip(made.needs(), (difference, 0.0, second, 0.0), strict=True))
        return made.judge(values, lambda weights: error)

    assert [judged(x, 0.5).holds for x in (1.1, 0.9, 0.1, -0.9, -1.1)] == (
        [True, None, None, None, False]
    )
    assert judged(0.3, 0.8).detail == (
        "too close to call in 1 of 2: R: X d=2 0.3 against BP 0: +0.30 ± 0.80"
    )
    assert judged(0.3, 0.8, second=-5).holds is False, "one that fails by more decides"
    assert judged(20.0, math.nan).detail.startswith("no spread of one run in 2 of 2")
    assert judged(0.3, 0.0).holds is True, "what has no error is exact"


def test_the_standard_error_is_asked_of_the_weights_of_the_cells():
    asked: list[dict] = []

    def remember(weights):
        asked.append(dict(weights))
        return 0.0

    one = {"a": {"method": "X", "d": 2, "network": "R"}, "columns": ["u"]}
    ratio = claim(kind="ratio_at_most", factor=0.5, b={"method": "BP", "network": "R"}, **one)
    ratio.judge(VALUES, remember)
    gap = claim(kind="at_least", value=1, minus={"method": "BP"}, **one)
    gap.judge(VALUES, remember)
    both = claim(kind="above", b={"d": 10, "network": "R"}, minus={"method": "BP"}, **one)
    both.judge(VALUES, remember)
    assert asked == [
        {(1, "u"): 1, (0, "u"): -0.5},
        {(1, "u"): 1, (0, "u"): -1},
        {(1, "u"): 1, (2, "u"): -1},  # what is taken from both sides has no part in it
    ]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"kind": "abov"}, "'kind': unknown value 'abov'; did you mean 'above'?"),
        ({"kind": "above", "a": {}}, "'b' is missing"),
        ({"kind": "within", **ONE_PAIR}, "'margin' is missing"),
        ({"kind": "above", "margin": -1, **ONE_PAIR}, "margin -1 is negative"),
        ({"kind": "above", "factor": 1, **ONE_PAIR}, "unknown key 'factor'"),
        ({"kind": "at_most", "value": 1, "b": {}}, "unknown key 'b'"),
        ({"kind": "about", "value": 1}, "'margin' is missing"),
        ({"kind": "above", "margin_ours": True, **ONE_PAIR}, "margin_ours, and there is no margin"),
        ({"kind": "above", "cases": "many", **ONE_PAIR}, "'cases': unknown value 'many'"),
        ({"kind": "above", **ONE_PAIR, "minus": {"method": "X"}}, "'minus' names 2 cells for BP R"),
        ({"kind": "above", **ONE_PAIR, "minus": {}}, "'minus' takes every cell from itself"),
        ({"kind": "above", "a": {"metod": "X"}, "b": {}}, "unknown key 'metod'"),
        ({"kind": "above", "a": {"method": "BQ"}, "b": {}}, "method = 'BQ'; did you mean 'BP'?"),
        ({"kind": "above", "a": {"method": ["BP", "Y"]}, "b": {}}, "has method = 'Y'"),
        ({"kind": "above", "a": {}, "b": {}}, "nothing to compare"),
        ({"kind": "above", **ONE_PAIR, "columns": ["w"]}, "has column = 'w'"),
        ({"kind": "above", **ONE_PAIR, "over": ["netwrok"]}, "unknown key 'netwrok'"),
        ({"kind": "increases", "along": "d"}, "'d' does not order its cells"),
        ({"kind": "increases", "a": {"method": "X"}, "along": "d"}, "add labels to 'over'"),
        ({"kind": "increases", "a": {"d": 2}, "along": "network"}, "'network' is text"),
    ],
)
def test_errors_name_the_claim(keys: dict[str, Any], says: str):
    with pytest.raises(UserError) as error:
        claim(**keys)
    assert says in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith("file: claim 1 ('it is so')")


PAIRS = [(name, made) for name in table_names() for made in load_table(name).claims]


@pytest.mark.parametrize(("name", "made"), PAIRS, ids=[f"{n}: {c.text}" for n, c in PAIRS])
def test_claims_on_the_published_numbers(name: str, made: Claim):
    """They hold, but for those that the paper states against its own numbers.

    They are open where a number is not in print.
    """
    values = load_table(name).values(made.of)
    result = made.judge(values)
    is_open = not set(made.needs()) <= set(values)
    assert result.holds is (None if is_open else made.holds_in_print), result.detail


def test_how_many_claims_of_each_table_the_paper_s_own_numbers_contradict():
    """By table: a claim that is narrowed until it holds in print changes its count."""
    contradicted: dict[str, int] = {}
    for name, made in PAIRS:
        if not made.holds_in_print:
            assert made.section, "only the paper can be contradicted by it"
            contradicted[name] = contradicted.get(name, 0) + 1
    assert contradicted == {
        "loco/table1": 1,
        "loco/table2": 2,
        "loco/table3": 4,
        "loco/table5": 1,
        "loco/table6": 1,
        "auglocal/table1": 2,
        "auglocal/table2": 1,
        "auglocal/table4": 1,
        "auglocal/table7": 2,
    }


@pytest.mark.parametrize("name", table_names())
def test_a_wrong_number_shows_in_every_claim_that_uses_it(name: str):
    table = load_table(name)
    values = {cell.key: 50.0 for cell in table.cells()} | table.values()
    for made in table.claims:
        if made.holds_in_print and made.cases == "all":
            for key in made.needs():
                results = [made.judge(values | {key: x}).holds for x in (-1e6, 1e6)]
                assert False in results, (made.text, key)


def test_every_table_of_numbers_has_claims_and_every_kind_is_used():
    printed = [table for table in map(load_table, table_names()) if table.number is not None]
    without = [table.name for table in printed if not table.claims]
    assert without == ["loco/table8", "auglocal/table6"]  # tables of text
    assert {made.kind for _, made in PAIRS} == set(KINDS)


def test_a_sentence_that_names_no_network_is_judged_on_all():
    made = {c.text: c for c in load_table("loco/table1").claims}
    better = made["LoCo is even slightly better than SimCLR, on every network"]
    assert better.comparisons == tuple(
        ((loco, "linear_top1"), (simclr, "linear_top1")) for loco, simclr in ((7, 5), (10, 8))
    )
    deeper = next(c for c in load_table("auglocal/table1").claims if c.kind == "increases")
    assert len(deeper.comparisons) == 2 * 3 * 4, "networks, data sets, steps of d"
