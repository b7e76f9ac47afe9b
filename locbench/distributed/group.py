"""Several processes for one run, as torchrun starts them: the first leads and the others follow.

The leader plans, keeps the records and prints; where a run is shared it says so, and every process
works on it, `together`. What is not shared the leader does alone, and the others wait.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn

from locbench.errors import RunFailed, UserError

# A leader may probe alone for days before there is something to share.
PATIENCE = timedelta(days=365)
LOST = (
    "another process of this run has ended, or torchrun was stopped, and so this one ends; "
    "the same command goes on from where it was"
)


def launched() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launch_rank() -> int:
    """Which of them this one is; 0 leads."""
    return int(os.environ.get("RANK", "0"))


def local_world_size() -> int:
    """How many of them are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextmanager
def connected() -> Iterator[None]:
    """What torch.distributed raises where another process is gone, as RunFailed."""
    try:
        yield
    except RuntimeError as error:
        raise RunFailed(LOST) from error


class Group:
    """The processes together; `leads` is whether this is the first."""

    def __init__(self, control: Any = None) -> None:
        self.leads, self.alone, self._control = launch_rank() == 0, control is None, control

    def share(self, work: Any) -> Any:
        """The leader's `work`, for all: what the others give is not looked at."""
        if self.alone:
            return work
        import torch.distributed as dist

        slot = [work]
        with connected():
            dist.broadcast_object_list(slot, src=0, group=self._control)
        return slot[0]

    def works(self) -> Iterator[Any]:
        """What the leader shares, until it has ended."""
        while True:
            try:
                work = self.share(None)
            except RunFailed as error:  # it has said itself why it ended
                raise SystemExit(RunFailed.exit_code) from error
            if work is None:
                return
            yield work


_joined = Group()
_together = False


def share(work: Any) -> Any:
    """The leader's `work`: told to the other processes, if there are any, or heard from it."""
    return _joined.share(work)


@contextmanager
def together(shared: bool = True) -> Iterator[None]:
    """Here, where it is shared, all work on one run; elsewhere each for itself is the only one."""
    global _together
    _together = shared and not _joined.alone
    try:
        yield
    finally:
        _together = False


def world_size() -> int:
    """How many processes work on the run at hand."""
    return launched() if _together else 1


def rank() -> int:
    """Which of `world_size()` this one is, from 0."""
    return launch_rank() if _together else 0


def _ended(signal: int, frame: Any) -> NoReturn:
    if launch_rank() and not _together:  # it only waits
        raise SystemExit(RunFailed.exit_code)
    raise RunFailed(LOST)


@contextmanager
def joined(device: str) -> Iterator[Group]:
    """The processes of this command, connected: by NCCL where there are GPUs, else by gloo.

    UserError where they cannot have a GPU each, or do not find each other.
    """
    global _joined
    if launched() == 1:
        yield _joined
        return
    import torch
    import torch.distributed as dist

    gpus = device != "cpu" and torch.cuda.is_available()
    if gpus:
        local_rank, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local_rank >= count or device.startswith("cuda:"):
            raise UserError(
                f"{launched()} processes, {count} GPUs here and --device {device}: start one "
                "process a GPU, and leave --device out"
            )
        torch.cuda.set_device(local_rank)
    try:
        dist.init_process_group("nccl" if gpus else "gloo", timeout=PATIENCE)
        _joined = Group(dist.new_group(backend="gloo", timeout=PATIENCE))
    except (RuntimeError, ValueError) as error:  # no port, no address, ...
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{launched()} processes cannot be connected ({reason}); start them with torchrun"
        ) from error
    before = signal.signal(signal.SIGTERM, _ended)  # so does torchrun end what is left
    yield _joined
    # Not after an error: the others may be waiting for this process in the middle of a step. It
    # says what went wrong and ends, and torchrun ends them.
    if _joined.leads:
        _joined.share(None)
    _joined = Group()
    dist.destroy_process_group()
    signal.signal(signal.SIGTERM, before)
