"""From a series of samples to a verdict.

A straight line through raw samples is fooled by sawtooth and stairs, which is what a healthy
RocksDB looks like: memtables fill and are flushed, caches fill once. So the warm-up is dropped,
the rest is cut into blocks, and the lowest sample of each block is kept (`stress.reduction`):
memory that really leaks raises the floor as well. The slope through the floor is Theil-Sen's,
which outliers do not bend, and a verdict needs the whole confidence interval on one side of the
budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from statistics import median
from typing import TYPE_CHECKING, Any

from stress.reduction import MIN_BLOCKS

if TYPE_CHECKING:
    from stress.reduction import Measured

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


@dataclass(frozen=True)
class Rise:
    """How much the floor of a signal rises over the measured part, in units of the signal.

    The line is laid through the samples by their numbers, not by their times: in one of a few seconds in
    which the machine stood still for some, the times are two heaps, far apart, and a slope within either,
    taken for the whole, is many times what there was.

    Attributes:
        middle: By Theil-Sen's slope.
        low: Lower end of its confidence interval.
        high: Upper end of it.
    """

    middle: float
    low: float
    high: float


def rise(measured: Measured) -> Rise:
    """Return how much a signal's floor rises from the first sample to the last; it must have two points."""
    from scipy.stats import theilslopes  # starts threads, which a process that forks the rounds of faults has none of

    fit: Any = theilslopes(measured.floor, measured.floor_at, alpha=_CONFIDENCE)
    steps = measured.count - 1
    return Rise(float(fit.slope) * steps, float(fit.low_slope) * steps, float(fit.high_slope) * steps)


def _unfit(signal: str, measured: Measured) -> Judgement | None:
    """Say why a series cannot be judged, or None if it can be."""
    if measured.missing:
        return Judgement(signal, Verdict.INCONCLUSIVE, "some samples are missing")
    if measured.count < MIN_BLOCKS or measured.span <= 0:
        few = f"{measured.count} samples after the warm-up; {MIN_BLOCKS} blocks need more, so run for longer"
        return Judgement(signal, Verdict.INCONCLUSIVE, few)
    return None


def judge_growth(signal: str, measured: Measured, budget: float) -> Judgement:
    """Judge whether a noisy signal grows.

    Args:
        signal: Its name.
        measured: What was measured of it.
        budget: How much it may grow from the end of the warm-up to the last sample. A leak of any
            rate exceeds it in a run that is long enough.

    Returns:
        FAIL if the whole confidence interval of the growth is above the budget, PASS if it is
        below, INCONCLUSIVE otherwise.
    """
    unfit = _unfit(signal, measured)
    if unfit is not None:
        return unfit
    found = rise(measured)
    verdict, reason = _compare(found.low, found.high, budget)
    return Judgement(signal, verdict, reason, found.middle, found.low, found.high, budget)


def _compare(low: float, high: float, budget: float) -> tuple[Verdict, str]:
    if low > budget:
        return Verdict.FAIL, "it grows: the whole confidence interval is above the budget"
    if high <= budget:
        return Verdict.PASS, "its growth stays within the budget"
    return Verdict.INCONCLUSIVE, "the confidence interval covers the budget; run for longer"


def judge_heap(measured: Measured, budget: float) -> Judgement:
    """Judge the C heap, which cannot be judged at all under another allocator than glibc's."""
    if measured.has_zero:
        return Judgement("heap", Verdict.INCONCLUSIVE, "heap_info reads 0: another allocator is in place of glibc's")
    return judge_growth("heap", measured, budget)


def judge_exact(signal: str, measured: Measured, limit: float, *, floor: bool = False) -> Judgement:
    """Judge a signal that RocksDB or the registry knows exactly.

    Args:
        signal: Its name.
        measured: What was measured of it, each sample after a collection.
        limit: The most that a healthy leg has.
        floor: Judge the lowest sample of each block instead of each sample, because background
            threads hold some of it for a moment.
    """
    unfit = _unfit(signal, measured)
    if unfit is not None:
        return unfit
    most = max(measured.floor) if floor else measured.highest
    if most > limit:
        return Judgement(signal, Verdict.FAIL, f"{most:g} where {limit:g} is the most", most, most, most, limit)
    return Judgement(signal, Verdict.PASS, "never above its limit", most, most, most, limit)


def judge_usual(signal: str, measured: Measured, limit: float) -> Judgement:
    """Judge how long something takes as a rule, whatever a busy machine makes of it now and then.

    Args:
        signal: Its name.
        measured: What was measured of it.
        limit: The most that the median of the blocks' lowest samples may be; well above what a
            healthy leg has, because it is a time.
    """
    unfit = _unfit(signal, measured)
    if unfit is not None:
        return unfit
    usual = median(measured.floor)
    if usual > limit:
        return Judgement(
            signal, Verdict.FAIL, f"{usual:g} as a rule where {limit:g} is the most", usual, usual, usual, limit
        )
    return Judgement(signal, Verdict.PASS, "within its limit as a rule", usual, usual, usual, limit)
