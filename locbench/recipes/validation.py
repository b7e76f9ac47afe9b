"""Values of a recipe checked against annotated types: what fits, and how to say what does not."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from locbench.errors import UserError
from locbench.plugins.entry import suggest
from locbench.plugins.registry import DATASETS, DETECTION_SETS, NETWORKS, RULES

Scalar = str | int | float | bool
FREE = ("rule", "rules")  # sections whose keys a rule knows, and not the recipe


@dataclass(frozen=True)
class Limit:
    """What a value must satisfy, and how to say so."""

    holds: Callable[[Any], bool]
    want: str


Positive = Annotated[float, Limit(lambda x: x > 0, "above 0")]
NotNegative = Annotated[float, Limit(lambda x: x >= 0, "at least 0")]
Fraction = Annotated[float, Limit(lambda x: 0 <= x <= 1, "from 0 to 1")]
Share = Annotated[float, Limit(lambda x: 0 < x <= 1, "above 0 and at most 1")]
Momentum = Annotated[float, Limit(lambda x: 0 <= x < 1, "at least 0 and below 1")]
Hue = Annotated[float, Limit(lambda x: 0 <= x <= 0.5, "from 0 to 0.5")]
Count = Annotated[int, Limit(lambda x: x >= 1, "at least 1")]
Pairs = Annotated[int, Limit(lambda x: x >= 2, "at least 2 (the negatives are other images)")]
Whole = Annotated[int, Limit(lambda x: x >= 0, "at least 0")]
DataName = Annotated[str, DATASETS]
DetectionName = Annotated[str, DETECTION_SETS]


WORDS = {float: "a number", int: "a whole number", bool: "true or false", str: "a string"}


# A recipe's sections: dataclasses whose annotations are checked, one for every form that the
# section can have. The forms are told apart by their `name`, which the first may lack.
Forms = tuple[type, ...]
Sections = Mapping[str, Forms]


@cache
def _hints(form: type) -> dict[str, Any]:
    hints = get_type_hints(form, include_extras=True)
    return {field.name: hints[field.name] for field in fields(form)}


@cache
def form_names(forms: Forms) -> dict[str, type]:
    """The forms of a section by name; empty where there is one form only.

    A form without a key `name` has its name in NAME: it is what a section without a name has.
    """
    if len(forms) == 1:
        return {}
    named = {form: _hints(form).get("name") for form in forms}
    return {get_args(k)[0] if k is not None else form.NAME: form for form, k in named.items()}


@cache
def kinds(forms: Forms) -> dict[str, Any]:
    """The annotated types of a section's keys, of whatever form."""
    found: dict[str, Any] = {}
    for form in reversed(forms):
        found |= _hints(form)
    names = form_names(forms)
    return {**found, "name": Literal[tuple(names)]} if names else found


def build_form(forms: Forms, entries: Mapping[str, Any], where: str, section: str) -> Any:
    """A section's dataclass, of the form that `name` says, without a name of the first.

    Checked once more: a key may fit another form of the section, and not the one that was chosen.
    """
    form = form_names(forms).get(entries.get("name"), forms[0])
    own = {k: v for k, v in entries.items() if k != "name" or "name" in _hints(form)}
    return form(**check_section({section: (form,)}, section, own, where))


def overlay(
    sections: Sections, section: str, base: Mapping[str, Any], entries: Mapping[str, Any]
) -> dict[str, Any]:
    """A section's values with others over them; the name of another form starts it afresh."""
    names = form_names(sections[section]) if section in sections else {}
    held = base.get("name", next(iter(names), None))
    if names and entries.get("name", held) != held:
        return dict(entries)
    return {**base, **entries}


def check_section(sections: Sections, section: str, entries: Any, where: str) -> dict[str, Any]:
    """The entries of one section, converted; UserError for an unknown key or a wrong value.

    Beside `sections` there are `rule`, with free keys and scalars only, and `rules`, with such a
    section for every rule. Without a name a section may have the keys of all its forms.
    """
    if section not in sections and section not in FREE:
        raise UserError(f"{where}: unknown section '{section}'{suggest(section, sections)}")
    if not isinstance(entries, Mapping):
        raise UserError(f"{where}: {section} must be a section, [{section}], not a value")
    if section == "rule":
        return {k: scalar(v, f"{where}: rule.{k}") for k, v in entries.items()}
    if section == "rules":
        return {rule: _check_rule(v, rule, where) for rule, v in entries.items()}
    forms = sections[section]
    known, named = kinds(forms), entries.get("name")
    if isinstance(named, str) and (form := form_names(forms).get(named)) is not None:
        known = {"name": known["name"], **_hints(form)}
    for key in entries:
        if key not in known:
            raise UserError(f"{where}: unknown key '{section}.{key}'{suggest(key, known)}")
    return {k: checked(v, known[k], f"{where}: {section}.{k}") for k, v in entries.items()}


def _check_rule(entries: Any, rule: str, where: str) -> dict[str, Any]:
    """[rules.NAME]: settings of a registered rule, and below it those for one network."""
    where = f"{where}: rules.{rule}"
    if rule not in RULES:
        raise UserError(f"{where}: unknown rule '{rule}'{suggest(rule, RULES.names())}")
    if not isinstance(entries, Mapping):
        raise UserError(f"{where} must be a section, [rules.{rule}], not a value")
    found: dict[str, Any] = {}
    for key, value in entries.items():
        if not isinstance(value, Mapping):
            found[key] = scalar(value, f"{where}.{key}")
        elif key in NETWORKS.names():
            found[key] = {k: scalar(v, f"{where}.{key}.{k}") for k, v in value.items()}
        else:
            known = suggest(key, NETWORKS.names())
            raise UserError(f"{where}: unknown network '{key}'{known}")
    return found


def check_dotted(
    sections: Sections, values: Mapping[str, Any], where: str
) -> dict[str, dict[str, Any]]:
    """Values by dotted key ("optimizer.lr"), converted like those of a file, by section.

    Text given for a key that is not text is read as TOML. `where` begins an error's line.
    """
    found: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, dot, entry = key.partition(".")
        known = kinds(sections[section]) if section in sections else {}
        rule, within, setting = entry.partition(".")
        if section == "rules" and within and setting:  # rules.NAME.SETTING
            own = {rule: _check_rule({setting: value}, rule, where)}
            found["rules"] = merge(found.get("rules", {}), own)
            continue
        if section == "rule" and dot and entry:
            value = scalar(value, f"{where} {key}")
        elif entry in known:
            text = isinstance(value, str) and not is_text(known[entry])
            value = parse_value(value) if text else value
            value = checked(value, known[entry], f"{where} {key}")
        else:
            raise UserError(f"{where} {key}: unknown key{nearest_key(sections, key)}")
        found.setdefault(section, {})[entry] = value
    return found


def nearest_key(sections: Sections, key: str) -> str:
    """A suggestion for a dotted key; for one without a section, the sections that have it."""
    section, dot, _ = key.partition(".")
    known = [f"{name}.{entry}" for name, forms in sections.items() for entry in kinds(forms)]
    if dot:
        return suggest(key, [k for k in known if k.startswith(f"{section}.")] or known)
    if key in sections:
        return f"; a key is SECTION.NAME: {section} has {', '.join(kinds(sections[section]))}"
    homes = [k for k in known if k.split(".")[1] == key]
    if homes:
        return f"; did you mean {' or '.join(repr(k) for k in homes)}?"
    return f"; a key is SECTION.NAME, and the sections are {', '.join([*sections, 'rule'])}"


def scalar(value: Any, where: str) -> Scalar:
    """`value` where a rule's free key may hold it: text, a finite number, true or false."""
    if not isinstance(value, Scalar) or (isinstance(value, float) and not math.isfinite(value)):
        raise UserError(f"{where} must be a string, a finite number, true or false, not {value!r}")
    return value


def checked(value: Any, kind: Any, where: str) -> Any:
    """`value` as `kind` (a type, Literal, tuple or Annotated with limits); UserError if it is not.

    Whole numbers pass for floats; true and false do not pass for numbers.
    """
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        value = checked(value, args[0], where)
        _check_limit(value, args[1], where)
        return value
    if origin is Literal:
        if value not in args:
            raise UserError(f"{where}: unknown value {value!r}{suggest(str(value), args)}")
        return value
    if origin is tuple:
        return _checked_tuple(value, args, where)
    fits = isinstance(value, (int, float) if kind is float else kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{where} must be {WORDS[kind]}, not {value!r}")
    if kind is float and not math.isfinite(value):
        raise UserError(f"{where} must be a finite number, not {value!r}")
    return kind(value)


def _check_limit(value: Any, limit: Any, where: str) -> None:
    if isinstance(limit, Limit):
        if not limit.holds(value):
            raise UserError(f"{where} must be {limit.want}, not {value!r}")
    elif value not in limit.names():
        raise UserError(f"{where}: unknown {limit.kind} '{value}'{suggest(value, limit.names())}")


def _checked_tuple(value: Any, args: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    repeated = args[-1] is Ellipsis
    if not isinstance(value, list | tuple) or not (repeated or len(value) == len(args)):
        count = "" if repeated else f"{len(args)} "
        raise UserError(f"{where} must be a list of {count}numbers, not {value!r}")
    kinds = [args[0]] * len(value) if repeated else args
    return tuple(checked(v, kind, where) for v, kind in zip(value, kinds, strict=True))


def is_text(kind: Any) -> bool:
    """Whether values of this type are text, so that '1' stays what it is."""
    if get_origin(kind) is Literal:
        return True
    return kind is str or (get_origin(kind) is Annotated and get_args(kind)[0] is str)


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """['optimizer.lr=0.4', 'data.name=shapes'] -> values by key.

    A value is TOML; what is not (a bare word) is text. Raises UserError for a pair without '='.
    """
    values = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {pair}: expected KEY=VALUE, for instance optimizer.lr=0.4")
        values[key.strip()] = parse_value(text.strip())
    return values


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
