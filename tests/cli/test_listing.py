"""What `list` and `show` print: everything that there is, whole, at any width."""

import io
import json
import shutil

import pytest
from fabricate import fill, record
from rich.console import Console

from locbench.cli.listing import LISTINGS, listing, print_listing, print_published, published_json
from locbench.errors import UserError
from locbench.paths import runs_dir, tables_dir
from locbench.plugins.registry import DATASETS, DETECTION_SETS, NETWORKS, RULES
from locbench.published import load
from locbench.published.load import load_table, table_names
from locbench.recipes.load import recipe_names
from locbench.report import check
from locbench.report.claims import MARKS, claims_in_print
from locbench.runs.plan import Options, make_plan
from locbench.runs.store import Store


@pytest.fixture
def store():
    return Store(runs_dir())


@pytest.fixture(autouse=True)
def no_results(tmp_path, monkeypatch):
    monkeypatch.setattr(check, "results_dir", lambda: tmp_path / "results")


def printed(show, *arguments, width=100):
    console = Console(width=width, file=io.StringIO(), color_system=None, highlight=False)
    show(*arguments, console)
    return console.file.getvalue()


def rows(what, store):
    _, heads, lines = listing(what, store)
    return {line[0]: dict(zip(heads, line, strict=True)) for line in lines}


def test_everything_that_there_is_is_listed(store):
    assert list(rows("tables", store)) == table_names()
    assert list(rows("recipes", store)) == recipe_names()
    for what, registry in (("rules", RULES), ("networks", NETWORKS)):
        assert list(rows(what, store)) == registry.names()
    kinds = {"images": DATASETS, "detection": DETECTION_SETS}
    sets = [(row[0], row[1]) for row in listing("datasets", store)[2]]
    assert sets == [(name, kind) for kind, names in kinds.items() for name in names.names()]
    assert rows("runs", store) == {}
    with pytest.raises(UserError, match="did you mean 'tables'"):
        listing("table", store)


def test_rules_say_what_can_be_set(store):
    settings = rows("rules", store)["loco"]["settings"].split()
    assert settings[:3] == ["temperature=0.1", "decoder=blocks", "decoder_blocks=1"]
    assert "sharing=stage" in settings and "decoder_downsampling=true" in settings


def test_recipes_say_what_they_train_on_and_for_how_long(store):
    recipes = {name: list(row.values())[2:] for name, row in rows("recipes", store).items()}
    assert recipes["loco/imagenet"] == ["imagenet", "800 epochs", "views", ""]
    assert recipes["auglocal/svhn"] == ["svhn", "400 epochs", "label", ""]
    assert recipes["loco/coco"] == ["coco", "12 epochs", "objects", "all"]
    assert recipes["loco/coco10k"] == ["coco", "60,000 steps", "objects", "first"]


def test_tables_say_what_is_published_can_run_and_is_measured(store):
    before = rows("tables", store)
    assert before["loco/table1"]["cells"] == 11 and before["loco/table1"]["can run"] == 6
    assert before["loco/table1"]["records"] == "-" and before["loco/table8"]["can run"] == 0
    assert before["loco/reviewers"]["cells"] == before["loco/reviewers"]["can run"] == 28
    plan = make_plan(load_table("loco/table1"), Options())
    mine = [s for c in plan.cells[:9] for s in c.specs]
    fill(mine, store)
    some = rows("tables", store)["loco/table1"]["records"]
    fill(plan.runs(), check.reference_store())
    assert some not in ("-", "6 smoke")
    assert rows("tables", store)["loco/table1"]["records"] == "6 smoke", "the committed ones too"


def test_a_table_that_cannot_be_read_is_a_row_that_says_why(store, tmp_path, monkeypatch):
    monkeypatch.setattr(load, "tables_dir", lambda: tmp_path)
    shutil.copytree(tables_dir() / "loco", tmp_path / "loco")
    with (tmp_path / "loco/table7.toml").open("a") as file:
        file.write("[extra]")
    tables = rows("tables", store)
    assert "table7.toml: unknown key 'extra'" in tables["loco/table7"]["title"]
    assert tables["loco/table8"]["cells"] == 32


def test_runs_are_listed_and_a_broken_one_does_not_hide_the_others(store):
    runs = make_plan(load_table("loco/table1"), Options()).runs()
    store.save(record(runs[0]))
    store.save(record(runs[1], status="failed", error="disk [full]"))
    store.path(runs[0].id).write_text("{")
    listed = rows("runs", store)
    assert listed[runs[0].id]["status"] == "broken" and "truncated" in listed[runs[0].id]["error"]
    assert listed[runs[1].id]["status"] == "failed"
    assert "disk [full]" in printed(print_listing, listing("runs", store))
    assert printed(print_listing, listing("runs", Store(store.root / "x"))).strip().endswith("yet")


@pytest.mark.parametrize("what", [what for what in LISTINGS if what != "tables"])
def test_listings_fit_a_terminal_of_100_columns(store, what):
    text = printed(print_listing, listing(what, store))
    assert max(map(len, text.splitlines())) <= 100
    names = [row[0] for row in listing(what, store)[2]]
    assert all(name in text for name in names)


@pytest.mark.parametrize("name", table_names())
def test_a_published_table_is_whole_at_100_columns(name):
    table = load_table(name)
    text = printed(print_published, table)
    assert max(map(len, text.splitlines())) <= 100
    flat = " ".join(text.split())
    # In words, as lines are broken between them; text in brackets is no markup.
    for part in (table.title, table.caption, table.source, *table.notes):
        assert " ".join(part.split()) in flat
    for claim in claims_in_print(table):
        assert f"{MARKS[claim.holds]} {claim.text} {claim.note}".strip() in flat


def test_a_claim_that_print_contradicts_says_so_with_its_section():
    flat = " ".join(printed(print_published, load_table("auglocal/table2")).split())
    assert (
        "✗ AugLocal consistently outperforms the other local rules, at every d and on both data "
        "sets section 4.2; print contradicts it in 1 of 12: SVHN: AugLocal d=2 96.48 against DGL"
    ) in flat


def test_every_published_number_of_a_table_is_shown():
    text = printed(print_published, load_table("loco/table1"))
    body = text.split("────\n")[1].split("\n\n")[0]
    values = [x.split()[-1] for x in body.splitlines()]
    assert values == ["60.2*", "60.6*", "63.6*", "63.8*", "69.3*",
                      "69.8", "64.7", "69.5", "69.1", "63.5", "69.3"]  # fmt: skip


def test_published_json_holds_every_cell_and_claim():
    table = load_table("loco/table1")
    answer = json.loads(json.dumps(published_json(table)))
    assert len(answer["cells"]) == len(list(table.cells())) and answer["notes"] == list(table.notes)
    loco = next(c for c in answer["cells"] if c["method"] == "LoCo" and c["value"] is not None)
    assert (loco["value"], loco["unit"], loco["cited"]) == (69.5, "%", False)
    claims = {c["text"]: c for c in answer["claims"]}
    assert len(claims) == len(table.claims)
    slightly = claims["LoCo is even slightly better than SimCLR, on every network"]
    assert (slightly["section"], slightly["holds_in_print"]) == ("section 5.1", False)
    *_, variance = published_json(load_table("loco/table3"))["claims"]
    assert "variance" in variance["text"] and variance["holds_in_print"] is None  # not printed
