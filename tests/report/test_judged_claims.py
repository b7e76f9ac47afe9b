"""Claims on measured numbers: when one is judged, when it is open, and what uncertainty it has."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fabricate
import pytest

from locbench.published.load import load_table
from locbench.report.claims import JudgedClaim, claims_in_print, claims_measured
from locbench.report.filled import FilledTable, fill_table
from locbench.runs.plan import Options, make_plan
from locbench.runs.spec import RunSpec
from locbench.runs.store import Store

CLOSE = "Overlapping units close the gap to end-to-end contrastive learning: LoCo is within 1.0"
LARGE = "LoCo is above GIM by a large margin, 3.0 at least, on every network"
TOP1 = {"simclr": 70.0, "loco": 70.0, "gim": 60.0}


def filled(
    tmp_path: Path,
    score: Callable[[RunSpec], float] = lambda spec: TOP1.get(spec.rule, 20.0),
    table: str = "loco/table1",
    change: Callable[[RunSpec], dict] = lambda spec: {},
    **options,
) -> FilledTable:
    plan = make_plan(
        load_table(table), Options(**{"scale": "paper", "assume_data": True} | options)
    )
    store = Store(tmp_path)
    for spec in plan.runs():
        record = fabricate.record(spec, score)
        for key, value in change(spec).items():
            getattr(record, key).update(value)
        store.folder(spec.id).mkdir(parents=True, exist_ok=True)
        store.path(spec.id).write_text(record.to_json(), encoding="utf-8")
    return fill_table(plan, store)


def claim(table: FilledTable, text: str) -> JudgedClaim:
    (made,) = (claim for claim in table.claims if claim.text.startswith(text))
    return made


def test_at_smoke_no_claim_is_judged_but_those_on_counts(tmp_path):
    assert filled(tmp_path, scale="smoke").claims == ()
    plan = make_plan(load_table("loco/table6"), Options(scale="smoke"))
    counted = fill_table(plan, Store(tmp_path)).claims
    assert len(counted) == len(plan.table.claims), "they are the paper's at every scale"


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_a_claim_is_judged_where_all_of_its_cells_are_measured(tmp_path, scale):
    made = claim(filled(tmp_path, scale=scale), LARGE)
    assert made.holds is True and made.source == "section 5.1" and made.margin_ours
    assert made.detail.startswith("closest of 2: ResNet-50: LoCo 70 against GIM 60: +10.00 ± ")


def test_a_part_of_the_table_gives_no_part_of_a_claim(tmp_path):
    part = filled(tmp_path, rows="loco,gim resnet-50")
    assert (claim(part, LARGE).holds, claim(part, LARGE).detail) == (None, "open: 3 of 4 measured")


def test_cells_that_the_paper_quotes_are_not_measured(tmp_path):
    quoted = claim(filled(tmp_path), "SimCLR on ResNet-50 is above every earlier")
    assert (quoted.holds, quoted.detail) == (None, "open: 1 of 6 measured")


def test_an_unfinished_seed_leaves_its_claims_open(tmp_path):
    table = filled(tmp_path, seeds=2)
    assert claim(table, LARGE).holds is True
    store = Store(tmp_path)
    lost = next(c for c in table.plan.cells if c.cell.row.labels["method"] == "GIM")
    store.discard(lost.specs[1].id)
    assert claim(fill_table(table.plan, store), LARGE).detail == "open: 3 of 4 measured"


def test_cells_of_two_precisions_are_not_compared(tmp_path):
    def half(spec: RunSpec) -> dict:
        return {"tags": {"pretrain_precision": "bfloat16" if spec.rule == "gim" else "float32"}}

    table = filled(tmp_path, change=half, scale="small")
    made = claim(table, LARGE)
    assert made.holds is None
    assert made.detail == (
        "open: cells not comparable with one another (precision float32 and bfloat16)"
    )
    assert "precision" not in claim(table, CLOSE).detail, "SimCLR and LoCo are of one"


def test_cells_on_other_data_are_not_compared(tmp_path):
    def other(spec: RunSpec) -> dict:
        return {"data": {"checksum": "f" * 64 if spec.rule == "gim" else "e" * 64}}

    made = claim(filled(tmp_path, change=other, scale="small"), LARGE)
    assert made.holds is None and "not comparable with one another (data" in made.detail


def test_a_run_is_not_compared_with_itself_and_has_no_variance(tmp_path):
    """At small both budgets of Table 3 are the same run, and there is one choice of the images."""
    precision = {name: {"last": 20.0} for name in ("ap_box", "ap_mask")}
    table = filled(
        tmp_path, table="loco/table3", scale="small", change=lambda spec: {"metrics": precision}
    )
    assert claim(table, "800 epochs").detail.startswith(
        "open: the same runs fill SimCLR epochs=800"
    )
    assert claim(table, "Over the five").detail == "open: 32 of 32 are one run, without a variance"


def test_at_paper_what_is_not_comparable_with_print_is_no_ground_for_a_claim(tmp_path):
    table = filled(tmp_path, overrides={"training.batch": 64})
    assert claim(table, LARGE).detail == (
        "open: 4 of 4 not comparable with print (training.batch 64)"
    )
    small = filled(tmp_path, overrides={"training.batch": 64}, scale="small")
    assert claim(small, LARGE).holds is True, "all alike, and nothing is compared with print"


def test_one_run_has_the_error_of_the_test_sample_and_seeds_their_own(tmp_path):
    images = 50_000
    one = claim(filled(tmp_path), LARGE)
    sample = math.sqrt((70 * 30 + 60 * 40) / images)
    assert one.detail.endswith(f"+10.00 ± {sample:.2f}")

    def spread(spec: RunSpec) -> float:
        return TOP1.get(spec.rule, 20.0) + (spec.seed % 2)  # 0 and 1: a deviation of sqrt(1/2)

    two = claim(filled(tmp_path / "two", spread, seeds=2), LARGE)
    assert two.detail.endswith(f"+10.00 ± {math.sqrt(2 * 0.5 / 2):.2f}")


def test_a_difference_within_its_uncertainty_decides_nothing(tmp_path):
    def score(spec: RunSpec) -> float:
        return 70.2 if spec.rule == "loco" else TOP1.get(spec.rule, 20.0)

    better = claim(filled(tmp_path, score), "LoCo is even slightly better than SimCLR")
    assert better.holds is None and "too close to call in 2 of 2" in better.detail
    assert "+0.20 ± 0.29" in better.detail and "section 5.1, contradicted by print" in better.note
    assert claim(filled(tmp_path, score), CLOSE).holds is True


def test_a_measured_size_without_any_spread_decides_nothing(tmp_path):
    table = filled(tmp_path)
    column = replace(table.cells[5].column, unit="GB")
    cells = [
        replace(c, planned=replace(c.planned, cell=replace(c.cell, column=column)))
        for c in table.cells
    ]

    made = {c.text: c for c in claims_measured(table.plan.table, cells, "paper")}[LARGE]
    assert made.holds is None and "no spread of one run" in made.detail


def test_print_is_exact_and_a_claim_that_is_no_sentence_of_the_paper_is_ours():
    made = {claim.text: claim for claim in claims_in_print(load_table("loco/table7"))}
    ours = next(claim for claim in made.values() if claim.source == "ours")
    assert ours.text.startswith("Stages of equal cost save more memory")
    behind = made["On PResNet-50 GIM is about 14 points behind SimCLR"]
    assert behind.note == "section 5.6, margin ours; PResNet-50 GIM -14.2 (minus SimCLR)"
