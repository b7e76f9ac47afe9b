"""Context of runs: store, device, data sets, and who is told of progress. Needs no torch."""

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
from locbench.recipes.schema import Data, Detection
from locbench.runs.spec import RunSpec
from locbench.runs.store import Store

if TYPE_CHECKING:
    from locbench.evaluation.downstream.sets import DetectionSet

Progress = Callable[[int, int, dict[str, float]], None]  # steps done, in all, current figures


def _silent(spec: RunSpec) -> Progress:
    return lambda done, total, figures: None


@dataclass
class Context:
    """What all runs of a command share."""

    store: Store
    device: str = "auto"
    data_root: Path | None = None
    progress: Callable[[RunSpec], Progress] = _silent
    preparing: DataProgress | None = None
    patient: bool = True  # waits for a run that another process is at; else `execute` raises Busy
    features: dict[str, Any] = field(default_factory=dict)  # of the encoder probed last
    _data: dict[tuple[Any, ...], ImageData | DetectionSet] = field(default_factory=dict)

    def data(self, spec: RunSpec) -> ImageData | DetectionSet | None:
        """The run's data set, loaded once; UserError if it is not the one the run is planned on."""
        data, wanted = spec.of.load_data(spec, self), spec.data
        if data is None:
            return None
        if (data.version, data.checksum) != (wanted["version"], wanted["checksum"]):
            raise UserError(
                f"data set {data.name} here is version {data.version} with checksum "
                f"{data.checksum[:12]}, and {spec.id} is of version {wanted['version']} with "
                f"{wanted['checksum'][:12]}; give the --data-root it was made with"
            )
        return data

    def image_data(self, settings: Data) -> ImageData:
        """The data set of a recipe's [data]."""
        sizes = (settings.train_images, settings.validation)
        key = (settings.name, settings.resolution, *sizes)
        if key not in self._data:
            whole = load_data(settings.name, settings.resolution, self.data_root, self.preparing)
            self._data[key] = reduced(whole, *sizes)
        return self._data[key]

    def detection_data(self, settings: Detection) -> DetectionSet:
        """The data set of a recipe's [detection]; UserError where its packages are missing."""
        check_detection_extra()
        key = (settings.data, settings.test_side)
        if key not in self._data:
            data_set = DETECTION_SETS.get(settings.data)
            self._data[key] = data_set.load(self.data_root, settings.test_side, self.preparing)
        return self._data[key]
