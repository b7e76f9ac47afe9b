"""All rules on all networks at several sizes and settings: slow, run with `pytest -m full`."""

import pytest
import torch
from conformance_kit import TINY, fake_data, small_recipe, variations
from forms import form_name

from locbench.errors import UserError
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
every_network = pytest.mark.parametrize("network", NETWORKS.names())
every_setting = pytest.mark.parametrize(("rule", "settings"), SETTINGS, ids=form_name)


def or_skip(make, *args):
    """What is made; skips a setting that this network, or no other setting beside, allows."""
    try:
        return make(*args)
    except UserError as error:
        pytest.skip(str(error))


@every_network
@every_setting
@pytest.mark.parametrize("size", SIZES)
def test_the_audit_holds_at_every_size_and_setting(network, rule, settings, size):
    assert or_skip(audit, rule, network, SIZES[size], settings, 3, 32).holds


@every_network
@every_setting
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_goes_on_bit_for_bit(network, rule, settings, precision, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY_S", -1.0)
    training = Training(batch=8, precision=precision)
    recipe = small_recipe(rule, settings, network=TINY, training=training)

    def trainer() -> Trainer:
        return or_skip(Trainer, recipe, rule, network, 0, fake_data(), "cpu")

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
