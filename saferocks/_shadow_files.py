"""Fixing the state of a database that another process may be writing: its files, as of one moment, elsewhere.

A writer may delete files at any moment. What is deleted stays readable for whoever has it open, so all files are
opened, and links in another directory lead to their descriptors. The moment is the one at which the length of the
MANIFEST is read: the logs are opened just before, and must be the same ones just after, or it is another moment's turn.
The tables, of which there may be thousands, are opened before, and those that have come meanwhile after it. Only then
is the MANIFEST copied and read, which may take long: nothing that it names can go away any more.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from saferocks import _limits, _log_files, _manifest
from saferocks._options_file import read_options_file
from saferocks._text import printable, printable_bytes, several
from saferocks.errors import CorruptionError, IOFailedError, NotSupportedError

if TYPE_CHECKING:
    from typing import BinaryIO

#: Small files, which are copied.
_COPIED = re.compile(r"IDENTITY$|OPTIONS-\d+$|rocksdict-config\.json$")
#: The orders of keys that rocksdict has, or RocksDB makes when it reads their names in an OPTIONS file.
_COMPARATORS = frozenset({"", "leveldb.BytewiseComparator", "rocksdb.ReverseBytewiseComparator", "rocksdict"})
#: Files with rows; the second is LevelDB's name for them.
_TABLE = re.compile(r"\.(sst|ldb|blob)$")
#: How many moments to try in a row, each of some tenths of a millisecond, before the tables are looked at again.
_MOMENTS = 100
#: File descriptors left for all else.
SPARE_DESCRIPTORS = 64
#: What to do where files are not in the directory of the database, and nothing says where they are.
FILES_ELSEWHERE = "if it keeps files in other directories (Options.set_db_paths), name those with --db-path"


class Manner(Enum):
    """How to open a database."""

    #: As its owner would.
    USUAL = "usual"
    #: Not if any file is missing or damaged, so far as an opening can tell. The usual way leaves out, without a
    #: word, what comes after damage in the write-ahead log; a record that a crash has cut off at its end is none.
    STRICT = "strict"
    #: Also where files are missing or cannot be opened: what is in them then fails to be read.
    TOLERANT = "tolerant"


class MovedError(Exception):
    """Files came or went while they were being opened."""


@dataclass(frozen=True)
class Place:
    """A database that is to be opened.

    Attributes:
        path: Where it is.
        elsewhere: Directories with more of its files.
        manner: How to open it.
    """

    path: str
    elsewhere: tuple[str, ...]
    manner: Manner

    def find(self, *names: str) -> str | None:
        """Return where the first of these names is that there is."""
        places = (os.path.join(folder, name) for folder in (self.path, *self.elsewhere) for name in names)
        return next(filter(os.path.lexists, places), None)


def fix(place: Place, shadow: str, pinned: ExitStack) -> None:
    """Fill a directory with the present state; its files stay readable until `pinned` ends.

    Raises:
        MovedError: If the state changed meanwhile.
        CorruptionError: If a file is missing for good.
    """
    tables = _Tables(place, pinned)
    tables.open_new()
    _take(place, shadow, pinned)
    tables.open_new()
    manifest = _manifest.read_manifest(shadow)
    _check_names(manifest)
    for name in filter(_COPIED.match, os.listdir(place.path)):
        with suppress(FileNotFoundError):  # an older OPTIONS file
            shutil.copyfile(os.path.join(place.path, name), os.path.join(shadow, name))
    missing = tables.link(shadow, manifest)
    if missing and _size(place.path, manifest.name) != _size(shadow, manifest.name):
        raise MovedError  # if the MANIFEST is still the same, they are missing for good
    if missing and place.manner is not Manner.TOLERANT:
        raise CorruptionError(
            f"Corruption: {missing[0]} of {place.path!r} is missing, {len(missing)} of "
            f"{several(len(manifest.files), 'SST file')} in all; {FILES_ELSEWHERE}, or restore a backup",
            code=2,
        )


def _take(place: Place, shadow: str, pinned: ExitStack) -> None:
    """Fill a directory with the logs and the MANIFEST of one moment.

    Raises:
        MovedError: If the writer was faster each time.
    """
    logs = _logs_of(place)
    for _ in range(_MOMENTS):
        with ExitStack() as taken:
            logs.take(shadow, taken)
            manifest = _open_manifest(place.path, shadow, taken)
            # What is written from here on, into other logs too, is of a later state.
            if manifest is not None and logs.are_as_taken():
                manifest.copy()
                pinned.enter_context(taken.pop_all())
                return
        logs.give_back(shadow)
    raise MovedError


@dataclass(frozen=True)
class _OpenManifest:
    """A MANIFEST, to which its writer goes on appending.

    Attributes:
        file: It, opened.
        size: How long it was at the moment that counts.
        target: Where it is copied to.
    """

    file: BinaryIO
    size: int
    target: str

    def copy(self) -> None:
        """Copy it as it was at that moment."""
        with open(self.target, "wb") as copy:
            copy.write(self.file.read(self.size))


def _open_manifest(path: str, shadow: str, opened: ExitStack) -> _OpenManifest | None:
    """Copy CURRENT, and open the MANIFEST that it names; None if that is not there any more."""
    shutil.copyfile(os.path.join(path, "CURRENT"), os.path.join(shadow, "CURRENT"))
    name = _manifest.current_name(shadow)
    try:
        file = opened.enter_context(open(os.path.join(path, name), "rb"))  # noqa: SIM115 - the stack closes it
    except FileNotFoundError:
        if _manifest.current_name(path) == name:
            raise
        return None
    return _OpenManifest(file, os.fstat(file.fileno()).st_size, os.path.join(shadow, name))


def _logs_of(place: Place) -> _Logs:
    settings = read_options_file(place.path).get(("DBOptions", ""), {})
    folder = _log_folder(place.path, settings.get("wal_dir", ""), place.manner)
    recycled = settings.get("recycle_log_file_num", "0") != "0"
    return _Logs(folder, recycled=recycled, cut_off=place.manner is Manner.TOLERANT)


def _log_folder(path: str, elsewhere: str, manner: Manner) -> str:
    """Return where the write-ahead logs are, if the OPTIONS file says that they are elsewhere.

    A checkpoint has its own logs, and a copy of the OPTIONS file of the database that it was made of, whose logs
    go on. Once somebody opens it for writing there is a LOCK, and an OPTIONS file of its own.

    Raises:
        IOFailedError: If there is no such directory: without a word the rows in those logs would not be there.
    """
    if not elsewhere or not os.path.lexists(os.path.join(path, "LOCK")):
        return path
    if os.path.isdir(elsewhere):
        return elsewhere
    if manner is Manner.TOLERANT or any(_has_rows(path, name) for name in os.listdir(path)):
        return path  # RocksDB before 7 wrote the name of the database itself, which has been moved since
    raise IOFailedError(
        f"the write-ahead log of {path!r} is in {elsewhere!r}, and there is no such directory here; run this where "
        "the program runs that writes it, or make an empty directory of that name if the log is gone for good",
        code=5,
    )


def _has_rows(path: str, name: str) -> bool:
    return name.endswith(".log") and name[:-4].isdigit() and _size(path, name) > 0


def _size(path: str, name: str) -> int:
    try:
        return os.path.getsize(os.path.join(path, name))
    except FileNotFoundError:
        return -1


class _Logs:
    """The write-ahead logs of a database.

    What is deleted stays as it was for whoever has it open. But a writer that recycles its logs gives an old
    one a new name and writes over it: so those are copied, and must still have their names afterwards.

    A log that RocksDB would read for ever is copied up to there, if it is to be read all the same.
    """

    def __init__(self, folder: str, *, recycled: bool, cut_off: bool) -> None:
        self._folder = folder
        self._recycled = recycled
        self._cut_off = cut_off
        self._taken: list[str] = []

    def _names(self) -> list[str]:
        found = os.listdir(self._folder) if os.path.isdir(self._folder) else []
        return sorted(name for name in found if name.endswith(".log") and name[:-4].isdigit())

    def take(self, shadow: str, pinned: ExitStack) -> None:
        """Link or copy all of them."""
        self._taken = self._names()
        for name in self._taken:
            file, copy = os.path.join(self._folder, name), os.path.join(shadow, name)
            with suppress(FileNotFoundError):
                damage = _log_files.damage_in(file, is_manifest=False) if self._cut_off else None
                if not self._recycled and damage is None:
                    os.symlink(_open(file, pinned), copy)
                    continue
                shutil.copyfile(file, copy)
                if damage is not None:
                    os.truncate(copy, damage.at)

    def give_back(self, shadow: str) -> None:
        """Remove what was linked or copied."""
        for name in self._taken:
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(shadow, name))

    def are_as_taken(self) -> bool:
        """Tell whether the same ones are there: none came, none went, none was given another name."""
        return self._names() == self._taken


def _check_names(manifest: _manifest.Manifest) -> None:
    """Refuse what rocksdict cannot open.

    Raises:
        NotSupportedError: If the name of a column family is not UTF-8, or its keys are in an order of its program's.
    """
    for name, comparator in manifest.families.items():
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            shown = printable_bytes(name.encode("utf-8", "surrogateescape"))
            raise NotSupportedError(
                f"the name of column family '{shown}' is not UTF-8, and rocksdict cannot open it; "
                "read it with the program that made it",
                code=3,
            )
        if comparator not in _COMPARATORS:
            raise NotSupportedError(
                f"column family '{printable(name)}' is ordered by {printable(comparator)!r}, which rocksdict lacks; "
                "read it with the program that made it",
                code=3,
            )


def free_descriptors() -> int:
    """Return how many more files may be opened, apart from those that all else may need."""
    limit = _limits.files_allowed()
    if limit is None:
        return sys.maxsize
    used = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    return limit - used - SPARE_DESCRIPTORS


class _Tables:
    """The SST and blob files of a database: all that are there, since nobody knows yet which ones count."""

    def __init__(self, place: Place, pinned: ExitStack) -> None:
        self._place = place
        self._pinned = pinned
        #: What links are to lead to, by the names of the files.
        self._found: dict[str, str] = {}

    def open_new(self) -> None:
        """Open those that are not yet.

        Where too few descriptors are left they are not opened, and links lead to their names.
        """
        folders = (self._place.path, *self._place.elsewhere)
        files = ((name, os.path.join(folder, name)) for folder in folders for name in os.listdir(folder))
        new = [(name, file) for name, file in files if _TABLE.search(name) and name not in self._found]
        keeper = self._pinned if free_descriptors() >= 2 * len(new) else None
        for name, file in new:
            with suppress(FileNotFoundError, PermissionError):  # which is told of those that count, see `_find`
                self._found.setdefault(name, _open(file, keeper))

    def link(self, shadow: str, manifest: _manifest.Manifest) -> list[str]:
        """Link the SST files that count, and all blob files; returns the names of the SST files that are not there.

        Whichever directory a file is in: RocksDB, which is told of no other, looks for all of them in this one.

        Raises:
            PermissionError: If one of them may not be read.
        """
        missing = []
        for file in manifest.files:
            name = self._find(file.name, f"{file.number:06d}.ldb")  # LevelDB's name for them
            if name is None:
                missing.append(file.name)
            else:
                os.symlink(self._found[name], os.path.join(shadow, name))
        for name in self._found:
            if name.endswith(".blob"):
                os.symlink(self._found[name], os.path.join(shadow, name))
        return missing

    def _find(self, *names: str) -> str | None:
        """Return the first of these names that there is."""
        found = next((name for name in names if name in self._found), None)
        if found is None and (file := self._place.find(*names)) is not None:
            with suppress(FileNotFoundError):
                found = os.path.basename(file)
                self._found[found] = _open(file, self._pinned)
        return found if found in self._found else None


def _open(file: str, pinned: ExitStack | None) -> str:
    """Open a file, so that it stays readable when it is deleted; returns what a link to it is to lead to.

    Without `pinned` that is its name.
    """
    # What is no file, a pipe say, is not waited for.
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    if pinned is None:
        os.close(descriptor)
        return file
    pinned.callback(os.close, descriptor)
    return f"/proc/self/fd/{descriptor}" if os.path.isdir("/proc/self/fd") else file
