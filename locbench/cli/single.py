"""Single runs: planning one that is not in a table, and printing what came of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locbench.data.fingerprint import fingerprint
from locbench.errors import UserError
from locbench.plugins.entry import FILE
from locbench.plugins.registry import KINDS, NETWORKS
from locbench.plugins.rule_files import restore_rule
from locbench.recipes.load import load_recipe, with_overrides
from locbench.recipes.recipe import Recipe
from locbench.report.grid import columns, print_grid
from locbench.runs.record import Record
from locbench.runs.spec import FIRST_SEED, RunSpec, encoder_file, spec_of, training_spec
from locbench.runs.store import Store

if TYPE_CHECKING:
    from rich.console import Console

ENCODER_SUFFIXES = (".safetensors", ".pth", ".pt")


def plan_training(
    recipe: Recipe,
    rule: str,
    network: str,
    *,
    seed: int,
    data_root: Path | None = None,
    device: str = "auto",
) -> RunSpec:
    """A training on the recipe's data."""
    data = fingerprint(recipe.data.name, recipe.data.resolution, data_root)
    return training_spec(recipe, rule, network, seed=seed, data=data, device=device)


def parent_of(run: str, store: Store) -> RunSpec:
    """The finished run in the store that trained a network, as a probe or detector reads it."""
    record = store.find(run)
    if not KINDS.get(record.kind).trains:
        raise UserError(
            f"{record.id} is a {record.kind}, not a run that trained a network; give the run it "
            "reads"
        )
    if record.status != "done":
        raise UserError(f"{record.id} is {record.status}; finish it with the same pretrain command")
    restore_rule(record.rule, store.folder(record.id))
    parent = spec_of(record, str(store.path(record.id)))
    if parent.id != record.id:
        raise UserError(
            f"{record.id} was made by another version of its rule, network or data; "
            f"pretrain it again, or give the encoder file in {store.folder(record.id)}"
        )
    return parent


def plan_run_probe(run: str, store: Store, overrides: dict[str, Any]) -> RunSpec:
    """The probe of a pretraining in the store, under its own recipe with overrides."""
    parent = parent_of(run, store)
    for key in overrides:
        if not key.startswith("probe."):
            raise UserError(f"--set {key}: a probe of a run can only change probe.* settings")
    recipe = with_overrides(parent.recipe, overrides)
    return replace(parent, kind="probe", recipe=recipe, parent=parent)


def plan_file_probe(
    path: Path,
    *,
    data_root: Path | None = None,
    overrides: dict[str, Any],
    recipe: str = "loco/imagenet",
    network: str | None = None,
    scale: str = "smoke",
    seed: int = FIRST_SEED,
) -> RunSpec:
    """The probe of an encoder file; UserError if it is not there or its network is not given."""
    if not path.is_file():
        raise UserError(f"no encoder file {path}; give a .safetensors or .pth file or a run's id")
    if network is None:
        raise UserError(f"give the network of {path}: --network NAME (`locbench list networks`)")
    NETWORKS.entry(network)
    settings = load_recipe(recipe, scale, overrides)
    data = fingerprint(settings.data.name, settings.data.resolution, data_root)
    file = encoder_file(path)
    return RunSpec("probe", settings, FILE, network, seed, data, encoder_file=file)


def print_record(record: Record, store: Store, console: Console) -> None:
    """A finished run for a person: what it measured, what it cost, where it lies."""
    from rich.text import Text

    outcome = KINDS.get(record.kind).outcome(record)
    console.print(Text(record.id, style="bold"), record.status, outcome, sep="  ")
    rows = []
    scores = {int(block): score for block, score in record.per_block.items()}
    for unit in record.units:
        loss = record.metrics[f"loss of {unit['name']}"]["last"]
        score = scores.pop(unit["stop"] - 1, None)
        accuracy = "" if score is None else f"top-1 {score['top1']:.1f} %"
        rows.append((unit["name"], unit["auxiliary"], f"loss {loss:.3f}", accuracy))
    for block, score in scores.items():
        accuracy = f"top-1 {score['top1']:.1f} % (best {score['top1_best']:.1f})"
        rows.append((f"block {block + 1}", f"stage {score['stage']}", accuracy, ""))
    for key, value in record.cost.items():
        rows.append((key, f"{value:,}" if isinstance(value, int) else f"{value:g}", "", ""))
    print_grid(columns([""] * 4, rows, words=range(4)), console)
    console.print(Text(str(store.folder(record.id)), style="dim"), soft_wrap=True)
