"""The same command, started twice at once: the work is done once, and both print the table."""

import os
import subprocess
import sys
import time
from pathlib import Path

from fabricate import SETS, image_folder

from locbench.paths import PACKAGE
from locbench.records import Store

# Trains when the file GO is there, and notes it: nothing here may depend on who is quicker.
COMMAND = """
import os, time
from pathlib import Path
from locbench import cli
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
    with (folder / f"{name}.out").open("w") as out, (folder / f"{name}.err").open("w") as err:
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, "reproduce", *words],
            env={**os.environ, **names, "PYTHONPATH": str(PACKAGE.parent)},
            stdout=out,
            stderr=err,
        )


def test_two_at_once_train_once(tmp_path):
    words = ["table1", "--rows=gim resnet-50", "--columns=linear_top1", "--device=cpu"]
    words += [f"--data-root={image_folder(tmp_path / 'images')}", *SETS]
    words += [f"--runs={tmp_path / 'runs'}"]
    both = {name: start(words, tmp_path, name) for name in ("one", "two")}
    errors = {name: tmp_path / f"{name}.err" for name in both}

    def waiting() -> list[str]:
        return [n for n, path in errors.items() if "locbench: waiting for" in path.read_text()]

    until = time.monotonic() + 300
    while not waiting() and time.monotonic() < until:
        assert all(process.poll() is None for process in both.values())
        time.sleep(0.05)
    [second] = waiting()
    (tmp_path / "go").touch()
    assert [process.wait(300) for process in both.values()] == [0, 0]

    [line] = (tmp_path / "notes").read_text().splitlines()
    pid, run = line.split()
    first = next(name for name, process in both.items() if process.pid == int(pid))
    assert first != second and run.startswith("pretrain-gim-resnet50")
    said = [x for x in errors[second].read_text().splitlines() if x.endswith(run)]
    assert len(said) == 1 and said[0].startswith(f"locbench: waiting for process {pid} on ")
    told = [x for x in errors[second].read_text().splitlines() if f" is at {run}: " in x]
    assert len(told) == 1 and told[0].endswith(": other runs come first")
    tables = [(tmp_path / f"{name}.out").read_text() for name in both]
    assert tables[0] == tables[1] and "GIM" in tables[0]
    records = Store(tmp_path / "runs").all()
    assert len(records) == 4 and {record.status for record in records} == {"done"}
    assert not list((tmp_path / "runs").glob(".locks/*.holder"))
