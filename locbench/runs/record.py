"""Record of a run: one JSON document, immutable once the run is done."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from locbench.errors import UserError
from locbench.plugins.registry import KINDS
from locbench.recipes.identity import identity_hash
from locbench.recipes.reading import read

SCHEMA = 2  # results/SCHEMA.md says what each field holds, and what has changed
RECORD = "record.json"  # its file, in the folder of its run
STATUSES = ("running", "done", "diverged", "failed")
# A failed run (disk full, stopped from outside) may go on; the result of these two is a result.
FINAL = ("done", "diverged")


def timestamp() -> str:
    """Now, in UTC, as ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass
class Record:
    """What is known of one run. Units stand in the keys of `cost`: wall_time_s, peak_memory_bytes.

    `identity` is what decides the result and what the id is made from; `recipe` the fully resolved
    protocol. `metrics` maps a name to {"last": x, "best": y}; `per_block` and `curves` hold the
    same per probed block and over time; `units` each unit's span, updates and decoder; `weights`
    the sha256 of the files of weights beside the record, by name.
    """

    id: str
    kind: Annotated[str, KINDS]
    status: Literal[STATUSES]
    scale: str
    seed: int
    parent: str | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    recipe_hash: str = ""
    rule: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    per_block: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)
    units: list[Any] = field(default_factory=list)
    cost: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    created: str = field(default_factory=timestamp)
    finished: str | None = None
    schema: int = SCHEMA

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as the JSON file has them."""
        return json.loads(self.to_json())

    def to_json(self) -> str:
        """Strict JSON with its digest; a number that is not finite becomes null."""
        return document({f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def from_json(cls, text: str | bytes, path: Path) -> Record:
        """The record in `text`; UserError, with the `path`, where it is not as it was written."""
        values = read_values(text, path)
        if as_written(values) is False:
            raise UserError(
                f"{path}: was edited after it was written (its digest does not fit); put back what "
                f"was there, or {_again(path)}"
            )
        return cls.from_values(values, path)

    @classmethod
    def from_values(cls, values: Mapping[str, Any], path: Path) -> Record:
        """The record of a file's values; what schema 1 lacks is empty."""
        rest = {"weights": {}} if values["schema"] == 1 else {}
        rest |= {k: v for k, v in values.items() if k != "digest"} | {"schema": SCHEMA}
        try:
            return read(rest, cls, where=f"{path}: not a record of this locbench", whole=True)
        except UserError as error:
            raise UserError(f"{error}; {_again(path)}") from error


def read_values(text: str | bytes, path: Path) -> dict[str, Any]:
    """What a record's file holds; UserError for what is no JSON, or of another schema."""
    try:
        values = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: truncated or not JSON ({error}); {_again(path)}") from error
    schema = values.get("schema") if isinstance(values, dict) else None
    if type(schema) is not int:
        raise UserError(f"{path}: not a record: it has no 'schema'; {_again(path)}")
    if schema not in (1, SCHEMA):
        raise UserError(
            f"{path}: written by another locbench (schema {schema}; this one reads {SCHEMA}): "
            f"use that one, or {_again(path)}"
        )
    return values


def as_written(values: Mapping[str, Any]) -> bool | None:
    """Whether a record's digest is that of its values; None of schema 1, which has none."""
    if values["schema"] == 1:
        return None
    return values.get("digest") == digest(values)


def digest(values: Mapping[str, Any]) -> str:
    """sha256 (hex) of the canonical JSON of all that a record says but for its digest."""
    return identity_hash({key: value for key, value in values.items() if key != "digest"})


def document(values: Mapping[str, Any]) -> str:
    """A record's file: strict JSON, `schema` and `digest` first."""
    plain = _finite(values)
    heads = {"schema": plain["schema"], "digest": digest(plain)}
    return json.dumps(heads | plain | heads, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _again(path: Path) -> str:
    if path.name != RECORD:  # the folder of another file may hold anything
        return "give a run's record.json"
    return f"delete the folder {path.parent} to run it again"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def summarize(values: Sequence[float]) -> tuple[float, float | None, int]:
    """Mean, sample standard deviation (n - 1; None below two values) and n; no values: nan."""
    n = len(values)
    mean = statistics.fmean(values) if n else math.nan
    if not math.isfinite(mean):  # `stdev` raises an error of its own for these
        return mean, math.nan if n > 1 else None, n
    return mean, statistics.stdev(values) if n > 1 else None, n
