"""A database one of whose files was damaged: what was written comes out, or a typed error does."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Any

import saferocks
from stress.faults import damage, written
from stress.faults.damage import Damage
from stress.faults.fault import Fault, Outcome, Round
from stress.faults.reading import Expected, Findings, read_everything
from stress.faults.written import Columns, Key, Plan, Rows, Write

#: What stands for a row that could not be read.
_UNREADABLE: Any = object()
_ACCESSES = ("read_write", "read_only", "secondary")
#: What leaves files that RocksDB takes for whole. A MANIFEST that was cut describes an older state, as after a loss
#: of power, and which logs there have been is written down nowhere: one before the last leaves a gap.
_UNNOTICED = {("MANIFEST", "truncation"), ("WAL", "removed file"), ("WAL", "truncation")}
#: More than these are not told of one round.
_MOST_TOLD = 5


@dataclass(frozen=True)
class Case:
    """A damaged database.

    Attributes:
        path: The database.
        plan: What had been written into it.
        damage: What was done to it.
        access: How it is opened: `read_write`, `read_only` or `secondary`.
    """

    path: str
    plan: Plan
    damage: Damage
    access: str

    def open(self, access: str | None = None) -> saferocks.Scope[saferocks.Rdict]:
        """Open it, with the options that are on disk."""
        access = access or self.access
        if access == "secondary":
            kind = saferocks.AccessType.secondary(f"{self.path}-secondary")
        else:
            kind = saferocks.AccessType.read_only() if access == "read_only" else saferocks.AccessType.read_write()
        return saferocks.open(self.path, access_type=kind, raw_mode=self.plan.raw)


def stage(round_: Round) -> Outcome:
    """Write a database, damage one of its files, open it and read all of it in every way."""
    random = round_.random()
    path = str(round_.directory / "db")
    plan = written.plan(random)
    written.write(plan, path)
    done = damage.damage(path, random)
    case = Case(path, plan, done, random.choices(_ACCESSES, (70, 15, 15))[0])
    return judge(case, random)


def judge(case: Case, random: Random) -> Outcome:
    """Open and read a damaged database, and say what came out."""
    findings = Findings()
    outcome = _open_and_read(case, findings, random)
    _open_again(case, findings)
    counts = Counter({f"{case.damage.kind}: {outcome}": 1, f"way: {case.damage.way}": 1, f"opened {case.access}": 1})
    counts["reads right"] = findings.right
    counts["reads refused"] = sum(findings.refused.values())
    told = [f"after a {case.damage}, opened {case.access}: {text}" for text in findings.wrong[:_MOST_TOLD]]
    return Outcome(counts, tuple(told))


def _open_and_read(case: Case, findings: Findings, random: Random) -> str:
    """Return what came out, in words."""
    try:
        database = case.open()
    except saferocks.EngineError:
        return "refused at open"
    except BaseException as error:  # noqa: BLE001 - rocksdict's panics are no `Exception`
        findings.wrong.append(f"the opening raised an untyped {type(error).__name__}: {error}")
        return "untyped error at open"
    state = "opened"
    try:
        with database as db:
            rows, state = recognise(case, survey(case.plan, db), findings)
            there = {name: rows[name] for name in db.column_families if name in rows}
            expected = {name: Expected(case.plan.raw, there[name], case.plan.keys(name)) for name in there}
            read_everything(findings, db, expected, random, snapshots=case.access != "secondary")
    except saferocks.EngineError:
        findings.refused["at close"] += 1
    except BaseException as error:  # noqa: BLE001 - rocksdict's panics are no `Exception`
        findings.wrong.append(f"reading raised an untyped {type(error).__name__}: {error}")
    return "refused at read" if findings.refused and state == "opened whole" else state


def survey(plan: Plan, db: saferocks.Rdict) -> Rows:
    """Ask for each row there has ever been; `_UNREADABLE` stands for those that raise a typed error."""
    found: Rows = {}
    for name in plan.families:
        family = db.get_column_family(name) if name in db.column_families else {}
        rows = {key: _survey_row(family, key) for key in plan.keys(name)}
        found[name] = {key: columns for key, columns in rows.items() if columns is not None}
    return found


def _survey_row(family: Any, key: Key) -> Columns | None:
    try:
        entity = family.get_entity(key) if hasattr(family, "get_entity") else None
    except saferocks.EngineError:
        return _UNREADABLE  # type: ignore[no-any-return]
    return None if entity is None else tuple(entity)


def recognise(case: Case, found: Rows, findings: Findings) -> tuple[Rows, str]:
    """Tell which state the database is in: return its rows, and what it is called.

    Rows that cannot be read fit every state. RocksDB's recovery drops from the first damage on what is in the
    write-ahead log alone: what is left is then what there was after the first so many writes. What is `_UNNOTICED`
    leaves rows each of which was written, and on which all reads must agree.
    """
    plan = case.plan
    whole = plan.rows()
    if not _differences(found, whole):
        return whole, "opened whole"
    if case.damage.kind == "WAL":
        issued = longest_prefix(plan, found)
        if issued is not None:
            return plan.rows(issued), "opened, end of the log dropped"
    if (case.damage.kind, case.damage.way) in _UNNOTICED and _were_written(plan, found):
        return found, "opened, rows missing that RocksDB does not know of"
    name, key = _differences(found, whole)[0]
    findings.wrong.append(
        f"the rows are of no state that there was: {len(_differences(found, whole))} differ from the last one, "
        f"such as {key!r} of {name!r}: {_of(found, name, key)} instead of {_of(whole, name, key)}"
    )
    return whole, "opened wrong"


def _were_written(plan: Plan, found: Rows) -> bool:
    """Tell whether all rows could be read, and each of them is one that there was at some time."""
    written_ones = {write for writes in plan.writes for write in writes}
    return all(
        columns is not _UNREADABLE and Write(name, key, columns) in written_ones
        for name, rows in found.items()
        for key, columns in rows.items()
    )


def _of(rows: Rows, name: str, key: Key) -> str:
    return repr(rows[name].get(key))[:100]


def _differences(found: Rows, rows: Rows) -> list[tuple[str, Key]]:
    return [
        (name, key)
        for name in rows
        for key in {**rows[name], **found[name]}
        if found[name].get(key) is not _UNREADABLE and found[name].get(key) != rows[name].get(key)
    ]


def longest_prefix(plan: Plan, found: Rows) -> int | None:
    """Return after how many of the writes these were the rows; None if they never were."""
    rows: Rows = {name: {} for name in plan.families}
    different = set(_differences(found, rows))
    fits = None if different else 0
    for issued, writes in enumerate(plan.writes, 1):
        for write in writes:
            theirs = found[write.family].get(write.key)
            place = (write.family, write.key)
            different.discard(place)
            if theirs is not _UNREADABLE and theirs != write.columns:
                different.add(place)
        fits = fits if different else issued
    return fits


def _open_again(case: Case, findings: Findings) -> None:
    """Open the path at once after the close, or the refusal: LOCK must not be held, nor anything be left open."""
    handles = saferocks.open_handles()
    if handles:
        findings.wrong.append(f"handles are left open: {handles}")
    try:
        with case.open("read_write"):
            pass
    except saferocks.LockedError as error:
        findings.wrong.append(f"the path is still locked: {error}")
    except saferocks.EngineError:
        pass  # it is damaged
    except BaseException as error:  # noqa: BLE001 - rocksdict's panics are no `Exception`
        findings.wrong.append(f"the second opening raised an untyped {type(error).__name__}: {error}")
    if os.path.isdir(case.path) and saferocks.open_handles():
        findings.wrong.append("handles are left open by the second opening")


FAULT = Fault(
    name="corruption",
    summary="a bit flip, truncation, zeros, garbage or a removed file, anywhere in a database",
    rounds=1000,
    stage=stage,
)
