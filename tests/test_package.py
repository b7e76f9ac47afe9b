"""What is shipped, how it is installed, and that what the READMEs say is so."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import locbench

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def python(code: str, cwd: Path, **environment: str) -> str:
    """What a new Python process prints."""
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def build(kind: str, source: Path, folder: Path) -> Path:
    """A wheel of `source`; kind is hatchling's: wheel or editable."""
    folder.mkdir()
    code = f"import hatchling.build as h; print(h.build_{kind}({str(folder)!r}))"
    return folder / python(code, source).split()[-1]


def names(wheel: Path) -> list[str]:
    """The files in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel") / "dist")


def files(folder: str) -> set[str]:
    """The files of a folder of the repository, as the wheel names them."""
    found = (path for path in (ROOT / folder).rglob("*") if path.is_file())
    return {f"locbench/_data/{path.relative_to(ROOT).as_posix()}" for path in found}


def test_wheel_holds_the_tables_and_recipes_and_no_tests(wheel: Path) -> None:
    held = set(names(wheel))
    assert files("tables") and files("recipes")
    assert files("tables") | files("recipes") | files("results") <= held
    top = {name.split("/")[0] for name in held}
    assert top == {"locbench", f"locbench-{locbench.__version__}.dist-info"}
    assert not [name for name in held if "test" in Path(name).name and name.endswith(".py")]
    assert any(name.endswith("licenses/LICENSE") for name in held)


def test_installed_wheel_finds_its_tables(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run(
        [*install, "--quiet", "--target", target, wheel], check=True, capture_output=True
    )
    code = """
import json
from locbench import paths
from locbench.published import load as tables
folders = [paths.tables_dir(), paths.recipes_dir(), paths.results_dir()]
print(json.dumps({"folders": [str(folder) for folder in folders], "tables": tables.table_names()}))
"""
    here = json.loads(python(code, ROOT))
    there = json.loads(python(code, tmp_path, PYTHONPATH=str(target)))
    data = target / "locbench/_data"
    kinds = ("tables", "recipes", "results")
    assert there["folders"] == [str(data / kind) for kind in kinds]
    assert here["folders"] == [str(ROOT / kind) for kind in kinds]
    assert here["tables"] and there["tables"] == here["tables"]


def test_wheel_is_built_without_results(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "locbench").mkdir(parents=True)
    for name in ("pyproject.toml", "LICENSE", "README.md", "locbench/__init__.py"):
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "tables", source / "tables")
    held = names(build("wheel", source, tmp_path / "dist"))
    assert files("tables") <= set(held)
    assert not [name for name in held if "results" in name]


def test_editable_install_is_a_pointer_to_the_checkout(tmp_path: Path) -> None:
    wheel = build("editable", ROOT, tmp_path / "dist")
    # A copy of the tables here would hide the checkout's as they change.
    held = [name for name in names(wheel) if ".dist-info/" not in name]
    assert [Path(name).suffix for name in held] == [".pth"]
    with zipfile.ZipFile(wheel) as archive:
        assert Path(archive.read(held[0]).decode().strip()) == ROOT


def test_importing_and_help_need_no_torch() -> None:
    code = """
import sys
import locbench, locbench.paths, locbench.cli.doctor
from locbench.cli.app import main
sys.argv = ["locbench", "--help"]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print("torch" in sys.modules)
"""
    assert python(code, ROOT).split()[-1] == "False"


def test_table_is_an_attribute_loaded_on_use() -> None:
    from locbench.report.frame import table

    assert locbench.table is table
    with pytest.raises(AttributeError, match="'tabel'"):
        _ = locbench.tabel


def test_module_runs_as_the_command() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "locbench", "no-such-command"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert "no-such-command" in run.stderr


def constraints() -> dict[str, str]:
    """Constraints by normalised name; fails on a line that is not name==version."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    matches = [re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.]*)", line) for line in pins]
    assert all(matches), [line for line, match in zip(pins, matches, strict=True) if not match]
    return {normal(match[1]): match[2] for match in matches if match}


def normal(name: str) -> str:
    """A package name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_constraints_pin_every_requirement() -> None:
    pins = constraints()
    extras = PROJECT["optional-dependencies"].values()
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    for requirement in map(Requirement, lines):
        version = pins[normal(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement}: {version}"


@pytest.mark.parametrize(
    "name", ["pyproject.toml", "constraints.txt", ".ci/run", ".github/workflows/ci.yml"]
)
def test_no_package_index_is_named(name: str) -> None:
    found = re.findall(r"https?://\S+|--\S*index\S*|find-links|trusted-host", _text(name))
    assert found == []


def readme_commands() -> list[str]:
    """Install, test and lint commands of the README's block from a new environment to pytest."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", _text("README.md"), re.MULTILINE | re.DOTALL)
    chosen = [block for block in blocks if "-m venv" in block and "pytest" in block]
    # A comment may follow; making and entering the environment is the one part that differs.
    lines = [re.sub(r"\s+#.*", "", line) for block in chosen for line in block.splitlines()]
    plain = [part.strip().removeprefix("$ ") for line in lines for part in line.split("&&")]
    return [line for line in plain if re.search(r"\b(pip install|pytest|ruff)\b", line)]


@pytest.mark.parametrize("name", [".ci/run", ".github/workflows/ci.yml"])
def test_ci_runs_the_readmes_commands(name: str) -> None:
    commands = readme_commands()
    assert any("pip install" in line for line in commands)
    assert any("pytest" in line for line in commands)
    run = {line.strip().removeprefix("- run: ") for line in _text(name).splitlines()}
    assert [line for line in commands if line not in run] == []


def test_ci_script_can_be_run() -> None:
    assert os.access(ROOT / ".ci/run", os.X_OK)
    subprocess.run(["bash", "-n", ROOT / ".ci/run"], check=True)


def readmes() -> list[str]:
    """The README, and those of the folders."""
    folders = ("locbench", "recipes", "results", "tables")
    inside = [path for folder in folders for path in sorted((ROOT / folder).rglob("README.md"))]
    return ["README.md", *(path.relative_to(ROOT).as_posix() for path in inside)]


@pytest.mark.parametrize("name", readmes())
def test_every_file_that_a_readme_names_is_there(name: str) -> None:
    """Paths from the root of the checkout, and links; a path with NAME or tableN is a pattern."""
    text = _text(name)
    paths = re.findall(r"(?<![\w./~-])(?:locbench|recipes|results|tables|tests)/[\w./-]*\w", text)
    patterns = re.compile(r"NAME|PAPER|RUN|RULE|tableN")
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    named = [ROOT / path for path in paths if not patterns.search(path)]
    named += [(ROOT / name).parent / link for link in links]
    assert [str(path) for path in named if not path.exists()] == []


def test_every_package_says_what_it_is_for() -> None:
    packages = sorted((ROOT / "locbench").rglob("__init__.py"))
    docs = {path: ast.get_docstring(ast.parse(path.read_text())) or "" for path in packages}
    assert [path for path, doc in docs.items() if len(doc.split()) < 10] == []


def _text(name: str) -> str:
    return (ROOT / name).read_text()
