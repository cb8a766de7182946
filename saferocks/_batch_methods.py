"""The methods by which a database opens batches and writes them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from saferocks import _engine
from saferocks._batch import BulkWriter, WriteBatch
from saferocks._batch_writes import BatchWrites, foreign_family
from saferocks._family_methods import FamilyMethods
from saferocks._handle import blank
from saferocks._leases import asked_for
from saferocks._life import release
from saferocks._registry import Reason
from saferocks._settings import INHERITED
from saferocks.errors import EngineError, ModeMismatchError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from saferocks._engine import WriteOptions
    from saferocks._family_handle import ColumnFamily
    from saferocks._handle import Scope
    from saferocks._settings import Duration

_DEFAULT_FLUSH_BYTES = 8 << 20


class BatchMethods(FamilyMethods):
    """Openers of batches, and their commit."""

    __slots__ = ()

    def write_batch(
        self,
        *,
        label: str | None = None,
        warn_after: Duration = INHERITED,
        expire_after: Duration = INHERITED,
    ) -> Scope[WriteBatch]:
        """Open a batch that is written as one on a clean exit, and discarded on an exception (`Write`).

        Opened from a column family, it writes there what names no other.

        Args:
            label: A name for it in reports.
            warn_after: Seconds after which it is overdue; see `items`.
            expire_after: Seconds after which it is released, see `items`; what it holds is then not written,
                and leaving its `with` raises HandleExpiredError.

        Returns:
            A scope; enter it to fill the batch, leave it to write it.

        Raises:
            ReadOnlyError: If the database is open for reading.
        """
        self._record.live
        record = self._main._record
        record.owner.check_writable("write_batch()")
        lease = asked_for(record.owner, warn_after, expire_after)
        batch = blank(WriteBatch)
        batch._prepare(self._main, record.owner, label, self._raw, self._new_batch, self._main._commit, lease)
        self._make_default(batch)
        return batch

    def bulk_writer(
        self,
        *,
        flush_bytes: int = _DEFAULT_FLUSH_BYTES,
        label: str | None = None,
        warn_after: Duration = INHERITED,
        expire_after: Duration = INHERITED,
    ) -> Scope[BulkWriter]:
        """Open a writer for any number of rows in bounded memory.

        It is not atomic: it writes one batch after the other, and what was written stays. Opened
        from a column family, it writes there what names no other.

        Args:
            flush_bytes: Size at which a batch is written.
            label: A name for it in reports.
            warn_after: Seconds after which it is overdue; see `items`.
            expire_after: Seconds after which it is released, as for `write_batch`; what it has flushed stays.

        Returns:
            A scope; enter it to write, leave it to write the last of it.

        Raises:
            ValueError: If `flush_bytes` is not positive.
            ReadOnlyError: If the database is open for reading.
        """
        if isinstance(flush_bytes, bool) or not isinstance(flush_bytes, int):
            raise TypeError(f"flush_bytes is {flush_bytes!r}; give a number of bytes")
        if flush_bytes <= 0:
            raise ValueError(f"flush_bytes is {flush_bytes}; give a positive number of bytes")
        self._record.live
        record = self._main._record
        record.owner.check_writable("bulk_writer()")
        lease = asked_for(record.owner, warn_after, expire_after)
        bulk = blank(BulkWriter)
        main = self._main
        bulk._prepare(main, record.owner, label, self._raw, self._new_batch, main._write_native, flush_bytes, lease)
        self._make_default(bulk)
        return bulk

    def _name_default_family(self, native: Any) -> None:
        """Tell a native batch the default column family by its handle."""
        _engine.call(lambda: native.set_default_column_family(self._default_handle()))

    def _default_handle(self) -> Any:
        return self._record.live.get_column_family_handle(_engine.DEFAULT_FAMILY)

    def _new_batch(self) -> Any:
        native = _engine.new_batch(self._raw)
        if self._record.owner.dumps is not None:
            native.set_dumps(self._record.owner.dumps)
        if self._record.family != _engine.DEFAULT_FAMILY:  # what names no family goes where it was opened
            native.set_default_column_family(self._main._record.live.get_column_family_handle(self._record.family))
        return native

    def _make_default(self, batch: BatchWrites) -> None:
        """Note that a batch of a column family refers to it."""
        if self._record.family != _engine.DEFAULT_FAMILY:
            batch._family = self.get_column_family_handle(self._record.family)
            batch._families = {batch._family}

    def write(self, write_batch: WriteBatch, write_opt: WriteOptions | None = None) -> None:
        """Write a batch as one, and release it (`Write`).

        Args:
            write_batch: The batch; afterwards it is used up, whether the write succeeded or not.
            write_opt: How RocksDB writes.

        Raises:
            ModeMismatchError: If the batch is of the other mode.
            InvalidArgumentError: If it refers to a column family of another database (D16).
            ColumnFamilyDroppedError: If it refers to one that was dropped (D19).

        Example:
            >>> import saferocks, tempfile, os
            >>> with saferocks.open(os.path.join(tempfile.mkdtemp(), "db")) as db:
            ...     with saferocks.WriteBatch(raw_mode=True) as batch:
            ...         batch[b"a"] = b"1"
            ...         db.write(batch)
            ...     db[b"a"]
            b'1'
        """
        if not isinstance(write_batch, WriteBatch):
            raise TypeError(f"write_batch is {type(write_batch).__name__}; give a saferocks.WriteBatch")
        self._record.live
        self._main._commit(write_batch, write_opt)

    def _commit(self, batch: WriteBatch, write_opt: WriteOptions | None = None) -> None:
        if batch._raw != self._raw:
            raise ModeMismatchError(
                f"must set raw_mode={self._raw} for WriteBatch: the batch has raw_mode={batch._raw}, the database "
                f"at {self._record.owner.name!r} has raw_mode={self._raw}"
            )
        self._record.owner.check_writable("write()")
        batch._record.live
        with self._unchanged(batch._families):
            try:
                _engine.call(self._record.sink.write, batch._record.live, write_opt)
            except EngineError:
                release(batch._record, Reason.FAILED)  # rocksdict has used it up
                raise
        release(batch._record, Reason.COMMITTED)

    def _write_native(self, native: Any, families: Iterable[ColumnFamily]) -> None:
        with self._unchanged(families):
            _engine.call(self._record.sink.write, native)

    @contextmanager
    def _unchanged(self, families: Iterable[ColumnFamily]) -> Iterator[None]:
        """Check the column families of a batch, and let none of them be dropped before it is written.

        What is refused here has not reached RocksDB, and the batch is as it was.
        """
        self._record.sink
        if not families:
            yield
            return
        owner = self._record.owner
        with owner.lock:
            for family in families:
                if family._record.owner is not owner:
                    raise foreign_family(family, owner)
                family._record.live
            yield
