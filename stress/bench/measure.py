"""Timing: rounds that take turns, medians, and the row of the table they make.

Many short rounds, timed by what this thread used of the processor: on a busy machine the median
of two equal contestants then differs by less than one percent, where a few long rounds timed by
the clock on the wall differ by ten.
"""

from __future__ import annotations

import gc
import time
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROUNDS = 200


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        workload: What was measured.
        base: The cost it is compared with, in nanoseconds: bare rocksdict's, unless the workload says otherwise.
        cost: The cost with saferocks, in nanoseconds.
        figure: What the budget is about.
        unit: The unit of the figure: `x` for a ratio, `us` or `bytes`.
        budget: The most that it may be.
    """

    workload: str
    base: float | None
    cost: float | None
    figure: float
    unit: str
    budget: float

    @property
    def is_over(self) -> bool:
        """Whether the figure is over its budget."""
        return self.figure > self.budget


@dataclass(frozen=True)
class Pair:
    """Median costs of the two contestants, in nanoseconds for each operation."""

    base: float
    cost: float

    def ratio(self, workload: str, budget: float) -> Row:
        """Return a row that compares the costs as a ratio."""
        return Row(workload, self.base, self.cost, self.cost / self.base, "x", budget)

    def difference(self, workload: str, budget: float) -> Row:
        """Return a row that compares the costs as a difference in microseconds."""
        return Row(workload, self.base, self.cost, (self.cost - self.base) / 1000, "us", budget)


def compare(base: Callable[[], object], cost: Callable[[], object], operations: int, rounds: int = ROUNDS) -> Pair:
    """Time two contestants in rounds that take turns.

    Args:
        base: Carries out the operations on what is compared with.
        cost: Carries out the same on saferocks.
        operations: How many operations one call carries out.
        rounds: How often each is timed, after one round that is not.

    Returns:
        The medians, in nanoseconds for each operation.
    """
    times: tuple[list[float], list[float]] = ([], [])
    base()
    cost()
    with collector_paused():
        for number in range(rounds):
            for contestant in (0, 1) if number % 2 else (1, 0):
                times[contestant].append(processor_seconds(cost if contestant else base))
    return Pair(*(median(each) * 1e9 / operations for each in times))


def processor_seconds(action: Callable[[], object]) -> float:
    """Return how much of the processor an action takes in this thread."""
    start = time.thread_time()
    action()
    return time.thread_time() - start


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep the cyclic collector out of the figures, as timeit does."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
