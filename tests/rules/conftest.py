"""For tests of networks of which only the shapes count."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from meta import undrawn


@pytest.fixture
def nothing_drawn() -> Iterator[None]:
    """No initial weights."""
    with undrawn():
        yield
