"""For tests of networks of which only the shapes count."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from torch import nn


@pytest.fixture(scope="module")
def nothing_drawn() -> Iterator[None]:
    """No initial weights: to draw them on the meta device takes most of the time there."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("kaiming_normal_", "kaiming_uniform_"):
            patch.setattr(nn.init, name, lambda tensor, *_, **__: tensor)
        yield
