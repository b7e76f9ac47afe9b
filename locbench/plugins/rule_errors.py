"""What goes wrong in the code of a rule from outside, as one line that names its file and line."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from locbench.errors import UserError
from locbench.plugins.entry import Entry
from locbench.plugins.registry import RULES

# What calls objectives, and works on what they return: methods of the engine and of the trainer.
CALLERS = ("_objective", "train_step")
CONTRACT = "; an objective returns a scalar loss and {name: detached scalar tensor}"


def nothing(error: Exception) -> bool:
    """No error is excepted."""
    return False


@contextmanager
def blamed(
    rule: str,
    unless: Callable[[Exception], bool] = nothing,
    becomes: type[UserError] = UserError,
) -> Iterator[None]:
    """Errors that the code or an objective of this rule had a part in become one for people.

    Others stay what they are, as do those that `unless` knows, and all of locbench's own rules.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        entry = RULES.known.get(rule)
        if entry is None or not entry.kind or unless(error) or not _had_part(entry, error):
            raise
        where = place(entry, error)
        hint = CONTRACT if where == entry.file else ""
        raise becomes(f"rule '{rule}', {where}: {words(error)}{hint}") from error


def _had_part(entry: Entry, error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return any(frame.filename == entry.file or frame.name in CALLERS for frame in frames)


def place(entry: Entry, error: BaseException) -> str:
    """The file of a rule, and the last line of it that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == entry.file]
    return f"{entry.file}, line {lines[-1]}" if lines else entry.file


def words(error: BaseException) -> str:
    """An error's class and text in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
