"""Roughly how long runs take and what they leave on disk, from what was measured before."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from locbench.paths import results_dir
from locbench.recipes.schema import Network
from locbench.runs.record import Record
from locbench.runs.spec import RunSpec
from locbench.runs.store import Store

RECORD_BYTES = 20_000
# A time is told from what took at least a thousandth of it: beyond that other things decide.
FURTHEST = 1000
TOO_FAR, NOTHING = "nothing so long was measured here yet", "nothing like it was measured here yet"
# A training step in forward passes: one forward, and a backward of two. Two views an image.
FORWARDS_A_STEP, VIEWS = 3, 2


@dataclass(frozen=True)
class Estimate:
    """What a run is expected to need; None where nothing is known to tell it from.

    `kept_bytes` stay on disk; `working_bytes` more are needed until the run is done; both are
    counted from parameters, not measured. `rough` where no run of that shape was measured on this
    device: the time comes from multiply-adds alone, or from another device.
    """

    seconds: float | None
    kept_bytes: int | None
    working_bytes: int
    basis: str
    rough: bool = False


@dataclass(frozen=True)
class Size:
    """Parameters and multiply-adds (of one image) of an encoder."""

    parameters: int
    multiply_adds: int


def known_records(store: Store) -> list[Record]:
    """Finished records here and in the committed results, the ones here first."""
    reference = Store(results_dir() / "records")
    return [r for s in (store, reference) for r in s.readable() if r.status == "done"]


def estimate(
    spec: RunSpec, records: Sequence[Record], *, device: str | None, build: bool = False
) -> Estimate:
    """What a run needs, as its kind tells from finished runs on the same device.

    Without any from those on another one, times the ratio that was measured between the two.
    `device` is a name as records have it; None for one of which nothing is known. `build` allows to
    build the network (which imports torch) to count.
    """
    size = _size(spec, records, build)
    by_device: dict[str, list[Record]] = {}
    for record in records:
        by_device.setdefault(_device(record), []).append(record)
    here = by_device.pop(device, []) if device is not None else []
    guess = spec.of.estimate(spec, here, size)
    for other, there in by_device.items() if guess.seconds is None else ():
        times, scaled = _slowdown(here, there), spec.of.estimate(spec, there, size)
        if times is not None and scaled.seconds is not None:
            basis = f"{other}, times {times:.3g} as steps on both"
            return replace(scaled, seconds=times * scaled.seconds, basis=basis, rough=True)
    return guess


def _slowdown(here: Sequence[Record], there: Sequence[Record]) -> float | None:
    """How many times longer the same steps took here, at the median; None where none were alike."""

    def what(record: Record) -> str:
        side, precision = record.recipe["data"]["resolution"], record.tags.get("precision")
        return repr((record.rule, record.network, precision, side))

    def speeds(records: Sequence[Record]) -> dict[str, float]:
        """Images a second by what was trained."""
        measured = [record for record in records if record.cost.get("images_per_s")]
        return {what(record): record.cost["images_per_s"] for record in measured}

    slow, fast = speeds(here), speeds(there)
    ratios = [fast[key] / slow[key] for key in slow.keys() & fast.keys()]
    return statistics.median(ratios) if ratios else None


def by_likeness(
    spec: RunSpec,
    records: Sequence[Record],
    size: Size | None,
    kept: int | None,
    working: int,
    *,
    rough: bool = True,
) -> Estimate:
    """From the finished run most like this one; else, where `rough`, from its multiply-adds.

    Like is a run of the same kind with the same network and size: its time is scaled by images,
    epochs and pixels. `kept` and `working` are the bytes of the estimate.
    """
    kind = spec.of
    alike = [r for r in records if r.kind == spec.kind and _same_shape(r, spec)]
    if alike:
        best = max(alike, key=lambda record: _likeness(record, spec))
        work = kind.work(spec.recipe.as_dict(), kind.images(spec))
        times = work / kind.work(best.recipe, best.data["train_images"])
        if times > FURTHEST:
            return Estimate(None, kept, working, TOO_FAR)
        return Estimate(best.cost["wall_time_s"] * times, kept, working, _device(best))
    speed, basis = rate(records)
    if speed is None or size is None or not rough:
        return Estimate(None, kept, working, NOTHING)
    forwards = kind.forwards(spec.recipe.as_dict(), kind.images(spec))
    seconds = forwards * size.multiply_adds / speed
    if seconds > FURTHEST * max(r.cost["wall_time_s"] for r in records):
        return Estimate(None, kept, working, TOO_FAR)
    return Estimate(seconds, kept, working, basis, rough=True)


def _likeness(record: Record, spec: RunSpec) -> tuple[bool, bool, bool]:
    """What besides kind and network is the same: the rule, its settings, the probe's profile."""
    return (
        record.rule.get("name") == spec.rule,
        record.rule.get("settings") == dict(spec.recipe.rule),
        record.recipe["probe"]["profile"] == spec.recipe.probe.profile,
    )


def _device(record: Record) -> str:
    return str(record.environment.get("device"))


def _same_shape(record: Record, spec: RunSpec) -> bool:
    """Whether a record's network is this one, at the same width and depth."""
    if not spec.network:
        return True
    network = {"name": spec.network, **spec.recipe.as_dict()["network"]}
    return all(record.network.get(key) == value for key, value in network.items())


def rate(records: Sequence[Record]) -> tuple[float | None, str]:
    """Multiply-adds a second of the finished pretraining with the largest network."""
    needed = ("images_per_s", "encoder_multiply_adds")
    counted = [r for r in records if all(r.cost.get(key) for key in needed) and _of_views(r)]
    if not counted:
        return None, ""
    largest = max(counted, key=lambda r: r.cost["encoder_multiply_adds"])
    images, operations = (largest.cost[key] for key in needed)
    return images * VIEWS * FORWARDS_A_STEP * operations, _device(largest)


def _size(spec: RunSpec, records: Sequence[Record], build: bool) -> Size | None:
    if not spec.network:
        return None
    side = spec.recipe.data.resolution
    for record in records:
        if "encoder_parameters" in record.cost and _same_shape(record, spec):
            scale = (side / record.recipe["data"]["resolution"]) ** 2
            operations = round(record.cost["encoder_multiply_adds"] * scale)
            return Size(record.cost["encoder_parameters"], operations)
    return built_size(spec.network, spec.recipe.network, side) if build else None


@cache
def built_size(name: str, settings: Network, side: int) -> Size:
    """Build an encoder, without memory for its weights, and count. Imports torch."""
    import torch

    from locbench.evaluation.cost.operations import multiply_adds, parameters
    from locbench.plugins.registry import NETWORKS

    with torch.device("meta"):
        network = NETWORKS.get(name)(settings, num_classes=1)
    return Size(
        parameters(network) - parameters(network.head),
        multiply_adds(network.blocks, (3, side, side)),
    )


def _of_views(record: Record) -> bool:
    """Whether a run was trained on two views an image."""
    return "name" not in record.recipe["augmentation"] and bool(record.units)


def total(estimates: Sequence[Estimate]) -> str:
    """The estimates of runs that follow one another, in a few words."""
    if not estimates:
        return "nothing to do"
    timed = [e for e in estimates if e.seconds is not None]
    disk = f"about {size(sum(e.kept_bytes or 0 for e in estimates))} to keep"
    disk += f" and {size(max(e.working_bytes for e in estimates))} more while it runs"
    if not timed:
        why = ", ".join(dict.fromkeys(e.basis for e in estimates if e.basis))
        return f"time unknown ({why or NOTHING}), {disk}"
    word = "roughly" if any(e.rough for e in timed) else "about"
    unknown = len(estimates) - len(timed)
    rest = f" and {unknown} of unknown length" if unknown else ""
    basis = ", ".join(dict.fromkeys(e.basis for e in timed))
    took = duration(sum(e.seconds for e in timed))
    return f"{word} {took}{rest} (from runs on {basis}), {disk}"


def size(count: float | None) -> str:
    """Bytes as people say them."""
    if count is None:
        return "unknown"
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def duration(seconds: float | None) -> str:
    """Seconds as people say them."""
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    days = seconds / 86400
    return f"{days:.0f} days" if days < 1000 else f"{days / 365.25:.0f} years"
