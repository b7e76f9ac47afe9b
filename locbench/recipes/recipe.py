"""A resolved training protocol: frozen dataclasses, as a record keeps them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from locbench.recipes.identity import identity_hash
from locbench.recipes.reading import Scalar
from locbench.recipes.schema import (
    OPTIONAL,
    SGD,
    Augmentation,
    Crop,
    Data,
    Detection,
    EpochCosine,
    Lars,
    Network,
    Probe,
    ResizedCrop,
    Schedule,
    Training,
)

SCALES = ("paper", "small", "smoke")
# Of a rule that no recipe was named for, by what it learns from.
DEFAULT_RECIPES = {"views": "loco/imagenet", "label": "auglocal/imagenet"}


@dataclass(frozen=True)
class Recipe:
    """A resolved protocol at one scale.

    `rule` holds free scalars that the rule itself checks; `rules` more of them by the rule that
    they are for, and under it by network (see `for_run`). `downstream` is the recipe that
    `detection` is of, where the two are joined. `note` is what a reader of its numbers at this
    scale has to know.
    """

    name: str
    scale: str
    title: str = ""
    note: str = ""
    downstream: str = ""
    rule: dict[str, Scalar] = field(default_factory=dict)
    rules: dict[str, Any] = field(default_factory=dict)
    data: Data = field(default_factory=Data)
    augmentation: Augmentation | Crop | ResizedCrop = field(default_factory=Augmentation)
    network: Network = field(default_factory=Network)
    optimizer: Lars | SGD = field(default_factory=Lars)
    schedule: Schedule | EpochCosine = field(default_factory=Schedule)
    training: Training = field(default_factory=Training)
    probe: Probe = field(default_factory=Probe)
    detection: Detection | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and scalars, as they stand in a record; see `recipe_from_dict`."""
        values = _plain(dataclasses.asdict(self))
        absent = [key for key in ("note", "downstream", "rules", *OPTIONAL) if not values[key]]
        return {key: value for key, value in values.items() if key not in absent}

    @property
    def gives(self) -> str:
        """What a step of it gives a rule to learn from: two "views", or one and its "label"."""
        return "views" if isinstance(self.augmentation, Augmentation) else "label"

    def for_run(self, rule: str, network: str) -> Recipe:
        """This recipe with the settings of one rule on one network, those in `rule` over them."""
        entries = self.rules.get(rule, {})
        plain = {key: value for key, value in entries.items() if not isinstance(value, dict)}
        settings = {**plain, **entries.get(network, {}), **self.rule}
        return dataclasses.replace(self, rule=settings, rules={})

    @property
    def hash(self) -> str:
        """sha256 (hex) of the canonical JSON of `as_dict()`."""
        return identity_hash(self.as_dict())


def _plain(value: Any) -> Any:
    """Tuples as lists, all the way down, as JSON has them."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
