"""`locbench doctor`: what this machine has and lacks for locbench. Torch is imported late."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Literal

import typer

from locbench import __version__, paths
from locbench.cli.options import Json
from locbench.errors import CheckFailed
from locbench.evaluation.downstream.extra import PACKAGES, REMEDY, missing_packages

GIB = 2**30
LOW_DISK = 5 * GIB
LOW_MEMORY = 2 * GIB


@dataclass(frozen=True)
class Check:
    """One line of the report.

    ok: nothing to do; what is merely absent and optional is ok too, and said.
    warn: something to know before a long run. fail: runs will not work until it is put right.
    """

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str


def doctor(as_json: Json = False) -> None:
    """What this machine has and lacks for locbench; exit code 1 if something must be mended."""
    checks = examine()
    if as_json:
        typer.echo(json.dumps([vars(check) for check in checks], indent=1))
    else:
        _print(checks)
    if any(check.status == "fail" for check in checks):
        raise CheckFailed("something has to be mended: see the lines marked fail")


def _print(checks: list[Check]) -> None:
    from rich.text import Text

    from locbench.report.grid import terminal

    for check in checks:
        style = {"ok": "green", "warn": "yellow", "fail": "red"}[check.status]
        status = Text(f"{check.status:<5}", style=style)
        text = Text.assemble(status, f" {check.name:<14} {check.detail}")
        terminal().print(text, soft_wrap=True)


def examine() -> list[Check]:
    """Every check, in the order to print them. Starts no training and downloads nothing."""
    checks = [check_python(), check_torch()]
    if checks[-1].status != "fail":
        checks += [check_torchvision(), check_processor(), check_gpus()]
    checks += [
        check_memory(),
        check_folder("runs folder", paths.runs_dir(), "LOCBENCH_RUNS"),
        check_folder("cache folder", paths.cache_dir(), "LOCBENCH_CACHE"),
        check_data(),
        check_detection(),
        check_git(),
    ]
    return checks


def check_python() -> Check:
    """Python and the platform it runs on."""
    detail = f"{platform.python_version()} on {platform.platform()}, locbench {__version__}"
    return Check("python", "ok", f"{detail} ({sys.executable})")


def check_torch() -> Check:
    """PyTorch can be imported and is one of the releases that locbench is tested with."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library is missing
        return Check("torch", "fail", f"cannot be imported ({_line(error)}): install it again")
    version = torch.__version__
    if tuple(map(int, version.split(".")[:2])) not in ((2, 10), (2, 11), (2, 12), (2, 14)):
        return Check("torch", "warn", f"{version}: tested with 2.10 to 2.12 and 2.14 only")
    return Check("torch", "ok", version)


def check_torchvision() -> Check:
    """torchvision fits torch: one of its compiled operators runs."""
    import torch

    remedy = f"install the release made for torch {torch.__version__}"
    try:
        # Import too: a build for another torch fails there ("operator ... does not exist").
        import torchvision
        from torchvision.ops import nms

        boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 9]])
        kept = nms(boxes, torch.tensor([0.5, 0.9, 0.7]), 0.5).tolist()
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return Check("torchvision", "fail", f"does not fit torch ({_line(error)}): {remedy}")
    if kept != [1, 2]:
        return Check("torchvision", "fail", f"{torchvision.__version__}: nms is wrong: {remedy}")
    return Check("torchvision", "ok", f"{torchvision.__version__}, its compiled operators work")


def check_processor() -> Check:
    """The processor: vector instructions, bfloat16 in hardware, threads that torch uses."""
    import torch

    instructions = torch.backends.cpu.get_cpu_capability()
    bf16 = "bf16 in hardware" if _hardware_bf16() else "no bf16 in hardware"
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = torch.get_num_threads()
    detail = f"{platform.machine()}, {instructions}, {bf16}, {threads} threads on {usable} cores"
    if usable and threads > usable:
        return Check("processor", "warn", f"{detail}: set OMP_NUM_THREADS={usable}")
    return Check("processor", "ok", detail)


def check_gpus() -> Check:
    """The accelerators that torch can use, with their memory."""
    import torch

    # torch reports a driver that is too old as a warning, and then no GPU.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if available:
        cards = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        names = (f"{card.name} {_gib(card.total_memory)}" for card in cards)
        return Check("gpu", "ok", ", ".join(names))
    if caught:
        return Check("gpu", "warn", f"not usable: {_line(caught[0].message)}")
    if torch.backends.mps.is_available():
        return Check("gpu", "ok", "Apple GPU (mps), not used: runs use the processor")
    return Check("gpu", "ok", "none: runs use the processor")


def check_memory() -> Check:
    """Main memory: all of it, and what programs can still have."""
    total, free = memory_bytes()
    if total is None:
        return Check("memory", "ok", "unknown on this system")
    if free is None:
        return Check("memory", "ok", f"{_gib(total)}, free part unknown on this system")
    detail = f"{_gib(total)}, {_gib(free)} free"
    return Check("memory", "warn" if free < LOW_MEMORY else "ok", detail)


def memory_bytes(table: Path = Path("/proc/meminfo")) -> tuple[int | None, int | None]:
    """Total and available main memory in bytes; None for what the system does not tell."""
    if table.is_file():
        pairs = (line.split(":", 1) for line in table.read_text().splitlines() if ":" in line)
        kib = {key: int(value.split()[0]) for key, value in pairs}
        return kib["MemTotal"] * 1024, kib["MemAvailable"] * 1024
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), None
    return None, None


def check_folder(name: str, folder: Path, variable: str) -> Check:
    """A folder that locbench writes to: can it, and how much room is left there?"""
    # The folder itself appears with its first file; ask the nearest one that is there.
    nearest = next(f for f in (folder, *folder.absolute().parents) if f.exists())
    try:
        # A real file, because permission bits know nothing of quotas and read-only mounts.
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        detail = f"{folder}: not writable ({_line(error)}): set {variable} to a folder that is"
        return Check(name, "fail", detail)
    free = shutil.disk_usage(nearest).free
    status = "warn" if free < LOW_DISK else "ok"
    return Check(name, status, f"{folder}: writable, {_gib(free)} free on its disk")


def check_data() -> Check:
    """The root folder of the real data sets, $LOCBENCH_DATA."""
    root = os.environ.get("LOCBENCH_DATA")
    if not root:
        return Check("data root", "ok", "LOCBENCH_DATA is not set: built-in Shapes data only")
    folder = Path(root).expanduser()
    if not (folder.is_dir() and os.access(folder, os.R_OK | os.X_OK)):
        return Check("data root", "fail", f"LOCBENCH_DATA={root} is not a folder one can read")
    names = sorted(path.name for path in folder.iterdir())
    detail = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return Check("data root", "ok" if names else "warn", f"{root}: {detail or 'empty'}")


def check_detection() -> Check:
    """The detection extra, by what can be imported: forks of its packages have other names."""
    missing = missing_packages()
    if len(missing) == len(PACKAGES):
        return Check("detection", "ok", f"not installed; for Mask R-CNN: {REMEDY}")
    if missing:
        return Check("detection", "warn", f"{', '.join(missing)} missing: {REMEDY}")
    names = metadata.packages_distributions()
    installed = [
        f"{names[module][0]} {metadata.version(names[module][0])}"
        if module in names
        else f"{module} (not installed as a package)"
        for module in PACKAGES
    ]
    operators = "compiled" if _has_compiled_mmcv() else "torchvision's"
    return Check("detection", "ok", f"{', '.join(installed)}; {operators} operators")


def check_git() -> Check:
    """git, from which records learn the commit they were made at."""
    if shutil.which("git") is None:
        return Check("git", "warn", "not found: records will not say which commit made them")
    answer = subprocess.run(["git", "--version"], capture_output=True, text=True, check=True)
    return Check("git", "ok", answer.stdout.strip().removeprefix("git version "))


def _hardware_bf16() -> bool:
    import torch

    # The public list is younger than the oldest torch allowed, but also knows ARM.
    if hasattr(torch.cpu, "get_capabilities"):
        return any(have for name, have in torch.cpu.get_capabilities().items() if "bf16" in name)
    return torch.cpu._is_avx512_bf16_supported()


def _has_compiled_mmcv() -> bool:
    # Looked for on disk: importing would take seconds, and might find locbench's own stand-in.
    spec = importlib.util.find_spec("mmcv")
    folders = spec.submodule_search_locations if spec else None
    return PathFinder.find_spec("mmcv._ext", folders) is not None if folders else False


def _line(message: object) -> str:
    lines = str(message).strip().splitlines()
    return lines[0] if lines else type(message).__name__


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"
