"""A run to be killed, which prints every step."""

import os
import signal
import time
from pathlib import Path

from tiny import tiny_trainer

from locbench.training import loop


def die_while_writing(count: int) -> None:
    """Kill this process when it has written, but not yet put in place, its count-th file."""
    fsync = os.fsync
    left = iter(range(count - 1))

    def deadly(descriptor: int) -> None:
        if next(left, None) is None:
            os.truncate(descriptor, os.fstat(descriptor).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(descriptor)

    os.fsync = deadly


def run(checkpoint: Path, rule: str, mode: str) -> None:
    """From the eighth step on "slow" stays there, for the test to kill it whenever it likes.

    "write" is killed in the middle of writing its fifth checkpoint.
    """

    def tell(done: int, total: int, figures: dict[str, float]) -> None:
        print(done, flush=True)
        if done >= 8 and mode == "slow":
            time.sleep(600)

    loop.SAVE_EVERY_S = 0.0
    if mode == "write":
        die_while_writing(5)
    tiny_trainer(rule).fit(checkpoint, tell)
