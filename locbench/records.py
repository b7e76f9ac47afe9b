"""One immutable JSON record a run, and the store that holds them: ROOT/ID/record.json."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import UnionType
from typing import Any, get_origin, get_type_hints

from locbench.errors import RunFailed, UserError
from locbench.locks import forget
from locbench.paths import discard_drafts, write_atomic
from locbench.registry import suggest

SCHEMA = 1
KINDS = ("pretrain", "train", "probe", "pixels", "detect", "cost", "trace", "measure", "gpu")
STATUSES = ("running", "done", "diverged", "failed")
# A failed run (disk full, stopped from outside) may go on; the result of these two is a result.
FINAL = ("done", "diverged")
ASIDE = "set-aside"  # where --fresh moves the runs it replaces
LOCKS = ".locks"  # beside the runs and not in them: a run that is moved aside keeps no lock
CHECKPOINT = "checkpoint.pt"


def timestamp() -> str:
    """Now, in UTC, as ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass
class Record:
    """What is known of one run. Units stand in the keys of `cost`: wall_time_s, peak_memory_bytes.

    `identity` is what decides the result and what the id is made from; `recipe` the fully resolved
    protocol. `metrics` maps a name to {"last": x, "best": y}; `per_block` and `curves` hold the
    same per probed block and over time; `units` each unit's span, updates and decoder.
    """

    id: str
    kind: str
    status: str
    scale: str
    seed: int
    parent: str | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    recipe_hash: str = ""
    rule: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    per_block: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)
    units: list[Any] = field(default_factory=list)
    cost: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    created: str = field(default_factory=timestamp)
    finished: str | None = None
    schema: int = SCHEMA

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as the JSON file has them."""
        return json.loads(self.to_json())

    def to_json(self) -> str:
        """Strict JSON with `schema` first; a number that is not finite becomes null."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        ordered = {"schema": values.pop("schema"), **values}
        return json.dumps(_finite(ordered), indent=1, allow_nan=False, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, path: Path) -> Record:
        """The record in `text`; `path` is named in the UserError for one that is not whole."""
        again = f"delete the folder {path.parent} to run it again"
        try:
            values = json.loads(text)
        except ValueError as error:
            raise UserError(f"{path}: truncated or not JSON ({error}); {again}") from error
        schema = values.get("schema") if isinstance(values, dict) else None
        if isinstance(schema, int) and schema != SCHEMA:
            raise UserError(
                f"{path}: written by another locbench (schema {schema}; this one reads {SCHEMA}): "
                f"use that one, or {again}"
            )
        fault = _fault(values)
        if fault:
            raise UserError(f"{path}: not a record of this locbench ({fault}); {again}")
        return cls(**values)


def _fault(values: Any) -> str | None:
    """What is wrong with the fields of a record, in a few words."""
    if not isinstance(values, dict):
        return "it holds no JSON object"
    if values.get("schema") != SCHEMA:
        return f"schema {values.get('schema')!r}, not {SCHEMA}"
    hints = get_type_hints(Record)
    if missing := [name for name in hints if name not in values]:
        return f"no '{missing[0]}'"
    if unknown := [name for name in values if name not in hints]:
        return f"unknown field '{unknown[0]}'"
    for name, hint in hints.items():
        plain = hint if isinstance(hint, UnionType) else get_origin(hint) or hint
        if not isinstance(values[name], plain):
            return f"'{name}' is {type(values[name]).__name__}"
    for name, known in (("kind", KINDS), ("status", STATUSES)):
        if values[name] not in known:
            return f"unknown {name} '{values[name]}'"
    return None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Store:
    """Records of runs under one folder, which need not exist yet."""

    root: Path

    def folder(self, id: str) -> Path:
        """The folder of a run: its record, checkpoints and weights."""
        return self.root / id

    def path(self, id: str) -> Path:
        """The file of a run's record."""
        return self.folder(id) / "record.json"

    def lock(self, id: str) -> Path:
        """The lock of a run: whoever carries it out or moves it holds it (`locbench.locks`)."""
        return self.root / LOCKS / id

    def ids(self) -> list[str]:
        """Ids of the runs that have a record, sorted; no record is read."""
        return sorted(path.parent.name for path in self.root.glob("*/record.json"))

    def load(self, id: str) -> Record | None:
        """The record of a run, None if there is none; UserError if the file is broken."""
        path = self.path(id)
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
        record = Record.from_json(content, path)
        if record.id != id:
            raise UserError(
                f"{path}: is the record of '{record.id}', not of the folder it lies in; "
                f"delete the folder {path.parent} to run it again"
            )
        return record

    def finished(self, id: str) -> Record | None:
        """The record of a run that is done, else None; RunFailed where it diverged before."""
        record = self.load(id)
        if record is not None and record.status == "diverged":
            # The same seed and settings would do so again.
            raise RunFailed(f"{id} diverged ({record.error}); --fresh runs it again all the same")
        return record if record is not None and record.status == "done" else None

    def save(self, record: Record) -> None:
        """Write the record, whole or not at all; RunFailed when it cannot be or may not be.

        Once `done` or `diverged` is on disk the record is final: the same content may be written
        again, other content may not (`discard` the run first).
        """
        path, text = self.path(record.id), record.to_json()
        try:
            if self._is_final(path, text):
                raise RunFailed(
                    f"{path}: the record is final and cannot be changed; "
                    f"delete the folder {path.parent} to run it again"
                )
            write_atomic(path, text)
        except OSError as error:
            raise RunFailed(
                f"{path}: cannot save the record ({error.strerror or error}); make room or "
                "permission there, or set LOCBENCH_RUNS to another folder, and start again"
            ) from error

    def _is_final(self, path: Path, text: str) -> bool:
        """Whether a finished record with other content than `text` is there."""
        if not path.exists():
            return False
        old = Record.from_json(path.read_bytes(), path)
        return old.status in FINAL and old.to_json() != text

    def prepare(self) -> None:
        """Make the folder; UserError, before anything is computed, where it cannot be written."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            # A real file: permission bits know nothing of quotas and read-only mounts.
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise UserError(
                f"the runs folder {self.root} cannot be written ({error.strerror or error}); "
                "choose another with --runs or LOCBENCH_RUNS"
            ) from error

    def set_aside(self, id: str) -> None:
        """Move a run with all its files to ROOT/set-aside, where it is no run of the store."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        target = self.root / ASIDE / f"{id}-{stamp}"
        try:
            if self.folder(id).exists():
                target.parent.mkdir(exist_ok=True)
                self.folder(id).rename(target)
        except OSError as error:
            raise UserError(
                f"{self.folder(id)}: cannot be moved to {target} ({error.strerror or error})"
            ) from error

    def tidy(self, record: Record) -> None:
        """Delete what a process that was killed left in a run's folder.

        Drafts of files; of a run that is done the checkpoint, and the note of who was at it. Only
        for the holder of its lock, or where it is done: else they may be another process's.
        """
        with suppress(OSError):  # of a folder that may only be read
            discard_drafts(self.folder(record.id))
            if record.status == "done":
                (self.folder(record.id) / CHECKPOINT).unlink(missing_ok=True)
                forget(self.lock(record.id))

    def discard(self, id: str) -> None:
        """Delete a run with all its files, to run it afresh."""
        try:
            shutil.rmtree(self.folder(id))
        except FileNotFoundError:
            return
        except OSError as error:
            raise UserError(f"{self.folder(id)}: cannot be deleted ({error.strerror})") from error

    def readable(self) -> list[Record]:
        """Every record that is whole, by id: for looking around, past broken files."""
        found = []
        for id in self.ids():
            with suppress(UserError):
                found.append(self.load(id))
        return [record for record in found if record is not None]

    def all(self) -> list[Record]:
        """Every record, by id; UserError at the first broken one."""
        return [record for id in self.ids() if (record := self.load(id)) is not None]

    def find(self, prefix: str) -> Record:
        """The one record whose id is or begins with `prefix`; UserError if none or several do."""
        ids = self.ids()
        hits = [prefix] if prefix in ids else [id for id in ids if id.startswith(prefix)]
        if not hits:
            hint = suggest(prefix, ids[:8]) if ids else "; there are no runs yet"
            raise UserError(f"no run in {self.root} begins with '{prefix}'{hint}")
        if len(hits) > 1:
            more = ", ..." if len(hits) > 4 else ""
            raise UserError(
                f"'{prefix}' begins {len(hits)} runs in {self.root} "
                f"({', '.join(hits[:4])}{more}); give more of the id"
            )
        record = self.load(hits[0])
        assert record is not None
        return record


def identity_hash(identity: Mapping[str, Any]) -> str:
    """sha256 (hex) of canonical JSON: sorted keys, no spaces, UTF-8, finite numbers only."""
    text = json.dumps(
        identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()


def summarize(values: Sequence[float]) -> tuple[float, float | None, int]:
    """Mean, sample standard deviation (n - 1; None below two values) and n; no values: nan."""
    n = len(values)
    mean = statistics.fmean(values) if n else math.nan
    return mean, statistics.stdev(values) if n > 1 else None, n


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
    root = Path(__file__).resolve().parent.parent
    # Only our own: an installed package may lie inside somebody else's repository.
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()
