"""Linear probes: a linear classifier on the frozen features of the last block, or of every block.

The protocol is LoCo's, sec. 5.1 (profile `loco`: SGD without momentum), or that of the MoCo code
that LoCo cites (profile `moco`: momentum 0.9, other milestones). The encoder stays in eval mode and
is never changed: no gradient, no batch-norm statistics. It runs in fp32, whatever the precision of
the pretraining was, so that a probe means the same on every device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from locbench.data import ImageData, Images
from locbench.data.augmentation import Share
from locbench.data.views import one_view, plain_views, read
from locbench.distributed.collectives import all_reduce, cut, gathered
from locbench.distributed.group import rank, world_size
from locbench.errors import RunFailed, UserError
from locbench.networks.base import Network
from locbench.recipes.recipe import Recipe
from locbench.recipes.schema import Probe
from locbench.training.checkpoints import load_shared, save_checkpoint
from locbench.training.guard import Diverged
from locbench.training.loop import MISFITS, SAVE_EVERY_S
from locbench.training.seeds import derive, generator, stream

CHUNK = 500  # images through the encoder at a time
ROWS = 8192  # test images whose logits are computed at a time
CALIBRATION_IMAGES = 2000
PENALTIES = (10.0, 1.0, 0.1, 0.01)  # of the pixel baseline, for the mean cross-entropy
PIXEL_BYTES = 4 << 30  # the most that the pixel baseline reads; it needs some three times as much

Progress = Callable[[int, int, dict[str, float]], None]
Features = tuple[list[Tensor], Tensor]  # [N, C] of each probed block, and the targets [N]


@dataclass(frozen=True)
class Accuracy:
    """Top-1 and top-5 in percent of one probed block, after the last epoch and at the best."""

    last: float
    best: float
    top5: float


class ProbeDiverged(Diverged):
    """A classifier's weights are not finite: the features are too large for the learning rate."""

    def __init__(self, block: int, epoch: int) -> None:
        super().__init__(
            f"the linear probe of block {block} was not finite after epoch {epoch}; lower probe.lr"
        )


def learning_rate(probe: Probe, epoch: int) -> float:
    """The rate of an epoch, counted from 0: a tenth from every milestone on."""
    return probe.lr * 0.1 ** sum(milestone <= epoch for milestone in probe.milestones)


@torch.no_grad()
def pooled_features(network: Network, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
    """Global average pools of the given blocks' outputs (ascending): for each [B, C] in fp32."""
    x = images.contiguous(memory_format=torch.channels_last)
    pooled = []
    for index, block in enumerate(network.blocks[: blocks[-1] + 1]):
        x = block(x)
        if index in blocks:
            pooled.append(x.mean(dim=(2, 3)).float())
    return pooled


def _test_settings(recipe: Recipe) -> dict[str, Any]:
    return {"resolution": recipe.data.resolution, "augmentation": recipe.augmentation}


def calibrate(network: Network, split: Images, recipe: Recipe, device: torch.device) -> None:
    """Set the batch-norm statistics of an untrained network to those of the data (in place).

    Initial statistics, mean 0 and variance 1, are those of no layer's input: with them an untrained
    network is a rival too easy to beat. The first images of a fixed permutation are used, without
    augmentation; the average over chunks is cumulative.
    """
    order = torch.randperm(len(split), generator=generator(0, "calibration"))[:CALIBRATION_IMAGES]
    # Chunks of one size: they weigh the same, and none is too small to have a variance.
    parts = order.chunk(-(-len(order) // CHUNK))
    layout = torch.channels_last
    views = plain_views(split, parts, **_test_settings(recipe), device=device)
    batches = (view.contiguous(memory_format=layout) for view, _ in views)
    update_bn(batches, nn.Sequential(*network.blocks))
    network.eval()


@dataclass(frozen=True)
class FrozenFeatures:
    """Features of un-augmented images of both splits.

    `train` is None where training draws new crops. Two probes of one encoder at the same blocks
    may share them: set `LinearProbe.features` before `fit`.
    """

    train: Features | None
    test: Features


class LinearProbe:
    """Trains one linear classifier per probed block, all at once, on a frozen encoder.

    With `probe.augment` every step sees new random crops and flips (the papers' protocol); without
    it, features of the un-augmented images are computed once (the short version) and held on the
    device: 4 bytes x training images x channels of all probed blocks. Features of the test images
    are held in both. Initial weights and the order of the images depend on the seed alone, so a
    block's accuracy is the same whether it is probed alone or with all others.

    Where several processes work together each encodes its share of the images; the classifiers are
    small, and every process trains all of them on all features.
    """

    def __init__(
        self, network: Network, data: ImageData, recipe: Recipe, seed: int, device: torch.device
    ) -> None:
        self.network = network.to(device, memory_format=torch.channels_last).eval()
        self.data, self.recipe, self.seed, self.device = data, recipe, seed, device
        last = len(network.blocks) - 1
        self.blocks = [last] if recipe.probe.blocks == "last" else list(range(last + 1))
        self.widths = [network.blocks[b].out_channels for b in self.blocks]
        self.heads = nn.ModuleList(nn.Linear(width, len(data.classes)) for width in self.widths)
        for block, head in zip(self.blocks, self.heads, strict=True):
            nn.init.normal_(head.weight, std=0.01, generator=generator(seed, "probe", block))
            nn.init.zeros_(head.bias)
        self.heads.to(device)
        probe = recipe.probe
        settings = {"momentum": probe.momentum, "weight_decay": probe.weight_decay}
        self.optimizer = torch.optim.SGD(self.heads.parameters(), lr=probe.lr, **settings)
        self.augment = one_view(recipe.augmentation, recipe.data.resolution)
        self.history: list[list[tuple[float, float]]] = []  # [epoch][block] -> top-1, top-5
        self.features: FrozenFeatures | None = None

    def _centre_features(self, split: Images) -> Features:
        """Features of every un-augmented image, per probed block, and the targets."""
        parts = torch.arange(len(split)).split(CHUNK)[rank() :: world_size()]
        features = [torch.zeros(len(split), w, device=self.device) for w in self.widths]
        views = plain_views(split, parts, **_test_settings(self.recipe), device=self.device)
        for part, (view, _) in zip(parts, views, strict=True):
            pooled = pooled_features(self.network, view, self.blocks)
            rows = slice(int(part[0]), int(part[-1]) + 1)
            for whole, piece in zip(features, pooled, strict=True):
                whole[rows] = piece
        for whole in features:  # each process has filled its rows, and left the others at 0
            all_reduce(whole)
        return features, split.targets.to(self.device)

    def _batches(self, epoch: int, cached: Features | None) -> Iterator[Features]:
        """The batches of one epoch: features per probed block, and targets."""
        n, batch = len(self.data.train), self.recipe.probe.batch
        order = stream(derive(self.seed, "probe"), n, epoch * n, (epoch + 1) * n)
        if cached is not None:
            features, targets = cached
            for indices in order.to(self.device).split(batch):
                yield [f[indices] for f in features], targets[indices]
            return
        batches = order.split(batch)
        shares = [self._share(len(indices)) for indices in batches]
        local = [i[share.start : share.stop] for i, (share, _) in zip(batches, shares, strict=True)]
        train, draw = self.data.train, partial(generator, self.seed, "probe augmentation", epoch)
        images_of = read(train, local, lambda k: self.augment.cut(draw(k), shares[k][0]))
        for k, (images, _) in enumerate(images_of):
            share, sizes = shares[k]
            view = self.augment.views(images.to(self.device), draw(k), share, cut=train.cuts)
            features = pooled_features(self.network, view, self.blocks)
            targets = train.targets[batches[k]].to(self.device)
            yield [gathered(f, sizes) if sizes else f for f in features], targets

    def _share(self, images: int) -> tuple[Share, tuple[int, ...]]:
        """This process's share of a batch, and the number of images of every process.

        A batch of fewer images than processes is encoded by all of them; then there are no sizes.
        """
        if images < world_size():
            return Share(0, images, images), ()
        bounds = cut(images, world_size())
        sizes = tuple(after - before for before, after in pairwise(bounds))
        return Share(*bounds[rank() : rank() + 2], images), sizes

    def _train_epoch(self, epoch: int, cached: Features | None) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe.probe, epoch)
        for features, targets in self._batches(epoch, cached):
            logits = [h(f) for h, f in zip(self.heads, features, strict=True)]
            loss = sum(F.cross_entropy(y, targets) for y in logits)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
        finite = torch.stack([head.weight.isfinite().all() for head in self.heads]).tolist()
        if not all(finite):
            raise ProbeDiverged(self.blocks[finite.index(False)], epoch + 1)

    @torch.no_grad()
    def _evaluate(self, features: list[Tensor], targets: Tensor) -> list[tuple[float, float]]:
        """Top-1 and top-5 in percent on the test images, per probed block."""
        hits = torch.zeros(len(self.heads), 2, device=self.device, dtype=torch.float64)
        for head, feature, count in zip(self.heads, features, hits, strict=True):
            for x, y in zip(feature.split(ROWS), targets.split(ROWS), strict=True):
                top = head(x).topk(min(5, head.out_features), dim=1).indices == y[:, None]
                count += torch.stack([top[:, 0].sum(), top.sum()])
        return [tuple(row) for row in (100 * hits / len(targets)).tolist()]

    def resume(self, checkpoint: Path) -> None:
        """Go on from this checkpoint if there is one; UserError if it is not one of this probe."""
        state = load_shared(checkpoint)
        if state is None:
            return
        try:
            self.heads.load_state_dict(state["heads"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.history = state["history"]
        except MISFITS as error:
            raise UserError(
                f"{checkpoint} is no checkpoint of this probe; "
                f"move it away to start this probe from the beginning"
            ) from error

    def fit(self, progress: Progress, checkpoint: Path | None = None) -> list[Accuracy]:
        """Train and evaluate after every epoch: one `Accuracy` per probed block.

        Goes on from the checkpoint if there is one, and saves one after an epoch when the last is
        some seconds old: a long probe survives being stopped. Raises ProbeDiverged.
        """
        if checkpoint is not None:
            self.resume(checkpoint)
        epochs = self.recipe.probe.epochs
        if self.features is None:
            draws_crops = self.recipe.probe.augment
            train = None if draws_crops else self._centre_features(self.data.train)
            self.features = FrozenFeatures(train, self._centre_features(self.data.test))
        cached, (test, targets) = self.features.train, self.features.test
        saved = time.monotonic()
        for epoch in range(len(self.history), epochs):
            self._train_epoch(epoch, cached)
            self.history.append(self._evaluate(test, targets))
            progress(epoch + 1, epochs, {"top1": self.history[-1][-1][0]})
            late = time.monotonic() - saved > SAVE_EVERY_S
            if checkpoint is not None and not rank() and late:
                optimizer = self.optimizer.state_dict()
                state = {"heads": self.heads.state_dict(), "optimizer": optimizer}
                save_checkpoint(checkpoint, state | {"history": self.history})
                saved = time.monotonic()
        return [
            Accuracy(last=h[-1][0], best=max(score[0] for score in h), top5=h[-1][1])
            for h in zip(*self.history, strict=True)
        ]


def _flat(split: Images, resolution: int, recipe: Recipe) -> Tensor:
    """The un-augmented images of a split as rows: fp32 [N, 3 * resolution^2]."""
    parts = torch.arange(len(split)).split(CHUNK)
    rows = torch.empty(len(split), 3 * resolution**2)
    settings = {"resolution": resolution, "augmentation": recipe.augmentation}
    views = plain_views(split, parts, **settings, device=torch.device("cpu"))
    for target, (view, _) in zip(rows.split(CHUNK), views, strict=True):
        target.copy_(view.flatten(1))
    return rows


def pixel_baseline(
    data: ImageData, resolution: int, recipe: Recipe, progress: Progress | None = None
) -> float:
    """Top-1 in percent of logistic regression (scikit-learn) on standardised pixels.

    Every one of the 3 * resolution^2 pixel values is a feature. The L2 penalty is chosen on a fifth
    of the training images, held out, then the classifier is fitted to all of them; the test images
    are only scored. A penalty p weighs p/2 |w|^2 against the mean cross-entropy, so that it means
    the same for data sets of any size (on Shapes 0.1 is best, and 0.01 overfits).
    `progress` is told of every fit. Raises RunFailed for data that no such fit can hold (ImageNet
    at 224 pixels: 770 GB).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    size = 4 * 3 * resolution**2 * (len(data.train) + len(data.test))
    if size > PIXEL_BYTES:
        raise RunFailed(
            f"logistic regression on the pixels of {data.name} at {resolution} pixels would read "
            f"{size / 2**30:.0f} GiB, more than {PIXEL_BYTES >> 30}; set a smaller data.resolution"
        )
    scaler = StandardScaler(copy=False)
    x = scaler.fit_transform(_flat(data.train, resolution, recipe).numpy())
    y = data.train.targets.numpy()
    order = torch.randperm(len(y), generator=generator(0, "pixels")).numpy()
    held, kept = order[: len(y) // 5], order[len(y) // 5 :]
    x_kept, x_held = x[kept], x[held]
    model = LogisticRegression(max_iter=1000, warm_start=True)
    scores, tell = {}, progress or (lambda done, total, figures: None)
    for penalty in PENALTIES:
        model.set_params(C=1 / (penalty * len(kept))).fit(x_kept, y[kept])
        scores[penalty] = model.score(x_held, y[held])
        tell(len(scores), len(PENALTIES) + 1, {"top1": 100 * scores[penalty]})
    best = max(scores, key=scores.get)  # of equals, the strongest
    model = LogisticRegression(C=1 / (best * len(y)), max_iter=1000).fit(x, y)
    test = scaler.transform(_flat(data.test, resolution, recipe).numpy())
    return 100 * float(model.score(test, data.test.targets.numpy()))
