"""Defects of rocksdict in closing (D6, D7): what saferocks does, and a canary for each."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import rocksdict

import saferocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Job = Callable[[], Any]

ROWS = 2000
#: Enough keys for a multi-get of about a second, most of it without the interpreter lock.
MANY_KEYS = [b"k%04d" % (number % ROWS) for number in range(400_000)]
PATIENCE = 60.0


@pytest.fixture
def big_db(path: str) -> Iterator[saferocks.Rdict]:
    """An entered database on which a multi-get takes long."""
    with saferocks.open(path) as db:
        for number in range(ROWS):
            db[b"k%04d" % number] = b"v"
        db.flush()
        yield db


@pytest.fixture
def in_thread() -> Iterator[Callable[[Job], Thread]]:
    """Run a function in a thread, which the end of the test waits for."""
    threads: list[Thread] = []

    def start(job: Job) -> Thread:
        thread = Thread(job)
        threads.append(thread)
        thread.start()
        return thread

    yield start
    for thread in threads:
        thread.join(PATIENCE)


class Thread(threading.Thread):
    """A thread that keeps what its function returned or raised."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self._job = job
        self.outcome: Any = None

    def run(self) -> None:
        try:
            self.outcome = self._job()
        except BaseException as error:
            self.outcome = error

    def result(self) -> Any:
        """Wait for the function and return what it returned or raised."""
        self.join(PATIENCE)
        assert not self.is_alive()
        return self.outcome


def wait_until_a_call_is_inside(database: Any, thread: Thread, write_options: Any) -> bool:
    """Wait until another thread's call is inside the database; False if it was over before that was seen.

    Setting options needs the database to itself, which is how such a call shows from outside.
    """
    while thread.is_alive():
        try:
            database.set_write_options(write_options)
        except (RuntimeError, saferocks.ConcurrentUseError):
            return True
    return False


def test_d06_close_waits_for_a_call_in_flight(
    path: str, big_db: saferocks.Rdict, in_thread: Callable[[Job], Thread]
) -> None:
    """A close during another thread's multi-get waits for it; the multi-get is whole and the path is free."""
    reader = in_thread(lambda: big_db.get(MANY_KEYS))
    assert wait_until_a_call_is_inside(big_db, reader, saferocks.WriteOptions())
    big_db.close()
    with saferocks.open(path) as again:
        assert again[b"k0000"] == b"v"
    assert reader.result() == [b"v"] * 400_000


def test_d06_close_waits_for_a_call_on_a_column_family(
    path: str, big_db: saferocks.Rdict, in_thread: Callable[[Job], Thread]
) -> None:
    """A close during a multi-get on a column family waits for that as well."""
    users = big_db.create_column_family("users")
    reader = in_thread(lambda: users.get(MANY_KEYS))
    assert wait_until_a_call_is_inside(users, reader, saferocks.WriteOptions())
    big_db.close()
    with saferocks.open(path) as again:
        assert again.column_families == ("default", "users")
    assert reader.result() == [None] * 400_000


def test_d06_a_close_that_cannot_wait_leaves_everything_open(path: str, in_thread: Callable[[Job], Thread]) -> None:
    """A close that runs out of time raises BusyError, and the database and all its handles are as before."""
    with saferocks.open(path, close_timeout=0.05) as db:
        users = db.create_column_family("users")
        users[b"u"] = b"1"
        for number in range(ROWS):
            db[b"k%04d" % number] = b"v"
        with db.items() as items, db.iter() as cursor, db.snapshot() as snap, db.write_batch() as batch:
            first = next(items)
            cursor.seek(b"k0005")
            batch[b"b"] = b"1"
            reader = in_thread(lambda: db.get(MANY_KEYS))
            assert wait_until_a_call_is_inside(db, reader, saferocks.WriteOptions())
            with pytest.raises(saferocks.BusyError, match=r"stays open.*longer close_timeout"):
                db.close()
            assert reader.is_alive()
            assert (first, next(items)) == ((b"k0000", b"v"), (b"k0001", b"v"))
            assert (cursor.key(), snap[b"k0000"], users[b"u"], db[b"k0000"]) == (b"k0005", b"v", b"1", b"v")
            with snap.keys(prefix=b"k000") as keys:
                assert len(list(keys)) == 10
            db[b"new"] = b"2"
            batch[b"c"] = b"2"
            assert reader.result() == [b"v"] * 400_000
        assert db.get([b"b", b"c", b"new"]) == [b"1", b"2", b"2"]
    with saferocks.open(path) as again:
        assert again[b"new"] == b"2"


def test_d06_close_can_be_tried_again(path: str, in_thread: Callable[[Job], Thread]) -> None:
    """After a BusyError, a close succeeds once the call in flight is over."""
    with saferocks.open(path, close_timeout=0.05) as db:
        for number in range(ROWS):
            db[b"k%04d" % number] = b"v"
        reader = in_thread(lambda: db.get(MANY_KEYS))
        assert wait_until_a_call_is_inside(db, reader, saferocks.WriteOptions())
        with pytest.raises(saferocks.BusyError):
            db.close()
        reader.result()
        db.close()
        with saferocks.open(path) as again:
            assert again[b"k0000"] == b"v"


def test_d06_a_held_busy_error_does_not_hold_the_path(path: str, in_thread: Callable[[Job], Thread]) -> None:
    """While the BusyError of an earlier close is being held, the next close succeeds and the path is free."""
    with saferocks.open(path, close_timeout=0.05, policy="ignore") as db:
        users = db.create_column_family("users")
        for number in range(ROWS):
            users[b"k%04d" % number] = b"v"
        scan, cursor, snap = db.items().__enter__(), db.iter().__enter__(), db.snapshot().__enter__()
        reader = in_thread(lambda: users.get(MANY_KEYS))
        assert wait_until_a_call_is_inside(users, reader, saferocks.WriteOptions())
        with pytest.raises(saferocks.BusyError) as held:
            db.close()
        reader.result()
        db.close()
        with saferocks.open(path) as again:
            assert again.column_families == ("default", "users")
    assert held.value.code == 11
    del scan, cursor, snap


@pytest.mark.parametrize("call", ["flush", "compact_range"])
def test_d06_close_waits_for_a_flush_or_compaction(
    path: str, big_db: saferocks.Rdict, in_thread: Callable[[Job], Thread], call: str
) -> None:
    """A close while another thread flushes or compacts again and again ends that thread with DatabaseClosedError."""
    begun = threading.Event()

    def work() -> None:
        while True:
            big_db[b"k0000"] = b"w"
            begun.set()
            if call == "flush":
                big_db.flush()
            else:
                big_db.compact_range(None, None)

    worker = in_thread(work)
    assert begun.wait(PATIENCE)
    big_db.close()
    with saferocks.open(path) as again:
        assert again[b"k0000"] == b"w"
    assert isinstance(worker.result(), saferocks.DatabaseClosedError)


def test_d06_canary_close_fails_during_a_call(path: str, in_thread: Callable[[Job], Thread]) -> None:
    """In rocksdict, a close during another thread's multi-get raises `Already borrowed` and closes nothing."""
    bare = rocksdict.Rdict(path, rocksdict.Options(raw_mode=True))
    for number in range(ROWS):
        bare[b"k%04d" % number] = b"v"
    reader = in_thread(lambda: bare.get(MANY_KEYS))
    assert wait_until_a_call_is_inside(bare, reader, rocksdict.WriteOptions())
    with pytest.raises(RuntimeError, match="Already borrowed"):
        bare.close()
        pytest.fail("D6 is mended: saferocks._in_use.close_native need not wait for calls in flight")
    assert reader.result() == [b"v"] * 400_000
    assert bare[b"k0000"] == b"v"
    bare.close()


def test_d07_closing_twice_is_no_error(path: str) -> None:
    """A second close, by hand or by leaving the `with` block, does nothing."""
    with saferocks.open(path) as db:
        db.close()
        db.close()
    db.close()
    with saferocks.open(path) as again:
        assert again.path() == path


def test_d07_closing_a_column_family_twice_is_no_error(path: str) -> None:
    """A column family can be closed twice, and again after its database."""
    with saferocks.open(path) as db:
        users = db.create_column_family("users")
        users.close()
        users.close()
        db[b"k"] = b"v"
    users.close()


def test_d07_closing_in_many_threads_is_no_error(path: str, in_thread: Callable[[Job], Thread]) -> None:
    """Of many threads that close one database together none gets an error, and afterwards the path is free."""
    with saferocks.open(path) as db:
        gate = threading.Barrier(8)

        def close() -> str:
            gate.wait(PATIENCE)
            db.close()
            return "closed"

        threads = [in_thread(close) for _ in range(8)]
        assert [thread.result() for thread in threads] == ["closed"] * 8
    with saferocks.open(path) as again:
        assert again.path() == path


def test_d07_canary_a_second_close_raises(path: str) -> None:
    """In rocksdict, closing twice raises DbClosedError."""
    bare = rocksdict.Rdict(path, rocksdict.Options(raw_mode=True))
    bare.close()
    with suppress(rocksdict.DbClosedError):
        bare.close()
        pytest.fail("D7 is mended: saferocks._in_use.close_native need not ignore DbClosedError")
