"""A snapshot that is held while the same rows are overwritten.

From a log store whose reports took a snapshot and held it: every old version that it can see
stays on disk, deleted rows slow every scan down, and both get worse with the snapshot's age. In
the guarded leg a lease ends it. Two more legs hold a snapshot of saferocks to the end: `scans` one
that can be scanned, which pins its memtables, `points` one for point reads only, which pins none.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from saferocks import HandleExpiredError
from stress.guarded import open_guarded, probe
from stress.raw import open_raw
from stress.scenario import Scenario, Variant
from stress.workload import QUEUE, Workload, row_key

if TYPE_CHECKING:
    import saferocks
    from stress.running import Leg

_ROW = row_key(0)
#: Parts of the leg after which the held snapshot is overdue, and expires: before the warm-up is over, which is a
#: quarter, so that the rest has to be flat.
_WARN_AFTER, _EXPIRE_AFTER = 0.05, 0.12


def raw(leg: Leg) -> None:
    """Take one snapshot and hold it to the end."""
    with open_raw(leg.path) as database:
        workload = Workload(database.db, leg.random)
        workload.fill()
        database.keep(database.db.snapshot())
        for _ in leg.rounds(database.probe(QUEUE)):
            workload.step()


class Report:
    """A report that takes a snapshot when it is begun, and keeps it for as long as there is a report.

    Args:
        db: The database to report on.
        warn_after: For how many seconds a report may take.
        expire_after: For how many seconds the snapshot may be held at most.
    """

    def __init__(self, db: saferocks.Rdict, warn_after: float, expire_after: float) -> None:
        self.snapshot = db.snapshot(warn_after=warn_after, expire_after=expire_after).__enter__()

    def look(self) -> None:
        """Read from the snapshot, for as long as it lasts."""
        with suppress(HandleExpiredError):
            self.snapshot.get(_ROW)


def guarded(leg: Leg) -> None:
    """Take one snapshot and keep it to the end, with a lease that ends before that."""
    with open_guarded(leg.path) as db:
        workload = Workload(db, leg.random)
        workload.fill()
        report = Report(db, leg.seconds * _WARN_AFTER, leg.seconds * _EXPIRE_AFTER)
        for _ in leg.rounds(probe(db, QUEUE)):
            workload.step()
            report.look()


def scoped(leg: Leg) -> None:
    """Take each snapshot in a `with`, for as long as it is read."""
    with open_guarded(leg.path) as db:
        workload = Workload(db, leg.random)
        workload.fill()
        for _ in leg.rounds(probe(db, QUEUE)):
            with db.snapshot() as snapshot:
                workload.step()
                snapshot.get(_ROW)


def scans(leg: Leg) -> None:
    """Hold a snapshot that can be scanned for the length of a `with`: it pins the memtables of its moment."""
    _hold(leg, point_reads_only=False)


def points(leg: Leg) -> None:
    """Hold a snapshot for point reads only: old versions stay on disk, and nothing is pinned in memory."""
    _hold(leg, point_reads_only=True)


def _hold(leg: Leg, *, point_reads_only: bool) -> None:
    with open_guarded(leg.path) as db:
        workload = Workload(db, leg.random)
        workload.fill()
        with db.snapshot(point_reads_only=point_reads_only) as snapshot:
            for _ in leg.rounds(probe(db, QUEUE)):
                workload.step()
                snapshot.get(_ROW)


_AGED = ("snapshots", "open_handles", "oldest_age")

SCENARIO = Scenario(
    name="snapshot-age",
    summary="one snapshot held while the same rows are overwritten",
    raw=raw,
    guarded=guarded,
    scoped=scoped,
    planted=_AGED,
    opener=Report.__init__,
    opening="db.snapshot(",
    variants=(
        Variant("scans", scans, (*_AGED, "live_iterators", "pinned_memtables"), ("heap",)),
        Variant("points", points, _AGED, ("live_iterators", "pinned_memtables", "live_versions", "heap")),
    ),
)
