"""Sessions that hold a snapshot, and are forgotten in reference cycles.

From a database proxy whose sessions reserved a connection: a session whose client had gone kept its
reservation, and the number of reservations was no longer that of the sessions.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from stress.guarded import open_guarded, probe
from stress.probe import Highest
from stress.raw import open_raw
from stress.scenario import Scenario
from stress.workload import QUEUE, Workload, row_key

if TYPE_CHECKING:
    from collections.abc import Callable

    import saferocks
    from stress.raw import RawDatabase
    from stress.running import Leg

_ROW = row_key(0)
_MOST_CLIENTS = 5
_ATTEMPTS = 20


class Proxy:
    """Compares what is reserved with the sessions that are alive, in the midst of each round.

    A session is alive until its client has gone, or, if that was forgotten, until it is collected.

    Args:
        reserved: Returns how many reservations there are.
    """

    def __init__(self, reserved: Callable[[], int]) -> None:
        self.alive: WeakSet[object] = WeakSet()
        self._reserved = reserved
        self._unaccounted = Highest()

    def compare(self) -> None:
        """Take note of reservations without a session.

        The collector may end sessions between two readings, so they are read again until it has not.
        """
        for _ in range(_ATTEMPTS):
            alive = len(self.alive)
            reserved = self._reserved()
            if len(self.alive) == alive:
                self._unaccounted.see(abs(reserved - alive))
                return

    def signals(self) -> dict[str, float]:
        """Return the signals of this scenario."""
        self.compare()
        return {"sessions": len(self.alive), "unaccounted_handles": self._unaccounted.take()}


class Client:
    """Somebody who has a session."""


def raw(leg: Leg) -> None:
    """Keep the snapshots of some sessions whose clients have gone."""
    with open_raw(leg.path) as database:
        workload = Workload(database.db, leg.random)
        workload.fill()
        proxy = Proxy(lambda: len(database.kept))
        for _ in leg.rounds(database.probe(QUEUE, proxy.signals)):
            clients = {
                Client(): database.keep(database.db.snapshot()) for _ in range(leg.random.randint(1, _MOST_CLIENTS))
            }
            proxy.alive.update(clients)
            workload.step()
            proxy.compare()
            _leave_raw(leg, database, proxy, clients)


def _leave_raw(leg: Leg, database: RawDatabase, proxy: Proxy, clients: dict[Client, Any]) -> None:
    while clients:
        client, snapshot = clients.popitem()
        proxy.alive.discard(client)
        if not leg.is_due():
            database.release(snapshot)


class Session:
    """A session that refers to itself, as one does that hands out its methods as callbacks.

    Whoever forgets to call `end` leaves it to the collector.

    Args:
        db: The database that it reads.
    """

    def __init__(self, db: saferocks.Rdict) -> None:
        self.on_gone = self.end
        self.snapshot = db.snapshot().__enter__()

    def end(self) -> None:
        """Release the snapshot."""
        self.snapshot.__exit__(None, None, None)


def guarded(leg: Leg) -> None:
    """Forget some sessions whose clients have gone."""
    with open_guarded(leg.path) as db:
        workload = Workload(db, leg.random)
        workload.fill()
        proxy = Proxy(lambda: len(db.handles()))
        for _ in leg.rounds(probe(db, QUEUE, proxy.signals)):
            sessions = [Session(db) for _ in range(leg.random.randint(1, _MOST_CLIENTS))]
            proxy.alive.update(sessions)
            workload.step()
            proxy.compare()
            _leave(leg, proxy, sessions)


def _leave(leg: Leg, proxy: Proxy, sessions: list[Session]) -> None:
    while sessions:
        session = sessions.pop()
        if not leg.is_due():
            session.end()
            proxy.alive.discard(session)


def scoped(leg: Leg) -> None:
    """Let each session's snapshot end with its client."""
    with open_guarded(leg.path) as db:
        workload = Workload(db, leg.random)
        workload.fill()
        proxy = Proxy(lambda: len(db.handles()))
        for _ in leg.rounds(probe(db, QUEUE, proxy.signals)):
            clients = [Client() for _ in range(leg.random.randint(1, _MOST_CLIENTS))]
            with ExitStack() as reservations:
                for _client in clients:
                    reservations.enter_context(db.snapshot()).get(_ROW)
                proxy.alive.update(clients)
                workload.step()
                proxy.compare()
            proxy.alive.difference_update(clients)


SCENARIO = Scenario(
    name="reserved-session",
    summary="sessions that hold a snapshot and are forgotten in reference cycles",
    raw=raw,
    guarded=guarded,
    scoped=scoped,
    planted=("snapshots", "open_handles", "oldest_age", "unaccounted_handles"),
    opener=Session.__init__,
    opening="db.snapshot()",
    limits={"unaccounted_handles": 0},
)
