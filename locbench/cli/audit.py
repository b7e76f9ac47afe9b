"""`locbench audit`: which blocks each unit's loss reaches, as a table. Torch is imported late."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from locbench.cli.options import Json, Sets
from locbench.errors import CheckFailed

if TYPE_CHECKING:
    from rich.console import Console

    from locbench.evaluation.audit import Audit


def audit(
    rule: Annotated[str, Argument(help="A rule's name, or a .py file that holds one.")],
    network: str,
    width: Annotated[float, Option(help="Width of the network.")] = 1.0,
    blocks: Annotated[int, Option(help="Blocks a stage; 0 as published.")] = 0,
    depth: Annotated[
        int | None, Option(help="Depth d of auxiliary networks: --set rule.depth=D.")
    ] = None,
    set_: Sets = None,
    as_json: Json = False,
) -> None:
    """Which stages each unit's loss reaches, by plain autograd; exit code 1 if it leaks."""
    from locbench.evaluation.audit import audit as examine
    from locbench.plugins.rule_files import rule_name
    from locbench.recipes.schema import Network
    from locbench.recipes.validation import parse_overrides
    from locbench.report.grid import terminal

    name = rule_name(rule)
    sets = [*(set_ or []), *([] if depth is None else [f"rule.depth={depth}"])]
    settings = {k.removeprefix("rule."): v for k, v in parse_overrides(sets).items()}
    result = examine(name, network, Network(width=width, blocks=blocks), settings)
    if as_json:
        text = json.dumps({**asdict(result), "holds": result.holds})
        # JSON has no word for what is not finite.
        terminal().print_json(data=json.loads(text, parse_constant=lambda word: None))
    else:
        _print(result, f"{name} on {network}", terminal())
    if not result.holds:
        raise CheckFailed(f"audit of {name} on {network} failed; see the table above")


def _print(result: Audit, title: str, console: Console) -> None:
    from locbench.report.grid import Column, columns, print_grid

    stages = range(1, 1 + len(result.units[0].gradients))
    heads = ["unit", "auxiliary network", *(f"stage {k}" for k in stages)]
    rows = []
    for unit in result.units:
        pairs = zip(unit.gradients, unit.tied, strict=True)
        cells = [f"{g:.2e}{' tied' if t else ''}" if g else "0" for g, t in pairs]
        rows.append((unit.unit, unit.auxiliary, *cells))
    holds = ["yes" if unit.holds else "NO" for unit in result.units]
    last = Column("holds", holds, styles=["" if unit.holds else "red" for unit in result.units])
    title = f"{title}: largest gradient of each unit's loss, by plain autograd"
    print_grid([*columns(heads, rows, words=(0, 1)), last], console, title=title)
    if any(any(unit.tied) for unit in result.units):
        console.print("tied: a penalty reaches these blocks, which another unit updates as well.")
    for unit in result.units:
        for block, parameter in unit.leaks.items():
            console.print(f"{unit.unit}: reaches block {block + 1}, which it must not: {parameter}")
        for block, parameter in unit.gaps.items():
            console.print(f"{unit.unit}: leaves block {block + 1} without a gradient: {parameter}")
    where = f", at {result.worst}" if result.engine_error else ""
    console.print(
        f"float64; 0 is exactly zero. The engine's gradients differ from the sum of the units' by "
        f"at most {result.engine_error:.1e} of a unit's largest gradient{where}."
        if result.worst
        else "The engine took no step: a loss does not reach all of its unit."
    )
