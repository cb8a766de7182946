"""What a benchmark has found: rows of figures, with what each may be at most."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

#: The version of the file; it goes up whenever a reader of the old one would be misled.
FORMAT = 1


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        workload: What was measured: a name that `--only` takes.
        detail: On what: where the rows are, how many threads, how many handles are open.
        figure: What the budget is about: a median over the rounds.
        unit: The unit of the figure: `x` for a ratio, `us`, `ms` or `bytes`.
        low: The lower quartile of the figure.
        high: Its upper quartile.
        budget: The most that it may be; None if it is shown and not judged.
        goal: What it should come to.
        costs: The median cost for each column, in nanoseconds for each operation.
        ratios: For each column the median of its ratios to bare rocksdict.
        base: The column that the figure compares with.
        judged: The column that the figure is about.
    """

    workload: str
    detail: str
    figure: float
    unit: str
    low: float
    high: float
    budget: float | None = None
    goal: float | None = None
    costs: dict[str, float] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    base: str = "bare"
    judged: str = "saferocks"

    @property
    def name(self) -> str:
        """What the row is called, in tables and in comparisons."""
        return f"{self.workload}, {self.detail}" if self.detail else self.workload

    @property
    def is_over(self) -> bool:
        """Whether the figure is over its budget."""
        return self.budget is not None and self.figure > self.budget


@dataclass(frozen=True)
class Call:
    """A call of bare rocksdict, and whether other threads run meanwhile.

    Attributes:
        name: The call.
        releases: Whether it lets go of the interpreter lock.
        turns: How often another thread had its turn during the calls.
        calls: How many calls that were.
    """

    name: str
    releases: bool
    turns: int
    calls: int


@dataclass(frozen=True)
class Record:
    """A benchmark, as `--json` writes it.

    Attributes:
        format: The version of the file.
        started: When it began, in UTC.
        command: The command that repeats it.
        interrupted: Whether it was ended early.
        rounds: How many rounds each figure is the median of.
        rows: How many rows the databases have.
        versions: Of saferocks, rocksdict, Python and the other stores.
        machine: The processor, cores, memory, system and allocator.
        figures: The rows of the table.
        calls: Which calls let go of the interpreter lock.
    """

    format: int
    started: str
    command: str
    interrupted: bool
    rounds: int
    rows: int
    versions: dict[str, str]
    machine: dict[str, Any]
    figures: list[Row]
    calls: list[Call]

    @property
    def over(self) -> list[Row]:
        """The rows that are over their budgets."""
        return [row for row in self.figures if row.is_over]
