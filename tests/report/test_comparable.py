"""What a cell is compared with print in: precision, classes, GPUs, settings that no paper says."""

from __future__ import annotations

import pytest

from locbench.published.load import load_table
from locbench.report.filled import FilledCell, fill_table
from locbench.report.layout import columns, sections
from locbench.runs.plan import Options, make_plan
from locbench.runs.record import Record
from locbench.runs.store import Store
from tests.fabricate import fill, record

BP = {"rows": "resnet-32 bp", "columns": "cifar10"}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def plan_of(name: str = "auglocal/table1", scale: str = "paper", **options):
    return make_plan(load_table(name), Options(scale, assume_data=True, **options))


def cells(plan, store: Store) -> dict[str, FilledCell]:
    """The cells of the plan's one row, by column."""
    return {cell.column.key: cell for cell in fill_table(plan, store).cells}


def test_another_precision_is_shown_where_there_is_no_other_and_never_mixed_in(store):
    plan = plan_of(seeds=3, **BP)
    fp32 = plan.cells[0].specs
    bf16 = [spec.in_precision("bf16") for spec in fp32]
    assert {spec.recipe.training.precision for spec in fp32} == {"fp32"}
    fill(bf16, store, lambda spec: 93.73)
    cell = cells(plan, store)["cifar10"]
    assert cell.n == 3 and str(cell.verdict) == "not comparable (precision bfloat16)"
    store.save(record(fp32[0], lambda spec: 93.0))
    cell = cells(plan, store)["cifar10"]
    assert (cell.mean, cell.n, cell.verdict.name) == (93.0, 1, "inconclusive")


def test_a_precision_that_is_asked_for_is_said_once_and_filled_by_its_own_runs(store):
    plain, asked = plan_of(**BP), plan_of(overrides={"training.precision": "bf16"}, **BP)
    fill(plain.runs(), store)
    assert cells(asked, store)["cifar10"].verdict.name == "not run"
    fill(asked.runs(), store)
    assert str(cells(asked, store)["cifar10"].verdict) == "not comparable (precision bfloat16)"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_loco_names_no_precision(precision):
    plan = plan_of("loco/table1", overrides={"training.precision": precision})
    assert {(cell.mismatches, cell.precision) for cell in plan.cells} == {((), None)}


def test_stl10_has_the_100_classes_that_print_was_made_with():
    (cell, *_), (ten, *_) = (
        plan_of(rows="resnet-32 bp", columns="stl10", overrides=overrides).cells
        for overrides in ({}, {"data.classes": 10})
    )
    assert cell.specs[0].recipe.data.classes == 100 and cell.mismatches == ()
    assert ten.mismatches == ("data.classes 10",)


def test_what_no_paper_says_leaves_no_verdict():
    assert {c.mismatches for c in plan_of("loco/table3", rows="gim").cells if c.specs} == {
        ("learning rate unknown",)
    }


def test_the_best_epoch_stands_beside_the_last(store):
    plan = plan_of(**BP)
    fill(plan.runs(), store, lambda spec: 93.0)
    last, best = (cells(plan, store)[key] for key in ("cifar10", "cifar10_best"))
    assert (last.mean, last.beside) == (93.0, False)
    assert (best.mean, best.beside, str(best.verdict)) == (93.5, True, "")


def test_memory_that_print_sums_over_gpus_has_no_verdict_and_a_prediction_beside(store):
    plan = plan_of("auglocal/table4", rows="resnet-34 auglocal")
    figures = {"gpu_memory": 20.0, "gpu_memory_reduction": 51.0, "gpu_memory_reserved": 21.0}
    figures |= {"saved_gigabytes": 13.0, "process_gigabytes": 4.5, "process_reduction": 10.0}
    metrics = {
        name: {"last": value} for name, value in (figures | {"memory_reduction": 58}).items()
    }
    for spec in plan.runs():
        store.save(Record(spec.id, spec.kind, "done", "paper", 0, metrics=metrics))
    row = cells(plan, store)
    verdicts = {key: str(row[key].verdict) for key in ("memory", "reduction")}
    assert set(verdicts.values()) == {"not comparable (1 GPU, published over 8)"}
    assert (row["predicted"].mean, row["predicted_reduction"].mean) == (36.0, 10.0)
    assert row["predicted"].planned.specs[0].recipe.training.batch == 1024 // 8
    one_gpu = plan_of("auglocal/table4", rows="resnet-110").cells
    assert not any(cell.cell.column.each_gpu or cell.mismatches for cell in one_gpu)


def test_one_chosen_column_is_named(store):
    filled = fill_table(plan_of(rows="resnet-32 bp", columns="svhn"), store)
    shown = {column.head: column.cells for column in columns(sections(filled)[0])}
    assert shown["column"] == ["SVHN"]
