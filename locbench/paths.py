"""Where things are: the folders that come with the package, and the user's own."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
DRAFT = re.compile(r"\..+\.[0-9a-f]{8}")  # the name of a file that is being written


def shipped(name: str) -> Path:
    """The folder `name` that comes with locbench: in the package of a wheel, or in the checkout."""
    # The wheel's own folder decides. The package's neighbours are only ours in a checkout: among
    # installed packages, a neighbour called `tables` is PyTables.
    inside = PACKAGE / "_data"
    return (inside if inside.is_dir() else PACKAGE.parent) / name


def tables_dir() -> Path:
    """Published tables: PAPER/NAME.toml."""
    return shipped("tables")


def recipes_dir() -> Path:
    """Training protocols: PAPER/NAME.toml."""
    return shipped("recipes")


def results_dir() -> Path:
    """Reference records and rendered tables; the folder may not exist."""
    return shipped("results")


def runs_dir() -> Path:
    """Where runs are kept: $LOCBENCH_RUNS, else ./runs. It may not exist yet."""
    return Path(os.environ.get("LOCBENCH_RUNS") or "runs").expanduser()


def cache_dir() -> Path:
    """Where generated data is kept: $LOCBENCH_CACHE, else locbench in the user's cache folder."""
    if chosen := os.environ.get("LOCBENCH_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "locbench"


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write the whole file or leave the old one: also when stopped, or when the disk is full.

    Text is UTF-8. Makes the folder where it is missing. Raises OSError, and then leaves nothing.
    """
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, because a rename is only atomic within one file system; named at random,
    # because two processes may write the same file.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def discard_drafts(folder: Path) -> None:
    """Delete what `write_atomic` left in this folder when its process was killed.

    To be called only while no other process writes there. Raises OSError.
    """
    for path in folder.glob(".*"):
        if DRAFT.fullmatch(path.name):
            path.unlink(missing_ok=True)
