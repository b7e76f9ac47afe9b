"""Rename records after the form of a run's identity has changed, where each is the same run still.

    python tests/tools/rename_records.py [FOLDER] [--data OLD=NEW ...] [--write]

FOLDER is results/records unless given. For every record it builds today's spec from the record's
own recipe, rule, network, seed, data and parent, and asks for three proofs:

1. The record's identity is what its id was made from.
2. No value of that identity differs from the spec's, defaults included.
3. Today's tables plan this very run, at the record's scale and precision. (Said where they do not,
   as of a run that was made by hand.)

`--data` names the checksum of data today for the one that a record has. Without --write nothing is
changed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from locbench.errors import UserError
from locbench.paths import results_dir
from locbench.plugins.registry import RULES
from locbench.published.load import load_table, table_names
from locbench.recipes.identity import identity_hash
from locbench.recipes.load import recipe_from_dict
from locbench.runs.plan import Options, make_plan
from locbench.runs.record import document
from locbench.runs.spec import RunSpec
from locbench.runs.store import Store
from locbench.runs.verify import leaves

KINDS = {"cost": "count"}  # kinds that have another name today
PRECISIONS = {"float32": "fp32", "bfloat16": "bf16"}


def spec_of(raw: Mapping[str, Any], parent: RunSpec | None, data: Mapping[str, str]) -> RunSpec:
    """Today's spec of a record as it was written."""
    recipe = recipe_from_dict(raw["recipe"], raw["id"])
    kind = KINDS.get(raw["kind"], raw["kind"])
    if raw["units"]:  # what "auto" was, of a run that trained
        precision = PRECISIONS[raw["tags"]["precision"]]
        recipe = replace(recipe, training=replace(recipe.training, precision=precision))
    held = dict(raw["data"])
    if "checksum" in held:
        held["checksum"] = data.get(held["checksum"], held["checksum"])
    held |= {"train": held.get("train_images"), "test": held.get("test_images")}
    names = (raw["rule"]["name"], raw["network"]["name"])
    encoder = raw["identity"].get("encoder", {})
    file = ("", encoder["file"]) if "file" in encoder else None
    return RunSpec(kind, recipe, *names, raw["seed"], held, parent, file)


def whole(spec: RunSpec, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Every value that may stand in an identity, defaults included."""
    recipe, identity = spec.recipe.as_dict(), spec.identity
    defaults = RULES.entry(spec.rule).settings if spec.rule in RULES else {}
    rule = {**identity.get("rule", {}), "settings": {**defaults, **recipe["rule"]}}
    network = {**identity.get("network", {}), **recipe["network"], "settings": recipe["network"]}
    classes = recipe["data"]["classes"]
    return {
        **recipe,
        **identity,
        **recipe["training"],
        "kind": raw["kind"],
        "data": {**recipe["data"], **raw["data"], **spec.data, "classifier": classes},
        "rule": rule,
        "network": network,
        "augmentation": recipe["augmentation"],
        "optimizer": recipe["optimizer"],
        "schedule": recipe["schedule"],
        "training": {**recipe["training"], "precision": "auto"},
        "probe": {**recipe["probe"], "version": spec.of.version},
        "detector": {**recipe.get("detection", {}), "version": spec.of.version},
        "view": recipe["augmentation"],
        "classifier": {"name": "logistic regression", "version": spec.of.version},
        "encoder": {"untrained": raw["seed"], **identity.get("encoder", {})},
        "seed": raw["seed"],
    }


def contradictions(
    raw: Mapping[str, Any], parent: Mapping[str, Any] | None, spec: RunSpec, data: Mapping[str, str]
) -> list[str]:
    """Values of the record's identity that are not the spec's; counts of data are not compared."""
    names_of_parent = {parent["id"], identity_hash(parent["identity"])} if parent else set()
    today = dict(leaves(whole(spec, raw)))
    found = []
    for key, value in leaves(raw["identity"]):
        if key in ("data.train", "data.test"):  # of the whole set; its checksum says the same
            continue
        if key in ("encoder.run", "over") and value in names_of_parent:  # by its id or its hash
            continue
        value = data.get(value, value) if key == "data.checksum" else value
        if key not in today or today[key] != value:
            found.append(f"{key} {value!r}, today {today.get(key)!r}")
    return found


def planned_ids() -> set[str]:
    """The ids of all runs that tables ask for at smoke, in either precision."""
    ids: set[str] = set()
    for precision in PRECISIONS.values():
        resolved = lambda setting, device, p=precision: p if setting == "auto" else setting  # noqa: E731
        with patch("locbench.runs.spec.resolved_precision", resolved):
            for name in table_names():
                options = Options(rows="all", columns="all")
                ids |= {spec.id for spec in make_plan(load_table(name), options).runs()}
    return ids


def main() -> int:
    """Prove, say, and with --write rename."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=results_dir() / "records")
    parser.add_argument("--data", action="append", default=[], metavar="OLD=NEW")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    data = dict(pair.split("=") for pair in options.data)
    paths = sorted(options.folder.glob("*/record.json"))
    raws = {path.parent.name: json.loads(path.read_text()) for path in paths}
    specs: dict[str, RunSpec] = {}

    def build(id: str) -> RunSpec:
        if id not in specs:
            raw = raws[id]
            parent = build(raw["parent"]) if raw["parent"] else None
            specs[id] = spec_of(raw, parent, data)
        return specs[id]

    asked, unproved, renamed, unasked = planned_ids(), 0, 0, []
    for id, raw in raws.items():
        try:
            spec = build(id)
        except (KeyError, UserError) as error:
            print(f"NOT PROVED  {id}: {error}")
            unproved += 1
            continue
        faults = contradictions(raw, raws.get(raw["parent"]), spec, data)
        if identity_hash(raw["identity"])[:10] != id.rsplit("-", 1)[1]:
            faults.append("its identity is not what its id was made from")
        if faults:
            print(f"NOT PROVED  {id}: {'; '.join(faults)}")
            unproved += 1
            continue
        if spec.id not in asked:
            unasked.append(id)
        renamed += spec.id != id
        if options.write:
            _write(options.folder, raw, spec)
    print(f"{len(raws)} records, {renamed} with another id, {unproved} not proved")
    print(f"{len(unasked)} that no table asks for at smoke: {' '.join(unasked)}")
    return 1 if unproved else 0


def _write(folder: Path, raw: dict[str, Any], spec: RunSpec) -> None:
    """Move a run's folder to its id of today, and write its record anew."""
    before = folder / raw["id"]
    held = {key: value for key, value in spec.data.items() if key in raw["data"]}
    record = {
        **raw,
        "id": spec.id,
        "kind": spec.kind,
        "parent": spec.parent.id if spec.parent else None,
        "identity": spec.identity,
        "recipe": spec.recipe.as_dict(),
        "recipe_hash": spec.recipe.hash,
        "data": {**raw["data"], **held},
    }
    (before / "record.json").write_text(document(record))
    if spec.id != raw["id"]:
        shutil.move(before, Store(folder).folder(spec.id))


if __name__ == "__main__":
    sys.exit(main())
