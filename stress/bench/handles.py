"""What handles cost by how many are open: each of them, its memory, a close with all of them, a report on them."""

from __future__ import annotations

import gc
import os
import tracemalloc
from statistics import median
from typing import TYPE_CHECKING

import saferocks
from stress import raw
from stress.bench.columns import Bare, Safe
from stress.bench.measure import Figure, collector_paused, contest, seconds_of
from stress.bench.record import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from saferocks import Scope, Snapshot
    from stress.bench.measure import Action, Pace, Times

NAMES = ("register", "memory", "close", "report")
_SCALE_BUDGET = 1.3
_BYTES_BUDGET = 600
_CLOSE_BUDGET_US = 10
#: A close that costs more for each of ten times as many is not linear.
_LINEAR_BUDGET = 1.3
_FEW = 1000
#: Handles are weighed in numbers up to this one: the instrument itself takes as much memory as they do.
_WEIGHED = 100_000
_CLOSES = 5
_REPORTS = 3


def measure(directory: str, names: tuple[str, ...], most: int, pace: Pace) -> Iterator[Row]:
    """Measure snapshots for point reads, the handles that cost least besides what saferocks adds.

    Args:
        directory: Where databases may be made.
        names: Which of the workloads to measure.
        most: How many handles are open at the most.
        pace: How many rounds, and how long.
    """
    if not set(names).isdisjoint(("register", "report")):
        bare = Bare(os.path.join(directory, "few"), b"v")
        column = Safe(os.path.join(directory, "many"), b"v")
        try:
            yield from _scale(bare, column, names, most, pace)
        finally:
            column.close()
            bare.close()
    if "memory" in names:
        yield from _memory(directory, most)
    if "close" in names:
        yield from _close(directory, max(most // 10, 10))


def _levels(most: int) -> list[int]:
    """Return how many handles are open: 1,000, and ten times as many again and again."""
    found = [min(_FEW, most)]
    while found[-1] * 10 <= most:
        found.append(found[-1] * 10)
    return found


def _scale(bare: Bare, column: Safe, names: tuple[str, ...], most: int, pace: Pace) -> Iterator[Row]:
    """Open and release beside more and more open handles, and beside fewer and fewer again.

    Between two numbers of handles the machine may have changed its pace, so that each is compared with bare handles
    of the same moment, beside which nothing is open.
    """
    levels = _levels(most)
    held: list[Scope[Snapshot]] = []
    times: dict[int, list[Times]] = {level: [] for level in levels}
    reported: list[float] = []
    with collector_paused():
        for level in (*levels, *reversed(levels)):
            _hold(column, held, level)
            if "register" in names:
                actions: dict[str, Action] = {"bare": bare.snapshots, "saferocks": column.snapshots}
                times[level].append(contest(actions, lambda count: [None] * count, pace))
            if level == levels[-1] and "report" in names and not reported:
                reported = [seconds_of(saferocks.dump) for _ in range(_REPORTS)]
        _hold(column, held, 0)
    if "register" in names:
        yield from _scaled(times)
    if "report" in names:
        figure = Figure.of([seconds * 1e3 for seconds in reported])
        yield Row("report", f"{levels[-1]:,} open", figure.median, "ms", figure.low, figure.high)


def _hold(column: Safe, held: list[Scope[Snapshot]], count: int) -> None:
    """Have so many handles open."""
    for _ in range(count - len(held)):
        scope = column.db.snapshot(point_reads_only=True)
        scope.__enter__()
        held.append(scope)
    while len(held) > count:
        held.pop().__exit__(None, None, None)


def _scaled(times: dict[int, list[Times]]) -> Iterator[Row]:
    """Yield how many times what it costs beside the fewest handles it costs beside more."""
    first = min(times)
    few = median(_ratios(times[first]))
    for level, contests in times.items():
        figure = Figure.of([ratio / few for ratio in _ratios(contests)])
        costs = {name: median(each.cost(name) for each in contests) for name in ("bare", "saferocks")}
        budget = None if level == first else _SCALE_BUDGET
        yield Row(
            "register",
            f"{level:,} open",
            figure.median,
            "x",
            figure.low,
            figure.high,
            budget,
            costs=costs,
            base=f"{first:,} open",
        )


def _ratios(contests: list[Times]) -> list[float]:
    """Return the ratios of saferocks to bare rocksdict in the rounds of several contests."""
    pairs = [zip(each.seconds["saferocks"], each.seconds["bare"], strict=True) for each in contests]
    return [mine / theirs for pair in pairs for mine, theirs in pair]


def _memory(directory: str, most: int) -> Iterator[Row]:
    """Weigh what Python allocates for a tracked snapshot, beyond what it does for a bare one."""
    with raw.open_plain(os.path.join(directory, "bare")) as bare:
        column = Safe(os.path.join(directory, "weighed"), b"v")
        try:
            for count in _levels(min(most, _WEIGHED)):
                untracked = _bytes_of(bare.snapshot, count)
                tracked = _bytes_of(lambda: column.db.snapshot(point_reads_only=True).__enter__(), count)
                weight = tracked - untracked
                yield Row("memory", f"{count:,} open", weight, "bytes", weight, weight, _BYTES_BUDGET)
        finally:
            column.close()


def _bytes_of(opener: Callable[[], object], count: int) -> float:
    kept: list[object] = [None] * count
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(count):
            kept[number] = opener()
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    for handle in kept:
        if isinstance(handle, saferocks.Snapshot):
            handle.__exit__(None, None, None)
    return used / count


def _close(directory: str, most: int) -> Iterator[Row]:
    """Close with many handles open, and with a tenth of them: each must cost the same."""
    taken: dict[int, list[float]] = {most // 10: [], most: []}
    for number in range(_CLOSES):
        for count, times in taken.items():
            times.append(_close_once(os.path.join(directory, f"close-{count}-{number}"), count) * 1e6)
    each = Figure.of(taken[most])
    costs = {"saferocks": each.median * 1e3}
    yield Row("close", f"{most:,} open", each.median, "us", each.low, each.high, _CLOSE_BUDGET_US, costs=costs)
    few = median(taken[most // 10])
    grown = Figure.of([time / few for time in taken[most]])
    detail = f"{most:,} against {most // 10:,}"
    yield Row("close", detail, grown.median, "x", grown.low, grown.high, _LINEAR_BUDGET, base=f"{most // 10:,} open")


def _close_once(path: str, handles: int) -> float:
    """Return the seconds that a close takes for each handle that is open."""
    database = saferocks.Rdict(path, raw_mode=True, policy="ignore")
    held = [database.snapshot(point_reads_only=True).__enter__() for _ in range(handles)]
    with collector_paused():
        taken = seconds_of(database.close)
    del held
    return taken / handles
