"""Learning rules: each is a function from a network to a list of units.

What a rule is written with, here or outside of locbench, is `from locbench.rules import Batch,
Block, Network, Unit, gathered`; they are imported on first use, for they need torch.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from locbench.errors import UserError
from locbench.plugins.entry import suggest
from locbench.plugins.registry import RULES
from locbench.plugins.rule_errors import blamed

if TYPE_CHECKING:
    from locbench.distributed.collectives import gathered
    from locbench.networks.base import Block, Network
    from locbench.units import Batch, Unit

__all__ = [
    "Batch",
    "Block",
    "Network",
    "Unit",
    "build_units",
    "check_settings",
    "gathered",
    "keyword_defaults",
    "known_to",
]
HOMES = {
    "locbench.networks.base": ("Block", "Network"),
    "locbench.distributed.collectives": ("gathered",),
    "locbench.units": ("Batch", "Unit"),
}


def __getattr__(name: str) -> Any:
    for module, names in HOMES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'locbench.rules' has no attribute '{name}'")


def check_settings(defaults: Mapping[str, Any], name: str, settings: Mapping[str, Any]) -> None:
    """A rule's settings are its keyword arguments, `defaults` by name.

    UserError for an unknown one or a wrong type.
    """
    for key, value in settings.items():
        if key not in defaults:
            raise UserError(f"rule '{name}' has no setting '{key}'{suggest(key, defaults)}")
        kind = type(defaults[key])
        number = isinstance(value, int) and not isinstance(value, bool) and kind is float
        if type(value) is not kind and not number:
            raise UserError(f"rule.{key} = {value!r}: rule '{name}' wants {kind.__name__}")
        if not isinstance(value, str) and value < 0 <= defaults[key]:
            raise UserError(f"rule.{key} = {value!r}: rule '{name}' wants no negative number")


def known_to(rule: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """Overrides without the settings of rules that this one does not have."""
    settings = {f"rule.{key}" for key in RULES.entry(rule).settings}
    return {k: v for k, v in overrides.items() if k in settings or not k.startswith("rule.")}


def build_units(name: str, network: Network, settings: Mapping[str, Any]) -> list[Unit]:
    """The units of a registered rule on this network; UserError for a wrong name or setting.

    And for what a rule from outside raises, or returns in the place of units.
    """
    rule = RULES.get(name)
    check_settings(keyword_defaults(rule), name, settings)
    with blamed(name):
        return _checked(rule(network, **settings), name, network)


def _checked(units: Any, name: str, network: Network) -> list[Unit]:
    """What a rule returned; UserError where it is not units of this network."""
    from torch import nn

    from locbench.units import Unit

    units = list(units) if isinstance(units, list | tuple) else units
    if not isinstance(units, list) or not units or not all(isinstance(u, Unit) for u in units):
        raise UserError(f"rule '{name}' must return a list of Units, not {_short(units)}")
    spans = [(unit.start, unit.stop) for unit in units]
    for unit in units:
        if spans.count((unit.start, unit.stop)) > 1:
            raise UserError(
                f"rule '{name}' has several units [{unit.start}, {unit.stop}): give one of them an "
                "objective that adds the losses"
            )
        span = f"rule '{name}': unit [{unit.start}, {unit.stop})"
        if not isinstance(unit.objective, nn.Module):
            raise UserError(f"{span}: its objective must be a module, not {_short(unit.objective)}")
        if not 0 <= unit.start < unit.stop <= len(network.blocks):
            raise UserError(f"{span} does not fit a network of {len(network.blocks)} blocks")
    return units


def _short(value: Any) -> str:
    return "an empty list" if value == [] else f"{type(value).__name__} {value!r:.60}"


def keyword_defaults(rule: Callable) -> dict[str, Any]:
    """The keyword-only arguments of a rule and their defaults."""
    parameters = inspect.signature(rule).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
