"""Files in a folder and members of a tar archive, read in the same way on a pool of threads."""

from __future__ import annotations

import os
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from locbench.data.archives import is_archive, is_compressed, members

GROUP = 16  # files that a thread takes at a time
AHEAD = 2  # groups a thread may be ahead of the reader of the results

T = TypeVar("T")


@dataclass(frozen=True)
class Files:
    """Files in a folder, or members of an archive, in the order in which a data set has them.

    numbers: int64, three a file. Of a file in a folder its stamp (see `stamp`); of a member its
    size, its offset in the archive (before compression), and 0.
    """

    container: str
    names: list[str]
    numbers: array[int]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def compressed(self) -> bool:
        """Whether the files can only be read one after the other."""
        return is_compressed(self.container)

    def where(self, index: int) -> str:
        """One file, for a person: its path, or archive and member."""
        return f"{self.container}{': ' if is_archive(self.container) else '/'}{self.names[index]}"

    def read(self, index: int) -> bytes:
        """The bytes of one file, or member of an archive without compression. Raises OSError."""
        if not is_archive(self.container):
            return Path(self.container, self.names[index]).read_bytes()
        size, offset = self.numbers[3 * index : 3 * index + 2]
        with Path(self.container).open("rb") as archive:
            archive.seek(offset)
            return archive.read(size)


def stamp(status: os.stat_result) -> tuple[int, int, int]:
    """What changes when a file is written to: size, mtime_ns and ctime_ns."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def folder_files(folder: Path, names: list[str]) -> Files:
    """These files of a folder, with their stamps. Raises OSError for one that is not there."""
    numbers = array("q")
    for name in names:
        numbers.extend(stamp(Path(folder, name).stat()))
    return Files(str(folder.absolute()), names, numbers)


def threads() -> int:
    """How many images to decode at once: the processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_storage(files: Files, indices: Iterable[int]) -> Iterator[tuple[int, bytes | None]]:
    """These files in the order of storage; with their bytes from a compressed archive."""
    if not is_archive(files.container):
        yield from ((index, None) for index in indices)
        return
    if not files.compressed:
        for index in sorted(indices, key=lambda index: files.numbers[3 * index + 1]):
            yield index, None
        return
    # By offset, because a name may be there twice, and the last one counts.
    rows = {files.numbers[3 * index + 1]: index for index in indices}
    for archive, member in members(Path(files.container)):
        if member.isfile() and (index := rows.get(member.offset_data)) is not None:
            yield index, archive.extractfile(member).read()


def each(
    files: Files,
    indices: Iterable[int],
    work: Callable[[int, bytes | None], T],
    *,
    workers: int | None = None,
) -> Iterator[tuple[int, T]]:
    """`work` on every file of `indices`, in threads: (index, result) in the order of storage.

    `work(index, data)` reads the file itself where `data` is None. Raises what `work` raises for
    the first file that fails, and UserError for a damaged archive.
    """
    count = workers or threads()
    source = _in_storage(files, indices)

    def run(group: list[tuple[int, bytes | None]]) -> list[tuple[int, T]]:
        return [(index, work(index, data)) for index, data in group]

    with ThreadPoolExecutor(count) as pool:
        waiting: deque[Future[list[tuple[int, T]]]] = deque()
        try:
            while group := list(islice(source, GROUP)):
                waiting.append(pool.submit(run, group))
                if len(waiting) >= AHEAD * count:
                    yield from waiting.popleft().result()
            for future in waiting:
                yield from future.result()
        finally:
            pool.shutdown(cancel_futures=True)
