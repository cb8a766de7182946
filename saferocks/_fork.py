"""What becomes of handles in a process that is forked from one that holds some (D14).

RocksDB's background threads do not exist in the child, though its pools believe in them: flushes and
closes wait for ever, writes reach the parent's log, and even the static destructors of a normal exit
hang or crash. So in the child every inherited handle is dead, nothing native is called or destroyed,
and the process ends before those destructors. The parent notices nothing.

Order: `_before` runs in the parent, in the thread that forks, and keeps every native object alive
through the fork. In the child Python first clears what the other threads had, thread-locals among
it, whose handles are then collected; `Handle.__del__` knows by the process that they are not its
own. Only then `_in_child` runs, before any other code of the program unless that has registered
itself earlier.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from saferocks import _engine, _leases, _registry, _watch, events
from saferocks._handle import HandleRecord

if TYPE_CHECKING:
    from collections.abc import Iterable

#: What the threads that are forking at this moment keep alive, by thread.
_kept: dict[int, list[Any]] = {}
_ends_early = False


def _before() -> None:
    """Keep every native object alive, so that nothing is destroyed in the child before its turn comes."""
    _kept[threading.get_ident()] = [natives for record in _registry.snapshot() for natives in _natives(record)]


def _in_parent() -> None:
    _kept.pop(threading.get_ident(), None)


def _in_child() -> None:
    """Make every inherited handle a dead one, and this process able to end."""
    records = _registry.snapshot()
    _keep_for_good(natives for kept in _kept.values() for natives in kept)
    _keep_for_good(natives for record in records for natives in _natives(record))
    _kept.clear()
    _registry.adopt_process()
    for record in records:
        if isinstance(record, HandleRecord):
            record.abandon()
        record.owner.leave_to_parent()
    _registry.PROCESS.leave_to_parent()
    _leases.start_afresh()
    _watch.forget_leaks()
    events.pending.clear()
    if _engine.started:
        _engine.forked = True
        _end_before_destructors()


def _natives(record: Any) -> tuple[Any, ...]:
    """Return what must not be destroyed in a child: the native parts of a record, and its owner's options."""
    return record.native, record.keeper, getattr(record.owner, "options", None)


def _keep_for_good(objects: Iterable[Any]) -> None:
    """Add a reference that nobody will ever give back."""
    for each in objects:
        if each is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))


def _end_before_destructors() -> None:
    """Let a normal exit of this process end before RocksDB's static destructors, with its own status.

    They would join threads that do not exist. `exit` calls what was registered last first: here C's
    buffers are written, then the process ends. Python has finished by then. `on_exit` is glibc's.
    """
    global _ends_early  # noqa: PLW0603 - a child of this child inherits what is registered
    if _ends_early or not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):
        libc.on_exit(ctypes.cast(libc._exit, ctypes.c_void_p), None)
        libc.__cxa_atexit(ctypes.cast(libc.fflush, ctypes.c_void_p), None, None)  # of all streams
        _ends_early = True


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
