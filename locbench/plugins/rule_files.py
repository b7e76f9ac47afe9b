"""Rules from outside: a Python file of the user's in the place of a rule's name.

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
from locbench.plugins import rule_source as source
from locbench.plugins.entry import RESERVED, Entry
from locbench.plugins.registry import RULES
from locbench.plugins.rule_errors import place, words

SUFFIX = ".py"
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class FileRule(Entry):
    """A rule in a file of the user's, as it was when it was read; `origin` is its name."""

    path: Path = Path()
    text: bytes = field(default=b"", repr=False)

    @property
    def file(self) -> str:
        """The file, as the user gave it."""
        return str(self.path)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Keyword-only arguments and their defaults."""
        tree = source.parsed(self.text, self.file)
        return source.settings(source.functions(tree)[self.target], self.file)

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
                raise UserError(f"{place(self, error)}: cannot be run: {words(error)}") from error
        return getattr(sys.modules[name], self.target)

    def keep(self, folder: Path) -> None:
        """Leave a copy beside a run's record: what reads its encoder knows the rule from it."""
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
    tree = source.parsed(text, where)
    function = _function(source.functions(tree), name.replace("-", "_"), where)
    source.settings(function, where)  # what is wrong with them is said now
    return FileRule(
        name,
        function.name,
        source.summary(function),
        f"sha256:{hashlib.sha256(text).hexdigest()}",
        source.learns(tree, where),
        kind="file",
        origin=path.name,
        path=path,
        text=text,
    )


def _function(found: Mapping[str, ast.FunctionDef], name: str, where: str) -> ast.FunctionDef:
    """The function that is the rule of a file whose rule may be called `name`."""
    rules = [f for f in found.values() if source.is_rule(f) and not f.name.startswith("_")]
    if name in found and source.is_rule(found[name]):
        return found[name]
    if name not in found and len(rules) == 1:
        return rules[0]
    why = "there is no rule in it"
    if name in found:
        why = f"the first parameter of {name} is not '{source.FIRST}'"
    elif rules:
        why = f"{' and '.join(f.name for f in rules)} may each be its rule"
    raise UserError(f"{where}: {why}; {source.expected(name)}")


def rule_name(word: str) -> str:
    """The name of a rule that is given by name or as a .py file; a file is known from then on.

    UserError for an unknown name, and for a file that holds no rule or would hide another.
    """
    if not word.endswith(SUFFIX):
        if word not in RULES.known and (file := Path(word + SUFFIX)).is_file():
            raise UserError(f"unknown rule '{word}'; did you mean the file {file}?")
        return RULES.entry(word).name
    return _add(read_file(Path(word)))


def rule_names(given: str | Sequence[str]) -> list[str]:
    """`rule_name` of one or several, each once; UserError for different files of one name."""
    versions: dict[str, Any] = {}
    for word in [given] if isinstance(given, str) else given:
        name = rule_name(word)
        version = RULES.entry(name).version
        if versions.setdefault(name, version) != version:
            raise UserError(f"two files hold a rule '{name}': rename one, for rules go by name")
    return list(versions)


def _add(entry: FileRule) -> str:
    other = RULES.entries.get(entry.name) or RULES.offered.get(entry.name)
    if entry.name in RESERVED or (other is not None and other.kind != "file"):
        whose = "locbench" if other is None else other.origin
        raise UserError(
            f"{entry.file}: its rule '{entry.name}' would hide that of {whose}: rename the file"
        )
    RULES.entries[entry.name] = entry
    return entry.name


def known_from(rule: Mapping[str, Any], folder: Path) -> None:
    """Make known the rule of a run that a file gave, from the copy in the run's folder.

    `rule` is what the run's record says of it. UserError where the copy is gone or was changed;
    there is nothing to do for other rules.
    """
    if "file" not in rule:
        return
    entry = read_file(folder / rule["file"])
    if entry.version != rule["version"]:
        raise UserError(
            f"{entry.file} was changed: it is not the rule that {folder.name} was trained with"
        )
    _add(entry)
