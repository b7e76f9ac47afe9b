"""Carrying out a run: from a spec to a finished record, whatever happens on the way."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import torch

from locbench.distributed import group as processes
from locbench.environment import environment
from locbench.errors import RunFailed, UserError
from locbench.evaluation.cost.counts import GIGA, counts
from locbench.evaluation.cost.measured import measure
from locbench.evaluation.cost.memory import PeakMemory
from locbench.evaluation.cost.operations import multiply_adds, parameters
from locbench.evaluation.cost.traced import trace
from locbench.evaluation.probe import pixel_baseline
from locbench.locks import alone
from locbench.networks import Network, make_network
from locbench.plugins.entry import UNTRAINED
from locbench.plugins.registry import NETWORKS, RULES
from locbench.plugins.rule_errors import blamed
from locbench.rules import build_units
from locbench.runs.context import Progress, Workshop
from locbench.runs.encoders import ENCODER, encoder_for
from locbench.runs.followers import (
    FOLLOWED,
    encoder_key,
    full,
    probe_for,
    trainer_for,
)
from locbench.runs.record import Record, timestamp
from locbench.runs.spec import COSTS, MEASURED, TRAINED, RunSpec
from locbench.runs.store import CHECKPOINT
from locbench.training.checkpoints import save_encoder
from locbench.training.guard import Diverged, out_of_memory, pick_device
from locbench.training.loop import Trainer
from locbench.units import trainable

logger = logging.getLogger(__name__)

DETECTOR = "detector.safetensors"
PICTURES = "pictures"
NOTE_EVERY_S = 20.0


def execute(spec: RunSpec, shop: Workshop) -> Record:
    """The finished record of this run: from the store if it is there, else by running it.

    A run that was stopped or failed goes on from its checkpoint; one that another process is at is
    waited for, or raises Busy where the shop is not patient. The record is written when the
    run starts, now and then, and when it ends: `done`, `diverged` (raises Diverged) or `failed`
    (raises what went wrong). Stopped by the user it stays `running`.
    """
    if (record := shop.store.finished(spec.id)) is not None:
        return record
    device = pick_device(shop.device)
    if spec.kind == "gpu" and device.type != "cuda":
        raise RunFailed(f"{spec.id} is of a GPU, and there is none: leave its column out")
    if spec.kind not in COSTS:
        shop.data(spec)  # before there is a record: what is wrong with it is not the run's fault
    shop.store.prepare()
    folder = shop.store.folder(spec.id)
    folder.mkdir(exist_ok=True)
    shared = spec.kind in FOLLOWED
    lock = shop.store.lock(spec.id)
    with alone(lock, f"at {spec.id}", shop.patient), processes.together(shared):
        if (record := shop.store.finished(spec.id)) is not None:
            return record
        record = _start(spec, shop, device)
        shop.store.tidy(record)
        try:
            memory, began = PeakMemory(device), time.monotonic()
            with blamed(spec.rule, out_of_memory, RunFailed):
                KINDS[spec.kind](spec, shop, record, device)
            if spec.kind not in MEASURED:  # those run in a process of their own
                record.cost.update(memory.read())
            record.cost.setdefault("wall_time_s", round(time.monotonic() - began, 2))
            record.status = "done"
        except Diverged as error:
            record.status, record.error = "diverged", str(error)
            raise
        except RuntimeError as error:
            if not out_of_memory(error):
                record.status, record.error = "failed", _one_line(error)
                raise
            record.status, record.error = "failed", "out of memory"
            raise full(spec, shop.device) from error
        except Exception as error:
            record.status, record.error = "failed", _one_line(error)
            if isinstance(error, UserError) and RULES.brought(spec.rule):
                raise RunFailed(str(error)) from error  # its rows fail, and no others
            raise
        finally:
            record.finished = None if record.status == "running" else timestamp()
            shop.store.save(record)
        (folder / CHECKPOINT).unlink(missing_ok=True)
    return record


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def _start(spec: RunSpec, shop: Workshop, device: torch.device) -> Record:
    """A record with status `running`, saved."""
    found, recipe = shop.store.load(spec.id), spec.recipe
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    threads = torch.get_num_threads()
    record = Record(
        id=spec.id,
        kind=spec.kind,
        status="running",
        scale=spec.scale,
        seed=spec.seed,
        parent=spec.parent.id if spec.parent else None,
        identity=spec.identity,
        recipe=recipe.as_dict(),
        recipe_hash=recipe.hash,
        rule={"name": spec.rule, "settings": dict(recipe.rule)},
        network={"name": spec.network, **recipe.as_dict()["network"]},
        data=_data_of(spec, shop),
        tags={"epoch": "last", "precision": "float32", "processes": processes.world_size()},
        environment=environment(device=name, threads=threads),
        created=found.created if found is not None else timestamp(),
    )
    if spec.rule in RULES:
        record.rule |= RULES.entry(spec.rule).told()
    if spec.network:
        record.network["version"] = NETWORKS.entry(spec.network).version
    shop.store.save(record)
    if spec.kind in TRAINED:
        RULES.entry(spec.rule).keep(shop.store.folder(spec.id))
    return record


def _data_of(spec: RunSpec, shop: Workshop) -> dict[str, Any]:
    """What a record says of its data; a detector's are those of its split, and at its size."""
    side = spec.recipe.data.resolution
    if spec.kind in COSTS:
        return {"classes": spec.fingerprint["classes"], "resolution": side}
    data, drawn = shop.data(spec), 0
    if spec.kind == "detect":
        drawn, side = spec.recipe.detection.train_images, spec.recipe.detection.test_side
    return {
        "name": data.name,
        "version": data.version,
        "checksum": data.checksum,
        "classes": len(data.classes),
        "train_images": drawn or len(data.train),
        "test_images": len(data.test),
        "resolution": side,
    }


def _train(spec: RunSpec, shop: Workshop, record: Record, device: torch.device) -> None:
    """Train, then leave the encoder beside the record."""
    trainer, folder = trainer_for(spec, shop, device), shop.store.folder(spec.id)
    if spec.kind == "train" and not trainer.classifies:
        raise UserError(
            f"rule '{spec.rule}' learns from labels and leaves the network's classifier, "
            "network.head, as it was: no unit's objective has it, so there is nothing to test"
        )
    processes.share(spec)
    if spec.recipe.training.accumulate > 1:
        record.tags["accumulate"] = spec.recipe.training.accumulate
    record.tags["precision"] = "bfloat16" if trainer.precision else "float32"
    record.units = [
        {
            "name": name,
            "start": unit.start,
            "stop": unit.stop,
            "updates": unit.updated_blocks(),
            "auxiliary": getattr(unit.objective, "description", type(unit.objective).__name__),
            "auxiliary_parameters": sum(p.numel() for p in trainable([unit.objective])),
        }
        for name, unit in zip(trainer.names, trainer.engine.units, strict=True)
    ]
    record.cost |= _size(trainer.network, spec)
    shop.store.save(record)

    def note(figures: dict[str, float]) -> None:
        record.curves = trainer.curves  # another object after going on from a checkpoint

    try:
        trainer.fit(folder / CHECKPOINT, _noting(spec, shop, record, note))
    finally:
        note({})
    # With the classifier, where there is a trained one; a probe does without it.
    whole = trainer.classifies
    weights = trainer.network.state_dict() if whole else trainer.network.encoder_state_dict()
    if lost := [k for k, v in weights.items() if not v.isfinite().all()]:
        raise WeightsDiverged(lost[0], trainer.total)
    save_encoder(folder / ENCODER, weights)
    for name, curve in trainer.curves["units"].items():
        for key, values in curve.items():
            record.metrics[f"{key} of {name}"] = {"last": values[-1]}
    if trainer.classifies:
        _add_accuracy(trainer, record)
    images = trainer.feed.images_in(trainer.total)
    record.cost["wall_time_s"] = round(trainer.elapsed, 2)
    record.cost["images_per_s"] = round(images / trainer.elapsed, 1)
    record.cost["steps"] = trainer.total
    record.cost["activation_bytes"] = trainer.activation_bytes


def _add_accuracy(trainer: Trainer, record: Record) -> None:
    """Test accuracy, last and best, of a run that trained its classifier; per block at the end."""
    for key in ("top1", "top5"):
        curve = trainer.curves["test"][key]
        record.metrics[key] = {"last": curve[-1], "best": max(curve)}
    for block, top1 in trainer.by_block.items():
        stage = trainer.network.stage_of(block) + 1
        record.per_block[str(block)] = {"stage": stage, "top1": top1}
    record.tags["decoder"] = record.units[0]["auxiliary"]


class WeightsDiverged(Diverged):
    """A gradient, and with it a weight, was not finite though every loss was."""

    def __init__(self, key: str, step: int) -> None:
        RunFailed.__init__(
            self,
            f"{key} was not finite after step {step}, though every loss was; "
            f"lower optimizer.lr or lengthen schedule.warmup_epochs",
        )


def _noting(
    spec: RunSpec, shop: Workshop, record: Record, note: Callable[[dict[str, float]], None]
) -> Progress:
    """The run's progress, which also notes the figures and writes the record now and then."""
    progress, written = shop.progress(spec), time.monotonic()

    def tell(done: int, total: int, figures: dict[str, float]) -> None:
        nonlocal written
        progress(done, total, figures)
        note(figures)
        if time.monotonic() - written > NOTE_EVERY_S:
            shop.store.save(record)
            written = time.monotonic()

    return tell


def _size(network: Network, spec: RunSpec) -> dict[str, int]:
    side = spec.recipe.data.resolution
    return {
        "encoder_parameters": parameters(network) - parameters(network.head),
        "encoder_multiply_adds": multiply_adds(network.blocks, (3, side, side)),
    }


def _probe(spec: RunSpec, shop: Workshop, record: Record, device: torch.device) -> None:
    """Linear accuracy at the probed blocks; decoder and precision are those of the pretraining."""
    probe = probe_for(spec, shop, device)
    processes.share(spec)

    def note(figures: dict[str, float]) -> None:
        record.curves = {
            "epoch": list(range(1, len(probe.history) + 1)),
            "top1": [scores[-1][0] for scores in probe.history],
        }

    checkpoint = shop.store.folder(spec.id) / CHECKPOINT
    scores = probe.fit(_noting(spec, shop, record, note), checkpoint)
    note({})
    shop.features = {encoder_key(spec): probe.features}  # of one encoder: they can be large
    record.metrics = {
        "top1": {"last": scores[-1].last, "best": scores[-1].best},
        "top5": {"last": scores[-1].top5},
    }
    for block, score in zip(probe.blocks, scores, strict=True):
        record.per_block[str(block)] = {
            "stage": probe.network.stage_of(block) + 1,
            "top1": score.last,
            "top1_best": score.best,
        }
    record.tags |= {
        "probe": spec.recipe.probe.profile,
        "probe_augmented": spec.recipe.probe.augment,
        "decoder": "none" if spec.encoder_file is None else "unknown",
    }
    if spec.parent is not None:
        _tell_pretraining(shop.store.load(spec.parent.id), record)


def _tell_pretraining(parent: Record, record: Record) -> None:
    record.tags["decoder"] = parent.units[-1]["auxiliary"]
    record.tags["pretrain_precision"] = parent.tags["precision"]
    if "accumulate" in parent.tags:
        record.tags["pretrain_accumulate"] = parent.tags["accumulate"]


def _pixels(spec: RunSpec, shop: Workshop, record: Record, device: torch.device) -> None:
    data = shop.data(spec)
    tell = shop.progress(spec)
    accuracy = pixel_baseline(data, spec.recipe.data.resolution, spec.recipe, tell)
    record.metrics = {"top1": {"last": accuracy, "best": accuracy}}
    record.tags["decoder"] = "none"


def _detect(spec: RunSpec, shop: Workshop, record: Record, device: torch.device) -> None:
    """Box and mask AP of Mask R-CNN, its weights, and pictures of what it finds."""
    from locbench.evaluation.downstream.detect import Detector  # imports mmdet

    folder = shop.store.folder(spec.id)
    network = encoder_for(spec, shop, device)
    processes.share(spec)

    def note(figures: dict[str, float]) -> None:
        record.curves = detector.watch.losses  # other lists after going on from a checkpoint

    tell = _noting(spec, shop, record, note)
    detector = Detector(
        spec.recipe,
        network,
        shop.data(spec),
        spec.seed,
        str(device),
        folder / CHECKPOINT,
        tell,
        spec.untrained,
    )
    record.tags |= detector.tags()
    record.cost |= _size(network, spec)
    try:
        detector.fit()
    finally:
        note({})
    trained, began = detector.watch.elapsed, time.monotonic()
    record.metrics = {key: {"last": value} for key, value in detector.evaluate().items()}
    record.cost["wall_time_s"] = round(trained + time.monotonic() - began, 2)
    record.cost["steps"] = steps = detector.runner.max_iters
    record.cost["images_per_s"] = round(steps * spec.recipe.detection.batch / trained, 1)
    save_encoder(folder / DETECTOR, detector.weights())
    try:
        detector.draw(folder / PICTURES)
    except Exception as error:  # nothing measured may be lost for a picture
        logger.warning("%s: no pictures: %s", spec.id, _one_line(error))
    detector.close()
    record.tags["decoder"] = "none" if spec.untrained else "unknown"
    if spec.parent is not None:
        _tell_pretraining(shop.store.load(spec.parent.id), record)


def _cost(spec: RunSpec, shop: Workshop, record: Record, device: torch.device) -> None:
    """Multiply-adds, parameters and shares, counted from modules without memory of their own."""
    asked, classes = spec.recipe, spec.fingerprint["classes"]
    with torch.device("meta"):
        network = make_network(spec.network, asked.network, classes, asked.data.resolution)
        units = [] if spec.rule == UNTRAINED else build_units(spec.rule, network, asked.rule)
    record.metrics = {name: {"last": value} for name, value in counts(network, units).items()}


def _trace(spec: RunSpec, shop: Workshop, record: Record, device: torch.device) -> None:
    """Bytes that autograd keeps of one step at their peak, and how many times fewer than over."""
    traced = trace(spec.case)
    saved, over = traced.saved_bytes / GIGA, _figure_of_parent(spec, shop, "saved_gigabytes")
    figures = {
        "saved_gigabytes": saved,
        "predicted_gigabytes": traced.peak_bytes / GIGA,
        "memory_saving": over / saved if over else 1.0,
        "memory_reduction": 100 * (1 - saved / over) if over else 0.0,
    }
    record.metrics = {name: {"last": value} for name, value in figures.items()}


def _measure(spec: RunSpec, shop: Workshop, record: Record, device: torch.device) -> None:
    """Time and memory of real steps."""
    over = None if spec.parent is None else spec.parent.case
    figures = measure(spec.case, over, str(device))
    if "gpu_memory" in figures:
        own, rival = figures["gpu_memory"], _figure_of_parent(spec, shop, "gpu_memory")
        figures["gpu_memory_reduction"] = 100 * (1 - own / rival) if rival else 0.0
    record.metrics = {name: {"last": value} for name, value in figures.items()}
    record.cost["images_per_s"] = round(figures["images_per_s"], 1)


def _figure_of_parent(spec: RunSpec, shop: Workshop, name: str) -> float | None:
    """A figure of the run that this one is compared with; None where there is none."""
    if spec.parent is None:
        return None
    found = shop.store.load(spec.parent.id).metrics.get(name)
    return None if found is None else found["last"]


KINDS = {
    "pretrain": _train,
    "train": _train,
    "probe": _probe,
    "pixels": _pixels,
    "detect": _detect,
    "cost": _cost,
    "trace": _trace,
    "measure": _measure,
    "gpu": _measure,
}
