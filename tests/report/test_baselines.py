"""Margins over the baselines, against numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from locbench.published.load import load_table
from locbench.report import baselines
from locbench.report.baselines import Margin, margin_lines
from locbench.report.filled import fill_table
from locbench.runs.plan import Options, Plan, make_plan
from locbench.runs.record import Record
from locbench.runs.store import Store

TOP1 = {
    ("simclr", "resnet50"): 30.0,
    ("simclr", "shufflenet_v2_50"): 40.0,
    ("loco", "resnet50"): 36.0,
    ("untrained", "resnet50"): 20.0,
    ("untrained", "shufflenet_v2_50"): 10.0,
    ("pixels", ""): 12.0,
}


def fill(plan: Plan, store: Store) -> None:
    for spec in plan.runs():
        top1 = TOP1.get((spec.rule, spec.network))
        if spec.kind == "pretrain" or top1 is None:
            continue
        profile = spec.recipe.probe.profile
        if profile == "moco":
            top1 = 99.0  # another probe's accuracies must not be mixed in
        store.save(
            Record(
                id=spec.id,
                kind=spec.kind,
                status="done",
                scale=spec.scale,
                seed=spec.seed,
                network={"name": spec.network},
                data={"test_images": 4000},
                tags={"probe": profile},
                metrics={"top1": {"last": top1}},
            )
        )


def margins(plan: Plan, store: Store) -> list[Margin]:
    return baselines.margins(fill_table(plan, store).cells)


def error(*shares: float) -> float:
    return 100 * math.sqrt(sum(p * (1 - p) for p in shares) / 4000)


def test_margins_over_both_baselines(tmp_path: Path) -> None:
    plan, store = make_plan(load_table("loco/table1"), Options()), Store(tmp_path)
    assert margins(plan, store) == []
    fill(plan, store)
    by_name = {(m.method, m.baseline): m for m in margins(plan, store)}
    assert set(by_name) == {(m, b) for m in ("SimCLR", "LoCo") for b in ("untrained", "pixels")}
    simclr = by_name["SimCLR", "untrained"]
    assert simclr.networks == 2 and simclr.points == pytest.approx((10 + 30) / 2)
    assert simclr.error == pytest.approx(error(0.3, 0.4, 0.2, 0.1) / 2)
    over = by_name["SimCLR", "pixels"]
    assert over.points == pytest.approx(35 - 12)
    # Pixels were measured once: their error is not halved by being compared with twice.
    assert over.error == pytest.approx(math.hypot(error(0.3, 0.4) / 2, error(0.12)))
    loco = by_name["LoCo", "untrained"]
    assert (loco.networks, loco.points) == (1, pytest.approx(16.0))


def test_lines_name_baseline_and_networks(tmp_path: Path) -> None:
    plan, store = make_plan(load_table("loco/table1"), Options(rows="simclr")), Store(tmp_path)
    fill(plan, store)
    untrained, pixels = margin_lines(margins(plan, store))
    assert untrained.startswith("Above untrained, mean over 2 networks")
    assert untrained.endswith("SimCLR +20.0 ± 0.7")
    assert "Above pixels" in pixels


def test_a_mean_over_several_forms_of_a_method_says_so(tmp_path: Path) -> None:
    plan, store = make_plan(load_table("loco/table5"), Options()), Store(tmp_path)
    for k, planned in enumerate(plan.cells):
        (spec,) = planned.specs
        rule = {"settings": dict(spec.recipe.rule)}
        top1 = {"top1": {"last": 20.0 + k}}
        common = {"network": {"name": spec.network}, "data": {"test_images": 4000}}
        done = Record(spec.id, spec.kind, "done", spec.scale, spec.seed, rule=rule, **common)
        store.save(replace(done, metrics=top1))
    untrained, pixels = margin_lines(margins(plan, store))
    assert "gim -8.0 ±" in untrained and "loco (mean of 7 forms) -4.0 ±" in untrained
    assert "loco (mean of 7 forms) -5.0 ±" in pixels


def test_a_diverged_probe_is_left_out(tmp_path: Path) -> None:
    plan, store = make_plan(load_table("loco/table1"), Options()), Store(tmp_path)
    fill(plan, store)
    lost = next(s for s in plan.runs() if s.kind == "probe" and s.rule == "gim")
    record = Record(lost.id, lost.kind, "diverged", lost.scale, lost.seed)
    store.save(record)
    assert "GIM" not in {m.method for m in margins(plan, store)}
