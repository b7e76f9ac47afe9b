"""Steps of every supervised rule give the losses of AugLocal's official code.

The numbers in official_losses.json were written down by tests/benchmarks/official.py from that code
(float64, SGD with momentum), on weights and batches that both sides make anew: ResNet-32 at 32
pixels in three of ten steps, with `-m full` in all, and on deeper networks and larger images.
"""

import json
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))

from official import CASES, our_losses  # noqa: E402

RECORDED = json.loads((HERE / "official_losses.json").read_text())
QUICK = [pytest.param(name, case.quick) for name, case in CASES.items() if case.quick]
ALL = [pytest.param(name, case.steps, marks=pytest.mark.full) for name, case in CASES.items()]


def test_every_case_is_recorded():
    assert RECORDED.keys() == CASES.keys()
    assert {name: len(steps) for name, steps in RECORDED.items()} == {
        name: case.steps for name, case in CASES.items()
    }


@pytest.mark.parametrize(("name", "steps"), [*QUICK, *ALL])
def test_every_unit_has_the_official_loss_at_every_step(name, steps):
    ours, theirs = (
        torch.tensor(losses, dtype=torch.float64)
        for losses in (our_losses(CASES[name], steps), RECORDED[name][:steps])
    )
    assert ours.shape == theirs.shape and len(theirs) == steps
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=0)
    assert (ours[0] != ours[-1]).all(), "nothing was learned"
