"""Networks without memory: for tests in which only shapes count."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from torch import nn

from locbench.networks import Network
from locbench.plugins.registry import NETWORKS
from locbench.recipes.schema import Network as Settings


@contextmanager
def undrawn() -> Iterator[None]:
    """Initial weights are not drawn: that takes most of the time on the meta device."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("kaiming_normal_", "kaiming_uniform_", "normal_"):
            patch.setattr(nn.init, name, lambda tensor, *_, **__: tensor)
        yield


@contextmanager
def meta_device() -> Iterator[None]:
    """What is made here has shapes and no values."""
    with undrawn(), torch.device("meta"):
        yield


@cache
def on_meta(name: str, **settings) -> Network:
    """A registered network in evaluation mode; of these settings always the same one."""
    with meta_device():
        return NETWORKS.get(name)(Settings(**settings)).eval()
