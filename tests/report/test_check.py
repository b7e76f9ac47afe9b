"""The regression check: every kind of change is found and named, and nothing else is."""

import dataclasses
import json
import re

import pytest
from fabricate import call, complaint, fill, record

from locbench.cli import check as command
from locbench.errors import UserError
from locbench.paths import results_dir, runs_dir
from locbench.published.load import load_table, readable_tables
from locbench.recipes.identity import identity_hash
from locbench.report import check
from locbench.report.check import (
    Tolerance,
    any_precision,
    compare,
    load_tolerances,
    run_name,
    successors,
)
from locbench.runs import estimate
from locbench.runs.plan import Options, make_plan
from locbench.runs.store import Store

WHY = 'why = "x"\n'
TABLES = [load_table(name) for name in ("loco/table1", "auglocal/table2")]
PLAN = make_plan(TABLES[0], Options())
RUNS = {spec.id: spec for spec in PLAN.runs()}
IDS = list(RUNS)


def find(beginning):
    return next(id for id in IDS if id.startswith(beginning))


LOCO, PROBE = find("pretrain-loco-resnet50"), find("probe-loco-resnet50-loco")


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A results folder of its own, with the real tolerances."""
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "tolerances.toml").write_text((results_dir() / "tolerances.toml").read_text())
    for module in (check, estimate, command):
        monkeypatch.setattr(module, "results_dir", lambda: folder)
    monkeypatch.setattr(command, "environment", lambda: {"git_commit": None})
    # Without names all tables are planned, which takes a second: two do here.
    monkeypatch.setattr(command, "readable_tables", lambda: iter(TABLES))
    return folder


@pytest.fixture
def here():
    """Fresh records of all smoke runs."""
    store = Store(runs_dir())
    fill(PLAN.runs(), store)
    return store


@pytest.fixture
def reference(results):
    """The same records as reference."""
    store = Store(results / "records")
    fill(PLAN.runs(), store)
    return store


def change(store, id, **values):
    """Another record of this run; `metrics` and `cost` are merged."""
    made = store.load(id)
    for key, value in values.items():
        old = getattr(made, key)
        setattr(made, key, {**old, **value} if isinstance(old, dict) else value)
    store.discard(id)
    store.save(made)


# --- tolerances ------------------------------------------------------------------------------


def test_the_committed_tolerances_are_read():
    tolerances = {tolerance.number: tolerance for tolerance in load_tolerances()}
    assert tolerances["top1"].absolute == 4.0 and tolerances["loss of *"].relative == 0.1
    assert not tolerances["accuracy of *"].compare
    for name in ("encoder_parameters", "encoder_multiply_adds", "activation_bytes"):
        exact = tolerances[name]
        assert (exact.absolute, exact.relative, exact.compare) == (0.0, 0.0, True)
    assert all(tolerance.why for tolerance in tolerances.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[top1]\nabsolut = 1\n" + WHY, "did you mean 'absolute'"),
        ("[top1]\nabsolute = -1\n" + WHY, "'absolute' must be a number >= 0.0, not -1"),
        ("[top1]\nabsolute = 1\n", "'why' is missing"),
        ("top1 = 4\n", "must be a table"),
    ],
)
def test_a_mistake_in_the_tolerances_is_named(tmp_path, text, message):
    path = tmp_path / "tolerances.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_tolerances(path)
    assert str(path) in str(caught.value)


def test_missing_tolerances_are_named(results, here, reference, capsys):
    (results / "tolerances.toml").unlink()
    assert "tolerances.toml" in complaint(capsys, "check", "--no-run")


def test_the_wider_of_two_tolerances_holds():
    tolerance = Tolerance("loss of *", "", 0.5, 0.1, 2.0)
    assert tolerance.allows(11.0, 10.0) and not tolerance.allows(11.1, 10.0)
    assert tolerance.allows(1.5, 1.0) and not tolerance.allows(1.6, 1.0)
    assert not tolerance.allows(None, 1.0) and not tolerance.allows(1.0, None)
    assert tolerance.allows(None, None)
    assert tolerance.covers("loss of stage 1") and not tolerance.covers("loss")
    exact = Tolerance("top1", "")
    assert exact.covers("top1") and not exact.covers("top10") and exact.allows(3, 3)


def test_a_tolerance_may_be_of_one_kind_of_run():
    wide = Tolerance("probe: top1", "", 8.0)
    exact = Tolerance("top1", "")
    old, moved = (record(RUNS[PROBE]) for _ in range(2))
    moved.metrics["top1"]["last"] += 7.9
    for tolerances, ok in (([wide, exact], True), ([exact], False)):
        assert [f.ok for f in compare(old, moved, tolerances)] == [ok]
    moved.kind = old.kind = "train"
    assert [f.ok for f in compare(old, moved, [wide, exact])] == [False]


# --- which run is compared with which --------------------------------------------------------


def test_a_run_is_compared_with_itself_else_with_the_one_like_it():
    assert run_name("pretrain-loco-resnet50-smoke-s1-abc") == "pretrain-loco-resnet50-smoke-s1"

    def pairs(references, runs):
        """Ids that share a hash over precisions end in the same letter."""
        return successors({id: id[-1] for id in references}, {id: id[-1] for id in runs})

    assert pairs(["a-1x", "b-1y"], ["b-1y", "a-1x"]) == {"a-1x": "a-1x", "b-1y": "b-1y"}
    assert pairs(["a-1x", "a-2y"], ["a-3y", "a-4x"]) == {"a-1x": "a-4x", "a-2y": "a-3y"}
    assert pairs(["a-1x"], ["a-2y"]) == {"a-1x": "a-2y"}, "a changed recipe, by its name"
    assert pairs(["a-1x", "a-2y"], ["a-2y", "a-3z"]) == {"a-2y": "a-2y", "a-1x": "a-3z"}
    assert pairs(["a-1x", "a-2y"], ["a-3z", "a-4w"]) == {}, "which is which cannot be told"


def test_records_in_another_precision_are_paired_with_todays_runs(reference):
    by_id = {record.id: record for record in reference.all()}
    hashes = any_precision(list(by_id.values()))
    assert hashes == {spec.id: spec.any_precision for spec in PLAN.runs()}
    other = by_id[LOCO].identity | {"precision": "bf16"}
    pretrained = dataclasses.replace(by_id[LOCO], id="other", identity=other)
    encoder = {"run": identity_hash(other)}
    probe = dataclasses.replace(
        by_id[PROBE], identity=by_id[PROBE].identity | {"encoder": encoder}, parent="other"
    )
    assert any_precision([pretrained, probe]) == {"other": hashes[LOCO], PROBE: hashes[PROBE]}


# --- check -----------------------------------------------------------------------------------


def test_the_same_records_pass(here, reference, capsys, monkeypatch):
    monkeypatch.setattr(command, "readable_tables", readable_tables)
    code, out, err = call(capsys, "check", "--no-run")
    assert code == 0 and err == "" and "0 moved" in out
    assert f"numbers of {len(IDS)} runs compared" in out
    code, out, _ = call(capsys, "check", "--no-run", "--json")
    findings = json.loads(out)
    assert code == 0 and all(finding["ok"] for finding in findings)
    compared = {finding["number"] for finding in findings}
    assert {"top1", "loss of stage 1", "encoder_parameters", "activation_bytes"} <= compared
    assert "auxiliary_parameters of stages 1-2" in compared
    assert not {"wall_time_s", "accuracy of stage 1", "steps"} & compared


BF16 = {"precision": "bfloat16"}
AFTER_BF16 = {"pretrain_precision": "bfloat16"}


def moved(id, **changes):
    """What `compare` finds of a run with other figures: the lines that the command prints."""
    changed = record(RUNS[id])
    for key, value in changes.items():
        old = getattr(changed, key)
        setattr(changed, key, {**old, **value} if isinstance(old, dict) else value)
    findings = compare(record(RUNS[id]), changed, load_tolerances())
    assert all(finding.run == run_name(id) for finding in findings)
    return [f"{f.number} {command._moved(f)}" for f in findings if not f.ok]


def metric(name, value):
    return {"metrics": {name: {"last": value}}}


MOVES = [
    (PROBE, metric("top1", 36.7), "top1 40.75 -> 36.7"),
    (PROBE, metric("top1", 44.8), "top1 40.75 -> 44.8"),
    (PROBE, metric("top1", 33.7) | {"tags": AFTER_BF16}, "top1 40.75 -> 33.7"),
    (LOCO, metric("loss of stages 2-3", 5.0), "loss of stages 2-3 4.5 -> 5"),
    (LOCO, metric("loss of stages 2-3", None), "loss of stages 2-3 4.5 -> nothing"),
    (LOCO, {"cost": {"encoder_parameters": 90_001}}, "encoder_parameters 90,000 -> 90,001"),
    (
        LOCO,
        {"cost": {"encoder_multiply_adds": 11_999_999}},
        "encoder_multiply_adds 12,000,000 -> 11,999,999",
    ),
    (LOCO, {"cost": {"activation_bytes": 1}}, "activation_bytes 50,000,000 -> 1"),
    (LOCO, {"status": "diverged", "error": "at step 3"}, "status diverged: at step 3"),
    (LOCO, {"status": "failed", "error": "disk"}, "status failed: disk"),
    (PROBE, {"status": "running"}, "status is running"),
    (LOCO, {"units": []}, "auxiliary_parameters of stages 1-2 3,000 -> nothing"),
]


@pytest.mark.parametrize(("id", "changes", "line"), MOVES)
def test_what_moved_is_named(id, changes, line):
    assert moved(id, **changes)[0] == line


STAYS = [
    (PROBE, {"metrics": {"top1": {"last": 36.8, "best": 50.0}}}),
    (LOCO, metric("loss of stages 1-2", 4.1)),
    (LOCO, metric("accuracy of stages 1-2", 0.9)),
    (LOCO, {"cost": {"wall_time_s": 9000.0, "images_per_s": 1.0}}),
    (PROBE, metric("top1", 33.8) | {"tags": AFTER_BF16}),
    (LOCO, metric("loss of stages 1-2", 3.9) | {"tags": BF16}),
    (LOCO, {"cost": {"activation_bytes": 1}, "tags": BF16}),
    (LOCO, {"cost": {"activation_bytes": 1}, "tags": {"processes": 2}}),
]


@pytest.mark.parametrize(("id", "changes"), STAYS)
def test_what_may_move_is_no_finding(id, changes):
    assert moved(id, **changes) == []


def test_what_moved_is_printed_and_exit_code_1(here, reference, capsys):
    change(here, PROBE, **metric("top1", 36.7))
    change(here, LOCO, tags=BF16)
    code, out, err = call(capsys, "check", "--no-run")
    assert code == 1 and err == f"locbench: 1 moved: {run_name(PROBE)}: top1 40.75 -> 36.7\n"
    assert "moved" in out and "skipped: precision bfloat16, not float32" in " ".join(out.split())
    code, out, _ = call(capsys, "check", "--no-run", "--json")
    assert code == 1 and [f["run"] for f in json.loads(out) if not f["ok"]] == [run_name(PROBE)]


def test_a_reference_that_no_table_asks_for_and_a_run_that_was_not_run(here, reference, capsys):
    old = dataclasses.replace(record(RUNS[LOCO]), id="pretrain-old-resnet50-smoke-s1-0123456789")
    here.discard(PROBE)
    code, out, _ = call(capsys, "check", "--no-run")
    assert code == 0 and f"1 missing (was never made here): {run_name(PROBE)}" in out
    reference.save(old)
    code, _, err = call(capsys, "check", "--no-run", "--complete")
    assert code == 1 and f"{run_name(PROBE)}: status was never made here" in err
    assert "pretrain-old-resnet50-smoke-s1: status no table asks for" in err


def test_exact_is_every_number_to_the_last_bit(here, reference, capsys):
    change(here, LOCO, cost={"wall_time_s": 1.0, "images_per_s": 9.0})
    code, out, _ = call(capsys, "check", "--no-run", "--exact")
    assert code == 0 and "0 moved" in out
    change(here, LOCO, metrics={"accuracy of stages 1-2": {"last": 0.3 + 1e-15}})
    code, _, err = call(capsys, "check", "--no-run", "--exact")
    assert code == 1 and "metrics.accuracy of stages 1-2.last" in err
    assert call(capsys, "check", "--no-run", "--exact", "--against", here.root)[0] == 0


def test_a_changed_recipe_is_compared_in_its_place_and_marked(here, reference, capsys):
    old = reference.load(LOCO)
    reference.discard(LOCO)
    reference.save(dataclasses.replace(old, id=f"{run_name(LOCO)}-0123456789"))
    code, out, _ = call(capsys, "check", "--no-run")
    assert code == 0 and "a version changed since" in " ".join(out.split())
    change(here, LOCO, cost={"encoder_parameters": 1})
    assert call(capsys, "check", "--no-run")[0] == 1


def test_a_new_run_is_told_and_fails_only_if_it_did(here, reference, capsys):
    reference.discard(LOCO)
    code, out, _ = call(capsys, "check", "--no-run")
    assert code == 0 and "1 missing (no reference yet" in out
    assert call(capsys, "check", "--no-run", "--complete")[0] == 1
    change(here, LOCO, status="diverged", error="at once")
    assert call(capsys, "check", "--no-run")[0] == 1


def test_without_any_reference_nothing_is_checked(here, results, capsys):
    assert "no reference records" in complaint(capsys, "check", "--no-run")


def test_records_of_other_commits_are_told(here, reference, capsys, monkeypatch):
    monkeypatch.setattr(command, "environment", lambda: {"git_commit": "abc"})
    assert f"{len(IDS)} of {len(IDS)} runs are of another commit" in call(
        capsys, "check", "--no-run"
    )[2]  # fmt: skip


# --- running and accepting -------------------------------------------------------------------


@pytest.fixture
def ran(monkeypatch):
    """The ids of runs that were carried out, each in no time."""
    carried_out = []

    def execute(spec, context):
        if (finished := context.store.finished(spec.id)) is not None:
            return finished
        carried_out.append(spec.id)
        made = record(spec)
        context.store.save(made)
        return made

    monkeypatch.setattr("locbench.runs.executor.execute", execute)
    return carried_out


def test_check_trains_what_is_missing_and_afresh_everything(here, reference, capsys, ran):
    for id in (LOCO, PROBE):
        here.discard(id)
    code, out, err = call(capsys, "check")
    assert code == 0 and ran == [LOCO, PROBE] and "2 to go" in err and "0 moved" in out
    ran.clear()
    assert call(capsys, "check", "--fresh")[0] == 0
    assert ran == IDS and len(list((here.root / "set-aside").iterdir())) == len(IDS)


def test_update_makes_the_records_the_reference_and_renders_the_tables(here, results, capsys):
    store = check.reference_store()
    small = make_plan(load_table("loco/table1"), Options("small", assume_data=True)).runs()[0]
    gone = dataclasses.replace(
        here.load(LOCO), id="pretrain-old-x-smoke-s1-0123456789", identity={"kind": "old"}
    )
    for old in (record(small), gone):
        store.save(old)
    code, out, _ = call(capsys, "check", "loco/table1", "--no-run", "--update")
    assert code == 0 and f"{len(IDS)} records are the reference now" in out
    assert store.ids() == sorted([*IDS, small.id, gone.id]), "only the table's were exchanged"
    assert call(capsys, "check", "--no-run", "--update")[0] == 0
    assert store.ids() == sorted([*IDS, small.id]), "those of other scales stay"
    assert all(store.load(id) == here.load(id) for id in IDS)
    table = (results / "tables" / "loco" / "table1.md").read_text()
    assert "40.8 (1)" in table and "say nothing about the paper" in table
    assert call(capsys, "check", "--no-run")[0] == 0

    change(here, PROBE, metrics={"top1": {"last": 10.0}})
    assert call(capsys, "check", "--no-run")[0] == 1
    assert call(capsys, "check", "--no-run", "--update")[0] == 0
    assert store.load(PROBE).metrics["top1"]["last"] == 10.0
    assert call(capsys, "check", "--no-run")[0] == 0


def test_a_table_without_a_reference_is_checked_once_it_is_named(here, reference, capsys, ran):
    other = make_plan(load_table("auglocal/table2"), Options())
    assert call(capsys, "check", "--no-run")[0] == 0, "its runs are not asked for"
    code, _, _ = call(capsys, "check", "auglocal/table2", "--update")
    assert code == 0 and ran == [spec.id for spec in other.runs()]
    assert check.reference_store().ids() == sorted([*IDS, *ran]), "LoCo's are as they were"
    here.discard(ran[0])
    assert run_name(ran[0]) in call(capsys, "check", "--no-run")[1], "from now on it is"
    assert call(capsys, "check", "loco/table1", "--no-run")[0] == 0


@pytest.mark.full
def test_tables_that_share_runs_and_names_keep_their_references(
    here, reference, capsys, ran, monkeypatch
):
    """Selections of Table 5 differ from AugLocal's runs of Table 1 in their settings alone."""
    both = ("auglocal/table1", "auglocal/table5")
    monkeypatch.setattr(command, "readable_tables", readable_tables)
    assert call(capsys, "check", *both, "--update")[0] == 0
    ids = check.reference_store().ids()
    assert len(ids) == len(IDS) + 18 + 8
    for name in both:
        assert call(capsys, "check", name, "--no-run")[0] == 0
        assert call(capsys, "check", name, "--no-run", "--update")[0] == 0
        assert check.reference_store().ids() == ids


def test_a_table_that_cannot_be_measured_is_refused(here, reference, capsys):
    line = complaint(capsys, "check", "auglocal/table6")
    assert "auglocal/table6: no cell of it can be measured here yet" in line


def test_update_refuses_what_is_not_whole(here, reference, capsys):
    before = {id: reference.path(id).read_bytes() for id in IDS}
    change(here, PROBE, status="running")
    assert "1 of 23 runs are not done" in complaint(capsys, "check", "--no-run", "--update")
    change(here, PROBE, status="diverged", error="x")
    assert "diverged: nothing was changed" in complaint(
        capsys, "check", "--no-run", "--update", code=3
    )
    assert {id: reference.path(id).read_bytes() for id in IDS} == before


# --- diff ------------------------------------------------------------------------------------


def test_diff_shows_both_and_the_difference(here, reference, capsys):
    change(here, PROBE, metrics={"top1": {"last": 42.0}})
    reference.discard(find("probe-gim-resnet50-loco"))
    here.discard(find("probe-simclr-resnet50-loco"))
    code, out, err = call(capsys, "diff", "table1", "--json")
    assert code == 0 and err == ""
    lines = {line["run"]: line for line in json.loads(out)}
    assert lines[run_name(PROBE)] == {
        "run": run_name(PROBE), "metric": "top1", "here": 42.0, "reference": 40.75,
        "n": 1, "spread": None, "reference_n": 1, "reference_spread": None
    }  # fmt: skip
    assert lines[run_name(find("probe-gim-resnet50-loco"))]["reference"] is None
    assert lines[run_name(find("probe-simclr-resnet50-loco"))]["here"] is None
    assert len(lines) == 17, "every probe and the pixels"

    out = call(capsys, "diff", "table1")[1]
    assert "+1.25" in out and out.count(" -") >= 2 and "±" not in out
    assert "nothing here can fill" in call(capsys, "diff", "auglocal/table6")[1]


def test_diff_of_several_seeds_is_one_line_a_cell(here, reference, capsys):
    fill(make_plan(load_table("loco/table1"), Options(seeds=3)).runs(), here)
    code, out, _ = call(capsys, "diff", "table1", "--seeds", "3", "--json")
    lines = {line["run"]: line for line in json.loads(out)}
    assert code == 0 and len(lines) == 17
    assert lines[run_name(PROBE)] == {
        "run": run_name(PROBE), "metric": "top1", "here": 41.0, "reference": 40.75,
        "n": 3, "spread": 0.25, "reference_n": 1, "reference_spread": None
    }  # fmt: skip
    pixels = lines[run_name(find("pixels"))]
    assert (pixels["n"], pixels["spread"]) == (1, None)
    _, out, _ = call(capsys, "diff", "table1", "--seeds", "3")
    [line] = [line for line in out.splitlines() if line.startswith(run_name(PROBE))]
    assert re.split(" {2,}", line.strip())[1:] == ["top1", "41.00 ± 0.25 (3)", "40.75 (1)", "+0.25"]
