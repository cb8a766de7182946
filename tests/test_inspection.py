"""What a running program can ask: handles, memory, and whether the registry agrees with RocksDB."""

from __future__ import annotations

import dataclasses
import sys
import threading
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import saferocks
from saferocks import inspection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECONDS = 20.0


@pytest.fixture
def filled(db: saferocks.Rdict) -> saferocks.Rdict:
    """A database of a thousand rows of a kilobyte in its memtable."""
    write(db)
    return db


def write(db: saferocks.Rdict) -> None:
    """Write a megabyte."""
    for number in range(1000):
        db[b"%04d" % number] = b"v" * 1000


# --------------------------------------------------------------------------- memory


def test_memory_of_the_memtable(filled: saferocks.Rdict) -> None:
    """Rows that were written are in the memtables, and after a flush in SST files."""
    before = filled.memory()
    assert before.memtables > 1_000_000
    assert (before.pinned_memtables, before.sst_live, before.sst_total) == (0, 0, 0)
    filled.flush()
    after = filled.memory()
    assert after.memtables < 100_000
    assert after.sst_live > 10_000
    assert after.sst_total == after.sst_live


def test_memory_of_the_process(filled: saferocks.Rdict) -> None:
    """Resident memory is that of the process, the heap is part of it or unknown, and all figures are whole numbers."""
    found = filled.memory()
    assert abs(found.rss - psutil.Process().memory_info().rss) < 50 << 20
    assert found.heap is None or found.heap > 0
    for name, value in dataclasses.asdict(found).items():
        assert value is None or (isinstance(value, int) and value >= 0), name


def test_memory_shows_what_an_iterator_pins(filled: saferocks.Rdict) -> None:
    """A flushed memtable that an iterator keeps is counted as pinned, until the iterator is released."""
    with filled.iter():
        filled.flush()
        assert filled.memory().pinned_memtables > 1_000_000
    assert filled.memory().pinned_memtables == 0


def test_memory_shows_the_files_that_a_snapshot_keeps(filled: saferocks.Rdict) -> None:
    """SST files that only a scan still needs are part of the total, and not of the live ones."""
    filled.flush()
    with filled.items():
        for number in range(1000):
            del filled[b"%04d" % number]
        filled.compact_range(None, None)
        found = filled.memory()
        assert found.sst_total > found.sst_live + 10_000
    filled.compact_range(None, None)


def test_memory_sums_up_column_families(db: saferocks.Rdict) -> None:
    """The figures are sums over all column families; asked of a family, the answer is that of the database."""
    family = db.create_column_family("f")
    write(db)
    write(family)
    db.flush()
    family.flush()
    found, asked = db.memory(), family.memory()
    memtables = [each.property_int_value("rocksdb.size-all-mem-tables") or 0 for each in (db, family)]
    files = [each.property_int_value("rocksdb.live-sst-files-size") or 0 for each in (db, family)]
    assert min(*memtables, *files) > 0
    assert (found.memtables, found.sst_live) == (sum(memtables), sum(files))
    assert (asked.memtables, asked.sst_live) == (sum(memtables), sum(files))


def test_memory_of_the_block_cache_and_the_tables(filled: saferocks.Rdict) -> None:
    """Reading from files fills the block cache and opens tables, and pins what an iterator is on."""
    filled.flush()
    with filled.items() as items:
        next(items)
        found = filled.memory()
        assert found.block_cache > 0
        assert found.block_cache_pinned > 0
        assert found.table_readers > 0


def test_memory_leaves_nothing_open(filled: saferocks.Rdict, path: str) -> None:
    """Asking for memory opens no handle, and the path reopens after the close."""
    filled.create_column_family("f").close()
    filled.memory()
    assert filled.handles() == ()
    filled.close()
    with pytest.raises(saferocks.DatabaseClosedError):
        filled.memory()
    with saferocks.open(path):
        pass


def test_memory_without_a_heap_to_ask(filled: saferocks.Rdict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the platform does not tell the heap, or another allocator makes it 0, it is None."""
    monkeypatch.setattr(psutil, "heap_info", lambda: type("Info", (), {"heap_used": 0})(), raising=False)
    assert filled.memory().heap is None
    monkeypatch.delattr(psutil, "heap_info", raising=False)
    assert filled.memory().heap is None


# --------------------------------------------------------------------------- audit

OPENED: dict[str, tuple[Callable[[saferocks.Rdict], Any], int, int]] = {
    "items": (lambda db: db.items(), 2, 0),
    "values": (lambda db: db.values(backwards=True), 2, 0),
    "bounded": (lambda db: db.keys(prefix=b"a"), 2, 0),
    "cursor": (lambda db: db.iter(), 1, 0),
    "snapshot": (lambda db: db.snapshot(), 1, 1),
    "point snapshot": (lambda db: db.snapshot(point_reads_only=True), 0, 1),
    "batch": (lambda db: db.write_batch(), 0, 0),
    "checkpoint": (lambda db: db.checkpoint(), 0, 0),
}


@pytest.mark.parametrize("opened", OPENED)
def test_an_audit_counts_what_is_open(db: saferocks.Rdict, opened: str) -> None:
    """The registry's counts of native iterators and snapshots are RocksDB's own, open and after release."""
    opener, iterators, snapshots = OPENED[opened]
    with opener(db):
        report = db.audit()
        assert (report.registered_iterators, report.live_iterators) == (iterators, iterators)
        assert (report.registered_snapshots, report.live_snapshots) == (snapshots, snapshots)
        assert (report.ok, report.unchecked) == (True, ())
    report = db.audit()
    assert (report.registered_iterators, report.live_iterators, report.live_snapshots) == (0, 0, 0)


def test_an_audit_counts_a_shared_cursor_once(db: saferocks.Rdict) -> None:
    """Scans of a snapshot add no native iterator, and exhausted and half-read ones are counted right."""
    for key in (b"a", b"b", b"c"):
        db[key] = b"v"
    with db.snapshot() as snap, snap.items() as items, snap.iter() as cursor, db.keys() as keys, db.values() as values:
        next(items)
        cursor.seek_to_first()
        list(keys)
        next(values)
        report = db.audit()
        assert (report.registered_iterators, report.live_iterators, report.ok) == (3, 3, True)


def test_an_audit_counts_families(db: saferocks.Rdict) -> None:
    """Iterators and snapshots of all column families belong to their database."""
    family = db.create_column_family("f")
    with family.items(), db.snapshot(column_families=["f"]):
        for source in (db, family):
            report = source.audit()
            assert (report.registered_iterators, report.live_iterators) == (4, 4)
            assert (report.registered_snapshots, report.live_snapshots) == (2, 2)


def test_an_audit_of_one_database_ignores_others(db: saferocks.Rdict, tmp_path: Any) -> None:
    """Handles of another database do not count."""
    with saferocks.open(str(tmp_path / "other"), statistics=True) as other, other.items(), other.snapshot():
        report = db.audit()
        assert (report.registered_iterators, report.live_iterators, report.live_snapshots) == (0, 0, 0)


def test_an_audit_sees_an_iterator_that_nobody_registered(db: saferocks.Rdict) -> None:
    """A native iterator or snapshot behind the registry's back turns the audit red, until it is gone."""
    native = db._record.live
    planted = native.iter(None)
    report = db.audit()
    assert (report.registered_iterators, report.live_iterators, report.ok) == (0, 1, False)
    del planted
    assert db.audit().ok
    planted = native.snapshot()
    report = db.audit()
    assert (report.registered_snapshots, report.live_snapshots, report.ok) == (0, 1, False)
    del planted
    assert db.audit().ok


def test_an_audit_sees_a_handle_whose_iterator_is_gone(db: saferocks.Rdict) -> None:
    """A registered handle whose native part is kept only by the registry's word turns the audit red."""
    with db.iter() as cursor:
        record = cursor._record
        planted = db._record.live.iter(None)
        record.native = (record.native, planted)  # two are registered, and a third is not
        another = db._record.live.iter(None)
        report = db.audit()
        assert (report.registered_iterators, report.live_iterators, report.ok) == (2, 3, False)
        del planted, another
        record.native = record.native[0]
        assert db.audit().ok


def test_an_audit_without_statistics_says_so(path: str) -> None:
    """Without statistics the iterators are not compared, which the report says; snapshots are."""
    with saferocks.open(path) as db, db.items(), db.snapshot():
        report = db.audit()
        assert (report.registered_iterators, report.live_iterators) == (3, None)
        assert (report.live_snapshots, report.ok) == (1, True)
        assert report.unchecked == ("iterators: open with statistics=True to have RocksDB count them",)
        planted = db._record.live.snapshot()
        assert not db.audit().ok
        del planted


def test_an_audit_of_a_closed_database(db: saferocks.Rdict) -> None:
    """A closed database cannot be audited."""
    db.close()
    with pytest.raises(saferocks.DatabaseClosedError):
        db.audit()


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Let threads take turns often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager_switching")
def test_an_audit_is_never_red_by_mistake(db: saferocks.Rdict) -> None:
    """While threads open and release handles all the time, no audit is red."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            while not stop.is_set():
                with db.items(), db.iter(), db.snapshot() as snap, snap.keys() as keys:
                    next(keys, None)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        reports = [db.audit() for _ in range(100)]
    finally:
        stop.set()
        for thread in threads:
            thread.join(SECONDS)
    assert [report for report in reports if not report.ok] == []
    assert failures == []


@pytest.mark.usefixtures("eager_switching")
def test_an_audit_keeps_nothing_open(path: str) -> None:
    """A close during another thread's audits, listings and memory figures leaves the path free at once."""
    for _ in range(20):
        with saferocks.open(path, statistics=True) as db:
            ready = threading.Event()
            outcome: list[BaseException] = []
            thread = threading.Thread(target=ask, args=(db, ready, outcome))
            thread.start()
            assert ready.wait(SECONDS)
            with db.items() as items:
                next(items, None)
        with saferocks.open(path):
            pass
        thread.join(SECONDS)
        assert [type(error) for error in outcome] == [saferocks.DatabaseClosedError]


def ask(db: saferocks.Rdict, ready: threading.Event, outcome: list[BaseException]) -> None:
    """Ask for everything until the database is closed."""
    try:
        while True:
            db.audit()
            db.memory()
            db.handles()
            saferocks.open_handles()
            ready.set()
    except BaseException as error:
        outcome.append(error.with_traceback(None))


# --------------------------------------------------------------------------- handles


def test_handles_are_those_of_the_database(db: saferocks.Rdict, tmp_path: Any) -> None:
    """handles() lists what was opened from this database, and neither itself nor what belongs to others."""
    with saferocks.open(str(tmp_path / "other")) as other, other.items(), db.snapshot(label="mine"):
        assert [(info.kind, info.label) for info in db.handles()] == [("snapshot", "mine")]
        assert [info.kind for info in other.handles()] == ["iterator"]
        assert [info.kind for info in saferocks.open_handles()] == ["database", "database", "iterator", "snapshot"]


def test_handles_of_a_closed_database(db: saferocks.Rdict) -> None:
    """A closed database has no handles to list."""
    db.close()
    with pytest.raises(saferocks.DatabaseClosedError):
        db.handles()


def test_reports_cannot_be_changed(db: saferocks.Rdict) -> None:
    """What is returned is a record of a moment: its fields cannot be assigned."""
    with db.items():
        for report in (db.handles()[0], db.memory(), db.audit()):
            name = dataclasses.fields(report)[0].name
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(report, name, None)


def test_the_heap_is_read_by_psutil(monkeypatch: pytest.MonkeyPatch) -> None:
    """The heap is what psutil says is in use, with the large blocks that are counted apart."""
    info = type("Info", (), {"heap_used": 12345, "mmap_used": 100_000})
    monkeypatch.setattr(psutil, "heap_info", info, raising=False)
    assert inspection.heap_used() == 112_345


@pytest.mark.skipif(not inspection.heap_used(), reason="the allocator does not tell what it has given out")
def test_a_large_batch_shows_in_the_heap(db: saferocks.Rdict) -> None:
    """A batch of megabytes, which is one block of its own, is part of the figure."""
    before = db.memory().heap or 0
    with db.write_batch() as batch:
        for number in range(40):
            batch[b"%d" % number] = bytes(1 << 20)
        assert (db.memory().heap or 0) - before > 30 << 20
