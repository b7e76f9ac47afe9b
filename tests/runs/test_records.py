"""Records and their store: nothing lost, nothing half written, every broken file named."""

import hashlib
import json
import math
import shutil
import statistics
import subprocess

import pytest

from locbench.environment import environment
from locbench.errors import RunFailed, UserError
from locbench.recipes.identity import identity_hash
from locbench.runs.record import SCHEMA, Record, document, summarize, timestamp
from locbench.runs.store import ASIDE, Store


def make(id="pretrain-loco-s1-abc", **changes):
    values = {
        "kind": "pretrain",
        "status": "done",
        "scale": "smoke",
        "seed": 1234,
        "identity": {"seed": 1234, "data": {"name": "shapes"}},
        "recipe": {"optimizer": {"lr": 4.8}, "probe": {"milestones": [30, 60]}},
        "recipe_hash": "0" * 64,
        "metrics": {"top1": {"last": 1 / 3, "best": 0.1 + 0.2}},
        "curves": {"step": [1, 2], "units": {"stage 1": {"loss": [5.5, 4.25]}}},
        "units": [{"name": "stages 1-2", "start": 0, "stop": 7}],
        "cost": {"wall_time_s": 12.5, "peak_memory_bytes": 2**40},
        "created": "2020-12-06T00:00:00+00:00",
        "tags": {"decoder": "1 conv block + 2-layer MLP", "note": "ü ± \n"},
    }
    return Record(id=id, **{**values, **changes})


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


def test_a_record_comes_back_as_it_was(store):
    record = make(parent="other", finished=timestamp())
    store.save(record)
    assert store.load(record.id) == record
    assert store.path(record.id) == store.root / record.id / "record.json"
    text = store.path(record.id).read_text(encoding="utf-8")
    assert json.loads(text)["schema"] == SCHEMA and text.startswith('{\n "schema"')
    assert Record.from_json(text, store.path(record.id)).to_json() == text


def test_numbers_that_are_not_finite_leave_strict_json(store):
    curves = {"loss": [1.0, math.nan, math.inf, -math.inf], "pair": (1, math.nan)}
    store.save(make(curves=curves, status="diverged", error="stage 2"))
    text = store.path(make().id).read_text()
    assert "NaN" not in text and "Infinity" not in text
    loaded = store.load(make().id)
    assert loaded.curves == {"loss": [1.0, None, None, None], "pair": [1, None]}


def test_a_missing_record_is_none_and_an_empty_store_is_empty(store):
    assert store.load("nothing") is None and store.all() == [] and store.ids() == []


# --- broken files ----------------------------------------------------------------------------


def broken(store, content, id="run"):
    path = store.path(id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        store.load(id)
    line = str(caught.value)
    assert "\n" not in line and str(path) in line
    assert f"delete the folder {path.parent} to run it again" in line
    assert path.read_bytes() == content, "a broken file is left for the person to look at"
    return line


def test_a_record_cut_anywhere_is_one_clear_line(store):
    whole = make("run").to_json().strip().encode()
    for length in range(0, len(whole), 7):
        assert "truncated or not JSON" in broken(store, whole[:length])


FOREIGN = [b"\xff\xfe\x00\x01", b"[1]", b"3", b"null", b"{}", b"\x00" * 64]


@pytest.mark.parametrize("content", FOREIGN)
def test_a_foreign_file_is_one_clear_line(store, content):
    broken(store, content)


def test_every_field_is_needed_and_has_a_type(store):
    whole = json.loads(make("run").to_json())
    for name in whole.keys() - {"schema", "digest"}:
        lacking = {k: v for k, v in whole.items() if k != name}
        assert f"'{name}'" in broken(store, document(lacking).encode())
        assert name in broken(store, document({**whole, name: 1.5}).encode())
    for name, value in (("extra", 1), ("kind", "dance"), ("status", "fine"), ("schema", 3)):
        assert name in broken(store, document({**whole, name: value}).encode())
    for schema in ({}, {"schema": 1.5}, {"schema": True}):
        rest = {k: v for k, v in whole.items() if k != "schema"}
        assert "no 'schema'" in broken(store, json.dumps({**schema, **rest}).encode())


def test_a_record_that_was_edited_is_refused(store):
    whole = json.loads(make("run").to_json())
    edits = [{"seed": 1}, {"metrics": {"top1": {"last": 69.5}}}, {"digest": "0" * 64}]
    for edit in edits:
        assert "was edited" in broken(store, json.dumps({**whole, **edit}).encode())
    del whole["digest"]
    assert "was edited" in broken(store, json.dumps(whole).encode())


def test_a_record_of_before_there_were_digests_is_read_and_saved_with_one(store):
    values = json.loads(make("run").to_json())
    old = {k: v for k, v in values.items() if k not in ("digest", "weights")} | {"schema": 1}
    store.prepare()
    store.folder("run").mkdir()
    store.path("run").write_text(json.dumps(old))
    assert store.load("run") == make("run")
    store.save(store.load("run"))
    assert json.loads(store.path("run").read_text()) == values


def test_a_record_in_another_runs_folder_is_refused(store):
    assert "'other'" in broken(store, make("other").to_json().encode(), id="run")


def test_one_broken_record_is_named_when_all_are_read(store):
    store.save(make("a"))
    broken(store, b"{", id="b")
    with pytest.raises(UserError, match=r"b.record\.json"):
        store.all()


def test_a_record_of_another_schema_is_not_called_broken(store):
    whole = json.loads(make("run").to_json())
    for schema in (0, SCHEMA + 1):
        line = broken(store, json.dumps({**whole, "schema": schema}).encode())
        assert f"written by another locbench (schema {schema}; this one reads {SCHEMA})" in line


def test_looking_around_passes_over_what_is_broken(store):
    store.save(make("a"))
    broken(store, b"{", id="b")
    store.save(make("c"))
    assert [record.id for record in store.readable()] == ["a", "c"]


# --- saving ----------------------------------------------------------------------------------


def test_a_running_or_failed_record_changes_and_a_finished_one_does_not(store):
    for status in ("running", "failed", "running", "done"):
        store.save(make(status=status))
    store.save(make())
    final = store.path(make().id).read_bytes()
    for changes in ({"status": "running"}, {"seed": 2}, {"status": "failed"}):
        with pytest.raises(RunFailed, match="final"):
            store.save(make(**changes))
    assert store.path(make().id).read_bytes() == final
    store.discard(make().id)
    assert not store.folder(make().id).exists()
    store.save(make(status="running"))
    store.discard("nothing")


def test_a_diverged_record_is_final_too(store):
    store.save(make(status="diverged"))
    with pytest.raises(RunFailed, match="final"):
        store.save(make(status="done"))


def test_a_store_that_cannot_be_written_ends_the_run_with_one_line(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("here")
    with pytest.raises(RunFailed) as caught:
        Store(blocked).save(make("run"))
    line = str(caught.value)
    assert str(blocked) in line and "LOCBENCH_RUNS" in line and "\n" not in line
    assert caught.value.exit_code == 3 and blocked.read_text() == "here"


def test_a_full_disk_leaves_the_old_record_whole(store, monkeypatch):
    store.save(make(status="running"))
    before = store.path(make().id).read_bytes()

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("locbench.runs.store.write_atomic", full)
    with pytest.raises(RunFailed, match="No space left on device"):
        store.save(make())
    assert store.path(make().id).read_bytes() == before
    assert store.load(make().id).status == "running"


def test_a_folder_that_cannot_be_written_is_found_out_beforehand(store, tmp_path):
    store.prepare()
    assert list(store.root.iterdir()) == []
    blocked = tmp_path / "file"
    blocked.write_text("here")
    for root in (blocked, blocked / "runs"):
        with pytest.raises(UserError, match="LOCBENCH_RUNS") as caught:
            Store(root).prepare()
        assert str(root) in str(caught.value) and caught.value.exit_code == 2
        assert Store(root).load("x") is None and Store(root).ids() == []


def test_a_run_set_aside_is_whole_and_no_run_of_the_store(store):
    store.set_aside("nothing")
    assert not store.root.exists()
    for seed in (1, 2, 3):
        store.save(make("run", seed=seed))
        (store.folder("run") / "encoder").write_text(str(seed))
        store.set_aside("run")
        assert store.load("run") is None and store.all() == [] and store.ids() == []
    kept = sorted((store.root / ASIDE).iterdir())
    assert [(path / "encoder").read_text() for path in kept] == ["1", "2", "3"]
    assert [json.loads((path / "record.json").read_text())["seed"] for path in kept] == [1, 2, 3]
    with pytest.raises(UserError, match="no runs yet"):
        store.find("run")
    store.save(make("other"))
    (store.root / ASIDE).rename(store.root / "away")
    (store.root / ASIDE).write_text("a file in its place")
    with pytest.raises(UserError, match="cannot be moved"):
        store.set_aside("other")


def test_a_final_record_is_read_once_until_another_file_is_in_its_place(store):
    done = make()
    store.save(done)
    first, again = store.load(done.id), Store(store.root).load(done.id)
    assert first == done and again is first
    Store(store.root).discard(done.id)  # as another process may
    assert store.load(done.id) is None
    store.save(make(seed=7))
    assert store.load(done.id).seed == 7
    store.discard(done.id)
    store.save(make(status="running"))
    assert store.load(done.id) is not store.load(done.id), "its run may change what it loads"


def test_only_done_is_finished_and_diverged_is_told(store):
    assert store.finished("run") is None
    for status in ("running", "failed"):
        store.save(make("run", status=status))
        assert store.finished("run") is None
    store.save(make("run", status="done"))
    assert store.finished("run") == make("run", status="done")
    store.discard("run")
    store.save(make("run", status="diverged", error="at step 3"))
    with pytest.raises(RunFailed, match=r"run diverged \(at step 3\); --fresh runs it again"):
        store.finished("run")


# --- finding ---------------------------------------------------------------------------------


def test_find_takes_any_prefix_that_is_enough(store):
    ids = ["probe-gim-s1-aa", "probe-loco-s1-ab", "probe-loco-s1-ab2", "pixels-s0-ff"]
    for id in ids:
        store.save(make(id))
    assert [record.id for record in store.all()] == sorted(ids) == store.ids()
    for id in ids:
        assert store.find(id).id == id, "a whole id is found though another begins with it"
        for end in range(1, len(id)):
            hits = [other for other in ids if other.startswith(id[:end])]
            if len(hits) == 1:
                assert store.find(id[:end]).id == id
            elif id[:end] not in ids:
                with pytest.raises(UserError, match=f"begins {len(hits)} runs"):
                    store.find(id[:end])


def test_find_says_what_there_is(store):
    with pytest.raises(UserError, match="there are no runs yet"):
        store.find("x")
    store.save(make("probe-loco-s1-ab"))
    with pytest.raises(UserError, match="did you mean 'probe-loco-s1-ab'"):
        store.find("probe-locc-s1-ab")


# --- hashes, means, environment --------------------------------------------------------------


def test_the_identity_hash_is_of_canonical_json():
    assert identity_hash({"b": [1, 2.5], "a": "ü"}) == identity_hash({"a": "ü", "b": (1, 2.5)})
    text = '{"a":"ü","b":[1,2.5]}'
    assert identity_hash({"b": [1, 2.5], "a": "ü"}) == hashlib.sha256(text.encode()).hexdigest()
    different = [{"a": 1}, {"a": 1.0}, {"a": "1"}, {"a": True}, {"a": None}, {"b": 1}, {"a": [1]}]
    assert len({identity_hash(x) for x in different}) == len(different)
    with pytest.raises(ValueError, match="not JSON compliant"):
        identity_hash({"a": math.nan})


def test_summaries_use_the_sample_deviation():
    assert summarize([2.0]) == (2.0, None, 1)
    mean, spread, n = summarize([1.0, 2.0, 4.0])
    assert mean == pytest.approx(7 / 3) and n == 3
    assert spread == pytest.approx(math.sqrt(sum((x - 7 / 3) ** 2 for x in (1, 2, 4)) / 2))
    assert spread == statistics.stdev([1.0, 2.0, 4.0])
    mean, spread, n = summarize([])
    assert math.isnan(mean) and spread is None and n == 0
    mean, spread, n = summarize([1.0, math.nan])
    assert math.isnan(mean) and math.isnan(spread) and n == 2


def test_the_environment_is_plain_json():
    found = environment("Some GPU", threads=3)
    assert json.loads(json.dumps(found)) == found
    assert found["device"] == "Some GPU" and environment()["device"] is None
    assert found["threads"] == 3 and found["processor"] and "\n" not in found["processor"]
    assert found["python"].startswith("3.") and found["torch"] and found["torchvision"]
    assert (found["git_commit"] is None) == (found["git_dirty"] is None)


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_the_checkouts_own(tmp_path, monkeypatch):
    module = tmp_path / "repo" / "locbench" / "environment.py"
    module.parent.mkdir(parents=True)
    module.write_text("x = 1\n")
    monkeypatch.setattr("locbench.environment.__file__", str(module))

    def git(*arguments):
        who = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        where = ["git", "-C", str(tmp_path / "repo")]
        result = subprocess.run([*where, *who, *arguments], check=True, capture_output=True)
        return result.stdout.decode().strip()

    assert environment()["git_commit"] is None
    git("init")
    assert environment()["git_commit"] is None, "no commit yet"
    git("add", ".")
    git("commit", "-m", "first", "--no-verify")
    found = environment()
    assert found["git_commit"] == git("rev-parse", "HEAD") and found["git_dirty"] is False
    module.write_text("x = 2\n")
    assert environment()["git_dirty"] is True
    inside = tmp_path / "repo" / "venv" / "site" / "locbench" / "environment.py"
    inside.parent.mkdir(parents=True)
    monkeypatch.setattr("locbench.environment.__file__", str(inside))
    assert environment()["git_commit"] is None, "somebody else's repository around an installation"
