"""A directory for what is temporary: never in the database, and gone at the end, also after a signal."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from saferocks._text import printable
from saferocks.errors import NoSpaceError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What keeps a file from being made that is no fault of the database.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


class NoRoomError(OSError):
    """There is no place for temporary files, which says nothing of the database."""


@contextmanager
def temporary_directory(database: str) -> Iterator[str]:
    """Make a directory for what is temporary, and remove it in the end.

    Its name is made first: a signal may come between any two steps, and what is not known cannot be removed.

    Raises:
        NoRoomError: If that is not possible.
    """
    room = os.path.join(_folder(database), f"saferocks-{os.urandom(8).hex()}")
    try:
        with for_lack_of_room(room):
            os.mkdir(room, 0o700)
        yield room
    finally:
        try:  # at once: before another call a signal could come
            shutil.rmtree(room, ignore_errors=True)
        except BaseException:
            shutil.rmtree(room, ignore_errors=True)
            raise


@contextmanager
def for_lack_of_room(room: str) -> Iterator[None]:
    """Say of which directory it is that nothing more can be written to it.

    Raises:
        NoRoomError: Naming it.
    """
    try:
        yield
    except (OSError, NoSpaceError) as error:
        if not isinstance(error, NoSpaceError) and error.errno not in _NO_ROOM:
            raise
        reason = error.strerror if isinstance(error, OSError) else "No space left on device"
        raise NoRoomError(
            f"there is no room for temporary files in '{printable(os.path.dirname(room))}' ({reason}); "
            "set TMPDIR to another directory"
        ) from error


def _folder(database: str) -> str:
    """Return a directory to make one in; `tempfile` would also take one in the database, and write to it.

    Raises:
        NoRoomError: If there is none.
    """
    inside = os.path.realpath(database)
    named = filter(None, map(os.environ.get, ("TMPDIR", "TEMP", "TMP")))
    for folder in map(os.path.realpath, (*named, "/tmp", "/var/tmp")):  # noqa: S108 - a directory is made in it
        is_usable = os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)
        if is_usable and os.path.commonpath((folder, inside)) != inside:
            return folder
    raise NoRoomError(
        "there is no directory for temporary files; set TMPDIR to one that may be written, outside of the database"
    )
