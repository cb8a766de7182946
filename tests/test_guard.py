"""Handles that escape: released, counted, named by their line, and reported by the policy."""

from __future__ import annotations

import _thread
import contextlib
import functools
import gc
import inspect
import logging
import queue
import sys
import threading
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import saferocks
from saferocks import _in_use, _registry, _tally

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    Run = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.about_leaks

COLLECTED = "collected while open"
NEVER_ENTERED = "collected without ever being entered"
OUTLIVED = "still open when its database closed"
SECONDS = 20.0


def here() -> str:
    """Return the caller's line as `file:line`."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return f"{__file__}:{frame.f_back.f_lineno}"


@pytest.fixture
def unraised(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """What finalizers have raised."""
    found: list[BaseException] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: found.append(unraisable.exc_value))
    return found


@pytest.fixture
def warned() -> Iterator[list[warnings.WarningMessage]]:
    """All warnings of the test, none of which is an error."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield found


@pytest.fixture
def policy() -> Iterator[Callable[[str], None]]:
    """Set the policy of the process for the length of a test."""
    before = saferocks._settings.current
    yield lambda name: saferocks.configure(policy=name)  # type: ignore[arg-type]
    saferocks._settings.current = before


@pytest.fixture
def trace() -> Iterator[Callable[[str], None]]:
    """Set the trace of the process for the length of a test."""
    before = saferocks._settings.current
    yield lambda name: saferocks.configure(trace=name)  # type: ignore[arg-type]
    saferocks._settings.current = before


# --------------------------------------------------------------------------- collected

LEAKS: dict[str, tuple[Callable[[saferocks.Rdict], Any], str, str]] = {
    "unentered items": (lambda db: db.items(), "iterator", NEVER_ENTERED),
    "unentered cursor": (lambda db: db.iter(), "iterator", NEVER_ENTERED),
    "unentered snapshot": (lambda db: db.snapshot(), "snapshot", NEVER_ENTERED),
    "unentered batch": (lambda db: db.write_batch(), "write_batch", NEVER_ENTERED),
    "unentered checkpoint": (lambda db: db.checkpoint(), "checkpoint", NEVER_ENTERED),
    "entered items": (lambda db: db.items().__enter__(), "iterator", COLLECTED),
    "entered cursor": (lambda db: db.iter(prefix=b"a").__enter__(), "iterator", COLLECTED),
    "entered snapshot": (lambda db: db.snapshot(point_reads_only=True).__enter__(), "snapshot", COLLECTED),
    "entered batch": (lambda db: db.bulk_writer().__enter__(), "write_batch", COLLECTED),
    "entered checkpoint": (lambda db: db.checkpoint().__enter__(), "checkpoint", COLLECTED),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_collected_handle_is_released_and_warned_about(db: saferocks.Rdict, leak: str) -> None:
    """A handle that is dropped while open is released at once, and one warning names its line, kind and fate."""
    opener, kind, escape = LEAKS[leak]
    line = opener.__code__.co_firstlineno
    with pytest.warns(saferocks.LeakedHandleWarning) as found:
        opener(db)
    assert len(found) == 1
    text = str(found[0].message)
    assert text.startswith(f"{kind} opened at {__file__}:{line} was {escape} after ")
    assert "; open it inside 'with " in text
    assert (found[0].filename, found[0].lineno) == (__file__, line)
    assert db.handles() == ()
    report = db.audit()
    assert (report.live_iterators, report.live_snapshots) == (0, 0)


@pytest.mark.parametrize("leak", LEAKS)
def test_under_raise_a_collected_handle_is_raised_twice(path: str, leak: str, unraised: list[BaseException]) -> None:
    """Under `raise` the unraisable hook gets a LeakedHandlesError at once, and the database's exit raises it again."""
    opener, kind, escape = LEAKS[leak]
    with pytest.raises(saferocks.LeakedHandlesError) as caught:
        with saferocks.open(path, policy="raise") as db:
            opener(db)
            assert [type(error) for error in unraised] == [saferocks.LeakedHandlesError]
            assert db.handles() == ()
    for error in (caught.value, unraised[0]):
        assert isinstance(error, saferocks.LeakedHandlesError)
        (found,) = error.leaks
        assert (found.kind, found.escape, found.count) == (kind, escape, 1)
        assert found.opened_at == f"{__file__}:{opener.__code__.co_firstlineno}"
        assert (found.database, found.label, found.note, found.stack) == (path, None, None, ())
        assert 0 <= found.age < SECONDS


@pytest.mark.parametrize("leak", LEAKS)
def test_under_ignore_a_collected_handle_is_released(
    path: str, leak: str, warned: list[warnings.WarningMessage], caplog: pytest.LogCaptureFixture
) -> None:
    """Under `ignore` a dropped handle is released without a word."""
    with saferocks.open(path, policy="ignore") as db:
        LEAKS[leak][0](db)
        assert db.handles() == ()
        kept = LEAKS[leak][0](db)
    saferocks.check()
    assert (warned, [record for record in caplog.records if record.levelno >= logging.WARNING]) == ([], [])
    del kept


def test_milestones(path: str, warned: list[warnings.WarningMessage]) -> None:
    """A line that leaks 150 handles is reported at the first, tenth and hundredth, and again at the close."""
    with saferocks.open(path) as db:
        for _ in range(150):
            db.items()
        assert len(warned) == 3
    assert [str(each.message).partition(" opened")[0] for each in warned] == [
        "iterator",
        "10 iterator handles",
        "100 iterator handles",
        "150 iterator handles",
    ]


def test_lines_kinds_and_labels_are_counted_apart(path: str, unraised: list[BaseException]) -> None:
    """Leaks are grouped by line, kind, fate and label, in the order of their first appearance."""
    with pytest.raises(saferocks.LeakedHandlesError) as caught:
        with saferocks.open(path, policy="raise") as db:
            for _ in range(3):
                db.items()
            db.items(label="mine")
            for label in ("a", "b", "a"):
                db.snapshot(label=label).__enter__()
    assert [(leak.kind, leak.label, leak.count) for leak in caught.value.leaks] == [
        ("iterator", None, 3),
        ("iterator", "mine", 1),
        ("snapshot", "a", 2),
        ("snapshot", "b", 1),
    ]
    assert str(caught.value).startswith(
        "7 leaked handles; open each in a 'with' block:\n  3 iterator handles opened at "
    )
    assert "[mine] was collected without ever being entered" in str(caught.value)
    assert len(unraised) == 7


def test_ever_new_labels_take_no_more_room(
    path: str, warned: list[warnings.WarningMessage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that labels its handles with the ids of requests has its leaks told apart up to a number, then as one.

    None is lost, and labels that have been seen go on being counted for themselves.
    """
    monkeypatch.setattr(_tally, "MOST_LABELLED", 5)
    with saferocks.open(path) as db:
        for label in (*map(str, range(1000)), "2"):
            db.items(label=label)
        assert len(db._record.owner.leaks) == 6
        db.items()  # a line of its own
        told = {found.label: found.count for found in db._record.owner.leaks.values()}
    assert told == {"0": 1, "1": 1, "2": 2, "3": 1, "4": 1, "(others)": 995, None: 1}
    assert sum("(others)" in str(each.message) for each in warned) == 4  # at 1, 10 and 100, and at the close


def test_ever_new_databases_that_leak_take_no_more_room(tmp_path: Path, warned: list[warnings.WarningMessage]) -> None:
    """Of databases that were dropped, with what had leaked from them, no more is kept than a count for each line."""
    before = len(_registry.PROCESS.leaks)
    for number in range(20):
        db = saferocks.open(tmp_path / f"db{number}").__enter__()
        db.snapshot()
        del db
        gc.collect()
    assert sum(str(each.message).startswith("snapshot opened") for each in warned) == 20
    assert len(_registry.PROCESS.leaks) == before + 1
    saferocks.check()


def test_counts_are_exact_under_threads(unraised: list[BaseException], policy: Callable[[str], None]) -> None:
    """Four threads that leak 500 handles each from one line are counted as 2,000."""
    policy("raise")
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=leak_batches, args=(500,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
    finally:
        sys.setswitchinterval(before)
    with pytest.raises(saferocks.LeakedHandlesError) as caught:
        saferocks.check()
    assert [leak.count for leak in caught.value.leaks] == [2000]
    assert len(unraised) == 2000
    saferocks.check()


def leak_batches(count: int) -> None:
    """Leak free-standing batches."""
    for _ in range(count):
        saferocks.WriteBatch(raw_mode=True).__enter__()


def test_milestones_are_not_missed_under_threads(warned: list[warnings.WarningMessage]) -> None:
    """Of 2,000 leaks from one line by four threads exactly the counts 1, 10, 100 and 1,000 are reported."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=leak_more_batches) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
    finally:
        sys.setswitchinterval(before)
    found = sorted(str(each.message).partition(" opened")[0] for each in warned)
    assert found == ["10 write_batch handles", "100 write_batch handles", "1000 write_batch handles", "write_batch"]


def leak_more_batches() -> None:
    """Leak free-standing batches from another line."""
    for _ in range(500):
        saferocks.WriteBatch(raw_mode=True).__enter__()


def test_a_lost_batch_says_what_was_lost(db: saferocks.Rdict) -> None:
    """The report of a batch that was dropped says how many operations and bytes went with it."""
    batch = db.write_batch().__enter__()
    batch[b"k"] = b"v"
    batch.delete(b"l")
    size = batch.size_in_bytes()
    with pytest.warns(saferocks.LeakedHandleWarning, match=rf"; 2 operations \({size} bytes\) were dropped; open it"):
        del batch
    assert b"k" not in db


def test_a_dropped_database_is_closed(path: str) -> None:
    """A database that is dropped while open is closed with all its handles, and its path reopens at once."""
    db = saferocks.open(path).__enter__()
    items = db.items().__enter__()
    with pytest.warns(saferocks.LeakedHandleWarning) as found:
        del items, db
    assert sorted(str(each.message).partition(" ")[0] for each in found) == ["database", "iterator"]
    assert saferocks.open_handles() == ()
    with saferocks.open(path):
        pass


def test_a_handle_keeps_its_database_open(path: str) -> None:
    """A database whose own handle is dropped stays open for as long as one of its handles is used."""
    db = saferocks.Rdict(path, raw_mode=True)
    db[b"k"] = b"v"
    with db.items() as items:
        del db
        gc.collect()
        assert list(items) == [(b"k", b"v")]
    with pytest.warns(saferocks.LeakedHandleWarning, match="^database opened at "):
        del items


# --------------------------------------------------------------------------- cycles


class Node:
    """Refers to itself and to handles, so that only the collector can free it."""

    def __init__(self, *held: Any) -> None:
        self.held = held
        self.itself = self


@pytest.mark.parametrize("order", ["database first", "database last"])
def test_a_cycle_of_a_database_and_its_handles(path: str, order: str, unraised: list[BaseException]) -> None:
    """Database, scan, snapshot and batch in one cycle are all released in one collection, and LOCK is free."""
    db = saferocks.open(path, policy="raise").__enter__()
    db[b"k"] = b"v"
    snap = db.snapshot().__enter__()
    handles = [
        snap,
        snap.items().__enter__(),
        db.items().__enter__(),
        db.write_batch(),
        db.get_column_family("default"),
    ]
    next(handles[1])
    node = Node(db, *handles) if order == "database first" else Node(*handles[::-1], db)
    del db, snap, handles, node
    assert [info.kind for info in saferocks.open_handles()][:2] == ["database", "snapshot"]
    gc.collect()
    assert saferocks.open_handles() == ()
    with saferocks.open(path) as again:
        assert again[b"k"] == b"v"
    with pytest.raises(saferocks.LeakedHandlesError) as caught:
        saferocks.check()
    found = {(leak.kind, leak.count) for leak in caught.value.leaks}
    assert found == {("database", 1), ("snapshot", 1), ("iterator", 1), ("write_batch", 1)}
    assert sum(leak.count for leak in caught.value.leaks) == 5
    assert all(isinstance(error, saferocks.LeakedHandlesError) for error in unraised)


def test_a_cycle_of_handles_of_an_open_database(db: saferocks.Rdict, warned: list[warnings.WarningMessage]) -> None:
    """Scans of a snapshot in one cycle with it are released and reported, and the database goes on."""
    db[b"k"] = b"v"
    snap = db.snapshot().__enter__()
    first, second = snap.items().__enter__(), snap.keys()
    next(first)
    node = Node(snap, first, second)
    del snap, first, second, node
    gc.collect()
    assert db.handles() == ()
    report = db.audit()
    assert (report.live_iterators, report.live_snapshots, report.ok) == (0, 0, True)
    assert [each.category for each in warned][:1] == [saferocks.LeakedHandleWarning]
    assert db[b"k"] == b"v"


def test_a_scan_in_a_cycle_with_its_own_loop(db: saferocks.Rdict) -> None:
    """A half-read `for` in a generator that refers to itself is released by the collector."""
    for number in range(10):
        db[b"%d" % number] = b"v"

    def read(keep: list[Any]) -> Iterator[Any]:
        with db.items() as items:
            for row in items:
                yield row, keep

    keep: list[Any] = []
    keep.append(read(keep))
    next(keep[0])
    del keep
    gc.collect()
    assert db.handles() == ()
    assert db.audit().live_iterators == 0


def test_a_finalizer_on_another_thread(db: saferocks.Rdict, warned: list[warnings.WarningMessage]) -> None:
    """A handle that another thread's collection finds is released and reported as if found here."""
    node = Node(db.items().__enter__(), db.snapshot().__enter__())
    del node
    thread = threading.Thread(target=gc.collect)
    thread.start()
    thread.join(SECONDS)
    assert db.handles() == ()
    assert [(each.category, each.filename) for each in warned] == [(saferocks.LeakedHandleWarning, __file__)] * 2


@pytest.fixture
def eager_collector() -> Iterator[None]:
    """Collect garbage at nearly every allocation; what there is already is left out, which makes it fast."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(1, 1, 1)
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.mark.usefixtures("eager_collector")
def test_a_finalizer_inside_every_call(db: saferocks.Rdict, warned: list[warnings.WarningMessage]) -> None:
    """Handles that are collected while this thread is inside another call of saferocks disturb nothing."""
    family = db.create_column_family("f")
    for number in range(30):
        Node(db.items().__enter__(), db.snapshot())
        db[b"%02d" % number] = family[b"k"] = b"v"
        Node(db.write_batch().__enter__(), db.iter())
        with db.snapshot(column_families=["f"]) as snap, snap.keys() as keys, db.items() as items:
            Node(db.keys().__enter__())
            assert len(list(keys)) == len(list(items)) == number + 1
        with db.write_batch() as batch:
            Node(db.keys().__enter__())
            batch.put(b"k", b"w", db.get_column_family_handle("f"))
        db.handles()
        saferocks.open_handles()
    gc.collect()
    assert {info.kind for info in db.handles()} == {"column_family"}
    assert db.audit().ok
    db.close()
    assert {each.category for each in warned} == {saferocks.LeakedHandleWarning}


def test_a_copy_of_the_registry_survives_a_collection(warned: list[warnings.WarningMessage]) -> None:
    """Listing the open handles works when the listing itself sets off the collection of some of them."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    kept = [saferocks.WriteBatch(raw_mode=True) for _ in range(50)]
    try:
        for offset in range(60):
            gc.collect()
            gc.disable()
            Node(saferocks.WriteBatch(raw_mode=True), saferocks.WriteBatch(raw_mode=True))
            gc.set_threshold(gc.get_count()[0] + offset)
            gc.enable()
            assert 50 <= len(saferocks.open_handles()) <= 52
    finally:
        gc.enable()
        gc.set_threshold(*before)
        gc.unfreeze()
    gc.collect()
    assert len(saferocks.open_handles()) == 50
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        del kept


LOCKED_HANDLER = """
    import faulthandler, gc, logging, sys, threading, warnings
    import saferocks

    faulthandler.dump_traceback_later(20, exit=True)
    warnings.simplefilter("ignore")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message).40s"))
    logging.getLogger().addHandler(handler)
    with saferocks.open("db") as db:
        locked, done = threading.Event(), threading.Event()
        first, second = db.items(), [db.items().__enter__()]
        second.append(second)

        def hold():
            handler.acquire()  # as in the middle of logging something
            locked.set()
            done.wait()
            handler.release()

        other = threading.Thread(target=hold)
        other.start()
        locked.wait()
        del first
        del second
        gc.collect()
        print("collected", flush=True)
        done.set()
        other.join()
        db.handles()
        print("listed", flush=True)
"""


def test_a_leak_found_while_a_handler_is_locked(run_python: Run) -> None:
    """A finalizer does not wait for a logging handler that another thread has locked; the event comes later."""
    run = run_python(LOCKED_HANDLER)
    assert run.stderr == ""
    assert run.stdout.splitlines() == [
        "collected",
        "saferocks.handle_leaked kind='iterator' ",
        "saferocks.handle_leaked kind='iterator' ",
        "listed",
    ]


REENTERED_HANDLER = """
    import faulthandler, logging, warnings
    import saferocks

    faulthandler.dump_traceback_later(20, exit=True)
    warnings.simplefilter("ignore")

    class Collecting(logging.Handler):
        def emit(self, record):
            print(record.getMessage()[:23])
            if record.name == "root":
                db.items()  # as if the collector had found one while the handler's lock is held
                db.handles()

    logging.getLogger().addHandler(Collecting())
    with saferocks.open("db") as db:
        logging.getLogger().warning("the program's own event")
"""


def test_a_leak_found_inside_a_handler(run_python: Run) -> None:
    """A handle that leaks inside a logging handler neither recurses without end nor deadlocks."""
    run = run_python(REENTERED_HANDLER)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.splitlines() == ["the program's own event", "saferocks.handle_leaked"]


# --------------------------------------------------------------------------- outliving


def test_handles_that_outlive_their_database(path: str, unraised: list[BaseException]) -> None:
    """Under `raise` the database's exit names every handle still open, with label, line and fate."""
    kept: list[Any] = []
    with pytest.raises(saferocks.LeakedHandlesError) as caught:
        with saferocks.open(path, policy="raise") as db:
            kept.append(db.items(label="first").__enter__())
            kept.append(db.snapshot())
            kept.append(db.get_column_family("default"))
    assert {(leak.kind, leak.label, leak.escape) for leak in caught.value.leaks} == {
        ("iterator", "first", OUTLIVED),
        ("snapshot", None, OUTLIVED),
    }
    kept.clear()
    saferocks.check()
    assert unraised == []


def test_a_column_family_closes_with_its_database_without_a_word(path: str) -> None:
    """Column families that are still referred to when their database closes are no leak under any policy."""
    with saferocks.open(path, policy="raise") as db:
        families = [db.create_column_family("f"), db.get_column_family("f"), db.get_column_family_handle("f")]
        families[0][b"k"] = b"v"
    with pytest.raises(saferocks.DatabaseClosedError):
        families[1][b"k"]


def test_all_leaks_of_a_database_come_together(path: str, unraised: list[BaseException]) -> None:
    """Handles collected before and handles open at the close are raised in one LeakedHandlesError."""
    with pytest.raises(saferocks.LeakedHandlesError) as caught:
        with saferocks.open(path, policy="raise") as db:
            db.snapshot()
            kept = db.items().__enter__()
    assert sorted((leak.kind, leak.escape) for leak in caught.value.leaks) == [
        ("iterator", OUTLIVED),
        ("snapshot", NEVER_ENTERED),
    ]
    assert len(unraised) == 1
    del kept


# --------------------------------------------------------------------------- use without `with`


def first_row(db: saferocks.Rdict) -> Any:
    """Use a scan without `with`."""
    items = db.items()
    assert next(items) == (b"k", b"v")  # type: ignore[call-overload]
    return items


def test_an_unentered_handle_works_and_is_told_once(path: str) -> None:
    """Under `warn` a use without `with` works, is warned about once for its line, and dropping it is no second leak."""
    with saferocks.open(path) as db:
        db[b"k"] = b"v"
        with pytest.warns(saferocks.UnscopedHandleWarning) as found:
            items = [first_row(db) for _ in range(5)]
        assert len(found) == 1
        assert f"{found[0].filename}:{found[0].lineno}" == line_of(first_row, "db.items()")
        assert "is used without 'with'; write 'with db.items() as items:'" in str(found[0].message)
        del items
        assert db.handles() == ()


def scanned(source: Any) -> list[Any]:
    """Scan keys."""
    with source.keys() as keys:
        return list(keys)


UNSCOPED: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], str]] = {
    "items": (lambda db: db.items(), next, "with db.items() as items:"),
    "loop": (lambda db: db.keys(), list, "with db.keys() as keys:"),
    "cursor": (lambda db: db.iter(), lambda cursor: cursor.seek_to_first(), "with db.iter() as cursor:"),
    "snapshot": (lambda db: db.snapshot(), lambda snap: snap[b"k"], "with db.snapshot() as snap:"),
    "snapshot scan": (lambda db: db.snapshot(), lambda snap: scanned(snap), "with db.snapshot() as snap:"),
    "batch": (lambda db: db.write_batch(), lambda batch: batch.len(), "with db.write_batch() as batch:"),
    "bulk": (lambda db: db.bulk_writer(), lambda bulk: bulk.delete(b"k"), "with db.bulk_writer() as bulk:"),
}


@pytest.mark.parametrize("use", UNSCOPED)
def test_under_raise_an_unentered_handle_is_refused(path: str, use: str, unraised: list[BaseException]) -> None:
    """Under `raise` the first use without `with` raises NotEnteredError with the line to write instead."""
    opener, action, remedy = UNSCOPED[use]
    with saferocks.open(path, policy="raise") as db:
        db[b"k"] = b"v"
        handle = opener(db)
        line = opener.__code__.co_firstlineno
        with pytest.raises(saferocks.NotEnteredError) as caught:
            action(handle)
        assert f"opened at {__file__}:{line} was used without 'with'; write '{remedy}'" in str(caught.value)
        with handle as entered:
            action(entered)
    del unraised


def test_a_database_is_entered_too(path: str) -> None:
    """Under `raise` a database from `saferocks.open` that is used without `with` is refused."""
    scope = saferocks.open(path, policy="raise")
    with pytest.raises(saferocks.NotEnteredError, match=r"write 'with saferocks\.open\('.*db'\) as db:'"):
        scope[b"k"]  # type: ignore[index]
    with scope as db:
        assert db.get(b"k") is None


def test_a_handle_is_entered_once(db: saferocks.Rdict) -> None:
    """Entering a handle again, inside its `with` or after it, is refused."""
    with db.items() as items:
        with pytest.raises(saferocks.HandleError, match="is entered already; open one for each 'with'"):
            items.__enter__()
    with pytest.raises(saferocks.HandleClosedError, match="was released when its 'with' block ended"):
        items.__enter__()


# --------------------------------------------------------------------------- settings


def test_check_raises_once(unraised: list[BaseException], policy: Callable[[str], None]) -> None:
    """check() raises what has leaked from free-standing handles and open databases, and forgets it."""
    policy("raise")
    saferocks.WriteBatch(raw_mode=True)
    with pytest.raises(saferocks.LeakedHandlesError) as caught:
        saferocks.check()
    assert [(leak.kind, leak.database) for leak in caught.value.leaks] == [("write_batch", None)]
    saferocks.check()
    assert len(unraised) == 1


def test_check_forgets_what_the_database_would_raise(path: str, unraised: list[BaseException]) -> None:
    """What check() has raised, the database's exit does not raise again."""
    with saferocks.open(path, policy="raise") as db:
        db.items()
        with pytest.raises(saferocks.LeakedHandlesError):
            saferocks.check()
    assert len(unraised) == 1


def test_strict_puts_back_the_policy(db: saferocks.Rdict) -> None:
    """strict() applies to open databases too, nests, and ends with its block, exceptions included."""
    handle = db.items()
    with pytest.raises(LookupError), saferocks.strict():
        with saferocks.strict():
            pass
        with pytest.raises(saferocks.NotEnteredError):
            next(handle)  # type: ignore[call-overload]
        raise LookupError
    with handle as items:
        assert list(items) == []
    with pytest.warns(saferocks.UnscopedHandleWarning):
        list(db.keys())  # type: ignore[call-overload]


def test_a_database_keeps_its_own_policy(path: str) -> None:
    """A policy given to `open` holds against strict() and configure()."""
    with saferocks.open(path, policy="ignore") as db, saferocks.strict():
        assert list(db.items()) == []  # type: ignore[call-overload]
        db.snapshot()
    saferocks.check()


@pytest.mark.parametrize("settings", [{"policy": "strict"}, {"trace": "full"}, {"policy": 1}, {"trace": ""}])
def test_settings_are_checked(settings: dict[str, Any], path: str) -> None:
    """An unknown policy or trace is a ValueError that lists what is allowed, and changes nothing."""
    before = saferocks._settings.current
    (name,) = settings
    allowed = {"policy": "'warn', 'raise', 'ignore'", "trace": "'off', 'site', 'stack'"}[name]
    with pytest.raises(ValueError, match=f"{name} is .*; allowed are {allowed}"):
        saferocks.configure(**settings)
    with pytest.raises(ValueError, match=f"{name} is .*; allowed are {allowed}"):
        saferocks.open(path, **settings)
    assert saferocks._settings.current == before
    assert not Path(path).exists()


ENVIRONMENT = """
    import sys, warnings
    import saferocks

    warnings.simplefilter("ignore")
    sys.unraisablehook = lambda unraisable: print(type(unraisable.exc_value).__name__)
    with saferocks.open("db") as db:
        for handle in [db.items()]:
            try:
                print(list(handle))
            except saferocks.NotEnteredError as error:
                print("refused", "program.py:8" in str(error))
            print(saferocks.open_handles()[-1].opened_at[-12:])
            handle.__enter__().__exit__(None, None, None) if db.handles() else None
"""


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ["[]", "program.py:7"]),
        ({"SAFEROCKS_POLICY": "ignore"}, ["[]", "program.py:7"]),
        ({"SAFEROCKS_POLICY": "raise"}, ["refused True", "program.py:8"]),
        ({"SAFEROCKS_POLICY": "raise", "SAFEROCKS_TRACE": "off"}, ["refused False", "corded line"]),
        ({"SAFEROCKS_TRACE": "stack"}, ["[]", "program.py:7"]),
    ],
)
def test_the_environment_sets_policy_and_trace(
    run_python: Run, environment: dict[str, str], expected: list[str]
) -> None:
    """SAFEROCKS_POLICY and SAFEROCKS_TRACE are the settings that a process starts with."""
    run = run_python(ENVIRONMENT, env=environment)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[0] == expected[0]
    assert lines[1].endswith(expected[1])


# --------------------------------------------------------------------------- where a handle was opened


def opened_at(db: saferocks.Rdict) -> str:
    """Return where the youngest handle was opened."""
    return db.handles()[-1].opened_at


def test_opened_at_is_the_line_of_the_call(db: saferocks.Rdict) -> None:
    """Every opener is named by the line of its call."""
    openers: list[Callable[..., Any]] = [
        db.items, db.keys, db.values, db.columns, db.entities, db.iter, db.snapshot, db.write_batch, db.bulk_writer,
        db.checkpoint, functools.partial(db.items, prefix=b"a"), functools.partial(db.iter, prefix=b"a"),
    ]  # fmt: skip
    for opener in openers:
        with opener():
            assert opened_at(db) == f"{__file__}:{int(here().rpartition(':')[2]) - 1}"
    with db.snapshot() as snap:
        for opener in (snap.items, snap.keys, snap.values, snap.columns, snap.entities, snap.iter):
            with opener():
                assert opened_at(db) == f"{__file__}:{int(here().rpartition(':')[2]) - 1}"
    family = db.get_column_family("default"), here()
    assert opened_at(db) == family[1]
    handle = db.get_column_family_handle("default"), here()
    assert opened_at(db) == handle[1]
    created = db.create_column_family("new"), here()
    assert opened_at(db) == created[1]


@pytest.mark.parametrize("opener", ["open", "Rdict", "WriteBatch", "SstFileWriter"])
def test_opened_at_of_what_stands_alone(path: str, opener: str) -> None:
    """A database, a free-standing batch and a writer are named by the line of their call."""
    arguments = (path,) if opener in ("open", "Rdict") else ()
    with getattr(saferocks, opener)(*arguments):
        assert saferocks.open_handles()[-1].opened_at == f"{__file__}:{int(here().rpartition(':')[2]) - 1}"


def test_opened_at_of_a_call_over_several_lines(db: saferocks.Rdict) -> None:
    """A call that is written over several lines is named by one of them."""
    first = int(here().rpartition(":")[2]) + 1
    with db.items(
        lower_bound=b"a",
        upper_bound=b"z",
    ):
        line = int(opened_at(db).rpartition(":")[2])
    assert first <= line <= first + 3


@contextlib.contextmanager
def wrapped(db: saferocks.Rdict) -> Iterator[Any]:
    """Open a scan on the line after this one."""
    with db.items() as items:
        yield items


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    """Call through one frame more."""

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        return function(*arguments)

    return call


@decorated
def open_decorated(db: saferocks.Rdict) -> Any:
    """Open a scan."""
    return db.items()


class Opener:
    """Opens a scan in a method, a property and a constructor."""

    def __init__(self, db: saferocks.Rdict) -> None:
        self.db = db
        self.handle = db.items()

    @property
    def scan(self) -> Any:
        """Open a scan."""
        return self.db.items()


def line_of(function: Any, text: str) -> str:
    """Return the place of the line with `text` in a function or class."""
    lines, first = inspect.getsourcelines(function)
    (offset,) = [number for number, line in enumerate(lines) if text in line]
    return f"{__file__}:{first + offset}"


def test_opened_at_through_wrappers(db: saferocks.Rdict) -> None:
    """Through ExitStack, contextmanager, decorators, lambdas and comprehensions it is the line of the call."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(db.items())
        assert opened_at(db) == f"{__file__}:{int(here().rpartition(':')[2]) - 1}"
        stack.enter_context(wrapped(db))
        assert opened_at(db) == line_of(wrapped.__wrapped__, "with db.items()")  # type: ignore[attr-defined]
        stack.enter_context(open_decorated(db))
        assert opened_at(db) == line_of(open_decorated.__wrapped__, "return db.items()")  # type: ignore[attr-defined]
        opener = lambda: db.items()  # noqa: E731
        stack.enter_context(opener())
        assert opened_at(db) == f"{__file__}:{int(here().rpartition(':')[2]) - 2}"
        for scan in [db.items() for _ in range(2)]:
            stack.enter_context(scan)
        assert opened_at(db) == f"{__file__}:{int(here().rpartition(':')[2]) - 2}"
        for scan in [*(method() for method in (db.items,))]:
            stack.enter_context(scan)
        assert opened_at(db) == f"{__file__}:{int(here().rpartition(':')[2]) - 2}"
        (scan,) = map(lambda each: each.items(), [db])  # noqa: C417
        stack.enter_context(scan)
        assert opened_at(db) == f"{__file__}:{int(here().rpartition(':')[2]) - 2}"
        object_ = Opener(db)
        assert opened_at(db) == line_of(Opener.__init__, "= db.items()")
        stack.enter_context(object_.handle)  # type: ignore[arg-type]
        stack.enter_context(object_.scan)
        assert opened_at(db) == line_of(Opener, "return self.db.items()")


@pytest.mark.parametrize("opener", ["items", "iter", "snapshot", "write_batch", "bulk_writer", "checkpoint"])
@pytest.mark.filterwarnings("ignore::saferocks.LeakedHandleWarning")
def test_opened_at_without_a_caller(path: str, opener: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An opener that the interpreter calls itself, as a thread's first function, opens and is tracked."""
    raised: queue.Queue[BaseException] = queue.Queue()
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: raised.put(unraisable.exc_value))
    with pytest.raises(saferocks.LeakedHandlesError):
        with saferocks.open(path, policy="raise") as db:
            _thread.start_new_thread(getattr(db, opener), ())
            error = raised.get(timeout=SECONDS)
            assert isinstance(error, saferocks.LeakedHandlesError)
            assert [(leak.escape, leak.count) for leak in error.leaks] == [(NEVER_ENTERED, 1)]


# --------------------------------------------------------------------------- traces


def test_no_trace(path: str, trace: Callable[[str], None]) -> None:
    """Under trace `off` reports say that the line was not recorded."""
    trace("off")
    with saferocks.open(path) as db, db.items() as items:
        assert opened_at(db) == "an unrecorded line"
    with pytest.raises(saferocks.HandleClosedError, match="iterator opened at an unrecorded line was released"):
        next(items)


def test_a_stack_of_eight_frames(path: str, unraised: list[BaseException]) -> None:
    """Under trace `stack` a leak carries the eight innermost frames of its opening, with the right lines."""
    expected: list[str] = []

    def opens(db: saferocks.Rdict, depth: int) -> Any:
        if depth:
            return opens(db, depth - 1)
        frames = [*reversed(traceback.extract_stack(limit=8))]
        expected.extend(f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)
        return db.items()

    with pytest.raises(saferocks.LeakedHandlesError) as caught:
        with saferocks.open(path, policy="raise", trace="stack") as db:
            opens(db, 9)
    (leak,) = caught.value.leaks
    expected[0] = f"{leak.opened_at} in opens"
    assert list(leak.stack) == expected
    assert len(leak.stack) == 8
    assert str(leak).count("\n    ") == 8
    assert len(unraised) == 1


def test_a_trace_holds_no_frame(path: str) -> None:
    """The variables of the frames in a trace are not kept alive by it."""

    class Big:
        pass

    def opens(db: saferocks.Rdict) -> Any:
        big = Big()
        alive.append(weakref_to(big))
        return db.items()

    alive: list[Callable[[], Any]] = []
    with saferocks.open(path, trace="stack") as db, opens(db):
        assert alive[0]() is None


def weakref_to(value: Any) -> Callable[[], Any]:
    """Return a weak reference."""
    import weakref

    return weakref.ref(value)


# --------------------------------------------------------------------------- exceptions in the body


@pytest.fixture
def notes() -> Callable[[BaseException], list[str]]:
    """Read the notes of an exception."""
    return lambda error: list(getattr(error, "__notes__", []))


def test_a_leak_does_not_mask_the_body(
    path: str, unraised: list[BaseException], notes: Callable[[BaseException], list[str]]
) -> None:
    """An exception in the body comes out itself, with the leaks as a note."""
    with pytest.raises(LookupError) as caught:
        with saferocks.open(path, policy="raise") as db:
            db.items()
            raise LookupError("the body's own")
    assert str(caught.value) == "the body's own"
    (note,) = notes(caught.value)
    assert note.startswith("besides, leaving the 'with' block failed: 1 leaked handle; open each in a 'with' block:\n")
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
    assert len(unraised) == 1
    saferocks.check()


def test_a_warning_that_is_an_error_does_not_mask_the_body(
    path: str, notes: Callable[[BaseException], list[str]]
) -> None:
    """With warnings as errors the report of an outliving handle becomes a note of the body's exception."""
    with pytest.raises(LookupError) as caught:
        with saferocks.open(path) as db:
            kept = db.items().__enter__()
            raise LookupError
    assert [note.partition(": ")[0] for note in notes(caught.value)] == ["besides, leaving the 'with' block failed"]
    with saferocks.open(path):
        pass
    del kept


def test_a_failing_close_does_not_mask_the_body(
    path: str, monkeypatch: pytest.MonkeyPatch, notes: Callable[[BaseException], list[str]]
) -> None:
    """When RocksDB reports an error on closing, the body's exception comes out, with the error as a note."""
    real = _in_use.close_native

    def failing(*arguments: Any, **keywords: Any) -> None:
        real(*arguments, **keywords)
        raise saferocks.NoSpaceError("IO error: No space left on device: While appending to file: x", code=5)

    with pytest.raises(LookupError) as caught, saferocks.open(path):
        monkeypatch.setattr(_in_use, "close_native", failing)
        raise LookupError
    (note,) = notes(caught.value)
    assert note.startswith("besides, leaving the 'with' block failed: IO error: No space left on device")
    assert caught.value.__context__ is None


def test_a_failing_release_does_not_mask_the_body(path: str, notes: Callable[[BaseException], list[str]]) -> None:
    """A scan that is left from inside its own decoder cannot be released: BusyError, or a note of the body's own."""
    mine, failures, scans = LookupError("the body's own"), [], []

    def loads(data: bytes) -> str:
        del data
        scans.pop().__exit__(LookupError, mine, None)
        return "loaded"

    def loads_again(data: bytes) -> str:
        del data
        with pytest.raises(saferocks.BusyError) as caught:
            scans.pop().__exit__(None, None, None)
        failures.append(str(caught.value))
        return "loaded"

    with saferocks.Rdict(path) as db:
        db["k"] = ["pickled"]
        for decoder in (loads, loads_again):
            db.set_loads(decoder)
            scans.append(db.items().__enter__())
            next(scans[0], None)
    (note,) = notes(mine)
    assert note.startswith("besides, leaving the 'with' block failed: Resource busy: the iterator is taking a row")
    assert [text.partition(":")[0] for text in failures] == ["Resource busy"]


def test_a_failing_release_is_raised_without_an_exception_in_the_body(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When RocksDB reports an error at the release and the body ended well, the error is raised by itself."""
    real = _in_use.close_native

    def failing(*arguments: Any, **keywords: Any) -> None:
        real(*arguments, **keywords)
        raise saferocks.NoSpaceError("IO error: No space left on device: While appending to file: x", code=5)

    with pytest.raises(saferocks.NoSpaceError) as caught, saferocks.open(path):
        monkeypatch.setattr(_in_use, "close_native", failing)
    assert caught.value.__context__ is None
    monkeypatch.undo()
    with saferocks.open(path):
        pass


def test_the_context_of_an_error_in_a_handler(db: saferocks.Rdict) -> None:
    """An error of saferocks that is raised while another is handled has that one as its context."""
    with db.items() as items:
        pass
    with pytest.raises(saferocks.HandleClosedError) as caught:
        try:
            raise LookupError("first")
        except LookupError:
            next(items)
    assert isinstance(caught.value.__context__, LookupError)
    assert caught.value.__cause__ is None


def test_the_errors_of_native_calls_have_no_context(typed_db: saferocks.Rdict) -> None:
    """A typed error stands alone: rocksdict's own is not shown besides."""
    for call in (lambda: typed_db["none"], lambda: typed_db[None], lambda: typed_db.put(1, object())):
        with pytest.raises((KeyError, TypeError, saferocks.SaferocksError)) as caught:
            call()
        assert caught.value.__context__ is None


# --------------------------------------------------------------------------- the end of the interpreter

AT_EXIT = """
    import sys
    import saferocks

    db = saferocks.open("db", policy=sys.argv[1]).__enter__()
    items = db.items(label="kept").__enter__()
    family = db.get_column_family("default")
    batches = [saferocks.WriteBatch(raw_mode=True) for _ in range(3)]
    sys.exit(7)
"""


def test_handles_open_at_exit_are_summarized(run_python: Run) -> None:
    """What is open when the interpreter ends is named once on stderr, and the exit status is the program's own."""
    run = run_python(AT_EXIT, "warn")
    assert (run.returncode, run.stdout) == (7, "")
    lines = run.stderr.splitlines()
    assert lines[0] == "saferocks: 5 handles leaked:"
    assert len(lines) == 4
    assert "program.py:5 was still open at interpreter exit after " in lines[1]
    assert "program.py:6 [kept] was still open at interpreter exit after " in lines[2]
    assert "3 write_batch handles opened at " in lines[3]


def test_handles_open_at_exit_under_ignore(run_python: Run) -> None:
    """Under `ignore` a database says nothing at exit; free-standing handles follow the policy of the process."""
    run = run_python(AT_EXIT, "ignore", env={"SAFEROCKS_POLICY": "ignore"})
    assert (run.returncode, run.stdout, run.stderr) == (7, "", "")


def test_handles_open_at_exit_under_raise(run_python: Run) -> None:
    """Under `raise` the summary is a LeakedHandlesError through the unraisable hook."""
    run = run_python(AT_EXIT, "raise", env={"SAFEROCKS_POLICY": "raise"})
    assert run.returncode == 7
    assert "saferocks.errors.LeakedHandlesError: 5 leaked handles; open each in a 'with' block:" in run.stderr
