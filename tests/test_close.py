"""Closing: what waits, what is refused, what is released, and that the path reopens at once."""

from __future__ import annotations

import gc
import itertools
import logging
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

import pytest

import saferocks
from saferocks import _closing, _in_use
from saferocks._batch_writes import BatchRecord
from tests.systems import needs_signals

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from types import FrameType

    Run = Callable[..., subprocess.CompletedProcess[str]]
    Start = Callable[..., Future[Any]]

SECONDS = 20.0  # what takes longer hangs


class Held:
    """A decoder of values that stays inside its native call until it is let go."""

    def __init__(self) -> None:
        self.inside = threading.Event()
        self.go = threading.Event()
        self.then: Callable[[], Any] = lambda: None

    def __call__(self, data: bytes) -> str:
        del data
        self.inside.set()
        assert self.go.wait(SECONDS)
        self.then()
        return "held"


@pytest.fixture
def start() -> Iterator[Start]:
    """Run functions on threads of their own; the test ends when they have."""
    with ThreadPoolExecutor(8) as pool:
        yield pool.submit


@pytest.fixture
def held() -> Iterator[Held]:
    """The decoder of the database `typed`; the value of its key 'held' needs it."""
    decoder = Held()
    yield decoder
    decoder.go.set()


def open_held(path: str, held: Held, close_timeout: float) -> saferocks.Rdict:
    """Open a typed database with rows 0 to 9 and, last of all str keys, the row that is held."""
    db = saferocks.Rdict(path, close_timeout=close_timeout)
    for key in range(10):
        db[key] = key
    db["held"] = ["needs the decoder"]
    db.set_loads(held)
    return db


@pytest.fixture
def patient(path: str, held: Held) -> Iterator[saferocks.Rdict]:
    """A database whose close waits long for calls in flight."""
    with open_held(path, held, SECONDS) as db:
        yield db
        held.go.set()


@pytest.fixture
def hasty(path: str, held: Held) -> Iterator[saferocks.Rdict]:
    """A database whose close gives up at once."""
    with open_held(path, held, 0.05) as db:
        yield db
        held.go.set()


def reopen(path: str) -> list[Any]:
    """Open the path at once and return its keys."""
    with saferocks.open(path) as again, again.keys() as keys:
        return list(keys)


def wait_for_drain(db: saferocks.Rdict) -> None:
    """Return once a close that another thread began lets no new call start."""
    deadline = threading.Event()
    timer = threading.Timer(SECONDS, deadline.set)
    timer.start()
    try:
        while not deadline.is_set():
            try:
                db.latest_sequence_number()
            except saferocks.HandleClosedError:
                return
            except saferocks.ConcurrentUseError:
                continue
        pytest.fail("the close never began")
    finally:
        timer.cancel()


# --------------------------------------------------------------------------- calls in flight


def test_close_waits_for_a_call_in_flight(patient: saferocks.Rdict, held: Held, start: Start, path: str) -> None:
    """A close returns only once the call that was inside RocksDB has ended, and that call's result is right."""
    call = start(patient.get, "held")
    assert held.inside.wait(SECONDS)
    closing = start(patient.close)
    wait_for_drain(patient)
    assert not closing.done()
    assert not call.done()
    held.go.set()
    assert call.result(SECONDS) == "held"
    assert closing.result(SECONDS) is None
    assert reopen(path) == ["held", *range(10)]


def test_a_close_that_gives_up_leaves_everything_usable(hasty: saferocks.Rdict, held: Held, start: Start) -> None:
    """After BusyError the database, its scans, snapshots, batches and column families work as before."""
    family = hasty.create_column_family("f")
    with (
        hasty.items(from_key=0) as items,
        hasty.snapshot() as snap,
        hasty.write_batch() as batch,
        hasty.iter() as cursor,
    ):
        rows = [next(items)]
        cursor.seek(3)
        batch["batched"] = 1
        call = start(hasty.get, "held")
        assert held.inside.wait(SECONDS)
        with pytest.raises(saferocks.BusyError, match=r"^Resource busy: ") as caught:
            hasty.close()
        assert caught.value.code == 11
        held.go.set()
        assert call.result(SECONDS) == "held"
        assert rows + list(items) == [(key, key) for key in range(10)]
        assert snap[4] == 4
        assert cursor.value() == 3
        family["in"] = 1
        hasty["after"] = 2
        batch["batched too"] = 1
    assert (hasty["batched"], hasty["batched too"], hasty["after"], family["in"]) == (1, 1, 2, 1)


@pytest.mark.about_leaks
def test_no_new_call_starts_while_a_close_waits(patient: saferocks.Rdict, held: Held, start: Start) -> None:
    """From the start of a close every handle, entered or not, refuses with HandleClosedError."""
    fresh, used = patient.create_column_family("fresh"), patient.create_column_family("used")
    used["k"] = 1
    with (
        patient.items(from_key=0) as items,
        patient.snapshot() as snap,
        patient.write_batch() as batch,
        patient.iter() as cursor,
    ):
        next(items)
        cursor.seek_to_first()
        call = start(patient.get, "held")
        assert held.inside.wait(SECONDS)
        closing = start(patient.close)
        wait_for_drain(patient)
        refused: list[Callable[[], Any]] = [
            lambda: patient[1],
            lambda: patient.put(1, 1),
            patient.items,
            patient.snapshot,
            patient.write_batch,
            patient.flush,
            lambda: patient.get([1, 2]),
            lambda: patient.get_column_family("used"),
            lambda: fresh["k"],
            lambda: fresh.put("k", 1),
            lambda: used["k"],
            lambda: used.put("k", 1),
            lambda: next(items),
            lambda: snap[1],
            lambda: batch.put(1, 1),
            cursor.key,
        ]
        for use in refused:
            with pytest.raises(saferocks.HandleClosedError):
                use()
        held.go.set()
        assert call.result(SECONDS) == "held"
        with pytest.warns(saferocks.LeakedHandleWarning, match="still open when its database closed"):
            closing.result(SECONDS)
        batch.__exit__(ValueError, ValueError(), None)


def test_a_scan_left_while_a_close_waits_is_over(patient: saferocks.Rdict, held: Held, start: Start, path: str) -> None:
    """A scan that is released during a close gives not one more row, and does not keep the path locked."""
    with patient.items(from_key=0) as items:
        rows = iter(items)
        assert next(rows) == (0, 0)
        call = start(patient.get, "held")
        assert held.inside.wait(SECONDS)
        closing = start(patient.close)
        wait_for_drain(patient)
    with pytest.raises(saferocks.HandleClosedError):
        next(rows)
    held.go.set()
    assert call.result(SECONDS) == "held"
    closing.result(SECONDS)
    assert reopen(path) == ["held", *range(10)]


def test_a_scan_left_while_a_close_gives_up_is_over(hasty: saferocks.Rdict, held: Held, start: Start) -> None:
    """A close that gives up does not bring back a scan that was released meanwhile."""
    with hasty.items(from_key=0) as items:
        rows = iter(items)
        next(rows)
        call = start(hasty.get, "held")
        assert held.inside.wait(SECONDS)
        with pytest.raises(saferocks.BusyError):
            hasty.close()
    with pytest.raises(saferocks.HandleClosedError):
        next(rows)
    held.go.set()
    assert call.result(SECONDS) == "held"


def test_a_column_family_in_use_holds_the_close_up(path: str, held: Held, start: Start) -> None:
    """A call in flight on a column family is waited for just like one on the database."""
    with saferocks.Rdict(path, close_timeout=SECONDS) as db:
        family = db.create_column_family("f")
        family["held"] = ["needs the decoder"]
        family.set_loads(held)
        call = start(family.get, "held")
        assert held.inside.wait(SECONDS)
        closing = start(db.close)
        wait_for_drain(db)
        assert not closing.done()
        held.go.set()
        assert call.result(SECONDS) == "held"
        closing.result(SECONDS)
        assert reopen(path) == []


@pytest.fixture
def left(path: str, held: Held, start: Start) -> Iterator[tuple[saferocks.Rdict, Future[Any]]]:
    """A database, and a call in flight on a column family whose handle is released already."""
    with saferocks.Rdict(path, close_timeout=0.05) as db:
        db.create_column_family("f")["held"] = ["needs the decoder"]
        db.set_loads(held)
        family = db.get_column_family("f")
        call = start(family.get, "held")
        assert held.inside.wait(SECONDS)
        family.close()
        yield db, call
        held.go.set()


def test_a_call_on_a_released_column_family_holds_the_close_up(
    left: tuple[saferocks.Rdict, Future[Any]], held: Held, path: str
) -> None:
    """A database that a call still uses stays open, though the call's handle is released; then it closes."""
    db, call = left
    with pytest.raises(saferocks.BusyError, match="still running"):
        db.close()
    db["usable"] = True
    held.go.set()
    assert call.result(SECONDS) == "held"
    db.close()
    assert reopen(path) == ["usable"]


def test_a_call_on_a_released_column_family_holds_its_drop_up(
    left: tuple[saferocks.Rdict, Future[Any]], held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column family that a call still uses is not dropped: a write would make all others fail (D19)."""
    db, call = left
    with monkeypatch.context() as patched:
        patched.setattr("saferocks._family_methods._DROP_SECONDS", 0.05)
        with pytest.raises(saferocks.BusyError, match="still running"):
            db.drop_column_family("f")
    assert "held" in db.get_column_family("f")
    held.go.set()
    assert call.result(SECONDS) == "held"
    db.drop_column_family("f")
    assert db.column_families == ("default",)


def test_the_next_handle_of_a_column_family_shares_nothing_with_a_call_in_flight(
    left: tuple[saferocks.Rdict, Future[Any]], held: Held
) -> None:
    """A handle can be given an encoding at once, though a call on the one before it is under way."""
    db, call = left
    family = db.get_column_family("f")
    family.set_loads(lambda data: "decoded")
    assert family["held"] == "decoded"
    held.go.set()
    assert call.result(SECONDS) == "held"


def test_close_waits_for_a_column_family_that_is_just_kept(
    db: saferocks.Rdict, path: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A close in the midst of a release, which has left its native object, does not wait for what nobody drops."""
    kept, go = threading.Event(), threading.Event()
    family = db.create_column_family("f")
    kind = type(family._record)
    real_dispose, real_wait = kind.dispose, _closing._wait_until_gone

    def slow(record: Any, native: Any) -> None:
        real_dispose(record, native)
        del native
        kept.set()
        assert go.wait(SECONDS)

    def let_go(record: Any, deadline: float) -> None:
        go.set()
        real_wait(record, deadline)

    monkeypatch.setattr(kind, "dispose", slow)
    monkeypatch.setattr(_closing, "_wait_until_gone", let_go)
    release = start(family.close)
    assert kept.wait(SECONDS)
    db.close()
    assert release.result(SECONDS) is None
    assert reopen(path) == []


def test_the_error_of_a_close_holds_nothing_once_it_is_dealt_with(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A close from a signal handler in the midst of a release fails, and the path reopens without the collector."""
    monkeypatch.setattr(_closing, "_LAST_CALLS_SECONDS", 0.05)
    db = saferocks.Rdict(path)
    family = db.create_column_family("f")
    told: list[str] = []

    def handle(frame: FrameType, event: str, function: object) -> None:
        if (event, frame.f_code.co_name) == ("call", "keep"):
            sys.setprofile(None)
            with pytest.raises(saferocks.BusyError, match="the release of a column_family does not end"):
                db.close()
            told.append("refused")

    gc.disable()
    try:
        sys.setprofile(handle)
        family.close()
        assert told == ["refused"]
        assert reopen(path) == []
    finally:
        sys.setprofile(None)
        gc.enable()


def test_close_waits_for_a_release_in_progress(
    db: saferocks.Rdict, path: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handle that another thread is just releasing is gone before the close returns."""
    releasing, go = threading.Event(), threading.Event()
    items = db.items().__enter__()
    kind = type(items._record)
    real = kind.dispose

    def slow(record: Any, native: Any) -> None:
        releasing.set()
        assert go.wait(SECONDS)
        real(record, native)

    monkeypatch.setattr(kind, "dispose", slow)
    release = start(items.__exit__, None, None, None)
    assert releasing.wait(SECONDS)
    closing = start(db.close)
    wait_for_drain(db)
    assert wait([closing], 0.2).done == set()
    go.set()
    assert release.result(SECONDS) is None
    assert closing.result(SECONDS) is None
    assert reopen(path) == []


def test_a_second_closer_waits_for_the_first(patient: saferocks.Rdict, held: Held, start: Start, path: str) -> None:
    """Of two threads that close, neither returns before the database is closed, and neither fails."""
    call = start(patient.get, "held")
    assert held.inside.wait(SECONDS)
    first, second = start(patient.close), start(patient.close)
    wait_for_drain(patient)
    assert (first.done(), second.done()) == (False, False)
    held.go.set()
    assert call.result(SECONDS) == "held"
    assert (first.result(SECONDS), second.result(SECONDS)) == (None, None)
    assert reopen(path) == ["held", *range(10)]


def test_a_second_closer_gives_up_too(hasty: saferocks.Rdict, held: Held, start: Start) -> None:
    """Two closers that run into their timeouts both raise BusyError, and the database stays usable."""
    call = start(hasty.get, "held")
    assert held.inside.wait(SECONDS)
    closers = [start(hasty.close), start(hasty.close)]
    for closer in closers:
        assert isinstance(closer.exception(SECONDS), saferocks.BusyError)
    held.go.set()
    assert call.result(SECONDS) == "held"
    assert hasty[1] == 1


# --------------------------------------------------------------------------- close from inside a call


@pytest.mark.parametrize("reading", ["get", "items", "backwards", "snapshot_items", "cursor", "snapshot_cursor"])
def test_close_from_inside_a_decoder(hasty: saferocks.Rdict, held: Held, path: str, reading: str) -> None:
    """A close from inside a call that it would have to wait for raises BusyError, and nothing has changed."""
    outcome: list[type[BaseException] | None] = []

    def close() -> None:
        try:
            hasty.close()
        except saferocks.BusyError:
            outcome.append(saferocks.BusyError)
        else:
            outcome.append(None)

    held.then = close
    held.go.set()
    assert read_held(hasty, reading) == "held"
    assert outcome == [saferocks.BusyError]
    assert hasty[1] == 1
    hasty.close()
    assert reopen(path) == ["held", *range(10)]


@pytest.mark.parametrize("reading", ["get", "items", "backwards", "snapshot_items", "cursor", "snapshot_cursor"])
def test_the_error_of_a_decoder_keeps_nothing_open(hasty: saferocks.Rdict, held: Held, path: str, reading: str) -> None:
    """The path reopens while the error that a caller's own decoder raised is still being handled."""

    def fail() -> None:
        raise LookupError("the decoder's own")

    held.then = fail
    held.go.set()
    try:
        read_held(hasty, reading)
    except LookupError:
        hasty.close()
        assert reopen(path) == ["held", *range(10)]
    else:
        pytest.fail("the decoder's error was lost")


def read_held(db: saferocks.Rdict, reading: str) -> Any:
    """Read the held value on one of the roads to it."""
    if reading == "get":
        return db["held"]
    if reading == "items":
        with db.items() as items:
            rows = list(items)
        assert len(rows) == 11
        return rows[0][1]
    if reading == "backwards":
        with db.values(backwards=True, upper_bound=0) as values:
            return next(values)
    if reading == "cursor":
        with db.iter() as cursor:
            cursor.seek("held")
            return cursor.value()
    with db.snapshot() as snap:
        if reading == "snapshot_cursor":
            with snap.iter() as cursor:
                cursor.seek("held")
                return cursor.value()
        with snap.items() as items:
            rows = list(items)
    assert len(rows) == 11
    return rows[0][1]


def test_close_from_a_finalizer(db: saferocks.Rdict, path: str) -> None:
    """An object whose finalizer closes the database may be collected at any time."""

    class Closer:
        def __del__(self) -> None:
            db.close()

    db[b"k"] = b"v"
    closer: Any = Closer()
    closer.itself = closer
    del closer
    gc.collect()
    with pytest.raises(saferocks.DatabaseClosedError):
        db[b"k"]
    assert reopen(path) == [b"k"]


@pytest.mark.about_leaks
@pytest.mark.filterwarnings("ignore::saferocks.LeakedHandleWarning")
def test_close_from_a_finalizer_in_the_middle_of_a_scan(db: saferocks.Rdict, path: str) -> None:
    """A loop in which a finalizer closes the database raises, and never just ends."""

    class Closer:
        def __del__(self) -> None:
            db.close()

    for key in range(10):
        db[b"%d" % key] = b"v"
    seen = 0
    with pytest.raises(saferocks.HandleClosedError), db.items() as items:
        for _ in items:
            seen += 1
            if seen == 5:
                Closer()
    assert seen == 5
    assert len(reopen(path)) == 10


# --------------------------------------------------------------------------- what close releases

OPENERS: dict[str, Callable[[saferocks.Rdict], Any]] = {
    "items": lambda db: db.items(),
    "bounded": lambda db: db.keys(lower_bound=b"a", upper_bound=b"z"),
    "iter": lambda db: db.iter(),
    "bounded_iter": lambda db: db.iter(prefix=b"a"),
    "snapshot": lambda db: db.snapshot(),
    "point_snapshot": lambda db: db.snapshot(point_reads_only=True),
    "wide_snapshot": lambda db: db.snapshot(column_families=["f"]),
    "write_batch": lambda db: db.write_batch(),
    "bulk_writer": lambda db: db.bulk_writer(),
    "checkpoint": lambda db: db.checkpoint(),
    "family": lambda db: db.get_column_family("f"),
    "family_items": lambda db: db.get_column_family("f").items(),
}


@pytest.fixture
def two_families(db: saferocks.Rdict) -> saferocks.Rdict:
    """A database with rows in its default column family and in `f`."""
    family = db.create_column_family("f")
    for key in (b"a", b"b", b"c"):
        db[key] = family[key] = b"v"
    return db


@pytest.mark.about_leaks
@pytest.mark.parametrize("entered", [True, False], ids=["entered", "unentered"])
@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.filterwarnings("ignore::saferocks.LeakedHandleWarning")
def test_close_releases_every_kind_of_handle(
    two_families: saferocks.Rdict, path: str, opener: str, entered: bool
) -> None:
    """After close the path reopens at once, though the handle is still referred to, and using it raises."""
    handle = OPENERS[opener](two_families)
    if entered:
        handle.__enter__()
    two_families.close()
    assert saferocks.open_handles() == ()
    assert reopen(path) == [b"a", b"b", b"c"]
    with pytest.raises(saferocks.HandleClosedError, match=r"test_close\.py:\d+ (was released|is closed)"):
        use(handle)


def use(handle: Any) -> None:
    """Use a handle of any kind."""
    if hasattr(handle, "seek_to_first"):
        handle.seek_to_first()
    elif hasattr(handle, "__next__"):
        next(handle)
    elif isinstance(handle, saferocks.Checkpoint):
        handle.create("never")
    elif hasattr(handle, "put"):
        handle.put(b"k", b"v")
    else:
        handle[b"a"]


@pytest.mark.about_leaks
@pytest.mark.parametrize("road", ["db", "family", "snapshot", "snapshot_family"])
@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("items", {}),
        ("keys", {"backwards": True}),
        ("values", {}),
        ("columns", {"lower_bound": b"a"}),
        ("entities", {"upper_bound": b"z"}),
        ("keys", {"lower_bound": b"a", "backwards": True}),
    ],
)
@pytest.mark.filterwarnings("ignore::saferocks.LeakedHandleWarning")
def test_a_loop_whose_database_is_closed_raises(
    two_families: saferocks.Rdict, path: str, road: str, method: str, arguments: dict[str, Any]
) -> None:
    """A `for` over any scan raises HandleClosedError after the row at which the database was closed."""
    source: Any = two_families
    if road == "family":
        source = two_families.get_column_family("f")
    elif road == "snapshot":
        source = two_families.snapshot().__enter__()
    elif road == "snapshot_family":
        source = two_families.snapshot(column_families=["f"]).__enter__().get_column_family("f")
    seen = 0
    with getattr(source, method)(**arguments) as scan:
        with pytest.raises(saferocks.HandleClosedError, match=r"was released when its (database closed|snapshot)"):
            for _ in scan:
                seen += 1
                two_families.close()
        with pytest.raises(saferocks.HandleClosedError):
            list(scan)
    assert seen == 1
    assert reopen(path) == [b"a", b"b", b"c"]


@pytest.mark.about_leaks
def test_the_error_of_a_closed_scan_keeps_nothing_open(two_families: saferocks.Rdict, path: str) -> None:
    """The path reopens while the error that a closed scan raised is still being handled."""
    try:
        with two_families.items() as items:
            for _ in items:
                with pytest.warns(saferocks.LeakedHandleWarning):
                    two_families.close()
    except saferocks.HandleClosedError:
        assert reopen(path) == [b"a", b"b", b"c"]
    else:
        pytest.fail("the loop ended as if complete")


@pytest.mark.about_leaks
def test_close_releases_the_youngest_first(two_families: saferocks.Rdict, caplog: pytest.LogCaptureFixture) -> None:
    """Handles that outlive their database are released and reported in the reverse order of their opening."""
    old = two_families.snapshot(label="old").__enter__()
    young = two_families.items(label="young").__enter__()
    youngest = two_families.checkpoint(label="youngest").__enter__()
    with caplog.at_level(logging.WARNING, "saferocks"), pytest.warns(saferocks.LeakedHandleWarning) as warned:
        two_families.close()
    assert [str(each.message).partition("[")[2].partition("]")[0] for each in warned] == ["youngest", "young", "old"]
    assert [record.saferocks["label"] for record in caplog.records] == ["youngest", "young", "old"]  # type: ignore[attr-defined]
    del old, young, youngest


@pytest.mark.about_leaks
def test_a_batch_whose_database_closed_is_not_lost_in_silence(path: str) -> None:
    """Leaving a batch that a close has taken away raises, and nothing of it was written."""
    with saferocks.open(path) as db:
        with pytest.raises(saferocks.HandleClosedError, match=r"opened at .* was released when its database"):
            with db.write_batch() as batch:
                batch[b"k"] = b"v"
                with pytest.warns(saferocks.LeakedHandleWarning, match=r"1 operation \(\d+ bytes\) was dropped"):
                    db.close()
    assert reopen(path) == []


@pytest.mark.about_leaks
@pytest.mark.parametrize("opener", ["write_batch", "bulk_writer"])
def test_a_batch_that_a_close_is_just_taking_away_is_not_lost_in_silence(
    path: str, start: Start, monkeypatch: pytest.MonkeyPatch, opener: str
) -> None:
    """Leaving a batch raises at every moment of its release by a close in another thread."""
    real, left = BatchRecord.dispose, []

    def leave() -> str:
        try:
            batch.__exit__(None, None, None)
        except saferocks.HandleClosedError as error:
            return f"{error}; {getattr(error, '__notes__', '')}"
        return "in silence"

    def dispose(record: BatchRecord, native: Any) -> None:
        left.append(start(leave).result(SECONDS))
        real(record, native)
        left.append(start(leave).result(SECONDS))

    monkeypatch.setattr(BatchRecord, "dispose", dispose)
    with saferocks.open(path) as db:
        batch = getattr(db, opener)().__enter__()
        batch[b"k"] = b"v"
        with pytest.warns(saferocks.LeakedHandleWarning, match="was dropped"):
            db.close()
    assert len(left) == 2
    assert all("was released when its database closed" in each and "1 operation" in each for each in left), left
    assert reopen(path) == []


@pytest.mark.about_leaks
def test_a_bulk_writer_whose_database_closed_takes_nothing_more(path: str) -> None:
    """After its database has closed, a bulk writer refuses rows, also right after a flush that failed."""
    with saferocks.open(path) as db, pytest.raises(saferocks.HandleClosedError), db.bulk_writer() as bulk:
        bulk[b"k"] = b"v"
        bulk.flush()
        bulk[b"l"] = b"v"
        with pytest.warns(saferocks.LeakedHandleWarning):
            db.close()
        for _ in range(2):
            with pytest.raises(saferocks.HandleClosedError):
                bulk.flush()
            with pytest.raises(saferocks.HandleClosedError):
                bulk[b"m"] = b"v"
    assert reopen(path) == [b"k"]


def test_closing_a_column_family_closes_it_alone(two_families: saferocks.Rdict) -> None:
    """A closed column family refuses, another handle of it and the database go on."""
    family, other = two_families.get_column_family("f"), two_families.get_column_family("f")
    family.close()
    family.close()
    with pytest.raises(saferocks.DatabaseClosedError, match=r"column family 'f' opened at .* was released when it was"):
        family[b"a"]
    assert (other[b"a"], two_families[b"a"]) == (b"v", b"v")


def test_close_is_idempotent(path: str) -> None:
    """Closing twice, inside and outside the `with`, and leaving it after that are no errors."""
    with saferocks.open(path) as db:
        db[b"k"] = b"v"
        db.close()
        db.close()
    db.close()
    with pytest.raises(saferocks.DatabaseClosedError, match=r"^DB instance already closed: database .* is closed; use"):
        db[b"k"]


@pytest.mark.parametrize("wide", [False, True], ids=["database", "with_family"])
def test_an_error_of_the_native_close_leaves_nothing_open(
    path: str, monkeypatch: pytest.MonkeyPatch, wide: bool
) -> None:
    """When RocksDB reports an error on closing, it is raised, and everything is released all the same."""
    real = _in_use.close_native

    def failing(rdict: Any, deadline: float) -> None:
        real(rdict, deadline)
        raise saferocks.NoSpaceError("IO error: No space left on device: While appending to file: x", code=5)

    db = saferocks.Rdict(path, raw_mode=True)
    family = db.create_column_family("f") if wide else None
    monkeypatch.setattr(_in_use, "close_native", failing)
    with pytest.raises(saferocks.NoSpaceError, match=r"^IO error: No space left on device: "):
        db.close()
    monkeypatch.undo()
    del family
    assert saferocks.open_handles() == ()
    db.close()
    assert reopen(path) == []


def test_close_can_cancel_background_work(path: str) -> None:
    """A close that cancels compactions loses nothing that was written."""
    with saferocks.open(path) as db:
        for key in range(1000):
            db[b"%04d" % key] = b"v" * 100
        db.flush()
        db.close(cancel_background=True)
    assert len(reopen(path)) == 1000


# --------------------------------------------------------------------------- dropping a column family


def test_handles_of_a_dropped_family_say_so(two_families: saferocks.Rdict) -> None:
    """Every handle of a dropped column family raises ColumnFamilyDroppedError, also once there is a new one."""
    family, handle = two_families.get_column_family("f"), two_families.get_column_family_handle("f")
    fresh = two_families.get_column_family("f")
    family[b"a"]
    two_families.drop_column_family("f")
    two_families.create_column_family("f")
    for each in (family, fresh):
        with pytest.raises(saferocks.ColumnFamilyDroppedError):
            each[b"a"]
        with pytest.raises(saferocks.ColumnFamilyDroppedError):
            each[b"a"] = b"v"
        with pytest.raises(saferocks.ColumnFamilyDroppedError):
            each.items()
    with pytest.raises(saferocks.ColumnFamilyDroppedError):
        with two_families.write_batch() as batch:
            batch.put(b"a", b"v", handle)
    two_families[b"after"] = b"v"


def test_a_batch_that_carries_a_dropped_family_is_refused(two_families: saferocks.Rdict) -> None:
    """A batch for a family that was dropped meanwhile fails as a whole, and later writes succeed (D19)."""
    with pytest.raises(saferocks.ColumnFamilyDroppedError):
        with two_families.write_batch() as batch:
            batch.put(b"x", b"v", two_families.get_column_family_handle("f"))
            batch.put(b"y", b"v")
            two_families.drop_column_family("f")
    assert b"y" not in two_families
    two_families[b"z"] = b"v"
    two_families.flush()
    assert two_families[b"z"] == b"v"


def test_scans_of_a_dropped_family_go_on(two_families: saferocks.Rdict, path: str) -> None:
    """An open scan or snapshot of a dropped column family ends with its last row, and close releases it."""
    family = two_families.get_column_family("f")
    with family.keys() as keys, two_families.snapshot(column_families=["f"]) as snap:
        first = next(keys)
        two_families.drop_column_family("f")
        assert [first, *keys] == [b"a", b"b", b"c"]
        with snap.get_column_family("f").keys() as pinned:
            assert list(pinned) == [b"a", b"b", b"c"]
    two_families.close()
    assert reopen(path) == [b"a", b"b", b"c"]


def test_a_drop_waits_for_a_call_on_the_family(path: str, held: Held, start: Start) -> None:
    """Dropping a column family waits for a call that is inside it, and that call's result is right."""
    with saferocks.Rdict(path) as db:
        family = db.create_column_family("f")
        family["held"] = ["needs the decoder"]
        family.set_loads(held)
        call = start(family.get, "held")
        assert held.inside.wait(SECONDS)
        dropping = start(db.drop_column_family, "f")
        held.go.set()
        assert call.result(SECONDS) == "held"
        assert dropping.result(SECONDS) is None
        assert db.column_families == ("default",)


# --------------------------------------------------------------------------- other threads


def test_a_handle_is_released_on_another_thread(db: saferocks.Rdict, start: Start, path: str) -> None:
    """Handles opened on one thread and left on another are released, and iteration there is right."""
    db[b"k"] = b"v"
    handles = [db.items().__enter__(), db.iter().__enter__(), db.snapshot().__enter__(), db.write_batch().__enter__()]
    handles[3][b"l"] = b"w"
    assert start(list, handles[0]).result(SECONDS) == [(b"k", b"v")]
    for handle in handles:
        assert start(handle.__exit__, None, None, None).result(SECONDS) is None
    assert db.handles() == ()
    assert db[b"l"] == b"w"
    assert start(db.close).result(SECONDS) is None
    assert reopen(path) == [b"k", b"l"]


MOVES: dict[str, Callable[[Any], object]] = {
    "next": lambda cursor: cursor.next(),
    "prev": lambda cursor: cursor.prev(),
    "seek": lambda cursor: cursor.seek(b"k"),
    "seek_for_prev": lambda cursor: cursor.seek_for_prev(b"k"),
    "seek_to_first": lambda cursor: cursor.seek_to_first(),
    "seek_to_last": lambda cursor: cursor.seek_to_last(),
}


@pytest.mark.parametrize("move", MOVES)
def test_a_cursor_that_is_being_moved_is_not_moved(db: saferocks.Rdict, move: str) -> None:
    """While one thread moves a cursor another one gets ConcurrentUseError, and moves it once that is done (D21)."""
    db[b"k"] = b"v"
    with db.iter() as cursor:
        cursor.seek(b"k")
        del cursor._record.still  # type: ignore[attr-defined]  # as by a thread that is moving it
        with pytest.raises(saferocks.ConcurrentUseError, match=r"test_close\.py:\d+ is being moved by another"):
            MOVES[move](cursor)
        cursor._record.still = None  # type: ignore[attr-defined]
        MOVES[move](cursor)


def test_two_loops_over_one_scan_are_refused(db: saferocks.Rdict, start: Start) -> None:
    """A second thread that iterates over a scan gets ConcurrentUseError, and the first gets all rows."""
    for key in range(10):
        db[b"%d" % key] = b"v"
    with db.keys() as keys:
        rows = iter(keys)
        first = next(rows)
        with pytest.raises(saferocks.ConcurrentUseError, match=r"test_close\.py:\d+ is being iterated by another"):
            start(list, keys).result(SECONDS)
        assert [first, *rows] == [b"%d" % key for key in range(10)]


def test_a_scan_may_be_handed_over(db: saferocks.Rdict, start: Start) -> None:
    """A scan whose loop was left is read on by the next thread, page by page, and no row is lost."""
    for key in range(10):
        db[b"%d" % key] = b"v"
    with db.keys() as keys:
        pages = [start(lambda: list(itertools.islice(keys, 3))).result(SECONDS) for _ in range(4)]
    assert [len(page) for page in pages] == [3, 3, 3, 1]
    assert [key for page in pages for key in page] == [b"%d" % key for key in range(10)]


@pytest.mark.parametrize("shared", ["scan", "iterator"])
def test_a_scan_that_is_taking_a_row_elsewhere_is_refused(
    patient: saferocks.Rdict, held: Held, start: Start, shared: str
) -> None:
    """Two threads that take rows of one scan at the same moment get an error, and no row is lost.

    From the scan it is ConcurrentUseError; from one and the same `iter(scan)` it is Python's own
    error for generators, because nothing of Python runs between the loop and the generator.
    """
    error = saferocks.ConcurrentUseError if shared == "scan" else ValueError
    with patient.values() as values:
        rows = values if shared == "scan" else iter(values)
        first = start(next, rows)
        assert held.inside.wait(SECONDS)
        try:
            with pytest.raises(error, match=r"in use by another thread|generator already executing"):
                next(rows)
        finally:
            held.go.set()
        assert first.result(SECONDS) == "held"
        assert [next(rows) for _ in range(10)] == list(range(10))


def test_leaving_a_scan_waits_for_the_thread_inside_it(patient: saferocks.Rdict, held: Held, start: Start) -> None:
    """The release of a scan lets another thread finish its row, though the releasing one has read rows before."""
    patient["a"] = 1
    with patient.values() as values:
        assert next(values) == 1
        call = start(next, values)
        assert held.inside.wait(SECONDS)
        threading.Timer(0.05, held.go.set).start()
    assert call.result(SECONDS) == "held"
    with pytest.raises(saferocks.HandleClosedError):
        next(values)


# --------------------------------------------------------------------------- Ctrl-C

INTERRUPTED_CLOSE = """
    import faulthandler, signal, threading, _thread
    import saferocks

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent may have had it ignored
    faulthandler.dump_traceback_later(30, exit=True)
    inside, go = threading.Event(), threading.Event()

    def loads(data):
        inside.set()
        # Interrupts the main thread once it waits in close().
        while not db_closing():
            pass
        _thread.interrupt_main()
        go.wait()
        return "right"

    def db_closing():
        try:
            db.latest_sequence_number()
        except saferocks.HandleClosedError:
            return True
        except saferocks.SaferocksError:
            return False
        return False

    db = saferocks.Rdict("db", raw_mode=False)
    db["held"] = ["pickled"]
    db["k"] = 1
    db.set_loads(loads)
    results = []
    reader = threading.Thread(target=lambda: results.append(db["held"]))
    with db.items(from_key="k") as items:
        reader.start()
        inside.wait()
        try:
            db.close()
        except KeyboardInterrupt:
            print("interrupted")
        print(db["k"], list(items))
    go.set()
    reader.join()
    print(results)
    db.close()
    with saferocks.open("db") as again:
        print(again["k"])
"""


def test_an_interrupted_close_can_be_repeated(run_python: Run) -> None:
    """Ctrl-C while close waits for a call leaves the database open, usable and closable."""
    run = run_python(INTERRUPTED_CLOSE)
    assert run.stderr == ""
    assert run.stdout.splitlines() == ["interrupted", "1 [('k', 1)]", "['right']", "1"]


INTERRUPTED_LEAVING = """
    import builtins, faulthandler, signal, sys, threading, _thread
    import saferocks

    kind = getattr(builtins, sys.argv[1])
    faulthandler.dump_traceback_later(30, exit=True)
    inside, go = threading.Event(), threading.Event()

    def interrupt(number, frame):
        go.set()
        raise kind

    def loads(data):
        inside.set()
        # Interrupts the main thread once it waits in the close.
        while not db._record.owner.closing:
            pass
        _thread.interrupt_main()
        go.wait()
        return "right"

    signal.signal(signal.SIGINT, interrupt)
    results = []
    reader = threading.Thread(target=lambda: results.append(db["held"]))
    try:
        with saferocks.open("db", raw_mode=False, allow_pickle=True, policy="raise") as db:
            db["held"] = ["pickled"]
            db.set_loads(loads)
            reader.start()
            inside.wait()
    except kind as interrupt:
        print("interrupted", getattr(interrupt, "__notes__", []), saferocks.open_handles())
        with saferocks.open("db", raw_mode=False, allow_pickle=True) as again:
            print(again["held"])
    reader.join()
    print(results)
"""


@pytest.mark.parametrize("kind", ["KeyboardInterrupt", "TimeoutError"])
def test_an_interrupt_while_the_with_of_a_database_is_left_still_closes_it(run_python: Run, kind: str) -> None:
    """What a signal handler raises in the close at the end of a `with` arrives after it; the path reopens there."""
    run = run_python(INTERRUPTED_LEAVING, kind)
    assert run.stderr == ""
    assert run.stdout.splitlines() == ["interrupted [] ()", "['pickled']", "['right']"]


INTERRUPTED_BODY = """
    import faulthandler, signal
    import saferocks

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent may have had it ignored
    faulthandler.dump_traceback_later(30, exit=True)
    with saferocks.open("db") as db:
        for key in range(100):
            db[b"%03d" % key] = b"v"
    try:
        with saferocks.open("db", policy="raise") as db, db.snapshot() as snap, db.write_batch() as batch:
            batch[b"new"] = b"v"
            with snap.items() as pinned, db.items() as items, db.iter() as cursor:
                cursor.seek_to_first()
                for key, value in items:
                    next(pinned)
                    if key == b"050":
                        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt as interrupt:
        print("interrupted", getattr(interrupt, "__notes__", []), saferocks.open_handles())
        with saferocks.open("db") as db:
            print(db.get(b"new"), b"099" in db)
    saferocks.check()
"""


def test_an_interrupted_body_releases_everything(run_python: Run) -> None:
    """Ctrl-C inside nested `with` blocks discards the batch, releases all, and the path reopens in the handler."""
    run = run_python(INTERRUPTED_BODY)
    assert run.stderr == ""
    assert run.stdout.splitlines() == ["interrupted [] ()", "None True"]


INTERRUPTED_ANYWHERE = """
    import faulthandler, gc, logging, random, signal, sys, threading, _thread, warnings
    import saferocks

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent may have had it ignored
    logging.disable()  # what an interrupt cut off from its `with` is a leak, and is reported

    warnings.simplefilter("ignore")
    sys.setswitchinterval(1e-6)
    sys.unraisablehook = lambda unraisable: unraised.append(unraisable.exc_type)
    unraised = []
    random.seed(int(sys.argv[2]))
    with saferocks.open("db") as db:
        for key in range(30):
            db[b"%03d" % key] = b"v"

    def work(db):
        while KeyboardInterrupt not in unraised:  # Python swallows one that strikes in a finalizer
            with db.items() as items:
                assert sum(1 for _ in items) == 30
            with db.snapshot() as snap, snap.keys() as keys:
                next(keys)
            with db.iter() as cursor:
                cursor.seek(b"015")
                cursor.next()
            with db.write_batch() as batch:
                batch[b"010"] = b"v"

    def interrupt(working, spins):
        working.wait()
        for _ in range(spins):
            pass
        _thread.interrupt_main()

    interrupted = 0
    for round in range(int(sys.argv[1])):
        faulthandler.dump_traceback_later(60, exit=True)
        working = threading.Event()
        other = threading.Thread(target=interrupt, args=(working, random.randrange(2000)))
        other.start()
        try:
            with saferocks.open("db") as db:
                working.set()
                work(db)
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            interrupted += 1
            unraised[:] = [kind for kind in unraised if kind is not KeyboardInterrupt]
        other.join()
        del db
        gc.collect()
        assert not saferocks.open_handles(), (round, saferocks.open_handles())
        with saferocks.open("db") as db, db.keys() as keys:
            assert len(list(keys)) == 30
    print(interrupted, unraised)
"""


@pytest.mark.parametrize("rounds", [12, pytest.param(600, marks=pytest.mark.slow)], ids=["short", "long"])
def test_an_interrupt_anywhere_releases_everything(run_python: Run, rounds: int) -> None:
    """Ctrl-C at whatever bytecode of the body leaves no handle open, and the path reopens."""
    run = run_python(INTERRUPTED_ANYWHERE, str(rounds), "7", timeout=1500.0)
    assert (run.returncode, run.stdout, run.stderr) == (0, f"{rounds} []\n", "")


def test_a_handle_that_is_kept_keeps_nothing_native_of_its_closed_database(path: str) -> None:
    """Released handles in a list do not hold the options and statistics of databases that are closed."""
    kept = []
    for _ in range(20):
        with saferocks.open(path, statistics=True) as db:
            with db.iter() as cursor:
                kept.append(cursor)
    assert [cursor._record.owner.options for cursor in kept] == [None] * 20


INTERRUPTED_RELEASE = """
    import inspect, logging, sys, warnings
    import saferocks
    from saferocks import _life, _rows, _scan, _snapshot

    logging.disable()
    warnings.simplefilter("ignore")
    # From which line on, for each of them. A `try:`, and what a `finally` sets, cannot be interrupted: signal handlers
    # run at calls and in loops.
    BODIES = {
        _life.release: "record.reason = reason",
        _scan.ScanRecord.dispose: "rows = ",
        _rows.close: "deadline = ",
        _snapshot.SnapshotRecord.dispose: "reason = ",
    }
    OPENERS = (
        lambda db: db.snapshot(), lambda db: db.items(), lambda db: db.iter(), lambda db: db.keys(expire_after=9),
    )

    def lines(function, first):
        source, start = inspect.getsourcelines(function)
        begin = next(index for index, line in enumerate(source) if first in line)
        end = next((index for index, line in enumerate(source) if "finally:" in line), len(source))
        return [start + index for index in range(begin, end) if "try:" not in source[index]]

    def interrupting(code, number):
        def local(frame, event, argument):
            if event == "line" and frame.f_lineno == number:
                sys.settrace(None)
                struck.add((code, number))
                raise KeyboardInterrupt
            return local
        return lambda frame, event, argument: local if frame.f_code is code else None

    def work(opener, code, number):
        with saferocks.open("db") as db:
            db[b"k"] = b"v"
            with opener(db) as handle:
                if isinstance(handle, saferocks.Snapshot):
                    next(handle.keys().__enter__())
                elif not isinstance(handle, saferocks.RdictIter):
                    next(handle)
                sys.settrace(interrupting(code, number))

    struck = set()
    for function, first in BODIES.items():
        for number in lines(function, first):
            for opener in OPENERS:
                try:
                    work(opener, function.__code__, number)
                except KeyboardInterrupt as interrupt:
                    with saferocks.open("db") as db:  # while the traceback refers to all of it
                        assert db[b"k"] == b"v", (number, function)
                    assert not saferocks.open_handles(), (number, saferocks.open_handles())
                finally:
                    sys.settrace(None)
    print(len(struck))
"""


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there signal handlers run between any two instructions")
def test_an_interrupt_in_the_midst_of_a_release_leaves_nothing_open(run_python: Run) -> None:
    """Ctrl-C at whatever line of the release of a handle: the path reopens in the handler of the interrupt."""
    run = run_python(INTERRUPTED_RELEASE, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
    assert int(run.stdout) > 15


def test_a_close_asks_whether_calls_are_under_way_without_an_error_in_rocksdict(path: str) -> None:
    """While rocksdict words an error it runs signal handlers, and loses what they raise: Ctrl-C for one."""
    errors = []

    def note(frame: FrameType, event: str, function: Any) -> None:
        if event == "c_exception":
            errors.append(function.__name__)

    with saferocks.open(path) as db:
        db[b"a"] = b"1"
        db.create_column_family("users")[b"a"] = b"1"
        sys.setprofile(note)
        try:
            db.close()
        finally:
            sys.setprofile(None)
    assert errors == []


@needs_signals
@pytest.mark.skipif(sys.platform == "win32", reason="the signal is raised by libc")
@pytest.mark.parametrize("terms", ["", "expire_after=60.0", "lower_bound=b'1'"])
@pytest.mark.parametrize("opener", ["db.items", "db.keys", "db.values", "snap.keys"])
def test_who_asks_in_the_midst_of_a_close_gets_no_bare_error(
    run_python: Callable[..., subprocess.CompletedProcess[str]], opener: str, terms: str
) -> None:
    """A `for` that asks for a row at whatever moment of its generator's close gets HandleClosedError, not ValueError.

    A signal handler asks, in place of another thread: Python runs it at the first moment at which that could run.
    Nothing in Python stands between the signal and the close.
    """
    child = run_python(f"""
        import ctypes, functools, signal
        import saferocks
        from saferocks import _registry

        with saferocks.open("db") as db:
            for number in range(9):
                db[b"%d" % number] = b""
            with db.snapshot() as snap, {opener}({terms}) as scan:
                reader = iter(scan)
                next(reader)

                def ask(*_):
                    try:
                        next(reader)
                    except Exception as error:
                        print(type(error).__name__)

                signal.signal(signal.SIGUSR1, ask)
                interrupt = functools.partial(getattr(ctypes.CDLL(None), "raise"), signal.SIGUSR1)
                close = functools.partial(scan._record.rows.close)
                claim = functools.partial(_registry.records.pop, scan._record.id)  # as a release does first
                claimed, *_ = list(map(functools.partial.__call__, [claim, interrupt, close]))
                _registry.records[claimed.id] = claimed
    """)
    assert (child.returncode, child.stdout, child.stderr) == (0, "HandleClosedError\n", "")
