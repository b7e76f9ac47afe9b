"""Commands under torchrun: one record, printed once; and what is said where a process is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from fabricate import image_folder
from launched import two_processes

from locbench.cli import app as cli
from locbench.distributed.group import LOST
from locbench.errors import RunFailed
from locbench.runs import executor
from locbench.runs.record import Record
from locbench.runs.store import Store

SMALL = {
    "data.name": "folder",
    "data.resolution": 16,
    "network.width": 0.125,
    "training.batch": 8,
    "training.precision": "bf16",
}


def words(root: Path, runs: Path, epochs: int) -> list[str]:
    """A pretraining of the smoke recipe, cut down."""
    sets = {**SMALL, "schedule.epochs": epochs, "schedule.warmup_epochs": 0}
    options = ["--rule=loco", "--network=resnet50", "--device=cpu", f"--data-root={root}"]
    options += [f"--runs={runs}", *(f"--set={key}={value}" for key, value in sets.items())]
    return ["-m", "locbench", "pretrain", "loco/imagenet", *options]


def test_two_processes_leave_one_record_and_print_once(tmp_path):
    root, runs = image_folder(tmp_path / "images"), tmp_path / "runs"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, "--standalone", *words(root, runs, epochs=1)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    [record] = list(Store(runs).readable())
    assert record.status == "done" and record.tags["processes"] == 2
    assert record.tags["precision"] == "bfloat16" and record.cost["steps"] == 4
    assert record.curves["step"] == [1, 2, 3, 4] and len(record.units) == 3
    assert done.stdout.count(record.id) == 2  # its title, and where it lies
    assert done.stderr.count("pretrain loco resnet50") == 1
    assert (Store(runs).folder(record.id) / "encoder.safetensors").is_file()


def noting_at_once(command: list[str]) -> None:
    """The command, whose record is written at every reading of the losses."""
    executor.NOTE_EVERY_S = -1
    sys.argv = ["locbench", *command]
    cli.main()


def started(runs: Path) -> Record:
    """The record of the run under way, once it has begun to train."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if (found := list(Store(runs).readable())) and found[0].curves:
            return found[0]
        time.sleep(0.05)
    raise AssertionError("no run has begun")


def test_the_others_end_with_a_line_where_one_process_is_killed(tmp_path):
    root, runs = image_folder(tmp_path / "images"), tmp_path / "runs"
    command = words(root, runs, epochs=300)[2:]
    leader, follower = two_processes(noting_at_once, command, folder=tmp_path)
    record = started(runs)
    follower.process.kill()
    code, printed, said = leader.result(timeout=120)
    *before, last = said.splitlines()
    assert not printed and last == f"locbench: {LOST}"
    assert all("images" in line for line in before)  # of the data that is read
    assert (code, follower.result()[0]) == (RunFailed.exit_code, -signal.SIGKILL)
    left = json.loads(Store(runs).path(record.id).read_text())
    assert (left["status"], left["error"]) == ("failed", LOST)
