"""Rules of installed distributions, found by their entry points, "module:function".

A rule's version is that of its distribution. No distribution is imported before its rule is used.
A broken rule raises its error where it is used, and leaves the others alone.
"""

from __future__ import annotations

from collections.abc import Container
from importlib import metadata

from locbench.errors import UserError
from locbench.plugins import rule_source
from locbench.plugins.entry import RESERVED, Entry


def read_entry_points(group: str, *, reserved: Container[str]) -> dict[str, Entry]:
    """The entry points of a group by name; what is wrong with one is its `fault`.

    `reserved` are names of locbench's own, which no entry point may hide.
    """
    by_name: dict[str, list[metadata.EntryPoint]] = {}
    for point in metadata.entry_points(group=group):
        by_name.setdefault(point.name, []).append(point)
    return {name: _entry(points, name in reserved) for name, points in sorted(by_name.items())}


def _entry(points: list[metadata.EntryPoint], is_reserved: bool) -> Entry:
    point, *_ = points
    origin, *others = (_distribution(point) for point in points)
    learns, summary, fault = rule_source.LEARNS[0], "", ""
    try:
        if is_reserved or point.name in RESERVED:
            raise UserError("locbench has a rule of that name")
        if set(others) - {origin}:
            raise UserError(f"{' and '.join(others)} has a rule of that name too")
        learns, summary = _read(point)
    except Exception as error:  # whatever it is, the other rules must be there
        line = f"entry point {point.name} = {point.value} of {origin}: {error}"
        fault = " ".join(line.split())
    return Entry(
        name=point.name,
        target=point.value,
        summary=summary,
        version=origin,
        learns=learns,
        source="distribution",
        origin=origin,
        fault=fault,
    )


def _distribution(point: metadata.EntryPoint) -> str:
    return "?" if point.dist is None else f"{point.dist.name} {point.dist.version}"


def _read(point: metadata.EntryPoint) -> tuple[str, str]:
    """What its rule learns from, and its summary."""
    path = rule_source.module_file(point.module)
    tree = rule_source.parsed(path.read_bytes(), str(path))
    function = rule_source.functions(tree).get(point.attr)
    if function is None or not rule_source.is_rule(function):
        raise UserError(f"{path}: {rule_source.expected(point.attr or point.name)}")
    rule_source.settings(function, str(path))
    return rule_source.learns(tree, str(path)), rule_source.summary(function)
