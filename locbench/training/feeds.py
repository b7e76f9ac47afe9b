"""What a run is fed, step by step: two views of every image, or one view and its label.

Every draw comes from (seed, step), so that a run that goes on sees what it would have seen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from locbench.data import ImageData, Split
from locbench.data.augmentation import SimCLRAugmentation, send
from locbench.data.crop import normalise
from locbench.data.views import one_view
from locbench.errors import UserError
from locbench.recipes import Recipe
from locbench.training.engine import Batch
from locbench.training.optimizers import count_steps, count_warmup
from locbench.training.seeds import generator, stream


class Feed(ABC):
    """The batches of a run in their order, and how its steps are counted in epochs.

    total: steps in all. UserError for a batch that is larger than the data set.
    """

    def __init__(self, recipe: Recipe, data: ImageData, seed: int, device: torch.device) -> None:
        self.images, self.size = len(data.train), recipe.training.batch
        if self.size > self.images:
            raise UserError(
                f"training.batch = {self.size} is more than the {self.images} training images of "
                f"{data.name}; set a smaller one with --set training.batch=N"
            )
        self.recipe, self.seed, self.device, self.streaming = recipe, seed, device, data.streaming
        # A set in memory lives on the GPU; there a batch is a gather, with no copy and no worker.
        self.on_gpu = device.type == "cuda" and isinstance(data.train, Split)
        self.train = data.train.to(device) if self.on_gpu else data.train
        self.total = self._count()

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0; begins to decode the next where images stream."""
        indices = self._indices(step)
        if self.on_gpu:
            indices = send(indices, self.device)  # once for all gathers, without waiting
        images = self.train.batch(indices).to(self.device, non_blocking=True)
        if self.streaming and step + 1 < self.total:
            self.train.prefetch(self._indices(step + 1))
        return self._batch(images, indices, step)

    def ends_epoch(self, done: int) -> bool:
        """Whether an epoch is complete after `done` steps."""
        return done == self.total or self.epoch(done) > self.epoch(done - 1)

    def images_in(self, done: int) -> int:
        """Images (not views) seen in `done` steps."""
        return done * self.size

    @abstractmethod
    def epoch(self, step: int) -> int:
        """The epoch of a step, both counted from 0."""

    @abstractmethod
    def steps(self, epochs: float) -> int:
        """How many steps this many epochs of warm-up are."""

    @abstractmethod
    def _count(self) -> int:
        """Steps in all."""

    @abstractmethod
    def _indices(self, step: int) -> Tensor:
        """Which images a step sees: int64, on the CPU."""

    @abstractmethod
    def _batch(self, images: Tensor, indices: Tensor, step: int) -> Batch:
        """The batch of a step from its images, uint8 on the device."""


class ViewsFeed(Feed):
    """Two views of every image, stacked: [2N, 3, R, R]. Batches run across the ends of epochs."""

    def __init__(self, recipe: Recipe, data: ImageData, seed: int, device: torch.device) -> None:
        super().__init__(recipe, data, seed, device)
        side = recipe.data.resolution
        self.augment = SimCLRAugmentation(recipe.augmentation, side, channels_last=True)

    def epoch(self, step: int) -> int:
        return step * self.size // self.images

    def steps(self, epochs: float) -> int:
        return count_warmup(self.images, epochs, self.size)

    def _count(self) -> int:
        return count_steps(self.images, self.recipe.schedule.epochs, self.size)

    def _indices(self, step: int) -> Tensor:
        return stream(self.seed, self.images, step * self.size, (step + 1) * self.size)

    def _batch(self, images: Tensor, indices: Tensor, step: int) -> Batch:
        return Batch(self.augment.views(images, generator(self.seed, "augmentation", step)))


class LabelsFeed(Feed):
    """One view of every image [N, 3, R, R], its label [N] and its pixels before normalisation.

    An epoch's last batch may be smaller than the others, as in the AugLocal code.
    """

    def __init__(self, recipe: Recipe, data: ImageData, seed: int, device: torch.device) -> None:
        super().__init__(recipe, data, seed, device)
        if self.images % self.size == 1:
            raise UserError(
                f"training.batch = {self.size} leaves one of the {self.images} training images of "
                f"{data.name} for the last batch, and batch norm needs two; set another one"
            )
        self.targets = data.train.targets.to(device)
        self.augment = one_view(recipe.augmentation, recipe.data.resolution)

    @property
    def _steps_an_epoch(self) -> int:
        return -(-self.images // self.size)

    def images_in(self, done: int) -> int:
        epochs, rest = divmod(done, self._steps_an_epoch)
        return epochs * self.images + rest * self.size

    def epoch(self, step: int) -> int:
        return step // self._steps_an_epoch

    def steps(self, epochs: float) -> int:
        return int(epochs * self._steps_an_epoch)

    def _count(self) -> int:
        return self.recipe.schedule.epochs * self._steps_an_epoch

    def _indices(self, step: int) -> Tensor:
        epoch, place = divmod(step, self._steps_an_epoch)
        start, stop = place * self.size, min((place + 1) * self.size, self.images)
        return stream(
            self.seed, self.images, epoch * self.images + start, epoch * self.images + stop
        )

    def _batch(self, images: Tensor, indices: Tensor, step: int) -> Batch:
        pixels = self.augment.pixels(images, generator(self.seed, "augmentation", step))
        targets = self.targets[indices.to(self.device, non_blocking=True)]
        return Batch(normalise(pixels, self.recipe.augmentation), targets, pixels)


def make_feed(recipe: Recipe, data: ImageData, seed: int, device: torch.device) -> Feed:
    """The feed that the recipe's augmentation asks for."""
    kind = LabelsFeed if recipe.gives == "label" else ViewsFeed
    return kind(recipe, data, seed, device)
