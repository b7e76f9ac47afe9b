"""One thread, as for the tests of training; a cache that no other test has written to."""

from __future__ import annotations

from pathlib import Path

import pytest
from threads import one_thread  # noqa: F401


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder; LOCBENCH_DATA is not set."""
    monkeypatch.setenv("LOCBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LOCBENCH_DATA", raising=False)
    return tmp_path / "cache"
