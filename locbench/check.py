"""Regression check: fresh `smoke` records against the committed ones in `results/`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locbench.errors import UserError
from locbench.paths import results_dir
from locbench.records import Record, Store
from locbench.registry import suggest


@dataclass(frozen=True)
class Tolerance:
    """How far a metric may move: `absolute` or `relative`, whichever is wider; both 0: exact."""

    metric: str
    absolute: float
    relative: float
    why: str

    def allows(self, fresh: float, reference: float) -> bool:
        """Whether the difference is within the tolerance."""
        return abs(fresh - reference) <= max(self.absolute, self.relative * abs(reference))


@dataclass(frozen=True)
class Finding:
    """One compared number; `ok` is False for one that moved or is gone."""

    run: str
    metric: str
    reference: float | None
    fresh: float | None
    ok: bool
    note: str


def reference_store() -> Store:
    """The committed records."""
    return Store(results_dir() / "records")


def load_tolerances(path: Path | None = None) -> list[Tolerance]:
    """Tolerances per metric from results/tolerances.toml; UserError for a wrong key."""
    path = path or results_dir() / "tolerances.toml"
    fields = ("absolute", "relative", "why")
    found = []
    for metric, entry in tomllib.loads(path.read_text()).items():
        for key in entry:
            if key not in fields:
                raise UserError(f"{path}: [{metric}] has no key '{key}'{suggest(key, fields)}")
        found.append(
            Tolerance(
                metric, entry.get("absolute", 0.0), entry.get("relative", 0.0), entry.get("why", "")
            )
        )
    return found


def place(record_id: str) -> str:
    """A run's name without its hash: what it is compared under when its recipe has changed."""
    return record_id.rsplit("-", 1)[0]


def _numbers(record: Record) -> dict[str, float]:
    numbers = {name: values["last"] for name, values in record.metrics.items()}
    return numbers | {k: v for k, v in record.cost.items() if isinstance(v, int | float)}


def _tolerance(metric: str, tolerances: Iterable[Tolerance]) -> Tolerance | None:
    """The tolerance of a metric; "loss of *" stands for every unit's loss."""
    for tolerance in tolerances:
        prefix, star, _ = tolerance.metric.partition("*")
        if metric == tolerance.metric or (star and metric.startswith(prefix)):
            return tolerance
    return None


def compare(reference: Record, fresh: Record | None, tolerances: list[Tolerance]) -> list[Finding]:
    """Every number of the reference that has a tolerance, against the fresh record."""
    name = place(reference.id)
    if fresh is None or fresh.status != "done":
        what = "no table asks for this run any more" if fresh is None else f"it {fresh.status}"
        return [Finding(name, "status", None, None, False, what)]
    same_precision = fresh.tags.get("precision") == reference.tags.get("precision")
    notes = [] if fresh.id == reference.id else ["recipe or code version changed since"]
    findings = []
    new = _numbers(fresh)
    for metric, old in _numbers(reference).items():
        tolerance = _tolerance(metric, tolerances)
        if tolerance is None:
            continue
        if metric == "activation_bytes" and not same_precision:
            note = f"precision {fresh.tags['precision']}, not {reference.tags['precision']}"
            findings.append(Finding(name, metric, old, new.get(metric), True, f"skipped: {note}"))
            continue
        ok = metric in new and tolerance.allows(new[metric], old)
        findings.append(Finding(name, metric, old, new.get(metric), ok, "; ".join(notes)))
    return findings


def check(references: list[Record], fresh: list[Record]) -> list[Finding]:
    """Compare every reference with the fresh record of the same place; new ones are reported."""
    tolerances = load_tolerances()
    by_place = {place(record.id): record for record in fresh}
    findings = []
    for reference in references:
        findings += compare(reference, by_place.pop(place(reference.id), None), tolerances)
    for name in by_place:
        findings.append(
            Finding(name, "status", None, None, True, "no reference yet; accept it with --update")
        )
    return findings


def update(fresh: list[Record], store: Store) -> None:
    """Make these records the reference: written as they are, in the place of those they follow."""
    places = {place(record.id) for record in fresh}
    for old in store.all():
        if place(old.id) in places:
            store.path(old.id).unlink()
            store.folder(old.id).rmdir()
    for record in fresh:
        store.save(record)


def as_row(finding: Finding) -> dict[str, Any]:
    """For --json."""
    return finding.__dict__.copy()
