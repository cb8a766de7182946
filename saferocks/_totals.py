"""Totals: how many handles have been released, how long they were held, and how many have leaked.

They are kept for each kind of handle and each path of a database. Leaks are always counted. Releases
are counted once somebody has asked for totals (`begin`), and until then cost a look at an empty list.
Finalizers release and leak, so both are counted by atomic appends and counters, and no lock is ever
waited for: what has been appended is added up by whoever finds the lock free.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from dataclasses import dataclass
from operator import attrgetter
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

#: Upper bounds of the classes of seconds for which handles are held.
BOUNDS = (0.001, 0.01, 0.1, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0)
#: How many databases have totals of their own. A program may open ever new ones.
MOST_DATABASES = 50
#: What further ones are counted under, while so many are open at once.
OTHERS = "(others)"
_DATABASE_KINDS = ("iterator", "snapshot", "write_batch", "checkpoint", "column_family", "database")
_PROCESS_KINDS = ("write_batch", "sst_writer")
_MOST_FRESH = 1024
#: Seconds for which totals are waited for: a signal handler may ask for them in the midst of adding up.
_PATIENCE = 0.1


@dataclass(frozen=True)
class Held:
    """For how long handles were held that have been released.

    Attributes:
        buckets: How many of them for no longer than each of `BOUNDS`, and last how many in all.
        seconds: The sum.
    """

    buckets: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    seconds: float = 0.0

    @property
    def count(self) -> int:
        """How many have been released."""
        return self.buckets[-1]

    def __add__(self, seconds: list[float]) -> Held:
        seconds.sort()
        found = [*(bisect_right(seconds, bound) for bound in BOUNDS), len(seconds)]
        buckets = tuple(before + new for before, new in zip(self.buckets, found, strict=True))
        return Held(buckets, self.seconds + sum(seconds))


class Series:
    """The totals of one kind of handle and one database.

    Attributes:
        fresh: Seconds for which handles were held that are still to be added up.
        held: Those that have been; replaced whole.
        leaks: Hands out the numbers of leaks; `next` on it is atomic.
        opened: How many were opened, by the last reckoning; it never goes down.
    """

    __slots__ = ("fresh", "held", "leaks", "opened")

    def __init__(self) -> None:
        self.fresh: list[float] = []
        self.held = Held()
        self.leaks = itertools.count(1)
        self.opened = 0

    @property
    def leaked(self) -> int:
        """The highest number handed out so far, which the counter tells only by its `repr`."""
        return int(repr(self.leaks)[len("count(") : -1]) - 1

    def add_up(self) -> None:
        """Add up what is fresh; under `_adding`. Others append meanwhile, and nobody else takes out."""
        number = len(self.fresh)
        seconds = self.fresh[:number]
        del self.fresh[:number]
        self.held += seconds


class Totals:
    """The totals of the handles of one database, or of those that belong to none.

    Attributes:
        name: The path, as it was given; None for the process.
        series: By the kind of handle. The known kinds are there from the start, with nothing in them.
        turn: A number that is higher the later a database of this name was opened.
    """

    __slots__ = ("name", "series", "turn")

    def __init__(self, name: str | None) -> None:
        self.name = name
        kinds = _PROCESS_KINDS if name is None else _DATABASE_KINDS
        self.series = {kind: Series() for kind in kinds}
        self.turn = next(_turns)

    def of(self, kind: str) -> Series:
        """Return the totals of a kind of handle."""
        return self.series.get(kind) or self.series.setdefault(kind, Series())

    def released(self, kind: str, opened: float) -> None:
        """Count a handle that has been released; safe in finalizers.

        Args:
            kind: Its kind.
            opened: `time.monotonic()` at its opening.
        """
        series = self.series.get(kind) or self.of(kind)
        fresh = series.fresh
        fresh.append(monotonic() - opened)
        if len(fresh) > _MOST_FRESH and _adding.acquire(False):
            try:
                series.add_up()
            finally:
                _adding.release()

    def leaked(self, kind: str) -> None:
        """Count a handle that has leaked; safe in finalizers."""
        next(self.of(kind).leaks)


#: Holds one token once releases are counted; what is not in it costs releases nothing.
counting: list[None] = []
_turns = itertools.count(1)
#: Held while what is fresh is added up.
_adding = Lock()
_process = Totals(None)
#: Those of databases by their names. They leave it only to be forgotten: of two threads that open one path at a
#: moment, both are to find the same.
_databases: dict[str, Totals] = {}


def of_database(name: str | None, open_names: Callable[[], Collection[str | None]]) -> Totals:
    """Return the totals of a database that is being opened, or of the process.

    If there are too many, those of the database that was opened longest ago and is closed are forgotten.

    Args:
        name: Its path, or None.
        open_names: Returns the paths of the databases that are open; called only if there are too many.
    """
    if name is None:
        return _process
    found = _databases.get(name)
    if found is None:
        shown = _with_room(name, open_names)
        found = _databases.setdefault(shown, Totals(shown))
    found.turn = next(_turns)
    return found


def _with_room(name: str, open_names: Callable[[], Collection[str | None]]) -> str:
    """Return what a new database is counted under, having made room for it."""
    if len(_databases) < MOST_DATABASES:
        return name
    present = open_names()
    closed = [each for each in list(_databases.values()) if each.name not in present and each.name != OTHERS]
    if not closed:
        return OTHERS
    _databases.pop(min(closed, key=attrgetter("turn")).name or "", None)
    return name


def begin() -> None:
    """Count releases from now on."""
    if not counting:
        counting.append(None)


def every() -> dict[tuple[Totals, str], Held]:
    """Return for how long handles were held, by all totals and kinds, with everything that is fresh added up."""
    found = [_process, *_databases.copy().values()]
    if _adding.acquire(timeout=_PATIENCE):
        try:
            for totals in found:
                for series in list(totals.series.values()):
                    series.add_up()
        finally:
            _adding.release()
    return {(totals, kind): series.held for totals in found for kind, series in list(totals.series.items())}


def start_afresh() -> None:
    """Forget, in a forked child, what its parent has counted."""
    global _adding  # noqa: PLW0603 - a thread that is no more may have held it
    _adding = Lock()
    _databases.clear()
    _process.series = Totals(None).series
