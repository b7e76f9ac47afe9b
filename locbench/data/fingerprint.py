"""Identifies the data of a run by a checksum, without decoding or generating images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from locbench.data.locate import find_source
from locbench.data.settings import ShapesSettings, shapes_checksum
from locbench.plugins.registry import DATASETS

if TYPE_CHECKING:
    from locbench.data import Progress


def fingerprint(
    name: str, resolution: int, root: Path | None = None, *, progress: Progress | None = None
) -> dict[str, Any]:
    """name, version, checksum, classes, train and test (numbers of images) of a data set.

    The first look reads every file; later ones read those that changed, at the cost of a `stat`
    for each (see `digests`). The name is that of `name`, or the folder's own where images lie in
    the place of torchvision's files. Raises UserError for an unknown name, and as
    `locbench.data.load_data` does for files. The checksum of Shapes is of its version, settings and
    resolution; of everything else, of the bytes of its files, whatever these are called. A folder
    of images that is decoded as it is read has a version of its own.
    """
    version = DATASETS.entry(name).version
    if name == "shapes":
        settings = ShapesSettings()
        counts = {"classes": 10, "train": settings.train, "test": settings.test}
        checksum = shapes_checksum(settings, version, resolution)
        return {"name": name, "version": version, "checksum": checksum, **counts}
    source = find_source(name, root)
    return {"name": source.name, "version": source.version, **source.summary(progress=progress)}
