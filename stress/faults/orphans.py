"""What a round leaves running when its process has ended, and the end of it.

The process that forks the rounds adopts what they leave behind, even what has made a session of its
own: whatever is its child and no round is an orphan of a round that has ended.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
#: Names the round in the environment of the programs that it starts.
_MARK = "STRESS_FAULTS_ROUND"
#: How long what a round has left behind may take to end by itself, as the servers of multiprocessing do.
_GRACE_SECONDS = 2.0


@contextmanager
def adopted() -> Iterator[frozenset[int]]:
    """Let orphans become our children for the length of a block; yield the children that there are already."""
    _adopt(True)
    try:
        yield frozenset(child.pid for child in psutil.Process().children())
    finally:
        _adopt(False)


def adopt_descendants() -> None:
    """Keep whatever the descendants of a round leave behind below its process, for as long as that lives."""
    _adopt(True)
    os.environ[_MARK] = str(os.getpid())


def die_with_parent() -> None:
    """Die when the process dies that forked this one: what would end us is gone then."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _adopt(yes: bool) -> None:
    _prctl(_PR_SET_CHILD_SUBREAPER, int(yes))


def _prctl(option: int, value: int) -> None:
    if sys.platform.startswith("linux"):  # elsewhere the group is killed, and what has left it is not found
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def end_orphans(leader: int, others: Collection[int], *, at_once: bool) -> tuple[str, ...]:
    """End what a round has left behind.

    Args:
        leader: The process of the round, which has ended and is not reaped.
        others: Children of ours that are no orphans, other rounds among them.
        at_once: Do not wait for it to end by itself.

    Returns:
        What did not end by itself, a few words each.
    """
    found: list[str] = []
    orphans = _orphans(leader, others)
    deadline = time.monotonic() + (0.0 if at_once else _GRACE_SECONDS)
    while orphans and (left := deadline - time.monotonic()) > 0:  # those that end leave us theirs
        psutil.wait_procs(orphans, timeout=left)
        orphans = _orphans(leader, others)
    while orphans:  # killed, they leave us theirs
        for orphan in orphans:
            with suppress(psutil.NoSuchProcess):
                found.append(_in_words(orphan))
                orphan.kill()
            _reap(orphan.pid)
        orphans = _orphans(leader, others)
    return tuple(found)


def _orphans(leader: int, others: Collection[int]) -> list[psutil.Process]:
    """Return the orphans that are alive; those that have ended are reaped."""
    found = [child for child in psutil.Process().children() if child.pid != leader and child.pid not in others]
    return [child for child in found if not _has_ended(child) and not _rounds_of(child) & frozenset(others)]


def _rounds_of(orphan: psutil.Process) -> frozenset[int]:
    """Return the round that an orphan says it is of; rounds that end in the same moment have their own."""
    with suppress(psutil.Error, ProcessLookupError, ValueError):
        return frozenset((os.getsid(orphan.pid), int(orphan.environ().get(_MARK, 0))))
    return frozenset()


def _has_ended(child: psutil.Process) -> bool:
    try:
        reaped, _status = os.waitpid(child.pid, os.WNOHANG)
    except ChildProcessError:
        return True
    return bool(reaped)


def _reap(pid: int) -> None:
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _in_words(process: psutil.Process) -> str:
    with process.oneshot():
        return f"{process.pid} ({' '.join(process.cmdline())[:200] or process.name()})"
