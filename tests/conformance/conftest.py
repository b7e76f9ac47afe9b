"""Every conformance test runs over what is registered: a new rule or network needs no edit here.

And over ConvNeXt, a network from outside, so that no test asks for what batch norm alone has.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from forms import FORMS, form_name
from pairs import FAMILIES, HOMES, PAIRS, home

from locbench.plugins.entry import Entry
from locbench.plugins.registry import NETWORKS

OUTSIDE = Entry("convnext_outside", "convnext:convnext", "ConvNeXt: layer norm")
NETWORK_NAMES = [*FAMILIES, OUTSIDE.name]
CASES = [
    *((rule, network, {}) for rule, network in PAIRS),
    *((rule, OUTSIDE.name, {}) for rule, _ in HOMES),
    *((rule, home(rule), settings) for rule, settings in FORMS),
]
# One rule on every family.
EACH = [*HOMES, *(("bp", network) for network in NETWORK_NAMES if ("bp", network) not in HOMES)]
# A run takes seconds: most families are left to `-m full`. EfficientNet draws random numbers.
QUICK = [*HOMES, ("bp", OUTSIDE.name), ("bp", "efficientnet_b0")]
RUNS = [pair if pair in QUICK else pytest.param(*pair, marks=pytest.mark.full) for pair in EACH]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`rule`, `network` and `settings`: CASES; `rule` and `network`: EACH; `network`: families.

    Where a test has a run `finished`, RUNS.
    """
    marked = {mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")}
    names = [name for name in ("rule", "network", "settings") if name in metafunc.fixturenames]
    pairs = RUNS if "finished" in metafunc.fixturenames else EACH
    values = {1: NETWORK_NAMES, 2: pairs, 3: CASES}.get(len(names))
    if values and not any("network" in mark for mark in marked):
        metafunc.parametrize(
            names if len(names) > 1 else names[0], values, ids=form_name, scope="module"
        )


@pytest.fixture(scope="module", autouse=True)
def outside() -> Iterator[None]:
    """The network from outside is one of the registered for these tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS.entries, OUTSIDE.name, OUTSIDE)
        yield


@pytest.fixture
def float64() -> Iterator[None]:
    """Everything made in the test is float64, constants that a rule makes included."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)
