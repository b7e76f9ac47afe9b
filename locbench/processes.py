"""Several processes for one run, as torchrun starts them: the first leads and the others follow.

The leader plans, keeps the records and prints; where a run is shared it says so, and every process
works on it. What is not shared the leader does alone, and the others wait.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from locbench.errors import UserError

# A leader may train alone for weeks before there is something to share.
PATIENCE = timedelta(days=365)


def world() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of them this one is; 0 leads."""
    return int(os.environ.get("RANK", "0"))


class Group:
    """The processes together; `leads` is whether this is the first."""

    def __init__(self, control: Any = None) -> None:
        self.leads, self._control = rank() == 0, control

    def share(self, work: Any) -> None:
        """The leader's: the others get `work` from `works`."""
        if self._control is not None:
            import torch.distributed as dist

            dist.broadcast_object_list([work], src=0, group=self._control)

    def works(self) -> Iterator[Any]:
        """What the leader shares, until it has ended."""
        import torch.distributed as dist

        while True:
            slot = [None]
            dist.broadcast_object_list(slot, src=0, group=self._control)
            if slot[0] is None:
                return
            yield slot[0]


_joined = Group()


def share(work: Any) -> None:
    """Tell the other processes, if there are any, of a run to work on together."""
    _joined.share(work)


@contextmanager
def joined(device: str) -> Iterator[Group]:
    """The processes of this command, connected: by NCCL where there are GPUs, else by gloo.

    UserError where they cannot have a GPU each.
    """
    global _joined
    if world() == 1:
        yield _joined
        return
    import torch
    import torch.distributed as dist

    gpus = device != "cpu" and torch.cuda.is_available()
    if gpus:
        local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= there or device.startswith("cuda:"):
            raise UserError(
                f"{world()} processes, {there} GPUs here and --device {device}: start one process "
                "a GPU, and leave --device out"
            )
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if gpus else "gloo", timeout=PATIENCE)
    _joined = Group(dist.new_group(backend="gloo", timeout=PATIENCE))
    yield _joined
    # Not after an error: the others may be waiting for this process in the middle of a step. It
    # says what went wrong and ends, and torchrun ends them.
    if _joined.leads:
        _joined.share(None)
    _joined = Group()
    dist.destroy_process_group()
