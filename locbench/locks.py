"""Locks between processes, also on several hosts: one process works, the others wait.

A lock is two files. PATH is locked by the operating system, which releases it when its process
ends, however that ends. PATH.holder names the holder: host, process and since when. People read it,
and so do other hosts, because file systems that hosts share do not always share their locks: the
holder touches the file every HEARTBEAT_S seconds, and until it stops other hosts wait.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from locbench.errors import UserError

HEARTBEAT_S = 30.0
SILENCE_S = 300.0  # without a heartbeat, after which a holder on another host counts as dead
POLL_S = 0.25
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Holder:
    """Who has a lock: process `pid` of `host`, booted as `boot`, since `since` by its clock.

    `pid` is 0 where the note is not there yet, or was cut short.
    """

    host: str = ""
    boot: str = ""
    pid: int = 0
    since: str = ""

    def __str__(self) -> str:
        if not self.pid:
            return "another process"
        return f"process {self.pid} on {self.host} (since {self.since})"


class Busy(Exception):
    """Another process holds a lock, and the caller did not want to wait."""

    def __init__(self, who: Holder) -> None:
        super().__init__(str(who))
        self.who = who


def myself() -> Holder:
    """This process, from now on; `boot` tells hosts of one name apart where the system has it."""
    boot = ""
    with suppress(OSError):
        boot = BOOT_ID.read_text().strip()
    since = datetime.now().astimezone().isoformat(" ", timespec="seconds")
    return Holder(socket.gethostname(), boot, os.getpid(), since)


@contextmanager
def alone(path: Path, doing: str, wait: bool = True) -> Iterator[None]:
    """Hold the lock at `path`. Waits for another holder, and says on stderr who is `doing` it.

    Busy instead where `wait` is false. The lock of a holder that is gone is taken over, with a line
    on stderr. UserError where the files cannot be written.
    """
    note, lock = _note(path), FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        me = _acquire(lock, note, doing, wait)
    except OSError as error:
        raise UserError(
            f"{path} cannot be locked ({error.strerror or error}): make room or permission there, "
            "or choose another folder with LOCBENCH_RUNS or LOCBENCH_CACHE"
        ) from error
    ended = threading.Event()
    threading.Thread(target=_beat, args=(note, me, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        if _read(note) == me:  # not another host's, which took this one for dead
            note.unlink(missing_ok=True)
        lock.release()


def holder(path: Path) -> Holder | None:
    """Who has the lock at `path` now; None where nobody has."""
    if not path.exists():
        return None
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return _read(_note(path)) or Holder()
    except OSError:  # `alone` will say so
        return None
    try:
        return _elsewhere(_note(path))
    finally:
        lock.release()


def forget(path: Path) -> None:
    """Delete the note of a holder that is gone, for a lock that is not needed again."""
    note = _note(path)
    if not note.exists():
        return
    with suppress(Timeout, OSError), FileLock(path).acquire(timeout=0):
        if _elsewhere(note) is None:
            note.unlink(missing_ok=True)


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.holder")


def _acquire(lock: FileLock, note: Path, doing: str, wait: bool) -> Holder:
    """Take the lock once it is free, and leave the note; Busy if it is not, and not waited for."""
    has_reported = False
    while True:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            who = _read(note)
        else:
            who = _elsewhere(note)
            me = None if who is not None else _leave(note, doing)
            if me is not None:
                return me
            lock.release()
        if who is not None and not wait:
            raise Busy(who)
        if who is not None and not has_reported:
            print(f"locbench: {who} is {doing}: waiting for it", file=sys.stderr)
            has_reported = True
        time.sleep(POLL_S)


def _leave(note: Path, doing: str) -> Holder | None:
    """Leave a note, in the place of a dead holder's; None where another host was quicker."""
    former, me = _read(note), myself()
    if former is not None:
        note.unlink(missing_ok=True)
    try:
        with note.open("x", encoding="utf-8") as file:
            file.write(json.dumps(asdict(me)))
    except FileExistsError:
        return None
    except OSError:
        note.unlink(missing_ok=True)
        raise
    if former is not None:
        line = f"locbench: {former} was {doing} and is gone: its lock is taken over"
        print(line, file=sys.stderr)
    return me


def _elsewhere(note: Path) -> Holder | None:
    """The living holder on another host; to be asked while no other process here has the lock."""
    who, me = _read(note), myself()
    if who is None or (who.host, who.boot) == (me.host, me.boot):
        return None
    try:
        # By the file system's clock: those of two hosts differ.
        with tempfile.TemporaryFile(dir=note.parent) as now:
            silent = os.fstat(now.fileno()).st_mtime - note.stat().st_mtime
    except FileNotFoundError:  # given back meanwhile
        return None
    except OSError:  # of a full disk, perhaps: nothing tells that it is gone
        return who
    return who if silent < SILENCE_S else None


def _read(note: Path) -> Holder | None:
    """The holder that a note names; None where there is no note."""
    try:
        return Holder(**json.loads(note.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        return Holder()


def _beat(note: Path, me: Holder, ended: threading.Event) -> None:
    """Touch the note until the end, for other hosts to see that its holder lives."""
    while not ended.wait(HEARTBEAT_S):
        with suppress(OSError):  # of the network, perhaps: the next one may come through
            if _read(note) == me:
                os.utime(note)
