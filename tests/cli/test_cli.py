"""The command line: exit codes, one line for a mistake, and what must not be imported for what."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from fabricate import SETS, call, complaint, fill, image_folder

from locbench.paths import runs_dir
from locbench.published.load import load_table
from locbench.runs.encoders import ENCODER
from locbench.runs.plan import Options, make_plan
from locbench.runs.store import Store
from locbench.training.loop import Trainer
from locbench.units import Batch

TABLE1 = "loco/table1"
COMMANDS = ("audit", "check", "cost", "data", "diff", "doctor", "downstream", "list", "pretrain")
COMMANDS += ("probe", "reproduce", "show", "verify")


@pytest.fixture
def store():
    return Store(runs_dir())


@pytest.fixture
def plan():
    return make_plan(load_table(TABLE1), Options())


@pytest.fixture
def tiny(tmp_path):
    """The arguments that make any command's runs tiny."""
    return [*SETS, "--data-root", image_folder(tmp_path / "images")]


@pytest.fixture
def pretrain(tiny):
    """A command that is short enough to be run."""
    return ["pretrain", "loco/imagenet", "--rule", "gim", "--network", "resnet50", *tiny]


# --- help ------------------------------------------------------------------------------------


def test_help_lists_the_commands_and_is_what_no_command_gives(capsys):
    code, out, err = call(capsys, "--help")
    assert code == 0 and err == ""
    listed = re.findall(r"^  ([a-z]+)  ", out.split("Commands:")[1], re.MULTILINE)
    assert tuple(sorted(listed)) == COMMANDS
    assert call(capsys) == (0, out, "")


def test_a_group_without_a_command_gives_its_help(capsys):
    code, out, err = call(capsys, "data")
    assert code == 0 and err == "" and out.startswith("Usage: locbench data")
    assert "cityscapes-to-coco" in out.split("Commands:")[1]
    code, out, err = call(capsys, "data", "cityscapes-to-coko")
    assert code == 2 and out == "" and "No such command" in err


def test_every_command_has_help(capsys):
    for command in COMMANDS:
        code, out, err = call(capsys, command, "--help")
        assert code == 0 and err == "" and out.startswith(f"Usage: locbench {command}")


def test_what_needs_no_torch_does_not_import_it(store, plan):
    fill(plan.runs(), store)
    commands = [
        ["--help"],
        ["list"],
        ["list", "runs"],
        ["show", "table1"],
        ["diff", "table1"],
        ["reproduce", "table1", "--dry-run"],
        ["reproduce", "table1", "--dry-run", "--fresh"],
        ["reproduce", "table1"],
        ["reproduce", "table1", "--format", "json"],
    ]
    code = """
import contextlib, io, json, sys
from locbench.cli import app as cli
imported = {}
for arguments in json.loads(sys.stdin.read()):
    sys.argv = ["locbench", *arguments]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        cli.main()
    heavy = ("torch", "torchvision", "sklearn")
    imported[" ".join(arguments)] = [name for name in heavy if name in sys.modules]
print(json.dumps(imported))
"""
    answer = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(answer.stdout) == {" ".join(arguments): [] for arguments in commands}
    assert answer.stderr == ""


# --- mistakes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("frobnicate", "No such command"),
        ("reproduce", "Missing argument"),
        ("reproduce table1 --frob", "--frob"),
        ("reproduce tabel1", "did you mean 'loco/table1'"),
        ("reproduce table1 --paper loko", "did you mean 'loco'"),
        ("reproduce table1 --scale smok", "did you mean 'smoke'"),
        ("reproduce table1 --seeds 0", "--seeds"),
        ("reproduce table1 --format jsn", "did you mean 'json'"),
        ("reproduce table1 --device tpu", "cuda:N"),
        ("reproduce table1 --rows nobody", "ShuffleNet v2-50"),
        ("reproduce table1 --columns nothing", "linear_top1_moco"),
        ("reproduce table1 --set optimizer.lr", "KEY=VALUE"),
        ("reproduce table1 --set optimizer.lr=fast", "a number"),
        ("reproduce table1 --scale paper", "--data-root"),
        ("reproduce table1 --scale small --data-root /nowhere/at/all", "/nowhere/at/all"),
        ("list tabels", "did you mean 'tables'"),
        ("pretrain loco/imagnet --rule loco --network resnet50", "did you mean 'loco/imagenet'"),
        ("pretrain loco/imagenet --rule locco --network resnet50", "did you mean 'loco'"),
        ("pretrain loco/imagenet --rule loco --network resnet5", "did you mean 'resnet50'"),
        ("pretrain loco/imagenet --rule loco", "--network"),
        ("probe nobody", "there are no runs yet"),
        ("probe nowhere.safetensors --network resnet50", "nowhere.safetensors"),
        ("probe nobody --seed 3", "--seed is for encoder files"),
        ("check --no-run --fresh", "leave one out"),
        ("audit locco resnet50", "did you mean 'loco'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, arguments, message):
    assert message in complaint(capsys, *arguments.split())


def test_a_recipe_file_with_a_wrong_key(capsys, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('extends = "loco/imagenet"\n[optimizer]\nlrr = 1.0\n')
    line = complaint(capsys, "pretrain", path, "--rule", "loco", "--network", "resnet50")
    assert str(path) in line and "did you mean 'lr'" in line


def test_a_rules_setting_and_a_batch_that_no_run_can_have(capsys, pretrain):
    for setting, word in (("rule.temperatur=1", "temperature"), ("training.batch=64", "batch")):
        code, out, err = call(capsys, *pretrain, "--set", setting)
        assert code == 2 and out == "" and "Traceback" not in err
        assert word in err.splitlines()[-1] and err.splitlines()[-1].startswith("locbench: ")


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="there is a GPU")
def test_a_device_that_is_not_there(capsys, pretrain):
    assert "sees no GPU" in complaint(capsys, *pretrain, "--device", "cuda")


def test_a_runs_folder_that_cannot_be_written(capsys, tmp_path, pretrain):
    (tmp_path / "file").write_text("here")
    code, out, err = call(capsys, *pretrain, "--runs", tmp_path / "file" / "runs")
    assert code == 2 and out == "" and "Traceback" not in err
    assert "LOCBENCH_RUNS" in err.splitlines()[-1]


def test_a_truncated_record_is_named_and_left_alone(capsys, store, plan):
    fill(plan.runs(), store)
    path = store.path(plan.runs()[0].id)
    half = path.read_bytes()[:300]
    path.write_bytes(half)
    for arguments in (["reproduce", "table1"], ["reproduce", "table1", "--dry-run"]):
        code, out, err = call(capsys, *arguments)
        line = err.splitlines()[-1]
        assert code == 3 and "loco/table1" in out and str(path) in line and "truncated" in line
    code, out, err = call(capsys, "list", "runs", "--json")
    assert (code, err) == (0, "")
    assert [row["run"] for row in json.loads(out) if row["status"] == "broken"] == [
        path.parent.name
    ]
    assert path.read_bytes() == half


def test_a_run_that_is_not_found_or_ambiguous(capsys, store, plan):
    fill(plan.runs(), store)
    assert "did you mean" in complaint(capsys, "probe", "pretrain-simclr-resnet51")
    assert "begins 2 runs" in complaint(capsys, "probe", "pretrain-loco")
    assert "not a run that trained" in complaint(capsys, "probe", "probe-loco-resnet50-loco")


# --- runs ------------------------------------------------------------------------------------


def test_pretrain_then_probe_by_the_beginning_of_the_id(capsys, store, tiny, pretrain):
    code, out, err = call(capsys, *pretrain)
    assert code == 0 and "pretrain-gim-resnet50-smoke-s1234-" in out and "2-layer MLP" in out
    assert "1/1" in err and "loss" in err
    assert call(capsys, *pretrain, "--json")[1] == store.path(store.ids()[0]).read_text()

    data = tiny[-2:]
    code, out, err = call(capsys, "probe", "pretrain-gim", "--blocks", "all", "--json", *data)
    assert code == 0, err
    probed = json.loads(out)
    assert len(probed["per_block"]) == 5 and probed["parent"] == store.ids()[0]
    code, out, _ = call(capsys, "probe", "pretrain-gim", "--profile", "moco", *data)
    assert code == 0 and "probe-gim-resnet50-moco-smoke-s1234-" in out and "top-1" in out
    assert "only change probe" in complaint(
        capsys, "probe", "pretrain-gim", "--set", "data.resolution=8"
    )
    (store.folder(probed["parent"]) / ENCODER).unlink()
    code, _, err = call(capsys, "probe", probed["parent"], "--set", "probe.lr=0.5", *data)
    assert code == 2 and "gone" in err.splitlines()[-1]


def test_an_encoder_file_is_probed_and_a_wrong_one_named(capsys, store, tiny, pretrain, tmp_path):
    assert call(capsys, *pretrain)[0] == 0
    file = tmp_path / "mine.safetensors"
    (store.folder(store.ids()[0]) / ENCODER).rename(file)
    code, out, err = call(capsys, "probe", file, "--network", "resnet50", "--json", *tiny)
    assert code == 0 and json.loads(out)["identity"]["encoder"].keys() == {"file"}, err
    assert "--network" in complaint(capsys, "probe", file, *tiny)

    code, _, err = call(capsys, "probe", file, "--network", "shufflenet_v2_50", *tiny)
    assert code == 2 and "does not fit this network" in err.splitlines()[-1]
    for content in (b"", b"nothing of the kind" * 9, file.read_bytes()[:500]):
        for name in ("cut.safetensors", "cut.pth"):
            (tmp_path / name).write_bytes(content)
            code, _, err = call(
                capsys, "probe", tmp_path / name, "--network", "resnet50", *tiny, "--fresh"
            )
            assert code == 2 and name in err.splitlines()[-1] and "Traceback" not in err


def stop_after(steps, capsys, arguments):
    """Press Ctrl-C in this step of a pretraining."""
    step = Trainer.train_step
    with pytest.MonkeyPatch.context() as patch:

        def train_step(self):
            if self.step == steps:
                raise KeyboardInterrupt
            step(self)

        patch.setattr(Trainer, "train_step", train_step)
        patch.setattr("locbench.training.loop.SAVE_EVERY_S", 0.0)
        return call(capsys, *arguments)


def test_ctrl_c_ends_with_one_line_and_the_run_goes_on(capsys, store, pretrain):
    code, out, err = stop_after(2, capsys, pretrain)
    assert code == 130 and out == ""
    assert err.splitlines()[-1].startswith("locbench: stopped") and "Traceback" not in err
    stopped = store.load(store.ids()[0])
    assert stopped.status == "running" and stopped.finished is None

    steps = []
    step = Trainer.train_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_step", lambda self: (steps.append(self.step), step(self)))
        assert call(capsys, *pretrain)[0] == 0
    assert steps[0] == 2, "it goes on and does not begin again"
    done = store.load(stopped.id)
    assert done.status == "done" and done.created == stopped.created


def test_reproduce_trains_probes_and_prints_only_the_table(capsys, tmp_path):
    # Other images than those of the other tests: they are decoded here.
    tiny = [*SETS, "--data-root", image_folder(tmp_path / "images", train=9)]
    reproduce = ["reproduce", "table1", "--rows", "gim resnet-50", "--columns", "linear_top1"]
    code, out, err = call(capsys, *reproduce, *tiny, "--format", "json")
    assert code == 0, err
    answer = json.loads(out)
    cells = {cell["method"]: cell for cell in answer["cells"]}
    assert list(cells) == ["GIM", "untrained", "logistic regression on pixels"]
    assert all(cell["n"] == 1 and 0 <= cell["measured"] <= 100 for cell in cells.values())
    assert cells["GIM"]["published"] == 64.7 and cells["GIM"]["verdict"] == "not comparable"
    assert "loco/table1 at scale smoke: 4 runs" in err and "4/4" in err and "\x1b" not in err
    assert "decoding train: 27 images" in err and "%|" not in err

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_step", lambda self: pytest.fail("trained again"))
        assert call(capsys, *reproduce, *tiny, "--format", "json") == (0, out, "")


def test_a_diverged_run_does_not_stop_the_others(capsys, store, tiny):
    reproduce = ["reproduce", "table1", "--rows", "gim,simclr", "--columns", "linear_top1", *tiny]
    with pytest.MonkeyPatch.context() as patch:
        step = Trainer.train_step

        def poisoned(self):
            kind = type(self.network.blocks[1].module).__module__
            if self.step == 0 and len(self.names) == 4 and "shufflenet" in kind:
                first = self.feed.batch(0).images
                nothing = Batch(torch.full_like(first, float("nan")))
                patch.setattr(self.feed, "batch", lambda *_: nothing)
            step(self)

        patch.setattr(Trainer, "train_step", poisoned)
        code, out, err = call(capsys, *reproduce, "--format", "json")
    assert code == 3 and "Traceback" not in err
    line = err.splitlines()[-1]
    assert line.startswith("locbench: pretrain-gim-shufflenet_v2_50-") and "not finite" in line
    cells = {(cell["method"], cell["network"]): cell for cell in json.loads(out)["cells"]}
    assert cells["GIM", "ShuffleNet v2-50"]["verdict"] == "diverged"
    assert cells["GIM", "ShuffleNet v2-50"]["measured"] is None
    for row in (("GIM", "ResNet-50"), ("SimCLR", "ResNet-50"), ("SimCLR", "ShuffleNet v2-50")):
        assert cells[row]["verdict"] == "not comparable" and cells[row]["n"] == 1

    code, again, err = call(capsys, *reproduce, "--format", "json")
    assert (code, again) == (3, out) and "--fresh runs it again" in err.splitlines()[-1]
    one = [*reproduce[:2], "--rows", "gim shufflenet", *reproduce[4:]]
    code, out, err = call(capsys, *one, "--fresh", "--format", "json")
    assert code == 0 and json.loads(out)["cells"][0]["verdict"] == "not comparable"
    assert len(list((store.root / "set-aside").iterdir())) == 4 - 1


def test_fresh_with_dry_run_moves_nothing(capsys, store, plan):
    fill(plan.runs(), store)
    before = store.ids()
    code, out, _ = call(capsys, "reproduce", "table1", "--dry-run", "--fresh")
    assert code == 0 and f"0 done, {len(before)} to go" in out
    assert "probe (moco) loco resnet50" in out
    assert store.ids() == before and not (store.root / "set-aside").exists()
    code, out, _ = call(capsys, "reproduce", "table1", "--dry-run")
    assert code == 0 and "0 to go: nothing to do" in out


def test_a_dry_run_needs_no_data(capsys, tmp_path, plan):
    store = Store(tmp_path / "known")
    fill(plan.runs()[:1], store)
    arguments = ["--scale", "paper", "--dry-run", "--runs", store.root, "--rows", "gim resnet-50"]
    code, out, err = call(capsys, "reproduce", "table1", *arguments)
    first, *rest = err.splitlines()
    assert code == 0 and first == "data set imagenet is not here: planned as it was published"
    assert all("--device cuda" in line for line in rest)  # on a machine without a GPU
    assert "loco/table1 at scale paper: 5 runs, 0 done, 5 to go: time unknown" in out
    assert "pixels" not in out, "scikit-learn cannot hold the pixels of ImageNet"


# --- other commands --------------------------------------------------------------------------


def test_json_of_every_listing(capsys, store, plan):
    fill(plan.runs()[:1], store)
    for what in ("tables", "recipes", "rules", "networks", "datasets", "runs"):
        code, out, err = call(capsys, "list", what, "--json")
        assert code == 0 and err == "" and len(json.loads(out)) >= 1
    code, out, _ = call(capsys, "show", "table1", "--json")
    assert code == 0 and len(json.loads(out)["cells"]) == len(list(load_table(TABLE1).cells()))


def test_an_audit_holds_and_a_leak_is_exit_code_1(capsys, monkeypatch):
    small = ["audit", "gim", "resnet50", "--width", "0.125", "--blocks", "1"]
    code, out, err = call(capsys, *small, "--json")
    assert code == 0 and err == "" and json.loads(out)["holds"] is True
    deep = ["audit", "auglocal", "resnet32", "--width", "0.5", "--depth", "3", "--json"]
    code, out, err = call(capsys, *deep)
    assert code == 0 and len(json.loads(out)["units"]) == 14
    code, out, _ = call(capsys, *small)
    assert code == 0 and "stage 4" in out
    monkeypatch.setattr("locbench.evaluation.audit.Audit.holds", False)
    code, _, err = call(capsys, *small)
    assert code == 1 and err.startswith("locbench: audit of gim on resnet50 failed")


def test_doctor_prints_what_is_in_brackets(capsys, monkeypatch):
    from locbench.cli import doctor

    checks = [doctor.Check("detection", "ok", "pip install -e '.[detection]'")]
    monkeypatch.setattr(doctor, "examine", lambda: checks)
    code, out, _ = call(capsys, "doctor")
    assert code == 0 and "'.[detection]'" in out
    checks.append(doctor.Check("torch", "fail", "install it"))
    code, out, err = call(capsys, "doctor")
    assert code == 1 and "fail  torch" in out and "lines marked fail" in err


def test_the_omp_setting_of_the_user_stays():
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    code = f"import os, locbench; print(*(os.environ.get(k) for k in {names}))"
    cases = (
        ({}, "PASSIVE 1000"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None"),
        ({"GOMP_SPINCOUNT": "7"}, "PASSIVE 7"),
    )
    for given, values in cases:
        env = {k: v for k, v in os.environ.items() if k not in names} | given
        answer = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        )
        assert answer.stdout.strip() == values
