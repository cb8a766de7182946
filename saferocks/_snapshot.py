"""Snapshots: point reads and scans that both see one state.

rocksdict's snapshot isolates point reads only; its scans read live data (D1). Here a snapshot
holds, for each column family, a native snapshot for point reads and a native cursor, opened at
the same sequence number, that every scan of the snapshot shares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from saferocks import _engine, _in_use, _ordering, _registry
from saferocks._cursor import NOTHING, PinnedCursor
from saferocks._handle import LeasedHandle, blank, open_handle
from saferocks._iterator import RdictIter, SharedCursorRecord
from saferocks._leases import asked_for
from saferocks._life import HandleRecord, release
from saferocks._registry import Reason, register
from saferocks._scan import SCANS, SharedScanRecord
from saferocks._scan_methods import ScanMethods
from saferocks._settings import INHERITED
from saferocks.errors import ColumnFamilyNotFoundError, NotSupportedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from saferocks._handle import Scope
    from saferocks._options import ReadOptions
    from saferocks._ordering import Key
    from saferocks._settings import Duration

_MISSING = "key not found"


class SnapshotRecord(HandleRecord):
    """The record of a snapshot; its native part is a pair for each column family."""

    __slots__ = ()

    kind = "snapshot"

    @property
    def remedy(self) -> str:
        """The line to write instead."""
        return "with db.snapshot() as snap:"

    def is_busy(self) -> bool:
        """Tell whether a scan is reading, or a value is being decoded."""
        return any(
            (pair[1] is not None and pair[1].is_locked()) or not _in_use.is_unused(pair, 0)
            for pair in self.native or ()
        )

    def begin_expiry(self) -> None:
        """Let no new call start, and the scans end."""
        super().begin_expiry()
        for _, pinned in self.native or ():
            if pinned is not None:
                pinned.expired = True

    def dispose(self, native: Any) -> None:
        """Release the snapshot's scans, youngest first, and then its cursors."""
        reason = Reason.SNAPSHOT_EXPIRED if self.reason is Reason.EXPIRED else Reason.SNAPSHOT_RELEASED
        for _, pinned in native or ():
            if pinned is not None:
                for user in reversed(list(pinned.users.values())):
                    release(user, reason)
                pinned.native = None


class SnapshotReads(ScanMethods):
    """The reading methods of a snapshot and of its views of column families."""

    __slots__ = ()

    _record: Any
    _anchor: Any
    _family: int
    _names: tuple[str, ...]

    def __getitem__(self, key: Key) -> Any:
        """Return the value of a key, or a list of values for a list of keys (missing ones are None).

        Raises:
            KeyError: If there is no such key.
            TypeError: If the database cannot hold such a key.
        """
        if isinstance(key, list):
            return self.get(key)
        value = self._look_up(key)
        if value is NOTHING:
            raise KeyError(f"key {key!r} not found")
        return value

    def get(self, key: Key, default: Any = None, read_opt: ReadOptions | None = None) -> Any:
        """Return the value of a key, or a default.

        Args:
            key: A key, or a list of keys for a list of values.
            default: What to return for a missing key.
            read_opt: Checked, and without effect on point reads: they use the options of the opening.
        """
        if read_opt is not None:
            self._check_options(read_opt)
        if isinstance(key, list):
            found = [self._look_up(each) for each in key]  # and not `get`: a list among the keys is none
            return [default if value is NOTHING else value for value in found]
        value = self._look_up(key)
        return default if value is NOTHING else value

    def get_many(self, keys: Iterable[Key], default: Any = None, read_opt: ReadOptions | None = None) -> list[Any]:
        """Return the values of several keys, in the order of the keys.

        rocksdict's snapshots have no multi-get: the keys are read one at a time, and no other thread runs meanwhile.

        Args:
            keys: The keys.
            default: What stands for a missing key.
            read_opt: Checked, and without effect on point reads: they use the options of the opening.

        Raises:
            TypeError: If the database cannot hold such a key, or a single one is given.
        """
        self._record.live  # no keys are none to be asked for
        return self.get(_ordering.check_keys(keys), default, read_opt)  # type: ignore[no-any-return]

    def get_entity(self, key: Key, default: Any = None) -> Any:
        """Return the wide columns of a key as a list of `(name, value)`, or a default.

        Args:
            key: A key, or a list of keys for a list of results.
            default: What to return for a missing key.

        Raises:
            NotSupportedError: If the snapshot is for point reads only: rocksdict's own has no such method.
        """
        if isinstance(key, list):
            return [self._checked_entity(each, default) for each in key]
        return self._checked_entity(key, default)

    def _checked_entity(self, key: Any, default: Any) -> Any:
        _ordering.check_key(key, self._raw)
        return _engine.call(self._entity, key, default)

    def _entity(self, key: Key, default: Any) -> Any:
        pinned = self._pinned()
        return pinned.use(self._entity_at, pinned, key, default)

    def _entity_at(self, cursor: Any, pinned: PinnedCursor, key: Key, default: Any) -> Any:
        order = _ordering.bounds(self._raw).order
        pinned.hold(None)
        cursor.seek(key)
        if cursor.valid() and order(cursor.key()) == order(key):
            return cursor.columns()
        cursor.status()
        return default

    def __contains__(self, key: Key) -> bool:
        return self._look_up(key) is not NOTHING

    def _look_up(self, key: Key) -> Any:
        try:
            return (self._record.direct or self._record.live)[self._family][0][key]
        except BaseException as error:  # noqa: BLE001 - raised below, see `_engine.failure`
            if type(error) is Exception and error.args == (_MISSING,):  # D13: no KeyError
                return NOTHING
            failure = _engine.name_bad_types(_engine.failure(error), self._raw, key)
        _engine.throw(failure)

    def _pinned(self) -> PinnedCursor:
        """Return the shared cursor of this column family, to be acquired by a scan."""
        pinned: PinnedCursor | None = self._record.live[self._family][1]
        if pinned is None:
            where = _registry.format_site(self._record.site)
            raise NotSupportedError(
                f"Not implemented: the snapshot opened at {where} is for point reads only; "
                "open it without point_reads_only to scan it",
                code=3,
            )
        return pinned

    def _scan(
        self,
        method: str,
        backwards: bool,
        from_key: Key,
        read_opt: ReadOptions | None,
        lower_bound: Key,
        upper_bound: Key,
        prefix: Key,
        label: str | None,
        warn_after: Duration,
        expire_after: Duration,
    ) -> Any:
        lease = asked_for(self._record.owner, warn_after, expire_after)
        self._check_options(read_opt)
        bounds = self._bounds(read_opt, lower_bound, upper_bound, prefix)
        self._check_start(from_key)
        scan = blank(SCANS[method])
        record = blank(SharedScanRecord)
        record.begin(method, backwards, bounds, from_key)
        record.outer = self._record.lease
        register(record, self._record.owner, label, 3)
        open_handle(scan, self._anchor, record).acquire(self._pinned, lease)
        return scan

    def iter(
        self,
        read_opt: ReadOptions | None = None,
        *,
        lower_bound: Key = None,
        upper_bound: Key = None,
        prefix: Key = None,
        label: str | None = None,
        warn_after: Duration = INHERITED,
        expire_after: Duration = INHERITED,
    ) -> Scope[RdictIter]:
        """Open a cursor (`NewIterator`); the arguments are those of `items`.

        Returns:
            A scope; enter it to seek, step and read.
        """
        bounds = self._bounds(read_opt, lower_bound, upper_bound, prefix)
        lease = asked_for(self._record.owner, warn_after, expire_after)
        self._check_options(read_opt)
        cursor = blank(RdictIter)
        record = blank(SharedCursorRecord)
        record.bounds, record.still = bounds, None
        register(record, self._record.owner, label, 2)
        open_handle(cursor, self._anchor, record).acquire(self._pinned, lease)
        return cursor

    def _check_options(self, read_opt: ReadOptions | None) -> None:
        beyond = () if read_opt is None else read_opt.beyond_hints
        if beyond:
            raise NotSupportedError(
                f"Not implemented: scans of a snapshot share one iterator and cannot each have {', '.join(beyond)}; "
                "use prefix=, lower_bound= and upper_bound=",
                code=3,
            )


class Snapshot(SnapshotReads, LeasedHandle[SnapshotRecord]):
    """One state of the database, for point reads and any number of interleaved scans (`Snapshot`).

    It keeps every version that it can see from being compacted away, and unless it was opened
    with `point_reads_only=True` it keeps the memtables of that moment in memory as well.

    Example:
        >>> import saferocks, tempfile, os
        >>> with saferocks.open(os.path.join(tempfile.mkdtemp(), "db")) as db:
        ...     db[b"k"] = b"old"
        ...     with db.snapshot() as snap:
        ...         db[b"k"], db[b"l"] = b"new", b"1"
        ...         with snap.items() as items:
        ...             snap[b"k"], list(items)
        (b'old', [(b'k', b'old')])
    """

    __slots__ = ("_names", "_raw")

    _family = 0

    @property
    def _anchor(self) -> Snapshot:
        return self

    def get_column_family(self, name: str) -> SnapshotFamily:
        """Return this snapshot's view of a column family that it was opened for.

        The view lives and dies with the snapshot.

        Args:
            name: Its name.

        Raises:
            ColumnFamilyNotFoundError: If the snapshot was not opened for it.
        """
        self._record.live
        if not isinstance(name, str):
            raise TypeError(f"column family {name!r} is {type(name).__name__}; give its name as str")
        if name not in self._names:
            raise ColumnFamilyNotFoundError(
                f"snapshot does not cover column family {name!r}; open it with "
                f"db.snapshot(column_families={[*self._names, name]!r})"
            )
        return SnapshotFamily(self, self._names.index(name))


class SnapshotFamily(SnapshotReads):
    """A snapshot's view of one column family; has the snapshot's reading methods."""

    __slots__ = ("_anchor", "_family", "_names", "_raw", "_record")

    def __init__(self, snapshot: Snapshot, family: int) -> None:
        self._anchor = snapshot
        self._record = snapshot._record
        self._names = snapshot._names
        self._raw = snapshot._raw
        self._family = family

    def __repr__(self) -> str:
        return f"<view of column family {self._names[self._family]!r} through {self._anchor!r}>"

    def __reduce__(self) -> str:
        raise TypeError("a snapshot's view cannot be pickled or copied: it belongs to a native object of this process")
