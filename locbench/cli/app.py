"""The command line: parse, call, print. No torch import at module level, so that help is quick."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from locbench.cli.cost import cost
from locbench.cli.data import data_app
from locbench.cli.options import (
    DataRoot,
    Device,
    Format,
    Fresh,
    Json,
    Paper,
    Rule,
    Runs,
    Scale,
    Seed,
    Seeds,
    Sets,
    check_words,
)
from locbench.errors import CheckFailed, UserError

app = typer.Typer(
    name="locbench",
    help="Reproduce the tables of local-learning papers, cell by cell.",
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

# click's errors in what was typed. Where their class is to be had depends on typer's version.
UsageError = typer.BadParameter.__bases__[0]
STOPPED = 130  # what a shell reports of a program that Ctrl-C ended


def main() -> None:
    """Entry point: one line for what a user can cause, and exit codes 0 to 3."""
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    try:
        code = app(prog_name="locbench", standalone_mode=False)
    except UserError as error:
        sys.exit(_complain(str(error), error.exit_code))
    except UsageError as error:
        sys.exit(_complain(error.format_message(), UserError.exit_code))
    except (KeyboardInterrupt, typer.Abort):
        code = STOPPED
    if code == STOPPED:
        without = ", without --fresh," if "--fresh" in sys.argv else ""
        _complain(f"stopped; the same command{without} goes on from where it was", STOPPED)
    sys.exit(code)


def _complain(message: str, code: int) -> int:
    from locbench.distributed import group as processes

    who = f" (process {processes.launch_rank()})" if processes.launch_rank() else ""
    sys.stderr.write(f"locbench{who}: {' '.join(message.split())}\n")
    return code


def _console():
    from locbench.cli.progress import terminal

    return terminal()


def _store(runs: Path | None):
    from locbench.paths import runs_dir
    from locbench.runs.store import Store

    return Store(runs or runs_dir())


@app.command("list")
def list_(
    what: Annotated[
        str, typer.Argument(help="tables, recipes, rules, networks, datasets, runs")
    ] = ("tables"),
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """What there is: tables, recipes, rules, networks, data sets, or runs."""
    from locbench.cli.listing import listing, print_listing

    found = listing(what, _store(runs))
    if as_json:
        _, columns, rows = found
        typer.echo(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=1))
    else:
        print_listing(found, _console())


@app.command()
def show(table: str, paper: Paper = None, as_json: Json = False) -> None:
    """Print a published table as the paper lays it out, with its sources and claims."""
    from locbench.cli.listing import published_json, published_table
    from locbench.published.load import load_table, resolve_name

    found = load_table(resolve_name(table, paper))
    if as_json:
        typer.echo(json.dumps(published_json(found), indent=1))
        return
    published_table(found, _console())


@app.command()
def reproduce(
    tables: Annotated[list[str], typer.Argument(help="One table, or several.")],
    paper: Paper = None,
    scale: Scale = "smoke",
    rows: Annotated[
        str | None, typer.Option(help="Only rows with these words: loco,gim or 'resnet-32 d=2'.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            help="Only this column, or those with these words; all: also what smoke omits."
        ),
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(help="Further rows: a rule's name or a .py file; may be given again."),
    ] = None,
    seeds: Seeds = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show runs, hours, disk.")] = False,
    fresh: Fresh = False,
    format: Format = "rich",
    data_root: DataRoot = None,
    runs: Runs = None,
    device: Device = "auto",
    set_: Sets = None,
) -> None:
    """Train and measure what tables need, then show it beside the published numbers."""
    check_words(format, device)
    from locbench.cli import actions as commands
    from locbench.published.load import load_table, resolve_name
    from locbench.recipes.validation import parse_overrides
    from locbench.runs.executor import failure
    from locbench.runs.plan import Options, make_plan
    from locbench.runs.spec import unique

    overrides = parse_overrides(set_ or [])
    options = Options(
        scale=scale,
        rows=rows,
        columns=columns,
        seeds=seeds,
        data_root=data_root,
        overrides=overrides,
        assume_data=dry_run,
        rules=rule or (),
        device=device,
    )
    names = list(dict.fromkeys(resolve_name(table, paper) for table in tables))
    plans, store = [make_plan(load_table(name), options) for name in names], _store(runs)
    if dry_run:
        for plan in plans:
            commands.show_plan(plan, store, fresh, format == "json", _console())
        return
    specs = unique([spec for plan in plans for spec in plan.runs()])
    if fresh:
        commands.set_aside(specs, store)
    for plan in plans:
        commands.announce(plan, store)
    failures = commands.run(specs, store, data_root, device)
    typer.echo("\n".join(commands.render(plan, store, format) for plan in plans), nl=False)
    if failures:
        raise failure(failures)


@app.command()
def pretrain(
    recipe: str,
    rule: Rule,
    network: Annotated[str, typer.Option(help="Network; see `locbench list networks`.")],
    scale: Scale = "smoke",
    seed: Seed = 1234,
    data_root: DataRoot = None,
    runs: Runs = None,
    device: Device = "auto",
    fresh: Fresh = False,
    set_: Sets = None,
    as_json: Json = False,
) -> None:
    """Pretrain a network with a rule; leaves a record and the encoder's weights."""
    check_words(device=device)
    from locbench.cli import actions as commands
    from locbench.plugins.rule_files import rule_name
    from locbench.recipes.load import load_recipe
    from locbench.recipes.validation import parse_overrides

    name = rule_name(rule)
    settings = load_recipe(recipe, scale, parse_overrides(set_ or []))
    spec = commands.plan_training(
        settings, name, network, seed=seed, data_root=data_root, device=device
    )
    _carry_out(spec, _store(runs), data_root, device, fresh, as_json)


@app.command()
def probe(
    run: Annotated[str, typer.Argument(help="A run's id or its beginning, or an encoder file.")],
    profile: Annotated[str | None, typer.Option(help="loco (the paper's) or moco.")] = None,
    blocks: Annotated[str | None, typer.Option(help="last or all.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="For an encoder file: the recipe (default loco/imagenet).")
    ] = None,
    network: Annotated[str | None, typer.Option(help="For an encoder file: its network.")] = None,
    scale: Annotated[
        str | None, typer.Option(help="For an encoder file: smoke (default), small or paper.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="For an encoder file: seed of the probe (default 1234).")
    ] = None,
    data_root: DataRoot = None,
    runs: Runs = None,
    device: Device = "auto",
    fresh: Fresh = False,
    set_: Sets = None,
    as_json: Json = False,
) -> None:
    """Linear probe of a run's encoder or of an encoder file."""
    check_words(device=device)
    from locbench.cli import actions as commands
    from locbench.recipes.validation import parse_overrides

    overrides: dict[str, Any] = parse_overrides(set_ or [])
    overrides |= {"probe.profile": profile} if profile else {}
    overrides |= {"probe.blocks": blocks} if blocks else {}
    store = _store(runs)
    of_file = {"recipe": recipe, "network": network, "scale": scale, "seed": seed}
    given = {key: value for key, value in of_file.items() if value is not None}
    if Path(run).suffix in commands.ENCODER_SUFFIXES:
        spec = commands.plan_file_probe(Path(run), data_root, overrides, **given)
    elif given:
        raise UserError(f"--{next(iter(given))} is for encoder files: a run brings its own")
    else:
        spec = commands.plan_run_probe(run, store, overrides)
    _carry_out(spec, store, data_root, device, fresh, as_json)


@app.command()
def downstream(
    data: Annotated[str, typer.Argument(help="coco, cityscapes, coco-10k, coco-1k or shapes.")],
    frozen: Annotated[
        bool | None,
        typer.Option("--frozen/--trained", help="Train none, or all but stage 1."),
    ] = None,
    from_: Annotated[
        str | None, typer.Option("--from", help="A run's id or its beginning, or an encoder file.")
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option(
            help="What pretrains the backbone (default loco), or untrained; a .py file is a rule."
        ),
    ] = None,
    network: Annotated[str | None, typer.Option(help="The backbone (default resnet50).")] = None,
    scale: Annotated[
        str | None, typer.Option(help="smoke (default), small or paper; a run brings its own.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Default 1234; a run brings its own.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="So many from there; default 1.")] = None,
    beside: Annotated[
        bool | None,
        typer.Option(
            "--beside/--alone",
            help="Also on an untrained backbone; the default where all of it is frozen, but at "
            "paper.",
        ),
    ] = None,
    data_root: DataRoot = None,
    runs: Runs = None,
    device: Device = "auto",
    fresh: Fresh = False,
    set_: Sets = None,
    as_json: Json = False,
) -> None:
    """Mask R-CNN on a pretrained backbone, through mmdetection; beside it on an untrained one.

    The backbone is the one that --from gives, or else what the rule pretrains at that scale.
    """
    check_words(device=device)
    from locbench.cli import downstream as transfer
    from locbench.plugins.entry import UNTRAINED
    from locbench.plugins.rule_files import rule_name
    from locbench.recipes.validation import parse_overrides

    store = _store(runs)
    rule = rule if rule in (None, UNTRAINED) else rule_name(rule)
    overrides = parse_overrides(set_ or [])
    asked = transfer.Asked(
        data, frozen, rule, network, scale, seed, seeds, beside, device, overrides
    )
    plan = transfer.plan(asked, from_, store, data_root)
    transfer.carry_out(plan, store, data_root, device, fresh, as_json, _console())


app.add_typer(data_app, name="data")
app.command()(cost)


def _carry_out(
    spec: Any, store: Any, data_root: Path | None, device: str, fresh: bool, as_json: bool
) -> None:
    """Carry out one run and print what came of it."""
    from locbench.cli import actions as commands

    if fresh:
        commands.set_aside([spec], store)
    record = commands.run_with_parents(spec, store, data_root, device)
    if as_json:
        typer.echo(record.to_json(), nl=False)
    else:
        commands.print_record(record, store, _console())


@app.command()
def audit(
    rule: Annotated[str, typer.Argument(help="A rule's name, or a .py file that holds one.")],
    network: str,
    width: Annotated[float, typer.Option(help="Width of the network.")] = 1.0,
    blocks: Annotated[int, typer.Option(help="Blocks a stage; 0 as published.")] = 0,
    depth: Annotated[
        int | None, typer.Option(help="Depth d of auxiliary networks: --set rule.depth=D.")
    ] = None,
    set_: Sets = None,
    as_json: Json = False,
) -> None:
    """Which stages each unit's loss reaches, by plain autograd; exit code 1 if it leaks."""
    from locbench.cli.actions import audit_report
    from locbench.plugins.rule_files import rule_name

    name = rule_name(rule)
    sets = [*(set_ or []), *([] if depth is None else [f"rule.depth={depth}"])]
    holds = audit_report(name, network, width, blocks, sets, as_json, _console())
    if not holds:
        raise CheckFailed(f"audit of {name} on {network} failed; see the table above")


@app.command()
def diff(
    table: str,
    paper: Paper = None,
    scale: Scale = "smoke",
    seeds: Seeds = 1,
    data_root: DataRoot = None,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """What is measured here beside the committed reference results, cell by cell."""
    from locbench.cli.check import diff_report

    diff_report(table, paper, scale, seeds, data_root, _store(runs), as_json, _console())


@app.command()
def check(
    tables: Annotated[
        list[str] | None, typer.Argument(help="Tables (default: those in results/).")
    ] = None,
    runs: Runs = None,
    device: Device = "auto",
    no_run: Annotated[bool, typer.Option("--no-run", help="Compare only; train nothing.")] = False,
    update: Annotated[bool, typer.Option("--update", help="Accept as the new reference.")] = False,
    exact: Annotated[
        bool, typer.Option("--exact", help="Every number bit by bit, as of one machine.")
    ] = False,
    against: Annotated[
        Path | None, typer.Option(help="Compare with this folder of runs, not with results/.")
    ] = None,
    complete: Annotated[
        bool, typer.Option("--complete", help="A run that is missing fails, too.")
    ] = False,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """For CI: fresh smoke records against results/; exit code 1 if a number moved."""
    check_words(device=device)
    from locbench.cli.check import CheckOptions, check_report

    if no_run and fresh:
        raise UserError("--fresh with --no-run would leave nothing to compare: leave one out")
    options = CheckOptions(device, no_run, update, fresh, exact, complete, against)
    check_report(tables or [], _store(runs), options, as_json=as_json, out=_console())


@app.command()
def doctor(as_json: Json = False) -> None:
    """What this machine has and lacks for locbench; exit code 1 if something must be mended."""
    from locbench.cli.doctor import examine

    checks = examine()
    if as_json:
        typer.echo(json.dumps([vars(c) for c in checks], indent=1))
    else:
        from locbench.cli.listing import print_checks

        print_checks(checks, _console())
    if any(c.status == "fail" for c in checks):
        raise CheckFailed("something has to be mended: see the lines marked fail")
