"""The registry: every open handle, once, oldest first, and nothing else."""

from __future__ import annotations

import gc
import sys
import threading
import time
import tracemalloc
import weakref
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

import saferocks
from saferocks import _engine, _registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECONDS = 20.0


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Let threads take turns at nearly every call."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def quiet(path: str) -> Iterator[saferocks.Rdict]:
    """A database whose handles may escape without a word."""
    with saferocks.open(path, policy="ignore", statistics=True) as db:
        yield db


# --------------------------------------------------------------------------- what is listed


def test_every_kind_is_listed_in_the_order_of_opening(db: saferocks.Rdict, tmp_path: Any) -> None:
    """All handles of the process are listed, the oldest first, with kind, path and whether they are entered."""
    path = db.path()
    before = len(saferocks.open_handles())
    with ExitStack() as stack:
        batch = saferocks.WriteBatch(raw_mode=True)
        stack.enter_context(db.snapshot())
        stack.enter_context(db.items())
        family = db.create_column_family("f")
        cursor = family.iter()
        stack.enter_context(db.write_batch())
        stack.enter_context(db.checkpoint())
        other = stack.enter_context(saferocks.open(str(tmp_path / "other")))
        stack.enter_context(saferocks.SstFileWriter())
        found = [(info.kind, info.database, info.entered) for info in saferocks.open_handles()[before:]]
        stack.enter_context(batch)
        stack.enter_context(cursor)
    assert found == [
        ("write_batch", None, False),
        ("snapshot", path, True),
        ("iterator", path, True),
        ("column_family", path, False),
        ("iterator", path, False),
        ("write_batch", path, True),
        ("checkpoint", path, True),
        ("database", other._record.owner.name, True),  # type: ignore[attr-defined]
        ("sst_writer", None, True),
    ]
    assert [info.kind for info in db.handles()] == ["column_family"]


def test_ids_are_unique_and_ascend(db: saferocks.Rdict) -> None:
    """Ids ascend in the order of opening and are never used again."""
    seen: list[int] = []
    for _ in range(100):
        with db.items(), db.snapshot():
            seen.extend(info.id for info in db.handles())
    assert len(set(seen)) == 200
    assert seen == sorted(seen)


@pytest.mark.usefixtures("eager_switching")
def test_ids_ascend_under_threads() -> None:
    """Handles that four threads open at once are listed each once, in the order of their ids, at every moment."""
    stop = threading.Event()
    kept: list[list[Any]] = [[] for _ in range(4)]
    wrong: list[list[int]] = []

    def opens(mine: list[Any]) -> None:
        for _ in range(1000):
            mine.append(saferocks.WriteBatch(raw_mode=True))

    def lists() -> None:
        while not stop.is_set():
            ids = [record.id for record in _registry.snapshot()]
            if ids != sorted(set(ids)):
                wrong.append(ids)

    threads = [threading.Thread(target=opens, args=(mine,)) for mine in kept]
    watcher = threading.Thread(target=lists)
    for thread in (watcher, *threads):
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    stop.set()
    watcher.join(SECONDS)
    assert wrong == []
    ids = [info.id for info in saferocks.open_handles()]
    assert len(ids) == len(set(ids)) == 4000
    assert ids == sorted(ids)
    for mine in kept:
        for batch in mine:
            with batch:
                pass
    assert saferocks.open_handles() == ()


def test_records_that_were_inserted_out_of_order_are_sorted(db: saferocks.Rdict) -> None:
    """Two threads that open at once may insert in the wrong order: a copy is sorted by id all the same."""
    with db.items(), db.snapshot(), db.iter():
        records = _registry.snapshot()
        shuffled = {record.id: record for record in reversed(records)}
        assert _registry.in_order(shuffled) == records
        assert [record.kind for record in records] == ["database", "iterator", "snapshot", "iterator"]


def test_a_handle_says_who_opened_it_and_when(db: saferocks.Rdict) -> None:
    """A listed handle carries its label, its thread's name and its age."""
    opened: list[Any] = []
    thread = threading.Thread(target=lambda: opened.append(db.items(label="nightly")), name="worker 7")
    before = time.monotonic()
    thread.start()
    thread.join(SECONDS)
    with opened[0], db.snapshot(label="mine"):
        gone, here = db.handles()
        assert (gone.label, here.label, here.thread) == ("nightly", "mine", "MainThread")
        assert gone.thread == str(thread.ident)
        assert 0 <= here.age <= gone.age <= time.monotonic() - before


def test_the_name_of_a_thread_that_still_runs(db: saferocks.Rdict) -> None:
    """As long as the opening thread runs it is listed by its name."""
    opened, done = threading.Event(), threading.Event()

    def hold() -> None:
        with db.items():
            opened.set()
            done.wait(SECONDS)

    thread = threading.Thread(target=hold, name="worker 7")
    thread.start()
    assert opened.wait(SECONDS)
    assert [info.thread for info in db.handles()] == ["worker 7"]
    done.set()
    thread.join(SECONDS)
    assert db.handles() == ()


def test_a_batch_says_what_would_be_lost(db: saferocks.Rdict) -> None:
    """A listed batch notes its operations and bytes; an empty one notes nothing."""
    with db.write_batch() as batch:
        assert [info.note for info in db.handles()] == [None]
        batch[b"k"] = b"v"
        batch.delete(b"l")
        assert [info.note for info in db.handles()] == [
            f"2 operations ({batch.size_in_bytes()} bytes), not yet written"
        ]


@pytest.mark.parametrize("label", [1, b"bytes", object()])
def test_a_label_is_text(db: saferocks.Rdict, label: Any) -> None:
    """A label that is no str is a TypeError, and nothing stays open."""
    for opener in (db.items, db.iter, db.snapshot, db.write_batch, db.bulk_writer, db.checkpoint):
        with pytest.raises(TypeError, match="label is "):
            opener(label=label)
    assert db.handles() == ()
    assert db.audit().live_iterators == 0


def test_a_listing_is_a_copy(db: saferocks.Rdict) -> None:
    """A listing does not change when handles open and close after it, and keeps none of them open."""
    with db.items():
        listed = db.handles()
        with db.snapshot():
            assert len(listed) == 1
    assert (len(listed), db.handles()) == (1, ())
    assert db.audit().live_iterators == 0


def test_the_registry_does_not_keep_handles_alive(quiet: saferocks.Rdict) -> None:
    """A handle that nobody refers to goes, though it is registered and its listing is kept."""
    items = quiet.items()
    listed, alive = quiet.handles(), weakref.ref(items)
    del items
    assert alive() is None
    assert (len(listed), quiet.handles()) == (1, ())


def test_a_released_handle_keeps_nothing_native(db: saferocks.Rdict) -> None:
    """Handles that are kept after their release own no native object."""
    kept: list[Any] = []
    for opener in (db.items, db.iter, db.snapshot):
        with opener() as handle:
            kept.append(handle)
    report = db.audit()
    assert (report.live_iterators, report.live_snapshots) == (0, 0)
    assert len(kept) == 3


# --------------------------------------------------------------------------- openings that fail

STEPS: dict[str, tuple[str, Callable[[saferocks.Rdict], Any]]] = {
    "scan": ("saferocks._views.open_scan", lambda db: db.items()),
    "bounded scan": ("saferocks._views.open_scan", lambda db: db.keys(prefix=b"a")),
    "family scan": ("saferocks._views.open_scan", lambda db: db.get_column_family("default").items()),
    "snapshot": ("saferocks._views.open_snapshot", lambda db: db.snapshot()),
    "batch": ("saferocks._engine.new_batch", lambda db: db.write_batch()),
    "bulk writer": ("saferocks._engine.new_batch", lambda db: db.bulk_writer()),
    "free batch": ("saferocks._engine.new_batch", lambda db: saferocks.WriteBatch(raw_mode=True)),
    "checkpoint": ("saferocks._engine.new_checkpoint", lambda db: db.checkpoint()),
    "SST writer": ("saferocks._engine.new_sst_writer", lambda db: saferocks.SstFileWriter()),
}


@pytest.mark.parametrize("error", [saferocks.IOFailedError, MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("step", STEPS)
def test_an_opening_that_fails_leaves_nothing(
    db: saferocks.Rdict, monkeypatch: pytest.MonkeyPatch, step: str, error: type[BaseException]
) -> None:
    """When the native part cannot be acquired, no handle, no leak report and no native object stay behind."""
    name, opener = STEPS[step]
    before = [info.id for info in saferocks.open_handles() if info.kind != "column_family"]

    def fail(*arguments: Any, **keywords: Any) -> Any:
        raise error("forced")

    monkeypatch.setattr(name, fail)
    with pytest.raises(error, match="forced"):
        opener(db)
    monkeypatch.undo()
    gc.collect()
    assert [info.id for info in saferocks.open_handles() if info.kind != "column_family"] == before
    report = db.audit()
    assert (report.live_iterators, report.live_snapshots) == (0, 0)
    saferocks.check()


@pytest.mark.parametrize("name", ["load_options", "is_raw", "families_in_force", "open_native"])
def test_a_database_that_fails_to_open_leaves_nothing(path: str, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """When a step of opening a database fails, nothing is registered, and the path opens afterwards."""
    with saferocks.open(path) as db:
        db[b"k"] = b"v"

    def fail(*arguments: Any, **keywords: Any) -> Any:
        raise saferocks.CorruptionError("Corruption: forced", code=2)

    options = saferocks.Options(raw_mode=True)
    monkeypatch.setattr(_engine, name, fail)
    with pytest.raises(saferocks.CorruptionError, match="forced"):
        saferocks.open(path, options=options)
    monkeypatch.undo()
    assert saferocks.open_handles() == ()
    with saferocks.open(path) as db:
        assert db[b"k"] == b"v"


def test_a_database_that_fails_after_its_opening_is_closed(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the last step of an opening fails, the native database is closed again: the path opens at once."""

    def fail(*arguments: Any, **keywords: Any) -> Any:
        raise OSError("forced")

    monkeypatch.setattr("saferocks._directory.plain_tables", fail)
    with pytest.raises(OSError, match="forced"):
        saferocks.open(path)
    monkeypatch.undo()
    assert saferocks.open_handles() == ()
    with saferocks.open(path):
        pass


# --------------------------------------------------------------------------- what tracking costs


@pytest.mark.about_leaks
def test_the_memory_of_a_tracked_handle(db: saferocks.Rdict) -> None:
    """Tracking takes at most 600 bytes for each of 10,000 open handles."""
    kept: list[Any] = [None] * 10_000
    with db.iter():  # fills what is filled once
        pass
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(10_000):
            kept[number] = db.iter().__enter__()
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    for cursor in kept:
        cursor.__exit__(None, None, None)
    assert used / 10_000 <= 600


def test_tracking_gives_its_memory_back(db: saferocks.Rdict) -> None:
    """After 20,000 handles were opened and released the registry and the database hold no more than before."""
    for _ in range(100):
        with db.iter():
            pass
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(20_000):
            with db.iter():
                pass
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 20_000
    assert len(_registry.records) == 1


def test_lines_of_ever_new_files_are_not_kept(db: saferocks.Rdict, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that compiles code as it runs, as a notebook does, leaves no trace of each file in the registry."""
    monkeypatch.setattr(_registry, "_MOST_FOREIGN", 100)
    for number in range(300):
        exec(compile("with db.iter():\n    pass", f"<cell {number}>", "exec"), {"db": db})  # noqa: S102
        assert len(_registry._foreign) <= 100
    assert "<cell 299>" in _registry._foreign


def test_opening_takes_as_long_with_many_open(db: saferocks.Rdict) -> None:
    """Opening and releasing takes no longer with 50,000 handles open than with none (within a factor of four)."""

    def measure() -> float:
        best = float("inf")
        for _ in range(20):
            start = time.perf_counter()
            for _ in range(200):
                with db.write_batch():
                    pass
            best = min(best, time.perf_counter() - start)
        return best

    gc.disable()
    try:
        alone = measure()
        kept = [saferocks.WriteBatch(raw_mode=True) for _ in range(50_000)]
        crowded = measure()
        for batch in kept:
            with batch:
                pass
    finally:
        gc.enable()
    assert crowded < 4 * alone


def test_release_is_safe_from_any_thread(quiet: saferocks.Rdict) -> None:
    """Of many threads that release the same handles at once none fails, and each handle is released once."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    failures: list[BaseException] = []
    try:
        for _ in range(50):
            handles = [quiet.items().__enter__(), quiet.snapshot().__enter__(), quiet.iter().__enter__()]
            barrier = threading.Barrier(4)
            threads = [threading.Thread(target=release_all, args=(handles, barrier, failures)) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(SECONDS)
            assert quiet.handles() == ()
    finally:
        sys.setswitchinterval(before)
    assert failures == []
    report = quiet.audit()
    assert (report.live_iterators, report.live_snapshots) == (0, 0)


def release_all(handles: list[Any], barrier: threading.Barrier, failures: list[BaseException]) -> None:
    """Release handles that other threads release as well."""
    barrier.wait(SECONDS)
    try:
        for handle in handles:
            handle.__exit__(None, None, None)
    except BaseException as error:
        failures.append(error)
