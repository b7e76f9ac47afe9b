"""What a published table is made of: columns, rows, and cells with what fills them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from string import Formatter
from typing import Any, Literal

from locbench.errors import UserError
from locbench.published.claims import Claim, Key
from locbench.recipes.reading import NotNegative, merge

ON_A_GPU = ("gpu",)  # evaluations that need one
# Evaluations that stand beside published numbers alone: a stage of one network may not be there
# in another, and not every rule has a published time.
BESIDE_PRINT = ("count", *ON_A_GPU)


@dataclass(frozen=True)
class Published:
    """What is in print; `ours` where the paper leaves it to the reader and we computed it."""

    value: float | str
    std: float | None = None
    n: int | None = None  # runs behind value and std; None where the paper does not say
    ours: bool = False


@dataclass(frozen=True)
class Column:
    """One column; a tolerance is in the column's unit, or in percent of the published value."""

    key: str
    label: str
    metric: str  # the name of the figure in a record; {label} is the row's
    unit: str = ""
    decimals: int = 0
    tolerance: NotNegative | None = None
    higher_is_better: bool | None = None
    ours: bool = False  # the paper has no such column
    fill: dict[str, Any] = field(default_factory=dict)
    tolerance_percent: NotNegative | None = None
    beside: str = ""  # the column whose printed cells this one, of ours, stands beside
    epoch: Literal["last", "best"] = "last"  # whose figure it is
    best: bool = False  # whether a column of the best epoch stands beside it
    # Its runs are of one of the GPUs that print sums over; other rows have no such cell. A "sum" is
    # so many times the figure, a share stays the "same".
    each_gpu: Literal["", "sum", "same"] = ""

    def of_best_epoch(self) -> Column:
        """The column of ours that shows the best epoch beside this one, which shows the last."""
        names = {"key": f"{self.key}_best", "label": f"{self.label}, best epoch"}
        mine = {"ours": True, "beside": self.key, "epoch": "best", "best": False}
        return replace(self, **names, **mine, tolerance=None, tolerance_percent=None)

    @property
    def filled_as(self) -> str:
        """The key of the column that has the same runs: of the best epoch's, that of the last's."""
        return self.beside if self.epoch == "best" else self.key

    def names(self) -> set[str]:
        """The labels of a row that its metric has in braces."""
        return {name for _, name, _, _ in Formatter().parse(self.metric) if name}


@dataclass(frozen=True)
class Row:
    """One row; `inferred` are the labels (or columns) that are our reading, with `reasons`."""

    labels: dict[str, str | int | float]  # a label without a value in this row stays away
    cited: bool
    source: str  # where a cited row, or one from outside the printed table, comes from
    inferred: tuple[str, ...]
    fill: dict[str, Any]
    published: dict[str, Published]
    index: int = 0
    reasons: dict[str, str] = field(default_factory=dict)
    sets: dict[str, dict[str, Any]] = field(default_factory=dict)  # of single cells, by column
    added: bool = False  # of a rule that the paper has not: see `locbench.published.rule_rows`


@dataclass(frozen=True)
class Cell:
    """One number of a table; `fill` is the run that gives it, None where nothing here does."""

    table: str
    row: Row
    column: Column
    published: Published | None
    fill: dict[str, Any] | None
    ours: bool = False  # of a table of ours, which has a place for what nobody published

    @property
    def inside(self) -> bool:
        """Whether it stands in the table itself; what has no place in print is shown beside it."""
        if self.row.added:
            return self.ours or not self.column.ours
        return self.ours or self.published is not None or self.row.cited

    @property
    def key(self) -> Key:
        """What claims call this cell: row index and column key."""
        return self.row.index, self.column.key

    @property
    def gpus(self) -> int:
        """How many GPUs print sums over."""
        return (self.fill or {}).get("gpus", 1)

    @property
    def metric(self) -> str:
        """The name of its figure in a record; UserError for a label that the row has not."""
        names = {**self.row.labels, **(self.fill or {})}
        try:
            return self.column.metric.format_map(names)
        except KeyError as error:
            key = f"column '{self.column.key}' of {self.table}: metric '{self.column.metric}'"
            raise UserError(f"{key}: row {self.row.index + 1} has no {error}") from None

    @property
    def tolerance(self) -> float | None:
        """The tolerance of this cell in the column's unit, a percentage worked out."""
        percent, published = self.column.tolerance_percent, self.published
        if percent is None or published is None or isinstance(published.value, str):
            return self.column.tolerance
        return abs(published.value) * percent / 100


@dataclass(frozen=True)
class Table:
    """A published table in the order of the paper, or one of ours, which has no number."""

    name: str  # "loco/table1"
    paper: str
    number: int | None
    title: str
    source: str
    caption: str
    notes: tuple[str, ...]
    label_names: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...] = ()
    fill: dict[str, Any] = field(default_factory=dict)
    smoke: dict[str, str] = field(default_factory=dict)  # rows and columns run there unless asked

    def cells(self) -> Iterator[Cell]:
        """The cells row by row: those with a published value, or that a run can fill.

        Some columns and evaluations (BESIDE_PRINT) stand beside published numbers alone.
        """
        for row in self.rows:
            for column in self.columns:
                published, fill = row.published.get(column.key), self._fill(row, column)
                if published is not None or (fill is not None and _shown(row, column, fill)):
                    yield Cell(self.name, row, column, published, fill, self.number is None)

    def values(self, of: str = "mean") -> dict[Key, float]:
        """The published numbers, as claims take them, or their variances; without cells of text."""
        published = ((cell.key, cell.published) for cell in self.cells())
        numbers = {k: p for k, p in published if p and not isinstance(p.value, str)}
        if of == "variance":
            return {k: p.std**2 for k, p in numbers.items() if p.std is not None}
        return {k: p.value for k, p in numbers.items()}

    def _fill(self, row: Row, column: Column) -> dict[str, Any] | None:
        # A row says that it can be filled; the table and the column only say how.
        if row.cited or not row.fill:
            return None
        sets = {"set": row.sets[column.filled_as]} if column.filled_as in row.sets else {}
        fill = merge(merge(merge(self.fill, column.fill), row.fill), sets)
        lacks = column.names() - {*row.labels, *fill}  # a stage, say, which other rules have not
        return None if row.added and (sets_rule(fill) or lacks) else fill


def sets_rule(fill: dict[str, Any]) -> bool:
    """Whether a fill sets something of a rule, which another rule has not."""
    return any(key.startswith("rule.") for key in fill.get("set", {}))


def _shown(row: Row, column: Column, fill: dict[str, Any]) -> bool:
    """Whether a cell that nobody published is one of the table."""
    evaluation = fill.get("evaluation")
    if column.each_gpu and "gpus" not in fill:
        return False
    if row.added:
        return evaluation not in ON_A_GPU
    if column.beside:
        return column.beside in row.published
    return evaluation not in BESIDE_PRINT
