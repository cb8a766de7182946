"""Timing: contestants in one process, in rounds that take turns, and the medians of the rounds.

A round is as long as the clock and the caches need to settle, 20 ms or more, and each contestant runs once in each
of them, in an order that alternates. Ratios are taken within a round and only then is the median taken, so that a
machine that slows down for a while slows both sides of each ratio. The clock is what the thread used of the
processor: on a busy machine the median of two equal contestants then differs by less than one percent, where the
clock on the wall differs by ten. Only what runs in several threads goes by the wall.
"""

from __future__ import annotations

import gc
import math
import time
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    #: Carries out as many operations as it is told, on what has been made ready for it.
    Action = Callable[[Any], object]

#: The fastest contestant of a trial has to run at least this part of a round for its time to tell how many fit.
_TRIAL = 0.1
#: If another runs for so many rounds' time by then, a round is long enough: nobody waits for what does next to nothing.
_TOO_LONG = 10


@dataclass(frozen=True)
class Pace:
    """How often and for how long each contestant runs.

    Attributes:
        rounds: How many rounds count, after one that does not.
        seconds: How long a round is for the fastest contestant, at least.
    """

    rounds: int = 11
    seconds: float = 0.02


@dataclass(frozen=True)
class Figure:
    """A median over the rounds, with the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """Return the median and the quartiles of what the rounds gave."""
        ordered = sorted(values)
        last = len(ordered) - 1
        return cls(median(ordered), ordered[last // 4], ordered[math.ceil(last * 3 / 4)])


@dataclass(frozen=True)
class Times:
    """What a contest has measured.

    Attributes:
        seconds: For each contestant, the seconds of each round.
        operations: How many operations a round has.
    """

    seconds: Mapping[str, Sequence[float]]
    operations: int

    def cost(self, name: str) -> float:
        """Return a contestant's median cost, in nanoseconds for each operation."""
        return median(self.seconds[name]) * 1e9 / self.operations

    def ratio(self, name: str, base: str) -> Figure:
        """Return how many times as long as another a contestant takes."""
        return Figure.of([mine / theirs for mine, theirs in self._pairs(name, base)])

    def difference(self, name: str, base: str) -> Figure:
        """Return how much longer than another a contestant takes, in microseconds for each operation."""
        return Figure.of([(mine - theirs) * 1e6 / self.operations for mine, theirs in self._pairs(name, base)])

    def _pairs(self, name: str, base: str) -> Iterator[tuple[float, float]]:
        return zip(self.seconds[name], self.seconds[base], strict=True)


def contest(
    actions: Mapping[str, Action],
    prepare: Callable[[int], object],
    pace: Pace,
    *,
    operations: int | None = None,
    clock: Callable[[], float] = time.thread_time,
) -> Times:
    """Time contestants in rounds that take turns.

    Args:
        actions: The contestants by name; each gets what was made ready for the round.
        prepare: Makes ready so many operations; not timed, and the same for all contestants of a round.
        pace: How many rounds, and how long.
        operations: How many operations a round has; as many as make it long enough if left out.
        clock: What tells the time, in seconds.
    """
    if operations is None:
        operations = _operations(actions, prepare, pace, clock)
    times: dict[str, list[float]] = {name: [] for name in actions}
    with collector_paused():
        for number in range(-1, pace.rounds):
            ready = prepare(operations)
            for name in sorted(actions, reverse=bool(number % 2)):
                taken = _seconds(actions[name], ready, clock)
                if number >= 0:  # the first is for the caches
                    times[name].append(taken)
    return Times(times, operations)


def _operations(
    actions: Mapping[str, Action], prepare: Callable[[int], object], pace: Pace, clock: Callable[[], float]
) -> int:
    """Return how many operations the fastest contestant is busy with for as long as a round has to be."""
    count = 1
    while True:
        ready = prepare(count)
        taken = [_seconds(action, ready, clock) for action in actions.values()]
        fastest = min(taken)
        if max(taken) >= pace.seconds * _TOO_LONG:
            return count
        if fastest >= pace.seconds * _TRIAL:
            return math.ceil(count * max(1.0, pace.seconds / fastest))
        count *= 2


def _seconds(action: Action, ready: object, clock: Callable[[], float]) -> float:
    start = clock()
    action(ready)
    return clock() - start


def seconds_of(action: Callable[[], object]) -> float:
    """Return how much of the processor an action takes in this thread."""
    start = time.thread_time()
    action()
    return time.thread_time() - start


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep the cyclic collector out of the figures, as timeit does, and what is alive out of its sight."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
