"""What the page needs of `run.json`, and of which type."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from stress.runfile import RunFileError, load_run

Cell = str | float | bool | None

#: The largest number that is taken for one.
_LARGEST = 1e300


@dataclass(frozen=True)
class Judged:
    """The verdict on one signal, as recorded; see `stress.verdict.Judgement`."""

    signal: str
    verdict: str
    reason: str = ""
    figure: float | None = None
    low: float | None = None
    high: float | None = None
    budget: float | None = None


@dataclass(frozen=True)
class LegTable:
    """A table that a leg reported."""

    columns: list[str]
    rows: list[list[Cell]]

    def column(self, number: int) -> list[Cell]:
        """Return a column's cells; a row that is too short has none there."""
        return [row[number] for row in self.rows if number < len(row)]


@dataclass(frozen=True)
class LegResult:
    """What came out of one leg, as recorded; see `stress.judging.LegReport`."""

    scenario: str
    leg: str
    verdict: str
    status: str
    reason: str = ""
    expected: str | None = None
    named: list[str] = field(default_factory=list)
    judgements: list[Judged] = field(default_factory=list)
    series: dict[str, list[float | None]] = field(default_factory=dict)
    leaks: list[dict[str, Any]] = field(default_factory=list)
    table: LegTable | None = None


@dataclass(frozen=True)
class RunResult:
    """A run, as recorded; see `stress.record.Record`."""

    status: str
    reason: str
    started: str
    command: str
    seconds: float
    seed: int
    scenarios: list[str]
    legs: list[str]
    results: list[LegResult]
    interrupted: bool = False
    versions: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    workers: list[dict[str, Any]] = field(default_factory=list)


def read_run(path: str) -> RunResult:
    """Read the record of a run; a number that is not finite is a sample that is missing.

    Raises:
        RunFileError: If there is none, or none that can be read.
    """
    try:
        return msgspec.convert(_finite(load_run(path)), type=RunResult)
    except msgspec.ValidationError as error:
        raise RunFileError(
            f"{path!r} is not the record of a run: {error}; give the run.json that a run has printed"
        ) from None


def _finite(content: Any) -> Any:
    """Put None for every number that is not finite, or so large that sums of it would not be."""
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_finite(value) for value in content]
    is_number = isinstance(content, (int, float))
    return None if is_number and not abs(content) <= _LARGEST else content
