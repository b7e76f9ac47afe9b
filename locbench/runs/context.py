"""Where runs are carried out. Needs no torch: what is answered from records never imports it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locbench.data import ImageData, load_data, reduced
from locbench.data import Progress as DataProgress
from locbench.errors import UserError
from locbench.evaluation.downstream.extra import check_detection_extra
from locbench.plugins.registry import DETECTION_SETS
from locbench.runs.spec import RunSpec
from locbench.runs.store import Store

if TYPE_CHECKING:
    from locbench.evaluation.downstream.sets import DetectionSet

Progress = Callable[[int, int, dict[str, float]], None]  # steps done, in all, current figures


def _silent(spec: RunSpec) -> Progress:
    return lambda done, total, figures: None


@dataclass
class Workshop:
    """The store, the device, the data sets, and who is told of progress."""

    store: Store
    device: str = "auto"
    data_root: Path | None = None
    progress: Callable[[RunSpec], Progress] = _silent
    preparing: DataProgress | None = None
    patient: bool = True  # waits for a run that another process is at; else `execute` raises Busy
    features: dict[str, Any] = field(default_factory=dict)  # of the encoder probed last
    _data: dict[tuple[Any, ...], ImageData | DetectionSet] = field(default_factory=dict)

    def data(self, spec: RunSpec) -> ImageData | DetectionSet:
        """The run's data set, loaded once; UserError if it is not the one the run is planned on."""
        load = self._detection_data if spec.kind == "detect" else self._image_data
        found, wanted = load(spec), spec.fingerprint
        if (found.version, found.checksum) != (wanted["version"], wanted["checksum"]):
            raise UserError(
                f"data set {found.name} here is version {found.version} with checksum "
                f"{found.checksum[:12]}, and {spec.id} is of version {wanted['version']} with "
                f"{wanted['checksum'][:12]}; give the --data-root it was made with"
            )
        return found

    def _image_data(self, spec: RunSpec) -> ImageData:
        asked = spec.recipe.data
        key = (asked.name, asked.resolution, asked.train_images)
        if key not in self._data:
            whole = load_data(asked.name, asked.resolution, self.data_root, self.preparing)
            self._data[key] = reduced(whole, asked.train_images)
        return self._data[key]

    def _detection_data(self, spec: RunSpec) -> DetectionSet:
        check_detection_extra()
        asked = spec.recipe.detection
        key = (asked.data, asked.test_side)
        if key not in self._data:
            known = DETECTION_SETS.get(asked.data)
            self._data[key] = known.load(self.data_root, asked.test_side, self.preparing)
        return self._data[key]
