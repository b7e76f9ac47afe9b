"""Parts of mmengine and mmdet replaced for our runs, registered under names in their registries.

A stopped run goes on without decoding the images of earlier steps, a loss that is not finite stops
the run before it changes a weight, and an image that cannot be read is named in one line.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mmengine.dist
import numpy as np
import torch
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets.api_wrappers import COCOeval
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmdet.evaluation.metrics import CocoMetric, coco_metric
from mmdet.registry import DATA_SAMPLERS, LOOPS, METRICS, OPTIM_WRAPPERS, TRANSFORMS
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import IterBasedTrainLoop
from torch import Tensor

from locbench.errors import RunFailed, UserError
from locbench.training.guard import Diverged

SAVE_EVERY_S = 60.0
TELL_EVERY_S = 0.5
Tell = Callable[[int, int, dict[str, float]], None]


@TRANSFORMS.register_module()
class LoadKnownImage(LoadImageFromFile):
    """mmcv's, but an image that is not there or does not decode is a UserError with its path."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """The image as BGR [H, W, 3] under "img"."""
        path = results["img_path"]
        try:
            loaded = super().transform(results)
            assert loaded["img"] is not None
        except Exception as error:  # whatever the decoder in use raises
            remedy = "copy or download it again"
            raise UserError(f"{path} cannot be read as an image: {remedy}") from error
        return loaded


@DATA_SAMPLERS.register_module()
class SkippingBatches(AspectRatioBatchSampler):
    """mmdet's batches of images of like shape, without the first `skip` of them.

    Every iteration begins anew: loading ahead, which takes batches that are then skipped, leaves
    neither the order of images nor half a batch behind.
    """

    skip = 0

    def __iter__(self) -> Iterator[list[int]]:
        self.sampler.indices = self.sampler._indices_of_rank()
        self._aspect_ratio_buckets = [[] for _ in self._aspect_ratio_buckets]
        return itertools.islice(super().__iter__(), self.skip, None)


@LOOPS.register_module()
class ResumableLoop(IterBasedTrainLoop):
    """mmengine's loop by steps, which goes on at the batch after the last one seen.

    mmengine loads and throws away everything up to there.
    """

    def run(self) -> torch.nn.Module:
        """Train up to the last step."""
        self.runner.call_hook("before_train")
        batches = self.dataloader_iterator
        if self._iter:
            self.dataloader.batch_sampler.skip = self._iter
            batches = iter(self.dataloader)
        self.runner.call_hook("before_train_epoch")  # random numbers are set: nothing is drawn yet
        while self._iter < self._max_iters:
            self.runner.model.train()
            self.run_iter(next(batches))
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model


class DetectorDiverged(Diverged):
    """The detector's loss, or a weight after its last step, was not finite.

    With a loss that is not finite no step is taken: the weights are those of the step before.
    """

    def __init__(self, what: str = "loss was") -> None:
        super().__init__(
            f"the detector's {what} not finite; lower detection.lr or raise detection.warmup"
        )


@OPTIM_WRAPPERS.register_module()
class GuardedOptimWrapper(OptimWrapper):
    """mmengine's, but a loss that is not finite ends the run (Diverged) and changes no weight."""

    def update_params(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Backward and step."""
        finite = torch.isfinite(loss.detach()).float()
        if mmengine.dist.get_world_size() > 1:
            mmengine.dist.all_reduce(finite, "min")  # or the others would wait for this one
        if not finite:
            raise DetectorDiverged
        super().update_params(loss, *args, **kwargs)


KINDS = {"bbox": "box", "segm": "mask"}
FIGURES = ("", "_50", "_75", "_small", "_medium", "_large")  # in the order of COCO's `stats`


@METRICS.register_module()
class ExactCocoMetric(CocoMetric):
    """mmdet's, in percent under our names and as pycocotools has them: mmdet rounds to 0.1."""

    default_prefix = None

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """ap_box, ap_box_50, ...; sizes that no object has are left out.

        0 where nothing at all is detected, and then no sizes.
        """
        judges: list[COCOeval] = []

        class Kept(COCOeval):
            def summarize(self) -> None:
                super().summarize()
                judges.append(self)

        plain, coco_metric.COCOeval = coco_metric.COCOeval, Kept
        try:
            super().compute_metrics(results)
        finally:
            coco_metric.COCOeval = plain
        figures = {f"ap_{kind}{name}": 0.0 for kind in KINDS.values() for name in FIGURES[:3]}
        for judge in judges:
            kind = KINDS[judge.params.iouType]
            pairs = zip(FIGURES, judge.stats, strict=False)  # recalls follow
            figures |= {f"ap_{kind}{name}": 100 * float(value) for name, value in pairs}
        return {name: value for name, value in figures.items() if value >= 0}


class Watch(Hook):
    """Reports progress, collects the losses, and saves a checkpoint every SAVE_EVERY_S seconds.

    losses: the mean of every loss over windows of `window` steps, by name.
    elapsed: seconds of training, with those before a stop. loaded: whether a checkpoint was loaded.
    """

    priority = "LOW"  # after the learning rate's step: a checkpoint is of the end of a step

    def __init__(self, path: Path, tell: Tell) -> None:
        self.path, self.tell = path, tell
        self.window = 1
        self.losses: dict[str, list[float]] = {"step": []}
        self.elapsed, self.loaded = 0.0, False
        self._sums: dict[str, Tensor] = {}
        self._began = self._told = self._saved = time.monotonic()
        self._random: dict[str, Any] | None = None  # of this process
        self._states: list[dict[str, Any]] = []  # of all of them

    def before_train(self, runner: Any) -> None:
        """Set the length of about a hundred windows, and how often processes agree on saving."""
        self.window = max(1, runner.max_iters // 100)
        self.beat = 1 if runner.world_size == 1 else 10

    def before_train_epoch(self, runner: Any) -> None:
        """Go on with the random numbers of the run that was stopped."""
        self._began = time.monotonic()
        if self._random is not None:
            set_random(self._random)
            self._random = None

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Add up the losses; report and save where that is due."""
        for name, value in outputs.items():
            if "loss" in name:
                self._sums[name] = self._sums.get(name, 0) + value.detach()
        done, now = runner.iter + 1, time.monotonic()
        if done % self.window == 0 or done == runner.max_iters:
            self._end_window(done)
        if now - self._told > TELL_EVERY_S or done == runner.max_iters:
            losses = self.losses.get("loss")
            self.tell(done, runner.max_iters, {"loss": losses[-1]} if losses else {})
            self._told = now
        if done % self.beat == 0 or done == runner.max_iters:
            due = [now - self._saved > SAVE_EVERY_S or done == runner.max_iters]
            mmengine.dist.broadcast_object_list(due)  # all of them save, or none
            if due[0]:
                self.save(runner)

    def _end_window(self, done: int) -> None:
        steps = done - (self.losses["step"][-1] if self.losses["step"] else 0)
        self.losses["step"].append(done)
        for name, value in self._sums.items():
            mmengine.dist.all_reduce(value, "mean")
            self.losses.setdefault(name, []).append(float(value) / steps)
        self._sums = {}

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Report how many of the test images are done."""
        if (now := time.monotonic()) - self._told > TELL_EVERY_S:
            self.tell(batch_idx + 1, len(runner.val_dataloader), {})
            self._told = now

    def save(self, runner: Any) -> None:
        """Write the checkpoint, whole or not at all; RunFailed where it cannot be written."""
        self.elapsed += time.monotonic() - self._began
        self._began = time.monotonic()
        draft = self.path.with_suffix(".part")
        self._states = mmengine.dist.all_gather_object(get_random())
        try:
            runner.save_checkpoint(
                str(draft.parent), draft.name, save_param_scheduler=True, by_epoch=False
            )
            if runner.rank == 0:  # the one that writes
                draft.replace(self.path)
        except (OSError, RuntimeError) as error:  # torch's writer turns one into the other
            draft.unlink(missing_ok=True)
            raise RunFailed(f"{self.path} cannot be written: {error}") from error
        self._saved = time.monotonic()

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Add what mmengine does not keep."""
        sums = {name: value.cpu() for name, value in self._sums.items()}
        checkpoint["locbench"] = {
            "losses": self.losses,
            "sums": sums,
            "elapsed": self.elapsed,
            "random": self._states,
        }

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Restore it."""
        state = checkpoint["locbench"]
        self.losses, self._sums, self.elapsed = state["losses"], state["sums"], state["elapsed"]
        states, self.loaded = state["random"], True
        # With other processes than before there is no going on with their numbers.
        alike = len(states) == mmengine.dist.get_world_size()
        self._random = states[mmengine.dist.get_rank()] if alike else None


def get_random() -> dict[str, Any]:
    """The state of the random numbers that augmentation and sampling draw, as plain data."""
    name, keys, place, has_gauss, gauss = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), place, has_gauss, gauss],
        "python": random.getstate(),
    }


def set_random(state: dict[str, Any]) -> None:
    """Take up a state of `get_random`."""
    name, keys, *rest = state["numpy"]
    torch.set_rng_state(state["torch"])
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
