"""The database: opening, closing, column families, and everything that is opened from it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from saferocks import (
    _closing,
    _directory,
    _engine,
    _guard,
    _leases,
    _log_files,
    _opening,
    _registry,
    _secondary,
    _settings,
    _telling,
    _views,
    events,
    inspection,
)
from saferocks._batch_methods import BatchMethods
from saferocks._cursor import PinnedCursor
from saferocks._directory import text_path
from saferocks._files import Checkpoint
from saferocks._handle import blank, note_failure, open_handle
from saferocks._life import HandleRecord, release
from saferocks._options import scan_options
from saferocks._owner import DatabaseOwner, FamilyRecord
from saferocks._process import forking, see
from saferocks._registry import Reason, register
from saferocks._settings import INHERITED
from saferocks._snapshot import Snapshot, SnapshotRecord
from saferocks._tally import COLLECTED, Telling
from saferocks.errors import (
    NotSupportedError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from typing_extensions import Self

    from saferocks._directory import StrPath
    from saferocks._engine import Options
    from saferocks._handle import Scope, blank
    from saferocks._life import HandleRecord
    from saferocks._options import AccessType
    from saferocks._settings import Duration, Policy, Trace
    from saferocks.inspection import AuditReport, HandleInfo, MemoryUsage


class DatabaseRecord(FamilyRecord):
    """The record of a database.

    Attributes:
        scoped: Whether it came from `saferocks.open`, and so is to be entered.
    """

    __slots__ = ("scoped",)

    kind = "database"
    guarded = True

    def __init__(self, owner: DatabaseOwner, *, scoped: bool) -> None:
        self.scoped = scoped
        super().__init__(owner, _engine.DEFAULT_FAMILY)

    def before_entering(self) -> None:
        """Allow a database from the constructor, which is closed by hand; the policy decides on others."""
        if self.scoped:
            HandleRecord.before_entering(self)

    def escape(self) -> str | None:
        """Say how the database escaped: from the constructor, it should have been closed."""
        return super().escape() if self.scoped or not self.is_missed() else COLLECTED

    def collected(self) -> None:
        """Close a database whose handle was dropped, and report it."""
        if _guard.exited:
            return
        escape = self.escape()
        if escape is None:
            _closing.orphaned(self)
            return
        with Telling(self, escape, waits=False) as found:
            try:
                _closing.orphaned(self)
            finally:
                if found is not None:
                    _guard.report_collected(*found)


class Rdict(BatchMethods):
    """A RocksDB database, or one of its column families.

    Opened by this constructor it works as rocksdict's does (typed and pickling by default), and
    is closed by `with` or `close()`. `saferocks.open` is the safer way in.

    Args:
        path: The directory; made if it is missing.
        options: Options of the database and of its default column family; those on disk if left out.
        column_families: Names of all column families with their options; all of them, as on disk, if left out.
        access_type: For reading, writing or following; `AccessType.read_write()` if left out.
        raw_mode: Whether keys and values are raw bytes; that of the options or of the disk if left out.
        allow_pickle: Whether other values than bytes, str, int, float and bool are pickled.
            Unpickling runs whatever code is in the value: only for databases that you trust.
        statistics: Whether RocksDB counts, which `audit()` needs; costs some 10 to 20 percent.
        lock_timeout: Seconds to wait for another holder of the database.
        close_timeout: Seconds for which a close waits for calls in flight.
        policy: What happens to handles that escape: `warn`, `raise` or `ignore`; that of the process if left out.
        trace: What is remembered of each opening: `off`, `site` or `stack`; that of the process if left out.
        warn_after: Seconds after which a handle of this database is overdue; that of the process if left out.
        expire_after: Seconds after which a handle of this database is released, likewise. Handles may be opened
            with durations of their own; the database itself and its column families have none.

    Raises:
        ModeMismatchError: If the database on disk is of the other mode.
        LockedError: If it is open elsewhere.
        CorruptionError: If it is damaged.
        IOFailedError: If the path is a file, or may not be written.
    """

    __slots__ = ()

    def __init__(
        self,
        path: StrPath,
        options: Options | None = None,
        column_families: Mapping[str, Options] | None = None,
        access_type: AccessType | None = None,
        *,
        raw_mode: bool | None = None,
        allow_pickle: bool = True,
        statistics: bool = False,
        lock_timeout: float = 0.0,
        close_timeout: float = 30.0,
        policy: Policy | None = None,
        trace: Trace | None = None,
        warn_after: Duration = INHERITED,
        expire_after: Duration = INHERITED,
    ) -> None:
        request = _opening.check_request(
            path, options, column_families, access_type, raw_mode, allow_pickle, statistics,
            lock_timeout, close_timeout, policy, trace, warn_after, expire_after,
        )  # fmt: skip
        self._open(request, default_raw=False, scoped=False)

    def _open(self, request: _opening.Request, *, default_raw: bool, scoped: bool) -> None:
        owner = DatabaseOwner(
            request.name,
            request.path,
            request.access,
            request.close_timeout,
            request.policy,
            request.trace,
            request.lease,
        )
        try:
            record = open_handle(self, None, DatabaseRecord(owner, scoped=scoped))
            record.acquire(lambda: self._acquire(owner, request, default_raw))
        except BaseException:
            for left in list(owner.children.values()):  # Ctrl-C before `acquire`: no close would ever come to it
                if isinstance(left, DatabaseRecord):
                    release(left, Reason.ABANDONED)
            raise
        fields = _telling.fields_of(record, access=owner.access.name)
        try:
            events.emit(events.debug("saferocks.database_opened", record.bound, fields))
        except BaseException as interrupt:  # Ctrl-C in a hook: nobody gets the database
            self._close(interrupt, False)
            raise

    def _acquire(self, owner: DatabaseOwner, request: _opening.Request, default_raw: bool) -> Any:
        opened = _opening.open_database(request, default_raw)
        owner.raw = self._raw = opened.raw
        owner.options = opened.options
        owner.following = opened.following
        owner.families = set(opened.families)
        owner.identity = _directory.identity(owner.directory)
        owner.plain_tables = _directory.plain_tables(owner.directory)
        if not (opened.raw or request.allow_pickle):
            owner.dumps = self._record.dumps = _engine.refuse_pickle_dumps
        return opened.native

    @property
    def _main(self) -> Rdict:
        """The database, from one of its column families too."""
        return self._parent or self

    def _another(self) -> Rdict:
        return blank(Rdict)

    def __enter__(self) -> Self:
        instance = self._record.owner.instance
        super().__enter__()
        self._record.keep_up(instance)
        return self

    # ---- closing

    def close(self, *, cancel_background: bool = False) -> None:
        """Close the database and release everything opened from it; its path can be reopened at once.

        On a column family, release just that. Closing twice is no error.

        Args:
            cancel_background: Stop compactions rather than wait for them, for a fast hand-over. The last flush is
                left out as well: rows are then in the write-ahead log, and those written without one are lost.

        Raises:
            BusyError: If calls in flight do not end within `close_timeout`; the database stays open and usable.
            LeakedHandlesError: If handles have escaped, under the policy `raise`; the database is closed.
            EngineError: If RocksDB reports an error on closing; the database is closed.

        Warns:
            LeakedHandleWarning: If handles have outlived it, under the policy `warn`.
        """
        if self._record.kind == "column_family":
            release(self._record, Reason.CLOSED)
        else:
            self._close(None, cancel_background)

    def _close(self, error: BaseException | None, cancel_background: bool) -> None:
        if forking:
            see()
        if self._is_closed():
            return
        try:
            _closing.close(self._record, cancel_background=cancel_background)
        except Exception as failure:
            if self._is_closed():  # all the same, and nobody will ask again
                self._settle(error or failure)
            if error is None or _engine.is_interrupt(failure):
                raise
            note_failure(error, failure)
        else:
            self._settle(error)

    def _is_closed(self) -> bool:
        return self._record.reason is not None

    def _settle(self, error: BaseException | None) -> None:
        """Tell of a close, and of what has escaped; on an error that is on its way already, as a note."""
        events.drain()
        try:
            _guard.settle(self._record.owner)
        except Exception as failure:
            if error is None or _engine.is_interrupt(failure):
                raise
            note_failure(error, failure)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._record.kind == "column_family":
            super().__exit__(kind, error, traceback)
        else:
            try:
                self._close(error, False)
            except BaseException as failure:
                if isinstance(failure, Exception) and self._is_finalizing():
                    return
                if _engine.is_interrupt(failure):  # in the midst of it: nobody comes back to close what is left
                    self._close(failure, False)
                    if self._is_closed():  # the interrupt may have come after the close
                        self._settle(failure)
                raise

    # ---- handles

    def snapshot(
        self,
        *,
        column_families: Iterable[str] = (),
        point_reads_only: bool = False,
        label: str | None = None,
        warn_after: Duration = INHERITED,
        expire_after: Duration = INHERITED,
    ) -> Scope[Snapshot]:
        """Open a snapshot of this moment (`GetSnapshot`).

        Args:
            column_families: Further column families to cover, read through `snap.get_column_family(name)`.
            point_reads_only: Do without scans, and pin no memtables.
            label: A name for it in reports.
            warn_after: Seconds after which it is overdue: warned of, and logged. None for never;
                what its database or `configure` says if left out.
            expire_after: Seconds after which it is released, likewise, and its scans with it.

        Returns:
            A scope; enter it to read.

        Raises:
            ValueError: If a duration is not positive and finite, or `warn_after` not shorter than `expire_after`.
            ColumnFamilyNotFoundError: If there is no such column family.
            NotSupportedError: If the database is a secondary, whose snapshots do not hold still (D15).
        """
        record = self._record
        owner = record.owner
        lease = None
        if warn_after is not INHERITED or expire_after is not INHERITED or _settings.has_lease_defaults:
            lease = _leases.asked_for(owner, warn_after, expire_after)
        if record.direct is None:
            record.live
        if owner.access.name == "secondary":
            raise NotSupportedError(
                "Not implemented: a snapshot of a secondary shows newer data after each catch-up; "
                "read without one, or open the database as read_only",
                code=3,
            )
        snapshot = blank(Snapshot)
        snapshot._parent = self
        snapshot._raw = self._raw
        snapshot._names = names = record.families if column_families == () else self._snapshot_names(column_families)
        if not point_reads_only:
            snapshot._record = scanned = SnapshotRecord(owner, label)
            # No lambda: its variables would become cells, which costs snapshots without scans a fiftieth.
            scanned.acquire(partial(self._acquire_snapshot, names, True), lease)
            return snapshot
        opened = blank(SnapshotRecord)
        register(opened, owner, label, 2)
        opened.is_plain = True  # no cursor that would have to be disposed of
        snapshot._record = opened
        try:
            if len(names) == 1:
                opened.native = (((record.direct or record.live).snapshot(), None),)
            else:
                opened.native = self._acquire_snapshot(names, False)
            if lease is not None:
                _leases.grant(opened, lease)
        except BaseException as error:  # noqa: BLE001 - raised below, see `_engine.failure`
            failure = opened.failed(error)
        else:
            if opened.reason is None and not owner.closing:
                return snapshot
            failure = opened.failed(opened.closed_error())
        _engine.throw(failure)

    def _snapshot_names(self, column_families: Iterable[str]) -> tuple[str, ...]:
        if isinstance(column_families, str) or not isinstance(column_families, Iterable):
            raise TypeError(f"column_families is {column_families!r}; give a list of names")
        others = tuple(dict.fromkeys(column_families))
        for name in others:
            self._check_family(name)
        return (self._record.family, *(name for name in others if name != self._record.family))

    def _acquire_snapshot(self, names: tuple[str, ...], scans: bool) -> Any:
        owner, main = self._record.owner, self._main._record.live
        families = (self._record.live, *owner.native_families(main, names[1:]))
        options = [scan_options(None, name in owner.plain_tables) for name in names] if scans else None
        views = _views.open_snapshot(families, owner.changes, options)
        return tuple((view, None if cursor is None else PinnedCursor(cursor)) for view, cursor in views)

    def checkpoint(
        self,
        *,
        label: str | None = None,
        warn_after: Duration = INHERITED,
        expire_after: Duration = INHERITED,
    ) -> Scope[Checkpoint]:
        """Open a checkpoint object, which makes openable copies of the database (`Checkpoint`).

        The arguments are those of `items`.

        Returns:
            A scope; enter it to make copies.
        """
        self._record.live
        return Checkpoint(self._main, label=label, warn_after=warn_after, expire_after=expire_after)

    # ---- the whole database

    def cancel_all_background(self, wait: bool) -> None:
        """Stop compactions and flushes, for good (`CancelAllBackgroundWork`).

        Args:
            wait: Return when they have ended, and not when they have been told to.
        """
        _engine.call(self._record.live.cancel_all_background, wait)

    def try_catch_up_with_primary(self) -> None:
        """Let a secondary read what its primary has written since (`TryCatchUpWithPrimary`).

        Column families that the primary has made since are there from then on. Open scans go on as they were opened.
        Where the primary has flushed or compacted, this opens the database anew in the place of RocksDB's own
        catch-up, which would go on showing rows that were overwritten (D26). That takes about as long as to open it.
        Where a column family has been dropped and made again, each catch-up does so, until the primary is opened again.
        If the primary flushes in the midst of RocksDB's own catch-up, point reads may meet rows of before beside rows
        of now until the new instance is there; if that fails, until a catch-up succeeds.

        Raises:
            NotSupportedError: If the database is no secondary.
            CorruptionError: If files of the primary are damaged or missing (D23).
            BusyError: If the primary flushes again and again before it is read. (While it flushes faster than RocksDB
                reads its MANIFEST, hundreds of times a second, this does not return.)
            EngineError: If the primary cannot be read. The database goes on showing what it showed before, after
                this as after the errors above, but for what is said there.
        """
        self._record.live
        _secondary.catch_up(self._main._record)

    def handles(self) -> tuple[HandleInfo, ...]:
        """Return the open handles of this database, oldest first.

        Example:
            >>> import saferocks, tempfile, os
            >>> with saferocks.open(os.path.join(tempfile.mkdtemp(), "db")) as db:
            ...     with db.snapshot(label="report"):
            ...         [(handle.kind, handle.label) for handle in db.handles()]
            [('snapshot', 'report')]
        """
        self._record.live
        records = _registry.in_order(self._record.owner.children)
        return inspection.handle_infos(record for record in records if record.kind != "database")

    def memory(self) -> MemoryUsage:
        """Return what the database holds in memory and on disk, summed over its column families."""
        main = self._main._record
        self._record.live
        with main.owner.lock:  # so that no close comes in between
            return _engine.call(lambda: inspection.memory_usage(main.live, main.owner))  # type: ignore[no-any-return]

    def audit(self) -> AuditReport:
        """Compare the open handles with RocksDB's own counts.

        Open with `statistics=True` for the iterators; without it the report says that they were not checked.

        Returns:
            Both counts, and what could not be compared.

        Example:
            >>> import saferocks, tempfile, os
            >>> with saferocks.open(os.path.join(tempfile.mkdtemp(), "db"), statistics=True) as db:
            ...     with db.items():
            ...         db.audit().ok
            True
        """
        main = self._main._record
        self._record.live
        with main.owner.lock:
            return _engine.call(lambda: inspection.audit(main.owner, main.live))  # type: ignore[no-any-return]

    # ---- databases that are not open

    @staticmethod
    def destroy(path: StrPath, options: Options | None = None) -> None:
        """Delete a database that nobody has open (`DestroyDB`); a path where there is none is no error.

        Args:
            path: The database.
            options: Its options, which say where else it has files; rocksdict's defaults if left out.

        Raises:
            LockedError: If it is open.
            IOFailedError: If the path is a file, or a directory of other things.
        """
        _engine.check_process()
        target = text_path(path)
        _opening.check_not_open(target)
        if _directory.check_destroyable(target):
            _engine.destroy(target, options)

    @staticmethod
    def repair(path: StrPath, options: Options | None = None) -> None:
        """Rebuild what can be rebuilt of a damaged database (`RepairDB`); try it on a copy.

        It puts the MANIFEST aside unread, and of a write-ahead log with a hole it keeps what can be read.

        Args:
            path: The database.
            options: Its options; rocksdict's defaults in its mode if left out.

        Raises:
            IOFailedError: If there is no database at the path.
            CorruptionError: If RocksDB would read one of its write-ahead logs for ever.
        """
        _engine.check_process()
        target = text_path(path)
        _opening.check_not_open(target)
        raw_mode = _directory.mode_for_repair(target)
        _log_files.check_for_repair(target)
        _engine.repair(target, options or _engine.new_options(raw_mode))

    @staticmethod
    def list_cf(path: StrPath, options: Options | None = None) -> list[str]:
        """List the column families of a database that may be closed (`ListColumnFamilies`).

        Args:
            path: The database.
            options: Its options; rocksdict's defaults if left out.

        Raises:
            IOFailedError: If there is no database at the path.
            CorruptionError: If its MANIFEST is damaged.
        """
        target = text_path(path)
        if _directory.is_directory(target):
            _log_files.check(target)
        return _engine.list_families(target, options)


def open(  # noqa: A001 - the word for it, as in `dbm.open`
    path: StrPath,
    *,
    options: Options | None = None,
    column_families: Mapping[str, Options] | None = None,
    access_type: AccessType | None = None,
    raw_mode: bool | None = None,
    allow_pickle: bool = False,
    statistics: bool = False,
    lock_timeout: float = 0.0,
    close_timeout: float = 30.0,
    policy: Policy | None = None,
    trace: Trace | None = None,
    warn_after: Duration = INHERITED,
    expire_after: Duration = INHERITED,
) -> Scope[Rdict]:
    """Open a database, to be entered with `with`; it is made if it is missing.

    Keys and values are raw bytes unless the options or `raw_mode=False` say otherwise, and
    nothing is unpickled unless `allow_pickle=True` says so. The parameters are those of `Rdict`.

    Returns:
        A scope; enter it to use the database, leave it to close it.

    Example:
        >>> import saferocks, tempfile, os
        >>> with saferocks.open(os.path.join(tempfile.mkdtemp(), "events.db")) as db:
        ...     db[b"k"] = b"v"
        ...     db[b"k"]
        b'v'
    """
    request = _opening.check_request(
        path, options, column_families, access_type, raw_mode, allow_pickle, statistics,
        lock_timeout, close_timeout, policy, trace, warn_after, expire_after,
    )  # fmt: skip
    database = blank(Rdict)
    database._open(request, default_raw=True, scoped=True)
    return database
