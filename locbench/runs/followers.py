"""Runs that several processes share: what each needs for its part, and what the followers do."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

from locbench.distributed import group as processes
from locbench.errors import RunFailed
from locbench.evaluation.probe import LinearProbe
from locbench.plugins.rule_errors import blamed
from locbench.recipes.identity import identity_hash
from locbench.runs.context import Workshop
from locbench.runs.encoders import encoder_for, probed_encoder
from locbench.runs.spec import RunSpec
from locbench.runs.store import CHECKPOINT
from locbench.training.guard import Diverged, out_of_memory, pick_device
from locbench.training.loop import Trainer


def trainer_for(spec: RunSpec, shop: Workshop, device: torch.device) -> Trainer:
    """The trainer of this run, at its first step."""
    data = shop.data(spec)
    return Trainer(spec.recipe, spec.rule, spec.network, spec.seed, data, device)


def probe_for(spec: RunSpec, shop: Workshop, device: torch.device) -> LinearProbe:
    """The probe of this run, with the features of its encoder where the last probe left them."""
    network = probed_encoder(spec, shop, device)
    probe = LinearProbe(network, shop.data(spec), spec.recipe, spec.seed, device)
    probe.features = shop.features.get(encoder_key(spec))
    return probe


def encoder_key(spec: RunSpec) -> str:
    """What decides a probe's frozen features: all of its identity but how they are trained on."""
    probe = spec.identity["probe"]
    asked = {key: probe[key] for key in ("blocks", "augment")}
    return identity_hash({**spec.identity, "probe": asked})


def full(spec: RunSpec, device: str) -> RunFailed:
    """The error of a run that does not fit the memory."""
    keys = "detection.batch" if spec.kind == "detect" else "training.batch"
    keys += " or detection.samples" if spec.kind == "detect" else " or data.resolution"
    return RunFailed(
        f"{spec.id}: {device} is out of memory; set a smaller {keys} with --set, or "
        "another --device"
    )


def follow(group: processes.Group, shop: Workshop) -> None:
    """What the other processes of torchrun do: their part of the runs that are shared."""
    device = pick_device(shop.device)
    for spec in group.works():
        # What diverges does so in all of them, and the leader says so.
        with processes.together(), contextlib.suppress(Diverged):
            checkpoint = shop.store.folder(spec.id) / CHECKPOINT
            try:
                with blamed(spec.rule, out_of_memory, RunFailed):
                    FOLLOWED[spec.kind](spec, shop, device, checkpoint)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                raise full(spec, shop.device) from error


def _follow_training(spec: RunSpec, shop: Workshop, device: torch.device, checkpoint: Path) -> None:
    trainer_for(spec, shop, device).fit(checkpoint, lambda *_: None)


def _follow_probe(spec: RunSpec, shop: Workshop, device: torch.device, checkpoint: Path) -> None:
    probe = probe_for(spec, shop, device)
    probe.fit(lambda *_: None, checkpoint)
    shop.features = {encoder_key(spec): probe.features}  # as the leader, for the next


def _follow_detector(spec: RunSpec, shop: Workshop, device: torch.device, checkpoint: Path) -> None:
    from locbench.evaluation.downstream.detect import Detector  # imports mmdet

    network = encoder_for(spec, shop, device)
    common = (spec.recipe, network, shop.data(spec), spec.seed, str(device))
    detector = Detector(*common, checkpoint, lambda *_: None, spec.untrained)
    detector.fit()
    detector.evaluate()


# What the other processes do of a run; the leader does the rest alone.
FOLLOWED = {
    "pretrain": _follow_training,
    "train": _follow_training,
    "probe": _follow_probe,
    "detect": _follow_detector,
}
