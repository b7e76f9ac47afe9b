"""Two processes that train together do what one does with the whole batch."""

from pathlib import Path

import pytest
import torch
from launched import two_processes
from shared_steps import CASES, CHUNK, know_barlow, probed, three_steps, work
from tiny import same, tiny_data, tiny_recipe

from locbench.distributed import group as processes
from locbench.errors import UserError
from locbench.evaluation import probe as probes
from locbench.plugins.registry import RULES
from locbench.recipes.schema import Training
from locbench.training import evaluate
from locbench.training.feeds import make_feed

CPU = torch.device("cpu")
FEW = ["loco", "predsim", "loco in two batches a step", "auglocal with heads that normalise"]
FEW += ["dgl, two groups", "loco, two groups"]


@pytest.fixture(autouse=True)
def with_barlow(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(RULES, "entries", dict(RULES.entries))
    know_barlow(tmp_path)


def in_two_processes(folder: Path, names: list[str]) -> list[dict]:
    """What each of two processes has found."""
    for process in two_processes(work, folder, "cpu", names, folder=folder):
        code, _, said = process.result()
        assert code == 0, said
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Of the cases that every run of the tests has."""
    return in_two_processes(tmp_path_factory.mktemp("shared"), FEW)


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Of all others."""
    names = [name for name in CASES if name not in FEW]
    return in_two_processes(tmp_path_factory.mktemp("rest"), names)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FEW else pytest.mark.full) for n in CASES]
)
def test_three_steps_are_those_of_one_process_with_the_whole_batch(name, request, monkeypatch):
    shared = request.getfixturevalue("shared" if name in FEW else "rest")
    monkeypatch.setattr(evaluate, "CHUNK", CHUNK)
    alone, together = three_steps(CASES[name]), shared[0][name]
    assert alone["weights"].keys() == together["weights"].keys()
    assert any(key.endswith("running_var") for key in alone["weights"])
    for key, value in alone["weights"].items():
        torch.testing.assert_close(together["weights"][key], value, rtol=0, atol=1e-9, msg=key)
    assert alone["curves"].get("test") == together["curves"].get("test")
    for unit, curves in alone["curves"]["units"].items():
        for key, values in curves.items():
            assert together["curves"]["units"][unit][key] == pytest.approx(values, rel=2e-6)
    assert same(shared[1][name], together)


@pytest.mark.parametrize("augment", [True, False])
def test_a_probe_learns_what_it_learns_alone(augment, shared, monkeypatch):
    monkeypatch.setattr(probes, "CHUNK", CHUNK)
    alone = probed(augment)
    for found in shared:
        for one, other in zip(found[f"probe {augment}"], alone, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_run_that_was_stopped_ends_with_the_same_bits(shared):
    assert [found["resumes"] for found in shared] == [True, True]


def test_a_loss_that_is_not_finite_in_one_process_stops_all_of_them(shared):
    assert shared[0]["diverges"] == shared[1]["diverges"]
    said, kept = shared[0]["diverges"]
    assert said.startswith("the loss of stage 2 was not finite at step 2") and kept


def test_cutting_a_step_changes_what_is_learned(shared):
    whole, cut = (shared[0][name]["weights"] for name in ("loco", "loco in two batches a step"))
    assert any((whole[key] - cut[key]).abs().max() > 1e-3 for key in whole)


def feed_of(monkeypatch: pytest.MonkeyPatch, count: int, rank: int, rule: str, **training: int):
    for name, value in (("world_size", count), ("rank", rank)):
        monkeypatch.setattr(f"locbench.training.feeds.{name}", lambda value=value: value)
    recipe = tiny_recipe(rule=rule, training=Training(**training))
    return make_feed(recipe, data=tiny_data(23), seed=3, device=CPU)


@pytest.mark.parametrize("rule", ["simclr", "dgl"])
def test_the_shares_of_three_processes_make_up_the_batch(rule, monkeypatch):
    whole = feed_of(monkeypatch, 1, 0, rule, batch=9).batch(1)
    parts = [feed_of(monkeypatch, 3, rank, rule, batch=9).batch(1) for rank in range(3)]
    if rule == "dgl":
        assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
        assert torch.equal(torch.cat([part.targets for part in parts]), whole.targets)
    else:  # the first views of all, then the second
        views = [torch.cat([part.images.chunk(2)[k] for part in parts]) for k in range(2)]
        assert torch.equal(torch.cat(views), whole.images)
    assert sum(part.weight for part in parts) == pytest.approx(1) and whole.weight == 1.0


def test_a_last_batch_is_shared_as_equally_as_can_be(monkeypatch):
    parts = [
        feed_of(monkeypatch, 2, rank, "dgl", batch=8, accumulate=2).batch(2, number)
        for number in range(2)
        for rank in range(2)
    ]
    assert [len(part.targets) for part in parts] == [1, 2, 2, 2]
    assert [part.sizes for part in parts] == [(1, 2), (1, 2), (2, 2), (2, 2)]
    assert [part.weight for part in parts] == [1 / 7, 2 / 7, 2 / 7, 2 / 7]


@pytest.mark.parametrize(
    ("count", "rule", "training", "said"),
    [
        (3, "gim", {"batch": 8}, r"batch = 8 images cannot be shared equally by 3 processes: set"),
        (2, "gim", {"batch": 6, "accumulate": 2}, r"in training\.accumulate = 2 .* multiple of 4"),
        (
            *(3, "gim", {"batch": 12, "batch_norm_groups": 2}),
            r"batch_norm_groups = 2 cannot be shared equally by 3 processes: set a multiple",
        ),
        (5, "dgl", {"batch": 10}, r"leaves 3 of the 23 training images of shapes .* 5 are the"),
        (
            *(1, "dgl", {"batch": 8, "batch_norm_groups": 4}),
            r"leaves 7 of the 23 training images of shapes .* 8 are the",
        ),
    ],
)
def test_what_cannot_be_shared_is_said_in_a_line(count, rule, training, said, monkeypatch):
    with pytest.raises(UserError, match=said):
        feed_of(monkeypatch, count, 0, rule, **training)


def test_processes_that_do_not_find_each_other_say_so(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(UserError, match=r"^2 processes cannot be connected \(.*; start them with"),
        processes.joined("cpu"),
    ):
        pytest.fail("connected")
    assert not torch.distributed.is_initialized() and processes.world_size() == 1


def test_one_process_is_a_world_of_its_own():
    assert (processes.world_size(), processes.rank()) == (1, 0)
    with processes.together():  # and nobody to be together with
        assert processes.world_size() == 1
