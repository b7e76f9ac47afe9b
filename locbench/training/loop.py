"""Training loop: steps of the engine, curves and checkpoints; killed at any step it can go on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from locbench.data import ImageData
from locbench.distributed.collectives import all_reduce
from locbench.distributed.group import rank
from locbench.distributed.norms import share_statistics, synchronise
from locbench.errors import UserError
from locbench.networks import make_network
from locbench.recipes.recipe import Recipe
from locbench.recipes.schema import EpochCosine
from locbench.rules import build_units
from locbench.training.captured import stepping
from locbench.training.checkpoints import load_shared, save_checkpoint
from locbench.training.engine import Engine
from locbench.training.evaluate import evaluate
from locbench.training.feeds import make_feed
from locbench.training.guard import FiniteGuard, LossDiverged, pick_precision
from locbench.training.optimizers import make_optimizer
from locbench.training.saved_bytes import SavedBytes
from locbench.training.schedules import epoch_cosine, warmup_cosine
from locbench.training.seeds import derive
from locbench.units import Unit

WINDOWS = 200  # how often the losses are read in a run, at least
LONGEST_WINDOW = 50  # steps between two readings, and between two checkpoints, at most
SAVE_EVERY_S = 20.0
# What loading a state raises that lacks a part or has one of another shape.
MISFITS = (LookupError, TypeError, ValueError, RuntimeError, AttributeError)

Progress = Callable[[int, int, dict[str, float]], None]


def unit_name(network: nn.Module, unit: Unit) -> str:
    """How people see a unit: 'stages 1-2', or its blocks where they are not whole stages."""
    stages = [
        number
        for number, stage in enumerate(network.stages, start=1)
        if unit.start <= stage.start and stage.stop <= unit.stop
    ]
    first, last = unit.start + 1, unit.stop
    if sum(len(network.stages[number - 1]) for number in stages) != unit.stop - unit.start:
        return f"block {last}" if first == last else f"blocks {first}-{last}"
    return f"stage {stages[0]}" if len(stages) == 1 else f"stages {stages[0]}-{stages[-1]}"


class Trainer:
    """One run of one rule on one network; all its state is in `state()`.

    Every random draw comes from (seed, step): initial weights from the seed, the order of the
    images from the epoch, the augmentation from the step. So step count, weights, optimizer and
    batch-norm state are enough to go on bit for bit.
    """

    def __init__(
        self, recipe: Recipe, rule: str, network: str, seed: int, data: ImageData, device: str
    ) -> None:
        self.recipe, self.seed, self.data = recipe, seed, data
        self.device = torch.device(device)
        torch.manual_seed(derive(seed, "network"))
        classes = recipe.data.classes or len(data.classes)
        if classes < len(data.classes):
            raise UserError(
                f"data.classes = {classes} is less than the {len(data.classes)} classes of "
                f"{data.name}; set it to 0 for as many, or to more"
            )
        self.network = make_network(network, recipe.network, classes, recipe.data.resolution)
        torch.manual_seed(derive(seed, "objectives"))
        units = build_units(rule, self.network, recipe.rule)
        self.network.to(self.device, memory_format=torch.channels_last).train()
        self.objectives = nn.ModuleList(unit.objective for unit in units)
        self.objectives.to(self.device, memory_format=torch.channels_last).train()
        self.parts = [*self.network.blocks, self.network, self.objectives]
        groups, views = recipe.training.batch_norm_groups, 2 if recipe.gives == "views" else 1
        synchronise(self.parts, groups=groups, views=views)
        self.precision = pick_precision(recipe.training.precision, self.device)
        self.engine = Engine(self.network.blocks, units, self.precision)
        self.names = [unit_name(self.network, unit) for unit in self.engine.units]
        self.optimizer = make_optimizer(self.engine.parameters(), recipe.optimizer)
        self.guard = FiniteGuard(self.engine.parameters(), self.device)
        self.feed = make_feed(recipe, data=data, seed=seed, device=self.device)
        self.stepping = stepping(self.engine, self.device, self.feed.batches)
        self.total = self.feed.total
        self.window = max(1, min(LONGEST_WINDOW, self.total // WINDOWS))
        self.arithmetic = f"{self.precision or torch.float32} on {self.device.type}"
        self.step = 0
        self.elapsed = 0.0  # seconds of training, without the evaluations
        self.activation_bytes = 0
        self.by_block: dict[int, float] = {}  # test accuracy of the auxiliary classifiers, at last
        self.curves: dict[str, Any] = {"step": [], "lr": [], "units": {n: {} for n in self.names}}
        self._pending: list[Tensor] = []
        trained = {id(p) for p in self.engine.parameters()}
        # A contrastive rule leaves the network's classifier as it was: there is nothing to test.
        self.classifies = all(id(p) in trained for p in self.network.head.parameters())
        if self.classifies:
            self.curves["test"] = {"step": [], "top1": [], "top5": []}

    def learning_rate(self, done: int) -> float:
        """The rate of the step that comes after `done` steps."""
        schedule, peak, feed = self.recipe.schedule, self.recipe.optimizer.lr, self.feed
        if isinstance(schedule, EpochCosine):
            return epoch_cosine(
                min(feed.epoch(done) + 1, schedule.epochs), schedule=schedule, base=peak
            )
        warmup = feed.steps(schedule.warmup_epochs)
        return warmup_cosine(done, total=feed.total, warmup=warmup, base=peak)

    def train_step(self) -> None:
        """One step of all units; losses stay on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        figures = sum(self._forward_backward(number) for number in range(self.feed.batches))
        all_reduce(figures)  # what follows is the same in every process
        self.guard.step(self.optimizer, figures[: len(self.names)])
        self._pending.append(figures)
        self.step += 1

    def _forward_backward(self, number: int) -> Tensor:
        """Gradients of one batch of the step; its losses and figures, by its share of the step."""
        # Where there is dropout every batch has its own.
        place = (number, rank()) if number or rank() else ()
        torch.manual_seed(derive(self.seed, "step", self.step, *place))
        batch = self.feed.batch(self.step, number)
        losses, logs = self.stepping.step(batch, last=number + 1 == self.feed.batches)
        self._figures = [(n, key) for n, log in zip(self.names, logs, strict=True) for key in log]
        logged = [log[key].detach() for log in logs for key in log]
        return torch.stack([*losses.unbind(), *logged]) * batch.weight

    def read(self) -> dict[str, float]:
        """Wait for the device, add the last steps' mean losses to the curves, raise LossDiverged.

        Of steps since the last reading the curves get those before the first non-finite loss.
        """
        figures = torch.stack(self._pending).cpu()
        first = self.step - len(self._pending)
        self._pending = []
        bad = (~figures[:, : len(self.names)].isfinite()).nonzero()
        good = int(bad[0, 0]) if len(bad) else len(figures)
        if good:
            self._note(first + good, figures[:good].mean(dim=0).tolist())
        if len(bad):
            raise LossDiverged(self.names[int(bad[0, 1])], first + good + 1)
        return {name: self.curves["units"][name]["loss"][-1] for name in self.names}

    def _note(self, done: int, figures: list[float]) -> None:
        """One more point of every curve, after `done` steps."""
        self.curves["step"].append(done)
        self.curves["lr"].append(self.learning_rate(done))
        if any(key == "loss" for _, key in self._figures):
            raise UserError("an objective logs 'loss', which is in the record anyway: rename it")
        keys = [*((name, "loss") for name in self.names), *self._figures]
        for (name, key), value in zip(keys, figures, strict=True):
            short = float(f"{value:.6g}")  # of 55 units the digits fill a record
            self.curves["units"][name].setdefault(key, []).append(short)

    def state(self) -> dict[str, Any]:
        """All that is needed to go on."""
        return {
            "step": self.step,
            "arithmetic": self.arithmetic,
            "network": self.network.state_dict(),
            "objectives": self.objectives.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "curves": self.curves,
            "elapsed": self.elapsed,
            "activation_bytes": self.activation_bytes,
            "by_block": self.by_block,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self.network.load_state_dict(state["network"])
        self.objectives.load_state_dict(state["objectives"])
        self.optimizer.load_state_dict(state["optimizer"])
        for key in ("step", "curves", "elapsed", "activation_bytes", "by_block"):
            setattr(self, key, state[key])

    def resume(self, checkpoint: Path) -> None:
        """Go on from this checkpoint if there is one; UserError if it is not one of this run."""
        state = load_shared(checkpoint)
        if state is None:
            return
        arithmetic = state.get("arithmetic", self.arithmetic)
        if arithmetic != self.arithmetic:
            raise UserError(
                f"{checkpoint} was made with {arithmetic}, and this is {self.arithmetic}; "
                f"go on with that, or move it away to start this run from the beginning"
            )
        try:
            self.load_state(state)
        except MISFITS as error:
            raise UserError(
                f"{checkpoint} is no checkpoint of this run; "
                f"move it away to start this run from the beginning"
            ) from error

    def fit(self, checkpoint: Path, progress: Progress) -> None:
        """Train to the end, from the checkpoint if there is one, saving every 20 seconds or so."""
        self.resume(checkpoint)
        saved, figures = time.monotonic(), {}
        while self.step < self.total:
            began = time.monotonic()
            if self.step == 0:
                with SavedBytes([self.network, self.objectives]) as saved_bytes:
                    self.train_step()
                self.activation_bytes = saved_bytes.peak
            else:
                self.train_step()
            due = self.step % self.window == 0 or self.step == self.total
            figures = self.read() if due else figures
            tested = self.classifies and self.feed.ends_epoch(self.step)
            if tested and self.device.type == "cuda":  # or the test would wait for the steps
                torch.cuda.synchronize(self.device)
            self.elapsed += time.monotonic() - began
            if tested:
                figures = {**figures, "top1": self.test()}
            if due or tested:
                progress(self.step, self.total, figures)
            late = time.monotonic() - saved > SAVE_EVERY_S
            if due and not rank() and (late or self.step == self.total):
                save_checkpoint(checkpoint, self.state())
                saved = time.monotonic()

    def test(self) -> float:
        """Top-1 on the test images in percent, noted in the curves; at the end of every block."""
        units = self.engine.units if self.step == self.total else []
        # An objective without `logits` answers nothing by itself, and is not tested.
        answering = [unit for unit in units if hasattr(unit.objective, "logits")]
        auxiliary = {unit.stop - 1: unit.objective for unit in answering}
        share_statistics(self.parts)
        scores = evaluate(
            self.network,
            split=self.data.test,
            augmentation=self.recipe.augmentation,
            resolution=self.recipe.data.resolution,
            device=self.device,
            autocast=self.precision,
            auxiliary=auxiliary,
        )
        curve = self.curves["test"]
        for key, value in (("step", self.step), ("top1", scores.top1), ("top5", scores.top5)):
            curve[key].append(value)
        self.by_block = scores.by_block
        return scores.top1
