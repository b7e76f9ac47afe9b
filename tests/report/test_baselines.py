"""Margins over the baselines, against numbers worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import fabricate
import pytest

from locbench.published.load import load_table
from locbench.report import baselines
from locbench.report.baselines import Margin, margin_lines
from locbench.report.filled import fill_table
from locbench.runs.plan import Options, Plan, make_plan
from locbench.runs.spec import RunSpec
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
    def score(spec: RunSpec) -> float:
        # Another probe's accuracies must not be mixed in.
        return 99.0 if spec.recipe.probe.profile == "moco" else TOP1[spec.rule, spec.network]

    probes = [s for s in plan.runs() if s.kind != "pretrain" and (s.rule, s.network) in TOP1]
    fabricate.fill(probes, store, score)


def margins(plan: Plan, store: Store) -> list[Margin]:
    return baselines.margins(fill_table(plan, store).cells)


def error(*shares: float) -> float:
    images = make_plan(load_table("loco/table1"), Options()).runs()[0].data["test"]
    return 100 * math.sqrt(sum(p * (1 - p) for p in shares) / images)


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
    assert untrained.startswith("Trained above untrained? In points, mean over 2 networks")
    assert untrained.endswith("✓ SimCLR +20.0 ± 0.7")
    assert "Trained above pixels" in pixels


def test_a_mean_over_several_forms_of_a_method_says_so(tmp_path: Path) -> None:
    plan, store = make_plan(load_table("loco/table5"), Options()), Store(tmp_path)
    for k, planned in enumerate(plan.cells):
        fabricate.fill(planned.specs, store, lambda spec, k=k: 20.0 + k)
    untrained, pixels = margin_lines(margins(plan, store))
    assert "✗ gim -8.0 ±" in untrained and "✗ loco (mean of 7 forms) -4.0 ±" in untrained
    assert "✗ loco (mean of 7 forms) -5.0 ±" in pixels


def test_within_two_standard_errors_nothing_is_said() -> None:
    def above(points: float) -> bool | None:
        return Margin("LoCo", "pixels", 1, 1, 1, 1, points=points, error=1.0).holds

    assert [above(points) for points in (2.1, 1.9, -1.9, -2.1)] == [True, None, None, False]


def test_classifiers_are_compared_with_the_pixels_of_their_data(tmp_path: Path) -> None:
    plan = make_plan(load_table("auglocal/table1"), Options(rows="resnet-32 bp", columns="all"))
    store = Store(tmp_path)
    fabricate.fill(plan.runs(), store, lambda spec: 20.0 if spec.rule == "pixels" else 50.0)
    (bp,) = margins(plan, store)
    assert (bp.method, bp.baseline, bp.points) == ("BP", "pixels", 30.0)
    pixels = [cell for cell in plan.cells if cell.baseline]
    sides = {spec.recipe.data.resolution for cell in plan.cells for spec in cell.specs}
    assert len(pixels) == len({cell.specs[0].id for cell in pixels}) >= len(sides)


def test_a_diverged_probe_is_left_out(tmp_path: Path) -> None:
    plan, store = make_plan(load_table("loco/table1"), Options()), Store(tmp_path)
    fill(plan, store)
    lost = next(s for s in plan.runs() if s.kind == "probe" and s.rule == "gim")
    store.save(fabricate.record(lost, status="diverged"))
    assert "GIM" not in {m.method for m in margins(plan, store)}
