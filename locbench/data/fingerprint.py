"""Which data a run uses, without decoding or making any of it: part of every run's identity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from locbench.data.settings import ShapesSettings, shapes_checksum
from locbench.data.sources import find_source
from locbench.plugins.registry import DATASETS


def fingerprint(name: str, resolution: int, root: Path | None = None) -> dict[str, Any]:
    """name, version, checksum, classes, train and test (numbers of images) of a data set.

    Milliseconds, but for the first look at files: an image folder or archive is listed, files of
    torchvision's are read. The name is that of `name`, or the folder's own where images lie in the
    place of such files. Raises UserError for an unknown name, and as `locbench.data.load_data` does
    for files. The checksum of Shapes is of its version, settings and resolution; of a folder, of
    all names and sizes; of other files, of their content.
    """
    version = DATASETS.entry(name).version
    if name == "shapes":
        settings = ShapesSettings()
        counts = {"classes": 10, "train": settings.train, "test": settings.test}
        checksum = shapes_checksum(settings, version, resolution)
        return {"name": name, "version": version, "checksum": checksum, **counts}
    source = find_source(name, root)
    found = source.summary()
    counts = {key: found[key] for key in ("checksum", "classes", "train", "test")}
    return {"name": source.name, "version": source.version, **counts}
