"""A key that is set again and again, each time for so long and no longer.

From a key-value service that started a timer for each set and tied it to the key: the timers of values
that had been overwritten went on, and took away what was under the key by then. What is held here is a
snapshot, by the holder of a lock.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import saferocks
from stress.guarded import open_guarded, probe
from stress.probe import Highest
from stress.raw import open_raw
from stress.scenario import Scenario
from stress.workload import QUEUE, Workload, row_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stress.running import Leg

_KEY = b"lock"
_ROW = row_key(0)
_SETS = 3
_ENOUGH = 40
#: Durations that nothing can be held for.
_REFUSED = (0, -1.0)
#: For what part of the leg a holder may hold without renewing: many rounds, so that deadlines of earlier holders,
#: had they stayed, would come while later ones hold.
_TTL = 0.5
#: Seconds that a holder who renews outlives, every so many rounds.
_SHORT_TTL = 0.2
_OUTLIVE_EVERY = 20


class Term:
    """What a holder may rely on: not to be expired before `ttl` seconds have passed since `began`."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def renew(self, holder: saferocks.Snapshot) -> None:
        """Begin anew; the time is taken before, so that the holder has at least what it counts on."""
        now = time.monotonic()
        holder.renew()
        self.began = now


@dataclass
class Deadlines:
    """What became of the deadlines.

    Attributes:
        pending: How many there were at once.
        wrong: How many hit a holder that they were not for, or before its time.
        accepted: How many durations were accepted that should have been refused.
    """

    pending: Highest = field(default_factory=Highest)
    wrong: int = 0
    accepted: int = 0

    def signals(self) -> dict[str, float]:
        """Return the signals of this scenario."""
        return {
            "pending_deadlines": self.pending.take(),
            "wrong_expiries": self.wrong,
            "accepted_durations": self.accepted,
        }

    def look(self) -> None:
        """Take note of how many deadlines there are."""
        self.pending.see(saferocks.inspection.pending_deadlines())

    def try_refused(self, db: saferocks.Rdict) -> None:
        """Try to hold for durations that are none."""
        for ttl in _REFUSED:
            with suppress(ValueError), db.snapshot(expire_after=ttl):
                self.accepted += 1

    @contextmanager
    def held(self, ttl: float) -> Iterator[Term]:
        """Hold for the length of a block; that a busy machine lets a lease run out in it is no fault of the lease."""
        term = Term()
        try:
            yield term
        except saferocks.HandleExpiredError:
            self.wrong += time.monotonic() - term.began < ttl


class RawTable:
    """Holders by key, each with a timer of its own that nobody stops.

    Args:
        deadlines: Where to count.
    """

    def __init__(self, deadlines: Deadlines) -> None:
        self.holders: dict[bytes, tuple[int, object]] = {}
        self._deadlines = deadlines
        self._timers: list[threading.Timer] = []
        self._sets = 0

    def set(self, key: bytes, holder: object, ttl: float | None) -> None:
        """Put a holder under a key, for so many seconds if they are given."""
        self._sets += 1
        self.holders[key] = (self._sets, holder)
        if ttl is None:
            return
        self._deadlines.accepted += ttl <= 0
        timer = threading.Timer(ttl, self._expire, (key, self._sets))
        timer.daemon = True
        timer.start()
        self._timers = [timer, *(timer for timer in self._timers if timer.is_alive())]
        self._deadlines.pending.see(len(self._timers))

    def _expire(self, key: bytes, meant: int) -> None:
        number, _ = self.holders.pop(key, (meant, None))
        self._deadlines.wrong += number != meant


def raw(leg: Leg) -> None:
    """Start a timer for some of the sets, and stop none."""
    deadlines = Deadlines()
    table = RawTable(deadlines)
    with open_raw(leg.path) as database:
        workload = Workload(database.db, leg.random)
        workload.fill()
        for _ in leg.rounds(database.probe(QUEUE, deadlines.signals), _ENOUGH):
            durations = (*_REFUSED, leg.seconds * _TTL) if leg.is_due() else (None,)
            for _ in range(_SETS):
                for ttl in durations:
                    table.set(_KEY, database.db.snapshot(), ttl)
                workload.step()


class Table:
    """Holders by key, as in the raw leg: a set forgets who was there before."""

    def __init__(self) -> None:
        self.holders: dict[bytes, saferocks.Snapshot] = {}

    def set(self, key: bytes, db: saferocks.Rdict, ttl: float) -> saferocks.Snapshot:
        """Put a new holder under a key, for so many seconds, and return it."""
        self.holders[key] = db.snapshot(expire_after=ttl).__enter__()
        return self.holders[key]

    def release(self, key: bytes) -> None:
        """Release the holder of a key, if there is one."""
        holder = self.holders.pop(key, None)
        if holder is not None:
            holder.__exit__(None, None, None)


def guarded(leg: Leg) -> None:
    """Overwrite some holders without releasing them."""
    deadlines, table, ttl = Deadlines(), Table(), leg.seconds * _TTL
    with open_guarded(leg.path) as db:
        workload = Workload(db, leg.random)
        workload.fill()
        for _ in leg.rounds(probe(db, QUEUE, deadlines.signals), _ENOUGH):
            deadlines.try_refused(db)
            forgets = leg.is_due()
            for _ in range(_SETS):
                if not forgets:
                    table.release(_KEY)
                with deadlines.held(ttl):
                    holder = table.set(_KEY, db, ttl)
                    deadlines.look()
                    workload.step()
                    holder.get(_ROW)
                del holder
            table.release(_KEY)


def scoped(leg: Leg) -> None:
    """Renew the lease of one holder, who holds it in a `with`."""
    deadlines, ttl = Deadlines(), leg.seconds * _TTL
    with open_guarded(leg.path) as db:
        workload = Workload(db, leg.random)
        workload.fill()
        for number in leg.rounds(probe(db, QUEUE, deadlines.signals), _ENOUGH):
            deadlines.try_refused(db)
            if number % _OUTLIVE_EVERY == 0:
                _outlive(deadlines, db, workload)
            with deadlines.held(ttl) as term, db.snapshot(expire_after=ttl) as holder:
                for _ in range(_SETS):
                    term.renew(holder)
                    deadlines.look()
                    workload.step()
                    holder.get(_ROW)


def _outlive(deadlines: Deadlines, db: saferocks.Rdict, workload: Workload) -> None:
    """Hold for twice as long as the lease lasts, by renewing it."""
    with deadlines.held(_SHORT_TTL) as term, db.snapshot(expire_after=_SHORT_TTL) as holder:
        over = term.began + 2 * _SHORT_TTL
        while time.monotonic() < over:
            term.renew(holder)
            deadlines.look()
            workload.step()
            holder.get(_ROW)


SCENARIO = Scenario(
    name="ttl-overwrite",
    summary="one key set again and again for a limited time, with deadlines that outlive their sets",
    raw=raw,
    guarded=guarded,
    scoped=scoped,
    planted=("pending_deadlines", "wrong_expiries", "accepted_durations"),
    opener=Table.set,
    opening="db.snapshot(",
    limits={"pending_deadlines": 1, "wrong_expiries": 0, "accepted_durations": 0},
)
