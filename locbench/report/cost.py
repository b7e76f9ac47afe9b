"""Costs of rules on a network: counted, traced and measured, as tables, JSON and a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from locbench.data.fingerprint import fingerprint
from locbench.errors import UserError
from locbench.evaluation.cost.case import Case
from locbench.evaluation.cost.counts import CONVENTIONS, GIGA, BlockCost, block_costs
from locbench.evaluation.cost.measured import machine, measure
from locbench.evaluation.cost.traced import VIEWS, TracedStep, autocast_of, trace
from locbench.networks import make_network
from locbench.plugins.entry import TAUGHT_BY, UNTRAINED, suggest
from locbench.plugins.registry import NETWORKS, RULES
from locbench.plugins.rule_errors import blamed
from locbench.plugins.rule_files import rule_name
from locbench.published.datasets import PUBLISHED_DATA
from locbench.published.load import readable_tables
from locbench.recipes.load import load_recipe
from locbench.recipes.recipe import DEFAULT_RECIPES, Recipe
from locbench.recipes.validation import parse_overrides
from locbench.report.grid import Column, columns, print_grid
from locbench.rules import build_units, known_to
from locbench.runs.kinds.count import case_of
from locbench.runs.kinds.trace import Trace
from locbench.runs.spec import RunSpec

if TYPE_CHECKING:
    from rich.console import Console

# What a rule's costs are compared with: training end to end on the same.
END_TO_END = {"views": "simclr", "label": "bp"}
EACH = ("stage", "block")
PLAIN, ALL = CONVENTIONS


@dataclass(frozen=True)
class CostOptions:
    """Options of the command.

    `rules` are names, with settings behind a colon: "auglocal:depth=2,decay=1". `depth` and
    overrides of rule.* go to those rules that have such a setting. Without `recipe` it is, for all
    of them, that of the first table in which the first rule trains the network.
    """

    network: str
    rules: tuple[str, ...]
    recipe: str | None = None
    scale: str = "paper"
    batch: int | None = None
    depth: int | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    each: str = "stage"
    measure: bool = False
    device: str = "auto"


class Bill:
    """What one rule costs on one network; nothing is computed before it is asked for."""

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec
        self.measured: dict[str, float] = {}

    @property
    def name(self) -> str:
        """The rule, with the settings that are not its defaults."""
        settings = sorted(self.spec.rule_settings().items())
        texts = (f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in settings)
        return " ".join([self.spec.rule, *texts])

    @property
    def case(self) -> Case:
        """As it is traced and measured."""
        return case_of(self.spec)

    @cached_property
    def parts(self) -> list[BlockCost]:
        """Block by block; see `block_costs`."""
        case = self.case
        with torch.device("meta"), blamed(case.rule):
            side = case.recipe.data.resolution
            network = make_network(case.network, case.recipe.network, case.classes, side)
            units = build_units(case.rule, network, case.recipe.rule)
        return block_costs(network, units)

    @cached_property
    def step(self) -> TracedStep:
        """One step of the recipe's batch."""
        with blamed(self.spec.rule):
            return trace(self.case)

    @cached_property
    def counts(self) -> dict[str, Any]:
        """Parameters, and multiply-adds for one image, of all parts; see `_counts`."""
        return _counts(self.parts)

    def grouped(self, each: str) -> list[tuple[str, list[BlockCost]]]:
        """The parts by stage, or one by one; the classifier, if trained, is the last."""
        if each == "block":
            return [(part.name, [part]) for part in self.parts]
        stages = dict.fromkeys(part.stage for part in self.parts)
        named = {s: "classifier" if s is None else f"stage {s + 1}" for s in stages}
        return [(named[s], [p for p in self.parts if p.stage == s]) for s in stages]

    def as_dict(self, each: str) -> dict[str, Any]:
        """All figures, for a program: counts of one image, bytes and multiply-adds of a step."""
        recipe = self.spec.recipe
        return {
            "network": self.spec.network,
            "rule": self.spec.rule,
            "settings": dict(recipe.rule),
            "recipe": recipe.name,
            "scale": recipe.scale,
            "batch": recipe.training.batch,
            "resolution": recipe.data.resolution,
            "precision": "fp32" if autocast_of(recipe) is None else "bf16",
            **self.counts,
            f"by_{each}": [{"name": name, **_counts(group)} for name, group in self.grouped(each)],
            "step": {k: v for k, v in asdict(self.step).items() if k != "timeline"},
            "measured": self.measured,
        }


def _counts(parts: Sequence[BlockCost]) -> dict[str, Any]:
    """Parameters and multiply-adds by convention, of the network and of auxiliary networks."""
    return {
        "parameters": sum(part.parameters for part in parts),
        "auxiliary_parameters": sum(part.auxiliary_parameters for part in parts),
        "multiply_adds": {
            name: sum(part.multiply_adds(operators) for part in parts)
            for name, operators in CONVENTIONS.items()
        },
        "auxiliary_multiply_adds": {
            name: sum(part.auxiliary_multiply_adds(operators) for part in parts)
            for name, operators in CONVENTIONS.items()
        },
    }


def make_bills(options: CostOptions) -> tuple[list[Bill], Bill]:
    """The rules of the options, and what they are compared with: end to end, the first's recipe.

    UserError for what no registered rule, network or recipe fits.
    """
    NETWORKS.entry(options.network)
    if options.each not in EACH:
        raise UserError(f"--each {options.each}{suggest(options.each, EACH)}")
    names = [rule_name(words.partition(":")[0]) for words in options.rules]
    first = RULES.entry(names[0]).learns
    for name in names:
        if (learns := RULES.entry(name).learns) != first:
            raise UserError(
                f"{names[0]} learns from {TAUGHT_BY[first]}, {name} from {TAUGHT_BY[learns]}: "
                "ask for them apart"
            )
    _check_known(options, names)
    source = (options.recipe, {}) if options.recipe else _recipe_of(names[0], options.network)
    pairs = zip(names, options.rules, strict=True)
    bills = [_bill(options, name, words.partition(":")[2], source) for name, words in pairs]
    rival = _bill(replace(options, depth=None), END_TO_END[first], "", source)
    return bills, next((bill for bill in bills if bill.spec.id == rival.spec.id), rival)


def _check_known(options: CostOptions, rules: Sequence[str]) -> None:
    """UserError for an option that none of these rules, or nothing that is run, would take."""
    settings = {f"rule.{key}" for name in rules for key in RULES.entry(name).settings}
    for key in (*options.overrides, *([] if options.depth is None else ["rule.depth"])):
        if key.startswith("rule.") and key not in settings:
            raise UserError(f"{' and '.join(rules)}: no setting '{key}'{suggest(key, settings)}")
    if options.device != "auto" and not options.measure:
        raise UserError(f"--device {options.device} is for --measure: nothing else runs on it")


def _bill(
    options: CostOptions, rule: str, settings: str, source: tuple[str, dict[str, Any]]
) -> Bill:
    overrides = known_to(rule, options.overrides)
    if options.depth is not None:
        overrides |= known_to(rule, {"rule.depth": options.depth})
    if options.batch is not None:
        overrides["training.batch"] = options.batch
    overrides |= parse_overrides([f"rule.{pair}" for pair in settings.split(",") if pair])
    name, cell = source
    recipe = load_recipe(name, options.scale, overrides, cell)
    return Bill(Trace.spec(recipe, rule, options.network, classes=_classes(recipe)))


def _recipe_of(rule: str, network: str) -> tuple[str, dict[str, Any]]:
    """The recipe by which a table trains this network with this rule, and what its row sets.

    Without one that of another rule on this network; without any the paper's for ImageNet.
    """
    learns = RULES.entry(rule).learns
    similar = None
    for cell in (cell for table in readable_tables() for cell in table.cells()):
        if cell.fill is None or cell.fill["network"] != network:
            continue
        if cell.fill["rule"] == rule:
            sets = cell.fill.get("set", {}).items()
            kept = ("optimizer.", "training.", "schedule.")
            return cell.fill["recipe"], {k: v for k, v in sets if k.startswith(kept)}
        if cell.fill["rule"] != UNTRAINED and RULES.entry(cell.fill["rule"]).learns == learns:
            similar = similar or cell.fill["recipe"]
    return similar or DEFAULT_RECIPES[learns], {}


def _classes(recipe: Recipe) -> int:
    if recipe.data.classes:
        return recipe.data.classes
    if recipe.data.name in PUBLISHED_DATA:
        return PUBLISHED_DATA[recipe.data.name]["classes"]
    return fingerprint(recipe.data.name, recipe.data.resolution, None)["classes"]


def carry_out(options: CostOptions, *, plot: Path | None, as_json: bool, out: Console) -> None:
    """Count, trace, with `measure` also run; print it, and draw the bytes over a step."""
    bills, rival = make_bills(options)
    if plot is not None:
        _check_picture(plot)
    if options.measure:
        for bill in bills:
            over = None if bill is rival else rival.case
            bill.measured = measure(bill.case, over, options.device)
    if as_json:
        out.print_json(json.dumps([bill.as_dict(options.each) for bill in bills]))
    else:
        _print(bills, rival, options, out)
    if plot is not None:
        from locbench.evaluation.cost.plot import draw

        spec = bills[0].spec
        images = VIEWS[spec.recipe.gives] * spec.recipe.training.batch
        try:
            draw(plot, spec.network, [(bill.name, bill.step) for bill in bills], images)
        except OSError as error:
            raise UserError(f"--plot {plot}: {error.strerror}") from error
        if not as_json:
            out.print(f"\n{plot}", style="dim", soft_wrap=True)


def _check_picture(path: Path) -> None:
    if path.is_dir() or path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise UserError(f"--plot {path}: give a file that ends in .png, .pdf or .svg")
    if not path.parent.is_dir():
        raise UserError(f"--plot {path}: there is no folder {path.parent}")


def _print(bills: list[Bill], rival: Bill, options: CostOptions, out: Console) -> None:
    from rich.text import Text

    spec = bills[0].spec
    recipe, views = spec.recipe, VIEWS[spec.recipe.gives]
    images = f"{recipe.training.batch:,} images" + (", two views each," if views == 2 else "")
    out.print(Text(f"{spec.network} under {recipe.name} ({recipe.scale})", style="bold"))
    precision = "fp32" if autocast_of(recipe) is None else "bf16"
    out.print(f"a step: {images} of {recipe.data.resolution} pixels, in {precision}")
    print_grid(_totals(bills, rival), out)
    # Bills of the same counts together, such as BP's with and without checkpointing.
    groups: list[list[Bill]] = []
    for bill in bills:
        same = next((group for group in groups if group[0].parts == bill.parts), None)
        groups.append([bill]) if same is None else same.append(bill)
    for group in groups:
        names = ", ".join(bill.name for bill in group)
        out.print(Text(f"{names}: by {options.each}", style="bold"))
        print_grid(_by_part(group[0], options.each), out)
    notes = NOTES
    if options.measure:
        out.print(Text(f"Measured on {machine(options.device)}", style="bold"))
        print_grid(_measurements(bills, rival), out)
        notes = (*NOTES, MEASURED_NOTE)
    for note in notes:
        out.print(Text(note.format(rival=rival.name)), style="dim")


def _short(count: float) -> str:
    """Four decimals of a small number, two of a large one."""
    return f"{count:.{4 if count < 2 else 2}f}"


def _totals(bills: list[Bill], rival: Bill) -> list[Column]:
    largest = max(bill.step.peak_bytes for bill in bills)
    unit, size = ("GB", GIGA) if largest >= GIGA else ("MB", 1e6)
    heads = (
        "rule", "weights\n[M]", "auxil.\n[M]", "MACs\n[G]", "auxil.\n[G]", "total\n[G]",
        "all ops\n[G]", f"kept\n[{unit}]", f"peak\n[{unit}]", f"{rival.name}\n/ kept",
    )  # fmt: skip
    rows = []
    for bill in bills:
        counts, step = bill.counts, bill.step
        sides = (counts["multiply_adds"], counts["auxiliary_multiply_adds"])
        network, auxiliary = (side[PLAIN] / GIGA for side in sides)
        everything = sum(side[ALL] for side in sides) / GIGA
        row = (
            bill.name,
            *(f"{counts[key] / 1e6:.2f}" for key in ("parameters", "auxiliary_parameters")),
            *(_short(count) for count in (network, auxiliary, network + auxiliary, everything)),
            *(f"{count / size:,.2f}" for count in (step.saved_bytes, step.peak_bytes)),
            f"{rival.step.saved_bytes / step.saved_bytes:.2f}x",
        )
        rows.append(row)
    return columns(heads, rows)


def _by_part(bill: Bill, each: str) -> list[Column]:
    heads = (
        each, "output", "weights", "auxiliary", "MACs [M]", "auxiliary [M]", "share of MACs [%]"
    )  # fmt: skip
    sides = ("multiply_adds", "auxiliary_multiply_adds")
    whole = sum(bill.counts[side][PLAIN] for side in sides)
    rows = []
    for name, group in bill.grouped(each):
        counts = _counts(group)
        adds = [counts[side][PLAIN] for side in sides]
        row = (
            name,
            "x".join(map(str, group[-1].shape)),
            *(f"{counts[key]:,}" for key in ("parameters", "auxiliary_parameters")),
            *(f"{count / 1e6:,.2f}" for count in adds),
            f"{100 * sum(adds) / whole:.2f}",
        )
        rows.append(row)
    return columns(heads, rows)


# What is measured: its head, and how it is printed.
MEASURED = {
    "images_per_s": ("images\n/s", "{:.1f}"),
    "allocated_gigabytes": ("peak\n[GB]", "{:.3f}"),
    "allocated_share": ("of pre-\ndicted [%]", "{:.1f}"),
    "resident_gigabytes": ("resident\n[GB]", "{:.2f}"),
    "gpu_memory": ("all allo-\ncated [GB]", "{:.2f}"),
    "gpu_memory_reserved": ("reserved\n[GB]", "{:.2f}"),
    "gpu_memory_least": ("least\n[GB]", "{:.2f}"),
}


def _measurements(bills: list[Bill], rival: Bill) -> list[Column]:
    formats = {key: form for key, form in MEASURED.items() if key in bills[0].measured}
    rows = []
    for bill in bills:
        figures = bill.measured
        texts = [form.format(figures[key]) for key, (_, form) in formats.items()]
        middle, low, high = (figures[f"wall_clock_overhead{end}"] for end in ("", "_low", "_high"))
        over = "" if bill is rival else f"{middle:+.0f} ({low:+.0f} to {high:+.0f})"
        rows.append((bill.name, *texts, over))
    heads = ("rule", *(head for head, _ in formats.values()), f"time over\n{rival.name} [%]")
    return columns(heads, rows)


NOTES = (
    "MACs: multiply-adds, each counted as one, of one image's forward pass through "
    "convolutions and linear layers; 'all ops' adds batch norm (2 an element), average pooling "
    "(1 an input element) and bilinear interpolation (4 an output element). "
    "Not counted: InfoPro's reconstruction, PredSim's similarity, what a loss itself computes.",
    "Kept: the most at once that autograd keeps of a step. Peak: all that the step allocates, "
    "gradients too; weights and the optimizer's state are there before. Both traced without "
    "running. {rival} / kept: how many times more {rival} keeps.",
)
MEASURED_NOTE = (
    "Measured in a process for each rule, with noise for images; time is the median of "
    "three steps in turns with {rival}, lowest and highest behind it."
)
