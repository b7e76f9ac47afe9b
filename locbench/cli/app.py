"""Commands of `locbench`: parse, call, print. Heavy imports wait, so that help is quick."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from locbench.cli.audit import audit
from locbench.cli.cost import cost
from locbench.cli.data import data_app
from locbench.cli.doctor import doctor
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
)
from locbench.cli.verify import verify
from locbench.errors import UserError

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
    from locbench.report.grid import terminal

    return terminal()


def _store(runs: Path | None):
    from locbench.paths import runs_dir
    from locbench.runs.store import Store

    return Store(runs or runs_dir())


@app.command("list")
def list_(
    what: Annotated[str, Argument(help="tables, recipes, rules, networks, datasets, runs")] = (
        "tables"
    ),
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """What there is: tables, recipes, rules, networks, data sets, or runs."""
    from locbench.cli.listing import listing, print_listing

    title, columns, rows = listing(what, _store(runs))
    if as_json:
        typer.echo(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=1))
    else:
        print_listing((title, columns, rows), _console())


@app.command()
def show(table: str, paper: Paper = None, as_json: Json = False) -> None:
    """Print a published table as the paper lays it out, with its sources and claims."""
    from locbench.cli.listing import print_published, published_json
    from locbench.published.load import load_table, resolve_name

    published = load_table(resolve_name(table, paper))
    if as_json:
        typer.echo(json.dumps(published_json(published), indent=1))
    else:
        print_published(published, _console())


@app.command()
def reproduce(
    tables: Annotated[list[str], Argument(help="One table, or several.")],
    paper: Paper = None,
    scale: Scale = "smoke",
    rows: Annotated[
        str | None, Option(help="Only rows with these words: loco,gim or 'resnet-32 d=2'.")
    ] = None,
    columns: Annotated[
        str | None,
        Option(help="Only this column, or those with these words; all: also what smoke omits."),
    ] = None,
    rule: Annotated[
        list[str] | None,
        Option(help="Further rows: a rule's name or a .py file; may be given again."),
    ] = None,
    seeds: Seeds = 1,
    dry_run: Annotated[bool, Option("--dry-run", help="Show runs, hours, disk.")] = False,
    fresh: Fresh = False,
    format: Format = "rich",
    data_root: DataRoot = None,
    runs: Runs = None,
    device: Device = "auto",
    set_: Sets = None,
) -> None:
    """Train and measure what tables need, then show it beside the published numbers."""
    from locbench.cli.actions import announce, print_plan, run, set_aside, without_broken
    from locbench.published.load import load_table, resolve_name
    from locbench.recipes.validation import parse_overrides
    from locbench.report.formats import render
    from locbench.runs.executor import failure
    from locbench.runs.plan import Options, make_plan
    from locbench.runs.spec import unique

    options = Options(
        scale=scale,
        rows=rows,
        columns=columns,
        seeds=seeds,
        data_root=data_root,
        overrides=parse_overrides(set_ or []),
        assume_data=dry_run,
        rules=rule or (),
        device=device,
    )
    names = dict.fromkeys(resolve_name(table, paper) for table in tables)
    plans, store = [make_plan(load_table(name), options) for name in names], _store(runs)
    if fresh and not dry_run:
        set_aside(unique([spec for plan in plans for spec in plan.runs()]), store)
    broken = []
    if not (fresh and dry_run):
        plans, broken = without_broken(plans, store)
    if dry_run:
        for plan in plans:
            print_plan(plan, store, fresh=fresh, as_json=format == "json", out=_console())
        if broken:
            raise failure(broken)
        return
    specs = unique([spec for plan in plans for spec in plan.runs()])
    for plan in plans:
        announce(plan, store)
    failures = broken + run(specs, store, data_root=data_root, device=device)
    typer.echo("\n".join(render(plan, store, format) for plan in plans), nl=False)
    if failures:
        raise failure(failures)


@app.command()
def pretrain(
    recipe: str,
    rule: Rule,
    network: Annotated[str, Option(help="Network; see `locbench list networks`.")],
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
    from locbench.cli.single import plan_training
    from locbench.plugins.rule_files import rule_name
    from locbench.recipes.load import load_recipe
    from locbench.recipes.validation import parse_overrides

    name = rule_name(rule)
    settings = load_recipe(recipe, scale, parse_overrides(set_ or []))
    spec = plan_training(settings, name, network, seed=seed, data_root=data_root, device=device)
    _carry_out(spec, _store(runs), data_root, device, fresh, as_json)


@app.command()
def probe(
    run: Annotated[str, Argument(help="A run's id or its beginning, or an encoder file.")],
    profile: Annotated[str | None, Option(help="loco (the paper's) or moco.")] = None,
    blocks: Annotated[str | None, Option(help="last or all.")] = None,
    recipe: Annotated[
        str | None, Option(help="For an encoder file: the recipe (default loco/imagenet).")
    ] = None,
    network: Annotated[str | None, Option(help="For an encoder file: its network.")] = None,
    scale: Annotated[
        str | None, Option(help="For an encoder file: smoke (default), small or paper.")
    ] = None,
    seed: Annotated[
        int | None, Option(help="For an encoder file: seed of the probe (default 1234).")
    ] = None,
    data_root: DataRoot = None,
    runs: Runs = None,
    device: Device = "auto",
    fresh: Fresh = False,
    set_: Sets = None,
    as_json: Json = False,
) -> None:
    """Linear probe of a run's encoder or of an encoder file."""
    from locbench.cli import single
    from locbench.recipes.validation import parse_overrides

    overrides: dict[str, Any] = parse_overrides(set_ or [])
    overrides |= {"probe.profile": profile} if profile else {}
    overrides |= {"probe.blocks": blocks} if blocks else {}
    store = _store(runs)
    of_file = {"recipe": recipe, "network": network, "scale": scale, "seed": seed}
    given = {key: value for key, value in of_file.items() if value is not None}
    if Path(run).suffix in single.ENCODER_SUFFIXES:
        spec = single.plan_file_probe(Path(run), data_root=data_root, overrides=overrides, **given)
    elif given:
        raise UserError(f"--{next(iter(given))} is for encoder files: a run brings its own")
    else:
        spec = single.plan_run_probe(run, store, overrides)
    _carry_out(spec, store, data_root, device, fresh, as_json)


@app.command()
def downstream(
    data: Annotated[str, Argument(help="coco, cityscapes, coco-10k, coco-1k or shapes.")],
    frozen: Annotated[
        bool | None, Option("--frozen/--trained", help="Train none, or all but stage 1.")
    ] = None,
    from_: Annotated[
        str | None, Option("--from", help="A run's id or its beginning, or an encoder file.")
    ] = None,
    rule: Annotated[
        str | None,
        Option(
            help="What pretrains the backbone (default loco), or untrained; a .py file is a rule."
        ),
    ] = None,
    network: Annotated[str | None, Option(help="The backbone (default resnet50).")] = None,
    scale: Annotated[
        str | None, Option(help="smoke (default), small or paper; a run brings its own.")
    ] = None,
    seed: Annotated[int | None, Option(help="Default 1234; a run brings its own.")] = None,
    seeds: Annotated[int | None, Option(min=1, help="So many from there; default 1.")] = None,
    beside: Annotated[
        bool | None,
        Option(
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
    from locbench.cli import downstream as detection
    from locbench.plugins.entry import UNTRAINED
    from locbench.plugins.rule_files import rule_name
    from locbench.recipes.validation import parse_overrides

    options = detection.DownstreamOptions(
        data=data,
        source=from_,
        frozen=frozen,
        rule=rule if rule in (None, UNTRAINED) else rule_name(rule),
        network=network,
        scale=scale,
        seed=seed,
        seeds=seeds,
        beside=beside,
        device=device,
        data_root=data_root,
        overrides=parse_overrides(set_ or []),
    )
    detection.carry_out(options, _store(runs), fresh=fresh, as_json=as_json, out=_console())


app.add_typer(data_app, name="data")
app.command()(cost)
app.command()(audit)


def _carry_out(
    spec: Any, store: Any, data_root: Path | None, device: str, fresh: bool, as_json: bool
) -> None:
    """Carry out one run and those it needs, and print what came of it."""
    from locbench.cli.actions import run, set_aside
    from locbench.cli.single import print_record
    from locbench.runs.executor import failure

    if fresh:
        set_aside([spec], store)
    failures = run(spec.with_ancestors(), store, data_root=data_root, device=device)
    if failures:
        raise failure(failures)
    record = store.load(spec.id)
    if as_json:
        typer.echo(record.to_json(), nl=False)
    else:
        print_record(record, store, _console())


@app.command()
def diff(
    table: str,
    paper: Paper = None,
    scale: Scale = "smoke",
    seeds: Seeds = 1,
    data_root: DataRoot = None,
    runs: Runs = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """What is measured here beside the committed reference results, cell by cell."""
    from locbench.cli.check import print_diff
    from locbench.published.load import load_table, resolve_name
    from locbench.runs.plan import Options, make_plan

    options = Options(scale=scale, seeds=seeds, data_root=data_root, device=device)
    plan = make_plan(load_table(resolve_name(table, paper)), options)
    print_diff(plan, _store(runs), as_json=as_json, out=_console())


@app.command()
def check(
    tables: Annotated[
        list[str] | None, Argument(help="Tables (default: those in results/).")
    ] = None,
    runs: Runs = None,
    device: Device = "auto",
    no_run: Annotated[bool, Option("--no-run", help="Compare only; train nothing.")] = False,
    update: Annotated[bool, Option("--update", help="Accept as the new reference.")] = False,
    exact: Annotated[
        bool, Option("--exact", help="Every number bit by bit, as of one machine.")
    ] = False,
    against: Annotated[
        Path | None, Option(help="Compare with this folder of runs, not with results/.")
    ] = None,
    complete: Annotated[
        bool, Option("--complete", help="A run that is missing fails, too.")
    ] = False,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """For CI: fresh smoke records against results/; exit code 1 if a number moved."""
    from locbench.cli.check import CheckOptions, check_report

    if no_run and fresh:
        raise UserError("--fresh with --no-run would leave nothing to compare: leave one out")
    options = CheckOptions(
        device=device,
        no_run=no_run,
        update=update,
        fresh=fresh,
        exact=exact,
        complete=complete,
        against=against,
    )
    check_report(tables or [], _store(runs), options, as_json=as_json, out=_console())


app.command()(verify)
app.command()(doctor)
