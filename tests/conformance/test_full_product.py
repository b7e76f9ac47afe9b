"""All rules on all networks at several sizes and settings: slow, run with `pytest -m full`."""

import pytest
import torch
from conformance_kit import (
    TINY,
    engine_step,
    fake_data,
    make_batch,
    make_network,
    make_units,
    plain_gradients,
    small_recipe,
    variations,
)
from forms import form_name

from locbench.evaluation.audit import audit
from locbench.plugins.registry import NETWORKS, RULES
from locbench.recipes.schema import Network as Settings
from locbench.recipes.schema import Training
from locbench.training import loop
from locbench.training.loop import Trainer

pytestmark = pytest.mark.full

SIZES = {
    "one block": Settings(width=0.125, blocks=1, stem="small"),
    "two blocks": Settings(width=0.25, blocks=2, stem="small"),
    "as deep as published": Settings(width=0.125, blocks=0, stem="imagenet"),
}
SETTINGS = [(rule, settings) for rule in RULES.names() for settings in variations(rule)]


@pytest.fixture(params=SIZES)
def size(request) -> Settings:
    return SIZES[request.param]


def skip_where_it_cannot_be(network: str, settings: dict, size: Settings) -> None:
    """Of forms that need more blocks a stage, or more stages, than this network has."""
    with torch.device("meta"):
        stages = make_network(network, size).stages
    fewest = min(map(len, stages[1:]))
    if settings.get("shared_blocks", 0) >= fewest or settings.get("unit_stages", 0) > len(stages):
        pytest.skip(f"{len(stages)} stages, with {fewest} blocks in the shortest")


@pytest.mark.parametrize("network", NETWORKS.names())
@pytest.mark.parametrize(("rule", "settings"), SETTINGS, ids=form_name)
def test_the_audit_holds_at_every_size_and_setting(network, rule, settings, size):
    skip_where_it_cannot_be(network, settings, size)
    assert audit(rule, network, size, settings, images=3, resolution=32).holds


@pytest.mark.parametrize("network", NETWORKS.names())
@pytest.mark.parametrize(("rule", "settings"), SETTINGS, ids=form_name)
def test_gradients_are_the_sum_of_the_units_apart(network, rule, settings, size, float64):
    skip_where_it_cannot_be(network, settings, size)
    net = make_network(network, size, side=32)
    units = make_units(rule, net, settings)
    batch = make_batch(side=32)
    expected = {}
    for unit in units:
        for parameter, gradient in plain_gradients(net, unit, batch).items():
            expected[parameter] = expected.get(parameter, 0) + gradient
    engine_step(net, units, batch)
    for parameter, gradient in expected.items():
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("network", NETWORKS.names())
@pytest.mark.parametrize(("rule", "settings"), SETTINGS, ids=form_name)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_goes_on_bit_for_bit(network, rule, settings, precision, tmp_path, monkeypatch):
    skip_where_it_cannot_be(network, settings, TINY)
    monkeypatch.setattr(loop, "SAVE_EVERY_S", -1.0)

    def trainer() -> Trainer:
        recipe = small_recipe(rule, settings, training=Training(batch=8, precision=precision))
        return Trainer(recipe, rule, network, 0, fake_data(), "cpu")

    def stop(done, total, figures):
        if done == 3:
            raise KeyboardInterrupt

    whole, stopped, again = trainer(), trainer(), trainer()
    whole.fit(tmp_path / "whole.pt", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(tmp_path / "stopped.pt", stop)
    again.fit(tmp_path / "stopped.pt", lambda *_: None)
    assert again.curves == whole.curves
    for part in ("network", "objectives"):
        ours, theirs = whole.state()[part], again.state()[part]
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
