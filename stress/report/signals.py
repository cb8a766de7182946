"""What the signals of a leg are called, what they are measured in, and where they are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

TIME, AGE = "time", "oldest_age"
#: Read from the leg, and drawn nowhere: the axis itself, and a count that only ever rises.
_NOT_DRAWN = {TIME, "rounds"}


@dataclass(frozen=True)
class Signal:
    """One thing that is sampled.

    Attributes:
        name: As in `run.json`.
        title: As people say it.
        kind: What it is measured in, as `ticks.unit_for` has it.
        about: One sentence on what it says.
        always: Whether it is drawn even if it was 0 throughout.
        against_age: Whether it is drawn against the age of the oldest handle, too.
    """

    name: str
    title: str
    kind: str
    about: str = ""
    always: bool = False
    against_age: bool = False


_KNOWN = {
    signal.name: signal
    for signal in (
        Signal("heap", "C heap in use", "bytes", "after a collection; what a leak of native memory raises", True, True),
        Signal("rss", "Resident memory (RSS)", "bytes", "as the system counts it", True, True),
        Signal("uss", "Unshared memory (USS)", "bytes", "what ending the process would free", True, True),
        Signal("pinned_memtables", "Pinned memtables", "bytes", "flushed, and held all the same", True, True),
        Signal("sst_live", "SST files, live", "bytes", "in the current version", True, True),
        Signal("sst_total", "SST files, total", "bytes", "with those that only old versions hold", True, True),
        Signal("scan_seconds", "Scan latency", "latency", "of fifty rows from the watched place", True, True),
        Signal("open_handles", "Open handles", "count", "iterators, snapshots and batches", True, True),
        Signal(AGE, "Age of the oldest handle", "time", "0 where none is open"),
        Signal("live_iterators", "Live iterators", "count", "RocksDB's own count"),
        Signal("snapshots", "Snapshots", "count", "RocksDB's own count", against_age=True),
        Signal("live_versions", "Live versions", "count", "of the file set; RocksDB's own count", against_age=True),
        Signal("load_peak", "Peak heap of a load", "bytes", "the most that one load took"),
        Signal("memtables", "Memtables, all", "bytes", "active, being flushed and pinned"),
    )
}
#: RocksDB's own numbers, which each scenario shows in a table as well.
ROCKSDB = ("live_iterators", "snapshots", "live_versions", "memtables", "pinned_memtables", "sst_live", "sst_total")
#: Signals whose budget is for their growth; the budget of any other is a level.
GROWING = frozenset({"heap", "rss", "uss", "sst_live", "sst_total", "scan_seconds"})


def signal_of(name: str) -> Signal:
    """Return what is known of a signal; of a scenario's own, what its name tells."""
    if name in _KNOWN:
        return _KNOWN[name]
    kinds = {"seconds": "latency", "bytes": "bytes", "age": "time"}
    kind = kinds.get(name.rpartition("_")[2], "count")
    title = name.removesuffix("_seconds").removesuffix("_bytes").replace("_", " ")
    return Signal(name, title[:1].upper() + title[1:], kind, "of this scenario")


def drawn(names: Iterable[str]) -> list[Signal]:
    """Return the signals that are drawn: those that are known in their order, then the scenario's own."""
    found = set(names) - _NOT_DRAWN
    return [*(_KNOWN[name] for name in _KNOWN if name in found), *(map(signal_of, sorted(found - set(_KNOWN))))]
