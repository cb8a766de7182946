"""What the database of a killed writer must hold, and whether it does.

What RocksDB promises here, by its own documentation: every write is handed to the operating system
as one record of the write-ahead log before it is acknowledged, so it outlives the process, synced or
not; there is one log for all column families; and the log is replayed from its beginning up to the
first record that is not whole (point in time, the default). So what is found is the state after some
write, the same one for every column family, and not before the last one that was acknowledged. A
batch is one record. The death of the machine is another matter: then only synced writes are safe.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import saferocks
from stress.faults.crash_reads import read_differences
from stress.faults.crash_stream import Kind, Row, Step, number_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from random import Random

#: The rows of each column family.
State = dict[str, dict[bytes, bytes]]
#: How many differences are told.
_TOLD = 5


@dataclass
class Reckoned:
    """What was issued, reckoned anew from the stream.

    Attributes:
        state: What was acknowledged.
        pending: What was begun and not acknowledged, if anything was.
        steps: How many steps of each kind were acknowledged.
    """

    state: State
    pending: Step | None = None
    steps: dict[Kind, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What the database of a killed writer holds.

    Attributes:
        wrong: What must never be.
        recovered: How many units of the pending step are there.
        rows: How many rows were compared.
    """

    wrong: tuple[str, ...]
    recovered: int = 0
    rows: int = 0


def reckon(state: State, steps: Iterator[Step], committed: int, issued: int) -> Reckoned:
    """Reckon what a writer has done.

    Args:
        state: What it found; it is changed.
        steps: Its stream.
        committed: How many writes were acknowledged.
        issued: How many it had begun.
    """
    reckoned = Reckoned(state)
    number = 0
    while number < committed:
        step = next(steps)
        apply(state, step)
        reckoned.steps[step.kind] = reckoned.steps.get(step.kind, 0) + 1
        number += step.writes
    if issued > committed:  # only what writes counts
        reckoned.pending = next(step for step in steps if step.writes)
        number += reckoned.pending.writes
    if number != max(issued, committed):
        raise AssertionError(f"the stream has {number} writes where the oracle has {committed} and {issued}")
    return reckoned


def apply(state: State, step: Step, units: int | None = None) -> None:
    """Change a state as a step does, or the first units of it."""
    if step.kind is Kind.CREATE and units != 0:
        state[step.family] = {}
    elif step.kind is Kind.DROP and units != 0:
        del state[step.family]
    for rows in step.units()[:units]:
        for family, key, value in rows:
            if value is None:
                state[family].pop(key, None)
            else:
                state[family][key] = value


def check(path: str, reckoned: Reckoned, random: Random, *, read_only: bool) -> Found:
    """Open the database of a killed writer, and compare all that it gives with what was reckoned.

    Raises:
        SaferocksError: If it cannot be opened or read, which is as wrong as anything.
    """
    access = saferocks.AccessType.read_only() if read_only else None
    with saferocks.open(path, access_type=access) as db:
        state, recovered = matched(_everything(db), reckoned)
        if state is None:
            return Found(differences(_everything(db), reckoned))
        wrong = tuple(read_differences(db, state, random))[:_TOLD]
        return Found(wrong, recovered, sum(map(len, state.values())))


def _everything(db: saferocks.Rdict) -> State:
    found: State = {}
    for name in db.column_families:
        with db.get_column_family(name).items() as items:
            found[name] = dict(items)
    return found


def matched(found: State, reckoned: Reckoned) -> tuple[State | None, int]:
    """Return the state, of those that may be, that was found, and how many units of the pending step it has."""
    pending = reckoned.pending
    last = 0 if pending is None else max(1, len(pending.units()))
    for units in range(last, -1, -1):
        state = {name: dict(rows) for name, rows in reckoned.state.items()}
        if pending is not None:
            apply(state, pending, units)
        if state == found:
            return state, units
    return None, 0


def differences(found: State, reckoned: Reckoned) -> tuple[str, ...]:
    """Say why what was found is none of the states that may be; the first few sentences."""
    pending = reckoned.pending
    told = [*_family_differences(found, reckoned)]
    for name in sorted(found.keys() & reckoned.state.keys()):
        told += _row_differences(name, found[name], reckoned.state[name], pending)
    if not told and pending is not None:
        told = [_unit_difference(found, pending)]
    more = len(told) - _TOLD
    return (*told[:_TOLD], *((f"and {more} more like these",) if more > 0 else ()))


def _family_differences(found: State, reckoned: Reckoned) -> Iterator[str]:
    pending = reckoned.pending
    open_to = {pending.family} if pending is not None and pending.kind in (Kind.CREATE, Kind.DROP) else set()
    for name in sorted(reckoned.state.keys() - found.keys() - open_to):
        yield f"column family {name!r} was lost"
    for name in sorted(found.keys() - reckoned.state.keys() - open_to):
        yield f"column family {name!r} is back, though its drop was acknowledged"


def _row_differences(
    name: str, found: dict[bytes, bytes], acknowledged: dict[bytes, bytes], pending: Step | None
) -> Iterator[str]:
    """Say which rows hold neither what was acknowledged last nor what was pending."""
    allowed: dict[bytes, set[bytes | None]] = {}
    for family, key, value in pending.rows if pending else ():
        if family == name:
            allowed.setdefault(key, set()).add(value)
    last = max((number_of(value) for value in found.values()), default=-1)
    for key in sorted(found.keys() | acknowledged.keys()):
        here, due = found.get(key), acknowledged.get(key)
        if here != due and here not in allowed.get(key, ()):
            yield _row_difference(name, key, here, due, last)


def _row_difference(name: str, key: bytes, here: bytes | None, due: bytes | None, last: int) -> str:
    row = f"row {key!r} of column family {name!r}"
    if here is None:
        number = number_of(due or b"")
        hole = f", a hole: write {last} is there" if last > number else ""
        return f"{row} was lost: write {number} was acknowledged{hole}"
    if due is None:
        return f"{row} is there from write {number_of(here)}, though it was deleted or never written"
    if number_of(here) < number_of(due):
        return f"{row} is stale: write {number_of(here)}, though write {number_of(due)} was acknowledged"
    return f"{row} holds {here[:20]!r}, which was never issued for it; {due[:20]!r} was acknowledged last"


def _unit_difference(found: State, pending: Step) -> str:
    """Say what is wrong where each row by itself may be as it is."""
    seen = [_is_there(found, rows) for rows in pending.units()]
    if any(there is None for there in seen):
        return f"a pending {pending.kind.name.lower()} of {pending.writes} writes is there by half"
    return f"of a pending {pending.kind.name.lower()}, a later batch is there and an earlier one is not"


def _is_there(found: State, rows: Iterable[Row]) -> bool | None:
    """Tell whether rows that were written as one are there; None if some are and some are not."""
    last = {(family, key): value for family, key, value in rows}
    there = {found.get(family, {}).get(key) == value for (family, key), value in last.items()}
    return there.pop() if len(there) == 1 else None
