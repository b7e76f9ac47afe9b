"""`locbench cost`: what it takes on the command line. No torch import at module level."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from locbench.cli.options import Device, Json, Scale, Sets, check_words


def cost(
    network: str,
    rule: Annotated[
        list[str],
        typer.Option(
            help="A rule's name or a .py file, with settings behind a colon "
            "(auglocal:depth=2,decay=1); may be given again."
        ),
    ],
    depth: Annotated[
        int | None, typer.Option(help="Depth d of auxiliary networks: --set rule.depth=D.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=2, help="Images a step; the default is the recipe's.")
    ] = None,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Also run steps on this machine: time and memory."),
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the bytes kept over a step to this file.")
    ] = None,
    each: Annotated[str, typer.Option(help="Rows of the table: stage or block.")] = "stage",
    recipe: Annotated[
        str | None, typer.Option(help="The default is that of the papers' tables.")
    ] = None,
    scale: Scale = "paper",
    device: Device = "auto",
    set_: Sets = None,
    as_json: Json = False,
) -> None:
    """What training a network with a rule costs: operations, memory and, if measured, time."""
    check_words(device=device)
    from locbench.cli.progress import terminal
    from locbench.recipes.validation import parse_overrides
    from locbench.report import cost as costing

    overrides = parse_overrides(set_ or [])
    asked = costing.Asked(
        network, tuple(rule), recipe, scale, batch, depth, overrides, each, measure, device
    )
    costing.carry_out(asked, plot, as_json, terminal())
