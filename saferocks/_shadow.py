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

import errno
import os
import re
import shutil
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from saferocks import _directory, _engine, _manifest
from saferocks._database import open as open_database
from saferocks._options import AccessType
from saferocks._options_file import read_options_file
from saferocks.errors import BusyError, CorruptionError, EngineError, IOFailedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from saferocks._database import Rdict
    from saferocks._handle import Scope

#: Small files, which are copied.
_COPIED = re.compile(r"IDENTITY$|OPTIONS-\d+$|rocksdict-config\.json$")
#: How often to begin anew because a writer made or deleted files meanwhile.
_ATTEMPTS = 1000


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


@contextmanager
def open_unchanged(path: str, manner: Manner = Manner.USUAL) -> Iterator[Reading]:
    """Open a database for reading, as it is on disk at this moment, and change nothing of it.

    Args:
        path: The database.
        manner: How much damage is let pass.

    Raises:
        EngineError: If it cannot be opened; the text names its own directory.
    """
    with tempfile.TemporaryDirectory(prefix="saferocks-") as room, ExitStack() as pinned:
        try:
            db = _newest(path, room, pinned, manner)
            yield Reading(path, room, {name: _family(db, name) for name in db.column_families})
        except EngineError as error:
            raise Reading(path, room, {}).in_place(error) from error


def _family(db: Rdict, name: str) -> Rdict:
    family = db if name == _engine.DEFAULT_FAMILY else db.get_column_family(name)
    if not family._raw:
        family.set_loads(Pickled)
    return family


def _newest(path: str, room: str, pinned: ExitStack, manner: Manner) -> Rdict:
    """Open what is there, as soon as it can be fixed."""
    for attempt in range(_ATTEMPTS):
        shadow = os.path.join(room, str(attempt))
        os.mkdir(shadow)
        try:
            return _open_now(path, shadow, pinned, manner)
        except _MovedError:
            pinned.close()
            shutil.rmtree(shadow)
    raise BusyError(f"Resource busy: the files of {path!r} change faster than they can be opened; try again", code=11)


def _open_now(path: str, shadow: str, pinned: ExitStack, manner: Manner) -> Rdict:
    """Open what is there at this moment; it stays open, with its files, until `pinned` ends.

    Raises:
        _MovedError: If it changed meanwhile.
    """
    settings = read_options_file(path).get(("DBOptions", ""), {})
    logs = _Logs(settings.get("wal_dir") or path, recycled=settings.get("recycle_log_file_num", "0") != "0")
    _fix(path, shadow, logs, pinned)
    return pinned.enter_context(_open(shadow, manner))


class _Logs:
    """The write-ahead logs of a database.

    What is deleted stays as it was for whoever has it open. But a writer that recycles its logs gives an old
    one a new name and writes over it: so those are copied, and must still have their names afterwards.
    """

    def __init__(self, folder: str, *, recycled: bool) -> None:
        self._folder = folder
        self._recycled = recycled
        self._taken: list[str] = []

    def _names(self) -> list[str]:
        found = os.listdir(self._folder) if os.path.isdir(self._folder) else []
        return sorted(name for name in found if name.endswith(".log") and name[:-4].isdigit())

    def take(self, shadow: str, pinned: ExitStack) -> None:
        """Link or copy all of them."""
        self._taken = self._names()
        for name in self._taken:
            if not self._recycled:
                _link(self._folder, shadow, name, pinned)
                continue
            with suppress(FileNotFoundError):
                shutil.copyfile(os.path.join(self._folder, name), os.path.join(shadow, name))

    def are_as_taken(self) -> bool:
        """Tell whether the same ones are there: none came, none went, none was given another name."""
        return self._names() == self._taken


def _fix(path: str, shadow: str, logs: _Logs, pinned: ExitStack) -> None:
    """Fill a directory with the present state; its files stay readable until `pinned` ends.

    Raises:
        _MovedError: If the state changed meanwhile.
    """
    logs.take(shadow, pinned)
    _copy_manifest(path, shadow)
    if not logs.are_as_taken():  # what is written from here on, into other logs too, is of a later state
        raise _MovedError
    manifest = _manifest.read_manifest(shadow)
    for name in filter(_COPIED.match, os.listdir(path)):
        with suppress(FileNotFoundError):  # an older OPTIONS file
            shutil.copyfile(os.path.join(path, name), os.path.join(shadow, name))
    missing = [name for name in _names_of(manifest, path) if not _link(path, shadow, name, pinned)]
    copied = os.path.getsize(os.path.join(shadow, manifest.name))
    if missing and _size(path, manifest.name) != copied:
        raise _MovedError  # if the MANIFEST is still the same, they are missing for good, as RocksDB will say


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


def _names_of(manifest: _manifest.Manifest, path: str) -> list[str]:
    """Return the names of the SST files in this directory, as they are here, and of all blob files."""
    found = os.listdir(path)
    present = frozenset(found)
    tables = (file.name for file in manifest.files if file.path_id == 0)
    old = ((name, f"{name[:-4]}.ldb") for name in tables)  # LevelDB's name for them
    chosen = [other if other in present and name not in present else name for name, other in old]
    return [*chosen, *(name for name in found if name.endswith(".blob"))]


def _link(path: str, shadow: str, name: str, pinned: ExitStack) -> bool:
    """Link a file by a descriptor, so that it stays readable when it is deleted; False if it is gone."""
    target = os.path.join(path, name)
    try:
        descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    else:
        pinned.callback(os.close, descriptor)
        if os.path.isdir("/proc/self/fd"):
            target = f"/proc/self/fd/{descriptor}"
    os.symlink(target, os.path.join(shadow, name))
    return True


def _open(shadow: str, manner: Manner) -> Scope[Rdict]:
    loaded = _engine.load_options(shadow)
    access = AccessType.read_only()
    if loaded is None:
        return open_database(shadow, access_type=access)
    options, families = loaded
    options.set_wal_dir(shadow)  # where the links to the logs are
    options.set_max_open_files(-1)  # all at once, so that what cannot be opened is known at once
    options.set_paranoid_checks(manner is not Manner.TOLERANT)
    if manner is Manner.STRICT:
        options.set_wal_recovery_mode(_engine.DBRecoveryMode.tolerate_corrupted_tail_records())
    known = {name: families.get(name, options) for name in _engine.list_families(shadow)}
    return open_database(shadow, options=options, column_families=known, access_type=access)


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
    if not _directory.look(where).is_database:
        raise IOFailedError(f"there is no database in {where!r}: it has no CURRENT", code=5)
    return where


def _check_readable(where: str) -> None:
    """Raise PermissionError if CURRENT or the MANIFEST may not be read: that is no damage."""
    with suppress(FileNotFoundError, IsADirectoryError, CorruptionError):
        os.close(os.open(os.path.join(where, _manifest.current_name(where)), os.O_RDONLY | os.O_CLOEXEC))
