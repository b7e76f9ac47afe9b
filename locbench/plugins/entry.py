"""One registered component: its name, where its code is, and its version. Imports none of it."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from locbench.errors import UserError
from locbench.plugins import rule_source as source

# In a rule's place: initial weights, no network, a file that says nothing of its training.
UNTRAINED, PIXELS, FILE = RESERVED = ("untrained", "pixels", "file")
# What a rule may learn from, in words.
TAUGHT_BY = {"views": "two views of every image", "label": "one view and its label"}


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of an error line: the nearest known name if there is one, else all of them."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(known)}"


@dataclass(frozen=True)
class Entry:
    """One registered component; `version` goes up when a fix in code changes its results.

    `learns` says of a rule what it learns from: two "views" of an image, or its "label". What is
    not locbench's own is of a `kind` ("file", "distribution") and has an `origin`, and its version
    is that of its origin. `fault` is why it cannot be used.
    """

    name: str
    target: str
    summary: str
    version: int | str = 1
    learns: str = "views"
    kind: str = ""
    origin: str = "locbench"
    fault: str = ""

    @property
    def file(self) -> str:
        """The file of its source."""
        return str(source.module_file(self.target.partition(":")[0]))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Keyword-only arguments and their defaults, read from the source: it is not imported."""
        tree = source.parsed(Path(self.file).read_bytes(), self.file)
        return source.settings(source.functions(tree)[self.target.split(":")[1]], self.file)

    def load(self) -> Any:
        """The component itself: imports its module. UserError where one from outside fails."""
        module, attribute = self.target.split(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:
            if not self.kind:
                raise
            why = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"rule '{self.name}' of {self.origin} cannot be run: {why}") from error

    @property
    def described(self) -> str:
        """Its name and where it is from, with the first digits of a file's hash."""
        hashed = f", {self.version:.19}" if self.kind == "file" else ""
        return f"{self.name} (of {self.origin}{hashed})"

    def told(self) -> dict[str, Any]:
        """What a record says of it besides its name."""
        return {"version": self.version, **({self.kind: self.origin} if self.kind else {})}

    def keep(self, folder: Path) -> None:
        """What a run leaves of it in its folder: nothing, for it is installed."""
