"""The layers of the package, as pyproject.toml has them: imports go down only."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_imports_go_down_only():
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


def test_few_modules_lie_at_the_top():
    assert len(list((ROOT / "locbench").glob("*.py"))) <= 8


def test_only_kinds_of_run_ask_for_a_kind():
    """A run's kind decides in its class; elsewhere nothing compares its name."""
    asks = re.compile(r"(?:spec|record|run|reference)\.kind (?:==|!=|in|not in) [\"'(A-Z]")
    modules = [p for p in (ROOT / "locbench").rglob("*.py") if p.parent.name != "kinds"]
    hits = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in modules
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if asks.search(line)
    ]
    assert hits == []
