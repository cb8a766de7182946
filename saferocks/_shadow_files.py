"""Fixing the state of a database that another process may be writing: its files, as of one moment, elsewhere.

A writer may delete files at any moment. So first the logs are opened, then the MANIFEST is copied, then the files
that it names are opened, and links in another directory lead to these descriptors, through which a file can be read
that is deleted meanwhile. Only if files came or went in those few milliseconds is that begun anew.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from saferocks import _log_files, _manifest
from saferocks._options_file import read_options_file
from saferocks._text import printable, printable_bytes
from saferocks.errors import CorruptionError, IOFailedError, NotSupportedError

if TYPE_CHECKING:
    from contextlib import ExitStack

#: Small files, which are copied.
_COPIED = re.compile(r"IDENTITY$|OPTIONS-\d+$|rocksdict-config\.json$")
#: The orders of keys that rocksdict has, or RocksDB makes when it reads their names in an OPTIONS file.
_COMPARATORS = frozenset({"", "leveldb.BytewiseComparator", "rocksdb.ReverseBytewiseComparator", "rocksdict"})
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
    logs = _logs_of(place)
    logs.take(shadow, pinned)
    _copy_manifest(place.path, shadow)
    if not logs.are_as_taken():  # what is written from here on, into other logs too, is of a later state
        raise MovedError
    manifest = _manifest.read_manifest(shadow)
    _check_names(manifest)
    for name in filter(_COPIED.match, os.listdir(place.path)):
        with suppress(FileNotFoundError):  # an older OPTIONS file
            shutil.copyfile(os.path.join(place.path, name), os.path.join(shadow, name))
    missing = _link_files(place, shadow, manifest, pinned)
    copied = os.path.getsize(os.path.join(shadow, manifest.name))
    if missing and _size(place.path, manifest.name) != copied:
        raise MovedError  # if the MANIFEST is still the same, they are missing for good
    if missing and place.manner is not Manner.TOLERANT:
        raise CorruptionError(
            f"Corruption: {missing[0]} of {place.path!r} is missing, {len(missing)} of {len(manifest.files)} SST files "
            f"in all; {FILES_ELSEWHERE}, or restore a backup",
            code=2,
        )


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
                    _link(file, shadow, pinned)
                    continue
                shutil.copyfile(file, copy)
                if damage is not None:
                    os.truncate(copy, damage.at)

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


def _copy_manifest(path: str, shadow: str) -> None:
    """Copy CURRENT, and the MANIFEST that it names."""
    shutil.copyfile(os.path.join(path, "CURRENT"), os.path.join(shadow, "CURRENT"))
    name = _manifest.current_name(shadow)
    try:
        shutil.copyfile(os.path.join(path, name), os.path.join(shadow, name))
    except FileNotFoundError:
        if _manifest.current_name(path) == name:
            raise
        raise MovedError from None


def _link_files(place: Place, shadow: str, manifest: _manifest.Manifest, pinned: ExitStack) -> list[str]:
    """Link all SST and blob files; returns the names of the SST files that are not there.

    Whichever directory a file is in: RocksDB, which is told of no other, looks for all of them in this one.
    """
    blobs = (name for folder in (place.path, *place.elsewhere) for name in os.listdir(folder) if name.endswith(".blob"))
    old = {file.name: f"{file.number:06d}.ldb" for file in manifest.files}  # LevelDB's name for them
    files = [(name, place.find(name, *filter(None, [old.get(name)]))) for name in dict.fromkeys((*old, *blobs))]
    keeper = pinned if free_descriptors() >= 2 * len(files) else None
    return [name for name, file in files if (file is None or not _link(file, shadow, keeper)) and name in old]


def free_descriptors() -> int:
    """Return how many more files may be opened, apart from those that all else may need."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return sys.maxsize
    used = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    return limit - used - SPARE_DESCRIPTORS


def _link(file: str, shadow: str, pinned: ExitStack | None) -> bool:
    """Link a file by a descriptor, so that it stays readable when it is deleted; False if it is gone.

    Without `pinned`, where there are too few descriptors for that, it is linked by its name.
    """
    target = file
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    if pinned is None:
        os.close(descriptor)
    else:
        pinned.callback(os.close, descriptor)
        if os.path.isdir("/proc/self/fd"):
            target = f"/proc/self/fd/{descriptor}"
    os.symlink(target, os.path.join(shadow, os.path.basename(file)))
    return True
