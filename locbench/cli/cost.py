"""`locbench cost`: its options; `locbench.report.cost` counts. Torch is imported late."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from locbench.cli.options import Device, Json, Scale, Sets


def cost(
    network: str,
    rule: Annotated[
        list[str],
        Option(
            help="A rule's name or a .py file, with settings behind a colon "
            "(auglocal:depth=2,decay=1); may be given again."
        ),
    ],
    depth: Annotated[
        int | None, Option(help="Depth d of auxiliary networks: --set rule.depth=D.")
    ] = None,
    batch: Annotated[
        int | None, Option(min=2, help="Images a step; the default is the recipe's.")
    ] = None,
    measure: Annotated[
        bool, Option("--measure", help="Also run steps on this machine: time and memory.")
    ] = False,
    plot: Annotated[
        Path | None, Option(help="Draw the bytes kept over a step to this file.")
    ] = None,
    each: Annotated[str, Option(help="Rows of the table: stage or block.")] = "stage",
    recipe: Annotated[str | None, Option(help="The default is that of the papers' tables.")] = None,
    scale: Scale = "paper",
    device: Device = "auto",
    set_: Sets = None,
    as_json: Json = False,
) -> None:
    """What training a network with a rule costs: operations, memory and, if measured, time."""
    from locbench.recipes.validation import parse_overrides
    from locbench.report.cost import CostOptions, carry_out
    from locbench.report.grid import terminal

    options = CostOptions(
        network=network,
        rules=tuple(rule),
        recipe=recipe,
        scale=scale,
        batch=batch,
        depth=depth,
        overrides=parse_overrides(set_ or []),
        each=each,
        measure=measure,
        device=device,
    )
    carry_out(options, plot=plot, as_json=as_json, out=terminal())
