"""Batches of a run, step by step: two views of every image, or one view and its label.

Every draw comes from (seed, step), so that a run that goes on sees what it would have seen, and
is made for the whole step: each process takes its share of it, and of that a batch at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from locbench.data import ImageData, Split
from locbench.data.augmentation import Share, SimCLRAugmentation, send
from locbench.data.crop import normalise
from locbench.data.views import one_view
from locbench.distributed.collectives import cut
from locbench.distributed.group import rank, world_size
from locbench.recipes.constraints import check_images
from locbench.recipes.recipe import Recipe
from locbench.training.schedules import count_steps, count_warmup
from locbench.training.seeds import generator, stream
from locbench.units import Batch


class Feed(ABC):
    """The batches of a run in their order, and how its steps are counted in epochs.

    total: steps in all. batches: of a step, one after the other. UserError for a batch that is
    larger than the data set, or that the processes cannot share equally.
    """

    def __init__(self, recipe: Recipe, data: ImageData, seed: int, device: torch.device) -> None:
        self.images, self.size = len(data.train), recipe.training.batch
        check_images(recipe, images=self.images, name=data.name, processes=world_size())
        self.batches = recipe.training.accumulate
        self.recipe, self.seed, self.device = recipe, seed, device
        # A set in memory lives on the GPU; there a batch is a gather, with no copy and no worker.
        self.on_gpu = device.type == "cuda" and isinstance(data.train, Split)
        self.train = data.train.to(device) if self.on_gpu else data.train
        self._ahead: dict[tuple[int, int], Callable[[], Tensor]] = {}  # by step and number
        self.total = self._count()

    def batch(self, step: int, number: int = 0) -> Batch:
        """This process's share of a batch of a step, both counted from 0.

        Begins to decode the next where images are decoded as they are read.
        """
        indices, sizes, part = self._share(step, number)
        if self.on_gpu:
            indices = send(indices, self.device)  # once for all gathers, without waiting
        images = self._ahead.pop((step, number), None) or self._start(indices, step, part)
        self._ahead = {}
        steps, next_number = divmod(number + 1, self.batches)
        if self.train.cuts and step + steps < self.total:
            place = (step + steps, next_number)
            next_indices, _, next_part = self._share(*place)
            self._ahead[place] = self._start(next_indices, place[0], next_part)
        batch = self._batch(images().to(self.device, non_blocking=True), indices, step, part)
        return replace(batch, weight=len(indices) / part.whole, sizes=sizes)

    def _start(self, indices: Tensor, step: int, part: Share) -> Callable[[], Tensor]:
        return self.train.start(indices, lambda: self.augment.cut(self._draw(step), part))

    def _draw(self, step: int) -> torch.Generator:
        """The random numbers of a step's augmentation."""
        return generator(self.seed, "augmentation", step)

    def _share(self, step: int, number: int) -> tuple[Tensor, tuple[int, ...], Share]:
        """Which images, how many each process has beside them, and their part of the step."""
        whole = self._indices(step)
        cuts = cut(len(whole), self.batches)
        bounds = [cuts[number] + at for at in cut(cuts[number + 1] - cuts[number], world_size())]
        start, stop = bounds[rank() : rank() + 2]
        sizes = tuple(after - before for before, after in pairwise(bounds))
        return whole[start:stop], sizes, Share(start, stop, len(whole))

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
    def _batch(self, images: Tensor, indices: Tensor, step: int, part: Share) -> Batch:
        """A batch from its images, uint8 on the device, which are a part of the step's.

        Where `train.cuts`, they are what `augment.cut` has left of them.
        """


class ViewsFeed(Feed):
    """Two views of every image, stacked: [2N, 3, R, R]. Batches run across the ends of epochs."""

    def __init__(self, recipe: Recipe, data: ImageData, seed: int, device: torch.device) -> None:
        super().__init__(recipe, data, seed, device)
        side = recipe.data.resolution
        self.augment = SimCLRAugmentation(recipe.augmentation, side, channels_last=True)

    def epoch(self, step: int) -> int:
        return step * self.size // self.images

    def steps(self, epochs: float) -> int:
        return count_warmup(self.images, epochs=epochs, batch=self.size)

    def _count(self) -> int:
        return count_steps(self.images, epochs=self.recipe.schedule.epochs, batch=self.size)

    def _indices(self, step: int) -> Tensor:
        return stream(self.seed, self.images, step * self.size, (step + 1) * self.size)

    def _batch(self, images: Tensor, indices: Tensor, step: int, part: Share) -> Batch:
        return Batch(self.augment.views(images, self._draw(step), part, cut=self.train.cuts))


class LabelsFeed(Feed):
    """One view of every image [N, 3, R, R], its label [N] and its pixels before normalisation.

    An epoch's last batch may be smaller than the others, as in the AugLocal code.
    """

    def __init__(self, recipe: Recipe, data: ImageData, seed: int, device: torch.device) -> None:
        super().__init__(recipe, data, seed, device)
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
        epoch, number = divmod(step, self._steps_an_epoch)
        start, stop = number * self.size, min((number + 1) * self.size, self.images)
        before = epoch * self.images
        return stream(self.seed, self.images, before + start, before + stop)

    def _batch(self, images: Tensor, indices: Tensor, step: int, part: Share) -> Batch:
        pixels = self.augment.pixels(images, self._draw(step), part, cut=self.train.cuts)
        targets = self.targets[indices.to(self.device, non_blocking=True)]
        return Batch(normalise(pixels, self.recipe.augmentation), targets, pixels)


def make_feed(recipe: Recipe, *, data: ImageData, seed: int, device: torch.device) -> Feed:
    """The feed that the recipe's augmentation asks for."""
    kind = LabelsFeed if recipe.gives == "label" else ViewsFeed
    return kind(recipe, data, seed, device)
