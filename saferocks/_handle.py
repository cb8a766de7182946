"""What a user holds: enters, leaves, and reports itself when it escapes. The only code that enters.

What becomes of it is its record's matter, see `_life`; here are the `with` and the finalizer.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from saferocks import _engine, _leases, _process, _registry
from saferocks._life import HandleRecord, release
from saferocks._process import forking
from saferocks._registry import (
    ENTERED,
    EXITED,
    OPEN,
    REFUSED,
    USED,
    blank as blank,
)
from saferocks.errors import (
    HandleError,
    add_note,
)

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self  # known to type checkers without being installed


T_co = TypeVar("T_co", covariant=True)
RecordT = TypeVar("RecordT", bound=HandleRecord)


class Scope(Protocol[T_co]):
    """A handle that has not been entered: all that one may do with it is `with ... as`.

    At run time scope and handle are one object; the type is what lets mypy and pyright reject
    its use without `with`.
    """

    def __enter__(self) -> T_co: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


def note_failure(error: BaseException, failure: Exception) -> None:
    """Attach a failure at the end of a `with` block to the exception that the body is leaving with."""
    add_note(error, f"besides, leaving the 'with' block failed: {failure}")


class Handle(Generic[RecordT]):
    """What a user holds: enters, leaves, and reports itself when it escapes."""

    __slots__ = ("__weakref__", "_parent", "_record")

    _record: RecordT
    #: Tells when modules are being cleared: what a `with` in a suspended generator meets then, nobody can be told.
    _is_finalizing = staticmethod(sys.is_finalizing)
    #: Keeps the database open for as long as code that does not close it holds one of its handles.
    _parent: Any

    def __init__(self) -> None:
        raise TypeError(f"{type(self).__name__} has no constructor; open one from a database")

    def __enter__(self) -> Self:
        record = self._record
        if record.state is OPEN:
            # As in `start`, written out: one call less for each handle.
            record.state = ENTERED
            live = record.native if record.is_plain else record.activated()
            if live is not None:
                record.direct = live
                del live
                if record.reason is None and not record.owner.closing:
                    if forking:
                        record.disable()
                    return self
            raise record.refused()
        if record.state is USED:
            record.state = ENTERED
            return self
        if record.state is REFUSED:
            record.state = OPEN
            return self.__enter__()
        if record.state is ENTERED:
            where = _registry.format_site(record.site)
            raise HandleError(f"{record.kind} opened at {where} is entered already; open one for each 'with'")
        raise record.closed_error()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            release(self._record, EXITED)
        except Exception as failure:
            if self._is_finalizing():
                return
            if error is None or _engine.is_interrupt(failure):
                raise
            note_failure(error, failure)

    def __del__(self) -> None:
        try:
            record = self._record
        except AttributeError:  # half-built: nothing was opened
            return
        if record.reason is None and not self._is_finalizing() and not _process.is_inherited():
            record.collected()

    def __repr__(self) -> str:
        record = self._record
        name = f" of {record.owner.name!r}" if record.owner.name else ""
        where = _registry.format_site(record.site)
        return f"<saferocks {record.kind}{name} opened at {where}, {record.state.value}>"

    def __reduce__(self) -> str:
        kind = self._record.kind
        raise TypeError(f"{kind} handles cannot be pickled or copied: each owns a native object of this process")


class LeasedHandle(Handle[RecordT]):
    """A handle that may have a lease: any but a database or a column family, which last."""

    __slots__ = ()

    def renew(self) -> None:
        """Let `warn_after` and `expire_after` count anew from now.

        Raises:
            HandleExpiredError: If it is too late.
            HandleClosedError: If the handle has been released.
            HandleError: If it was opened without either.

        Example:
            >>> import saferocks, tempfile, os
            >>> with saferocks.open(os.path.join(tempfile.mkdtemp(), "db")) as db:
            ...     with db.snapshot(expire_after=60) as snap:
            ...         snap.renew()
        """
        _leases.renew(self._record)


def open_handle(handle: Handle[RecordT], parent: Any, record: RecordT) -> RecordT:
    """Tie a handle to its record, before anything native is acquired for it."""
    handle._parent = parent
    handle._record = record
    return record
