"""Marks of a recipe: which values are ours, because paper and official code leave them open."""

from __future__ import annotations

import re
from pathlib import Path

from locbench.recipes.load import recipe_path
from locbench.recipes.reading import read_toml

MARK = "[chosen]"
HEAD = re.compile(r"\[(?P<section>[\w.]+)\]")
VALUE = re.compile(r"(?P<key>\w+) *=")


def chosen_keys(name: str) -> list[str]:
    """The marked values of a recipe at `paper`, and of the file that it extends, in their order.

    'optimizer.trust' is a value, 'network' a whole section. A value that is given again without a
    mark is no longer one of them. UserError for an unknown recipe.
    """
    path = recipe_path(name)
    base = read_toml(path).get("extends")
    paths = [*([recipe_path(base)] if base else []), path]
    marked = {key: is_marked for path in paths for key, is_marked in _marks(path).items()}
    return [key for key, is_marked in marked.items() if is_marked]


def _marks(path: Path) -> dict[str, bool]:
    """Of every value whether it is marked; and the sections that are marked as a whole."""
    marks, section = {}, ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if head := HEAD.match(line):
            section = head["section"]
        if section.split(".")[0] == "scales":
            break
        value = VALUE.match(line)
        if value or (head and MARK in line):
            marks[section if head else f"{section}.{value['key']}"] = MARK in line
    return marks
