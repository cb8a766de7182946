"""Batches of several sizes, and one that never ends.

From a log store that gathered ever more rows before it wrote them: a batch is in memory as a whole, so
the largest one decides what the program needs.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

from stress.guarded import open_guarded, probe
from stress.probe import Highest, heap_used
from stress.raw import WriteBatch, open_raw
from stress.scenario import Scenario
from stress.workload import row_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    import saferocks
    from stress.running import Leg

_START = row_key(0)
_VALUE = bytes(200)
_SIZES = (1_000, 5_000, 10_000)
_BULK_SIZES = (5_000, 20_000)
_FLUSH_BYTES = 256 << 10
#: How many rows more each addition to the endless batch has than the one before, as of a loader that falls
#: ever further behind; 100 of them make 50 MB.
_MORE_ROWS = 50
_FORGOTTEN_ROWS = 2_000
#: How far the heap may rise for a load of any number of rows: the batch being filled, memtables, compactions.
_LOAD_BUDGET = 4 << 20
_ENOUGH = 24
_LOOK_EVERY = 500
_LATEST = 1_000
_MIB = 1 << 20
_COLUMNS = ("rows per batch", "batches", "latency ms", "peak heap MiB", "rows/s")


@dataclass
class Kind:
    """A kind of batch, and what it costs.

    Attributes:
        name: As in the table.
        rows: How many rows each batch has.
        opening: Opens one; leaving it writes it.
        batches: How many there were.
        seconds: How long each of the latest took, from the opening to the end of the write.
        peak: How far the heap rose at most, in bytes.
    """

    name: str
    rows: int
    opening: Callable[[], AbstractContextManager[Any]]
    batches: int = 0
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_LATEST))
    peak: int = 0

    def write(self) -> int:
        """Write one batch, and return how far the heap rose meanwhile."""
        before, begun = heap_used(), time.perf_counter()
        rise = 0
        with self.opening() as batch:
            for row in range(self.rows):
                batch[row_key(row)] = _VALUE
                if row % _LOOK_EVERY == 0:
                    rise = max(rise, heap_used() - before)
            rise = max(rise, heap_used() - before)
        self.seconds.append(time.perf_counter() - begun)
        self.batches += 1
        self.peak = max(self.peak, rise)
        return rise

    def as_row(self) -> tuple[object, ...]:
        """Return the row of the table."""
        latency = median(self.seconds) if self.seconds else float("nan")
        return self.name, self.batches, round(latency * 1000, 3), round(self.peak / _MIB, 2), round(self.rows / latency)


def batches(opening: Callable[[], AbstractContextManager[Any]]) -> list[Kind]:
    """Return the kinds of batches of a certain size."""
    return [Kind(f"{rows:,}", rows, opening) for rows in _SIZES]


def bulk(db: saferocks.Rdict) -> list[Kind]:
    """Return the kinds of loads of any number of rows."""
    opening = partial(db.bulk_writer, flush_bytes=_FLUSH_BYTES)
    return [Kind(f"bulk_writer {rows:,}", rows, opening) for rows in _BULK_SIZES]


@contextmanager
def raw_batch(db: Any) -> Iterator[WriteBatch]:
    """Open a bare batch, and write it at the end."""
    batch = WriteBatch(raw_mode=True)
    yield batch
    db.write(batch)


class Endless:
    """A loader that adds to one batch, and means to write it when it has caught up."""

    def __init__(self) -> None:
        self.batch = WriteBatch(raw_mode=True)
        self._additions = 0

    def add(self) -> None:
        """Add what has come in since the last time."""
        self._additions += 1
        for _ in range(self._additions * _MORE_ROWS):
            self.batch[row_key(self.batch.len())] = _VALUE

    def as_row(self) -> tuple[object, ...]:
        """Return the row of the table: nothing is ever written, so there is neither latency nor throughput."""
        return f"endless {self.batch.len():,}", 0, None, round(self.batch.size_in_bytes() / _MIB, 2), None


def raw(leg: Leg) -> None:
    """Write batches of several sizes, and add to one that is never written."""
    endless = Endless()
    with open_raw(leg.path) as database:
        kinds = batches(lambda: raw_batch(database.db))
        database.keep(endless.batch)
        signals = database.probe(_START, lambda: {"load_peak": endless.batch.size_in_bytes()})
        for _ in leg.rounds(signals, _ENOUGH):
            for kind in kinds:
                kind.write()
            while leg.is_due():
                endless.add()
    leg.show_table(_COLUMNS, [*(kind.as_row() for kind in kinds), endless.as_row()])


class Load:
    """A load that refers to itself, as one does that hands out its methods as callbacks.

    Whoever forgets to call `finish` leaves it to the collector.

    Args:
        db: The database to write to.
    """

    def __init__(self, db: saferocks.Rdict) -> None:
        self.on_done = self.finish
        self.batch = db.write_batch().__enter__()
        for row in range(_FORGOTTEN_ROWS):
            self.batch[row_key(row)] = _VALUE

    def finish(self) -> None:
        """Write the batch."""
        self.batch.__exit__(None, None, None)


def guarded(leg: Leg) -> None:
    """Write batches of several sizes, and forget to finish some loads."""
    _write(leg, lambda db: Load(db) if leg.is_due() else None)


def scoped(leg: Leg) -> None:
    """Write batches of several sizes, and loads of any number of rows in bulk writers."""
    _write(leg, lambda db: None)


def _write(leg: Leg, besides: Callable[[saferocks.Rdict], object]) -> None:
    rises = Highest()
    with open_guarded(leg.path) as db:
        loads = bulk(db)
        kinds = batches(db.write_batch)
        # Bulk writers come last: a batch is one memtable, and a large one is still being flushed when it is sampled.
        for _ in leg.rounds(probe(db, _START, lambda: {"load_peak": rises.take()}), _ENOUGH):
            besides(db)
            for kind in kinds:
                kind.write()
            for load in loads:
                rises.see(load.write())
    leg.show_table(_COLUMNS, [kind.as_row() for kind in kinds + loads])


SCENARIO = Scenario(
    name="batch-memory",
    summary="batches of several sizes, and one that never ends",
    raw=raw,
    guarded=guarded,
    scoped=scoped,
    planted=("open_handles", "heap", "load_peak"),
    opener=Load.__init__,
    opening="db.write_batch()",
    limits={"load_peak": _LOAD_BUDGET},
)
