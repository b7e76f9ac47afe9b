"""What two processes do together in the tests.

Each writes what it found to FOLDER/RANK.pt. On "cuda" both are on one GPU, connected by gloo, for
NCCL refuses that. The trainer, its feed with the augmentation and its optimizer are the real ones;
for three steps the weights and what the feed gives are float64.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import readme_rule
import torch
from tiny import BATCH, NETWORK, SIDE, same, tiny_data, tiny_recipe, tiny_trainer

from locbench.distributed import group as processes
from locbench.distributed.norms import share_statistics
from locbench.evaluation import probe as probes
from locbench.evaluation.probe import LinearProbe
from locbench.networks import make_network
from locbench.plugins.registry import RULES
from locbench.plugins.rule_files import rule_name
from locbench.recipes.schema import Probe, Schedule, Training
from locbench.rules.contrastive import Contrastive
from locbench.training import evaluate, loop
from locbench.training.guard import Diverged
from locbench.training.loop import Trainer
from locbench.units import Batch

STEPS = 3
IMAGES = 23  # the last batch of an epoch, the third, has 7: processes have unlike shares of it
CHUNK = 10  # unlike shares of the test images too


@dataclass(frozen=True)
class Case:
    """A rule, its settings, how many batches a step is cut into, and batch norm's groups."""

    rule: str
    settings: dict[str, Any] = field(default_factory=dict)
    accumulate: int = 1
    network: str = "resnet50"
    groups: int = 1


# Every rule there is, and what of a rule or network is another path through batch norm or engine.
CASES = {
    **{rule: Case(rule) for rule in RULES.names()},
    "loco, two copies held together": Case("loco", {"sharing": "penalty", "penalty": 0.01}),
    "loco, three stages, upper gradient": Case("loco", {"sharing": "upper", "unit_stages": 3}),
    "the README's": Case("barlow", {"width": 16}),
    "loco in two batches a step": Case("loco", accumulate=2),
    "auglocal with heads that normalise": Case("auglocal", network="resnet32"),
    "bp, recomputed": Case("bp", {"checkpoint": True}),
    "dgl, two groups": Case("dgl", groups=2),
    "loco, two groups": Case("loco", groups=2),
}


def know_barlow(folder: Path) -> None:
    """The README's rule is one from now on."""
    rule_name(str(readme_rule.barlow(folder)))


def trainer_of(case: Case, device: str = "cpu") -> Trainer:
    """At its first step, in float64."""
    training = Training(BATCH, "fp32", case.accumulate, case.groups)
    recipe = tiny_recipe(rule=case.rule, lr=0.05, training=training)
    recipe = replace(recipe, **{"rule": case.settings})
    return doubled(Trainer(recipe, case.rule, case.network, 3, tiny_data(IMAGES), device))


def doubled(trainer: Trainer) -> Trainer:
    """The same, with weights and what it is fed in float64."""
    trainer.network.double()
    trainer.objectives.double()
    trainer.feed.batch = partial(_doubled, trainer.feed.batch)
    return trainer


def _doubled(batch_of: Any, step: int, number: int = 0) -> Batch:
    batch = batch_of(step, number)
    pixels = None if batch.pixels is None else batch.pixels.double()
    return replace(batch, images=batch.images.double(), pixels=pixels)


def three_steps(case: Case, device: str = "cpu") -> dict[str, Any]:
    """Weights and batch-norm statistics, losses and figures, test accuracy where it is measured."""
    trainer = trainer_of(case, device)
    for _ in range(STEPS):
        trainer.train_step()
    trainer.read()
    share_statistics(trainer.parts)
    state = {**trainer.network.state_dict(), **trainer.objectives.state_dict(prefix="of.")}
    weights = {key: value.to("cpu", copy=True) for key, value in state.items()}
    if trainer.classifies:
        trainer.network.float()
        trainer.objectives.float()
        trainer.test()
    return {"weights": weights, "curves": trainer.curves}


class Stopped(BaseException):
    """Stops a run in all processes at once."""


def _stopping(done: int, total: int, figures: dict[str, float]) -> None:
    if done == 2:
        raise Stopped


def resumes(folder: Path) -> bool:
    """Whether a run that was stopped ends with the bits of one that was not; in fp32."""
    loop.SAVE_EVERY_S = -1.0
    recipe = tiny_recipe(schedule=Schedule(1, warmup_epochs=0.5))  # four steps
    unbroken, stopped, again = (tiny_trainer("loco", recipe) for _ in range(3))
    unbroken.fit(folder / "unbroken.pt", lambda *_: None)
    try:
        stopped.fit(folder / "stopped.pt", _stopping)
    except Stopped:
        again.fit(folder / "stopped.pt", lambda *_: None)
    states = [{**trainer.state(), "elapsed": 0} for trainer in (unbroken, again)]
    return stopped.step == 2 and same(*states)


def diverges() -> tuple[str, bool]:
    """What is said, and whether the weights stay, where one process alone has a loss of nan."""
    trainer = tiny_trainer("gim")
    trainer.train_step()
    before = copy.deepcopy(trainer.network.state_dict())
    forward = Contrastive.forward

    def poisoned(self: Contrastive, features: torch.Tensor, batch: Batch) -> Any:
        loss, log = forward(self, features, batch)
        return (loss * torch.nan if self is trainer.objectives[1] else loss), log

    if processes.rank() == 1:
        Contrastive.forward = poisoned
    trainer.train_step()
    Contrastive.forward = forward
    weights = [key for key, _ in trainer.network.named_parameters()]
    kept = all(torch.equal(trainer.network.state_dict()[key], before[key]) for key in weights)
    try:
        trainer.read()
    except Diverged as error:
        return str(error), kept
    return "nothing", kept


def probed(augment: bool) -> list[torch.Tensor]:
    """The classifiers of a probe of two blocks, in fp32, and their accuracies."""
    probe = Probe(epochs=2, lr=0.5, batch=9, milestones=(1,), augment=augment, blocks="all")
    recipe = replace(tiny_recipe(), probe=probe)
    torch.manual_seed(0)
    network = make_network("resnet50", NETWORK, 4, SIDE)
    found = LinearProbe(network, tiny_data(IMAGES), recipe, 3, torch.device("cpu"))
    scores = found.fit(lambda *_: None)
    accuracies = torch.tensor([[score.last, score.top5] for score in scores])
    return [accuracies, *(value.detach() for value in found.heads.parameters())]


def share_a_gpu() -> None:
    """Let `processes.joined` put both processes on the first GPU."""
    connect = torch.distributed.init_process_group
    torch.distributed.init_process_group = lambda _, **given: connect("gloo", **given)
    os.environ["LOCAL_RANK"] = "0"


def work(folder: Path, device: str, names: Iterable[str]) -> None:
    """These cases, and on a CPU a probe, a run that is stopped and one that diverges."""
    evaluate.CHUNK = probes.CHUNK = CHUNK
    evaluate.GPU_PIXELS = 0
    if device == "cuda":
        share_a_gpu()
    own = folder / str(processes.launch_rank())
    own.mkdir()
    know_barlow(own)
    with processes.joined(device) as group, processes.together():
        found: dict[str, Any] = {name: three_steps(CASES[name], device) for name in names}
        if device == "cpu":
            found |= {f"probe {augment}": probed(augment) for augment in (True, False)}
            found |= {"resumes": resumes(folder), "diverges": diverges()}
        torch.save(found, folder / f"{processes.rank()}.pt")
        if not group.leads:
            list(group.works())  # until the first has ended
