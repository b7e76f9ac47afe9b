"""One registered rule, network, data set or kind of run: its name, its code, its version.

The code is not imported before it is used.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from locbench.errors import UserError
from locbench.plugins import rule_source

# In the place of a rule's name: initial weights, plain pixels, a file of weights.
UNTRAINED, PIXELS, FILE = RESERVED = ("untrained", "pixels", "file")
# What a rule may learn from, in words.
TAUGHT_BY = {"views": "two views of every image", "label": "one view and its label"}


def suggest(word: str, names: Iterable[str]) -> str:
    """The end of an error line on an unknown word: the nearest name, or else all names."""
    names = list(names)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(names)}"


@dataclass(frozen=True)
class Entry:
    """One registered component.

    target: its code, "module:attribute".
    version: goes up when a fix in the code changes results; from outside, that of the origin.
    learns: what a rule learns from, two "views" of an image or its "label".
    source: "" for locbench's own, else "file" or "distribution"; `origin` says which.
    fault: why it cannot be used.
    """

    name: str
    target: str
    summary: str
    version: int | str = 1
    learns: str = "views"
    source: str = ""
    origin: str = "locbench"
    fault: str = ""

    @property
    def file(self) -> str:
        """The file of its source."""
        return str(rule_source.module_file(self.target.partition(":")[0]))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Keyword-only arguments and their defaults, read from the source: it is not imported."""
        tree = rule_source.parsed(Path(self.file).read_bytes(), self.file)
        function = rule_source.functions(tree)[self.target.partition(":")[2]]
        return rule_source.settings(function, self.file)

    def load(self) -> Any:
        """The component itself: imports its module. UserError where one from outside fails."""
        module, attribute = self.target.split(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:
            if not self.source:
                raise
            why = rule_source.one_line(error)
            raise UserError(f"rule '{self.name}' of {self.origin} cannot be run: {why}") from error

    @property
    def described(self) -> str:
        """Its name and where it is from, with the first digits of a file's hash."""
        digest = f", {self.version:.19}" if self.source == "file" else ""
        return f"{self.name} (of {self.origin}{digest})"

    def provenance(self) -> dict[str, Any]:
        """What a record says of it besides its name."""
        return {"version": self.version, **({self.source: self.origin} if self.source else {})}

    def keep(self, folder: Path) -> None:
        """Save in a run's folder what a later run needs of it: nothing, for it is installed."""
