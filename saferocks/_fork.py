"""What becomes of handles in a process that is forked from one that holds some (D14).

RocksDB's background threads do not exist in the child, though its pools believe in them: flushes and
closes wait for ever, writes reach the parent's log, and even the static destructors of a normal exit
hang or crash. So in the child every inherited handle is dead, nothing native is called or destroyed,
and the process ends before those destructors. The parent notices nothing.

Order: `_before` runs in the parent, in the thread that forks. It unsets `live` of every handle, so
that until `_in_parent` each use takes the slow way, on which `_process.see` is asked; the parent's
other threads go on by that way. In the child Python first clears what the other threads had,
thread-locals among it, and finishes the generators it finds there. The first of them that comes near
a handle finds by `see` that it is in a child, and everything here is done before it goes on. If none
does, the hook in the child does it. A loop over a scan asks nobody before it ends: its rows come out
of C, and asking at each would cost every scan of every program.
"""

from __future__ import annotations

import ctypes
import os
import sys
from itertools import count
from threading import get_ident
from typing import TYPE_CHECKING, Any

from saferocks import _engine, _leases, _process, _registry, _totals, _watch, events
from saferocks._life import HandleRecord

if TYPE_CHECKING:
    from collections.abc import Iterable


def _load_libc() -> ctypes.CDLL | None:
    """Return the C library if it is glibc, with all names looked up that a child needs.

    In the child the loader's lock may be held by a thread that is not there.
    """
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    return libc if hasattr(libc, "on_exit") and hasattr(libc, "__cxa_atexit") else None


_LIBC = _load_libc()
_EXIT, _FLUSH = (
    (None, None) if _LIBC is None else (ctypes.cast(f, ctypes.c_void_p) for f in (_LIBC._exit, _LIBC.fflush))
)
_INCREASE = ctypes.pythonapi.Py_IncRef
_numbers = count()
_ends_early = False


def _before() -> None:
    """Let each use of a handle be looked at."""
    _process.forking[get_ident(), next(_numbers)] = None  # first: see `HandleRecord.resume`
    for record in _registry.snapshot():
        if isinstance(record, HandleRecord):
            record.disable()


def _in_parent() -> None:
    """Let the handles be set again, each at its next use, unless another thread is forking."""
    own = [key for key in list(_process.forking) if key[0] == get_ident()]
    if own:
        del _process.forking[own[-1]]  # a signal handler may fork in the midst of a fork


def _adopt() -> None:
    """Make every inherited handle a dead one, and this process able to end.

    An interrupt may end it early; then it is done again, by the hook or the next use of a handle.
    """
    if _engine.started:
        _engine.forked = True
        _end_before_destructors()
    records = _registry.in_order(_registry.records)
    _keep_for_good(native for record in records for native in _natives(record))
    for record in records:
        if isinstance(record, HandleRecord):
            record.abandon()
        record.owner.leave_to_parent()
    _registry.PROCESS.leave_to_parent()
    _leases.start_afresh()
    _totals.start_afresh()
    _watch.forget_leaks()
    events.start_afresh()
    _registry.start_afresh()
    _process.adopted()


def _natives(record: Any) -> tuple[Any, ...]:
    """Return what must not be destroyed in a child: the native parts of a record, and what its owner has."""
    owner = record.owner
    spares = (kept for left in getattr(owner, "spares", {}).values() for kept in left.values())
    natives = getattr(owner, "natives", {}).values()
    kept = getattr(owner, "options", None), getattr(owner, "following", None)
    return record.native, record.keeper, *kept, *natives, *spares


def _keep_for_good(objects: Iterable[Any]) -> None:
    """Add a reference that nobody will ever give back."""
    for each in objects:
        if each is not None:
            _INCREASE(ctypes.py_object(each))


def _end_before_destructors() -> None:
    """Let a normal exit of this process end before RocksDB's static destructors, with its own status.

    They would join threads that do not exist. `exit` calls what was registered last first: here C's
    buffers are written, then the process ends. Python has finished by then. `on_exit` is glibc's.
    """
    global _ends_early  # noqa: PLW0603 - a child of this child inherits what is registered
    if _LIBC is not None and not _ends_early:
        _LIBC.on_exit(_EXIT, None)
        _LIBC.__cxa_atexit(_FLUSH, None, None)  # of all streams
        _ends_early = True


_process.when_forked(_adopt)
if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_process.see)
