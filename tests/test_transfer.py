"""`locbench downstream`: which runs it takes, what it leaves, what it says."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from locbench import cli, transfer
from locbench.downstream import shapes
from locbench.errors import UserError
from locbench.paths import results_dir
from locbench.recipes import load_recipe
from locbench.records import Store
from locbench.reproduce import Options, make_plan
from locbench.runs import plan_training
from locbench.tables import load_table
from locbench.transfer import Asked


def plan_of(store: Path, source: str | None = None, **asked):
    return transfer.plan(Asked(**asked), source, Store(store), None)


def test_coco_takes_the_pretraining_of_table_1_and_an_untrained_rival(tmp_path):
    plan = plan_of(tmp_path, data="coco", frozen=True)
    [spec], [rival] = plan.specs, plan.rivals
    assert spec.kind == rival.kind == "detect" and rival.untrained and not spec.untrained
    assert spec.parent.id in Store(results_dir() / "records").ids()
    assert spec.id.startswith("detect-loco-resnet50-coco-shapes-frozen-smoke-s1234-")
    trained = plan_of(tmp_path, data="coco", frozen=False)
    assert not trained.rivals and trained.specs[0].id != spec.id
    assert trained.specs[0].recipe.detection.frozen == "first"
    assert trained.specs[0].parent.id == spec.parent.id


def test_a_run_a_split(tmp_path):
    specs = plan_of(tmp_path, data="coco-1k").specs
    assert [spec.recipe.detection.split for spec in specs] == [0, 1]
    assert len({spec.id for spec in specs}) == 2 and "split2" in specs[1].id
    assert len({spec.parent.id for spec in specs}) == 1


def test_table_2_asks_for_the_same_runs(tmp_path):
    plan = make_plan(load_table("loco/table2"), Options())
    kinds = [spec.kind for spec in plan.runs()]
    assert kinds.count("detect") == 7 and len(kinds) == 14
    assert plan_of(tmp_path, data="coco", frozen=True).specs[0].id in {s.id for s in plan.runs()}
    everything = make_plan(load_table("loco/table2"), Options(rows="all", columns="all"))
    assert {s.id for s in plan.runs()} < {s.id for s in everything.runs()}


def test_the_papers_own_weights_are_taken_at_paper_scale(tmp_path, monkeypatch):
    monkeypatch.setattr("locbench.reproduce.TORCH_HUB", tmp_path / "hub")
    options = Options("paper", rows="supervised", columns="coco_box", data_root=tmp_path)
    (tmp_path / "coco/annotations").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no resnet50-19c8e357.pth, which torchvision offers, in"):
        make_plan(load_table("loco/table2"), options)
    assumed = make_plan(load_table("loco/table2"), replace(options, assume_data=True))
    assert set(assumed.assumed) == {"resnet50-19c8e357.pth", "data set coco"}
    [spec] = assumed.runs()
    assert spec.parent is None and spec.encoder_file == ("resnet50-19c8e357.pth", "")
    (tmp_path / "resnet50-19c8e357.pth").write_bytes(b"weights")
    [spec] = make_plan(load_table("loco/table2"), replace(options, assume_data=True)).runs()
    assert spec.encoder_file[0] == str(tmp_path / "resnet50-19c8e357.pth")
    assert len(spec.encoder_file[1]) == 64


def test_what_is_wrong_with_the_words(tmp_path):
    with pytest.raises(UserError, match="unknown detection data 'coc'; did you mean 'coco'"):
        plan_of(tmp_path, data="coc")
    with pytest.raises(UserError, match="unknown rule 'lococo'"):
        plan_of(tmp_path, data="coco", rule="lococo")
    with pytest.raises(UserError, match="unknown network 'resnet5'"):
        plan_of(tmp_path, data="coco", network="resnet5")
    with pytest.raises(UserError, match="recipe loco/coco is of a detector and trains no encoder"):
        plan_training(load_recipe("loco/coco", "smoke"), "loco", "resnet50", 1, {})
    with pytest.raises(UserError, match=r"override detection\.lrr: unknown key"):
        plan_of(tmp_path, data="coco", overrides={"detection.lrr": 1})
    with pytest.raises(UserError, match=r"no encoder file nothing\.pth"):
        plan_of(tmp_path, "nothing.pth", data="coco")


def test_published_numbers_stand_beside(tmp_path):
    lines = plan_of(tmp_path, data="coco", frozen=True).published
    assert lines[0] == (
        "Published (loco/table2, LoCo ResNet-50 100): COCO AP box 32.6, COCO AP mask 30.1"
    )
    assert lines[-1] == "Scale smoke: not to be compared with the published numbers."


def test_from_the_command_to_pictures(tmp_path, capsys, monkeypatch):
    few = replace(shapes.DETECTION_SHAPES, train=12, test=6)
    monkeypatch.setattr(shapes, "DETECTION_SHAPES", few)
    small = {"iterations": 3, "milestones": [2], "batch": 2, "channels": 16, "fc": 16}
    small |= {"proposals": 20, "samples": 8, "rpn_samples": 8, "warmup": 0}
    sets = [f"--set=detection.{key}={value}" for key, value in small.items()]
    words = ["downstream", "shapes", "--frozen", "--rule=untrained", f"--runs={tmp_path}"]

    def call(*more: str) -> str:
        assert not cli.app([*words, *sets, "--device=cpu", *more], standalone_mode=False)
        return capsys.readouterr().out

    shown = call()
    [record] = list(Store(tmp_path).readable())
    assert "untrained resnet50" in shown and "masks" in shown and "AP" in shown
    assert record.status == "done" and 0 <= record.metrics["ap_box"]["last"] <= 100
    assert record.data["train_images"] == 12 and record.data["classes"] == 5
    assert record.tags["norm"] == "BN (no GPU)" and record.tags["frozen"] == "all"
    assert record.curves["step"] == [1, 2, 3] and len(record.curves["loss_rpn_bbox"]) == 3
    folder = Store(tmp_path).folder(record.id)
    assert len(list((folder / "pictures").iterdir())) == 6
    left = {path.name for path in folder.iterdir()} - {".lock"}
    assert left == {"record.json", "detector.safetensors", "pictures"}
    [again] = json.loads(call("--json"))
    assert again["finished"] == record.finished
