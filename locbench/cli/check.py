"""`locbench check` and `locbench diff`: fresh records beside the reference records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from locbench.cli.actions import announce, run, set_aside
from locbench.cli.progress import say
from locbench.environment import environment
from locbench.errors import CheckFailed, RunFailed, UserError
from locbench.paths import results_dir, write_atomic
from locbench.plugins.registry import KINDS
from locbench.published.load import load_table, readable_tables
from locbench.report import check as checks
from locbench.report.formats import render
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

    Only what a table runs there unasked, and every machine measures alike. UserError for a table
    that nothing can be measured for.
    """
    tables = map(load_table, names) if names else readable_tables()
    runnable = []
    for table in tables:
        plan = make_plan(table, Options(device=device))
        kept = [all(spec.of.repeatable for spec in planned.specs) for planned in plan.cells]
        cells = [replace(p, later=p.later or not k) for p, k in zip(plan.cells, kept, strict=True)]
        plan = replace(plan, cells=tuple(cells))
        if plan.runs():
            runnable.append(plan)
        elif names:
            raise UserError(f"{table.name}: no cell of it can be measured here yet")
    compared = {checks.run_name(record.id) for record in references}
    covered = [p for p in runnable if compared >= {checks.run_name(s.id) for s in p.runs()}]
    return runnable if names or not covered else covered


def check_report(
    names: Sequence[str], store: Store, options: CheckOptions, *, as_json: bool, out: Console
) -> None:
    """Train what is missing, then compare (or with `update` accept) the tables' smoke records.

    Raises CheckFailed where a number moved, a run of the reference is gone or one did not finish.
    """
    if options.update and (options.exact or options.complete or options.against):
        raise UserError("--update accepts what is here: leave --exact, --complete, --against out")
    if options.against and not options.against.is_dir():
        raise UserError(f"--against {options.against}: there is no such folder")
    reference = Store(options.against) if options.against else checks.reference_store()
    everything = reference.all()
    references = [r for r in everything if r.scale == "smoke" or _counted(r)]
    plans = smoke_plans(names, references, device=options.device)
    tolerances = checks.load_tolerances()
    specs = unique([spec for plan in plans for spec in plan.runs()])
    if names or options.update:
        references = _references_of(specs, references, everything, named=bool(names))
    if not references and not options.update:
        raise UserError(
            f"no reference records in {reference.root}; make them with "
            "`locbench check --update` and the names of tables"
        )
    if options.fresh:
        set_aside(specs, store)
    failures: list[str] = []
    if not options.no_run:
        for plan in plans:
            announce(plan, store)
        failures = run(specs, store, data_root=None, device=options.device)
    loaded = {spec.id: store.load(spec.id) for spec in specs}
    records = {id: record for id, record in loaded.items() if record is not None}
    if options.update:
        for record in records.values():
            if record.status == "diverged":
                raise RunFailed(f"{record.id} diverged: nothing was changed; mend it first")
        committed = checks.reference_store()
        checks.update(committed, runs=list(loaded), fresh=records, references=references)
        _write_tables(plans, store)
        out.print(f"{len(specs)} records are the reference now: {results_dir()}", soft_wrap=True)
        return
    commit = environment()["git_commit"]
    old = [r for r in records.values() if r.environment.get("git_commit") != commit]
    if commit and old:  # they may hide what a change of the code did
        say(f"{len(old)} of {len(records)} runs are of another commit: --fresh makes them anew")
    findings = checks.check(
        references,
        specs=specs,
        fresh=records,
        tolerances=tolerances,
        all_references=everything,
        exact=options.exact,
        complete=options.complete,
    )
    if as_json:
        out.print_json(json.dumps([asdict(finding) for finding in findings]))
    else:
        _print_findings(findings, out)
    bad = [f for f in findings if not f.ok]
    if bad or failures:
        lines = [*failures, *(f"{f.run}: {f.number} {_moved(f)}" for f in bad)]
        more = f"; and {len(lines) - 4} more" if len(lines) > 4 else ""
        missing, failed = sum(f.missing for f in bad), len(failures)
        counts = {"failed": failed, "missing": missing, "moved": len(bad) - missing}
        said = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
        raise CheckFailed(f"{said}: {'; '.join(lines[:4])}{more}")


def _counted(record: Record) -> bool:
    """Whether every machine counts the same, whatever the scale."""
    kind = KINDS.get(record.kind)
    return kind.repeatable and not kind.scaled


def _references_of(
    specs: Sequence[RunSpec],
    references: Sequence[Record],
    everything: Sequence[Record],
    *,
    named: bool,
) -> list[Record]:
    """The references of these runs, and not what another table asks for today.

    Where no table was named also those that no table asks for.
    """
    hashes = checks.any_precision(references, everything)
    here = {spec.any_precision for spec in specs}
    names = {checks.run_name(spec.id) for spec in specs}
    plans = [make_plan(table, Options(rows="all", columns="all")) for table in readable_tables()]
    elsewhere = {spec.any_precision for plan in plans for spec in plan.runs()} - here
    alike = [
        r for r in references if not named or hashes[r.id] in here or checks.run_name(r.id) in names
    ]
    return [reference for reference in alike if hashes[reference.id] not in elsewhere]


def _write_tables(plans: Sequence[Plan], store: Store) -> None:
    """The tables as they are measured here, in results/tables."""
    for plan in plans:
        path = results_dir() / "tables" / f"{plan.table.name}.md"
        try:
            whole = make_plan(plan.table, plan.options)  # also what is not compared
            write_atomic(path, render(whole, store, "md"))
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror or error})") from error


def _moved(finding: checks.Finding) -> str:
    if finding.reference is None:
        return finding.note
    return f"{_number(finding.reference)} -> {_number(finding.fresh)}"


def _number(value: float | str | None) -> str:
    """Whole numbers to the last digit, for one may be all that changed."""
    if value is None:
        return "nothing"
    form = "," if isinstance(value, int) else ".6g" if isinstance(value, float) else ""
    return f"{value:{form}}"


def _print_findings(findings: Sequence[checks.Finding], out: Console) -> None:
    """A line for what is not simply as it was, then how much was compared, and what is missing."""
    from rich.text import Text

    for f in findings:
        if f.ok and (f.missing or not f.note):
            continue
        what = f"{f.number} {_moved(f)}" + (f" ({f.note})" if f.note and f.reference else "")
        word = "ok     " if f.ok else "missing" if f.missing else "moved  "
        mark = Text(word, style="green" if f.ok else "red")
        out.print(Text.assemble(mark, f"  {f.run}: {what}"), soft_wrap=True)
    compared = [f for f in findings if f.number != "status"]
    runs, bad = len({f.run for f in compared}), sum(not (f.ok or f.missing) for f in findings)
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


def print_diff(plan: Plan, store: Store, *, as_json: bool, out: Console) -> None:
    """Print measured here, reference, and their difference, for every run of the table's cells.

    Of several seeds one line a cell, with mean, sample standard deviation and n.
    """
    lines = diff_lines(plan, store)
    if as_json:
        out.print_json(json.dumps([asdict(line) for line in lines]))
        return
    if not lines:
        out.print(f"{plan.table.name}: nothing here can fill a cell of this table yet")
        return
    several = any(line.n > 1 or line.reference_n > 1 for line in lines)

    def text(mean: float | None, spread: float | None, n: int) -> str:
        if mean is None:
            return "-"
        text = f"{mean:.2f}" if spread is None else f"{mean:.2f} ± {spread:.2f}"
        return f"{text} ({n})" if several else text

    rows = []
    for x in lines:
        sides = text(x.here, x.spread, x.n), text(x.reference, x.reference_spread, x.reference_n)
        change = "" if None in (x.here, x.reference) else f"{x.here - x.reference:+.2f}"
        rows.append((x.run, x.metric, *sides, change))
    heads = [f"{side} ± sd (n)" if several else side for side in ("here", "reference")]
    title = f"{plan.table.name} at scale {plan.options.scale}: measured here against results/"
    shown = columns(["run", "metric", *heads, "difference"], rows, words=(0, 1))
    print_grid(shown, out, title=title)


def diff_lines(plan: Plan, store: Store) -> list[Line]:
    """Each run, or with several seeds each cell, here and in the reference."""
    references = {record.id: record for record in checks.reference_store().all()}
    hashes = checks.any_precision(list(references.values()))
    specs = {spec.id: spec.any_precision for planned in plan.cells for spec in planned.specs}
    pairs = checks.successors(hashes, specs)
    by_spec = {now: references[before] for before, now in pairs.items()}
    groups: dict[tuple[tuple[str, ...], str], None] = {}
    for planned in plan.cells:
        ids, metric = tuple(spec.id for spec in planned.specs), planned.cell.metric
        together = [ids] if plan.options.seeds > 1 and ids else [(id,) for id in ids]
        groups |= dict.fromkeys((group, metric) for group in together)
    lines = []
    for ids, metric in groups:
        mean, spread, n = _summary([store.load(id) for id in ids], metric)
        old, old_spread, old_n = _summary([by_spec.get(id) for id in ids], metric)
        lines.append(Line(checks.run_name(ids[0]), metric, mean, old, n, spread, old_n, old_spread))
    return lines


def _summary(
    records: Sequence[Record | None], metric: str
) -> tuple[float | None, float | None, int]:
    """Mean, sample standard deviation and n of what is measured of these; None where nothing is."""
    figures = [r.metrics.get(metric, {}).get("last") for r in records if r is not None]
    values = [value for value in figures if value is not None]
    return summarize(values) if values else (None, None, 0)
