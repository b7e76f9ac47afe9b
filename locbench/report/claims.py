"""Claims of a table, judged: on what was measured, with its uncertainty, and on what is in print.

A claim is judged where all of its cells are measured, and those that it compares are of other runs
and comparable with one another; numbers of the paper's scale with print too. Else it is open. At
smoke nothing is said of claims: one accuracy moves by several points there with the processor.

The standard error of a comparison comes from seeds where each of its cells has two or more, else
from the finite number of test images: binomial, as if every cell had been tested on images of its
own, which overstates it. (For average precision that is a bound from above too, as if an image were
found or missed as a whole.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from locbench.published.claims import Claim, ClaimResult, Key
from locbench.published.datasets import other_data
from locbench.published.table import Table

if TYPE_CHECKING:
    from locbench.report.filled import FilledCell
    from locbench.runs.record import Record

MARKS = {True: "✓", False: "✗", None: "?"}
# What a record says of the precision that its network was trained in.
PRECISION = ("pretrain_precision", "precision")


@dataclass(frozen=True)
class JudgedClaim:
    """A claim with its outcome; `holds` is None where it is open, `detail` says what decided it.

    `source` is where the paper says it, or "ours"; empty in a table that is ours as a whole.
    """

    text: str
    holds: bool | None
    detail: str
    source: str = field(default="", kw_only=True)
    margin_ours: bool = field(default=False, kw_only=True)
    holds_in_print: bool = field(default=True, kw_only=True)

    @property
    def note(self) -> str:
        """Where it is from, and what decided it."""
        contradicted = "" if self.holds_in_print else "contradicted by print"
        margin = "margin ours" if self.margin_ours else ""
        origin = ", ".join(filter(None, (self.source, contradicted, margin)))
        return "; ".join(filter(None, (origin, self.detail)))

    def __str__(self) -> str:
        """The sentence, and what is to be known of it."""
        return f"{self.text} ({self.note})" if self.note else self.text


def claims_in_print(table: Table) -> list[JudgedClaim]:
    """The claims of a table judged on the published numbers, which are taken as exact."""
    judged = []
    for claim in table.claims:
        result = claim.judge(table.values(claim.of))
        if result.holds is None:
            result = ClaimResult(None, "not in print")
        words = {True: "", False: "print contradicts it ", None: ""}
        judged.append(replace(_judged(claim, table, result, words), holds_in_print=True))
    return judged


def claims_measured(table: Table, cells: Sequence[FilledCell], scale: str) -> list[JudgedClaim]:
    """The claims of a table judged on what was measured; `scale` is the one that was asked for.

    Those on cells of the scale smoke are left out.
    """
    by_key = {cell.cell.key: cell for cell in cells if not cell.planned.baseline}
    words = {True: "", False: "fails ", None: "open: "}
    judged = []
    for claim in table.claims:
        scales = {by_key[key].scale for key in claim.needs() if key in by_key} or {scale}
        if "smoke" not in scales:
            judged.append(_judged(claim, table, _result(claim, by_key), words))
    return judged


def _judged(
    claim: Claim, table: Table, result: ClaimResult, words: Mapping[bool | None, str]
) -> JudgedClaim:
    return JudgedClaim(
        claim.text,
        result.holds,
        f"{words[result.holds]}{result.detail}",
        source=claim.section or ("ours" if table.number is not None else ""),
        margin_ours=claim.margin_ours,
        holds_in_print=claim.holds_in_print,
    )


def _result(claim: Claim, cells: Mapping[Key, FilledCell]) -> ClaimResult:
    keys = claim.needs()
    measured = {key: cells[key] for key in keys if key in cells and is_measured(cells[key])}
    if len(measured) < len(keys):
        return ClaimResult(None, f"{len(measured)} of {len(keys)} measured")
    # Below the paper's scale no number is comparable with print, and none has to be.
    at_paper = [cell for cell in measured.values() if cell.scale == "paper"]
    if other := [cell for cell in at_paper if cell.verdict.name == "not comparable"]:
        why = "; ".join(dict.fromkeys(cell.verdict.detail for cell in other))
        return ClaimResult(None, f"{len(other)} of {len(keys)} not comparable with print ({why})")
    for comparison in claim.comparisons:
        compared = {key: measured[key] for key in claim.cells_of(comparison)}
        if why := _differing(list(compared.values())):
            return ClaimResult(None, f"cells not comparable with one another ({why})")
        if len({_source(cell) for cell in compared.values()}) < len(compared):
            names = " and ".join(" ".join(claim.names[key]) for key in compared)
            return ClaimResult(None, f"the same runs fill {names} at this scale")
    if claim.of == "variance":
        spreads = {key: cell.spread for key, cell in measured.items()}
        if single := sum(spread is None for spread in spreads.values()):
            return ClaimResult(None, f"{single} of {len(keys)} are one run, without a variance")
        return claim.judge({key: spread**2 for key, spread in spreads.items()})
    values = {key: cell.mean for key, cell in measured.items()}
    return claim.judge(values, partial(standard_error, measured))


def is_measured(cell: FilledCell) -> bool:
    """Whether all of its runs are done; what is left of one that diverged would flatter."""
    return cell.mean is not None and not cell.unfinished and cell.verdict.name != "diverged"


def _differing(cells: Sequence[FilledCell]) -> str:
    """What of the protocol differs between cells that are compared; empty where nothing does."""
    protocols = [_protocol(cell) for cell in cells]
    for name in ("scale", "data", "precision", "settings"):
        values = list(dict.fromkeys(p[name] for p in protocols if name in p))
        # Another column may have other data: a gain on one set against the gain on another.
        free = name in ("data", "settings") and len({cell.column.key for cell in cells}) > 1
        if len(values) > 1 and not free:
            return f"{name} {' and '.join(value or 'as published' for value in values)}"
    return ""


def _source(cell: FilledCell) -> tuple[str, ...]:
    """Where its figure is from: at a reduced scale rows may differ in what they set alone."""
    return (cell.cell.metric, *(spec.id for spec in cell.planned.specs))


def _protocol(cell: FilledCell) -> dict[str, str]:
    """Scale, data, precision, and what is not as published; what no record says is left out."""
    records = [record for record in cell.records if record is not None]
    data = {f"{r.data['name']} {r.data['checksum'][:8]}" for r in records if r.data.get("checksum")}
    precision = {p for record in records if (p := _precision(record))}
    protocol = {"data": ", ".join(sorted(data)), "precision": ", ".join(sorted(precision))}
    known = {name: value for name, value in protocol.items() if value}
    return {"scale": cell.scale, "settings": ", ".join(_settings(cell)), **known}


def _settings(cell: FilledCell) -> list[str]:
    """What is not as published but for the data, which untrained weights have seen nothing of."""
    runs = [run for spec in cell.planned.specs for run in spec.with_ancestors() if run.of.uses_data]
    data = {word for run in runs for word in other_data(run.data, run.of.data_name(run.recipe))}
    return [mismatch for mismatch in cell.planned.mismatches if mismatch not in data]


def _precision(record: Record) -> str:
    """Of the training that decides it; "" where none is recorded."""
    return next((str(record.tags[tag]) for tag in PRECISION if tag in record.tags), "")


def standard_error(cells: Mapping[Key, FilledCell], weights: Mapping[Key, float]) -> float:
    """The standard error of a weighted sum of cells; nan where nothing says how one varies."""
    seeded = [(weight, cells[key]) for key, weight in weights.items() if cells[key].seeds]
    if all(cell.n > 1 for _, cell in seeded):
        variances = [weight**2 * cell.spread**2 / cell.n for weight, cell in seeded]
    else:
        variances = [weight**2 * _sample_variance(cell) for weight, cell in seeded]
    return math.sqrt(sum(variances))


def _sample_variance(cell: FilledCell) -> float:
    records = [record for record in cell.records if record is not None]
    images = min((record.data.get("test_images", 0) for record in records), default=0)
    if cell.column.unit != "%" or not images or not 0 <= cell.mean <= 100:
        return math.nan
    return share_variance(cell.mean, images)


def share_variance(percent: float, images: int) -> float:
    """The binomial variance of a share of test images, in points squared."""
    return percent * (100 - percent) / images
