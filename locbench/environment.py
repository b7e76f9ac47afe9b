"""What a run was made with: versions, platform, processor, device, and the commit of a checkout."""

from __future__ import annotations

import platform
import subprocess
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any


def environment(device: str | None = None, threads: int | None = None) -> dict[str, Any]:
    """Versions, platform, processor, device and threads as given, the git commit of a checkout.

    Versions come from the installed packages' metadata, so that torch need not be imported; what
    is not installed is None, and so are commit and dirty flag outside a checkout.
    """
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain") if commit else None
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in ("locbench", "torch", "torchvision")},
        "platform": platform.platform(),
        "device": device,
        "processor": _processor(),
        "threads": threads,
        "git_commit": commit,
        "git_dirty": None if changes is None else bool(changes),
    }


@cache
def is_before(commit: str) -> bool | None:
    """Whether a commit is in the checkout's history; None where that is not known whole."""
    if _git("rev-parse", "--is-shallow-repository") != "false":
        return None
    return _git("merge-base", "--is-ancestor", commit, "HEAD") is not None


def _processor() -> str | None:
    """The processor's model name where Linux tells it, else what the platform calls it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """What git says of locbench's own checkout; None without git or outside a checkout."""
    root = Path(__file__).resolve().parents[1]
    # Only our own: an installed package may lie inside somebody else's repository.
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()
