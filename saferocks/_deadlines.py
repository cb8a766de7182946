"""Deadlines: one daemon thread and one heap for all of them, whatever they are for.

Who may do what, so that no lock is ever held where a finalizer could run into it:

- The heap belongs to the watcher's thread alone. Others hand new deadlines over by a deque, and
  never take one out: they only see to it that `is_live` says no, and the watcher drops what is
  dead when it comes to it, or when more than half of all it keeps is.
- The thread that holds the one token in `_vacancy` is the watcher. It takes it itself, when it
  starts, and puts it back before it looks a last time whether it may end; whoever adds a deadline
  does so first and then looks at the token. The second of the two sees the other.
- The alarm wakes it: a raw lock that the watcher waits for, and that anybody may release at any
  bytecode, twice as well. Between two deadlines it sleeps, and nobody wakes it for a later one.
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from _thread import allocate_lock
from collections import deque
from contextlib import suppress
from sys import is_finalizing as _is_finalizing
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sized

#: How long the watcher stays when there is nothing left to watch: short-lived handles that come
#: one after the other are not to start a thread each.
LINGER_SECONDS = 1.0
#: How many dead deadlines are kept without a thought.
_SLACK = 1024
#: The identifiers of the threads that watch, which open no handles.
threads: set[int] = set()
_NEVER, _AWAKE = math.inf, math.inf


class Deadline(Protocol):
    """Something that is due at a time."""

    def is_live(self) -> bool:
        """Tell whether it is still to come; once it is not, it never is again."""
        ...

    def come(self, now: float) -> float | None:
        """Do what is due, and return when it is due again, if it is."""
        ...


class Alarm:
    """What the watcher sleeps on; ringing it takes no lock and never blocks."""

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()

    def ring(self) -> None:
        """Wake the watcher, or keep it from falling asleep."""
        with suppress(RuntimeError):  # it has been rung already
            self._lock.release()

    def wait(self, seconds: float) -> None:
        """Sleep until it rings, or for that long."""
        self._lock.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))


class Clock:
    """The time by which deadlines come; tests have one that they move."""

    #: Returns seconds that only grow.
    now: Callable[[], float] = staticmethod(time.monotonic)

    def alarm(self) -> Alarm:
        """Return an alarm that waits by this clock."""
        return Alarm()


class _HandsOver:
    """Hands an error to `sys.unraisablehook`, by failing in a finalizer."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __del__(self) -> None:
        raise self._error


def hand_over(error: BaseException) -> None:
    """Hand an error to `sys.unraisablehook`, where nobody else can be told of it."""
    _HandsOver(error)


def attempt(function: Callable[..., object], *arguments: Any, **named: Any) -> None:
    """Call a function where nobody can be told of its errors but `sys.unraisablehook`."""
    try:
        function(*arguments, **named)
    except BaseException as error:  # noqa: BLE001 - handed over; a handler's SystemExit is not for this thread
        hand_over(error)


class Watcher:
    """Calls deadlines when they come.

    Attributes:
        clock: The time.
    """

    def __init__(self, clock: Clock, watched: Sized, awake: Callable[[], bool]) -> None:
        """Make a watcher, which has no thread yet.

        Args:
            clock: The time.
            watched: What there is to watch; each has at most one live deadline.
            awake: Called whenever the watcher wakes; it ends if that returns False.
        """
        self.clock = clock
        self._watched = watched
        self._awake = awake
        self._heap: list[tuple[float, int, Deadline]] = []
        self._arrivals: deque[tuple[float, int, Deadline]] = deque()
        self._numbers = itertools.count()
        self._vacancy: list[None] = [None]
        self._alarm = clock.alarm()
        self._idle = False
        self._is_over = False
        self._wakes_at = _AWAKE

    # ---- any thread, at any bytecode

    def add(self, due: float, deadline: Deadline) -> None:
        """Watch a deadline, which is among what is watched already."""
        self._arrivals.append((due, next(self._numbers), deadline))
        if due < self._wakes_at:
            self._alarm.ring()
        if self._vacancy and not self._is_over:
            self._start()

    def removed(self, *, at_once: bool = False) -> None:
        """Take note that something is not to be watched any more, or a deadline of it not to come.

        Args:
            at_once: Wake the watcher whatever it has to do.
        """
        if at_once or self._is_crowded() or not (self._watched or self._idle):
            self._alarm.ring()

    def pending(self) -> int:
        """Return how many deadlines are still to come."""
        arrivals = list(self._arrivals)  # first: what is taken over meanwhile is in the heap by then
        return sum(deadline.is_live() for deadline in {entry[2] for entry in (*arrivals, *list(self._heap))})

    def _is_crowded(self) -> bool:
        return len(self._heap) + len(self._arrivals) > 2 * len(self._watched) + _SLACK

    def _start(self) -> None:
        """Start a thread; of several that are started at once, one goes on."""
        if _is_finalizing():  # no thread runs any more, and starting one would wait for it for ever
            return
        try:
            threading.Thread(target=self._run, name="saferocks-deadlines", daemon=True).start()
        except RuntimeError:
            if threading.main_thread().is_alive():
                raise
            # The interpreter is shutting down: nothing is watched any more.

    # ---- the watcher's thread

    def _run(self) -> None:
        while self._vacancy:
            try:
                self._vacancy.pop()
            except IndexError:  # another thread was faster
                return
            try:
                threads.add(threading.get_ident())
                while (pause := self._step()) is not None:
                    self._alarm.wait(pause)
            finally:
                threads.discard(threading.get_ident())
                self._vacancy.append(None)
            if self._is_over or not (self._arrivals or self._watched):
                return

    def _step(self) -> float | None:
        """Do what is due, and return for how long to sleep then; None for good."""
        self._wakes_at = _AWAKE
        if not self._awake():
            self._is_over = True
            return None
        self._absorb()
        now = self.clock.now()
        while self._heap and self._heap[0][0] <= now:
            self._come(heapq.heappop(self._heap)[2], now)
        wakes_at = self._next_wake(now)
        if wakes_at is None:
            return None
        self._wakes_at = wakes_at
        return 0.0 if self._arrivals else max(0.0, wakes_at - now)

    def _absorb(self) -> None:
        """Take over the new deadlines, and drop the dead ones if they are too many."""
        while self._arrivals:
            heapq.heappush(self._heap, self._arrivals[0])  # before it leaves: `pending` misses none
            self._arrivals.popleft()
        if self._is_crowded():
            self._heap[:] = [entry for entry in self._heap if entry[2].is_live()]
            heapq.heapify(self._heap)

    def _come(self, deadline: Deadline, now: float) -> None:
        if not deadline.is_live():
            return
        try:
            again = deadline.come(now)
        except BaseException as error:  # noqa: BLE001 - handed over: the others are to be watched all the same
            hand_over(error)
            return
        if again is not None:
            heapq.heappush(self._heap, (again, next(self._numbers), deadline))

    def _next_wake(self, now: float) -> float | None:
        """Return when to wake; None if there has been nothing to watch for a while."""
        if self._watched:
            self._idle = False
            return self._heap[0][0] if self._heap else _NEVER
        self._heap.clear()  # what is left in it is dead
        self._idle = not self._idle
        return now + LINGER_SECONDS if self._idle else None
