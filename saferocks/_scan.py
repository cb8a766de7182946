"""Scans: `items`, `keys`, `values`, `columns` and `entities`.

A scan hands Python's `for` a chain of two C-level iterators: a generator over the native scan,
and a tail. The generator makes rows nearly as fast as rocksdict does and can be closed from any
thread, which drops the native iterator at once. Whatever ends the generator, the chain then asks
the tail, which knows whether the scan was complete, failed or was released, and raises
accordingly: so a scan that was cut short never looks finished (D4), and goes on raising.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import chain
from threading import get_ident
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from saferocks import _registry
from saferocks._cursor import Place
from saferocks._handle import LeasedHandle, blank
from saferocks._iterator import join_snapshot
from saferocks._life import HandleRecord
from saferocks._registry import EXHAUSTED
from saferocks._rows import PARTS, bounded_rows, close, interrupted, part_rows, pinned_rows, try_to_close, whole_rows
from saferocks.errors import ConcurrentUseError

if TYPE_CHECKING:
    from collections.abc import Callable

    from saferocks._leases import Lease
    from saferocks._ordering import Bounds, Key

Row = TypeVar("Row")


def _pick_item(cursor: Any, key: Key) -> tuple[Key, Any]:
    return key, cursor.value()


def _pick_key(cursor: Any, key: Key) -> Key:
    return key


def _pick_value(cursor: Any, key: Key) -> Any:
    return cursor.value()


def _pick_columns(cursor: Any, key: Key) -> Any:
    return cursor.columns()


def _pick_entity(cursor: Any, key: Key) -> tuple[Key, Any]:
    return key, cursor.columns()


_PICKS: dict[str, Callable[[Any, Key], Any]] = {
    "items": _pick_item,
    "keys": _pick_key,
    "values": _pick_value,
    "columns": _pick_columns,
    "entities": _pick_entity,
}
#: Which native scan to read for each method: one whose rows carry the key, which says where it ended.
NATIVE_SCANS = {"items": "items", "keys": "keys", "values": "items", "columns": "entities", "entities": "entities"}


class ScanRecord(HandleRecord):
    """The record of a scan.

    Attributes:
        failure: The error that ended the scan, raised again by every later use.
        free: Set while no thread iterates. To unset it is how a thread begins: see `CursorRecord.still`.
        reader: The thread whose chain has unset `free`.
        rows: The generator of the rows; None until the scan is entered, and once it is over.
    """

    __slots__ = ("backwards", "bounds", "failure", "free", "from_key", "method", "reader", "rows")

    kind = "iterator"

    method: str
    backwards: bool
    bounds: Bounds
    from_key: Key
    failure: BaseException | None
    rows: Any
    free: None
    reader: int

    def begin(self, method: str, backwards: bool, bounds: Bounds, from_key: Key) -> None:
        """Fill in what a scan has beside what `register` does; before that."""
        self.method = method
        self.backwards = backwards
        self.bounds = bounds
        self.from_key = from_key
        self.failure = None
        self.rows = None
        self.reader = 0
        self.free = None

    @property
    def remedy(self) -> str:
        """The line to write instead."""
        return f"with {self.receiver}.{self.method}() as {self.method}:"

    def place(self) -> Place:
        """Return a fresh place at the start of this scan."""
        return Place(self.backwards, self.bounds, self.from_key, _PICKS[self.method])

    def activate(self, native: Any) -> Generator[Any, None, None]:
        """Return the generator of the rows."""
        if (rows := self.rows) is not None:
            return rows  # type: ignore[no-any-return]
        if not self.bounds.is_open:
            rows = bounded_rows(self)
        elif self.method in PARTS:
            rows = part_rows(self)
        else:
            rows = whole_rows(self)
        self.rows = rows
        return rows

    def limit(self) -> Lease | None:
        """Return the lease that the rows have to look at, if it ever ends them.

        Code in C, such as `list`, gives the watcher no moment between two rows to take the generator away.
        """
        lease = self.lease
        return None if lease is None or lease.expire_after is None else lease

    def is_busy(self) -> bool:
        """Tell whether a thread is taking a row."""
        rows = self.rows  # which a release by another thread takes away
        return rows is not None and bool(rows.gi_running)

    def after_release(self) -> Any:
        """A scan that is complete stays complete."""
        if self.reason is EXHAUSTED:
            return iter(())
        return super().after_release()

    def dispose(self, native: Any) -> None:
        """Close the generator, and with its frame drop the native iterators."""
        rows = self.rows
        # A scan that is exhausted is released by the generator itself.
        if rows is not None and self.reason is not EXHAUSTED and not try_to_close(rows):
            close(rows)
        self.rows = None  # last: whoever interrupts this finds it, and does it again

    def deactivate(self) -> None:
        """Close a generator that came after the release had looked for one, and is in a circle with this record.

        A release that is still under way may find it too; to be closed twice does no harm.
        """
        self.dispose(None)

    def abandon(self) -> None:
        """Leave the scan to the parent, in a forked child; what iterates over it asks the tail next."""
        super().abandon()
        rows, self.rows = self.rows, None
        if rows is not None:
            try_to_close(rows)  # a thread that is no more may have been taking a row

    def end(self) -> StopIteration | BaseException:
        """Say how the scan ended, once its generator has."""
        if self.failure is not None:
            return self.failure.with_traceback(None)
        if self.reason is EXHAUSTED:
            return StopIteration()
        if self.id in _registry.records and not self.owner.closing and not self.is_expired():  # nobody has released it
            return interrupted("an exception")  # which came before the generator's `try`, and so was not noted
        return self.closed_error()


class SharedScanRecord(ScanRecord):
    """The record of a scan of a snapshot, which reads through the snapshot's cursor.

    Attributes:
        outer: The lease of the snapshot, which ends the scan as well.
    """

    __slots__ = ("outer",)

    outer: Lease | None

    def is_referred_to(self) -> bool:
        """Leave that to the snapshot, which goes on referring to its cursor."""
        return False

    def acquire(self, acquire: Callable[[], Any], lease: Lease | None = None) -> None:
        """Get hold of the snapshot's cursor."""
        super().acquire(acquire, lease)
        join_snapshot(self)

    def activate(self, native: Any) -> Generator[Any, None, None]:
        """Return the generator that shares the snapshot's cursor."""
        if (rows := self.rows) is not None:
            return rows  # type: ignore[no-any-return]
        self.rows = rows = pinned_rows(self)
        return rows

    def is_expired(self) -> bool:
        """Tell whether its own lease or the snapshot's has run out."""
        pinned = self.native  # once: a release takes it away, after it has said why
        if self.reason is None and pinned is not None and pinned.expired:
            return True
        return super().is_expired()

    def dispose(self, native: Any) -> None:
        """Close the generator, and let go of the snapshot's cursor."""
        if native is not None:
            native.users.pop(self.id, None)
        super().dispose(native)


class _Tail:
    """What a scan's chain asks once the generator has ended; keeps the handle alive until then.

    Only one thread at a time may have a chain: a second one would find the generator running. The
    first chain of a thread unsets the record's `free`, and sets it again when it is dropped, which a
    loop does when it ends or is left.
    """

    __slots__ = ("_is_first", "_scan")

    def begin(self, scan: Scan[Any], record: ScanRecord) -> None:
        """Be the one thread that iterates, or find out who is."""
        self._scan = scan
        self._is_first = False
        me = get_ident()  # before: after what follows no call is left in which an interrupt could come
        try:
            del record.free  # atomic
        except AttributeError:
            if record.reader != me and record.reason is None:
                where = _registry.format_site(record.site)
                raise ConcurrentUseError(
                    f"iterator opened at {where} is being iterated by another thread; open one for each thread"
                ) from None
        else:
            self._is_first = True
            record.reader = me

    def __del__(self) -> None:
        try:
            is_first = self._is_first
        except AttributeError:  # half-built: it has begun nothing
            return
        if is_first:
            record = self._scan._record
            record.reader = 0  # first: whoever finds it not free looks at this
            record.free = None

    def __iter__(self) -> _Tail:
        return self

    def __next__(self) -> Any:
        raise self._scan._record.end()


class Scan(LeasedHandle[ScanRecord], Iterator[Row], Generic[Row]):
    """Rows in key order, or in reverse; enter it, then iterate.

    It sees the state of the moment at which it was opened. After its release not one more row
    comes out: the next step raises HandleClosedError. It is for one thread at a time: a second one
    that iterates gets ConcurrentUseError, or from the very same `iter(scan)` Python's own
    `ValueError: generator already executing`.
    """

    __slots__ = ()

    def __iter__(self) -> Iterator[Row]:
        record = self._record
        rows = record.direct or record.live
        tail = blank(_Tail)
        tail.begin(self, record)
        if record.reason is not None:  # it ended since: the generator may be on its last steps elsewhere
            rows = record.after_release()
        return chain(rows, tail)

    def __next__(self) -> Row:
        record = self._record
        rows = record.direct or record.live
        try:
            row: Row = next(rows)
        except StopIteration:
            raise record.end() from None
        except ValueError as error:
            # By its text: the other thread may have left the generator since.
            if error.args == ("generator already executing",):
                where = _registry.format_site(record.site)
                raise ConcurrentUseError(
                    f"iterator opened at {where} is in use by another thread; open one for each thread"
                ) from error
            raise
        return row


class RdictItems(Scan[tuple[Any, Any]]):
    """Keys and values, as `(key, value)`."""

    __slots__ = ()


class RdictKeys(Scan[Any]):
    """Keys."""

    __slots__ = ()


class RdictValues(Scan[Any]):
    """Values."""

    __slots__ = ()


class RdictColumns(Scan[list[tuple[Any, Any]]]):
    """Wide columns, as lists of `(name, value)`."""

    __slots__ = ()


class RdictEntities(Scan[tuple[Any, list[tuple[Any, Any]]]]):
    """Keys and wide columns, as `(key, [(name, value), ...])`."""

    __slots__ = ()


SCANS: dict[str, type[Scan[Any]]] = {
    "items": RdictItems,
    "keys": RdictKeys,
    "values": RdictValues,
    "columns": RdictColumns,
    "entities": RdictEntities,
}
