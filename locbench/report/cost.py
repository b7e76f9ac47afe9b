"""`locbench cost`: what rules cost on a network, counted, traced and measured, and a picture."""

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
from locbench.evaluation.cost.traced import VIEWS, TracedStep, trace
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
class Asked:
    """The options of the command.

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
    measured: bool = False
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
        return " ".join([self.spec.rule, *(f"{key}={_written(value)}" for key, value in settings)])

    @property
    def case(self) -> Case:
        """As it is traced and measured."""
        return case_of(self.spec)

    @cached_property
    def parts(self) -> list[BlockCost]:
        """Block by block; see `block_costs`."""
        asked = self.case
        with torch.device("meta"), blamed(asked.rule):
            side = asked.recipe.data.resolution
            network = make_network(asked.network, asked.recipe.network, asked.classes, side)
            units = build_units(asked.rule, network, asked.recipe.rule)
        return block_costs(network, units)

    @cached_property
    def step(self) -> TracedStep:
        """One step of the recipe's batch."""
        with blamed(self.spec.rule):
            return trace(self.case)

    def total(self, convention: str, auxiliary: bool) -> int:
        """Multiply-adds of the network, or of the auxiliary networks, for one image."""
        operators = CONVENTIONS[convention]
        if auxiliary:
            return sum(part.auxiliary_multiply_adds(operators) for part in self.parts)
        return sum(part.multiply_adds(operators) for part in self.parts)

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
            "parameters": sum(part.parameters for part in self.parts),
            "auxiliary_parameters": sum(part.auxiliary_parameters for part in self.parts),
            "multiply_adds": {name: self.total(name, False) for name in CONVENTIONS},
            "auxiliary_multiply_adds": {name: self.total(name, True) for name in CONVENTIONS},
            f"by_{each}": [
                {
                    "name": name,
                    "parameters": sum(part.parameters for part in group),
                    "auxiliary_parameters": sum(part.auxiliary_parameters for part in group),
                    "multiply_adds": {c: _of(group, c) for c in CONVENTIONS},
                    "auxiliary_multiply_adds": {c: _of(group, c, True) for c in CONVENTIONS},
                }
                for name, group in self.grouped(each)
            ],
            "step": {k: v for k, v in asdict(self.step).items() if k != "timeline"},
            "measured": self.measured,
        }


def _of(group: Sequence[BlockCost], convention: str, auxiliary: bool = False) -> int:
    operators = CONVENTIONS[convention]
    if auxiliary:
        return sum(part.auxiliary_multiply_adds(operators) for part in group)
    return sum(part.multiply_adds(operators) for part in group)


def bills(asked: Asked) -> tuple[list[Bill], Bill]:
    """The rules asked for, and what they are compared with: end to end under the first's recipe.

    UserError for what no registered rule, network or recipe fits.
    """
    NETWORKS.entry(asked.network)
    if asked.each not in EACH:
        raise UserError(f"--each {asked.each}{suggest(asked.each, EACH)}")
    if not asked.rules:
        raise UserError("give at least one --rule; see `locbench list rules`")
    names = [rule_name(words.partition(":")[0]) for words in asked.rules]
    taught = RULES.entry(names[0]).learns
    if other := [name for name in names if RULES.entry(name).learns != taught]:
        raise UserError(
            f"{names[0]} learns from {TAUGHT_BY[taught]}, {other[0]} from "
            f"{TAUGHT_BY[RULES.entry(other[0]).learns]}: ask for them apart"
        )
    _check_known(asked, names)
    source = (asked.recipe, {}) if asked.recipe else _recipe_of(names[0], asked.network)
    found = [
        _bill(asked, name, words, source) for name, words in zip(names, asked.rules, strict=True)
    ]
    rival = _bill(replace(asked, depth=None), END_TO_END[taught], "", source)
    same = next((bill for bill in found if bill.spec.id == rival.spec.id), None)
    return found, same or rival


def _check_known(asked: Asked, rules: Sequence[str]) -> None:
    """UserError for an option that nothing asked for would take."""
    settings = {f"rule.{key}" for name in rules for key in RULES.entry(name).settings}
    depth = {} if asked.depth is None else {"rule.depth": asked.depth}
    for key in (*asked.overrides, *depth):
        if key.startswith("rule.") and key not in settings:
            raise UserError(f"{' and '.join(rules)}: no setting '{key}'{suggest(key, settings)}")
    if asked.device != "auto" and not asked.measured:
        raise UserError(f"--device {asked.device} is for --measure: nothing else runs on it")


def _bill(asked: Asked, rule: str, words: str, source: tuple[str, dict[str, Any]]) -> Bill:
    known, settings = RULES.entry(rule).settings, words.partition(":")[2]
    own = parse_overrides([f"rule.{pair}" for pair in settings.split(",") if pair])
    common = known_to(rule, asked.overrides)
    if asked.depth is not None and "depth" in known:
        common["rule.depth"] = asked.depth
    if asked.batch is not None:
        common["training.batch"] = asked.batch
    name, cell = source
    recipe = load_recipe(name, asked.scale, {**common, **own}, cell)
    return Bill(Trace.spec(recipe, rule, asked.network, classes=_classes(recipe)))


def _recipe_of(rule: str, network: str) -> tuple[str, dict[str, Any]]:
    """The recipe by which a table trains this network with this rule, and what its row sets.

    Without one that of another rule on this network; without any the paper's for ImageNet.
    """
    learns = RULES.entry(rule).learns
    other = None
    for table in readable_tables():
        for cell in table.cells():
            if cell.fill is None or cell.fill["network"] != network:
                continue
            if cell.fill["rule"] == rule:
                sets = cell.fill.get("set", {}).items()
                kept = ("optimizer.", "training.", "schedule.")
                return cell.fill["recipe"], {k: v for k, v in sets if k.startswith(kept)}
            its = cell.fill["rule"]
            if its != UNTRAINED and RULES.entry(its).learns == learns:
                other = other or cell.fill["recipe"]
    return other or DEFAULT_RECIPES[learns], {}


def _classes(recipe: Recipe) -> int:
    if recipe.data.classes:
        return recipe.data.classes
    if recipe.data.name in PUBLISHED_DATA:
        return PUBLISHED_DATA[recipe.data.name]["classes"]
    return fingerprint(recipe.data.name, recipe.data.resolution, None)["classes"]


def carry_out(asked: Asked, plot: Path | None, as_json: bool, out: Console) -> None:
    """Count, trace, with `measured` also run; print it, and draw the bytes over a step."""
    found, rival = bills(asked)
    if plot is not None:
        _check_picture(plot)
    if asked.measured:
        for bill in found:
            over = None if bill is rival else rival.case
            bill.measured = measure(bill.case, over, asked.device)
    if as_json:
        out.print_json(json.dumps([bill.as_dict(asked.each) for bill in found]))
    else:
        _print(found, rival, asked, out)
    if plot is not None:
        from locbench.evaluation.cost.plot import draw

        spec = found[0].spec
        images = VIEWS[spec.recipe.gives] * spec.recipe.training.batch
        try:
            draw(plot, spec.network, [(bill.name, bill.step) for bill in found], images)
        except OSError as error:
            raise UserError(f"--plot {plot}: {error.strerror}") from error
        if not as_json:
            out.print(f"\n{plot}", style="dim", soft_wrap=True)


def _check_picture(path: Path) -> None:
    if path.is_dir() or path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise UserError(f"--plot {path}: give a file that ends in .png, .pdf or .svg")
    if not path.parent.is_dir():
        raise UserError(f"--plot {path}: there is no folder {path.parent}")


def _print(found: list[Bill], rival: Bill, asked: Asked, out: Console) -> None:
    from rich.text import Text

    spec = found[0].spec
    recipe, views = spec.recipe, VIEWS[spec.recipe.gives]
    images = f"{recipe.training.batch:,} images" + (", two views each," if views == 2 else "")
    out.print(Text(f"{spec.network} under {recipe.name} ({recipe.scale})", style="bold"))
    out.print(f"a step: {images} of {recipe.data.resolution} pixels, in fp32")
    print_grid(_totals(found, rival), out)
    for alike in _grouped(found):
        names = ", ".join(bill.name for bill in alike)
        out.print(Text(f"{names}: by {asked.each}", style="bold"))
        print_grid(_by_part(alike[0], asked.each), out)
    if asked.measured:
        out.print(Text(f"Measured on {machine(asked.device)}", style="bold"))
        print_grid(_measurements(found, rival), out)
    for line in _notes(rival, asked.measured):
        out.print(Text(line), style="dim")


def _grouped(found: list[Bill]) -> list[list[Bill]]:
    """Bills of the same counts together, such as BP's with and without checkpointing."""
    groups: list[list[Bill]] = []
    for bill in found:
        same = next((group for group in groups if group[0].parts == bill.parts), None)
        groups.append([bill]) if same is None else same.append(bill)
    return groups


def _short(count: float) -> str:
    """Four decimals of a small number, two of a large one."""
    return f"{count:.4f}" if count < 1 else f"{count:.{4 if count < 2 else 2}f}"


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value}"


def _totals(found: list[Bill], rival: Bill) -> list[Column]:
    largest = max(bill.step.peak_bytes for bill in found)
    unit, size = ("GB", GIGA) if largest >= GIGA else ("MB", 1e6)
    heads = (
        "rule", "weights\n[M]", "auxil.\n[M]", "MACs\n[G]", "auxil.\n[G]", "total\n[G]",
        "all ops\n[G]", f"kept\n[{unit}]", f"peak\n[{unit}]", f"{rival.name}\n/ kept",
    )  # fmt: skip
    rows = []
    for bill in found:
        network, auxiliary = (bill.total(PLAIN, own) / GIGA for own in (False, True))
        everything = sum(bill.total(ALL, own) for own in (False, True)) / GIGA
        row = (
            bill.name,
            f"{sum(part.parameters for part in bill.parts) / 1e6:.2f}",
            f"{sum(part.auxiliary_parameters for part in bill.parts) / 1e6:.2f}",
            *(_short(count) for count in (network, auxiliary, network + auxiliary, everything)),
            f"{bill.step.saved_bytes / size:,.2f}",
            f"{bill.step.peak_bytes / size:,.2f}",
            f"{rival.step.saved_bytes / bill.step.saved_bytes:.2f}x",
        )
        rows.append(row)
    return columns(heads, rows)


def _by_part(bill: Bill, each: str) -> list[Column]:
    heads = (
        each, "output", "weights", "auxiliary", "MACs [M]", "auxiliary [M]", "share of MACs [%]"
    )  # fmt: skip
    whole = sum(bill.total(PLAIN, own) for own in (False, True))
    rows = []
    for name, group in bill.grouped(each):
        network, auxiliary = _of(group, PLAIN), _of(group, PLAIN, True)
        row = (
            name,
            "x".join(map(str, group[-1].shape)),
            f"{sum(part.parameters for part in group):,}",
            f"{sum(part.auxiliary_parameters for part in group):,}",
            f"{network / 1e6:,.2f}",
            f"{auxiliary / 1e6:,.2f}",
            f"{100 * (network + auxiliary) / whole:.2f}",
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


def _measurements(found: list[Bill], rival: Bill) -> list[Column]:
    known = {key: how for key, how in MEASURED.items() if key in found[0].measured}
    rows = []
    for bill in found:
        figures = bill.measured
        texts = [form.format(figures[key]) for key, (_, form) in known.items()]
        middle, low, high = (figures[f"wall_clock_overhead{end}"] for end in ("", "_low", "_high"))
        over = "" if bill is rival else f"{middle:+.0f} ({low:+.0f} to {high:+.0f})"
        rows.append((bill.name, *texts, over))
    heads = ("rule", *(head for head, _ in known.values()), f"time over\n{rival.name} [%]")
    return columns(heads, rows)


def _notes(rival: Bill, measured: bool) -> list[str]:
    lines = [
        "MACs: multiply-adds, each counted as one, of one image's forward pass through "
        "convolutions and linear layers; 'all ops' adds batch norm (2 an element), average pooling "
        "(1 an input element) and bilinear interpolation (4 an output element). "
        "Not counted: InfoPro's reconstruction, PredSim's similarity, what a loss itself computes.",
        "Kept: the most at once that autograd keeps of a step. Peak: all that the step allocates, "
        "gradients too; weights and the optimizer's state are there before. Both traced without "
        f"running. {rival.name} / kept: how many times more {rival.name} keeps.",
    ]
    if measured:
        lines.append(
            "Measured in a process for each rule, with noise for images; time is the median of "
            f"three steps in turns with {rival.name}, lowest and highest behind it."
        )
    return lines
