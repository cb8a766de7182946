"""Buffers of transfers that are freed when the transfer succeeds, and on one of its failures are not.

From the transfer engine of a cache for language models, whose tasks freed their buffers on every path but
one. The buffers here are write batches: written when the transfer is complete, discarded when it fails.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stress.guarded import open_guarded, probe
from stress.raw import WriteBatch, open_raw
from stress.scenario import Scenario
from stress.workload import row_key

if TYPE_CHECKING:
    import saferocks
    from stress.running import Leg

_START = row_key(0)
_LAST = b"transfer"
_BLOCKS = 40
_BLOCK_BYTES = 10_000


class TransferError(Exception):
    """A transfer that did not come about.

    Attributes:
        path: The name of the path that its buffer goes.
    """

    path = ""


class RejectedError(TransferError):
    """The other side has no room, and says so half-way."""

    path = "rejected"


class CancelledError(TransferError):
    """Nobody waits for it any more, half-way."""

    path = "cancelled"


class TimedOutError(TransferError):
    """All is sent and no answer comes: the path on which the buffer is forgotten."""

    path = "timed_out"


Failure = type[TransferError] | None
_FAILURES: tuple[Failure, ...] = (None, RejectedError, CancelledError, TimedOutError)


def path_of(failure: Failure) -> str:
    """Return the name of the path that a buffer goes."""
    return "complete" if failure is None else failure.path


@dataclass
class Transfers:
    """The transfers of a leg, one after the other on each path.

    Attributes:
        leg: The leg.
        number: The number of the present one, which its last row is to hold.
        written: The number of the last one that was complete.
        wrong: How often the database held another than that.
    """

    leg: Leg
    number: int = 0
    written: bytes | None = None
    wrong: int = 0

    def receive(self, buffer: Any, failure: Failure) -> None:
        """Fill a buffer, as far as the transfer gets.

        Raises:
            TransferError: Where it gets no further.
        """
        self.number += 1
        for block in range(_BLOCKS):
            if block == _BLOCKS // 2 and failure in (RejectedError, CancelledError):
                raise failure
            buffer[b"block/%04d" % block] = self.leg.random.randbytes(_BLOCK_BYTES)
        buffer[_LAST] = b"%d" % self.number
        if failure is not None:
            raise failure

    def check(self, db: Any, failure: Failure) -> None:
        """Look whether the database holds what is complete, and nothing of what failed."""
        if failure is None:
            self.written = b"%d" % self.number
        self.wrong += db.get(_LAST) != self.written

    def signals(self, in_use: Counter[str | None]) -> dict[str, float]:
        """Return the signals of this scenario.

        Args:
            in_use: How many buffers there are of each path.
        """
        unfreed = {f"unfreed_{path_of(failure)}": in_use[path_of(failure)] for failure in _FAILURES}
        return {**unfreed, "wrong_outcomes": self.wrong}


def raw(leg: Leg) -> None:
    """Free the buffer on every path but one."""
    in_use: Counter[str | None] = Counter()
    with open_raw(leg.path) as database:
        transfers = Transfers(leg)
        for _ in leg.rounds(database.probe(_START, lambda: transfers.signals(in_use))):
            for failure in _FAILURES:
                buffer = WriteBatch(raw_mode=True)
                in_use[path_of(failure)] += 1
                try:
                    transfers.receive(buffer, failure)
                    database.db.write(buffer)
                except TimedOutError:
                    if leg.is_due():
                        database.keep(buffer)
                        in_use[path_of(failure)] += 1
                except TransferError:
                    pass
                in_use[path_of(failure)] -= 1
                transfers.check(database.db, failure)


class Transfer:
    """A transfer that refers to itself, as one does that hands out its methods as callbacks.

    Whoever forgets to call `finish` leaves its buffer to the collector.

    Args:
        db: The database to write to.
        path: The name of the path that the buffer goes.
    """

    def __init__(self, db: saferocks.Rdict, path: str) -> None:
        self.on_done = self.finish
        self.buffer = db.write_batch(label=path).__enter__()

    def finish(self, error: TransferError | None = None) -> None:
        """Write the buffer, or discard it if the transfer has failed."""
        self.buffer.__exit__(None if error is None else type(error), error, None)


def guarded(leg: Leg) -> None:
    """Free the buffer on every path but one."""
    with open_guarded(leg.path) as db:
        transfers = Transfers(leg)
        for _ in leg.rounds(probe(db, _START, lambda: transfers.signals(_in_use(db)))):
            for failure in _FAILURES:
                _carry_out(Transfer(db, path_of(failure)), transfers, failure)
                transfers.check(db, failure)


def _carry_out(transfer: Transfer, transfers: Transfers, failure: Failure) -> None:
    try:
        transfers.receive(transfer.buffer, failure)
        transfer.finish()
    except TimedOutError as error:
        if not transfers.leg.is_due():
            transfer.finish(error)
    except TransferError as error:
        transfer.finish(error)


def scoped(leg: Leg) -> None:
    """Let the buffer's `with` write or discard it, whatever the path."""
    with open_guarded(leg.path) as db:
        transfers = Transfers(leg)
        for _ in leg.rounds(probe(db, _START, lambda: transfers.signals(_in_use(db)))):
            for failure in _FAILURES:
                with suppress(TransferError), db.write_batch(label=path_of(failure)) as buffer:
                    transfers.receive(buffer, failure)
                transfers.check(db, failure)


def _in_use(db: saferocks.Rdict) -> Counter[str | None]:
    return Counter(handle.label for handle in db.handles())


SCENARIO = Scenario(
    name="transfer-buffers",
    summary="buffers of transfers that one of the failures does not free",
    raw=raw,
    guarded=guarded,
    scoped=scoped,
    planted=("unfreed_timed_out", "open_handles", "heap"),
    opener=Transfer.__init__,
    opening="db.write_batch(",
    limits={**{f"unfreed_{path_of(failure)}": 0 for failure in _FAILURES}, "wrong_outcomes": 0},
)
