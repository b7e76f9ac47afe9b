"""Steps of every supervised rule give the losses of AugLocal's official code (ten with `-m full`).

The numbers in official_losses.json were written down by tests/benchmarks/official.py from that code
(ResNet-32, float64, SGD with momentum), on weights and batches that both sides make anew.
"""

import json
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))

import official  # noqa: E402
from official import CASES, our_losses  # noqa: E402

RECORDED = json.loads((HERE / "official_losses.json").read_text())


def test_every_case_is_recorded():
    assert RECORDED.keys() == CASES.keys()
    units = {case: len(steps[0]) for case, steps in RECORDED.items()}
    assert units.pop("bp") == 1 and units.pop("auglocal d=2") == 15
    assert units.pop("auglocal d=6") == 11 and set(units.values()) == {16}


@pytest.mark.parametrize("steps", [3, pytest.param(10, marks=pytest.mark.full)])
@pytest.mark.parametrize("case", CASES)
def test_every_unit_has_the_official_loss_at_every_step(case, steps, monkeypatch):
    monkeypatch.setattr(official, "STEPS", steps)
    ours, theirs = (
        torch.tensor(x, dtype=torch.float64) for x in (our_losses(case), RECORDED[case][:steps])
    )
    assert ours.shape == theirs.shape and len(theirs) == steps
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=0)
    assert (ours[0] != ours[-1]).all(), "nothing was learned"
