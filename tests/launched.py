"""Processes of the tests in the surroundings that torchrun makes, without torchrun's own start."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

from locbench.paths import PACKAGE

TESTS = Path(__file__).parent


def two_processes(words: list[str]) -> list[subprocess.Popen]:
    """The same command twice, as ranks 0 and 1; what they print is kept."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    folders = [
        str(PACKAGE.parent),
        str(TESTS),
        str(TESTS / "training"),
        os.environ.get("PYTHONPATH", ""),
    ]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    common |= {"PYTHONPATH": os.pathsep.join(filter(None, folders))}
    return [
        subprocess.Popen(
            words,
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
