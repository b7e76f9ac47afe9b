"""For tests of commands: finished records without training, tiny runs, the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from locbench.cli import app as cli
from locbench.runs.record import Record
from locbench.runs.spec import RunSpec
from locbench.runs.store import Store

UNITS = {
    "simclr": (("stages 1-4", 0, 5, "2-layer MLP"),),
    "gim": tuple((f"stage {k}", k, k + 1, "2-layer MLP") for k in (1, 2, 3, 4)),
    "loco": tuple((f"stages {k}-{k + 1}", k, k + 2, "1 conv block + 2-layer MLP") for k in (1, 2)),
}
UNITS |= {rule: (("stages 1-3", 0, 3, "classifier"),) for rule in ("bp", "dgl", "auglocal")}
TOP1 = {"simclr": 41.25, "gim": 36.5, "loco": 40.75, "untrained": 24.125, "pixels": 12.5}


def top1(spec: RunSpec) -> float:
    """A top-1 accuracy by rule, a little other for every seed and probe profile."""
    profile = 0.5 if spec.recipe.probe.profile == "moco" else 0.0
    return TOP1.get(spec.rule, 30.0) + profile + 0.25 * (spec.seed % 10 - 4)


def record(spec: RunSpec, score: Callable[[RunSpec], float] = top1, **changes) -> Record:
    """What `execute` would have left of this run, in the same fields."""
    made = Record(
        id=spec.id,
        kind=spec.kind,
        status="done",
        scale=spec.scale,
        seed=spec.seed,
        parent=spec.parent.id if spec.parent else None,
        identity=spec.identity,
        recipe=spec.recipe.as_dict(),
        recipe_hash=spec.recipe.hash,
        rule={"name": spec.rule, "settings": dict(spec.recipe.rule), "version": 1},
        network={"name": spec.network, **spec.recipe.as_dict()["network"], "version": 1},
        data={
            **{key: spec.data[key] for key in ("name", "version", "checksum", "classes")},
            "train_images": spec.data["train"],
            "test_images": spec.data["test"],
            "resolution": spec.recipe.data.resolution,
        },
        tags={"epoch": "last", "precision": "float32", "decoder": "none"},
        cost={"wall_time_s": 60.0, "peak_resident_bytes": 10**9},
        environment={"device": "cpu"},
        created="2020-12-06T00:00:00+00:00",
        finished="2020-12-06T00:01:00+00:00",
    )
    units = UNITS.get(spec.rule, ())
    if spec.of.trains:
        made.units = [
            {"name": name, "start": start, "stop": stop, "updates": list(range(start, stop)),
             "auxiliary": auxiliary, "auxiliary_parameters": 1000 * stop}
            for name, start, stop, auxiliary in units
        ]  # fmt: skip
        for name, *_ in units:
            made.metrics |= {f"loss of {name}": {"last": 4.5}, f"accuracy of {name}": {"last": 0.3}}
        made.cost |= {
            "encoder_parameters": 90_000,
            "encoder_multiply_adds": 12_000_000,
            "images_per_s": 400.0,
            "activation_bytes": 50_000_000,
            "steps": 240,
        }
    if spec.kind != "pretrain":
        made.metrics |= {"top1": {"last": score(spec), "best": score(spec) + 0.5}}
        if spec.kind == "probe":
            made.tags["decoder"] = units[-1][-1] if units else "none"
    for key, value in changes.items():
        setattr(made, key, value)
    return made


def fill(specs: Iterable[RunSpec], store: Store, score: Callable[[RunSpec], float] = top1) -> None:
    """Finished records of all these runs, in the store: written plainly, for many are needed."""
    for spec in specs:
        store.folder(spec.id).mkdir(parents=True, exist_ok=True)
        store.path(spec.id).write_text(record(spec, score).to_json(), encoding="utf-8")


# --- what is small enough to be run for real -------------------------------------------------

TINY = {
    "data.name": "folder",
    "data.resolution": 16,
    "network.width": 0.125,
    "network.blocks": 1,
    "network.stem": "small",
    "optimizer.lr": 0.05,
    "schedule.epochs": 2,
    "schedule.warmup_epochs": 1,
    "training.batch": 8,
    "training.precision": "fp32",
    "probe.epochs": 2,
    "probe.milestones": [1],
    "probe.batch": 8,
}
SETS = [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]


def image_folder(root: Path, train: int = 8, val: int = 4, side: int = 16) -> Path:
    """A data set of three classes, each a colour with noise, as PNG files."""
    draw = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for k in range(3):
            folder = root / split / f"class{k}"
            folder.mkdir(parents=True)
            for n in range(count):
                pixels = draw.integers(0, 120, (side, side, 3)) + 120 * (np.arange(3) == k)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{n}.png")
    return root


def call(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str, str]:
    """The command line in this process: exit code, stdout, stderr."""
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["locbench", *map(str, arguments)])
        cli.main()
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


def complaint(capsys: pytest.CaptureFixture, *arguments: object, code: int = 2) -> str:
    """The one line on stderr of a command that ends with this code and prints nothing else."""
    found, out, err = call(capsys, *arguments)
    assert (found, out) == (code, ""), (found, out, err)
    assert err.startswith("locbench: ") and err.count("\n") == 1 and "Traceback" not in err, err
    return err
