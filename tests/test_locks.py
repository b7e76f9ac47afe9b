"""Locks: one holder at a time, whom the others can name, and none that outlives its process."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest
from filelock import FileLock

from locbench import locks
from locbench.errors import UserError
from locbench.locks import HEARTBEAT_S, SILENCE_S, Busy, Holder, alone, forget, holder, myself
from locbench.paths import PACKAGE

HOLD = """
import signal, sys, time
from pathlib import Path
from locbench.locks import alone
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job is born without
with alone(Path(sys.argv[1]), "at it"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "locks" / "one"


@pytest.fixture
def elsewhere(path):
    """A note of a process on another host, on a file system that does not share its locks."""
    path.parent.mkdir()
    path.touch()
    note = path.with_name("one.holder")
    note.write_text(json.dumps(asdict(replace(myself(), host="far", pid=7))))
    return note


def start(path):
    """Another process, which takes the lock and keeps it."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def holding(path):
    """Another process, which has the lock."""
    process = start(path)
    assert process.stdout.readline() == "held\n"
    return process


def age(note, seconds):
    now = time.time()
    os.utime(note, (now - seconds, now - seconds))


def test_it_is_held_and_given_back(path):
    assert holder(path) is None and not path.parent.exists()
    with alone(path, "at it"):
        assert replace(holder(path), since="") == replace(myself(), since="")
        with pytest.raises(Busy, match=f"process {os.getpid()} on "), alone(path, "at it", False):
            pytest.fail("two at once")
    assert holder(path) is None
    assert [left.name for left in path.parent.iterdir()] == ["one"]
    with pytest.raises(ZeroDivisionError), alone(path, "at it"):
        raise ZeroDivisionError
    assert holder(path) is None


def test_the_other_waits_and_says_in_one_line_for_whom(path, capsys):
    order, held = [], threading.Event()

    def other():
        with alone(path, "at it"):
            held.set()
            time.sleep(3 * locks.POLL_S)
            order.append("other")

    thread = threading.Thread(target=other)
    thread.start()
    held.wait()
    with alone(path, "at it"):
        order.append("this")
    thread.join()
    assert order == ["other", "this"]
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"locbench: process {os.getpid()} on ") and " (since 20" in line
    assert line.endswith(" is at it: waiting for it")


def test_a_killed_process_holds_nothing(path, capsys):
    with holding(path) as process:
        assert holder(path).pid == process.pid
        process.kill()
    assert holder(path) is None, "at once, however long its heartbeat might be waited for"
    with alone(path, "at it", wait=False):
        assert holder(path).pid == os.getpid()
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"locbench: process {process.pid} on ")
    assert line.endswith(" was at it and is gone: its lock is taken over")


def test_a_process_that_stands_still_keeps_its_lock(path):
    with holding(path) as process:
        process.send_signal(signal.SIGSTOP)
        age(path.with_name("one.holder"), 2 * SILENCE_S)
        assert holder(path).pid == process.pid
        process.kill()


def test_only_the_note_of_one_that_is_gone_is_forgotten(path, elsewhere):
    for words in ({"host": "far"}, {"boot": "another"}):  # a host of the same name is another host
        elsewhere.write_text(json.dumps(asdict(replace(myself(), pid=8, **words))))
        forget(path)
        assert holder(path).pid == 8, "it lives"
    elsewhere.write_text(json.dumps(asdict(replace(myself(), pid=8))))
    assert holder(path) is None, "of this host: the system's lock says that it is gone"
    forget(path)
    assert not elsewhere.exists()
    with alone(path, "at it"):
        forget(path)
        assert holder(path).pid == os.getpid()


def test_ctrl_c_leaves_nothing(path):
    with holding(path) as process, start(path) as waiting:
        line = waiting.stderr.readline()
        assert f"process {process.pid} on " in line and line.endswith("waiting for it\n")
        waiting.send_signal(signal.SIGINT)
        waiting.wait()
        assert holder(path).pid == process.pid
        assert {left.name for left in path.parent.iterdir()} == {"one", "one.holder"}
        process.send_signal(signal.SIGINT)
        process.wait()
        assert [left.name for left in path.parent.iterdir()] == ["one"]


def test_another_host_is_left_alone_while_its_heart_beats(path, elsewhere, capsys):
    assert holder(path) == Holder(
        "far", myself().boot, 7, json.loads(elsewhere.read_text())["since"]
    )
    with pytest.raises(Busy, match="process 7 on far"), alone(path, "at it", wait=False):
        pytest.fail("two at once")
    age(elsewhere, SILENCE_S - 2 * HEARTBEAT_S)
    assert holder(path).host == "far"
    age(elsewhere, SILENCE_S + 1)
    assert holder(path) is None
    with alone(path, "at it", wait=False):
        assert holder(path).pid == os.getpid()
    assert "process 7 on far (since 20" in capsys.readouterr().err


def test_where_no_clock_can_be_read_another_host_is_taken_to_live(path, elsewhere, monkeypatch):
    age(elsewhere, SILENCE_S + 1)

    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(locks.tempfile, "TemporaryFile", full)
    assert holder(path).host == "far"


def test_the_heart_beats_while_the_lock_is_ones_own(path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.01)
    note = path.with_name("one.holder")
    with alone(path, "at it"):
        age(note, 1000)
        until = time.monotonic() + 10
        while time.time() - note.stat().st_mtime > 100 and time.monotonic() < until:
            time.sleep(0.01)
        assert time.time() - note.stat().st_mtime < 100
        note.write_text(json.dumps(asdict(replace(myself(), host="far"))))  # taken over
        age(note, 1000)
        time.sleep(0.1)
        assert time.time() - note.stat().st_mtime > 900
    assert note.exists(), "it is the other host's"


def test_of_two_hosts_at_once_one_gets_it(path, elsewhere, monkeypatch):
    read, answers = locks._read, iter([None, None])
    # Nobody was there when this process looked, and the other's note when it wanted to leave its.
    monkeypatch.setattr(locks, "_read", lambda note: next(answers, read(note)))
    with pytest.raises(Busy, match="process 7 on far"), alone(path, "at it", wait=False):
        pytest.fail("two at once")
    assert json.loads(elsewhere.read_text())["host"] == "far"


@pytest.mark.parametrize("text", ["", '{"colour": "red"}'])
def test_a_note_cut_short_is_of_somebody_until_it_is_old(path, elsewhere, text):
    elsewhere.write_text(text)
    with pytest.raises(Busy, match="another process"), alone(path, "at it", wait=False):
        pytest.fail("two at once")
    age(elsewhere, SILENCE_S + 1)
    with alone(path, "at it", wait=False):
        assert holder(path).pid == os.getpid()


def test_a_lock_whose_note_is_not_there_yet_is_held(path):
    path.parent.mkdir()
    with FileLock(path):
        assert str(holder(path)) == "another process"
    assert holder(path) is None


def test_files_that_cannot_be_written_are_named(path, tmp_path, monkeypatch):
    (tmp_path / "locks").write_text("a file")
    said = r"locks/one cannot be locked \(.+\): make room or permission there"
    with pytest.raises(UserError, match=said), alone(path, "at it"):
        pytest.fail("without a lock")
    (tmp_path / "locks").unlink()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(locks.json, "dumps", full)
    with pytest.raises(UserError, match="No space left on device"), alone(path, "at it"):
        pytest.fail("without a note")
    assert [left.name for left in path.parent.iterdir()] == ["one"] and holder(path) is None
