"""What a published table is made of: columns, rows, and cells with what fills them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from locbench.errors import UserError
from locbench.published.claims import Key


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
    metric: str  # the name of the figure in a record; {label} and {convention} are the row's
    unit: str
    decimals: int
    tolerance: float | None = None
    higher_is_better: bool | None = None
    ours: bool = False  # the paper has no such column
    fill: dict[str, Any] = field(default_factory=dict)
    tolerance_percent: float | None = None
    beside: str = ""  # the column whose printed cells this one, of ours, stands beside


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
    further: bool = False  # of a rule that the paper has not: see `locbench.published.rule_rows`


@dataclass(frozen=True)
class Cell:
    """One number of a table; `fill` is the run that gives it, None where nothing here does."""

    table: str
    row: Row
    column: Column
    published: Published | None
    fill: dict[str, Any] | None
    own: bool = False  # of a table of ours, which has a place for what nobody published

    @property
    def inside(self) -> bool:
        """Whether it stands in the table itself; what has no place in print is shown beside it."""
        if self.row.further:
            return self.own or not self.column.ours
        return self.own or self.published is not None or self.row.cited

    @property
    def key(self) -> Key:
        """What claims call this cell: row index and column key."""
        return self.row.index, self.column.key

    @property
    def metric(self) -> str:
        """The name of its figure in a record; UserError for a label that the row has not."""
        known = {**self.row.labels, **(self.fill or {})}
        try:
            return self.column.metric.format_map(known)
        except KeyError as error:
            key = f"{self.table}: column '{self.column.key}': metric '{self.column.metric}'"
            raise UserError(f"{key}: row {self.row.index + 1} has no {error}") from None

    @property
    def tolerance(self) -> float | None:
        """The tolerance of this cell in the column's unit, a percentage worked out."""
        percent, published = self.column.tolerance_percent, self.published
        if percent is None or published is None or isinstance(published.value, str):
            return self.column.tolerance
        return abs(published.value) * percent / 100
