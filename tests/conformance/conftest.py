"""Every conformance test runs over what is registered: a new rule or network needs no edit here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from locbench.registry import NETWORKS, RULES


@pytest.fixture(scope="session", params=NETWORKS.names())
def network(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session", params=RULES.names())
def rule(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def float64() -> Iterator[None]:
    """Everything made in the test is float64, constants that a rule makes included."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)
