"""What a person sees while runs go on: progress bars with time left and the current loss."""

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
from locbench.runs.spec import COSTS, FIRST_SEED, MEASURED, TRAINED

if TYPE_CHECKING:
    from locbench.runs.record import Record
    from locbench.runs.spec import RunSpec

Update = Callable[[int, int, dict[str, float]], None]


MOST_LOSSES = 4
COST_WORDS = {
    "cost": "count operations,",
    "trace": "trace a step,",
    "measure": "measure steps,",
    "gpu": "measure steps on a GPU,",
}


def say(text: str) -> None:
    """A line on stderr: stdout is for results. Under torchrun from the first process only."""
    if not processes.launch_rank():
        terminal(stderr=True).print(text, markup=False)


def describe(spec: RunSpec) -> str:
    """A run in a few words."""
    if spec.kind == "pixels":
        return "pixels, logistic regression"
    what = spec.kind if spec.kind in TRAINED else f"probe ({spec.recipe.probe.profile})"
    if spec.kind == "detect":
        what = f"detect ({' '.join(spec.detection_words)})"
    if spec.kind in COSTS:
        what = COST_WORDS[spec.kind]
    depth = "".join(f" {word}" for word in spec.variant) if spec.told_apart else ""
    protocol = f", {spec.recipe.name.split('/')[-1]}" if spec.kind == "train" else ""
    seed = "" if spec.seed == FIRST_SEED or spec.kind in COSTS else f", seed {spec.seed}"
    return f"{what} {spec.rule}{depth} {spec.network}{protocol}{seed}"


def outcome(record: Record) -> str:
    """A finished run in a few words."""
    if "top1" in record.metrics:
        return f"top-1 {record.metrics['top1']['last']:.1f} %"
    if "ap_box" in record.metrics:
        box, mask = (record.metrics[key]["last"] for key in ("ap_box", "ap_mask"))
        return f"AP box {box:.1f} mask {mask:.1f} %"
    if record.kind == "trace":
        return f"{record.metrics['saved_gigabytes']['last']:.2f} GB saved"
    if record.kind in MEASURED:
        speed, memory = (record.metrics[k]["last"] for k in ("images_per_s", "allocated_gigabytes"))
        return f"{speed:.1f} images/s, {memory:.2f} GB allocated"
    if record.kind == "cost":
        return f"{record.metrics['flops (all)']['last']:.2f} G multiply-adds"
    losses = [f"{v['last']:.3f}" for k, v in record.metrics.items() if k.startswith("loss of ")]
    return f"loss {' '.join(losses)}"


def current(figures: dict[str, float]) -> str:
    """Losses and top-1 as a bar shows them; of more than four units the last one's loss.

    That is the network's own classifier's, where a rule trains it.
    """
    losses = [f"{value:.2f}" for key, value in figures.items() if key != "top1"]
    words = []
    if losses:
        words = ["loss", *losses] if len(losses) <= MOST_LOSSES else ["last loss", losses[-1]]
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
        task = self._run = self.bar.add_task(describe(spec), total=None, count=count, figures="")

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
            f"[dim]{self.finished:>3}/{self.total}[/dim] {describe(spec):<46} "
            f"{outcome(record):<28} [dim]{seconds:>6.0f} s[/dim]"
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
        disable=not console.is_terminal,
    )
    with bar:
        yield Watch(bar, console, total)
