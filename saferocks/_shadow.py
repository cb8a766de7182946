"""Opening a database so that not one byte of it can change, also while another process writes it.

Even to read, rocksdict rewrites its configuration file in the directory of the database, and a mistake
there could reach more (D8). So the directory is not given to it. It gets another one, temporary, with
copies of the small files and symbolic links to the large ones: whatever is made, replaced or deleted
there, the database's own directory stays as it is. This also works where that may not be written.

A writer may delete files at any moment. So the state is fixed first: the logs are opened, then the
MANIFEST is copied, then the files that it names are opened, and the links lead to these descriptors,
through which a file can be read that is deleted meanwhile. Only if files came or went in those few
milliseconds is that begun anew.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import sys
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from saferocks import _directory, _engine, _log_files, _manifest
from saferocks._database import open as open_database
from saferocks._options import AccessType
from saferocks._options_file import read_options_file
from saferocks._temporary import for_lack_of_room, temporary_directory
from saferocks._text import printable, printable_bytes
from saferocks.errors import BusyError, CorruptionError, EngineError, IOFailedError, NotSupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from saferocks._database import Rdict
    from saferocks._engine import Options
    from saferocks._handle import Scope

#: Small files, which are copied.
_COPIED = re.compile(r"IDENTITY$|OPTIONS-\d+$|rocksdict-config\.json$")
#: The orders of keys that rocksdict has, or RocksDB makes when it reads their names in an OPTIONS file.
_COMPARATORS = frozenset({"", "leveldb.BytewiseComparator", "rocksdb.ReverseBytewiseComparator", "rocksdict"})
#: How often to begin anew because a writer made or deleted files meanwhile.
_ATTEMPTS = 1000
#: File descriptors left for all else.
_SPARE_DESCRIPTORS = 64
#: Bytes of files that are open at a time, where there are more.
_OPEN_BYTES = 16 << 30


class Manner(Enum):
    """How to open a database."""

    #: As its owner would.
    USUAL = "usual"
    #: Not if any file is missing or damaged, so far as an opening can tell. The usual way leaves out, without a
    #: word, what comes after damage in the write-ahead log; a record that a crash has cut off at its end is none.
    STRICT = "strict"
    #: Also where files are missing or cannot be opened: what is in them then fails to be read.
    TOLERANT = "tolerant"


class _MovedError(Exception):
    """Files came or went while they were being opened."""


class Pickled:
    """Stands for a value that is a pickle, which is never loaded: that would run what is in it.

    Attributes:
        size: How many bytes it has.
    """

    def __init__(self, data: bytes) -> None:
        self.size = len(data)


@dataclass(frozen=True)
class Reading:
    """A database that is open for reading, elsewhere than where it is.

    Attributes:
        path: Where it is.
        room: Where it is opened.
        families: Its column families by name; `default` is the database itself.
    """

    path: str
    room: str
    families: dict[str, Rdict]

    def in_place(self, error: EngineError) -> EngineError:
        """Return an error as it would be had the database been opened where it is."""
        text = re.sub(rf"{re.escape(self.room)}/\d+", lambda _: self.path, str(error))
        return type(error)(text, code=error.code, subcode=error.subcode)


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


@contextmanager
def open_unchanged(path: str, manner: Manner = Manner.USUAL, *, elsewhere: Sequence[str] = ()) -> Iterator[Reading]:
    """Open a database for reading, as it is on disk at this moment, and change nothing of it.

    Args:
        path: The database.
        manner: How much damage is let pass.
        elsewhere: Directories with more of its files (`Options.set_db_paths`), which no file of it names.

    Raises:
        EngineError: If it cannot be opened; the text names its own directory.
        NoRoomError: If there is no place for temporary files.
    """
    with temporary_directory(path) as room, ExitStack() as pinned:
        try:
            with for_lack_of_room(room):
                db = _newest(Place(path, tuple(elsewhere), manner), room, pinned)
            yield Reading(path, room, {name: _family(db, name) for name in db.column_families})
        except EngineError as error:
            raise Reading(path, room, {}).in_place(error) from error


def lacks_descriptors(error: EngineError) -> bool:
    """Tell whether it is this process that may open no more files, which is no damage."""
    return "Too many open files" in str(error)


def _family(db: Rdict, name: str) -> Rdict:
    family = db if name == _engine.DEFAULT_FAMILY else db.get_column_family(name)
    if not family._raw:
        family.set_loads(Pickled)
    return family


def _newest(place: Place, room: str, pinned: ExitStack) -> Rdict:
    """Open what is there, as soon as it can be fixed."""
    for attempt in range(_ATTEMPTS):
        shadow = os.path.join(room, str(attempt))
        os.mkdir(shadow)
        try:
            return _open_now(place, shadow, pinned)
        except _MovedError:
            pinned.close()
            shutil.rmtree(shadow)
    raise BusyError(
        f"Resource busy: the files of {place.path!r} change faster than they can be opened; try again", code=11
    )


def _open_now(place: Place, shadow: str, pinned: ExitStack) -> Rdict:
    """Open what is there at this moment; it stays open, with its files, until `pinned` ends.

    Raises:
        _MovedError: If it changed meanwhile.
    """
    settings = read_options_file(place.path).get(("DBOptions", ""), {})
    folder = _log_folder(place.path, settings.get("wal_dir", ""), place.manner)
    recycled = settings.get("recycle_log_file_num", "0") != "0"
    logs = _Logs(folder, recycled=recycled, cut_off=place.manner is Manner.TOLERANT)
    _fix(place, shadow, logs, pinned)
    return pinned.enter_context(_open(shadow, place.manner))


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


def _fix(place: Place, shadow: str, logs: _Logs, pinned: ExitStack) -> None:
    """Fill a directory with the present state; its files stay readable until `pinned` ends.

    Raises:
        _MovedError: If the state changed meanwhile.
        CorruptionError: If a file is missing for good.
    """
    logs.take(shadow, pinned)
    _copy_manifest(place.path, shadow)
    if not logs.are_as_taken():  # what is written from here on, into other logs too, is of a later state
        raise _MovedError
    manifest = _manifest.read_manifest(shadow)
    _check_names(manifest)
    for name in filter(_COPIED.match, os.listdir(place.path)):
        with suppress(FileNotFoundError):  # an older OPTIONS file
            shutil.copyfile(os.path.join(place.path, name), os.path.join(shadow, name))
    missing = _link_files(place, shadow, manifest, pinned)
    copied = os.path.getsize(os.path.join(shadow, manifest.name))
    if missing and _size(place.path, manifest.name) != copied:
        raise _MovedError  # if the MANIFEST is still the same, they are missing for good
    if missing and place.manner is not Manner.TOLERANT:
        raise CorruptionError(
            f"Corruption: {missing[0]} of {place.path!r} is missing, {len(missing)} of {len(manifest.files)} SST files "
            f"in all; {FILES_ELSEWHERE}, or restore a backup",
            code=2,
        )


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


#: What to do where files are not in the directory of the database, and nothing says where they are.
FILES_ELSEWHERE = "if it keeps files in other directories (Options.set_db_paths), name those with --db-path"


def _size(path: str, name: str) -> int:
    try:
        return os.path.getsize(os.path.join(path, name))
    except FileNotFoundError:
        return -1


def _copy_manifest(path: str, shadow: str) -> None:
    """Copy CURRENT, and the MANIFEST that it names."""
    shutil.copyfile(os.path.join(path, "CURRENT"), os.path.join(shadow, "CURRENT"))
    name = _manifest.current_name(shadow)
    try:
        shutil.copyfile(os.path.join(path, name), os.path.join(shadow, name))
    except FileNotFoundError:
        if _manifest.current_name(path) == name:
            raise
        raise _MovedError from None


def _link_files(place: Place, shadow: str, manifest: _manifest.Manifest, pinned: ExitStack) -> list[str]:
    """Link all SST and blob files; returns the names of the SST files that are not there.

    Whichever directory a file is in: RocksDB, which is told of no other, looks for all of them in this one.
    """
    blobs = (name for folder in (place.path, *place.elsewhere) for name in os.listdir(folder) if name.endswith(".blob"))
    old = {file.name: f"{file.number:06d}.ldb" for file in manifest.files}  # LevelDB's name for them
    files = [(name, place.find(name, *filter(None, [old.get(name)]))) for name in dict.fromkeys((*old, *blobs))]
    keeper = pinned if _free_descriptors() >= 2 * len(files) else None
    return [name for name, file in files if (file is None or not _link(file, shadow, keeper)) and name in old]


def _free_descriptors() -> int:
    """Return how many more files may be opened, apart from those that all else may need."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return sys.maxsize
    used = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    return limit - used - _SPARE_DESCRIPTORS


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


def _open(shadow: str, manner: Manner) -> Scope[Rdict]:
    raw = bool(_directory.look(shadow, logs=False).raw_mode)
    _correct_config(shadow, raw)
    options, families = _load_options(shadow, manner) or (_engine.new_options(raw), {})
    options.set_wal_dir(shadow)  # where the links to the logs are
    files = _manifest.read_manifest(shadow).files
    # All other links are there too; with fewer directories than the MANIFEST counts RocksDB aborts at the close.
    count = max((file.path_id for file in files), default=0) + 1
    options.set_db_paths([_engine.DBPath(shadow, sys.maxsize)] * count)
    options.set_max_open_files(_open_files(shadow, files))
    options.set_paranoid_checks(manner is not Manner.TOLERANT)
    if manner is Manner.STRICT:
        options.set_wal_recovery_mode(_engine.DBRecoveryMode.tolerate_corrupted_tail_records())
    known = {name: families.get(name, options) for name in _engine.list_families(shadow)}
    return open_database(shadow, options=options, column_families=known, access_type=AccessType.read_only())


def _correct_config(shadow: str, raw: bool) -> None:
    """Let the configuration say what the MANIFEST says: RocksDB's own backups have none, and it may be damaged."""
    file = os.path.join(shadow, _directory.CONFIG_NAME)
    found: object = None
    with suppress(OSError, ValueError), open(file, encoding="utf-8") as opened:
        found = json.load(opened)
    says = found if isinstance(found, dict) else {}
    if says.get("raw_mode") is not raw:
        with open(file, "w", encoding="utf-8") as opened:
            json.dump({"prefix_extractors": {}, **says, "raw_mode": raw}, opened)


def _load_options(shadow: str, manner: Manner) -> tuple[Options, dict[str, Options]] | None:
    """Load the options; None where there are none, or none that can be used if that is to be let pass."""
    try:
        return _engine.load_options(shadow)
    except EngineError:
        if manner is not Manner.TOLERANT:
            raise
    for name in filter(re.compile(r"OPTIONS-").match, os.listdir(shadow)):
        os.unlink(os.path.join(shadow, name))
    return None


def _open_files(shadow: str, files: Sequence[_manifest.LiveFile]) -> int:
    """Return how many files RocksDB shall have open at a time, or -1 for all of them.

    All at once, so that what cannot be opened is known at once. But it holds the indexes and filters of all that are
    open in memory, about a hundredth of their size: so of a large database only as many as hold `_OPEN_BYTES`.
    """
    links, size = len(os.listdir(shadow)), sum(file.size for file in files)
    most = links if size <= _OPEN_BYTES else len(files) * _OPEN_BYTES // size
    most = min(most, _free_descriptors())
    return -1 if most >= links else max(most, _SPARE_DESCRIPTORS // 2)


def check_database(path: str) -> str:
    """Return the absolute path of a database that may be read.

    Raises:
        EngineError: If there is none, or it may not be read.
        ValueError: If the path cannot be one.
    """
    where = os.path.abspath(_directory.text_path(path))
    if not os.path.lexists(where):
        raise IOFailedError(f"there is no {where!r}", code=5)
    if os.path.isfile(os.path.join(where, "CURRENT")):
        _check_readable(where)
    try:
        is_database = _look(where).is_database
    except CorruptionError:
        _check_comparator(where)
        raise
    if not is_database:
        raise IOFailedError(f"there is no database in {where!r}: it has no CURRENT", code=5)
    return where


def _look(where: str) -> _directory.Directory:
    """Look at a directory; again if a writer has put another MANIFEST in its place meanwhile."""
    while True:
        before = _current(where)
        try:
            return _directory.look(where, logs=False)  # the opening tells of damaged logs
        except CorruptionError:
            if _current(where) == before:
                raise


def _current(where: str) -> bytes | None:
    with suppress(OSError), open(os.path.join(where, "CURRENT"), "rb") as file:
        return file.read(256)
    return None


def _check_readable(where: str) -> None:
    """Raise PermissionError if CURRENT or the MANIFEST may not be read: that is no damage."""
    with suppress(FileNotFoundError, IsADirectoryError, CorruptionError):
        os.close(os.open(os.path.join(where, _manifest.current_name(where)), os.O_RDONLY | os.O_CLOEXEC))


def _check_comparator(where: str) -> None:
    """Tell of a database of another program what it is: that is no damage.

    Raises:
        NotSupportedError: If its MANIFEST can be read, and names another comparator than rocksdict's.
    """
    found = ""
    with suppress(OSError, EngineError):
        found = _manifest.read_manifest(where).families.get(_engine.DEFAULT_FAMILY, "")
    if found not in ("", "leveldb.BytewiseComparator", "rocksdict"):
        raise NotSupportedError(
            f"the database in {where!r} is ordered by {printable(found)!r}, which rocksdict lacks; "
            "read it with the program that made it",
            code=3,
        )
