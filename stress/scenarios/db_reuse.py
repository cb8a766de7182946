"""A database that is opened and closed for each request, while something opened from it lives on.

From a log store that wrapped every request in an open and a close: an iterator that was kept held
the database open behind its closed handle, and from then on its lock refused every request.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stress.guarded import open_guarded, probe
from stress.raw import RawService
from stress.scenario import Scenario
from stress.workload import row_key

if TYPE_CHECKING:
    import saferocks
    from stress.running import Leg

_START = row_key(0)
_ROWS = 100
_VALUE_BYTES = 200
_ENOUGH = 24
#: What a close and the opening after it may take; on a busy machine they took less than a tenth of it.
_REOPEN_SECONDS = 0.5


@dataclass
class Openings:
    """What the openings have come to.

    Attributes:
        served: Requests that found the database open to them.
        refused: Requests that did not, because it was closed only in name.
        seconds: How long the last close and the opening after it took, or the refusal.
        close_seconds: How long the last close took.
    """

    served: int = 0
    refused: int = 0
    seconds: float = 0.0
    close_seconds: float = 0.0

    def count(self, begun: float, served: bool) -> None:
        """Count the opening that began at that time, of `time.perf_counter`."""
        self.seconds = self.close_seconds + time.perf_counter() - begun
        self.served += served
        self.refused += not served

    def closed(self, begun: float) -> None:
        """Take note of the close that began at that time, and is over."""
        self.close_seconds = time.perf_counter() - begun

    def signals(self) -> dict[str, float]:
        """Return the signals of this scenario."""
        return {"reopenings": self.served, "refused_reopenings": self.refused, "reopen_seconds": self.seconds}


def _write(leg: Leg, db: Any) -> None:
    """Do what each request does first."""
    for _ in range(_ROWS):
        db[row_key(leg.random.randrange(_ROWS))] = leg.random.randbytes(_VALUE_BYTES)


def raw(leg: Leg) -> None:
    """Close the database under iterators that are kept."""
    service, openings = RawService(leg.path), Openings()
    for _ in leg.rounds(enough=_ENOUGH):
        begun = time.perf_counter()
        database = service.open()
        openings.count(begun, database is not None)
        leg.sample(service.probe(database, _START, openings.signals))
        if database is None:
            continue
        _write(leg, database.db)
        if leg.is_due():
            database.keep(database.db.iter())
        closing = time.perf_counter()
        database.db.close()
        openings.closed(closing)


class Session:
    """What a service keeps of its requests, without a thought of what is in it."""

    def __init__(self) -> None:
        self.cursors: list[saferocks.RdictIter] = []

    def look(self, db: saferocks.Rdict) -> None:
        """Open an iterator, and keep it for later."""
        self.cursors.append(db.iter().__enter__())


def guarded(leg: Leg) -> None:
    """Close the database under iterators that are kept."""
    session, openings = Session(), Openings()
    for _ in leg.rounds(enough=_ENOUGH):
        begun = time.perf_counter()
        with open_guarded(leg.path) as db:
            openings.count(begun, served=True)
            leg.sample(probe(db, _START, openings.signals))
            _write(leg, db)
            if leg.is_due():
                session.look(db)
            closing = time.perf_counter()
        openings.closed(closing)


def scoped(leg: Leg) -> None:
    """Leave each iterator before the database is closed."""
    openings = Openings()
    for _ in leg.rounds(enough=_ENOUGH):
        begun = time.perf_counter()
        with open_guarded(leg.path) as db:
            openings.count(begun, served=True)
            leg.sample(probe(db, _START, openings.signals))
            _write(leg, db)
            with db.iter() as cursor:
                cursor.seek(_START)
            closing = time.perf_counter()
        openings.closed(closing)


SCENARIO = Scenario(
    name="db-reuse",
    summary="open and close for each request, while something opened from the database lives on",
    raw=raw,
    guarded=guarded,
    scoped=scoped,
    planted=("refused_reopenings", "open_handles", "live_iterators"),
    opener=Session.look,
    opening="db.iter()",
    limits={"refused_reopenings": 0},
    usual={"reopen_seconds": _REOPEN_SECONDS},
)
