"""The doctor finds what is wrong, and takes nothing that is merely absent for wrong."""

from __future__ import annotations

import importlib
import shutil
import sys
import warnings
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from locbench.cli import doctor
from locbench.errors import UserError
from locbench.evaluation.downstream.extra import REMEDY, check_detection_extra

DETECTION = {"mmdet": "mmdet", "mmengine": "mmengine", "mmcv": "mmcv_lite"}
DETECTION |= {"pycocotools": "pycocotools", "shapely": "shapely"}


def test_all_checks_in_order() -> None:
    names = [check.name for check in doctor.examine()]
    assert names == [
        *("python", "torch", "torchvision", "processor", "gpu", "memory"),
        *("runs folder", "cache folder", "data root", "detection", "git"),
    ]


def test_every_line_is_one_line() -> None:
    for check in doctor.examine():
        assert check.detail and "\n" not in check.detail


def test_no_torch_is_found_and_the_rest_still_examined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    checks = {check.name: check for check in doctor.examine()}
    assert checks["torch"].status == "fail"
    assert "cannot be imported" in checks["torch"].detail
    assert "processor" not in checks and "git" in checks


@pytest.mark.parametrize(
    ("version", "status"),
    [("2.9.1", "warn"), ("2.10.0", "ok"), ("2.14.1+cpu", "ok"), ("2.13.0+cpu", "warn")],
)
def test_torch_release(version: str, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    assert doctor.check_torch().status == status


def test_torchvision_that_fits_and_one_that_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_torchvision().status == "ok"

    def missing(*_: object) -> None:
        raise RuntimeError("operator torchvision::nms does not exist\nmore lines")

    monkeypatch.setattr("torchvision.ops.nms", missing)
    check = doctor.check_torchvision()
    assert check.status == "fail"
    assert "nms does not exist" in check.detail and torch.__version__ in check.detail


def test_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_processor().status == "ok"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 10_000)
    check = doctor.check_processor()
    assert check.status == "warn" and "OMP_NUM_THREADS=" in check.detail


@pytest.mark.parametrize("have", [True, False])
def test_bf16(have: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {"avx512_f": True, "avx512_bf16": have, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: listed, raising=False)
    assert ("no bf16" in doctor.check_processor().detail) is not have


def test_gpus_are_named_with_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(name="Card", total_memory=80 * doctor.GIB)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    check = doctor.check_gpus()
    assert (check.status, check.detail) == ("ok", "Card 80.0 GiB, Card 80.0 GiB")


def test_a_gpu_that_cannot_be_used_is_not_taken_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert doctor.check_gpus().status == "ok"

    def old_driver() -> bool:
        warnings.warn("The NVIDIA driver is too old", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", old_driver)
    check = doctor.check_gpus()
    assert check.status == "warn" and "too old" in check.detail


def test_memory_is_read_from_the_kernels_table(tmp_path: Path) -> None:
    table = tmp_path / "meminfo"
    table.write_text("MemTotal:  2048 kB\nMemFree:  1 kB\nMemAvailable:  1024 kB\nHugePages: 0\n")
    assert doctor.memory_bytes(table) == (2048 * 1024, 1024 * 1024)
    total, free = doctor.memory_bytes(tmp_path / "none")
    assert free is None and (total is None or total > doctor.GIB // 4)


@pytest.mark.parametrize(
    ("total", "free", "status"), [(8, 4, "ok"), (8, 1, "warn"), (8, None, "ok"), (None, None, "ok")]
)
def test_little_memory(
    total: int | None, free: int | None, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = tuple(size and size * doctor.GIB for size in (total, free))
    monkeypatch.setattr(doctor, "memory_bytes", lambda: sizes)
    assert doctor.check_memory().status == status


def test_folder_is_examined_and_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=9 * doctor.GIB))
    folder = tmp_path / "a/b"
    check = doctor.check_folder("runs folder", folder, "LOCBENCH_RUNS")
    assert check.status == "ok" and "9.0 GiB free" in check.detail
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=doctor.GIB))
    assert doctor.check_folder("runs folder", folder, "LOCBENCH_RUNS").status == "warn"


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check = doctor.check_folder("runs folder", tmp_path / "file", "LOCBENCH_RUNS")
    assert check.status == "fail" and "set LOCBENCH_RUNS" in check.detail


def test_data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_data().status == "ok"
    monkeypatch.setenv("LOCBENCH_DATA", str(tmp_path / "missing"))
    assert doctor.check_data().status == "fail"
    monkeypatch.setenv("LOCBENCH_DATA", str(tmp_path))
    assert doctor.check_data().status == "warn"
    (tmp_path / "imagenet").mkdir()
    check = doctor.check_data()
    assert check.status == "ok" and check.detail.endswith("imagenet")


def test_detection_extra_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in DETECTION:
        monkeypatch.setitem(sys.modules, name, None)
    check = doctor.check_detection()
    assert check.status == "ok" and REMEDY in check.detail


@pytest.fixture
def detection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The detection extra as it lies on disk: three packages with their metadata."""
    site = tmp_path / "site"
    for module, package in DETECTION.items():
        (site / module).mkdir(parents=True)
        (site / module / "__init__.py").write_text("raise AssertionError('must not be imported')")
        info = site / f"{package}-1.2.3.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2.3\n")
        (info / "top_level.txt").write_text(f"{module}\n")
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(site)
    return site


def test_detection_extra_present(detection: Path) -> None:
    check = doctor.check_detection()
    assert check.status == "ok"
    assert "mmdet 1.2.3" in check.detail and "mmcv_lite 1.2.3" in check.detail
    assert "pycocotools 1.2.3" in check.detail
    assert "torchvision's operators" in check.detail
    (detection / f"mmcv/_ext{EXTENSION_SUFFIXES[0]}").touch()
    importlib.invalidate_caches()
    assert "compiled operators" in doctor.check_detection().detail


@pytest.mark.parametrize("name", DETECTION)
def test_detection_extra_in_part(
    name: str, detection: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    check = doctor.check_detection()
    assert check.status == "warn" and check.detail == f"{name} missing: {REMEDY}"
    with pytest.raises(UserError, match=f"detection needs {name}, which is not installed") as error:
        check_detection_extra()
    assert str(error.value).endswith(REMEDY)


def test_no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert doctor.check_git().status == "warn"
