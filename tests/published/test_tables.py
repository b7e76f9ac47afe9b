"""Published tables: what the files hold, and what the loader refuses."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from locbench.errors import UserError
from locbench.paths import tables_dir
from locbench.published import load as tables
from locbench.published.claims import KINDS
from locbench.published.load import (
    Published,
    Table,
    count,
    layout,
    legend,
    load_table,
    resolve_name,
    table_names,
)
from locbench.recipes.reading import merge

# Published, ours and fillable cells; the sums of the printed numbers and of their standard
# deviations, added up from the papers' numbers apart from these files; and a digest of every label,
# value and deviation in order, which a swap of two numbers changes and a sum does not.
PINNED = {
    "loco/table1": (11, 0, 12, 723.4, 0, "171847f1843c7124"),
    "loco/table2": (52, 0, 52, 1570.5, 0, "55b3555f9e8b4cd8"),
    "loco/table3": (32, 0, 32, 561.0, 0, "3c54e71074d464df"),
    "loco/table4": (12, 0, 12, 781.4, 0, "b70581db23f3aa08"),
    "loco/table5": (8, 0, 8, 524.1, 0, "804e1eb44438c8b5"),
    "loco/table6": (22, 0, 29, 408.32, 0, "938db0d188723a19"),
    "loco/table7": (8, 1, 17, 197.41, 0, "cdb98eff375bc99e"),
    "loco/table8": (32, 0, 0, 0, 0, "8a1322848349cd96"),
    "loco/memory": (0, 0, 36, 0, 0, "e3b0c44298fc1c14"),
    "loco/reviewers": (8, 0, 28, 520.4, 0, "b933dc95db42b5aa"),
    "auglocal/table1": (54, 0, 54, 4721.5, 14.32, "cb26fbf2fd475f79"),
    "auglocal/table2": (12, 0, 12, 1130.22, 1.75, "a0ee348f9e28caed"),
    "auglocal/table3": (14, 0, 14, 1150.87, 0, "e1d02f253037c093"),
    "auglocal/table4": (9, 5, 43, 345.6, 0, "ab2fd753b7ef52cd"),
    "auglocal/table5": (40, 0, 40, 3564.22, 6.96, "b82295d158b80393"),
    "auglocal/table6": (12, 0, 0, 0, 0, "713a5ce6785ab16a"),
    "auglocal/table7": (39, 0, 98, 2137.41, 2.29, "33bae38cd72b1541"),
    "auglocal/table8": (15, 0, 15, 1410.05, 1.88, "b6467de24bde8176"),
    "auglocal/table9": (20, 0, 20, 1762.4, 5.35, "5bbe5f66768cee7e"),
    "auglocal/table10": (7, 0, 7, 633.73, 1.36, "8303dbee21b2d859"),
    "auglocal/table11": (25, 0, 35, 27.63, 0, "4e48215c7473f1ba"),
    "auglocal/table12": (12, 0, 12, 509.5, 0, "f134b901604301b4"),
    "auglocal/table13": (16, 0, 16, 1495.59, 2.56, "71b3c1219428151c"),
    "auglocal/memory": (0, 0, 48, 0, 0, "e3b0c44298fc1c14"),
}
ALL = {name: load_table(name) for name in PINNED}


def published(table: Table) -> list[Published]:
    return [cell.published for cell in table.cells() if cell.published is not None]


def digest(table: Table) -> str:
    lines = [
        f"{list(c.row.labels.values())} {c.column.key} {c.published.value} {c.published.std}"
        for c in table.cells()
        if c.published is not None
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def value(name: str, column: str, **labels: str | int) -> Published:
    """The one published cell with these labels and no `d` unless it is asked for."""
    labels = {"d": None, **labels}
    found = [
        cell.published
        for cell in ALL[name].cells()
        if cell.column.key == column and all(cell.row.labels.get(k) == v for k, v in labels.items())
    ]
    assert len(found) == 1, (name, column, labels, found)
    return found[0]


def test_all_tables_are_there_in_order():
    printed = [name for name in table_names() if load_table(name).number is not None]
    assert [name for name in table_names() if name in PINNED] == list(PINNED)
    assert set(printed) <= set(PINNED), "what a paper printed is pinned"
    assert ALL["auglocal/table10"].number == 10 and ALL["auglocal/table10"].paper == "auglocal"


@pytest.mark.parametrize("name", PINNED)
def test_the_published_numbers(name: str):
    table = ALL[name]
    numbers = [p for p in published(table) if not isinstance(p.value, str) and not p.ours]
    total = round(sum(p.value for p in numbers), 4)
    spread = round(sum(p.std or 0 for p in numbers), 4)
    assert (*count(table).values(), total, spread, digest(table)) == PINNED[name]


@pytest.mark.parametrize("name", PINNED)
def test_every_number_can_be_judged(name: str):
    """A number has the spread of print or a tolerance, the figure it is, and a place in words."""
    table = ALL[name]
    for cell in table.cells():
        assert cell.column.metric and cell.column.label
        if not isinstance(cell.published and cell.published.value, str):
            spread = cell.published and cell.published.std
            measured = cell.published is None and cell.fill["evaluation"] in ("trace", "measure")
            judged = cell.inside and not measured
            assert spread is not None or cell.tolerance is not None or not judged, cell.key
            assert cell.column.unit, cell.column
    assert table.title and table.caption
    if table.number is None:
        assert table.source.startswith("A table of ours")
    else:
        assert f"Table {table.number}" in table.source
    assert "page" not in table.source  # no page was looked up
    assert all(row.source for row in table.rows if row.cited)


def test_numbers_in_two_tables_agree():
    """AugLocal prints its ResNet-110 results up to five times."""
    for d in range(2, 7):
        first = value("auglocal/table1", "cifar10", network="ResNet-110", method="AugLocal", d=d)
        assert value("auglocal/table5", f"d{d}", selection="Unif.") == first
        assert value("auglocal/table7", "accuracy", method="AugLocal", d=d) == first
        assert value("auglocal/table9", f"d{d}", method="AugLocal") == first
        assert value("auglocal/table13", f"d{d}", loss="CE") == first
        scaled = value("auglocal/table9", f"d{d}", method="DGL")
        assert value("auglocal/table5", f"d{d}", selection="C3x3") == scaled
    for method in ("BP", "PredSim", "DGL", "InfoPro"):
        first = value("auglocal/table1", "cifar10", network="ResNet-110", method=method)
        assert value("auglocal/table7", "accuracy", method=method) == first
    for method, d in (("BP", None), ("Gradient checkpoint", None), ("AugLocal", 6)):
        first = value("auglocal/table4", "memory", network="ResNet-110", method=method, d=d)
        assert value("auglocal/table7", "memory", method=method, d=d) == first


def test_our_table_has_the_numbers_of_the_same_cells_of_loco_s_table_4():
    """By what fills them: the same run, the same number; and no number without one."""

    def by_run(name: str) -> dict[str, float]:
        cells = [c for c in ALL[name].cells() if c.column.key == "linear_top1"]
        return {
            repr((c.fill["rule"], sorted(c.fill.get("set", {}).items()))): c.published
            for c in cells
        }

    theirs, ours = by_run("loco/table4"), by_run("loco/reviewers")
    shared = {run: number for run, number in ours.items() if run in theirs}
    assert len(ours) == 14 and len(shared) == 8
    assert shared == {run: theirs[run] for run in shared}
    assert {ours[run] for run in ours if run not in theirs} == {None}
    assert ALL["loco/table4"].fill["recipe"] == ALL["loco/reviewers"].fill["recipe"]


def test_every_cell_of_a_table_of_ours_is_inside_it():
    ours, theirs = ALL["loco/reviewers"], ALL["loco/table1"]
    assert (ours.number, theirs.number) == (None, 1)
    assert all(cell.inside for cell in ours.cells())
    beside = [cell for cell in theirs.cells() if not cell.inside]
    assert {cell.column.key for cell in beside} == {"linear_top1_moco"}


def test_shares_add_up_to_the_whole():
    rows = [row.published for row in ALL["loco/table6"].rows]
    for column in ("presnet50_memory", "presnet50_flops", "resnet50_memory", "resnet50_flops"):
        shares = [row[column].value for row in rows if column in row]
        assert len(shares) == (6 if column.startswith("p") else 4)
        assert sum(shares) == pytest.approx(100, abs=0.005 * len(shares))  # each is rounded


def test_our_columns_follow_from_print():
    rows = ALL["auglocal/table4"].rows
    base = {r.labels["network"]: r for r in rows if r.labels["method"] == "BP"}
    computed = [r for r in rows if "reduction" in r.published]
    assert len(computed) == 5
    for row in computed:
        before = base[row.labels["network"]].published["memory"].value
        saved = 100 * (1 - row.published["memory"].value / before)
        assert row.published["reduction"] == Published(round(saved, 1), ours=True)


def test_table1_of_loco_is_filled_by_six_rows_and_two_probes():
    table = ALL["loco/table1"]
    fills = {cell.key: cell.fill for cell in table.cells() if cell.fill}
    assert list(fills) == [(r, c.key) for r in range(5, 11) for c in table.columns]
    base = {"recipe": "loco/imagenet", "evaluation": "probe"}
    assert fills[7, "linear_top1"] == base | {"rule": "loco", "network": "resnet50"}
    moco = {"rule": "gim", "network": "shufflenet_v2_50", "set": {"probe.profile": "moco"}}
    assert fills[9, "linear_top1_moco"] == base | moco
    assert [row.cited for row in table.rows] == [True] * 5 + [False] * 6
    assert {(c.metric, c.unit, c.ours) for c in table.columns} == {
        ("top1", "%", False),
        ("top1", "%", True),
    }


def test_merging_fills_changes_neither():
    base, over = {"recipe": "a", "set": {"x": 1, "y": 2}}, {"rule": "loco", "set": {"y": 3}}
    result = merge(base, over)
    assert result == {"recipe": "a", "rule": "loco", "set": {"x": 1, "y": 3}}
    result["set"]["x"] = merge(base, {})["set"]["x"] = merge({}, over)["set"]["y"] = 9
    assert base["set"] == {"x": 1, "y": 2} and over["set"] == {"y": 3}


def test_names():
    assert resolve_name("table1") == resolve_name("loco/table1") == "loco/table1"
    assert resolve_name("table1", "auglocal") == "auglocal/table1"
    assert resolve_name("auglocal/table1", "auglocal") == "auglocal/table1"
    assert load_table("table3").name == "loco/table3"
    assert resolve_name("reviewers") == "loco/reviewers"


@pytest.mark.parametrize(
    ("name", "paper", "says"),
    [
        ("tabel1", None, "unknown table 'loco/tabel1'; did you mean 'loco/table1'?"),
        ("table9", None, "did you mean 'auglocal/table9'?"),
        ("loco/table1", "auglocal", "not one of paper 'auglocal'"),
        ("table1", "aglocal", "unknown paper 'aglocal'; did you mean 'auglocal'?"),
        ("../loco/table1", None, "unknown table"),
    ],
)
def test_unknown_names(name: str, paper: str | None, says: str):
    with pytest.raises(UserError) as error:
        resolve_name(name, paper)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_layout_is_the_paper_s_with_marks():
    headers, rows = layout(ALL["auglocal/table1"])
    assert headers == ["network", "method", "d", "CIFAR-10 (%)", "SVHN (%)", "STL-10 (%)"]
    assert rows[0] == ["ResNet-32", "BP", "", "93.73±0.04", "97.01±0.03", "80.80±0.17"]
    assert layout(ALL["auglocal/table2"])[1][3][:4] == ["VGG19", "AugLocal", "2?", "93.16±0.28"]
    headers, rows = layout(ALL["loco/table1"])
    assert headers[-1] == "linear top-1 (%)", "nobody printed a number for MoCo's probe"
    assert legend(ALL["loco/table1"])[-1].endswith("linear top-1, MoCo's probe")
    assert rows[1] == ["MoCo", "ResNet-50", "no", "", "60.6*"]
    assert layout(ALL["loco/table8"])[1][4][-1].endswith("x3?")
    for name, table in ALL.items():
        headers, rows = layout(table)
        assert {len(row) for row in rows} == {len(headers)}, name


def test_legend_explains_every_mark():
    for name, table in ALL.items():
        headers, rows = layout(table)
        text = "".join(headers + [cell for row in rows for cell in row])
        marks = {line[0] for line in legend(table)} & set(tables.MARKS.values())
        assert marks == {mark for mark in tables.MARKS.values() if mark in text}, name
    assert any("text of section 5.6" in line for line in legend(ALL["loco/table7"]))


def test_depths_that_were_not_read_in_print_say_so():
    inferred = {
        name: [row.labels["d"] for row in table.rows if "d" in row.inferred]
        for name, table in ALL.items()
        if "d" in table.label_names
    }
    assert {name: depths for name, depths in inferred.items() if depths} == {
        "auglocal/table2": [2, 3, 4],
        "auglocal/table3": [6, 5, 4],
        "auglocal/table4": [6, 6, 5, 4],
        "auglocal/table8": [2, 3, 4, 5] * 3,
    }
    for table in ALL.values():
        assert all(set(row.reasons) == set(row.inferred) for row in table.rows)


TOY = """
title = "Toy"
source = "Somewhere, Table 1"
caption = "Nothing much"
labels = ["method", "d"]
defaults = { metric = "top1", unit = "%", decimals = 1 }
columns = [{ key = "a", label = "A", tolerance_percent = 10 }, { key = "b", label = "B" }]
rows = [
    { method = "BP", a = 93.7, b = [90.0, 0.2] },
    { method = "X", d = 2, a = { value = 91.0, std = 0.1, n = 5 }, inferred = { d = "lost" } },
    { method = "X", d = 3, a = 92.5, b = "-", fill = { rule = "loco", set = { "probe.lr" = 1 } } },
]
[reasons]
lost = "gone"
[fill]
recipe = "loco/imagenet"
evaluation = "probe"
network = "resnet50"
set = { "probe.lr" = 0, "probe.augment" = true }
[[claims]]
text = "X is below BP"
kind = "below"
a = { method = "X" }
b = { method = "BP" }
columns = ["a"]
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function from the text of a table to the table."""
    monkeypatch.setattr(tables, "tables_dir", lambda: tmp_path)
    path = tmp_path / "toy" / "table1.toml"
    path.parent.mkdir()

    def load(text: str | bytes) -> Table:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_table("toy/table1")

    return load


def test_a_table_is_read_as_written(toy):
    table = toy(TOY)
    assert [c.key for c in table.cells()] == [(0, "a"), (0, "b"), (1, "a"), (2, "a"), (2, "b")]
    cells = {cell.key: cell for cell in table.cells()}
    assert cells[0, "b"].published == Published(90.0, 0.2)
    assert cells[1, "a"].published == Published(91.0, 0.1, 5)
    assert cells[2, "b"].published == Published("-")
    assert cells[0, "a"].tolerance == pytest.approx(9.37) and cells[0, "b"].tolerance is None
    assert cells[0, "a"].fill is None
    assert cells[2, "a"].fill == {
        "recipe": "loco/imagenet",
        "evaluation": "probe",
        "network": "resnet50",
        "rule": "loco",
        "set": {"probe.lr": 1, "probe.augment": True},
    }
    assert table.rows[0].labels == {"method": "BP"} and table.rows[1].reasons == {"d": "gone"}
    assert table.values() == {(0, "a"): 93.7, (0, "b"): 90.0, (1, "a"): 91.0, (2, "a"): 92.5}
    assert count(table) == {"published": 5, "ours": 0, "fillable": 2}
    assert table.claims[0].judge(table.values()).holds is True


def test_the_example_of_the_readme_is_a_table(toy):
    text = (tables_dir() / "README.md").read_text(encoding="utf-8")
    table = toy(text.split("```toml\n")[1].split("```")[0])
    assert count(table) == {"published": 4, "ours": 0, "fillable": 2}
    assert [claim.judge(table.values()).holds for claim in table.claims] == [True]
    for kind in KINDS:
        assert f"`{kind}`" in text


def test_other_papers_come_last_and_ours_after_each_paper_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tables, "tables_dir", lambda: tmp_path)
    for name in ("auglocal/table2", "loco/a", "auglocal/table10", "aaa/table1", "loco/table9"):
        path = tmp_path / f"{name}.toml"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    names = ["loco/table9", "loco/a", "auglocal/table2", "auglocal/table10", "aaa/table1"]
    assert table_names() == names


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("caption =", "captoin =", "unknown key 'captoin'; did you mean 'caption'?"),
        ('title = "Toy"', "", "'title' is missing"),
        ("decimals = 1", "decimals = 0", "row 1: 'a': 93.7 has more than 0 decimals"),
        ("decimals = 1", "decimals = true", "column 'a': 'decimals' must be a whole number"),
        ("tolerance_percent", "tolerance = 1, tolerance_percent", "not both"),
        ('{ method = "BP", a', '{ metod = "BP", a', "row 1: unknown key 'metod'"),
        ('method = "BP"', "method = true", "row 1: 'method' must be a number or text"),
        ("a = 93.7", "a = true", "row 1: 'a': 'value' must be a number or text"),
        ("[90.0, 0.2]", "[90.0]", "'b': [value, std] must be a list of length 2"),
        ('"-"', '{ value = "-", std = 1.0 }', "(text): unknown key 'std'"),
        ('d = "lost"', 'd = "lots"', "inferred: unknown key 'lots'"),
        (', inferred = { d = "lost" }', "", "reason 'lost' is not used by any row"),
        ("d = 3", "d = 2", "rows 2 and 3 are the same"),
        ('labels = ["method", "d"]', 'labels = ["method", "d", "a"]', "'a' names two things"),
        ('labels = ["method", "d"]', 'labels = ["column", "d"]', "'column' names two things"),
        ("a = 93.7", "cited = true, a = 93.7", "row 1: 'source' is missing"),
        ("evaluation =", "evalution =", "fill: unknown key 'evalution'"),
        ('recipe = "loco/imagenet"', "", "row 3: its fill has no 'recipe'"),
        ('"probe.lr" = 1', "probe.lr = 1", "set: 'probe' must be one value"),
        ("rows = [", "rows = [ 1,", "row 1 must be a table, not 1"),
        ("title =", "title", "cannot be read as TOML"),
        ('kind = "below"', 'kind = "belwo"', "claim 1 ('X is below BP'): 'kind': unknown value"),
    ],
)
def test_what_is_wrong_is_one_line_that_says_where(toy, old: str, new: str, says: str):
    assert old in TOY
    with pytest.raises(UserError) as error:
        toy(TOY.replace(old, new, 1))
    assert says in str(error.value) and "\n" not in str(error.value)
    assert "table1.toml" in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            'rule = "loco"',
            'rule = "locco"',
            "row 3: fill: unknown rule 'locco'; did you mean",
        ),
        ('"resnet50"', '"resnet5"', "fill: 'network': unknown network 'resnet5'; did you mean"),
        (
            '"probe"',
            '"prob"',
            "fill: 'evaluation': unknown evaluation 'prob'; did you",
        ),
        ('"probe"', '"pixels"', "fill: 'pixels' fills no cell; known: "),
        ('"loco/imagenet"', '"loco/imagnet"', "fill: unknown recipe 'loco/imagnet'; did you mean"),
        ('"top1"', '"top_1"', "evaluation 'probe' gives no metric 'top_1'; did you mean 'top1'?"),
        ('"top1"', '"of {stage}"', "metric 'of {stage}': row 3 has no 'stage'"),
        ('"probe.lr" = 1', '"prob.lr" = 1', "set prob.lr: unknown key; did you mean 'probe.lr'?"),
        ('"probe.lr" = 1', '"probe.lr" = "x"', "set: probe.lr must be a number, not 'x'"),
        (
            '"probe.lr" = 1',
            '"rule.temprature" = 1',
            "row 3: rule 'loco': unknown key 'rule.temprature'; did you mean 'rule.temperature'?",
        ),
        (
            "[fill]",
            '[fill]\nover = { rule = "bp", set = { "rule.chekpoint" = true } }',
            "fill: over: rule 'bp': unknown key 'rule.chekpoint'",
        ),
    ],
)
def test_what_locbench_has_not_is_one_line_when_the_table_is_read(toy, old, new, says):
    assert old in TOY
    with pytest.raises(UserError) as error:
        toy(TOY.replace(old, new, 1))
    assert says in str(error.value) and "\n" not in str(error.value)
    assert "table1.toml" in str(error.value)


def test_one_bad_table_stops_no_other(monkeypatch, tmp_path, caplog):
    shutil.copytree(tables_dir(), tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(tables, "tables_dir", lambda: tmp_path)
    (tmp_path / "loco/table1.toml").write_text("titel = 1")
    assert [table.name for table in tables.readable_tables()] == table_names()[1:]
    assert "loco/table1" in caplog.text and "did you mean 'title'?" in caplog.text


def test_a_file_that_is_not_text(toy):
    with pytest.raises(UserError, match="cannot be read as TOML"):
        toy(b"\xff\xfe")


def test_tables_need_no_torch():
    code = (
        "import sys; from locbench.published.load import load_table, table_names;"
        "[load_table(name) for name in table_names()];"
        "print({'torch', 'pandas', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
