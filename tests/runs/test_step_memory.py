"""What a run needs, before its first step: GPUs that hold the step, and images enough."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from fabricate import call, image_folder

from locbench.distributed import group as processes
from locbench.errors import RunFailed, UserError
from locbench.evaluation.cost import traced
from locbench.published.load import load_table
from locbench.recipes.load import load_recipe
from locbench.runs import step_memory
from locbench.runs.context import Context
from locbench.runs.device import Hardware
from locbench.runs.executor import Watch, carry_out
from locbench.runs.plan import Options, make_plan
from locbench.runs.spec import training_spec
from locbench.runs.step_memory import (
    StepMemory,
    check_fits,
    form_of,
    largest_step,
    may_be_large,
    traced_memory,
)
from locbench.runs.store import Store

DATA = {"name": "shapes", "version": 1, "checksum": "", "classes": 10, "train": 8000, "test": 400}
CPU = torch.device("cpu")


def make(rule="bp", seed=1, data=DATA, **sets):
    values = {"training.precision": "fp32", **{k.replace("__", "."): v for k, v in sets.items()}}
    recipe = load_recipe("auglocal/cifar10", "paper", values)
    return training_spec(recipe, rule, "resnet32", seed=seed, data=data)


def test_processes_share_activations_and_not_weights():
    memory = StepMemory(shared_bytes=1000, kept_bytes=50, parts=12)
    assert [memory.on(n) for n in (1, 2, 4)] == [1050, 550, 300]
    assert memory.least(1050) == 1 and memory.least(1049) == 2
    assert memory.least(300) == 4 and memory.least(299) == 6, "five do not share 12 images equally"
    assert memory.least(50) is None


def test_a_step_s_memory_is_that_of_its_trace_and_of_what_stays():
    whole, half = (traced_memory(make(training__batch=n)) for n in (64, 32))
    assert half.shared_bytes == pytest.approx(whole.shared_bytes / 2, rel=0.02)
    assert half.kept_bytes == whole.kept_bytes == pytest.approx(4 * 4 * 466_906, rel=0.01)
    bf16 = traced_memory(make(training__batch=64, training__precision="bf16"))
    assert 0.45 < bf16.shared_bytes / whole.shared_bytes < 0.7


def test_groups_of_batch_norm_are_shared_whole():
    memory = traced_memory(make(training__batch=8, training__batch_norm_groups=2))
    assert memory.parts == 2 and memory.least(memory.on(4)) is None
    assert traced_memory(make(training__batch=8)).parts == 8


def test_a_step_that_cannot_be_traced_is_counted_beside_the_largest():
    specs = [make(training__batch=2**16, seed=seed) for seed in (1, 2)]
    words = largest_step(specs, {specs[0].id: StepMemory(10**9, 0, 8)}, Hardware("cpu"))
    assert words.endswith("fits on one GPU of 80 GB; 1 more cannot be traced")


def test_a_form_is_traced_once_and_a_rule_that_cannot_be_traced_is_let_through(monkeypatch):
    same = [make(training__batch=8, seed=s, schedule__epochs=e) for s, e in ((1, 20), (2, 30))]
    assert len({spec.id for spec in same}) == 2 and len(set(map(form_of, same))) == 1
    other = make(training__batch=8, training__precision="bf16")
    assert form_of(other) != form_of(same[0])
    asked = []
    monkeypatch.setattr(step_memory, "_TRACED", {})
    monkeypatch.setattr(traced, "trace", lambda case: asked.append(case) or 1 / 0)
    assert [traced_memory(spec) for spec in same] == [None, None] and len(asked) == 1


def test_a_step_is_refused_where_it_clearly_does_not_fit_and_small_ones_are_not_traced(monkeypatch):
    spec = make(training__batch=256)
    needed = traced_memory(spec).on(1)
    for capacity, refused in ((needed, False), (needed / 1.05, False), (needed / 1.2, True)):
        monkeypatch.setattr("locbench.evaluation.cost.memory.memory_of", lambda d, c=capacity: c)
        if not refused:
            check_fits(spec, CPU)
            continue
        with pytest.raises(RunFailed, match=r"this machine has .* 1 or more GPUs.* torchrun"):
            check_fits(spec, CPU)
    assert not may_be_large(spec, 25e9) and may_be_large(spec, needed)


def test_a_run_that_does_not_fit_leaves_no_record_and_the_table_is_shown(
    capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr("locbench.evaluation.cost.memory.memory_of", lambda device: 10**6)
    small = ["data.name=folder", "data.train_images=0", "training.batch=8"]
    arguments = ["--rows", "AugLocal", "--data-root", image_folder(tmp_path / "images")]
    arguments += [word for pair in small for word in ("--set", pair)]
    code, out, err = call(capsys, "reproduce", "ours/gate", *arguments)
    assert code == 3 and "not run" in out and "torchrun" in err.splitlines()[-1]


def test_in_several_processes_too_what_does_not_fit_costs_itself_alone(monkeypatch, tmp_path):
    monkeypatch.setattr("locbench.evaluation.cost.memory.memory_of", lambda device: 10**6)
    monkeypatch.setattr(processes, "joined", lambda device: nullcontext(processes.Group()))
    monkeypatch.setattr(processes, "launched", lambda: 2)
    specs = [make(training__batch=64, seed=seed) for seed in (1, 2)]
    failures = carry_out(specs, Context(Store(tmp_path), "cpu"), Watch())
    assert [line.split(":")[0] for line in failures] == [spec.id for spec in specs]
    assert "in 2 processes takes" in failures[0]


def test_too_few_images_are_refused_beforehand(capsys, tmp_path):
    root = image_folder(tmp_path / "images")
    arguments = ["ours/gate", "--set", "data.name=folder", "--data-root", root]
    cases = {
        "data.train_images=0": "24 training images of",
        "data.validation=30": "beside data.validation = 30: folder has 24 training images",
        "training.batch=8": "= 640: folder has",
    }
    for setting, words in cases.items():
        for dry in ([], ["--dry-run"]):
            code, out, err = call(capsys, "reproduce", *arguments, "--set", setting, *dry)
            assert (code, out) == (2, "") and words in err.splitlines()[-1]
    plan = make_plan(load_table("loco/table3"), Options("paper", assume_data=True))
    detector = next(spec for spec in plan.runs() if spec.recipe.detection)
    with pytest.raises(UserError, match=r"detection\.train_images = 10000: coco has 300 images"):
        detector.of.check_images(replace(detector, data={**detector.data, "train": 300}))


def test_a_dry_run_says_what_the_largest_step_needs(capsys):
    arguments = ["--scale", "paper", "--dry-run", "--set", "training.precision=bf16"]
    rows = ["--rows", "gim resnet-50"]
    code, out, err = call(capsys, "reproduce", "table1", *arguments, *rows)
    assert code == 0 and ("--device cuda plans" in err) != torch.cuda.is_available()
    assert "largest step: 22" in out and "in bf16, as traced (pretrain gim resnet50)" in out
    assert "fits on 4 or more GPUs of 80 GB" in " ".join(out.split())
    out = call(capsys, "reproduce", "auglocal/table5", *arguments)[1]
    assert "largest step: below 31.5 GB, by its pixels; fits on one GPU of 80 GB" in out
