"""Trains and evaluates Mask R-CNN on an encoder, for runs of kind "detect"."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from locbench.distributed import group as processes
from locbench.evaluation.downstream import operators

operators.install()

import mmdet  # noqa: E402 - the operators have to be there first
import mmengine  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from mmdet.models.detectors import BaseDetector  # noqa: E402
from mmdet.registry import MODELS  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.model import MMDistributedDataParallel  # noqa: E402
from mmengine.runner import Runner  # noqa: E402
from torch import Tensor  # noqa: E402

from locbench.errors import UserError  # noqa: E402
from locbench.evaluation.downstream.backbone import set_statistics  # noqa: E402
from locbench.evaluation.downstream.configs import Machine, make_config  # noqa: E402
from locbench.evaluation.downstream.parts import DetectorDiverged, Tell, Watch  # noqa: E402
from locbench.evaluation.downstream.pictures import draw  # noqa: E402
from locbench.evaluation.downstream.sets import DetectionSet, only, training_images  # noqa: E402
from locbench.networks import Network  # noqa: E402
from locbench.paths import write_atomic  # noqa: E402
from locbench.recipes.recipe import Recipe  # noqa: E402
from locbench.training.seeds import derive  # noqa: E402

WORKERS = 4  # processes that load images, where there is a GPU to feed
STATISTICS_BATCHES = 8
IMAGES = "images.txt"  # the ids of the training images that were drawn
PICTURES = 8
RUNNER_ARGUMENTS = (
    "work_dir", "train_dataloader", "val_dataloader", "train_cfg", "val_cfg", "optim_wrapper",
    "param_scheduler", "val_evaluator", "default_hooks", "custom_hooks", "env_cfg", "log_level",
    "launcher", "visualizer", "default_scope", "randomness",
)  # fmt: skip


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what mmengine, mmdet and pycocotools print, log and warn of."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def resuming() -> Any:
    """A context in which torch reads mmengine's checkpoints, by the classes that they pickle."""
    from mmengine.logging.history_buffer import HistoryBuffer

    numpy = (np._core.multiarray._reconstruct, np._core.multiarray.scalar, np.ndarray, np.dtype)
    kinds = (np.float64, np.float32, np.int64, np.bool_)
    dtypes = [type(np.dtype(kind)) for kind in kinds]
    return torch.serialization.safe_globals([HistoryBuffer, *numpy, *kinds, *dtypes, getattr])


class Detector:
    """Mask R-CNN with a locbench network as its backbone, by a recipe's [detection].

    checkpoint: the file from which `fit` goes on, where there is one. In its folder are mmengine's
    own files until `close`, and the ids of the training images that were drawn.
    untrained: a frozen backbone's batch-norm statistics are computed on training images first.
    """

    def __init__(
        self,
        recipe: Recipe,
        network: Network,
        data: DetectionSet,
        seed: int,
        device: str,
        checkpoint: Path,
        tell: Tell,
        untrained: bool = False,
    ) -> None:
        self.detection, view = recipe.detection, recipe.augmentation
        workers = 0 if device == "cpu" else WORKERS
        self.machine = Machine(device, processes.launched(), workers)
        self.watch = Watch(checkpoint, tell)
        self.folder = checkpoint.parent / "mmengine"
        if self.detection.train_images:
            data = self._drawn(data)
        self.data = data
        with quiet():
            register_all_modules(init_default_scope=True)
            mmengine.device.utils.DEVICE = device
            config = make_config(
                self.detection,
                network=network,
                data=data,
                statistics=(view.mean, view.std),
                seed=derive(seed, "detector") % 2**31,
                machine=self.machine,
                folder=self.folder,
            )
            self.runner = self._runner(config, network)
            self.runner.register_hook(self.watch)
            if untrained and self.detection.frozen == "all" and not checkpoint.is_file():
                set_statistics(network, self._images(config))

    def _drawn(self, data: DetectionSet) -> DetectionSet:
        """The data set with the training images of the split; their ids are written out."""
        ids = training_images(data.train, self.detection.train_images, self.detection.split)
        write_atomic(self.folder.parent / IMAGES, "".join(f"{id}\n" for id in ids))
        self.folder.mkdir(exist_ok=True)
        return replace(data, train=only(data.train, ids, self.folder / "train.json"))

    def _runner(self, config: Config, network: Network) -> Runner:
        detection, path = self.detection, self.watch.path
        backbone = {"type": "BlockBackbone", "network": network}
        backbone |= {"frozen": detection.frozen, "fixed_norm": detection.fixed_norm}
        torch.manual_seed(config.randomness["seed"])  # of the new layers' weights
        model = MODELS.build({**config.pop("model"), "backbone": backbone})
        if self.machine.processes > 1:
            if self.machine.norm == "SyncBN" and not self.detection.fixed_norm:
                for block in network.blocks:  # they hold the modules that are run
                    torch.nn.SyncBatchNorm.convert_sync_batchnorm(block)
            ids = [torch.cuda.current_device()] if self.machine.device.startswith("cuda") else None
            model = MMDistributedDataParallel(
                model.to(self.machine.device), device_ids=ids, broadcast_buffers=False
            )
        arguments = {key: config[key] for key in RUNNER_ARGUMENTS}
        start = {"load_from": str(path), "resume": True} if path.is_file() else {}
        # Without the configuration: mmengine would format it anew for every checkpoint, in 0.3 s.
        return Runner(model, **arguments, **start)

    def _images(self, config: Config) -> Iterator[Tensor]:
        loader = self.runner.build_dataloader({**config.train_dataloader, "num_workers": 0,
                                               "persistent_workers": False})  # fmt: skip
        for batch in itertools.islice(loader, STATISTICS_BATCHES):
            yield self.model.data_preprocessor(batch)["inputs"]

    @property
    def model(self) -> BaseDetector:
        """Mask R-CNN itself, also where it is wrapped for several processes."""
        return getattr(self.runner.model, "module", self.runner.model)

    def fit(self) -> None:
        """Train up to the last step, from the checkpoint if there is one.

        UserError for a checkpoint that cannot be read; DetectorDiverged.
        """
        path = self.watch.path
        resumes = path.is_file()
        try:
            with quiet(), one_line(), resuming():
                self.runner.train()
        except Exception as error:  # whatever unpickling or a missing key raises
            if not resumes or self.watch.loaded:
                raise
            raise UserError(
                f"{path} cannot be read as a checkpoint ({type(error).__name__}); delete it to "
                "train from the start"
            ) from error
        if lost := [k for k, value in self.weights().items() if not value.isfinite().all()]:
            raise DetectorDiverged(f"{lost[0]} was, after the last step,")

    def evaluate(self) -> dict[str, float]:
        """COCO's average precision of boxes and masks in percent: ap_box, ap_box_50, ... .

        As pycocotools has them; sizes that no object has are left out.
        """
        if self.machine.processes > 1:  # each has its share of the images, and BN its own figures
            for buffer in self.model.buffers():
                mmengine.dist.broadcast(buffer)
        with quiet(), one_line():
            return self.runner.val()

    def tags(self) -> dict[str, Any]:
        """The protocol's tags of a record."""
        norm = self.machine.norm_words if self.detection.norm == "sync" else "none"
        return {
            "frozen": self.detection.frozen,
            "norm": norm,
            "processes": self.machine.processes,
            "mmdet": mmdet.__version__,
            "operators": "mmcv" if operators.compiled() else "torchvision",
        }

    def weights(self) -> dict[str, Tensor]:
        """All weights of the detector, its backbone's among them."""
        return self.model.state_dict()

    def draw(self, folder: Path, count: int = PICTURES) -> None:
        """Pictures of the first test images: ground truth on the left, detections beside it."""
        dataset = self.runner.val_dataloader.dataset
        with quiet():
            draw(self.model, dataset, self.data.classes, folder, count)

    def close(self) -> None:
        """Delete mmengine's own files."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Cut the traceback from the words of a UserError that was raised in a loader's process."""
    try:
        yield
    except UserError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        if len(lines) <= 1:
            raise
        raise UserError(lines[-1].split("UserError: ", 1)[-1]) from None
