"""SHA-256 of files, remembered in the cache until a file changes. Standard library only.

A data set is identified by what its files hold. Each file is read once; from then on its size and
its times of change, to the nanosecond, tell that it is the same, so that a second look costs one
`stat` a file. What is remembered of a folder or an archive is one binary table.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locbench.data.files import Files, each, stamp, threads
from locbench.errors import UserError
from locbench.locks import alone
from locbench.paths import cache_dir, write_atomic

if TYPE_CHECKING:
    from locbench.data import Progress

# A change within the resolution of a file's ctime is not seen: younger stamps are not trusted.
SETTLED_S = 2.0
SAVED_S = 60.0  # how often to save the table while files are read: hours, for large sets
READERS = 8  # files to read at once, at least: most of the time is spent waiting for the disk
BYTES = 32  # of a digest


@dataclass(frozen=True)
class Table:
    """Remembered digests of files, 32 bytes each, and notes that JSON can hold."""

    files: Files
    digests: bytes
    notes: dict[str, Any] = field(default_factory=dict)


def _table_path(container: str, label: str) -> Path:
    key = hashlib.sha256(f"{container}\0{label}".encode(errors="surrogateescape"))
    return cache_dir() / "digests" / f"{key.hexdigest()[:16]}.table"


def remembered(container: str, *, label: str = "") -> Table | None:
    """The last saved table of a folder or archive; None where there is none, or it is damaged.

    `label` tells tables of one folder apart. Nothing is compared with the files.
    """
    try:
        check, content = _table_path(container, label).read_bytes().split(b"\n", 1)
    except (OSError, ValueError):
        return None
    if check != _check(content):
        return None
    head, body = content.split(b"\n", 1)
    count, notes = json.loads(head)
    end = len(body) - BYTES * count
    start = end - 3 * array("q").itemsize * count
    names = body[:start].decode(errors="surrogateescape").split("\0")
    return Table(Files(container, names, array("q", body[start:end])), body[end:], notes)


def remember(table: Table, *, label: str = "") -> None:
    """Save a table. UserError where the cache cannot be written."""
    path = _table_path(table.files.container, label)
    head = json.dumps([len(table.files), table.notes]).encode()
    names = "\0".join(table.files.names).encode(errors="surrogateescape")
    content = b"".join((head, b"\n", names, table.files.numbers.tobytes(), table.digests))
    try:
        write_atomic(path, _check(content) + b"\n" + content)
    except OSError as error:
        raise UserError(
            f"{path.parent} cannot be written ({error.strerror}): "
            "set LOCBENCH_CACHE to a folder that can"
        ) from error


def _check(content: bytes) -> bytes:
    """A check sum; it also differs on a machine with another byte order."""
    return f"{sys.byteorder} {zlib.crc32(content)}".encode()


def checksum_of(entries: Iterable[tuple[str, int, bytes]]) -> str:
    """A data set's checksum: sha256 over a line "PART INDEX SHA256" for each of its files.

    In the order in which the set is read. Of an image, the part is its split and the index its
    class; no name and no size is in it.
    """
    digest = hashlib.sha256()
    for part, index, file in entries:
        digest.update(f"{part} {index} {file.hex()}\n".encode())
    return digest.hexdigest()


def folder_digests(
    files: Files,
    *,
    label: str = "",
    notes: dict[str, Any] | None = None,
    verify: Callable[[int, bytes], None] | None = None,
    progress: Progress | None = None,
) -> list[bytes]:
    """sha256 of each of these files in a folder; those remembered with their stamp are not read.

    `verify` is called with the index and the bytes of every file that is read, and raises where
    they are wrong; `notes` are kept in the table. UserError for a file or a cache that does not
    work.
    """
    table = remembered(files.container, label=label)
    if table is not None and table.notes == (notes or {}) and table.files == files:
        return _rows(table.digests)
    with _reading_alone(files.container, label):
        # What another process, or a look that was broken off, has read already.
        digests, trusted = _recall(files, remembered(files.container, label=label))
        missing = [row for row, digest in enumerate(digests) if not digest]

        def save() -> None:
            rows = b"".join(digest or bytes(BYTES) for digest in digests)
            remember(Table(replace(files, numbers=trusted), rows, notes or {}), label=label)

        def read(index: int, _data: bytes | None) -> bytes:
            content = _read(files, index)
            if verify is not None:
                verify(index, content)
            return hashlib.sha256(content).digest()

        now_ns, saved = time.time_ns(), time.monotonic()
        try:
            for row, digest in _each(files, missing, read, progress):
                digests[row] = digest
                if _is_settled(files.numbers[3 * row + 2], now_ns=now_ns):
                    trusted[3 * row : 3 * row + 3] = files.numbers[3 * row : 3 * row + 3]
                if time.monotonic() > saved + SAVED_S:
                    save()
                    saved = time.monotonic()
        finally:
            save()
    return digests


def archive_digests(
    path: Path,
    list_files: Callable[[], tuple[Files, dict[str, Any]]],
    *,
    progress: Progress | None = None,
) -> tuple[Files, list[bytes], dict[str, Any]]:
    """The members of an archive, the sha256 of each, and notes about it.

    `list_files` reads members and notes where the archive is not remembered. UserError for an
    archive or a cache that does not work.
    """
    container = str(path.absolute())

    def recall() -> tuple[Files, list[bytes], dict[str, Any]] | None:
        table = remembered(container)
        if table is None or table.notes.get("stamp") != list(stamp(path.stat())):
            return None
        return table.files, _rows(table.digests), table.notes

    if (members := recall()) is not None:
        return members
    with _reading_alone(container, ""):
        if (members := recall()) is not None:
            return members
        before, now_ns = stamp(path.stat()), time.time_ns()
        files, notes = list_files()
        digests = [b""] * len(files)
        for row, digest in _each(files, range(len(files)), partial(_sha256, files), progress):
            digests[row] = digest
        notes = {**notes, "stamp": list(before)}
        if _is_settled(before[2], now_ns=now_ns):
            remember(Table(files, b"".join(digests), notes))
    return files, digests, notes


def _is_settled(ctime_ns: int, *, now_ns: int) -> bool:
    """Whether this time lies so far back that any change from now on gives another one."""
    return ctime_ns < now_ns - SETTLED_S * 1e9


def _reading_alone(container: str, label: str) -> AbstractContextManager[None]:
    lock = _table_path(container, label).with_suffix(".lock")
    return alone(lock, f"reading the files of {container}")


def _recall(files: Files, table: Table | None) -> tuple[list[bytes], array[int]]:
    """The digests that are remembered, else empty ones, and the stamps they are remembered with.

    Zeros are no file's stamp: a file that is not to be trusted is saved so, and read again.
    """
    digests, trusted = [b""] * len(files), array("q", bytes(8 * len(files.numbers)))
    rows = {} if table is None else {name: row for row, name in enumerate(table.files.names)}
    for row, name in enumerate(files.names):
        if (old := rows.get(name)) is None:
            continue
        numbers = files.numbers[3 * row : 3 * row + 3]
        if table.files.numbers[3 * old : 3 * old + 3] == numbers:
            digests[row] = table.digests[BYTES * old : BYTES * (old + 1)]
            trusted[3 * row : 3 * row + 3] = numbers
    return digests, trusted


def _rows(digests: bytes) -> list[bytes]:
    return [digests[start : start + BYTES] for start in range(0, len(digests), BYTES)]


def _sha256(files: Files, index: int, data: bytes | None) -> bytes:
    return hashlib.sha256(_read(files, index) if data is None else data).digest()


def _read(files: Files, index: int) -> bytes:
    try:
        return files.read(index)
    except OSError as error:
        raise UserError(
            f"{files.where(index)} cannot be read ({error.strerror}): copy it again"
        ) from error


def _each(
    files: Files,
    rows: Sequence[int],
    read: Callable[[int, bytes | None], bytes],
    progress: Progress | None,
) -> Iterator[tuple[int, bytes]]:
    """`files.each` with threads enough to keep a disk busy; `progress` is told of every file."""
    what = f"reading {Path(files.container).name}"
    for done, result in enumerate(each(files, rows, read, workers=max(READERS, threads())), 1):
        yield result
        if progress is not None:
            progress(what, done, len(rows))
