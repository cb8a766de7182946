"""Closing a database in two phases, so that nothing is pulled from under a call.

First every handle is marked so that no new call starts, and calls in flight are waited for;
if that takes too long, the mark is taken off and the database stays open. Then the handles are
released, youngest first, and last the database itself. From then on the path can be reopened.
"""

from __future__ import annotations

import threading
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from saferocks import _engine, _guard, _in_use, _registry, _telling, events
from saferocks._cursor import PinnedCursor
from saferocks._life import clear_callees, release, take_over, wait_until_unused
from saferocks._registry import Reason
from saferocks._tally import OUTLIVED, Telling
from saferocks.errors import BusyError

if TYPE_CHECKING:
    from saferocks._life import HandleRecord
    from saferocks._owner import DatabaseOwner, FamilyRecord

#: How long a release at the end of a close waits for a thread that is just leaving a call.
_LAST_CALLS_SECONDS = 5.0
_PAUSE = 0.0005


def close(record: FamilyRecord, *, cancel_background: bool = False, timeout: float | None = None) -> None:
    """Close a database, and tally the handles that outlive it.

    A second caller waits for the first and then finds the database closed.

    Raises:
        BusyError: If calls are still running after the timeout; the database is then open and usable.
        EngineError: If RocksDB reports an error on closing; the database is closed all the same.
    """
    owner = record.owner
    deadline = time.monotonic() + (owner.close_timeout if timeout is None else timeout)
    if not owner.lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
        raise BusyError("Resource busy: another thread is closing the database, or lets it catch up", code=11)
    try:
        if record.reason is not None or owner.closing:  # closed, or closing further up this stack
            return
        _close(record, cancel_background, deadline)
    finally:
        owner.lock.release()


def _close(record: FamilyRecord, cancel_background: bool, deadline: float) -> None:
    try:
        if cancel_background:
            _engine.call(record.native.cancel_all_background, False)
        _drain(record.owner, deadline)
        _release_all(record, deadline)
    except BaseException as error:  # a call still running, or what a signal handler raises anywhere
        clear_callees(error)
        # It is open, and can be closed again; a handle is enabled again by its next use, see `HandleRecord.resume`.
        if record.reason is None:
            record.owner.closing = False
        raise


def _drain(owner: DatabaseOwner, deadline: float) -> None:
    """Let no new call start, and wait for those in flight."""
    owner.closing = True  # first: whoever uses a handle that is being disabled comes to look at it
    children = _children(owner)
    for child in children:
        child.disable()
    _wait_for_openings(owner, deadline)
    for child in children:
        _wait_while_busy(child, deadline)
    owner.wait_for_spares(deadline)


def _wait_while_busy(record: HandleRecord, deadline: float) -> None:
    while record.reason is None and record.is_busy():
        if time.monotonic() >= deadline:
            raise _in_use.still_running()
        time.sleep(_PAUSE)  # there is nothing to wait on: calls inside RocksDB hold no lock of Python's


def _children(owner: DatabaseOwner) -> list[HandleRecord]:
    """Return a database's handles, oldest first, itself included."""
    return _registry.in_order(owner.children)  # type: ignore[return-value]


def _wait_for_openings(owner: DatabaseOwner, deadline: float) -> None:
    """Wait for handles that another thread is opening; they find `closing` set and give up."""
    while any(_is_being_opened(child) for child in _children(owner)):
        if time.monotonic() >= deadline:
            raise BusyError("Resource busy: a handle is still being opened", code=11)
        time.sleep(_PAUSE)


def _is_being_opened(child: HandleRecord) -> bool:
    """Tell whether an opening is under way; one of this thread, or of one that is gone, was interrupted."""
    if child.native is not None or child.reason is not None or child.thread == threading.get_ident():
        return False
    return child.thread in _registry.running_threads()


def _release_all(record: FamilyRecord, deadline: float) -> None:
    failures: list[BaseException] = []
    bound = record.bound
    record.owner.spares.clear()  # first: a child may be about to end its release, having left its native object
    for child in reversed(_children(record.owner)):
        if child is not record:
            _release_child(child, failures)
    record.owner.natives.clear()
    _close_native(record, max(deadline, time.monotonic() + _LAST_CALLS_SECONDS), failures)
    if release(record, Reason.CLOSED):  # told by whoever closes, once it has left the lock; or after a finalizer
        events.defer(events.debug("saferocks.database_closed", bound, _telling.fields_of(record)))
    # Half a megabyte with statistics, which every handle that is still held would keep.
    record.owner.options = record.owner.following = None
    if failures:
        failures.sort(key=_engine.is_interrupt, reverse=True)  # which is to arrive, whatever else there is to tell
        del failures[1:]  # and not a copy, whose errors this frame would keep, and they it
        _engine.throw(failures)


def _close_native(record: FamilyRecord, deadline: float, failures: list[BaseException]) -> None:
    try:
        _in_use.close_native(record.native, deadline)
    except BusyError:
        raise
    except Exception as error:
        if _engine.is_interrupt(error):
            raise  # it may not have come to the close
        failures.append(error)  # raised in the end: it is closed all the same


def _release_child(child: HandleRecord, failures: list[BaseException]) -> None:
    deadline = time.monotonic() + _LAST_CALLS_SECONDS
    natives: list[Any] = []
    try:
        if not isinstance(child.native, PinnedCursor):  # it stays with its snapshot
            natives += _in_use.natives_in(child.native)
        told = Telling(child, OUTLIVED) if child.reason is None and child.is_missed() else nullcontext()
        with told:
            if not release(child, Reason.DATABASE_CLOSED):
                _wait_until_gone(child, deadline)
        wait_until_unused(natives, deadline)
    except BaseException as error:  # noqa: BLE001 - the others have to be released too; raised in the end
        natives.clear()  # the error's traceback keeps this frame, and those of what it has called
        clear_callees(error)
        failures.append(error)


def _wait_until_gone(record: HandleRecord, deadline: float) -> None:
    """Wait for a release that another thread, or a finalizer, has begun.

    Args:
        record: What is being released.
        deadline: Until when to wait, of `time.monotonic`.

    Raises:
        BusyError: If it has not ended by then.
    """
    while record.id in record.owner.children:
        if time.monotonic() >= deadline:
            if record.reason is None:  # they have not even said why, which is the first that they do
                take_over(record, Reason.DATABASE_CLOSED)
                return
            raise BusyError(f"Resource busy: the release of a {record.kind} does not end", code=11)
        time.sleep(0)


def orphaned(record: FamilyRecord) -> None:
    """Close a database whose handle was collected; runs in finalizers, so it does not wait long."""
    close(record, timeout=_LAST_CALLS_SECONDS)
    # Nobody can leave its `with` any more: what has escaped is kept with the process.
    _guard.leave_to_watches(record.owner)
    # What somebody will still ask for, under keys of its own: the same line may have leaked from an earlier database.
    leaks = {(record.id, key): found for key, found in list(record.owner.leaks.items()) if _guard.is_asked_for(found)}
    _registry.PROCESS.leaks.update(leaks)
    raised = _guard.report_untold(record.owner, in_finalizer=True)
    if raised:
        raise raised.pop(0)
