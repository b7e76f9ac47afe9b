"""`locbench downstream`: which runs it takes, what it leaves, what it says."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from fabricate import fill
from rich.console import Console

from locbench.cli import app as cli
from locbench.cli.downstream import DownstreamOptions, plan_downstream, print_detectors
from locbench.errors import UserError
from locbench.evaluation.downstream import shapes
from locbench.published.load import load_table
from locbench.recipes.load import load_joint, load_recipe
from locbench.report import check
from locbench.runs.plan import Options, Planner, make_plan
from locbench.runs.record import Record
from locbench.runs.spec import training_spec
from locbench.runs.store import Store


def plan_of(store: Path, source: str | None = None, **options):
    return plan_downstream(DownstreamOptions(source=source, **options), Store(store))


def test_coco_takes_the_pretraining_of_table_1_and_an_untrained_rival(tmp_path):
    plan = plan_of(tmp_path, data="coco", frozen=True)
    [spec], [rival] = plan.specs, plan.rivals
    assert spec.kind == rival.kind == "detect" and rival.untrained and not spec.untrained
    reference = check.reference_store().all()
    assert spec.parent.any_precision in check.any_precision(reference).values()
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
    monkeypatch.setattr("locbench.runs.plan.TORCH_HUB", tmp_path / "hub")
    options = Options("paper", rows="supervised", columns="coco_box", assume_data=True)
    with pytest.raises(UserError, match=r"no resnet50-19c8e357.pth, which torchvision offers, in"):
        make_plan(load_table("loco/table2"), replace(options, assume_data=False))
    assumed = make_plan(load_table("loco/table2"), options)
    assert set(assumed.assumed) == {"resnet50-19c8e357.pth", "data set coco"}
    [spec] = assumed.runs()
    assert spec.parent is None and spec.encoder_file == ("resnet50-19c8e357.pth", "")
    file, digest = tmp_path / "hub" / "resnet50-19c8e357.pth", "19c8e357" + 56 * "0"
    file.parent.mkdir()
    file.touch()
    monkeypatch.setattr("locbench.runs.spec.encoder_file", lambda path: (str(path), digest))
    [spec] = make_plan(load_table("loco/table2"), options).runs()
    assert spec.encoder_file == (str(file), digest)


def test_weights_are_those_that_their_name_says(tmp_path):
    planner = Planner(Options("paper", data_root=tmp_path))
    digest = hashlib.sha256(b"weights").hexdigest()
    for name in (f"resnet50-{digest[:8]}.pth", "mine-of-2020.pth", "resnet50-19c8e357.pth"):
        (tmp_path / name).write_bytes(b"weights")
        file = {"weights": name}
        if "19c8e357" not in name:
            assert planner.weights(file) == (str(tmp_path / name), digest)
            continue
        words = f"^{tmp_path / name} is another file than its name says: .* with {digest[:8]}"
        with pytest.raises(UserError, match=words):
            planner.weights(file)


def test_what_is_wrong_with_the_words(tmp_path):
    with pytest.raises(UserError, match="unknown detection data 'coc'; did you mean 'coco'"):
        plan_of(tmp_path, data="coc")
    with pytest.raises(UserError, match="unknown rule 'lococo'"):
        plan_of(tmp_path, data="coco", rule="lococo")
    with pytest.raises(UserError, match="unknown network 'resnet5'"):
        plan_of(tmp_path, data="coco", network="resnet5")
    with pytest.raises(UserError, match="recipe loco/coco is of a detector and trains no encoder"):
        training_spec(load_recipe("loco/coco", "smoke"), "loco", "resnet50", seed=1, data={})
    with pytest.raises(UserError, match=r"override detection\.lrr: unknown key"):
        plan_of(tmp_path, data="coco", overrides={"detection.lrr": 1})
    with pytest.raises(UserError, match=r"no encoder file nothing\.pth"):
        plan_of(tmp_path, "nothing.pth", data="coco")


def a_run(store: Path, scale: str = "smoke") -> str:
    """A finished pretraining in the store, as far as a detector's plan looks at it."""
    spec = plan_of(store, data="coco", frozen=True, scale=scale).specs[0].parent
    fill([spec], Store(store))
    return spec.id


def test_a_run_brings_its_own_and_a_file_has_no_rule(tmp_path):
    run = a_run(tmp_path)
    [spec] = plan_of(tmp_path, run, data="coco", frozen=True).specs
    assert spec.id == plan_of(tmp_path, data="coco", frozen=True).specs[0].id
    for key, value in {"rule": "gim", "network": "resnet50", "scale": "paper", "seed": 1}.items():
        with pytest.raises(UserError, match=f"--{key}: run {run} brings its own"):
            plan_of(tmp_path, run, data="coco", **{key: value})
    with pytest.raises(UserError, match=r"--set data\.resolution: a detector on a run can only"):
        plan_of(tmp_path, run, data="coco", overrides={"data.resolution": 32})
    file = tmp_path / "encoder.pth"
    file.write_bytes(b"weights")
    with pytest.raises(UserError, match=r"--rule: .*encoder\.pth is an encoder file, and says"):
        plan_of(tmp_path, str(file), data="coco", rule="loco")
    [spec] = plan_of(tmp_path, str(file), data="coco", network="shufflenet_v2_50", seed=3).specs
    assert spec.id.startswith("detect-file-shufflenet_v2_50-coco-shapes-frozen-smoke-s3-")
    assert spec.parent is None and spec.encoder_file[0] == str(file)


def test_an_untrained_rival_stands_beside_what_is_frozen_unless_told_otherwise(tmp_path):
    assert not plan_of(tmp_path, data="coco", frozen=True, beside=False).rivals
    [rival] = plan_of(tmp_path, data="coco", frozen=False, beside=True).rivals
    assert rival.untrained and rival.recipe.detection.frozen == "first"
    assert not plan_of(tmp_path, data="coco", rule="untrained", frozen=True).rivals


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"detection.split": 3}, "every split is a run; set detection.splits"),
        ({"detection.epochs": 1}, r"detection\.iterations = 650 goes before it"),
        ({"detection.iterations": 500}, r"must lie before the end, detection\.iterations = 500"),
        ({"detection.warmup": 1000}, r"detection\.warmup = 1000 is longer than"),
    ],
)
def test_a_length_that_would_not_mean_what_it_says(tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        plan_of(tmp_path, data="coco", overrides=overrides)


def test_milestones_are_in_the_unit_of_the_length():
    names, short = ("loco/imagenet", "loco/coco", "paper"), {"detection.iterations": 600}
    with pytest.raises(UserError, match=r"milestones = \[8, 11\] are epochs; set them too, in it"):
        load_joint(*names, short)
    both = load_joint(*names, {**short, "detection.milestones": [40]}).detection
    assert both.steps(1000) == 600 and both.falls(1000) == [40]


def test_what_changes_nothing_is_no_part_of_a_detectors_identity(tmp_path):
    [spec] = plan_of(tmp_path, data="coco", frozen=True).specs
    detector = spec.identity["detector"]
    assert not {"splits", "split", "epochs"} & set(detector) and detector["iterations"] == 650
    [drawn, second] = plan_of(tmp_path, data="coco-1k").specs
    assert second.identity["detector"]["split"] == 1
    one = plan_of(tmp_path, data="coco-1k", overrides={"detection.splits": 1}).specs
    assert one[0].hash == drawn.hash


def test_random_init_is_the_papers(tmp_path):
    plan = plan_of(tmp_path, data="coco-1k", rule="untrained")
    assert plan.specs[0].recipe.detection.frozen == "none"
    assert plan.published[0].startswith("Published (loco/table3, Random Init")


def test_other_settings_have_no_published_number(tmp_path):
    plan = plan_of(tmp_path, data="coco", frozen=False)
    assert plan.published == ["No number is published for these settings."]
    changed = {"detection.lr": 0.5}
    plan = plan_of(tmp_path, data="coco", frozen=True, overrides=changed)
    assert plan.published == ["No number is published for these settings."]
    assert len(plan_of(tmp_path, data="coco-10k").published) == 3


def test_data_is_looked_for_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    def gone(self, spec):
        assert spec.kind == "detect"
        raise UserError("an image is missing")

    monkeypatch.setattr("locbench.runs.context.Context.data", gone)
    words = ["downstream", "coco", "--frozen", f"--runs={tmp_path}"]
    with pytest.raises(UserError, match="an image is missing"):
        cli.app(words, standalone_mode=False)
    assert not Store(tmp_path).ids()


def test_splits_are_named_and_their_mean_is_shown(tmp_path, capsys):
    specs = plan_of(tmp_path, data="coco-1k").specs
    for spec, box in zip(specs, (10.0, 14.0), strict=True):
        Store(tmp_path).folder(spec.id).mkdir()
        figures = {"ap_box": {"last": box}, "ap_mask": {"last": 8.0}}
        common = {"scale": spec.scale, "seed": spec.seed, "identity": spec.identity}
        record = Record(id=spec.id, kind="detect", status="done", metrics=figures, **common)
        Store(tmp_path).save(record)
    # Their pretraining is done too, or it would be trained here.
    a_run(tmp_path)
    cli.app(["downstream", "coco-1k", f"--runs={tmp_path}"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert any("loco resnet50 split 2" in line and "14.0" in line for line in lines)
    mean = next(line for line in lines if "mean ± sd of 2" in line)
    assert "12.0 ± 2.8" in mean
    cli.app(["downstream", "coco-1k", f"--runs={tmp_path}", "--json"], standalone_mode=False)
    answer = json.loads(capsys.readouterr().out)
    assert [record["id"] for record in answer["records"]] == [spec.id for spec in specs]
    [backbone] = answer["means"]
    box = backbone["metrics"]["ap_box"]
    assert (backbone["n"], backbone["asked"], box["n"], box["mean"]) == (2, 2, 2, 12.0)
    assert backbone["runs"] == [spec.id for spec in specs]
    assert box["spread"] == pytest.approx(8**0.5) and "ap_box_50" not in backbone["metrics"]


def test_seeds_are_named_and_so_is_one_that_is_not_done(tmp_path, capsys):
    plan = plan_of(tmp_path, data="coco", frozen=True, seed=7, seeds=3)
    assert [spec.seed for spec in plan.specs] == [spec.seed for spec in plan.rivals] == [7, 8, 9]
    assert [spec.parent.seed for spec in plan.specs] == [7, 8, 9]
    assert plan.specs[1:] == plan_of(tmp_path, data="coco", frozen=True, seed=8, seeds=2).specs
    both = plan_of(tmp_path, data="coco-1k", seeds=2).specs
    assert [(spec.seed, spec.recipe.detection.split) for spec in both] == [
        (1234, 0), (1234, 1), (1235, 0), (1235, 1)
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"--seeds: run .* brings its own"):
        plan_of(tmp_path, a_run(tmp_path), data="coco", seeds=2)

    figures = {"ap_mask": {"last": 8.0}}
    records = {
        spec.id: Record(
            spec.id, "detect", "done", "smoke", 0, metrics={"ap_box": {"last": box}, **figures}
        )
        for spec, box in zip(plan.specs[:2], (10.0, 14.0), strict=True)
    }
    print_detectors(plan, records, Store(tmp_path), Console(width=120))
    lines = capsys.readouterr().out.splitlines()
    assert any("loco resnet50 seed 8 " in line and "14.0" in line for line in lines)
    mean = next(line for line in lines if "loco resnet50 mean ± sd of 2 of 3" in line)
    assert "12.0 ± 2.8" in mean


def test_recipes_are_those_of_the_paper_that_has_the_numbers(tmp_path):
    [bp] = plan_of(tmp_path, data="coco", rule="bp", network="resnet34").specs
    assert bp.parent.recipe.name == "auglocal/imagenet" and bp.recipe.detection.lr == 0.002
    assert "Published (auglocal/table12, BP): AP box 36.3" in published_of(tmp_path, "bp")[0]
    [bp] = plan_of(tmp_path, data="coco", rule="bp").specs
    assert bp.parent.recipe.name == "loco/supervised" and bp.recipe.downstream == "coco"
    [other] = plan_of(tmp_path, data="coco", rule="auglocal").specs
    assert other.parent.recipe.name == "auglocal/imagenet" and other.recipe.detection.lr == 0.05
    assert not published_of(tmp_path, "auglocal", "resnet50")


def published_of(store: Path, rule: str, network: str = "resnet34") -> list[str]:
    return plan_of(store, data="coco", rule=rule, network=network).published


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
    left = {path.name for path in folder.iterdir()}
    assert left == {"record.json", "detector.safetensors", "pictures"}
    answer = json.loads(call("--json"))
    assert [again["finished"] for again in answer["records"]] == [record.finished]
    [mean] = answer["means"]
    assert (mean["rule"], mean["n"], mean["asked"]) == ("untrained", 1, 1)
    value = record.metrics["ap_box"]["last"]
    assert mean["metrics"]["ap_box"] == {"mean": value, "spread": None, "n": 1}
