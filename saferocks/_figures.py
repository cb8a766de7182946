"""Figures: what metrics tell of a process at one moment, derived from one copy of the registry.

Nothing here takes time for each open handle but a few functions of C: a scrape of 100,000 of them is
to be over in milliseconds.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from dataclasses import astuple, dataclass, replace
from functools import partial, reduce
from itertools import chain
from operator import add, attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

from saferocks import _engine, _registry, _totals, inspection
from saferocks.errors import ColumnFamilyNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from saferocks._owner import FamilyRecord
    from saferocks._registry import Record
    from saferocks._totals import Held, Totals

Answer = TypeVar("Answer")
Key = TypeVar("Key")
Item = TypeVar("Item")
#: Open handles by their totals and kind; those of each owner and type together, oldest first.
Groups = dict["tuple[Totals, str]", "list[list[Any]]"]

#: Seconds that one reckoning waits, in all, for databases that are being closed or changed.
_PATIENCE = 0.25
#: Seconds for which RocksDB's counts and the registry's are taken again if they differ.
_RECOUNT_SECONDS = 0.005
_native_of = attrgetter("native")
_owner_of = attrgetter("owner")
_type_of: Callable[[Record], type[Record]] = type


@dataclass(frozen=True)
class HandleFigures:
    """What there is to tell of the handles of one kind and database.

    Attributes:
        kind: Such as `iterator`.
        database: The path of the database; None for handles that belong to none.
        open: How many are open.
        oldest: When the one that has been open longest was opened, in seconds since 1970; 0 if none is open.
        opened: How many have been opened.
        leaked: How many have leaked.
        held: For how long those were held that have been released.
    """

    kind: str
    database: str | None
    open: int
    oldest: float
    opened: int
    leaked: int
    held: Held


@dataclass(frozen=True)
class DatabaseFigures:
    """What RocksDB tells of one open path, beside what the registry knows of it. Bytes and counts.

    Attributes:
        database: The path.
        memory: What it holds.
        snapshots: RocksDB's count of snapshots.
        registered_snapshots: Those that open handles own.
        iterators: RocksDB's count of iterators; None unless the database was opened with `statistics=True`.
        registered_iterators: Those that open handles own; None likewise.
    """

    database: str
    memory: inspection.NativeMemory
    snapshots: int
    registered_snapshots: int
    iterators: int | None
    registered_iterators: int | None

    def __add__(self, other: DatabaseFigures) -> DatabaseFigures:
        """Return the figures of a path that is open twice, for reading and writing say."""
        return DatabaseFigures(
            self.database,
            self.memory + other.memory,
            self.snapshots + other.snapshots,
            self.registered_snapshots + other.registered_snapshots,
            _sum(self.iterators, other.iterators),
            _sum(self.registered_iterators, other.registered_iterators),
        )


@dataclass(frozen=True)
class Figures:
    """All figures of one moment.

    Attributes:
        handles: Of each kind and database, those with nothing open included.
        databases: Of each open database that could be asked: not of one that is being closed.
        heap: Bytes that the C allocator has given out, or None where that cannot be told.
    """

    handles: tuple[HandleFigures, ...]
    databases: tuple[DatabaseFigures, ...]
    heap: int | None


def reckon() -> Figures:
    """Return the figures of this moment."""
    every = _totals.every()
    records = _registry.snapshot()
    groups = by_totals(records)
    handles = handle_figures(groups, every)
    deadline = time.monotonic() + _PATIENCE
    present = [record for (_, kind), found in groups.items() if kind == "database" for record in chain(*found)]
    options = [id(record.owner.options) for record in present]
    databases: dict[str, DatabaseFigures] = {}
    for record in present:
        # RocksDB counts the iterators of databases that have the same Options together.
        counts_alone = options.count(id(record.owner.options)) == 1
        found = ask(record, partial(_measure, record, counts_alone), deadline)
        if found is not None:
            databases[found.database] = databases[found.database] + found if found.database in databases else found
    shown = {record.owner.name: record.owner.totals.name for record in present}
    return Figures(handles, tuple(_bounded(databases, shown)), inspection.heap_used())


# --------------------------------------------------------------------------- handles


def grouped(key: Callable[[Item], Key], items: Sequence[Item]) -> dict[Key, list[Item]]:
    """Group items by a key, each group in their order."""
    groups: defaultdict[Key, list[Item]] = defaultdict(list)
    deque(map(list.append, map(groups.__getitem__, map(key, items)), items), maxlen=0)
    return groups


def by_totals(records: Sequence[Record]) -> Groups:
    """Group a copy of the registry, oldest first, by what the handles are counted under.

    In two steps, by owners and by types: keys of two parts would take longer than both.
    """
    groups: Groups = {}
    for owner, children in grouped(_owner_of, records).items():
        for cls, found in grouped(_type_of, children).items():
            groups.setdefault((owner.totals, cls.kind), []).append(found)
    return groups


def handle_figures(groups: Groups, every: Mapping[tuple[Totals, str], Held]) -> tuple[HandleFigures, ...]:
    """Return the figures of handles.

    Args:
        groups: The open ones.
        every: For how long handles were held, read before the copy was made: what has been released
            since is in the copy, and must not be counted again.
    """
    epoch = time.time() - time.monotonic()
    # Those of a database that was opened since are known by its handles alone.
    known = {**dict.fromkeys(groups, _totals.Held()), **every}
    return tuple(_of_kind(*key, groups.get(key, []), held, epoch) for key, held in known.items())


def _of_kind(totals: Totals, kind: str, groups: list[list[Any]], held: Held, epoch: float) -> HandleFigures:
    series, count = totals.of(kind), sum(map(len, groups))
    # A handle that is being released at this moment is neither open nor counted. To tell one less than before
    # would be taken for a restart of the program.
    opened = series.opened = max(series.opened, count + held.count)
    since = round(min(group[0].opened for group in groups) + epoch, 3) if groups else 0.0
    return HandleFigures(kind, totals.name, count, since, opened, series.leaked, held)


# --------------------------------------------------------------------------- databases


def ask(record: FamilyRecord, measure: Callable[[], Answer], deadline: float) -> Answer | None:
    """Ask RocksDB of an open database, or return None if it is not to be asked at this moment.

    Its lock is held through its close, so nothing is asked of one that is closed or being closed.

    Args:
        record: The database's.
        measure: Asks it.
        deadline: Until when to wait for the lock, of `time.monotonic`.
    """
    owner = record.owner
    if not owner.lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
        return None
    try:
        if record.reason is not None or owner.closing or record.native is None:
            return None
        answer: Answer = _engine.call(measure)
    except ColumnFamilyNotFoundError:  # this thread is about to drop one, and a signal handler asks, or it was stopped
        return None
    except Exception:
        # The lock is no obstacle to a finalizer in this very thread, which may have closed it in the midst.
        if record.reason is None and not owner.closing:
            raise
        return None
    else:
        return answer
    finally:
        owner.lock.release()


def _measure(record: FamilyRecord, counts_alone: bool) -> DatabaseFigures:
    memory = inspection.native_memory(record.native, record.owner)
    until = time.monotonic() + _RECOUNT_SECONDS
    found = _count(record, counts_alone)
    while found[:2] != found[2:] and time.monotonic() < until:  # other threads open and release meanwhile
        found = _count(record, counts_alone)
    snapshots, iterators, registered_snapshots, registered_iterators = found
    return DatabaseFigures(record.owner.name, memory, snapshots, registered_snapshots, iterators, registered_iterators)


def _count(record: FamilyRecord, counts_alone: bool) -> tuple[int, int | None, int, int | None]:
    """Count snapshots and iterators by RocksDB, and then by the registry."""
    owner = record.owner
    iterators = _engine.live_iterators(owner.options) if counts_alone else None
    snapshots = record.native.property_int_value("rocksdb.num-snapshots") or 0
    children = grouped(_type_of, list(owner.children.values()))
    registered = None if iterators is None else count_iterators(children)
    return snapshots, iterators, count_snapshots(children), registered


def count_snapshots(children: Mapping[type[Record], Sequence[Record]]) -> int:
    """Return how many native snapshots open handles own: one for each column family that one covers.

    Args:
        children: The handles by their types.
    """
    return sum(len(native or ()) for native in _natives(children, "snapshot"))


def count_iterators(children: Mapping[type[Record], Sequence[Record]]) -> int:
    """Return how many native iterators open handles own.

    A cursor is one, a scan two. Those that read through a snapshot have none of their own; it has one for each
    column family that it covers.

    Args:
        children: The handles by their types.
    """
    natives = grouped(type, list(_natives(children, "iterator")))
    scans = sum(map(len, natives.pop(tuple, ())))
    pairs = (pair for native in _natives(children, "snapshot") for pair in native or ())
    pinned = sum(cursor is not None and cursor.native is not None for _, cursor in pairs)
    alone = sum(len(found) for cls, found in natives.items() if cls.__name__ in _engine.ITERATOR_NAMES)
    return scans + pinned + alone


def _natives(children: Mapping[type[Record], Sequence[Record]], kind: str) -> Iterator[Any]:
    """Return what the handles of a kind own, each when it is asked for."""
    return map(_native_of, chain.from_iterable(found for cls, found in children.items() if cls.kind == kind))


def _bounded(databases: Mapping[str, DatabaseFigures], shown: Mapping[str, str | None]) -> Iterator[DatabaseFigures]:
    """Return the figures of databases, all those together that have no series of their own.

    Args:
        databases: By their paths.
        shown: The names under which the paths are told.
    """
    rest = [found for path, found in databases.items() if shown[path] == _totals.OTHERS]  # a path may have that name
    yield from (found for path, found in databases.items() if shown[path] != _totals.OTHERS)
    if rest:
        memory = inspection.NativeMemory(*map(sum, zip(*(astuple(each.memory) for each in rest), strict=True)))
        yield replace(reduce(add, rest), database=_totals.OTHERS, memory=memory)


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other
