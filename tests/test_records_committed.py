"""Committed records: each was made by a commit that can be looked at, or is listed as stale."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from locbench.recipes.identity import identity_hash

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "results" / "records"
STALE = json.loads((ROOT / "results" / "stale.json").read_text())


def records():
    return [json.loads(path.read_text()) for path in sorted(RECORDS.glob("*/record.json"))]


def test_a_records_identity_is_what_its_id_was_made_from():
    for record in records():
        assert record["id"].endswith(identity_hash(record["identity"])[:10]), record["id"]


@pytest.mark.skipif(
    shutil.which("git") is None or not (ROOT / ".git").exists(), reason="needs git's history"
)
def test_every_record_names_a_clean_commit_before_this_one_or_is_listed_as_stale():
    command = ["git", "-C", str(ROOT), "rev-list", "HEAD"]
    ancestors = set(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    )
    bad = {
        record["id"]
        for record in records()
        if record["environment"]["git_dirty"]
        or record["environment"]["git_commit"] not in ancestors
    }
    listed = {id for ids in STALE.values() for id in ids}
    assert bad == listed, "results/stale.json says of each such record why"
