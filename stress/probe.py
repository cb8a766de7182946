"""Reads the signals of a running leg, inside its process."""

from __future__ import annotations

import gc
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import psutil

from saferocks import inspection

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_SCANNED_ROWS = 50
_ATTEMPTS = 20
_DIRECT = {
    "memtables": "rocksdb.size-all-mem-tables",
    "live_versions": "rocksdb.num-live-versions",
    "snapshots": "rocksdb.num-snapshots",
    "sst_live": "rocksdb.live-sst-files-size",
    "sst_total": "rocksdb.total-sst-files-size",
}


class Properties(Protocol):
    """A database that can be asked for RocksDB's properties."""

    def property_int_value(self, name: str, /) -> int | None:
        """Return a property, or None if there is none of that name."""


@dataclass(frozen=True)
class Probe:
    """How to read what a leg holds.

    Attributes:
        database: Its database.
        live_iterators: RocksDB's own count of iterators; NaN if it does not tell.
        ages: For how many seconds each open handle has been open.
        scan: Reads so many rows from the place whose latency is watched.
        extra: Reads the scenario's own signals.
    """

    database: Properties
    live_iterators: Callable[[], float]
    ages: Callable[[], list[float]]
    scan: Callable[[int], object]
    extra: Callable[[], Mapping[str, float]] = dict

    def read(self) -> dict[str, float]:
        """Collect garbage, give freed memory back, and read every signal."""
        gc.collect()
        trim_heap()
        heap = heap_used()
        ages = self.ages()
        signals = {name: self._property(text) for name, text in _DIRECT.items()}
        return {
            **signals,
            "heap": float(heap),
            "pinned_memtables": self._pinned(),
            "live_iterators": float(self.live_iterators()),
            "open_handles": float(len(ages)),
            "oldest_age": max(ages, default=0.0),
            "scan_seconds": self._scan_seconds(),
            **{name: float(value) for name, value in self.extra().items()},
        }

    def _property(self, name: str) -> float:
        """Return a property; one that RocksDB does not know is a sample that is missing, and never a 0."""
        value = self.database.property_int_value(name)
        return math.nan if value is None else float(value)

    def _pinned(self) -> float:
        """Return the bytes of memtables that are flushed and still held.

        It is a difference of two properties; a flush that ends between the two readings would
        show as pinned memory, so they are read again until nothing changes in between.
        """
        difference = math.nan
        for _ in range(_ATTEMPTS):
            before = self._property("rocksdb.cur-size-all-mem-tables")
            everything = self._property("rocksdb.size-all-mem-tables")
            difference = everything - before
            if self._property("rocksdb.cur-size-all-mem-tables") == before:
                break
        return difference

    def _scan_seconds(self) -> float:
        start = time.perf_counter()
        self.scan(_SCANNED_ROWS)
        return time.perf_counter() - start


def heap_used() -> int:
    """Return the bytes that the C allocator has given out; 0 if it does not tell."""
    return inspection.heap_used() or 0


class Highest:
    """The highest of the values seen since it was last read.

    For what holds in the midst of a round and is over when the round is, where samples are taken.
    """

    def __init__(self) -> None:
        self._value = 0.0

    def see(self, value: float) -> None:
        """Take note of a value."""
        self._value = max(self._value, value)

    def take(self) -> float:
        """Return the highest value, and start anew."""
        value, self._value = self._value, 0.0
        return value


def trim_heap() -> None:
    """Give freed memory back to the system, so that RSS follows."""
    heap_trim = getattr(psutil, "heap_trim", None)
    if heap_trim is not None:
        heap_trim()
