"""Every test: folders of its own, few threads, fixed seeds, nothing from the user's settings."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

# Read by torch when it is first imported, here and in child processes. The tests' tensors are
# tiny: a second thread only waits for the first.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session", autouse=True)
def session_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache for all tests, so that generated data is made once; runs apart from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("LOCBENCH_RUNS", str(tmp_path_factory.mktemp("runs")))
        patch.delenv("LOCBENCH_DATA", raising=False)
        yield


@pytest.fixture(autouse=True)
def own_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runs folder for each test: no test finds another one's records."""
    monkeypatch.setenv("LOCBENCH_RUNS", str(tmp_path / "locbench-runs"))


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """The same random numbers whichever tests ran before."""
    random.seed(0)
    np.random.seed(0)
    # Not imported for tests that do without it; its own first seed is a constant.
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
