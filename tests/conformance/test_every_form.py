"""What holds for every rule holds for every form of the contrastive ones, three blocks a stage."""

import pytest
import torch
from conformance_kit import (
    CLASSES,
    engine_step,
    fake_data,
    largest_by_block,
    make_batch,
    make_network,
    make_units,
    plain_gradients,
    plain_loss,
    small_recipe,
    tied_blocks,
)
from forms import FORMS, form_name

from locbench.evaluation.audit import audit
from locbench.evaluation.cost.case import Case
from locbench.evaluation.cost.counts import counts
from locbench.evaluation.cost.operations import parameters
from locbench.evaluation.cost.traced import trace
from locbench.recipes.schema import Network as Settings
from locbench.recipes.schema import Training
from locbench.rules import build_units
from locbench.training import loop
from locbench.training.engine import Engine
from locbench.training.loop import Trainer
from locbench.training.saved_bytes import SavedBytes
from locbench.units import Batch

DEEP = Settings(width=0.125, blocks=3, stem="small")
every_form = pytest.mark.parametrize(("rule", "settings"), FORMS, ids=form_name)


@every_form
def test_a_step_is_the_sum_of_separate_autograd_on_every_unit(rule, settings, float64):
    net, batch = make_network("resnet50", DEEP), make_batch()
    units = make_units(rule, net, settings)
    expected, plain = {}, []
    for unit in units:
        gradients = plain_gradients(net, unit, batch)
        reached = [k for k, g in enumerate(largest_by_block(net, gradients)) if g != 0]
        assert reached == sorted({*unit.updated_blocks(), *tied_blocks(net, unit)})
        plain.append(plain_loss(net, unit, batch).detach())
        for parameter, gradient in gradients.items():
            expected[parameter] = expected.get(parameter, 0) + gradient
    assert {b for unit in units for b in unit.updated_blocks()} == set(range(len(net.blocks)))
    runs = [0] * len(net.blocks)
    for index, block in enumerate(net.blocks):
        block.register_forward_hook(lambda *_, i=index: runs.__setitem__(i, runs[i] + 1))
    losses, _ = engine_step(net, units, batch)
    assert runs == [1] * len(net.blocks)
    torch.testing.assert_close(losses, torch.stack(plain), rtol=1e-10, atol=0)
    everything = [*net.parameters(), *(p for u in units for p in u.objective.parameters())]
    assert {id(p) for p in everything if p.grad is not None} == {id(p) for p in expected}
    for parameter, gradient in expected.items():
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-12)


@every_form
def test_the_audit_holds_and_tells_ties_from_what_is_updated(rule, settings):
    result = audit(rule, "resnet50", DEEP, settings, images=3, resolution=16)
    assert result.holds
    tied = [unit.tied for unit in result.units]
    if settings.get("sharing") == "penalty":
        assert tied == [(False, True, False, False), (False, False, True, False), (False,) * 4]
        assert all(unit.gradients[k + 1] > 0 for k, unit in enumerate(result.units[:2]))
    else:
        assert not any(map(any, tied))


@pytest.mark.parametrize(
    ("rule", "settings"),
    [form for form in FORMS if {"stage", "penalty", "blocks", "upper"} & set(form[1].values())],
    ids=form_name,
)
def test_what_it_costs_can_be_counted_and_traced(rule, settings):
    recipe = small_recipe(rule, settings, network=DEEP, training=Training(4, "fp32"))
    traced = trace(Case(recipe, rule, "resnet50", CLASSES))
    net = make_network("resnet50", DEEP)
    net.resolution = side = recipe.data.resolution
    units = build_units(rule, net, settings)
    images = torch.rand(8, 3, side, side)
    batch = Batch(images, torch.zeros(8, dtype=torch.long), images.clone())
    objectives = [unit.objective for unit in units]
    with SavedBytes([net, *objectives, images, batch.pixels]) as saved:
        Engine(net.blocks, units).step(batch)
    assert traced.saved_bytes == saved.peak > 0 and traced.timeline[-1][1] == 0
    found = counts(net, units)
    assert found["auxiliary_parameters"] == parameters(objectives)
    assert found["flops (all)"] > found["encoder_flops (all)"] > 0


@pytest.mark.parametrize(
    ("rule", "settings"),
    [form for form in FORMS if {"penalty", "blocks"} & set(form[1].values())],
    ids=form_name,
)
def test_training_that_was_stopped_ends_bit_identical(rule, settings, tmp_path, monkeypatch):
    """Copies and what is first in its unit come back from the checkpoint as they were."""
    monkeypatch.setattr(loop, "SAVE_EVERY_S", -1.0)

    def trainer() -> Trainer:
        recipe = small_recipe(rule, settings, network=DEEP)
        return Trainer(recipe, rule, "resnet50", 0, fake_data(), "cpu")

    def stop(done, total, figures):
        if done == 3:
            raise KeyboardInterrupt

    whole, stopped, again = trainer(), trainer(), trainer()
    whole.fit(tmp_path / "whole.pt", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(tmp_path / "stopped.pt", stop)
    again.fit(tmp_path / "stopped.pt", lambda *_: None)
    assert again.curves == whole.curves and whole.step == again.step > 3
    for part in ("network", "objectives"):
        ours, theirs = whole.state()[part], again.state()[part]
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
