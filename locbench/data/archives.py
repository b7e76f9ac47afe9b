"""Tar archives of images: their members, whatever the compression, checked for a cut-off end."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from locbench.errors import UserError

SUFFIXES = (".tar", ".tar.gz", ".tgz")


def is_archive(container: Path | str) -> bool:
    """Whether a container of images is an archive, by its name; else it is a folder."""
    return str(container).endswith(SUFFIXES)


def is_compressed(container: Path | str) -> bool:
    """Whether the images in a container can only be read one after the other."""
    return str(container).endswith(SUFFIXES[1:])


def split_name(container: Path | str) -> str:
    """What a container calls its split: train, val or test."""
    return Path(container).name.split(".")[0]


def member_name(path: str, *, split: str) -> str | None:
    """`CLASS/name`, or `CLASS` of a folder, from a path in an archive; None where it is neither."""
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", ".")]
    if parts and parts[0] == split:
        parts = parts[1:]
    return "/".join(parts) if 1 <= len(parts) <= 2 else None


def members(path: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Every member of an archive in its order; UserError where it is damaged or ends too early."""
    plain = not is_compressed(path)
    try:
        # Not tarfile's own gzip reader, which takes a stream that breaks off for one that ends.
        with (
            path.open("rb") if plain else gzip.open(path) as stream,
            tarfile.open(fileobj=stream, mode="r:" if plain else "r|") as archive,
        ):
            for member in archive:
                yield archive, member
                archive.members = []  # or a large archive is held in memory twice
            ended = archive.offset
            while not plain and stream.read(1 << 20):
                pass  # to the end, where the check sum is
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise UserError(
            f"{path} is truncated or no tar archive ({error}); copy it again"
        ) from error
    # tarfile takes an end on a member's boundary for the end of the archive.
    if plain and path.stat().st_size < ended + tarfile.BLOCKSIZE:
        raise UserError(f"{path} is truncated (no end-of-archive block); copy it again")
