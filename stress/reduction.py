"""From a series of any length to the little that a verdict needs of it.

A night has thousands of samples of each signal, and the harness is to need no more memory for it
than for a minute. So the samples go by one at a time: the warm-up is dropped, the rest is cut into
blocks, and of each block the lowest sample and the median of some stay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

WARM_UP = 0.25
MIN_BLOCKS, MAX_BLOCKS = 12, 48
#: Samples to a block, once there are enough for more than the fewest blocks.
_SAMPLES_PER_BLOCK = 8
#: The most samples of a block that its median is taken of; they are spread evenly over it.
_FOR_MEDIAN = 16


@dataclass(frozen=True)
class Measured:
    """What is kept of a signal after the warm-up; its size does not depend on the length of the run.

    Attributes:
        count: How many samples there were.
        span: The seconds from the first of them to the last.
        missing: How many of them are not numbers.
        has_zero: Whether one of them reads 0.
        highest: The highest of them.
        floor_times: The times of the blocks' lowest samples.
        floor: The blocks' lowest samples.
        medians: The blocks' medians.
    """

    count: int
    span: float
    missing: int
    has_zero: bool
    highest: float
    floor_times: tuple[float, ...]
    floor: tuple[float, ...]
    medians: tuple[float, ...]


def warm_up_end(first: float, last: float) -> float:
    """Return the time at which the warm-up of a run that was sampled from `first` to `last` is over."""
    return first + WARM_UP * (last - first)


def count_blocks(samples: int) -> int:
    """Return how many blocks to cut so many samples into."""
    return max(MIN_BLOCKS, min(MAX_BLOCKS, samples // _SAMPLES_PER_BLOCK))


def edges(samples: int, parts: int) -> list[int]:
    """Return where each of the parts ends when samples are cut into parts of nearly equal length."""
    return [round(index * samples / parts) for index in range(1, parts + 1)]


class Reducer:
    """Takes the samples of one signal, in the order of time, and keeps what is to be kept.

    Args:
        samples: How many there will be.
        blocks: How many blocks to cut them into; by default as many as they are enough for.
    """

    def __init__(self, samples: int, blocks: int | None = None) -> None:
        parts = blocks or max(1, min(samples, count_blocks(samples)))
        self._ends = edges(samples, parts)
        self._stride = -(-samples // parts // _FOR_MEDIAN) or 1
        self._block: list[float] = []
        self._lowest: tuple[float, float] | None = None
        self._floor: list[tuple[float, float]] = []
        self._medians: list[float] = []
        self._times: tuple[float, float] | None = None
        self._count = self._missing = 0
        self._highest = -math.inf
        self._has_zero = False

    def add(self, time: float, value: float) -> None:
        """Take the next sample; one that is not a number only counts as missing."""
        self._times = (time if self._times is None else self._times[0], time)
        if math.isfinite(value):
            self._take(time, value)
        else:
            self._missing += 1
        self._count += 1
        if self._count == self._ends[0]:
            self._end_block()

    def _take(self, time: float, value: float) -> None:
        if self._lowest is None or value < self._lowest[1]:  # the earliest, where several are lowest
            self._lowest = (time, value)
        self._highest = max(self._highest, value)
        self._has_zero = self._has_zero or not value
        if self._count % self._stride == 0:
            self._block.append(value)

    def _end_block(self) -> None:
        del self._ends[0]
        if self._lowest is not None:
            self._floor.append(self._lowest)
            self._medians.append(median(self._block or [self._lowest[1]]))
        self._lowest = None
        self._block.clear()

    def result(self) -> Measured:
        """Return what was kept."""
        first, last = self._times or (0.0, 0.0)
        return Measured(
            self._count,
            last - first,
            self._missing,
            self._has_zero,
            self._highest,
            tuple(time for time, _ in self._floor),
            tuple(value for _, value in self._floor),
            tuple(self._medians),
        )


def after_warm_up(times: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Drop the samples of the first quarter of the time."""
    if not times:
        return [], []
    start = warm_up_end(times[0], times[-1])
    kept = [(time, value) for time, value in zip(times, values, strict=True) if time >= start]
    return [time for time, _ in kept], [value for _, value in kept]


def block_minima(
    times: Sequence[float], values: Sequence[float], blocks: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Cut a series into blocks of nearly equal length and keep the lowest sample of each.

    Args:
        times: The times of the samples, ascending.
        values: Their values.
        blocks: How many blocks; at most one for each sample.

    Returns:
        The times and the values of the lowest samples; the earliest one where several are lowest.
    """
    found = _reduced(times, values, blocks)
    return found.floor_times, found.floor


def measure(times: Sequence[float], values: Sequence[float]) -> Measured:
    """Reduce a whole series: drop its warm-up and keep what a verdict needs of the rest."""
    return _reduced(*after_warm_up(times, values))


def _reduced(times: Sequence[float], values: Sequence[float], blocks: int | None = None) -> Measured:
    reducer = Reducer(len(values), blocks)
    for time, value in zip(times, values, strict=True):
        reducer.add(time, value)
    return reducer.result()
