"""Batch norm in groups: what as many processes with batch norm of their own would compute."""

import copy

import pytest
import torch
from tiny import tiny_data, tiny_recipe
from torch import nn

from locbench.distributed import norms
from locbench.distributed.norms import synchronise
from locbench.recipes.schema import Training
from locbench.training.loop import Trainer


def small_network(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    layer = nn.Linear(4, 5) if kind is nn.BatchNorm1d else nn.Conv2d(4, 5, 3)
    return nn.Sequential(layer, kind(5), nn.ReLU()).double()


def flat_gradients(module: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in module.parameters()])


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d])
@pytest.mark.parametrize("images", [8, 11])  # equal parts, and as like as can be
def test_groups_are_plain_batch_norms_of_their_images(kind, views, images):
    plain = small_network(kind)
    grouped = copy.deepcopy(plain)
    synchronise([grouped], groups=4, views=views)
    shape = (views * images, 4) if kind is nn.BatchNorm1d else (views * images, 4, 6, 6)
    x = torch.randn(shape, dtype=torch.float64)
    x = x if x.ndim == 2 else x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(views, images, dtype=torch.float64)
    y = grouped(x)
    assert x.ndim == 2 or y.is_contiguous(memory_format=torch.channels_last)
    (y.flatten(1).square().mean(1) * weight.flatten()).sum().backward()
    for k, part in enumerate(
        torch.arange(images).tensor_split([images * k // 4 for k in (1, 2, 3)])
    ):
        local = copy.deepcopy(plain) if k else plain
        mine = x.unflatten(0, (views, -1))[:, part].flatten(0, 1)
        right = local(mine)
        torch.testing.assert_close(y.unflatten(0, (views, -1))[:, part].flatten(0, 1), right)
        (right.flatten(1).square().mean(1) * weight[:, part].flatten()).sum().backward()
        if k:
            for one, other in zip(plain.parameters(), local.parameters(), strict=True):
                one.grad += other.grad
    torch.testing.assert_close(flat_gradients(grouped), flat_gradients(plain))
    for one, other in zip(grouped.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(one, other)  # the first group's
    torch.testing.assert_close(grouped.eval()(x), plain.eval()(x))


@pytest.mark.parametrize(
    ("rule", "settings"), [("bp", {"checkpoint": True}), ("auglocal", {"depth": 2}), ("gim", {})]
)
def test_a_step_in_groups_is_that_of_the_parts_one_after_the_other(rule, settings):
    """But for what sees the other images: for a rule with labels `accumulate` is the same."""

    def after(steps: int, **cut: int) -> tuple[torch.Tensor, torch.Tensor]:
        recipe = tiny_recipe(rule=rule, lr=0.05, training=Training(8, "fp32", **cut))
        object.__setattr__(recipe, "rule", settings)
        trainer = Trainer(recipe, rule, "resnet32", 3, tiny_data(24), "cpu")
        for _ in range(steps):
            trainer.train_step()
        weights = torch.cat([p.detach().flatten() for p in trainer.engine.parameters()])
        norm = next(
            m for m in trainer.network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
        )
        return weights, norm.num_batches_tracked

    whole, grouped = after(3), after(3, batch_norm_groups=2)
    assert (whole[0] - grouped[0]).abs().max() > 1e-4 and grouped[1] == 3
    if rule != "gim":
        parts = after(3, accumulate=2)
        torch.testing.assert_close(grouped[0], parts[0], rtol=1e-4, atol=1e-5)


def test_one_group_leaves_modules_as_they_are():
    network = small_network(nn.BatchNorm2d)
    synchronise([network], groups=1)
    assert type(network[1]) is nn.BatchNorm2d


def test_processes_have_as_many_groups_each(monkeypatch):
    monkeypatch.setattr(norms, "world_size", lambda: 3)
    network = small_network(nn.BatchNorm2d)
    synchronise([network], groups=6)
    assert network[1].groups == 2
