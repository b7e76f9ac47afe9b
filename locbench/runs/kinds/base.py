"""Kind of run: the class that every file of this package fills in."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from locbench.errors import UserError
from locbench.plugins.entry import FILE
from locbench.plugins.registry import NETWORKS, RULES
from locbench.recipes.identity import differing
from locbench.runs.estimate import RECORD_BYTES, Estimate, Size, by_likeness
from locbench.runs.record import Record
from locbench.runs.spec import FIRST_SEED, RunSpec

if TYPE_CHECKING:
    import torch

    from locbench.recipes.recipe import Recipe
    from locbench.runs.context import Context
    from locbench.runs.plan import Planner
    from locbench.runs.step_memory import StepMemory

Tell = Callable[[int, int, dict[str, float]], None]  # steps done, steps in all, current figures
# How settings that are numbers are written in a run's name, as in the papers.
LETTERS = {
    "depth": "d",
    "multiplier": "m",
    "decay": "r",
    "unit_stages": "stages",
    "shared_blocks": "shared",
    "penalty": "l2_",
    "decoder_blocks": "conv",
    "mlp_layers": "mlp",
}


class Kind(ABC):
    """One kind of run. What the class says needs no torch; an instance is one run, built.

    An instance is made and `run` on every rank where `shared`; all else the first rank does alone.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1  # goes up when a fix in code changes the results
    metrics: ClassVar[tuple[str, ...]]  # names of the figures it leaves; * as in fnmatch
    fills: ClassVar[bool] = True  # whether the cell of a table may ask for it
    shared: ClassVar[bool] = False  # whether all processes of torchrun work on it together
    seeded: ClassVar[bool] = True  # whether a seed can change what it measures
    scaled: ClassVar[bool] = True  # whether it has smaller budgets; else it is always the paper's
    exact: ClassVar[bool] = False  # whether print is met to its last digit
    repeatable: ClassVar[bool] = True  # whether another machine measures the same
    takes_untrained: ClassVar[bool] = False  # whether initial weights may stand in a rule's place
    learns: ClassVar[str] = ""  # what its rules have to learn from, where that is not free
    needs: ClassVar[tuple[str, ...]] = ()  # what a fill has to say besides
    uses_data: ClassVar[bool] = True
    baselines: ClassVar[tuple[str, ...]] = ()  # of "untrained", "pixels": what it has to beat
    trains: ClassVar[bool] = False  # whether it leaves an encoder that others read
    apart: ClassVar[bool] = False  # whether it measures in processes of its own
    memory_keys: ClassVar[str] = "training.batch or data.resolution"  # to set where memory is full

    # --- what is known before anything is built ---

    @classmethod
    @abstractmethod
    def plan(
        cls, fill: dict[str, Any], recipe: Recipe, *, seed: int, planner: Planner
    ) -> list[RunSpec]:
        """The runs of this kind that fill a table's cell, one for every split of the data."""

    @classmethod
    @abstractmethod
    def settings(cls, spec: RunSpec) -> dict[str, Any]:
        """What besides kind, version and seed decides the result; see `identity`."""

    @classmethod
    def identity(cls, spec: RunSpec) -> dict[str, Any]:
        """All that decides the result, where it differs from the defaults.

        No device, path or date. A new setting whose default changes nothing is not in it.
        """
        seed = {"seed": spec.seed} if cls.seeded else {}
        settings = {key: value for key, value in cls.settings(spec).items() if value != {}}
        return {"kind": cls.name, "version": cls.version, **seed, **settings}

    @classmethod
    def words(cls, spec: RunSpec) -> list[str]:
        """What stands in a run's name between its kind and its scale."""
        rule = spec.rule if spec.encoder_file is None else FILE
        return [rule, spec.network, *variant(spec)]

    @classmethod
    def describe(cls, spec: RunSpec) -> str:
        """A run in a few words."""
        seed = "" if spec.seed == FIRST_SEED or not cls.seeded else f", seed {spec.seed}"
        form = "".join(f" {word}" for word in variant(spec))
        return f"{cls.title(spec)} {spec.rule}{form} {spec.network}{seed}"

    @classmethod
    def title(cls, spec: RunSpec) -> str:
        """The first words of `describe`."""
        return cls.name

    @classmethod
    @abstractmethod
    def outcome(cls, record: Record) -> str:
        """What a finished run measured, in a few words."""

    @classmethod
    def data_name(cls, recipe: Recipe) -> str:
        """The data set that the recipe names for it."""
        return recipe.data.name

    @classmethod
    def load_data(cls, spec: RunSpec, context: Context) -> Any:
        """The data set that it reads; None of a kind that reads none."""
        return context.image_data(spec.recipe.data) if cls.uses_data else None

    @classmethod
    def data_tags(cls, spec: RunSpec, data: Any) -> dict[str, Any]:
        """What its record says of the data."""
        held_out = {"tested_on": "validation images"} if spec.recipe.data.validation else {}
        return {
            "name": data.name,
            "version": data.version,
            "checksum": data.checksum,
            "classes": len(data.classes),
            "train_images": len(data.train),
            "test_images": len(data.test),
            "resolution": spec.recipe.data.resolution,
            **held_out,
        }

    @classmethod
    def check(cls, spec: RunSpec, context: Context, device: torch.device) -> None:
        """UserError or RunFailed where it cannot be run here, before there is a record of it."""
        context.data(spec)

    @classmethod
    def check_images(cls, spec: RunSpec, processes: int = 1) -> None:
        """UserError for what cannot be done with so many images as there are; reads none."""
        settings, there = spec.recipe.data, spec.data.get("train")
        if there is None or max(1, settings.train_images) + settings.validation <= there:
            return
        held = f" beside data.validation = {settings.validation}" if settings.validation else ""
        raise UserError(
            f"data.train_images = {settings.train_images}{held}: {spec.data['name']} has "
            f"{there:,} training images; set fewer"
        )

    @classmethod
    def step_memory(cls, spec: RunSpec) -> StepMemory | None:
        """What a training step of it needs, by a trace; None of what takes none, or has no trace.

        Imports torch.
        """
        return None

    @classmethod
    def check_early(cls, spec: RunSpec, context: Context) -> None:
        """UserError for what may be missing here, before any run of the command begins."""

    @classmethod
    def ends_of_curves(cls, record: Record) -> dict[str, dict[str, float]]:
        """Those metrics that its curves say too, by name: {"last": x, "best": y}."""
        return {}

    # --- what it will take ---

    @classmethod
    def estimate(cls, spec: RunSpec, records: Sequence[Record], size: Size | None) -> Estimate:
        """Time and disk, from the finished run most like it."""
        return by_likeness(spec, records, size, *cls.disk(spec, size))

    @classmethod
    def disk(cls, spec: RunSpec, size: Size | None) -> tuple[int | None, int]:
        """Bytes that stay, and bytes more until it is done; `size` is of the encoder."""
        return RECORD_BYTES, 0

    @classmethod
    def images(cls, spec: RunSpec) -> int:
        """How many images it trains on."""
        settings = spec.recipe.data
        return settings.train_images or spec.data["train"] - settings.validation

    @classmethod
    def forwards(cls, recipe: dict[str, Any], images: int) -> float:
        """How many forward passes of one image it is worth."""
        return images

    @classmethod
    def work(cls, recipe: dict[str, Any], images: int) -> float:
        """How many pixels' forward passes it is worth; compares runs of one kind."""
        return cls.forwards(recipe, images) * recipe["data"]["resolution"] ** 2

    # --- one run ---

    def __init__(self, spec: RunSpec, context: Context, device: torch.device) -> None:
        self.spec, self.context, self.device = spec, context, device
        self.folder: Path = context.store.folder(spec.id)
        self.checkpoint = context.store.checkpoint(spec.id)
        self.build()

    def build(self) -> None:
        """Make what `run` needs, the same on every rank, without waiting for another one."""

    def begin(self, record: Record) -> None:
        """What the record says before the first step."""

    @abstractmethod
    def run(self, tell: Tell) -> None:
        """Do the work, on every rank where it is shared; goes on from the checkpoint."""

    def note(self, record: Record) -> None:
        """The figures so far, as the record is written now and then."""

    @abstractmethod
    def finish(self, record: Record) -> None:
        """Metrics and tags into the record, and what stays beside it."""

    def set_metrics(self, record: Record, figures: dict[str, float]) -> None:
        """Figures that have a last value and no best one."""
        record.metrics = {name: {"last": value} for name, value in figures.items()}


def variant(spec: RunSpec) -> list[str]:
    """Words that tell a rule's forms apart for people: d6, r0.9, sequential, conv3x3, m1.42."""
    words = []
    for key, value in sorted(spec.rule_settings().items()):
        if isinstance(value, bool):
            words.append(key if value else f"no_{key}")
        elif key == "decoder":
            words.append(re.sub(r"[^\w.-]", "_", f"{value}_{key}"))
        elif isinstance(value, str):
            words.append(value.replace("/", "-").replace(" ", "_"))
        elif key in LETTERS:
            words.append(f"{LETTERS[key]}{value:g}")
    return words


def data_identity(spec: RunSpec, *, classifier: bool = False) -> dict[str, Any]:
    """The data set by its content, at the recipe's resolution and number of images."""
    settings = differing(spec.recipe.data)
    settings.pop("name", None)
    if not classifier:
        settings.pop("classes", None)
    return {**{key: spec.data[key] for key in ("name", "version", "checksum")}, **settings}


def network_identity(spec: RunSpec) -> dict[str, Any]:
    """The network, its version, and what of its size is not as published."""
    version = NETWORKS.entry(spec.network).version
    return {"name": spec.network, "version": version, **differing(spec.recipe.network)}


def rule_identity(spec: RunSpec) -> dict[str, Any]:
    """The rule, its version, and its settings that are not the defaults."""
    settings = spec.rule_settings()
    rule = {"name": spec.rule, "version": RULES.entry(spec.rule).version}
    return {**rule, "settings": settings} if settings else rule


def encoder_identity(spec: RunSpec) -> dict[str, Any]:
    """Where a probe's or detector's encoder comes from; a file by its content, not its path."""
    if spec.parent is not None:
        return {"run": spec.parent.hash}
    if spec.encoder_file is not None:
        return {"file": spec.encoder_file[1]}
    return {"untrained": spec.seed}


def tag_pretraining(record: Record, parent: Record) -> None:
    """What a record says of the run that trained its encoder."""
    record.tags["decoder"] = parent.units[-1]["auxiliary"]
    record.tags["pretrain_precision"] = parent.tags["precision"]
    if "accumulate" in parent.tags:
        record.tags["pretrain_accumulate"] = parent.tags["accumulate"]
