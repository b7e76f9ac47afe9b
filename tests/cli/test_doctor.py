"""The doctor finds what is wrong, and takes nothing that is merely absent for wrong."""

import importlib
import re
import shutil
import sys
import warnings
from importlib.machinery import EXTENSION_SUFFIXES
from types import SimpleNamespace

import pytest
import torch

from locbench.cli import doctor
from locbench.errors import UserError
from locbench.evaluation.downstream.extra import REMEDY, check_detection_extra

DETECTION = {"mmdet": "mmdet", "mmengine": "mmengine", "mmcv": "mmcv_lite"}
DETECTION |= {"pycocotools": "pycocotools", "shapely": "shapely"}


def test_all_checks_in_order_a_line_each():
    checks = doctor.examine()
    assert [check.name for check in checks] == [
        *("python", "torch", "torchvision", "processor", "gpu", "memory"),
        *("runs folder", "cache folder", "data root", "detection", "git"),
    ]
    assert all(check.detail and "\n" not in check.detail for check in checks)


def test_no_torch_is_found_and_the_rest_still_examined(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    checks = {check.name: check for check in doctor.examine()}
    assert checks["torch"].status == "fail"
    assert "cannot be imported" in checks["torch"].detail
    assert "processor" not in checks and "git" in checks


@pytest.mark.parametrize(
    ("version", "status"),
    [("2.9.1", "warn"), ("2.10.0", "ok"), ("2.14.1+cpu", "ok"), ("2.13.0+cpu", "warn")],
)
def test_torch_release(version, status, monkeypatch):
    monkeypatch.setattr(torch, "__version__", version)
    assert doctor.check_torch().status == status


def test_torchvision_that_fits_and_one_that_does_not(monkeypatch):
    assert doctor.check_torchvision().status == "ok"

    def missing(*_):
        raise RuntimeError("operator torchvision::nms does not exist\nmore lines")

    monkeypatch.setattr("torchvision.ops.nms", missing)
    check = doctor.check_torchvision()
    assert check.status == "fail"
    assert "nms does not exist" in check.detail and torch.__version__ in check.detail


def test_more_threads_than_cores(monkeypatch):
    assert doctor.check_processor().status == "ok"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 10_000)
    check = doctor.check_processor()
    assert check.status == "warn" and "OMP_NUM_THREADS=" in check.detail


def test_gpus_are_named_with_their_memory(monkeypatch):
    card = SimpleNamespace(name="Card", total_memory=80 * doctor.GIB)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    check = doctor.check_gpus()
    assert (check.status, check.detail) == ("ok", "Card 80.0 GiB, Card 80.0 GiB")


def test_a_gpu_that_cannot_be_used_is_not_taken_for_none(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert doctor.check_gpus().status == "ok"

    def old_driver():
        warnings.warn("The NVIDIA driver is too old", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", old_driver)
    check = doctor.check_gpus()
    assert check.status == "warn" and "too old" in check.detail


def test_memory_is_read_from_the_kernels_table(tmp_path, monkeypatch):
    table = tmp_path / "meminfo"
    table.write_text("MemTotal:  2048 kB\nMemFree:  1 kB\nMemAvailable:  1024 kB\nHugePages: 0\n")
    assert doctor.memory_bytes(table) == (2048 * 1024, 1024 * 1024)
    assert doctor.memory_bytes(tmp_path / "none")[1] is None
    for free, status in ((4 * doctor.GIB, "ok"), (doctor.GIB, "warn"), (None, "ok")):
        monkeypatch.setattr(doctor, "memory_bytes", lambda free=free: (8 * doctor.GIB, free))
        assert doctor.check_memory().status == status


def test_folder_is_examined_and_not_made(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=9 * doctor.GIB))
    folder = tmp_path / "a/b"
    check = doctor.check_folder("runs folder", folder, "LOCBENCH_RUNS")
    assert check.status == "ok" and "9.0 GiB free" in check.detail
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=doctor.GIB))
    assert doctor.check_folder("runs folder", folder, "LOCBENCH_RUNS").status == "warn"


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    check = doctor.check_folder("runs folder", tmp_path / "file", "LOCBENCH_RUNS")
    assert check.status == "fail" and "set LOCBENCH_RUNS" in check.detail


def test_data_root(tmp_path, monkeypatch):
    assert doctor.check_data().status == "ok"
    monkeypatch.setenv("LOCBENCH_DATA", str(tmp_path / "missing"))
    assert doctor.check_data().status == "fail"
    monkeypatch.setenv("LOCBENCH_DATA", str(tmp_path))
    assert doctor.check_data().status == "warn"
    (tmp_path / "imagenet").mkdir()
    check = doctor.check_data()
    assert check.status == "ok" and check.detail.endswith("imagenet")


def test_detection_extra_absent(monkeypatch):
    for name in DETECTION:
        monkeypatch.setitem(sys.modules, name, None)
    check = doctor.check_detection()
    assert check.status == "ok" and REMEDY in check.detail


@pytest.fixture
def detection(tmp_path, monkeypatch):
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


def test_detection_extra_present(detection):
    check = doctor.check_detection()
    assert check.status == "ok"
    assert "mmdet 1.2.3" in check.detail and "mmcv_lite 1.2.3" in check.detail
    assert "pycocotools 1.2.3" in check.detail
    assert "torchvision's operators" in check.detail
    (detection / f"mmcv/_ext{EXTENSION_SUFFIXES[0]}").touch()
    importlib.invalidate_caches()
    assert "compiled operators" in doctor.check_detection().detail


def test_detection_extra_in_part(detection, monkeypatch):
    monkeypatch.setitem(sys.modules, "mmcv", None)
    check = doctor.check_detection()
    assert check.status == "warn" and check.detail == f"mmcv missing: {REMEDY}"
    with pytest.raises(
        UserError, match=f"detection needs mmcv, which is not .*{re.escape(REMEDY)}"
    ):
        check_detection_extra()


def test_no_git(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert doctor.check_git().status == "warn"
