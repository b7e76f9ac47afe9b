"""What was found in some files, kept in the cache until one of them changes. Standard library only.

Whether they changed is told by sizes and times, so that asking costs milliseconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locbench.errors import UserError
from locbench.paths import cache_dir, write_atomic

# A folder changed within the resolution of its own time stamp looks unchanged: not to be trusted.
SETTLED_S = 2.0


def subfolders(path: Path) -> list[os.DirEntry]:
    """The folders in a folder, hidden ones left out."""
    with os.scandir(path) as entries:
        return [e for e in entries if e.is_dir() and not e.name.startswith(".")]


def _stamp(path: Path) -> list[Any]:
    """What changes when images are added, removed or renamed: times of the folders, or file."""
    status = path.stat()
    if not path.is_dir():
        return [str(path.resolve()), status.st_size, status.st_mtime_ns]
    inner = sorted((f.name, f.stat().st_mtime_ns) for f in subfolders(path))
    return [str(path.resolve()), status.st_mtime_ns, [list(pair) for pair in inner]]


def _newest(stamp: list[Any]) -> int:
    last = stamp[-1]
    return max([time_ns for _, time_ns in last] + [stamp[1]]) if isinstance(last, list) else last


@dataclass(frozen=True)
class Kept:
    """A summary of folders (with class folders in them) and files, and details beside it."""

    paths: tuple[Path, ...]

    @property
    def _stem(self) -> Path:
        key = "\0".join(str(path.absolute()) for path in self.paths)
        return cache_dir() / "listings" / hashlib.sha256(key.encode()).hexdigest()[:16]

    @property
    def _summary(self) -> Path:
        return self._stem.with_suffix(".json")

    @property
    def details(self) -> Path:
        """The document of what is too much for a summary."""
        return self._stem.with_suffix(".files.json")

    def forget(self) -> None:
        """Nothing is known any more."""
        self._summary.unlink(missing_ok=True)
        self.details.unlink(missing_ok=True)

    def stamps(self) -> list[Any]:
        """The state of all paths now."""
        return [_stamp(path) for path in self.paths]

    def known(self) -> dict[str, Any] | None:
        """The summary, None where nothing is kept or a path changed since."""
        try:
            known = json.loads(self._summary.read_text())
        except (OSError, ValueError):
            return None
        return known if isinstance(known, dict) and known.get("stamp") == self.stamps() else None

    def keep(
        self, stamps: list[Any], summary: dict[str, Any], details: dict[str, Any] | None = None
    ) -> None:
        """Keep what was found when the paths were in the state `stamps`, if that can be trusted."""
        if max(_newest(stamp) for stamp in stamps) >= time.time_ns() - SETTLED_S * 1e9:
            return
        try:
            if details is not None:
                write_atomic(self.details, json.dumps(details))
            write_atomic(self._summary, json.dumps({"stamp": stamps, **summary}))
        except OSError as error:
            raise UserError(
                f"{self._stem.parent} cannot be written ({error.strerror}): "
                "set LOCBENCH_CACHE to a folder that can"
            ) from error
