"""Every conformance test runs over what is registered: a new rule or network needs no edit here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from pairs import FAMILIES, PAIRS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`rule` and `network`: the pairs of `pairs`, or every family where there is no rule."""
    wanted = [name for name in ("rule", "network") if name in metafunc.fixturenames]
    wanted = [n for n in wanted if n not in _parametrized(metafunc)]
    if wanted == ["rule", "network"]:
        metafunc.parametrize(wanted, PAIRS, ids=[f"{r}-{n}" for r, n in PAIRS], scope="module")
    elif wanted == ["network"]:
        metafunc.parametrize("network", FAMILIES, scope="module")


def _parametrized(metafunc: pytest.Metafunc) -> set[str]:
    """What the test itself is parametrized by."""
    marks = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    return {name.strip() for m in marks for name in (m.split(",") if isinstance(m, str) else m)}


@pytest.fixture
def float64() -> Iterator[None]:
    """Everything made in the test is float64, constants that a rule makes included."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)
