"""What a database directory says of itself, read without RocksDB and without touching it."""

from __future__ import annotations

import os
import re
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saferocks import _log_files
from saferocks._interrupts import is_interrupt, passing_over
from saferocks.errors import CorruptionError, IOFailedError, ModeMismatchError

if TYPE_CHECKING:
    from collections.abc import Iterator

StrPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]

CONFIG_NAME = "rocksdict-config.json"

#: rocksdict reads its configuration a byte at a time, with the interpreter lock: a megabyte takes a second or more.
_LARGEST_CONFIG = 1 << 20

# A VersionEdit writes the comparator as tag 1, the length of its name, its name.
_RAW_MARK = b"\x01\x1aleveldb.BytewiseComparator"
_TYPED_MARK = b"\x01\x09rocksdict"
_DATABASE_FILE = re.compile(r"MANIFEST-\d+$|\d+\.(sst|log|ldb|blob)$")
_PLAIN_TABLE = re.compile(r'^\[TableOptions/PlainTable "([^"]*)"\]', re.MULTILINE)
#: Files that a failed open leaves in a directory that was no database before.
_LITTER = (CONFIG_NAME, "LOCK", "LOG", "IDENTITY")


def text_path(path: object) -> str:
    """Return a path as text.

    Raises:
        TypeError: If it is no path.
        ValueError: If it is empty or holds a NUL.
    """
    try:
        text = os.fsdecode(path)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"path {path!r} is {type(path).__name__}; give a str, bytes or os.PathLike") from None
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"path {text!r} holds bytes that are no UTF-8, which rocksdict cannot open; rename it")
    if not text or "\0" in text:
        raise ValueError(f"path {text!r} is {'empty' if not text else 'not a path: it holds a NUL'}")
    return text


# `os.path` takes the TimeoutError of an alarm for a file that is not there.


def is_directory(path: str) -> bool:
    """Tell whether there is a directory, as `os.path.isdir` does, but for interrupts."""
    with passing_over(OSError, path=path):
        return stat.S_ISDIR(os.stat(path).st_mode)
    return False


def is_there(path: str) -> bool:
    """Tell whether there is anything, as `os.path.lexists` does, but for interrupts."""
    with passing_over(OSError, path=path):
        os.lstat(path)
        return True
    return False


def identity(path: str) -> tuple[int, int] | str | None:
    """Return what tells a directory from all others, by whichever link it is reached; None where there is none.

    That is its number; where the file system numbers nothing, its path without links, which others may come to have.
    """
    with passing_over(OSError, path=path):
        found = os.stat(path)
        return (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(path)
    return None


@dataclass(frozen=True)
class Directory:
    """A directory as it was found.

    Attributes:
        path: The directory.
        is_database: Whether a RocksDB database is in it.
        raw_mode: Whether the keys on disk are raw bytes; None where there is no database.
    """

    path: str
    is_database: bool
    raw_mode: bool | None


def look(path: str, *, logs: bool = True) -> Directory:
    """Read what is at `path`, changing nothing; without `logs`, also where those are damaged.

    Raises:
        IOFailedError: If it is a file, or cannot be read.
        CorruptionError: If CURRENT does not name a readable MANIFEST, RocksDB would read a log file for ever, or
            rocksdict its configuration for very long.
        ModeMismatchError: If the database was made with a comparator of another program.
    """
    _check_reachable(path)
    _check_config(path)
    current = os.path.join(path, "CURRENT")
    if not is_there(current):
        _check_empty(path)
        return Directory(path, is_database=False, raw_mode=None)
    raw_mode = _mode_of(path, current)
    if logs:
        _log_files.check(path)
    return Directory(path, is_database=True, raw_mode=raw_mode)


def _check_empty(path: str) -> None:
    """Refuse a database that has lost its CURRENT: RocksDB would make a new one over it.

    Raises:
        CorruptionError: If there are files of a database.
    """
    names = os.listdir(path) if is_directory(path) else []
    if any(_DATABASE_FILE.match(name) for name in names):
        raise CorruptionError(
            f"Corruption: {path!r} has files of a database but no CURRENT; restore it, "
            "or try saferocks.Rdict.repair on a copy",
            code=2,
        )


def _check_reachable(path: str) -> None:
    """Refuse, before the disk is touched, a path that is a file or lies below one, or is not writable."""
    existing = path
    while not is_there(existing):
        existing = os.path.dirname(os.path.abspath(existing))
    if not is_directory(existing):
        raise IOFailedError(
            f"IO error: {existing!r} is not a directory; a database is a directory of its own, give another path",
            code=5,
        )
    if not os.access(existing, os.R_OK | os.X_OK):
        raise IOFailedError(f"IO error: no permission to read {existing!r}; change its owner or mode", code=5)


def _check_config(path: str) -> None:
    """Refuse a configuration of rocksdict that is larger than any honest one, which would take hours to read.

    Raises:
        CorruptionError: Naming it.
    """
    with passing_over(OSError, path=path):  # there is none
        size = os.stat(os.path.join(path, CONFIG_NAME)).st_size  # `getsize` has a frame: an interrupt, by its looks
        if size > _LARGEST_CONFIG:
            raise CorruptionError(
                f"Corruption: {CONFIG_NAME} of {path!r} has {size} bytes, and should have a few hundred; remove it: "
                "rocksdict writes it anew",
                code=2,
            )


def check_writable(path: str) -> None:
    """Refuse a path in which this process may not create files.

    Raises:
        IOFailedError: If the directory, or its nearest existing parent, is not writable.
    """
    existing = path
    while not is_there(existing):
        existing = os.path.dirname(os.path.abspath(existing))
    writable = os.access(existing, os.W_OK | os.X_OK)
    read_only_mount = hasattr(os, "statvfs") and os.statvfs(existing).f_flag & os.ST_RDONLY
    if not writable or read_only_mount:
        raise IOFailedError(
            f"IO error: no permission to write in {existing!r}; change its owner or mode, "
            "or open with access_type=AccessType.read_only()",
            code=5,
        )


def _mode_of(path: str, current: str) -> bool:
    """Tell raw from typed by the comparator in the MANIFEST, which no later open rewrites (D9)."""
    try:
        with open(current, "rb") as file:
            name = file.read(256).strip().decode("ascii")
        with open(os.path.join(path, name), "rb") as file:
            head = file.read(1 << 16)
    except (OSError, ValueError) as error:  # no UTF-8, or a NUL
        if is_interrupt(error, path):
            raise
        raise CorruptionError(
            f"Corruption: CURRENT of {path!r} does not name a readable MANIFEST ({error}); "
            "restore it, or try saferocks.Rdict.repair on a copy",
            code=2,
        ) from error
    return _mode_in(head, path)


def _mode_in(head: bytes, path: str) -> bool:
    typed, raw = head.find(_TYPED_MARK), head.find(_RAW_MARK)
    if typed != raw:  # the comparator comes before any key, so the first mark is the true one
        return typed < 0 or 0 <= raw < typed
    raise CorruptionError(
        f"Corruption: the MANIFEST of {path!r} names no comparator that rocksdict knows; it is damaged, or the "
        "database belongs to another program; restore it, or try saferocks.Rdict.repair on a copy",
        code=2,
    )


def check_mode(found: Directory, raw_mode: bool) -> None:
    """Refuse to open a database in the wrong mode, before the disk is touched (D9).

    rocksdict opens it once, rewrites its configuration, and the next right open fails.

    Raises:
        ModeMismatchError: Naming both modes.
    """
    if found.raw_mode is None or found.raw_mode == raw_mode:
        return
    holds, wanted = ("raw bytes", "typed") if found.raw_mode else ("typed keys and values", "raw")
    raise ModeMismatchError(
        f"Invalid argument: the database at {found.path!r} holds {holds}, and was to be opened as {wanted}; "
        f"open it with raw_mode={found.raw_mode}",
        code=4,
    )


def old_logs(path: str) -> frozenset[str]:
    """Return the names of RocksDB's old info logs in a directory."""
    names = os.listdir(path) if is_directory(path) else []
    return frozenset(name for name in names if name.startswith("LOG.old."))


def put_log_back(path: str, before: frozenset[str]) -> None:
    """Undo what an open that met a LOCK did: RocksDB puts the holder's LOG aside before it looks."""
    with passing_over(OSError, path=path):  # the holder may be tidying up its logs at this moment
        for name in old_logs(path) - before:
            os.replace(os.path.join(path, name), os.path.join(path, "LOG"))


def plain_tables(path: str) -> frozenset[str]:
    """Return the column families whose SST files are plain tables, which cannot seek in total order."""
    with passing_over(OSError, ValueError, path=path):  # no OPTIONS file: nothing says so
        names = [name for name in os.listdir(path) if name.startswith("OPTIONS-") and name[8:].isdigit()]
        latest = max(names, key=lambda name: int(name[8:]))
        with open(os.path.join(path, latest), encoding="utf-8", errors="replace") as file:
            return frozenset(_PLAIN_TABLE.findall(file.read()))
    return frozenset()


def check_destroyable(path: str) -> bool:
    """Tell whether there is a database to destroy at `path`.

    Raises:
        IOFailedError: If there is something else: RocksDB would delete whatever in it is named like its files.
    """
    _check_reachable(path)
    if not is_there(path):
        return False
    names = os.listdir(path)
    if any(name == "CURRENT" or name.startswith("MANIFEST-") for name in names):
        return True
    if all(name in _LITTER or name.startswith("LOG.old.") for name in names):
        return bool(names)  # a secondary's directory, or what an open that failed has left
    raise IOFailedError(f"IO error: {path!r} holds no database; its files were left alone", code=5)


def mode_for_repair(path: str) -> bool:
    """Tell the mode of a damaged database as well as can be told.

    Raises:
        IOFailedError: If there is no database at `path`: RocksDB would make one.
    """
    _check_reachable(path)
    names = os.listdir(path) if is_directory(path) else []
    if not any(name == "CURRENT" or name.startswith("MANIFEST-") or name.endswith((".sst", ".log")) for name in names):
        raise IOFailedError(f"IO error: No such file or directory: there is no database to repair at {path!r}", code=5)
    manifests = sorted((name for name in names if name.startswith("MANIFEST-")), reverse=True)
    for name in manifests:
        head = (_read_or_none(os.path.join(path, name)) or b"")[: 1 << 16]
        with suppress(CorruptionError):
            return _mode_in(head, path)
    config = _read_or_none(os.path.join(path, CONFIG_NAME)) or b""
    return b'"raw_mode":true' in config


@contextmanager
def left_as_found(path: str, *, always: bool) -> Iterator[None]:
    """Put back rocksdict's configuration file, and remove litter, when an open fails.

    rocksdict creates the directory and writes its configuration before RocksDB has agreed to
    open, and also through read-only handles.

    Args:
        path: The database directory.
        always: Put the configuration back after a success too (read-only and secondary).
    """
    config = os.path.join(path, CONFIG_NAME)
    before = _read_or_none(config)
    missing = _missing_directories(path)
    new = not is_there(os.path.join(path, "CURRENT"))
    kept = frozenset(os.listdir(path)) if is_directory(path) else frozenset()
    try:
        yield
    except BaseException:
        if new:
            _remove_litter(path, kept, missing)
        _restore(config, before)
        raise
    if always:
        _restore(config, before)


def _read_or_none(path: str) -> bytes | None:
    with passing_over(OSError, path=path), open(path, "rb") as file:
        return file.read()
    return None


def _restore(path: str, content: bytes | None) -> None:
    if content is None or _read_or_none(path) == content:
        return
    partial = f"{path}.saferocks"
    with open(partial, "wb") as file:
        file.write(content)
    os.replace(partial, path)


def _missing_directories(path: str) -> tuple[str, ...]:
    """List the directories that opening `path` would create, deepest first."""
    missing: list[str] = []
    step = os.path.abspath(path)
    while not is_there(step):
        missing.append(step)
        step = os.path.dirname(step)
    return tuple(missing)


def _remove_litter(path: str, kept: frozenset[str], missing: tuple[str, ...]) -> None:
    if is_there(os.path.join(path, "CURRENT")):
        return  # another process made a database here meanwhile: nothing in it is ours
    for name in _LITTER:
        if name not in kept:
            with passing_over(OSError, path=path):
                os.unlink(os.path.join(path, name))
    for directory in missing:
        with passing_over(OSError, path=directory):
            os.rmdir(directory)
