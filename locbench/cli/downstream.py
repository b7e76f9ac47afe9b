"""`locbench downstream`: plans detectors on pretrained backbones, and prints their precision."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locbench.cli.actions import run, set_aside
from locbench.cli.single import ENCODER_SUFFIXES, parent_of
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
class DownstreamOptions:
    """Options of the command; None is what was not given.

    `source` is a run or an encoder file, whose detector is wanted. Without it rule, network, scale
    and seed are loco, resnet50, smoke and 1234; an encoder file has no rule, and a run brings all
    four. Of several `seeds` the others count up. `frozen` is the recipe's; `beside`, whether the
    same is also run on an untrained backbone, is so at smoke and small where nothing is trained.
    """

    data: str
    source: str | None = None
    frozen: bool | None = None
    rule: str | None = None
    network: str | None = None
    scale: str | None = None
    seed: int | None = None
    seeds: int | None = None
    beside: bool | None = None
    device: str = "auto"
    data_root: Path | None = None
    overrides: dict[str, Any] = field(default_factory=dict)

    def refuse(self, keys: tuple[str, ...], why: str) -> None:
        """UserError where one of these options was given."""
        for key in keys:
            if getattr(self, key) is not None:
                raise UserError(f"--{key}: {why}")


@dataclass(frozen=True)
class DownstreamPlan:
    """Detectors by seed and split, the same on an untrained backbone, and lines on print."""

    specs: list[RunSpec]
    rivals: list[RunSpec]
    published: list[str] = field(default_factory=list)


def plan_downstream(options: DownstreamOptions, store: Store) -> DownstreamPlan:
    """The runs: on a run's encoder, on a file, or on what the rule pretrains at that scale.

    UserError for options that the source leaves no room for.
    """
    data, source = options.data, options.source
    if data not in RECIPES:
        raise UserError(f"unknown detection data '{data}'{suggest(data, RECIPES)}")
    first_seed = FIRST_SEED if options.seed is None else options.seed
    network = options.network or "resnet50"
    by_seed = [
        replace(options, seed=first_seed + k, network=network) for k in range(options.seeds or 1)
    ]
    if source is None:
        groups = [_on_rule(one) for one in by_seed]
    elif Path(source).suffix in ENCODER_SUFFIXES:
        options.refuse(("rule",), f"{source} is an encoder file, and says nothing of its training")
        if not Path(source).is_file():
            raise UserError(f"no encoder file {source}; give a .safetensors or .pth file or a run")
        file = encoder_file(Path(source))
        groups = [_on_file(one, FILE, file) for one in by_seed]
    else:
        of_runs = ("rule", "network", "scale", "seed", "seeds")
        options.refuse(of_runs, f"run {source} brings its own")
        groups = [_on_run(options, parent_of(source, store))]
    first, rivals = groups[0][0], []
    usual = first.scale != "paper" and first.recipe.detection.frozen == "all"
    if not first.untrained and (usual if options.beside is None else options.beside):
        for spec in (specs[0] for specs in groups):
            common = {"seed": spec.seed, "data": spec.data}
            rivals += detector_specs(spec.recipe, UNTRAINED, spec.network, **common)
    specs = [spec for group in groups for spec in group]
    return DownstreamPlan(specs, rivals, published_lines(data, first))


def _on_rule(options: DownstreamOptions) -> list[RunSpec]:
    rule, network = options.rule or "loco", options.network
    recipe = _recipe(options, rule, network)
    if recipe.scale == "paper":
        # What the paper took from elsewhere in the place of a pretraining of its own.
        planner = Planner(Options("paper", data_root=options.data_root))
        for _, cell in _cells(options.data, rule, network):
            if (file := planner.weights(cell.fill)) is not None:
                return _on_file(options, rule, file)
    parent = None
    if rule != UNTRAINED:
        data = fingerprint(recipe.data.name, recipe.data.resolution, options.data_root)
        common = {"seed": options.seed, "data": data, "device": options.device}
        parent = pretraining_spec(recipe, rule, network, **common)
    return _detectors(options, recipe.for_run(rule, network), rule, parent=parent)


def _on_file(options: DownstreamOptions, rule: str, file: tuple[str, str]) -> list[RunSpec]:
    recipe = _recipe(options, rule, options.network).for_run(rule, options.network)
    return _detectors(options, recipe, rule, encoder_file=file)


def _on_run(options: DownstreamOptions, parent: RunSpec) -> list[RunSpec]:
    for key in options.overrides:
        if not key.startswith("detection."):
            raise UserError(f"--set {key}: a detector on a run can only change detection.*")
    options = replace(options, scale=parent.scale, network=parent.network, seed=parent.seed)
    joint = _recipe(options, parent.rule, parent.network)
    recipe = replace(parent.recipe, detection=joint.detection, downstream=joint.downstream)
    return _detectors(options, recipe, parent.rule, parent=parent)


def _detectors(
    options: DownstreamOptions, recipe: Recipe, rule: str, **encoder: Any
) -> list[RunSpec]:
    name, side = recipe.detection.data, recipe.detection.test_side
    data = DETECTION_SETS.get(name).fingerprint(options.data_root, side)
    return detector_specs(recipe, rule, options.network, seed=options.seed, data=data, **encoder)


def _recipe(options: DownstreamOptions, rule: str, network: str) -> Recipe:
    """The pretraining of a rule and network, joined with the detection of the options."""
    NETWORKS.entry(network)
    given: dict[str, Any] = {"detection.data": "shapes"} if options.data == "shapes" else {}
    if options.frozen is not None:
        given["detection.frozen"] = "all" if options.frozen else "first"
    learns = "views" if rule in (UNTRAINED, FILE) else RULES.entry(rule).learns
    names, of_cell = (DEFAULT_RECIPES[learns], RECIPES[options.data][0]), {}
    for _, cell in _cells(options.data, rule, network):
        names = (cell.fill["recipe"], cell.fill["downstream"])
        # Such as Random Init's, of which nothing is frozen.
        sets = cell.fill.get("set", {}).items()
        of_cell = {key: value for key, value in sets if key.startswith("detection.")}
        break
    return load_joint(*names, options.scale or "smoke", {**given, **options.overrides}, of_cell)


def carry_out(
    options: DownstreamOptions, store: Store, *, fresh: bool, as_json: bool, out: Console
) -> None:
    """Run what has no record, with progress, and print the average precisions.

    What is there is printed also where a run fails; RunFailed comes after it.
    """
    plan = plan_downstream(options, store)
    specs = [*plan.specs, *plan.rivals]
    if fresh:
        set_aside(specs, store)
    failures = run(unique(specs), store, data_root=options.data_root, device=options.device)
    loaded = [record for spec in specs if (record := store.load(spec.id)) is not None]
    records = {record.id: record for record in loaded if record.status == "done"}
    if as_json:
        whole = [record.as_dict() for record in records.values()]
        means = [backbone.as_dict() for backbone in _backbones(plan, records)]
        out.print_json(json.dumps({"records": whole, "means": means}))
    elif records:
        print_detectors(plan, records, store, out)
    if failures:
        raise failure(failures)


def print_detectors(
    plan: DownstreamPlan, records: dict[str, Record], store: Store, out: Console
) -> None:
    """Average precisions of the runs that are done, the published ones, and where all lies."""
    from rich.text import Text

    heads = ["backbone", "AP [%] of", "AP", *(figure.strip("_") for figure in FIGURES[1:])]
    rows: list[tuple[str, ...]] = []
    for backbone in _backbones(plan, records):
        for spec in backbone.done:
            rows += _rows(backbone.name + backbone.label(spec), _values([records[spec.id]]))
        done, wanted = len(backbone.done), len(backbone.specs)
        if done > 1:
            of = f"{done} of {wanted}" if done < wanted else f"{done}"
            rows += _rows(f"{backbone.name} mean ± sd of {of}", backbone.values)
    out.print(Text(plan.specs[0].of.describe(plan.specs[0]), style="bold"))
    print_grid(columns(heads, rows, words=(0, 1)), out)
    for line in plan.published:
        out.print(Text(line))
    for id in records:
        out.print(Text(str(store.folder(id)), style="dim"), soft_wrap=True)


@dataclass(frozen=True)
class _Backbone:
    """The detectors on one backbone, those that are done, and their average precisions."""

    specs: list[RunSpec]
    done: list[RunSpec]
    values: dict[str, list[float]]

    @property
    def name(self) -> str:
        return f"{self.specs[0].rule} {self.specs[0].network}"

    def label(self, spec: RunSpec) -> str:
        """The seed and split of one, as far as they tell it from the others."""
        seeds = {other.seed for other in self.specs}
        seed = f" seed {spec.seed}" if len(seeds) > 1 else ""
        split = f" split {spec.recipe.detection.split + 1}" if len(self.specs) > len(seeds) else ""
        return seed + split

    def as_dict(self) -> dict[str, Any]:
        """Mean, sample standard deviation and n of every average precision."""
        summaries = {name: summarize(values) for name, values in self.values.items() if values}
        return {
            "rule": self.specs[0].rule,
            "network": self.specs[0].network,
            "runs": [spec.id for spec in self.done],
            "n": len(self.done),
            "asked": len(self.specs),
            "metrics": {
                name: {"mean": mean, "spread": spread, "n": n}
                for name, (mean, spread, n) in summaries.items()
            },
        }


def _backbones(plan: DownstreamPlan, records: dict[str, Record]) -> list[_Backbone]:
    """The backbone of the options, and the untrained one beside it, if there is one."""
    backbones = []
    for specs in filter(None, (plan.specs, plan.rivals)):
        done = [spec for spec in specs if spec.id in records]
        backbones.append(_Backbone(specs, done, _values([records[spec.id] for spec in done])))
    return backbones


def _values(records: list[Record]) -> dict[str, list[float]]:
    """By average precision: that of every record that has it."""
    names = [f"ap_{what}{figure}" for what in ("box", "mask") for figure in FIGURES]
    return {n: [r.metrics[n]["last"] for r in records if n in r.metrics] for n in names}


def _rows(title: str, values: dict[str, list[float]]) -> list[tuple[str, ...]]:
    """A row for boxes and one for masks: a run's figures, or mean and spread of several."""
    rows = []
    for what, words in (("box", (title, "boxes")), ("mask", ("", "masks"))):
        texts = []
        for figure in FIGURES:
            mean, spread, n = summarize(values[f"ap_{what}{figure}"])
            text = f"{mean:.1f}" if n else ""
            texts.append(text if spread is None else f"{text} ± {spread:.1f}")
        rows.append((*words, *texts))
    return rows


def _cells(data: str, rule: str, network: str) -> Iterator[tuple[Table, Cell]]:
    """The published cells of this recipe, rule and network, whatever their epochs."""
    for table in readable_tables():
        for cell in table.cells():
            fill = cell.fill or {}
            same = (fill.get("rule"), fill.get("network")) == (rule, network)
            if same and fill.get("downstream") in RECIPES[data]:
                yield table, cell


def published_lines(data: str, spec: RunSpec) -> list[str]:
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
