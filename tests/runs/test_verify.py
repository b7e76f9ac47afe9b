"""`locbench verify`: what is wrong with a record is found, and which of its parts it is in."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from fabricate import SETS, call, fill, image_folder

from locbench.paths import runs_dir
from locbench.recipes.load import load_recipe
from locbench.runs.kinds.probe import probe_spec
from locbench.runs.record import document
from locbench.runs.spec import sha256_of
from locbench.runs.store import ENCODER, Store
from locbench.runs.verify import verify

DATA = {"name": "shapes", "version": 1, "checksum": "0", "classes": 10, "train": 1000, "test": 400}


@pytest.fixture
def store():
    return Store(runs_dir())


@pytest.fixture
def spec(store):
    """A finished probe and its pretraining, the last accuracy as in the curve."""
    spec = probe_spec(load_recipe("loco/imagenet", "smoke"), "loco", "resnet50", seed=1, data=DATA)
    fill(spec.with_ancestors(), store)
    change(store, spec.id, curves={"epoch": [1, 2], "top1": [60.0, 50.0]},
           metrics={"top1": {"last": 50.0, "best": 60.0}})  # fmt: skip
    curve = {"stage 1": {"loss": [5.0, 4.5]}}
    change(
        store, spec.parent.id, curves={"units": curve}, metrics={"loss of stage 1": {"last": 4.5}}
    )
    return spec


def change(store, id, **changes):
    """Change a record, its digest with it."""
    values = json.loads(store.path(id).read_text())
    store.path(id).write_text(document({**values, **changes}))


def outcomes(store, id):
    return {c.name: c.outcome for c in verify(store.path(id)).checks}


def faults(store, id):
    return {c.name: c.detail for c in verify(store.path(id)).checks if c.outcome == "failed"}


def test_a_whole_record_passes(store, spec):
    for run in spec.with_ancestors():
        assert faults(store, run.id) == {}
    assert outcomes(store, spec.id)["identity"] == "ok"


def test_an_edit_is_found_by_the_digest_and_by_what_it_no_longer_fits(store, spec):
    path = store.path(spec.id)
    values = json.loads(path.read_text())
    values["metrics"]["top1"]["last"] = 69.5
    path.write_text(json.dumps(values))
    assert faults(store, spec.id).keys() == {"digest", "metrics"}
    assert "69.5" in faults(store, spec.id)["metrics"]


def test_each_part_is_checked_also_behind_a_digest_that_fits(store, spec):
    values = json.loads(store.path(spec.id).read_text())
    probe = {**values["recipe"]["probe"], "epochs": 7}
    cases = [
        ({"recipe": {**values["recipe"], "probe": probe}}, "identity", "probe.epochs"),
        ({"seed": 2}, "identity", "seed"),
        ({"data": {**values["data"], "checksum": "1"}}, "identity", "data.checksum"),
        ({"parent": None}, "identity", "encoder"),
        ({"metrics": {"top1": {"last": 50.0, "best": 61.0}}}, "metrics", "best 61.0"),
        ({"environment": {"git_commit": "0" * 40, "git_dirty": True}}, "commit", "changes"),
    ]
    for changes, check, words in cases:
        change(store, spec.id, **changes)
        assert words in faults(store, spec.id)[check], changes
        store.path(spec.id).write_text(document(values))
    assert faults(store, spec.id) == {}


def test_a_version_of_before_is_known_and_one_to_come_is_not(store, spec, monkeypatch):
    from locbench.plugins.registry import NETWORKS

    now = NETWORKS.entry("resnet50")
    monkeypatch.setitem(NETWORKS.entries, "resnet50", replace(now, version=now.version + 1))
    assert outcomes(store, spec.id)["versions"] == "note" and not faults(store, spec.id)
    monkeypatch.setitem(NETWORKS.entries, "resnet50", replace(now, version=now.version - 1))
    assert faults(store, spec.id).keys() == {"versions"}


@pytest.mark.parametrize(("version", "faulty"), [(2, set()), (3, {"versions"})])
def test_a_set_that_is_decoded_as_it_is_read_has_a_version_of_its_own(store, version, faulty):
    recipe, data = load_recipe("loco/imagenet", "smoke"), {**DATA, "version": version}
    spec = probe_spec(recipe, "untrained", "resnet50", seed=1, data=data)
    fill([spec], store)
    change(store, spec.id, curves={"top1": [50.0]}, metrics={"top1": {"last": 50.0, "best": 50.0}})
    assert faults(store, spec.id).keys() == faulty


def test_what_cannot_be_told_is_said_and_fails_nothing(store, spec):
    store.discard(spec.parent.id)
    assert outcomes(store, spec.id)["identity"] == "note"
    store.path(spec.id).write_text("{")
    assert faults(store, spec.id).keys() == {"schema"}


def test_a_copy_of_a_record_is_checked_and_no_other_file_s_folder_is_to_be_deleted(
    store, spec, tmp_path
):
    copy = tmp_path / "copy.json"
    copy.write_bytes(store.path(spec.id).read_bytes())
    assert verify(copy).ok and verify(copy).run == "copy.json"
    copy.write_text("no record")
    assert verify(copy).checks[0].detail.endswith("; give a run's record.json")


def test_weights_that_a_run_left_are_known_by_their_sha256(tmp_path, capsys):
    root = image_folder(tmp_path / "images")
    options = ["--rule", "gim", "--network", "resnet50", "--data-root", root, "--json", *SETS]
    code, out, _ = call(capsys, "pretrain", "loco/imagenet", *options)
    record, store = json.loads(out), Store(runs_dir())
    file = store.folder(record["id"]) / ENCODER
    assert code == 0 and record["weights"] == {ENCODER: sha256_of(file)}
    assert faults(store, record["id"]).keys() <= {"commit"}  # of the checkout that is tested
    file.write_bytes(file.read_bytes() + b" ")
    assert "weights" in faults(store, record["id"])


def test_the_command_takes_ids_files_and_folders_and_imports_no_torch(store, spec, capsys):
    for name in (spec.id[:-3], store.path(spec.id), store.folder(spec.id)):
        code, out, _ = call(capsys, "verify", name)
        assert code == 0 and out.splitlines()[0] == spec.id
    assert call(capsys, "verify", store.root)[1].splitlines()[-1] == "2 records: 2 ok, 0 failed"
    change(store, spec.id, seed=2)
    code, out, err = call(capsys, "verify", "--json")
    assert code == 1 and [entry["ok"] for entry in json.loads(out)] == [True, False]
    assert spec.id in err
    assert call(capsys, "verify", "nothing")[0] == 2
    code, _, err = call(capsys, "verify", "--runs", store.root / "none")
    assert code == 2 and "there is no record.json in it" in err
    program = "import sys, locbench.runs.verify, locbench.cli.verify; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program]) == b"False\n"


def test_a_broken_record_costs_its_cells_and_not_the_table(capsys, store):
    assert call(capsys, "reproduce", "loco/table6")[0] == 0
    path = store.path(next(id for id in store.ids() if "presnet50-" in id))
    path.write_text(path.read_text().replace('"last": ', '"last": 6'))
    code, out, err = call(capsys, "reproduce", "loco/table6", "--format", "csv")
    assert code == 3 and str(path) in err and "was edited" in err
    assert "not run" in out and "reproduced" in out
