"""Verification of a record: that it is as it was written, and that what it says fits together."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locbench.environment import is_before
from locbench.errors import UserError
from locbench.paths import results_dir
from locbench.plugins.registry import DATASETS, DETECTION_SETS, KINDS
from locbench.plugins.rule_files import restore_rule
from locbench.recipes.identity import identity_hash
from locbench.recipes.reading import read_toml
from locbench.runs.record import RECORD, Record, as_written, read_values
from locbench.runs.spec import RunSpec, sha256_of, spec_of
from locbench.runs.store import Store

OK, NOTE, FAILED = "ok", "note", "failed"
VERSIONS = ("version", "defaults")  # last parts of an identity's keys


@dataclass(frozen=True)
class Check:
    """What was checked of a record, and what came of it: ok, note (could not be told), failed."""

    name: str
    outcome: str
    detail: str = ""


@dataclass(frozen=True)
class Verification:
    """A record's file with all that was checked of it."""

    run: str
    path: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return all(check.outcome != FAILED for check in self.checks)


def verify(path: Path) -> Verification:
    """Every check of a record's file; without torch.

    Where it cannot be read as a record, that is the only one.
    """
    run = path.parent.name if path.name == RECORD else path.name
    try:
        values = read_values(path.read_bytes(), path)
        record = Record.from_values(values, path)
    except (OSError, UserError) as error:
        return Verification(run, str(path), (Check("schema", FAILED, str(error)),))
    others = [_identity, _metrics, _weights, _commit]
    checks = [Check("schema", OK, f"{values['schema']}"), _digest(values)]
    checks += [check for of in others for check in of(record, path)]
    return Verification(run, str(path), tuple(checks))


def _digest(values: Mapping[str, Any]) -> Check:
    outcome = {None: NOTE, True: OK, False: FAILED}[as_written(values)]
    details = {NOTE: "schema 1 has none", FAILED: "edited after it was written"}
    return Check("digest", outcome, details.get(outcome, ""))


def _identity(record: Record, path: Path) -> Iterator[Check]:
    """The id and its hash, the recipe and its hash, and the identity that the recipe gives today.

    A version that differs is a check of its own: an older one is known, and no longer used.
    """
    wrong = []
    if path.name == RECORD and record.id != path.parent.name:
        wrong.append(f"lies in the folder of another run than {record.id}")
    if not record.id.endswith(identity_hash(record.identity)[:10]):
        wrong.append("the id does not end with the identity's hash")
    if record.recipe_hash != identity_hash(record.recipe):
        wrong.append("recipe_hash is not the recipe's")
    store, parent = Store(path.parent.parent), None
    if record.parent is not None:
        with suppress(UserError):
            parent = store.load(record.parent)
    try:
        differing = _differing(record, parent, store)
    except (LookupError, TypeError, ValueError) as error:  # a UserError is one
        wrong.append(f"no run can be made of its recipe: {error}")
        differing = {}
    versions = {key: v for key, v in differing.items() if key.split(".")[-1] in VERSIONS}
    wrong += [
        f"{k} {a!r}, by its recipe {b!r}" for k, (a, b) in differing.items() - versions.items()
    ]
    if wrong:
        yield Check("identity", FAILED, "; ".join(wrong))
    elif record.parent is not None and parent is None:
        yield Check("identity", NOTE, "the run that it reads is not here, or is broken")
    else:
        yield Check("identity", OK)
    yield _versions(versions)


def _differing(record: Record, parent: Record | None, store: Store) -> dict[str, tuple[Any, Any]]:
    """By dotted key the values of the record's identity, and those of its recipe's, that differ."""
    spec = _rebuilt(record, parent, store)
    here = dict(leaves(record.identity))
    today = dict(leaves(json.loads(json.dumps(spec.identity))))
    if spec.of.uses_data:
        sets = DATASETS if spec.recipe.detection is None else DETECTION_SETS
        version = sets.entry(spec.of.data_name(spec.recipe)).version
        # One more of images that are decoded as they are read; a record does not say whether.
        streamed = sets is DATASETS and here.get("data.version") == version + 1
        today["data.version"] = version + streamed
    if record.parent is not None:  # by what the parent's record says: its version may be older
        of_parent = identity_hash(parent.identity) if parent is not None else None
        for key in [k for k in here if k in ("encoder.run", "over")]:
            today = {k: v for k, v in today.items() if not k.startswith("encoder.")}
            today[key] = of_parent or here[key]
    pairs = {key: (here.get(key), today.get(key)) for key in {**here, **today}}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _rebuilt(record: Record, parent: Record | None, store: Store) -> RunSpec:
    """The spec of a record by its recipe; a rule of a file is read from the copy beside a run."""
    folders = [store.folder(r.id) for r in (record, parent) if r is not None]
    held = [folder for folder in folders if (folder / record.rule.get("file", "")).is_file()]
    if "file" in record.rule:
        restore_rule(record.rule, held[0] if held else folders[0])
    above = None if parent is None else spec_of(parent, parent.id)
    return spec_of(record, record.id, parent=above)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested dicts, by dotted key."""
    if not isinstance(value, Mapping):
        yield path, value
        return
    for key, inner in value.items():
        yield from leaves(inner, f"{path}.{key}" if path else key)


def _versions(versions: Mapping[str, tuple[Any, Any]]) -> Check:
    """Of kind, rule, network, data and sections; a missing one is that of before there was any."""
    details = [f"{key} {a}, today {b}" for key, (a, b) in versions.items()]
    older = all(
        isinstance(b, int) and (a is None or (isinstance(a, int) and a < b))
        for a, b in versions.values()
    )
    outcome = OK if not versions else NOTE if older else FAILED
    return Check("versions", outcome, "; ".join(details))


def _metrics(record: Record, path: Path) -> Iterator[Check]:
    if record.status != "done":
        yield Check("metrics", NOTE, f"the run is {record.status}")
        return
    try:
        ends = KINDS.get(record.kind).ends_of_curves(record)
        wrong = [
            f"{name} {key} {record.metrics[name][key]}, by its curve {value}"
            for name, figures in ends.items()
            for key, value in figures.items()
            if record.metrics[name][key] != value
        ]
    except (LookupError, TypeError, AttributeError) as error:
        wrong = [f"metrics or curves lack {error}"]
    yield Check("metrics", FAILED if wrong else OK, "; ".join(wrong))


def _weights(record: Record, path: Path) -> Iterator[Check]:
    """The files of weights; they need not lie there."""
    lying = {name: path.parent / name for name in record.weights}
    lying = {name: file for name, file in lying.items() if file.is_file()}
    for name, file in lying.items():
        if sha256_of(file) != record.weights[name]:
            yield Check("weights", FAILED, f"{name} is not the file that the run wrote")
    if not record.weights and list(path.parent.glob("*.safetensors")):
        yield Check("weights", NOTE, "the record has no sha256 of them")
    elif lying:
        yield Check("weights", OK)


def _commit(record: Record, path: Path) -> Iterator[Check]:
    commit, dirty = (record.environment.get(key) for key in ("git_commit", "git_dirty"))
    if commit is None:
        yield Check("commit", NOTE, "none: not of a checkout")
        return
    wrong, known = "of a checkout with changes" if dirty else "", is_before(commit)
    if known is False:
        wrong = " and ".join(filter(None, [f"{commit[:10]} is not in this history", wrong]))
    if not wrong and known is None:
        yield Check("commit", NOTE, "no whole history here to look for it in")
    elif not wrong:
        yield Check("commit", OK)
    elif record.id in _stale() and path.resolve().is_relative_to(results_dir().resolve()):
        yield Check("commit", NOTE, "listed in results/stale.toml, which says why")
    else:
        yield Check("commit", FAILED, wrong)


def _stale() -> set[str]:
    """Committed records that are known not to be of a clean commit."""
    path = results_dir() / "stale.toml"
    lists = read_toml(path)["stale"] if path.is_file() else []
    return {id for entry in lists for id in entry["records"]}
