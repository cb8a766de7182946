"""Opening a database so that not one byte of it can change, also while another process writes it.

Even to read, rocksdict rewrites its configuration file in the directory of the database, and a mistake
there could reach more (D8). So the directory is not given to it. It gets another one, temporary, with
copies of the small files and symbolic links to the large ones: whatever is made, replaced or deleted
there, the database's own directory stays as it is. This also works where that may not be written.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saferocks import _directory, _engine, _manifest
from saferocks._database import open as open_database
from saferocks._options import AccessType
from saferocks._shadow_files import SPARE_DESCRIPTORS, Manner, MovedError, Place, fix, free_descriptors
from saferocks._temporary import for_lack_of_room, temporary_directory
from saferocks._text import printable
from saferocks.errors import BusyError, CorruptionError, EngineError, IOFailedError, NotSupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from saferocks._database import Rdict
    from saferocks._engine import Options
    from saferocks._handle import Scope

#: Seconds for which to begin anew when a writer made or deleted files meanwhile.
_PATIENCE = 20.0
#: Bytes of files that are open at a time, where there are more.
_OPEN_BYTES = 16 << 30


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
    deadline = time.monotonic() + _PATIENCE
    for attempt in itertools.count():
        shadow = os.path.join(room, str(attempt))
        os.mkdir(shadow)
        try:
            return _open_now(place, shadow, pinned)
        except MovedError:
            pinned.close()
            shutil.rmtree(shadow)
        if time.monotonic() >= deadline:
            break
    raise BusyError(
        f"Resource busy: the files of {place.path!r} change faster than they can be opened; try again", code=11
    )


def _open_now(place: Place, shadow: str, pinned: ExitStack) -> Rdict:
    """Open what is there at this moment; it stays open, with its files, until `pinned` ends.

    Raises:
        MovedError: If it changed meanwhile.
    """
    fix(place, shadow, pinned)
    return pinned.enter_context(_open(shadow, place.manner))


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
    most = min(most, free_descriptors())
    return -1 if most >= links else max(most, SPARE_DESCRIPTORS // 2)


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
        os.close(os.open(os.path.join(where, _manifest.current_name(where)), os.O_RDONLY))


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
