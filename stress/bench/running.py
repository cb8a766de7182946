"""Carries out the workloads: opens the columns of each stage, fills them, and holds a contest for each workload."""

from __future__ import annotations

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any

from stress.bench.columns import Bare, Column, Least, Raising, Safe, Stack, Untraced, drain
from stress.bench.leased import Leased
from stress.bench.measure import Pace, Times, contest
from stress.bench.others import installed
from stress.bench.record import Row
from stress.bench.workloads import BATCH_ROWS, KEYS_AT_ONCE, Make

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from stress.bench.measure import Action
    from stress.bench.workloads import Stage, Workload

_COLUMNS: dict[str, type[Column]] = {"bare": Bare, "least": Least, "saferocks": Safe}
_VARIANTS: dict[str, type[Column]] = {"off": Untraced, "stack": Stack, "raise": Raising, "leases": Leased}
#: Half of what one of so many random keys weighs as text; keys are in order as text and as numbers.
_FRESH = 10**15
_POOL = 100_000


def key_of(number: int) -> bytes:
    """Return the key of a row; keys of larger numbers come later."""
    return b"%016d" % number


def value_of(size: int) -> bytes:
    """Return a value that can be compressed to about a half, as db_bench's can."""
    return random.Random(0).randbytes(size // 2).ljust(size, b"v")


def columns(stage: Stage) -> dict[str, type[Column]]:
    """Return the columns of a stage by name: those of rocksdict, and the other stores that are installed."""
    return _COLUMNS | (_VARIANTS if stage.variants else {}) | installed()


def measure(directory: str, workloads: Iterable[Workload], rows: int, pace: Pace) -> Iterator[Row]:
    """Measure workloads, stage by stage.

    Args:
        directory: Where databases may be made.
        workloads: What to measure.
        rows: How many rows a database has.
        pace: How many rounds, and how long.
    """
    for number, (stage, group) in enumerate(groupby(workloads, lambda workload: workload.stage)):
        there = os.path.join(directory, str(number))
        os.mkdir(there)
        with opened(there, stage, rows) as ground:
            for workload in group:
                yield from _rows(workload, _times(workload, ground, pace))


class Ground:
    """The open columns of a stage, and the keys that they have in common.

    Args:
        columns: The columns by name.
        rows: How many rows each has.
    """

    def __init__(self, columns: dict[str, Column], rows: int) -> None:
        self.columns = columns
        self.rows = rows
        self._random = random.Random(1)
        self._next = rows
        numbers = self._random.choices(range(rows), k=_POOL)
        self._present = [key_of(number) for number in numbers]
        self._absent = [key + b"-" for key in self._present]

    def make(self, what: Make, count: int) -> Any:
        """Make ready so many operations; chunks and batches are at least one, and whole."""
        if what is Make.WHOLE:
            return drain
        if what is Make.NEXT:
            self._next += count
            return [key_of(number) for number in range(self._next - count, self._next)]
        if what is Make.FRESH:
            return [key_of(_FRESH + self._random.randrange(_FRESH)) for _ in range(count)]
        if what is Make.CHUNKS:
            return _chunks(self._some(self._present, count), KEYS_AT_ONCE)
        if what is Make.BATCHES:
            return _chunks(self._some(self._present, count), BATCH_ROWS)
        return self._some(self._absent if what is Make.ABSENT else self._present, count)

    def _some(self, pool: list[bytes], count: int) -> list[bytes]:
        """Return so many keys, from a random place in the pool on."""
        start = self._random.randrange(len(pool))
        turned = pool[start:] + pool[:start]
        return (turned * (count // len(turned) + 1))[:count]


def _chunks(keys: list[bytes], size: int) -> list[list[bytes]]:
    return [keys[start : start + size] for start in range(0, len(keys), size)]


@contextmanager
def opened(directory: str, stage: Stage, rows: int) -> Iterator[Ground]:
    """Open and fill the columns of a stage, and close them."""
    rows = max(1, int(rows * stage.share))
    value = value_of(stage.value_bytes)
    with ExitStack() as stack:
        made: dict[str, Column] = {}
        for name, column in columns(stage).items():
            made[name] = column(os.path.join(directory, name), value)
            stack.callback(made[name].close)
            batches: Any = made[name]
            batches.batches(_chunks([key_of(number) for number in range(rows)], BATCH_ROWS))
            if stage.on_disk:
                made[name].settle()
        yield Ground(made, rows)


def _times(workload: Workload, ground: Ground, pace: Pace) -> Times:
    actions: dict[str, Action] = {
        name: getattr(column, workload.operation)
        for name, column in ground.columns.items()
        if hasattr(column, workload.operation)
    }
    operations = ground.rows if workload.make is Make.WHOLE else None

    def make(count: int) -> Any:
        return ground.make(workload.make, count)

    if workload.threads == 1:
        return contest(actions, make, pace, operations=operations)
    with ThreadPoolExecutor(workload.threads) as pool:
        shared = {name: _shared(pool, workload.threads, action) for name, action in actions.items()}
        times = contest(
            shared,
            lambda count: _parts(make(count), workload.threads),
            pace,
            operations=operations,
            clock=time.perf_counter,
        )
    whole = workload.threads if workload.make is Make.WHOLE else 1
    return Times(times.seconds, times.operations * whole)


def _shared(pool: ThreadPoolExecutor, threads: int, action: Callable[[Any], object]) -> Action:
    """Return what carries out an action in several threads, each with its part of the work."""

    def act(parts: Any) -> None:
        for _ in pool.map(action, parts):
            pass

    return act


def _parts(ready: Any, threads: int) -> Sequence[Any]:
    """Part the work; what reads everything is for each thread."""
    return [ready[number::threads] for number in range(threads)] if isinstance(ready, list) else [ready] * threads


def _rows(workload: Workload, times: Times) -> Iterator[Row]:
    costs = {name: times.cost(name) for name in times.seconds}
    ratios = {name: times.ratio(name, "bare").median for name in times.seconds if "bare" in times.seconds}
    for judged in workload.judged:
        compared = times.ratio if workload.unit == "x" else times.difference
        figure = compared(judged, workload.base)
        yield Row(
            workload.name,
            workload.detail(judged),
            figure.median,
            workload.unit,
            figure.low,
            figure.high,
            workload.budget,
            workload.goal,
            costs,
            ratios,
            workload.base,
            judged,
        )
