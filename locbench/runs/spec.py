"""Runs: what is to be run, known by the hash of all that decides its result. Needs no torch."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from locbench.errors import UserError
from locbench.evaluation.cost.case import Case
from locbench.plugins.entry import FILE, PIXELS, TAUGHT_BY, UNTRAINED
from locbench.plugins.registry import NETWORKS, RULES
from locbench.recipes.identity import identity_hash
from locbench.recipes.recipe import Recipe
from locbench.rules import check_settings

FIRST_SEED = 1234  # of the runs of a cell; further ones count up
# As for rules, networks and data sets: these go up when a fix in code changes the results.
PROBE_VERSION = 1
PIXELS_VERSION = 1
DETECTOR_VERSION = 1
COST_VERSIONS = {"cost": 1, "trace": 3, "measure": 1, "gpu": 1}
COUNTED = ("cost", "trace")  # kinds of runs that give the same on every machine
MEASURED = ("measure", "gpu")  # kinds that time and weigh steps: on any machine, or on a GPU
COSTS = (*COUNTED, *MEASURED)  # kinds that need neither data nor training
TRAINED = ("pretrain", "train")  # kinds of runs that train a network; a rule with labels: train
# How settings that are numbers are told in a run's name, as in the papers.
LETTERS = {"depth": "d", "multiplier": "m", "decay": "r"}
LETTERS |= {"unit_stages": "stages", "shared_blocks": "shared", "penalty": "l2_"}
LETTERS |= {"decoder_blocks": "conv", "mlp_layers": "mlp"}
# What torchvision's file names end with: the beginning of their sha256.
HASHED_NAME = re.compile(r"-([0-9a-f]{8})\.pth$")
# What a probe's images go through; the rest of the augmentation is pretraining's alone.
PROBE_VIEW = ("area", "aspect", "interpolation", "flip", "mean", "std")


@dataclass(frozen=True)
class RunSpec:
    """One run: a pretraining, a training with labels, a probe, a detector, pixels' regression, or
    a count of what training costs.

    `rule` is "untrained" for initial weights and "file" for a file of no known rule. `parent` is
    the pretraining that a probe or detector reads its encoder from; `encoder_file` (path, sha256)
    is a file given in its place.
    `fingerprint` says which data set is used, by version and checksum.
    """

    kind: str
    recipe: Recipe
    rule: str
    network: str
    seed: int
    fingerprint: dict[str, Any]
    parent: RunSpec | None = None
    encoder_file: tuple[str, str] | None = None

    @property
    def scale(self) -> str:
        """smoke, small or paper."""
        return self.recipe.scale

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the result, and nothing else (no device, no paths, no dates)."""
        asked = self.recipe.data
        if self.kind in COSTS:  # of no data: only how many classes, and pixels
            size = {"classes": self.fingerprint["classes"], "resolution": asked.resolution}
            version = COST_VERSIONS[self.kind]
            return {"kind": self.kind, "version": version, "data": size, **self._settings()}
        if self.kind == "detect":
            data = self.fingerprint
            return {"kind": self.kind, "seed": self.seed, "data": data, **self._settings()}
        data = {**self.fingerprint, "resolution": asked.resolution}
        # Only where they are asked for: what does not change a result leaves its name as it was.
        if asked.train_images:
            data["train_images"] = asked.train_images
        if asked.classes and self.kind in TRAINED:
            data["classifier"] = asked.classes
        return {"kind": self.kind, "seed": self.seed, "data": data, **self._settings()}

    def _settings(self) -> dict[str, Any]:
        recipe = self.recipe.as_dict()
        view = recipe["augmentation"]
        if self.kind == "pixels":
            classifier = {"name": "logistic regression", "version": PIXELS_VERSION}
            return {"classifier": classifier, "view": {"interpolation": view["interpolation"]}}
        network = {
            "name": self.network,
            "version": NETWORKS.entry(self.network).version,
            "settings": recipe["network"],
        }
        if self.kind in COSTS:
            own = {} if self.rule == UNTRAINED else {"rule": self._rule()}
            training = self.recipe.training
            traced = {} if self.kind == "cost" else {"batch": training.batch}
            if self.kind != "cost" and training.accumulate > 1:
                traced["accumulate"] = training.accumulate
            if self.kind in MEASURED:
                traced["optimizer"] = recipe["optimizer"]
            over = {"over": self.parent.id} if self.parent is not None else {}
            return {"network": network, **own, **traced, **over}
        if self.kind in TRAINED:
            sections = ("augmentation", "optimizer", "schedule", "training")
            rule = self._rule()
            rule["settings"] = rule["settings"] if self.kind == "train" else recipe["rule"]
            return {"network": network, "rule": rule, **{k: recipe[k] for k in sections}}
        if self.kind == "detect":
            detector = {"version": DETECTOR_VERSION, **recipe["detection"]}
            for key in self.recipe.detection.idle():
                del detector[key]
            view = {key: view[key] for key in ("mean", "std")}
            own = {"encoder": self._encoder(), "detector": detector, "view": view}
            return {"network": network, **own}
        return {
            "network": network,
            "encoder": self._encoder(),
            "probe": {"version": PROBE_VERSION, **recipe["probe"]},
            "view": {k: view[k] for k in PROBE_VIEW} if self.recipe.gives == "views" else view,
        }

    def _rule(self) -> dict[str, Any]:
        version = RULES.entry(self.rule).version
        return {"name": self.rule, "version": version, "settings": self.own_settings()}

    def own_settings(self) -> dict[str, Any]:
        """The rule's settings that are not its defaults, in its types: one protocol, one id."""
        known = RULES.entry(self.rule).settings
        typed = {k: type(known[k])(v) for k, v in self.recipe.rule.items()}
        return {key: value for key, value in typed.items() if value != known[key]}

    @property
    def case(self) -> Case:
        """What a run that counts, traces or measures a step is of."""
        return Case(self.recipe, self.rule, self.network, self.fingerprint["classes"])

    @property
    def seeded(self) -> bool:
        """Whether a seed can change what it measures: not of what is counted, nor of pixels."""
        return self.kind not in ("pixels", *COSTS)

    @property
    def exact(self) -> bool:
        """Whether it counts parameters and multiply-adds, which meet print to the last digit."""
        return self.kind == "cost"

    @property
    def variant(self) -> list[str]:
        """Words that tell a rule's forms apart for people: d6, r0.9, sequential, conv3x3, m1.42."""
        if self.rule in (UNTRAINED, FILE, PIXELS):
            return []
        words = []
        for key, value in sorted(self.own_settings().items()):
            if key == "decoder_blocks" and self.kind in COSTS:
                continue  # their ids had no word for it when the first records were kept
            if isinstance(value, bool):
                words.append(key if value else f"no_{key}")
            elif key == "decoder":
                words.append(re.sub(r"[^\w.-]", "_", f"{value}_{key}"))
            elif isinstance(value, str):
                words.append(value.replace("/", "-").replace(" ", "_"))
            elif key in LETTERS:
                words.append(f"{LETTERS[key]}{value:g}")
        return words

    @property
    def told_apart(self) -> bool:
        """Whether its name says which form of the rule it is of, or read what that trained."""
        contrastive = self.rule in RULES and RULES.entry(self.rule).learns == "views"
        return contrastive or self.kind in ("train", *COSTS)

    @property
    def detection_words(self) -> list[str]:
        """Words that tell detectors apart for people: the protocol, other data, frozen, split2."""
        asked, data = self.recipe.detection, self.fingerprint["name"]
        words = list(dict.fromkeys(word for word in (self.recipe.downstream, data) if word))
        words += ["frozen"] if asked.frozen == "all" else []
        return [*words, *([f"split{asked.split + 1}"] if asked.splits > 1 else [])]

    @property
    def untrained(self) -> bool:
        """Whether it reads initial weights."""
        return self.parent is None and self.encoder_file is None

    def _encoder(self) -> dict[str, Any]:
        """Where a probe's encoder comes from; a file by its content and not by its path."""
        if self.parent is not None:
            return {"run": self.parent.id}
        if self.encoder_file is not None:
            return {"file": self.encoder_file[1]}
        return {"untrained": self.seed}

    @cached_property
    def hash(self) -> str:
        """sha256 of the identity."""
        return identity_hash(self.identity)

    @cached_property
    def id(self) -> str:
        """A name for folders and people: what it is, then the first digits of the hash."""
        parts = [self.kind]
        if self.kind != "pixels":
            parts += [self.rule if self.encoder_file is None else FILE, self.network]
        if self.told_apart:
            parts += self.variant
        if self.kind == "train":
            parts.append(self.fingerprint["name"])
        if self.kind == "probe":
            parts.append(self.recipe.probe.profile)
        if self.kind == "detect":
            parts += self.detection_words
        return "-".join([*parts, self.scale, f"s{self.seed}", self.hash[:10]])

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


def plan_training(
    recipe: Recipe, rule: str, network: str, seed: int, fingerprint: dict[str, Any]
) -> RunSpec:
    """The training of `network` with `rule`: kind "pretrain", or "train" where it learns labels.

    UserError if either is not registered, or the recipe does not give what the rule learns from.
    """
    NETWORKS.entry(network)
    check_teaches(recipe, rule)
    recipe = recipe.for_run(rule, network)
    check_settings(RULES.entry(rule).settings, rule, recipe.rule)
    kind = "train" if RULES.entry(rule).learns == "label" else "pretrain"
    return RunSpec(kind, recipe, rule, network, seed, fingerprint)


def plan_probe(
    recipe: Recipe, rule: str, network: str, seed: int, fingerprint: dict[str, Any]
) -> RunSpec:
    """The probe of what `rule` pretrained, or of untrained weights."""
    parent = None
    if rule != UNTRAINED:
        parent = plan_training(recipe, rule, network, seed, fingerprint)
    recipe = recipe.for_run(rule, network)
    return RunSpec("probe", recipe, rule, network, seed, fingerprint, parent)


def plan_detection(
    recipe: Recipe,
    rule: str,
    network: str,
    seed: int,
    data: dict[str, Any],
    pretraining: dict[str, Any] | None = None,
    encoder_file: tuple[str, str] | None = None,
) -> list[RunSpec]:
    """Mask R-CNN on what `rule` pretrained, on a file or on untrained weights: a run a split.

    `data` and `pretraining` are the fingerprints of the two data sets.
    """
    parent = None
    if rule != UNTRAINED and encoder_file is None:
        plain = replace(recipe, detection=None, downstream="")
        parent = plan_training(plain, rule, network, seed, pretraining)
    recipe = recipe.for_run(rule, network)
    return detectors(recipe, rule, network, seed, data, parent, encoder_file)


def detectors(
    recipe: Recipe,
    rule: str,
    network: str,
    seed: int,
    data: dict[str, Any],
    parent: RunSpec | None = None,
    encoder_file: tuple[str, str] | None = None,
) -> list[RunSpec]:
    """A run a split of the recipe's [detection], on the encoder of `parent` or of a file."""
    return [
        RunSpec(
            "detect",
            replace(recipe, detection=replace(recipe.detection, split=split)),
            rule,
            network,
            seed,
            data,
            parent,
            encoder_file,
        )
        for split in range(recipe.detection.splits)
    ]


def plan_cost(
    kind: str,
    recipe: Recipe,
    rule: str,
    network: str,
    classes: int,
    over: RunSpec | None = None,
) -> RunSpec:
    """What training `network` with `rule` costs: a run of one of COSTS, of no seed.

    "untrained" is the network alone, which only has operations. `over` is the run that bytes and
    seconds are compared with; itself, and so none, where it is the same.
    """
    NETWORKS.entry(network)
    own = recipe.for_run(rule, network)
    if rule != UNTRAINED:
        check_teaches(recipe, rule)
        check_settings(RULES.entry(rule).settings, rule, own.rule)
    alone = RunSpec(kind, own, rule, network, 0, {"classes": classes})
    return alone if over is None or over.id == alone.id else replace(alone, parent=over)


def plan_pixels(recipe: Recipe, fingerprint: dict[str, Any]) -> RunSpec:
    """Logistic regression on the pixels of the same data: no network, no seed."""
    return RunSpec("pixels", recipe, PIXELS, "", 0, fingerprint)


def encoder_file(path: Path) -> tuple[str, str]:
    """A file of weights as runs name it: its path and sha256."""
    with path.open("rb") as file:
        return str(path), hashlib.file_digest(file, "sha256").hexdigest()


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
