"""What write batches and bulk writers have in common: the record, the writing methods, how they are left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from saferocks import _engine, _in_use, _ordering, _registry
from saferocks._handle import LeasedHandle
from saferocks._life import HandleRecord, release
from saferocks._process import forking, see
from saferocks._registry import PROCESS, Reason
from saferocks.errors import HandleClosedError, InvalidArgumentError, add_note

if TYPE_CHECKING:
    from types import TracebackType

    from saferocks._family_handle import ColumnFamily
    from saferocks._ordering import Key
    from saferocks._registry import Owner

#: Releases by which the owner of a batch has said what becomes of it.
_DECIDED = frozenset({Reason.COMMITTED, Reason.FAILED, Reason.EXITED})


class BatchRecord(HandleRecord):
    """The record of a write batch.

    Attributes:
        bulk: Whether it is a bulk writer's.
        lost: What was lost when it was taken away before it could be written.
    """

    __slots__ = ("bulk", "lost")

    kind = "write_batch"

    def __init__(self, owner: Owner, label: str | None, *, bulk: bool = False) -> None:
        self.bulk = bulk
        self.lost: str | None = None
        super().__init__(owner, label)

    @property
    def note(self) -> str | None:
        """What the batch holds."""
        held = _in_words(self.native)
        return None if held is None else f"{held[0]}, not yet written"

    @property
    def loss(self) -> str | None:
        """What is lost if the batch is dropped now."""
        held = _in_words(self.native)
        return None if held is None else f"{held[0]} {held[1]} dropped"

    def is_busy(self) -> bool:
        """Tell whether a call is encoding a value."""
        native = self.native
        return native is not None and _in_use.is_busy_batch(native)

    def drop(self, native: Any) -> None:
        """Remember that a native batch is lost which this record does not own any more."""
        held = _in_words(native)
        if held is not None:
            self.lost = f"{held[0]} {held[1]} dropped"
        self.native = None

    def dispose(self, native: Any) -> None:
        """Remember what is lost, unless its owner has written or discarded it."""
        if self.reason not in _DECIDED:
            self.lost = self.loss

    @property
    def remedy(self) -> str:
        """The line to write instead."""
        return "with db.bulk_writer() as bulk:" if self.bulk else "with db.write_batch() as batch:"


def _in_words(native: Any) -> tuple[str, str] | None:
    """Return the operations in a native batch in words, and the verb that goes with them."""
    if native is None:
        return None
    try:
        operations, size = native.len(), native.size_in_bytes()
    except Exception:  # noqa: BLE001 - consumed by the commit: nothing is lost
        return None
    if not operations:
        return None
    one = operations == 1
    return f"{operations} operation{'' if one else 's'} ({size} bytes)", "was" if one else "were"


class BatchWrites(LeasedHandle[BatchRecord]):
    """The writing methods of a batch and of a bulk writer."""

    __slots__ = ("_families", "_family", "_raw")

    _raw: bool
    #: The column families that the native batch refers to; checked again at the commit (D16, D19).
    _families: set[ColumnFamily]
    #: The column family of operations that name none; None is the default one.
    _family: ColumnFamily | None

    def __setitem__(self, key: Key, value: Any) -> None:
        try:
            if (live := self._record.direct) is None:  # no `or`: an empty batch has no length, and is false
                live = self._record.live
            live[key] = value
        except BaseException as error:  # noqa: BLE001 - raised below, see `_engine.failure`
            live = None
            failure = _engine.name_bad_types(self._failure(error), self._raw, key, value)
        else:
            return
        _engine.throw(failure)

    def __delitem__(self, key: Key) -> None:
        try:
            del self._record.live[key]
        except BaseException as error:  # noqa: BLE001 - see above
            failure = _engine.name_bad_types(self._failure(error), self._raw, key)
        else:
            return
        _engine.throw(failure)

    def put(self, key: Key, value: Any, column_family: ColumnFamily | None = None) -> None:
        """Add a row to the batch (`WriteBatch::Put`).

        Args:
            key: The key.
            value: The value.
            column_family: Where to, if not to the default; from `db.get_column_family_handle(name)`.

        Raises:
            TypeError: If the database cannot hold such a key or value.
            InvalidArgumentError: If the column family is of another database.
        """
        self._add("put", key, value, column_family=column_family)

    def put_entity(self, key: Key, names: list[Any], values: list[Any]) -> None:
        """Add a row of wide columns (`WriteBatch::PutEntity`).

        Args:
            key: The key.
            names: The names of the columns.
            values: Their values, as many.

        Raises:
            ValueError: If there are not as many values as names.
        """
        if self._family is None and self._parent is not None:
            self._parent._name_default_family(self._record.live)  # rocksdict's put_entity needs one
        self._add("put_entity", key, names, values)

    def delete(self, key: Key, column_family: ColumnFamily | None = None) -> None:
        """Add the deletion of a key (`WriteBatch::Delete`); a missing key is no error.

        Args:
            key: The key.
            column_family: Where from, if not from the default; from `db.get_column_family_handle(name)`.

        Raises:
            TypeError: If the database cannot hold such a key.
            InvalidArgumentError: If the column family is of another database.
        """
        self._add("delete", key, column_family=column_family)

    def delete_range(self, begin: Key, end: Key, column_family: ColumnFamily | None = None) -> None:
        """Add the deletion of all keys in `begin <= key < end` (`WriteBatch::DeleteRange`).

        Args:
            begin: The first key of the range.
            end: The first key after it.
            column_family: Where from, if not from the default; from `db.get_column_family_handle(name)`.

        Raises:
            InvalidArgumentError: If `end` comes before `begin`.
        """
        _ordering.check_range(self._raw, begin, end)
        self._add("delete_range", begin, end, column_family=column_family)

    def _add(self, method: str, *arguments: Any, column_family: ColumnFamily | None = None) -> None:
        self._record.live
        if column_family is not None:
            self._remember(column_family)
        try:
            family = () if column_family is None else (column_family._native(),)
            getattr(self._record.live, method)(*arguments, *family)
        except BaseException as error:  # noqa: BLE001 - see above
            failure = self._failure(error)
        else:
            return self._wrote()
        family = ()
        _engine.throw(failure)

    def _remember(self, family: ColumnFamily) -> None:
        """Note that the batch refers to a column family, if it may."""
        if not hasattr(family, "_native"):
            raise TypeError(f"column_family is {type(family).__name__}; get one with db.get_column_family_handle(name)")
        family._record.live
        owner = self._record.owner
        if owner is not PROCESS and family._record.owner is not owner:
            raise foreign_family(family, owner)
        self._families.add(family)

    def _ask(self, method: str) -> Any:
        try:
            return getattr(self._record.live, method)()
        except BaseException as error:  # noqa: BLE001 - see above
            failure = self._failure(error)
        _engine.throw(failure)

    def _failure(self, error: BaseException) -> list[BaseException]:
        if "already consumed" in str(error):
            where = _registry.format_site(self._record.site)
            return [HandleClosedError(f"{error} (write_batch opened at {where})")]
        return _engine.failure(error)

    def _wrote(self) -> None:
        """Do what has to be done after each addition, those of `batch[key]` apart."""

    def _is_over(self, error: BaseException | None) -> bool:
        """Tell whether nothing is left to do at the end of the block.

        Raises:
            HandleClosedError: If the batch was taken away before it could be written, its database
                closed for instance, and no other exception tells of the loss.
        """
        record = self._record
        if forking:
            see()
        if record.reason is None and record.is_expired():  # and to be released as soon as nobody is inside
            record.expire()
        if record.reason is None:
            return False
        if error is None and record.reason not in _DECIDED:
            # In this order: another thread that is releasing it notes what is lost before the batch is gone.
            lost = record.loss or record.lost
            if lost is not None:
                closed = record.closed_error()
                add_note(closed, lost)
                raise closed
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._leave(error)
        except Exception:
            if not self._is_finalizing():
                raise

    def _leave(self, error: BaseException | None) -> None:
        """Release; the kinds of batches first write, discard, or say that nothing was written."""
        release(self._record, Reason.EXITED)


def foreign_family(family: ColumnFamily, owner: Owner) -> InvalidArgumentError:
    """Return the error for a column family of another database (D16)."""
    return InvalidArgumentError(
        f"Invalid argument: column family {family.name!r} belongs to the database at {family._record.owner.name!r}, "
        f"not to the one at {owner.name!r}; get the handle from the database that is written to",
        code=4,
    )
