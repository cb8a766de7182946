"""Opening a database so that not one byte of it can change, also while another process writes it.

Even to read, rocksdict rewrites its configuration file in the directory of the database, and a mistake
there could reach more (D8). So the directory is not given to it. It gets another one, temporary, which
holds a symbolic link to each file of the database and a copy of the configuration: whatever is made,
replaced or deleted there, the database's own directory stays as it is. This also works where its
directory may not be written.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saferocks import _directory, _engine, _manifest
from saferocks._database import open as open_database
from saferocks._options import AccessType
from saferocks.errors import EngineError, IOFailedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from saferocks._database import Rdict
    from saferocks._handle import Scope

#: The files of a database; not LOCK and not its logs, which nobody who reads needs.
_LINKED = re.compile(r"CURRENT$|IDENTITY$|(MANIFEST|OPTIONS)-\d+$|\d+\.(sst|ldb|log|blob)$")
#: How often to begin anew because a writer made or deleted files meanwhile.
_ATTEMPTS = 10


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
def open_unchanged(path: str) -> Iterator[Reading]:
    """Open a database for reading, as it is on disk at this moment, and change nothing of it.

    Raises:
        EngineError: If it cannot be opened; the text names its own directory.
    """
    with tempfile.TemporaryDirectory(prefix="saferocks-") as room:
        try:
            with _newest(path, room) as db:
                yield Reading(path, room, {name: _family(db, name) for name in db.column_families})
        except EngineError as error:
            raise Reading(path, room, {}).in_place(error) from error


def _family(db: Rdict, name: str) -> Rdict:
    family = db if name == _engine.DEFAULT_FAMILY else db.get_column_family(name)
    if not family._raw:
        family.set_loads(Pickled)
    return family


def _newest(path: str, room: str) -> Scope[Rdict]:
    """Open what is there, again while a writer replaces files faster than they are opened."""
    for attempt in range(_ATTEMPTS):
        names = _names(path)
        shadow = os.path.join(room, str(attempt))
        try:
            _link(path, shadow, names)
            return _open(shadow)
        except (EngineError, OSError):
            if attempt + 1 == _ATTEMPTS or _names(path) == names:
                raise
    raise AssertionError  # the last attempt has returned or raised


def _names(path: str) -> list[str]:
    return sorted(name for name in os.listdir(path) if _LINKED.match(name))


def _link(path: str, shadow: str, names: list[str]) -> None:
    os.mkdir(shadow)
    for name in names:
        os.symlink(os.path.join(path, name), os.path.join(shadow, name))
    config = os.path.join(path, _directory.CONFIG_NAME)
    with suppress(FileNotFoundError):
        shutil.copyfile(config, os.path.join(shadow, _directory.CONFIG_NAME))


def _open(shadow: str) -> Scope[Rdict]:
    loaded = _engine.load_options(shadow)
    access = AccessType.read_only()
    if loaded is None:
        return open_database(shadow, access_type=access)
    options, families = loaded
    options.set_max_open_files(-1)  # all at once: a writer may delete some of them later
    for name in _manifest.read_manifest(shadow).families:
        families.setdefault(name, options)
    families.setdefault(_engine.DEFAULT_FAMILY, options)
    known = {name: families[name] for name in _engine.list_families(shadow)}
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
    if not _directory.look(where).is_database:
        raise IOFailedError(f"there is no database in {where!r}: it has no CURRENT", code=5)
    return where
