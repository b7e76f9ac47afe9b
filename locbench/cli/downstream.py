"""`locbench downstream`: which runs it takes, and what it prints."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locbench.cli.actions import ENCODER_SUFFIXES, parent_of, run, set_aside
from locbench.data.fingerprint import fingerprint
from locbench.errors import UserError
from locbench.plugins.entry import FILE, UNTRAINED, suggest
from locbench.plugins.registry import DETECTION_SETS, NETWORKS, RULES
from locbench.published.datasets import other_data
from locbench.published.load import readable_tables
from locbench.published.table import Cell, Table
from locbench.recipes.load import load_joint
from locbench.recipes.recipe import DEFAULT_RECIPES, Recipe
from locbench.report.grid import columns, print_grid
from locbench.runs.executor import failure
from locbench.runs.kinds.detect import detector_specs, pretraining_spec
from locbench.runs.plan import Options, Planner
from locbench.runs.record import Record, summarize
from locbench.runs.spec import FIRST_SEED, RunSpec, encoder_file, unique
from locbench.runs.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

# The recipes of each word on the command line; Shapes takes COCO's. The first is for rules and
# networks of which no paper has a number; else it is that number's, and so is its pretraining.
RECIPES = {
    "coco": ("loco/coco", "auglocal/coco"),
    "cityscapes": ("loco/cityscapes",),
    "coco-10k": ("loco/coco10k",),
    "coco-1k": ("loco/coco1k",),
    "shapes": ("loco/coco", "auglocal/coco"),
}
FIGURES = ("", "_50", "_75", "_small", "_medium", "_large")


@dataclass(frozen=True)
class Asked:
    """The options of the command; None is what was not said.

    Without `--from` rule, network, scale and seed are loco, resnet50, smoke and 1234; an encoder
    file has no rule, and a run brings all four. Of several `seeds` the others count up. `frozen` is
    the recipe's; `beside`, whether the same is also run on an untrained backbone, is so at smoke
    and small where nothing is trained.
    """

    data: str
    frozen: bool | None = None
    rule: str | None = None
    network: str | None = None
    scale: str | None = None
    seed: int | None = None
    seeds: int | None = None
    beside: bool | None = None
    device: str = "auto"
    overrides: dict[str, Any] = field(default_factory=dict)

    def refuse(self, keys: tuple[str, ...], why: str) -> None:
        """UserError where one of these options was given."""
        for key in keys:
            if getattr(self, key) is not None:
                raise UserError(f"--{key}: {why}")


@dataclass(frozen=True)
class TransferPlan:
    """The detectors on the backbone asked for, by seed and split; those on an untrained one."""

    specs: list[RunSpec]
    rivals: list[RunSpec]
    published: list[str] = field(default_factory=list)


def plan(asked: Asked, source: str | None, store: Store, root: Path | None) -> TransferPlan:
    """The runs: on a run's encoder, on a file, or on what the rule pretrains at that scale.

    UserError for options that `source` leaves no room for.
    """
    if asked.data not in RECIPES:
        raise UserError(f"unknown detection data '{asked.data}'{suggest(asked.data, RECIPES)}")
    each = [replace(asked, seed=_seed(asked) + k) for k in range(asked.seeds or 1)]
    if source is None:
        groups = [_of_rule(one, root) for one in each]
    elif Path(source).suffix in ENCODER_SUFFIXES:
        asked.refuse(("rule",), f"{source} is an encoder file, and says nothing of its training")
        if not Path(source).is_file():
            raise UserError(f"no encoder file {source}; give a .safetensors or .pth file or a run")
        file = encoder_file(Path(source))
        groups = [_of_file(one, FILE, file, root) for one in each]
    else:
        alone = ("rule", "network", "scale", "seed", "seeds")
        asked.refuse(alone, f"run {source} brings its own")
        groups = [_of_run(asked, parent_of(source, store), root)]
    first, rivals = groups[0][0], []
    own = first.recipe.detection
    usual = first.scale != "paper" and own.frozen == "all"
    if not first.untrained and (usual if asked.beside is None else asked.beside):
        for one in (specs[0] for specs in groups):
            rivals += detector_specs(
                one.recipe, UNTRAINED, one.network, seed=one.seed, data=one.data
            )
    return TransferPlan(
        [spec for specs in groups for spec in specs], rivals, published(asked.data, first)
    )


def _of_rule(asked: Asked, root: Path | None) -> list[RunSpec]:
    rule, network = asked.rule or "loco", _network(asked)
    recipe = _recipe(asked, rule, network)
    if recipe.scale == "paper":
        # What the paper took from elsewhere in the place of a pretraining of its own.
        planner = Planner(Options("paper", data_root=root))
        for _, cell in _cells(asked.data, rule, network):
            if (file := planner.weights(cell.fill)) is not None:
                return _of_file(asked, rule, file, root)
    parent = None
    if rule != UNTRAINED:
        data = fingerprint(recipe.data.name, recipe.data.resolution, root)
        parent = pretraining_spec(
            recipe, rule, network, seed=_seed(asked), data=data, device=asked.device
        )
    return _detectors(asked, recipe, rule, network, root, parent=parent)


def _detectors(
    asked: Asked, recipe: Recipe, rule: str, network: str, root: Path | None, **encoder: Any
) -> list[RunSpec]:
    recipe = recipe.for_run(rule, network)
    data = _data(recipe, root)
    return detector_specs(recipe, rule, network, seed=_seed(asked), data=data, **encoder)


def _of_file(asked: Asked, rule: str, file: tuple[str, str], root: Path | None) -> list[RunSpec]:
    network = _network(asked)
    recipe = _recipe(asked, rule, network)
    return _detectors(asked, recipe, rule, network, root, encoder_file=file)


def _of_run(asked: Asked, parent: RunSpec, root: Path | None) -> list[RunSpec]:
    for key in asked.overrides:
        if not key.startswith("detection."):
            raise UserError(f"--set {key}: a detector on a run can only change detection.*")
    joint = _recipe(replace(asked, scale=parent.scale), parent.rule, parent.network)
    recipe = replace(parent.recipe, detection=joint.detection, downstream=joint.downstream)
    return detector_specs(
        recipe,
        parent.rule,
        parent.network,
        seed=parent.seed,
        data=_data(recipe, root),
        parent=parent,
    )


def _network(asked: Asked) -> str:
    name = asked.network or "resnet50"
    NETWORKS.entry(name)
    return name


def _seed(asked: Asked) -> int:
    return FIRST_SEED if asked.seed is None else asked.seed


def _data(recipe: Recipe, root: Path | None) -> dict[str, Any]:
    asked = recipe.detection
    return DETECTION_SETS.get(asked.data).fingerprint(root, asked.test_side)


def _recipe(asked: Asked, rule: str, network: str) -> Recipe:
    """The pretraining of a rule and network, joined with the detection asked for."""
    settled: dict[str, Any] = {}
    if asked.data == "shapes":
        settled["detection.data"] = "shapes"
    if asked.frozen is not None:
        settled["detection.frozen"] = "all" if asked.frozen else "first"
    learns = "views" if rule in (UNTRAINED, FILE) else RULES.entry(rule).learns
    names, own = (DEFAULT_RECIPES[learns], RECIPES[asked.data][0]), {}
    for _, cell in _cells(asked.data, rule, network):
        names = (cell.fill["recipe"], cell.fill["downstream"])
        # Such as Random Init's, of which nothing is frozen.
        sets = cell.fill.get("set", {}).items()
        own = {key: value for key, value in sets if key.startswith("detection.")}
        break
    return load_joint(*names, asked.scale or "smoke", {**settled, **asked.overrides}, own)


def carry_out(
    plan: TransferPlan,
    store: Store,
    root: Path | None,
    device: str,
    fresh: bool,
    as_json: bool,
    out: Console,
) -> None:
    """Run what has no record, with progress, and print the average precisions.

    What is there is printed also where a run fails; RunFailed comes after it.
    """
    shown = [*plan.specs, *plan.rivals]
    if fresh:
        set_aside(shown, store)
    failures = run(unique(shown), store, root, device)
    found = {spec.id: store.load(spec.id) for spec in shown}
    records = {id: r for id, r in found.items() if r is not None and r.status == "done"}
    if as_json:
        whole = [record.as_dict() for record in records.values()]
        means = [backbone.as_dict() for backbone in _backbones(plan, records)]
        out.print_json(json.dumps({"records": whole, "means": means}))
    elif records:
        _print(plan, records, store, out)
    if failures:
        raise failure(failures)


def _print(plan: TransferPlan, records: dict[str, Record], store: Store, out: Console) -> None:
    from rich.text import Text

    heads = ["backbone", "AP [%] of", "AP", *(figure.strip("_") for figure in FIGURES[1:])]
    rows: list[tuple[str, ...]] = []
    for backbone in _backbones(plan, records):
        for spec, record in backbone.done:
            rows += _rows(backbone.name + backbone.which(spec), _values([record]))
        if len(backbone.done) > 1:
            done, asked = len(backbone.done), len(backbone.specs)
            of = f"{done}" + (f" of {asked}" if done < asked else "")
            rows += _rows(f"{backbone.name} mean ± sd of {of}", backbone.values)
    out.print(Text(plan.specs[0].of.describe(plan.specs[0]), style="bold"))
    print_grid(columns(heads, rows, words=(0, 1)), out)
    for line in plan.published:
        out.print(Text(line))
    for id in records:
        out.print(Text(str(store.folder(id)), style="dim"), soft_wrap=True)


@dataclass(frozen=True)
class _Backbone:
    """The detectors asked for on one backbone, and those that are done."""

    specs: list[RunSpec]
    done: list[tuple[RunSpec, Record]]

    @property
    def name(self) -> str:
        return f"{self.specs[0].rule} {self.specs[0].network}"

    @property
    def values(self) -> dict[str, list[float]]:
        return _values([record for _, record in self.done])

    def which(self, spec: RunSpec) -> str:
        """The seed and split of one, as far as they tell it from the others."""
        seeds = {other.seed for other in self.specs}
        text = f" seed {spec.seed}" if len(seeds) > 1 else ""
        more = len(self.specs) > len(seeds)
        return text + (f" split {spec.recipe.detection.split + 1}" if more else "")

    def as_dict(self) -> dict[str, Any]:
        """Mean, sample standard deviation and n of every average precision."""
        summaries = {name: summarize(found) for name, found in self.values.items()}
        return {
            "rule": self.specs[0].rule,
            "network": self.specs[0].network,
            "runs": [spec.id for spec, _ in self.done],
            "n": len(self.done),
            "asked": len(self.specs),
            "metrics": {
                name: {"mean": mean, "spread": spread, "n": n}
                for name, (mean, spread, n) in summaries.items()
                if n
            },
        }


def _backbones(plan: TransferPlan, records: dict[str, Record]) -> list[_Backbone]:
    """What was asked for, and the untrained one beside it, if there is one."""
    return [
        _Backbone(specs, [(spec, records[spec.id]) for spec in specs if spec.id in records])
        for specs in (plan.specs, plan.rivals)
        if specs
    ]


def _values(records: list[Record]) -> dict[str, list[float]]:
    """By average precision: that of every record that has it."""
    names = [f"ap_{what}{figure}" for what in ("box", "mask") for figure in FIGURES]
    return {n: [r.metrics[n]["last"] for r in records if n in r.metrics] for n in names}


def _rows(title: str, values: dict[str, list[float]]) -> list[tuple[str, ...]]:
    """A row for boxes and one for masks: a run's figures, or mean and spread of several."""
    rows = []
    for what, words in (("box", title), ("mask", "")):
        texts = []
        for figure in FIGURES:
            mean, spread, n = summarize(values[f"ap_{what}{figure}"])
            text = f"{mean:.1f}" if n else ""
            texts.append(text if spread is None else f"{text} ± {spread:.1f}")
        rows.append((words, {"box": "boxes", "mask": "masks"}[what], *texts))
    return rows


def _cells(data: str, rule: str, network: str) -> Iterator[tuple[Table, Cell]]:
    """The published cells of this recipe, rule and network, whatever their epochs."""
    for table in readable_tables():
        for cell in table.cells():
            fill = cell.fill or {}
            same = (fill.get("rule"), fill.get("network")) == (rule, network)
            if same and fill.get("downstream") in RECIPES[data]:
                yield table, cell


def published(data: str, spec: RunSpec) -> list[str]:
    """What the papers print for the protocol of this run: a line for every row."""
    planner, protocol = Planner(Options(spec.scale)), _protocol(spec.recipe)
    rows: dict[tuple[str, str], list[str]] = {}
    cells = [(t, c) for t, c in _cells(data, spec.rule, spec.network) if c.published is not None]
    for table, cell in cells:
        recipe = planner.recipe(cell.fill, {}).for_run(spec.rule, spec.network)
        if _protocol(recipe) == protocol:
            row = " ".join(str(value) for value in cell.row.labels.values())
            text = f"{cell.column.label} {cell.published.value:.{cell.column.decimals}f}"
            rows.setdefault((table.name, row), []).append(text)
    lines = [f"Published ({name}, {row}): {', '.join(v)}" for (name, row), v in rows.items()]
    if not rows:
        return ["No number is published for these settings."] if cells else []
    differs = other_data(spec.data, spec.recipe.detection.data)
    if spec.scale != "paper" or differs:
        why = f"Scale {spec.scale}" if spec.scale != "paper" else f"Here {differs[0]}"
        lines.append(f"{why}: not to be compared with the published numbers.")
    return lines


def _protocol(recipe: Recipe) -> dict[str, Any]:
    """What a recipe says, whichever of its splits and whatever its title."""
    values = recipe.as_dict()
    return {**values, "title": "", "detection": {**values["detection"], "split": 0}}
