"""Options that several commands share, checked as they are read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from typer import Option

from locbench.errors import UserError


def check_device(device: str) -> str:
    """Refuse a misspelt device before anything is computed, without importing torch."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UserError(f"--device {device} is no device; use auto, cpu, cuda or cuda:N")
    return device


def check_format(format: str) -> str:
    """Refuse a misspelt format before anything is computed."""
    from locbench.plugins.entry import suggest
    from locbench.report.formats import FORMATS

    if format not in FORMATS:
        raise UserError(f"unknown format '{format}'{suggest(format, FORMATS)}")
    return format


Scale = Annotated[str, Option(help="smoke (minutes, built-in data), small, or paper.")]
DataRoot = Annotated[Path | None, Option(help="Folder with the data sets.")]
Runs = Annotated[Path | None, Option(help="Folder of the records (default ./runs).")]
Device = Annotated[str, Option(help="auto, cpu, cuda or cuda:N.", callback=check_device)]
Sets = Annotated[
    list[str] | None, Option("--set", help="Override a recipe value: optimizer.lr=0.4.")
]
Fresh = Annotated[bool, Option("--fresh", help="Run again what has a record; that is moved aside.")]
Format = Annotated[
    str, Option("--format", help="rich, md, csv, json or latex.", callback=check_format)
]
Json = Annotated[bool, Option("--json", help="Print JSON for a program.")]
Paper = Annotated[str | None, Option(help="loco or auglocal.")]
Seed = Annotated[int, Option(help="Seed of the run.")]
Seeds = Annotated[
    int, Option(min=1, help="Runs a cell; mean, sample standard deviation and n of them.")
]
Rule = Annotated[
    str, Option(help="Learning rule: a name (see `locbench list rules`) or a .py file.")
]
