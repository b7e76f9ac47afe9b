"""Identity: what of a recipe decides a result, and the hash that tells runs apart."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from locbench.recipes.schema import SECTIONS

FIRST_FORMS = tuple(forms[0] for forms in SECTIONS.values())
FIRST_OF = {form: forms[0] for forms in SECTIONS.values() for form in forms}


def differing(section: Any) -> dict[str, Any]:
    """The values of a recipe's section that are not its form's defaults, as JSON has them.

    With the `name` of a form that is not the section's first, and with the form's version from 2
    on: it goes up when the value of a default changes, or what the values do. A new key with a
    default that changes nothing is not in it.
    """
    values = {
        field.name: list(value) if isinstance(value, tuple) else value
        for field in dataclasses.fields(section)
        if (value := getattr(section, field.name)) != field.default
    }
    if not isinstance(section, FIRST_FORMS):
        values["name"] = section.name
    return values | _version_of_defaults(type(section))


def differing_keys(section: Any, keys: Iterable[str]) -> dict[str, Any]:
    """Of these keys alone the values that are not the defaults of the section's first form.

    What reads no other key of a section does the same under any form that gives it these values.
    """
    first = FIRST_OF[type(section)]
    defaults = {field.name: field.default for field in dataclasses.fields(first)}
    values = {key: getattr(section, key) for key in keys if hasattr(section, key)}
    differing = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in values.items()
        if value != defaults.get(key)
    }
    return differing | _version_of_defaults(first)


def _version_of_defaults(form: type) -> dict[str, int]:
    # Not called `version`: sections stand beside the version of a network or a data set.
    return {"defaults": form.VERSION} if form.VERSION > 1 else {}


def identity_hash(identity: Mapping[str, Any]) -> str:
    """sha256 (hex) of canonical JSON: sorted keys, no spaces, UTF-8, finite numbers only."""
    text = json.dumps(
        identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()


def hash_of_any_precision(identity: Mapping[str, Any], parent: tuple[str, str] | None) -> str:
    """A hash without the precision that a run, or a run that it reads, was trained in.

    `parent` is the hash of that run in the identity, and the one to put in its place.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(inner) for key, inner in value.items()}
        return parent[1] if parent is not None and value == parent[0] else value

    return identity_hash(plain({k: v for k, v in identity.items() if k != "precision"}))
