"""The only module that imports rocksdict: native calls, error mapping, and the defences against defects.

Each workaround carries the number of the defect it answers (D1 to D28, listed in
docs/rocksdict-defects.md) and can be deleted alone when upstream mends that defect.
"""

from __future__ import annotations

import re
import reprlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

import rocksdict as _native
from rocksdict import (
    BlockBasedIndexType as BlockBasedIndexType,
    BlockBasedOptions as BlockBasedOptions,
    BottommostLevelCompaction as BottommostLevelCompaction,
    Cache as Cache,
    ChecksumType as ChecksumType,
    CompactOptions as CompactOptions,
    CuckooTableOptions as CuckooTableOptions,
    DataBlockIndexType as DataBlockIndexType,
    DBCompactionStyle as DBCompactionStyle,
    DBCompressionType as DBCompressionType,
    DBPath as DBPath,
    DBRecoveryMode as DBRecoveryMode,
    Env as Env,
    FifoCompactOptions as FifoCompactOptions,
    IngestExternalFileOptions as IngestExternalFileOptions,
    KeyEncodingType as KeyEncodingType,
    MemtableFactory as MemtableFactory,
    Options as Options,
    PlainTableFactoryOptions as PlainTableFactoryOptions,
    SliceTransform as SliceTransform,
    UniversalCompactionStopStyle as UniversalCompactionStopStyle,
    UniversalCompactOptions as UniversalCompactOptions,
    WriteBufferManager as WriteBufferManager,
    WriteOptions as WriteOptions,
)

from saferocks import _process, _status, errors
from saferocks._interrupts import foreign_traceback, is_interrupt as is_interrupt
from saferocks.errors import EngineError, HandleClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

#: Exported by rocksdict, though its stub does not list it.
FlushOptions: Any = _native.FlushOptions  # type: ignore[attr-defined]
DEFAULT_FAMILY = "default"


class DatabaseClosedError(HandleClosedError, _native.DbClosedError):
    """A database or column family was used after its release; rocksdict's `DbClosedError` too."""

    __module__ = "saferocks"  # where programs find it, and not in a room of ours; tracebacks name it


# --------------------------------------------------------------------------- errors (D11)

_TYPES_REMEDY = "; pass keys and values of the types that the mode of this database takes"
_BAD_TYPES = ("raw mode only support bytes", "Only support `string`")
_TRANSLATED = (Exception, RuntimeError, _native.DbClosedError, KeyError, ValueError)


def translate(error: BaseException) -> BaseException:
    """Return the typed error for one that came out of a native call.

    What a caller's own `loads` or `dumps` raised, a missing key and Python's own errors come back
    as they are.
    """
    if type(error).__name__ == "PanicException":
        return _status.from_text(f"Corruption: rocksdict panicked: {error}")
    if isinstance(error, OSError) and foreign_traceback(error) is None:
        return errors.IOFailedError(f"IO error: {error}", code=5)
    if type(error) not in _TRANSLATED or foreign_traceback(error) is not None:
        return error
    if isinstance(error, _native.DbClosedError):
        return DatabaseClosedError(str(error))
    text = str(error.args[0]) if error.args else str(error)
    if any(mark in text for mark in _BAD_TYPES):
        return TypeError(f"{text}{_TYPES_REMEDY}")
    if isinstance(error, RuntimeError):
        return _from_runtime_error(error, text)
    if isinstance(error, (KeyError, ValueError)):
        return error
    if text.startswith("names and values"):
        return ValueError(text)
    return _status.from_text(text)


def _from_runtime_error(error: RuntimeError, text: str) -> BaseException:
    if text == "Already mutably borrowed":  # only a close holds it so while others run
        return DatabaseClosedError("DB instance already closed: the database is being closed by another thread")
    if text != "Already borrowed":
        return error
    return errors.ConcurrentUseError(f"{text}: another call is using the same native object; open one for each thread")


def failure(error: BaseException) -> list[BaseException]:
    """Return what to raise for an error of a native call: typed, and holding nothing native.

    A traceback keeps its frames, and frames keep what their variables refer to. An iterator in
    one would keep the database open past its close, for as long as the error is being handled
    (D5). So the frames of this package are taken out or cleared, and the caller raises outside
    its `except` block, so that the original is not kept as context, from a frame without native
    objects, by `throw`.
    """
    translated = translate(error)
    if translated is not error:
        return [translated]
    foreign = foreign_traceback(error)
    if foreign is not None:  # a caller's `loads`: its frame keeps ours by `f_back`
        _clear_frames(error.__traceback__, foreign)
    return [error.with_traceback(foreign)]


def name_bad_types(found: list[BaseException], raw: bool, key: Any, value: Any = b"") -> list[BaseException]:
    """Say which key or value it was, where rocksdict says only what it takes."""
    error = found[0]
    if not isinstance(error, TypeError) or not str(error).endswith(_TYPES_REMEDY):
        return found
    if isinstance(key, list):  # of a multi-get
        key = next((each for each in key if not isinstance(each, bytes)), key)
    for what, given in (("key", key), ("value", value)):
        if raw and not isinstance(given, bytes):
            text = f"{what} {reprlib.repr(given)} is {type(given).__name__}, but this database holds raw bytes; "
            return [TypeError(f"{text}encode it, or open a typed database with raw_mode=False")]
    text = f"key {reprlib.repr(key)} is {type(key).__name__}"
    return [TypeError(f"{text}; a typed database takes bytes, str, int, float and bool as keys")]


def _clear_frames(traceback: TracebackType | None, end: TracebackType) -> None:
    while traceback is not None and traceback is not end:
        with suppress(RuntimeError):  # still running: the caller of `failure`
            traceback.tb_frame.clear()
        traceback = traceback.tb_next


def throw(found: list[BaseException]) -> NoReturn:
    """Raise an error out of a list, which is then empty.

    A frame whose variable refers to the error that it raises is kept by that error for ever, or
    until the collector runs; and with it all that its other variables refer to.
    """
    raise found.pop()


def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call something native, with typed errors. Not for hot paths, which translate in place."""
    try:
        return function(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 - raised below, see `failure`
        found = failure(error)
    del function, args, kwargs
    throw(found)


# --------------------------------------------------------------------------- open


def is_raw(options: Options) -> bool:
    """Tell the mode of an `Options`, which hides it: only a raw writer refuses an int as a key."""
    try:
        _native.SstFileWriter(options)[0] = b""
    except Exception as error:
        if is_interrupt(error):
            raise
        return isinstance(error, KeyError)  # a typed writer gets as far as "File is not opened"
    return False


def new_options(raw: bool) -> Options:
    """Return rocksdict's default options for a mode."""
    return Options(raw_mode=raw)


def load_options(path: str) -> tuple[Options, dict[str, Options]] | None:
    """Load the options a database was last opened with, or None if it has no OPTIONS file.

    Raises:
        EngineError: If there is one that cannot be read; rocksdict would silently open with its
            defaults instead.
    """
    try:
        loaded: tuple[Options, dict[str, Options]] = call(_native.Options.load_latest, path)
    except EngineError as error:
        if "No options files found" in str(error):
            return None
        raise
    return loaded


#: Whether this process, or one that it was forked from, has started RocksDB's background threads.
started = False
#: Whether this process was forked from one that had started them.
forked = False


def start() -> None:
    """Note that RocksDB's background threads run from now on: no forked child can make up for them (D14).

    Raises:
        ForkedProcessError: If they were left behind in the process that this one was forked from.
    """
    global started  # noqa: PLW0603 - set once
    check_process()
    started = True


def check_process() -> None:
    """Refuse to work in a process whose background threads are missing, or will be missed by its children (D14).

    Raises:
        ForkedProcessError: If they were left behind in the process that this one was forked from, or if this one is
            to be forked by uWSGI, of which neither Python nor its children would be told.
    """
    _process.see()
    if _process.forks_unseen():
        raise errors.ForkedProcessError(
            "uWSGI is to fork its workers from this process without telling Python, and RocksDB cannot work in both; "
            "open databases in the workers: set lazy-apps = true, or open in a function under uwsgidecorators.postfork"
        )
    if forked:
        raise errors.ForkedProcessError(
            "this process was forked from one that had opened a database, and RocksDB cannot work in both; "
            "open databases after the fork only, or start children with 'spawn' or 'forkserver'"
        )


def open_native(
    path: str, options: Options, families: Mapping[str, Options] | None, access: Callable[[Any], Any] | None
) -> Any:
    """Open a database natively."""
    start()
    native_access = access(_native.AccessType) if access else _native.AccessType.read_write()
    column_families = None if families is None else dict(families)
    return call(_native.Rdict, path, options, column_families, native_access)


def file_names(rdict: Any) -> frozenset[str]:
    """Return the names of the SST files that a native database consists of."""
    return frozenset(file["name"] for file in call(rdict.live_files))


def families_in_force(
    options: Options | None, given: Mapping[str, Options] | None, loaded: Mapping[str, Options] | None
) -> dict[str, Options] | None:
    """Return the column families to open with (D10).

    Without them rocksdict takes those on disk, the default one included, and drops what
    `options` says of it. Naming the default column family brings the caller's options into force.

    Args:
        options: What the caller gave for the default column family, if anything.
        given: What the caller gave as column families, if anything.
        loaded: The column families on disk, if there are any.
    """
    if given is not None:
        return dict(given)
    if loaded is None:
        return None
    return dict(loaded) if options is None else {**loaded, DEFAULT_FAMILY: options}


def list_families(path: str, options: Options | None = None) -> list[str]:
    """List the column families of a database on disk."""
    names: list[str] = call(_native.Rdict.list_cf, path, *(() if options is None else (options,)))
    return names


def destroy(path: str, options: Options | None) -> None:
    """Delete a database that nobody has open."""
    start()
    call(_native.Rdict.destroy, path, *(() if options is None else (options,)))


def repair(path: str, options: Options | None) -> None:
    """Rebuild what can be rebuilt of a damaged database."""
    start()
    call(_native.Rdict.repair, path, *(() if options is None else (options,)))


# --------------------------------------------------------------------------- pickles (D12)


def refuse_pickle_loads(data: bytes) -> NoReturn:
    """Stand in for `pickle.loads`: a value on disk can be anybody's code (D12)."""
    raise errors.NotSupportedError(
        f"Not implemented: a value holds a pickle of {len(data)} bytes, and unpickling runs whatever code is in it; "
        "open with allow_pickle=True if you trust this database, or give set_loads a restricted loader",
        code=3,
    )


def refuse_pickle_dumps(value: object) -> NoReturn:
    """Stand in for `pickle.dumps`: what could not be read back is not written (D12)."""
    raise TypeError(
        f"a value of type {type(value).__name__} would have to be pickled, and this database was opened without "
        "allow_pickle=True; encode it to bytes, or use set_dumps and set_loads"
    )


def check_callable(name: str, value: Any) -> Any:
    """Return a coder if it is callable: rocksdict takes anything, and fails at the first value."""
    if not callable(value):
        raise TypeError(f"{name} is {value!r}; give a function")
    return value


def forbid_pickle(rdict: Any) -> None:
    """Make a native database or writer refuse pickles in both directions (D12)."""
    rdict.set_dumps(refuse_pickle_dumps)
    if hasattr(rdict, "set_loads"):
        rdict.set_loads(refuse_pickle_loads)


# --------------------------------------------------------------------------- new native objects


def read_options(settings: Iterable[tuple[str, Any]]) -> Any:
    """Build native read options; bounds are never among them (D2, D3)."""
    native = _native.ReadOptions()
    for name, value in settings:
        call(getattr(native, name), value)
    return native


def new_batch(raw: bool) -> Any:
    """Return an empty native write batch."""
    return _native.WriteBatch(raw_mode=raw)


def new_checkpoint(rdict: Any) -> Any:
    """Return a native checkpoint object of a database."""
    return call(_native.Checkpoint, rdict)


def new_sst_writer(options: Options | None) -> Any:
    """Return a native SST file writer."""
    return call(_native.SstFileWriter, *(() if options is None else (options,)))


# --------------------------------------------------------------------------- inspection


def is_iterator(native: Any) -> bool:
    """Tell whether a native object is one RocksDB iterator."""
    return type(native).__name__ in ITERATOR_NAMES


def is_snapshot(native: Any) -> bool:
    """Tell whether a native object is one RocksDB snapshot."""
    return isinstance(native, _native.Snapshot)


ITERATOR_NAMES = frozenset({"RdictIter", "RdictItems", "RdictKeys", "RdictValues", "RdictColumns", "RdictEntities"})
_TICKER = re.compile(r"^rocksdb\.num\.iterator\.(created|deleted) COUNT : (\d+)$", re.MULTILINE)


def live_iterators(options: Options | None) -> int | None:
    """Return RocksDB's own count of live iterators, or None if statistics are off or the database is closed."""
    text = None if options is None else options.get_statistics()
    if text is None:
        return None
    ticks = {name: int(count) for name, count in _TICKER.findall(text)}
    return ticks["created"] - ticks["deleted"] if len(ticks) == 2 else None  # noqa: PLR2004 - the pair
