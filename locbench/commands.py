"""What the commands do, between the parsed arguments and what is printed."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locbench import check as checks
from locbench import runs as run_specs
from locbench.console import describe, outcome, progress_of_runs, stderr
from locbench.data.fingerprint import fingerprint
from locbench.errors import UserError
from locbench.estimate import Estimate, duration, estimate, known_records
from locbench.recipes import Recipe, load_recipe, recipe_from_dict
from locbench.records import Record, Store
from locbench.reproduce import Options, Plan, claim_values, frame, make_plan, run_plan
from locbench.runs import RunSpec
from locbench.tables import load_table, resolve_name, table_names

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console


def set_aside(specs: list[RunSpec], store: Store) -> None:
    """Move the folders of these runs to RUNS/set-aside: run afresh, lose nothing."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    for spec in specs:
        folder = store.folder(spec.id)
        if folder.exists():
            target = store.root / "set-aside" / f"{spec.id}-{stamp}"
            target.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(target)


def missing_runs(specs: list[RunSpec], store: Store) -> list[RunSpec]:
    """Those without a finished record."""
    found = ((spec, store.load(spec.id)) for spec in specs)
    return [spec for spec, record in found if record is None or record.status != "done"]


def announce(plan: Plan, store: Store, detailed: bool) -> None:
    """Say on stderr what will be run and roughly how long it takes; every run if `detailed`."""
    specs = plan.runs()
    missing = missing_runs(specs, store)
    if not missing and not detailed:
        return
    known = known_records(store)
    estimates = [estimate(spec, known, spec.fingerprint.get("train")) for spec in missing]
    stderr.print(
        f"{plan.table.name} at scale {plan.options.scale}: {len(specs)} runs, "
        f"{len(specs) - len(missing)} done, {len(missing)} to go, {_total(estimates)}"
    )
    if not detailed:
        return
    for spec, guess in zip(missing, estimates, strict=True):
        megabytes = "unknown" if guess.disk_bytes is None else f"{guess.disk_bytes / 1e6:.1f} MB"
        stderr.print(f"  {describe(spec):<44} {duration(guess.seconds):>8}  {megabytes:>8}")


def _total(estimates: list[Estimate]) -> str:
    known = [e for e in estimates if e.seconds is not None]
    if not known:
        return "time unknown: nothing like them was measured yet" if estimates else "nothing to do"
    rest = (
        f" and {len(estimates) - len(known)} of unknown length"
        if len(known) < len(estimates)
        else ""
    )
    disk = sum(e.disk_bytes or 0 for e in known) / 1e6
    took = duration(sum(e.seconds for e in known))
    return f"about {took}{rest}, {disk:.0f} MB (from runs on {known[0].basis})"


def run(plan: Plan, store: Store, device: str) -> list[str]:
    """Carry out what is missing, with progress; returns one line for each run that failed."""
    missing = missing_runs(plan.runs(), store)
    if not missing:
        return []
    from locbench.execute import Workshop

    with progress_of_runs(len(missing)) as (start, done):
        shop = Workshop(store, device, plan.options.data_root, start)
        waiting = {spec.id for spec in missing}

        def each(spec: RunSpec, record: Record) -> None:
            if spec.id in waiting:
                done(spec, record)

        return run_plan(plan, shop, each)


def render(plan: Plan, store: Store, format: str) -> str:
    """The table with verdicts and claims, then what is shown beside it (baselines, ours)."""
    from locbench.report import Report
    from locbench.report import render as render_report

    table, cells = plan.table, frame(plan, store)
    claims = judged_claims(plan, cells)
    if format in ("csv", "json"):
        labels = table.label_names
        return render_report(Report(table.name, table.title, cells, labels, claims=claims), format)
    beside = cells["baseline"] | (cells["published"].isna() & ~cells["cited"])
    main = cells[~beside & ~cells["published"].isna()]
    report = Report(table.name, table.title, main, table.label_names, claims=claims)
    console = _wide_console() if format == "rich" else None
    text = render_report(report, format, console)
    if beside.any():
        labels = [name for name in table.label_names if name in ("method", "network")]
        title = "baselines and our own columns, same data"
        extra = Report("beside it", title, cells[beside], labels or table.label_names)
        text += "\n" + render_report(extra, format, console)
    return text


def _wide_console() -> Console:
    import shutil

    from rich.console import Console

    return Console(width=max(80, shutil.get_terminal_size((100, 24)).columns), highlight=False)


def judged_claims(plan: Plan, cells: pd.DataFrame) -> list[Any]:
    """Each claim with its outcome on what was measured."""
    from types import SimpleNamespace

    values = claim_values(plan, cells)
    results = [(claim, claim.judge(values)) for claim in plan.table.claims]
    return [SimpleNamespace(text=c.text, holds=r.holds, detail=r.detail) for c, r in results]


def plan_pretrain(
    recipe: Recipe, rule: str, network: str, seed: int, data_root: Path | None
) -> RunSpec:
    """A pretraining on the recipe's data."""
    data = fingerprint(recipe.data.name, recipe.data.resolution, data_root)
    return run_specs.plan_pretrain(recipe, rule, network, seed, data)


def plan_run_probe(
    run: str, store: Store, data_root: Path | None, overrides: dict[str, Any]
) -> RunSpec:
    """The probe of a pretraining in the store, under its own recipe with overrides."""
    record = store.find(run)
    if record.kind != "pretrain":
        raise UserError(
            f"{record.id} is a {record.kind}, not a pretraining; probe the run it reads"
        )
    if record.status != "done":
        raise UserError(f"{record.id} is {record.status}; finish it with the same pretrain command")
    data = {k: v for k, v in record.identity["data"].items() if k != "resolution"}
    parent = RunSpec(
        "pretrain",
        recipe_from_dict(record.recipe, str(store.path(record.id))),
        record.rule["name"],
        record.network["name"],
        record.seed,
        data,
    )
    if parent.id != record.id:
        raise UserError(
            f"{record.id} was made by another version of its rule, network or data; "
            f"pretrain it again, or probe the encoder file in {store.folder(record.id)}"
        )
    recipe = _probe_recipe(parent.recipe, overrides)
    return RunSpec("probe", recipe, parent.rule, parent.network, parent.seed, data, parent)


def _probe_recipe(recipe: Recipe, overrides: dict[str, Any]) -> Recipe:
    """The recipe with other probe settings: its named recipe read again, all else as it was."""
    for key in overrides:
        if not key.startswith("probe."):
            raise UserError(f"--set {key}: a probe of a run can only change probe.* settings")
    if not overrides:
        return recipe
    again = load_recipe(recipe.name, recipe.scale, overrides)
    return run_specs.with_probe(recipe, again.probe)


def plan_file_probe(
    path: Path,
    recipe: str,
    network: str,
    scale: str,
    seed: int,
    data_root: Path | None,
    overrides: dict[str, Any],
) -> RunSpec:
    """The probe of an encoder file; UserError if it is not there."""
    if not path.is_file():
        raise UserError(f"no encoder file {path}; give a .safetensors or .pth file or a run's id")
    settings = load_recipe(recipe, scale, overrides)
    data = fingerprint(settings.data.name, settings.data.resolution, data_root)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    run_specs.NETWORKS.entry(network)
    return RunSpec("probe", settings, "file", network, seed, data, encoder_file=(str(path), digest))


def run_specs_now(
    specs: list[RunSpec], store: Store, data_root: Path | None, device: str
) -> Record:
    """Carry out these runs and what they need, with progress; the last one's record."""
    from locbench.execute import Workshop, execute

    wanted = run_specs.unique(specs)
    missing = {spec.id for spec in missing_runs(wanted, store)}
    with progress_of_runs(len(missing)) as (start, done):
        shop = Workshop(store, device, data_root, start)
        for spec in wanted:
            record = execute(spec, shop)
            if spec.id in missing:
                done(spec, record)
    return record


def print_record(record: Record, store: Store, console: Console) -> None:
    """A finished run for a person: what it measured, what it cost, where it lies."""
    from rich.table import Table

    console.print(f"[bold]{record.id}[/bold]  {record.status}  {outcome(record)}")
    grid = Table.grid(padding=(0, 2))
    for unit in record.units:
        loss = record.metrics[f"loss of {unit['name']}"]["last"]
        grid.add_row(unit["name"], unit["auxiliary"], f"loss {loss:.3f}")
    for block, score in record.per_block.items():
        grid.add_row(
            f"block {int(block) + 1}",
            f"stage {score['stage']}",
            f"top-1 {score['top1']:.1f} % (best {score['top1_best']:.1f})",
        )
    for key, value in record.cost.items():
        grid.add_row(key, f"{value:,}" if isinstance(value, int) else f"{value:g}")
    console.print(grid)
    console.print(f"[dim]{store.folder(record.id)}[/dim]")


def audit_report(
    rule: str,
    network: str,
    width: float,
    depth: int,
    sets: list[str],
    as_json: bool,
    console: Console,
) -> bool:
    """Print which stages each unit's loss reaches; whether all is as declared."""
    from dataclasses import asdict

    from locbench.audit import audit
    from locbench.recipes import Network, parse_overrides

    settings = {k.removeprefix("rule."): v for k, v in parse_overrides(sets).items()}
    result = audit(rule, network, Network(width=width, blocks=depth), settings)
    if as_json:
        console.print_json(json.dumps({**asdict(result), "holds": result.holds}))
        return result.holds
    from rich.table import Table

    stages = len(result.units[0].gradients)
    shown = Table(
        "unit", "auxiliary network", *(f"stage {k + 1}" for k in range(stages)), "holds",
        title=f"{rule} on {network}: largest gradient of each unit's loss, by plain autograd",
        title_justify="left",
    )  # fmt: skip
    for unit in result.units:
        cells = [f"{g:.2e}" if g else "0" for g in unit.gradients]
        shown.add_row(unit.unit, unit.auxiliary, *cells, "yes" if unit.holds else "[red]NO[/red]")
    console.print(shown)
    console.print(
        f"float64; 0 is exactly zero. The engine's gradients differ from the sum of the units' by "
        f"at most {result.engine_error:.1e} of the largest entry of a parameter's gradient."
    )
    return result.holds


def diff_report(
    table: str,
    paper: str | None,
    scale: str,
    data_root: Path | None,
    store: Store,
    as_json: bool,
    console: Console,
) -> None:
    """Print measured here, reference, and their difference, for every cell that has either."""
    plan = make_plan(load_table(resolve_name(table, paper)), Options(scale, data_root=data_root))
    references = {checks.place(r.id): r for r in checks.reference_store().all()}
    lines = []
    for planned in plan.cells:
        metric = planned.cell.column.metric
        for spec in planned.specs:
            here, there = store.load(spec.id), references.get(checks.place(spec.id))
            values = [
                r.metrics[metric]["last"] if r is not None and r.status == "done" else None
                for r in (here, there)
            ]
            lines.append((checks.place(spec.id), metric, *values))
    if as_json:
        keys = ("run", "metric", "here", "reference")
        console.print_json(json.dumps([dict(zip(keys, line, strict=True)) for line in lines]))
        return
    _print_diff(plan.table.name, lines, console)


def _print_diff(name: str, lines: list[tuple], console: Console) -> None:
    from rich.table import Table

    shown = Table(
        "run", "metric", title=f"{name}: measured here against results/", title_justify="left"
    )
    for head in ("here", "reference", "difference"):
        shown.add_column(head, justify="right")
    for run_name, metric, here, there in dict.fromkeys(lines):
        change = "" if here is None or there is None else f"{here - there:+.2f}"
        numbers = ["-" if v is None else f"{v:.2f}" for v in (here, there)]
        shown.add_row(run_name, metric, *numbers, change)
    console.print(shown)


def check_report(
    store: Store, device: str, no_run: bool, update: bool, as_json: bool, console: Console
) -> list[str]:
    """Compare (or with `update` accept) all smoke records; the numbers that moved, a line each."""
    plans = [make_plan(load_table(name), Options()) for name in table_names()]
    plans = [plan for plan in plans if plan.runs()]
    for plan in plans:
        if not no_run:
            announce(plan, store, detailed=False)
            run(plan, store, device)
    specs = run_specs.unique([spec for plan in plans for spec in plan.runs()])
    fresh = [record for spec in specs if (record := store.load(spec.id)) is not None]
    if no_run and not fresh:
        raise UserError(f"no smoke records in {store.root}; run `locbench check` without --no-run")
    if update:
        checks.update(fresh, checks.reference_store())
        console.print(
            f"{len(fresh)} records are the reference now: {checks.reference_store().root}"
        )
        return []
    references = [r for r in checks.reference_store().all() if r.scale == "smoke"]
    findings = checks.check(references, fresh)
    if as_json:
        console.print_json(json.dumps([checks.as_row(f) for f in findings]))
    else:
        _print_findings(findings, console)
    return [f"{f.run}: {f.metric} {_moved(f)}" for f in findings if not f.ok]


def _moved(finding: checks.Finding) -> str:
    if finding.reference is None:
        return finding.note
    fresh = "nothing" if finding.fresh is None else f"{finding.fresh:g}"
    return f"{finding.reference:g} -> {fresh}"


def _print_findings(findings: list[checks.Finding], console: Console) -> None:
    from rich.table import Table

    shown = Table("run", "metric", title="check: fresh against results/", title_justify="left")
    for head in ("reference", "fresh"):
        shown.add_column(head, justify="right")
    shown.add_column("")
    for f in findings:
        numbers = ["" if v is None else f"{v:g}" for v in (f.reference, f.fresh)]
        mark = "[green]ok[/green]" if f.ok else "[red]MOVED[/red]"
        shown.add_row(f.run, f.metric, *numbers, f"{mark} {f.note}")
    console.print(shown)
    bad = sum(not f.ok for f in findings)
    console.print(f"{len(findings)} numbers compared, {bad} moved")
