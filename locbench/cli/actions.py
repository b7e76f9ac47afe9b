"""What the commands do, between the parsed arguments and what is printed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locbench.cli.progress import say, watching
from locbench.data.fingerprint import fingerprint
from locbench.distributed import group as processes
from locbench.errors import UserError
from locbench.locks import alone, holder
from locbench.plugins.entry import FILE
from locbench.plugins.registry import KINDS, NETWORKS
from locbench.plugins.rule_files import known_from, rule_names
from locbench.recipes.load import load_recipe, with_overrides
from locbench.recipes.recipe import Recipe
from locbench.recipes.schema import Network
from locbench.recipes.validation import parse_overrides
from locbench.report.formats import render as render
from locbench.report.grid import Column, columns, print_grid
from locbench.runs.context import Context
from locbench.runs.estimate import Estimate, duration, estimate, known_records, size, total
from locbench.runs.executor import carry_out, failure, to_run
from locbench.runs.plan import Plan
from locbench.runs.record import Record
from locbench.runs.spec import FIRST_SEED, RunSpec, encoder_file, spec_of, training_spec
from locbench.runs.store import Store

if TYPE_CHECKING:
    from rich.console import Console

ENCODER_SUFFIXES = (".safetensors", ".pth", ".pt")


def set_aside(specs: list[RunSpec], store: Store) -> None:
    """Move these runs to RUNS/set-aside: they are run afresh, and nothing measured is lost.

    What was measured on a pretraining goes with it: its encoder will be another one. UserError,
    and nothing is moved, where another process is at one of them.
    """
    if processes.launch_rank():
        return  # the first process does so
    moved = {spec.id for spec in specs}
    followers = {record.id for record in store.readable() if record.parent in moved}
    there = [id for id in sorted(moved | followers) if store.folder(id).exists()]
    for id in there:
        if (who := holder(store.lock(id))) is not None:
            raise UserError(f"{who} is at {id}: stop it or wait for it, then use --fresh")
    for id in there:
        with alone(store.lock(id), f"at {id}"):  # from now on, if it was quicker
            store.set_aside(id)


def announce(plan: Plan, store: Store) -> None:
    """Say on stderr what will be run and roughly how long it takes; nothing if all is there.

    And which of the further rules are in no cell that is run.
    """
    _say_idle(plan)
    waiting = to_run(plan.runs(), store)
    if waiting:
        known = known_records(store)
        guesses = [estimate(spec, known, build=True) for spec in waiting]
        say(_summary(plan, store, guesses))


def _say_idle(plan: Plan) -> None:
    own = [p for p in plan.cells if p.cell.row.added and p.specs and not p.later]
    run = {planned.cell.fill["rule"] for planned in own}
    for rule in rule_names(plan.options.rules):
        if rule not in run:
            say(
                f"{plan.table.name}: nothing is run of rule {rule} with these rows and columns; "
                "all that there is: --rows all --columns all"
            )


def show_plan(plan: Plan, store: Store, fresh: bool, as_json: bool, out: Console) -> None:
    """Every run still to be done, with time and disk; with `fresh` as if there were no records."""
    waiting = plan.runs() if fresh else to_run(plan.runs(), store)
    known = known_records(store)
    # Networks have to be built, which takes torch, where no run of their shape can be at hand.
    guesses = [estimate(spec, known, build=plan.options.scale != "smoke") for spec in waiting]
    _say_idle(plan)
    for name in plan.assumed:
        say(f"{name} is not here: planned as it was published")
    if as_json:
        planned = zip(waiting, guesses, strict=True)
        out.print_json(json.dumps([{"run": spec.id, **asdict(guess)} for spec, guess in planned]))
        return
    out.print(_summary(plan, None if fresh else store, guesses), markup=False)
    for spec, guess in zip(waiting, guesses, strict=True):
        took = ("~" if guess.rough else "") + duration(guess.seconds)
        words, disk = spec.of.describe(spec), size(guess.kept_bytes)
        out.print(f"  {words:<48}{took:>10} {disk:>10}", markup=False)


def _summary(plan: Plan, store: Store | None, guesses: list[Estimate]) -> str:
    """What is there, what is to be done and what that takes; without a store nothing is there."""
    specs = plan.runs()
    records = [store.load(spec.id) for spec in specs] if store is not None else []
    found = [record.status for record in records if record is not None]
    rest = [f"{found.count(s)} {s}" for s in ("diverged", "failed", "running") if s in found]
    counts = ", ".join([f"{found.count('done')} done", *rest, f"{len(guesses)} to go"])
    where = f"{plan.table.name} at scale {plan.options.scale}"
    return f"{where}: {len(specs)} runs, {counts}: {total(guesses)}"


def run(specs: Sequence[RunSpec], store: Store, data_root: Path | None, device: str) -> list[str]:
    """Carry out what is missing, with progress; returns one line for each run that failed.

    Under torchrun only the first process returns.
    """
    with watching(len(to_run(specs, store))) as watch:
        return carry_out(specs, Context(store, device, data_root), watch)


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
    known_from(record.rule, store.folder(record.id))
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
    data = parent.data
    return RunSpec("probe", recipe, parent.rule, parent.network, parent.seed, data, parent)


def plan_file_probe(
    path: Path,
    data_root: Path | None,
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


def run_with_parents(spec: RunSpec, store: Store, data_root: Path | None, device: str) -> Record:
    """Carry out a run after those it needs, with progress; its record. RunFailed if one failed."""
    failures = run(spec.with_ancestors(), store, data_root, device)
    if failures:
        raise failure(failures)
    return store.load(spec.id)


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


def audit_report(
    rule: str,
    network: str,
    width: float,
    blocks: int,
    sets: list[str],
    as_json: bool,
    console: Console,
) -> bool:
    """Print which stages each unit's loss reaches; whether all is as declared."""
    from locbench.evaluation.audit import audit

    settings = {k.removeprefix("rule."): v for k, v in parse_overrides(sets).items()}
    result = audit(rule, network, Network(width=width, blocks=blocks), settings)
    if as_json:
        text = json.dumps({**asdict(result), "holds": result.holds})
        # JSON has no word for what is not finite.
        console.print_json(data=json.loads(text, parse_constant=lambda word: None))
        return result.holds
    stages = range(1, 1 + len(result.units[0].gradients))
    heads = ["unit", "auxiliary network", *(f"stage {k}" for k in stages)]
    rows = []
    for unit in result.units:
        pairs = zip(unit.gradients, unit.tied, strict=True)
        cells = [f"{g:.2e}{' tied' if t else ''}" if g else "0" for g, t in pairs]
        rows.append((unit.unit, unit.auxiliary, *cells))
    holds = ["yes" if unit.holds else "NO" for unit in result.units]
    last = Column("holds", holds, styles=["" if unit.holds else "red" for unit in result.units])
    title = f"{rule} on {network}: largest gradient of each unit's loss, by plain autograd"
    print_grid([*columns(heads, rows, words=(0, 1)), last], console, title=title)
    if any(any(unit.tied) for unit in result.units):
        console.print("tied: a penalty reaches these blocks, which another unit updates as well.")
    for unit in result.units:
        for block, parameter in unit.leaks.items():
            console.print(f"{unit.unit}: reaches block {block + 1}, which it must not: {parameter}")
        for block, parameter in unit.gaps.items():
            console.print(f"{unit.unit}: leaves block {block + 1} without a gradient: {parameter}")
    where = f", at {result.worst}" if result.engine_error else ""
    console.print(
        f"float64; 0 is exactly zero. The engine's gradients differ from the sum of the units' by "
        f"at most {result.engine_error:.1e} of a unit's largest gradient{where}."
        if result.worst
        else "The engine took no step: a loss does not reach all of its unit."
    )
    return result.holds
