"""`locbench downstream`: which runs it takes, and what it prints."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locbench import runs
from locbench.commands import ENCODER_SUFFIXES, parent_of, set_aside, to_run
from locbench.console import describe, watching
from locbench.data.fingerprint import fingerprint
from locbench.errors import UserError
from locbench.recipes import Recipe, load_joint
from locbench.records import Record, Store
from locbench.registry import DETECTION_SETS, NETWORKS, RULES, suggest
from locbench.reproduce import execute_or_load
from locbench.runs import UNTRAINED, RunSpec
from locbench.tables import load_table, table_names
from locbench.workshop import Workshop

if TYPE_CHECKING:
    from rich.console import Console

# The recipe of each word on the command line; Shapes takes COCO's.
RECIPES = {
    "coco": "loco/coco",
    "cityscapes": "loco/cityscapes",
    "coco-10k": "loco/coco10k",
    "coco-1k": "loco/coco1k",
    "shapes": "loco/coco",
}
PRETRAINING = {"views": "loco/imagenet", "label": "loco/supervised"}


@dataclass(frozen=True)
class Asked:
    """The options of the command; `frozen` None leaves it to the recipe."""

    data: str
    frozen: bool | None = None
    rule: str = "loco"
    network: str = "resnet50"
    scale: str = "smoke"
    seed: int = runs.FIRST_SEED
    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TransferPlan:
    """The detectors on the backbone asked for, and, where it is frozen, on an untrained one."""

    asked: Asked
    specs: list[RunSpec]
    rivals: list[RunSpec]


def plan(asked: Asked, source: str | None, store: Store, root: Path | None) -> TransferPlan:
    """The runs: on a run's encoder, on a file, or on what the rule pretrains at that scale."""
    recipe = _recipe(asked)
    own = recipe.detection
    data = DETECTION_SETS.get(own.data).fingerprint(root, own.test_side)
    common = (asked.network, asked.seed, data)
    parent = file = None
    if source is not None and Path(source).suffix in ENCODER_SUFFIXES:
        if not Path(source).is_file():
            raise UserError(f"no encoder file {source}; give a .safetensors or .pth file or a run")
        file = runs.encoder_file(Path(source))
        specs = runs.plan_detection(recipe, "file", *common, encoder_file=file)
    elif source is not None:
        parent = parent_of(source, store)
        recipe = replace(parent.recipe, detection=own)
        common = (parent.network, parent.seed, data)
        specs = runs.detectors(recipe, parent.rule, *common, parent=parent)
    else:
        known = None if asked.rule == UNTRAINED else _fingerprint(recipe, root)
        specs = runs.plan_detection(recipe, asked.rule, *common, pretraining=known)
    rivals = []
    if own.frozen == "all" and not specs[0].untrained:
        rivals = runs.plan_detection(recipe, UNTRAINED, *common)
    return TransferPlan(asked, specs, rivals)


def _fingerprint(recipe: Recipe, root: Path | None) -> dict[str, Any]:
    return fingerprint(recipe.data.name, recipe.data.resolution, root)


def _recipe(asked: Asked) -> Recipe:
    """The rule's pretraining joined with the detection asked for."""
    if asked.data not in RECIPES:
        raise UserError(f"unknown detection data '{asked.data}'{suggest(asked.data, RECIPES)}")
    NETWORKS.entry(asked.network)
    learns = "views" if asked.rule == UNTRAINED else RULES.entry(asked.rule).learns
    settled: dict[str, Any] = {}
    if asked.data == "shapes":
        settled["detection.data"] = "shapes"
    if asked.frozen is not None:
        settled["detection.frozen"] = "all" if asked.frozen else "first"
    names = (PRETRAINING[learns], RECIPES[asked.data])
    return load_joint(*names, asked.scale, {**settled, **asked.overrides})


def carry_out(
    plan: TransferPlan,
    store: Store,
    root: Path | None,
    device: str,
    fresh: bool,
    as_json: bool,
    out: Console,
) -> None:
    """Run what has no record, with progress, and print the average precisions."""
    wanted = runs.unique([*plan.specs, *plan.rivals])
    if fresh:
        set_aside([*plan.specs, *plan.rivals], store)
    waiting = {run.id for run in to_run(wanted, store)}
    records: dict[str, Record] = {}
    with watching(len(waiting)) as watch:
        shop = Workshop(store, device, root, watch.start, watch.preparing)
        for run in wanted:
            records[run.id] = execute_or_load(run, shop)
            if run.id in waiting:
                watch.done(run, records[run.id])
    shown = [*plan.specs, *plan.rivals]
    if as_json:
        out.print_json(json.dumps([records[spec.id].as_dict() for spec in shown]))
        return
    _print(plan, shown, records, store, out)


FIGURES = ("", "_50", "_75", "_small", "_medium", "_large")


def _print(
    plan: TransferPlan,
    shown: list[RunSpec],
    records: dict[str, Record],
    store: Store,
    out: Console,
) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    heads = ["AP", *(figure.strip("_") for figure in FIGURES[1:])]
    table = Table("backbone", "AP [%] of", *heads, box=box.SIMPLE_HEAD, show_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for spec in shown:
        found = records[spec.id].metrics
        for what, words in (("box", f"{spec.rule} {spec.network}"), ("mask", "")):
            values = [found.get(f"ap_{what}{figure}") for figure in FIGURES]
            texts = ["" if value is None else f"{value['last']:.1f}" for value in values]
            table.add_row(words, f"{what}es" if what == "box" else "masks", *texts)
    out.print(Text(describe(plan.specs[0]), style="bold"))
    out.print(table)
    for line in published(plan):
        out.print(Text(line))
    for spec in shown:
        out.print(Text(str(store.folder(spec.id)), style="dim"), soft_wrap=True)


def published(plan: TransferPlan) -> list[str]:
    """What the papers print for this recipe, rule and network: a line for every row."""
    spec, lines = plan.specs[0], []
    wanted = (RECIPES[plan.asked.data], spec.rule, spec.network)
    for name in table_names():
        table = load_table(name)
        rows: dict[int, list[str]] = {}
        for cell in table.cells():
            fill = cell.fill or {}
            same = (fill.get("downstream"), fill.get("rule"), fill.get("network")) == wanted
            if same and cell.published is not None:
                text = f"{cell.column.label} {cell.published.value:.{cell.column.decimals}f}"
                rows.setdefault(cell.row.index, []).append(text)
        for index, texts in rows.items():
            row = " ".join(str(value) for value in table.rows[index].labels.values())
            lines.append(f"Published ({name}, {row}): {', '.join(texts)}")
    if lines and plan.asked.scale != "paper":
        lines.append(f"Scale {plan.asked.scale}: not to be compared with the published numbers.")
    return lines
