"""The metrics: one table of what they are called, what they mean, and which figure each tells.

`metrics` offers them to Prometheus and `otel` to OpenTelemetry, by the same table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from saferocks._figures import DatabaseFigures, Figures, HandleFigures
    from saferocks._totals import Held

HANDLE_LABELS = ("kind", "database")
DATABASE_LABELS = ("database",)

Labels = tuple[str, ...]
Sample = tuple[Labels, float]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: As Prometheus has it, without `_total`.
        otel: As OpenTelemetry has it.
        type: Whether it may go down.
        unit: As OpenTelemetry writes it.
        text: What it means.
        labels: The names of its labels.
        samples: Takes figures, and gives a value for the values of its labels.
    """

    name: str
    otel: str
    type: Literal["gauge", "counter"]
    unit: str
    text: str
    labels: Labels
    samples: Callable[[Figures], Iterable[Sample]]


def database_label(name: str | None) -> str:
    """Return the label of a database: its path as text that UTF-8 can hold; empty for the process's own handles."""
    if name is None:
        return ""
    # Not by the encoding of file names: a path that it has no letters for was never opened, but it was named.
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return name.encode("utf-8", "backslashreplace").decode("utf-8")


def handle_labels(figures: HandleFigures) -> Labels:
    """Return the labels of what is told of handles."""
    return figures.kind, database_label(figures.database)


def _handles(value: Callable[[HandleFigures], float]) -> Callable[[Figures], Iterator[Sample]]:
    return lambda figures: ((handle_labels(each), value(each)) for each in figures.handles)


def _databases(value: Callable[[DatabaseFigures], float | None]) -> Callable[[Figures], Iterator[Sample]]:
    def samples(figures: Figures) -> Iterator[Sample]:
        for each in figures.databases:
            found = value(each)
            if found is not None:
                yield (database_label(each.database),), found

    return samples


def _heap(figures: Figures) -> Iterator[Sample]:
    if figures.heap is not None:
        yield (), figures.heap


#: The held times are a histogram, which the two systems have each in their own way.
HELD_NAME = "saferocks_handle_held_seconds"
HELD_OTEL = "saferocks.handle.held"
HELD_TEXT = "For how long handles were held that have been released."


def held_of(figures: Figures) -> Iterator[tuple[Labels, Held]]:
    """Return for how long handles were held, for each kind and database."""
    return ((handle_labels(each), each.held) for each in figures.handles)


METRICS: tuple[Metric, ...] = (
    Metric(
        "saferocks_open_handles", "saferocks.handles.open", "gauge", "{handle}",
        "Handles that are open.",
        HANDLE_LABELS, _handles(lambda each: each.open),
    ),
    Metric(
        "saferocks_handles_opened", "saferocks.handles.opened", "counter", "{handle}",
        "Handles that have been opened since metrics were set up, and that were open then.",
        HANDLE_LABELS, _handles(lambda each: each.opened),
    ),
    Metric(
        "saferocks_handles_released", "saferocks.handles.released", "counter", "{handle}",
        "Handles that have been released since metrics were set up, in whatever way.",
        HANDLE_LABELS, _handles(lambda each: each.held.count),
    ),
    Metric(
        "saferocks_handles_leaked", "saferocks.handles.leaked", "counter", "{handle}",
        "Handles that were collected while open, or were open when their database closed.",
        HANDLE_LABELS, _handles(lambda each: each.leaked),
    ),
    Metric(
        "saferocks_handle_oldest_opened_timestamp_seconds", "saferocks.handle.oldest_opened", "gauge", "s",
        "When the handle that has been open longest was opened, in seconds since 1970; 0 if none is open.",
        HANDLE_LABELS, _handles(lambda each: each.oldest),
    ),
    Metric(
        "saferocks_pinned_memtable_bytes", "saferocks.memtables.pinned", "gauge", "By",
        "Memtables that are flushed already and kept in memory by iterators; 0 in a healthy program.",
        DATABASE_LABELS, _databases(lambda each: each.memory.pinned_memtables),
    ),
    Metric(
        "saferocks_memtable_bytes", "saferocks.memtables", "gauge", "By",
        "All memtables, those that are pinned included.",
        DATABASE_LABELS, _databases(lambda each: each.memory.memtables),
    ),
    Metric(
        "saferocks_block_cache_pinned_bytes", "saferocks.block_cache.pinned", "gauge", "By",
        "Blocks that iterators keep in the block cache.",
        DATABASE_LABELS, _databases(lambda each: each.memory.block_cache_pinned),
    ),
    Metric(
        "saferocks_live_sst_bytes", "saferocks.sst.live", "gauge", "By",
        "SST files that the present state of the database needs, on disk.",
        DATABASE_LABELS, _databases(lambda each: each.memory.sst_live),
    ),
    Metric(
        "saferocks_sst_bytes", "saferocks.sst", "gauge", "By",
        "All SST files on disk, those included that only iterators keep from being deleted.",
        DATABASE_LABELS, _databases(lambda each: each.memory.sst_total),
    ),
    Metric(
        "saferocks_rocksdb_snapshots", "saferocks.rocksdb.snapshots", "gauge", "{snapshot}",
        "Snapshots by RocksDB's own count.",
        DATABASE_LABELS, _databases(lambda each: each.snapshots),
    ),
    Metric(
        "saferocks_registered_snapshots", "saferocks.registered.snapshots", "gauge", "{snapshot}",
        "Native snapshots that open handles own; one for each column family that a snapshot covers.",
        DATABASE_LABELS, _databases(lambda each: each.registered_snapshots),
    ),
    Metric(
        "saferocks_rocksdb_iterators", "saferocks.rocksdb.iterators", "gauge", "{iterator}",
        "Iterators by RocksDB's own count; only of databases opened with statistics=True.",
        DATABASE_LABELS, _databases(lambda each: each.iterators),
    ),
    Metric(
        "saferocks_registered_iterators", "saferocks.registered.iterators", "gauge", "{iterator}",
        "Native iterators that open handles own: two for a scan, one for a cursor, one for each column family "
        "of a snapshot; only of databases opened with statistics=True.",
        DATABASE_LABELS, _databases(lambda each: each.registered_iterators),
    ),
    Metric(
        "saferocks_process_heap_bytes", "saferocks.process.heap", "gauge", "By",
        "Bytes that the C allocator has given out, RocksDB's included; absent where that cannot be told.",
        (), _heap,
    ),
)  # fmt: skip
