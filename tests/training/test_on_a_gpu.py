"""What is different on a GPU: steps as CUDA graphs, and collectives of its tensors."""

import copy
from dataclasses import fields, replace

import pytest
import torch
import torch.distributed as dist
from forms import FORMS
from launched import two_processes
from pairs import PAIRS, home
from shared_steps import CASES, STEPS, Case, doubled, know_barlow, three_steps, work
from shared_steps import trainer_of as started
from tiny import NETWORK, SIDE, same, tiny_data, tiny_recipe, weights
from torch import Tensor

from locbench.distributed import collectives as distributed
from locbench.plugins.registry import RULES
from locbench.recipes.schema import Network
from locbench.training import captured, loop
from locbench.training.captured import PLAIN, CapturedEngine
from locbench.training.guard import Diverged
from locbench.training.loop import Trainer
from locbench.units import Batch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

IMAGES = 30  # in steps of eight: with labels the last of an epoch has six


@pytest.fixture(autouse=True)
def same_algorithms(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


DEEP = Network(width=0.125, blocks=3, stem="small")  # blocks enough for every form


@pytest.fixture(autouse=True)
def with_barlow(monkeypatch, tmp_path):
    monkeypatch.setattr(RULES, "entries", dict(RULES.entries))
    know_barlow(tmp_path)


def trainer_of(
    rule: str,
    network: str = "resnet50",
    settings: dict | None = None,
    size: Network = NETWORK,
    precision: str = "fp32",
) -> Trainer:
    recipe = tiny_recipe(precision, rule=rule, lr=0.05, network=size)
    recipe = replace(recipe, rule=settings or {})
    return Trainer(recipe, rule, network, 3, tiny_data(IMAGES), "cuda")


def trained(trainer: Trainer, steps: int) -> Trainer:
    for _ in range(steps):
        trainer.train_step()
        trainer.read()
    return trainer


def compare_with_plain(*asked) -> Trainer:
    """In float64: backward passes add up in any order, and training makes much of little."""
    plain, own = (doubled(trainer_of(*asked)) for _ in range(2))
    plain.stepping = plain.engine
    trained(plain, plain.total)
    trained(own, own.total)
    for one, other in zip(weights(plain), weights(own), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
    for one, other in zip(plain.network.buffers(), own.network.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
    for unit, curves in plain.curves["units"].items():
        for key, values in curves.items():
            assert own.curves["units"][unit][key] == pytest.approx(values, rel=2e-6)
    return own


def shapes_captured(trainer: Trainer) -> int:
    assert isinstance(trainer.stepping, CapturedEngine)
    return trainer.stepping._possible and len(trainer.stepping._captures)


@pytest.mark.parametrize(("rule", "network"), PAIRS)
def test_captured_steps_are_those_taken_one_by_one(rule, network):
    own = compare_with_plain(rule, network)
    # Of labels' last batches, which are smaller, too few came along.
    assert shapes_captured(own) == 1


@pytest.mark.parametrize(("rule", "settings"), FORMS)
def test_every_form_is_captured(rule, settings):
    assert shapes_captured(compare_with_plain(rule, home(rule), settings, DEEP)) == 1


@pytest.mark.parametrize(("rule", "network"), [("loco", "resnet50"), ("auglocal", "resnet32")])
def test_autocast_is_captured(rule, network):
    plain, own = (trainer_of(rule, network, precision="bf16") for _ in range(2))
    plain.stepping = plain.engine
    for one in (plain, own):
        trained(one, PLAIN + 3)
    assert shapes_captured(own) == 1
    for unit, curves in plain.curves["units"].items():
        assert own.curves["units"][unit]["loss"] == pytest.approx(curves["loss"], rel=0.02)


def test_each_shape_of_a_batch_is_captured(monkeypatch):
    monkeypatch.setattr(captured, "PLAIN", 1)
    assert shapes_captured(compare_with_plain("dgl", "resnet32")) == 2


def test_recomputed_blocks_are_captured():
    own = compare_with_plain("bp", "resnet32", {"checkpoint": True})
    assert shapes_captured(own) == 1


def test_a_step_that_waits_for_the_device_is_taken_plainly_and_said_so(monkeypatch, caplog):
    own = trainer_of("gim")
    kind = type(own.objectives[0])
    forward = kind.forward

    def waiting(self, features, batch):
        loss, log = forward(self, features, batch)
        assert loss.item() > 0
        return loss, log

    monkeypatch.setattr(kind, "forward", waiting)
    before = weights(trained(own, own.total))
    assert caplog.text.count("steps are taken one by one, and not as a CUDA graph") == 1
    assert shapes_captured(own) == 0
    monkeypatch.setattr(kind, "forward", forward)
    after = weights(trained(trainer_of("gim"), own.total))
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("rule", "unit"), [("gim", "stage 2"), ("dgl", "block 2")])  # LARS, SGD
def test_a_loss_that_is_not_finite_stops_captured_steps(rule, unit):
    own = trained(trainer_of(rule), PLAIN + 3)
    with torch.no_grad():
        next(own.objectives[1].parameters()).fill_(torch.nan)
    before = weights(own)
    own.train_step()
    assert shapes_captured(own) == 1
    assert same([w.nan_to_num() for w in weights(own)], [w.nan_to_num() for w in before])
    with pytest.raises(Diverged, match=f"loss of {unit} was not finite at step {PLAIN + 4};"):
        own.read()


@pytest.mark.parametrize("rule", ["loco", "auglocal"])
def test_a_run_that_was_stopped_goes_on(rule, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY_S", -1.0)
    network = "resnet50" if rule == "loco" else "resnet32"
    unbroken, stopped, again = (trainer_of(rule, network) for _ in range(3))

    def stop(done: int, total: int, figures: dict[str, float]) -> None:
        if done == PLAIN + 2:
            raise KeyboardInterrupt

    unbroken.fit(tmp_path / "unbroken.pt", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(tmp_path / "stopped.pt", stop)
    again.fit(tmp_path / "stopped.pt", lambda *_: None)
    for one, other in zip(weights(unbroken), weights(again), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def on_the_gpu(batch: Batch) -> Batch:
    tensors = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return Batch(**{k: v.cuda() if isinstance(v, Tensor) else v for k, v in tensors.items()})


@pytest.mark.parametrize("name", CASES)
def test_steps_are_those_of_a_cpu(name):
    there, here = (started(CASES[name], device) for device in ("cpu", "cuda"))
    own = there.feed.batch  # what augmentation rounds is another test's
    here.feed.batch = lambda step, number=0: on_the_gpu(own(step, number))
    for _ in range(PLAIN + 2):
        there.train_step()
        here.train_step()
    for one, other in zip(weights(there), weights(here), strict=True):
        torch.testing.assert_close(other.cpu(), one, rtol=0, atol=1e-9)


@pytest.mark.parametrize("rule", ["loco", "dgl"])
def test_a_gpu_is_fed_the_same_views(rule):
    there, here = (started(Case(rule), device).feed.batch(1) for device in ("cpu", "cuda"))
    assert there.images.shape == here.images.shape
    # Of pixels whose standard deviation over ImageNet is about a quarter: half a grey level.
    torch.testing.assert_close(here.images.cpu(), there.images, rtol=0, atol=0.5 / 255 / 0.22)
    if rule == "dgl":
        assert torch.equal(here.targets.cpu(), there.targets)


def test_two_processes_on_a_gpu_do_what_one_does(tmp_path):
    for process in two_processes(work, tmp_path, "cuda", list(CASES), folder=tmp_path):
        code, _, said = process.result()
        assert code == 0, said
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name, case in CASES.items():
        alone = three_steps(case, "cuda")
        for key, value in alone["weights"].items():
            for of in found:
                # Not to 1e-9: on GPUs SyncBatchNorm is torch's, which rounds some of it to float32.
                torch.testing.assert_close(of[name]["weights"][key], value, rtol=0, atol=1e-5)


@pytest.fixture
def nccl(monkeypatch, tmp_path):
    """NCCL with this process alone, which sums as if there were others."""
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("name", ["loco", "auglocal"])
def test_nccl_takes_what_the_engine_sums(name, nccl, monkeypatch):
    summed = []
    reduce = dist.all_reduce
    monkeypatch.setattr(
        dist, "all_reduce", lambda tensor, **how: summed.append(tensor) or reduce(tensor, **how)
    )
    alone, own = (trainer_of(name, "resnet50") for _ in range(2))
    own.stepping = own.engine
    monkeypatch.setattr(distributed, "world_size", lambda: 1)
    expected = copy.deepcopy(weights(trained(alone, STEPS)))
    assert not summed
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr("locbench.rules.contrastive.gathered", lambda x, sizes=(): x)
    for one, other in zip(weights(trained(own, STEPS)), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert sum(tensor.numel() for tensor in summed) >= STEPS * sum(w.numel() for w in expected)


def test_nccl_gathers_rows(nccl, monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 1)
    x = torch.randn(3, SIDE, device="cuda")
    assert torch.equal(distributed.all_gather(x), x[None])
