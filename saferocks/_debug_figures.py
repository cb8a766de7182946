"""What the debug page shows: one copy of the registry, and what each database holds at that moment."""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import psutil

import saferocks
from saferocks import _registry, _settings, inspection
from saferocks._figures import ask
from saferocks._groups import Group, groups
from saferocks.errors import SaferocksError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from saferocks._owner import FamilyRecord
    from saferocks.inspection import NativeMemory

#: A program that compiles code as it runs has ever new lines; no page can show them all.
MOST_GROUPS = 200
#: Seconds to wait, in all, for databases that are being changed; one that is being closed keeps its lock for longer.
_PATIENCE = 0.05
#: Open for as long as a program runs, by design: their age says nothing.
LASTING = ("database", "column_family")
_owner_of = attrgetter("owner")


@dataclass(frozen=True)
class Database:
    """An open database.

    Attributes:
        path: Its path, as it was given.
        handles: How many handles of it are open, itself left out.
        memory: What it holds, or None while it is being closed or changed.
    """

    path: str
    handles: int
    memory: NativeMemory | None

    @property
    def kept_files(self) -> int | None:
        """Bytes of SST files that only open handles still need."""
        return None if self.memory is None else max(0, self.memory.sst_total - self.memory.sst_live)


@dataclass(frozen=True)
class Figures:
    """All that the page shows.

    Attributes:
        time: When it was so, in seconds since the epoch.
        groups: Open handles by the line that opened them, at most `MOST_GROUPS`.
        left_out: How many more groups there are.
        kinds: How many handles of each kind are open, and the age of the oldest in seconds.
        databases: The open databases.
        rss: Resident memory of the process.
        heap: What its allocator has given out, or None.
    """

    time: float
    groups: tuple[Group, ...]
    left_out: int
    kinds: dict[str, tuple[int, float]]
    databases: tuple[Database, ...]
    rss: int
    heap: int | None

    @property
    def total(self) -> int:
        """How many handles are open."""
        return sum(count for count, _ in self.kinds.values())

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "version": saferocks.__version__,
            "pid": os.getpid(),
            "time": self.time,
            "trace": _settings.current.trace,
            "total": self.total,
            "kinds": {kind: {"count": count, "oldest": oldest} for kind, (count, oldest) in self.kinds.items()},
            "groups": [asdict(group) for group in self.groups],
            "groups_left_out": self.left_out,
            "databases": [asdict(database) for database in self.databases],
            "rss": self.rss,
            "heap": self.heap,
        }


def figures() -> Figures:
    """Reckon everything from one copy of the registry."""
    records = _registry.snapshot()
    counts = Counter(map(id, map(_owner_of, records)))  # at once for all databases: there may be hundreds
    present: list[FamilyRecord] = [record for record in records if record.kind == "database"]  # type: ignore[misc]
    found = groups(records)
    deadline = time.monotonic() + _PATIENCE
    return Figures(
        time=time.time(),
        groups=tuple(found[:MOST_GROUPS]),
        left_out=max(0, len(found) - MOST_GROUPS),
        kinds=_kinds(found),
        databases=tuple(_database(record, counts, deadline) for record in present),
        rss=psutil.Process().memory_info().rss,
        heap=inspection.heap_used(),
    )


def _kinds(found: Sequence[Group]) -> dict[str, tuple[int, float]]:
    kinds: dict[str, tuple[int, float]] = {}
    for group in found:
        count, oldest = kinds.get(group.kind, (0, 0.0))
        kinds[group.kind] = (count + group.count, max(oldest, group.oldest))
    return dict(sorted(kinds.items()))


def _database(record: FamilyRecord, counts: Mapping[int, int], deadline: float) -> Database:
    owner = record.owner
    memory: NativeMemory | None = None
    with suppress(SaferocksError):  # RocksDB refuses: the page is of use all the same
        memory = ask(record, lambda: inspection.native_memory(record.native, owner), deadline)
    return Database(owner.name, counts[id(owner)] - 1, memory)
