"""From a series of any length to the little that a verdict needs of it.

A night has thousands of samples of each signal, and the harness is to need no more memory for it
than for a minute. So the samples go by one at a time: the warm-up is dropped, the rest is cut into
blocks, and of each block the lowest sample and the median of some stay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")

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
        span: The seconds from the first of them to the last, for those who reckon per hour.
        missing: How many of them are not numbers.
        has_zero: Whether one of them reads 0.
        highest: The highest of them.
        floor_at: Where the blocks' lowest samples are, counted in samples.
        floor: The blocks' lowest samples.
        medians: The blocks' medians.
    """

    count: int
    span: float
    missing: int
    has_zero: bool
    highest: float
    floor_at: tuple[int, ...]
    floor: tuple[float, ...]
    medians: tuple[float, ...]


def warm_up_samples(samples: int) -> int:
    """Return how many of so many samples are the warm-up.

    It is not a part of the time: a machine that stands still for seconds makes the time before or after it
    next to nothing, and not the samples.
    """
    return math.ceil(WARM_UP * samples)


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
        self._lowest: tuple[int, float] | None = None
        self._floor: list[tuple[int, float]] = []
        self._medians: list[float] = []
        self._times: tuple[float, float] | None = None
        self._count = self._missing = 0
        self._highest = -math.inf
        self._has_zero = False

    def add(self, time: float, value: float) -> None:
        """Take the next sample; one that is not a number only counts as missing."""
        self._times = (time if self._times is None else self._times[0], time)
        if math.isfinite(value):
            self._take(value)
        else:
            self._missing += 1
        self._count += 1
        if self._count == self._ends[0]:
            self._end_block()

    def _take(self, value: float) -> None:
        if self._lowest is None or value < self._lowest[1]:  # the earliest, where several are lowest
            self._lowest = (self._count, value)
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
            tuple(number for number, _ in self._floor),
            tuple(value for _, value in self._floor),
            tuple(self._medians),
        )


def after_warm_up(values: Sequence[T]) -> Sequence[T]:
    """Drop the first quarter of the samples."""
    return values[warm_up_samples(len(values)) :]


def block_minima(values: Sequence[float], blocks: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Cut a series into blocks of nearly equal length and keep the lowest sample of each.

    Args:
        values: The samples, in the order of time.
        blocks: How many blocks; at most one for each sample.

    Returns:
        Where the lowest samples are, and they; the earliest one where several are lowest.
    """
    found = _reduced(range(len(values)), values, blocks)
    return found.floor_at, found.floor


def measure(times: Sequence[float], values: Sequence[float]) -> Measured:
    """Reduce a whole series: drop its warm-up and keep what a verdict needs of the rest."""
    return _reduced(after_warm_up(times), after_warm_up(values))


def _reduced(times: Sequence[float], values: Sequence[float], blocks: int | None = None) -> Measured:
    reducer = Reducer(len(values), blocks)
    for time, value in zip(times, values, strict=True):
        reducer.add(time, value)
    return reducer.result()
