"""Who holds a database's LOCK, as the kernel tells it.

LOCK is never opened for this: POSIX locks are dropped when a process closes *any* descriptor of the
file, so that looking from inside the holder would let a second writer in.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass


@dataclass(frozen=True)
class Holder:
    """A process that holds LOCK.

    Attributes:
        pid: Its identifier, or None if it is in another container or namespace.
        command: Its command line, as far as it may be known.
    """

    pid: int | None
    command: str = ""


def lock_holder(directory: str) -> Holder | None:
    """Return the process that has a database open for writing, or None.

    Raises:
        OSError: If this system does not tell (it has no `/proc/locks`).
    """
    try:
        status = os.stat(os.path.join(directory, "LOCK"))
    except FileNotFoundError:
        return None
    with open("/proc/locks", encoding="ascii", errors="replace") as file:
        fields = [line.split() for line in file]
    pids = [int(line[4]) for line in fields if len(line) == 8 and line[1] == "POSIX" and _is_of(line[5], status)]  # noqa: PLR2004 - see proc_locks(5)
    found = next((pid for pid in pids if pid <= 0 or may_have_open(pid, status)), None)
    return None if found is None else _holder(found)


def may_have_open(pid: int, status: os.stat_result) -> bool:
    """Tell whether a process has a file open, or may have: those of other users cannot be looked at.

    What `_is_of` finds may be a file of the same number on another file system, two of tmpfs for instance.
    """
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return True
    for name in names:
        with suppress(OSError):  # closed meanwhile
            if os.path.samestat(os.stat(f"/proc/{pid}/fd/{name}"), status):
                return True
    return False


def _is_of(place: str, status: os.stat_result) -> bool:
    """Tell whether `major:minor:inode` is that of a file.

    Some file systems (btrfs, overlayfs) show another device here than to `stat`, so devices are compared
    only in their major number, which is 0 for all of those.
    """
    major, _minor, inode = place.split(":")
    return int(inode) == status.st_ino and int(major, 16) in (os.major(status.st_dev), 0)


def _holder(pid: int) -> Holder:
    if pid <= 0:
        return Holder(None)
    command = b""
    with suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        command = file.read(4096)
    return Holder(pid, command.rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "surrogateescape"))
