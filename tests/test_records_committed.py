"""Committed records: each verifies, and was made by a commit of this history or is listed."""

import json
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from locbench.runs.verify import verify

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "results" / "records"
STALE = tomllib.loads((ROOT / "results" / "stale.toml").read_text())["stale"]


def records():
    return [json.loads(path.read_text()) for path in sorted(RECORDS.glob("*/record.json"))]


def test_every_record_passes_what_locbench_verify_checks():
    checked = [verify(path) for path in sorted(RECORDS.glob("*/record.json"))]
    assert checked and not [result for result in checked if not result.ok]


def git(*arguments):
    """What git says of this checkout; None without git or outside a checkout."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        return None
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.skipif(
    git("rev-parse", "--is-shallow-repository") != ["false"], reason="needs git's whole history"
)
def test_every_record_names_a_clean_commit_before_this_one_or_is_listed_as_stale():
    ancestors = set(git("rev-list", "HEAD"))
    bad = {
        record["id"]
        for record in records()
        if record["environment"]["git_dirty"]
        or record["environment"]["git_commit"] not in ancestors
    }
    listed = {id for entry in STALE for id in entry["records"]}
    assert bad == listed, "results/stale.toml says of each such record why"
