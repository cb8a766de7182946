"""Watches: whose handle it is that escaped. Kept by tests; a program that runs none of them pays nothing.

A watch is on while a test runs, a fixture is set up, or a block is entered. Which one a handle was
opened under follows from its number, which only grows, and from the thread that opened it; so the
opening itself need not know of watches. `whose` is asked in finalizers too: it takes no lock, and
what it reads is replaced whole, never changed in place.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

from saferocks import _deadlines, _registry

if TYPE_CHECKING:
    from collections.abc import Iterable

    from saferocks._registry import Record

_FOREVER = sys.maxsize
_NOTHING: frozenset[str] = frozenset()

#: All watches that have not ended.
watches: tuple[Watch, ...] = ()
#: The numbers of open handles that a test was allowed to leave; nothing is ever said of them again.
exempt: frozenset[int] = frozenset()
#: Held while either is replaced; readers, which finalizers are, do without.
_writing = threading.RLock()
#: The threads that are running, by identifier. Read as it is: `threading.enumerate` takes a lock, which a finalizer
#: must not, and threads that `threading` has not started are in neither.
_active: dict[int, threading.Thread] = vars(threading)["_active"]
#: The threads that are being started, and are not in `_active` yet.
_limbo: dict[threading.Thread, threading.Thread] = vars(threading)["_limbo"]


def thread_name(ident: int) -> str:
    """Return the name of a thread, or its identifier once it is gone; safe in finalizers."""
    thread = _active.get(ident)
    return str(ident) if thread is None else thread.name


class Watch:
    """Whose the handles are that are opened while it is on.

    Attributes:
        what: `test`, `fixture`, `block` or `session`.
        allowed: The kinds of handles that may be left open.
        leaks: What has escaped of its handles, by the identity of the tally; the guard adds to it.
        thread: Identifier of the thread that runs it.
        speaks: Whether it is left to it to tell of its leaks, though it is on: a close neither warns nor raises.
    """

    def __init__(self, what: str, allowed: frozenset[str] | None = None, thread: int | None = None) -> None:
        """Make a watch that is on from now, over the calling thread or another and those that it starts."""
        self.what = what
        self.allowed = allowed or _NOTHING
        self.leaks: dict[int, Any] = {}
        self.speaks = False
        self.thread = threading.get_ident() if thread is None else thread
        self._spans: tuple[tuple[int, int], ...] = ((_registry.next_number(), _FOREVER),)
        # After its number: so one made on a thread that is missing here has a higher number, and is further in.
        self._starting = tuple(_limbo)
        self._older = {ident: _active.get(ident) for ident in _registry.running_threads()}
        self._join()

    def on(self) -> None:
        """Own the handles that are opened from now on, if it does not already."""
        if self._spans[-1][1] != _FOREVER:
            self._spans += ((_registry.next_number(), _FOREVER),)
            self._join()

    def _join(self) -> None:
        global watches  # noqa: PLW0603 - replaced whole; see above
        with _writing:
            if self not in watches:
                watches += (self,)

    def off(self) -> None:
        """Leave the handles that are opened from now on to others."""
        first, last = self._spans[-1]
        if last == _FOREVER:
            self._spans = (*self._spans[:-1], (first, _registry.next_number()))

    def end(self) -> None:
        """Own nothing any more."""
        global watches  # noqa: PLW0603 - see above
        self.off()
        with _writing:
            watches = tuple(watch for watch in watches if watch is not self)

    def has_threads(self) -> bool:
        """Tell whether threads are running that are younger than the watch."""
        return bool(self._younger())

    def disown(self, other: Watch) -> None:
        """Leave to others what threads open that have been started under another watch and are still running."""
        self._older |= {ident: _active.get(ident) for ident in other._younger()}

    def _younger(self) -> list[int]:
        threads = _registry.running_threads()
        others = threads - {self.thread} - _deadlines.threads
        return [ident for ident in others if not self._is_older(ident)]

    def _is_older(self, thread: int) -> bool:
        """Tell whether an identifier is that of a thread which is older than the watch.

        The identifier of a thread that has ended is given to the next one. If nobody has it now,
        there is no telling which of the two has opened a handle: a test is held for innocent, since
        the session is asked as well; after a block nobody is.
        """
        now = _active.get(thread)
        if any(now is each for each in self._starting):
            return True
        if thread not in self._older:
            return False
        older = self._older[thread]
        return self.what != "block" if now is None and older is not None else now is older

    def may_own(self) -> bool:
        """Tell whether any handle at all has been opened while it was on."""
        now = _registry.next_number()
        return any(min(last, now) - first > 1 for first, last in self._spans)

    def since(self, number: int, thread: int) -> int:
        """Return from which number on it was on for a handle and its thread, or -1 if it was not.

        A thread that is older than a test has been opening handles before it and will after it.
        """
        if self.what != "session" and thread != self.thread and self._is_older(thread):
            return -1
        return next((first for first, last in self._spans if first <= number < last), -1)


def whose(record: Record) -> Watch | None:
    """Return the watch under which a handle was opened: of nested ones, the innermost."""
    return _owner(record.id, record.thread)


def current() -> Watch | None:
    """Return the watch under which this thread would open a handle now."""
    return _owner(_FOREVER - 1, threading.get_ident())


def _owner(number: int, thread: int) -> Watch | None:
    present = watches
    if not present:
        return None
    since, owner = max(((watch.since(number, thread), watch) for watch in present), key=_first)
    return owner if since >= 0 else None


def _first(pair: tuple[int, Watch]) -> int:
    return pair[0]


def is_exempt(record: Record) -> bool:
    """Tell whether a handle may be left without a word."""
    if record.id in exempt:
        return True
    owner = whose(record)
    return owner is not None and record.kind in owner.allowed


def forget_leaks() -> None:
    """Forget what has leaked so far: in a forked child, its parent will tell of it."""
    for watch in watches:
        watch.leaks.clear()


def exempt_for_good(records: Iterable[Record]) -> None:
    """Never say anything of these handles again; forgets those that are gone."""
    global exempt  # noqa: PLW0603 - see above
    numbers = {record.id for record in records}
    with _writing:
        exempt = frozenset(number for number in exempt | numbers if number in _registry.records)
