"""Margins of each method over untrained weights and over pixels, with their standard errors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from locbench.plugins.entry import PIXELS, UNTRAINED
from locbench.published.claims import clear
from locbench.report.claims import MARKS, share_variance
from locbench.report.filled import FilledCell
from locbench.runs.plan import baseline_spec
from locbench.runs.record import Record
from locbench.runs.spec import RunSpec


@dataclass(frozen=True)
class Margin:
    """A method's mean accuracy over networks and data sets minus the baseline's, in points.

    `forms` is how many runs of a network the mean is over, where a table has several of a method.
    `error` is the standard error that comes from the finite number of test images: binomial, as if
    method and baseline had been tested on different images, which overstates it. It says nothing
    of how seeds differ, and does not shrink with them: they are tested on the same images.
    """

    method: str
    baseline: str
    networks: int
    data_sets: int
    forms: int
    seeds: int
    points: float
    error: float

    @property
    def holds(self) -> bool | None:
        """Whether it is above; None within two standard errors."""
        return self.points > 0 if clear(self.points, self.error) else None

    def __str__(self) -> str:
        several = f" (mean of {self.forms} forms)" if self.forms > 1 else ""
        return f"{MARKS[self.holds]} {self.method}{several} {self.points:+.1f} ± {self.error:.1f}"


def margins(cells: Sequence[FilledCell]) -> list[Margin]:
    """Every method against the baselines of its kind of run, on the table's own cells."""
    measured: dict[str, list[tuple[RunSpec, Record]]] = {}
    baselines: dict[str, Record] = {}
    for cell, spec, record in _finished(cells):
        if cell.planned.baseline:
            baselines[spec.id] = record
        elif cell.cell.inside and spec.of.baselines:
            method = str(cell.cell.row.labels.get("method", spec.rule))
            measured.setdefault(method, []).append((spec, record))
    results = []
    for name in (UNTRAINED, PIXELS):
        for method, runs in measured.items():
            pairs = [
                (record, baselines[other.id])
                for spec, record in runs
                if name in spec.of.baselines
                and (other := baseline_spec(spec, name)).id in baselines
            ]
            if pairs:
                results.append(_margin(method, name, pairs))
    return results


def _finished(cells: Iterable[FilledCell]) -> Iterable[tuple[FilledCell, RunSpec, Record]]:
    """The runs that are done and have an accuracy, each with its cell."""
    for cell in cells:
        for spec, record in zip(cell.planned.specs, cell.records, strict=True):
            if record is not None and record.status == "done" and "top1" in record.metrics:
                yield cell, spec, record


def _margin(method: str, baseline: str, pairs: Sequence[tuple[Record, Record]]) -> Margin:
    # Errors do not average over a baseline that several networks share (pixels), nor over seeds.
    alike: dict[tuple[int, str, str, str], list[float]] = {}
    for pair in pairs:
        for side, record in enumerate(pair):
            variance = share_variance(_top1(record), record.data["test_images"])
            alike.setdefault((side, record.data["checksum"], *_form(record)), []).append(variance)
    variance = sum((len(group) / len(pairs)) ** 2 * fmean(group) for group in alike.values())
    runs = [record for record, _ in pairs]
    networks = len({record.network["name"] for record in runs})
    return Margin(
        method,
        baseline,
        networks,
        data_sets=len({record.data["checksum"] for record in runs}),
        forms=len({_form(record) for record in runs}) // networks,
        seeds=len({record.seed for record in runs}),
        points=fmean(_top1(a) - _top1(b) for a, b in pairs),
        error=math.sqrt(variance),
    )


def _form(record: Record) -> tuple[str, str]:
    """What tells the forms of a rule on a network apart."""
    return record.network.get("name", ""), repr(record.rule.get("settings"))


def _top1(record: Record) -> float:
    return record.metrics["top1"]["last"]


def margin_lines(margins: Sequence[Margin]) -> list[str]:
    """One line a baseline, for people."""
    lines = []
    for name in dict.fromkeys(margin.baseline for margin in margins):
        above = [margin for margin in margins if margin.baseline == name]
        counts = [(k, {getattr(m, k) for m in above}) for k in ("networks", "data_sets", "seeds")]
        sizes = [
            f"{'/'.join(map(str, sorted(n)))} {k.replace('_', ' ')}" for k, n in counts if n != {1}
        ]
        mean = f", mean over {' and '.join(sizes)}" if sizes else ""
        lines.append(
            f"Trained above {name}? In points{mean}, ± standard error of the test sample "
            f"(? within two): {', '.join(map(str, above))}"
        )
    return lines
