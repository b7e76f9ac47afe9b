"""A run stopped at any point and started again ends bit for bit where one never stopped does."""

import os
import signal
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from launched import Forked
from tiny import STEPS, same, tiny_recipe, tiny_trainer
from victim import run

from locbench.paths import discard_drafts
from locbench.recipes.recipe import Recipe
from locbench.recipes.schema import Schedule
from locbench.training import checkpoints, loop
from locbench.training.checkpoints import load_checkpoint
from locbench.training.engine import Engine
from locbench.training.guard import FiniteGuard
from locbench.training.loop import Trainer


class Killed(BaseException):
    """Stops a run as Ctrl-C or a failing machine does; no one handles it."""


@pytest.fixture(autouse=True)
def save_at_every_reading(monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY_S", -1.0)


def quiet(done: int, total: int, figures: dict[str, float]) -> None:
    pass


def result(trainer: Trainer) -> dict:
    """All that a run leaves, but for how long it took."""
    return {key: value for key, value in trainer.state().items() if key != "elapsed"}


@cache
def unbroken(rule: str, recipe: Recipe | None = None) -> dict:
    """The result of a run that saves once, at its end."""
    path = Path(os.environ["LOCBENCH_RUNS"]) / "unbroken" / "checkpoint.pt"
    trainer = tiny_trainer(rule, recipe)
    trainer.fit(path, quiet)
    path.unlink()
    return result(trainer)


def resumed(path: Path, rule: str, **more) -> dict:
    torch.rand(7)  # a process has drawn other numbers before
    trainer = tiny_trainer(rule, **more)
    trainer.fit(path, quiet)
    return result(trainer)


def at(kill_at: int) -> Callable:
    def progress(done: int, total: int, figures: dict[str, float]) -> None:
        if done == kill_at:
            raise Killed

    return progress


def on_call(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, number: int, after: bool):
    """Kill at the number-th call of a function, before or after it has done its work."""
    function, calls = getattr(owner, name), iter(range(1, 1000))

    def deadly(*arguments, **named):
        fatal = next(calls) == number
        if fatal and not after:
            raise Killed
        value = function(*arguments, **named)
        if fatal:
            raise Killed
        return value

    monkeypatch.setattr(owner, name, deadly)


@pytest.mark.parametrize(
    ("rule", "owner"),
    [("simclr", Engine), ("loco", FiniteGuard)],  # with gradients, with new weights
)
def test_stopped_within_a_step(rule, owner, tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    with monkeypatch.context() as patch:
        on_call(patch, owner, "step", number=6, after=True)
        with pytest.raises(Killed):
            tiny_trainer(rule).fit(path, quiet)
    assert load_checkpoint(path)["step"] == 5
    assert same(resumed(path, rule), unbroken(rule))


def test_stopped_again_and_again(tmp_path):
    path = tmp_path / "checkpoint.pt"
    for kill_at in (2, 5, 5, 9):
        with pytest.raises(Killed):
            tiny_trainer("loco").fit(path, at(kill_at))
    assert same(resumed(path, "loco"), unbroken("loco"))


def test_stopped_after_the_last_step(tmp_path):
    path = tmp_path / "checkpoint.pt"
    tiny_trainer("loco").fit(path, quiet)
    again = tiny_trainer("loco")
    again.fit(path, lambda *_: pytest.fail("took a step after the last one"))
    assert same(result(again), unbroken("loco"))
    assert again.elapsed > 0


@pytest.mark.parametrize("place", ["within", "after"])
def test_stopped_while_a_checkpoint_is_written(place, tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    with monkeypatch.context() as patch:
        if place == "within":
            on_call(patch, os, "fsync", number=4, after=False)
        else:
            on_call(patch, checkpoints, "write_atomic", number=4, after=True)
        with pytest.raises(Killed):
            tiny_trainer("loco").fit(path, quiet)
    assert load_checkpoint(path)["step"] == (4 if place == "after" else 3)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert same(resumed(path, "loco"), unbroken("loco"))


@pytest.mark.full
def test_windows_of_several_steps_are_read_alike(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "WINDOWS", 3)
    recipe = tiny_recipe(lr=0.2)
    expected = unbroken.__wrapped__("loco", recipe)
    assert expected["curves"]["step"] == [3, 6, 9, 10]
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(Killed):
        tiny_trainer("loco", recipe).fit(path, at(9))
    assert load_checkpoint(path)["step"] == 6
    assert same(resumed(path, "loco", recipe=recipe), expected)


@pytest.mark.full
def test_in_bf16(tmp_path):
    recipe, path = tiny_recipe("bf16", schedule=Schedule(2, warmup_epochs=0.5)), tmp_path / "it.pt"
    with pytest.raises(Killed):
        tiny_trainer("loco", recipe).fit(path, at(4))
    assert same(resumed(path, "loco", recipe=recipe), unbroken.__wrapped__("loco", recipe))


def test_the_result_holds_what_it_should():
    final = unbroken("loco")
    assert final["step"] == STEPS
    assert final["curves"]["step"] == list(range(1, STEPS + 1))
    assert any(key.endswith("running_var") for key in final["network"])
    assert any(key.endswith("running_var") for key in final["objectives"])
    momenta = [entry["momentum_buffer"] for entry in final["optimizer"]["state"].values()]
    assert len(momenta) == len(tiny_trainer("loco").engine.parameters())


def test_what_is_learned_depends_on_seed_and_rule():
    def learned(rule: str, seed: int = 3) -> dict:
        trainer = tiny_trainer(rule, seed=seed)
        for _ in range(2):  # the rate of the first is 0
            trainer.train_step()
        return trainer.network.state_dict()

    first = learned("loco")
    assert same(learned("loco"), first)
    assert not same(learned("loco", seed=4), first) and not same(learned("gim"), first)


@pytest.mark.full
def test_killed_from_outside(tmp_path):
    path = tmp_path / "run" / "checkpoint.pt"
    victim = Forked(run, path, "loco", "slow", folder=tmp_path)
    while victim.process.is_alive() and "5\n" not in victim.printed[0].read_text():
        time.sleep(0.01)
    victim.process.kill()  # it goes on meanwhile: wherever it is by then
    assert victim.result()[0] == -signal.SIGKILL
    assert 4 <= load_checkpoint(path)["step"] < STEPS
    assert same(resumed(path, "loco"), unbroken("loco"))


def test_killed_from_outside_while_a_checkpoint_is_written(tmp_path):
    path = tmp_path / "run" / "checkpoint.pt"
    code, steps, _ = Forked(run, path, "gim", "write", folder=tmp_path).result()
    assert code == -signal.SIGKILL
    assert steps.split() == ["1", "2", "3", "4", "5"]
    assert load_checkpoint(path)["step"] == 4
    assert len(list(path.parent.iterdir())) == 2  # and half of the fifth
    discard_drafts(path.parent)
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.pt"]
    assert same(resumed(path, "gim"), unbroken("gim"))
