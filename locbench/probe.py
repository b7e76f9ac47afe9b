"""Linear probes: a linear classifier on the frozen features of the last block, or of every block.

Protocol of LoCo sec. 5.1 (profile `loco`: SGD without momentum) and of the MoCo code that it says
it follows (profile `moco`: momentum 0.9, other milestones); facts B.5. The encoder stays in eval
mode and is never changed: no gradient, no batch-norm statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from locbench.data import ImageData, Split
from locbench.data.augmentation import ProbeAugmentation, centre
from locbench.networks.base import Network
from locbench.recipes import Probe, Recipe
from locbench.training.seeds import derive, generator, stream

CHUNK = 500
CALIBRATION_IMAGES = 2000

Progress = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True)
class Accuracy:
    """Top-1 and top-5 in percent of one probed block, after the last epoch and at the best."""

    last: float
    best: float
    top5: float


@torch.no_grad()
def pooled_features(network: Network, images: Tensor, blocks: list[int]) -> list[Tensor]:
    """Global average pools of the given blocks' outputs: for each block [B, C] in fp32."""
    x = images.contiguous(memory_format=torch.channels_last)
    pooled = []
    for index, block in enumerate(network.blocks[: blocks[-1] + 1]):
        x = block(x)
        if index in blocks:
            pooled.append(x.mean(dim=(2, 3)).float())
    return pooled


def chunks(split: Split, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """The images [B,3,H,W] uint8 and targets of a split in order, a chunk at a time."""
    total = len(split) if limit is None else min(limit, len(split))
    for start in range(0, total, CHUNK):
        indices = torch.arange(start, min(start + CHUNK, total))
        yield split.batch(indices), split.targets[indices]


def calibrate(network: Network, split: Split, recipe: Recipe, device: torch.device) -> None:
    """Set the batch-norm statistics of an untrained network to those of the data (in place).

    Without it the features of initial weights are probed with mean 0 and variance 1, which no
    layer's input has, and the baseline is too easy to beat. The first images of a fixed
    permutation are used, without augmentation; the average over chunks is cumulative.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)]
    momentum = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    order = torch.randperm(len(split), generator=generator(0, "calibration"))
    network.train()
    with torch.no_grad():
        for indices in order[:CALIBRATION_IMAGES].split(CHUNK):
            view = centre(
                split.batch(indices).to(device), recipe.data.resolution, recipe.augmentation
            )
            network.encode(view.contiguous(memory_format=torch.channels_last))
    for norm, value in zip(norms, momentum, strict=True):
        norm.momentum = value
    network.eval()


class LinearProbe:
    """Trains one linear classifier per probed block, all at once, on a frozen encoder.

    With `probe.augment` every step sees new random crops and flips (the papers' protocol); without
    it, features of the un-augmented images are computed once (the short version).
    """

    def __init__(
        self, network: Network, data: ImageData, recipe: Recipe, seed: int, device: torch.device
    ) -> None:
        self.network = network.to(device, memory_format=torch.channels_last).eval()
        self.data, self.recipe, self.seed, self.device = data, recipe, seed, device
        last = len(network.blocks) - 1
        self.blocks = [last] if recipe.probe.blocks == "last" else list(range(last + 1))
        widths = [network.blocks[b].out_channels for b in self.blocks]
        torch.manual_seed(derive(seed, "probe"))
        self.heads = nn.ModuleList(nn.Linear(width, len(data.classes)) for width in widths)
        for head in self.heads:
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)
        self.heads.to(device)
        probe = recipe.probe
        self.optimizer = torch.optim.SGD(
            self.heads.parameters(),
            lr=probe.lr,
            momentum=probe.momentum,
            weight_decay=probe.weight_decay,
        )
        self.schedule = torch.optim.lr_scheduler.MultiStepLR(
            self.optimizer, list(probe.milestones), gamma=0.1
        )
        self.augment = ProbeAugmentation(recipe.augmentation, recipe.data.resolution)

    def _centre_features(self, split: Split) -> tuple[list[Tensor], Tensor]:
        """Features of every un-augmented image, per probed block, and the targets."""
        parts, targets = [], []
        for images, target in chunks(split):
            view = centre(
                images.to(self.device), self.recipe.data.resolution, self.recipe.augmentation
            )
            parts.append(pooled_features(self.network, view, self.blocks))
            targets.append(target)
        features = [torch.cat(column) for column in zip(*parts, strict=True)]
        return features, torch.cat(targets).to(self.device)

    def _batches(self, epoch: int, cached: tuple[list[Tensor], Tensor] | None):
        """The batches of one epoch: features per probed block, and targets."""
        n, size = len(self.data.train), self.recipe.probe.batch
        order = stream(derive(self.seed, "probe"), n, epoch * n, (epoch + 1) * n)
        for k, indices in enumerate(order.split(size)):
            if cached is not None:
                features, targets = cached
                yield [f[indices] for f in features], targets[indices]
                continue
            images = self.data.train.batch(indices).to(self.device)
            draw = generator(self.seed, "probe augmentation", epoch, k)
            view = self.augment.views(images, draw)
            features = pooled_features(self.network, view, self.blocks)
            yield features, self.data.train.targets[indices].to(self.device)

    def _evaluate(self, features: list[Tensor], targets: Tensor) -> list[tuple[float, float]]:
        """Top-1 and top-5 in percent on the test images, per probed block."""
        scores = []
        for head, feature in zip(self.heads, features, strict=True):
            top = head(feature).topk(min(5, head.out_features), dim=1).indices
            hits = top == targets[:, None]
            first, five = hits[:, 0].float().mean(), hits.any(dim=1).float().mean()
            scores.append((100 * float(first), 100 * float(five)))
        return scores

    def fit(self, progress: Progress) -> list[Accuracy]:
        """Train and evaluate after every epoch: one `Accuracy` per probed block."""
        probe: Probe = self.recipe.probe
        cached = None if probe.augment else self._centre_features(self.data.train)
        test, targets = self._centre_features(self.data.test)
        history = []
        for epoch in range(probe.epochs):
            for features, target in self._batches(epoch, cached):
                logits = [h(f) for h, f in zip(self.heads, features, strict=True)]
                loss = sum(F.cross_entropy(y, target) for y in logits)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                self.optimizer.step()
            self.schedule.step()
            with torch.no_grad():
                history.append(self._evaluate(test, targets))
            progress(epoch + 1, probe.epochs, {"top1": history[-1][-1][0]})
        per_block = list(zip(*history, strict=True))
        return [
            Accuracy(last=h[-1][0], best=max(score[0] for score in h), top5=h[-1][1])
            for h in per_block
        ]


def pixel_baseline(data: ImageData, resolution: int, recipe: Recipe) -> float:
    """Top-1 in percent of logistic regression (scikit-learn) on standardised pixels.

    Raises UserError by way of the data set alone; every 3 * resolution^2 pixel value is a feature.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def flat(split: Split) -> tuple[Tensor, Tensor]:
        views = [(centre(x, resolution, recipe.augmentation), t) for x, t in chunks(split)]
        return (
            torch.cat([view.flatten(1) for view, _ in views]).numpy(),
            torch.cat([target for _, target in views]).numpy(),
        )

    model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=100))
    model.fit(*flat(data.train))
    return 100 * float(model.score(*flat(data.test)))
