"""Reading and writing one column family, which is what a database is at its simplest."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from saferocks import _directory, _engine, _ordering, _settings, _status, _views, events
from saferocks._handle import Handle, blank
from saferocks._iterator import BoundedCursorRecord, CursorRecord, RdictIter
from saferocks._leases import asked_for, grant
from saferocks._options import TOTAL_ORDER, check_read_options, scan_options
from saferocks._ordering import UNBOUNDED_RAW, UNBOUNDED_TYPED
from saferocks._owner import FamilyRecord
from saferocks._registry import register
from saferocks._scan import NATIVE_SCANS, SCANS, ScanRecord
from saferocks._scan_methods import ScanMethods
from saferocks._settings import INHERITED
from saferocks.errors import EngineError, NotSupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from saferocks._directory import StrPath
    from saferocks._engine import CompactOptions, IngestExternalFileOptions, WriteOptions
    from saferocks._handle import Scope
    from saferocks._options import ReadOptions
    from saferocks._ordering import Key
    from saferocks._settings import Duration


class FamilyAccess(ScanMethods, Handle[FamilyRecord]):
    """The reading and writing methods of one column family."""

    __slots__ = ("_raw",)

    _raw: bool

    # ---- point reads: one call deep, and nothing but the call in the good case

    def __getitem__(self, key: Key) -> Any:
        """Return the value of a key, or a list of values for a list of keys (missing ones are None).

        Raises:
            KeyError: If there is no such key.
            TypeError: If the database cannot hold such a key.
        """
        try:
            return (self._record.direct or self._record.live)[key]
        except BaseException as error:  # noqa: BLE001 - raised below, see `_engine.failure`
            failure = _engine.name_bad_types(_engine.failure(error), self._raw, key)
        _engine.throw(failure)

    def __contains__(self, key: Key) -> bool:
        try:
            return key in (self._record.direct or self._record.live)
        except BaseException as error:  # noqa: BLE001 - see above
            failure = _engine.name_bad_types(_engine.failure(error), self._raw, key)
        _engine.throw(failure)

    def get(self, key: Key, default: Any = None, read_opt: ReadOptions | None = None) -> Any:
        """Return the value of a key, or a default (`Get`).

        Args:
            key: A key, or a list of keys for a list of values (`MultiGet`; other threads run meanwhile).
            default: What to return for a missing key.
            read_opt: How RocksDB reads; its bounds do not apply.

        Raises:
            TypeError: If the database cannot hold such a key.
        """
        if read_opt is not None:
            return self._get_with(key, default, read_opt)
        try:
            return (self._record.direct or self._record.live).get(key, default)
        except BaseException as error:  # noqa: BLE001 - see above
            failure = _engine.name_bad_types(_engine.failure(error), self._raw, key)
        _engine.throw(failure)

    def _get_with(self, key: Key, default: Any, read_opt: ReadOptions) -> Any:
        native = check_read_options(read_opt).native()
        if isinstance(key, list):  # D13: a multi-get ignores read options
            return [_engine.call(self._record.live.get, each, default, native) for each in key]
        return _engine.call(self._record.live.get, key, default, native)

    def get_many(self, keys: Iterable[Key], default: Any = None, read_opt: ReadOptions | None = None) -> list[Any]:
        """Return the values of several keys, in the order of the keys (`MultiGet`).

        Other threads run while RocksDB reads, unless there are read options: rocksdict's multi-get takes
        none (D13), and the keys are then read one at a time.

        Args:
            keys: The keys.
            default: What stands for a missing key.
            read_opt: How RocksDB reads; its bounds do not apply.

        Raises:
            TypeError: If the database cannot hold such a key, or a single one is given.
        """
        self._record.live  # no keys are none to be asked for
        return self.get(_ordering.check_keys(keys), default, read_opt)  # type: ignore[no-any-return]

    def get_entity(self, key: Key, default: Any = None, read_opt: ReadOptions | None = None) -> Any:
        """Return the wide columns of a key as a list of `(name, value)`, or a default (`GetEntity`).

        Args:
            key: A key, or a list of keys for a list of results.
            default: What to return for a missing key.
            read_opt: How RocksDB reads; its bounds do not apply.
        """
        native = scan_options(read_opt, False)
        if isinstance(key, list):
            return [self._entity(each, default, native) for each in key]
        return self._entity(key, default, native)

    def _entity(self, key: Key, default: Any, read_opt: Any) -> Any:
        try:
            return self._record.live.get_entity(key, default, read_opt)
        except BaseException as error:  # noqa: BLE001 - see above
            if type(error) is Exception and str(error) == "NotFound: ":  # D13: the default is ignored
                return default
            failure = _engine.name_bad_types(_engine.failure(error), self._raw, key)
        _engine.throw(failure)

    def key_may_exist(self, key: Key, fetch: bool = False, read_opt: ReadOptions | None = None) -> Any:
        """Tell cheaply whether a key may exist; False is certain (`KeyMayExist`).

        Args:
            key: The key.
            fetch: Return `(may_exist, value or None)` instead.
            read_opt: How RocksDB reads; its bounds do not apply.
        """
        return _engine.call(self._record.live.key_may_exist, key, fetch, scan_options(read_opt, False))

    # ---- writes: through `sink`, which refuses them in a database opened for reading (D8)

    def __setitem__(self, key: Key, value: Any) -> None:
        try:
            (self._record.direct_sink or self._record.sink)[key] = value
        except BaseException as error:  # noqa: BLE001 - see above
            failure = _engine.name_bad_types(_engine.failure(error), self._raw, key, value)
        else:
            return
        _engine.throw(failure)

    def __delitem__(self, key: Key) -> None:
        try:
            del (self._record.direct_sink or self._record.sink)[key]
        except BaseException as error:  # noqa: BLE001 - see above
            failure = _engine.name_bad_types(_engine.failure(error), self._raw, key)
        else:
            return
        _engine.throw(failure)

    def put(self, key: Key, value: Any, write_opt: WriteOptions | None = None) -> None:
        """Write a row (`Put`).

        Args:
            key: The key.
            value: The value.
            write_opt: How RocksDB writes: sync, without write-ahead log, ...

        Raises:
            TypeError: If the database cannot hold such a key or value.
            ReadOnlyError: If the database is open for reading.
        """
        try:
            (self._record.direct_sink or self._record.sink).put(key, value, write_opt)
        except BaseException as error:  # noqa: BLE001 - see above
            failure = _engine.name_bad_types(_engine.failure(error), self._raw, key, value)
        else:
            return
        _engine.throw(failure)

    def put_entity(self, key: Key, names: list[Any], values: list[Any], write_opt: WriteOptions | None = None) -> None:
        """Write a row of wide columns (`PutEntity`).

        Args:
            key: The key.
            names: The names of the columns.
            values: Their values, as many.
            write_opt: How RocksDB writes.

        Raises:
            ValueError: If there are not as many values as names.
        """
        _engine.call(self._record.sink.put_entity, key, names, values, write_opt)

    def delete(self, key: Key, write_opt: WriteOptions | None = None) -> None:
        """Delete a key; a missing one is no error (`Delete`).

        Args:
            key: The key.
            write_opt: How RocksDB writes.

        Raises:
            TypeError: If the database cannot hold such a key.
            ReadOnlyError: If the database is open for reading.
        """
        try:
            (self._record.direct_sink or self._record.sink).delete(key, write_opt)
        except BaseException as error:  # noqa: BLE001 - see above
            failure = _engine.name_bad_types(_engine.failure(error), self._raw, key)
        else:
            return
        _engine.throw(failure)

    def delete_range(self, begin: Key, end: Key, write_opt: WriteOptions | None = None) -> None:
        """Delete all keys in `begin <= key < end` (`DeleteRange`).

        Args:
            begin: The first key of the range.
            end: The first key after it.
            write_opt: How RocksDB writes.

        Raises:
            TypeError: If the database cannot hold such a key.
            InvalidArgumentError: If `end` comes before `begin`.
            ReadOnlyError: If the database is open for reading.
        """
        self._record.sink
        _ordering.check_range(self._raw, begin, end)
        _engine.call(self._record.sink.delete_range, begin, end, write_opt)

    def ingest_external_file(self, paths: Iterable[StrPath], opts: IngestExternalFileOptions | None = None) -> None:
        """Take SST files into the column family (`IngestExternalFile`).

        Args:
            paths: The files, made with `SstFileWriter`.
            opts: Whether to move the files, and more.

        Raises:
            ReadOnlyError: If the database is open for reading.
            EngineError: If there is no such file, or it is no SST file.
        """
        if isinstance(paths, (str, bytes, os.PathLike)):
            raise TypeError(f"paths is {paths!r}; give a list of paths")
        arguments = () if opts is None else (opts,)
        files = [_directory.text_path(path) for path in paths]
        record = self._record
        record.owner.changes.make(lambda: _engine.call(record.sink.ingest_external_file, files, *arguments))

    # ---- scans

    # The two openers are written out, without the helpers that rarer ones use: a tracked iterator
    # is to cost about a microsecond, and each call is a twentieth of that.

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
        if read_opt is None and lower_bound is None and upper_bound is None and prefix is None:
            bounds = UNBOUNDED_RAW if self._raw else UNBOUNDED_TYPED
        else:
            bounds = self._bounds(read_opt, lower_bound, upper_bound, prefix)
        if from_key is not None:
            self._check_start(from_key)
        if read_opt is not None and read_opt.tailing:
            raise NotSupportedError(
                f"Not implemented: {method}() shows one fixed state and cannot tail; use iter() with tailing options",
                code=3,
            )
        family = self._record
        owner = family.owner
        lease = None
        if warn_after is not INHERITED or expire_after is not INHERITED or _settings.has_lease_defaults:
            lease = asked_for(owner, warn_after, expire_after)
        if events.pending:
            events.drain()
        if family.direct is None:
            family.live
        scan = blank(SCANS[method])
        scan._parent = self
        record = blank(ScanRecord)
        record.begin(method, backwards, bounds, from_key)
        register(record, owner, label, 3)
        scan._record = record
        if family.keeper is not None:
            record.keeper, record.receiver = family.keeper, "family"
        plain = owner.plain_tables
        try:
            options = scan_options(read_opt, family.family in plain) if read_opt or plain else TOTAL_ORDER
            start = from_key if bounds.is_open else bounds.start(backwards, from_key)
            record.native = _views.open_scan(
                family.direct or family.live, owner.changes, NATIVE_SCANS[method], backwards, start, options
            )
            if lease is not None:
                grant(record, lease)
        except BaseException as error:  # noqa: BLE001 - raised below, see `_engine.failure`
            failure = record.failed(error)
        else:
            if record.reason is None and not owner.closing:
                return scan
            failure = record.failed(record.closed_error())
        _engine.throw(failure)

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
        bounds = None
        if read_opt is not None or lower_bound is not None or upper_bound is not None or prefix is not None:
            bounds = self._bounds(read_opt, lower_bound, upper_bound, prefix)
        record: CursorRecord
        if bounds is None or bounds.is_open:
            record, is_plain = blank(CursorRecord), True
        else:
            record, is_plain = blank(BoundedCursorRecord), False
            record.bounds = bounds
        family = self._record
        owner = family.owner
        lease = None
        if warn_after is not INHERITED or expire_after is not INHERITED or _settings.has_lease_defaults:
            lease = asked_for(owner, warn_after, expire_after)
        if events.pending:
            events.drain()
        if family.direct is None:
            family.live
        cursor = blank(RdictIter)
        cursor._parent = self
        record.still = None
        register(record, owner, label, 2)
        record.is_plain = is_plain
        cursor._record = record
        if family.keeper is not None:
            record.keeper, record.receiver = family.keeper, "family"
        plain = owner.plain_tables
        try:
            options = scan_options(read_opt, family.family in plain) if read_opt or plain else TOTAL_ORDER
            record.native = (family.direct or family.live).iter(options)
            if lease is not None:
                grant(record, lease)
        except BaseException as error:  # noqa: BLE001 - see above
            failure = record.failed(error)
        else:
            if record.reason is None and not owner.closing:
                return cursor
            failure = record.failed(record.closed_error())
        _engine.throw(failure)

    # ---- settings of this handle

    def set_dumps(self, dumps: Callable[[Any], bytes]) -> None:
        """Encode with `dumps` the values that rocksdict does not store by itself (instead of pickle).

        Args:
            dumps: Makes bytes of a value.
        """
        self._record.live
        self._record.dumps = _engine.check_callable("dumps", dumps)  # first: see `_in_use.is_busy`
        self._change("set_dumps", dumps)
        if self._record.kind == "database":
            self._record.owner.dumps = dumps

    def set_loads(self, loads: Callable[[bytes], Any]) -> None:
        """Decode with `loads` what `dumps` has encoded (instead of unpickling).

        Args:
            loads: Makes a value of bytes.
        """
        self._change("set_loads", _engine.check_callable("loads", loads))

    def set_read_options(self, read_opt: ReadOptions) -> None:
        """Use these options for point reads from now on.

        Args:
            read_opt: How RocksDB reads; its bounds do not apply.
        """
        self._change("set_read_options", check_read_options(read_opt).native())

    def set_write_options(self, write_opt: WriteOptions) -> None:
        """Use these options for writes from now on.

        Args:
            write_opt: How RocksDB writes.
        """
        self._change("set_write_options", write_opt)

    def _change(self, method: str, value: Any) -> None:
        """Change a setting of the native object, which no other handle is to get then (D25)."""
        record = self._record
        record.live
        if record.owner.following is None:
            self._change_native(method, value)
            return
        with record.owner.lock:  # a catch-up may make another native object, and gives it what is noted here (D26)
            self._change_native(method, value)
            record.changes = {**record.changes, method: value}

    def _change_native(self, method: str, value: Any) -> None:
        record, settings = self._record, object()
        record.settings = None  # before `live` is read: a release first unsets that, and then looks at these
        try:
            _engine.call(getattr(record.live, method), value)
        finally:  # an interrupt may come once it is changed
            if record.kind == "database":  # from which column families take theirs
                record.owner.settings = settings

    def set_options(self, options: dict[str, str]) -> None:
        """Change options of the column family while it is open (`SetOptions`).

        Args:
            options: Names of options, as RocksDB writes them, and their values as text.

        Raises:
            InvalidArgumentError: If RocksDB has no such option, or it cannot be changed.
            ReadOnlyError: If the database is open for reading.
        """
        self._record.owner.check_writable("set_options()")  # D8: rocksdict lets it through
        _engine.call(self._record.live.set_options, options)

    # ---- the files, and what RocksDB says of itself

    def flush(self, wait: bool = True) -> None:
        """Write the memtable to disk (`Flush`); other threads run meanwhile.

        Args:
            wait: Return when it is there, and not when it has begun.

        Raises:
            ReadOnlyError: If the database is open for reading.
            EngineError: If it cannot be written.
        """
        _engine.call(self._record.sink.flush, wait)

    def flush_wal(self, sync: bool = True) -> None:
        """Write the write-ahead log to disk (`FlushWAL`).

        Args:
            sync: Have the disk itself store it, too (`fsync`).

        Raises:
            ReadOnlyError: If the database is open for reading.
            EngineError: If it cannot be written.
        """
        _engine.call(self._record.sink.flush_wal, sync)

    def compact_range(self, begin: Key, end: Key, compact_opt: CompactOptions | None = None) -> None:
        """Compact the keys in a range (`CompactRange`).

        Args:
            begin: The first key of the range; None for all from the first on.
            end: The last key of it; None for all to the last.
            compact_opt: How RocksDB compacts.

        Raises:
            ReadOnlyError: If the database is open for reading.
            EngineError: If RocksDB counted background errors meanwhile, the compaction's own
                among them: rocksdict does not hand on what went wrong.
        """
        self._record.owner.check_writable("compact_range()")  # D8: rocksdict lets it through
        before = self.property_int_value("rocksdb.background-errors") or 0
        options = () if compact_opt is None else (compact_opt,)
        _engine.call(self._record.live.compact_range, begin, end, *options)
        failed = (self.property_int_value("rocksdb.background-errors") or 0) - before
        if failed > 0:  # D13: errors of a compaction are swallowed
            counted = f"RocksDB counted {failed} background error{'' if failed == 1 else 's'} during compact_range"
            raise _status.from_text(f"{self._background_error()}; {counted}; its LOG says more")

    def _background_error(self) -> str:
        """Return the error that has stopped all writes: a write of nothing meets it."""
        try:
            _engine.call(self._record.live.write, _engine.new_batch(self._raw))
        except EngineError as error:
            return str(error)
        return "Corruption: writes go on"  # and what it was nobody knows

    def property_value(self, name: str) -> str | None:
        """Return a property of RocksDB as text, or None if there is none of that name (`GetProperty`).

        Args:
            name: Such as `rocksdb.stats`.
        """
        value: str | None = _engine.call(self._record.live.property_value, name)
        return value

    def property_int_value(self, name: str) -> int | None:
        """Return a property of RocksDB as a number, or None if there is none (`GetIntProperty`).

        Args:
            name: Such as `rocksdb.estimate-num-keys`.

        Raises:
            EngineError: If the property is text.
        """
        value: int | None = _engine.call(self._record.live.property_int_value, name)
        return value

    def latest_sequence_number(self) -> int:
        """Return the sequence number of the latest write (`GetLatestSequenceNumber`)."""
        number: int = _engine.call(self._record.live.latest_sequence_number)
        return number

    def live_files(self) -> list[dict[str, Any]]:
        """List the SST files with their sizes, levels and key ranges (`GetLiveFilesMetaData`)."""
        files: list[dict[str, Any]] = _engine.call(self._record.live.live_files)
        return files

    def path(self) -> str:
        """Return the path of the database."""
        self._record.live
        return self._record.owner.name
