"""From a series of samples to a verdict.

A straight line through raw samples is fooled by sawtooth and stairs, which is what a healthy
RocksDB looks like: memtables fill and are flushed, caches fill once. So the warm-up is dropped,
the rest is cut into blocks, and the lowest sample of each block is kept: memory that really
leaks raises the floor as well. The slope through the floor is Theil-Sen's, which outliers do
not bend, and a verdict needs the whole confidence interval on one side of the budget.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from scipy.stats import theilslopes

if TYPE_CHECKING:
    from collections.abc import Sequence

WARM_UP = 0.25
MIN_BLOCKS, MAX_BLOCKS = 12, 48
#: Samples to a block, once there are enough for more than the fewest blocks.
_SAMPLES_PER_BLOCK = 8
_CONFIDENCE = 0.95


class Verdict(Enum):
    """What a series, a leg or a run comes out as."""

    PASS = "pass"  # noqa: S105 - not a password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Judgement:
    """The verdict on one signal of one leg.

    Attributes:
        signal: The name of the signal.
        verdict: What it comes out as.
        reason: Why, in one sentence.
        figure: What was judged: the highest value of an exact signal, the growth of another.
        low: Lower end of the growth's confidence interval; the figure itself for an exact signal.
        high: Upper end of it.
        budget: The most that is allowed.
    """

    signal: str
    verdict: Verdict
    reason: str
    figure: float = 0.0
    low: float = 0.0
    high: float = 0.0
    budget: float = 0.0


def after_warm_up(times: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Drop the samples of the first quarter of the time."""
    if not times:
        return [], []
    start = times[0] + WARM_UP * (times[-1] - times[0])
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
    edges = [round(index * len(values) / blocks) for index in range(blocks + 1)]
    lowest = [min(range(start, end), key=values.__getitem__) for start, end in pairwise(edges)]
    return tuple(times[index] for index in lowest), tuple(values[index] for index in lowest)


def count_blocks(samples: int) -> int:
    """Return how many blocks to cut so many samples into."""
    return max(MIN_BLOCKS, min(MAX_BLOCKS, samples // _SAMPLES_PER_BLOCK))


def _unfit(signal: str, times: Sequence[float], values: Sequence[float]) -> Judgement | None:
    """Say why a series cannot be judged, or None if it can be."""
    if not all(math.isfinite(value) for value in values):
        return Judgement(signal, Verdict.INCONCLUSIVE, "some samples are missing")
    if len(values) < MIN_BLOCKS or times[-1] <= times[0]:
        few = f"{len(values)} samples after the warm-up; {MIN_BLOCKS} blocks need more, so run for longer"
        return Judgement(signal, Verdict.INCONCLUSIVE, few)
    return None


def judge_growth(signal: str, times: Sequence[float], values: Sequence[float], budget: float) -> Judgement:
    """Judge whether a noisy signal grows.

    Args:
        signal: Its name.
        times: When it was sampled, in seconds, ascending.
        values: The samples.
        budget: How much it may grow from the end of the warm-up to the last sample. A leak of any
            rate exceeds it in a run that is long enough.

    Returns:
        FAIL if the whole confidence interval of the growth is above the budget, PASS if it is
        below, INCONCLUSIVE otherwise.
    """
    kept_times, kept = after_warm_up(times, values)
    unfit = _unfit(signal, kept_times, kept)
    if unfit is not None:
        return unfit
    floor_times, floor = block_minima(kept_times, kept, count_blocks(len(kept)))
    fit: Any = theilslopes(floor, floor_times, alpha=_CONFIDENCE)
    span = kept_times[-1] - kept_times[0]
    growth, least, most = (float(slope) * span for slope in (fit.slope, fit.low_slope, fit.high_slope))
    verdict, reason = _compare(least, most, budget)
    return Judgement(signal, verdict, reason, growth, least, most, budget)


def _compare(low: float, high: float, budget: float) -> tuple[Verdict, str]:
    if low > budget:
        return Verdict.FAIL, "it grows: the whole confidence interval is above the budget"
    if high <= budget:
        return Verdict.PASS, "its growth stays within the budget"
    return Verdict.INCONCLUSIVE, "the confidence interval covers the budget; run for longer"


def judge_heap(times: Sequence[float], values: Sequence[float], budget: float) -> Judgement:
    """Judge the C heap, which cannot be judged at all under another allocator than glibc's."""
    if not all(values):
        return Judgement("heap", Verdict.INCONCLUSIVE, "heap_info reads 0: another allocator is in place of glibc's")
    return judge_growth("heap", times, values, budget)


def judge_exact(
    signal: str, times: Sequence[float], values: Sequence[float], limit: float, *, floor: bool = False
) -> Judgement:
    """Judge a signal that RocksDB or the registry knows exactly.

    Args:
        signal: Its name.
        times: When it was sampled.
        values: The samples, each taken after a collection.
        limit: The most that a healthy leg has.
        floor: Judge the lowest sample of each block instead of each sample, because background
            threads hold some of it for a moment.
    """
    kept_times, kept = after_warm_up(times, values)
    unfit = _unfit(signal, kept_times, kept)
    if unfit is not None:
        return unfit
    judged = block_minima(kept_times, kept, count_blocks(len(kept)))[1] if floor else kept
    most = max(judged)
    if most > limit:
        return Judgement(signal, Verdict.FAIL, f"{most:g} where {limit:g} is the most", most, most, most, limit)
    return Judgement(signal, Verdict.PASS, "never above its limit", most, most, most, limit)
