"""Rows added to a table: other rules under the protocol of the rows that are there.

Rows whose fills differ in the rule and its settings alone are of one protocol: for each there is
one row more, with the labels that those rows share and the rule's name for the method.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from locbench.errors import UserError
from locbench.plugins.entry import TAUGHT_BY, UNTRAINED
from locbench.plugins.registry import RULES
from locbench.published.table import Row, Table, sets_rule
from locbench.recipes.load import load_recipe
from locbench.recipes.reading import merge

METHOD = "method"  # the label that names a rule
# What goes with a rule: its name, the file that the paper has of it, and its rival in cost.
OF_RULE = ("rule", "weights", "over")


def with_rules(table: Table, rules: Sequence[str]) -> Table:
    """The table with a row for every rule and protocol, after the rows of that protocol.

    UserError for a table without a row that a rule could stand beside, and for a rule that learns
    from something else than the table's recipes give.
    """
    rows, places = list(table.rows), _protocols(table)
    for name in rules:
        if not places:
            raise UserError(
                f"{table.name} has no place for rule '{name}': no row of it is a method that is "
                "trained here, or its columns are settings of its own methods"
            )
        learns = RULES.entry(name).learns
        fitting = [group for group in places if _gives(table, group[0]) == learns]
        if not fitting:
            other = next(kind for kind in TAUGHT_BY if kind != learns)
            raise UserError(
                f"rule '{name}' learns from {TAUGHT_BY[learns]}, and the recipes of {table.name} "
                f"give {TAUGHT_BY[other]}"
            )
        new = [group for group in fitting if name not in [_rule(table, row) for row in group]]
        if not new:
            raise UserError(f"{table.name} has rule '{name}' in all rows where it could stand")
        for group in new:
            row = _row(group, name, 1 + max(row.index for row in rows))
            rows.insert(1 + max(rows.index(one) for one in group), row)
            group.append(row)
    return replace(table, rows=tuple(rows))


def _protocols(table: Table) -> list[list[Row]]:
    """The rows that train a network, by what fills them besides the rule."""
    groups: dict[str, list[Row]] = {}
    for row in table.rows:
        if METHOD not in row.labels or row.cited or _rule(table, row) in (None, UNTRAINED):
            continue
        key = json.dumps([_plain(row.fill), _plain_sets(row)], sort_keys=True)
        groups.setdefault(key, []).append(row)
    columns = [merge(table.fill, column.fill) for column in table.columns]
    return [] if all(map(sets_rule, columns)) else list(groups.values())


def _gives(table: Table, row: Row) -> str:
    return load_recipe(merge(table.fill, row.fill)["recipe"]).gives


def _rule(table: Table, row: Row) -> str | None:
    return merge(table.fill, row.fill).get("rule") if row.fill else None


def _plain(fill: dict[str, Any]) -> dict[str, Any]:
    """A fill without what is its rule's."""
    sets = {k: v for k, v in fill.get("set", {}).items() if not k.startswith("rule.")}
    rest = {k: v for k, v in fill.items() if k not in (*OF_RULE, "set")}
    return {**rest, **({"set": sets} if sets else {})}


def _plain_sets(row: Row) -> dict[str, Any]:
    plain = {key: _plain({"set": values}).get("set") for key, values in row.sets.items()}
    return {key: values for key, values in plain.items() if values}


def _row(group: Sequence[Row], rule: str, index: int) -> Row:
    first = group[0]
    shared = {k: v for k, v in first.labels.items() if all(r.labels.get(k) == v for r in group)}
    return Row(
        labels={k: {**shared, METHOD: rule}[k] for k in first.labels if k in (METHOD, *shared)},
        cited=False,
        source="",
        inferred=(),
        fill={**_plain(first.fill), "rule": rule},
        published={},
        index=index,
        sets=_plain_sets(first),
        added=True,
    )
