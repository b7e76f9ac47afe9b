"""From a table to runs, and from records back to the table."""

import dataclasses
import statistics

import pytest
from fabricate import fill, record, top1

import locbench
from locbench.errors import RunFailed, UserError
from locbench.paths import runs_dir
from locbench.published.datasets import PUBLISHED_DATA
from locbench.published.load import load_table
from locbench.report.filled import fill_table
from locbench.report.frame import frame
from locbench.runs import plan as reproduce
from locbench.runs.context import Context
from locbench.runs.executor import Watch, carry_out, failure
from locbench.runs.plan import Options, make_plan
from locbench.runs.store import Store

TABLE = load_table("loco/table1")


@pytest.fixture
def store():
    return Store(runs_dir())


def plan_of(table=TABLE, **options):
    return make_plan(table, Options(**options))


def with_fill(**fill):
    """Table 1 with more in every fill."""
    return dataclasses.replace(TABLE, fill={**TABLE.fill, **fill})


def lines(plan, store):
    return {
        (line["method"], line["network"], line["column_key"]): line
        for line in frame(fill_table(plan, store)).to_dict("records")
    }


# --- plans -----------------------------------------------------------------------------------


def test_baselines_of_a_table_without_methods_have_a_name_all_the_same():
    plan = make_plan(load_table("loco/table5"), Options())
    named = [c.cell.row.labels for c in plan.cells if c.baseline]
    assert [labels["sharing"] for labels in named] == ["untrained", "logistic regression on pixels"]


def test_the_tables_of_forms_share_their_runs():
    """Two rows of Table 5 are rows of Table 4, and eight of our table are."""
    tables = ("loco/table4", "loco/table5", "loco/reviewers")
    trained = [
        {run.id for run in make_plan(load_table(name), Options()).runs() if run.kind == "pretrain"}
        for name in tables
    ]
    four, five, ours = trained
    assert [len(runs) for runs in trained] == [12, 8, 14]
    assert (len(four & five), len(four & ours), len(set.union(*trained))) == (2, 8, 24)


def test_table1_needs_six_pretrainings_two_probes_each_and_the_baselines():
    kinds = [spec.kind for spec in plan_of().runs()]
    assert kinds.count("pretrain") == 6 and kinds.count("pixels") == 1
    assert kinds.count("probe") == 6 * 2 + 2 * 2, "untrained networks are probed in both ways too"
    ids = [spec.id for spec in plan_of().runs()]
    assert len(set(ids)) == len(ids)
    for place, spec in enumerate(plan_of().runs()):
        assert spec.parent is None or spec.parent.id in ids[:place]


def test_seeds_count_up_and_keep_the_first():
    one, three = plan_of(), plan_of(seeds=3)
    assert {s.id for s in one.runs()} < {s.id for s in three.runs()}
    assert {s.seed for s in three.runs()} == {0, 1234, 1235, 1236}
    with pytest.raises(UserError, match="seeds is 0"):
        Options(seeds=0)


@pytest.mark.parametrize(
    ("rows", "columns", "wanted"),
    [
        (None, "linear_top1", 11),
        (None, None, 17),
        (None, "moco", 6),
        ("gim", None, 4),
        ("GIM", "linear_top1", 2),
        ("gim resnet-50", None, 2),
        ("gim resnet-50, loco shuffle", "linear_top1", 2),
        ("pirl", None, 1),
        ("1000", None, 1),
        ("epochs=100", None, 0),
        ("network=resnet-50 epochs=800", "linear_top1", 3),
    ],
)
def test_rows_and_columns_are_chosen_by_words(rows, columns, wanted):
    if not wanted:
        with pytest.raises(UserError, match="no cell matches"):
            plan_of(rows=rows, columns=columns)
        return
    cells = [c for c in plan_of(rows=rows, columns=columns).cells if not c.baseline]
    assert len(cells) == wanted


def test_a_selection_of_nothing_says_what_there_is():
    for options in ({"rows": "gim pirl"}, {"columns": "top5"}, {"rows": ""}):
        with pytest.raises(UserError, match="no cell matches --"):
            plan_of(**options)


def test_what_a_cell_sets_lies_under_the_scale_and_over_the_paper():
    table = with_fill(set={"schedule.epochs": 100, "rule.mlp_layers": 4})
    assert {s.recipe.rule["mlp_layers"] for s in plan_of(table).runs()} == {4}
    plain = {s.recipe.schedule for s in plan_of().runs()}
    assert {s.recipe.schedule for s in plan_of(table).runs()} == plain, "smoke keeps its epochs"
    over = plan_of(table, overrides={"schedule.epochs": 2, "rule.mlp_layers": 3})
    assert {s.recipe.schedule.epochs for s in over.runs()} == {2}
    assert {s.recipe.rule["mlp_layers"] for s in over.runs()} == {3}
    paper = plan_of(table, scale="paper", assume_data=True)
    assert {s.recipe.schedule.epochs for s in paper.runs()} == {100}


def test_data_that_is_not_here_is_assumed_only_when_asked():
    for scale, name, images in (("paper", "imagenet", 1_281_167), ("small", "imagenette", 9_469)):
        with pytest.raises(UserError, match="data root"):
            plan_of(scale=scale)
        plan = plan_of(scale=scale, assume_data=True)
        assert plan.assumed == (f"data set {name}",) and {s.data["train"] for s in plan.runs()} == {
            images
        }
    assert plan_of(assume_data=True).assumed == ()


def test_pixels_are_left_out_where_they_do_not_fit():
    assert "pixels" not in {s.kind for s in plan_of(scale="paper", assume_data=True).runs()}
    assert "pixels" in {s.kind for s in plan_of(scale="small", assume_data=True).runs()}


def test_a_table_that_nothing_here_can_fill_has_no_runs(store):
    plan = plan_of(load_table("loco/table8"))
    assert plan.runs() == []
    assert set(frame(fill_table(plan, store))["detail"]) == {"text, not a number"}
    with pytest.raises(UserError, match="did you mean 'smoke'"):
        plan_of(load_table("loco/table8"), scale="smok")


# --- frames ----------------------------------------------------------------------------------


def test_measured_stands_beside_published(store):
    plan = plan_of()
    fill(plan.runs(), store)
    found = lines(plan, store)
    loco = found["LoCo", "ResNet-50", "linear_top1"]
    assert (loco["published"], loco["measured"], loco["n"]) == (69.5, 40.75, 1)
    assert loco["difference"] == 40.75 - 69.5 and loco["spread"] != loco["spread"]
    assert (loco["verdict"], loco["detail"]) == ("not comparable", "scale smoke")
    assert loco["decoder"] == "1 conv block + 2-layer MLP" and loco["scale"] == "smoke"
    assert found["MoCo", "ResNet-50", "linear_top1"]["verdict"] == "cited"
    moco = found["LoCo", "ResNet-50", "linear_top1_moco"]
    assert moco["measured"] == 41.25 and moco["verdict"] == ""
    assert moco["published"] != moco["published"], "nan: the paper has no such number"
    untrained = found["untrained", "ResNet-50", "linear_top1"]
    assert untrained["baseline"] and untrained["decoder"] == "none"
    assert found["logistic regression on pixels", "", "linear_top1"]["measured"] == 11.5


def test_the_papers_order_and_labels_are_kept(store):
    cells = frame(fill_table(plan_of(), store))
    main = cells[cells["column_key"].eq("linear_top1") & ~cells["baseline"]]
    assert list(main["method"]) == [row.labels["method"] for row in TABLE.rows]
    assert list(cells.columns)[:4] == list(TABLE.label_names)
    assert main["epochs"].tolist() == [None] * 4 + [1000] + [800] * 6
    assert all(type(epochs) is int for epochs in main["epochs"].tolist()[4:])


def test_several_seeds_are_mean_sample_deviation_and_n(store):
    plan = plan_of(seeds=3)
    fill(plan.runs(), store)
    line = lines(plan, store)["GIM", "ResNet-50", "linear_top1"]
    planned = next(c for c in plan.cells if c.cell.row.labels["method"] == "GIM")
    values = [top1(spec) for spec in planned.specs]
    assert len(set(values)) == 3
    assert line["measured"] == pytest.approx(statistics.mean(values))
    assert line["spread"] == pytest.approx(statistics.stdev(values)) and line["n"] == 3
    assert len(line["runs"].split()) == 3


@pytest.mark.parametrize("status", ["running", "failed", "diverged"])
def test_what_became_of_a_run_is_told(store, status):
    plan = plan_of(rows="gim resnet-50", columns="linear_top1")
    assert lines(plan, store)["GIM", "ResNet-50", "linear_top1"]["detail"] == "no runs"
    parent = plan.runs()[0]
    store.save(record(parent, status=status, error="why"))
    line = lines(plan, store)["GIM", "ResNet-50", "linear_top1"]
    # The probe has no record yet: it waits for its pretraining.
    wanted = ("diverged", "1 of 1 runs") if status == "diverged" else ("not run", f"1 {status}")
    assert (line["verdict"], line["detail"]) == wanted
    store.discard(parent.id)
    store.save(record(parent))
    assert lines(plan, store)["GIM", "ResNet-50", "linear_top1"]["detail"] == "no runs"


def test_one_diverged_seed_decides_and_its_cell_is_no_ground_for_claims(store):
    plan = plan_of(seeds=2, columns="linear_top1", scale="paper", assume_data=True)
    fill(plan.runs(), store)
    large = "LoCo is above GIM by a large margin, 3.0 at least, on every network"
    claims = {claim.text: claim for claim in fill_table(plan, store).claims}
    assert claims[large].holds is True
    planned = next(c for c in plan.cells if c.cell.row.labels["method"] == "LoCo")
    store.discard(planned.specs[1].id)
    store.save(record(planned.specs[1], status="diverged", error="x"))
    line = lines(plan, store)["LoCo", "ResNet-50", "linear_top1"]
    assert line["verdict"] == "diverged" and line["n"] == 1
    claims = {claim.text: claim for claim in fill_table(plan, store).claims}
    assert (claims[large].holds, claims[large].detail) == (None, "open: 3 of 4 measured")


def test_a_number_that_is_not_finite_is_diverged(store):
    plan = plan_of(rows="gim resnet-50", columns="linear_top1")
    fill(plan.runs(), store, lambda spec: float("nan"))
    assert lines(plan, store)["GIM", "ResNet-50", "linear_top1"]["verdict"] == "diverged"


def test_a_record_without_the_cells_figure_is_named(store):
    plan = plan_of(rows="gim resnet-50", columns="linear_top1")
    for spec in plan.runs():
        store.save(record(spec, metrics={"top5": {"last": 1.0}}))
    with pytest.raises(UserError, match=r"record\.json has no 'top1'; did you mean 'top5'"):
        frame(fill_table(plan, store))


# --- verdicts at paper scale -----------------------------------------------------------------


def paper_line(store, score, **options):
    plan = plan_of(scale="paper", rows="gim resnet-50", columns="linear_top1", **options)
    fill(plan.runs(), store, lambda spec: score)
    return lines(plan, store)["GIM", "ResNet-50", "linear_top1"]


@pytest.fixture
def imagenet(monkeypatch):
    """ImageNet is here, or so it seems; set other numbers of images with `imagenet["train"]`."""
    data = {"name": "imagenet", "version": 1, "checksum": "ab" * 32}
    data |= PUBLISHED_DATA["imagenet"]
    monkeypatch.setattr(reproduce, "fingerprint", lambda *arguments: data)
    return data


@pytest.mark.parametrize(
    ("score", "verdict"), [(64.9, "reproduced"), (60.0, "worse"), (69.0, "better")]
)
def test_paper_runs_are_judged(store, imagenet, score, verdict):
    assert paper_line(store, score)["verdict"] == verdict


def test_a_changed_protocol_is_not_comparable_and_says_what_differs(store, imagenet):
    line = paper_line(store, 64.7, overrides={"optimizer.lr": 2.4, "probe.profile": "loco"})
    assert (line["verdict"], line["detail"]) == ("not comparable", "optimizer.lr 2.4")
    line = paper_line(Store(store.root / "other"), 64.7, overrides={"optimizer.lr": 4.8})
    assert line["verdict"] == "reproduced", "the published value, given once more"


def test_a_step_cut_into_batches_is_not_comparable(store, imagenet, monkeypatch):
    cut = {"training.accumulate": 2}
    line = paper_line(store, 64.7, overrides=cut)
    assert (line["verdict"], line["detail"]) == ("not comparable", "training.accumulate 2")
    own = reproduce.load_joint  # also where the recipe itself says so

    def cutting(name, downstream, scale, overrides, cell):
        return own(name, downstream, scale, {**overrides, **cut}, cell)

    monkeypatch.setattr(reproduce, "load_joint", cutting)
    assert paper_line(Store(store.root / "other"), 64.7)["detail"] == "training.accumulate 2"


def test_other_images_are_not_comparable(store, imagenet):
    imagenet["train"] = 126_689
    line = paper_line(store, 64.7)
    assert line["verdict"] == "not comparable"
    assert line["detail"] == "training images 126,689, not 1,281,167"


# --- running ---------------------------------------------------------------------------------


def test_finished_runs_are_not_run_again(store, monkeypatch):
    plan = plan_of()
    fill(plan.runs(), store)
    monkeypatch.setattr("locbench.runs.executor._run", lambda *_: pytest.fail("was run again"))
    assert carry_out(plan.runs(), Context(store), Watch()) == []


def test_a_failed_run_ends_only_what_depends_on_it(store, monkeypatch):
    plan = plan_of()
    lost = plan.runs()[0]

    def execute(spec, context):
        if spec.id == lost.id:
            raise RunFailed("the loss was not finite")
        assert spec.parent is None or spec.parent.id != lost.id
        made = record(spec)
        store.save(made)
        return made

    monkeypatch.setattr("locbench.runs.executor.execute", execute)
    failures = carry_out(plan.runs(), Context(store), Watch())
    assert failures == [f"{lost.id}: the loss was not finite"]
    children = {s.id for s in plan.runs() if s.parent is not None and s.parent.id == lost.id}
    assert set(store.ids()) == {s.id for s in plan.runs()} - children - {lost.id}
    assert len(children) == 2


def test_a_mistake_of_the_user_ends_all(store, monkeypatch):
    def execute(spec, context):
        raise UserError("no such device")

    monkeypatch.setattr("locbench.runs.executor.execute", execute)
    with pytest.raises(UserError, match="no such device"):
        carry_out(plan_of().runs(), Context(store), Watch())


def test_many_failures_are_one_line():
    assert str(failure(["a: x"])) == "a: x"
    error = failure(["a: x", "b: y", "c: z"])
    assert str(error).startswith("a: x; and 2 more") and error.exit_code == 3


# --- from Python -----------------------------------------------------------------------------


def test_table_gives_the_frame(store):
    plan = plan_of(seeds=3)
    fill(plan.runs(), store)
    cells = locbench.table("loco/table1", seeds=3)
    wanted = {"published", "measured", "n", "spread", "difference", "verdict", "decoder", "scale"}
    assert wanted <= set(cells.columns) and len(cells) == len(plan.cells)
    assert cells.equals(locbench.table("table1", "loco", seeds=3, runs=store.root))
    empty = locbench.table("table1", runs=store.root / "none")
    assert empty["n"].sum() == 0 and set(empty["verdict"]) == {"not run", "cited", ""}


def test_table_runs_what_is_missing_when_asked(store, monkeypatch):
    def execute(spec, context):
        context.store.save(record(spec))
        return record(spec)

    monkeypatch.setattr("locbench.runs.executor.execute", execute)
    cells = locbench.table("table1", run=True, rows="gim", columns="linear_top1")
    assert cells["n"].tolist() == [1] * len(cells) and len(cells) == 5

    def lost(spec, context):
        raise RunFailed("no")

    monkeypatch.setattr("locbench.runs.executor.execute", lost)
    with pytest.raises(RunFailed, match="pretrain-loco-resnet50"):
        locbench.table("table1", run=True, rows="loco", columns="linear_top1")
