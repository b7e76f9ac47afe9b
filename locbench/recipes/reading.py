"""Tables of a file read into dataclasses: a value that does not fit is one line with its key.

The types and limits are annotations, `Annotated[float, Meta(ge=0)]`, and msgspec checks them.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from locbench.errors import UserError
from locbench.plugins.entry import suggest
from locbench.plugins.registry import Registry

T = TypeVar("T")
LARGEST = sys.float_info.max  # a limit of what is finite: TOML has inf and nan
Number = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]
NotNegative = Annotated[float, Meta(ge=0, le=LARGEST)]
Scalar = str | bool | int | Number
WORDS = {"float": "a number", "int": "a whole number", "bool": "true or false", "str": "text"}
WORDS |= {"array": "a list", "object": "a table"}


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file holds; UserError with the line where it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path}: cannot be read as TOML: {error}") from error


def read(raw: Any, form: type[T], *, where: str, whole: bool = False) -> T:
    """The dataclass `form` from a table; `where` begins an error's line.

    UserError for an unknown key, with the nearest one, a value that does not fit, or a missing key:
    one without a default or, of what has to be `whole`, any.
    """
    types = hints(form)
    check_keys(typed(raw, dict, where=where), types, where=where)
    for field in fields(form):
        needed = whole or field.default is field.default_factory is MISSING
        if needed and field.name not in raw:
            raise UserError(f"{where}: '{field.name}' is missing")
    return form(**{key: typed(v, types[key], where=f"{where}: '{key}'") for key, v in raw.items()})


@cache
def hints(form: type) -> dict[str, Any]:
    """The annotated types of a dataclass, by key."""
    types = get_type_hints(form, include_extras=True)
    return {field.name: types[field.name] for field in fields(form)}


def check_keys(raw: Iterable[str], keys: Iterable[str], *, where: str) -> None:
    """UserError, with the nearest of `keys`, for one that is none of them."""
    keys = list(dict.fromkeys(keys))
    for key in raw:
        if key not in keys:
            raise UserError(f"{where}: unknown key '{key}'{suggest(key, keys)}")


def check_name(name: str, registry: Registry, *, where: str) -> None:
    """UserError, with the nearest name, for one that the registry has not."""
    with errors_at(where):
        registry.entry(name)


@contextmanager
def errors_at(where: str) -> Iterator[None]:
    """Where the line of a UserError that is raised within begins."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def typed(value: Any, kind: Any, *, where: str) -> Any:
    """`value` as `kind`: a type, Literal, tuple, union, or Annotated with Meta or a Registry.

    Whole numbers pass for floats; true and false do not pass for numbers.
    """
    if get_origin(kind) is Literal and value not in get_args(kind):
        raise UserError(f"{where}: unknown value {value!r}{suggest(str(value), get_args(kind))}")
    try:
        result = msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
        for index in re.findall(r"\[(\d+)\]", place):
            where, value = f"{where}[{index}]", value[int(index)]
        raise UserError(f"{where} must be {_wanted(message)}, not {value!r}") from error
    for registry in getattr(kind, "__metadata__", ()):
        if isinstance(registry, Registry):
            check_name(result, registry, where=where)
    return result


def _wanted(message: str) -> str:
    """What msgspec expected, in plain words: "Expected `float` >= 0.0" is "a number >= 0.0"."""
    wanted = message.removeprefix("Expected ").partition(", got ")[0]
    if str(LARGEST) in wanted:
        return "a finite number"

    def words(types: re.Match[str]) -> str:
        names = set(types[1].split(" | "))
        less = {"null", "int"} if "float" in names else {"null"}
        return " or ".join(sorted(WORDS[name] for name in names - less))

    return re.sub("`(.*?)`", words, wanted)


def parse_value(text: str) -> Any:
    """Text as a TOML value; what is none (a bare word) stays text."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` on top, tables within merged in the same way; neither is changed."""
    result = {k: merge(v, {}) if isinstance(v, Mapping) else v for k, v in base.items()}
    for key, value in over.items():
        result[key] = merge(result.get(key, {}), value) if isinstance(value, Mapping) else value
    return result
