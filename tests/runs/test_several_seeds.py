"""`--seeds 3` from training to print: mean, sample deviation and n, and what they decide."""

import csv
import io
import json
import math
import random
import re
import statistics

import pytest
from fabricate import SETS, call, fill, image_folder

import locbench
from locbench.paths import runs_dir
from locbench.published.load import load_table
from locbench.recipes.validation import parse_overrides
from locbench.report.filled import fill_table
from locbench.report.frame import frame
from locbench.runs import plan as reproduce
from locbench.runs.plan import PUBLISHED_DATA, Options, make_plan
from locbench.runs.store import Store

# --- trained ---------------------------------------------------------------------------------


def test_three_trained_seeds_in_every_format(capsys, tmp_path):
    images, store = image_folder(tmp_path / "images", val=10), Store(runs_dir())
    words = ["reproduce", "table1", "--rows=gim resnet-50", "--columns=linear_top1", "--seeds=3"]
    # One short epoch, or every seed would tell the three colours without a fault.
    sets = [*SETS, "--set=probe.epochs=1", "--set=probe.milestones=[]", "--set=probe.lr=0.3"]
    words += ["--device=cpu", f"--data-root={images}", *sets]

    def printed(format):
        code, out, _ = call(capsys, *words, f"--format={format}")
        assert code == 0
        return out

    cells = json.loads(printed("json"))["cells"]
    assert [(cell["n"], cell["asked"]) for cell in cells] == [(3, 3), (3, 3), (1, 0)]
    rows = list(csv.DictReader(io.StringIO(printed("csv"))))
    overrides = parse_overrides([part.removeprefix("--set=") for part in sets if "." in part])
    seen = locbench.table(
        "table1", rows="gim resnet-50", columns="linear_top1", seeds=3,
        data_root=images, overrides=overrides,
    ).to_dict("records")  # fmt: skip
    texts = {format: printed(format) for format in ("rich", "md", "latex")}
    spreads = []
    for cell, row, line in zip(cells[:2], rows, seen, strict=False):
        top1 = [store.load(id).metrics["top1"]["last"] for id in cell["runs"].split()]
        assert len({store.load(id).seed for id in cell["runs"].split()}) == 3
        mean, spread = statistics.fmean(top1), statistics.stdev(top1)
        spreads.append(spread)
        for found in (cell, row, line):
            assert float(found["measured"]) == pytest.approx(mean)
            assert float(found["spread"]) == pytest.approx(spread) and int(found["n"]) == 3
        text = f"{mean:.1f} ± {spread:.2f} (3)"
        assert text in texts["rich"] and text in texts["md"]
        assert text.replace("±", r"$\pm$") in texts["latex"]
    assert max(spreads) > 0, "seeds that all say the same show nothing"
    assert cells[2]["spread"] is None and not re.search(r"pixels.* \(1\)", texts["md"])

    lost = cells[0]["runs"].split()[1]
    broken = store.load(lost)
    store.discard(lost)
    broken.status, broken.error = "failed", "the disk was full"
    store.save(broken)
    left = locbench.table(
        "table1", rows="gim resnet-50", columns="linear_top1", seeds=3,
        data_root=images, overrides=overrides,
    )  # fmt: skip
    assert (left["n"][0], left["asked"][0], left["unfinished"][0]) == (2, 3, "1 failed")


# --- judged ----------------------------------------------------------------------------------


def two_sided(t, df):
    """P(|T| > |t|) of Student's t, by Simpson's rule on its density, without a library."""
    scale = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi)
    steps, edge = 600, abs(t)
    values = [(1 + (edge * k / steps) ** 2 / df) ** (-(df + 1) / 2) for k in range(steps + 1)]
    weights = [1, *(4 if k % 2 else 2 for k in range(1, steps)), 1]
    inside = scale * edge / steps / 3 * sum(w * v for w, v in zip(weights, values, strict=True))
    return 1 - 2 * inside


def critical(df):
    """The t that |T| exceeds in one case of twenty, by bisection."""
    low, high = 0.0, 50.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided(middle, df) > 0.05 else (low, middle)
    return low


def welch_says(values, published, std, n):
    """The verdict by the definition of Welch's test; it tolerates three published deviations."""
    mean = sum(values) / len(values)
    ours = sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values)
    theirs = std**2 / n
    df = (ours + theirs) ** 2 / (ours**2 / (len(values) - 1) + theirs**2 / (n - 1))
    error = math.sqrt(ours + theirs)
    if two_sided((mean - published) / error, df) < 0.05:
        return "better" if mean > published else "worse"
    return "reproduced" if critical(df) * error <= 3 * std else "inconclusive"


def test_the_independent_quantiles_are_those_of_printed_tables():
    assert critical(2) == pytest.approx(4.303, abs=1e-3)
    assert critical(4) == pytest.approx(2.776, abs=1e-3)
    assert critical(10) == pytest.approx(2.228, abs=1e-3)


def test_three_runs_at_paper_scale_are_judged_by_welch(monkeypatch):
    def here(name, *_):
        return {"name": name, "version": 1, "checksum": "ab" * 32, **PUBLISHED_DATA[name]}

    monkeypatch.setattr(reproduce, "fingerprint", here)
    store, draw = Store(runs_dir()), random.Random(7)
    plan = make_plan(load_table("auglocal/table1"), Options("paper", seeds=3))
    measured = {}
    cells = [planned for planned in plan.cells if planned.cell.inside]
    for planned in cells:
        value, std = planned.cell.published.value, planned.cell.published.std
        centre = value + draw.choice((0, 0, 1, -1, 3, -6)) * std
        wide = draw.choice((0.3, 1, 4)) * std
        measured |= {spec.id: draw.gauss(centre, wide) for spec in planned.specs}
    fill(plan.runs(), store, lambda spec: measured[spec.id])
    lines, seen = frame(fill_table(plan, store)).to_dict("records"), set()
    lines = [line for line in lines if not line["beside"]]
    assert len(lines) == 54
    for planned, line in zip(cells, lines, strict=True):
        values = [measured[spec.id] for spec in planned.specs]
        assert line["n"] == 3 and line["spread"] == pytest.approx(statistics.stdev(values))
        published = planned.cell.published
        assert planned.cell.tolerance is None and published.n is None, "3 is assumed"
        assert line["verdict"] == welch_says(values, published.value, published.std, 3)
        seen.add(line["verdict"])
    assert seen == {"reproduced", "better", "worse", "inconclusive"}


# --- what has no seed ------------------------------------------------------------------------


def test_what_is_counted_is_counted_once():
    plan = make_plan(load_table("loco/table7"), Options(seeds=3))
    cells = frame(fill_table(plan, Store(runs_dir())))
    asked = dict(zip(cells["column_key"], cells["asked"], strict=True))
    assert asked == {"linear_top1": 3, "memory_saving": 0, "conv_saving": 0}
