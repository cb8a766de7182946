"""Disks that can be filled and emptied: a small file system of this process alone, or a limit on its files."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Protocol

from stress.faults.fault import NotStagedError

_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_REMOUNT, _MS_REC, _MS_PRIVATE = 0x20, 0x4000, 0x40000
_SMALL_BYTES, _LARGE_BYTES = 8 << 20, 64 << 20
_PAGE_BYTES = 4096


class Disk(Protocol):
    """What databases of a round are on.

    Attributes:
        name: In counts.
        full: The beginning of what RocksDB says when it is full, after `IO error: `.
    """

    name: str
    full: str

    def fill(self, random: Random) -> None:
        """Leave so little space that what is written next fails, at once or soon."""

    def give_back(self, random: Random) -> None:
        """Make space again."""


class SmallFileSystem:
    """A tmpfs in a mount namespace of this process, with which it goes away."""

    name = "file system"
    full = "No space left on device"

    def __init__(self, directory: Path) -> None:
        _enter_namespace()
        self._directory = directory
        self._ballast = directory / "ballast"
        _mount(b"tmpfs", directory, b"tmpfs", 0, f"size={_SMALL_BYTES}")

    def fill(self, random: Random) -> None:
        """Write a file that takes all of it, but for a few pages."""
        with self._ballast.open("ab", buffering=0) as file:
            with suppress(OSError):  # it is full
                while True:
                    file.write(bytes(_PAGE_BYTES))
            size = file.tell()
        os.truncate(self._ballast, max(0, size - _PAGE_BYTES * random.choice((0, 0, 1, 4, 16))))

    def give_back(self, random: Random) -> None:
        """Enlarge the file system, or remove the file."""
        if random.random() < 0.5:
            _mount(b"tmpfs", self._directory, b"tmpfs", _MS_REMOUNT, f"size={_LARGE_BYTES}")
        else:
            self._ballast.unlink(missing_ok=True)


class SmallFiles:
    """A limit on the size of each file that this process writes (`RLIMIT_FSIZE`)."""

    name = "file size limit"
    full = "File too large"

    def __init__(self) -> None:
        _, self._hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if self._hard != resource.RLIM_INFINITY:
            raise NotStagedError(f"files are limited to {self._hard} bytes for good (RLIMIT_FSIZE)")
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill(self, random: Random) -> None:
        """Let no file grow beyond a few bytes."""
        limit = random.choice((0, 1, 4096, 30_000))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, self._hard))

    def give_back(self, random: Random) -> None:
        """Lift the limit."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (self._hard, self._hard))


def disk(directory: Path, *, limit_first: bool) -> Disk:
    """Return a disk that this machine allows.

    Args:
        directory: Where it is to be.
        limit_first: Whether to try a limit on files before a file system.

    Raises:
        NotStagedError: If it allows neither.
    """
    reasons: list[str] = []
    for limited in (limit_first, not limit_first):
        try:
            return SmallFiles() if limited else SmallFileSystem(directory)
        except NotStagedError as error:
            reasons.append(str(error))
    raise NotStagedError("; ".join(reasons))


_libc = ctypes.CDLL(None, use_errno=True)


def _enter_namespace() -> None:
    """Give this process mounts of its own; without being root it becomes so in a user namespace of its own."""
    user, group = os.geteuid(), os.getegid()
    if _libc.unshare(_CLONE_NEWNS) != 0:
        if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS) != 0:
            raise _refused("a mount namespace")
        for name, content in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            with suppress(OSError):  # the mount fails then, and says so
                Path(f"/proc/self/{name}").write_text(content, encoding="ascii")
    _mount(b"none", Path("/"), b"", _MS_REC | _MS_PRIVATE, "")


def _mount(source: bytes, target: Path, kind: bytes, flags: int, options: str) -> None:
    if _libc.mount(source, os.fsencode(target), kind, flags, options.encode()) != 0:
        raise _refused(f"mounting at {str(target)!r}")


def _refused(what: str) -> NotStagedError:
    return NotStagedError(f"{what} is not permitted here: {os.strerror(ctypes.get_errno())}")
