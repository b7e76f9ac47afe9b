"""AugLocal's recipes and tables: what they hold, which runs they ask for, and under which ids."""

import pytest

from locbench.errors import UserError
from locbench.published.load import load_table
from locbench.recipes.load import load_recipe, recipe_from_dict
from locbench.recipes.schema import SGD, Crop, EpochCosine, ResizedCrop, Schedule
from locbench.runs.plan import Options, make_plan
from locbench.runs.spec import training_spec

NAMES = ("cifar10", "svhn", "stl10", "imagenet")
CIFAR, SVHN, STL, IMAGENET = (f"auglocal/{name}" for name in NAMES)
DATA = {"name": "cifar10", "version": 1, "checksum": "ab" * 32}
DATA |= {"classes": 10, "train": 50_000, "test": 10_000}


def spec(rule="auglocal", network="resnet32", recipe=CIFAR, scale="paper", **overrides):
    named = {key.replace("__", "."): value for key, value in overrides.items()}
    return training_spec(load_recipe(recipe, scale, named), rule, network, seed=1234, data=DATA)


# --- the protocols of the paper --------------------------------------------------------------


def test_cifar_at_paper_scale_is_the_protocol_of_the_appendix_and_the_code():
    recipe = load_recipe(CIFAR)
    assert (recipe.data.name, recipe.data.resolution, recipe.data.train_images) == (
        "cifar10",
        32,
        0,
    )
    crop = recipe.augmentation
    assert (crop.padding, crop.padding_mode, crop.flip) == (4, "reflect", 0.5)
    assert [round(255 * v, 6) for v in crop.mean] == [125.3, 123.0, 113.9]
    assert [round(255 * v, 6) for v in crop.std] == [63.0, 62.1, 66.7]
    assert recipe.optimizer == SGD(lr=0.8, momentum=0.9, nesterov=True, weight_decay=1e-4)
    assert recipe.schedule == EpochCosine(epochs=400, warmup_epochs=10, warmup_lr=0.01)
    assert recipe.training.batch == 1024 and recipe.gives == "label"


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        (SVHN, {"padding": 2, "padding_mode": "zeros", "flip": 0.0}),
        (STL, {"padding": 4, "padding_mode": "zeros", "flip": 0.5}),
    ],
)
def test_the_other_data_sets_change_the_augmentation(name, changed):
    recipe, cifar = load_recipe(name), load_recipe(CIFAR)
    assert recipe.augmentation == Crop(**changed, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert recipe.schedule == cifar.schedule
    stl = name == STL
    assert recipe.optimizer.lr == (0.1 if stl else 0.8)
    assert (recipe.training.batch, recipe.data.resolution) == ((128, 96) if stl else (1024, 32))


@pytest.mark.parametrize(
    ("recipe", "network", "weights"),
    [
        (CIFAR, "resnet32", (5.0, 0.05, 0.2, 0.5)),
        (CIFAR, "resnet110", (5.0, 0.0, 0.5, 1.0)),
        (SVHN, "resnet110", (5.0, 0.2, 0.5, 1.0)),
        (STL, "resnet32", (20.0, 0.5, 10.0, 0.1)),
        (STL, "resnet110", (20.0, 0.5, 10.0, 0.1)),
    ],
)
def test_infopros_weights_go_with_data_and_network(recipe, network, weights):
    settings = load_recipe(recipe).for_run("infopro", network).rule
    assert tuple(settings[k] for k in ("x_first", "y_first", "x_last", "y_last")) == weights
    assert load_recipe(recipe).for_run("bp", network).rule == {}
    over = load_recipe(recipe, overrides={"rule.x_first": 1.0}).for_run("infopro", network)
    assert over.rule["x_first"] == 1.0 and over.rule["y_last"] == weights[-1]
    assert over.rules == {} and "rules" not in over.as_dict()


def test_smoke_is_small_and_small_is_at_least_what_was_asked_of_it():
    smoke, small = load_recipe(CIFAR, "smoke"), load_recipe(CIFAR, "small")
    assert smoke.data.name == "shapes" and isinstance(smoke.schedule, Schedule)
    assert small.data.train_images >= 10_000 and small.schedule.epochs >= 10


def test_imagenet_at_paper_scale_is_the_protocol_of_resnet34_in_the_official_code():
    recipe = load_recipe(IMAGENET)
    assert (recipe.data.name, recipe.data.resolution) == ("imagenet", 224)
    assert recipe.augmentation == ResizedCrop(interpolation="bilinear") and recipe.gives == "label"
    assert recipe.optimizer == SGD(lr=0.4, momentum=0.9, nesterov=True, weight_decay=1e-4)
    assert recipe.schedule == EpochCosine(epochs=200, warmup_epochs=0)
    assert recipe.training.batch == 1024 and recipe.network.stem == "imagenet"


def test_auglocal_on_imagenet_has_one_depth_and_no_joint_layers():
    assert load_recipe(IMAGENET).for_run("bp", "resnet34").rule == {}
    settings = {"decay": 0.0, "joint": False}
    assert load_recipe(IMAGENET).for_run("auglocal", "resnet50").rule == settings
    assert load_recipe(IMAGENET).for_run("auglocal", "resnet34").rule == settings | {"depth": 5}
    assert load_recipe(IMAGENET).for_run("auglocal", "resnet101").rule == settings | {"depth": 4}
    own = {"depth": 6, "halving": "width", "classifier": "mlp", "initial": "torch"}
    assert load_recipe(IMAGENET).for_run("auglocal", "vgg13").rule == settings | own
    own = {"by_width": True, "initial": "torch"}
    assert load_recipe(IMAGENET).for_run("dgl", "vgg13").rule == own
    assert "auglocal-resnet34-r0-d5-no_joint-" in spec(network="resnet34", recipe=IMAGENET).id


def test_coco_is_fine_tuned_with_adamw_and_mmdets_own_heads():
    paper, smoke = (load_recipe("auglocal/coco", scale).detection for scale in ("paper", "smoke"))
    assert (paper.optimizer, paper.lr, paper.weight_decay) == ("adamw", 1e-4, 0.05)
    assert (paper.data, paper.batch, paper.epochs, paper.milestones) == ("coco", 16, 12, (8, 11))
    for asked in (paper, smoke):
        assert (asked.frozen, asked.fixed_norm) == ("first", True)
        assert (asked.norm, asked.box_head) == ("none", "2fc")
    assert (smoke.data, smoke.optimizer, smoke.lr) == ("shapes", "adamw", 0.002)


# --- forms of a section ----------------------------------------------------------------------


def test_another_form_starts_its_section_afresh():
    changed = load_recipe(CIFAR, overrides={"optimizer.name": "lars"}).optimizer
    assert (changed.name, changed.lr, changed.trust) == ("lars", 4.8, 0.001)
    same = load_recipe(CIFAR, overrides={"optimizer.name": "sgd"}).optimizer
    assert same.lr == 0.8
    views = load_recipe(CIFAR, overrides={"augmentation.name": "simclr"})
    assert views.gives == "views" and views.augmentation.area == (0.08, 1.0)
    assert recipe_from_dict(views.as_dict(), "here") == views


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"optimizer.trust": 0.1}, "unknown key 'optimizer.trust'"),
        ({"optimizer.name": "adam"}, "unknown value 'adam'"),
        ({"optimizer.name": ["sgd"]}, "unknown value"),
        ({"schedule.warmup_lr": -1}, "a number >= 0.0, not -1"),
        ({"augmentation.padding_mode": "wrap"}, "unknown value 'wrap'"),
    ],
)
def test_a_key_of_another_form_and_a_wrong_value_are_named(overrides, words):
    with pytest.raises(UserError, match=words) as caught:
        load_recipe(CIFAR, overrides=overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[rules.bq]\n", "unknown rule 'bq'"),
        ("[rules]\nbp = 1\n", r"must be a section, \[rules.bp\]"),
        ("[rules.bp.resnet33]\ncheckpoint = true\n", "unknown network 'resnet33'"),
        ("[rules.bp]\ncheckpoint = [1]\n", "rules.bp.checkpoint must be"),
    ],
)
def test_mistakes_in_settings_by_rule_are_named(tmp_path, text, words):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        load_recipe(str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


# --- ids -------------------------------------------------------------------------------------


def test_one_protocol_has_one_id():
    mine = spec(rule__depth=2)
    assert mine.id == spec().id == spec(rule__selection="uniform").id, "these are the defaults"
    assert spec(rule__decay=1).id == spec(rule__decay=1.0).id
    assert spec("infopro").id == spec("infopro", rule__x_first=5.0).id


def test_an_id_says_what_it_is():
    run = spec(network="resnet110", rule__depth=6, rule__selection="repetitive/uniform/uniform")
    assert run.id.startswith("train-auglocal-resnet110-d6-repetitive-uniform-uniform-cifar10-paper")
    assert spec("bp", rule__checkpoint=True).id.startswith("train-bp-resnet32-checkpoint-cifar10")


@pytest.mark.parametrize(
    ("rule", "overrides", "words"),
    [
        ("loco", {}, "learns from two views .* set augmentation.name to simclr"),
        ("bp", {"rule__depth": 3}, "rule 'bp' has no setting 'depth'"),
        ("auglocal", {"rule__depth": "two"}, "wants int"),
    ],
)
def test_what_does_not_go_together_is_refused_when_it_is_planned(rule, overrides, words):
    with pytest.raises(UserError, match=words):
        spec(rule, **overrides)


def test_a_contrastive_recipe_is_not_for_a_rule_with_labels():
    with pytest.raises(UserError, match=r"learns from one view and its label, .* crop"):
        spec("bp", recipe="loco/imagenet")


# --- tables ----------------------------------------------------------------------------------


def plan_of(name, **options):
    return make_plan(load_table(f"auglocal/{name}"), Options(**options))


def test_table1_runs_the_cifar_column_at_smoke_and_lays_out_the_others():
    plan = plan_of("table1")
    assert sum(cell.baseline for cell in plan.cells) == 1, "the pixels of CIFAR-10's images"
    assert len(plan.cells) == 2 * 54 + 1 and len(plan.runs()) == 18 + 1
    assert {p.cell.column.key for p in plan.cells if not p.later} == {"cifar10", "cifar10_best"}
    whole = plan_of("table1", columns="all")
    pixels = [cell.cell.column.label for cell in whole.cells if cell.baseline]
    assert pixels == ["CIFAR-10 / SVHN", "STL-10"], "one regression for the same images"
    assert len(whole.runs()) == 54 + 2
    assert len(plan_of("table1", columns="svhn").runs()) == 18 + 1
    assert len(plan_of("table1", rows="resnet-32 bp").runs()) == 1 + 1
    assert len(plan_of("table1", scale="paper", assume_data=True).runs()) == 54
    depths = {s.recipe.rule.get("depth") for s in plan.runs()}
    assert depths == {None, 2, 3, 4, 5, 6}


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("table2", 12),
        ("table5", 40),
        ("table8", 15),
        ("table9", 20),
        ("table10", 7),
        ("table13", 16),
    ],
)
def test_every_cell_of_the_accuracy_tables_has_a_run_of_its_own(name, runs):
    """Whose best epoch a cell beside the table shows."""
    plan = plan_of(name, scale="paper", assume_data=True)
    last, best = (
        {p.cell.key: p.specs for p in plan.cells if p.cell.column.epoch == epoch}
        for epoch in ("last", "best")
    )
    assert len(plan.runs()) == len(last) == runs and all(len(s) == 1 for s in last.values())
    assert best == {(row, f"{key}_best"): specs for (row, key), specs in last.items()}


def test_imagenet_and_coco_share_the_trainings_of_resnet34():
    """Two of Table 3's trainings are of ResNet-34; Table 12 puts a detector on each."""
    for scale in ("smoke", "paper"):
        three, twelve = (
            plan_of(name, scale=scale, assume_data=True).runs() for name in ("table3", "table12")
        )
        rules = {"vgg13": ["bp", "dgl", "auglocal"]} if scale == "paper" else {}
        rules |= {name: ["bp", "auglocal"] for name in ("resnet34", "resnet101")}
        wanted = [(network, rule) for network in rules for rule in rules[network]]
        assert [(s.network, s.rule) for s in three if s.rule != "pixels"] == wanted
        three = [s for s in three if s.network == "resnet34"]
        assert [s.kind for s in twelve] == ["train", "detect"] * 2
        assert [s.id for s in twelve[::2]] == [s.id for s in three]
        assert [s.parent.id for s in twelve[1::2]] == [s.id for s in three]


def test_each_network_of_table_3_has_its_own_rate_batch_and_epochs():
    def protocols(scale):
        runs = plan_of("table3", scale=scale, rows="all", assume_data=True).runs()
        return {
            (s.network, s.recipe.optimizer.lr, s.recipe.training.batch, s.recipe.schedule.epochs)
            for s in runs
        }

    wanted = {("vgg13", 0.1, 256, 90), ("resnet34", 0.4, 1024, 200), ("resnet101", 0.2, 512, 200)}
    assert protocols("paper") == wanted
    assert {protocol[1:] for protocol in protocols("smoke")} == {(0.1, 64, 3)}


def test_tables_share_the_runs_that_are_the_same():
    def ids(name):
        plan = plan_of(name, scale="paper", assume_data=True)
        return {(p.cell.row.index, p.cell.column.key): p.specs[0].id for p in plan.cells}

    one, five, nine, thirteen = (ids(f"table{n}") for n in (1, 5, 9, 13))
    for d in range(2, 7):
        auglocal = one[(11 + d, "cifar10")]  # the rows of ResNet-110 follow nine of ResNet-32
        assert auglocal == five[(0, f"d{d}")] == nine[(0, f"d{d}")] == thirteen[(0, f"d{d}")]
        assert nine[(1, f"d{d}")] == five[(4, f"d{d}")], "the scaled DGL is C3x3"
    assert ids("table10")[(0, "cifar10")] == five[(0, "d6")]
    assert ids("table10")[(6, "cifar10")] == one[(12, "cifar10")], "DGL"
