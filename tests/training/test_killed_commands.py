"""`locbench reproduce` killed as it writes and after a run: nothing is lost, nothing else printed.

The short form of tests/benchmarks/kills.py, with its parts.
"""

import sys
from pathlib import Path

from fabricate import SETS, call, image_folder

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from kills import Command, Tally, compare, kill


def test_killed_twice(capsys, tmp_path):
    images = image_folder(tmp_path / "images", train=24)
    words = ["table1", "--rows=gim resnet-50", "--columns=linear_top1", "--device=cpu"]
    words += [f"--data-root={images}", *SETS]
    calm, shaken = Command(words, tmp_path / "calm"), Command(words, tmp_path / "shaken")
    code, wanted, _ = call(capsys, "reproduce", *words, f"--runs={calm.runs}")
    assert code == 0 and len(calm.done()) == 4

    tally = Tally()
    assert kill(shaken, "checkpoint", 0.0, tally) and not shaken.done()
    assert kill(shaken, "end of a run", 0.0, tally) and len(shaken.done()) == 1
    compare(shaken, calm, wanted, tally)
    assert tally.hit["checkpoint.pt"] == 1, "half of one was left there"
    assert tally.tables == [True] and not (tally.lost or tally.differ or tally.left)
    log = (shaken.folder / "log.txt").read_text()
    gone = "is gone: its lock is taken over"
    assert log.count(gone) == 1, "of the run that was done nobody asks for the lock"
