"""`saferocks.testing`: blocks and functions that leak fail, and what they leaked is released and forgotten."""

from __future__ import annotations

import _thread
import asyncio
import gc
import inspect
import threading
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import saferocks
from saferocks import _reckoning, _settings, _watch
from saferocks.testing import assert_no_leaks, open_handles

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    Run = Callable[..., subprocess.CompletedProcess[str]]

COLLECTED = "collected while open"
NEVER_ENTERED = "collected without ever being entered"
OUTLIVED = "still open when its database closed"
STILL_OPEN = "still open when the block ended"
SECONDS = 20.0


class Node:
    """Refers to itself and to what it is given, so that only the collector can free it."""

    def __init__(self, *held: Any) -> None:
        self.held = held
        self.itself = self


@dataclass
class Place:
    """Where handles are opened.

    Attributes:
        db: A database that was opened before any block.
        folder: For files and other databases.
        kept: Holds handles until the test has ended.
    """

    db: Any
    folder: Path
    kept: list[Any]


@pytest.fixture
def place(db: saferocks.Rdict, tmp_path: Path) -> Place:
    """A database with a few rows, and room beside it."""
    for number in range(5):
        db[b"%d" % number] = b"v"
    return Place(db, tmp_path, [])


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Set the policy of the process for the length of a test."""
    return lambda name: monkeypatch.setattr(_settings, "current", replace(_settings.current, policy=name))


def entered_writer(scope: Any, place: Place) -> Any:
    """Enter an SST writer and begin a file, without which dropping it loses nothing."""
    writer = scope.__enter__()
    writer.open(str(place.folder / "rows.sst"))
    return writer


@dataclass(frozen=True)
class Kind:
    """A way of opening a handle.

    Attributes:
        opener: Opens one; its first line is the one to be blamed.
        kind: What a leak calls it.
        use: Uses one.
        enter: Enters one.
    """

    opener: Callable[[Place], Any]
    kind: str
    use: Callable[[Any], Any]
    enter: Callable[[Any, Place], Any] = lambda scope, place: scope.__enter__()

    @property
    def line(self) -> str:
        """The line to be blamed."""
        return f"{__file__}:{self.opener.__code__.co_firstlineno}"


KINDS = {
    "scan": Kind(lambda place: place.db.items(), "iterator", next),
    "cursor": Kind(lambda place: place.db.iter(), "iterator", lambda cursor: cursor.valid()),
    "snapshot": Kind(lambda place: place.db.snapshot(), "snapshot", lambda snap: snap[b"1"]),
    "batch": Kind(lambda place: place.db.write_batch(), "write_batch", lambda batch: batch.len()),
    "bulk": Kind(lambda place: place.db.bulk_writer(), "write_batch", lambda bulk: bulk.delete(b"1")),
    "free batch": Kind(
        lambda place: saferocks.WriteBatch(raw_mode=True), "write_batch", lambda batch: batch.delete(b"1")
    ),
    "checkpoint": Kind(lambda place: place.db.checkpoint(), "checkpoint", lambda each: each.create("nowhere")),
    "sst writer": Kind(
        lambda place: saferocks.SstFileWriter(saferocks.Options(raw_mode=True)),
        "sst_writer",
        lambda writer: writer.file_size(),
        entered_writer,
    ),
    "database": Kind(lambda place: saferocks.open(place.folder / "other"), "database", lambda db: db[b"1"]),
}


def leave_in_generator(kind: Kind, place: Place) -> Iterator[Any]:
    """Hold a handle in a `with` that ends only with the generator."""
    with kind.opener(place) as handle:
        yield handle


def enter_in_generator(kind: Kind, place: Place) -> None:
    """Keep a suspended generator that holds a handle."""
    generator = leave_in_generator(kind, place)
    place.kept += [next(generator), generator]


#: How a handle escapes, and what that is called.
WAYS: dict[str, tuple[Callable[[Kind, Place], Any], str]] = {
    "dropped unentered": (lambda kind, place: (kind.opener(place), None)[1], NEVER_ENTERED),
    "dropped entered": (lambda kind, place: (kind.enter(kind.opener(place), place), None)[1], COLLECTED),
    "kept unentered": (lambda kind, place: place.kept.append(kind.opener(place)), STILL_OPEN),
    "kept entered": (lambda kind, place: place.kept.append(kind.enter(kind.opener(place), place)), STILL_OPEN),
    "in a cycle": (lambda kind, place: (Node(kind.enter(kind.opener(place), place)), None)[1], COLLECTED),
    "in a generator": (enter_in_generator, STILL_OPEN),
}

CASES = [
    pytest.param(KINDS[name], way, id=f"{name}-{way}")
    for name in KINDS
    for way in WAYS
    if (name, way) != ("sst writer", "dropped unentered")  # see below
]


def assert_nothing_is_left(place: Place) -> None:
    """Check that only the outer database is open, that RocksDB agrees, and that nobody has anything to tell."""
    assert {info.kind for info in saferocks.open_handles()} == {"database"}
    assert len(saferocks.open_handles()) == 1
    report = place.db.audit()
    assert (report.live_iterators, report.live_snapshots) == (0, 0)
    saferocks.check()


def assert_reopens(place: Place) -> None:
    """Check that closing raises nothing, and that all paths are free."""
    name = saferocks.open_handles()[0].database
    assert name is not None
    place.db.close()
    for each in (name, place.folder / "other"):
        with saferocks.open(each) as again:
            again[b"again"] = b"1"


# --------------------------------------------------------------------------- what leaks


@pytest.mark.parametrize(("kind", "way"), CASES)
def test_a_leak_fails_the_block(place: Place, kind: Kind, way: str) -> None:
    """A handle of any kind that escapes in any way is named by its line, kind and fate, released, and forgotten."""
    leave, escape = WAYS[way]
    with assert_no_leaks():  # to which nothing is left
        with pytest.raises(saferocks.LeakedHandlesError) as caught:
            with assert_no_leaks():
                leave(kind, place)
        (leak,) = caught.value.leaks
        assert (leak.kind, leak.opened_at, leak.count, leak.escape) == (kind.kind, kind.line, 1, escape)
        assert 0 <= leak.age < SECONDS
        assert_nothing_is_left(place)
    assert_reopens(place)
    for handle in place.kept[:1]:
        with pytest.raises(saferocks.HandleClosedError, match=r"found to have leaked|is closed"):
            kind.use(handle)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "database"])
def test_a_released_leak_says_why(place: Place, name: str) -> None:
    """A handle that was kept is refused after the block with the reason that it had leaked."""
    kind = KINDS[name]
    with pytest.raises(saferocks.LeakedHandlesError):
        with assert_no_leaks():
            handle = kind.enter(kind.opener(place), place)
    with pytest.raises(saferocks.HandleClosedError, match=" was released when it was found to have leaked; "):
        kind.use(handle)
    with pytest.raises(saferocks.HandleClosedError, match=" was released when it was found to have leaked; "):
        handle.__enter__()


@pytest.mark.parametrize("name", KINDS)
def test_a_thread_that_outlives_the_block(place: Place, name: str) -> None:
    """A handle of a thread that the block started and did not wait for is a leak, and its thread ends in peace."""
    kind = KINDS[name]
    opened, ended = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def hold() -> None:
        try:
            with kind.opener(place):
                opened.set()
                ended.wait(SECONDS)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=hold)
    try:
        with pytest.raises(saferocks.LeakedHandlesError) as caught:
            with assert_no_leaks(grace=0):
                thread.start()
                assert opened.wait(SECONDS)
        (leak,) = caught.value.leaks
        assert (leak.kind, leak.opened_at, leak.count, leak.escape) == (kind.kind, kind.line, 1, STILL_OPEN)
        assert_nothing_is_left(place)
    finally:
        ended.set()
        thread.join(SECONDS)
    assert errors == []
    assert_reopens(place)


def outlive(kind: Kind, folder: Path, policy: Any) -> Place:
    """Open a handle that is open yet when its database closes, and return what keeps it."""
    with saferocks.open(folder / "other", policy=policy) as db:
        place = Place(db, folder, [])
        place.kept.append(kind.enter(kind.opener(place), place))
    return place


OUTLIVING = ["scan", "cursor", "snapshot", "batch", "bulk", "checkpoint"]


@pytest.mark.parametrize("name", OUTLIVING)
def test_a_handle_that_outlives_its_database(tmp_path: Path, name: str) -> None:
    """Under `raise` the database raises at its close what has outlived it, and the block adds nothing to that."""
    kind = KINDS[name]
    with pytest.raises(saferocks.LeakedHandlesError) as caught:
        with assert_no_leaks():
            outlive(kind, tmp_path, "raise")
    (leak,) = caught.value.leaks
    assert (leak.kind, leak.opened_at, leak.count, leak.escape) == (kind.kind, kind.line, 1, OUTLIVED)
    assert getattr(caught.value, "__notes__", []) == []
    assert saferocks.open_handles() == ()
    saferocks.check()
    with saferocks.open(tmp_path / "other"):
        pass


@pytest.mark.parametrize("name", OUTLIVING)
def test_a_handle_that_outlives_its_database_under_warn(tmp_path: Path, name: str) -> None:
    """Under `warn`, where the close of the database only warns of what has outlived it, the block fails of it."""
    kind = KINDS[name]
    with pytest.raises(saferocks.LeakedHandlesError) as caught:
        with assert_no_leaks():
            with pytest.warns(saferocks.LeakedHandleWarning, match=f" was {OUTLIVED} ") as warned:
                kept = outlive(kind, tmp_path, "warn")
    assert len(warned) == 1
    (leak,) = caught.value.leaks
    assert (leak.kind, leak.opened_at, leak.count, leak.escape) == (kind.kind, kind.line, 1, OUTLIVED)
    with saferocks.open(tmp_path / "other"):
        pass
    del kept


def test_a_database_leaks_with_its_handles(tmp_path: Path) -> None:
    """A leaked database, its scan, its snapshot and the scan of that are one error, and the path is free."""
    with pytest.raises(saferocks.LeakedHandlesError) as caught:
        with assert_no_leaks():
            db = saferocks.open(tmp_path / "other").__enter__()
            family = db.create_column_family("f")
            family[b"k"] = db[b"k"] = b"v"
            snap = db.snapshot(column_families=["f"]).__enter__()
            scans = [snap.items().__enter__(), family.keys().__enter__(), db.iter()]
            next(scans[0])
    kinds = ["database", "iterator", "iterator", "iterator", "snapshot"]
    assert sorted(leak.kind for leak in caught.value.leaks) == kinds
    assert {(leak.count, leak.escape) for leak in caught.value.leaks} == {(1, STILL_OPEN)}
    assert saferocks.open_handles() == ()
    with saferocks.open(tmp_path / "other") as again:
        assert again[b"k"] == b"v"
    with pytest.raises(saferocks.DatabaseClosedError):
        family[b"k"]
    del scans


def test_lines_labels_and_fates_are_told_apart(place: Place) -> None:
    """Leaks of one line and fate are counted together, labels and lines apart, with stacks under a trace of them."""
    with pytest.raises(saferocks.LeakedHandlesError) as caught:
        with assert_no_leaks():
            for _ in range(3):
                place.db.items()
            for label in ("a", "b", "a"):
                place.kept.append(place.db.snapshot(label=label))
    found = sorted((leak.kind, leak.label or "", leak.count, leak.escape) for leak in caught.value.leaks)
    assert found == [
        ("iterator", "", 3, NEVER_ENTERED),
        ("snapshot", "a", 2, STILL_OPEN),
        ("snapshot", "b", 1, STILL_OPEN),
    ]
    assert {leak.database for leak in caught.value.leaks} == {place.db.path()}
    for leak in caught.value.leaks:
        assert leak.stack[0] == f"{leak.opened_at} in test_lines_labels_and_fates_are_told_apart"
    assert str(caught.value).startswith("6 leaked handles; open each in a 'with' block:\n")


def test_a_leaked_writer_leaves_no_file(place: Place) -> None:
    """The unfinished file of an SST writer that leaked is removed, and the leak says so."""
    with pytest.raises(saferocks.LeakedHandlesError, match=r"its unfinished file '.*rows.sst' was removed"):
        with assert_no_leaks():
            place.kept.append(entered_writer(KINDS["sst writer"].opener(place), place))
    assert not (place.folder / "rows.sst").exists()


def test_a_leaked_batch_says_what_was_lost(place: Place) -> None:
    """The leak of a batch says how many operations went with it, and none of them was written."""
    with pytest.raises(saferocks.LeakedHandlesError, match=r"; 1 operation \(\d+ bytes\) was dropped"):
        with assert_no_leaks():
            place.kept.append(place.db.write_batch().__enter__())
            place.kept[0][b"k"] = b"v"
    assert b"k" not in place.db


@pytest.mark.about_leaks
@pytest.mark.parametrize("name", ["raise", "warn"])
@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_told_again_where_nobody_else_watches(
    place: Place, policy: Callable[[str], None], name: str, way: str
) -> None:
    """In a program without other watches, too, neither check() nor the database's close tells what a block has told."""
    policy(name)
    kinds = [KINDS[each] for each in ("scan", "batch", "free batch", "database")]
    for kind in kinds:
        with pytest.raises(saferocks.LeakedHandlesError):
            with assert_no_leaks():
                WAYS[way][0](kind, place)
        saferocks.check()
    place.kept.clear()
    place.db.close()  # warnings are errors
    saferocks.check()
    assert saferocks.open_handles() == ()


# --------------------------------------------------------------------------- what does not leak


def test_a_block_that_closes_all(place: Place) -> None:
    """A block in which every handle is released in its `with` passes, whatever was open before it."""
    with place.db.items() as before:
        with assert_no_leaks():
            with saferocks.open(place.folder / "other") as other, other.snapshot() as snap, snap.items() as items:
                assert list(items) == []
            with place.db.write_batch() as batch:
                batch[b"k"] = b"v"
            database = saferocks.Rdict(str(place.folder / "third"))
            database.close()
            saferocks.SstFileWriter()  # no file was begun: dropping it loses nothing
        assert len(list(before)) == 5


@pytest.mark.parametrize("fate", ["kept", "dropped in the block", "dropped after the block", "released in the block"])
def test_handles_opened_before_are_left_alone(place: Place, fate: str) -> None:
    """What was open before the block is neither blamed on it nor touched by it, whatever becomes of it in there."""
    with pytest.raises(saferocks.LeakedHandlesError) if fate.startswith("dropped") else assert_no_leaks():
        with assert_no_leaks():
            handles = [place.db.items().__enter__()]
            with assert_no_leaks():
                if fate == "dropped in the block":
                    handles.clear()
                elif fate == "released in the block":
                    handles.pop().__exit__(None, None, None)
            if fate == "kept":
                assert len(list(handles[0])) == 5
                handles[0].__exit__(None, None, None)
            handles.clear()


def test_column_families_are_no_leaks(place: Place) -> None:
    """Column families, which close with their database, may be left."""
    with assert_no_leaks():
        family = place.db.create_column_family("f")
        place.kept += [place.db.get_column_family("f"), place.db.get_column_family_handle("f")]
    family[b"k"] = b"v"
    assert place.kept[0][b"k"] == b"v"


def test_a_generator_that_is_garbage_ends_its_with(place: Place) -> None:
    """A suspended generator that is in a cycle of garbage is collected first, which ends its `with`: no leak."""
    with assert_no_leaks(grace=0):
        node = Node(leave_in_generator(KINDS["scan"], place))
        next(node.held[0])
        del node
    assert_nothing_is_left(place)


def test_a_refused_handle_is_told_by_its_error_alone(place: Place, policy: Callable[[str], None]) -> None:
    """A handle whose use without `with` was refused is no leak besides, and the block releases it all the same."""
    policy("raise")
    with assert_no_leaks():
        place.kept.append(place.db.items())
        with pytest.raises(saferocks.NotEnteredError):
            next(place.kept[0])
        with pytest.raises(saferocks.NotEnteredError):
            next(place.db.keys())
    assert_nothing_is_left(place)


# --------------------------------------------------------------------------- other threads


@contextmanager
def worker(start: Callable[[Callable[[], None]], object]) -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """Run functions on a thread that is there already; yields what hands it one and waits for the result."""
    asked, answered = threading.Event(), threading.Event()
    task: list[Callable[[], Any] | None] = []
    results: list[Any] = []

    def work() -> None:
        while True:
            asked.wait(SECONDS)
            asked.clear()
            function = task.pop() if task else None
            if function is None:
                answered.set()
                return
            results.append(function())
            answered.set()

    def run(function: Callable[[], Any] | None) -> Any:
        task.append(function)
        asked.set()
        assert answered.wait(SECONDS)
        answered.clear()
        return results.pop() if results else None

    start(work)
    try:
        run(lambda: None)  # it is running by now
        yield run
    finally:
        run(None)


STARTERS: dict[str, Callable[[Callable[[], None]], object]] = {
    "threading": lambda work: threading.Thread(target=work).start(),
    "_thread": lambda work: _thread.start_new_thread(work, ()),
}


@pytest.mark.parametrize("starter", STARTERS)
def test_older_threads_are_left_alone(place: Place, starter: str) -> None:
    """A thread older than the block opens handles in it and keeps them, however it was started."""
    with assert_no_leaks():
        with worker(STARTERS[starter]) as run:
            with assert_no_leaks(grace=0):
                items = run(lambda: place.db.items().__enter__())
            assert len(list(items)) == 5
            items.__exit__(None, None, None)


@pytest.mark.parametrize("fate", ["kept", "dropped"])
def test_a_thread_with_the_identifier_of_an_older_one(place: Place, fate: str) -> None:
    """A thread started in the block is the block's, also if it got the identifier of an older one that has ended."""
    leave = place.kept.append if fate == "kept" else bool
    for _ in range(10):
        older_ended = threading.Event()
        older = threading.Thread(target=older_ended.wait)
        older.start()
        with pytest.raises(saferocks.LeakedHandlesError):
            with assert_no_leaks(grace=0):
                older_ended.set()
                older.join(SECONDS)
                younger = threading.Thread(target=lambda: leave(place.db.items()))
                younger.start()
                younger.join(SECONDS)
        if younger.ident == older.ident:
            return
    pytest.skip("this platform does not use identifiers of threads again")


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], Any]]:
    """What to do at the pauses that the end of a block makes to wait for threads; then, they are short."""
    todo: list[Callable[[], Any]] = []

    def sleep(seconds: float) -> None:
        if todo:
            todo.pop(0)()
        else:
            time.sleep(seconds)

    monkeypatch.setattr(_reckoning, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
    return todo


@pytest.fixture
def holder(place: Place) -> Iterator[Holder]:
    """A thread, not yet started, that holds a scan until it is told."""
    holder = Holder(place)
    yield holder
    holder.end()


class Holder:
    """A thread that holds a scan."""

    def __init__(self, place: Place) -> None:
        self.opened, self.ended = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.hold, args=(place,))

    def hold(self, place: Place) -> None:
        """Hold a scan until told."""
        with place.db.items():
            self.opened.set()
            self.ended.wait(SECONDS)

    def start(self) -> None:
        """Return when it holds it."""
        self.thread.start()
        assert self.opened.wait(SECONDS)

    def end(self) -> None:
        """Return when it has let go."""
        self.ended.set()
        if self.thread.ident is not None:
            self.thread.join(SECONDS)


def test_a_thread_that_lets_go_within_the_grace(place: Place, holder: Holder, pauses: list[Callable[[], Any]]) -> None:
    """A thread that lets go of its handle while the block's end waits has leaked nothing."""
    pauses.append(holder.end)
    with assert_no_leaks(grace=SECONDS):
        holder.start()
    assert pauses == []
    assert_nothing_is_left(place)


def test_no_grace_is_no_wait(holder: Holder, pauses: list[Callable[[], Any]]) -> None:
    """With grace=0 the end of the block does not wait for threads."""
    pauses.append(holder.end)
    with pytest.raises(saferocks.LeakedHandlesError):
        with assert_no_leaks(grace=0):
            holder.start()
    assert len(pauses) == 1


def test_the_grace_ends(holder: Holder, pauses: list[Callable[[], Any]]) -> None:
    """A thread that does not let go within the grace has leaked."""
    pauses.append(lambda: None)
    with pytest.raises(saferocks.LeakedHandlesError):
        with assert_no_leaks(grace=0.02):
            holder.start()
    assert pauses == []


def test_nobody_waits_for_threads_that_there_are_not(
    place: Place, pauses: list[Callable[[], Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without other threads, or without open handles, the end of the block does not wait at all."""
    pauses.append(lambda: pytest.fail("waited"))
    with assert_no_leaks(grace=SECONDS):
        pass
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    with pytest.raises(saferocks.LeakedHandlesError):
        with assert_no_leaks(grace=SECONDS):
            place.kept.append(place.db.items())


def test_threads_in_blocks_of_their_own(place: Place) -> None:
    """Two threads that are in blocks at the same time are each blamed for their own handles, and for no others."""
    barrier = threading.Barrier(2)
    found: dict[str, Any] = {}

    def leak(name: str, *, leaves: bool) -> None:
        barrier.wait(SECONDS)
        try:
            with assert_no_leaks(grace=0):
                barrier.wait(SECONDS)
                with place.db.items(label=name) as items:
                    if leaves:
                        place.kept.append(place.db.snapshot(label=name))
                    barrier.wait(SECONDS)
                    next(items)
                barrier.wait(SECONDS)
        except saferocks.LeakedHandlesError as error:
            found[name] = [(each.kind, each.label) for each in error.leaks]
        else:
            found[name] = []
        barrier.wait(SECONDS)

    threads = [
        threading.Thread(target=leak, args=("leaky",), kwargs={"leaves": True}),
        threading.Thread(target=leak, args=("tidy",), kwargs={"leaves": False}),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert found == {"leaky": [("snapshot", "leaky")], "tidy": []}
    assert_nothing_is_left(place)


# --------------------------------------------------------------------------- a body that raises

ERRORS = [LookupError, KeyboardInterrupt, SystemExit, GeneratorExit, saferocks.BusyError]


def notes_of(error: BaseException) -> list[str]:
    """Return the notes of an error."""
    return list(getattr(error, "__notes__", []))


@pytest.mark.parametrize("error_type", ERRORS)
def test_an_error_of_the_body_goes_on_with_a_note(place: Place, error_type: type[BaseException]) -> None:
    """An error that leaves the block is told what was collected in it, and nobody else is."""
    error = error_type("the body's own")
    with assert_no_leaks():
        with pytest.raises(error_type) as caught:
            with assert_no_leaks():
                KINDS["scan"].opener(place)
                raise error
        assert caught.value is error
        (note,) = notes_of(error)
        assert note.startswith("besides, the block has leaked: 1 leaked handle; open each in a 'with' block:\n")
        assert f"iterator opened at {KINDS['scan'].line} was {NEVER_ENTERED} " in note
        assert_nothing_is_left(place)
    assert_reopens(place)


def test_the_note_tells_what_outlived_its_database(tmp_path: Path) -> None:
    """An error that leaves the block is told what has outlived its database, too."""
    with pytest.raises(LookupError) as caught:
        with assert_no_leaks():
            with pytest.warns(saferocks.LeakedHandleWarning):
                kept = outlive(KINDS["scan"], tmp_path, "warn")
            raise LookupError
    (note,) = notes_of(caught.value)
    assert f"iterator opened at {KINDS['scan'].line} was {OUTLIVED} " in note
    del kept


def test_an_error_without_leaks_has_no_note(place: Place) -> None:
    """An error that leaves a block that has leaked nothing is left as it is."""
    with pytest.raises(LookupError) as caught:
        with assert_no_leaks(), place.db.items():
            raise LookupError
    assert notes_of(caught.value) == []


def test_what_is_open_when_the_body_raises_is_not_touched(place: Place) -> None:
    """Handles that are open when an error leaves the block stay open and unblamed: its traceback may hold them."""
    with place.db.snapshot() as snap:  # for the scope of the error only
        with pytest.raises(LookupError) as caught:
            with assert_no_leaks():
                items = snap.items().__enter__()
                raise LookupError
    assert notes_of(caught.value) == []
    del items


def test_what_is_open_when_the_body_raises_can_be_used(place: Place) -> None:
    """Handles that are open when an error leaves the block work on, and are released by their own `with`."""
    with assert_no_leaks():
        with pytest.raises(LookupError) as caught:
            with assert_no_leaks():
                items = place.db.items().__enter__()
                raise LookupError
        assert notes_of(caught.value) == []
        assert len(list(items)) == 5
        items.__exit__(None, None, None)


def test_what_is_open_when_the_body_raises_is_the_enclosing_blocks(place: Place) -> None:
    """A handle that a caught error's block has left open counts for the block around it."""

    def fail() -> None:
        place.kept.append(place.db.items().__enter__())
        raise LookupError

    with pytest.raises(saferocks.LeakedHandlesError) as caught:
        with assert_no_leaks():
            with pytest.raises(LookupError):
                with assert_no_leaks():
                    fail()
    assert [(leak.kind, leak.count, leak.escape) for leak in caught.value.leaks] == [("iterator", 1, STILL_OPEN)]


def test_an_error_that_tells_a_leak_is_told_no_leak_twice(place: Place) -> None:
    """A block that LeakedHandlesError leaves adds only the leaks that it does not name."""
    with pytest.raises(saferocks.LeakedHandlesError) as caught:
        with assert_no_leaks():
            place.db.snapshot()
            with assert_no_leaks():
                place.db.items()
    assert [leak.kind for leak in caught.value.leaks] == ["iterator"]
    (note,) = notes_of(caught.value)
    assert "snapshot opened at" in note
    assert "iterator" not in note


# --------------------------------------------------------------------------- policies


@pytest.mark.parametrize("name", ["raise", "warn"])
@pytest.mark.parametrize("way", WAYS)
def test_a_leak_fails_the_block_under_any_policy(
    place: Place, policy: Callable[[str], None], name: str, way: str
) -> None:
    """Under `warn` as under `raise` a leak fails the block, which tells it alone: no warning, and no error twice."""
    policy(name)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises(saferocks.LeakedHandlesError):
            with assert_no_leaks():
                WAYS[way][0](KINDS["snapshot"], place)
        place.kept.clear()
        assert_nothing_is_left(place)
        place.db.close()
    assert warned == []


@pytest.mark.parametrize("own", [True, False], ids=["of the database", "of the process"])
@pytest.mark.parametrize("way", WAYS)
def test_under_ignore_nothing_fails(tmp_path: Path, policy: Callable[[str], None], way: str, *, own: bool) -> None:
    """Handles under `ignore`, of the database or of the process, may be left, and stay usable."""
    policy("raise" if own else "ignore")
    with saferocks.open(tmp_path / "other", policy="ignore" if own else None) as db:
        place = Place(db, tmp_path, [])
        with assert_no_leaks():
            WAYS[way][0](KINDS["cursor"], place)
        if way == "kept unentered":
            place.kept[0].__enter__()
        assert [cursor.valid() for cursor in place.kept[:1]] == [False] * bool(place.kept)
        place.kept.clear()
        gc.collect()
        assert db.handles() == ()


def test_a_database_under_ignore_may_be_left(tmp_path: Path) -> None:
    """A database that was opened under `ignore` and left open is neither blamed nor closed."""
    with assert_no_leaks():
        with assert_no_leaks():
            db = saferocks.open(tmp_path / "other", policy="ignore").__enter__()
        db[b"k"] = b"v"
    assert db[b"k"] == b"v"
    db.close()


def test_the_policy_that_counts_is_the_one_at_the_end(place: Place, policy: Callable[[str], None]) -> None:
    """What is open when the block ends is judged by the policy in force then."""
    policy("ignore")
    with pytest.raises(saferocks.LeakedHandlesError):
        with assert_no_leaks():
            place.kept.append(place.db.items())
            policy("warn")


# --------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    "allow", ["iterator", ["iterator"], ("snapshot", "iterator"), {"iterator"}, iter(["iterator"])]
)
def test_allowed_kinds_may_be_left(place: Place, allow: Any) -> None:
    """Handles of allowed kinds may be kept or dropped; nobody ever tells of them, and those kept stay usable."""
    with assert_no_leaks():
        with assert_no_leaks(allow=allow):
            cursor = place.db.iter().__enter__()
            place.db.keys()
            Node(place.db.items().__enter__())
        cursor.seek(b"1")
    saferocks.check()
    assert cursor.key() == b"1"
    place.db.close()
    with pytest.raises(saferocks.HandleClosedError, match=" when its database closed; "):
        cursor.key()


def test_an_allowed_handle_may_be_dropped_after_the_block(place: Place) -> None:
    """A handle that a block was allowed to leave is dropped without a word later, in another block too."""
    with assert_no_leaks(allow="snapshot"):
        place.kept.append(place.db.snapshot().__enter__())
    with assert_no_leaks():
        place.kept.clear()
    assert_nothing_is_left(place)


def test_other_kinds_than_those_allowed_leak(place: Place) -> None:
    """What is allowed for one kind is not for another, and for one block not for the next."""
    with pytest.raises(saferocks.LeakedHandlesError) as caught:
        with assert_no_leaks(allow=["iterator"]):
            place.kept += [place.db.items().__enter__(), place.db.snapshot().__enter__()]
            place.db.checkpoint()
    assert sorted(leak.kind for leak in caught.value.leaks) == ["checkpoint", "snapshot"]
    assert len(list(place.kept[0])) == 5
    with pytest.raises(saferocks.LeakedHandlesError):
        with assert_no_leaks():
            place.db.items()


def test_an_allowance_is_not_for_blocks_inside(place: Place) -> None:
    """What the outer block may leave, a block inside may not."""
    with assert_no_leaks(allow=["iterator"]):
        with pytest.raises(saferocks.LeakedHandlesError):
            with assert_no_leaks():
                place.kept.append(place.db.items())


@pytest.mark.parametrize(
    "allow", ["iterators", ["snapshot", "cursor"], ["column_family"], [5], [None], "", ["ITERATOR"]]
)
def test_unknown_kinds_are_refused(allow: Any) -> None:
    """An unknown kind in `allow` is a ValueError that names it and lists what there is."""
    with pytest.raises(ValueError, match=r"unknown kind of handle .*; there are 'iterator', 'snapshot', 'write_batch'"):
        assert_no_leaks(allow=allow)


@pytest.mark.parametrize("grace", [-1, -0.001, float("nan"), float("inf"), float("-inf"), True, "1", None, 1j])
def test_a_bad_grace_is_refused(grace: Any) -> None:
    """A grace that is no finite number of seconds, 0 to 3600, is a ValueError that names it."""
    with pytest.raises(ValueError, match=r"^grace is .*; give seconds, 0 to 3600$") as caught:
        assert_no_leaks(grace=grace)
    assert repr(grace) in str(caught.value)


@pytest.mark.parametrize("grace", [0, 0.0, 1, 2.5])
def test_a_good_grace_is_taken(grace: float) -> None:
    """A grace may be an int or a float, 0 included."""
    with assert_no_leaks(grace=grace):
        pass


# --------------------------------------------------------------------------- nesting


def test_the_innermost_block_is_blamed(place: Place) -> None:
    """Each of three nested blocks is blamed for what was opened in it and in none inside, wherever it was dropped."""
    blamed: dict[str, list[str | None]] = {}
    first, second, third = assert_no_leaks(), assert_no_leaks(), assert_no_leaks()
    try:
        with first:
            place.kept.append(place.db.items(label="first"))
            dropped = [place.db.items(label="first, dropped in the third")]
            try:
                with second:
                    place.kept.append(place.db.items(label="second"))
                    try:
                        with third:
                            place.kept.append(place.db.items(label="third"))
                            dropped.clear()
                    except saferocks.LeakedHandlesError as error:
                        blamed["third"] = [leak.label for leak in error.leaks]
                    place.kept.append(place.db.items(label="second again"))
            except saferocks.LeakedHandlesError as error:
                blamed["second"] = sorted(str(leak.label) for leak in error.leaks)
            place.kept.append(place.db.items(label="first again"))
    except saferocks.LeakedHandlesError as error:
        blamed["first"] = sorted(str(leak.label) for leak in error.leaks)
    assert blamed == {
        "third": ["third"],
        "second": ["second", "second again"],
        "first": ["first", "first again", "first, dropped in the third"],
    }


def test_a_block_is_entered_once_at_a_time(place: Place) -> None:
    """A block that is entered already is refused, which does it no harm; once left it may be entered again."""
    block = assert_no_leaks()
    with pytest.raises(saferocks.LeakedHandlesError) as caught:
        with block:
            place.kept.append(place.db.items())
            with pytest.raises(RuntimeError, match=r"entered already; make one for each 'with'"):
                block.__enter__()
    assert len(caught.value.leaks) == 1
    with block:
        pass
    with pytest.raises(saferocks.LeakedHandlesError):
        with block:
            place.db.items()


def test_a_block_ends_its_watch(place: Place) -> None:
    """However a block ends, it leaves no watch behind."""
    before = _watch.watches
    with assert_no_leaks() as entered:
        assert len(_watch.watches) == len(before) + 1
    assert isinstance(entered, assert_no_leaks)
    with pytest.raises(saferocks.LeakedHandlesError), assert_no_leaks():
        place.db.items()
    with pytest.raises(LookupError), assert_no_leaks():
        raise LookupError
    assert _watch.watches is before or _watch.watches == before


# --------------------------------------------------------------------------- the decorator


@assert_no_leaks()
def open_and_keep(place: Place, *, keep: bool = True) -> int:
    """Keep a scan, if told to."""
    with place.db.items() as items:
        count = len(list(items))
    if keep:
        place.kept.append(place.db.items())
    return count


class Methods:
    """Methods that keep a scan if told to."""

    @assert_no_leaks()
    def method(self, place: Place, *, keep: bool) -> Any:
        """Keep a scan."""
        return self, keep_scan(place, keep=keep)

    @classmethod
    @assert_no_leaks()
    def of_class(cls, place: Place, *, keep: bool) -> Any:
        """Keep a scan."""
        return cls, keep_scan(place, keep=keep)

    @staticmethod
    @assert_no_leaks()
    def static(place: Place, *, keep: bool) -> Any:
        """Keep a scan."""
        return None, keep_scan(place, keep=keep)


def keep_scan(place: Place, *, keep: bool) -> int:
    """Keep a scan, if told to."""
    if keep:
        place.kept.append(place.db.items())
    return 7


@assert_no_leaks()
async def keep_scan_later(place: Place, *, keep: bool) -> int:
    """Keep a scan after a while, if told to."""
    await asyncio.sleep(0)
    with place.db.items():
        await asyncio.sleep(0)
    return keep_scan(place, keep=keep)


def test_a_decorated_function(place: Place) -> None:
    """A decorated function is called as before, keeps its name, text and signature, and fails when it leaks."""
    assert open_and_keep(place, keep=False) == 5
    for _ in range(2):
        with pytest.raises(saferocks.LeakedHandlesError) as caught:
            open_and_keep(place)
        assert [(leak.kind, leak.count) for leak in caught.value.leaks] == [("iterator", 1)]
    assert open_and_keep.__name__ == "open_and_keep"
    assert open_and_keep.__doc__ == "Keep a scan, if told to."
    assert list(inspect.signature(open_and_keep).parameters) == ["place", "keep"]
    assert_nothing_is_left(place)


@pytest.mark.parametrize("name", ["method", "of_class", "static"])
def test_a_decorated_method(place: Place, name: str) -> None:
    """A decorated method gets what it is called on, and fails when it leaks."""
    methods = Methods()
    expected = {"method": methods, "of_class": Methods, "static": None}[name]
    assert getattr(methods, name)(place, keep=False) == (expected, 7)
    with pytest.raises(saferocks.LeakedHandlesError):
        getattr(methods, name)(place, keep=True)


def test_a_decorated_coroutine_function(place: Place) -> None:
    """A decorated coroutine function stays one, and what it leaks is found when it has run, not when it is called."""
    assert inspect.iscoroutinefunction(keep_scan_later)
    assert asyncio.run(keep_scan_later(place, keep=False)) == 7
    coroutine = keep_scan_later(place, keep=True)
    assert place.kept == []
    with pytest.raises(saferocks.LeakedHandlesError) as caught:
        asyncio.run(coroutine)
    assert [(leak.kind, leak.escape) for leak in caught.value.leaks] == [("iterator", STILL_OPEN)]
    assert_nothing_is_left(place)


def test_a_function_decorated_twice(place: Place) -> None:
    """A function that is decorated twice fails once, and tells each leak once."""
    twice = assert_no_leaks()(assert_no_leaks()(keep_scan))
    assert twice(place, keep=False) == 7
    with pytest.raises(saferocks.LeakedHandlesError) as caught:
        twice(place, keep=True)
    assert len(caught.value.leaks) == 1
    assert notes_of(caught.value) == []


def test_a_decorated_function_that_calls_itself(place: Place) -> None:
    """Each call of a recursive decorated function is a block of its own, and the one that leaks is blamed."""
    blamed: list[int] = []

    @assert_no_leaks()
    def dive(depth: int) -> None:
        with place.db.items():
            if depth:
                try:
                    dive(depth - 1)
                except saferocks.LeakedHandlesError:
                    blamed.append(depth - 1)
        if depth == 1:
            place.kept.append(place.db.items())

    dive(3)
    assert blamed == [1]


def test_one_decorator_for_many_functions(place: Place) -> None:
    """One decorator may be used for functions that call each other and run at the same time, and as a block too."""
    block = assert_no_leaks(allow=["snapshot"], grace=0)

    @block
    def inner() -> None:
        place.kept.append(place.db.snapshot().__enter__())

    @block
    def outer(*, keep: bool) -> None:
        inner()
        keep_scan(place, keep=keep)

    with block:
        outer(keep=False)
        with pytest.raises(saferocks.LeakedHandlesError) as caught:
            outer(keep=True)
        assert [leak.kind for leak in caught.value.leaks] == ["iterator"]
    threads = [threading.Thread(target=outer, kwargs={"keep": False}) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    place.kept.clear()


def generate() -> Iterator[int]:
    """Yield once."""
    yield 1


async def generate_later() -> Any:
    """Yield once."""
    yield 1


@pytest.mark.parametrize("what", [generate, generate_later, Methods, int])
def test_what_cannot_be_decorated(what: Any) -> None:
    """A generator function or a class is refused when it is decorated, with what to do instead."""
    with pytest.raises(
        TypeError, match=r"cannot decorate .*; decorate functions, or use it in a 'with' inside"
    ) as caught:
        assert_no_leaks()(what)
    assert repr(what) in str(caught.value)


@assert_no_leaks()
def test_a_decorated_test_gets_its_fixtures(place: Place) -> None:
    """The runner sees through the decorator which fixtures a test asks for."""
    with place.db.items() as items:
        assert len(list(items)) == 5


# --------------------------------------------------------------------------- other runners

UNITTEST = """
    import asyncio
    import logging
    import os
    import tempfile
    import unittest

    import saferocks
    import saferocks.testing

    class TestJobs(unittest.TestCase):
        def setUp(self):
            self.db = saferocks.open(os.path.join(tempfile.mkdtemp(), "db")).__enter__()
            self.addCleanup(self.db.close)

        @saferocks.testing.assert_no_leaks()
        def test_tidy(self):
            with self.db.items() as items:
                self.assertEqual(list(items), [])

        @saferocks.testing.assert_no_leaks()
        def test_leaky(self):
            self.kept = self.db.items().__enter__()

        @saferocks.testing.assert_no_leaks()
        def test_dropping(self):
            self.db.snapshot()

        @saferocks.testing.assert_no_leaks()
        @unittest.skip("not now")
        def test_skipped(self):
            pass

        @saferocks.testing.assert_no_leaks()
        def test_skips(self):
            self.skipTest("not now")

        def test_block(self):
            with self.assertRaises(saferocks.LeakedHandlesError), saferocks.testing.assert_no_leaks():
                self.db.items()

    class TestLater(unittest.IsolatedAsyncioTestCase):
        @saferocks.testing.assert_no_leaks()
        async def test_leaky_later(self):
            await asyncio.sleep(0)
            self.kept = saferocks.WriteBatch(raw_mode=True)

        @saferocks.testing.assert_no_leaks()
        async def test_tidy_later(self):
            await asyncio.sleep(0)

    # unittest has the event loop warn of each step that takes longer than 0.1 s, also on a machine that stalls.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    unittest.main(verbosity=2)
"""


def test_under_unittest(run_python: Run) -> None:
    """Under unittest's runner the tests that leak end in an error that names the line, and no others do."""
    run = run_python(UNITTEST, flags=("-W", "error"))
    lines = run.stderr.splitlines()
    verdicts = {line.split(" ")[0]: line.rpartition(" ... ")[2] for line in lines if " ... " in line}
    assert verdicts == {
        "test_tidy": "ok",
        "test_leaky": "ERROR",
        "test_dropping": "ERROR",
        "test_skipped": "skipped 'not now'",
        "test_skips": "skipped 'not now'",
        "test_block": "ok",
        "test_leaky_later": "ERROR",
        "test_tidy_later": "ok",
    }
    opened = sorted(line.partition(" after ")[0].strip() for line in lines if " opened at " in line)
    file = next(line for line in opened).partition(" opened at ")[2].rpartition(":")[0]
    assert opened == [
        f"iterator opened at {file}:23 was {STILL_OPEN}",
        f"snapshot opened at {file}:27 was {NEVER_ENTERED}",
        f"write_batch opened at {file}:46 was {STILL_OPEN}",
    ]
    assert lines[-1] == "FAILED (errors=3, skipped=2)"


# --------------------------------------------------------------------------- when it cannot be released


def test_what_cannot_be_released_is_told_as_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leaked database that a call is still inside of is blamed, with a note that says that it could not be closed."""
    monkeypatch.setattr(_reckoning, "_CLOSE_SECONDS", 0.02)
    inside, done = threading.Event(), threading.Event()

    def loads(data: bytes) -> bytes:
        inside.set()
        done.wait(SECONDS)
        return data

    def read(db: Any) -> None:
        db["k"]

    thread = None
    try:
        with pytest.raises(saferocks.LeakedHandlesError) as caught:
            with assert_no_leaks(grace=0):
                db = saferocks.open(tmp_path / "other", raw_mode=False).__enter__()
                db.set_dumps(lambda value: b"value")
                db.set_loads(loads)
                db["k"] = [1]
                kept = db.snapshot().__enter__()
                thread = threading.Thread(target=read, args=(db,))
                thread.start()
                assert inside.wait(SECONDS)
    finally:
        done.set()
        if thread is not None:
            thread.join(SECONDS)
    assert sorted(leak.kind for leak in caught.value.leaks) == ["database", "snapshot"]
    (note,) = notes_of(caught.value)
    assert note.startswith("the database could not be released: Resource busy: ")
    with pytest.raises(saferocks.HandleClosedError):
        kept["k"]
    assert db["k"] == b"value"  # it is open and usable
    db.close()
    saferocks.check()


# --------------------------------------------------------------------------- open_handles


def test_open_handles_describes_what_is_open(place: Place) -> None:
    """open_handles() lists kind, line, thread, label, note and state of what is open, oldest first."""
    with place.db.items(label="mine") as items, place.db.write_batch() as batch:
        batch[b"k"] = b"v"
        snap = place.db.snapshot()
        found = open_handles()
        with snap:
            assert open_handles()[-1].entered
        batch.clear()
        next(items)
    assert isinstance(found, tuple)
    assert [(info.kind, info.label, info.entered) for info in found] == [
        ("database", None, True),
        ("iterator", "mine", True),
        ("write_batch", None, True),
        ("snapshot", None, False),
    ]
    assert [info.id for info in found] == sorted(info.id for info in found)
    assert found[2].note is not None
    assert found[2].note.startswith("1 operation (")
    assert {info.database for info in found} == {place.db.path()}
    assert {info.thread for info in found} == {threading.current_thread().name}
    assert found[3].opened_at.startswith(f"{__file__}:")
    assert all(0 <= info.age < SECONDS for info in found)
    assert [info.kind for info in open_handles()] == ["database"]


def test_open_handles_leaves_out_column_families(place: Place) -> None:
    """open_handles() lists no column family, which `saferocks.open_handles` does."""
    family = place.db.create_column_family("f")
    place.kept.append(place.db.get_column_family_handle("f"))
    assert {info.kind for info in saferocks.open_handles()} == {"database", "column_family"}
    with family.items():
        assert [info.kind for info in open_handles()] == ["database", "iterator"]


def test_open_handles_collects_garbage_first(place: Place) -> None:
    """open_handles() does not list what only the collector has yet to free."""
    gc.disable()
    try:
        with pytest.raises(saferocks.LeakedHandlesError) as caught, assert_no_leaks():
            Node(place.db.items().__enter__())
            assert len(saferocks.open_handles()) == 2
            assert [info.kind for info in open_handles()] == ["database"]
    finally:
        gc.enable()
    assert [leak.escape for leak in caught.value.leaks] == [COLLECTED]


def test_open_handles_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is open, open_handles() is empty and takes no time for a collection."""
    monkeypatch.setattr(gc, "collect", lambda *generation: pytest.fail("collected"))
    assert open_handles() == ()
