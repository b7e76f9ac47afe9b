"""One detector trained by two processes, as torchrun starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from locbench.evaluation.downstream.categories import COCO
from locbench.runs.store import Store

SETS = {"data": "coco", "test_side": 64, "iterations": 4, "milestones": "[3]", "batch": 4}
SETS |= {"channels": 16, "fc": 16, "proposals": 20, "samples": 8, "rpn_samples": 8, "warmup": 0}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Eight images in COCO's form, one object each."""
    from PIL import Image

    folder = tmp_path / "set"
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    images, objects = [], []
    for number in range(1, 9):
        image = Image.new("RGB", (64, 64), (20 * number, 90, 40))
        image.paste((200, 200, 10 * number), (16, 16, 48, 48))
        image.save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 64})
        corners = [16, 16, 48, 16, 48, 48, 16, 48]
        item = {"id": number, "image_id": number, "category_id": 1, "iscrowd": 0}
        objects.append(item | {"bbox": [16, 16, 32, 32], "area": 1024, "segmentation": [corners]})
    named = [{"id": k + 1, "name": name} for k, name in enumerate(COCO)]
    content = {"images": images, "annotations": objects, "categories": named}
    for split in ("train", "val"):
        (folder / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    return folder


def with_two_processes(root: Path, runs: Path) -> subprocess.CompletedProcess[str]:
    words = ["downstream", "coco", "--frozen", "--rule=untrained", "--device=cpu"]
    words += [f"--data-root={root}", f"--runs={runs}"]
    words += [f"--set=detection.{key}={value}" for key, value in SETS.items()]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    return subprocess.run(
        [*torchrun, "--standalone", "-m", "locbench", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.full
def test_two_processes_make_one_record(root, tmp_path):
    done = with_two_processes(root, tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("untrained resnet50") == 2  # the title and the line: printed once
    [record] = list(Store(tmp_path / "runs").readable())
    assert record.status == "done" and record.tags["processes"] == 2
    assert record.tags["norm"] == "BN (no GPU)" and record.cost["steps"] == 4
    assert len(record.curves["loss"]) == 4 and "ap_box" in record.metrics
    folder = Store(tmp_path / "runs").folder(record.id)
    assert {"detector.safetensors", "pictures"} <= {path.name for path in folder.iterdir()}


@pytest.mark.full
def test_an_error_in_one_process_ends_all_with_its_line(root, tmp_path):
    broken = root / "images/3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    done = with_two_processes(root, tmp_path / "runs")
    assert done.returncode != 0
    assert f"{broken} cannot be read as an image" in done.stderr
