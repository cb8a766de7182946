"""The cursor that `iter` opens: seek to a row, read it, step on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from saferocks import _engine, _in_use, _registry
from saferocks._cursor import BoundedCursor, SharedCursor
from saferocks._handle import LeasedHandle
from saferocks._life import HandleRecord, release
from saferocks._process import see
from saferocks._registry import Reason
from saferocks.errors import ConcurrentUseError, InvalidArgumentError, SaferocksError

if TYPE_CHECKING:
    from collections.abc import Callable

    from saferocks._leases import Lease
    from saferocks._ordering import Bounds, Key


def join_snapshot(record: HandleRecord) -> None:
    """Make a record end with the snapshot through whose cursor it reads."""
    record.receiver = "snap"
    pinned = record.native
    if pinned is not None:
        pinned.users[record.id] = record
        if pinned.native is None:  # the snapshot was released since
            release(record, Reason.SNAPSHOT_EXPIRED if pinned.expired else Reason.SNAPSHOT_RELEASED)
        if record.reason is None:
            return
        pinned.users.pop(record.id, None)
        del pinned
    # Released since: by its database's close, or with its snapshot.
    raise record.closed_error()


class CursorRecord(HandleRecord):
    """The record of a cursor without bounds.

    Attributes:
        still: Set by the opener, and unset while the cursor moves. A step is two native calls, a look
            whether there is a row and the step itself; a second thread in between could make the
            step crash (D21). To unset what is set is atomic: of all racing threads one goes on. It takes
            a sixth of the time of a lock, and from Python 3.11 on no interrupt comes before the `try` that
            sets it again.
    """

    __slots__ = ("still",)

    still: None
    kind = "iterator"

    @property
    def remedy(self) -> str:
        """The line to write instead."""
        return f"with {self.receiver}.iter() as cursor:"

    def is_busy(self) -> bool:
        """Tell whether a call is decoding a row."""
        native = self.native
        return native is not None and _in_use.is_busy_cursor(native)


class BoundedCursorRecord(CursorRecord):
    """The record of a cursor with bounds."""

    __slots__ = ("bounds",)

    bounds: Bounds

    def activate(self, native: Any) -> Any:
        """Return a cursor that keeps to its bounds."""
        return BoundedCursor(native, self.bounds)


class SharedCursorRecord(BoundedCursorRecord):
    """The record of a cursor of a snapshot, which moves the snapshot's cursor.

    Attributes:
        shared: The cursor with a position of its own; None until the handle is used.
    """

    __slots__ = ("shared",)

    shared: Any

    def is_busy(self) -> bool:
        """Leave the answer to the snapshot."""
        return False

    def is_referred_to(self) -> bool:
        """Leave that to the snapshot too, which goes on referring to its cursor."""
        return False

    def acquire(self, acquire: Callable[[], Any], lease: Lease | None = None) -> None:
        """Get hold of the snapshot's cursor."""
        self.shared = None
        super().acquire(acquire, lease)
        join_snapshot(self)

    def activate(self, native: Any) -> Any:
        """Return a cursor with a position of its own."""
        shared = self.shared  # once: a release takes it away
        if shared is None:
            self.shared = shared = SharedCursor(native, self.bounds)
        return shared if self.bounds.is_open else BoundedCursor(shared, self.bounds)

    def deactivate(self) -> None:
        """Let go of the cursor that refers to the snapshot's."""
        self.shared = None

    def dispose(self, native: Any) -> None:
        """Let go of the snapshot's cursor."""
        self.shared = None
        if native is not None:
            native.users.pop(self.id, None)


class RdictIter(LeasedHandle[CursorRecord]):
    """A cursor (`Iterator`): seek to a row, read it, step on.

    Example:
        >>> import saferocks, tempfile, os
        >>> path = os.path.join(tempfile.mkdtemp(), "db")
        >>> with saferocks.open(path) as db:
        ...     db[b"a"], db[b"b"] = b"1", b"2"
        ...     with db.iter() as cursor:
        ...         cursor.seek(b"b")
        ...         cursor.key(), cursor.value()
        (b'b', b'2')
    """

    __slots__ = ()

    # No variable of these methods refers to a native object: see `_engine.failure`.

    def valid(self) -> bool:
        """Tell whether the cursor is on a row.

        Raises:
            EngineError: If it is not because of an error; at the mere end it is False.
        """
        if (self._record.direct or self._record.live).valid():
            return True
        self.status()
        return False

    def status(self) -> None:
        """Raise the error that stopped the cursor, if one did (`Iterator::status`).

        Raises:
            EngineError: RocksDB's error.
        """
        _engine.call(self._record.live.status)

    def seek_to_first(self) -> None:
        """Go to the first row (`SeekToFirst`)."""
        self._move("seek_to_first")

    def seek_to_last(self) -> None:
        """Go to the last row (`SeekToLast`)."""
        self._move("seek_to_last")

    def seek(self, key: Key) -> None:
        """Go to the first row at or after a key (`Seek`).

        Args:
            key: The key; there may be no such row.

        Raises:
            TypeError: If the database cannot hold such a key.
        """
        record = self._record  # written out, being the one that is called for each cursor
        try:
            del record.still
        except AttributeError:
            raise self._in_use() from None
        try:
            (record.direct or record.live).seek(key)
        except BaseException as error:  # noqa: BLE001 - see above
            failure = _engine.failure(error)
        else:
            return
        finally:
            record.still = None
        _engine.throw(failure)

    def seek_for_prev(self, key: Key) -> None:
        """Go to the last row at or before a key (`SeekForPrev`).

        Args:
            key: The key; there may be no such row.

        Raises:
            TypeError: If the database cannot hold such a key.
        """
        self._move("seek_for_prev", key)

    def next(self) -> None:
        """Go to the next row (`Next`).

        Raises:
            InvalidArgumentError: If the cursor is not on a row.
        """
        record = self._record
        try:
            del record.still
        except AttributeError:
            raise self._in_use() from None
        try:
            if (record.direct or record.live).valid():  # D21: off the rows, rocksdict crashes the process
                (record.direct or record.live).next()
                return
            failure = [self._off_the_rows("next")]
        except BaseException as error:  # noqa: BLE001 - raised below, see `_engine.failure`
            failure = _engine.failure(error)
        finally:
            record.still = None
        _engine.throw(failure)

    def prev(self) -> None:
        """Go to the previous row (`Prev`).

        Raises:
            InvalidArgumentError: If the cursor is not on a row.
        """
        record = self._record
        try:
            del record.still
        except AttributeError:
            raise self._in_use() from None
        try:
            if (record.direct or record.live).valid():  # D21
                (record.direct or record.live).prev()
                return
            failure = [self._off_the_rows("prev")]
        except BaseException as error:  # noqa: BLE001 - see above
            failure = _engine.failure(error)
        finally:
            record.still = None
        _engine.throw(failure)

    def _move(self, method: str, *arguments: Any) -> None:
        record = self._record
        try:
            del record.still
        except AttributeError:
            raise self._in_use() from None
        try:
            getattr(record.live, method)(*arguments)
        except BaseException as error:  # noqa: BLE001 - see above
            failure = _engine.failure(error)
        else:
            return
        finally:
            record.still = None
        _engine.throw(failure)

    def _in_use(self) -> SaferocksError:
        see()
        if self._record.reason is Reason.FORKED:  # it was in use by a thread of the parent's
            return self._record.closed_error()
        where = _registry.format_site(self._record.site)
        return ConcurrentUseError(
            f"iterator opened at {where} is being moved by another thread; open one for each thread"
        )

    def key(self) -> Key:
        """Return the key of the row, or None off the rows."""
        try:
            found = (self._record.direct or self._record.live).key()
        except BaseException as error:  # noqa: BLE001 - see above
            failure = _engine.failure(error)
        else:
            return found if found is not None else self._nothing()
        _engine.throw(failure)

    def value(self) -> Any:
        """Return the value of the row, or None off the rows."""
        try:
            found = (self._record.direct or self._record.live).value()
        except BaseException as error:  # noqa: BLE001 - see above
            failure = _engine.failure(error)
        else:
            return found if found is not None else self._nothing()
        _engine.throw(failure)

    def columns(self) -> Any:
        """Return the wide columns of the row, or None off the rows."""
        try:
            found = self._record.live.columns()
        except BaseException as error:  # noqa: BLE001 - see above
            failure = _engine.failure(error)
        else:
            return found if found is not None else self._nothing()
        _engine.throw(failure)

    def _nothing(self) -> None:
        """Raise if an error, and not the end, is why there is no row (D4)."""
        self.valid()

    def _off_the_rows(self, step: str) -> BaseException:
        try:
            self.status()
        except Exception as error:  # noqa: BLE001 - the caller raises it
            return error
        where = _registry.format_site(self._record.site)
        return InvalidArgumentError(
            f"Invalid argument: {step}() on an iterator that is not on a row (opened at {where}); "
            "seek first, and stop when valid() is False",
            code=4,
        )
