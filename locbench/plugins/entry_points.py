"""Rules that installed distributions offer: entry points, "module:function".

Their version is that of the distribution. None is imported to be listed, and one that is broken
says so where it is asked for, and leaves the others alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata

from locbench.errors import UserError
from locbench.plugins import rule_source as source
from locbench.plugins.entry import RESERVED, Entry


def offered(group: str, own: Mapping[str, Entry]) -> dict[str, Entry]:
    """The entry points of a group by name; what is wrong with one is its `fault`.

    `own` are the components that no entry point may hide.
    """
    points: dict[str, list[metadata.EntryPoint]] = {}
    for point in metadata.entry_points(group=group):
        points.setdefault(point.name, []).append(point)
    return {name: _entry(found, name in own) for name, found in sorted(points.items())}


def _entry(points: list[metadata.EntryPoint], hides: bool) -> Entry:
    first, whose = points[0], [_distribution(point) for point in points]
    said = f"entry point {first.name} = {first.value} of {whose[0]}"
    learns, summary, fault = source.LEARNS[0], "", ""
    try:
        if hides or first.name in RESERVED:
            raise UserError("locbench has a rule of that name")
        if len(set(whose)) > 1:
            raise UserError(f"{' and '.join(whose[1:])} has a rule of that name too")
        learns, summary = _read(first)
    except Exception as error:  # whatever it is, the other rules must be there
        fault = " ".join(f"{said}: {error}".split())
    told = (first.name, first.value, summary, whose[0], learns)
    return Entry(*told, kind="distribution", origin=whose[0], fault=fault)


def _distribution(point: metadata.EntryPoint) -> str:
    return "?" if point.dist is None else f"{point.dist.name} {point.dist.version}"


def _read(point: metadata.EntryPoint) -> tuple[str, str]:
    """What its rule learns from, and its summary."""
    path = source.module_file(point.module)
    tree = source.parsed(path.read_bytes(), str(path))
    function = source.functions(tree).get(point.attr)
    if function is None or not source.is_rule(function):
        raise UserError(f"{path}: {source.expected(point.attr or point.name)}")
    source.settings(function, str(path))
    return source.learns(tree, str(path)), source.summary(function)
