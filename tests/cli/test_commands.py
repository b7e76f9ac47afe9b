"""What commands print for people and programs, between the arguments and the runs."""

import dataclasses
import io
import json
import re

import pytest
from fabricate import SETS, call, fill, image_folder, record

from locbench.cli import progress as console
from locbench.cli import single
from locbench.cli.actions import announce, print_plan, set_aside
from locbench.cli.progress import watching
from locbench.errors import UserError
from locbench.paths import runs_dir
from locbench.plugins.registry import NETWORKS
from locbench.published.load import load_table
from locbench.recipes.load import load_recipe
from locbench.report.filled import fill_table
from locbench.report.formats import render
from locbench.report.grid import terminal
from locbench.report.layout import sections
from locbench.runs.plan import Options, make_plan
from locbench.runs.spec import RunSpec
from locbench.runs.store import Store

WIDTH = 100


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", str(WIDTH))


@pytest.fixture
def store():
    return Store(runs_dir())


def filled(store, table="loco/table1", **options):
    plan = make_plan(load_table(table), Options(**options))
    fill(plan.runs(), store)
    return plan


def by_kind(plan, kind):
    return next(spec for spec in plan.runs() if spec.kind == kind)


# --- the table -------------------------------------------------------------------------------


def test_a_terminal_shows_the_paper_then_claims_then_what_is_ours(store):
    text = render(filled(store), store, "rich")
    lines = text.splitlines()
    assert max(map(len, lines)) <= WIDTH and "\x1b" not in text
    assert lines[0] == "loco/table1  ImageNet linear probe"
    main, rest = text.split("loco/table1/beside")
    body = main.split("────\n")[1].split("\n\n")[0].splitlines()
    firsts = [x.split()[0] for x in body if x[:1].strip() and not x.startswith(("Agg", "(", "pap"))]
    assert firsts == ["Local", "MoCo", "PIRL", "CPC", *["SimCLR"] * 2, "GIM", "LoCo",
                      "SimCLR", "GIM", "LoCo"]  # fmt: skip
    assert "40.8 (1)  69.5 -28.8 1 conv block" in main and "not comparable (scale smoke)" in main
    assert not {"✓ ", "✗ "} & {line[:2] for line in lines}, "claims are not judged at smoke"
    assert "MoCo's probe" in rest and "untrained" in rest and "logistic" in rest
    assert "paper " not in rest.split("Trained above")[0], "no published numbers"
    ends = " ".join(rest.split())
    assert "? Trained" not in ends and "Trained above untrained? In points" in ends
    assert ends.endswith("`locbench show loco/table1` (claims on printed numbers).")


def test_a_selection_may_leave_only_what_is_ours(store):
    plan = filled(store, columns="linear_top1_moco")
    text = render(plan, store, "rich")
    assert text.startswith("loco/table1/beside") and "say nothing about the paper" in text
    plan = filled(store, rows="pirl")
    assert "beside" not in render(plan, store, "rich")


def test_nothing_measured_yet_is_a_table_too(store):
    plan = make_plan(load_table("auglocal/table1"), Options())
    text = render(plan, store, "rich")
    assert "93.73 ± 0.04" in text and "not run" in text and "Trained above" not in text
    for format in ("md", "csv", "json", "latex"):
        assert render(plan, store, format)


def test_rows_beside_are_told_apart_by_all_labels_where_it_takes_them(store):
    plan = filled(store)
    assert sections(fill_table(plan, store))[1].labels == ["method", "network"]
    twice = dataclasses.replace(
        plan.table.rows[7], labels={**plan.table.rows[7].labels, "epochs": 9}
    )
    table = dataclasses.replace(plan.table, rows=(*plan.table.rows, twice))
    _, beside = sections(fill_table(make_plan(table, Options()), store))
    assert beside.labels == list(table.label_names)


# --- announcements ---------------------------------------------------------------------------


def test_what_will_be_run_is_announced_on_stderr_and_nothing_if_all_is_there(store, capsys):
    plan = make_plan(load_table("loco/table1"), Options())
    fill(plan.runs()[:5], store)
    store.save(record(plan.runs()[5], status="diverged", error="x"))
    store.save(record(plan.runs()[6], status="running"))
    announce(plan, store)
    printed = capsys.readouterr()
    line = " ".join(printed.err.split())
    assert printed.out == "" and line.startswith(
        "loco/table1 at scale smoke: 23 runs, 5 done, 1 diverged, 1 running, 17 to go: "
    )
    assert "(from runs on cpu)" in line and "to keep" in line
    fill(plan.runs(), store)
    announce(plan, store)
    assert capsys.readouterr().err == ""


def test_a_dry_run_lists_every_run_with_time_and_disk(store, capsys):
    plan = make_plan(load_table("loco/table1"), Options())
    fill(plan.runs(), store)
    print_plan(plan, store, fresh=True, as_json=False, out=terminal())
    out = capsys.readouterr().out
    assert "23 to go: about 23 min (from runs on cpu), about 2.6 MB to keep" in " ".join(
        out.split()
    )
    assert sum(x.endswith(" kB") for x in out.splitlines()) == 23
    assert re.search(r"^pretrain loco shufflenet_v2_50 +60 s +380 kB$", out, re.MULTILINE)
    assert max(map(len, out.splitlines())) <= WIDTH
    print_plan(plan, store, fresh=True, as_json=True, out=terminal())
    runs = json.loads(capsys.readouterr().out)
    assert [run["run"] for run in runs] == [spec.id for spec in plan.runs()]
    assert {run["seconds"] for run in runs} == {60.0} and not any(run["rough"] for run in runs)


# --- specs of single runs --------------------------------------------------------------------


@pytest.fixture
def pretrained(store):
    """A pretraining in the store that was made with other probe settings than the recipe's."""
    recipe = load_recipe("loco/imagenet", "smoke", {"probe.epochs": 20, "optimizer.lr": 0.125})
    data = by_kind(make_plan(load_table("loco/table1"), Options()), "pretrain").data
    spec = RunSpec("pretrain", recipe, "loco", "resnet50", 7, data)
    store.save(record(spec))
    return spec


def test_the_probe_of_a_run_has_the_runs_own_recipe_seed_and_data(store, pretrained):
    probe = single.plan_run_probe(pretrained.id[:14], store, {})
    assert probe.parent.id == pretrained.id and probe.seed == 7
    assert probe.recipe == pretrained.recipe and probe.data == pretrained.data
    moco = single.plan_run_probe(pretrained.id, store, {"probe.profile": "moco"})
    assert moco.recipe.probe.momentum == 0.9 and moco.recipe.optimizer.lr == 0.125
    assert moco.parent.id == pretrained.id and moco.id != probe.id


def test_what_cannot_be_probed_says_why(store, pretrained, monkeypatch):
    with pytest.raises(UserError, match=r"can only change probe\.\*"):
        single.plan_run_probe(pretrained.id, store, {"data.resolution": 16})
    with pytest.raises(UserError, match=r"did you mean 'probe\.epochs'"):
        single.plan_run_probe(pretrained.id, store, {"probe.epoch": 16})
    entry = NETWORKS.entry("resnet50")
    newer = dataclasses.replace(entry, version=entry.version + 1)
    with monkeypatch.context() as patch:
        patch.setitem(NETWORKS.entries, "resnet50", newer)
        with pytest.raises(UserError, match="another version"):
            single.plan_run_probe(pretrained.id, store, {})
    store.discard(pretrained.id)
    store.save(record(pretrained, status="running"))
    with pytest.raises(UserError, match="is running; finish it"):
        single.plan_run_probe(pretrained.id, store, {})


def test_a_run_of_a_recipe_file_is_probed_with_another_profile(store, tmp_path, capsys):
    path = tmp_path / "mine.toml"
    path.write_text('extends = "loco/imagenet"\n[probe.profiles.mine]\nmomentum = 0.5\n')
    tiny = [*SETS, "--data-root", image_folder(tmp_path / "images")]
    pretrain = ["pretrain", path, "--rule", "simclr", "--network", "resnet50", *tiny]
    assert call(capsys, *pretrain)[0] == 0
    probe = single.plan_run_probe("pretrain", store, {"probe.profile": "mine"})
    assert probe.recipe.probe.momentum == 0.5


def test_an_encoder_file_is_known_by_its_content(tmp_path):
    for name, content in (("a.pth", b"1"), ("b.safetensors", b"1"), ("c.pth", b"2")):
        (tmp_path / name).write_bytes(content)
    specs = [
        single.plan_file_probe(path, overrides={}, network="resnet50")
        for path in sorted(tmp_path.glob("?.*"))
    ]
    assert specs[0].id == specs[1].id != specs[2].id
    assert specs[0].scale == "smoke" and specs[0].seed == 1234
    with pytest.raises(UserError, match="--network NAME"):
        single.plan_file_probe(tmp_path / "a.pth", overrides={})
    with pytest.raises(UserError, match="did you mean 'resnet50'"):
        single.plan_file_probe(tmp_path / "a.pth", overrides={}, network="resnet")


# --- what a person sees ----------------------------------------------------------------------


def test_a_record_is_printed_with_units_blocks_and_cost(store, capsys):
    plan = make_plan(load_table("loco/table1"), Options())
    single.print_record(record(by_kind(plan, "pretrain")), store, terminal())
    out = capsys.readouterr().out
    assert "stages 1-4" in out and "loss 4.500" in out and "12,000,000" in out
    made = record(by_kind(plan, "probe"), per_block={"4": {"stage": 4, "top1": 9, "top1_best": 10}})
    single.print_record(made, store, terminal())
    out = capsys.readouterr().out
    assert "block 5" in out and "top-1 9.0 % (best 10.0)" in out
    assert str(store.folder(made.id)) in out.replace("\n", "")


def test_a_run_and_its_outcome_in_a_few_words():
    plan = make_plan(load_table("loco/table1"), Options(seeds=2))
    words = [spec.of.describe(spec) for spec in plan.runs()]
    assert "pretrain loco resnet50" in words and "pretrain loco resnet50, seed 1235" in words
    assert "probe (moco) gim shufflenet_v2_50" in words and "pixels, logistic regression" in words
    assert len(set(words)) == len(words)
    for kind, outcome in (("pretrain", "loss 4.500"), ("probe", "top-1 41.2 %")):
        spec = by_kind(plan, kind)
        assert spec.of.outcome(record(spec)) == outcome


def test_without_a_terminal_there_is_a_line_a_run_and_one_for_data(capsys):
    plan = make_plan(load_table("loco/table1"), Options())
    spec = by_kind(plan, "pretrain")
    with watching(2) as watch:
        for done in (1, 50, 100):
            watch.preparing("drawing Shapes (train)", done, 100)
        update = watch.start(spec)
        for step in range(200):
            update(step, 200, {"stage 1": 4.0})
        watch.done(spec, record(spec))
        watch.done(spec, record(spec))
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert printed.out == "" and len(lines) == 3 and "\x1b" not in printed.err
    assert lines[0] == "drawing Shapes (train): 100 images"
    assert lines[1].startswith("  1/2 pretrain simclr resnet50") and lines[1].endswith("60 s")
    assert lines[2].startswith("  2/2 ") and "loss 4.500" in lines[1]


def test_on_a_terminal_bars_show_step_loss_and_data(monkeypatch):
    shown = io.StringIO()
    forced = console.Console(file=shown, force_terminal=True, width=100, highlight=False)
    monkeypatch.setattr(console, "terminal", lambda stderr=False: forced)
    spec = by_kind(make_plan(load_table("loco/table1"), Options()), "pretrain")
    with watching(3) as watch:
        watch.preparing("decoding train", 5, 10)
        watch.bar.refresh()
        assert "decoding train" in shown.getvalue() and " 50%" in shown.getvalue()
        watch.preparing("decoding train", 10, 10)
        update = watch.start(spec)
        update(30, 120, {"stage 1": 4.25, "stage 2": 3.5})
        shown.truncate(0)
        watch.bar.refresh()
        text = shown.getvalue()
        assert "1/3" in text and " 25%" in text and "loss 4.25 3.50" in text
        assert "decoding" not in text, "what is done makes room"
        watch.done(spec, record(spec))
        watch.start(spec)
        watch.bar.refresh()
        assert "2/3" in shown.getvalue()


def test_the_console_is_as_wide_as_the_terminal_and_never_below_80(monkeypatch):
    for columns, width in (("40", 80), ("133", 133)):
        monkeypatch.setenv("COLUMNS", columns)
        assert terminal().width == terminal(stderr=True).width == width


def test_what_was_measured_on_a_run_is_set_aside_with_it():
    store = Store(runs_dir())
    plan = make_plan(load_table("loco/table1"), Options(rows="gim"))
    fill(plan.runs(), store)
    pretraining = next(spec for spec in plan.runs() if spec.kind == "pretrain")
    probes = {spec.id for spec in plan.runs() if spec.parent and spec.parent.id == pretraining.id}
    assert len(probes) == 2
    set_aside([pretraining], store)
    left = set(store.ids())
    assert pretraining.id not in left and not probes & left
    assert left == {s.id for s in plan.runs()} - probes - {pretraining.id} and left
    assert len(list((runs_dir() / "set-aside").iterdir())) == 3
