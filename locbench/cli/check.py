"""`locbench check` and `locbench diff`: what they run, and what they print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from locbench.cli import actions as commands
from locbench.cli.progress import say
from locbench.environment import environment
from locbench.errors import CheckFailed, RunFailed, UserError
from locbench.paths import results_dir, write_atomic
from locbench.plugins.registry import KINDS
from locbench.published.load import load_table, readable_tables, resolve_name
from locbench.published.table import Table
from locbench.report import check as checks
from locbench.report.grid import columns, print_grid
from locbench.runs.plan import Options, Plan, make_plan
from locbench.runs.record import Record, summarize
from locbench.runs.spec import RunSpec, unique
from locbench.runs.store import Store

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class CheckOptions:
    """The options of `locbench check`; `against` is another folder of runs than results/records."""

    device: str = "auto"
    no_run: bool = False
    update: bool = False
    fresh: bool = False
    exact: bool = False
    complete: bool = False
    against: Path | None = None


def smoke_plans(
    names: Sequence[str], references: Sequence[Record], *, device: str = "auto"
) -> list[Plan]:
    """The named tables at scale smoke; without names those that have a reference, else all.

    Only what a table runs there unasked. UserError for a table that nothing can be measured for.
    """
    tables = map(load_table, names) if names else readable_tables()
    plans = [_compared(make_plan(table, Options(device=device))) for table in tables]
    runnable = [plan for plan in plans if plan.runs()]
    if names and len(runnable) < len(plans):
        lacking = next(plan for plan in plans if not plan.runs())
        raise UserError(f"{lacking.table.name}: no cell of it can be measured here yet")
    places = {checks.place(record.id) for record in references}
    covered = [p for p in runnable if places >= {checks.place(run.id) for run in p.runs()}]
    return runnable if names or not covered else covered


def _counted(record: Record) -> bool:
    """Whether every machine counts the same, whatever the scale."""
    kind = KINDS.get(record.kind)
    return kind.repeatable and not kind.scaled


def _compared(plan: Plan) -> Plan:
    """The plan in which nothing is run that every machine measures otherwise."""
    cells = [
        replace(p, later=True) if p.specs and not p.specs[0].of.repeatable else p
        for p in plan.cells
    ]
    return replace(plan, cells=tuple(cells))


def check_report(
    names: Sequence[str], store: Store, options: CheckOptions, *, as_json: bool, out: Console
) -> None:
    """Train what is missing, then compare (or with `update` accept) the tables' smoke records.

    Raises CheckFailed where a number moved, a run of the reference is gone or one did not finish.
    """
    device, against = options.device, options.against
    reference = checks.reference_store() if against is None else Store(against)
    known = reference.all()
    references = [r for r in known if r.scale == "smoke" or _counted(r)]
    plans = smoke_plans(names, references, device=device)
    tolerances = checks.load_tolerances()
    specs = unique([spec for plan in plans for spec in plan.runs()])
    if names:
        references = _theirs(references, specs, known)
    if not references and not options.update:
        raise UserError(
            f"no reference records in {reference.root}; make them with "
            "`locbench check --update` and the names of tables"
        )
    if options.fresh:
        commands.set_aside(specs, store)
    if not options.no_run:
        for plan in plans:
            commands.announce(plan, store)
        commands.run(specs, store, None, device)
    ids = [spec.id for spec in specs]
    records = {id: record for id in ids if (record := store.load(id)) is not None}
    if options.update:
        _accept(plans, ids, records, references, store, out)
        return
    _say_if_old(records)
    findings = checks.check(
        references,
        specs,
        records,
        tolerances,
        known=known,
        exact=options.exact,
        complete=options.complete,
    )
    if as_json:
        out.print_json(json.dumps([asdict(finding) for finding in findings]))
    else:
        _print_findings(findings, out)
    moved = [f"{f.run}: {f.number} {_moved(f)}" for f in findings if not f.ok]
    if moved:
        more = f"; and {len(moved) - 4} more" if len(moved) > 4 else ""
        raise CheckFailed(f"{len(moved)} moved: {'; '.join(moved[:4])}{more}")


def _theirs(
    references: Sequence[Record], specs: Sequence[RunSpec], known: Sequence[Record]
) -> list[Record]:
    """The references of these runs, and not what another table asks for today."""
    hashes = checks.any_precision(references, known)
    here = {spec.any_precision for spec in specs}
    places = {checks.place(spec.id) for spec in specs}
    everywhere = {run.any_precision for t in readable_tables() for run in _smoke_runs(t)}
    return [
        r
        for r in references
        if hashes[r.id] in here or (checks.place(r.id) in places and hashes[r.id] not in everywhere)
    ]


def _smoke_runs(table: Table) -> list[RunSpec]:
    return make_plan(table, Options(rows="all", columns="all")).runs()


def _accept(
    plans: list[Plan],
    ids: list[str],
    records: dict[str, Record],
    references: list[Record],
    store: Store,
    out: Console,
) -> None:
    """Write records and rendered tables to results/."""
    diverged = [id for id in ids if id in records and records[id].status == "diverged"]
    if diverged:
        raise RunFailed(f"{diverged[0]} diverged: nothing was changed; mend it first")
    checks.update(ids, records, references, checks.reference_store())
    for plan in plans:
        path = results_dir() / "tables" / f"{plan.table.name}.md"
        try:
            whole = make_plan(plan.table, plan.options)  # also what is not compared
            write_atomic(path, commands.render(whole, store, "md"))
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror or error})") from error
    out.print(f"{len(ids)} records are the reference now: {results_dir()}", soft_wrap=True)


def _say_if_old(records: dict[str, Record]) -> None:
    """Records of another commit may hide what a change of the code did."""
    commit = environment()["git_commit"]
    old = [r for r in records.values() if r.environment.get("git_commit") != commit]
    if commit and old:
        say(f"{len(old)} of {len(records)} runs are of another commit: --fresh makes them anew")


def _moved(finding: checks.Finding) -> str:
    if finding.reference is None:
        return finding.note
    return f"{_number(finding.reference)} -> {_number(finding.fresh) or 'nothing'}"


def _number(value: float | str | None) -> str:
    """Whole numbers to the last digit, for one may be all that changed."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _print_findings(findings: list[checks.Finding], out: Console) -> None:
    """A line for what is not simply as it was, then how much was compared, and what is missing."""
    from rich.text import Text

    for f in findings:
        if f.ok and (f.missing or not f.note):
            continue
        what = f"{f.number} {_moved(f)}" + (f" ({f.note})" if f.note and f.reference else "")
        mark = Text("ok   " if f.ok else "moved", style="green" if f.ok else "red")
        out.print(Text.assemble(mark, f"  {f.run}: {what}"), soft_wrap=True)
    compared = [f for f in findings if f.number != "status"]
    runs, bad = len({f.run for f in compared}), sum(not f.ok for f in findings)
    out.print(f"{len(compared)} numbers of {runs} runs compared with the reference, {bad} moved")
    for note in dict.fromkeys(f.note for f in findings if f.missing):
        names = [f.run for f in findings if f.missing and f.note == note]
        more = ", ..." if len(names) > 2 else ""
        out.print(f"{len(names)} missing ({note}): {', '.join(names[:2])}{more}", soft_wrap=True)


@dataclass(frozen=True)
class Line:
    """A run, or all seeds of a cell, beside the reference: mean, sample deviation and n of both."""

    run: str
    metric: str
    here: float | None
    reference: float | None
    n: int
    spread: float | None
    reference_n: int
    reference_spread: float | None


def diff_report(
    table: str,
    paper: str | None,
    scale: str,
    seeds: int,
    data_root: Path | None,
    store: Store,
    as_json: bool,
    out: Console,
) -> None:
    """Print measured here, reference, and their difference, for every run of the table's cells.

    Of several seeds one line a cell, with mean, sample standard deviation and n.
    """
    options = Options(scale, seeds=seeds, data_root=data_root)
    plan = make_plan(load_table(resolve_name(table, paper)), options)
    lines = diff_lines(plan, store)
    if as_json:
        out.print_json(json.dumps([asdict(line) for line in lines]))
    elif not lines:
        out.print(f"{plan.table.name}: nothing here can fill a cell of this table yet")
    else:
        _print_diff(f"{plan.table.name} at scale {scale}", lines, out)


def diff_lines(plan: Plan, store: Store) -> list[Line]:
    """Each run, or with several seeds each cell, here and in the reference."""
    references = {record.id: record for record in checks.reference_store().all()}
    wanted: dict[tuple[tuple[str, ...], str], None] = {}
    for planned in plan.cells:
        ids, metric = tuple(spec.id for spec in planned.specs), planned.cell.metric
        together = [ids] if plan.options.seeds > 1 and ids else [(id,) for id in ids]
        wanted |= dict.fromkeys((group, metric) for group in together)
    hashes = checks.any_precision(list(references.values()))
    specs = {spec.id: spec.any_precision for planned in plan.cells for spec in planned.specs}
    today = checks.successors(hashes, specs)
    there = {now: references[before] for before, now in today.items()}
    return [
        Line(checks.place(ids[0]), metric, mean, old, n, spread, old_n, old_spread)
        for ids, metric in wanted
        for mean, spread, n in [_all([store.load(id) for id in ids], metric)]
        for old, old_spread, old_n in [_all([there.get(id) for id in ids], metric)]
    ]


def _all(records: list[Record | None], metric: str) -> tuple[float | None, float | None, int]:
    """Mean, sample standard deviation and n of what is measured of these; None where nothing is."""
    found = [r.metrics.get(metric, {}).get("last") for r in records if r is not None]
    values = [value for value in found if value is not None]
    return summarize(values) if values else (None, None, 0)


def _print_diff(title: str, lines: list[Line], out: Console) -> None:
    several = any(line.n > 1 or line.reference_n > 1 for line in lines)
    sides = [f"{side} ± sd (n)" if several else side for side in ("here", "reference")]
    rows = []
    for x in lines:
        here, there = x.here, x.reference
        change = "" if here is None or there is None else f"{here - there:+.2f}"
        both = ((here, x.spread, x.n), (there, x.reference_spread, x.reference_n))
        rows.append((x.run, x.metric, *(_summary(*side, several) for side in both), change))
    shown = columns(["run", "metric", *sides, "difference"], rows, words=(0, 1))
    print_grid(shown, out, title=f"{title}: measured here against results/")


def _summary(mean: float | None, spread: float | None, n: int, several: bool) -> str:
    if mean is None:
        return "-"
    text = f"{mean:.2f}" if spread is None else f"{mean:.2f} ± {spread:.2f}"
    return f"{text} ({n})" if several else text
