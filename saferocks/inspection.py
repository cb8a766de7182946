"""What a running program can ask: which handles are open, what they cost, whether it all adds up."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil

from saferocks import _engine, _in_use, _leases, _registry, events

if TYPE_CHECKING:
    from collections.abc import Iterable

    from saferocks._owner import DatabaseOwner
    from saferocks._registry import Record


@dataclass(frozen=True)
class HandleInfo:
    """An open handle.

    Attributes:
        kind: `iterator`, `snapshot`, `write_batch`, `column_family`, `checkpoint`, `sst_writer` or `database`.
        id: Unique in the process; handles opened later have higher ones.
        age: Seconds since the opening.
        opened_at: The line of the opener's call, as `file:line`.
        thread: The name of the opening thread; once it is gone its identifier, or the name of a thread
            that was given that identifier since.
        database: The path of its database, or None for free-standing handles.
        label: The label given at the opening, if any.
        note: What would be lost with it, such as the operations of a batch.
        entered: Whether it is inside its `with`.
        warn_after: Seconds after which it is overdue, or None.
        expire_after: Seconds after which it is released, or None.
        expires_in: Seconds until then, unless it is renewed; None if it does not expire.
    """

    kind: str
    id: int
    age: float
    opened_at: str
    thread: str
    database: str | None
    label: str | None
    note: str | None
    entered: bool
    warn_after: float | None = None
    expire_after: float | None = None
    expires_in: float | None = None


@dataclass(frozen=True)
class NativeMemory:
    """Bytes that RocksDB tells of, summed over the column families of a database; see `MemoryUsage`."""

    memtables: int
    pinned_memtables: int
    table_readers: int
    block_cache: int
    block_cache_pinned: int
    sst_live: int
    sst_total: int

    def __add__(self, other: NativeMemory) -> NativeMemory:
        """Return what a path that is open twice holds: the files on disk are the same."""
        return NativeMemory(
            self.memtables + other.memtables,
            self.pinned_memtables + other.pinned_memtables,
            self.table_readers + other.table_readers,
            self.block_cache + other.block_cache,
            self.block_cache_pinned + other.block_cache_pinned,
            max(self.sst_live, other.sst_live),
            max(self.sst_total, other.sst_total),
        )


@dataclass(frozen=True)
class MemoryUsage:
    """Bytes that a database holds, summed over its column families.

    Attributes:
        memtables: All memtables (`size-all-mem-tables`).
        pinned_memtables: Memtables that are flushed already and kept only by iterators; 0 in a healthy program.
        table_readers: Indexes and filters of open SST files (`estimate-table-readers-mem`).
        block_cache: Blocks in the cache (`block-cache-usage`).
        block_cache_pinned: Blocks that iterators keep in it (`block-cache-pinned-usage`).
        sst_live: SST files that the present state needs, on disk.
        sst_total: All SST files, those included that only iterators and snapshots keep.
        rss: Resident memory of the process.
        heap: Bytes that the C allocator has given out, or None where the platform does not tell.
    """

    memtables: int
    pinned_memtables: int
    table_readers: int
    block_cache: int
    block_cache_pinned: int
    sst_live: int
    sst_total: int
    rss: int
    heap: int | None


@dataclass(frozen=True)
class AuditReport:
    """The registry's counts beside RocksDB's own.

    Attributes:
        registered_iterators: Native iterators that open handles own.
        live_iterators: RocksDB's count of them, or None without `statistics=True` at open.
        registered_snapshots: Native snapshots that open handles own.
        live_snapshots: RocksDB's count of them.
        unchecked: What could not be compared, and why.
    """

    registered_iterators: int
    live_iterators: int | None
    registered_snapshots: int
    live_snapshots: int
    unchecked: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether everything that could be compared agrees."""
        iterators = self.live_iterators in (None, self.registered_iterators)
        return iterators and self.live_snapshots == self.registered_snapshots


def open_handles() -> tuple[HandleInfo, ...]:
    """Return all open handles of the process, oldest first.

    Example:
        >>> import saferocks
        >>> saferocks.open_handles()
        ()
    """
    return handle_infos(_registry.snapshot())


def handle_infos(records: Iterable[Record]) -> tuple[HandleInfo, ...]:
    """Describe records as handles."""
    events.drain()
    now = time.monotonic()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return tuple(
        HandleInfo(
            kind=record.kind,
            id=record.id,
            age=now - record.opened,
            opened_at=_registry.format_site(record.site),
            thread=names.get(record.thread, str(record.thread)),
            database=record.owner.name,
            label=record.label,
            note=record.note,
            entered=record.state is _registry.ENTERED,
            **_leases.figures(record),
        )
        for record in records
    )


def pending_deadlines() -> int:
    """Return how many deadlines of leases are still to come, in the whole process.

    Each open handle with a lease has one, until it is overdue and does not expire.

    Example:
        >>> import saferocks
        >>> saferocks.inspection.pending_deadlines()
        0
    """
    return _leases.watcher.pending()


def heap_used() -> int | None:
    """Return the bytes that the C allocator has given out, or None where that cannot be told.

    Large blocks, such as a batch of megabytes, come from `mmap` and are counted apart. Another
    allocator (jemalloc by LD_PRELOAD, say) makes glibc report 0.
    """
    heap_info = getattr(psutil, "heap_info", None)
    info = None if heap_info is None else heap_info()
    return (info.heap_used + info.mmap_used) if info is not None and info.heap_used else None


_MEMTABLES_IN_USE = "rocksdb.cur-size-all-mem-tables"
_CACHE = ("rocksdb.block-cache-usage", "rocksdb.block-cache-pinned-usage")


def memory_usage(rdict: Any, owner: DatabaseOwner) -> MemoryUsage:
    """Sum up what the column families of a native database hold, and the process."""
    found = native_memory(rdict, owner)
    return MemoryUsage(**vars(found), rss=psutil.Process().memory_info().rss, heap=heap_used())


def native_memory(rdict: Any, owner: DatabaseOwner) -> NativeMemory:
    """Sum up what the column families of a native database hold; under the lock of its owner."""
    families = [owner.native_family(rdict, name) for name in sorted(owner.families)]

    def total(name: str) -> int:
        return sum(family.property_int_value(name) or 0 for family in families)

    def widest(name: str) -> int:  # column families share one cache unless they were given several
        return max((family.property_int_value(name) or 0 for family in families), default=0)

    memtables = [_memtables(family) for family in families]
    return NativeMemory(
        memtables=sum(everything for everything, _ in memtables),
        pinned_memtables=sum(pinned for _, pinned in memtables),
        table_readers=total("rocksdb.estimate-table-readers-mem"),
        block_cache=widest(_CACHE[0]),
        block_cache_pinned=widest(_CACHE[1]),
        sst_live=total("rocksdb.live-sst-files-size"),
        sst_total=total("rocksdb.total-sst-files-size"),
    )


def _memtables(family: Any) -> tuple[int, int]:
    """Return the bytes of all memtables of a native column family, and of those that only iterators keep.

    Others write and flush meanwhile: what is in use is asked for before and after, and is not told as pinned.
    """
    before = family.property_int_value(_MEMTABLES_IN_USE) or 0
    everything = family.property_int_value("rocksdb.size-all-mem-tables") or 0
    after = family.property_int_value(_MEMTABLES_IN_USE) or 0
    return everything, max(0, everything - max(before, after))


_AUDIT_ATTEMPTS = 50
_AUDIT_PAUSE = 0.001


def audit(owner: DatabaseOwner, rdict: Any) -> AuditReport:
    """Compare the registry with RocksDB; again for a while if they disagree.

    Other threads may be opening and releasing: a native object is there a moment before its
    record shows it. Only what still disagrees after all attempts is reported.
    """
    for _ in range(_AUDIT_ATTEMPTS):
        report = _compare(owner, rdict)
        if report.ok:
            return report
        time.sleep(_AUDIT_PAUSE)
    return _compare(owner, rdict)


def _shares_options(owner: DatabaseOwner) -> bool:
    databases = (record.owner for record in _registry.snapshot() if record.kind == "database")
    return sum(getattr(other, "options", None) is owner.options for other in databases) > 1


def _compare(owner: DatabaseOwner, rdict: Any) -> AuditReport:
    records = _registry.in_order(owner.children)
    natives = {id(leaf): leaf for record in records for leaf in _in_use.natives_in(record.native)}
    live = _engine.live_iterators(owner.options)
    unchecked: tuple[str, ...] = ()
    if live is None:
        unchecked = ("iterators: open with statistics=True to have RocksDB count them",)
    elif _shares_options(owner):
        live, unchecked = None, ("iterators: another open database has the same Options, and RocksDB counts for both",)
    return AuditReport(
        registered_iterators=sum(map(_engine.is_iterator, natives.values())),
        live_iterators=live,
        registered_snapshots=sum(map(_engine.is_snapshot, natives.values())),
        live_snapshots=rdict.property_int_value("rocksdb.num-snapshots") or 0,
        unchecked=unchecked,
    )
