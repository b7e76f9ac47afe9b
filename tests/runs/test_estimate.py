"""Time and disk: from what was measured, else from multiply-adds, else said to be unknown."""

import dataclasses

import pytest
from fabricate import record

from locbench.paths import runs_dir
from locbench.plugins.entry import UNTRAINED
from locbench.plugins.registry import NETWORKS
from locbench.recipes.load import load_recipe
from locbench.recipes.schema import Network
from locbench.report import check
from locbench.runs import estimate
from locbench.runs.estimate import (
    RECORD_BYTES,
    Estimate,
    built_size,
    duration,
    known_records,
    size,
    total,
)
from locbench.runs.kinds.pixels import pixels_spec
from locbench.runs.kinds.pretrain import CHECKPOINT_ENCODERS
from locbench.runs.kinds.probe import probe_spec
from locbench.runs.spec import training_spec
from locbench.runs.store import Store

DATA = {"name": "shapes", "version": 1, "checksum": "", "classes": 10, "train": 1000, "test": 400}


# Nothing here may hang on what the smoke scale happens to be.
BASE = {
    "data__resolution": 32,
    "network__width": 0.25,
    "schedule__epochs": 4,
    "schedule__warmup_epochs": 0,
    "probe__epochs": 10,
    "probe__milestones": [5],
    "probe__augment": False,
}


def spec(kind="pretrain", rule="loco", network="resnet50", images=1000, **sets):
    values = {key.replace("__", "."): value for key, value in {**BASE, **sets}.items()}
    recipe = load_recipe("loco/imagenet", "smoke", values)
    data = {**DATA, "train": images}
    if kind == "pixels":
        return pixels_spec(recipe, data)
    make = training_spec if kind == "pretrain" else probe_spec
    return make(recipe, rule, network, seed=1, data=data)


def guess(run, *known, build=False, device="cpu"):
    return estimate.estimate(run, known, device=device, build=build)


def test_time_is_scaled_by_images_epochs_and_pixels():
    known = record(spec())
    times = {"images": 2000, "schedule__epochs": 12, "data__resolution": 64}
    for (key, value), factor in zip(times.items(), (2, 3, 4), strict=True):
        found = guess(spec(**{key: value}), known)
        assert found.seconds == pytest.approx(60 * factor) and found.basis == "cpu"
        assert not found.rough


def test_a_probe_without_augmentation_passes_its_images_once():
    once = record(spec("probe"))
    assert guess(spec("probe", probe__epochs=20), once).seconds == pytest.approx(60)
    again = guess(spec("probe", probe__epochs=20, probe__augment=True), once)
    assert again.seconds == pytest.approx(60 * 20)


def test_the_same_rule_is_preferred_and_another_one_will_do():
    gim, loco = record(spec(rule="gim")), record(spec())
    loco.cost["wall_time_s"] = 90.0
    assert guess(spec(), gim, loco).seconds == 90.0 and guess(spec(), gim).seconds == 60.0
    assert guess(spec("probe", rule=UNTRAINED), record(spec("probe"))).seconds == 60.0
    assert guess(spec("pixels"), record(spec("pixels"))).seconds == 60.0


def test_another_shape_is_told_from_multiply_adds_and_called_rough():
    known = record(spec())
    known.cost |= {"images_per_s": 100.0, "encoder_multiply_adds": 10**6}
    larger = spec(network="resnet50", network__width=0.5, images=500, schedule__epochs=8)
    unbuilt = guess(larger, known)
    assert unbuilt.seconds is None and unbuilt.kept_bytes is None
    found = guess(larger, known, build=True)
    operations = built_size("resnet50", larger.recipe.network, 32).multiply_adds
    # 500 images 8 times, at 100 images a second of a network that is so many times as small.
    assert found.seconds == pytest.approx(500 * 8 / 100 * operations / 10**6)
    assert found.rough and found.basis == "cpu"

    probe = spec("probe", network__width=0.5, images=500, probe__augment=False)
    passes = guess(probe, known, build=True).seconds
    assert passes == pytest.approx(found.seconds / 8 / 6), "one forward of one view"


def test_the_rate_is_that_of_the_largest_network():
    small, large = record(spec()), record(spec(network="shufflenet_v2_50"))
    small.cost |= {"images_per_s": 1.0, "encoder_multiply_adds": 10}
    large.cost |= {"images_per_s": 1000.0, "encoder_multiply_adds": 10**6}
    larger = spec(network__width=0.5)
    found = guess(larger, small, large, build=True)
    operations = built_size("resnet50", larger.recipe.network, 32).multiply_adds
    assert found.seconds == pytest.approx(1000 * 4 / 1000 * operations / 10**6)
    assert guess(spec(network__width=0.5), build=True).seconds is None


def test_another_device_tells_nothing_but_by_a_measured_ratio():
    known, elsewhere = record(spec()), record(spec(), environment={"device": "H200"})
    elsewhere.cost |= {"wall_time_s": 1.0, "images_per_s": 8000.0}
    assert guess(spec(), elsewhere).seconds is None
    assert guess(spec(), known, device="H200").seconds is None
    assert guess(spec(), known, device=None).seconds is None
    assert guess(spec(), elsewhere, known).seconds == 60.0, "this device's own go first"
    # Images a second of the same training on both: 400 and 8,000.
    known.kind, known.units = "measure", []
    found = guess(spec(), elsewhere, known)
    assert found.seconds == pytest.approx(20.0) and found.rough
    assert found.basis == "H200, times 20 as steps on both"


def test_nothing_is_told_from_what_is_a_thousand_times_as_short():
    known = record(spec())
    assert guess(spec(schedule__epochs=4000), known).seconds == pytest.approx(60_000)
    assert guess(spec(schedule__epochs=4004), known).seconds is None
    other = spec(network__width=0.5, schedule__epochs=100_000)
    assert guess(other, known, build=True).seconds is None


def test_a_built_network_has_the_numbers_of_the_real_one():
    settings = Network(width=0.125, blocks=1, stem="small")
    network = NETWORKS.get("resnet50")(settings, num_classes=10)
    head = sum(p.numel() for p in network.head.parameters())
    wanted = sum(p.numel() for p in network.parameters()) - head
    found = built_size("resnet50", settings, 16)
    assert found.parameters == wanted and found.multiply_adds > 0
    assert 3.5 < built_size("resnet50", settings, 32).multiply_adds / found.multiply_adds < 4.5


def test_disk_is_encoder_and_checkpoint_for_a_pretraining_and_little_for_the_rest():
    known = record(spec())
    found = guess(spec(), known)
    assert found.kept_bytes == 4 * 90_000 + RECORD_BYTES
    assert found.working_bytes == CHECKPOINT_ENCODERS * 4 * 90_000
    probe = guess(spec("probe"), known, record(spec("probe")))
    assert (probe.kept_bytes, probe.working_bytes) == (RECORD_BYTES, 0)


def test_known_records_are_finished_ones_here_then_in_results(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "results_dir", lambda: tmp_path / "results")
    monkeypatch.setattr(check, "results_dir", lambda: tmp_path / "results")
    here, there = Store(runs_dir()), check.reference_store()
    assert known_records(here) == []
    there.save(record(spec()))
    here.save(record(spec(rule="gim")))
    here.save(record(spec(rule="simclr"), status="running"))
    assert [r.rule["name"] for r in known_records(here)] == ["gim", "loco"]
    here.path(here.ids()[0]).write_text("{")
    assert [r.rule["name"] for r in known_records(here)] == ["loco"], "a broken one is passed over"


def test_a_total_says_what_it_rests_on():
    exact = Estimate(120.0, 10**6, 3 * 10**6, "cpu")
    rough = dataclasses.replace(exact, seconds=7200.0, basis="GPU", rough=True)
    unknown = Estimate(None, None, 0, "nothing")
    assert total([]) == "nothing to do"
    assert total([exact, exact]) == (
        "about 4 min (from runs on cpu), about 2.0 MB to keep and 3.0 MB more while it runs"
    )
    assert total([exact, rough, unknown]).startswith(
        "roughly 2.0 h and 1 of unknown length (from runs on cpu, GPU), about 2.0 MB"
    )
    assert total([unknown]).startswith("time unknown (nothing), about 0 kB")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "unknown"), (3.2, "3 s"), (89, "89 s"), (90, "2 min"), (5400, "1.5 h"),
     (47 * 3600, "47.0 h"), (30 * 86400, "30 days"),
     (1e9, "32 years")],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_sizes():
    assert [size(x) for x in (None, 20_000, 1.5e6, 2.5e9)] == [
        "unknown", "20 kB", "1.5 MB", "2.5 GB"
    ]  # fmt: skip
