"""Options that several commands share, and the check of what they say. Needs no torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from locbench.errors import UserError

Scale = Annotated[str, typer.Option(help="smoke (minutes, built-in data), small, or paper.")]
DataRoot = Annotated[Path | None, typer.Option(help="Folder with the data sets.")]
Runs = Annotated[Path | None, typer.Option(help="Folder of the records (default ./runs).")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="Override a recipe value: optimizer.lr=0.4.")
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Run again what has a record; that is moved aside.")
]
Format = Annotated[str, typer.Option("--format", help="rich, md, csv, json or latex.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]
Paper = Annotated[str | None, typer.Option(help="loco or auglocal.")]
Seed = Annotated[int, typer.Option(help="Seed of the run.")]
SEEDS_HELP = "Runs a cell; mean, sample standard deviation and n of them."
Seeds = Annotated[int, typer.Option(min=1, help=SEEDS_HELP)]
Rule = Annotated[
    str, typer.Option(help="Learning rule: a name (see `locbench list rules`) or a .py file.")
]


def check_words(format: str = "rich", device: str = "auto") -> None:
    """Refuse a misspelt format or device before anything is computed, without importing torch."""
    from locbench.plugins.entry import suggest
    from locbench.report.formats import FORMATS

    if format not in FORMATS:
        raise UserError(f"unknown format '{format}'{suggest(format, FORMATS)}")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UserError(f"--device {device} is no device; use auto, cpu, cuda or cuda:N")
