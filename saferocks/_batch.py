"""Write batches, and the bulk writer that never grows."""

from __future__ import annotations

from threading import RLock
from typing import TYPE_CHECKING, Any

from saferocks import _engine, _guard, _registry
from saferocks._batch_writes import BatchRecord, BatchWrites
from saferocks._handle import open_handle
from saferocks._leases import asked_for
from saferocks._process import forking
from saferocks._registry import PROCESS
from saferocks._settings import INHERITED
from saferocks.errors import LeakedHandleWarning

if TYPE_CHECKING:
    from collections.abc import Callable

    from saferocks._family_handle import ColumnFamily
    from saferocks._leases import Lease
    from saferocks._ordering import Key
    from saferocks._registry import Owner
    from saferocks._settings import Duration


class WriteBatch(BatchWrites):
    """Changes that are written as one (`WriteBatch`).

    `db.write_batch()` opens one that is committed on a clean exit from its block and discarded on
    an exception. A free-standing `WriteBatch(raw_mode=...)` is written with `db.write(batch)`.

    Args:
        raw_mode: Whether keys and values are raw bytes.
        warn_after: Seconds after which it is overdue; what `configure` says if left out.
        expire_after: Seconds after which it is released, and what it holds dropped, likewise.

    Example:
        >>> import saferocks, tempfile, os
        >>> with saferocks.open(os.path.join(tempfile.mkdtemp(), "db")) as db:
        ...     with db.write_batch() as batch:
        ...         batch[b"a"] = b"1"
        ...         batch.delete(b"b")
        ...     db[b"a"]
        b'1'
    """

    __slots__ = ("_commit",)

    _commit: Callable[[WriteBatch], None] | None

    def __init__(
        self, raw_mode: bool = False, *, warn_after: Duration = INHERITED, expire_after: Duration = INHERITED
    ) -> None:
        if not isinstance(raw_mode, bool):
            raise TypeError(f"raw_mode {raw_mode!r} is {type(raw_mode).__name__}; give True or False")
        lease = asked_for(PROCESS, warn_after, expire_after)
        self._prepare(None, PROCESS, None, raw_mode, lambda: _engine.new_batch(raw_mode), None, lease)

    def _prepare(
        self,
        parent: Any,
        owner: Owner,
        label: str | None,
        raw: bool,
        new: Callable[[], Any],
        commit: Callable[[WriteBatch], None] | None,
        lease: Lease | None,
    ) -> None:
        self._raw, self._families, self._family, self._commit = raw, set(), None, commit
        open_handle(self, parent, BatchRecord(owner, label)).acquire(new, lease)

    def _leave(self, error: BaseException | None) -> None:
        record = self._record
        if self._is_over(error):
            return
        try:
            if error is None and self._commit is not None:
                self._commit(self)
        finally:
            lost = record.loss if error is None and self._commit is None else None
            super()._leave(error)
        if lost:
            _guard.warn(
                f"write_batch opened at {_registry.format_site(record.site)} was left without being written: {lost}; "
                "call db.write(batch) inside its 'with', or open it with db.write_batch()",
                LeakedHandleWarning,
                record.site,
            )

    def __len__(self) -> int:
        return self.len()

    def len(self) -> int:
        """Return the number of operations in the batch (`WriteBatch::Count`)."""
        return int(self._ask("len"))

    def size_in_bytes(self) -> int:
        """Return the size of the batch in bytes (`WriteBatch::GetDataSize`)."""
        return int(self._ask("size_in_bytes"))

    def is_empty(self) -> bool:
        """Tell whether the batch holds no operation."""
        return bool(self._ask("is_empty"))

    def clear(self) -> None:
        """Take all operations out of the batch (`WriteBatch::Clear`)."""
        self._ask("clear")
        self._families = set() if self._family is None else {self._family}

    def set_dumps(self, dumps: Callable[[Any], bytes]) -> None:
        """Encode values of a typed batch with `dumps` where they are of no type that rocksdict stores.

        Args:
            dumps: Makes bytes of a value.
        """
        _engine.call(self._record.live.set_dumps, _engine.check_callable("dumps", dumps))

    def set_default_column_family(self, column_family: ColumnFamily | None = None) -> None:
        """Write what names no column family to this one.

        Args:
            column_family: From `db.get_column_family_handle(name)`; None for the default one.

        Raises:
            InvalidArgumentError: If the batch is for another database.
        """
        self._record.live
        if column_family is None:
            _engine.call(self._record.live.set_default_column_family, None)
        else:
            self._remember(column_family)
            self._move_to(column_family._record.owner)
            _engine.call(lambda: self._record.live.set_default_column_family(column_family._native()))
        self._family = column_family

    def _move_to(self, owner: Owner) -> None:
        """Make the batch a handle of that database, which its default column family keeps open (D5)."""
        record = self._record
        if record.owner is PROCESS:
            owner.children[record.id] = record
            record.owner = owner
            PROCESS.children.pop(record.id, None)


class BulkWriter(BatchWrites):
    """Writes any number of rows in bounded memory, as a series of batches.

    Each batch is atomic, the whole is not: after an exception, what had been flushed is in the
    database, and what had not is discarded.

    Example:
        >>> import saferocks, tempfile, os
        >>> with saferocks.open(os.path.join(tempfile.mkdtemp(), "db")) as db:
        ...     with db.bulk_writer(flush_bytes=1 << 20) as bulk:
        ...         for number in range(1000):
        ...             bulk[b"%04d" % number] = b"row"
        ...     db[b"0999"]
        b'row'
    """

    __slots__ = ("_flush_bytes", "_flushing", "_new", "_write")

    _flush_bytes: int
    #: Held from taking a batch to its end: of two threads that took the same one, the second would drop what came next.
    _flushing: RLock
    _new: Callable[[], Any]
    _write: Callable[[Any, set[ColumnFamily]], None]

    def __setitem__(self, key: Key, value: Any) -> None:
        super().__setitem__(key, value)
        self._wrote()

    def __delitem__(self, key: Key) -> None:
        super().__delitem__(key)
        self._wrote()

    def _prepare(
        self,
        parent: Any,
        owner: Owner,
        label: str | None,
        raw: bool,
        new: Callable[[], Any],
        write: Callable[[Any, set[ColumnFamily]], None],
        flush_bytes: int,
        lease: Lease | None,
    ) -> None:
        self._raw, self._families, self._family = raw, set(), None
        self._new, self._write, self._flush_bytes = new, write, flush_bytes
        self._flushing = RLock()
        open_handle(self, parent, BatchRecord(owner, label, bulk=True)).acquire(new, lease)

    def flush(self) -> None:
        """Write what has been gathered so far.

        Raises:
            EngineError: If RocksDB refuses; what was gathered is then discarded.
        """
        if self._ask("is_empty"):
            return
        with self._flushing:
            self._flush()

    def _flush(self) -> None:
        record = self._record
        if self._ask("is_empty"):  # or another thread has written it, and says so
            return
        gathered, families = record.live, self._families
        record.native = record.live = self._new()
        if forking:
            record.disable()
        if record.reason is not None:  # released since, by another thread: then nothing more is written
            record.drop(gathered)
            raise record.too_late()
        self._families = set() if self._family is None else {self._family}
        self._write(gathered, families)

    def _leave(self, error: BaseException | None) -> None:
        if self._is_over(error):
            return
        try:
            if error is None:
                self.flush()
        finally:
            super()._leave(error)

    def _wrote(self) -> None:
        if self._ask("size_in_bytes") >= self._flush_bytes:
            self.flush()
