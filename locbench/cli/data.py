"""`locbench data`: preparing data sets. Torch is imported late."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

data_app = typer.Typer(help="Prepare data sets.", rich_markup_mode=None)


@data_app.callback(invoke_without_command=True)
def data(context: typer.Context) -> None:
    """Prepare data sets."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@data_app.command("cityscapes-to-coco")
def cityscapes_to_coco(
    folder: Annotated[Path, typer.Argument(help="With gtFine/ and leftImg8bit/ in it.")],
) -> None:
    """Write Cityscapes' ground truth in COCO's format beside it."""
    from locbench.cli.progress import watching
    from locbench.evaluation.downstream.cityscapes import convert

    with watching(0) as watch:
        written = convert(folder, watch.preparing)
    for path in written:
        typer.echo(path)
