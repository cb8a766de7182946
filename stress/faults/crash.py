"""The fault `crash`: a program is killed in the midst of its writes, several times on the same files.

After RocksDB's own crash test. A child writes, what it has issued and what was acknowledged being
noted outside of the database; it is killed at a random moment; another child opens what is left and
compares all of it with what was noted. The round's own process never opens the database, so its
children may.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from stress.faults.children import Child, forked
from stress.faults.crash_check import Found, Reckoned, apply, check, reckon
from stress.faults.crash_oracle import Oracle
from stress.faults.crash_stream import Kind, Stream
from stress.faults.crash_writer import Settings, write
from stress.faults.fault import Fault, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stress.faults.crash_check import State
    from stress.faults.crash_stream import Step
    from stress.faults.fault import Round

_KILLS = (2, 4)
#: How many acknowledged writes a writer is given at least, and the most seconds from then until its death.
_AT_LEAST = (1, 1, 100, 1000)
_LONGEST = 0.15
_AT_ONCE = 0.1
_READ_ONLY = 0.3
_LOOK_SECONDS = 0.001
_AMID = {
    None: "kills between two calls",
    Kind.PUT: "kills in a write",
    Kind.DELETE: "kills in a write",
    Kind.BATCH: "kills in a write",
    Kind.BULK: "kills in a bulk writer",
    Kind.CREATE: "kills in a create or a drop",
    Kind.DROP: "kills in a create or a drop",
    Kind.FLUSH: "kills in a flush call",
    Kind.COMPACT: "kills in a compact call",
    Kind.REOPEN: "kills in a close or an open",
}
_COUNTED = (
    "kills",
    *dict.fromkeys(_AMID.values()),
    "kills leaving stray files",
    "reopened read-only",
    "acknowledged writes",
    "whole batches",
    "whole bulk writers",
    "synced",
    "pending at the kill",
    "pending, recovered",
    "column families compared",
    "rows compared",
)


@dataclass
class _Killings:
    """A round: the state of its database, and what was counted."""

    path: str
    settings: Settings
    random: Random
    state: State = field(default_factory=lambda: {"default": {}})
    number: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTED, 0))

    def count(self, name: str, number: int = 1) -> None:
        """Add to a count."""
        self.counts[name] += number

    def kill_one(self, read_only: bool) -> tuple[str, ...]:
        """Let a writer write, kill it, and return what is wrong with what is left."""
        seed = self.random.getrandbits(64)
        families, number = tuple(sorted(self.state)), self.number
        oracle = Oracle()

        def steps() -> Iterator[Step]:
            return Stream(Random(seed), families, number).steps()

        writer = Child("the writer", lambda: write(self.path, self.settings, steps(), oracle))
        _kill(writer, oracle, self.random.choice(_AT_LEAST), self._delay())
        self.number += oracle.issued
        reckoned = reckon(self.state, steps(), oracle.committed, oracle.issued)
        before = _table_files(self.path)
        found: Found = forked(
            "the child that opens what is left",
            lambda: check(self.path, reckoned, self.random, read_only=read_only),
        )
        self._count(oracle, reckoned, found)
        self.count("kills leaving stray files", bool(before - _table_files(self.path)))
        self.count("reopened read-only", read_only)
        if reckoned.pending is not None:
            apply(self.state, reckoned.pending, found.recovered)
        return found.wrong

    def _delay(self) -> float:
        """Return how long the next writer lives after its first writes."""
        longest = _LONGEST / 50 if self.random.random() < _AT_ONCE else _LONGEST
        return self.random.uniform(0, longest)

    def _count(self, oracle: Oracle, reckoned: Reckoned, found: Found) -> None:
        steps, pending = reckoned.steps, reckoned.pending
        self.count("kills")
        self.count(_AMID[oracle.kind])
        self.count("acknowledged writes", oracle.committed)
        self.count("whole batches", steps.get(Kind.BATCH, 0))
        self.count("whole bulk writers", steps.get(Kind.BULK, 0))
        self.count("synced", oracle.synced)
        self.count("pending at the kill", oracle.issued - oracle.committed)
        if pending is not None:
            whole = found.recovered and not pending.rows
            self.count("pending, recovered", 1 if whole else sum(map(len, pending.units()[: found.recovered])))
        self.count("column families compared", len(reckoned.state))
        self.count("rows compared", found.rows)


def _kill(writer: Child[None], oracle: Oracle, writes: int, seconds: float) -> None:
    """Kill a writer so many seconds after so many of its writes were acknowledged."""
    while oracle.committed < writes and not writer.has_ended():
        time.sleep(_LOOK_SECONDS)
    time.sleep(seconds)
    writer.kill()


def _table_files(path: str) -> frozenset[str]:
    return frozenset(name for name in os.listdir(path) if name.endswith(".sst"))


def _stage(staged: Round) -> Outcome:
    random = staged.random()
    round_ = _Killings(str(staged.directory / "db"), Settings.chosen(random), random)
    kills = random.randint(*_KILLS)
    for number in range(kills):
        wrong = round_.kill_one(read_only=number < kills - 1 and random.random() < _READ_ONLY)
        if wrong:
            return Outcome(round_.counts, tuple(f"after kill {number + 1}: {each}" for each in wrong))
    return Outcome(round_.counts)


FAULT = Fault(
    name="crash",
    summary="the writer is killed at random moments; every acknowledged row is there, and no hole",
    rounds=1000,
    stage=_stage,
)
