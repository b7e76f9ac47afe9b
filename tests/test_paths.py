"""Folders are found in a checkout; a file is written whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from locbench import paths

ROOT = Path(__file__).resolve().parents[1]


def test_checkout_folders_are_those_of_the_repository() -> None:
    assert paths.tables_dir() == ROOT / "tables"
    assert paths.recipes_dir() == ROOT / "recipes"
    assert paths.results_dir() == ROOT / "results"


def test_the_wheels_own_folder_comes_before_a_neighbour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tables").mkdir()  # PyTables, among installed packages
    monkeypatch.setattr(paths, "PACKAGE", tmp_path / "locbench")
    assert paths.tables_dir() == tmp_path / "tables"
    (tmp_path / "locbench/_data").mkdir(parents=True)
    assert paths.tables_dir() == tmp_path / "locbench/_data/tables"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"LOCBENCH_CACHE": "~/a"}, "~/a"),
        ({"LOCBENCH_CACHE": "", "XDG_CACHE_HOME": "/b"}, "/b/locbench"),
        ({"LOCBENCH_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({}, "~/.cache/locbench"),
    ],
)
def test_cache_folder(
    settings: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOCBENCH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert paths.cache_dir() == Path(expected).expanduser()


def test_runs_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCBENCH_RUNS", "~/elsewhere")
    assert paths.runs_dir() == Path.home() / "elsewhere"
    monkeypatch.delenv("LOCBENCH_RUNS")
    assert paths.runs_dir() == Path("runs")


@pytest.mark.parametrize("content", ["naïve\n", b"\x00\xff"])
def test_write_makes_folders_and_replaces(content: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "a/b/record.json"
    paths.write_atomic(path, "older and longer than the new content")
    paths.write_atomic(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(path.parent.iterdir()) == [path]


def test_written_file_has_ordinary_permissions(tmp_path: Path) -> None:
    paths.write_atomic(tmp_path / "ours", "x")
    (tmp_path / "ordinary").write_text("x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file size")
def test_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    paths.write_atomic(path, "old")
    # A limit on file size stops a write in the middle, as a full disk does.
    code = f"""
import resource
from pathlib import Path
from locbench.paths import write_atomic
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomic(Path({str(path)!r}), "n" * 5000)
except OSError as error:
    print(type(error).__name__)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "OSError"
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_interrupt_before_the_data_is_safe_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.json"
    paths.write_atomic(path, "old")

    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        paths.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
