"""Progress of runs on stderr: bars with time left and the current loss, or a line a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from locbench.distributed import group as processes
from locbench.report.grid import terminal

if TYPE_CHECKING:
    from locbench.runs.record import Record
    from locbench.runs.spec import RunSpec

Update = Callable[[int, int, dict[str, float]], None]


def say(text: str) -> None:
    """A line on stderr: stdout is for results. Under torchrun from the first process only."""
    if not processes.launch_rank():
        terminal(stderr=True).print(text, markup=False)


def current(figures: dict[str, float]) -> str:
    """Losses and top-1 as a bar shows them; of more than four units the last one's loss.

    That is the network's own classifier's, where a rule trains it.
    """
    losses = [f"{value:.2f}" for key, value in figures.items() if key != "top1"]
    words = []
    if losses:
        words = ["loss", *losses] if len(losses) <= 4 else ["last loss", losses[-1]]
    if "top1" in figures:
        words += ["top-1", f"{figures['top1']:.1f} %"]
    return " ".join(words)


class Watch:
    """Tells a person how runs go on: bars on a terminal, else a line for each finished run."""

    def __init__(self, bar: Progress, console: Console, total: int) -> None:
        self.bar, self.console, self.total = bar, console, total
        self.finished = 0
        self._run: TaskID | None = None
        self._data: dict[str, TaskID] = {}

    def start(self, spec: RunSpec) -> Update:
        """A run begins; what is returned takes steps done, steps in all, and current figures."""
        if self._run is not None:
            self.bar.remove_task(self._run)
        count = f"{self.finished + 1}/{self.total}"
        task = self._run = self.bar.add_task(
            spec.of.describe(spec), total=None, count=count, figures=""
        )

        def update(done: int, of: int, figures: dict[str, float]) -> None:
            self.bar.update(task, completed=done, total=of, figures=current(figures))

        return update

    def preparing(self, what: str, done: int, total: int) -> None:
        """Data is being drawn or decoded; without a bar, a line when it begins."""
        if what not in self._data:
            self._data[what] = self.bar.add_task(what, total=total, count="", figures="")
            if self.bar.disable:
                self.console.print(f"{what}: {total:,} images", markup=False)
        task = self._data[what]
        self.bar.update(task, completed=done, visible=done < total)

    def done(self, spec: RunSpec, record: Record) -> None:
        """A run has ended: its line stays."""
        self.finished += 1
        seconds = record.cost.get("wall_time_s", 0)
        self.console.print(
            f"[dim]{self.finished:>3}/{self.total}[/dim] {spec.of.describe(spec):<46} "
            f"{spec.of.outcome(record):<28} [dim]{seconds:>6.0f} s[/dim]"
        )


@contextmanager
def watching(total: int) -> Iterator[Watch]:
    """A `Watch` over so many runs, on stderr."""
    console = terminal(stderr=True)
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
        console=console,
        transient=True,
        disable=not console.is_terminal or processes.launch_rank() > 0,
    )
    with bar:
        yield Watch(bar, console, total)
