"""Iterators that one thread opens and another is to release, while threads come and go.

From an RPC framework that kept a table for each thread of what its requests used: a request that ended on
another thread than it had begun on looked into the wrong table, and what it had borrowed stayed in the first.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from stress.guarded import open_guarded, probe
from stress.raw import open_raw
from stress.scenario import Scenario
from stress.workload import Workload, row_key

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import saferocks
    from saferocks import Scope
    from stress.running import Leg

T = TypeVar("T")

_START = row_key(0)
_JOIN_SECONDS = 60.0


class Threads:
    """The threads of a leg, two to a request."""

    def __init__(self) -> None:
        self._begun = 0
        self._before = threading.active_count()
        self._failures: list[BaseException] = []

    def request(self, opening: Callable[[], T], releasing: Callable[[T], None]) -> None:
        """Open something in one thread and release it in another.

        The second thread comes while the first is still there, and after it has gone, in turn.

        Args:
            opening: Returns what it has opened.
            releasing: Is given that.

        Raises:
            BaseException: What either raises.
        """
        opened: list[T] = []
        meet = self._begun % 4 == 0

        def begin() -> None:
            opened.append(opening())
            if meet:
                self._run(end)

        def end() -> None:
            releasing(opened.pop())

        self._run(begin)
        if not meet:
            self._run(end)

    def _run(self, work: Callable[[], None]) -> None:
        self._begun += 1
        thread = threading.Thread(target=self._do, args=(work,), name=f"request-{self._begun}")
        thread.start()
        thread.join(_JOIN_SECONDS)
        for failure in self._failures:
            raise failure

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits for this one
            self._failures.append(error)

    def signals(self, holding: Collection[str]) -> dict[str, float]:
        """Return the signals of this scenario.

        Args:
            holding: The threads that opened what is still open.
        """
        left = threading.active_count() - self._before
        return {"threads_begun": self._begun, "threads_left": left, "threads_holding": len(holding)}


def _thread() -> str:
    return threading.current_thread().name


class Tables:
    """What each thread has borrowed, as the framework remembered it."""

    def __init__(self) -> None:
        self.borrowed: dict[str, tuple[float, Any]] = {}

    def borrow(self, native: object) -> str:
        """Enter something into the table of this thread, and return whose that is."""
        self.borrowed[_thread()] = (time.monotonic(), native)
        return _thread()

    def give_back(self, thread: str) -> None:
        """Drop what that thread has borrowed; nothing if it has borrowed nothing."""
        self.borrowed.pop(thread, None)

    def give_back_mine(self, borrower: str) -> None:
        """Look into the table of this thread, which is not the borrower's, and find nothing there."""
        del borrower
        self.give_back(_thread())

    def ages(self) -> list[float]:
        """Return for how many seconds each has been borrowed."""
        now = time.monotonic()
        return [now - since for since, _ in self.borrowed.values()]


def raw(leg: Leg) -> None:
    """Give back, on some requests, what *this* thread has borrowed, and not what the request has."""
    tables, threads = Tables(), Threads()
    with open_raw(leg.path) as database:
        workload = Workload(database.db, leg.random)
        workload.fill()
        signals = database.probe(_START, lambda: threads.signals(tables.borrowed))
        for _ in leg.rounds(replace(signals, ages=tables.ages)):
            workload.step()
            give_back = tables.give_back_mine if leg.is_due() else tables.give_back
            threads.request(lambda: tables.borrow(database.db.iter()), give_back)
        tables.borrowed.clear()


class Request:
    """A request that refers to itself, as one does that hands out its methods as callbacks.

    Whoever forgets to call `finish` leaves it to the collector.

    Args:
        db: The database to read.
    """

    def __init__(self, db: saferocks.Rdict) -> None:
        self.on_done = self.finish
        self.cursor = db.iter().__enter__()

    def finish(self) -> None:
        """Release the cursor."""
        self.cursor.__exit__(None, None, None)

    def abandon(self) -> None:
        """Look into the table of this thread, find no request there, and finish none."""


def guarded(leg: Leg) -> None:
    """Finish no request, on some, because another thread than its own is asked for it."""
    threads = Threads()
    with open_guarded(leg.path) as db:
        workload = Workload(db, leg.random)
        workload.fill()
        for _ in leg.rounds(probe(db, _START, lambda: threads.signals(_holding(db)))):
            workload.step()
            threads.request(lambda: Request(db), Request.abandon if leg.is_due() else Request.finish)


def scoped(leg: Leg) -> None:
    """Hand the scope over to the thread that enters it, and leaves it."""

    def look(scope: Scope[saferocks.RdictIter]) -> None:
        with scope as cursor:
            cursor.seek(_START)

    threads = Threads()
    with open_guarded(leg.path) as db:
        workload = Workload(db, leg.random)
        workload.fill()
        for _ in leg.rounds(probe(db, _START, lambda: threads.signals(_holding(db)))):
            workload.step()
            threads.request(db.iter, look)


def _holding(db: saferocks.Rdict) -> set[str]:
    return {handle.thread for handle in db.handles()}


SCENARIO = Scenario(
    name="handle-threads",
    summary="opened on one thread, to be released on another, while threads come and go",
    raw=raw,
    guarded=guarded,
    scoped=scoped,
    planted=("live_iterators", "open_handles", "threads_holding", "pinned_memtables", "heap"),
    opener=Request.__init__,
    opening="db.iter()",
    limits={"threads_left": 0, "threads_holding": 0},
)
