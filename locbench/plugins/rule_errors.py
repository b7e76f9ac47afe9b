"""Turns errors in the code of a rule from outside into one line that names its file and line."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from locbench.errors import UserError
from locbench.plugins.entry import Entry
from locbench.plugins.registry import RULES
from locbench.plugins.rule_source import one_line

# What calls objectives, and works on what they return: methods of the engine and of the trainer.
CALLERS = ("_objective", "train_step")
CONTRACT = "; an objective returns a scalar loss and {name: detached scalar tensor}"


@contextmanager
def blamed(
    rule: str,
    unless: Callable[[Exception], bool] = lambda error: False,
    becomes: type[UserError] = UserError,
) -> Iterator[None]:
    """Turn errors from the code or an objective of a rule from outside into a `becomes`.

    Errors that the rule had no part in are raised as they are; so are those for which `unless` is
    true, and all errors of locbench's own rules.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        entry = RULES.usable.get(rule)
        if entry is None or not entry.source or unless(error) or not _had_part(entry, error):
            raise
        where = place(entry, error)
        hint = CONTRACT if where == entry.file else ""
        raise becomes(f"rule '{rule}', {where}: {one_line(error)}{hint}") from error


def _had_part(entry: Entry, error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return any(frame.filename == entry.file or frame.name in CALLERS for frame in frames)


def place(entry: Entry, error: BaseException) -> str:
    """The file of a rule, and the last line of it that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == entry.file]
    return f"{entry.file}, line {lines[-1]}" if lines else entry.file
