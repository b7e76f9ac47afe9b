"""Store of records: one folder a run, ROOT/ID/record.json, with its weights and checkpoint."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from locbench.errors import RunFailed, UserError
from locbench.locks import forget
from locbench.paths import discard_drafts, write_atomic
from locbench.plugins.entry import suggest
from locbench.runs.record import FINAL, Record

ASIDE = "set-aside"  # where --fresh moves the runs it replaces
LOCKS = ".locks"  # beside the runs and not in them: a run that is moved aside keeps no lock
CHECKPOINT = "checkpoint.pt"
ENCODER = "encoder.safetensors"
# Final records by path, each with the inode, time and size of the file that it was read from: it
# is read again where another process has put another file, or none, in its place.
_READ: dict[Path, tuple[tuple[int, int, int], Record]] = {}


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

    def checkpoint(self, id: str) -> Path:
        """The file that a run goes on from."""
        return self.folder(id) / CHECKPOINT

    def ids(self) -> list[str]:
        """Ids of the runs that have a record, sorted; no record is read."""
        return sorted(path.parent.name for path in self.root.glob("*/record.json"))

    def load(self, id: str) -> Record | None:
        """The record of a run, None if there is none; UserError if the file is broken.

        A final one is read once a process and shared: who loads it may not change it.
        """
        path = self.path(id)
        try:
            status = path.stat()
            version = (status.st_ino, status.st_mtime_ns, status.st_size)
            if path in _READ and _READ[path][0] == version:
                return _READ[path][1]
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
        if record.status in FINAL:
            _READ[path] = version, record
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
        records = []
        for id in self.ids():
            with suppress(UserError):
                records.append(self.load(id))
        return [record for record in records if record is not None]

    def all(self) -> list[Record]:
        """Every record, by id; UserError at the first broken one."""
        return [record for id in self.ids() if (record := self.load(id)) is not None]

    def find(self, prefix: str) -> Record:
        """The one record whose id is or begins with `prefix`; UserError if none or several do."""
        record = self.load(self.find_id(prefix))
        assert record is not None
        return record

    def find_id(self, prefix: str) -> str:
        """The one id that is or begins with `prefix`; its record is not read."""
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
        return hits[0]
