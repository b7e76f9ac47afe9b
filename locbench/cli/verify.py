"""`locbench verify`: its options, and what it prints; `locbench.runs.verify` checks."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument

from locbench.cli.options import Json, Runs

if TYPE_CHECKING:
    from rich.console import Console

    from locbench.runs.store import Store
    from locbench.runs.verify import Verification


def verify(
    records: Annotated[
        list[str] | None,
        Argument(help="Run ids, record.json files, or folders of runs (default: all of --runs)."),
    ] = None,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Check that records are as they were written, and fit recipe, curves, weights and commit.

    Exit code 1 where one fails.
    """
    from dataclasses import asdict

    from locbench.errors import CheckFailed
    from locbench.paths import runs_dir
    from locbench.report.grid import terminal
    from locbench.runs.store import Store
    from locbench.runs.verify import verify as verified

    store = Store(runs or runs_dir())
    paths = [path for record in records or [str(store.root)] for path in _files(record, store)]
    results = [verified(path) for path in dict.fromkeys(paths)]
    if as_json:
        typer.echo(
            json.dumps([{**asdict(result), "ok": result.ok} for result in results], indent=1)
        )
    else:
        _print(results, terminal())
    if bad := [result for result in results if not result.ok]:
        more = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise CheckFailed(f"{bad[0].run} is not as it should be{more}")


def _files(name: str, store: Store) -> list[Path]:
    """The files of a record, of a folder of runs, or of a run in the store."""
    from locbench.errors import UserError

    path = Path(name)
    if path.is_file():
        return [path.resolve()]
    if (path / "record.json").is_file():
        return [(path / "record.json").resolve()]
    if path.is_dir() or path == store.root:
        if files := sorted(path.resolve().glob("*/record.json")):
            return files
        raise UserError(f"{path}: there is no record.json in it, nor in a folder of it")
    return [store.path(store.find_id(name))]


def _print(results: list[Verification], out: Console) -> None:
    """All checks of a single record; of several what failed, and how often else what was noted."""
    from rich.text import Text

    styles = {"ok": "green", "failed": "red", "note": "yellow"}
    for result in results:
        if len(results) > 1 and result.ok:
            continue
        out.print(Text(result.run, style="bold"), soft_wrap=True)
        for check in result.checks:
            if len(results) == 1 or check.outcome == "failed":
                mark = Text(f"  {check.outcome:<8}", style=styles[check.outcome])
                out.print(
                    Text.assemble(mark, f"{check.name:<10}{check.detail}".rstrip()), soft_wrap=True
                )
    if len(results) == 1:
        return
    notes = [(c.name, c.detail) for r in results for c in r.checks if c.outcome == "note"]
    for (name, detail), count in Counter(notes).items():
        out.print(f"{count} noted, {name}: {detail}", soft_wrap=True)
    good = sum(result.ok for result in results)
    out.print(f"{len(results)} records: {good} ok, {len(results) - good} failed")
