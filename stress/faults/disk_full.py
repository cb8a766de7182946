"""A disk that runs full under a database: typed errors, reads that go on, and every acknowledged row afterwards."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import saferocks
from stress.faults.fault import Fault, Outcome, Round
from stress.faults.full_disks import Disk, disk
from stress.faults.reading import Expected, Findings, read_cursors, read_points, read_scans

#: After so many calls that all succeed the disk does not run full any more.
_MOST_CALLS = 400
_BULK_BYTES = 20_000
_MOST_TOLD = 5
#: What RocksDB says of a log whose last write failed, until it is reopened.
_SINCE = "Writer has previous error"


@dataclass
class Work:
    """A database on a disk of its own, and what is known of it.

    Attributes:
        path: The database.
        disk: The disk.
        random: The random numbers of the round.
        rows: Every row that was acknowledged.
        refused: What was refused, each a group of rows that may be there as a whole, or not at all.
        prefix: The rows of a bulk writer that was refused, of which the first may be there.
        unlogged: Rows that were written without the log, and are there only once they were flushed.
        findings: What came of reads.
        counts: What was done, and seen.
    """

    path: str
    disk: Disk
    random: Random
    rows: dict[bytes, bytes] = field(default_factory=dict)
    refused: list[dict[bytes, bytes]] = field(default_factory=list)
    prefix: list[tuple[bytes, bytes]] = field(default_factory=list)
    unlogged: dict[bytes, bytes] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)
    counts: Counter[str] = field(default_factory=Counter)

    def open(self) -> saferocks.Scope[saferocks.Rdict]:
        """Open it, with buffers that are small against the disk."""
        options = saferocks.Options(raw_mode=True)
        options.set_write_buffer_size(256 << 10)
        options.set_manifest_preallocation_size(64 << 10)
        return saferocks.open(self.path, options=options)

    def row(self) -> tuple[bytes, bytes]:
        """Return a row that is new."""
        number = self.counts["rows made"]
        self.counts["rows made"] += 1
        return b"k%06d" % number, self.random.randbytes(self.random.choice((10, 200, 2000)))

    def wrong(self, text: str) -> None:
        """Note what must not be."""
        self.findings.wrong.append(text)

    def expected(self) -> Expected:
        """Return the rows as `reading` wants them, with a few keys that were refused."""
        others = [key for group in self.refused for key in group][:10]
        keys = sorted({*self.random.sample(sorted(self.rows), min(60, len(self.rows))), *others, b"none"})
        return Expected(True, {key: ((b"", value),) for key, value in self.rows.items()}, keys)


# --------------------------------------------------------------------------- what meets the full disk


def _put(work: Work, db: saferocks.Rdict) -> None:
    key, value = work.row()
    with _all_or_nothing(work, {key: value}):
        db[key] = value


def _write_batch(work: Work, db: saferocks.Rdict) -> None:
    rows = dict(work.row() for _ in range(work.random.randint(2, 20)))
    with _all_or_nothing(work, rows), db.write_batch() as batch:
        for key, value in rows.items():
            batch[key] = value


def _bulk_writer(work: Work, db: saferocks.Rdict) -> None:
    rows = [work.row() for _ in range(60)]
    try:
        with db.bulk_writer(flush_bytes=_BULK_BYTES) as bulk:
            for key, value in rows:
                bulk[key] = value
    except saferocks.EngineError:
        work.prefix = rows
        work.rows.update((key, value) for key, value in rows if db.get(key) == value)  # the batches before that one
        raise
    work.rows.update(rows)


def _flush(work: Work, db: saferocks.Rdict) -> None:
    db.flush()
    _put(work, db)


def _compact(work: Work, db: saferocks.Rdict) -> None:
    db.flush()
    db.compact_range(None, None)
    _put(work, db)


def _checkpoint(work: Work, db: saferocks.Rdict) -> None:
    copy = f"{work.path}-copy{work.counts['calls']}"
    with db.checkpoint() as checkpoint:
        checkpoint.create(copy)
    with saferocks.open(copy, access_type=saferocks.AccessType.read_only()) as found, found.items() as items:
        if dict(items) != work.rows:
            work.wrong("a checkpoint that was made on a full disk lacks rows")
    _put(work, db)


def _sst_writer(work: Work, db: saferocks.Rdict) -> None:
    file = f"{work.path}-{work.counts['calls']}.sst"
    rows = dict(work.row() for _ in range(100))
    try:
        with saferocks.SstFileWriter(saferocks.Options(raw_mode=True)) as writer:
            writer.open(file)
            for key, value in rows.items():
                writer[key] = value
    except saferocks.EngineError:
        if os.path.lexists(file):
            work.wrong("an SST file that could not be finished was left behind")
        raise
    with _all_or_nothing(work, rows):
        db.ingest_external_file([file])


def _column_family(work: Work, db: saferocks.Rdict) -> None:
    name = f"family{work.counts['calls']}"
    with db.create_column_family(name) as family:
        family[b"k"] = b"v"
        if family[b"k"] != b"v":
            work.wrong("a column family that was made on a full disk lost a row")


def _reopen(work: Work, db: saferocks.Rdict) -> None:
    db.close()
    with work.open() as again:
        if again.get(list(work.rows)) != list(work.rows.values()):
            work.wrong("rows are missing after a reopening on a full disk")


def _close(work: Work, db: saferocks.Rdict) -> None:
    options: Any = saferocks.WriteOptions()  # its stub takes the property below for a method
    options.disable_wal = True
    for key, value in (work.row() for _ in range(50)):
        db.put(key, value, options)
        work.unlogged[key] = value
        work.rows[key] = value
    db.close()
    work.unlogged.clear()  # the close says that all is well


_OPERATIONS: dict[str, Callable[[Work, saferocks.Rdict], None]] = {
    "put": _put,
    "write_batch": _write_batch,
    "bulk_writer": _bulk_writer,
    "flush": _flush,
    "compact": _compact,
    "checkpoint": _checkpoint,
    "SST writer": _sst_writer,
    "column family": _column_family,
    "close": _close,
    "reopen": _reopen,
}


@contextmanager
def _all_or_nothing(work: Work, rows: dict[bytes, bytes]) -> Iterator[None]:
    """Note rows as acknowledged, or as refused."""
    try:
        yield
    except saferocks.EngineError:
        work.refused.append(rows)
        raise
    work.rows.update(rows)


# --------------------------------------------------------------------------- a round


def stage(round_: Round) -> Outcome:
    """Fill the disk under a database with a scan, a snapshot and a cursor open; then give the space back."""
    random = round_.random()
    work = Work("", disk(round_.directory, limit_first=round_.seed % 2 == 1), random)
    work.path = str(round_.directory / "db")
    operation = random.choice(list(_OPERATIONS))
    _run(work, operation)
    _check_afterwards(work)
    work.counts[f"{work.disk.name}: {operation}"] += 1
    del work.counts["rows made"]
    work.counts["reads right"] = work.findings.right
    told = [f"{operation} on a full {work.disk.name}: {text}" for text in work.findings.wrong[:_MOST_TOLD]]
    return Outcome(work.counts, tuple(told))


def _run(work: Work, operation: str) -> None:
    """Fill the disk, let the operation meet it, read, and give the space back; then the database is closed."""
    database = work.open()
    refused = False
    try:
        with database as db:
            _fill_with_rows(work, db)
            if operation in {"close", "reopen"}:
                work.disk.fill(work.random)
                refused = _refuses(work, operation, db)
            else:
                refused = _meet(work, operation, db)
                _recover(work, db)
    except saferocks.EngineError as error:
        _check_error(work, error, "the close")
        work.counts["closes that raised"] += 1
    work.disk.give_back(work.random)
    work.counts["refused" if refused else "not refused: the disk did not run full"] += 1


def _fill_with_rows(work: Work, db: saferocks.Rdict) -> None:
    for _ in range(work.random.randint(20, 200)):
        _put(work, db)
        if work.random.random() < 0.02:
            db.flush()


def _meet(work: Work, operation: str, db: saferocks.Rdict) -> bool:
    """Let the operation meet the full disk, while a scan, a snapshot and a cursor are open."""
    before = sorted(work.rows.items())
    with db.snapshot() as snapshot, db.items() as items, db.iter() as cursor:
        rows = [next(items) for _ in range(min(3, len(before)))]
        cursor.seek_to_first()
        work.disk.fill(work.random)
        refused = _refuses(work, operation, db)
        _read(work, db, "on the full disk")
        work.findings.compare("the scan that was open", lambda: rows + list(items), before)
        work.findings.compare("the cursor that was open", lambda: _walk(cursor), before)
        work.findings.compare("the snapshot", lambda: [(key, snapshot[key]) for key, _ in before], before)
        work.findings.compare_rows("the snapshot's scan", snapshot.items, before)
    return refused


def _walk(cursor: saferocks.RdictIter) -> list[tuple[Any, Any]]:
    rows = []
    while cursor.valid():
        rows.append((cursor.key(), cursor.value()))
        cursor.next()
    return rows


def _refuses(work: Work, operation: str, db: saferocks.Rdict) -> bool:
    """Go on until the operation is refused; False if it never is."""
    for _ in range(1 if operation in {"close", "reopen"} else _MOST_CALLS):
        work.counts["calls"] += 1
        try:
            _OPERATIONS[operation](work, db)
        except saferocks.EngineError as error:
            _check_error(work, error, operation)
            return True
        except Exception as error:  # noqa: BLE001 - that it is another one is what is wrong
            work.wrong(f"raised an untyped {type(error).__name__}: {error}")
            return True
    return False


def _check_error(work: Work, error: saferocks.EngineError, what: str) -> None:
    """A full disk is a NoSpaceError; a limit on files, or a log that failed before, another IOFailedError."""
    if isinstance(error, saferocks.IOFailedError) and _SINCE in str(error):
        work.counts[f"IOFailedError: {_SINCE}"] += 1
        return
    work.counts[f"{type(error).__name__}: {work.disk.full}"] += 1
    kind = saferocks.NoSpaceError if work.disk.name == "file system" else saferocks.IOFailedError
    if not isinstance(error, kind) or work.disk.full not in str(error):
        work.wrong(f"{what} raised {type(error).__name__}, not {kind.__name__}: {error}")


def _read(work: Work, db: saferocks.Rdict, when: str) -> None:
    """Read everything; that the disk is full is no reason to refuse a read."""
    expected = work.expected()
    before = sum(work.findings.refused.values())
    read_points(work.findings, db, expected, "db")
    read_scans(work.findings, db, expected, "db", work.random)
    read_cursors(work.findings, db, expected, "db", work.random)
    if sum(work.findings.refused.values()) != before:
        work.wrong(f"reads were refused {when}: {dict(work.findings.refused)}")


def _recover(work: Work, db: saferocks.Rdict) -> None:
    """Give the space back, and see whether RocksDB writes again without being reopened."""
    work.disk.give_back(work.random)
    try:
        _put(work, db)
    except saferocks.EngineError as error:
        _check_error(work, error, "a put after the space was given back")
        work.counts["needed a reopening"] += 1
    else:
        work.counts["went on by itself"] += 1
    _read(work, db, "after the space was given back")


def _check_afterwards(work: Work) -> None:
    """Open at once: every acknowledged row is there, and nothing half."""
    handles = saferocks.open_handles()
    if handles:
        work.wrong(f"handles are left open: {handles}")
    with work.open() as db:
        with db.items() as items:
            found = dict(items)
        _settle(work, found)
        _read(work, db, "after the reopening")
        _put(work, db)
        db.flush()
    with work.open() as db:
        _read(work, db, "after the second reopening")


def _settle(work: Work, found: dict[bytes, bytes]) -> None:
    """Compare what came back with what was acknowledged; what was refused may be there, but not half of it."""
    if work.unlogged:  # the close raised: these may be gone
        for key in work.unlogged.keys() - found.keys():
            del work.rows[key]
    for group in work.refused:
        here = [key for key, value in group.items() if found.get(key) == value]
        if here and len(here) < len(group):
            work.wrong(f"{len(here)} of the {len(group)} rows of a refused batch are there")
        if here:
            work.counts["refused, and there all the same"] += 1
            work.rows.update(group)
    flags = [found.get(key) == value for key, value in work.prefix]
    if flags != sorted(flags, reverse=True):
        work.wrong("the rows of a bulk writer that are there are not the first ones")
    work.rows.update(work.prefix[: sum(flags)])
    if found != work.rows:
        lost, strange = work.rows.keys() - found.keys(), found.keys() - work.rows.keys()
        work.wrong(f"{len(lost)} acknowledged rows are lost, {len(strange)} were never acknowledged")
    work.counts["acknowledged rows"] += len(work.rows)


FAULT = Fault(
    name="disk-full",
    summary="the disk runs full under puts, batches, flushes, compactions, checkpoints, and closes",
    rounds=200,
    stage=stage,
)
