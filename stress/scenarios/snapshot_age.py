"""A snapshot that is held while the same rows are overwritten.

From a log store whose reports took a snapshot and held it: every old version that it can see
stays on disk, deleted rows slow every scan down, and both get worse with the snapshot's age.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stress.guarded import open_guarded, probe
from stress.raw import open_raw
from stress.scenario import Scenario
from stress.workload import QUEUE, Workload, row_key

if TYPE_CHECKING:
    import saferocks
    from stress.running import Leg

_ROW = row_key(0)


def raw(leg: Leg) -> None:
    """Take one snapshot and hold it to the end."""
    with open_raw(leg.path) as database:
        workload = Workload(database.db, leg.random)
        workload.fill()
        database.keep(database.db.snapshot())
        for _ in leg.rounds(database.probe(QUEUE)):
            workload.step()


class Report:
    """A report that refers to itself, as one does that hands out its methods as callbacks.

    Whoever forgets to call `finish` leaves it to the collector.

    Args:
        db: The database to report on.
    """

    def __init__(self, db: saferocks.Rdict) -> None:
        self.on_done = self.finish
        self.snapshot = db.snapshot().__enter__()

    def finish(self) -> None:
        """Release the snapshot."""
        self.snapshot.__exit__(None, None, None)


def guarded(leg: Leg) -> None:
    """Take snapshots and forget them in reference cycles."""
    with open_guarded(leg.path) as db:
        workload = Workload(db, leg.random)
        workload.fill()
        for _ in leg.rounds(probe(db, QUEUE)):
            workload.step()
            if leg.is_due():
                Report(db).snapshot.get(_ROW)


def scoped(leg: Leg) -> None:
    """Take each snapshot in a `with`, for as long as it is read."""
    with open_guarded(leg.path) as db:
        workload = Workload(db, leg.random)
        workload.fill()
        for _ in leg.rounds(probe(db, QUEUE)):
            with db.snapshot() as snapshot:
                workload.step()
                snapshot.get(_ROW)


SCENARIO = Scenario(
    name="snapshot-age",
    summary="one snapshot held while the same rows are overwritten",
    raw=raw,
    guarded=guarded,
    scoped=scoped,
    planted=("snapshots", "open_handles", "oldest_age"),
    opener=Report.__init__,
    opening="db.snapshot()",
)
