"""Rules in Python files of the user's, which may be given in the place of a rule's name.

A file is a rule by its name: the function named like it or, without one, the only public function
whose first parameter is `network`. Its version is the sha256 of its content, so that a changed file
makes other runs; what it imports from other files is no part of that. The rules of installed
packages are in `entry_points`. Both are read and not imported until a network is to be trained.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from locbench.errors import UserError
from locbench.paths import write_atomic
from locbench.plugins import rule_source
from locbench.plugins.entry import RESERVED, Entry
from locbench.plugins.registry import RULES
from locbench.plugins.rule_errors import place
from locbench.plugins.rule_source import one_line

SUFFIX = ".py"
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class FileRule(Entry):
    """A rule in a file of the user's, as it was when it was read; `origin` is its name."""

    path: Path = Path()
    text: bytes = field(default=b"", repr=False)

    @property
    def file(self) -> str:
        """The path, as the user gave it."""
        return str(self.path)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Keyword-only arguments and their defaults."""
        tree = rule_source.parsed(self.text, self.file)
        return rule_source.settings(rule_source.functions(tree)[self.target], self.file)

    def load(self) -> Any:
        """The function; runs the file as it was read. UserError where that fails."""
        name = f"_locbench_{self.version}"
        if name not in sys.modules:
            module = ModuleType(name)
            module.__file__ = self.file
            sys.modules[name] = module  # dataclasses, among others, look there for their module
            try:
                code = compile(self.text, self.file, "exec", dont_inherit=True)
                exec(code, vars(module))
            except BaseException as error:
                del sys.modules[name]
                if isinstance(error, KeyboardInterrupt):
                    raise
                raise UserError(
                    f"{place(self, error)}: cannot be run: {one_line(error)}"
                ) from error
        return getattr(sys.modules[name], self.target)

    def keep(self, folder: Path) -> None:
        """Save a copy in a run's folder, from which later runs register the rule."""
        write_atomic(folder / self.origin, self.text)


def read_file(path: Path) -> FileRule:
    """The rule in a file; UserError, with what was expected, where there is none."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: no rule can be read there: {error.strerror}") from error
    name, where = path.stem, str(path)
    if not NAME.fullmatch(name):
        raise UserError(
            f"{path}: a rule is called like its file: give that a name of letters, digits, _ and -"
        )
    tree = rule_source.parsed(text, where)
    function = _function(rule_source.functions(tree), name.replace("-", "_"), where)
    rule_source.settings(function, where)  # what is wrong with them is said now
    return FileRule(
        name=name,
        target=function.name,
        summary=rule_source.summary(function),
        version=f"sha256:{hashlib.sha256(text).hexdigest()}",
        learns=rule_source.learns(tree, where),
        source="file",
        origin=path.name,
        path=path,
        text=text,
    )


def _function(functions: Mapping[str, ast.FunctionDef], name: str, where: str) -> ast.FunctionDef:
    """The function called `name`, or else the only public one that takes a network first."""
    rules = [f for f in functions.values() if rule_source.is_rule(f) and f.name[0] != "_"]
    if name in functions and rule_source.is_rule(functions[name]):
        return functions[name]
    if name not in functions and len(rules) == 1:
        return rules[0]
    why = "there is no rule in it"
    if name in functions:
        why = f"the first parameter of {name} is not '{rule_source.FIRST}'"
    elif rules:
        why = f"{' and '.join(f.name for f in rules)} may each be its rule"
    raise UserError(f"{where}: {why}; {rule_source.expected(name)}")


def rule_name(word: str) -> str:
    """The name of a rule that is given by name or as a .py file, which is then registered.

    UserError for an unknown name, and for a file that holds no rule or would hide another.
    """
    if not word.endswith(SUFFIX):
        if word not in RULES.usable and (file := Path(word + SUFFIX)).is_file():
            raise UserError(f"unknown rule '{word}'; did you mean the file {file}?")
        return RULES.entry(word).name
    return _add(read_file(Path(word)))


def rule_names(rules: str | Sequence[str]) -> list[str]:
    """`rule_name` of one or several, each once; UserError for different files of one name."""
    versions: dict[str, Any] = {}
    for word in [rules] if isinstance(rules, str) else rules:
        name = rule_name(word)
        version = RULES.entry(name).version
        if versions.setdefault(name, version) != version:
            raise UserError(f"two files hold a rule '{name}': rename one, for rules go by name")
    return list(versions)


def _add(entry: FileRule) -> str:
    other = RULES.entries.get(entry.name) or RULES.installed.get(entry.name)
    if entry.name in RESERVED or (other is not None and other.source != "file"):
        owner = "locbench" if other is None else other.origin
        raise UserError(
            f"{entry.file}: its rule '{entry.name}' would hide that of {owner}: rename the file"
        )
    RULES.entries[entry.name] = entry
    return entry.name


def restore_rule(rule: Mapping[str, Any], folder: Path) -> None:
    """Register the rule of a run again, from the copy of its file in the run's folder.

    `rule` is what the run's record says of it; rules that are not of files are left alone.
    UserError where the copy is gone or was changed.
    """
    if "file" not in rule:
        return
    entry = read_file(folder / rule["file"])
    if entry.version != rule["version"]:
        raise UserError(
            f"{entry.file} was changed: it is not the rule that {folder.name} was trained with"
        )
    _add(entry)
