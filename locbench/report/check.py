"""Regression check: which numbers of fresh records moved against the records in `results/`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locbench.errors import UserError
from locbench.paths import results_dir
from locbench.recipes.identity import hash_of_any_precision, identity_hash
from locbench.recipes.reading import NotNegative, read, read_toml, typed
from locbench.runs.record import Record
from locbench.runs.spec import RunSpec
from locbench.runs.store import Store

ACCEPT = "accept it with `locbench check --update`"
OF_THE_MACHINE = ("wall_time_s", "images_per_s", "peak_")  # beginnings of costs


@dataclass(frozen=True)
class Tolerance:
    """How far a number may move: `absolute` or `relative`, whichever is wider; both 0: not at all.

    `number` may end in `*`. Not compared at all where `compare` is false. In another precision than
    the reference's it may move `other_precision` times as far.
    """

    number: str
    why: str
    absolute: NotNegative = 0.0
    relative: NotNegative = 0.0
    other_precision: NotNegative = 1.0
    compare: bool = True

    def allows(self, fresh: float | None, reference: float | None, times: float = 1.0) -> bool:
        """Whether the difference is within so many times the tolerance.

        A number that is gone is not.
        """
        if fresh is None or reference is None:
            return fresh is reference
        width = max(self.absolute, self.relative * abs(reference))
        return abs(fresh - reference) <= times * width

    def covers(self, number: str) -> bool:
        """Whether this is the tolerance of a number of this name."""
        prefix, star, _ = self.number.partition("*")
        return number.startswith(prefix) if star else number == prefix


@dataclass(frozen=True)
class Finding:
    """One compared number; `ok` is False for one that moved or is gone, or a run that failed.

    `missing` is a run that was never made here, or has no reference: nothing is known to move.
    """

    run: str
    number: str
    reference: float | None
    fresh: float | None
    ok: bool
    note: str
    missing: bool = False


def reference_store() -> Store:
    """The committed records."""
    return Store(results_dir() / "records")


def load_tolerances(path: Path | None = None) -> list[Tolerance]:
    """Tolerances by number from results/tolerances.toml; UserError with file and key if wrong."""
    path, tolerances = path or results_dir() / "tolerances.toml", []
    for number, entry in read_toml(path).items():
        where = f"{path}: [{number}]"
        values = {**typed(entry, dict, where=where), "number": number}
        tolerances.append(read(values, Tolerance, where=where))
    return tolerances


def run_name(record_id: str) -> str:
    """A run's name without its hash: what it is compared under when its recipe has changed."""
    return record_id.rsplit("-", 1)[0]


def numbers(record: Record) -> dict[str, float | None]:
    """What can be compared of a record: its last metrics, its costs, each unit's parameters."""
    metrics = {name: values["last"] for name, values in record.metrics.items()}
    costs = {k: v for k, v in record.cost.items() if isinstance(v, int | float)}
    auxiliary = {
        f"auxiliary_parameters of {unit['name']}": unit["auxiliary_parameters"]
        for unit in record.units
    }
    return metrics | costs | auxiliary


def successors(references: Mapping[str, str], runs: Mapping[str, str]) -> dict[str, str]:
    """Which of today's runs each reference is compared with: itself, else the one like it.

    Both are hashes by id that runs share over precisions. A run in another precision is like it,
    and then the one with its name but for the hash. Where several are, none is taken.
    """
    names, names_today = ({id: run_name(id) for id in ids} for ids in (references, runs))
    pairs = {id: id for id in references if id in runs}
    for keys, keys_today in ((references, runs), (names, names_today)):
        left = {id: key for id, key in keys.items() if id not in pairs}
        free = {id: key for id, key in keys_today.items() if id not in pairs.values()}
        old, new = Counter(left.values()), Counter(free.values())
        by_key = {key: id for id, key in free.items()}
        pairs |= {id: by_key[key] for id, key in left.items() if old[key] == 1 == new[key]}
    return pairs


def any_precision(records: Sequence[Record], more: Sequence[Record] = ()) -> dict[str, str]:
    """By id the hash of each record that it shares with the same run in another precision.

    `more` are further records, in which the runs that these read are looked for.
    """
    by_id = {record.id: record for record in (*more, *records)}

    def hashed(record: Record) -> str:
        parent = by_id.get(record.parent or "")
        hashes = None if parent is None else (identity_hash(parent.identity), hashed(parent))
        return hash_of_any_precision(record.identity, hashes)

    return {record.id: hashed(record) for record in records}


def compare(reference: Record, fresh: Record, tolerances: Sequence[Tolerance]) -> list[Finding]:
    """Every number of the reference that has a tolerance, against the fresh record."""
    name, kind, recipe = run_name(reference.id), reference.kind, reference.recipe.get("name", "")
    if fresh.status != "done":
        return [_status(name, _ended(fresh), ok=False)]
    # What the bytes of a step are besides the run's own doing: who made the record, and with what.
    tags = {"precision": None, "pretrain_precision": None, "processes": 1}
    differ = [k for k, v in tags.items() if fresh.tags.get(k, v) != reference.tags.get(k, v)]
    changed = "" if fresh.id == reference.id else "its recipe or a version changed since"
    findings, values = [], numbers(fresh)
    for number, old in numbers(reference).items():
        names = (number, f"{kind}: {number}", f"{recipe}: {number}")
        tolerance = next((t for t in tolerances if any(map(t.covers, names))), None)
        if tolerance is None or not tolerance.compare:
            continue
        times = tolerance.other_precision if set(differ) - {"processes"} else 1.0
        ok, note = number in values and tolerance.allows(values[number], old, times), changed
        if number == "activation_bytes" and differ:
            here, there = (r.tags.get(differ[0], tags[differ[0]]) for r in (fresh, reference))
            ok, note = True, f"skipped: {differ[0]} {here}, not {there}"
        findings.append(Finding(name, number, old, values.get(number), ok, note))
    return findings


def _status(run: str, note: str, *, ok: bool, missing: bool = False) -> Finding:
    return Finding(run, "status", None, None, ok, note, missing)


def _ended(record: Record) -> str:
    return f"{record.status}: {record.error}" if record.error else f"is {record.status}"


def check(
    references: Sequence[Record],
    *,
    specs: Sequence[RunSpec],
    fresh: Mapping[str, Record],
    tolerances: Sequence[Tolerance],
    all_references: Sequence[Record] = (),
    exact: bool = False,
    complete: bool = False,
) -> list[Finding]:
    """Compare every reference with the fresh record of the same run; new runs are reported.

    `specs` are all runs that the tables ask for today, `fresh` the records by id. The runs that the
    compared ones read are looked for in `all_references`. `exact` compares every number, bit by
    bit; `complete` lets a run fail that was never made, or has no reference.
    """
    hashes = any_precision(references, all_references)
    today = successors(hashes, {spec.id: spec.any_precision for spec in specs})
    findings = []
    for reference in references:
        name, id = run_name(reference.id), today.get(reference.id)
        if id is None:
            note = f"no table asks for this run any more; {ACCEPT}"
            findings.append(_status(name, note, ok=False))
        elif id not in fresh:
            note = "was never made here"
            findings.append(_status(name, note, ok=not complete, missing=True))
        elif exact:
            findings += compare_exactly(reference, fresh[id])
        else:
            findings += compare(reference, fresh[id], tolerances)
    for id in sorted(fresh.keys() - set(today.values())):
        done = fresh[id].status == "done"
        note = f"no reference yet; {ACCEPT}" if done else _ended(fresh[id])
        findings.append(_status(run_name(id), note, ok=done and not complete, missing=done))
    return findings


def compare_exactly(reference: Record, fresh: Record) -> list[Finding]:
    """Every number of a record, curves too, but for time and memory of the machine."""
    name = run_name(reference.id)
    if fresh.status != "done":
        return [_status(name, _ended(fresh), ok=False)]
    old, new = _leaves(reference), _leaves(fresh)
    gone = object()  # a number that became null is not one that is gone
    return [
        Finding(name, key, old.get(key), new.get(key), old.get(key, gone) == new.get(key, gone), "")
        for key in dict.fromkeys([*old, *new])
    ]


def _leaves(record: Record) -> dict[str, Any]:
    """The numbers of a record by dotted key."""
    leaves: dict[str, Any] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, Mapping | list | tuple):
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            for key, inner in items:
                walk(inner, f"{path}.{key}")
        else:
            leaves[path] = value

    for name in ("metrics", "per_block", "curves", "units"):
        walk(getattr(record, name), name)
    walk({k: v for k, v in record.cost.items() if not k.startswith(OF_THE_MACHINE)}, "cost")
    return leaves


def update(
    store: Store,
    *,
    runs: Sequence[str],
    fresh: Mapping[str, Record],
    references: Sequence[Record],
) -> None:
    """Make the fresh records of these runs the reference, in the place of `references`.

    UserError unless every run is done: a reference that is not there checks nothing.
    """
    lacking = [id for id in runs if id not in fresh or fresh[id].status != "done"]
    if lacking:
        raise UserError(
            f"{len(lacking)} of {len(runs)} runs are not done ({lacking[0]}, ...): nothing was "
            "changed; run `locbench check --update` without --no-run"
        )
    gone = {old.id for old in references} - set(runs)
    if orphans := [r for r in store.all() if r.parent in gone and r.id not in gone | set(runs)]:
        raise UserError(
            f"{len(orphans)} references read a run that would go, such as {orphans[0].id}: nothing "
            "was changed; name the tables that they are of as well"
        )
    for old in references:
        if old != fresh.get(old.id):
            store.discard(old.id)
    for id in runs:
        store.save(fresh[id])
