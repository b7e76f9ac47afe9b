"""What a person sees while runs go on: progress bars with time left and the current loss."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from locbench.records import Record
    from locbench.runs import RunSpec

stderr = Console(stderr=True, highlight=False)


def describe(spec: RunSpec) -> str:
    """A run in a few words."""
    if spec.kind == "pixels":
        return "pixels, logistic regression"
    what = spec.kind if spec.kind == "pretrain" else f"probe ({spec.recipe.probe.profile})"
    return f"{what} {spec.rule} {spec.network}"


def outcome(record: Record) -> str:
    """A finished run in a few words."""
    if "top1" in record.metrics:
        return f"top-1 {record.metrics['top1']['last']:.1f} %"
    losses = [f"{v['last']:.3f}" for k, v in record.metrics.items() if k.startswith("loss of ")]
    return f"loss {' '.join(losses)}"


@contextmanager
def progress_of_runs(total: int):
    """Bars on stderr, one line a finished run; yields (progress factory, done callback)."""
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.fields[count]}"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
        console=stderr,
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    state = {"n": 0, "task": None}

    def start(spec: RunSpec) -> Callable[[int, int, dict[str, float]], None]:
        if state["task"] is not None:
            bar.remove_task(state["task"])
        count = f"{state['n'] + 1}/{total}"
        task = bar.add_task(describe(spec), total=None, count=count, figures="")
        state["task"] = task

        def update(done: int, of: int, figures: dict[str, float]) -> None:
            shown = " ".join(f"{value:.2f}" for value in figures.values())
            name = "loss" if spec.kind == "pretrain" else "top-1"
            bar.update(task, completed=done, total=of, figures=f"{name} {shown}")

        return update

    def done(spec: RunSpec, record: Record) -> None:
        state["n"] += 1
        seconds = record.cost.get("wall_time_s", 0)
        stderr.print(
            f"[dim]{state['n']:>3}/{total}[/dim] {describe(spec):<38} {outcome(record):<32} "
            f"[dim]{seconds:>6.0f} s[/dim]"
        )

    with bar:
        yield start, done
