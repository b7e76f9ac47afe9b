"""Margins of each method over untrained weights and over pixels, with their standard errors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from locbench.plugins.entry import PIXELS, UNTRAINED
from locbench.report.filled import FilledCell
from locbench.runs.record import Record
from locbench.runs.spec import RunSpec


@dataclass(frozen=True)
class Margin:
    """A method's mean accuracy over networks minus the baseline's on the same, in points.

    `forms` is how many runs of a network the mean is over, where a table has several of a method.
    `error` is the standard error that comes from the finite number of test images: binomial, as if
    method and baseline had been tested on different images, which overstates it. It says nothing
    of how seeds differ, and does not shrink with them: they are tested on the same images.
    """

    method: str
    baseline: str
    networks: int
    forms: int
    seeds: int
    points: float
    error: float

    def __str__(self) -> str:
        several = f" (mean of {self.forms} forms)" if self.forms > 1 else ""
        return f"{self.method}{several} {self.points:+.1f} ± {self.error:.1f}"


def margins(cells: Iterable[FilledCell]) -> list[Margin]:
    """Every probed method against untrained weights and pixels, on the table's own probe."""
    probes: dict[str, list[tuple[RunSpec, Record]]] = {}
    baselines: dict[tuple, Record] = {}
    for cell in cells:
        for spec, record in zip(cell.planned.specs, cell.records, strict=True):
            if record is None or record.status != "done" or "top1" not in record.metrics:
                continue
            if cell.planned.baseline:
                baselines[_measurement(spec, spec.rule)] = record
            elif cell.cell.inside:
                method = str(cell.cell.row.labels.get("method", spec.rule))
                probes.setdefault(method, []).append((spec, record))
    results = []
    for name in (UNTRAINED, PIXELS):
        for method, measured in probes.items():
            pairs = [(r, b) for s, r in measured if (b := baselines.get(_measurement(s, name)))]
            if pairs:
                results.append(_margin(method, name, pairs))
    return results


def _measurement(spec: RunSpec, baseline: str) -> tuple:
    """Which measurement of a baseline a probe is compared with; there is one of the pixels."""
    if baseline == PIXELS:
        return (PIXELS,)
    return (baseline, spec.network, spec.seed, spec.recipe.probe.profile)


def _margin(method: str, baseline: str, pairs: Sequence[tuple[Record, Record]]) -> Margin:
    differences = [a.metrics["top1"]["last"] - b.metrics["top1"]["last"] for a, b in pairs]
    # Errors do not average over a baseline that several networks share (pixels), nor over seeds.
    alike: dict[tuple[int, str, str], list[float]] = {}
    for pair in pairs:
        for side, record in enumerate(pair):
            key = (side, record.network.get("name", ""), repr(record.rule.get("settings")))
            alike.setdefault(key, []).append(_variance(record))
    variance = sum((len(group) / len(pairs)) ** 2 * fmean(group) for group in alike.values())
    networks = len({a.network["name"] for a, _ in pairs})
    forms = len({(a.network["name"], repr(a.rule.get("settings"))) for a, _ in pairs}) // networks
    seeds = len({a.seed for a, _ in pairs})
    points, error = fmean(differences), math.sqrt(variance)
    return Margin(method, baseline, networks, forms, seeds, points, error)


def _variance(record: Record) -> float:
    """Variance of a measured accuracy, in points squared."""
    share = record.metrics["top1"]["last"] / 100
    return 1e4 * share * (1 - share) / record.data["test_images"]


def margin_lines(margins: Sequence[Margin]) -> list[str]:
    """One line a baseline, for people."""
    lines = []
    for name in dict.fromkeys(margin.baseline for margin in margins):
        above = [margin for margin in margins if margin.baseline == name]
        counts = [(what, {getattr(m, what) for m in above}) for what in ("networks", "seeds")]
        sizes = [f"{'/'.join(map(str, sorted(n)))} {what}" for what, n in counts if n != {1}]
        mean = f", mean over {' and '.join(sizes)}" if sizes else ""
        lines.append(
            f"Above {name}{mean}, ± standard error of the test sample: {', '.join(map(str, above))}"
        )
    return lines
