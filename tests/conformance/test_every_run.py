"""Runs from spec to record: every registered rule on every registered network, on tiny data."""

import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conformance_kit import FINGERPRINT, SIDE, fake_data, small_recipe, variations

from locbench.data import Split
from locbench.evaluation.probe import LinearProbe
from locbench.plugins.registry import RULES
from locbench.recipes.schema import Training
from locbench.runs import executor as execution
from locbench.runs.context import Context
from locbench.runs.encoders import encoder_for
from locbench.runs.executor import execute
from locbench.runs.kinds.probe import probe_spec
from locbench.runs.record import Record
from locbench.runs.spec import RunSpec
from locbench.runs.store import ENCODER, Store
from locbench.training import loop
from locbench.training.checkpoints import load_encoder
from locbench.training.loop import Trainer

CPU = torch.device("cpu")


def no_progress(done, total, figures):
    pass


def stop_at(step: int):
    def progress(done, total, figures):
        if done == step:
            raise KeyboardInterrupt

    return progress


class Spied(Split):
    """A split that remembers whether it was read."""

    was_read = False

    def batch(self, indices):
        object.__setattr__(self, "was_read", True)
        return super().batch(indices)


@dataclass
class Finished:
    """A pretraining and its probe, carried out once for all tests of a rule on a network."""

    spec: RunSpec
    root: Path
    records: list[Record]
    test_images_read: list[bool]

    @property
    def encoder(self) -> bytes:
        return (self.root / self.records[0].id / ENCODER).read_bytes()


def make_spec(rule: str, network: str, seed: int = 0, recipe=None, data=FINGERPRINT) -> RunSpec:
    return probe_spec(recipe or small_recipe(rule), rule, network, seed=seed, data=data)


def context_of(root: Path, data, progress=no_progress) -> Context:
    loaded = {} if data is None else {("shapes", SIDE, 0, 0): data}
    return Context(Store(root), device="cpu", progress=lambda spec: progress, _data=loaded)


@pytest.fixture(scope="module")
def finished(rule, network, tmp_path_factory) -> Finished:
    spec, root = make_spec(rule, network), tmp_path_factory.mktemp("runs")
    data = fake_data()
    data = dataclasses.replace(data, test=Spied(data.test.images, data.test.targets))
    context = context_of(root, data)
    records, reads = [], []
    for run in spec.with_ancestors():
        records.append(execute(run, context))
        reads.append(data.test.was_read)
    return Finished(spec, root, records, reads)


def test_records_are_read_back_and_answer_for_their_runs(finished, rule, network, monkeypatch):
    spec, store, encoder = make_spec(rule, network), Store(finished.root), finished.encoder
    trained = "train" if RULES.entry(rule).learns == "label" else "pretrain"
    assert [r.kind for r in finished.records] == [trained, "probe"]
    assert [r.id for r in finished.records] == [run.id for run in spec.with_ancestors()]
    assert finished.records[1].parent == finished.records[0].id
    for record in finished.records:
        assert record.status == "done"
        text = store.path(record.id).read_text()
        again = Record.from_json(text, store.path(record.id))
        assert again.to_json() == text == record.to_json()
        assert json.loads(text)["identity"] == record.identity

    monkeypatch.setattr(execution, "_run", lambda *_: pytest.fail("carried out again"))
    answers = [execute(run, context_of(finished.root, None)) for run in spec.with_ancestors()]
    assert [r.to_json() for r in answers] == [r.to_json() for r in finished.records]
    assert finished.encoder == encoder


def test_what_a_record_says_of_its_units_and_blocks(finished, rule, network):
    pretraining, probing = finished.records
    trainer = Trainer(small_recipe(rule), rule, network, 0, fake_data(), "cpu")
    spans = [(unit["start"], unit["stop"], unit["updates"]) for unit in pretraining.units]
    assert spans == [(u.start, u.stop, u.updated_blocks()) for u in trainer.engine.units]
    for unit in pretraining.units:
        curve = pretraining.curves["units"][unit["name"]]["loss"]
        assert len(curve) == len(pretraining.curves["step"]) == trainer.total
        assert pretraining.metrics[f"loss of {unit['name']}"]["last"] == curve[-1]
    blocks = len(trainer.network.blocks)
    assert list(probing.per_block) == [str(k) for k in range(blocks)]
    assert probing.per_block[str(blocks - 1)]["top1"] == probing.metrics["top1"]["last"]
    assert probing.tags["decoder"] == pretraining.units[-1]["auxiliary"]


def test_pretraining_changed_the_encoder_and_the_probe_did_not(finished, rule, network):
    """What a probe reads is the file, and a probe of it again gives the accuracy again."""
    network_read = encoder_for(finished.spec, context_of(finished.root, fake_data()), CPU)
    state = network_read.encoder_state_dict()
    written = load_encoder(finished.root / finished.records[0].id / ENCODER)
    whole = network_read.state_dict() if RULES.entry(rule).learns == "label" else state
    assert set(written) == set(whole), "with the classifier where there is a trained one"
    assert all(torch.equal(written[key], value) for key, value in state.items())
    initial = Trainer(small_recipe(rule), rule, network, 0, fake_data(), "cpu").network
    changed = [k for k, v in initial.encoder_state_dict().items() if not torch.equal(v, state[k])]
    assert changed == list(state)
    scores = LinearProbe(network_read, fake_data(), small_recipe(rule), 0, CPU).fit(no_progress)
    assert scores[-1].last == finished.records[1].metrics["top1"]["last"]


def test_a_run_that_was_stopped_and_started_again_leaves_the_same(
    finished, rule, network, tmp_path, monkeypatch
):
    monkeypatch.setattr(loop, "SAVE_EVERY_S", -1.0)
    spec = finished.spec.parent
    with pytest.raises(KeyboardInterrupt):
        execute(spec, context_of(tmp_path, fake_data(), stop_at(5)))
    assert Store(tmp_path).load(spec.id).status == "running"
    again = execute(spec, context_of(tmp_path, fake_data()))
    assert again.metrics == finished.records[0].metrics
    assert again.curves == finished.records[0].curves
    assert (tmp_path / spec.id / ENCODER).read_bytes() == finished.encoder


def test_pretraining_never_reads_the_test_images(finished, rule):
    assert finished.test_images_read == [RULES.entry(rule).learns == "label", True]


def test_a_rule_that_learns_labels_says_how_well(finished, rule):
    record = finished.records[0]
    curve = record.curves.get("test", {"top1": []})["top1"]
    if RULES.entry(rule).learns == "views":
        assert "top1" not in record.metrics and not curve and not record.per_block
        return
    assert record.metrics["top1"] == {"last": curve[-1], "best": max(curve)} and len(curve) == 2
    assert list(record.per_block) == [str(unit["stop"] - 1) for unit in record.units]
    last = record.per_block[str(record.units[-1]["stop"] - 1)]
    assert last["top1"] == curve[-1], "the last unit's classifier is the network's"


def test_ids_depend_on_what_decides_the_result_and_on_nothing_else(rule, network):
    def ident(**changes) -> tuple[str, ...]:
        runs = make_spec(rule, network, **changes).with_ancestors()
        return tuple(run.hash for run in runs)

    mine = ident()
    assert mine == ident(recipe=small_recipe(rule))
    others = [
        ident(seed=1),
        ident(data={**FINGERPRINT, "checksum": "1" * 64}),
        *(ident(recipe=small_recipe(rule, settings)) for settings in variations(rule)[1:]),
        ident(recipe=small_recipe(rule, training=Training(batch=6, precision="fp32"))),
    ]
    for other in others:
        assert all(theirs != ours for theirs, ours in zip(other, mine, strict=True))


def test_ids_are_the_same_in_another_process():
    code = """
from locbench.recipes.load import load_recipe
from locbench.plugins.registry import NETWORKS, RULES
from locbench.runs.kinds.probe import probe_spec
names = {"views": "loco/imagenet", "label": "auglocal/cifar10"}
recipes = {learns: load_recipe(name, "smoke") for learns, name in names.items()}
fingerprint = {"name": "fake", "version": 1, "checksum": "0"}
for rule in RULES:
    for network in NETWORKS.names():
        recipe = recipes[rule.learns]
        print(probe_spec(recipe, rule.name, network, seed=0, data=fingerprint).id)
"""
    outputs = set()
    for seed in ("1", "2"):
        command = [sys.executable, "-c", code]
        run = subprocess.run(
            command, env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        )
        outputs.add(run.stdout)
    assert len(outputs) == 1
    assert len(set(outputs.pop().split())) > 1
