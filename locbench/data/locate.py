"""Finds the files of a data set: an image folder, or the files that torchvision reads.

Standard library only: commands that plan runs identify their data, and import no torch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locbench.data.digests import checksum_of, folder_digests
from locbench.data.files import folder_files
from locbench.data.listing import (
    LAYOUT,
    Listing,
    data_root,
    existing_root,
    find_containers,
    find_folder,
    read_listing,
)
from locbench.data.sizes import streams
from locbench.errors import UserError
from locbench.plugins.registry import DATASETS, Registry
from locbench.published.datasets import OFFICIAL, Official

if TYPE_CHECKING:
    from locbench.data import Progress


@dataclass(frozen=True)
class ImageFolder:
    """Images in the layout of `listing`: a folder or archive of each split.

    `version` is that of a set which is decoded into the cache; see `version_of`.
    """

    name: str
    version: int
    train: Path
    test: Path

    def summary(self, *, progress: Progress | None = None) -> dict[str, Any]:
        """version, checksum, classes, train and test (numbers)."""
        listing = read_listing(self.train, self.test, progress=progress)
        identity = {"version": self.version_of(listing), "checksum": listing.checksum}
        counts = {"train": len(listing.train), "test": len(listing.test)}
        return {**identity, "classes": len(listing.classes), **counts}

    def version_of(self, listing: Listing) -> int:
        """One more where images are decoded as they are read: what training sees of them differs.

        Their crops came from a centre square in version 1, and come from the whole image.
        """
        return self.version + streams(listing)


@dataclass(frozen=True)
class OfficialFiles:
    """The files of an `Official` in a folder."""

    name: str
    version: int
    folder: Path

    @property
    def official(self) -> Official:
        """The published facts of the files."""
        return OFFICIAL[self.name]

    @property
    def again(self) -> str:
        """The end of an error line: how to have the files anew."""
        call = self.official.download.format(folder=self.folder)
        return f"delete it and download it with {call}"

    def summary(self, *, progress: Progress | None = None) -> dict[str, Any]:
        """checksum (of the files' bytes), classes, train and test (numbers).

        Files that are remembered are not read. UserError for a file that is missing or not as
        published, by its md5.
        """
        official = self.official
        for path in official.paths:
            if not (self.folder / path).is_file():
                call = official.download.format(folder=self.folder)
                raise UserError(f"{self.folder} has no {path} of '{self.name}': run {call}")
        files = folder_files(self.folder, list(official.files))
        digests = folder_digests(files, label=self.name, verify=self._verify, progress=progress)
        checksum = checksum_of(("file", index, digest) for index, digest in enumerate(digests))
        counts = {"classes": official.classes, "train": official.train, "test": official.test}
        return {"checksum": checksum, **counts}

    def _verify(self, index: int, data: bytes) -> None:
        path, published = list(self.official.files.items())[index]
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if md5 != published:
            raise UserError(
                f"{self.folder / path} is damaged or another file (md5 {md5}, published is "
                f"{published}); {self.again}"
            )


def find_source(name: str, root: Path | None) -> ImageFolder | OfficialFiles:
    """The files of data set `name`, under `root/name` or `root`.

    An image folder in the place of torchvision's files is taken too, under a name of its own: its
    records are not of the published data. UserError says what is missing.
    """
    official, version = OFFICIAL.get(name), DATASETS.entry(name).version
    if official is None:
        base = existing_root(root)
        if (folder := find_folder(name, base)) is None:
            raise UserError(f"no images of '{name}' in {base} or {base / name}: {LAYOUT}")
        return ImageFolder(name, version, *find_containers(folder))
    expected = _expected(official, data_root(root) / name)
    base = existing_root(root, expected)
    if (folder := official.where(base / name, base)) is not None:
        return OfficialFiles(name, version, folder)
    if (folder := find_folder(name, base)) is not None:
        version = DATASETS.entry("folder").version
        return ImageFolder(own_name(folder, DATASETS), version, *find_containers(folder))
    raise UserError(f"no '{name}' in {base} or {base / name}: {expected}")


def _expected(official: Official, folder: Path) -> str:
    call = official.download.format(folder=folder)
    return (
        f"expected {next(iter(official.files))} and what belongs to it, which {call} downloads; "
        f"or any image folder in their place: {LAYOUT}"
    )


def own_name(folder: Path, registry: Registry) -> str:
    """The name of the folder; the name of a registered data set gets the ending "-images"."""
    # Resolved, so that neither `.` nor a link gives the images another name.
    name = folder.resolve().name or "root"
    return f"{name}-images" if name.lower() in registry.names() else name
