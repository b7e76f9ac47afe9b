"""The command line: parse, call, print. No torch import at module level, so that help is quick."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from locbench.errors import CheckFailed, RunFailed, UserError

app = typer.Typer(
    name="locbench",
    help="Reproduce the tables of local-learning papers, cell by cell.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

Scale = Annotated[str, typer.Option(help="smoke (minutes, built-in data), small, or paper.")]
DataRoot = Annotated[Path | None, typer.Option(help="Folder with the data sets.")]
Runs = Annotated[Path | None, typer.Option(help="Folder of the records (default ./runs).")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="Override a recipe value: optimizer.lr=0.4.")
]
Format = Annotated[str, typer.Option("--format", help="rich, md, csv, json or latex.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]
Paper = Annotated[str | None, typer.Option(help="loco or auglocal.")]
Seed = Annotated[int, typer.Option(help="Seed of the run.")]
FORMATS = ("rich", "md", "csv", "json", "latex")


def main() -> None:
    """Entry point: one line for what a user can cause, and the exit codes of the design."""
    try:
        app(standalone_mode=True)
    except UserError as error:
        sys.stderr.write(f"locbench: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("locbench: stopped; the same command goes on from where it was\n")
        sys.exit(130)


def _console():
    from rich.console import Console

    return Console(highlight=False)


def _store(runs: Path | None):
    from locbench.paths import runs_dir
    from locbench.records import Store

    return Store(runs or runs_dir())


def _check_format(name: str) -> str:
    from locbench.registry import suggest

    if name not in FORMATS:
        raise UserError(f"unknown format '{name}'{suggest(name, FORMATS)}")
    return name


@app.command("list")
def list_(
    what: Annotated[
        str, typer.Argument(help="tables, recipes, rules, networks, datasets, runs")
    ] = ("tables"),
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """What there is: tables, recipes, rules, networks, data sets, or runs."""
    from locbench.listing import listing

    title, columns, rows = listing(what, _store(runs))
    if as_json:
        typer.echo(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=1))
        return
    from rich.table import Table

    shown = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False)
    for row in rows:
        shown.add_row(*(str(value) for value in row))
    _console().print(shown)


@app.command()
def show(table: str, paper: Paper = None, as_json: Json = False) -> None:
    """Print a published table as the paper lays it out, with its sources and claims."""
    from locbench.listing import published_json, published_table
    from locbench.tables import load_table, resolve_name

    found = load_table(resolve_name(table, paper))
    if as_json:
        typer.echo(json.dumps(published_json(found), indent=1))
        return
    published_table(found, _console())


@app.command()
def reproduce(
    table: str,
    paper: Paper = None,
    scale: Scale = "smoke",
    rows: Annotated[str | None, typer.Option(help="Only rows with these words: loco,gim.")] = None,
    columns: Annotated[str | None, typer.Option(help="Only columns with these words.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs a cell; mean and spread of them.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show runs, hours, disk.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run again what has a record.")] = False,
    format: Format = "rich",
    data_root: DataRoot = None,
    runs: Runs = None,
    device: Device = "auto",
    set_: Sets = None,
) -> None:
    """Train and measure what a table needs, then show it beside the published numbers."""
    from locbench import commands
    from locbench.recipes import parse_overrides
    from locbench.reproduce import Options, make_plan
    from locbench.tables import load_table, resolve_name

    _check_format(format)
    options = Options(scale, rows, columns, seeds, data_root, parse_overrides(set_ or []))
    plan = make_plan(load_table(resolve_name(table, paper)), options)
    store = _store(runs)
    if fresh:
        commands.set_aside(plan.runs(), store)
    commands.announce(plan, store, detailed=dry_run)
    if dry_run:
        return
    failures = commands.run(plan, store, device)
    typer.echo(commands.render(plan, store, format), nl=False)
    if failures:
        raise RunFailed("; ".join(failures))


@app.command()
def pretrain(
    recipe: str,
    rule: Annotated[str, typer.Option(help="Learning rule; see `locbench list rules`.")],
    network: Annotated[str, typer.Option(help="Network; see `locbench list networks`.")],
    scale: Scale = "smoke",
    seed: Seed = 1234,
    data_root: DataRoot = None,
    runs: Runs = None,
    device: Device = "auto",
    fresh: Annotated[bool, typer.Option("--fresh", help="Run again if there is a record.")] = False,
    set_: Sets = None,
    as_json: Json = False,
) -> None:
    """Pretrain a network with a rule; leaves a record and the encoder's weights."""
    from locbench import commands
    from locbench.recipes import load_recipe, parse_overrides

    settings = load_recipe(recipe, scale, parse_overrides(set_ or []))
    spec = commands.plan_pretrain(settings, rule, network, seed, data_root)
    _finish([spec], _store(runs), data_root, device, fresh, as_json)


@app.command()
def probe(
    run: Annotated[str, typer.Argument(help="A run's id or its beginning, or an encoder file.")],
    profile: Annotated[str | None, typer.Option(help="loco or moco (facts of sec. 5.1).")] = None,
    blocks: Annotated[str | None, typer.Option(help="last or all.")] = None,
    recipe: Annotated[str, typer.Option(help="For an encoder file: the recipe.")] = "loco/imagenet",
    network: Annotated[str | None, typer.Option(help="For an encoder file: its network.")] = None,
    scale: Scale = "smoke",
    seed: Seed = 1234,
    data_root: DataRoot = None,
    runs: Runs = None,
    device: Device = "auto",
    fresh: Annotated[bool, typer.Option("--fresh", help="Run again if there is a record.")] = False,
    set_: Sets = None,
    as_json: Json = False,
) -> None:
    """Linear probe of a run's encoder or of an encoder file."""
    from locbench import commands
    from locbench.recipes import parse_overrides

    overrides: dict[str, Any] = parse_overrides(set_ or [])
    overrides |= {"probe.profile": profile} if profile else {}
    overrides |= {"probe.blocks": blocks} if blocks else {}
    store = _store(runs)
    if Path(run).suffix in (".safetensors", ".pth", ".pt"):
        if network is None:
            raise UserError(f"give the network of {run}: --network NAME (`locbench list networks`)")
        spec = commands.plan_file_probe(
            Path(run), recipe, network, scale, seed, data_root, overrides
        )
    else:
        spec = commands.plan_run_probe(run, store, data_root, overrides)
    _finish([spec], store, data_root, device, fresh, as_json)


def _finish(
    specs: list, store: Any, data_root: Path | None, device: str, fresh: bool, as_json: bool
) -> None:
    """Carry out runs and print what came of the last one."""
    from locbench import commands

    if fresh:
        commands.set_aside(specs, store)
    record = commands.run_specs_now(specs, store, data_root, device)
    if as_json:
        typer.echo(record.to_json())
    else:
        commands.print_record(record, store, _console())


@app.command()
def audit(
    rule: str,
    network: str,
    width: Annotated[float, typer.Option(help="Width of the network.")] = 1.0,
    depth: Annotated[int, typer.Option(help="Blocks a stage; 0 as published.")] = 0,
    set_: Sets = None,
    as_json: Json = False,
) -> None:
    """Which stages each unit's loss reaches, by plain autograd; exit code 1 if it leaks."""
    from locbench.commands import audit_report

    holds = audit_report(rule, network, width, depth, set_ or [], as_json, _console())
    if not holds:
        raise CheckFailed(f"audit of {rule} on {network} failed; see the table above")


@app.command()
def diff(
    table: str,
    paper: Paper = None,
    scale: Scale = "smoke",
    data_root: DataRoot = None,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """What is measured here beside the committed reference results, cell by cell."""
    from locbench.commands import diff_report

    diff_report(table, paper, scale, data_root, _store(runs), as_json, _console())


@app.command()
def check(
    runs: Runs = None,
    device: Device = "auto",
    no_run: Annotated[bool, typer.Option("--no-run", help="Compare only; train nothing.")] = False,
    update: Annotated[bool, typer.Option("--update", help="Accept as the new reference.")] = False,
    as_json: Json = False,
) -> None:
    """For CI: fresh smoke records against results/; exit code 1 if a number moved."""
    from locbench.commands import check_report

    moved = check_report(_store(runs), device, no_run, update, as_json, _console())
    if moved:
        raise CheckFailed(f"{len(moved)} numbers moved: {'; '.join(moved)}")


@app.command()
def doctor(as_json: Json = False) -> None:
    """What this machine has and lacks for locbench; exit code 1 if something must be mended."""
    from locbench.doctor import examine

    checks = examine()
    if as_json:
        typer.echo(json.dumps([vars(c) for c in checks], indent=1))
    else:
        style = {"ok": "green", "warn": "yellow", "fail": "red"}
        console = _console()
        for c in checks:
            console.print(f"[{style[c.status]}]{c.status:<5}[/] {c.name:<14} {c.detail}")
    if any(c.status == "fail" for c in checks):
        raise CheckFailed("something has to be mended: see the lines marked fail")
