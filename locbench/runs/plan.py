"""Plan: from a published table to the runs that fill its cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from locbench.data.fingerprint import fingerprint
from locbench.data.listing import data_root
from locbench.errors import UserError
from locbench.plugins.entry import PIXELS, UNTRAINED, suggest
from locbench.plugins.registry import DATASETS, DETECTION_SETS, KINDS, Registry
from locbench.plugins.rule_files import rule_names
from locbench.published.datasets import PUBLISHED_DATA, other_data
from locbench.published.load import Table
from locbench.published.rule_rows import with_rules
from locbench.published.table import Cell
from locbench.recipes.load import load_joint
from locbench.recipes.recipe import SCALES, Recipe
from locbench.runs import spec as runs
from locbench.runs.kinds.pixels import pixels_fit, pixels_spec
from locbench.runs.kinds.probe import probe_spec
from locbench.runs.precision import PRECISIONS, resolved_precision
from locbench.runs.spec import FIRST_SEED, RunSpec

# Where torchvision's own loading puts what it downloads.
TORCH_HUB = Path("~/.cache/torch/hub/checkpoints")


@dataclass(frozen=True)
class Options:
    """What of a table is wanted, and how. `assume_data` plans on data that is not here (dry run).

    `rows` and `columns` are words between commas; of those between spaces all have to be there,
    somewhere in a label, or as a whole: "d=2".
    "all" is also what a table leaves out at smoke.
    `rules` are names or .py files of other rules, which get rows of their own.
    """

    scale: str = "smoke"
    rows: str | None = None
    columns: str | None = None
    seeds: int = 1
    data_root: Path | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    assume_data: bool = False
    rules: str | Sequence[str] = ()
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise UserError(f"seeds is {self.seeds}: give 1 or more")


@dataclass(frozen=True)
class PlannedCell:
    """A cell and the runs, one a seed, whose records fill it.

    `mismatches` say what of the published protocol they do not keep to. `precision` is that of the
    protocol, which they keep to; None where it names none, or they do not.
    """

    cell: Cell
    specs: tuple[RunSpec, ...]
    baseline: bool = False
    mismatches: tuple[str, ...] = ()
    precision: str | None = None
    later: bool = False  # shown, also from records, but run only when it is asked for


@dataclass(frozen=True)
class Plan:
    """A table's cells with their runs; `runs()` lists each run once, parents first.

    `assumed` names the data sets that are not here (see `Options.assume_data`).
    """

    table: Table
    options: Options
    cells: tuple[PlannedCell, ...]
    assumed: tuple[str, ...] = ()

    def runs(self) -> list[RunSpec]:
        """Every run that the wanted cells need."""
        cells = [planned for planned in self.cells if not planned.later]
        return runs.unique([spec for planned in cells for spec in planned.specs])


class Planner:
    """Turns fills into specs; recipes and fingerprints are read once."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.assumed: list[str] = []
        self._recipes: dict[str, Recipe] = {}
        self._fingerprints: dict[tuple[str, str, int], dict[str, Any]] = {}

    def recipe(self, fill: dict[str, Any], overrides: dict[str, Any]) -> Recipe:
        """The fill's recipe, with the [detection] of the one that it names as `downstream`."""
        cell, names = fill.get("set", {}), (fill["recipe"], fill.get("downstream"))
        scale = self.options.scale if KINDS.get(fill["evaluation"]).scaled else "paper"
        key = repr((names, scale, sorted(cell.items()), sorted(overrides.items())))
        if key not in self._recipes:
            self._recipes[key] = load_joint(*names, scale, overrides, cell)
        return self._recipes[key]

    def data(self, recipe: Recipe) -> dict[str, Any]:
        """The fingerprint of what the recipe trains on."""
        name, side = recipe.data.name, recipe.data.resolution
        return self._remembered(DATASETS, name, side, lambda root: fingerprint(name, side, root))

    def detection_data(self, recipe: Recipe) -> dict[str, Any]:
        """The fingerprint of what its detector trains on."""
        name, side = recipe.detection.data, recipe.detection.test_side
        take = DETECTION_SETS.get(name).fingerprint
        return self._remembered(DETECTION_SETS, name, side, lambda root: take(root, side))

    def _remembered(
        self,
        registry: Registry,
        name: str,
        side: int,
        find: Callable[[Path | None], dict[str, Any]],
    ) -> dict[str, Any]:
        key = (registry.kind, name, side)
        if key not in self._fingerprints:
            try:
                data = find(self.options.data_root)
            except UserError:
                # Where a folder was named the run would read it, and refuse it too.
                named = self.options.data_root is not None
                if named or not self.options.assume_data or name not in PUBLISHED_DATA:
                    raise
                self.assumed.append(f"data set {name}")
                identity = {"name": name, "version": registry.entry(name).version, "checksum": ""}
                data = {**identity, **PUBLISHED_DATA[name]}
            self._fingerprints[key] = data
        return self._fingerprints[key]

    def weights(self, fill: dict[str, Any]) -> tuple[str, str] | None:
        """The file, and its sha256, that the paper took in the place of a pretraining of its own.

        Only at `paper`: elsewhere the rule trains the network. UserError where it is not here, or
        is not what its name says.
        """
        if self.options.scale != "paper" or "weights" not in fill:
            return None
        places = (data_root(self.options.data_root), TORCH_HUB.expanduser())
        for path in (place / fill["weights"] for place in places):
            if path.is_file():
                return runs.as_named(*runs.encoder_file(path))
        if self.options.assume_data:
            if fill["weights"] not in self.assumed:
                self.assumed.append(fill["weights"])
            return fill["weights"], ""
        raise UserError(
            f"no {fill['weights']}, which torchvision offers, in {' or '.join(map(str, places))}: "
            "download it there"
        )

    def cell(self, cell: Cell) -> PlannedCell:
        """The runs of a cell, one a seed and split; none if nothing here can fill it."""
        if cell.fill is None:
            return PlannedCell(cell, ())
        fill, kind = cell.fill, KINDS.get(cell.fill["evaluation"])
        recipe = self.recipe(fill, self.options.overrides)
        specs = tuple(
            spec
            for k in range(self.options.seeds if kind.seeded else 1)
            for spec in kind.plan(fill, recipe, seed=FIRST_SEED + k, planner=self)
        )
        published = self.recipe(fill, {})
        mismatches = self._mismatches(fill, specs[0], published=published, recipe=recipe)
        stated = published.training.precision
        if stated == "auto":
            return PlannedCell(cell, specs, mismatches=tuple(mismatches))
        precision = resolved_precision(recipe.training.precision, self.options.device)
        if precision != stated:
            other = f"precision {PRECISIONS[precision]}"
            return PlannedCell(cell, specs, mismatches=(*mismatches, other))
        return PlannedCell(cell, specs, mismatches=tuple(mismatches), precision=precision)

    def _mismatches(
        self, fill: dict[str, Any], spec: RunSpec, *, published: Recipe, recipe: Recipe
    ) -> list[str]:
        """What is not as published but for the precision.

        Overrides that change the recipe, other data, fewer GPUs, and what no paper says.
        """
        mismatches = []
        if published != recipe:
            names = (fill["rule"], fill["network"])
            plain, changed = (one.for_run(*names).as_dict() for one in (published, recipe))
            sections = [name for name, values in changed.items() if isinstance(values, dict)]
            mismatches = [
                f"{section}.{key} {value}"
                for section in sections
                for key, value in changed[section].items()
                if value != plain[section].get(key) and (section, key) != ("training", "precision")
            ]
        # No paper of ours cuts its steps; also where a recipe itself says so.
        if recipe.training.accumulate > 1:
            mismatches.append(f"training.accumulate {recipe.training.accumulate}")
        for run in spec.with_ancestors() if spec.of.uses_data else []:
            mismatches += other_data(run.data, run.of.data_name(run.recipe))
        if (gpus := fill.get("gpus", 1)) > 1:
            mismatches.append(f"1 GPU, published over {gpus}")
        mismatches += [f"{thing} unknown" for thing in fill.get("unknown", ())]
        return list(dict.fromkeys(mismatches))


def _is_chosen(cell: Cell, options: Options, keys: Iterable[str]) -> bool:
    def hit(pattern: str | None, values: Iterable[Any], exact: Iterable[str] = ()) -> bool:
        texts = [str(value).lower() for value in values]
        if pattern in (None, "all"):
            return True
        if pattern in keys:
            return pattern in texts
        alternatives = [part.split() for part in pattern.lower().split(",") if part.strip()]
        return any(
            all(word in exact or any(word in text for text in texts) for word in words)
            for words in alternatives
        )

    labels, column = cell.row.labels, cell.column
    names = (column.key, column.label, column.filled_as)
    rows = hit(options.rows, labels.values(), [f"{k}={v}".lower() for k, v in labels.items()])
    return rows and hit(options.columns, names)


def make_plan(table: Table, options: Options) -> Plan:
    """The runs of the wanted cells and of the baselines beside them.

    UserError when the selection leaves no cell, or a recipe, scale or override is wrong.
    """
    if options.scale not in SCALES:  # also for a table that nothing here can fill
        raise UserError(f"unknown scale '{options.scale}'{suggest(options.scale, SCALES)}")
    planner, keys = Planner(options), [column.key for column in table.columns]
    if options.rules:
        table = with_rules(table, rule_names(options.rules))
    chosen = [cell for cell in table.cells() if _is_chosen(cell, options, keys)]
    if not chosen:
        labels = dict.fromkeys(str(v) for row in table.rows for v in row.labels.values())
        selection = {"--rows": options.rows, "--columns": options.columns}
        raise UserError(
            f"{table.name}: no cell matches "
            f"{' '.join(f'{k} {v}' for k, v in selection.items() if v is not None)}; rows have the "
            f"labels {', '.join(labels)}; columns are {', '.join(keys)}"
        )
    cells = [replace(planner.cell(cell), later=_later(cell, options, table)) for cell in chosen]
    return Plan(table, options, (*cells, *_baselines(cells)), tuple(planner.assumed))


def _later(cell: Cell, options: Options, table: Table) -> bool:
    """Whether the table leaves this cell out at smoke, and the options do not ask for it."""
    if options.scale != "smoke":
        return False
    selection = {axis: getattr(options, axis) for axis in ("rows", "columns")}
    first = {axis: table.smoke.get(axis) for axis, words in selection.items() if words is None}
    return not _is_chosen(cell, Options(**first), [column.key for column in table.columns])


def _baselines(cells: list[PlannedCell]) -> list[PlannedCell]:
    """What stands beside the cells: the baselines of their kinds of run, each once."""
    baselines: dict[str, tuple[tuple[RunSpec, ...], list[Cell]]] = {}
    for planned in cells:
        if planned.later or not planned.specs:
            continue
        first = planned.specs[0]
        for rule in first.of.baselines:
            if rule == PIXELS and not pixels_fit(first.recipe, first.data):
                continue
            specs = tuple(runs.unique([baseline_spec(spec, rule) for spec in planned.specs]))
            baselines.setdefault(specs[0].id, (specs, []))[1].append(planned.cell)
    beside = [
        PlannedCell(_baseline_cell(of, specs[0].rule), specs, True)
        for specs, of in baselines.values()
    ]
    return sorted(beside, key=lambda planned: planned.specs[0].rule == PIXELS)


def baseline_spec(spec: RunSpec, rule: str) -> RunSpec:
    """The run of a baseline, "untrained" or "pixels", that a run is compared with."""
    if rule == PIXELS:
        return pixels_spec(spec.recipe, spec.data)
    return probe_spec(spec.recipe, rule, spec.network, seed=spec.seed, data=spec.data)


def _baseline_cell(cells: Sequence[Cell], rule: str) -> Cell:
    """A row of our own: the method, or else the first label, of the cells' first row replaced."""
    row, column = cells[0].row, cells[0].column
    labels = dict.fromkeys(row.labels, "")
    labels |= {k: v for k, v in row.labels.items() if k == "network" and rule == UNTRAINED}
    said = "method" if "method" in labels else next(iter(labels))
    labels[said] = "untrained" if rule == UNTRAINED else "logistic regression on pixels"
    plain = {"cited": False, "source": "", "inferred": (), "published": {}, "added": False}
    row = replace(row, labels=labels, **plain)
    # Our columns beside a printed one (best beside last) are measured by the same run.
    named = [cell for cell in cells if cell.inside] or cells
    label = " / ".join(dict.fromkeys(cell.column.label for cell in named))
    column = replace(column, label=label)
    return replace(cells[0], row=row, column=column, published=None, fill=None)
