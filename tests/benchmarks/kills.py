"""`locbench reproduce` killed again and again: is a record lost, and is the table the same?

    python tests/benchmarks/kills.py [--kills 20] [--seed 0] [--every SECONDS] [--table table1]
        [--scale smoke] [--rows ROWS] [--columns COLUMNS] [--set KEY=VALUE]... [--folder DIR]

Runs the command to its end undisturbed, then again from nothing in another folder, where it is
killed (SIGKILL, the whole process group) at random moments. Half of the kills are aimed: they fall
when a checkpoint or a record is being written, which is seen by what is left of it, or just after a
run is done. After every kill each record that was done before is compared byte for byte, and at the
end the printed table, all that decides in the records, and the encoders, with the undisturbed
ones'. --folder keeps the undisturbed run: a second time it is taken from there. Exit code 1 if
anything was lost, differs or is left over. At smoke, table1, about 30 minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
AIMS = ("random moment", "checkpoint", "random moment", "record", "random moment", "end of a run")
WRITTEN = {"checkpoint": "checkpoint.pt", "record": "record.json"}
DRAFT = re.compile(r"\.(.+)\.[0-9a-f]{8}")  # as locbench.paths.write_atomic names them
LONGEST_AIM_S = 60.0
# What a record says of the time and place of its run, and not of its result.
OF_THE_DAY = ("created", "finished", "environment")
MEASURED = ("wall_time_s", "images_per_s", "peak_")


@dataclass
class Command:
    """`locbench reproduce` with these words, in a folder with runs and a cache of its own."""

    words: list[str]
    folder: Path

    @property
    def runs(self) -> Path:
        """Where its records are."""
        return self.folder / "runs"

    def start(self, out: int = subprocess.DEVNULL) -> subprocess.Popen:
        """The command in a process group of its own; what it says goes to FOLDER/log.txt."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        with (self.folder / "log.txt").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "locbench", "reproduce", *self.words, f"--runs={self.runs}"],
                env={
                    **os.environ,
                    "LOCBENCH_CACHE": str(self.folder / "cache"),
                    "PYTHONPATH": os.pathsep.join(filter(None, path)),
                    "COLUMNS": "100",
                },
                stdout=out,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def finish(self) -> str:
        """Run it to its end; the table that it prints."""
        process = self.start(subprocess.PIPE)
        table = process.communicate()[0]
        if process.returncode:
            log = self.folder / "log.txt"
            sys.exit(f"the command ended with {process.returncode}: see {log}")
        return table

    def done(self) -> dict[str, bytes]:
        """The records that are done, by id."""
        found = {path.parent.name: path.read_bytes() for path in self.runs.glob("*/record.json")}
        return {id: text for id, text in found.items() if json.loads(text)["status"] == "done"}

    def drafts(self) -> list[Path]:
        """What is left, or there for the moment, of files that are being written."""
        return [path for path in self.runs.glob("*/.*") if DRAFT.fullmatch(path.name)]


@dataclass
class Tally:
    """What came of the kills."""

    passes: int = 0
    aimed: Counter = field(default_factory=Counter)
    hit: Counter = field(default_factory=Counter)  # by the file that was being written
    lost: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    tables: list[bool] = field(default_factory=list)  # whether each is the undisturbed one
    differ: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        """How many there were."""
        return sum(self.aimed.values())

    def text(self) -> str:
        """The figures, a line each."""
        aims = ", ".join(f"{aim} {count}" for aim, count in self.aimed.items())
        hits = ", ".join(f"{count} of {name}" for name, count in sorted(self.hit.items()))
        lists = (self.refused, self.lost, self.differ, self.left)
        refused, lost, differ, left = (f" ({'; '.join(found)})" if found else "" for found in lists)
        return "\n".join(
            [
                f"kills: {self.kills} (aimed at: {aims}) in {self.passes} runs of the table",
                f"while a file was being written: {sum(self.hit.values())} ({hits or 'none'})",
                f"restarts that did not go on: {len(self.refused)}{refused}",
                f"records lost: {len(self.lost)}{lost}",
                f"tables identical: {'yes' if all(self.tables) else 'no'}",
                f"records and weights identical: {'no' if self.differ else 'yes'}{differ}",
                f"files left behind: {len(self.left)}{left}",
            ]
        )


def being_written(command: Command, name: str, seen: set[Path]) -> bool:
    """Whether a new draft of a file of this name is there: only the newest runs can be at it."""
    try:
        newest = max(command.runs.glob("[!.]*"), key=lambda path: path.stat().st_mtime)
        names = [name for name in os.listdir(newest) if name.startswith(".")]  # noqa: PTH208
    except (ValueError, OSError):
        return False
    found = ((newest / draft, DRAFT.fullmatch(draft)) for draft in names)
    return any(match and match[1] == name and path not in seen for path, match in found)


def reached(command: Command, aim: str, before: dict[str, bytes], seen: set[Path]) -> bool:
    """Whether this is what is aimed at: a draft is there, or a run came to its end."""
    if aim == "end of a run":
        return len(command.done()) > len(before)
    return aim == "random moment" or being_written(command, WRITTEN[aim], seen)


def kill(command: Command, aim: str, delay: float, tally: Tally) -> bool:
    """Start the command and kill it; False where it came to its end before."""
    before, seen = command.done(), set(command.drafts())
    process = command.start()
    began = time.monotonic()
    while time.monotonic() - began < delay and process.poll() is None:
        time.sleep(0.005)
    aiming = time.monotonic()
    while process.poll() is None and time.monotonic() - aiming < LONGEST_AIM_S:
        if reached(command, aim, before, seen):
            break
        time.sleep(0.0002)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    code = process.wait()
    if code != -signal.SIGKILL:
        if code:
            tally.refused.append(f"ended with {code} where it should have gone on")
        return False
    tally.aimed[aim] += 1
    for path in set(command.drafts()) - seen:
        tally.hit[DRAFT.fullmatch(path.name)[1]] += 1
    lose(before, command.done(), tally)
    return True


def lose(before: dict[str, bytes], now: dict[str, bytes], tally: Tally) -> None:
    """Note the records that were done and are gone or another's."""
    tally.lost += [id for id, text in before.items() if now.get(id) != text]


def compare(shaken: Command, calm: Command, wanted: str, tally: Tally) -> None:
    """Run the command that was killed to its end, and note what is not as the undisturbed one's."""
    before = shaken.done()
    tally.tables.append(shaken.finish() == wanted)
    lose(before, shaken.done(), tally)
    tally.differ += differences(calm, shaken)
    tally.left += leftovers(shaken)


def deciding(text: bytes) -> dict[str, object]:
    """A record without what another day would change."""
    record = {key: value for key, value in json.loads(text).items() if key not in OF_THE_DAY}
    cost = record["cost"].items()
    return {**record, "cost": {key: v for key, v in cost if not key.startswith(MEASURED)}}


def differences(one: Command, other: Command) -> list[str]:
    """The runs whose records or weights are not the same, and what only one of the two has."""
    ours, theirs = one.done(), other.done()
    found = [f"{id} is done in one alone" for id in sorted(ours.keys() ^ theirs.keys())]
    for id in sorted(ours.keys() & theirs.keys()):
        mine, its = deciding(ours[id]), deciding(theirs[id])
        found += [f"{id}: {key}" for key in mine if mine[key] != its.get(key)]
        files = [weights(command.runs / id) for command in (one, other)]
        found += [f"{id}: {name}" for name, _ in set(files[0].items()) ^ set(files[1].items())]
    return found


def weights(folder: Path) -> dict[str, str]:
    """The sha256 of every file of weights in a run's folder."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.glob("*.safetensors")
    }


def leftovers(command: Command) -> list[str]:
    """Files of the runs that an undisturbed run does not leave."""
    kept = [*command.drafts(), *command.runs.glob("*/checkpoint.pt")]
    kept += command.runs.glob(".locks/*.holder")
    return [str(path.relative_to(command.runs)) for path in kept]


def undisturbed(command: Command) -> tuple[str, float]:
    """The table, and the seconds that it took; of an earlier time if it is there."""
    note = command.folder / "undisturbed.json"
    if not note.exists():
        began = time.monotonic()
        table = command.finish()
        note.write_text(json.dumps([table, time.monotonic() - began]))
    table, seconds = json.loads(note.read_text())
    return table, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--every", type=float, help="seconds to a kill, on average; by default so "
                        "many that they are spread over one undisturbed run")  # fmt: skip
    parser.add_argument("--table", default="table1")
    parser.add_argument("--scale", default="smoke")
    parser.add_argument("--rows")
    parser.add_argument("--columns")
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--data-root")
    parser.add_argument("--folder", type=Path, help="kept; without it a temporary one")
    asked = parser.parse_args()
    words = [asked.table, f"--scale={asked.scale}", "--device=cpu"]
    words += [f"--set={one}" for one in asked.sets]
    for key in ("rows", "columns", "data_root"):
        value = getattr(asked, key)
        words += [f"--{key.replace('_', '-')}={value}"] if value else []
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        sys.exit(endure(words, folder, asked.kills, asked.every, random.Random(asked.seed)))


def endure(
    words: list[str], folder: Path, kills: int, every: float | None, draw: random.Random
) -> int:
    """Kill, compare, print; 1 if anything was lost or differs."""
    calm, tally, began = Command(words, folder / "undisturbed"), Tally(), time.time()
    wanted, seconds = undisturbed(calm)
    every = every or seconds / (kills + 1)
    print(f"undisturbed: {len(calm.done())} runs in {seconds:.0f} s", flush=True)
    while tally.kills < kills or not tally.passes:
        # Often one is enough. Another begins from nothing where it came to its end too early.
        tally.passes += 1
        shaken = Command(words, folder / f"killed-{os.getpid()}-{tally.passes}")
        while tally.kills < kills:
            aim = AIMS[tally.kills % len(AIMS)]
            delay = draw.uniform(0, 2 * every)
            if not kill(shaken, aim, delay, tally):
                break
            left = f"{len(shaken.done())} runs done, {len(shaken.drafts())} drafts there"
            print(f"kill {tally.kills} ({aim}, from {delay:.1f} s on): {left}", flush=True)
        compare(shaken, calm, wanted, tally)
    print(tally.text())
    print(f"time: {time.time() - began:.0f} s, undisturbed {seconds:.0f} s")
    print(f"{os.cpu_count()} cores, OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'not set')}")
    bad = tally.lost or tally.refused or tally.differ or tally.left or not all(tally.tables)
    return int(bool(bad))


if __name__ == "__main__":
    main()
