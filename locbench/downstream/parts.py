"""What mmengine and mmdet lack for our runs, registered under their names.

Going on after a stop without decoding again what was seen, a loss that is not finite stopping the
run before it moves a weight, and an image that cannot be read named in one line.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmdet.registry import DATA_SAMPLERS, LOOPS, OPTIM_WRAPPERS, TRANSFORMS
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import IterBasedTrainLoop
from torch import Tensor

from locbench.errors import RunFailed, UserError
from locbench.training.guard import Diverged

SAVE_EVERY_S = 60.0
Tell = Callable[[int, int, dict[str, float]], None]


@TRANSFORMS.register_module()
class LoadKnownImage(LoadImageFromFile):
    """mmcv's, but an image that is not there or does not decode is a UserError with its path."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """The image as BGR [H, W, 3] under "img"."""
        path = results["img_path"]
        try:
            found = super().transform(results)
            assert found["img"] is not None
        except Exception as error:  # whatever the decoder in use raises
            remedy = "copy or download it again"
            raise UserError(f"{path} cannot be read as an image: {remedy}") from error
        return found


@DATA_SAMPLERS.register_module()
class SkippingBatches(AspectRatioBatchSampler):
    """mmdet's batches of images of like shape, without the first `skip` of them."""

    skip = 0

    def __iter__(self) -> Iterator[list[int]]:
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
    """The detector's loss was not finite; its weights are those of the step before."""

    def __init__(self) -> None:
        RunFailed.__init__(
            self, "the detector's loss was not finite; lower detection.lr or raise detection.warmup"
        )


@OPTIM_WRAPPERS.register_module()
class GuardedOptimWrapper(OptimWrapper):
    """mmengine's, but a loss that is not finite ends the run (Diverged) and changes no weight."""

    def update_params(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Backward and step."""
        if not torch.isfinite(loss):
            raise DetectorDiverged
        super().update_params(loss, *args, **kwargs)


class Watch(Hook):
    """Tells of progress, keeps the losses, and saves a checkpoint now and then.

    losses: the mean of every loss over windows of `window` steps, by name.
    """

    priority = "LOW"  # after the learning rate's step: a checkpoint is of the end of a step

    def __init__(self, path: Path, tell: Tell) -> None:
        self.path, self.tell = path, tell
        self.window = 1
        self.losses: dict[str, list[float]] = {"step": []}
        self._sums: dict[str, Tensor] = {}
        self._saved = time.monotonic()
        self._random: dict[str, Any] | None = None

    def before_train(self, runner: Any) -> None:
        """About a hundred windows."""
        self.window = max(1, runner.max_iters // 100)

    def before_train_epoch(self, runner: Any) -> None:
        """Go on with the random numbers of the run that was stopped."""
        if self._random is not None:
            set_random(self._random)
            self._random = None

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Note the losses; at the end of a window tell, and save if that is due."""
        for name, value in outputs.items():
            if "loss" in name:
                self._sums[name] = self._sums.get(name, 0) + value.detach()
        done = runner.iter + 1
        if done % self.window and done < runner.max_iters:
            return
        steps = done - (self.losses["step"][-1] if self.losses["step"] else 0)
        self.losses["step"].append(done)
        for name, value in self._sums.items():
            self.losses.setdefault(name, []).append(float(value) / steps)
        self._sums = {}
        self.tell(done, runner.max_iters, {"loss": self.losses["loss"][-1]})
        if time.monotonic() - self._saved > SAVE_EVERY_S or done == runner.max_iters:
            self.save(runner)

    def save(self, runner: Any) -> None:
        """Write the checkpoint, whole or not at all."""
        draft = self.path.with_suffix(".part")
        runner.save_checkpoint(
            str(draft.parent), draft.name, save_param_scheduler=True, by_epoch=False
        )
        if draft.is_file():  # only the first process writes
            draft.replace(self.path)
        self._saved = time.monotonic()

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Add what mmengine does not keep."""
        checkpoint["locbench"] = {"losses": self.losses, "random": get_random()}

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Take it back."""
        if (own := checkpoint.get("locbench")) is not None:
            self.losses, self._random = own["losses"], own["random"]


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
