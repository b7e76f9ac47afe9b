"""Where the files of a data set are, and what they are: an image folder, or what torchvision reads.

Standard library only: it tells which data a run uses, and commands that plan runs import no torch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locbench.data.kept import Kept
from locbench.data.listing import (
    LAYOUT,
    Index,
    data_root,
    existing_root,
    find_containers,
    find_folder,
)
from locbench.errors import UserError
from locbench.plugins.registry import DATASETS, Registry
from locbench.published.datasets import OFFICIAL, Official


@dataclass(frozen=True)
class ImageFolder:
    """Images in the layout of `listing`."""

    name: str
    version: int
    index: Index

    def summary(self) -> dict[str, Any]:
        """checksum, classes, train and test (numbers); see `Index.summary`."""
        found = self.index.summary()
        return {**found, "classes": len(found["classes"])}


@dataclass(frozen=True)
class OfficialFiles:
    """The files of an `Official` in a folder."""

    name: str
    version: int
    folder: Path

    @property
    def official(self) -> Official:
        """What should be in the files."""
        return OFFICIAL[self.name]

    @property
    def again(self) -> str:
        """The end of an error line: how to have the files anew."""
        call = self.official.download.format(folder=self.folder)
        return f"delete it and download it with {call}"

    @property
    def _kept(self) -> Kept:
        return Kept(tuple(self.folder / path for path in self.official.files))

    def forget(self) -> None:
        """Read the files again next time."""
        self._kept.forget()

    def summary(self) -> dict[str, Any]:
        """checksum, classes, train and test (numbers); milliseconds once the files were read.

        The checksum is over the files' content, by their md5. UserError for one that is missing
        or not as published, so that a run is not planned on it.
        """
        for path in self.official.paths:
            if not (self.folder / path).is_file():
                call = self.official.download.format(folder=self.folder)
                raise UserError(f"{self.folder} has no {path} of '{self.name}': run {call}")
        return self._kept.known() or self._read()

    def _read(self) -> dict[str, Any]:
        stamps, digest, official = self._kept.stamps(), hashlib.sha256(), self.official
        for path, published in official.files.items():
            md5 = self._md5(self.folder / path)
            if md5 != published:
                raise UserError(
                    f"{self.folder / path} is damaged or another file (md5 {md5}, published is "
                    f"{published}); {self.again}"
                )
            digest.update(f"{path}\0{md5}\n".encode())
        counts = {"classes": official.classes, "train": official.train, "test": official.test}
        summary = {"checksum": digest.hexdigest(), **counts}
        self._kept.keep(stamps, summary)
        return summary

    def _md5(self, path: Path) -> str:
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, _md5).hexdigest()
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); {self.again}") from error


def _md5() -> Any:
    return hashlib.md5(usedforsecurity=False)


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
        return ImageFolder(name, version, Index(*find_containers(folder)))
    expected = _expected(official, data_root(root) / name)
    base = existing_root(root, expected)
    if (folder := official.where(base / name, base)) is not None:
        return OfficialFiles(name, version, folder)
    if (folder := find_folder(name, base)) is not None:
        version = DATASETS.entry("folder").version
        return ImageFolder(own_name(folder, DATASETS), version, Index(*find_containers(folder)))
    raise UserError(f"no '{name}' in {base} or {base / name}: {expected}")


def _expected(official: Official, folder: Path) -> str:
    call = official.download.format(folder=folder)
    return (
        f"expected {next(iter(official.files))} and what belongs to it, which {call} downloads; "
        f"or any image folder in their place: {LAYOUT}"
    )


def own_name(folder: Path, registry: Registry) -> str:
    """The folder's own name; one that is a registered data set's is marked as a copy."""
    # Resolved, so that neither `.` nor a link gives the images another name.
    name = folder.resolve().name or "root"
    return f"{name}-images" if name.lower() in registry.names() else name
