"""A run's id moves with all that decides its result, and with nothing else."""

import dataclasses
import json

import pytest
from fabricate import record

from locbench.errors import UserError
from locbench.plugins.entry import UNTRAINED
from locbench.plugins.registry import NETWORKS, RULES
from locbench.recipes import identity, schema
from locbench.recipes.load import load_recipe
from locbench.recipes.schema import SECTIONS, Detection
from locbench.runs.kinds.detect import detector_specs, pretraining_spec
from locbench.runs.kinds.pixels import pixels_spec
from locbench.runs.kinds.probe import VIEW, Probe, probe_spec
from locbench.runs.precision import resolved_precision
from locbench.runs.spec import RunSpec, spec_of, training_spec, unique
from locbench.training.guard import pick_device, pick_precision

DATA = {"name": "shapes", "version": 1, "checksum": "ab" * 32, "classes": 10, "train": 9, "test": 4}
DECIDES = {
    "pretrain": {"data", "augmentation", "network", "optimizer", "schedule", "training", "rule"},
    "probe": {"data", "network", "probe"},
    "pixels": {"data"},
}


def recipe(**overrides):
    named = {key.replace("__", "."): value for key, value in overrides.items()}
    return load_recipe("loco/imagenet", "smoke", named)


def spec(kind="pretrain", rule="loco", network="resnet50", seed=1234, data=DATA, settings=None):
    settings = settings or recipe()
    if kind == "pixels":
        return pixels_spec(settings, data)
    plan = training_spec if kind == "pretrain" else probe_spec
    return plan(settings, rule, network, seed=seed, data=data)


def other(value):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return f"{value}x"
    if isinstance(value, tuple):
        return (*value[:-1], other(value[-1]))
    return value + 1


def changes(base):
    """Every recipe with one value changed, built past the checks: identities need none."""
    for section in SECTIONS:
        if (entries := getattr(base, section)) is None:
            continue
        for field in dataclasses.fields(entries):
            value = other(getattr(entries, field.name))
            changed = dataclasses.replace(entries, **{field.name: value})
            yield section, field.name, dataclasses.replace(base, **{section: changed})
    yield "rule", "temperature", dataclasses.replace(base, rule={"temperature": 9.0})


@pytest.mark.parametrize("kind", ["pretrain", "probe", "pixels"])
def test_every_value_that_decides_the_result_changes_the_id_and_no_other_does(kind):
    mine = spec(kind, rule=UNTRAINED if kind == "probe" else "loco")
    seen = {mine.id}
    for section, name, changed in changes(recipe()):
        theirs = spec(kind, rule=mine.rule, settings=changed) if kind != "pixels" else None
        theirs = theirs or pixels_spec(changed, DATA)
        decides = section in DECIDES[kind]
        if section == "data":
            # The set itself enters by its fingerprint; the recipe adds what is done with it.
            decides = name in ("resolution", "train_images", "validation")
            decides |= name == "classes" and kind == "pretrain"
        if section == "augmentation" and kind != "pretrain":
            decides = name in (VIEW if kind == "probe" else ("interpolation",))
        assert (theirs.id not in seen) == decides, (section, name)
        seen.add(theirs.id)
    assert len(seen) > 3 or kind == "pixels"


def test_a_detectors_id_is_of_its_protocol_its_encoder_and_the_normalisation():
    base = dataclasses.replace(recipe(), detection=Detection())

    def ids(settings, rule=UNTRAINED, **encoder):
        of = settings.for_run(rule, "resnet50")
        specs = detector_specs(of, rule, "resnet50", seed=1234, data=DATA, **encoder)
        return [spec.id for spec in specs]

    [mine] = ids(base)
    seen = {mine}
    for section, name, changed in changes(base):
        # Another drawing is a run of its own, and which one a run has is set by the plan.
        if (section, name) in (("detection", "splits"), ("detection", "split")):
            continue
        [theirs] = ids(changed)
        decides = section in ("network", "detection") and name != "data"  # known by its content
        decides |= section == "augmentation" and name in ("mean", "std")
        assert (theirs not in seen) == decides, (section, name)
        seen.add(theirs)
    drawn = dataclasses.replace(base, detection=Detection(splits=3, train_images=5))
    assert len({mine, *ids(drawn)}) == 4
    whole = dataclasses.replace(base, detection=Detection(splits=3))
    assert {*ids(whole)} == {mine}, "of all images every split is the same run"
    parents = [
        pretraining_spec(base, "loco", "resnet50", seed=1, data={**DATA, "checksum": c})
        for c in "ab"
    ]
    on_data = {ids(base, "loco", parent=parent)[0] for parent in parents}
    of_files = {ids(base, "file", encoder_file=(path, "a"))[0] for path in ("x.pth", "y.pth")}
    assert len(on_data) == 2 and len(of_files) == 1


def test_a_probe_follows_its_pretraining():
    mine = spec("probe")
    assert mine.parent.id == spec("pretrain").id
    assert mine.id != spec("probe", settings=recipe(optimizer__lr=9.0)).id
    assert mine.id != spec("probe", rule=UNTRAINED).id
    # The probe's own settings are none of the pretraining's.
    again = spec("probe", settings=recipe(probe__lr=9.0))
    assert again.id != mine.id and again.parent.id == mine.parent.id
    moco = spec("probe", settings=recipe(probe__profile="moco"))
    assert moco.parent.id == mine.parent.id and "-moco-" in moco.id


@pytest.mark.parametrize("kind", ["pretrain", "probe"])
def test_rule_network_seed_and_data_change_the_id(kind):
    ids = {spec(kind).id}
    ids |= {spec(kind, rule=rule).id for rule in ("gim", "simclr")}
    ids.add(spec(kind, network="shufflenet_v2_50").id)
    ids.add(spec(kind, seed=1235).id)
    ids |= {spec(kind, data={**DATA, key: "2"}).id for key in ("name", "version", "checksum")}
    assert len(ids) == 1 + 2 + 1 + 1 + 3


@pytest.mark.parametrize(("registry", "name"), [(RULES, "loco"), (NETWORKS, "resnet50")])
def test_a_new_version_of_a_rule_or_network_makes_old_records_stale(monkeypatch, registry, name):
    before = spec("pretrain").id, spec("probe").id
    assert (spec("pretrain").id, spec("probe").id) == before
    entry = registry.entry(name)
    newer = dataclasses.replace(entry, version=entry.version + 1)
    monkeypatch.setitem(registry.entries, name, newer)
    assert spec("pretrain").id != before[0] and spec("probe").id != before[1]


def test_a_new_version_of_the_probe_leaves_pretrainings_alone(monkeypatch):
    before = spec("pretrain").id, spec("probe").id
    monkeypatch.setattr(Probe, "version", 99)
    assert spec("pretrain").id == before[0] and spec("probe").id != before[1]


def test_a_default_said_aloud_is_the_same_run():
    said = {"rule__sharing": "stage", "optimizer__momentum": 0.9, "augmentation__flip": 0.5}
    for kind in ("pretrain", "probe"):
        assert spec(kind, settings=recipe(**said)).id == spec(kind).id
    whole = spec(settings=recipe(rule__temperature=1))
    assert whole.id == spec(settings=recipe(rule__temperature=1.0)).id


def test_a_new_setting_whose_default_changes_nothing_leaves_every_id(monkeypatch):
    before = [spec(kind).id for kind in DECIDES]

    @dataclasses.dataclass(frozen=True)
    class Training(schema.Training):
        groups: int = 1

    plain = recipe()
    newer = dataclasses.replace(plain, training=Training(**vars(plain.training)))
    monkeypatch.setattr(identity, "FIRST_FORMS", (*identity.FIRST_FORMS, Training))
    assert [spec(kind, settings=newer).id for kind in DECIDES] == before
    other_groups = dataclasses.replace(newer.training, groups=8)
    assert spec(settings=dataclasses.replace(newer, training=other_groups)).id != before[0]


def test_precision_is_in_the_id_as_the_device_has_it(monkeypatch):
    monkeypatch.setattr("locbench.runs.spec.resolved_precision", lambda setting, device: device)
    runs = {device: plan(device) for device in ("fp32", "bf16")}
    assert runs["fp32"].id != runs["bf16"].id
    assert runs["fp32"].parent.recipe.training.precision == "fp32"
    assert runs["fp32"].in_precision("bf16").id == runs["bf16"].id
    assert runs["fp32"].any_precision == runs["bf16"].any_precision
    assert runs["fp32"].any_precision != plan("fp32", seed=9).any_precision


def plan(device, seed=1234):
    return probe_spec(recipe(), "loco", "resnet50", seed=seed, data=DATA, device=device)


def test_what_auto_means_is_what_training_takes():
    for device in ("auto", "cpu"):
        taken = pick_precision("auto", pick_device(device))
        assert resolved_precision("auto", device) == ("bf16" if taken else "fp32")


def test_an_encoder_file_counts_by_its_content():
    def probe(path, digest):
        return RunSpec("probe", recipe(), "file", "resnet50", 1, DATA, encoder_file=(path, digest))

    assert probe("a.pth", "0").id == probe("/elsewhere/b.pth", "0").id != probe("a.pth", "1").id


def test_the_title_and_name_of_a_recipe_do_not_decide():
    renamed = dataclasses.replace(recipe(), name="mine", title="other")
    assert spec(settings=renamed).id == spec().id


def test_an_id_says_what_the_run_is():
    assert spec("probe").id.startswith("probe-loco-resnet50-loco-smoke-s1234-")
    assert spec("pretrain").id.startswith("pretrain-loco-resnet50-smoke-s1234-")
    assert spec("pixels").id.startswith("pixels-smoke-s0-")
    assert spec().id.endswith(spec().hash[:10])
    assert json.loads(json.dumps(spec("probe").identity)) == spec("probe").identity


def test_each_run_is_listed_once_and_after_what_it_needs():
    probes = [spec("probe"), spec("probe", settings=recipe(probe__profile="moco"))]
    runs = unique([*probes, spec("probe"), spec("pixels")])
    assert [run.id for run in runs] == [
        probes[0].parent.id, probes[0].id, probes[1].id, spec("pixels").id
    ]  # fmt: skip


def test_what_is_not_registered_is_no_run():
    with pytest.raises(UserError, match="did you mean 'loco'"):
        spec(rule="locco")
    with pytest.raises(UserError, match="did you mean 'resnet50'"):
        spec(network="resnet")


def test_what_a_kind_reads_of_a_section_decides_under_whatever_form_it_is_said():
    """The forms of [augmentation] have other defaults: their names alone are not enough."""
    forms = ("simclr", "crop", "resized crop")
    recipes = [load_recipe("loco/imagenet", "smoke", {"augmentation.name": name}) for name in forms]
    pixels = {r.augmentation.interpolation: pixels_spec(r, DATA).id for r in recipes}
    assert len(pixels) == len(set(pixels.values())) == 2
    whole = [dataclasses.replace(r, detection=Detection()) for r in recipes]
    ids = {}
    for r in whole:
        [made] = detector_specs(r, UNTRAINED, "resnet50", seed=1, data=DATA)
        ids.setdefault((r.augmentation.mean, r.augmentation.std), set()).add(made.id)
    assert all(len(found) == 1 for found in ids.values())
    assert len(set.union(*ids.values())) == len(ids) == 2


def test_a_record_of_a_tuning_run_gives_back_the_images_that_there_were():
    training = spec(settings=recipe(data__validation=100), data={**DATA, "train": 900})
    made = record(training)
    made.data["train_images"] = 800  # as it is counted after 100 were held out
    again = spec_of(made, "here")
    assert again.id == training.id and again.data["train"] == 900
    assert again.of.images(again) == 800
