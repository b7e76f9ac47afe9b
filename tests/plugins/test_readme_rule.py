"""The README's own rule, taken out of it and put through every command it names."""

import hashlib
import json

import pytest
import readme_rule
import torch
from fabricate import SETS, call, image_folder

from locbench.paths import runs_dir
from locbench.plugins.registry import RULES
from locbench.runs.store import Store
from locbench.training.checkpoints import load_encoder
from locbench.units import Batch

STAGES = [f"stage {k}" for k in (1, 2, 3, 4)]


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    monkeypatch.setattr(RULES, "entries", dict(RULES.entries))


@pytest.fixture
def barlow(tmp_path):
    """The file that the README shows."""
    path = readme_rule.barlow(tmp_path)
    assert len(path.read_text().splitlines()) < 80
    return path


@pytest.fixture
def tiny(tmp_path):
    return [*SETS, "--data-root", image_folder(tmp_path / "images")]


def loss_of(path, z1, z2, weight):
    """The published loss of two batches of projections, written out apart from the README's."""
    namespace = {"__name__": "readme"}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    objective = namespace["BarlowTwins"](z1.shape[1], 8, weight).double()
    objective.projector = torch.nn.Identity()
    features = torch.cat([z1, z2])[:, :, None, None].expand(-1, -1, 3, 3)
    return objective(features, Batch(features))[0]


def test_its_loss_is_barlow_twins(barlow):
    draw = torch.Generator().manual_seed(3)
    z1, z2 = torch.randn(2, 16, 5, generator=draw, dtype=torch.float64)
    one, two = ((z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt() for z in (z1, z2))
    wanted = 0.0
    for i in range(5):
        for j in range(5):
            c = float((one[:, i] * two[:, j]).sum()) / 16
            wanted += ((1 - c) ** 2 if i == j else 0.3 * c**2) / 5
    assert float(loss_of(barlow, z1, z2, 0.3)) == pytest.approx(wanted, rel=1e-12)
    assert float(loss_of(barlow, z1, z1, 0.0)) == pytest.approx(0, abs=1e-8)


def test_every_command_that_the_readme_names_takes_it(capsys, barlow, tiny, tmp_path):
    store, digest = Store(runs_dir()), hashlib.sha256(barlow.read_bytes()).hexdigest()

    small = ["--width", "0.125", "--blocks", "1", "--set", "rule.width=16", "--json"]
    code, out, err = call(capsys, "audit", barlow, "resnet50", *small)
    assert code == 0, err
    audited = json.loads(out)
    assert audited["holds"] and [unit["unit"] for unit in audited["units"]] == STAGES
    for k, unit in enumerate(audited["units"]):
        assert [gradient > 0 for gradient in unit["gradients"]] == [
            k == stage for stage in range(4)
        ]

    pretrain = ["pretrain", "loco/imagenet", "--rule", barlow, "--network", "resnet50", *tiny]
    code, out, err = call(capsys, *pretrain, "--set", "rule.width=16", "--json")
    assert code == 0, err
    record = json.loads(out)
    assert record["rule"] == {
        "name": "barlow",
        "settings": {"width": 16},
        "version": f"sha256:{digest}",
        "file": "barlow.py",
    }
    assert [unit["auxiliary"] for unit in record["units"]] == ["3-layer MLP"] * 4
    assert [unit["auxiliary_parameters"] for unit in record["units"]] == [
        channels * 16 + 2 * 16**2 + 4 * 16 for channels in (32, 64, 128, 256)
    ]
    assert [unit["updates"] for unit in record["units"]] == [[0, 1], [2], [3], [4]]
    for stage in STAGES:
        assert 0 < record["metrics"][f"loss of {stage}"]["last"] < 4
        assert -1 <= record["metrics"][f"correlation of {stage}"]["last"] <= 1
    encoder = store.folder(record["id"]) / "encoder.safetensors"
    assert all(tensor.isfinite().all() for tensor in load_encoder(encoder).values())
    assert (store.folder(record["id"]) / "barlow.py").read_bytes() == barlow.read_bytes()

    chosen = ["--rows", "barlow resnet", "--columns", "linear_top1", "--format", "json"]
    table = ["reproduce", "table1", "--rule", barlow, *chosen, *tiny]
    code, out, err = call(capsys, *table, "--set", "rule.width=16")
    assert code == 0, err
    (row,) = [cell for cell in json.loads(out)["cells"] if cell["method"] == "barlow"]
    assert (row["network"], row["verdict"], row["n"]) == ("ResNet-50", "unpublished", 1)
    assert row["decoder"] == "3-layer MLP"
    assert [r.id for r in store.all() if r.kind == "pretrain"] == [record["id"]], "trained once"
    (probed,) = [r for r in store.all() if r.id == row["runs"]]
    assert row["measured"] == probed.metrics["top1"]["last"] and 0 <= row["measured"] <= 100

    barlow.unlink()
    RULES.entries.pop("barlow")
    code, out, err = call(capsys, "probe", record["id"], *tiny[-2:], "--json")
    assert code == 0 and json.loads(out)["id"] == probed.id, err
