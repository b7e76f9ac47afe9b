"""Which data a run uses, without decoding or making any of it: part of every run's identity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from locbench.data.listing import Index, find_containers
from locbench.data.settings import ShapesSettings, shapes_checksum
from locbench.registry import DATASETS


def fingerprint(name: str, resolution: int, root: Path | None = None) -> dict[str, Any]:
    """name, version, checksum, classes, train and test (numbers of images) of a data set.

    Milliseconds, but for the first look at an image folder or archive, which lists it. Raises
    UserError for an unknown name, and for a folder as `locbench.data.load_data` does. The checksum
    of Shapes is of its version, settings and resolution; of a folder, of all names and sizes.
    """
    version = DATASETS.entry(name).version
    if name == "shapes":
        settings = ShapesSettings()
        counts = {"classes": 10, "train": settings.train, "test": settings.test}
        checksum = shapes_checksum(settings, version, resolution)
        return {"name": name, "version": version, "checksum": checksum, **counts}
    found = Index(*find_containers(name, root)).summary()
    counts = {"classes": len(found["classes"]), "train": found["train"], "test": found["test"]}
    return {"name": name, "version": version, "checksum": found["checksum"], **counts}
