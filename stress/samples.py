"""Reads back what a leg has streamed to its file, in memory that does not grow with the file."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stress.reduction import Measured, Reducer, edges, measure, warm_up_samples

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: The most points that are kept of a series to be shown; the file beside the record has them all.
MOST_POINTS = 600
_TAIL_BYTES = 8192


@dataclass(frozen=True)
class LegData:
    """Everything a leg has reported.

    Attributes:
        series: The samples, by signal; `time` is one of them. Long series are thinned, see `Thinner`.
        leaks: What the guard said, by line; `reports` says how often, `count` of how many handles in all.
        table: What a scenario has to show besides its curves.
        reduced: What was measured of each signal, from all samples.
        cut: How many rounds the leg came through, `rounds`, `of` so many, if it ended before it had them.
    """

    series: dict[str, list[float]]
    leaks: tuple[dict[str, Any], ...]
    table: dict[str, Any] | None = None
    reduced: Mapping[str, Measured] = field(default_factory=dict, compare=False)
    cut: dict[str, int] | None = None

    @property
    def named(self) -> tuple[str, ...]:
        """The opening lines that the guard's warnings named, each once."""
        lines = (leak["opened_at"] for leak in self.leaks if leak["source"] == "warning")
        return tuple(dict.fromkeys(lines))

    def measured(self, signal: str) -> Measured:
        """Return what was measured of a signal after the warm-up."""
        if signal in self.reduced:
            return self.reduced[signal]
        times = self.series.get("time", [])
        return measure(times, self.series.get(signal, [math.nan] * len(times)))


class Thinner:
    """Keeps the lowest and the highest sample of each stretch of a long series, and all of a short one.

    All signals share one axis of time: a stretch gives two points, at its first and at its last
    sample's time, with the extremes in the order in which they came.

    Args:
        samples: How many there will be.
    """

    def __init__(self, samples: int) -> None:
        self._ends = edges(samples, samples if samples <= MOST_POINTS else MOST_POINTS // 2)
        self._thins = samples > MOST_POINTS
        self._stretch: dict[str, tuple[float, float, bool]] = {}
        self._taken = 0
        self.series: dict[str, list[float]] = {}

    def add(self, sample: dict[str, float]) -> None:
        """Take the next sample, which has every signal."""
        for name, value in sample.items():
            self._stretch[name] = self._widened(self._stretch.get(name), value)
        self._taken += 1
        if self._taken == self._ends[0]:
            self._end_stretch()

    @staticmethod
    def _widened(extremes: tuple[float, float, bool] | None, value: float) -> tuple[float, float, bool]:
        """Return the lowest, the highest and whether the highest came last, with one more value."""
        if extremes is None or math.isnan(extremes[0]):
            return value, value, True
        low, high, rising = extremes
        if value > high:
            return low, value, True
        return (value, high, False) if value < low else (low, high, rising)

    def _end_stretch(self) -> None:
        del self._ends[0]
        for name, (low, high, rising) in self._stretch.items():
            points = ((low, high) if rising else (high, low)) if self._thins else (low,)
            self.series.setdefault(name, []).extend(points)
        self._stretch.clear()


@dataclass
class _Survey:
    """What a first look at a file finds."""

    names: tuple[str, ...] = ()
    count: int = 0
    leaks: dict[tuple[Any, ...], dict[str, Any]] = field(default_factory=dict)
    told: dict[tuple[Any, ...], int] = field(default_factory=dict)
    table: dict[str, Any] | None = None
    cut: dict[str, int] | None = None

    def look(self, content: dict[str, Any]) -> None:
        """Take note of a line."""
        if "sample" in content:
            self._look_at_sample(content["sample"])
        elif "leak" in content:
            self._look_at_leak(content["leak"])
        else:
            self.table = content.get("table", self.table)
            self.cut = content.get("cut", self.cut)

    def _look_at_sample(self, sample: dict[str, float]) -> None:
        if not self.count:
            self.names = tuple(sample)
        self.count += 1

    def _look_at_leak(self, leak: dict[str, Any]) -> None:
        """Keep the last of what was said of a line, how often it was, and of how many handles in all."""
        line = tuple(leak.get(name) for name in ("source", "event", "kind", "opened_at"))
        before = self.leaks.get(line, {})
        sums = {"count": before.get("count", 0) + self._fresh(line, leak["count"])} if "count" in leak else {}
        self.leaks[line] = {**leak, **sums, "reports": before.get("reports", 0) + 1}

    def _fresh(self, line: tuple[Any, ...], count: int) -> int:
        """Return how many handles of a line are new since it was last told of, each database counting from one."""
        told = self.told.get(line, 0)
        self.told[line] = count
        return count - told if count > told else count


def read_leg(file: str) -> LegData:
    """Read the file of a leg; one that never started has none, and no samples.

    The file is read twice, so that nothing of it has to be held: what there is, and then the samples.
    """
    survey = _Survey()
    for content in _lines(file):
        survey.look(content)
    start = warm_up_samples(survey.count)
    thinner = Thinner(survey.count)
    reducers = {name: Reducer(survey.count - start) for name in survey.names}
    for number, sample in enumerate(_samples(file)):
        thinner.add({name: sample.get(name, math.nan) for name in survey.names})
        if number >= start:
            for name, reducer in reducers.items():
                reducer.add(sample["time"], sample.get(name, math.nan))
    reduced = {name: reducer.result() for name, reducer in reducers.items()}
    return LegData(thinner.series, tuple(survey.leaks.values()), survey.table, reduced, survey.cut)


def _samples(file: str) -> Iterator[dict[str, float]]:
    return (content["sample"] for content in _lines(file) if "sample" in content)


def _lines(file: str) -> Iterator[dict[str, Any]]:
    """Yield what is in a file line by line; the last line of one that was cut off is left out."""
    if not os.path.exists(file):
        return
    with open(file, encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)


def latest_sample(file: str) -> dict[str, float]:
    """Return the last sample in a file that is being written, or nothing if there is none yet."""
    if not os.path.exists(file):
        return {}
    with open(file, "rb") as lines:
        lines.seek(max(0, os.path.getsize(file) - _TAIL_BYTES))
        tail = lines.read().split(b"\n")[:-1]
    for line in reversed(tail):
        if line.startswith(b'{"sample"'):
            sample: dict[str, float] = json.loads(line)["sample"]
            return sample
    return {}
