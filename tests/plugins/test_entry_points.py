"""Rules of installed distributions: found without import, and a broken one breaks nothing else."""

import json
import sys

import pytest
from fabricate import SETS, call, complaint, image_folder

from locbench.paths import runs_dir
from locbench.plugins.registry import RULES
from locbench.runs.store import Store

RULE = '''"""Would be slow to import."""
from locbench.rules.gim import gim
import sys
sys.imported_blocks = True

def stagewise(network, *, temperature=0.25):
    """GIM under another name."""
    return gim(network, temperature=temperature)
'''
POINTS = """[locbench.rules]
stagewise = blocks.inner.rules:stagewise
absent = blocks.inner.rules:absent
nowhere = no_such_module_at_all:rule
syntax = blocks.syntax:rule
raising = blocks.raising:rule
loco = blocks.inner.rules:stagewise
"""


def install(folder, name, version, points):
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(points)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A distribution with one good rule and many that are not."""
    site = tmp_path / "site"
    install(site, "blocks", "1.2", POINTS)
    for name, text in (
        ("__init__", "raise RuntimeError('imported')"),
        ("inner/__init__", ""),
        ("inner/rules", RULE),
        ("syntax", "def rule(network)"),
        ("raising", "def rule(network): 1\n1 / 0"),
    ):
        path = site / "blocks" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(site))
    vars(RULES).pop("installed", None)
    yield site
    vars(RULES).pop("installed", None)
    for name in [name for name in sys.modules if name.split(".")[0] == "blocks"]:
        del sys.modules[name]


def listed(capsys):
    code, out, err = call(capsys, "list", "rules", "--json")
    assert (code, err) == (0, "")
    return {row["name"]: row for row in json.loads(out) if row["from"] != "locbench"}


def test_they_are_listed_with_where_they_come_from_and_not_imported(capsys, installed):
    rows = listed(capsys)
    assert "blocks" not in sys.modules
    assert rows["stagewise"] == {
        "name": "stagewise",
        "version": "blocks 1.2",
        "learns from": "views",
        "from": "blocks 1.2",
        "what": "GIM under another name.",
        "settings": "temperature=0.25",
    }
    assert RULES.names()[-1] == "stagewise" and RULES.names()[0] == "simclr"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("absent", "expected a function absent(network, *, setting=default)"),
        ("nowhere", "no module no_such_module_at_all"),
        ("syntax", "syntax.py, line 1: not Python"),
        ("loco", "locbench has a rule of that name"),
    ],
)
def test_a_broken_one_is_one_line_where_it_is_asked_for(capsys, installed, name, wanted):
    line = listed(capsys)[name]["what"]
    assert line.startswith(f"cannot be used: entry point {name} = ") and wanted in line
    assert "of blocks 1.2" in line and "\n" not in line
    if name == "loco":
        assert RULES.entry("loco").origin == "locbench", "locbench's own stays"
    else:
        assert wanted in complaint(capsys, "audit", name, "resnet50")
    assert call(capsys, "reproduce", "table1", "--dry-run")[0] == 0


def test_one_that_cannot_be_imported_is_one_line(capsys, installed):
    line = complaint(capsys, "audit", "raising", "resnet50")
    assert "rule 'raising' of blocks 1.2 cannot be run: RuntimeError: imported" in line


def test_one_name_of_two_distributions_is_nobodys(capsys, installed):
    install(installed, "others", "0.1", "[locbench.rules]\nstagewise = blocks.syntax:rule\n")
    vars(RULES).pop("installed", None)
    line = complaint(capsys, "audit", "stagewise", "resnet50")
    assert "blocks 1.2" in line and "others 0.1" in line
    (installed / "stagewise.py").write_text("def stagewise(network): 1")
    hidden = complaint(capsys, "audit", installed / "stagewise.py", "resnet50")
    assert "would hide that of" in hidden


def test_its_runs_are_of_the_version_of_its_distribution(capsys, installed, tmp_path):
    (installed / "blocks" / "__init__.py").write_text("")
    folder = image_folder(tmp_path / "images")
    arguments = ["--network", "resnet50", *SETS, "--data-root", folder]
    pretrain = ["pretrain", "loco/imagenet", "--rule", "stagewise", *arguments]
    code, _, err = call(capsys, *pretrain)
    assert code == 0, err
    assert sys.imported_blocks
    (installed / "blocks-1.2.dist-info").rename(installed / "blocks-1.3.dist-info")
    metadata = installed / "blocks-1.3.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("1.2", "1.3"))
    vars(RULES).pop("installed", None)
    code, _, err = call(capsys, *pretrain)
    assert code == 0, err
    records = Store(runs_dir()).all()
    assert {record.rule["version"] for record in records} == {"blocks 1.2", "blocks 1.3"}
    assert {record.rule["distribution"] for record in records} == {"blocks 1.2", "blocks 1.3"}
    old = next(record for record in records if record.rule["version"] == "blocks 1.2")
    assert "was made by another version of its rule" in complaint(capsys, "probe", old.id)
