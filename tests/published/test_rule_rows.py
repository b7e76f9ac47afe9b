"""Rows added to a table: which, what fills them, and where every format shows them."""

import csv
import dataclasses
import io
import json

import pytest
from fabricate import call, complaint, fill, record, top1

import locbench
from locbench.errors import UserError
from locbench.paths import runs_dir
from locbench.plugins.registry import RULES
from locbench.published.load import load_table, table_names
from locbench.report.formats import render
from locbench.runs.plan import Options, make_plan
from locbench.runs.store import Store

VIEWS = "def mine(network, *, temperature=0.5): 1\n"
LABEL = f'LEARNS = "label"\n{VIEWS}'


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    monkeypatch.setattr(RULES, "entries", dict(RULES.entries))


@pytest.fixture
def store():
    return Store(runs_dir())


@pytest.fixture
def views(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(VIEWS)
    return str(path)


@pytest.fixture
def label(tmp_path):
    path = tmp_path / "lab.py"
    path.write_text(LABEL)
    return str(path)


def plan_of(table, *rules, **options):
    return make_plan(load_table(table), Options(rules=rules, **options))


def added(plan):
    return [planned for planned in plan.cells if planned.cell.row.added]


def rows(plan):
    return {row.index: row.labels for row in plan.table.rows if row.added}


def test_table1_has_a_row_for_each_network_under_the_same_recipe(views):
    plan = plan_of("loco/table1", views)
    shared = {"method": "mine", "epochs": 800}
    assert rows(plan) == {
        11: {**shared, "network": "ResNet-50"},
        12: {**shared, "network": "ShuffleNet v2-50"},
    }, "`local` is of the rule: the rows of a network do not share it"
    order = [row.labels["method"] for row in plan.table.rows]
    assert order[-8:] == [*("SimCLR", "GIM", "LoCo", "mine") * 2]
    assert len(added(plan)) == 4, "with both probes"
    theirs = {
        (p.specs[0].network, p.cell.column.key): p.specs[0]
        for p in plan.cells
        if p.cell.row.labels["method"] == "SimCLR" and not p.baseline
    }
    for planned in added(plan):
        (mine,) = planned.specs
        other = theirs[mine.network, planned.cell.column.key]
        assert mine.rule == mine.parent.rule == "mine" and mine.data == other.data
        assert mine.recipe == dataclasses.replace(other.recipe, rule={})
        assert planned.mismatches == () and planned.cell.published is None
        assert mine.parent.identity["rule"]["version"] == RULES.entry("mine").version


def test_nothing_else_of_a_table_changes(views):
    plain, more = plan_of("loco/table1", seeds=2), plan_of("loco/table1", views, seeds=2)
    ids = [spec.id for spec in plain.runs()]
    assert [spec.id for spec in more.runs() if spec.id in ids] == ids
    assert {s.rule for s in more.runs() if s.id not in ids} == {"mine"}
    assert more.table.claims == plain.table.claims
    assert [c.cell.key for c in plain.cells if not c.baseline] == [
        c.cell.key for c in more.cells if not (c.baseline or c.cell.row.added)
    ]


def test_labels_and_depths_of_other_rules_are_left_out(label):
    plan = plan_of("auglocal/table1", label, columns="all")
    assert list(rows(plan).values()) == [
        {"network": "ResNet-32", "method": "lab"},
        {"network": "ResNet-110", "method": "lab"},
    ]
    recipes = {p.cell.column.key: p.specs[0].recipe.name for p in added(plan)}
    sets = ("cifar10", "svhn", "stl10")
    assert recipes == {f"{key}{end}": f"auglocal/{key}" for key in sets for end in ("", "_best")}
    assert {p.specs[0].kind for p in added(plan)} == {"train"}
    assert all(p.specs[0].recipe.rule == {} for p in added(plan))


def test_recipes_of_single_rows_and_detectors_are_kept(label, views):
    found = {
        p.cell.row.labels["network"]: p.specs[0].recipe
        for p in added(plan_of("auglocal/table3", label, rows="all"))
    }
    assert found["ResNet-101"].training.batch == found["ResNet-34"].training.batch  # at smoke
    asked = {p.cell.row.labels["network"]: p.cell.fill["set"] for p in added(
        plan_of("auglocal/table3", label, rows="lab vgg")
    )}  # fmt: skip
    assert asked == {"VGG13": {"optimizer.lr": 0.1, "training.batch": 256, "schedule.epochs": 90}}
    plan = plan_of("loco/table2", views, label)
    kinds = {(p.cell.row.labels["method"], p.specs[0].recipe.name) for p in added(plan)}
    assert kinds == {("mine", "loco/imagenet"), ("lab", "loco/supervised")}
    assert {p.specs[0].kind for p in added(plan)} == {"detect"}
    assert all("weights" not in p.cell.fill for p in added(plan))


def test_operations_of_an_added_rule_are_counted_where_the_table_counts(label):
    plan = plan_of("auglocal/table7", label, columns="all")
    found = {p.cell.column.key: p.specs[0].kind for p in added(plan)}
    counted = {"flops": "count", "flops_plain": "count", "saved": "trace", "saving": "trace"}
    measured = {"memory_here": "measure", "overhead_here": "measure"}
    assert found == {**counted, **measured, "accuracy": "train", "accuracy_best": "train"}


@pytest.mark.parametrize("table", ["auglocal/table1", "auglocal/table3", "auglocal/table12"])
def test_a_rule_that_learns_otherwise_is_refused(capsys, views, table):
    line = complaint(capsys, "reproduce", table, "--rule", views)
    assert "rule 'mine' learns from two views" in line and "give one view and its label" in line


def test_every_table_gives_rows_or_says_in_one_line_why_not(views, label):
    taken, refused = set(), set()
    for name in table_names():
        for rule in (views, label):
            try:
                plan = plan_of(name, rule, rows="all", columns="all")
            except UserError as error:
                assert name in str(error) and "\n" not in str(error)
                refused.add(name)
            else:
                assert added(plan) and all(p.specs for p in added(plan))
                taken.add(name)
    assert {"loco/table1", "loco/table2", "loco/table3", "auglocal/table1"} <= taken
    assert {
        "auglocal/table5",
        "auglocal/table9",
        "auglocal/table13",
        "loco/table6",
    } <= refused - taken


def test_rules_of_locbench_stand_where_they_did_not():
    plan = plan_of("auglocal/table3", "dgl", rows="all")
    assert [row["network"] for row in rows(plan).values()] == ["ResNet-34", "ResNet-101"]
    with pytest.raises(UserError, match="has rule 'gim' in all rows"):
        plan_of("loco/table1", "gim")


def test_rows_of_it_alone_need_its_runs_and_the_baselines(views):
    plan = plan_of("loco/table1", views, rows="mine", columns="linear_top1")
    kinds = [(spec.kind, spec.rule) for spec in plan.runs()]
    networks = 2 * [("pretrain", "mine"), ("probe", "mine")]
    assert kinds == [*networks, *2 * [("probe", "untrained")], ("pixels", "pixels")]
    assert not [p for p in plan.cells if p.baseline and p.cell.row.added]


# --- what is shown ---------------------------------------------------------------------------


def filled(store, *rules, **options):
    plan = plan_of("loco/table1", *rules, **options)
    fill(plan.runs(), store, lambda spec: 39.5 if spec.rule == "mine" else top1(spec))
    return plan


def test_every_format_has_its_rows_among_the_papers(store, views):
    plan = filled(store, views)
    version = RULES.entry("mine").version[:19]
    for format, number, note in (
        ("rich", "39.5 (1)", f"Rule mine (of mine.py, {version}): not in the paper."),
        ("md", "| 39.5 (1) |", rf"Rule mine (of mine.py, {version}): not in the paper."),
        ("latex", "39.5 (1)", f"Rule mine (of mine.py, {version}): not in the paper."),
    ):
        text = render(plan, store, format)
        main, beside = text.split("loco/table1/beside" if format != "latex" else "table1-beside")
        assert main.count(number) == 2 and main.count("unpublished") == 2, format
        assert note in " ".join(main.split()) and beside.count(number) == 2
        assert max(map(len, text.splitlines())) <= 100 or format != "rich"
    lines = list(csv.DictReader(io.StringIO(render(plan, store, "csv"))))
    whole = json.loads(render(plan, store, "json"))
    for found in (lines, whole["cells"]):
        mine = [x for x in found if x["method"] == "mine" and x["column_key"] == "linear_top1"]
        assert [x["network"] for x in mine] == ["ResNet-50", "ShuffleNet v2-50"]
        assert {float(x["measured"]) for x in mine} == {39.5}
        assert {x["verdict"] for x in mine} == {"unpublished"}
        assert not any(x["published"] for x in mine)
    assert [note for note in whole["footnotes"] if "mine.py" in note]


def test_claims_and_margins(store, views):
    plain = render(filled(store), store, "json")
    more = render(filled(store, views), store, "json")
    assert json.loads(more)["claims"] == json.loads(plain)["claims"]
    text = " ".join(render(filled(store, views), store, "md").split())
    assert "Trained above untrained" in text and "✓ mine +15.4" in text


def test_what_did_not_end_is_said(store, views):
    plan = plan_of("loco/table1", views, rows="mine resnet-50", columns="linear_top1")
    frame = locbench.table("loco/table1", rules=views, rows="mine", columns="linear_top1")
    assert list(frame[frame.method == "mine"].verdict) == ["not run"] * 2
    pretraining = next(spec for spec in plan.runs() if spec.kind == "pretrain")
    store.save(record(pretraining, status="diverged", error="the loss was not finite"))
    frame = locbench.table("loco/table1", rules=[views], rows="mine", columns="linear_top1")
    assert list(frame[frame.method == "mine"].verdict) == ["diverged", "not run"]


def test_settings_are_of_one_rule_or_of_all(capsys, views):
    setting = "rules.mine.temperature=0.25"
    plan = plan_of("loco/table1", views, overrides={"rules.mine.temperature": 0.25})
    found = {s.rule: s.recipe.rule for s in plan.runs() if s.kind == "pretrain"}
    assert found["mine"] == {"temperature": 0.25} and found["gim"] == {"temperature": 0.2}
    assert all(planned.mismatches == () for planned in plan.cells if planned.cell.published)
    for wrong, wanted in (
        (setting.replace("mine", "min"), "did you mean 'mine'"),
        (setting.replace("temperature", "temp"), "did you mean 'temperature'"),
        ("rules.mine=1", "unknown key"),
    ):
        line = complaint(capsys, "reproduce", "table1", "--rule", views, "--set", wrong)
        assert wanted in line


def test_a_dry_run_shows_its_runs(capsys, views):
    arguments = ["reproduce", "table1", "--rule", views, "--rows", "mine", "--dry-run"]
    code, out, err = call(capsys, *arguments)
    assert (code, err) == (0, "")
    assert "pretrain mine resnet50" in out and "probe (moco) mine shufflenet_v2_50" in out


def test_a_metric_of_a_label_that_a_new_row_has_not_is_no_cell_of_it():
    plan = make_plan(load_table("loco/table6"), Options())
    [column, *_] = plan.table.columns
    assert "{stage}" in column.metric and column.names() == {"stage"}
    row = dataclasses.replace(plan.table.rows[0], labels={}, published={}, added=True)
    table = dataclasses.replace(plan.table, rows=(row,), claims=())
    assert all("{stage}" not in cell.column.metric for cell in table.cells())
