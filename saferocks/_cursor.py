"""Cursors over one column family: bounded ones, and ones that share a pinned native cursor.

All have the methods of a native cursor (`RdictIter`), so that each can stand where another does.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from saferocks import _engine
from saferocks._ordering import check_key
from saferocks.errors import ConcurrentUseError, HandleClosedError, HandleExpiredError

if TYPE_CHECKING:
    from collections.abc import Callable

    from saferocks._ordering import Bounds, Key

#: Stands for "no key yet"; None is what native cursors return off the rows.
NOTHING: Any = object()

_CHUNK_BYTES = 1 << 20


def seek_start(cursor: Any, backwards: bool, bounds: Bounds, from_key: Key) -> None:
    """Put a cursor on the first row of a scan."""
    start = bounds.start(backwards, from_key)
    if start is None:
        (cursor.seek_to_last if backwards else cursor.seek_to_first)()
    elif not backwards:
        cursor.seek(start)
    else:
        cursor.seek_for_prev(start)
        above = bounds.above()  # the upper bound is exclusive, and may be the key we are on
        if above is not None and cursor.valid() and above(cursor.key()):
            cursor.prev()


def seek_after(cursor: Any, backwards: bool, bounds: Bounds, key: Key) -> None:
    """Put a cursor on the row that follows `key` in the direction of a scan."""
    (cursor.seek_for_prev if backwards else cursor.seek)(key)
    if cursor.valid() and bounds.order(cursor.key()) == bounds.order(key):
        (cursor.prev if backwards else cursor.next)()


class BoundedCursor:
    """A cursor that never leaves its bounds (D2, D3: native bounds do not hold)."""

    __slots__ = ("_above", "_below", "_bounds", "_cursor")

    def __init__(self, cursor: Any, bounds: Bounds) -> None:
        self._cursor = cursor
        self._bounds = bounds
        self._below = bounds.below()
        self._above = bounds.above()

    def valid(self) -> bool:
        """Tell whether the cursor is on a row within its bounds."""
        if not self._cursor.valid():
            return False
        key = self._cursor.key()
        below, above = self._below, self._above
        return not ((below is not None and below(key)) or (above is not None and above(key)))

    def status(self) -> None:
        """Raise the error that stopped the cursor, if one did."""
        self._cursor.status()

    def seek_to_first(self) -> None:
        """Go to the first row within the bounds."""
        seek_start(self._cursor, False, self._bounds, None)

    def seek_to_last(self) -> None:
        """Go to the last row within the bounds."""
        seek_start(self._cursor, True, self._bounds, None)

    def seek(self, key: Key) -> None:
        """Go to the first row at or after a key."""
        check_key(key, self._bounds.raw)
        seek_start(self._cursor, False, self._bounds, key)

    def seek_for_prev(self, key: Key) -> None:
        """Go to the last row at or before a key."""
        check_key(key, self._bounds.raw)
        seek_start(self._cursor, True, self._bounds, key)

    def next(self) -> None:
        """Go to the next row."""
        self._cursor.next()

    def prev(self) -> None:
        """Go to the previous row."""
        self._cursor.prev()

    def key(self) -> Key:
        """Return the key, or None off the rows."""
        return self._cursor.key() if self.valid() else None

    def value(self) -> Any:
        """Return the value, or None off the rows."""
        return self._cursor.value() if self.valid() else None

    def columns(self) -> Any:
        """Return the wide columns, or None off the rows."""
        return self._cursor.columns() if self.valid() else None


class PinnedCursor:
    """One native cursor that any number of scans share, each remembering its own place.

    The lock guards the native cursor's position: `_holder` is whose position that is. A scan
    that finds another's there seeks back to its own first.

    Attributes:
        native: The native cursor; None once the snapshot has been released.
        expired: Whether the snapshot's lease has run out, so that scans are to end.
        users: The records that read through it, by id, to be released with the snapshot.
    """

    __slots__ = ("_holder", "_lock", "_owner", "expired", "native", "users")

    def __init__(self, native: Any) -> None:
        self.native = native
        self.expired = False
        self.users: dict[int, Any] = {}
        self._lock = threading.Lock()
        self._owner = 0
        self._holder: object = None

    def use(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function with the native cursor, and let no other thread use that meanwhile.

        The lock is the context manager itself: Ctrl-C comes neither between its acquisition and the `with`, nor
        before its release, as it would in methods of ours.

        Raises:
            ConcurrentUseError: If this thread is using it already, further up its stack.
            HandleClosedError: If the snapshot has been released.
        """
        me = threading.get_ident()
        if self._owner == me:  # a decoder or finalizer of this thread came back in: waiting would never end
            raise ConcurrentUseError("a scan of this snapshot is being read by this very thread, further up its stack")
        with self._lock:
            try:
                self._owner = me
                native = self.native  # once: a release takes it away without waiting for the lock
                if native is None:  # the snapshot was released while we waited
                    raise self._released()
                return work(native, *arguments)
            finally:
                self._owner = 0

    def _released(self) -> HandleClosedError:
        if self.expired:
            return HandleExpiredError("the lease of the snapshot ran out; give it a longer expire_after")
        return HandleClosedError("the snapshot was released; use its scans inside its 'with'")

    def is_locked(self) -> bool:
        """Tell whether a call is using the cursor."""
        return self._lock.locked()

    def at(self, holder: object) -> bool:
        """Tell whether the position is the one `holder` left; call under the lock."""
        return self._holder is holder

    def hold(self, holder: object) -> None:
        """Note whose position this is; call under the lock."""
        self._holder = holder

    def chunk(self, place: Place, rows: int) -> list[Any]:
        """Read on from a scan's place: up to `rows` rows and about 1 MiB, none at its end.

        Raises:
            Exception: RocksDB's error, untranslated, if the scan is cut short.
        """
        return self.use(self._read_on, place, rows)  # type: ignore[no-any-return]

    def _read_on(self, cursor: Any, place: Place, rows: int) -> list[Any]:
        if self._holder is not place:
            self._holder = None
            place.seek(cursor)
        found = place.read(cursor, rows)
        self._holder = place if found else None
        return found


class Place:
    """Where a scan over a shared cursor is, and what it takes from each row.

    Attributes:
        last: The key of the last row that was read.
    """

    __slots__ = ("_above", "_backwards", "_below", "_bounds", "_from_key", "_pick", "last")

    def __init__(self, backwards: bool, bounds: Bounds, from_key: Key, pick: Callable[[Any, Key], Any]) -> None:
        self._backwards = backwards
        self._bounds = bounds
        self._from_key = from_key
        self._pick = pick
        self._below = bounds.below() if backwards else None
        self._above = None if backwards else bounds.above()
        self.last: Key = NOTHING

    def seek(self, cursor: Any) -> None:
        """Put the cursor where this scan goes on."""
        if self.last is NOTHING:
            seek_start(cursor, self._backwards, self._bounds, self._from_key)
        else:
            seek_after(cursor, self._backwards, self._bounds, self.last)

    def read(self, cursor: Any, rows: int) -> list[Any]:
        """Read rows from the cursor's position on, and leave it on the first unread one."""
        valid, get_key, step = cursor.valid, cursor.key, cursor.prev if self._backwards else cursor.next
        outside = self._below or self._above
        found: list[Any] = []
        size = 0
        while len(found) < rows and size < _CHUNK_BYTES:
            if not valid():
                if not found:  # else the next chunk, which starts here, asks
                    cursor.status()  # raises if this is no end but an error (D4)
                break
            try:
                key = get_key()
                if outside is not None and outside(key):
                    break
                row = self._pick(cursor, key)
            except Exception as error:
                # First come the rows before it; the next chunk meets it again, unless it came from a signal handler.
                if found and not (_engine.is_interrupt(error) and self._is_readable(cursor, get_key)):
                    break
                raise
            found.append(row)
            size += size_of(row)
            self.last = key
            step()
        return found

    def _is_readable(self, cursor: Any, get_key: Callable[[], Any]) -> bool:
        """Tell whether the row can be read, once an error has come that may be nothing of its own."""
        try:
            self._pick(cursor, get_key())
        except Exception:  # noqa: BLE001 - which the next chunk raises
            return False
        return True


def size_of(row: Any) -> int:
    """Estimate the bytes of a row; what has no length counts as nothing."""
    if isinstance(row, (bytes, str)):
        return len(row)
    size = 0
    if isinstance(row, (tuple, list)):
        for part in row:  # a key and its value most often, for which calls would take three times as long
            size += len(part) if type(part) is bytes else size_of(part)
    return size


class SharedCursor:
    """A cursor of its own position over a pinned native cursor that scans share."""

    __slots__ = ("_key", "_order", "_pinned")

    def __init__(self, pinned: PinnedCursor, bounds: Bounds) -> None:
        self._pinned = pinned
        self._order = bounds.order
        self._key: Key = NOTHING

    # While the native cursor moves its position is nobody's: an interrupt would leave it somewhere else. The key
    # is set last: a move that was interrupted has not taken place, and the next use seeks back.

    def _moved(self, method: str, *arguments: Any) -> None:
        self._pinned.use(self._move, method, arguments)

    def _move(self, cursor: Any, method: str, arguments: tuple[Any, ...]) -> None:
        self._pinned.hold(None)
        getattr(cursor, method)(*arguments)
        if cursor.valid():
            self._key = cursor.key()
            self._pinned.hold(self)
        else:
            self._key = NOTHING
            cursor.status()  # now: another scan's next move would wipe it out

    def _return(self, cursor: Any) -> bool:
        """Put the native cursor back on this cursor's row; False if it is on none."""
        if self._key is NOTHING:
            return False
        if not self._pinned.at(self):
            self._pinned.hold(None)
            cursor.seek(self._key)
            self._pinned.hold(self)
        return bool(cursor.valid())

    def _stepped(self, method: str) -> None:
        self._pinned.use(self._step, method)

    def _step(self, cursor: Any, method: str) -> None:
        if self._return(cursor):
            self._move(cursor, method, ())

    def _read(self, method: str) -> Any:
        return self._pinned.use(self._read_row, method)

    def _read_row(self, cursor: Any, method: str) -> Any:
        return getattr(cursor, method)() if self._return(cursor) else None

    def valid(self) -> bool:
        """Tell whether the cursor is on a row."""
        return self._key is not NOTHING

    def status(self) -> None:
        """Do nothing: the move that met an error has raised it."""

    def seek_to_first(self) -> None:
        """Go to the first row."""
        self._moved("seek_to_first")

    def seek_to_last(self) -> None:
        """Go to the last row."""
        self._moved("seek_to_last")

    def seek(self, key: Key) -> None:
        """Go to the first row at or after a key."""
        self._moved("seek", key)

    def seek_for_prev(self, key: Key) -> None:
        """Go to the last row at or before a key."""
        self._moved("seek_for_prev", key)

    def next(self) -> None:
        """Go to the next row."""
        self._stepped("next")

    def prev(self) -> None:
        """Go to the previous row."""
        self._stepped("prev")

    def key(self) -> Key:
        """Return the key, or None off the rows."""
        key = self._key  # once: a thread that moves the cursor takes it away first
        return None if key is NOTHING else key

    def value(self) -> Any:
        """Return the value, or None off the rows."""
        return self._read("value")

    def columns(self) -> Any:
        """Return the wide columns, or None off the rows."""
        return self._read("columns")
