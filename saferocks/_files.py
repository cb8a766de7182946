"""Files beside the database: checkpoints and SST files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from saferocks import _directory, _engine, _manifest
from saferocks._handle import Handle, LeasedHandle, open_handle
from saferocks._interrupts import is_interrupt, passing_over
from saferocks._leases import asked_for
from saferocks._life import HandleRecord
from saferocks._owner import InstanceRecord
from saferocks._process import forking, see
from saferocks._registry import PROCESS
from saferocks._settings import INHERITED
from saferocks.errors import InvalidArgumentError, IOFailedError, NotSupportedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

    from saferocks._directory import StrPath
    from saferocks._engine import Options
    from saferocks._ordering import Key
    from saferocks._owner import DatabaseOwner
    from saferocks._settings import Duration

#: How many rows a column family holds that are in no SST file yet.
_IN_MEMTABLES = ("rocksdb.num-entries-active-mem-table", "rocksdb.num-entries-imm-mem-tables")


class CheckpointRecord(InstanceRecord):
    """The record of a checkpoint object."""

    __slots__ = ()

    kind = "checkpoint"


class Checkpoint(LeasedHandle[CheckpointRecord]):
    """Makes openable copies of a database, of hard links where it can (`Checkpoint`).

    Args:
        db: The database to copy.
        label: A name for it in reports.
        warn_after: Seconds after which it is overdue; what its database or `configure` says if left out.
        expire_after: Seconds after which it is released, likewise.

    Example:
        >>> import saferocks, tempfile, os
        >>> folder = tempfile.mkdtemp()
        >>> with saferocks.open(os.path.join(folder, "db")) as db:
        ...     db[b"k"] = b"v"
        ...     with db.checkpoint() as checkpoint:
        ...         checkpoint.create(os.path.join(folder, "copy"))
        >>> with saferocks.open(os.path.join(folder, "copy")) as copy:
        ...     copy[b"k"]
        b'v'
    """

    __slots__ = ()

    def __init__(
        self,
        db: Any,
        *,
        label: str | None = None,
        warn_after: Duration = INHERITED,
        expire_after: Duration = INHERITED,
    ) -> None:
        if not isinstance(db, Handle) or db._record.kind not in ("database", "column_family"):
            raise TypeError(f"db is {type(db).__name__}; give an open saferocks database")
        db._record.live
        lease = asked_for(db._record.owner, warn_after, expire_after)
        with db._record.owner.lock:  # no secondary is opened anew in between (D26)
            db._record.live
            record = open_handle(self, db, CheckpointRecord(db._record.owner, label))
            record.acquire(lambda: _engine.new_checkpoint(db._record.live), lease)

    def __enter__(self) -> Self:
        instance = self._record.owner.instance
        super().__enter__()
        self._record.keep_up(instance)
        return self

    def create(self, path: StrPath) -> None:
        """Copy the database as it is now into a directory that does not exist yet.

        Args:
            path: The directory to make; its parent must exist.

        Raises:
            InvalidArgumentError: If there is something at `path` already.
            IOFailedError: If its parent does not exist or is not writable.
            NotSupportedError: If the database is open for reading only, and the copy would lack what it shows.
        """
        owner = self._record.owner
        self._record.live
        target = _directory.text_path(path)
        if _directory.is_there(target):
            raise InvalidArgumentError(f"Invalid argument: Directory exists: {target!r}; give a new path", code=4)
        parent = os.path.dirname(os.path.abspath(target))
        if not _directory.is_directory(parent):
            raise IOFailedError(f"IO error: No such directory: {parent!r}; make it first", code=5)
        _directory.check_writable(target)
        if owner.access.writes:
            _engine.call(self._record.live.create_checkpoint, target)
            return
        with owner.lock:  # what has been checked is what is copied: no catch-up comes in between
            self._record.live
            _check_copyable(owner, self._parent._main._record.live)
            _engine.call(self._record.live.create_checkpoint, target)

    def create_checkpoint(self, path: StrPath) -> None:
        """Copy the database: rocksdict's name for `create`; the arguments are those of `create`."""
        self.create(path)


def _check_copyable(owner: DatabaseOwner, main: Any) -> None:
    """Refuse a copy through a database that is open for reading only, if it would lack something (D28).

    RocksDB copies neither rows that are in the write-ahead log alone, nor the files of column families that were not
    opened, and of these the copy's MANIFEST tells.

    Raises:
        NotSupportedError: If there are such rows or column families.
    """
    there = _engine.call(_manifest.read_manifest, owner.directory).families
    missing = sorted(there.keys() - owner.families)
    if missing:
        raise NotSupportedError(
            f"Not implemented: the database at {owner.name!r} was opened without column families {missing!r}, and a "
            "copy through it could not be opened; catch up, or open it again with all of them, or copy where it is "
            "open for writing",
            code=3,
        )
    for name in sorted(owner.families):
        family = owner.native_family(main, name)
        if any(family.property_int_value(entries) for entries in _IN_MEMTABLES):
            raise NotSupportedError(
                f"Not implemented: a copy through the database at {owner.name!r}, open as {owner.access.name}, would "
                f"lack rows of column family {name!r} that are in the write-ahead log alone; flush them where it is "
                "open for writing and catch up or open it again, or copy there",
                code=3,
            )


def _stamp(path: str) -> tuple[int, int, int] | None:
    """Return what tells whether a file has been made, or written over; None if there is none."""
    with passing_over(OSError, path=path):
        status = os.stat(path)
        return status.st_ino, status.st_size, status.st_mtime_ns
    return None


class SstRecord(HandleRecord):
    """The record of an SST file writer.

    Attributes:
        path: The file that is being written; None when there is none.
        lost: The unfinished file that was removed with the writer.
    """

    __slots__ = ("lost", "path")

    kind = "sst_writer"

    def __init__(self, label: str | None) -> None:
        self.path: str | None = None
        self.lost: str | None = None
        super().__init__(PROCESS, label)

    @property
    def remedy(self) -> str:
        """The line to write instead."""
        return "with saferocks.SstFileWriter(options) as writer:"

    @property
    def note(self) -> str | None:
        """Which file is being written."""
        return None if self.path is None else f"writing {self.path!r}"

    @property
    def loss(self) -> str | None:
        """What is lost if the writer is dropped now."""
        return None if self.path is None else f"its unfinished file {self.path!r} was removed"

    def escape(self) -> str | None:
        """A writer without an unfinished file has lost nothing by being dropped."""
        return None if self.path is None else super().escape()

    def dispose(self, native: Any) -> None:
        """Remove the unfinished file: ingested, it would be reported as corrupt (D17)."""
        path = self.path
        if path is not None:
            self.lost = path  # first: who leaves the writer meanwhile looks at the path, and then at this
            self.path = None
            with passing_over(OSError, path=path):  # it may be gone, with its directory
                os.unlink(path)


class SstFileWriter(LeasedHandle[SstRecord]):
    """Writes one SST file of ascending keys, to be ingested later (`SstFileWriter`).

    Entered, it finishes the file on a clean exit and removes it on an exception.

    Args:
        options: The options of the database that will ingest the file; typed by default, as in rocksdict.
        label: A name for it in reports.
        warn_after: Seconds after which it is overdue; what `configure` says if left out.
        expire_after: Seconds after which it is released, and an unfinished file removed, likewise.

    Example:
        >>> import saferocks, tempfile, os
        >>> folder = tempfile.mkdtemp()
        >>> file = os.path.join(folder, "rows.sst")
        >>> with saferocks.SstFileWriter(saferocks.Options(raw_mode=True)) as writer:
        ...     writer.open(file)
        ...     writer[b"k"] = b"v"
        >>> with saferocks.open(os.path.join(folder, "db")) as db:
        ...     db.ingest_external_file([file])
        ...     db[b"k"]
        b'v'
    """

    __slots__ = ()

    def __init__(
        self,
        options: Options | None = None,
        *,
        label: str | None = None,
        warn_after: Duration = INHERITED,
        expire_after: Duration = INHERITED,
    ) -> None:
        lease = asked_for(PROCESS, warn_after, expire_after)
        record = open_handle(self, None, SstRecord(label))
        record.acquire(lambda: _engine.new_sst_writer(options), lease)

    def open(self, path: StrPath) -> None:
        """Begin a file.

        Args:
            path: The file to make; one that is there is written over.

        Raises:
            InvalidArgumentError: If another one is unfinished.
            IOFailedError: If it cannot be made.
        """
        record = self._record
        record.live
        target = _directory.text_path(path)
        if record.path is not None:
            raise InvalidArgumentError(
                f"Invalid argument: this writer has not finished {record.path!r}; call finish() first", code=4
            )
        before = _stamp(target)
        try:
            _engine.call(record.live.open, target)
        except BaseException as error:
            if is_interrupt(error) and _stamp(target) != before:  # Ctrl-C, once the file was made
                record.path = target
                if record.reason is not None:
                    record.dispose(None)
            raise
        record.path = target
        if record.reason is not None:  # released since, by another thread
            record.dispose(None)
            raise record.closed_error()

    def finish(self) -> None:
        """Complete the file; it can then be ingested.

        Raises:
            InvalidArgumentError: If it holds no row, or no file is open.
        """
        record = self._record
        record.live
        path, record.path = record.path, None  # first: a release by another thread shall not remove a finished file
        try:
            _engine.call(record.live.finish)
        except BaseException:
            record.path = path
            if record.reason is not None:
                record.dispose(None)
            raise

    def file_size(self) -> int:
        """Return the size of the file so far, in bytes."""
        size: int = _engine.call(self._record.live.file_size)
        return size

    def set_dumps(self, dumps: Callable[[Any], bytes]) -> None:
        """Encode with `dumps` the values that rocksdict does not store by itself (instead of pickle).

        Args:
            dumps: Makes bytes of a value.
        """
        _engine.call(self._record.live.set_dumps, _engine.check_callable("dumps", dumps))

    def __setitem__(self, key: Key, value: Any) -> None:
        try:
            self._record.live[key] = value
        except BaseException as error:  # noqa: BLE001 - raised below, see `_engine.failure`
            failure = _engine.failure(error)
        else:
            return
        _engine.throw(failure)

    def __delitem__(self, key: Key) -> None:
        try:
            del self._record.live[key]
        except BaseException as error:  # noqa: BLE001 - raised below, see `_engine.failure`
            failure = _engine.failure(error)
        else:
            return
        _engine.throw(failure)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        record = self._record
        if forking:
            see()
        try:
            if error is None and record.path is not None and record.reason is None:
                self.finish()
            elif error is None and record.is_expired() and (record.path or record.lost) is not None:
                raise record.closed_error()
        finally:
            super().__exit__(kind, error, traceback)
