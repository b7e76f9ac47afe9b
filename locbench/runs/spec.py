"""Run spec: what is to be run, known by the hash of all that decides its result. Needs no torch."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locbench.errors import UserError
from locbench.plugins.entry import TAUGHT_BY
from locbench.plugins.registry import KINDS, NETWORKS, RULES
from locbench.recipes.identity import hash_of_any_precision, identity_hash
from locbench.recipes.load import recipe_from_dict
from locbench.recipes.recipe import Recipe
from locbench.rules import check_settings
from locbench.runs.precision import resolved_precision
from locbench.runs.record import Record

if TYPE_CHECKING:
    from locbench.runs.kinds.base import Kind

FIRST_SEED = 1234  # of the runs of a cell; further ones count up
# What torchvision's file names end with: the beginning of their sha256.
HASHED_NAME = re.compile(r"-([0-9a-f]{8})\.pth$")


@dataclass(frozen=True)
class RunSpec:
    """One run of a kind: a recipe, a rule, a network, a seed, and the data that it reads.

    `rule` is "untrained" for initial weights, "pixels" where there is no network, and "file" for a
    file of no known rule. `data` is the data set's name, version, checksum, classes, and numbers of
    train and test images. `parent` is the run whose encoder it reads, or whose cost it is compared
    with; `encoder_file` (path, sha256) is a file in its place.
    """

    kind: str
    recipe: Recipe
    rule: str
    network: str
    seed: int
    data: dict[str, Any]
    parent: RunSpec | None = None
    encoder_file: tuple[str, str] | None = None

    @property
    def of(self) -> type[Kind]:
        """The class of its kind."""
        return KINDS.get(self.kind)

    @property
    def seeded(self) -> bool:
        """Whether a seed can change what it measures."""
        return self.of.seeded

    @property
    def scale(self) -> str:
        """smoke, small or paper."""
        return self.recipe.scale

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the result, and nothing else."""
        return self.of.identity(self)

    def rule_settings(self) -> dict[str, Any]:
        """The rule's settings that are not its defaults, in its types."""
        if self.rule not in RULES:
            return {}
        defaults = RULES.entry(self.rule).settings
        typed = {k: type(defaults[k])(v) for k, v in self.recipe.rule.items() if k in defaults}
        return {key: value for key, value in typed.items() if value != defaults[key]}

    @property
    def untrained(self) -> bool:
        """Whether it reads initial weights."""
        return self.parent is None and self.encoder_file is None

    @cached_property
    def hash(self) -> str:
        """sha256 of the identity."""
        return identity_hash(self.identity)

    def in_precision(self, precision: str) -> RunSpec:
        """The same run, and the runs that it reads, trained in another precision."""
        training = replace(self.recipe.training, precision=precision)
        parent = self.parent and self.parent.in_precision(precision)
        return replace(self, recipe=replace(self.recipe, training=training), parent=parent)

    @cached_property
    def any_precision(self) -> str:
        """A hash that it shares with the same run in another precision."""
        parent = (self.parent.hash, self.parent.any_precision) if self.parent else None
        return hash_of_any_precision(self.identity, parent)

    @cached_property
    def id(self) -> str:
        """A name for folders and people: what it is, then the first digits of the hash."""
        words = [self.kind, *self.of.words(self), self.scale, f"s{self.seed}"]
        return "-".join([*words, self.hash[:10]])

    def with_ancestors(self) -> list[RunSpec]:
        """This run after those it needs."""
        return [*(self.parent.with_ancestors() if self.parent else []), self]


def check_teaches(recipe: Recipe, rule: str) -> None:
    """UserError where the recipe trains no encoder, or does not give what the rule learns from."""
    learns = RULES.entry(rule).learns
    if recipe.detection is not None:
        raise UserError(
            f"recipe {recipe.name} is of a detector and trains no encoder: use locbench downstream"
        )
    if learns != recipe.gives:
        raise UserError(
            f"rule '{rule}' learns from {TAUGHT_BY[learns]}, and recipe {recipe.name} gives "
            f"{TAUGHT_BY[recipe.gives]}: see `locbench list recipes`, or set augmentation.name to "
            f"{'simclr' if learns == 'views' else 'crop'}"
        )


def training_spec(
    recipe: Recipe,
    rule: str,
    network: str,
    *,
    seed: int,
    data: dict[str, Any],
    device: str = "auto",
) -> RunSpec:
    """The training of `network` with `rule`: kind "train" where it learns labels.

    Its precision is what "auto" means on `device`. UserError if rule or network is not registered,
    or the recipe does not give what the rule learns from.
    """
    NETWORKS.entry(network)
    check_teaches(recipe, rule)
    recipe = recipe.for_run(rule, network)
    check_settings(RULES.entry(rule).settings, rule, recipe.rule)
    precision = resolved_precision(recipe.training.precision, device)
    recipe = replace(recipe, training=replace(recipe.training, precision=precision))
    kind = "train" if RULES.entry(rule).learns == "label" else "pretrain"
    return RunSpec(kind, recipe, rule, network, seed, data)


def spec_of(record: Record, where: str, *, parent: RunSpec | None = None) -> RunSpec:
    """The spec that a record is of, by its recipe; `where` begins the line of a UserError.

    `parent` is the spec of the run that it reads. A file in its place is known by its sha256 alone.
    """
    data, recipe = record.data, recipe_from_dict(record.recipe, where)
    file = record.identity.get("encoder", {}).get("file")
    held = {key: data[key] for key in ("name", "version", "checksum", "classes") if key in data}
    counts = {"train": data.get("train_images"), "test": data.get("test_images")}
    if counts["train"] is not None and recipe.detection is None:
        counts["train"] += recipe.data.validation  # which a record does not count
    return RunSpec(
        record.kind,
        recipe,
        record.rule["name"],
        record.network["name"],
        record.seed,
        {**held, **counts},
        parent,
        ("", file) if file else None,
    )


def encoder_file(path: Path) -> tuple[str, str]:
    """A file of weights as runs name it: its path and sha256."""
    return str(path), sha256_of(path)


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_named(path: str, digest: str) -> tuple[str, str]:
    """A file and its sha256, which begins with what torchvision puts at the end of a name."""
    said = HASHED_NAME.search(path)
    if said is not None and not digest.startswith(said[1]):
        raise UserError(
            f"{path} is another file than its name says: its sha256 begins with "
            f"{digest[: len(said[1])]}; download it again"
        )
    return path, digest


def unique(specs: list[RunSpec]) -> list[RunSpec]:
    """Each run once, those that others need first."""
    ordered: dict[str, RunSpec] = {}
    for spec in specs:
        for run in spec.with_ancestors():
            ordered.setdefault(run.id, run)
    return list(ordered.values())
