"""Roughly how long runs take and what they leave on disk, from what was measured before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locbench.paths import results_dir
from locbench.records import Record, Store
from locbench.runs import RunSpec


@dataclass(frozen=True)
class Estimate:
    """Seconds and bytes a run is expected to need; None where nothing like it was measured."""

    seconds: float | None
    disk_bytes: int | None
    basis: str


def _work(kind: str, recipe: dict[str, Any], images: int | None) -> float | None:
    """What a run's time grows with: pixels passed; None where the data's size is unknown."""
    if images is None:
        return None
    probed = recipe["probe"]["epochs"] if recipe["probe"]["augment"] else 1
    epochs = {"pretrain": recipe["schedule"]["epochs"], "probe": probed, "pixels": 1}[kind]
    return float(images * epochs * recipe["data"]["resolution"] ** 2)


def known_records(store: Store) -> list[Record]:
    """Finished records here and in the committed results, the ones here first."""
    reference = Store(results_dir() / "records")
    return [r for s in (store, reference) for r in s.all() if r.status == "done"]


def estimate(spec: RunSpec, known: Iterable[Record], images: int | None) -> Estimate:
    """From the finished run most like this one: same kind, then network, rule and width.

    Time is scaled by images, epochs and pixels. A run at another width or depth gives no estimate.
    """
    recipe = spec.recipe.as_dict()

    def likeness(record: Record) -> tuple[bool, ...]:
        same_network = record.network.get("name") == (spec.network or None)
        shape = all(record.network.get(k) == v for k, v in recipe["network"].items())
        return (shape or spec.kind == "pixels", same_network, record.rule["name"] == spec.rule)

    best = max((r for r in known if r.kind == spec.kind), key=likeness, default=None)
    if best is None or not likeness(best)[0]:
        return Estimate(None, None, "nothing like it was measured yet")
    there = _work(spec.kind, best.recipe, best.data["train_images"])
    here = _work(spec.kind, recipe, images)
    seconds = None if here is None or not there else best.cost["wall_time_s"] * here / there
    parameters = best.cost.get("encoder_parameters", 0)
    return Estimate(seconds, 4 * parameters + 20_000, str(best.environment.get("device")))


def checkpoint_bytes(folder: Path) -> int:
    """What a run has left on disk so far."""
    return sum(p.stat().st_size for p in folder.glob("*") if p.is_file())


def duration(seconds: float | None) -> str:
    """Seconds as people say them."""
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
