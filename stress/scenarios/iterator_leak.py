"""Iterators that are opened under write load and never released.

From a log store that opened an iterator for each look-up and closed none: every one keeps the
memtables and SST files of its moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stress.guarded import open_guarded, probe
from stress.raw import open_raw
from stress.scenario import Scenario
from stress.workload import Workload, row_key

if TYPE_CHECKING:
    import saferocks
    from stress.running import Leg

_START = row_key(0)


def raw(leg: Leg) -> None:
    """Open iterators, look, and keep them."""
    with open_raw(leg.path) as database:
        workload = Workload(database.db, leg.random)
        workload.fill()
        for _ in leg.rounds(database.probe(_START)):
            workload.step()
            if leg.is_due():
                iterator = database.db.iter()
                iterator.seek(_START)
                database.keep(iterator)


class LookUp:
    """A look-up that refers to itself, as one does that hands out its methods as callbacks.

    Whoever forgets to call `finish` leaves it to the collector.

    Args:
        db: The database to look into.
    """

    def __init__(self, db: saferocks.Rdict) -> None:
        self.on_done = self.finish
        self.cursor = db.iter().__enter__()

    def finish(self) -> None:
        """Release the cursor."""
        self.cursor.__exit__(None, None, None)


def guarded(leg: Leg) -> None:
    """Open iterators, look, and forget them in reference cycles."""
    with open_guarded(leg.path) as db:
        workload = Workload(db, leg.random)
        workload.fill()
        for _ in leg.rounds(probe(db, _START)):
            workload.step()
            if leg.is_due():
                LookUp(db).cursor.seek(_START)


def scoped(leg: Leg) -> None:
    """Open each iterator in a `with`."""
    with open_guarded(leg.path) as db:
        workload = Workload(db, leg.random)
        workload.fill()
        for _ in leg.rounds(probe(db, _START)):
            workload.step()
            with db.iter() as cursor:
                cursor.seek(_START)


SCENARIO = Scenario(
    name="iterator-leak",
    summary="iterators opened under write load and never released",
    raw=raw,
    guarded=guarded,
    scoped=scoped,
    planted=("live_iterators", "open_handles", "pinned_memtables", "live_versions", "heap"),
    opener=LookUp.__init__,
    opening="db.iter()",
)
