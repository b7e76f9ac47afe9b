"""Makes Mask R-CNN's configuration: one of mmdet's files, with what a recipe changes in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmdet
import mmdet.datasets
from mmengine.config import Config

from locbench.errors import UserError
from locbench.evaluation.downstream import backbone
from locbench.evaluation.downstream.sets import MIN_SIDE, DetectionSet
from locbench.networks import Network
from locbench.plugins.entry import suggest
from locbench.recipes.schema import Detection

# Where mmdet's wheel keeps its configuration files.
CONFIGS = Path(mmdet.__file__).parent / ".mim" / "configs"
HEADS = "strong_baselines/mask-rcnn_r50_fpn_rpn-2conv_4conv1fc_syncbn-all_lsj-100e_coco.py"
# A box of this side, in strides of the finest map, is read from that map (mmdet's 56 at stride 4).
FINEST = 14
WARMUP_FACTOR = 0.001


@dataclass(frozen=True)
class Machine:
    """The hardware of a run: device, processes, and workers that load images for each process."""

    device: str
    processes: int = 1
    workers: int = 0

    @property
    def norm(self) -> str:
        """The new layers' batch norm; SyncBN is BN in one process, and torch has none on CPUs."""
        return "SyncBN" if self.processes > 1 and self.device.startswith("cuda") else "BN"

    @property
    def norm_words(self) -> str:
        """The norm in a record's words: with the reason why it is not SyncBN."""
        if self.norm == "SyncBN":
            return self.norm
        return f"{self.norm} (no GPU)" if self.device == "cpu" else f"{self.norm} (one process)"

    def share(self, batch: int) -> int:
        """Images of one process in a step; UserError where they cannot be shared equally."""
        if batch % self.processes:
            raise UserError(
                f"detection.batch = {batch} images cannot be shared by {self.processes} "
                "processes: set a multiple"
            )
        return batch // self.processes


def read_config(name: str) -> Config:
    """A configuration file of the installed mmdet; UserError, with the nearest, for none."""
    path = CONFIGS / name
    if not path.is_file():
        names = [p.relative_to(CONFIGS).as_posix() for p in CONFIGS.rglob("mask*rcnn*.py")]
        raise UserError(f"detection.config: mmdet has no file '{name}'{suggest(name, names)}")
    return Config.fromfile(path)


def make_config(
    detection: Detection,
    *,
    network: Network,
    data: DetectionSet,
    statistics: tuple[Sequence[float], Sequence[float]],
    seed: int,
    machine: Machine,
    folder: Path,
) -> Config:
    """The configuration of one run, without the backbone, which `Detector` adds.

    statistics: mean and standard deviation of images in [0, 1] in the encoder's training.
    folder: for mmengine's own files.
    """
    config = read_config(detection.config)
    _set_model(config.model, detection, network, len(data.classes), statistics, machine)
    _set_data(config, detection, data, seed, machine)
    _set_training(config, detection, data.train.used)
    config.work_dir = str(folder)
    config.load_from, config.resume = None, False  # Cityscapes' file starts from COCO's detector
    # The same weights at first (mmengine sends the first process's), other crops and samples.
    config.randomness = {"seed": seed, "diff_rank_seed": machine.processes > 1}
    hooks = {"runtime_info": "RuntimeInfoHook", "param_scheduler": "ParamSchedulerHook"}
    config.default_hooks = {name: {"type": kind} for name, kind in hooks.items()}
    config.default_hooks |= dict.fromkeys(("logger", "checkpoint", "timer", "sampler_seed"))
    config.custom_hooks = []
    config.visualizer = {"type": "DetLocalVisualizer", "vis_backends": []}
    config.log_level = "ERROR"
    config.launcher = "none" if machine.processes == 1 else "pytorch"
    return config


def _set_model(
    model: dict[str, Any],
    detection: Detection,
    network: Network,
    classes: int,
    statistics: tuple[Sequence[float], Sequence[float]],
    machine: Machine,
) -> None:
    mean, std = ([255 * value for value in values] for values in statistics)
    model["data_preprocessor"].update(mean=mean, std=std)
    model["backbone"] = None
    norm = {"type": machine.norm, "requires_grad": True}
    norm = norm if detection.norm == "sync" else None
    steps, channels = backbone.strides(network), detection.channels
    neck, rpn, roi = model["neck"], model["rpn_head"], model["roi_head"]
    neck.update(in_channels=backbone.widths(network), out_channels=channels)
    neck.update(num_outs=len(steps) + 1, norm_cfg=norm)
    rpn.update(in_channels=channels, feat_channels=channels)
    rpn["anchor_generator"]["strides"] = [*steps, 2 * steps[-1]]
    for part in ("bbox_roi_extractor", "mask_roi_extractor"):
        finest = FINEST * steps[0]
        roi[part].update(out_channels=channels, featmap_strides=steps, finest_scale=finest)
    if detection.box_head == "4conv1fc":
        convolutions = read_config(HEADS).model.roi_head.bbox_head
        roi["bbox_head"].update(type=convolutions.type, conv_out_channels=channels, norm_cfg=norm)
    roi["bbox_head"].update(in_channels=channels, fc_out_channels=detection.fc, num_classes=classes)
    roi["mask_head"].update(in_channels=channels, conv_out_channels=channels, norm_cfg=norm)
    roi["mask_head"].update(num_classes=classes)
    train, test = model["train_cfg"], model["test_cfg"]
    train["rpn"]["sampler"]["num"] = detection.rpn_samples
    train["rcnn"]["sampler"]["num"] = detection.samples
    for proposals, before in ((train["rpn_proposal"], 2), (test["rpn"], 1)):
        proposals.update(nms_pre=before * detection.proposals, max_per_img=detection.proposals)


def _set_data(
    config: Config, detection: Detection, data: DetectionSet, seed: int, machine: Machine
) -> None:
    workers = {"num_workers": machine.workers, "persistent_workers": machine.workers > 0}
    names = {"metainfo": {"classes": data.classes}, "data_root": "", "backend_args": None}
    for loader, part in ((config.train_dataloader, data.train), (config.val_dataloader, data.test)):
        inner = loader.dataset.get("dataset", loader.dataset)  # Cityscapes' is repeated
        inner.update(names, ann_file=str(part.annotations), data_prefix={"img": str(part.images)})
        for step in inner.pipeline:
            if step.type == "LoadImageFromFile":
                step.type = "LoadKnownImage"
        if "filter_cfg" in inner:
            inner.filter_cfg.min_size = MIN_SIDE[data.form]
        loader.dataset = inner
        loader.update(workers)
    train, test = config.train_dataloader, config.val_dataloader
    train.batch_size = machine.share(detection.batch)
    train.sampler = {"type": "InfiniteSampler", "shuffle": True, "seed": seed}
    train.batch_sampler = {"type": "SkippingBatches"}
    low, high = detection.short_sides
    sides = [(detection.long_side, low), (detection.long_side, high)]
    _resize(train.dataset.pipeline, {"type": "RandomResize", "scale": sides, "keep_ratio": True})
    one = {
        "type": "Resize",
        "scale": (detection.long_side, detection.test_side),
        "keep_ratio": True,
    }
    _resize(test.dataset.pipeline, one)
    config.val_evaluator = {
        "type": "ExactCocoMetric",
        "ann_file": str(data.test.annotations),
        "metric": ["bbox", "segm"],
    }
    config.test_dataloader = config.test_evaluator = config.test_cfg = None


def _resize(pipeline: list[Any], step: dict[str, Any]) -> None:
    """Put this step in the place of the pipeline's own resizing."""
    at = next(k for k, old in enumerate(pipeline) if old.type in ("Resize", "RandomResize"))
    pipeline[at] = step


def _set_training(config: Config, detection: Detection, images: int) -> None:
    total = detection.steps(images)
    config.train_cfg = {"type": "ResumableLoop", "max_iters": total, "val_interval": total + 1}
    config.val_cfg = {"type": "ValLoop"}
    optimizer: dict[str, Any] = {"lr": detection.lr, "weight_decay": detection.weight_decay}
    if detection.optimizer == "sgd":
        optimizer |= {"type": "SGD", "momentum": detection.momentum}
    else:
        optimizer |= {"type": "AdamW"}
    config.optim_wrapper = {"type": "GuardedOptimWrapper", "optimizer": optimizer}
    falls = {"type": "MultiStepLR", "by_epoch": False, "begin": 0, "end": total, "gamma": 0.1}
    falls["milestones"] = detection.falls(images)
    rises = {"type": "LinearLR", "by_epoch": False, "begin": 0, "end": detection.warmup}
    rises["start_factor"] = WARMUP_FACTOR
    config.param_scheduler = [rises, falls] if detection.warmup else [falls]
