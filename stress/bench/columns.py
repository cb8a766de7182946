"""The columns of the benchmark: each a store with the same rows, and the same work written as one writes it there.

An operation takes what has been made ready for it, and returns the last thing that it read, so that a test can tell
that the work was done without the timed loop having to count. `scan` and `scan_back` hand the rows to the function
that they get.
"""

from __future__ import annotations

from contextlib import ExitStack
from itertools import islice
from types import FunctionType
from typing import TYPE_CHECKING, Any

import saferocks
from stress import raw
from stress.bench.least import LeastDatabase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: What a column may be able to do; one that cannot has no method of that name.
OPERATIONS = (
    *("writes", "deletes", "batches", "reads", "tests", "many", "scan", "scan_back"),
    *("seeks", "cursors", "iterators", "snapshots", "states", "deep"),
)
#: Rows that are read after a seek.
SOUGHT = 10
#: Frames above the line that opens, for the workload `trace`.
DEPTH = 8


def drain(rows: Iterable[Any]) -> Any:
    """Read all rows, and return the last."""
    row = None
    for row in rows:  # noqa: B007 - the last is returned
        pass
    return row


class Column:
    """A store that is measured.

    Each class has code of its own for what it inherits: Python adapts a loop to the types that it meets, and a loop
    that met those of several stores would be slower for all of them than a user's is.

    Args:
        path: Where the store is made.
        value: The value of all rows that are written.
    """

    db: Any

    def __init_subclass__(cls) -> None:
        for name in OPERATIONS:
            function = getattr(cls, name, None)
            if isinstance(function, FunctionType) and name not in vars(cls):
                code = function.__code__.replace()
                setattr(cls, name, FunctionType(code, function.__globals__, name, function.__defaults__))

    def __init__(self, path: str, value: bytes) -> None:
        self.path = path
        self.value = value
        self.stack = ExitStack()
        self.db = self.open()

    def open(self) -> Any:
        """Open the store; what is on `stack` is closed with it."""
        raise NotImplementedError

    def settle(self) -> None:
        """Write what is in memory to disk, and compact it."""

    def close(self) -> None:
        """Close the store."""
        self.db = None
        self.stack.close()


class Dictlike(Column):
    """What is written alike for rocksdict and for saferocks."""

    def settle(self) -> None:
        """Make SST files of the memtables, and as few as there can be."""
        self.native().flush()
        self.native().compact_range(None, None)

    def native(self) -> Any:
        """Return what can flush and compact."""
        return self.db

    def writes(self, keys: list[bytes]) -> None:
        """Write a row for each key."""
        db, value = self.db, self.value
        for key in keys:
            db[key] = value

    def deletes(self, keys: list[bytes]) -> None:
        """Delete each key."""
        db = self.db
        for key in keys:
            del db[key]

    def reads(self, keys: list[bytes]) -> Any:
        """Read each key."""
        db, value = self.db, None
        for key in keys:
            value = db.get(key)
        return value

    def tests(self, keys: list[bytes]) -> bool:
        """Ask for each key whether it is there."""
        db, found = self.db, False
        for key in keys:
            found = key in db
        return found

    def many(self, chunks: list[list[bytes]]) -> Any:
        """Read the keys of each chunk at once."""
        db, values = self.db, None
        for keys in chunks:
            values = db.get(keys)
        return values


class Bare(Dictlike):
    """Bare rocksdict."""

    def open(self) -> Any:
        """Open a raw-mode database with rocksdict's own settings."""
        return self.stack.enter_context(raw.open_plain(self.path))

    def batches(self, chunks: list[list[bytes]]) -> None:
        """Write the rows of each chunk as one batch."""
        db, value = self.db, self.value
        for keys in chunks:
            batch = raw.WriteBatch(raw_mode=True)
            for key in keys:
                batch[key] = value
            db.write(batch)

    def scan(self, consume: Callable[[Any], Any]) -> Any:
        """Read all rows."""
        return consume(self.db.items())

    def scan_back(self, consume: Callable[[Any], Any]) -> Any:
        """Read all rows from the last to the first."""
        return consume(self.db.items(True))

    def seeks(self, keys: list[bytes]) -> Any:
        """Read some rows from each key on, by a scan."""
        db, row = self.db, None
        for key in keys:
            for row in islice(db.items(False, key), SOUGHT):  # noqa: B007 - the last is returned
                pass
        return row

    def cursors(self, keys: list[bytes]) -> Any:
        """Read some rows from each key on, by a cursor."""
        db, row = self.db, None
        for key in keys:
            cursor = db.iter()
            cursor.seek(key)
            for _ in range(SOUGHT):
                if not cursor.valid():
                    break
                row = cursor.key(), cursor.value()
                cursor.next()
        return row

    def iterators(self, times: list[Any]) -> None:
        """Open an iterator so many times, and let go of it."""
        db = self.db
        for _ in times:
            db.iter()

    def snapshots(self, times: list[Any]) -> None:
        """Open a snapshot so many times, and let go of it."""
        db = self.db
        for _ in times:
            db.snapshot()

    states = snapshots


class Scoped(Dictlike):
    """What is written with blocks: the least handles, and saferocks'."""

    def batches(self, chunks: list[list[bytes]]) -> None:
        """Write the rows of each chunk as one batch."""
        db, value = self.db, self.value
        for keys in chunks:
            with db.write_batch() as batch:
                for key in keys:
                    batch[key] = value

    def scan(self, consume: Callable[[Any], Any]) -> Any:
        """Read all rows."""
        with self.db.items() as items:
            return consume(items)

    def scan_back(self, consume: Callable[[Any], Any]) -> Any:
        """Read all rows from the last to the first."""
        with self.db.items(True) as items:
            return consume(items)

    def seeks(self, keys: list[bytes]) -> Any:
        """Read some rows from each key on, by a scan."""
        db, row = self.db, None
        for key in keys:
            with db.items(False, key) as items:
                for row in islice(items, SOUGHT):  # noqa: B007 - the last is returned
                    pass
        return row

    def cursors(self, keys: list[bytes]) -> Any:
        """Read some rows from each key on, by a cursor."""
        db, row = self.db, None
        for key in keys:
            with db.iter() as cursor:
                cursor.seek(key)
                for _ in range(SOUGHT):
                    if not cursor.valid():
                        break
                    row = cursor.key(), cursor.value()
                    cursor.next()
        return row

    def iterators(self, times: list[Any]) -> None:
        """Open an iterator so many times, and release it."""
        db = self.db
        for _ in times:
            with db.iter():
                pass

    def snapshots(self, times: list[Any]) -> None:
        """Open a snapshot for point reads so many times, and release it."""
        db = self.db
        for _ in times:
            with db.snapshot():
                pass


class Least(Scoped):
    """Bare rocksdict behind the least handles; see `stress.bench.least`."""

    def open(self) -> Any:
        """Open a raw-mode database, and put the least class around it."""
        self._native = self.stack.enter_context(raw.open_plain(self.path))
        return LeastDatabase(self._native)

    def native(self) -> Any:
        """Return the native database."""
        return self._native

    def close(self) -> None:
        """Close the database."""
        del self._native
        super().close()


class Safe(Scoped):
    """saferocks, with the settings that it has when nobody sets any."""

    #: What the database is opened with, beyond that.
    settings: dict[str, Any] = {}  # noqa: RUF012 - never written to

    def open(self) -> Any:
        """Open a database with saferocks."""
        settings: dict[str, Any] = {"policy": "warn", "trace": "site"} | self.settings
        return self.stack.enter_context(saferocks.open(self.path, **settings))

    def snapshots(self, times: list[Any]) -> None:
        """Open a snapshot for point reads so many times, and release it."""
        db = self.db
        for _ in times:
            with db.snapshot(point_reads_only=True):
                pass

    def states(self, times: list[Any]) -> None:
        """Open a snapshot that can be scanned so many times, and release it."""
        db = self.db
        for _ in times:
            with db.snapshot():
                pass

    def deep(self, times: list[Any], depth: int = DEPTH) -> None:
        """Open snapshots for point reads from a line with frames above it."""
        if depth:
            self.deep(times, depth - 1)
        else:
            self.snapshots(times)


class Untraced(Safe):
    """saferocks that remembers no line."""

    settings = {"trace": "off"}  # noqa: RUF012 - never written to


class Stack(Safe):
    """saferocks that remembers all frames above the line."""

    settings = {"trace": "stack"}  # noqa: RUF012 - never written to


class Raising(Safe):
    """saferocks under the strict policy."""

    settings = {"policy": "raise"}  # noqa: RUF012 - never written to
