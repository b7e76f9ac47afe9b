"""Processes of the tests: forks of one that has imported torch, alone or as torchrun starts them.

To import torch and torchvision takes a processor some five seconds, most of what such tests took.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["locbench.training.loop"])


class Forked:
    """A function at work in a process of its own, with what it prints in files in a folder.

    The function has to be one of a module, for the process imports it.
    """

    def __init__(
        self, function: Callable[..., None], *arguments: object, folder: Path, **env: str
    ) -> None:
        name = env.get("RANK", "alone")
        self.printed = [folder / f"{name}.{stream}" for stream in ("out", "err")]
        for path in self.printed:
            path.write_bytes(b"")
        work = (function, arguments, {**os.environ, **env}, self.printed)
        self.process = FORKS.Process(target=_run, args=work, daemon=True)
        self.process.start()

    def result(self, timeout: float = 300) -> tuple[int, str, str]:
        """Its exit code (-9 where it was killed), stdout and stderr, once it has ended."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"still at work after {timeout} s: {self.printed[1].read_text()}")
        out, err = (path.read_text() for path in self.printed)
        return self.process.exitcode, out, err


def _run(
    function: Callable[..., None],
    arguments: tuple[object, ...],
    env: dict[str, str],
    printed: list[Path],
) -> None:
    for number, path in enumerate(printed, start=1):
        os.dup2(os.open(path, os.O_WRONLY), number)
    os.environ.clear()
    os.environ.update(env)
    function(*arguments)


def two_processes(function: Callable[..., None], *arguments: object, folder: Path) -> list[Forked]:
    """The same function twice, as ranks 0 and 1."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    return [
        Forked(function, *arguments, folder=folder, **env, RANK=str(rank), LOCAL_RANK=str(rank))
        for rank in range(2)
    ]
