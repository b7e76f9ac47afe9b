"""Learning rules: each is a function from a network to a list of units."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from locbench.errors import UserError
from locbench.registry import RULES, suggest

if TYPE_CHECKING:
    from locbench.networks.base import Network
    from locbench.training.engine import Unit


def check_settings(known: Mapping[str, Any], name: str, settings: Mapping[str, Any]) -> None:
    """A rule's settings are its keyword arguments, `known` with their defaults.

    UserError for an unknown one or a wrong type.
    """
    for key, value in settings.items():
        if key not in known:
            raise UserError(f"rule '{name}' has no setting '{key}'{suggest(key, known)}")
        wanted = type(known[key])
        number = isinstance(value, int) and not isinstance(value, bool) and wanted is float
        if type(value) is not wanted and not number:
            raise UserError(f"rule.{key} = {value!r}: rule '{name}' wants {wanted.__name__}")
        if not isinstance(value, str) and value < 0:
            raise UserError(f"rule.{key} = {value!r}: rule '{name}' wants no negative number")


def build_units(name: str, network: Network, settings: Mapping[str, Any]) -> list[Unit]:
    """The units of a registered rule on this network; UserError for a wrong name or setting."""
    rule = RULES.get(name)
    check_settings(keyword_defaults(rule), name, settings)
    return rule(network, **settings)


def keyword_defaults(rule: Callable) -> dict[str, Any]:
    """The keyword-only arguments of a rule and their defaults."""
    parameters = inspect.signature(rule).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
