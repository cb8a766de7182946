"""What other threads hold in thread-locals and contexts: Python finishes it in a forked child before any hook runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.systems import FORKING, needs_fork

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    Run = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = needs_fork

#: A generator that a thread has suspended in a thread-local, and a child which therefore finishes it.
PROGRAM = """
import contextlib, contextvars, os, signal, sys, threading, time
import saferocks

what, rounds, place = sys.argv[1], int(sys.argv[2]), sys.argv[3]
told = []
RAW = saferocks.Options(raw_mode=True)

def leave():
    with saferocks.open("db") as db:
        db[b"mine"] = b"1"
        yield db

def close():
    with contextlib.closing(saferocks.Rdict("db", RAW)) as db:
        db[b"mine"] = b"1"
        yield db

def put():
    with saferocks.open("db") as db:
        try:
            yield db
        finally:
            db[b"child"] = b"1"

def delete():
    with saferocks.open("db") as db:
        try:
            yield db
        finally:
            db.get_column_family("f").delete(b"a")

def commit():
    with saferocks.open("db") as db, db.write_batch() as batch:
        batch[b"child"] = b"1"
        with contextlib.suppress(GeneratorExit):
            yield db

def bulk():
    with saferocks.open("db") as db, db.bulk_writer() as bulk:
        bulk[b"child"] = b"1"
        with contextlib.suppress(GeneratorExit):
            yield db

def write():
    with saferocks.open("db") as db, saferocks.WriteBatch(raw_mode=True) as batch:
        batch[b"child"] = b"1"
        try:
            yield db
        finally:
            db.write(batch)

def flush():
    with saferocks.open("db") as db:
        try:
            yield db
        finally:
            db.flush()

def drop():
    with saferocks.open("db") as db:
        try:
            yield db
        finally:
            db.drop_column_family("f")

def read():
    with saferocks.open("db") as db, db.snapshot() as snap, db.iter() as cursor, db.items() as items:
        with snap.iter() as shared, snap.keys() as keys:
            chunks = iter(keys)
            next(chunks), cursor.seek(b"a"), shared.seek(b"a")
            try:
                yield db
            finally:
                if os.getpid() != parent:
                    USES[int(sys.argv[4])](db, snap, cursor, items, shared, chunks)

USES = (
    lambda db, snap, cursor, items, shared, chunks: db[b"a"],
    lambda db, snap, cursor, items, shared, chunks: snap[b"a"],
    lambda db, snap, cursor, items, shared, chunks: next(items),
    lambda db, snap, cursor, items, shared, chunks: list(db.keys()),
    lambda db, snap, cursor, items, shared, chunks: cursor.next(),
    lambda db, snap, cursor, items, shared, chunks: shared.next(),
    lambda db, snap, cursor, items, shared, chunks: list(chunks),
    lambda db, snap, cursor, items, shared, chunks: items.renew(),
)

def lock():
    with saferocks.open("db") as db, db.iter() as cursor:
        cursor.seek(b"a")
        lock = db._record.owner.lock  # held by this thread, which is not in the child, and moves the cursor
        lock.acquire()
        del cursor._record.still
        try:
            yield db
        finally:
            if os.getpid() != parent:
                try:
                    cursor.next()
                finally:
                    db.close()
            cursor._record.still = None
            lock.release()

def sst():
    with saferocks.SstFileWriter(RAW) as writer:
        writer.open("rows.sst")
        writer[b"a"] = b"1"
        yield writer
    assert os.path.exists("rows.sst")

def sst_finish():
    with saferocks.SstFileWriter(RAW) as writer:
        writer.open("rows.sst")
        writer[b"a"] = b"1"
        with contextlib.suppress(GeneratorExit):
            yield writer

def fresh():
    with saferocks.open("db") as db:
        try:
            yield db
        finally:
            if os.getpid() != parent:
                saferocks.open("other")

def own_batch():
    with saferocks.open("db") as db:
        try:
            yield db
        finally:
            with saferocks.WriteBatch(raw_mode=True) as batch:
                batch[b"a"] = b"1"
                told.append(batch.len())
                batch.clear()

HANDLE = ["ForkedHandleError"]
EXPECTED = {
    "put": HANDLE, "delete": HANDLE, "write": HANDLE, "flush": HANDLE, "drop": HANDLE, "read": HANDLE, "lock": HANDLE,
    "fresh": ["ForkedProcessError"], "own_batch": [1],
}
local = threading.local()
inherited = contextvars.ContextVar("inherited")

def hold(ready, go, out):
    held = globals()[what]()
    out.append(next(held))
    if place == "local":
        local.held = held
    else:
        inherited.set(held)
    del held
    ready.set()
    go.wait()
    if what == "sst":
        assert os.path.exists("rows.sst"), "the child has removed the parent's file"
    elif what == "sst_finish":
        out[0][b"b"] = b"2"  # a finished file takes no more
    else:
        assert out[0].get(b"child") is None, "a row of the child's"
        assert out[0].get_column_family("f")[b"a"] == b"1"
        out[0][b"mine"] = b"1"
    if place == "local":
        held = local.held
        del local.held
    else:
        held = inherited.get()
    with contextlib.suppress(StopIteration):
        next(held)
    if what in ("sst", "sst_finish"):
        with saferocks.open("other") as db:
            db.ingest_external_file(["rows.sst"])
            assert [db[b"a"], db.get(b"b")] == [b"1", b"2" if what == "sst_finish" else None]

def attempt(ready, go, out):
    try:
        hold(ready, go, out)
    except BaseException as error:
        out.append(error)

def wait_for(pid):
    try:
        signal.sigtimedwait([signal.SIGCHLD], 15)
        done, status = os.waitpid(pid, os.WNOHANG)
        assert done, "the child hangs"
        return os.waitstatus_to_exitcode(status)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise

def stage():
    ready, go, out = threading.Event(), threading.Event(), []
    thread = threading.Thread(target=attempt, args=(ready, go, out))
    thread.start()
    assert ready.wait(20)
    pid = os.fork()
    if not pid:  # not in the `try`: the thread may have been inside `go`, whose lock nobody gives back in the child
        sys.exit(7 if told == EXPECTED.get(what, []) else f"told {told}")
    try:
        assert (status := wait_for(pid)) == 7, status
    finally:
        go.set()
        thread.join()
    assert len(out) == 1, out

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
with saferocks.open("db") as db:
    for number in range(100):
        db[b"a%02d" % number] = db[b"a"] = b"1"
    db.create_column_family("f")[b"a"] = b"1"
parent = os.getpid()
sys.unraisablehook = lambda unraisable: (
    told.append(unraisable.exc_type.__name__) if os.getpid() != parent else sys.__unraisablehook__(unraisable)
)
for _ in range(rounds):
    told.clear()
    stage()
    with saferocks.open("db") as db:
        db.delete(b"child"), db.delete(b"mine")
        if "f" not in db.column_families:
            db.create_column_family("f")
        db.get_column_family("f")[b"a"] = b"1"
    assert not saferocks._registry.records
"""
KINDS = (
    "leave", "close", "put", "delete", "commit", "bulk", "write", "flush", "drop", "lock", "sst", "sst_finish",
    "fresh", "own_batch",
)  # fmt: skip


@pytest.fixture
def run(run_python: Run) -> Run:
    """Run the program; warnings are errors, and it must end well and quietly."""

    def run(*arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        done = run_python(PROGRAM, *arguments, flags=FORKING, timeout=timeout)
        assert (done.returncode, done.stderr) == (0, "")
        return done

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_thread_has_suspended_is_the_parents(run: Run, kind: str) -> None:
    """Leaving, closing, writing, removing: nothing of it happens in a child, which ends; the parent goes on with it."""
    run(kind, "2", "local")


@pytest.mark.parametrize("kind", ["leave", "put", "sst"])
def test_a_context_is_no_better_than_a_thread_local(run: Run, kind: str) -> None:
    """What a thread holds in a context variable is finished in the same way, and reaches nothing either."""
    run(kind, "2", "context")


@pytest.mark.parametrize("first", range(8))
def test_the_first_use_in_a_child_is_an_error_whatever_it_is(run: Run, first: int) -> None:
    """Each way of reading raises ForkedHandleError where it is the first thing that runs in a child."""
    run("read", "1", "local", str(first))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_times(run: Run, kind: str) -> None:
    """And so it is a hundred times."""
    run(kind, "100", "local", timeout=600)


UNDER_WAY = """
import contextlib, os, signal, sys, threading
begun, done = threading.Event(), threading.Event()
active = []

def wait():  # runs after saferocks' own hook, which is registered later
    if active:
        begun.set()
        assert done.wait(20)

os.register_at_fork(before=wait)
import saferocks

def rows(scan):
    return [key for key, value in scan]

def use(db, other, snap, cursor, shared, bounded, items, batch, bulk, chain, unentered, family):
    assert db[b"k05"] == b"1" and family[b"f"] == b"1" and snap[b"k05"] == b"1" and b"new" not in snap
    db[b"new"] = family[b"new"] = batch[b"batch"] = bulk[b"bulk"] = b"1"
    bulk.flush()
    bulk[b"bulk2"] = b"1"
    assert [each.key() for each in (cursor, shared, bounded)] == [b"k03", b"k04", b"k05"]
    cursor.next(), shared.next(), bounded.next()
    assert [each.key() for each in (cursor, shared, bounded)] == [b"k04", b"k05", b"k06"]
    assert next(items)[0] == b"k01" and next(chain)[0] == b"k01"
    with unentered as scan, db.snapshot() as fresh, fresh.keys(prefix=b"k") as keys, db.iter() as last:
        last.seek_to_last()
        assert last.key() == b"new" and len(list(keys)) == 99 and rows(scan)[:2] == [b"k01", b"k02"]
    db.flush()
    db.drop_column_family("g")
    items.renew()
    with saferocks.open("third") as third, third.write_batch() as own:
        own[b"a"] = b"1"
    with other._record.owner.lock:
        threads = []
        def fail():
            try:
                other.close()
            except saferocks.BusyError:
                threads.append("busy")
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join(20)
    assert threads == ["busy"] and other.get(b"none") is None
    other.close()
    try:
        other[b"a"]
    except saferocks.DatabaseClosedError:
        with saferocks.open("other"):
            return "done"

def run(outcome, *handles):
    try:
        assert begun.wait(20)
        outcome.append(use(*handles))
    except BaseException as error:
        outcome.append(repr(error))
    finally:
        done.set()

with contextlib.ExitStack() as stack:
    enter = stack.enter_context
    db, other = enter(saferocks.open("db")), enter(saferocks.open("other", close_timeout=0.1))
    for number in range(1, 100):
        db[b"k%02d" % number] = b"1"
    family, dropped = db.create_column_family("f"), db.create_column_family("g")
    family[b"f"] = b"1"
    snap, cursor, bounded = enter(db.snapshot()), enter(db.iter()), enter(db.iter(prefix=b"k"))
    shared, items, chain = enter(snap.iter()), enter(db.items(expire_after=60)), iter(enter(db.items()))
    batch, bulk, unentered = enter(db.write_batch()), enter(db.bulk_writer()), db.items()
    cursor.seek(b"k03"), shared.seek(b"k04"), bounded.seek(b"k05")
    outcome, local = [], threading.local()
    handles = db, other, snap, cursor, shared, bounded, items, batch, bulk, chain, unentered, family
    thread = threading.Thread(target=run, args=(outcome, *handles))
    thread.start()
    active.append(1)
    pid = os.fork()
    if not pid:
        signal.alarm(20)
        for use in (
            lambda: db[b"k01"], lambda: db.put(b"child", b"1"), lambda: cursor.key(), lambda: shared.key(),
            lambda: next(items), lambda: next(chain), lambda: batch.len(), lambda: bulk.flush(), lambda: family[b"f"],
        ):
            try:
                use()
            except saferocks.ForkedHandleError:
                continue
            os._exit(1)
        sys.exit(0)
    active.clear()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 and outcome == ["done"], outcome
    assert not saferocks._process.forking and db.get(b"child") is None
    assert [each.key() for each in (cursor, shared, bounded)] == [b"k04", b"k05", b"k06"]
    assert next(items)[0] == next(chain)[0] == b"k02" and len(batch) == 1 and db.get(b"bulk2") is None
    assert [db[key] for key in (b"new", b"bulk")] == [b"1"] * 2
    assert db._record.sink is db._record.live is db._record.native
with saferocks.open("db") as db:
    assert [db[key] for key in (b"batch", b"bulk2")] == [b"1"] * 2 and db.get(b"child") is None
"""


def test_while_a_fork_is_under_way_the_other_threads_go_on(run_python: Run) -> None:
    """Between the hook before a fork and the one after it, handles of every kind are used, opened, entered, released.

    Cursors keep their places, a close that fails leaves its database usable, and nothing is lost.
    """
    done = run_python(UNDER_WAY, flags=FORKING)
    assert (done.returncode, done.stderr) == (0, "")
