"""Sections of a recipe, checked where they are written: in a file, a scale, an override."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin

from locbench.errors import UserError
from locbench.plugins.entry import suggest
from locbench.plugins.registry import NETWORKS, RULES
from locbench.recipes.reading import Scalar, check_name, hints, merge, parse_value, typed
from locbench.recipes.schema import SECTIONS

FREE = ("rule", "rules")  # sections whose keys a rule knows, and not the recipe


@cache
def form_names(section: str) -> dict[str, type]:
    """The forms of a section by name; empty where there is one form only."""
    forms = SECTIONS.get(section, ())
    return {form.name: form for form in forms} if len(forms) > 1 else {}


@cache
def section_keys(section: str) -> dict[str, Any]:
    """The annotated types of a section's keys, of whatever form."""
    keys = {k: kind for form in reversed(SECTIONS[section]) for k, kind in hints(form).items()}
    names = tuple(form_names(section))
    return {**keys, "name": Literal[names]} if names else keys


def build_form(section: str, entries: Mapping[str, Any], *, where: str) -> Any:
    """A section's dataclass, of the form that `name` says, without a name of the first.

    Checked once more: a key may fit another form of the section, and not the one that was chosen.
    """
    form = form_names(section).get(entries.get("name"), SECTIONS[section][0])
    keys = hints(form)
    kept = {k: v for k, v in entries.items() if k != "name" or k in keys}
    return form(**_typed_entries(section, kept, keys, where=where))


def overlay(section: str, base: Mapping[str, Any], entries: Mapping[str, Any]) -> dict[str, Any]:
    """A section's values with others over them; the name of another form starts it afresh."""
    name = base.get("name", next(iter(form_names(section)), None))
    if form_names(section) and entries.get("name", name) != name:
        return dict(entries)
    return {**base, **entries}


def check_section(section: str, entries: Any, *, where: str) -> dict[str, Any]:
    """The entries of one section, converted; UserError for an unknown key or a wrong value.

    Beside the recipe's there are `rule`, with free keys and scalars only, and `rules`, with such a
    section for every rule. Without a name a section may have the keys of all its forms.
    """
    if section not in SECTIONS and section not in FREE:
        raise UserError(f"{where}: unknown section '{section}'{suggest(section, SECTIONS)}")
    if not isinstance(entries, Mapping):
        raise UserError(f"{where}: {section} must be a section, [{section}], not a value")
    if section == "rule":
        return {k: typed(v, Scalar, where=f"{where}: rule.{k}") for k, v in entries.items()}
    if section == "rules":
        return {rule: _check_rule(v, rule, where=where) for rule, v in entries.items()}
    keys, name = section_keys(section), entries.get("name")
    if isinstance(name, str) and name in form_names(section):
        keys = {"name": keys["name"], **hints(form_names(section)[name])}
    return _typed_entries(section, entries, keys, where=where)


def _typed_entries(
    section: str, entries: Mapping[str, Any], keys: Mapping[str, Any], *, where: str
) -> dict[str, Any]:
    for key in entries:
        if key not in keys:
            raise UserError(f"{where}: unknown key '{section}.{key}'{suggest(key, keys)}")
    return {k: typed(v, keys[k], where=f"{where}: {section}.{k}") for k, v in entries.items()}


def _check_rule(entries: Any, rule: str, *, where: str) -> dict[str, Any]:
    """[rules.NAME]: settings of a registered rule, and below it those for one network."""
    where = f"{where}: rules.{rule}"
    check_name(rule, RULES, where=where)
    if not isinstance(entries, Mapping):
        raise UserError(f"{where} must be a section, [rules.{rule}], not a value")
    settings: dict[str, Any] = {}
    for key, value in entries.items():
        if isinstance(value, Mapping):
            check_name(key, NETWORKS, where=where)
            settings[key] = {
                k: typed(v, Scalar, where=f"{where}.{key}.{k}") for k, v in value.items()
            }
        else:
            settings[key] = typed(value, Scalar, where=f"{where}.{key}")
    return settings


def check_dotted(values: Mapping[str, Any], *, where: str) -> dict[str, dict[str, Any]]:
    """Values by dotted key ("optimizer.lr"), converted like those of a file, by section.

    Text given for a key that is not text is read as TOML. `where` begins an error's line.
    """
    sections: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, _, entry = key.partition(".")
        rule, _, setting = entry.partition(".")
        if section == "rules" and setting:  # rules.NAME.SETTING
            entries = {rule: {setting: value}}
        elif section == "rule" and entry:
            entries = {entry: value}
        elif section in SECTIONS and entry in section_keys(section):
            text = isinstance(value, str) and not _is_text(section_keys(section)[entry])
            entries = {entry: parse_value(value) if text else value}
        else:
            raise UserError(f"{where} {key}: unknown key{_nearest_key(key)}")
        checked = check_section(section, entries, where=where)
        sections[section] = merge(sections.get(section, {}), checked)
    return sections


def _is_text(kind: Any) -> bool:
    """Whether values of this type are text, so that '1' stays what it is."""
    plain = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    return plain is str or get_origin(plain) is Literal


def _nearest_key(key: str) -> str:
    """A suggestion for a dotted key; for one without a section, the sections that have it."""
    section, dot, _ = key.partition(".")
    keys = [f"{name}.{entry}" for name in SECTIONS for entry in section_keys(name)]
    if dot:
        return suggest(key, [k for k in keys if k.startswith(f"{section}.")] or keys)
    if key in SECTIONS:
        return f"; a key is SECTION.NAME: {section} has {', '.join(section_keys(section))}"
    homes = [k for k in keys if k.split(".")[1] == key]
    if homes:
        return f"; did you mean {' or '.join(repr(k) for k in homes)}?"
    return f"; a key is SECTION.NAME, and the sections are {', '.join([*SECTIONS, 'rule'])}"


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
