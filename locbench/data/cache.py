"""The cache of decoded and generated images: arrays on disk, written once, then memory-mapped.

An entry is a folder of .npy files and an `entry.json` that describes them. It is built under
another name and renamed when it is complete, so a killed build leaves no entry. Processes that need
the same entry wait for the one that builds it.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from locbench.errors import UserError
from locbench.locks import alone
from locbench.paths import cache_dir, write_atomic

ENTRY = "entry.json"


@dataclass(frozen=True)
class CacheEntry:
    """Read-only arrays by name, and what the builder noted beside them."""

    arrays: dict[str, np.ndarray]
    notes: dict[str, Any]


class Broken(Exception):
    """An entry exists but cannot be used; the message says why."""


class Builder:
    """Makes the memory-mapped arrays of a new entry, in a folder that nobody else reads yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.arrays: dict[str, np.memmap] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: str) -> np.memmap:
        """A new array to fill; UserError where the disk has no room for it."""
        need = int(np.prod(shape)) * np.dtype(dtype).itemsize
        free = shutil.disk_usage(self.folder).free
        # Asked beforehand: to write to a map on a full disk kills the process without a word.
        if need > free:
            raise UserError(
                f"{self.folder.parent} has {free / 1e9:.1f} GB free and {need / 1e9:.1f} GB are "
                "needed: free some, or set LOCBENCH_CACHE to another disk"
            )
        array = np.lib.format.open_memmap(
            self.folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape
        )
        self.arrays[name] = array
        return array

    def finish(self, identity: dict[str, Any], notes: dict[str, Any]) -> None:
        """Write everything out, the description last."""
        described = {}
        for name, array in self.arrays.items():
            array.flush()
            described[name] = {"shape": list(array.shape), "dtype": str(array.dtype)}
        content = {"identity": identity, "notes": notes, "arrays": described}
        write_atomic(self.folder / ENTRY, json.dumps(content, indent=1))


def _array(folder: Path, name: str, described: dict[str, Any]) -> np.ndarray:
    path = folder / f"{name}.npy"
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise Broken(f"{path.name}: {error}") from error
    if list(array.shape) != described["shape"] or str(array.dtype) != described["dtype"]:
        raise Broken(f"{path.name} is {array.dtype} {array.shape}, not as described")
    return array


def read_entry(folder: Path, identity: dict[str, Any]) -> CacheEntry | None:
    """The entry in `folder`, None where there is none; Broken where it cannot be used."""
    if not folder.exists():
        return None
    try:
        content = json.loads((folder / ENTRY).read_text())
        if content["identity"] != identity:
            raise Broken(f"{ENTRY} describes other data")
        arrays = {name: _array(folder, name, d) for name, d in content["arrays"].items()}
        return CacheEntry(arrays, content["notes"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Broken(f"{ENTRY}: {error}") from error


def _build(
    folder: Path, identity: dict[str, Any], build: Callable[[Builder], dict[str, Any]]
) -> None:
    draft = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(draft, ignore_errors=True)  # of a build that was killed: the lock is ours now
    draft.mkdir()
    try:
        builder = Builder(draft)
        builder.finish(identity, build(builder))
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def has_entry(key: str) -> bool:
    """Whether the cache has an entry of this name, whole or broken."""
    return (cache_dir() / "data" / key).exists()


def cached(
    key: str, identity: dict[str, Any], build: Callable[[Builder], dict[str, Any]]
) -> CacheEntry:
    """The entry `key`, built first where it is missing, broken or of another `identity`.

    `build` fills arrays of its Builder and returns notes. Identity and notes are what JSON can
    hold. A broken entry is replaced, with a line on stderr. UserError where the cache folder cannot
    be written.
    """
    folder, identity = cache_dir() / "data" / key, json.loads(json.dumps(identity))
    try:
        if (entry := read_entry(folder, identity)) is not None:
            return entry
    except Broken:
        pass  # said below, by the process that holds the lock
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with alone(folder.with_name(f"{folder.name}.lock"), f"making {folder}"):
            try:
                entry = read_entry(folder, identity)
            except Broken as error:
                print(f"locbench: {folder} is broken ({error}): made again", file=sys.stderr)
                shutil.rmtree(folder)
                entry = None
            if entry is None:
                _build(folder, identity, build)
                entry = read_entry(folder, identity)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror or error}): "
            "set LOCBENCH_CACHE to a folder that can"
        ) from error
    assert entry is not None
    return entry
