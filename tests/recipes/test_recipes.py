"""Recipes: what the shipped ones hold, how layers are merged, and that every mistake is named."""

import dataclasses
import json
import math

import pytest

from locbench.errors import UserError
from locbench.plugins.registry import RULES
from locbench.recipes import load as recipes
from locbench.recipes.chosen import chosen_keys
from locbench.recipes.load import load_recipe, recipe_from_dict, recipe_names, with_overrides
from locbench.recipes.recipe import SCALES
from locbench.recipes.schema import SECTIONS
from locbench.recipes.validation import parse_overrides

IMAGENET = "loco/imagenet"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a recipe file into a recipes folder of its own."""
    monkeypatch.setattr(recipes, "recipes_dir", lambda: tmp_path)

    def write_file(name, text):
        path = tmp_path / f"{name}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write_file


def error(*args, **kwargs):
    """The one line of the UserError that load_recipe raises."""
    with pytest.raises(UserError) as caught:
        load_recipe(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def forms():
    """Every form of every section: the section's name, the dataclass, and what chooses the form."""
    for section, known in SECTIONS.items():
        for form in known:
            yield section, form, {f"{section}.name": form.name} if len(known) > 1 else {}


# --- what is shipped -------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "wanted"), [("paper", 0.1), ("small", 0.1), ("smoke", 0.2)])
def test_every_contrastive_rule_has_the_recipes_temperature(scale, wanted):
    recipe = load_recipe(IMAGENET, scale)
    rules = [rule for rule in RULES if not rule.source and "temperature" in rule.settings]
    assert {"simclr", "gim", "loco"} <= {rule.name for rule in rules}
    for rule in rules:
        assert recipe.for_run(rule.name, "resnet50").rule["temperature"] == wanted


def test_loco_imagenet_at_paper_scale_is_the_protocol_of_section_5_1():
    recipe = load_recipe(IMAGENET)
    assert recipe.name == IMAGENET and recipe.scale == "paper" and recipe.title
    assert recipe.rule == {}, "what it says is said of rules by name: others have their own"
    assert dataclasses.astuple(recipe.data) == ("imagenet", 224, 0, 0, 0)
    assert dataclasses.astuple(recipe.network) == (1.0, 0, "imagenet")
    assert dataclasses.astuple(recipe.optimizer) == ("lars", 4.8, 0.9, 1e-6, 0.001)
    assert recipe.optimizer.lr == pytest.approx(0.3 * recipe.training.batch / 256)
    assert dataclasses.astuple(recipe.schedule) == (800, 10.0)
    assert dataclasses.astuple(recipe.training) == (4096, "auto", 1, 1)
    view = recipe.augmentation
    assert view.area == (0.08, 1.0) and view.aspect == (3 / 4, 4 / 3)
    assert (view.flip, view.jitter, view.grayscale, view.blur) == (0.5, 0.8, 0.2, 0.5)
    assert (view.brightness, view.contrast, view.saturation, view.hue) == (0.8, 0.8, 0.8, 0.2)
    assert view.sigma == (0.1, 2.0) and view.interpolation == "bicubic"
    assert view.mean == (0.485, 0.456, 0.406) and view.std == (0.229, 0.224, 0.225)
    assert math.floor(view.kernel * recipe.data.resolution) // 2 * 2 + 1 == 23


def test_both_probe_profiles_of_the_papers():
    loco = load_recipe(IMAGENET).probe
    moco = load_recipe(IMAGENET, overrides={"probe.profile": "moco"}).probe
    assert loco.profile == "loco" and loco.momentum == 0 and loco.milestones == (30, 60, 90)
    assert moco.profile == "moco" and moco.momentum == 0.9 and moco.milestones == (60, 80)
    for probe in (loco, moco):
        assert (probe.epochs, probe.lr, probe.batch, probe.weight_decay) == (100, 30.0, 256, 0.0)
        assert probe.augment and probe.blocks == "last"


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_resolves_at_every_scale_and_profile(name, scale):
    default = load_recipe(name, scale)
    pretrains = default.gives == "views" and default.detection is None
    for profile in ("loco", "moco") if pretrains else ():
        probe = load_recipe(name, scale, {"probe.profile": profile}).probe
        assert probe.profile == profile and probe.milestones[-1] < probe.epochs
    assert recipe_from_dict(json.loads(json.dumps(default.as_dict())), "here") == default


def test_reduced_scales_are_cheap_and_need_no_download_at_smoke():
    small, smoke = load_recipe(IMAGENET, "small"), load_recipe(IMAGENET, "smoke")
    assert small.data.name == "imagenette" and smoke.data.name == "shapes"
    assert smoke.network.blocks == 1 and smoke.network.stem == "small"
    for recipe in (small, smoke):
        assert recipe.data.resolution <= 64 and recipe.network.width <= 0.25
        assert not recipe.probe.augment
        assert recipe.schedule.epochs <= 80 and recipe.training.batch <= 256
        assert recipe.optimizer.weight_decay == 1e-6


def test_the_header_says_paper_results_time_and_command():
    text = (recipes.recipes_dir() / f"{IMAGENET}.toml").read_text()
    header = text.split("\n\ntitle")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    for needed in ("section 5.1", "69.5", "A100", "--scale paper --data-root DIR", "[chosen]"):
        assert needed in header


# --- layers ----------------------------------------------------------------------------------

BASE = """
title = "base"
[rule]
temperature = 0.5
kind = "soft"
[optimizer]
lr = 1.0
momentum = 0.5
[probe]
momentum = 0.1
lr = 7.0
[probe.profiles.moco]
momentum = 0.9
milestones = [60, 80]
[scales.smoke.optimizer]
momentum = 0.25
[scales.smoke.schedule]
epochs = 20
"""

CHILD = """
extends = "base"
[optimizer]
momentum = 0.75
[rule]
temperature = 0.1
[probe]
momentum = 0.2
epochs = 90
[scales.smoke.schedule]
epochs = 30
[scales.smoke.probe]
epochs = 10
[scales.smoke.probe.profiles.moco]
milestones = [6, 8]
"""


def test_a_file_is_over_its_base_and_a_scale_over_both(write):
    write("base", BASE)
    write("child", CHILD)
    paper, smoke = load_recipe("child"), load_recipe("child", "smoke")
    assert paper.title == "base" and paper.rule == {"temperature": 0.1, "kind": "soft"}
    assert (paper.optimizer.lr, paper.optimizer.momentum) == (1.0, 0.75)
    assert paper.schedule.epochs == 800
    # The base says 0.25 at smoke and the child 0.75 in general: the scale decides.
    assert (smoke.optimizer.lr, smoke.optimizer.momentum) == (1.0, 0.25)
    assert smoke.schedule.epochs == 30


def test_a_scale_says_what_its_readers_have_to_know(write):
    write("base", "[scales.small]\nnote = 'not tuned'\n[scales.small.schedule]\nepochs = 20\n")
    write("heir", "extends = 'base'\n")
    assert load_recipe("heir", "small").note == "not tuned"
    assert load_recipe("heir").note == "" and "note" not in load_recipe("heir").as_dict()


def test_values_that_are_marked_as_chosen_are_known(write):
    optimizer = "[optimizer]\nlr = 4.8  # [chosen]\ntrust = 1  # [chosen] x\n"
    write("base", f"[network]  # [chosen] all of it\n{optimizer}")
    rule = (
        "[network]\n[optimizer]\nlr = 0.3  # section 5\n[rules.loco]\ntemperature = 0.1 # [chosen]"
    )
    small = "[scales.small.data]\nresolution = 1 # [chosen]"
    write("heir", f"extends = 'base'\n# [chosen] marks\n{rule}\n{small}\n")
    assert chosen_keys("heir") == ["network", "optimizer.trust", "rules.loco.temperature"]


def test_a_profile_is_over_the_probe_of_both_files_and_under_the_scale(write):
    write("base", BASE)
    write("child", CHILD)
    moco = {"probe.profile": "moco"}
    assert load_recipe("child").probe.momentum == 0.2
    paper = load_recipe("child", "paper", moco).probe
    assert (paper.momentum, paper.milestones, paper.epochs, paper.lr) == (0.9, (60, 80), 90, 7.0)
    smoke = load_recipe("child", "smoke", moco).probe
    assert (smoke.momentum, smoke.milestones, smoke.epochs) == (0.9, (6, 8), 10)
    assert load_recipe("child", "smoke", {**moco, "probe.momentum": 0.0}).probe.momentum == 0.0


def test_a_cell_is_under_the_scale_and_the_command_line_over_everything(write):
    write("base", BASE)
    cell = {"schedule.epochs": 100, "optimizer.lr": 0.5, "rule.kind": "hard"}
    paper = load_recipe("base", cell=cell)
    assert (paper.schedule.epochs, paper.optimizer.lr, paper.rule["kind"]) == (100, 0.5, "hard")
    smoke = load_recipe("base", "smoke", cell=cell)
    # The scale says 20 epochs and nothing of lr.
    assert (smoke.schedule.epochs, smoke.optimizer.lr, smoke.rule["kind"]) == (20, 0.5, "hard")
    over = load_recipe("base", "smoke", {"schedule.epochs": 3, "schedule.warmup_epochs": 1}, cell)
    assert (over.schedule.epochs, over.optimizer.lr) == (3, 0.5)


def test_a_cell_chooses_the_probe_profile(write):
    write("base", BASE)
    cell = {"probe.profile": "moco"}
    assert load_recipe("base", cell=cell).probe.momentum == 0.9
    assert load_recipe("base", "smoke", cell=cell).probe.milestones == (60, 80)
    both = load_recipe("base", "smoke", {"probe.profile": "loco"}, cell)
    assert both.probe.profile == "loco" and both.probe.momentum == 0.1
    write("plain", "[probe.profiles.moco]\nmomentum = 0.9\n")
    assert load_recipe("plain", cell=cell).probe.momentum == 0.9


def test_a_mistake_in_a_cell_is_named():
    assert "the cell's set schedule.epoch:" in error(IMAGENET, "smoke", cell={"schedule.epoch": 1})


def test_a_recipe_with_other_values_keeps_the_rest(write):
    write("base", BASE)
    base = load_recipe("base", "smoke", {"probe.epochs": 7})
    moco = with_overrides(base, {"probe.profile": "moco", "probe.lr": "0.5"})
    assert moco.probe.milestones == (60, 80) and moco.probe.lr == 0.5
    # A profile is what its file says; what was set before for the other one is not part of it.
    assert moco.probe.epochs == 100 and moco.schedule == base.schedule
    changed = with_overrides(base, {"probe.blocks": "all"})
    assert changed.probe == dataclasses.replace(base.probe, blocks="all")
    assert with_overrides(base, {}) == base
    with pytest.raises(UserError, match=r"override probe\.epoch: unknown key"):
        with_overrides(base, {"probe.epoch": 1})


def test_one_level_of_extends(write):
    write("base", BASE)
    write("child", CHILD)
    path = write("grandchild", 'extends = "child"')
    line = error("grandchild")
    assert str(path) in line and "'base'" in line and "one level" in line
    path = write("orphan", 'extends = "bas"')
    line = error("orphan")
    assert str(path) in line and "unknown recipe 'bas'" in line


def test_a_file_that_changed_is_read_again(write):
    write("mine", "[optimizer]\nlr = 1.0\n")
    assert load_recipe("mine").optimizer.lr == 1.0
    write("mine", "[optimizer]\nlr = 0.25\n")
    assert load_recipe("mine").optimizer.lr == 0.25


def test_a_recipe_may_be_any_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('extends = "loco/imagenet"\n[optimizer]\nlr = 2.4\n')
    recipe = load_recipe(str(path), "smoke", {"optimizer.lr": 2.4})
    assert recipe.optimizer.lr == 2.4 and recipe.name == str(tmp_path / "mine")
    again = load_recipe(recipe.name, "smoke", {"optimizer.lr": 2.4})
    assert again == recipe, "a record holds this name"
    assert "no such recipe file" in error(str(tmp_path / "none.toml"))


def test_a_scale_that_a_recipe_lacks_is_not_run_as_the_paper(write):
    path = write("alone", "[schedule]\nepochs = 10\n")
    assert load_recipe("alone").schedule.epochs == 10
    line = error("alone", "smoke")
    assert "scales.smoke" in line and str(path) in line
    assert "unknown scale 'smok'" in error("alone", "smok")


# --- mistakes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[optimizer]\nlrr = 1.0", "unknown key 'optimizer.lrr'; did you mean 'lr'?"),
        ("[optimiser]\nlr = 1.0", "unknown section or key 'optimiser'; did you mean 'optimizer'?"),
        ("[scales.smok.data]\nresolution = 8", "unknown scale 'smok'; did you mean 'smoke'?"),
        ("[scales.small.probe]\nepoch = 8", "scales.small: unknown key 'probe.epoch'"),
        ("[scales.small]\ntitle = 'x'", "scales.small: unknown section or key 'title'"),
        ("scales = 1", "scales must be a table, not 1"),
        ("[probe.profiles.moco]\nmilestone = [1]", "profiles.moco: unknown key 'probe.milestone'"),
        ("[probe.profiles.moco]\nprofile = 'x'", "cannot choose a profile itself"),
        ("[probe]\nprofiles = 3", "probe.profiles must be a table, not 3"),
        ("[data]\nname = 'shpes'", "data.name: unknown data set 'shpes'; did you mean 'shapes'?"),
        ("[training]\nprecision = 'bf61'", "unknown value 'bf61'; did you mean 'bf16'?"),
        ("[training]\nbatch = 1", "training.batch must be a whole number >= 2, not 1"),
        ("[training]\nbatch = 6\naccumulate = 4", "training.accumulate = 4"),
        ("[training]\nbatch = 4\naccumulate = 4", "batches of two or more; set a multiple"),
        ("[schedule]\nepochs = 1.5", "schedule.epochs must be a whole number, not 1.5"),
        ("[schedule]\nepochs = true", "schedule.epochs must be a whole number, not True"),
        ("[optimizer]\nlr = nan", "optimizer.lr must be a number >= 0.0, not nan"),
        ("[optimizer]\nlr = inf", "optimizer.lr must be a finite number, not inf"),
        ("[optimizer]\nlr = '1'", "optimizer.lr must be a number, not '1'"),
        ("[optimizer]\nmomentum = 1.0", "optimizer.momentum must be a number < 1.0, not 1.0"),
        ("[augmentation]\narea = [0.5]", "area must be a list of length 2, not [0.5]"),
        ("[augmentation]\nstd = [0.2, 0.0, 0.2]", "std[1] must be a number > 0.0, not 0.0"),
        ("[augmentation]\nmean = [0.2, nan, 0.2]", "mean[1] must be a finite number, not nan"),
        ("[augmentation]\nsigma = [2.0, 0.1]", "augmentation.sigma must be [low, high]"),
        ("[probe]\naugment = 1", "probe.augment must be true or false, not 1"),
        ("[probe]\nmilestones = [60, 30]", "probe.milestones must rise"),
        ("[schedule]\nepochs = 5", "schedule.warmup_epochs = 10 is longer"),
        ("[rule]\nx = [1]", "rule.x must be a number or text or true or false, not [1]"),
        ("[rule]\nx = inf", "rule.x must be a finite number, not inf"),
        ("data = 3", "data must be a section, [data], not a value"),
        ("extends = 3", "extends must be text"),
        ("lr = = 1", "cannot be read as TOML: Invalid value (at line 1"),
    ],
)
def test_a_mistake_in_a_file_is_one_line_with_file_key_and_remedy(write, text, wanted):
    path = write("wrong", text)
    line = error("wrong")
    assert line.startswith(f"{path}") and wanted in line


def test_a_file_that_is_not_text(write, tmp_path):
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    assert "binary.toml" in error("binary")


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("optimizer.lrr", 1, "did you mean 'optimizer.lr'"),
        ("lr", 1, "'optimizer.lr' or 'probe.lr'"),
        ("rule", 1, "SECTION.NAME"),
        ("rule.", 1, "unknown key"),
        ("optimizer", 1, "SECTION.NAME"),
        ("optimizer.lr", "fast", "a number, not 'fast'"),
        ("optimizer.lr", "-1", "a number >= 0.0, not -1"),
        ("probe.profile", "mocco", "did you mean 'moco'"),
        ("rule.temperature", [1], "rule.temperature"),
    ],
)
def test_a_mistake_in_an_override_is_named(key, value, wanted):
    line = error(IMAGENET, "smoke", {key: value})
    assert wanted in line and (key in line)


def test_an_unknown_recipe_is_suggested():
    assert "did you mean 'loco/imagenet'" in error("loco/imagnet")


def test_every_key_refuses_what_is_not_of_its_type():
    for section, form, chosen in forms():
        for field in dataclasses.fields(form):
            key, default = f"{section}.{field.name}", field.default
            wrong = 3 if isinstance(default, str | bool | tuple) else "nonsense"
            for value in (wrong, {}, None, [["x"]]):
                assert key in error(IMAGENET, "paper", {**chosen, key: value})


# --- overrides, dicts, hashes ----------------------------------------------------------------


def test_parse_overrides_reads_toml_scalars_and_bare_words():
    pairs = [
        "optimizer.lr=0.4",
        "schedule.epochs = 3",
        "data.name=shapes",
        'training.precision="fp32"',
        "probe.augment=false",
        "probe.milestones=[1, 2]",
        "rule.text=a=b",
    ]
    values = parse_overrides(pairs)
    assert values == {
        "optimizer.lr": 0.4,
        "schedule.epochs": 3,
        "data.name": "shapes",
        "training.precision": "fp32",
        "probe.augment": False,
        "probe.milestones": [1, 2],
        "rule.text": "a=b",
    }
    recipe = load_recipe(IMAGENET, "smoke", values)
    assert recipe.probe.milestones == (1, 2) and recipe.rule["text"] == "a=b"
    assert recipe.training.precision == "fp32" and not recipe.probe.augment


def test_text_for_a_number_is_read_as_toml_and_text_stays_text():
    recipe = load_recipe(IMAGENET, "smoke", {"optimizer.lr": "1e-3", "rule.kind": "1"})
    assert recipe.optimizer.lr == 1e-3 and recipe.rule["kind"] == "1"


def test_a_value_cannot_bring_keys_of_its_own():
    assert parse_overrides(["rule.x=1\ny=2"]) == {"rule.x": "1\ny=2"}


@pytest.mark.parametrize("pair", ["optimizer.lr", "=3", ""])
def test_a_pair_that_is_no_pair(pair):
    with pytest.raises(UserError, match="KEY=VALUE"):
        parse_overrides([pair])


def test_whole_numbers_become_floats_where_floats_belong():
    whole = load_recipe(IMAGENET, "smoke", {"optimizer.lr": 1, "augmentation.area": [1, 1]})
    float_ = load_recipe(IMAGENET, "smoke", {"optimizer.lr": 1.0, "augmentation.area": (1.0, 1.0)})
    assert isinstance(whole.optimizer.lr, float)
    assert all(isinstance(x, float) for x in whole.augmentation.area)
    assert whole.hash == float_.hash


def changed(value):
    """Another value of the same type that is within every limit of the recipe."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        others = {"shapes": "folder", "small": "imagenet", "auto": "fp32", "reflect": "zeros"}
        others |= {"bicubic": "bilinear", "bilinear": "bicubic", "loco": "moco", "last": "all"}
        return others.get(value)
    if isinstance(value, tuple):
        return [*value[:-1], changed(value[-1])]
    return value + 1 if isinstance(value, int) else value * 0.75 or 0.5


# So that one key alone can be changed: a detector's length, warm-up and falls hang together.
FITTING = {"detection.milestones": [], "detection.warmup": 0, "detection.epochs": 90}


def test_the_hash_moves_with_every_value_and_with_nothing_else():
    base = load_recipe(IMAGENET, "smoke")
    assert base.hash == load_recipe(IMAGENET, "smoke").hash
    seen = {base.hash}
    for section, form, chosen in forms():
        fitting = {**chosen, **(FITTING if section == "detection" else {})}
        held = getattr(load_recipe(IMAGENET, "smoke", chosen), section) or form()
        for field in dataclasses.fields(form):
            value = changed(getattr(held, field.name))
            if value is None:  # a choice of one
                continue
            other = load_recipe(IMAGENET, "smoke", {**fitting, f"{section}.{field.name}": value})
            assert other.hash not in seen, f"{section}.{field.name}"
            assert recipe_from_dict(json.loads(json.dumps(other.as_dict())), "here") == other
            seen.add(other.hash)
    assert load_recipe(IMAGENET, "smoke", {"rule.temperature": 0.75}).hash not in seen


def test_a_recipe_in_a_record_is_checked_like_a_file():
    values = load_recipe(IMAGENET, "smoke").as_dict()
    values["optimizer"]["lr"] = -1
    with pytest.raises(UserError, match=r"here: optimizer\.lr must be a number >= 0"):
        recipe_from_dict(values, "here")
    for key, value in (("scale", "big"), ("scale", None), ("name", 3), ("probs", {})):
        with pytest.raises(UserError, match="here: "):
            recipe_from_dict({**load_recipe(IMAGENET).as_dict(), key: value}, "here")
