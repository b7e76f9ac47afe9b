"""Carrying out a run: whatever happens on the way, the record says it and nothing is lost."""

import json
import os
import re
import threading
import time
from dataclasses import asdict, replace

import pytest
import torch
from fabricate import TINY, image_folder

from locbench.data.fingerprint import fingerprint
from locbench.errors import RunFailed, UserError
from locbench.locks import Busy, alone, myself
from locbench.networks import make_network
from locbench.paths import runs_dir
from locbench.plugins.entry import UNTRAINED
from locbench.recipes.load import load_recipe
from locbench.recipes.schema import Network
from locbench.runs import executor as execution
from locbench.runs.context import Context
from locbench.runs.encoders import load_into
from locbench.runs.executor import execute
from locbench.runs.kinds.pixels import pixels_spec
from locbench.runs.kinds.probe import probe_spec
from locbench.runs.spec import training_spec
from locbench.runs.store import CHECKPOINT, ENCODER, Store
from locbench.training import loop
from locbench.training.guard import Diverged
from locbench.training.loop import Trainer


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return image_folder(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture
def context(images):
    return Context(Store(runs_dir()), "cpu", images)


@pytest.fixture
def plan(images):
    recipe = load_recipe("loco/imagenet", "smoke", TINY)
    data = fingerprint("folder", 16, images)
    return training_spec(recipe, "gim", "resnet50", seed=3, data=data)


def at_step(step, action):
    """A training step that does something else instead of this one."""
    train_step = Trainer.train_step

    def patched(self):
        if self.step == step:
            action(self)
        train_step(self)

    return patched


def broken(self):
    raise ZeroDivisionError("a bug")


# --- when all is well ------------------------------------------------------------------------


def test_validation_images_are_in_id_and_record_and_out_of_training(context, plan):
    data = replace(plan.recipe.data, validation=4)
    tuning = replace(plan, recipe=replace(plan.recipe, data=data))
    assert tuning.id != plan.id
    held, whole = context.data(tuning), context.data(plan)
    assert (len(held.train), len(held.test)) == (len(whole.train) - 4, 4)
    record = execute(tuning, context)
    assert record.data["tested_on"] == "validation images"
    assert (record.data["train_images"], record.data["test_images"]) == (len(held.train), 4)


def test_a_finished_run_leaves_record_and_encoder_and_no_checkpoint(context, plan):
    record = execute(plan, context)
    folder = context.store.folder(plan.id)
    assert record.status == "done" and record.error is None and record.finished
    left = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert left == {"record.json", ENCODER}
    assert context.store.load(plan.id) == record and execute(plan, context) == record
    assert [unit["name"] for unit in record.units] == [f"stage {k}" for k in (1, 2, 3, 4)]
    for name in (f"stage {k}" for k in (1, 2, 3, 4)):
        assert (
            record.metrics[f"loss of {name}"]["last"] == (record.curves["units"][name]["loss"][-1])
        )
    trainer = Trainer(plan.recipe, "gim", "resnet50", 3, context.data(plan), "cpu")
    encoder = sum(p.numel() for block in trainer.network.blocks for p in block.parameters())
    assert record.cost["encoder_parameters"] == encoder
    decoders = [unit["auxiliary_parameters"] for unit in record.units]
    assert decoders == [
        sum(p.numel() for p in unit.objective.parameters() if p.requires_grad)
        for unit in trainer.engine.units
    ]
    assert record.cost["steps"] == trainer.total and record.cost["activation_bytes"] > 0
    assert record.data["train_images"] == 24 and record.data["test_images"] == 12
    assert record.environment["threads"] == torch.get_num_threads()
    assert record.environment["device"] == "cpu" and record.identity == plan.identity


def test_a_probe_says_what_hung_below_it(context, plan):
    probe = probe_spec(plan.recipe, "gim", "resnet50", seed=3, data=plan.data)
    pretrained = execute(plan, context)
    record = execute(probe, context)
    assert record.parent == plan.id
    assert record.tags["decoder"] == pretrained.units[-1]["auxiliary"] == "2-layer MLP"
    assert record.tags["pretrain_precision"] == pretrained.tags["precision"] == "float32"
    assert record.curves["epoch"] == [1, 2]
    assert record.curves["top1"][-1] == record.metrics["top1"]["last"]
    untrained = probe_spec(plan.recipe, UNTRAINED, "resnet50", seed=3, data=plan.data)
    assert execute(untrained, context).tags["decoder"] == "none"


def test_pixels_are_a_run_too(context, plan):
    record = execute(pixels_spec(plan.recipe, plan.data), context)
    assert record.metrics["top1"]["last"] > 50, "three classes told by colour"
    assert record.seed == 0 and record.units == [] and record.tags["decoder"] == "none"


def test_the_record_is_written_now_and_then(context, plan, monkeypatch):
    monkeypatch.setattr(execution, "NOTE_EVERY_S", -1.0)
    seen = []

    def look(spec):
        return lambda done, total, figures: seen.append(context.store.load(spec.id))

    context.progress = look
    execute(plan, context)
    assert all(record.status == "running" for record in seen)
    steps = [record.curves.get("step", [])[-1:] for record in seen]
    # What is told after step n finds the record that was written after step n - 1.
    assert steps == [[], *([k] for k in range(1, len(seen)))]


# --- when it is not --------------------------------------------------------------------------


def test_a_bug_leaves_a_failed_record_and_the_run_goes_on_from_its_checkpoint(
    context, plan, monkeypatch
):
    monkeypatch.setattr(loop, "SAVE_EVERY_S", -1.0)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(Trainer, "train_step", at_step(4, broken))
        execute(plan, context)
    failed = context.store.load(plan.id)
    assert failed.status == "failed" and failed.error == "ZeroDivisionError: a bug"
    assert failed.finished and failed.curves["step"] == [1, 2, 3, 4]
    assert (context.store.folder(plan.id) / CHECKPOINT).is_file()

    steps = []
    train_step = Trainer.train_step
    monkeypatch.setattr(
        Trainer, "train_step", lambda self: (steps.append(self.step), train_step(self))
    )
    done = execute(plan, context)
    assert done.status == "done" and done.error is None and done.created == failed.created
    assert steps[0] == 4 and done.curves["step"][:4] == [1, 2, 3, 4]


def test_a_diverged_run_is_final_and_says_how_to_run_it_again(context, plan, monkeypatch):
    def poison(self):
        with torch.no_grad():
            self.network.blocks[-1].module.conv1.weight.fill_(float("nan"))

    with monkeypatch.context() as patch, pytest.raises(Diverged, match="stage 4 was not finite"):
        patch.setattr(Trainer, "train_step", at_step(2, poison))
        execute(plan, context)
    record = context.store.load(plan.id)
    assert record.status == "diverged" and "stage 4" in record.error and record.finished
    assert record.curves["step"] == [1, 2], "what was good is kept"
    with pytest.raises(RunFailed, match=rf"{plan.id} diverged .*--fresh runs it again") as caught:
        execute(plan, context)
    assert caught.value.exit_code == 3
    context.store.set_aside(plan.id)
    assert execute(plan, context).status == "done"


def test_out_of_memory_is_one_line(context, plan, monkeypatch):
    def full(self):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB\nmore\nlines")

    monkeypatch.setattr(Trainer, "train_step", full)
    with pytest.raises(RunFailed, match=r"out of memory; set a smaller training\.batch"):
        execute(plan, context)
    record = context.store.load(plan.id)
    assert (record.status, record.error) == ("failed", "out of memory")


def test_what_a_user_got_wrong_is_recorded_without_its_type(context, plan, monkeypatch):
    def wrong(self):
        raise UserError("the batch is\nwrong")

    monkeypatch.setattr(Trainer, "train_step", wrong)
    with pytest.raises(UserError, match="the batch is"):
        execute(plan, context)
    assert context.store.load(plan.id).error == "the batch is wrong"


def test_a_record_that_cannot_be_saved_stops_the_run(context, plan, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("locbench.runs.store.write_atomic", full)
    monkeypatch.setattr(Trainer, "train_step", lambda self: pytest.fail("went on"))
    with pytest.raises(RunFailed, match="No space left on device"):
        execute(plan, context)


# --- data and devices ------------------------------------------------------------------------


def test_missing_data_leaves_no_trace_of_a_run(context, plan, tmp_path):
    context.data_root = tmp_path / "nowhere"
    with pytest.raises(UserError, match="nowhere"):
        execute(plan, context)
    context.device = "cuda:99"
    with pytest.raises(UserError, match="--device cuda:99"):
        execute(plan, context)
    assert not context.store.root.exists()


def test_data_that_changed_since_is_not_taken_for_the_runs_own(context, plan, tmp_path):
    context.data_root = image_folder(tmp_path / "others", train=9)
    with pytest.raises(UserError, match="give the --data-root it was made with"):
        execute(plan, context)
    assert not context.store.root.exists()


def test_data_is_loaded_once_and_its_preparation_is_told(images, plan, monkeypatch):
    told, loaded = [], []
    import locbench.runs.context as module

    load_data = module.load_data

    def load(*arguments):
        loaded.append(arguments[:2])
        arguments[3]("decoding train", 1, 24)
        return load_data(*arguments)

    monkeypatch.setattr(module, "load_data", load)
    preparing = Context(Store(runs_dir()), "cpu", images, preparing=lambda *a: told.append(a))
    assert preparing.data(plan) is preparing.data(plan)
    assert loaded == [("folder", 16)] and told[0] == ("decoding train", 1, 24)


# --- two processes ---------------------------------------------------------------------------


def test_a_run_that_another_process_is_at_is_waited_for(context, plan, capsys, monkeypatch):
    done = execute(plan, context)
    context.store.set_aside(plan.id)
    held = threading.Event()

    def other_process():
        with alone(context.store.lock(plan.id), "at it"):
            held.set()
            time.sleep(0.4)
            context.store.save(done)

    other = threading.Thread(target=other_process)
    other.start()
    held.wait()
    monkeypatch.setattr(Trainer, "train_step", lambda self: pytest.fail("was run twice"))
    with pytest.raises(Busy, match=f"process {os.getpid()} on "):
        execute(plan, replace(context, patient=False))
    assert execute(plan, context) == done
    other.join()
    [line] = capsys.readouterr().err.splitlines()
    assert re.fullmatch(rf"locbench: process \d+ on .+ \(since .+\) is at {plan.id}: .*it", line)


def test_what_a_killed_process_left_is_deleted_in_time(context, plan):
    folder = context.store.folder(plan.id)
    folder.mkdir(parents=True)
    drafts = [folder / f".{name}.0123abcd" for name in ("record.json", CHECKPOINT, ENCODER)]
    mine = folder / ".notes"
    for path in (*drafts, mine):
        path.write_bytes(b"half")
    execute(plan, context)
    assert not any(path.exists() for path in drafts) and mine.exists()
    # Between the last record and the end of its process.
    (folder / CHECKPOINT).write_bytes(b"whole")
    drafts[0].write_bytes(b"half")
    note = context.store.lock(plan.id).with_name(f"{plan.id}.holder")
    note.write_text(json.dumps(asdict(myself())))
    execute(plan, context)
    assert not note.exists()
    assert {path.name for path in folder.iterdir()} == {"record.json", ENCODER, mine.name}


def test_weights_of_before_batch_norm_counted_its_batches_are_taken(tmp_path):
    settings = Network(width=0.125, blocks=1, stem="small")
    one, other = (make_network("resnet50", settings, 10, 32) for _ in range(2))
    old = {k: v for k, v in one.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert len(old) < len(one.state_dict())
    path = tmp_path / "old.pth"
    torch.save(old, path, _use_new_zipfile_serialization=False)
    load_into(other, path)
    found = other.state_dict()
    assert all(torch.equal(found[key], old[key]) for key in one.encoder_state_dict() if key in old)
    torch.save({k: v for k, v in old.items() if k != "bn1.running_mean"}, path)
    with pytest.raises(UserError, match=r"it lacks bn1\.running_mean \(1 keys in all\)"):
        load_into(other, path)
