"""How handles have escaped, and how often: told once of each, whoever finds it, also in finalizers.

Nothing in here takes a lock: tallies are dicts with atomic `setdefault`, counts are `itertools.count`.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from threading import get_ident
from typing import TYPE_CHECKING

from saferocks import _registry, _totals, _watch
from saferocks.errors import Leak

if TYPE_CHECKING:
    from types import TracebackType

    from saferocks._bound import Bound
    from saferocks._registry import Record, Site
    from saferocks._watch import Watch

COLLECTED = "collected while open"
NEVER_ENTERED = "collected without ever being entered"
OUTLIVED = "still open when its database closed"
AT_EXIT = "still open at interpreter exit"

#: How many tallies a database keeps apart by their labels: a service may label its handles with the ids of requests.
MOST_LABELLED = 1000
#: Seconds for which a close, or the end of a block, waits for a count that another thread's finalizer has begun.
_PATIENCE = 5.0


@dataclass
class Tally:
    """How often handles of one kind and label have escaped from one line in one way.

    Attributes:
        numbers: Hands out the count; `next` on it is atomic.
        told: The count at the last report.
        age: Seconds for which the one held longest was open.
        thread: The name of the thread that opened the one that escaped last.
        bound: What was bound to structlog's context variables when that was opened.
        watch: Whose they are, in tests.
    """

    kind: str
    site: Site
    escape: str
    remedy: str
    database: str | None
    label: str | None
    note: str | None
    stack: tuple[Site, ...]
    policy: str
    thread: str = ""
    bound: Bound = ()
    watch: Watch | None = None
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    told: int = 0
    age: float = 0.0

    @property
    def count(self) -> int:
        """The highest number handed out so far, which the counter tells only by its `repr`."""
        return int(repr(self.numbers)[len("count(") : -1]) - 1

    def as_leak(self) -> Leak:
        """Format the tally; the only place where sites become text."""
        stack = tuple(_registry.format_frame(frame) for frame in self.stack)
        return Leak(
            kind=self.kind,
            opened_at=_registry.format_site(self.site),
            count=self.count,
            age=self.age,
            escape=self.escape,
            database=self.database,
            label=self.label,
            note=self.note,
            stack=stack,
            remedy=self.remedy,
        )


def tally(record: Record, escape: str, age: float | None = None) -> tuple[Tally, int]:
    """Count an escape, and return which one of its line and label it is; safe in a finalizer.

    Args:
        record: What escaped.
        escape: How.
        age: For how many seconds it had been open when it escaped; its present age if left out.
    """
    record.owner.totals.leaked(record.kind)
    watch = _watch.whose(record)
    owner = record.owner
    # A leaked database takes its owner with it, so its own leak is kept with the process.
    keeper = _registry.PROCESS if record.kind == "database" else owner
    label = record.label
    key = (record.kind, identity(record.site), escape, label, id(watch))
    if label is not None and len(keeper.leaks) >= MOST_LABELLED and key not in keeper.leaks:
        label = _totals.OTHERS
        key = (*key[:3], label, id(watch))
    fresh = Tally(
        record.kind,
        record.site,
        escape,
        record.remedy,
        owner.name,
        label,
        record.loss,
        record.stack,
        owner.policy,
        watch=watch,
    )
    found: Tally = keeper.leaks.setdefault(key, fresh)
    found.age = max(found.age, record.age if age is None else age)
    found.note = record.loss or found.note
    found.thread = _watch.thread_name(record.thread)
    found.bound = record.bound
    if watch is not None:
        watch.leaks[id(found)] = found
    return found, next(found.numbers)


def identity(site: Site) -> tuple[int, int]:
    """Return what tells one place from another, for as long as its code lives, which a tally sees to.

    Code objects will not do: equal functions of different files are equal.
    """
    return id(site[0]), site[1]


#: The escapes that are being told, by the handle's id: who tells, and nobody any more once it has been counted.
_tellers: dict[int, list[int]] = {}


class Telling:
    """The telling of one handle's escape, around its release: counts it, unless somebody else does.

    A finalizer, a close and the end of a block may find the same handle at the same moment. One of
    them counts it and then releases it, so whoever does not find it any more finds it counted.
    The others wait for the count, or, as finalizers must not wait, leave the release to it as well.

    Args:
        record: What has escaped.
        escape: How.
        age: For how many seconds it had been open when it escaped; its present age if left out.
        waits: Whether to wait until another thread that tells has counted it.

    Example:
        with Telling(record, OUTLIVED) as found:  # None if somebody else tells
            release(record, Reason.DATABASE_CLOSED)
    """

    __slots__ = ("_age", "_escape", "_mine", "_record", "_waits")

    def __init__(self, record: Record, escape: str, age: float | None = None, *, waits: bool = True) -> None:
        self._record = record
        self._escape = escape
        self._age = age
        self._waits = waits
        self._mine = [get_ident()]

    def __enter__(self) -> tuple[Tally, int] | None:
        teller = _tellers.setdefault(self._record.id, self._mine)
        if teller is not self._mine:
            if self._waits:
                _wait_until_counted(teller)
            return None
        try:
            return None if self._record.reason is not None else tally(self._record, self._escape, self._age)
        except BaseException:
            _tellers.pop(self._record.id, None)
            raise
        finally:
            self._mine.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if _tellers.get(self._record.id) is self._mine:
            del _tellers[self._record.id]


def _wait_until_counted(teller: list[int]) -> None:
    """Wait for another thread to count; not for this one, whose finalizer may have been interrupted by another."""
    deadline = time.monotonic() + _PATIENCE
    while teller != [get_ident()] and teller and time.monotonic() < deadline:
        time.sleep(0)
