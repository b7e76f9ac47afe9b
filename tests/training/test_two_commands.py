"""A command that is killed, then started twice at once: nothing is lost and nothing done twice.

The short form of tests/benchmarks/kills.py, with its parts.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fabricate import call, image_folder

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from kills import Command, Tally, differences, kill, leftovers

from locbench.paths import PACKAGE

SETS = {"data.name": "folder", "data.resolution": 16, "data.train_images": 0}
SETS |= {"network.width": 0.25, "schedule.epochs": 2, "training.batch": 8}
# Trains when the file GO is there, and notes it: nothing here may depend on who is quicker.
TWICE = """
import os, time
from pathlib import Path
from locbench.cli import app as cli
from locbench.training.loop import Trainer

fit = Trainer.fit

def noting(self, checkpoint, progress):
    with Path(os.environ["NOTES"]).open("a") as file:
        file.write(f"{os.getpid()} {checkpoint.parent.name}\\n")
    while not Path(os.environ["GO"]).exists():
        time.sleep(0.02)
    fit(self, checkpoint, progress)

Trainer.fit = noting
cli.main()
"""


def start(words: list[str], folder: Path, name: str) -> subprocess.Popen:
    names = {"NOTES": str(folder / "notes"), "GO": str(folder / "go")}
    names["LOCBENCH_CACHE"] = str(folder / "cache")
    with (folder / f"{name}.out").open("w") as out, (folder / f"{name}.err").open("w") as err:
        return subprocess.Popen(
            [sys.executable, "-c", TWICE, "reproduce", *words, f"--runs={folder / 'runs'}"],
            env={**os.environ, **names, "COLUMNS": "100", "PYTHONPATH": str(PACKAGE.parent)},
            stdout=out,
            stderr=err,
        )


@pytest.mark.full
def test_killed_while_it_writes_then_started_twice(capsys, tmp_path, monkeypatch):
    words = ["auglocal/table1", "--rows=resnet-32 bp", "--columns=cifar10", "--device=cpu"]
    words += [f"--data-root={image_folder(tmp_path / 'images')}"]
    words += [f"--set={key}={value}" for key, value in SETS.items()]
    calm, shaken = Command(words, tmp_path / "calm"), Command(words, tmp_path / "shaken")
    monkeypatch.setenv("COLUMNS", "100")
    code, wanted, _ = call(capsys, "reproduce", *words, f"--runs={calm.runs}")
    assert code == 0 and len(calm.done()) == 1

    tally = Tally()
    assert kill(shaken, "checkpoint", 0.0, tally) and not shaken.done()
    assert tally.hit["checkpoint.pt"] == 1, "half of one was left there"

    both = {name: start(words, shaken.folder, name) for name in ("one", "two")}
    errors = {name: shaken.folder / f"{name}.err" for name in both}

    def waiting() -> list[str]:
        return [n for n, path in errors.items() if "locbench: waiting for" in path.read_text()]

    until = time.monotonic() + 300
    while not waiting() and time.monotonic() < until:
        assert all(process.poll() is None for process in both.values())
        time.sleep(0.05)
    [second] = waiting()
    (shaken.folder / "go").touch()
    assert [process.wait(300) for process in both.values()] == [0, 0]

    [line] = (shaken.folder / "notes").read_text().splitlines()
    pid, run = line.split()
    first = next(name for name, process in both.items() if process.pid == int(pid))
    assert first != second, "one trained, and the other waited for it"
    said = [[x for x in errors[n].read_text().splitlines() if run in x] for n in (first, second)]
    assert len(said[0]) == 1 and said[0][0].endswith(f"{run} and is gone: its lock is taken over")
    assert [x.split(" on ")[0] for x in said[1]] == [
        f"locbench: process {pid}",
        f"locbench: waiting for process {pid}",
    ]
    assert [(shaken.folder / f"{name}.out").read_text() for name in both] == [wanted, wanted]
    assert not differences(calm, shaken) and not leftovers(shaken)
