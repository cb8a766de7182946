"""Metrics: the figures that are scraped are those of the registry and of RocksDB, whatever goes on meanwhile."""

from __future__ import annotations

import gc
import itertools
import math
import os
import sys
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

import saferocks
from saferocks import _engine, _figures, _in_use, _metrics, _totals, metrics, otel
from tests.systems import needs_fork

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Run = Callable[..., subprocess.CompletedProcess[str]]
    Scrape = Callable[[], "Scraped"]

pytestmark = pytest.mark.usefixtures("fresh_totals")

KINDS = ("iterator", "snapshot", "write_batch", "checkpoint", "column_family", "database")


class Scraped:
    """One scrape, as Prometheus reads it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        samples = [sample for family in self.families.values() for sample in family.samples]
        self.values = {(sample.name, *sorted(sample.labels.items())): sample.value for sample in samples}

    def __call__(self, name: str, **labels: str) -> float:
        """Return a value by the name without its prefix, and its labels."""
        return self.values[(f"saferocks_{name}", *sorted(labels.items()))]

    def named(self, name: str) -> dict[Any, float]:
        """Return all values of a name."""
        return {key[1:]: value for key, value in self.values.items() if key[0] == f"saferocks_{name}"}


@pytest.fixture
def scrape() -> Scrape:
    """Scrape a registry that has the collector."""
    registry = CollectorRegistry()
    metrics.register(registry)
    return lambda: Scraped(generate_latest(registry).decode())


# --------------------------------------------------------------------------- what is told of handles


def test_everything_is_zero_where_nothing_is_open(scrape: Scrape, path: str) -> None:
    """Before the first database the process's own kinds are told as 0, and after one all of its own as well."""
    found = scrape()
    assert set(found.named("open_handles")) == {
        (("database", ""), ("kind", kind)) for kind in ("write_batch", "sst_writer")
    }
    with saferocks.open(path):
        pass
    found = scrape()
    for kind in KINDS:
        assert found("open_handles", kind=kind, database=path) == 0
        assert found("handles_leaked_total", kind=kind, database=path) == 0
        assert found("handle_oldest_opened_timestamp_seconds", kind=kind, database=path) == 0
    assert found.named("pinned_memtable_bytes") == {}


def test_open_handles_are_counted_by_kind(scrape: Scrape, db: saferocks.Rdict) -> None:
    """Handles of each kind are told as open, then as released; opened is both together."""
    name = db.path()
    with ExitStack() as stack:
        for scope in (db.items(), db.iter(), db.snapshot(), db.write_batch(), db.checkpoint()):
            stack.enter_context(scope)
        found = scrape()
        opened = {"iterator": 2, "snapshot": 1, "write_batch": 1, "checkpoint": 1, "column_family": 0, "database": 1}
        assert {kind: found("open_handles", kind=kind, database=name) for kind in KINDS} == opened
    found = scrape()
    for kind, count in opened.items():
        assert found("handles_opened_total", kind=kind, database=name) == count
        released = 0 if kind == "database" else count
        assert found("handles_released_total", kind=kind, database=name) == released
        assert found("open_handles", kind=kind, database=name) == count - released


def test_handles_without_a_database_have_no_name(scrape: Scrape, tmp_path: Path) -> None:
    """Free-standing batches and SST writers are told with an empty label."""
    with saferocks.WriteBatch(raw_mode=True), saferocks.SstFileWriter():
        found = scrape()
    assert found("open_handles", kind="write_batch", database="") == 1
    assert found("open_handles", kind="sst_writer", database="") == 1


def test_the_oldest_is_told_by_when_it_was_opened(scrape: Scrape, db: saferocks.Rdict) -> None:
    """The time of the oldest open handle is that of its opening, and stays while younger ones come and go."""
    before = time.time()
    with db.items():
        after = time.time()
        with db.items():
            first = scrape()("handle_oldest_opened_timestamp_seconds", kind="iterator", database=db.path())
        later = scrape()("handle_oldest_opened_timestamp_seconds", kind="iterator", database=db.path())
    assert before - 0.002 <= first <= after + 0.002
    assert abs(later - first) <= 0.002  # milliseconds are told


def test_the_oldest_is_told_of_all_that_have_its_labels(scrape: Scrape, db: saferocks.Rdict) -> None:
    """Scans and cursors, of both openings of a path, are counted together, and the oldest is that of all of them."""
    with saferocks.open(db.path(), access_type=saferocks.AccessType.read_only()) as second:
        with second.iter() as oldest, db.items(), db.iter(), second.items():
            oldest._record.opened -= 10.0
            found, epoch = scrape(), time.time() - time.monotonic()
    told = found("handle_oldest_opened_timestamp_seconds", kind="iterator", database=db.path())
    assert told == pytest.approx(epoch + oldest._record.opened, abs=0.05)
    assert found("open_handles", kind="iterator", database=db.path()) == 4


@pytest.mark.about_leaks
def test_leaks_are_counted(scrape: Scrape, path: str) -> None:
    """What is collected while open, or outlives its database, is counted as leaked and as released."""
    with pytest.warns(saferocks.LeakedHandleWarning):
        with saferocks.open(path) as db:
            for _ in range(3):
                db.snapshot()
            kept = db.items().__enter__()
            assert scrape()("handles_leaked_total", kind="iterator", database=path) == 0
    found = scrape()
    assert found("handles_leaked_total", kind="snapshot", database=path) == 3
    assert found("handles_leaked_total", kind="iterator", database=path) == 1
    assert found("handles_released_total", kind="snapshot", database=path) == 3
    assert found("handles_released_total", kind="database", database=path) == 1
    del kept


def test_an_opening_that_fails_is_none(scrape: Scrape, db: saferocks.Rdict) -> None:
    """A database that cannot be opened counts neither as opened nor as released."""
    with pytest.raises(saferocks.LockedError):
        saferocks.open(db.path())
    found = scrape()
    assert found("handles_opened_total", kind="database", database=db.path()) == 1
    assert found("handles_released_total", kind="database", database=db.path()) == 0


def test_held_seconds_are_a_histogram(scrape: Scrape, db: saferocks.Rdict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each release falls into the classes that reach up to the time it was held for, and is in the sum."""
    held = (0.0005, 0.001, 0.05, 20.0, 7200.0)
    for seconds in held:
        with db.items() as items:
            record: Any = items._record
            record.opened = 0.0  # the difference is then exact
            monkeypatch.setattr(_totals, "monotonic", lambda at=seconds: at)
    found = scrape()
    buckets = found.named("handle_held_seconds_bucket")
    mine = {
        dict(key)["le"]: value
        for key, value in buckets.items()
        if dict(key)["kind"] == "iterator" and dict(key)["database"] == db.path()
    }
    assert mine == {
        "0.001": 2, "0.01": 2, "0.1": 3, "1.0": 3, "5.0": 3, "10.0": 3, "30.0": 4, "60.0": 4, "300.0": 4,
        "1800.0": 4, "3600.0": 4, "+Inf": 5,
    }  # fmt: skip
    assert found("handle_held_seconds_count", kind="iterator", database=db.path()) == 5
    assert found("handle_held_seconds_sum", kind="iterator", database=db.path()) == pytest.approx(sum(held))


@given(st.lists(st.lists(st.floats(0, 1e5), max_size=30), max_size=6))
def test_adding_up_in_parts_is_adding_up(parts: list[list[float]]) -> None:
    """However the releases are split between scrapes, the classes are those of all of them together."""
    held, everything = _totals.Held(), [seconds for part in parts for seconds in part]
    for part in parts:
        held += list(part)
    expected = tuple(sum(seconds <= bound for seconds in everything) for bound in (*_totals.BOUNDS, math.inf))
    assert held.buckets == expected
    assert held.seconds == pytest.approx(math.fsum(everything))


def test_many_releases_between_two_scrapes_take_no_room(scrape: Scrape, db: saferocks.Rdict) -> None:
    """Releases are added up as they come, not kept until somebody scrapes, and none is lost."""
    for _ in range(5000):
        with db.iter():
            pass
    series = db._record.owner.totals.of("iterator")
    assert len(series.fresh) <= _totals._MOST_FRESH + 1
    assert scrape()("handles_released_total", kind="iterator", database=db.path()) == 5000


def test_releases_are_not_counted_before_anybody_asks(db: saferocks.Rdict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the first collector a release does no more than look whether there is one."""
    with monkeypatch.context() as patched:
        patched.setattr(_totals, "counting", [])
        patched.setattr("saferocks._life.counting", _totals.counting)
        patched.setattr(_totals.Totals, "released", lambda *_: pytest.fail("counted"))
        with db.items():
            pass
        metrics.Collector()
        assert _totals.counting == [None]


def test_totals_are_those_of_a_model(scrape: Scrape, tmp_path: Path) -> None:
    """Totals of several databases, reopened at times, are what a plain count of the steps says."""
    opened, released = dict.fromkeys("ab", 0), dict.fromkeys("ab", 0)
    for turn in range(6):
        name = "ab"[turn % 2]
        with saferocks.open(tmp_path / name) as db:
            for _ in range(turn):
                with db.items():
                    opened[name] += 1
                released[name] += 1
            found = scrape()
            for each in "ab"[: turn + 1]:
                labels = {"kind": "iterator", "database": str(tmp_path / each)}
                assert found("handles_opened_total", **labels) == opened[each]
                assert found("handles_released_total", **labels) == released[each]


# --------------------------------------------------------------------------- what RocksDB tells


def test_pinned_memory_is_told(scrape: Scrape, db: saferocks.Rdict) -> None:
    """A memtable that an iterator keeps after its flush is told as pinned, until the iterator goes."""
    name = db.path()
    for number in range(200):
        db[b"k%d" % number] = bytes(1000)
    with db.items():
        db.flush()
        found = scrape()
        assert found("pinned_memtable_bytes", database=name) > 200_000
        assert found("live_sst_bytes", database=name) > 0
        assert found("memtable_bytes", database=name) >= found("pinned_memtable_bytes", database=name)
        assert found("block_cache_pinned_bytes", database=name) >= 0
    found = scrape()
    assert found("pinned_memtable_bytes", database=name) == 0
    assert found("sst_bytes", database=name) == found("live_sst_bytes", database=name)


class Busy:
    """A native database in which another thread does something after each answer of the default family."""

    def __init__(self, native: Any, meanwhile: Callable[[], None]) -> None:
        self._native = native
        self._meanwhile = meanwhile

    def get_column_family(self, name: str) -> Any:
        """Return a column family that is left alone."""
        return self._native.get_column_family(name)

    def property_int_value(self, name: str) -> int:
        """Answer as it is, and then let the other thread go on."""
        found: int = self._native.property_int_value(name)
        self._meanwhile()
        return found


def test_to_ask_changes_nothing(scrape: Scrape, db: saferocks.Rdict) -> None:
    """A scrape flushes no memtable and makes no file, of no column family, however often."""
    one = db.create_column_family("one")
    one[b"k"] = db[b"k"] = bytes(100_000)
    for _ in range(3):
        found = scrape()
        db.memory()
        assert found("memtable_bytes", database=db.path()) > 200_000
    assert (found("sst_bytes", database=db.path()), db.live_files()) == (0, [])


def test_column_families_come_and_go_between_scrapes(scrape: Scrape, db: saferocks.Rdict) -> None:
    """What is told of column families is that of those there are, also if one was dropped and made again."""

    def memtables() -> float:
        return scrape()("memtable_bytes", database=db.path())

    alone = memtables()
    for _ in range(2):
        one = db.create_column_family("one")
        one[b"k"] = bytes(100_000)
        assert memtables() > alone + 100_000
        db.drop_column_family("one")
        assert memtables() == alone
    db.create_column_family("one")
    assert alone < memtables() < alone + 100_000
    path = db.path()
    db.close()
    with saferocks.open(path) as again:  # nothing is left that would keep it open
        assert again.column_families == ("default", "one")


@pytest.mark.parametrize("flushed_at", [0, 1, None])
def test_what_goes_on_meanwhile_is_not_told_as_pinned(
    scrape: Scrape, db: saferocks.Rdict, flushed_at: int | None
) -> None:
    """Writes and a flush between RocksDB's answers are neither told as pinned nor taken off what others pin."""
    answers = itertools.count()

    def go_on() -> None:
        if flushed_at is None:
            db[b"k"] = bytes(3_000_000)
        elif next(answers) == flushed_at:
            db.flush()

    one = db.create_column_family("one")
    one[b"k"] = bytes(1_000_000)
    with one.items():
        one.flush()
        db[b"k"] = bytes(3_000_000)
        (pinned,) = scrape().named("pinned_memtable_bytes").values()
        assert pinned > 1_000_000
        memory = _figures.inspection.native_memory(Busy(db._record.native, go_on), db._record.owner)
    assert memory.pinned_memtables == pinned


def test_rocksdb_and_the_registry_are_told_side_by_side(scrape: Scrape, db: saferocks.Rdict) -> None:
    """Native snapshots and iterators are counted by both; without a handle's record they disagree."""
    db.create_column_family("f")
    name = db.path()
    names = ("rocksdb_snapshots", "registered_snapshots", "rocksdb_iterators", "registered_iterators")
    with ExitStack() as stack:
        enter = stack.enter_context
        snapshot = enter(db.snapshot(column_families=["f"]))
        for scope in (
            db.items(), db.values(prefix=b"k"), db.iter(), db.iter(prefix=b"k"), db.get_column_family("f").items(),
            snapshot.items(), snapshot.iter(), db.snapshot(point_reads_only=True), db.write_batch(),
        ):  # fmt: skip
            enter(scope)
        found = scrape()
        assert [found(each, database=name) for each in names] == [3, 3, 10, 10]
        leaked = db._record.native.snapshot(), db._record.native.iter()  # behind the registry's back
        found = scrape()
        assert [found(each, database=name) for each in names] == [4, 3, 11, 10]
        del leaked
    assert [scrape()(each, database=name) for each in names] == [0, 0, 0, 0]


def test_the_quick_count_is_that_of_the_audit(db: saferocks.Rdict) -> None:
    """Native objects counted by kind are as many as there are when each is looked at."""
    with db.snapshot() as snap, db.items(), db.iter(), snap.items(), db.snapshot(point_reads_only=True):
        records = list(db._record.owner.children.values())
        natives = {id(leaf): leaf for record in records for leaf in _in_use.natives_in(record.native)}
        counted = sum(map(_engine.is_snapshot, natives.values())), sum(map(_engine.is_iterator, natives.values()))
        children = _figures.grouped(type, records)
        assert (_figures.count_snapshots(children), _figures.count_iterators(children)) == counted == (2, 4)


def test_iterators_of_databases_that_share_options_are_not_told(scrape: Scrape, tmp_path: Path) -> None:
    """Where RocksDB counts the iterators of two databases together, neither is told a wrong number."""
    options = saferocks.Options(raw_mode=True)
    options.enable_statistics()
    with saferocks.open(tmp_path / "a", options=options), saferocks.open(tmp_path / "b", options=options):
        assert scrape().named("rocksdb_iterators") == {}
    with saferocks.open(tmp_path / "a", options=options):
        assert len(scrape().named("rocksdb_iterators")) == 1


def test_iterators_are_told_only_with_statistics(scrape: Scrape, path: str) -> None:
    """A database that does not count its iterators is told without them, and with its snapshots."""
    with saferocks.open(path):
        found = scrape()
        assert (found.named("rocksdb_iterators"), found.named("registered_iterators")) == ({}, {})
        assert found("rocksdb_snapshots", database=path) == 0


def test_a_path_that_is_open_twice_has_one_series(scrape: Scrape, db: saferocks.Rdict) -> None:
    """The figures of a database and of a second, read-only opening of it are told together."""
    db[b"k"] = b"v"
    db.flush()
    alone = scrape()
    with saferocks.open(db.path(), access_type=saferocks.AccessType.read_only()) as second, second.snapshot():
        with db.snapshot():
            found = scrape()
    name = db.path()
    assert found("open_handles", kind="database", database=name) == 2
    assert found("rocksdb_snapshots", database=name) == 2
    assert found("live_sst_bytes", database=name) == alone("live_sst_bytes", database=name)


def test_the_heap_is_told_where_it_can_be(scrape: Scrape, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process's heap is a number of bytes, and absent under an allocator that does not tell."""
    assert scrape()("process_heap_bytes") > 1_000_000
    monkeypatch.setattr(_figures.inspection, "heap_used", lambda: None)
    assert scrape().named("process_heap_bytes") == {}


# --------------------------------------------------------------------------- while others go on


def test_a_database_that_is_being_closed_is_left_alone(
    scrape: Scrape, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another thread closes a database, its handles are told; RocksDB is not asked of it, nor waited for."""
    asked, closing = threading.Event(), threading.Event()
    close_native = _in_use.close_native

    def slow(*arguments: Any) -> None:
        closing.set()
        assert asked.wait(60)
        close_native(*arguments)

    db = saferocks.open(path).__enter__()
    monkeypatch.setattr(_in_use, "close_native", slow)
    monkeypatch.setattr(_figures, "_measure", lambda *_: pytest.fail("asked a database that is being closed"))
    closer = threading.Thread(target=db.close)
    closer.start()
    assert closing.wait(60)
    found = scrape()
    asked.set()
    closer.join()
    assert found("open_handles", kind="database", database=path) == 1
    assert found.named("live_sst_bytes") == {}
    assert scrape()("open_handles", kind="database", database=path) == 0


@pytest.mark.parametrize("moment", ["before the first call", "between two calls", "after the memory"])
def test_a_database_that_a_finalizer_closes_in_the_midst(
    scrape: Scrape, path: str, db: saferocks.Rdict, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """A database that this very thread closes while it is being asked is left out, without an error."""
    measure, memory = _figures._measure, _figures.inspection.native_memory

    def close_first(record: Any, counts_alone: bool) -> Any:
        db.close()
        return measure(record, counts_alone)

    def close_between(native: Any, names: Any) -> Any:
        db.close()
        return memory(native, names)

    def close_after(native: Any, names: Any) -> Any:
        found = memory(native, names)
        db.close()
        return found

    if moment == "before the first call":
        monkeypatch.setattr(_figures, "_measure", close_first)
    else:
        patch = close_between if moment == "between two calls" else close_after
        monkeypatch.setattr(_figures.inspection, "native_memory", patch)
    assert scrape().named("live_sst_bytes") == {}
    assert db._record.reason is not None
    with saferocks.open(path):  # nothing of it was kept open
        pass


def test_a_database_whose_families_are_being_changed_by_this_thread(scrape: Scrape, db: saferocks.Rdict) -> None:
    """A scrape in a signal handler, in the midst of dropping a column family, leaves that database out and ends."""
    family = db.create_column_family("f")
    heard: list[Scraped] = []

    class Interrupts(set[str]):
        """Is asked to forget the family when RocksDB has dropped it."""

        def discard(self, name: str) -> None:
            heard.append(scrape())
            super().discard(name)

    db._record.owner.families = Interrupts(db._record.owner.families)
    db.drop_column_family("f")
    assert heard[0].named("live_sst_bytes") == {}
    assert heard[0]("open_handles", kind="database", database=db.path()) == 1
    assert len(scrape().named("live_sst_bytes")) == 1
    del family


def test_an_error_of_an_open_database_is_not_hidden(
    scrape: Scrape, db: saferocks.Rdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes wrong with a database that is open is raised, and its lock is free again."""
    monkeypatch.setattr(_figures.inspection, "native_memory", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        scrape()
    monkeypatch.undo()
    assert db.audit().ok


def test_scrapes_while_databases_open_and_close(scrape: Scrape, tmp_path: Path) -> None:
    """Scrapes beside threads that open, use and close databases never fail, and no total ever goes down."""
    over, failures = threading.Event(), []

    def work(number: int) -> None:
        try:
            while not over.is_set():
                with saferocks.open(tmp_path / f"db{number}") as db, db.items(), db.snapshot():
                    db[b"k"] = b"v"
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        before: dict[Any, float] = {}
        for _ in range(60):
            found = scrape()
            totals = {key: value for key, value in found.values.items() if key[0].endswith(("_total", "_bucket"))}
            assert {key for key in before if totals[key] < before[key]} == set()
            before = totals
    finally:
        over.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert failures == []
    found = scrape()
    for number in range(3):
        for kind in KINDS:
            labels = {"kind": kind, "database": str(tmp_path / f"db{number}")}
            assert found("open_handles", **labels) == 0
            assert found("handles_opened_total", **labels) == found("handles_released_total", **labels)


def test_a_total_does_not_go_down_while_a_handle_is_being_released(
    scrape: Scrape, db: saferocks.Rdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scrape between a handle's leaving the registry and its being counted tells as many opened as before."""
    midst: list[tuple[float, float]] = []
    released = _totals.Totals.released
    labels = {"kind": "iterator", "database": db.path()}

    def scrape_first(totals: _totals.Totals, kind: str, opened: float) -> None:
        found = scrape()
        midst.append((found("open_handles", **labels), found("handles_opened_total", **labels)))
        released(totals, kind, opened)

    with db.items():
        assert scrape()("handles_opened_total", **labels) == 1
        monkeypatch.setattr(_totals.Totals, "released", scrape_first)
    monkeypatch.undo()
    assert midst == [(0, 1)]


def test_a_handle_that_is_released_during_a_scrape_is_counted_once(
    scrape: Scrape, db: saferocks.Rdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others release while RocksDB is asked is told as open, as in the copy, and not as released as well."""
    many = 2 * _totals._MOST_FRESH
    cursors = [db.iter().__enter__() for _ in range(many)]
    memory = _figures.inspection.native_memory

    def release_first(native: Any, names: Any) -> Any:
        while cursors:
            cursors.pop().__exit__(None, None, None)  # type: ignore[attr-defined]
        return memory(native, names)

    monkeypatch.setattr(_figures.inspection, "native_memory", release_first)
    labels = {"kind": "iterator", "database": db.path()}
    told = []
    for found in (scrape(), scrape()):
        told.append(
            [found(name, **labels) for name in ("open_handles", "handles_opened_total", "handles_released_total")]
        )
    assert told == [[many, many, 0], [0, many, many]]


def test_a_scrape_does_not_wait_for_who_adds_up(scrape: Scrape, db: saferocks.Rdict) -> None:
    """A scrape from a signal handler that has interrupted the adding up ends, with what has been added so far."""
    with db.items():
        pass
    with _totals._adding:
        found = scrape()
        with db.items():
            pass
    assert found("handles_released_total", kind="iterator", database=db.path()) == 0
    assert scrape()("handles_released_total", kind="iterator", database=db.path()) == 2


def test_a_difference_that_stays_is_not_counted_for_long(db: saferocks.Rdict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where RocksDB and the registry differ they are counted again for a moment, and as many handles are only once."""
    counted: list[object] = []
    count = _figures._count

    def count_slowly(*arguments: Any) -> Any:
        counted.append(count(*arguments))
        now[0] += _figures._RECOUNT_SECONDS / 3.5
        return counted[-1]

    now = [0.0]
    monkeypatch.setattr(_figures, "_count", count_slowly)
    monkeypatch.setattr(_figures.time, "monotonic", lambda: now[0])
    unowned = db._record.native.snapshot()
    list(metrics.Collector().collect())
    assert len(counted) == 4
    monkeypatch.setattr(_figures, "_RECOUNT_SECONDS", 0.0)
    list(metrics.Collector().collect())
    assert len(counted) == 5
    del unowned


def test_a_scrape_does_not_call_for_each_handle(db: saferocks.Rdict) -> None:
    """A scrape makes as many calls with two thousand open handles as with ten: functions of C do the counting."""
    collector = metrics.Collector()

    def calls() -> int:
        made = 0

        def count(_frame: object, event: str, argument: object) -> None:
            nonlocal made
            made += event in ("call", "c_call") and argument is not gc

        list(collector.collect())  # what is made once
        gc.disable()
        sys.setprofile(count)
        try:
            list(collector.collect())
        finally:
            sys.setprofile(None)
            gc.enable()
        return made

    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(db.iter()), stack.enter_context(db.items())
        few = calls()
        for _ in range(995):
            stack.enter_context(db.iter()), stack.enter_context(db.items())
        assert abs(calls() - few) < 50


# --------------------------------------------------------------------------- labels


def test_labels_are_bounded(scrape: Scrape, tmp_path: Path) -> None:
    """A program that opens ever new databases has as many series as are allowed, those that are open among them."""
    with saferocks.open(tmp_path / "main"):
        for number in range(_totals.MOST_DATABASES + 5):
            with saferocks.open(tmp_path / f"db{number}"):
                pass
        found = scrape()
        labels = {dict(key)["database"] for key in found.named("open_handles")}
        assert len(labels) == _totals.MOST_DATABASES + 1  # and the process's own
        assert str(tmp_path / "main") in labels
        assert str(tmp_path / "db0") not in labels
        assert found("open_handles", kind="database", database=str(tmp_path / "main")) == 1


def test_threads_that_open_one_path_find_the_same_totals(path: str) -> None:
    """Openings of one path at one moment share their totals: a scrape with two would be of two series of one name."""
    found: set[_totals.Totals] = set()

    def open_often() -> None:
        for _ in range(20_000):
            found.add(_totals.of_database(path, set))

    threads = [threading.Thread(target=open_often) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(found) == 1


def test_the_database_that_was_opened_longest_ago_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for another database is made by one that is closed, and of those by the one opened longest ago."""
    monkeypatch.setattr(_totals, "MOST_DATABASES", 3)
    for name in ("a", "b", "c", "a"):
        _totals.of_database(name, set)
    _totals.of_database("d", lambda: {"b"})
    assert set(_totals._databases) == {"a", "b", "d"}
    _totals.of_database("e", lambda: {"b"})
    assert set(_totals._databases) == {"b", "d", "e"}


def test_too_many_open_databases_share_a_label(scrape: Scrape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More databases than are allowed, all open, are told together, and nothing is lost."""
    monkeypatch.setattr(_totals, "MOST_DATABASES", 2)
    with ExitStack() as stack:
        databases = [stack.enter_context(saferocks.open(tmp_path / f"db{number}")) for number in range(5)]
        for db in (databases[0], *databases[2:4]):
            db[b"k"] = b"v"
            db.flush()
        for db in databases:
            stack.enter_context(db.snapshot(point_reads_only=True))
        found = scrape()
        alone = [db.memory().memtables for db in databases]
    assert found.named("memtable_bytes") == {
        (("database", str(tmp_path / "db0")),): alone[0],
        (("database", str(tmp_path / "db1")),): alone[1],
        (("database", "(others)"),): sum(alone[2:]),
    }
    assert found("live_sst_bytes", database="(others)") == 2 * found("live_sst_bytes", database=str(tmp_path / "db0"))
    assert found("rocksdb_snapshots", database="(others)") == found("registered_snapshots", database="(others)") == 3
    counts = {dict(key)["database"]: value for key, value in found.named("open_handles").items()
              if dict(key)["kind"] == "database"}  # fmt: skip
    assert counts == {str(tmp_path / "db0"): 1, str(tmp_path / "db1"): 1, "(others)": 3}
    assert scrape()("handles_released_total", kind="database", database="(others)") == 3


def test_a_path_that_is_called_like_the_others(scrape: Scrape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database whose path is the name of what has no series of its own is told with that: no series comes twice."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_totals, "MOST_DATABASES", 1)
    with saferocks.open("(others)") as db, saferocks.open("more") as more, db.snapshot(), more.snapshot():
        found = scrape()
    lines = [line.rpartition(" ")[0] for line in found.text.splitlines() if not line.startswith("#")]
    assert len(lines) == len(set(lines))
    assert found("rocksdb_snapshots", database="(others)") == found("registered_snapshots", database="(others)") == 2


def test_any_path_can_be_told(scrape: Scrape, tmp_path: Path) -> None:
    """Paths with quotes, line ends and backslashes come out as they are; bytes that are no UTF-8 do no harm."""
    odd = str(tmp_path / 'a "b"\\c\nd é')
    with saferocks.open(odd):
        assert scrape()("open_handles", kind="database", database=odd) == 1
    assert _metrics.database_label(os.fsdecode(b"bad\xff")) == "bad\\xff"
    assert _metrics.database_label(None) == ""
    assert _metrics.database_label("bad\ud800") == "bad\\ud800"


ODD_LOCALE = """
import sys
import saferocks
from saferocks import metrics
from prometheus_client import CollectorRegistry, generate_latest
registry = CollectorRegistry()
metrics.register(registry)
try:
    saferocks.open("d\\xe9")
except UnicodeEncodeError:
    print(sys.getfilesystemencoding(), 'database="d\\xe9"'.encode() in generate_latest(registry))
"""


def test_a_path_that_the_locale_has_no_letters_for(run_python: Run) -> None:
    """A path that could not be opened, as its letters are none of the locale's, makes no later scrape fail."""
    env = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = run_python(ODD_LOCALE, env=env)
    assert (done.stdout, done.stderr) == ("ascii True\n", "")


# --------------------------------------------------------------------------- names, registries, extras


def test_each_metric_is_described_before_it_is_collected() -> None:
    """A registry learns all names without a scrape, and refuses a second collector by them."""
    registry = CollectorRegistry()
    collector = metrics.register(registry)
    described = {(family.name, family.type) for family in collector.describe()}
    assert described == {(family.name, family.type) for family in collector.collect()}
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        metrics.register(registry)
    registry.unregister(collector)
    metrics.register(registry)


@pytest.mark.parametrize("bad", [None, "registry", 7, object()])
def test_what_is_no_registry_is_refused(bad: Any) -> None:
    """Anything but a registry of prometheus-client is a TypeError at the call."""
    with pytest.raises(TypeError, match=r"to is .*; give a CollectorRegistry"):
        metrics.register(bad)


def test_openmetrics_can_be_written(db: saferocks.Rdict) -> None:
    """The other format of Prometheus has the same families."""
    registry = CollectorRegistry()
    metrics.register(registry)
    text = generate_openmetrics(registry).decode()
    assert "saferocks_handles_leaked_total{" in text
    assert text.endswith("# EOF\n")


MISSING = """
import sys
sys.modules[sys.argv[1]] = None
try:
    __import__(sys.argv[2])
except ModuleNotFoundError as error:
    print(error)
import saferocks
print(hasattr(saferocks, sys.argv[2].rpartition(".")[2]))
"""


@pytest.mark.parametrize(
    ("package", "module", "extra"),
    [("prometheus_client", "saferocks.metrics", "prometheus"), ("opentelemetry", "saferocks.otel", "otel")],
)
def test_a_missing_package_is_named(run_python: Run, package: str, module: str, extra: str) -> None:
    """Without the package the import says which extra has it, and the rest of saferocks is there."""
    done = run_python(MISSING, package, module)
    said, *rest = done.stdout.splitlines()
    assert said.startswith(f"{module} needs ")
    assert said.endswith(f"install it by: pip install 'saferocks[{extra}]'")
    assert (rest, done.stderr) == (["False"], "")


FORKED = """
import os
import saferocks
from saferocks import metrics
from prometheus_client import CollectorRegistry, generate_latest
registry = CollectorRegistry()
metrics.register(registry)
with saferocks.open("db") as db, db.items():
    with db.iter():
        pass
    child = os.fork()
    if child:
        os.waitpid(child, 0)  # so that they do not print at once
    text = generate_latest(registry).decode()
    lines = [line for line in text.splitlines() if line.startswith(("saferocks_open", "saferocks_handles_opened"))]
    print("child" if child == 0 else "parent", sum(float(line.split()[-1]) for line in lines), flush=True)
    if child == 0:
        os._exit(0)
"""


@needs_fork
def test_a_forked_child_has_figures_of_its_own(run_python: Run) -> None:
    """A child tells nothing of its parent's handles, and the parent goes on with what it had."""
    done = run_python(FORKED, flags=("-W", "ignore:This process:DeprecationWarning"))
    assert done.stderr == ""
    assert sorted(done.stdout.splitlines()) == ["child 0.0", "parent 5.0"]


# --------------------------------------------------------------------------- OpenTelemetry


@pytest.fixture
def collected() -> Iterator[Callable[[], dict[str, Any]]]:
    """Collect by OpenTelemetry's SDK: the metrics by name."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    otel.instrument(provider)

    def collect() -> dict[str, Any]:
        data = reader.get_metrics_data()
        (scope,) = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
        assert scope.scope.name == "saferocks"
        return {metric.name: metric for metric in scope.metrics}

    yield collect
    provider.shutdown()


def points(metric: Any) -> dict[tuple[tuple[str, Any], ...], float]:
    """Return the values of a metric by their attributes."""
    return {tuple(sorted(point.attributes.items())): point.value for point in metric.data.data_points}


def test_opentelemetry_has_the_same_figures(
    scrape: Scrape, collected: Callable[[], dict[str, Any]], db: saferocks.Rdict
) -> None:
    """Each metric of Prometheus is an instrument with the same values and labels, and its unit."""
    with db.items(), db.snapshot():
        with db.iter():
            pass
        ours, theirs = collected(), scrape()
    for metric in _metrics.METRICS:
        name = metric.name.removeprefix("saferocks_") + ("_total" if metric.type == "counter" else "")
        expected = theirs.named(name)
        if metric.name != "saferocks_process_heap_bytes":
            assert points(ours[metric.otel]) == pytest.approx(expected, abs=0.002), metric.name
        assert ours[metric.otel].unit == metric.unit
    for part in ("count", "sum", "bucket"):
        assert sum(points(ours[f"saferocks.handle.held.{part}"]).values()) == pytest.approx(
            sum(theirs.named(f"handle_held_seconds_{part}").values())
        )
    assert len(ours) == len(_metrics.METRICS) + 3


def test_one_collection_is_of_one_copy(
    collected: Callable[[], dict[str, Any]], db: saferocks.Rdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All instruments of one collection tell of one moment, and the next collection of the next."""
    reckoned: list[_figures.Figures] = []
    reckon = _figures.reckon

    def count() -> _figures.Figures:
        reckoned.append(reckon())
        return reckoned[-1]

    monkeypatch.setattr(_figures, "reckon", count)
    for number in range(1, 4):
        with db.items():
            assert sum(points(collected()["saferocks.handles.open"]).values()) == 2
        assert len(reckoned) == number


@pytest.mark.parametrize("bad", ["provider", 7, object()])
def test_what_is_no_meter_provider_is_refused(bad: Any) -> None:
    """Anything but a meter provider is a TypeError at the call."""
    with pytest.raises(TypeError, match=r"meter_provider is .*; give a MeterProvider"):
        otel.instrument(bad)
