"""Roughly how long runs take and what they leave on disk, from what was measured before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from locbench.evaluation.downstream.size import added_parameters
from locbench.paths import results_dir
from locbench.recipes.schema import Detection, Network
from locbench.runs.record import Record
from locbench.runs.spec import COUNTED, MEASURED, TRAINED, RunSpec
from locbench.runs.store import Store

RECORD_BYTES = 20_000
COUNTING_S = 2.0  # a network and its auxiliary networks: ResNet-110 with AugLocal's, on one core
FLOAT_BYTES = 4
# Network, objectives and momentum: what a checkpoint holds, in encoders, roughly.
CHECKPOINT = 3
# What an optimizer keeps of every weight that it trains.
MOMENTS = {"sgd": 1, "adamw": 2}
# A training step in forward passes: one forward, and a backward of two. Two views an image.
FORWARDS_A_STEP, VIEWS = 3, 2
STEPS_MEASURED = 10  # of a rule and, in turns, of what it is compared with


@dataclass(frozen=True)
class Estimate:
    """What a run is expected to need; None where nothing is known to tell it from.

    `kept_bytes` stay on disk; `working_bytes` more are needed until the run is done; both are
    counted from parameters, not measured. `rough` where no run of that shape was measured and the
    time comes from multiply-adds alone.
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


def estimate(spec: RunSpec, known: Sequence[Record], build: bool = False) -> Estimate:
    """From the finished run most like this one; else from how many multiply-adds it is.

    Like is a run of the same kind with the same network and size: its time is scaled by images,
    epochs and pixels. `build` allows to build the network (which imports torch) to count.
    """
    if spec.kind in COUNTED:
        return Estimate(COUNTING_S, RECORD_BYTES, 0, "a count of one of the largest")
    size = _size(spec, known, build)
    if spec.kind in MEASURED:
        return _of_measured(spec, size, *_rate(known))
    kept, working = RECORD_BYTES, 0
    if spec.kind in TRAINED:
        encoder = None if size is None else FLOAT_BYTES * size.parameters
        kept = None if encoder is None else kept + encoder
        working = CHECKPOINT * (encoder or 0)
    elif spec.kind == "detect":
        kept, working = _detector_bytes(spec, size)
    alike = [r for r in known if r.kind == spec.kind and _same_shape(r, spec)]
    if alike:
        best = max(alike, key=lambda record: _likeness(record, spec))
        there = _work(best.kind, best.recipe, best.data["train_images"])
        here = _work(spec.kind, spec.recipe.as_dict(), _images(spec))
        return Estimate(best.cost["wall_time_s"] * here / there, kept, working, _device(best))
    rate, basis = _rate(known)
    if rate is None or size is None or spec.kind == "detect":
        return Estimate(None, kept, working, "nothing like it was measured yet")
    forwards = _forwards(spec.kind, spec.recipe.as_dict(), _images(spec))
    return Estimate(forwards * size.multiply_adds / rate, kept, working, basis, rough=True)


def _of_measured(spec: RunSpec, size: Size | None, rate: float | None, basis: str) -> Estimate:
    """A few steps of the network; of how large a rule's auxiliary networks are it knows nothing."""
    seconds = None
    if spec.kind == "measure" and size is not None and rate is not None:
        images = STEPS_MEASURED * spec.recipe.training.batch
        seconds = images * VIEWS * FORWARDS_A_STEP * size.multiply_adds / rate
    return Estimate(seconds, RECORD_BYTES, 0, basis, rough=True)


def _detector_bytes(spec: RunSpec, encoder: Size | None) -> tuple[int | None, int]:
    """Its weights, which stay, and its checkpoint: they, and the optimizer's of what it trains."""
    if encoder is None:
        return None, 0
    asked = spec.recipe.detection
    added = added_parameters(asked, spec.fingerprint["classes"])
    trained = added if asked.frozen == "all" else added + encoder.parameters
    whole = encoder.parameters + added
    moments = MOMENTS[asked.optimizer] * trained
    return RECORD_BYTES + FLOAT_BYTES * whole, FLOAT_BYTES * (whole + moments)


def _images(spec: RunSpec) -> int:
    if spec.kind == "detect":
        return spec.recipe.detection.train_images or spec.fingerprint["train"]
    return spec.recipe.data.train_images or spec.fingerprint["train"]


def _work(kind: str, recipe: dict[str, Any], images: int) -> float:
    """How many pixels' forward passes a run is worth."""
    if kind == "detect":
        asked = Detection(**recipe["detection"])
        seen = asked.steps(images) * asked.batch
        return seen * FORWARDS_A_STEP * sum(asked.short_sides) / 2 * asked.long_side
    return _forwards(kind, recipe, images) * _pixels(recipe)


def _forwards(kind: str, recipe: dict[str, Any], images: int) -> float:
    probe = recipe["probe"]
    if kind in TRAINED:
        views = VIEWS if kind == "pretrain" else 1
        return images * recipe["schedule"]["epochs"] * views * FORWARDS_A_STEP
    return images * (probe["epochs"] if kind == "probe" and probe["augment"] else 1)


def _pixels(recipe: dict[str, Any]) -> int:
    return recipe["data"]["resolution"] ** 2


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
    if spec.kind == "pixels":
        return True
    wanted = {"name": spec.network, **spec.recipe.as_dict()["network"]}
    return all(record.network.get(key) == value for key, value in wanted.items())


def _rate(known: Sequence[Record]) -> tuple[float | None, str]:
    """Multiply-adds a second of the finished pretraining with the largest network."""
    needed = ("images_per_s", "encoder_multiply_adds")
    counted = [r for r in known if r.kind == "pretrain" and all(r.cost.get(k) for k in needed)]
    if not counted:
        return None, ""
    largest = max(counted, key=lambda r: r.cost["encoder_multiply_adds"])
    images, operations = (largest.cost[key] for key in needed)
    return images * VIEWS * FORWARDS_A_STEP * operations, _device(largest)


def _size(spec: RunSpec, known: Sequence[Record], build: bool) -> Size | None:
    if spec.kind == "pixels":
        return None
    side = spec.recipe.data.resolution
    for record in known:
        if "encoder_parameters" in record.cost and _same_shape(record, spec):
            scale = side**2 / _pixels(record.recipe)
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


def total(estimates: Sequence[Estimate]) -> str:
    """The estimates of runs that follow one another, in a few words."""
    if not estimates:
        return "nothing to do"
    timed = [e for e in estimates if e.seconds is not None]
    disk = f"about {size(sum(e.kept_bytes or 0 for e in estimates))} to keep"
    disk += f" and {size(max(e.working_bytes for e in estimates))} more while it runs"
    if not timed:
        return f"time unknown (nothing like them was measured yet), {disk}"
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
