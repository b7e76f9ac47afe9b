"""Runs of tables: what is to be done is announced or listed, then carried out with progress."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from locbench.cli.progress import say, watching
from locbench.distributed import group as processes
from locbench.errors import UserError
from locbench.locks import alone, holder
from locbench.plugins.rule_files import rule_names
from locbench.report.grid import columns, print_grid
from locbench.runs.context import Context
from locbench.runs.device import Hardware, hardware
from locbench.runs.estimate import Estimate, duration, estimate, known_records, size, total
from locbench.runs.executor import carry_out, to_run
from locbench.runs.plan import Plan, PlannedCell
from locbench.runs.spec import RunSpec, unique
from locbench.runs.step_memory import (
    GPU_BYTES,
    StepMemory,
    form_of,
    largest_step,
    may_be_large,
)
from locbench.runs.store import Store

if TYPE_CHECKING:
    from rich.console import Console

SILENCE_S = 10.0  # after which a person is told how far a plan is


def set_aside(specs: Sequence[RunSpec], store: Store) -> None:
    """Move these runs to RUNS/set-aside: they are run afresh, and nothing measured is lost.

    What was measured on a pretraining goes with it: its encoder will be another one. UserError,
    and nothing is moved, where another process is at one of them.
    """
    if processes.launch_rank():
        return  # the first process does so
    moved = {spec.id for spec in specs}
    moved |= {record.id for record in store.readable() if record.parent in moved}
    ids = [id for id in sorted(moved) if store.folder(id).exists()]
    for id in ids:
        if (process := holder(store.lock(id))) is not None:
            raise UserError(f"{process} is at {id}: stop it or wait for it, then use --fresh")
    for id in ids:
        with alone(store.lock(id), f"at {id}"):  # from now on, if it was quicker
            store.set_aside(id)


def without_broken(plans: Sequence[Plan], store: Store) -> tuple[list[Plan], list[str]]:
    """The plans with nothing to run or show of a record that cannot be read; a line for each.

    Such a record costs its cells, and not their table.
    """
    specs = unique([spec for plan in plans for planned in plan.cells for spec in planned.specs])
    broken: dict[str, str] = {}
    for spec in specs:
        try:
            store.load(spec.id)
        except UserError as error:
            broken[spec.id] = str(error)

    def whole(planned: PlannedCell) -> PlannedCell:
        needed = {run.id for spec in planned.specs for run in spec.with_ancestors()}
        return planned if needed.isdisjoint(broken) else replace(planned, specs=())

    kept = [replace(plan, cells=tuple(map(whole, plan.cells))) for plan in plans]
    return kept, list(broken.values())


def announce(plan: Plan, store: Store) -> None:
    """Say on stderr what will be run and roughly how long it takes; nothing if all is there.

    And which of the further rules are in no cell that is run.
    """
    _say_idle(plan)
    waiting = to_run(plan.runs(), store)
    if waiting:
        records, device = known_records(store), hardware(plan.options.device).name
        guesses = [estimate(spec, records, device=device, build=True) for spec in waiting]
        say(_summary(plan, store, guesses))


def _say_idle(plan: Plan) -> None:
    added = [p for p in plan.cells if p.cell.row.added and p.specs and not p.later]
    rules = {planned.cell.fill["rule"] for planned in added}
    for rule in rule_names(plan.options.rules):
        if rule not in rules:
            say(
                f"{plan.table.name}: nothing is run of rule {rule} with these rows and columns; "
                "all that there is: --rows all --columns all"
            )


def print_plan(plan: Plan, store: Store, *, fresh: bool, as_json: bool, out: Console) -> None:
    """Every run still to be done, with time and disk; with `fresh` as if there were no records.

    Of trainings whose step may be too large for a GPU also its memory, and on how many it fits.
    UserError for what cannot be run with so many images as there are.
    """
    waiting = plan.runs() if fresh else to_run(plan.runs(), store)
    for spec in waiting:
        spec.of.check_images(spec, processes.launched())
    records, here = known_records(store), hardware(plan.options.device)
    # Networks have to be built, which takes torch, where no run of their shape can be at hand.
    build = plan.options.scale != "smoke"
    guesses = [estimate(spec, records, device=here.name, build=build) for spec in waiting]
    _say_idle(plan)
    for name in plan.assumed:
        say(f"{name} is not here: planned as it was published")
    steps = _steps(waiting, here)
    open_precision = any(p.precision is None for p in plan.cells if p.specs and not p.baseline)
    if steps and open_precision and plan.options.device == "auto" and here.name == "cpu":
        say("planned in the precision of this CPU: --device cuda plans in that of a GPU")
    if as_json:
        rows = [
            {"run": spec.id, **asdict(guess), **_step_fields(steps.get(spec.id), here)}
            for spec, guess in zip(waiting, guesses, strict=True)
        ]
        out.print_json(json.dumps(rows))
        return
    out.print(_summary(plan, None if fresh else store, guesses), markup=False)
    if steps or (build and any(spec.of.trains for spec in waiting)):
        out.print(largest_step(waiting, steps, here), markup=False)
    heads, rows = ["run", "time", "to keep", *(["a step"] if steps else [])], []
    for spec, guess in zip(waiting, guesses, strict=True):
        took, disk = "~" * guess.rough + duration(guess.seconds), size(guess.kept_bytes)
        step = [size(steps[spec.id].on(1)) if spec.id in steps else ""] if steps else []
        rows.append([spec.of.describe(spec), took, disk, *step])
    if rows:
        print_grid(columns(heads, rows, words=(0,)), out)


def _steps(specs: Sequence[RunSpec], here: Hardware) -> dict[str, StepMemory]:
    """The memory of steps that may be too large for one GPU, by run; each form is traced once."""
    large = [spec for spec in specs if may_be_large(spec, here.gpu_bytes or GPU_BYTES)]
    forms = {form_of(spec): spec for spec in large}
    began = time.monotonic()
    for number, spec in enumerate(forms.values()):
        if time.monotonic() - began > SILENCE_S:
            say(f"tracing steps: {number} of {len(forms)} done")
            began = time.monotonic()
        spec.of.step_memory(spec)  # is remembered
    memories = {spec.id: spec.of.step_memory(spec) for spec in large}
    return {id: memory for id, memory in memories.items() if memory is not None}


def _step_fields(memory: StepMemory | None, here: Hardware) -> dict[str, float | None]:
    capacity = here.gpu_bytes or GPU_BYTES
    least = None if memory is None else memory.least(capacity)
    return {"step_bytes": memory and memory.on(1), "gpu_bytes": capacity, "least_gpus": least}


def _summary(plan: Plan, store: Store | None, guesses: list[Estimate]) -> str:
    """What is there, what is to be done and what that takes; without a store nothing is there."""
    specs = plan.runs()
    records = [store.load(spec.id) for spec in specs] if store is not None else []
    counts = Counter(record.status for record in records if record is not None)
    rest = [f"{counts[s]} {s}, " for s in ("diverged", "failed", "running") if counts[s]]
    return (
        f"{plan.table.name} at scale {plan.options.scale}: {len(specs)} runs, "
        f"{counts['done']} done, {''.join(rest)}{len(guesses)} to go: {total(guesses)}"
    )


def run(
    specs: Sequence[RunSpec], store: Store, *, data_root: Path | None, device: str
) -> list[str]:
    """Carry out what is missing, with progress; returns one line for each run that failed.

    Under torchrun only the first process returns.
    """
    with watching(len(to_run(specs, store))) as watch:
        return carry_out(specs, Context(store, device, data_root), watch)
