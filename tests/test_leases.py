"""Leases: overdue handles are told of, expired ones released, and nothing happens before its time or twice."""

from __future__ import annotations

import gc
import heapq
import math
import os
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any

import pytest

import saferocks
from saferocks import _batch_writes, _deadlines, _files, _guard, _leases, _life, _registry, _settings, _watch
from saferocks._iterator import join_snapshot
from saferocks.inspection import pending_deadlines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

    from tests.conftest import MovedClock

    Told = Callable[[], list[tuple[str, dict[str, Any]]]]
    Texts = Callable[[], list[str]]
    Open = Callable[..., Any]

WAIT = 60.0  # seconds: far more than anything here takes


@pytest.fixture
def rows(db: saferocks.Rdict) -> saferocks.Rdict:
    """A database of 500 rows, more than a scan reads ahead, in two column families."""
    family = db.create_column_family("f")
    for number in range(500):
        db[b"k%03d" % number] = family[b"k%03d" % number] = b"v"
    return db


#: Every opener, and a use of what it opens.
READERS: dict[str, tuple[Open, Callable[[Any], object]]] = {
    **{
        name: (lambda db, name=name, **terms: getattr(db, name)(**terms), lambda scan: next(iter(scan)))
        for name in ("items", "keys", "values", "columns", "entities")
    },
    "bounded items": (lambda db, **terms: db.items(prefix=b"k", **terms), lambda scan: next(scan)),
    "iter": (lambda db, **terms: db.iter(**terms), lambda cursor: cursor.seek(b"k")),
    "bounded iter": (lambda db, **terms: db.iter(prefix=b"k", **terms), lambda cursor: cursor.seek(b"k")),
    "items of a family": (lambda db, **terms: db.get_column_family("f").items(**terms), next),
    "iter of a family": (lambda db, **terms: db.get_column_family("f").iter(**terms), lambda cursor: cursor.valid()),
    "snapshot": (lambda db, **terms: db.snapshot(**terms), lambda snap: snap[b"k001"]),
    "snapshot of two": (lambda db, **terms: db.snapshot(column_families=["f"], **terms), lambda snap: snap.get(b"k")),
    "point snapshot": (
        lambda db, **terms: db.snapshot(point_reads_only=True, **terms),
        lambda snap: b"k001" in snap,
    ),
    "checkpoint": (lambda db, **terms: db.checkpoint(**terms), lambda checkpoint: checkpoint.create("nowhere")),
    "Checkpoint": (lambda db, **terms: saferocks.Checkpoint(db, **terms), lambda checkpoint: checkpoint.create("no")),
    "write_batch": (lambda db, **terms: db.write_batch(**terms), lambda batch: batch.delete(b"k")),
    "write_batch of a family": (
        lambda db, **terms: db.get_column_family("f").write_batch(**terms),
        lambda batch: batch.delete(b"k"),
    ),
    "WriteBatch": (lambda db, **terms: saferocks.WriteBatch(raw_mode=True, **terms), lambda batch: batch.len()),
    "bulk_writer": (lambda db, **terms: db.bulk_writer(**terms), lambda bulk: bulk.delete(b"k")),
    "SstFileWriter": (lambda db, **terms: saferocks.SstFileWriter(**terms), lambda writer: writer.file_size()),
}
SNAPSHOT_READERS: dict[str, tuple[Open, Callable[[Any], object]]] = {
    "items": (lambda snap, **terms: snap.items(**terms), next),
    "bounded keys": (lambda snap, **terms: snap.keys(prefix=b"k", **terms), next),
    "iter": (lambda snap, **terms: snap.iter(**terms), lambda cursor: cursor.seek(b"k")),
    "items of a view": (lambda snap, **terms: snap.get_column_family("f").items(**terms), next),
    "iter of a view": (lambda snap, **terms: snap.get_column_family("f").iter(**terms), lambda cursor: cursor.valid()),
}
every_opener = pytest.mark.parametrize("opener", READERS)


def names(events: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """Return the names of events."""
    return [name for name, _ in events]


def leave(scope: Any, *error: object) -> None:
    """Leave a handle without an exception."""
    scope.__exit__(None, None, None)


# --------------------------------------------------------------------------- overdue


@every_opener
def test_an_overdue_handle_is_told_once(
    rows: saferocks.Rdict, clock: MovedClock, told: Told, overdue: Texts, opener: str
) -> None:
    """Nothing before the time; one warning and one event at it, with the opening line; one more at the return."""
    with READERS[opener][0](rows, warn_after=30) as handle:
        clock.advance(29.99)
        assert (told(), overdue(), pending_deadlines()) == ([], [], 1)
        clock.advance(0.02)
        ((name, fields),) = told()
        (text,) = overdue()
        assert pending_deadlines() == 0
        clock.advance(1000)
        assert (told(), overdue()) == ([], [])
        record = handle._record
    clock.settle()
    ((returned, taken_back),) = told()
    assert (name, returned) == ("handle_overdue", "handle_returned")
    assert fields == {
        "kind": record.kind,
        "database": record.owner.name,
        "opened_at": fields["opened_at"],
        "age": 30.01,
        "count": 1,
        "thread": threading.current_thread().name,
        "label": None,
        "stack": fields["stack"],
        "warn_after": 30.0,
    }
    assert fields["opened_at"].startswith(f"{__file__}:")
    assert fields["stack"].startswith(f"{fields['opened_at']} in ")  # the suite is strict, and keeps stacks
    assert text.startswith(
        f"{record.kind} opened at {fields['opened_at']} is still open after 30.01 s, and its warn_after is 30 s; leave"
    )
    assert {**taken_back, "age": 30.01, "warn_after": 30.0} == fields
    assert taken_back["age"] == 1030.01


def test_a_handle_released_in_time_is_not_told(rows: saferocks.Rdict, clock: MovedClock, told: Told) -> None:
    """A release takes the deadline with it: nothing comes of it later, also not for the next handle."""
    with rows.items(warn_after=10, expire_after=20):
        clock.advance(9)
    assert pending_deadlines() == 0
    with rows.items(warn_after=10, expire_after=20) as later:
        clock.advance(9)
        assert next(later) == (b"k000", b"v")
        assert pending_deadlines() == 1
    assert told() == []


def test_a_label_is_told(rows: saferocks.Rdict, clock: MovedClock, told: Told, overdue: Texts) -> None:
    """A label is in the warning and in every event."""
    with rows.keys(warn_after=1, expire_after=2, label="nightly"):
        clock.advance(1)
        clock.advance(1)
    assert [fields["label"] for _, fields in told()] == ["nightly"] * 2
    (text,) = overdue()
    assert " [nightly] is still open" in text


def test_warnings_of_a_line_become_rare(rows: saferocks.Rdict, clock: MovedClock, told: Told, overdue: Texts) -> None:
    """Each overdue handle has its event, and the 1st, 10th and 100th of a line a warning."""
    for _ in range(100):
        with rows.keys(warn_after=1):
            clock.advance(1)
    clock.settle()
    assert names(told()) == ["handle_overdue", "handle_returned"] * 100
    assert ["number" in text for text in overdue()] == [False, True, True]


def test_under_ignore_there_is_no_warning(path: str, clock: MovedClock, told: Told, overdue: Texts) -> None:
    """Under the policy `ignore` an overdue handle is an event, and no warning."""
    with saferocks.open(path, policy="ignore") as db, db.keys(warn_after=1):
        clock.advance(1)
        assert names(told()) == ["handle_overdue"]
        assert overdue() == []


def test_a_warning_that_is_an_error_does_not_end_the_watching(
    rows: saferocks.Rdict, clock: MovedClock, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where warnings are errors, it goes to `sys.unraisablehook`, and the next deadlines come all the same."""
    raised: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: raised.append(unraisable.exc_value))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with rows.keys(warn_after=1, expire_after=2) as keys:
            clock.advance(1)
            clock.advance(1)
            with pytest.raises(saferocks.HandleExpiredError):
                next(keys)
    assert list(map(type, raised)) == [saferocks.OverdueHandleWarning]
    assert names(told()) == ["handle_overdue", "handle_expired"]


def test_a_failing_log_does_not_end_the_watching(
    rows: saferocks.Rdict, clock: MovedClock, overdue: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the program's logging goes to `sys.unraisablehook`, and the handle is released all the same."""
    raised: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: raised.append(repr(unraisable.exc_value)))
    with rows.keys(warn_after=1, expire_after=2) as keys, monkeypatch.context() as patched:
        patched.setattr(saferocks.events, "_hooks", (lambda _event: 1 / 0,))
        clock.advance(1)
        clock.advance(1)
        with pytest.raises(saferocks.HandleExpiredError):
            next(keys)
    assert raised == ["ZeroDivisionError('division by zero')"] * 2
    assert len(overdue()) == 1


# --------------------------------------------------------------------------- expiry


@every_opener
def test_an_expired_handle_is_released(rows: saferocks.Rdict, clock: MovedClock, told: Told, opener: str) -> None:
    """Usable until its time, then released: every use raises, with the line, the duration and the remedy."""
    open_handle, use = READERS[opener]
    with open_handle(rows, expire_after=20) as handle:
        clock.advance(19)
        assert handle._record.reason is None
        handle._record.live
        clock.advance(1)
        assert handle._record.native is None
        assert handle._record.id not in rows._record.owner.children
        where = _registry.format_site(handle._record.site)
        for attempt in (use, lambda handle: handle.renew()):
            with pytest.raises(saferocks.HandleExpiredError) as raised:
                attempt(handle)
            assert str(raised.value).startswith(
                f"{handle._record.kind} opened at {where} was released when its lease expired, 20 s after it was "
                "opened or renewed; call renew() in time, or give a longer expire_after: 'with "
            )
        assert pending_deadlines() == 0
    ((name, fields),) = told()
    assert (name, fields["age"], fields["expire_after"], fields["opened_at"]) == ("handle_expired", 20.0, 20.0, where)
    assert rows.audit().ok
    del handle, attempt
    gc.collect()
    assert told() == []


@pytest.mark.parametrize("opener", SNAPSHOT_READERS)
def test_what_reads_a_snapshot_expires_alone(rows: saferocks.Rdict, clock: MovedClock, told: Told, opener: str) -> None:
    """A scan or cursor of a snapshot has a lease of its own; the snapshot goes on."""
    open_handle, use = SNAPSHOT_READERS[opener]
    with rows.snapshot(column_families=["f"]) as snap:
        with open_handle(snap, warn_after=None, expire_after=5) as reader:
            use(reader)
            clock.advance(5)
            with pytest.raises(saferocks.HandleExpiredError, match="5 s after it was opened"):
                use(reader)
        assert snap[b"k001"] == b"v"
        with snap.keys() as keys:
            assert len(list(keys)) == 500
    assert names(told()) == ["handle_expired"]


@pytest.mark.parametrize("opener", SNAPSHOT_READERS)
def test_what_reads_a_snapshot_ends_with_it(rows: saferocks.Rdict, clock: MovedClock, told: Told, opener: str) -> None:
    """An expired snapshot takes its scans and cursors with it, and their errors name its lease."""
    open_handle, use = SNAPSHOT_READERS[opener]
    with rows.snapshot(column_families=["f"], expire_after=5) as snap:
        with open_handle(snap) as reader:
            use(reader)
            clock.advance(5)
            with pytest.raises(saferocks.HandleExpiredError, match="the lease of its snapshot expired; call renew"):
                use(reader)
            with pytest.raises(saferocks.HandleExpiredError, match="snapshot opened at"):
                snap.get(b"k001")
    assert names(told()) == ["handle_expired"]
    assert rows.audit().ok


@pytest.mark.parametrize("opener", ["items", "values", "bounded items", "items of a family"])
def test_an_expired_scan_never_ends_short(rows: saferocks.Rdict, clock: MovedClock, opener: str) -> None:
    """A loop over a scan that expires in its midst gets the error, not an end, and goes on getting it."""
    seen = 0
    with READERS[opener][0](rows, expire_after=5) as scan:
        rest = iter(scan)
        with pytest.raises(saferocks.HandleExpiredError):
            for _ in rest:
                seen += 1
                if seen == 300:
                    clock.advance(5)
        assert seen == 300
        for again in (rest, scan):
            with pytest.raises(saferocks.HandleExpiredError):
                next(again)


@pytest.mark.parametrize("method", ["items", "keys", "values", "columns", "entities"])
@pytest.mark.parametrize("bounds", [{}, {"lower_bound": b""}])
@pytest.mark.parametrize("through", ["database", "snapshot"])
def test_not_one_row_follows_the_end_of_a_lease(
    rows: saferocks.Rdict, clock: MovedClock, method: str, bounds: dict[str, bytes], through: str
) -> None:
    """A loop that gives the watcher no moment to take its scan away ends at the next row once the lease has run out."""
    with rows.snapshot() as snap:
        source = rows if through == "database" else snap
        with getattr(source, method)(expire_after=5, **bounds) as scan:
            loop = iter(scan)
            next(loop)
            scan._record.lease.expired = True  # as the watcher says first of all
            with pytest.raises(saferocks.HandleExpiredError):
                next(loop)


@pytest.mark.parametrize("own", [None, 50])
def test_not_one_row_follows_the_end_of_a_snapshots_lease(
    rows: saferocks.Rdict, clock: MovedClock, own: float | None
) -> None:
    """The same holds for a scan whose snapshot's lease has run out, though it has read rows ahead."""
    with rows.snapshot(expire_after=5) as snap, snap.keys(expire_after=own) as keys:
        loop = iter(keys)
        next(loop)
        snap._record.lease.expired = True  # as the watcher says first of all
        snap._record.begin_expiry()
        with pytest.raises(saferocks.HandleExpiredError):
            next(loop)


def test_a_scan_that_is_complete_does_not_expire(rows: saferocks.Rdict, clock: MovedClock, told: Told) -> None:
    """A scan is released at its end, and then has no deadline."""
    with rows.keys(expire_after=5) as keys:
        assert len(list(keys)) == 500
        assert pending_deadlines() == 0
        clock.advance(5)
        assert list(keys) == []
        with pytest.raises(saferocks.HandleClosedError, match="when its scan was complete"):
            keys.renew()
    assert told() == []


def test_an_overdue_handle_that_expires_is_not_returned(
    rows: saferocks.Rdict, clock: MovedClock, told: Told, overdue: Texts
) -> None:
    """Overdue, then expired: two events, in this order, and none that takes the first back."""
    with rows.keys(warn_after=1, expire_after=2):
        clock.advance(5)
    assert names(told()) == ["handle_overdue", "handle_expired"]
    assert len(overdue()) == 1


def test_an_expired_batch_is_not_written_in_silence(rows: saferocks.Rdict, clock: MovedClock, told: Told) -> None:
    """A batch that held something and is left normally raises, and says what was dropped; nothing is written."""
    with pytest.raises(saferocks.HandleExpiredError, match="write_batch opened at") as raised:
        with rows.write_batch(expire_after=5) as batch:
            batch[b"new"] = b"1"
            batch.delete(b"k001")
            clock.advance(5)
    assert raised.value.__notes__[0].startswith("2 operations (")
    assert raised.value.__notes__[0].endswith(" bytes) were dropped")
    assert told()[0][1]["note"] == raised.value.__notes__[0]
    assert b"new" not in rows
    assert b"k001" in rows


def test_an_expired_batch_does_not_mask_an_exception(rows: saferocks.Rdict, clock: MovedClock) -> None:
    """An exception in the body of an expired batch comes out as it is."""
    with pytest.raises(ZeroDivisionError):
        with rows.write_batch(expire_after=5) as batch:
            batch[b"new"] = b"1"
            clock.advance(5)
            raise ZeroDivisionError


def test_an_expired_empty_batch_is_left_in_silence(rows: saferocks.Rdict, clock: MovedClock) -> None:
    """A batch that held nothing has lost nothing."""
    with rows.write_batch(expire_after=5):
        clock.advance(5)


def test_an_expired_bulk_writer_keeps_what_it_flushed(rows: saferocks.Rdict, clock: MovedClock) -> None:
    """What was flushed is in the database; what was not is dropped, and leaving says so."""
    with pytest.raises(saferocks.HandleExpiredError) as raised:
        with rows.bulk_writer(expire_after=5) as bulk:
            bulk[b"one"] = b"1"
            bulk.flush()
            bulk[b"two"] = b"2"
            clock.advance(5)
    assert raised.value.__notes__[0].startswith("1 operation (")
    assert rows.get([b"one", b"two"]) == [b"1", None]


def test_an_expired_free_standing_batch_cannot_be_written(rows: saferocks.Rdict, clock: MovedClock) -> None:
    """Writing a batch that has expired raises, and nothing is written."""
    with pytest.raises(saferocks.HandleExpiredError):
        with saferocks.WriteBatch(raw_mode=True, expire_after=5) as batch:
            batch[b"new"] = b"1"
            clock.advance(5)
            rows.write(batch)
    assert b"new" not in rows


def test_an_expired_sst_file_is_not_lost_in_silence(tmp_path: Path, clock: MovedClock, told: Told) -> None:
    """An unfinished file is removed with its writer, and leaving the writer normally raises."""
    file = tmp_path / "rows.sst"
    with pytest.raises(saferocks.HandleExpiredError, match="sst_writer opened at"):
        with saferocks.SstFileWriter(saferocks.Options(raw_mode=True), expire_after=5) as writer:
            writer.open(file)
            writer[b"k"] = b"v"
            clock.advance(5)
            assert not file.exists()
    assert told()[0][1]["note"] == f"its unfinished file {str(file)!r} was removed"


def test_an_expired_sst_writer_keeps_what_it_finished(tmp_path: Path, clock: MovedClock) -> None:
    """A file that was finished before stays, and leaving the writer is silent."""
    file = tmp_path / "rows.sst"
    with saferocks.SstFileWriter(saferocks.Options(raw_mode=True), expire_after=5) as writer:
        writer.open(file)
        writer[b"k"] = b"v"
        writer.finish()
        clock.advance(5)
        assert file.exists()


def test_a_handle_never_entered_expires_too(rows: saferocks.Rdict, clock: MovedClock, told: Told) -> None:
    """Its time runs from the opening; entering it later raises, and it is no leak."""
    scope = rows.items(expire_after=5)
    clock.advance(5)
    with pytest.raises(saferocks.HandleExpiredError):
        scope.__enter__()
    del scope
    gc.collect()
    saferocks.check()
    assert names(told()) == ["handle_expired"]


@pytest.mark.about_leaks
def test_a_collected_handle_leaves_no_deadline(rows: saferocks.Rdict, clock: MovedClock, told: Told) -> None:
    """A handle that leaks is reported as a leak, and its deadline is gone with it."""
    scan = rows.items(warn_after=5, expire_after=6).__enter__()
    assert pending_deadlines() == 1
    with pytest.warns(saferocks.LeakedHandleWarning):
        del scan
    assert pending_deadlines() == 0
    clock.advance(6)
    rows.handles()
    assert names(told()) == ["handle_leaked"]


@pytest.mark.about_leaks
def test_a_database_that_closes_takes_the_deadlines_along(path: str, clock: MovedClock, told: Told) -> None:
    """After a close nothing is due for what it released."""
    with pytest.raises(saferocks.LeakedHandlesError):
        with saferocks.open(path, policy="raise", warn_after=5, expire_after=6) as db:
            held = db.snapshot().__enter__()
            assert pending_deadlines() == 1
    assert pending_deadlines() == 0
    clock.advance(6)
    assert names(told()) == ["handle_outlived_database"]
    del held


# --------------------------------------------------------------------------- renewal


@every_opener
def test_renewing_begins_anew(
    rows: saferocks.Rdict, clock: MovedClock, told: Told, overdue: Texts, opener: str
) -> None:
    """Each renewal puts both deadlines off, and leaves exactly one; an overdue handle may be overdue again."""
    with READERS[opener][0](rows, warn_after=10, expire_after=20) as handle:
        for _ in range(5):
            clock.advance(9)
            handle.renew()
            assert pending_deadlines() == 1
        assert told() == []
        clock.advance(10)
        handle.renew()
        clock.advance(9)
        assert names(told()) == ["handle_overdue"]
        clock.advance(1)
        assert names(told()) == ["handle_overdue"]
        clock.advance(10)
        assert names(told()) == ["handle_expired"]
        with pytest.raises(saferocks.HandleExpiredError):
            handle.renew()
    assert told() == []
    overdue()


def test_a_renewed_handle_is_returned_once(
    rows: saferocks.Rdict, clock: MovedClock, told: Told, overdue: Texts
) -> None:
    """A handle that was overdue twice is returned once."""
    with rows.keys(warn_after=10) as keys:
        clock.advance(10)
        keys.renew()
        clock.advance(10)
    clock.settle()
    assert names(told()) == ["handle_overdue", "handle_overdue", "handle_returned"]
    overdue()


@every_opener
def test_renewing_without_a_lease_is_refused(rows: saferocks.Rdict, opener: str) -> None:
    """A handle without a lease has nothing to renew, and the error says what to write."""
    with READERS[opener][0](rows) as handle:
        with pytest.raises(saferocks.HandleError, match="has no lease to renew; open it with warn_after= or expire_"):
            handle.renew()


@every_opener
def test_renewing_after_release_is_refused(rows: saferocks.Rdict, clock: MovedClock, opener: str) -> None:
    """After its `with` a handle raises the usual error, and no deadline comes back."""
    with READERS[opener][0](rows, expire_after=5) as handle:
        pass
    with pytest.raises(saferocks.HandleClosedError, match="was released when") as raised:
        handle.renew()
    assert type(raised.value) is saferocks.HandleClosedError
    assert pending_deadlines() == 0


def test_databases_and_families_have_no_renew(rows: saferocks.Rdict) -> None:
    """What lasts as long as its database has no lease."""
    assert not hasattr(rows, "renew")
    assert not hasattr(rows.get_column_family_handle("f"), "renew")


# --------------------------------------------------------------------------- levels and bad input


@pytest.fixture
def configured() -> Iterator[Callable[..., None]]:
    """Configure the process, and put it back."""
    before = _settings.current
    yield saferocks.configure
    _settings.current = before


#: Process, database, opener: what each says of warn_after and expire_after, and what then applies.
LEFT = _settings.INHERITED
LEVELS: list[tuple[Any, Any, Any, Any]] = [
    ((None, None), (LEFT, LEFT), (LEFT, LEFT), None),
    ((5, 9), (LEFT, LEFT), (LEFT, LEFT), (5, 9)),
    ((5, 9), (LEFT, LEFT), (None, None), None),
    ((5, 9), (None, None), (LEFT, LEFT), None),
    ((5, 9), (None, None), (3, LEFT), (3, None)),
    ((5, 9), (4, LEFT), (LEFT, LEFT), (4, 9)),
    ((5, 9), (4, 8), (LEFT, LEFT), (4, 8)),
    ((5, 9), (4, 8), (3, LEFT), (3, 8)),
    ((5, 9), (4, 8), (LEFT, 7), (4, 7)),
    ((5, 9), (4, 8), (3, 30), (3, 30)),
    ((5, 9), (4, 8), (None, LEFT), (None, 8)),
    ((None, None), (4, 8), (LEFT, None), (4, None)),
    ((None, None), (LEFT, LEFT), (0.25, 0.5), (0.25, 0.5)),
]


@pytest.mark.parametrize(("process", "database", "own", "expected"), LEVELS)
def test_the_nearest_level_wins(
    path: str,
    clock: MovedClock,
    configured: Callable[..., None],
    process: Any,
    database: Any,
    own: Any,
    expected: Any,
) -> None:
    """What an opener says comes before what its database says, that before what the process says; None is a word."""
    configured(warn_after=process[0], expire_after=process[1])
    with saferocks.open(path, warn_after=database[0], expire_after=database[1]) as db:
        for opener, (open_handle, _) in READERS.items():
            if "family" in opener or "two" in opener or opener in ("WriteBatch", "SstFileWriter"):
                continue
            with open_handle(db, warn_after=own[0], expire_after=own[1]) as handle:
                (info,) = db.handles()
                assert (info.warn_after, info.expire_after) == (expected or (None, None))
                assert pending_deadlines() == (expected is not None)
                assert (handle._record.lease is None) == (expected is None)
        assert saferocks.open_handles()[0].warn_after is None  # the database itself has no lease


def test_free_standing_handles_have_the_lease_of_the_process(
    clock: MovedClock, configured: Callable[..., None]
) -> None:
    """Batches and SST writers without a database go by what `configure` says."""
    configured(warn_after=5, expire_after=9)
    with saferocks.WriteBatch(), saferocks.SstFileWriter():
        assert [(info.warn_after, info.expire_after) for info in saferocks.open_handles()] == [(5, 9)] * 2
        configured(warn_after=None, expire_after=None)
        with saferocks.WriteBatch():
            assert pending_deadlines() == 2


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"warn_after": 0}, ValueError, "warn_after is 0; give a positive, finite number of seconds"),
    ({"expire_after": 0.0}, ValueError, "expire_after is 0.0; give a positive, finite"),
    ({"warn_after": -1}, ValueError, "warn_after is -1; give a positive"),
    ({"expire_after": -0.5}, ValueError, "expire_after is -0.5; give"),
    ({"warn_after": math.nan}, ValueError, "warn_after is nan; give"),
    ({"expire_after": math.inf}, ValueError, "expire_after is inf; give"),
    ({"expire_after": -math.inf}, ValueError, "expire_after is -inf; give"),
    ({"warn_after": 10**400}, ValueError, "warn_after is 1000"),
    ({"warn_after": True}, TypeError, "warn_after is True; give seconds as a number"),
    ({"expire_after": "5"}, TypeError, "expire_after is '5'; give seconds"),
    ({"expire_after": b"5"}, TypeError, "expire_after is b'5'; give seconds"),
    ({"warn_after": [5]}, TypeError, r"warn_after is \[5\]; give"),
    ({"warn_after": 5, "expire_after": 5}, ValueError, "warn_after is 5 and expire_after 5, so that the warning could"),
    ({"warn_after": 6, "expire_after": 5}, ValueError, "warn_after is 6 and expire_after 5, so that"),
    ({"warn_after": 6, "expire_after": math.nan}, ValueError, "expire_after is nan"),
]


@pytest.mark.parametrize(("terms", "error", "text"), BAD)
def test_bad_durations_are_refused(
    rows: saferocks.Rdict,
    tmp_path: Path,
    configured: Callable[..., None],
    terms: dict[str, Any],
    error: type[Exception],
    text: str,
) -> None:
    """Every opener, `open`, `Rdict` and `configure` name the parameter and its value, and open nothing."""
    openers: list[Callable[[], object]] = [
        lambda open_handle=open_handle: open_handle(rows, **terms) for open_handle, _ in READERS.values()
    ]
    path = tmp_path / "another"
    with rows.snapshot(column_families=["f"]) as snap:
        openers += [
            lambda open_handle=open_handle: open_handle(snap, **terms) for open_handle, _ in SNAPSHOT_READERS.values()
        ]
        openers += [
            lambda: saferocks.open(path, **terms),
            lambda: saferocks.Rdict(path, **terms),
            lambda: configured(**terms),
        ]
        before, current = {info.id for info in saferocks.open_handles()}, _settings.current
        for opener in openers:
            with pytest.raises(error, match=f"^{text}"):
                opener()
        families = {info.id for info in saferocks.open_handles() if info.kind == "column_family"}
        assert {info.id for info in saferocks.open_handles()} - families == before - families
    assert pending_deadlines() == 0
    assert _settings.current is current
    assert not path.exists()


def test_what_is_given_must_suit_the_other_levels(path: str, configured: Callable[..., None]) -> None:
    """A warning that could never come is refused where one of the two is given, whichever level has the other."""
    configured(expire_after=5)
    with pytest.raises(ValueError, match="warn_after is 6 and expire_after 5"):
        saferocks.open(path, warn_after=6)
    with pytest.raises(ValueError, match="warn_after is 7 and expire_after 5"):
        configured(warn_after=7)
    assert not os.path.exists(path)
    with saferocks.open(path, expire_after=3) as db:
        for terms in ({"warn_after": 4}, {"warn_after": 2, "expire_after": 1}):
            with pytest.raises(ValueError, match="so that the warning could never come"):
                db.items(**terms)  # type: ignore[arg-type]
        with db.items(warn_after=4, expire_after=None):
            pass


def test_defaults_that_do_not_suit_each_other_leave_the_warning_out(
    path: str, clock: MovedClock, configured: Callable[..., None], told: Told
) -> None:
    """What is configured later does not make the openers of an open database fail: the expiry applies alone."""
    with saferocks.open(path, warn_after=6) as db:
        configured(expire_after=5)
        with db.items() as items:
            (info,) = db.handles()
            assert (info.warn_after, info.expire_after) == (None, 5)
            clock.advance(5)
            with pytest.raises(saferocks.HandleExpiredError):
                list(items)
    assert names(told()) == ["handle_expired"]


def test_handles_tell_the_time_left(rows: saferocks.Rdict, clock: MovedClock) -> None:
    """A figure says when a handle expires, as of its last renewal."""
    with rows.keys(warn_after=5, expire_after=20) as keys, rows.values(warn_after=30), rows.items():
        clock.advance(4)
        by_age = sorted((info for info in rows.handles() if info.kind == "iterator"), key=lambda info: info.id)
        assert [info.expires_in for info in by_age] == [16.0, None, None]
        assert [info.warn_after for info in by_age] == [5.0, 30.0, None]
        keys.renew()
        assert rows.handles()[-3].expires_in == 20.0


# --------------------------------------------------------------------------- in use


class Gate:
    """Holds up whoever goes through it, until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, data: Any) -> Any:
        self.reached.set()
        assert self.opened.wait(WAIT)
        return b"coded"


@pytest.fixture
def gate(typed_db: saferocks.Rdict) -> Iterator[Gate]:
    """A gate in the decoder and the encoder of a typed database, which holds a row that needs decoding."""
    typed_db.set_dumps(lambda value: b"coded")
    typed_db["k"] = ["v"]
    gate = Gate()
    typed_db.set_dumps(gate)
    typed_db.set_loads(gate)
    yield gate
    gate.opened.set()


def seek_and_read(cursor: Any) -> Any:
    """Read the value at a cursor's first row."""
    cursor.seek_to_first()
    return cursor.value()


#: Openers on a typed database, a use that goes through the gate, and what comes of it.
SLOW: dict[str, tuple[Open, Callable[[Any], Any], Any]] = {
    "items": (lambda db, **terms: db.items(**terms), next, ("k", b"coded")),
    "bounded values": (lambda db, **terms: db.values(prefix="k", **terms), next, b"coded"),
    "cursor": (lambda db, **terms: db.iter(**terms), seek_and_read, b"coded"),
    "bounded cursor": (lambda db, **terms: db.iter(prefix="k", **terms), seek_and_read, b"coded"),
    "snapshot": (lambda db, **terms: db.snapshot(**terms), lambda snap: snap["k"], b"coded"),
    "point snapshot": (lambda db, **terms: db.snapshot(point_reads_only=True, **terms), lambda s: s["k"], b"coded"),
    "batch": (lambda db, **terms: db.write_batch(**terms), lambda batch: batch.put("n", ["v"]), None),
}


@pytest.mark.parametrize("opener", SLOW)
def test_a_handle_in_use_is_not_pulled_away(
    typed_db: saferocks.Rdict, gate: Gate, clock: MovedClock, told: Told, opener: str
) -> None:
    """It may not be used any more, but is released only when the call inside is over, which has its result."""
    open_handle, use, expected = SLOW[opener]
    handle = open_handle(typed_db, expire_after=5)
    handle.__enter__()
    results: list[Any] = []
    user = threading.Thread(target=lambda: results.append(use(handle)))
    user.start()
    assert gate.reached.wait(WAIT)
    clock.advance(5)
    clock.advance(100)
    assert handle._record.native is not None
    assert pending_deadlines() == 1
    with pytest.raises(saferocks.HandleExpiredError):
        handle.renew()
    with pytest.raises(saferocks.HandleExpiredError):
        handle._record.live
    assert told() == []
    gate.opened.set()
    user.join(WAIT)
    assert results == [expected]
    clock.advance(1)
    assert handle._record.native is None
    assert names(told()) == ["handle_expired"]
    if opener == "batch":
        with pytest.raises(saferocks.HandleExpiredError) as raised:
            leave(handle)
        assert raised.value.__notes__[0].startswith("1 operation (")
    else:
        leave(handle)
    assert typed_db.audit().ok


def test_a_scan_of_a_snapshot_in_use_holds_its_expiry_up(
    typed_db: saferocks.Rdict, gate: Gate, clock: MovedClock
) -> None:
    """A snapshot is not released under a scan that is taking a row."""
    with typed_db.snapshot(expire_after=5) as snap, snap.items() as items:
        results: list[Any] = []
        user = threading.Thread(target=lambda: results.append(next(items)))
        user.start()
        assert gate.reached.wait(WAIT)
        clock.advance(5)
        assert items._record.reason is None
        gate.opened.set()
        user.join(WAIT)
        assert results == [("k", b"coded")]
        clock.advance(1)
        with pytest.raises(saferocks.HandleExpiredError, match="the lease of its snapshot expired"):
            next(items)
    assert typed_db.audit().ok


def test_a_batch_that_somebody_is_about_to_write_to_waits(rows: saferocks.Rdict, clock: MovedClock) -> None:
    """A thread that has fetched the native batch, and not yet come to its call, loses no operation in silence."""
    with pytest.raises(saferocks.HandleExpiredError) as raised:
        with rows.write_batch(expire_after=5) as batch:
            native = batch._record.live
            clock.advance(5)
            native[b"late"] = b"1"  # as between two steps of the interpreter
            del native
            clock.advance(1)
    assert raised.value.__notes__[0].startswith("1 operation (")


def test_leaving_an_expired_batch_that_waits_says_what_is_lost(rows: saferocks.Rdict, clock: MovedClock) -> None:
    """If the `with` is left before the watcher has looked again, the loss is told all the same."""
    with pytest.raises(saferocks.HandleExpiredError) as raised:
        with rows.write_batch(expire_after=5) as batch:
            batch[b"new"] = b"1"
            native = batch._record.live
            clock.advance(5)
            assert batch._record.reason is None
    assert raised.value.__notes__[0].startswith("1 operation (")
    assert b"new" not in rows
    del native


def test_a_mere_reference_does_not_keep_a_handle_for_ever(rows: saferocks.Rdict, clock: MovedClock) -> None:
    """Whoever holds a native object without calling it, a debugger say, is not waited for for long."""
    with rows.iter(expire_after=5) as cursor:
        native = cursor._record.live
        clock.advance(5)
        assert cursor._record.reason is None
        clock.advance(_leases._PATIENCE)
        assert cursor._record.reason is _registry.Reason.EXPIRED
    del native


def test_a_close_waits_for_what_is_expiring(typed_db: saferocks.Rdict, gate: Gate, clock: MovedClock) -> None:
    """A close that comes while an expired handle is still in use waits for the call, as for any."""
    cursor = typed_db.iter(expire_after=5)
    cursor.__enter__()
    user = threading.Thread(target=lambda: seek_and_read(cursor))
    user.start()
    assert gate.reached.wait(WAIT)
    clock.advance(5)
    closer = threading.Thread(target=typed_db.close)
    closer.start()
    gate.opened.set()
    for thread in (user, closer):
        thread.join(WAIT)
        assert not thread.is_alive()
    assert typed_db._record.reason is not None
    assert pending_deadlines() == 0
    with pytest.raises(saferocks.HandleClosedError):
        cursor.valid()


# --------------------------------------------------------------------------- the watcher


def test_no_lease_no_thread(rows: saferocks.Rdict, clock: MovedClock) -> None:
    """Handles without a lease start no thread, and none is registered."""
    with rows.items(), rows.snapshot(), rows.write_batch():
        assert (clock.started, _leases.pending) == (0, {})


def test_one_thread_watches_all_and_ends(rows: saferocks.Rdict, clock: MovedClock) -> None:
    """The first lease starts the thread; it stays for a moment after the last, ends, and starts again."""
    with rows.items(expire_after=60), rows.items(expire_after=30), rows.snapshot(warn_after=10):
        clock.settle()
        assert clock.started == clock.running == 1
    clock.settle()
    assert clock.running == 1
    with rows.items(expire_after=60):
        clock.settle()
    clock.advance(_deadlines.LINGER_SECONDS)
    clock.advance(_deadlines.LINGER_SECONDS)
    assert (clock.started, clock.running) == (1, 0)
    with rows.items(expire_after=60) as items:
        clock.settle()
        assert (clock.started, clock.running) == (2, 1)
        clock.advance(60)
        with pytest.raises(saferocks.HandleExpiredError):
            next(items)


def test_the_watcher_sleeps_until_something_is_due(rows: saferocks.Rdict, clock: MovedClock) -> None:
    """Deadlines that are not the next do not wake it, nor does time that passes before the next."""
    with rows.keys(expire_after=10):
        clock.settle()
        before = clock.waits
        for _ in range(200):
            with rows.keys(expire_after=20):
                pass
            clock.advance(0.01)
        assert clock.waits == before
        with rows.keys(expire_after=5):
            clock.settle()
            assert clock.waits == before + 1  # an earlier one does


def kept(watcher: Any) -> int:
    """Return how many deadlines a watcher keeps, dead ones included."""
    return len(watcher._heap) + len(watcher._arrivals)


@pytest.mark.parametrize("how", ["opened", "renewed"])
def test_dead_deadlines_do_not_pile_up(rows: saferocks.Rdict, clock: MovedClock, how: str) -> None:
    """However many handles come and go, or are renewed, before anything is due: about a thousand are kept."""
    most = 0
    with rows.keys(expire_after=1000) as keys:
        for number in range(5000):
            if how == "renewed":
                keys.renew()
            else:
                with rows.keys(expire_after=1000):
                    pass
            if number % 100 == 0:
                clock.settle()
                most = max(most, kept(_leases.watcher))
        clock.settle()
        assert pending_deadlines() == 1
    assert 900 < most <= _deadlines._SLACK + 2 + 100


def test_a_deadline_that_the_watcher_takes_over_is_pending_throughout(
    rows: saferocks.Rdict, clock: MovedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However far the watcher has come in taking over a new deadline, it is counted, and once."""
    found, push = [], heapq.heappush

    def push_and_count(heap: list[Any], entry: Any) -> None:
        found.append(pending_deadlines())
        push(heap, entry)
        found.append(pending_deadlines())

    monkeypatch.setattr("saferocks._deadlines.heapq.heappush", push_and_count)
    with rows.keys(expire_after=1000):
        clock.settle()
        found.append(pending_deadlines())
    assert found == [1, 1, 1]


def test_dead_deadlines_go_after_a_peak(rows: saferocks.Rdict, clock: MovedClock) -> None:
    """When many handles are released at once, their deadlines are dropped without waiting for any to come."""
    held = [rows.keys(expire_after=1000) for _ in range(4000)]
    for scope in held:
        scope.__enter__()
    assert pending_deadlines() == 4000
    with rows.keys(expire_after=1000):
        for scope in held:
            leave(scope)
        clock.settle()
        assert kept(_leases.watcher) <= _deadlines._SLACK + 2


def test_deadlines_come_in_their_order(rows: saferocks.Rdict, clock: MovedClock, told: Told) -> None:
    """Whatever the order of opening, each comes at its own time."""
    durations = [7, 3, 9, 1, 5, 3, 8, 2, 6, 4]
    scopes = [rows.keys(expire_after=seconds, label=str(seconds)) for seconds in durations]
    for scope in scopes:
        scope.__enter__()
    for now in range(1, 10):
        clock.advance(1)
        assert [int(fields["label"]) for _, fields in told()] == [each for each in durations if each == now]
    for scope in scopes:
        leave(scope)


def test_a_thread_that_cannot_be_started_opens_nothing(
    rows: saferocks.Rdict, clock: MovedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If there is no thread to be had, the opener fails, and nothing stays open."""

    def fail(thread: threading.Thread) -> None:
        clock.running -= 1
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        for opener in (rows.keys, rows.snapshot, rows.iter, rows.write_batch):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                opener(expire_after=5)
    assert [info.kind for info in rows.handles() if info.kind != "column_family"] == []
    assert pending_deadlines() == 0
    assert rows.audit().ok


def test_by_the_real_clock(rows: saferocks.Rdict, monkeypatch: pytest.MonkeyPatch, overdue: Texts) -> None:
    """A handle is overdue and then expires by itself, in this order and not before its time."""
    seen: list[tuple[str, float]] = []
    over = threading.Event()

    def note(event: saferocks.events.Event) -> None:
        seen.append((event.name, event.fields["age"]))
        if event.name == "saferocks.handle_expired":
            over.set()

    with monkeypatch.context() as patched:
        patched.setattr(saferocks.events, "_hooks", (note,))
        with pytest.raises(saferocks.HandleExpiredError), rows.keys(warn_after=0.01, expire_after=0.02) as keys:
            assert over.wait(WAIT)
            next(keys)
    assert [event for event, _ in seen] == ["saferocks.handle_overdue", "saferocks.handle_expired"]
    assert seen[0][1] >= 0.01
    assert seen[1][1] >= 0.02
    assert len(overdue()) <= 1  # of this line, which other tests of this process have in common with it


def test_the_real_watcher_ends(rows: saferocks.Rdict) -> None:
    """Some time after the last handle no thread is left."""
    with rows.keys(expire_after=3600):
        (thread,) = [thread for thread in threading.enumerate() if thread.name == "saferocks-deadlines"]
        assert thread.daemon
    thread.join(WAIT)
    assert not thread.is_alive()
    assert pending_deadlines() == 0


# --------------------------------------------------------------------------- between two steps of another thread


def test_an_expiring_handle_that_is_dropped_is_no_leak(rows: saferocks.Rdict, clock: MovedClock, told: Told) -> None:
    """Dropped while the watcher waits for whoever refers to it, it has expired, and is no leak besides."""
    cursor = rows.iter(expire_after=5).__enter__()
    native = cursor._record.live
    clock.advance(5)
    assert cursor._record.reason is None
    del cursor
    gc.collect()
    clock.settle()
    saferocks.check()
    assert names(told()) == ["handle_expired"]
    del native


def test_released_while_it_is_told(
    rows: saferocks.Rdict, clock: MovedClock, told: Told, overdue: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handle that is released while the event of its being overdue is logged has that taken back."""
    scope = rows.keys(warn_after=5)
    scope.__enter__()

    def log_and_leave(event: saferocks.events.Event) -> None:
        saferocks.events.log(event)
        if event.name == "saferocks.handle_overdue":
            leave(scope)

    with monkeypatch.context() as patched:
        patched.setattr(saferocks.events, "_hooks", (log_and_leave,))
        clock.advance(5)
    assert names(told()) == ["handle_overdue", "handle_returned"]
    overdue()


def test_released_while_its_lease_begins(
    rows: saferocks.Rdict, clock: MovedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handle that is released before its lease has begun leaves no deadline, and its opener says so."""

    def now_and_release() -> float:
        _life.release(list(_registry.records.values())[-1], _registry.Reason.DATABASE_CLOSED)  # type: ignore[arg-type]
        return clock.time

    with monkeypatch.context() as patched:
        patched.setattr(clock, "now", now_and_release)
        with pytest.raises(saferocks.HandleClosedError, match="when its database closed"):
            rows.keys(expire_after=5)
    assert (_leases.pending, pending_deadlines()) == ({}, 0)


def test_renewed_by_another_while_it_is_renewed(
    rows: saferocks.Rdict, clock: MovedClock, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The later of two renewals counts, also when the other has looked at the clock before it and ends after it."""
    with rows.keys(expire_after=5) as keys, monkeypatch.context() as patched:

        def now_and_renew_later() -> float:
            patched.undo()
            before = clock.time
            clock.advance(3)
            keys.renew()
            return before

        patched.setattr(clock, "now", now_and_renew_later)
        keys.renew()
        clock.advance(4.9)
        assert next(keys) == b"k000"
        clock.advance(0.1)
        assert names(told()) == ["handle_expired"]


def test_released_while_it_is_renewed(
    rows: saferocks.Rdict, clock: MovedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A renewal that a release comes before raises, and leaves neither deadline nor circle."""
    with rows.keys(expire_after=5) as keys, monkeypatch.context() as patched:
        record = keys._record
        lease = record.lease
        assert lease is not None
        kept = lease.term

        def now_and_release() -> float:
            record.reason = _registry.Reason.EXITED  # as another thread's release, which has yet to come to the lease
            return clock.time

        patched.setattr(clock, "now", now_and_release)
        with pytest.raises(saferocks.HandleClosedError):
            keys.renew()
        assert lease.term is None
        record.reason, lease.term = None, kept


def test_expired_while_it_is_renewed(
    rows: saferocks.Rdict, clock: MovedClock, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A renewal that an expiry comes before raises, also while the handle is still waiting to be released."""
    with rows.iter(expire_after=5) as cursor, monkeypatch.context() as patched:
        native, me, now = cursor._record.live, threading.get_ident(), clock.now

        def now_and_expire() -> float:
            if threading.get_ident() == me:
                patched.undo()
                clock.advance(5)
            return now()

        patched.setattr(clock, "now", now_and_expire)
        with pytest.raises(saferocks.HandleExpiredError):
            cursor.renew()
        assert cursor._record.reason is None
        del native
        clock.advance(1)
        assert cursor._record.reason is _registry.Reason.EXPIRED
    assert names(told()) == ["handle_expired"]


def test_a_bulk_writer_released_while_it_flushes(rows: saferocks.Rdict, clock: MovedClock) -> None:
    """What was gathered is then not written, the flush says so, and nothing can be added."""
    with pytest.raises(saferocks.HandleExpiredError) as raised:
        with rows.bulk_writer(expire_after=5) as bulk:
            bulk[b"new"] = b"1"
            new = bulk._new

            def expire_and_new() -> Any:
                bulk._record.expire()
                return new()

            bulk._new = expire_and_new
            with pytest.raises(saferocks.HandleExpiredError):
                bulk.flush()
            with pytest.raises(saferocks.HandleExpiredError):
                bulk[b"more"] = b"1"
    assert raised.value.__notes__[0].startswith("1 operation (")
    assert b"new" not in rows


class ExpiresAfter:
    """A native SST writer whose handle expires right after one of its calls."""

    def __init__(self, record: Any, method: str) -> None:
        self._record, self._native, self._method = record, record.live, method

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._native, name)

        def call(*arguments: Any) -> Any:
            result = function(*arguments)
            if name == self._method:
                self._record.expire()
            return result

        return call


@pytest.mark.parametrize("method", ["finish", "open"])
def test_an_sst_writer_released_between_a_call_and_its_note(tmp_path: Path, clock: MovedClock, method: str) -> None:
    """A file that is finished stays, and one that was just begun does not stay unfinished."""
    file = tmp_path / "rows.sst"
    writer = saferocks.SstFileWriter(saferocks.Options(raw_mode=True), expire_after=5)
    with writer as entered:
        if method == "finish":
            entered.open(file)
            entered[b"k"] = b"v"
        entered._record.live = ExpiresAfter(entered._record, method)
        if method == "finish":
            entered.finish()
        else:
            with pytest.raises(saferocks.HandleExpiredError):
                entered.open(file)
            entered._record.lost = None  # else leaving says it once more
    assert file.exists() == (method == "finish")


def test_leaving_a_batch_that_just_expires_tells_of_the_loss(
    rows: saferocks.Rdict, clock: MovedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `with` that ends while another thread releases its batch, which has yet to note what is lost, raises."""
    begun, go = threading.Event(), threading.Event()
    dispose = _batch_writes.BatchRecord.dispose

    def slow_dispose(record: Any, native: Any) -> None:
        begun.set()
        go.wait(WAIT)
        dispose(record, native)

    monkeypatch.setattr(_batch_writes.BatchRecord, "dispose", slow_dispose)
    batch = rows.write_batch(expire_after=5).__enter__()
    batch[b"new"] = b"1"
    releasing = threading.Thread(target=batch._record.expire)
    releasing.start()
    assert begun.wait(WAIT)
    try:
        with pytest.raises(saferocks.HandleExpiredError):
            leave(batch)
    finally:
        go.set()
        releasing.join(WAIT)


def test_leaving_an_sst_writer_that_just_expires_tells_of_the_loss(
    clock: MovedClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A `with` that ends while another thread has begun to release its writer raises, however far that has come."""
    dispose, left = _files.SstRecord.dispose, []

    def leave_elsewhere() -> None:
        try:
            leave(writer)
        except saferocks.HandleExpiredError as error:
            left.append(str(error))

    def watched_dispose(record: Any, native: Any) -> None:
        for step in (lambda: None, lambda: dispose(record, native)):
            step()
            leaving = threading.Thread(target=leave_elsewhere)
            leaving.start()
            leaving.join(WAIT)

    monkeypatch.setattr(_files.SstRecord, "dispose", watched_dispose)
    writer = saferocks.SstFileWriter(saferocks.Options(raw_mode=True), expire_after=5).__enter__()
    writer.open(tmp_path / "rows.sst")
    writer[b"a"] = b"1"
    clock.advance(5)
    assert len(left) == 2
    assert not (tmp_path / "rows.sst").exists()


def test_the_watcher_is_nobody_to_wait_for(rows: saferocks.Rdict) -> None:
    """The watcher's thread opens nothing, so a watch does not wait for it to let go of handles."""
    watch = _watch.Watch("block")
    with rows.keys(expire_after=3600):
        assert any(thread.name == "saferocks-deadlines" for thread in threading.enumerate())
        assert not watch.has_threads()
    watch.end()


def test_nothing_is_told_once_the_exit_has_been_summed_up(
    rows: saferocks.Rdict, clock: MovedClock, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the interpreter ends the watcher ends too, without a word."""
    with rows.keys(warn_after=5), monkeypatch.context() as patched:
        patched.setattr(_guard, "exited", True)
        clock.advance(5)
        assert (told(), clock.running) == ([], 0)


def test_a_scan_that_joins_its_snapshot_as_the_lease_runs_out_says_so(path: str) -> None:
    """The expiry comes between the look at the snapshot and the scan's place among its users."""
    with saferocks.open(path) as db, db.snapshot(expire_after=60) as snap:

        def expire(frame: FrameType, event: str, function: object) -> None:
            if event == "call" and frame.f_code is join_snapshot.__code__:
                sys.setprofile(None)
                snap._record.lease.expired = True
                snap._record.begin_expiry()
                assert snap._record.expire()

        sys.setprofile(expire)
        try:
            with pytest.raises(saferocks.HandleExpiredError, match="when the lease of its snapshot expired"):
                snap.keys()
        finally:
            sys.setprofile(None)
