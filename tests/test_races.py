"""Real threads against close and drop: right results or typed errors, never a crash, a hang or a short scan.

Each test runs a child process, so that a crash is a failed test, with a watchdog that prints all stacks
and ends the child when it hangs.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    Run = Callable[..., subprocess.CompletedProcess[str]]

EAGER, USUAL = "1e-6", "0.005"  # seconds after which the interpreter switches threads

#: Seconds for a whole program; each round has a limit of its own.
LIMIT = 1500.0

CLOSE = """
    names, rounds, interval, style = sys.argv[1].split(","), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
    sys.setswitchinterval(interval)
    unraised = []
    sys.unraisablehook = lambda unraisable: unraised.append(repr(unraisable.exc_value))

    KEYS = [b"k%03d" % number for number in range(200)]
    ROWS = [(key, b"v") for key in KEYS]

    def whole(rows):  # writers write in front of these rows
        rows = [row for row in rows if row[0][:1] == b"k"]
        assert rows == ROWS, len(rows)

    def scan(db, number):
        with db.items() as items:
            whole([row for row in items])

    def backward_scan(db, number):
        with db.items(backwards=True) as items:
            whole(list(items)[::-1])

    def bounded_scan(db, number):
        with db.keys(prefix=b"k0") as keys:
            assert [key for key in keys] == KEYS[:100]

    def cursor(db, number):
        with db.iter() as cursor:
            cursor.seek(b"k100")
            for key in KEYS[100:130]:
                assert (cursor.key(), cursor.value()) == (key, b"v")
                cursor.next()

    def snapshot_scan(db, number):
        with db.snapshot() as snap, snap.items() as items, snap.keys(prefix=b"k0", backwards=True) as keys:
            assert [key for key in keys] == KEYS[:100][::-1]
            whole([row for row in items])

    def snapshot_cursor(db, number):
        with db.snapshot() as snap, snap.iter() as first, snap.iter() as second:
            first.seek(b"k000")
            second.seek(b"k199")
            for step in range(20):
                assert (first.key(), second.key()) == (KEYS[step], KEYS[-1 - step])
                assert first.value() == second.value() == b"v"
                first.next()
                second.prev()

    def point_snapshot(db, number):
        with db.snapshot(point_reads_only=True) as snap:
            assert snap[b"k007"] == b"v"
            assert snap.get(b"none") is None

    def get(db, number):
        assert db[b"k042"] == b"v"
        assert b"none" not in db

    def multi_get(db, number):  # lets go of the interpreter lock
        assert db.get(KEYS * 5) == [b"v"] * 1000

    def put(db, number):
        written = attempted[number] = attempted[number] + 1
        db[b"a%d" % number] = b"%d" % written
        acknowledged[number] = written

    def batch(db, number):
        written = attempted[number] = attempted[number] + 1
        with db.write_batch() as batch:
            batch[b"b%d" % number] = b"%d" % written
            batch[b"a%d" % number] = b"%d" % written
        acknowledged[number] = written

    def family_batch(db, number):
        written = attempted[number] = attempted[number] + 1
        with db.write_batch() as batch:
            batch.put(b"b%d" % number, b"%d" % written, db.get_column_family_handle("f"))
            batch[b"a%d" % number] = b"%d" % written
        acknowledged[number] = written

    def bulk(db, number):
        written = attempted[number] = attempted[number] + 1
        with db.bulk_writer(flush_bytes=64) as bulk:
            for _ in range(10):
                bulk.delete(b"none")
            bulk[b"a%d" % number] = b"%d" % written
        acknowledged[number] = written

    def family(db, number):
        family = db.get_column_family("f")
        family[b"n%d" % number] = b"v"
        assert family[b"n%d" % number] == b"v"

    def family_multi_get(db, number):
        family = db.get_column_family("f")
        while True:  # until it is refused
            assert family.get([b"k", b"none"] * 200) == [b"v", None] * 200

    def family_scan(db, number):
        with db.get_column_family("f").keys(prefix=b"k") as keys:
            assert list(keys) == [b"k"]

    def flush(db, number):
        db.flush()

    def compact(db, number):
        db.compact_range(None, None)

    def checkpoint(db, number):
        with db.checkpoint():
            pass

    def memory(db, number):
        assert db.memory().memtables > 0

    def audit(db, number):
        assert db.audit().unchecked == ()

    def handles(db, number):
        assert all(info.database for info in db.handles())
        saferocks.open_handles()

    def leak(db, number):
        db.items()
        db.snapshot().__enter__()

    def cycle(db, number):
        class Node: pass
        node = Node()
        node.itself, node.items, node.snap = node, db.items(), db.snapshot().__enter__()
        next(node.items)

    def close(db, number):  # at some moment, as the main thread does, and not before all others
        while not due():
            db.latest_sequence_number()
        db.close()

    def due():  # each of the others has had a turn by now, and this round some
        return sum(out.values()) >= turns and others <= out.keys()

    def collect(db, number):
        gc.collect()
        db.latest_sequence_number()

    actions = [globals()[name] for name in names]

    def run(db, number, action):
        ready.release()
        while True:
            try:
                action(db, number)
                count(action.__name__)
            except saferocks.SaferocksError as error:
                count("refused")
                if isinstance(error, saferocks.HandleClosedError):
                    break
                if isinstance(error, saferocks.LeakedHandlesError):
                    break
            except BaseException:
                sys.excepthook(*sys.exc_info())
                fail(action.__name__, "in round", round)
            if action is close:
                break

    def open_database(path="db"):
        if style == "plain":
            return saferocks.Rdict(path, raw_mode=True, close_timeout=20.0, statistics="audit" in names)
        return saferocks.open(path, close_timeout=20.0, statistics="audit" in names).__enter__()

    with saferocks.open("db") as db:
        for key, value in ROWS:
            db[key] = value
        db.create_column_family("f")[b"k"] = b"v"

    attempted, acknowledged = collections.Counter(), collections.Counter()
    ready = threading.Semaphore(0)
    others = set(names) - {"close", "family_multi_get"}
    for round in timed(rounds):
        db = open_database()
        turns = sum(out.values()) + random.randrange(12)
        threads = [threading.Thread(target=run, args=(db, number, action)) for number, action in enumerate(actions)]
        for thread in threads:
            thread.start()
        for _ in threads:
            ready.acquire()
        while not due() and any(thread.is_alive() for thread in threads):
            pass
        before = time.monotonic()
        try:
            db.close()
        except BaseException as error:
            sys.excepthook(*sys.exc_info())
            fail("close in round", round)
        took = time.monotonic() - before
        if took > 10:
            fail("close took", took)
        done = dict(acknowledged)
        try:
            again = saferocks.open("db").__enter__()
        except saferocks.SaferocksError as error:
            fail("the path does not reopen in round", round, error)
        for number, written in done.items():
            found = int(again[b"a%d" % number])
            if not written <= found <= attempted[number]:
                fail("written", written, "found", found, "attempted", attempted[number])
        with again.items(prefix=b"k") as items:
            whole(list(items))
        again.close()
        join(threads)
        del db, again, threads, thread
        gc.collect()
        if saferocks.open_handles():
            fail("left open in round", round, saferocks.open_handles())
    if unraised:
        fail("unraisable", collections.Counter(unraised))
    print(json.dumps(out))
"""

GROUPS = {
    "scans": "scan,bounded_scan,backward_scan,cursor",
    "snapshots": "snapshot_scan,snapshot_cursor,point_snapshot",
    "families": "family,family_multi_get,family_scan,family_batch",
    "writers": "put,batch,bulk,family_batch",
    "unlocked": "multi_get,flush,compact,family_multi_get",
    "openers": "checkpoint,handles,memory,audit,scan",
    "closers": "close,close,scan,put,multi_get",
    "leaks": "leak,cycle,collect,scan",
    "everything": "scan,snapshot_scan,cursor,multi_get,put,family_batch,flush,compact,family,leak,memory,handles",
}


def outcome(run: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Return what happened how often in a child that ended well."""
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
    counts: dict[str, int] = json.loads(run.stdout.splitlines()[-1])
    return counts


@pytest.mark.parametrize(
    ("group", "style"),
    [*((group, "scoped") for group in GROUPS if group != "everything"), ("families", "plain"), ("scans", "plain")],
)
def test_close_against_threads(run_race: Run, group: str, style: str) -> None:
    """A close in the midst of other threads' work is clean, the path reopens at once, and no write is lost."""
    counts = outcome(run_race(CLOSE, GROUPS[group], "4", EAGER, style, timeout=90))
    assert counts["refused"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("interval", [EAGER, USUAL], ids=["eager", "usual"])
@pytest.mark.parametrize("style", ["scoped", "plain"])
@pytest.mark.parametrize("group", GROUPS)
def test_close_against_threads_for_long(run_race: Run, group: str, style: str, interval: str) -> None:
    """A close in the midst of other threads' work is clean in each of more than a hundred rounds."""
    counts = outcome(run_race(CLOSE, GROUPS[group], "120", interval, style, timeout=LIMIT))
    assert set(GROUPS[group].split(",")) - {"family_multi_get"} <= set(counts)


DROP = """
    rounds, interval = int(sys.argv[1]), float(sys.argv[2])
    sys.setswitchinterval(interval)

    def point(db):
        family = db.get_column_family("x")
        family[b"a"] = b"v"
        assert family[b"a"] == b"v"

    def fresh_point(db):
        assert db.get_column_family("x").get(b"none") is None

    def unlocked(db):
        assert db.get_column_family("x").get([b"none"] * 500) == [None] * 500

    def batch(db):
        with db.write_batch() as batch:
            batch.put(b"b", b"v", db.get_column_family_handle("x"))
            batch[b"b"] = b"v"

    def default_batch(db):
        with db.write_batch() as batch:
            batch.set_default_column_family(db.get_column_family_handle("x"))
            batch[b"c"] = b"v"

    def scan(db):
        with db.get_column_family("x").items() as items:
            assert all(value == b"v" for _, value in items)

    def snapshot(db):
        with db.snapshot(column_families=["x"]) as snap, snap.get_column_family("x").keys() as keys:
            assert set(keys) <= {b"a", b"b", b"c"}

    def flush(db):
        db.get_column_family("x").flush()

    def memory(db):
        db.memory()

    def run(db, action, stop):
        while not stop.is_set():
            try:
                action(db)
                count(action.__name__)
            except saferocks.ConcurrentUseError:
                count("concurrent")
            except (saferocks.ColumnFamilyDroppedError, saferocks.ColumnFamilyNotFoundError):
                count("dropped")
                time.sleep(0)  # gives way: without it the dropping thread waits 20 ms for each of its steps
            except BaseException:
                sys.excepthook(*sys.exc_info())
                fail(action.__name__, "in round", round)

    actions = [point, fresh_point, unlocked, batch, default_batch, scan, snapshot, flush, memory]
    for round in timed(rounds):
        with saferocks.open("db", close_timeout=20.0) as db:
            stop = threading.Event()
            threads = [threading.Thread(target=run, args=(db, action, stop)) for action in random.sample(actions, 4)]
            for thread in threads:
                thread.start()
            try:
                for number in range(4):
                    db.create_column_family("x")
                    for _ in range(random.randrange(3000)):
                        pass
                    before = time.monotonic()
                    db.drop_column_family("x")
                    if time.monotonic() - before > 10:
                        fail("drop took", time.monotonic() - before)
                    db[b"after"] = b"%d" % number  # fails if a write reached the family that is gone
                    count("drops")
            except BaseException:
                sys.excepthook(*sys.exc_info())
                fail("in round", round)
            stop.set()
            join(threads)
            db.flush()
        with saferocks.open("db") as db:
            assert db.column_families == ("default",), db.column_families
            assert db[b"after"] == b"3"
    print(json.dumps(out))
"""


@pytest.mark.parametrize(
    ("rounds", "interval"),
    [
        (6, EAGER),
        pytest.param(400, EAGER, marks=pytest.mark.slow),
        pytest.param(400, USUAL, marks=pytest.mark.slow),
    ],
)
def test_drop_against_threads(run_race: Run, rounds: int, interval: str) -> None:
    """A column family dropped under its users makes their calls fail, and no write of anybody else."""
    counts = outcome(run_race(DROP, str(rounds), interval, timeout=LIMIT))
    assert counts["drops"] == 4 * rounds
    assert counts["dropped"] > 0


SHARED = """
    kind, rounds = sys.argv[1], int(sys.argv[2])
    sys.setswitchinterval(1e-6)
    keys = [b"%d" % number for number in range(10)]

    def cursor(source, number):
        for step in range(40):
            if number == 0:
                shared.seek(b"7")
            elif shared.valid():
                (shared.next if step % 3 else shared.prev)()
            else:
                shared.seek_to_first()
            assert shared.key() in (None, *keys)

    def scan(source, number):
        while True:
            try:
                rows.append(next(shared))
            except StopIteration:
                return
            except saferocks.ConcurrentUseError:
                count("refused")
            except ValueError as error:  # Python's own, from one and the same `iter(scan)`
                assert kind.endswith("iterator") and str(error) == "generator already executing"
                count("refused")

    def loops(source, number):
        for row in shared:
            rows.append(row)

    def run(source, action, number):
        barrier.wait()
        while True:
            try:
                action(source, number)
                count("fine")
                return
            except (saferocks.ConcurrentUseError, saferocks.InvalidArgumentError):
                count("refused")
                if action is loops:
                    return
            except BaseException:
                sys.excepthook(*sys.exc_info())
                fail("in round", round)

    with saferocks.open("db") as db:
        for key in keys:
            db[key] = b"v"
        with db.snapshot() as snap:
            for round in timed(rounds):
                source = snap if kind.startswith("snapshot") else db
                action = cursor if kind.endswith("cursor") else loops if kind.endswith("loops") else scan
                bounds = {"lower_bound": b"0", "upper_bound": b":"} if round % 2 else {}
                with source.iter(**bounds) if action is cursor else source.keys(**bounds) as shared:
                    if kind.endswith("iterator"):
                        shared = iter(shared)
                    rows = []
                    barrier = threading.Barrier(3)
                    threads = [threading.Thread(target=run, args=(source, action, number)) for number in range(3)]
                    for thread in threads:
                        thread.start()
                    join(threads)
                    if action is not cursor and sorted(rows) != keys:
                        fail("rows", sorted(rows))
    print(json.dumps(out))
"""


@pytest.mark.parametrize("rounds", [20, pytest.param(1500, marks=pytest.mark.slow)], ids=["short", "long"])
@pytest.mark.parametrize("source", ["database", "snapshot"])
@pytest.mark.parametrize("kind", ["cursor", "scan", "iterator", "loops"])
def test_one_iterator_shared_by_threads(run_race: Run, source: str, kind: str, rounds: int) -> None:
    """Threads that share one cursor or scan get each row once, or an error that says so, and never crash."""
    counts = outcome(run_race(SHARED, f"{source}_{kind}", str(rounds), timeout=LIMIT))
    assert counts["fine"] >= rounds


VIEWS = """
    rounds = int(sys.argv[1])
    sys.setswitchinterval(1e-6)

    # Threads scan one snapshot of their own while another one releases it.
    def read(snap):
        ready.release()
        try:
            while True:
                with snap.keys() as keys, snap.iter() as cursor:
                    cursor.seek_to_first()
                    assert len([key for key in keys]) == 50
                    assert cursor.key() == b"00"
                    cursor.next()
                    assert cursor.value() == b"v"
                assert snap[b"07"] == b"v"
                count("read")
        except saferocks.HandleClosedError as error:
            if "database closed" in str(error):
                fail("named the wrong reason:", error)
            count("refused")
        except BaseException:
            sys.excepthook(*sys.exc_info())
            fail("in round", round)

    ready = threading.Semaphore(0)
    with saferocks.open("db", statistics=True) as db:
        for number in range(50):
            db[b"%02d" % number] = b"v"
        for round in timed(rounds):
            with db.snapshot() as snap:
                threads = [threading.Thread(target=read, args=(snap,)) for _ in range(3)]
                for thread in threads:
                    thread.start()
                for _ in threads:
                    ready.acquire()
                for _ in range(random.randrange(3000)):
                    pass
            join(threads)
            report = db.audit()
            if not report.ok or report.live_iterators or report.live_snapshots:
                fail("left", report)
    print(json.dumps(out))
"""


@pytest.mark.parametrize("rounds", [20, pytest.param(2000, marks=pytest.mark.slow)], ids=["short", "long"])
def test_a_snapshot_released_under_its_readers(run_race: Run, rounds: int) -> None:
    """Scans and cursors of a snapshot that another thread releases raise HandleClosedError, and nothing stays."""
    counts = outcome(run_race(VIEWS, str(rounds), timeout=LIMIT))
    assert counts["refused"] == 3 * rounds


FALSE_LEAKS = """
    rounds = int(sys.argv[1])
    sys.setswitchinterval(1e-6)

    def run(db):
        ready.release()
        try:
            while True:
                with db.items() as items:
                    next(items, None)
                count("fine")
        except saferocks.HandleClosedError:
            pass

    ready = threading.Semaphore(0)
    for round in timed(rounds):
        db = saferocks.open("db", policy="raise").__enter__()
        threads = [threading.Thread(target=run, args=(db,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in threads:
            ready.acquire()
        leaked = 0
        try:
            db.close()
        except saferocks.LeakedHandlesError as error:
            leaked = sum(leak.count for leak in error.leaks)
            if {leak.escape for leak in error.leaks} != {"still open when its database closed"}:
                fail(error)
        join(threads)
        if leaked > 2:
            fail("two threads held a handle each, and leaked", leaked)
        count("leaked", leaked)
        try:
            saferocks.check()
        except saferocks.LeakedHandlesError as error:
            fail("after the close:", error)
    print(json.dumps(out))
"""


@pytest.mark.parametrize("rounds", [20, pytest.param(1500, marks=pytest.mark.slow)], ids=["short", "long"])
def test_no_leak_is_invented(run_race: Run, rounds: int) -> None:
    """A close under the policy `raise` names no more handles than the other threads had open."""
    assert outcome(run_race(FALSE_LEAKS, str(rounds), timeout=LIMIT))["fine"] > 0


COLLECTOR = """
    rounds = int(sys.argv[1])
    sys.unraisablehook = lambda unraisable: fail("unraisable", repr(unraisable.exc_value))

    class Node: pass

    def litter(db):
        node = Node()
        node.itself, node.snap = node, db.snapshot().__enter__()
        node.items = node.snap.items().__enter__()
        next(node.items)
        node.batch = saferocks.WriteBatch(raw_mode=True)

    saferocks.configure(policy="ignore")
    for round in timed(rounds):
        with saferocks.open("db", statistics=True) as db:
            if round == 0:
                db.create_column_family("f")
            for number in range(20):
                db[b"%02d" % number] = b"v"
            gc.set_threshold(1 + round % 7, 1 + round % 3, 1)
            for number in range(10):
                litter(db)
                with db.snapshot(column_families=["f"]) as snap, snap.items() as items, db.keys() as keys:
                    litter(db)
                    assert len(list(items)) == len(list(keys)) == 20
                    db.handles()
                with db.write_batch() as batch:
                    litter(db)
                    batch.put(b"00", b"v", db.get_column_family_handle("f"))
                db.memory()
                saferocks.open_handles()
                with db.iter() as cursor:
                    cursor.seek_to_last()
                    litter(db)
                    assert cursor.key() == b"19"
            gc.set_threshold(700, 10, 10)
            gc.collect()
            report = db.audit()
            if not report.ok or report.live_iterators or report.live_snapshots or len(db.handles()) > 40:
                fail(report, len(db.handles()))
    print(json.dumps({"rounds": rounds}))
"""


@pytest.mark.parametrize("rounds", [3, pytest.param(500, marks=pytest.mark.slow)], ids=["short", "long"])
def test_finalizers_inside_every_call(run_race: Run, rounds: int) -> None:
    """With a collection at nearly every allocation, leaked handles are released inside other calls, unharmed."""
    assert outcome(run_race(COLLECTOR, str(rounds), timeout=LIMIT))["rounds"] == rounds


CLOSED_WHILE_EXECUTING = """
    import faulthandler, sys, threading, time
    from saferocks._rows import close as close_rows

    faulthandler.dump_traceback_later(60, exit=True)
    sys.setswitchinterval(1e-6)

    class Called:
        def __call__(self, number):
            return number

    # Calls of ever other kinds: the counters that Python keeps in the code of such a generator take on any value.
    FUNCTIONS = [type, Called(), int, lambda number: number, abs, str, Called()]

    def rows():
        number = 0
        while True:
            number += 1
            FUNCTIONS[number % 7](number)
            FUNCTIONS[number * 3 % 7](number)
            if number % 50 == 0:
                yield number

    def close():
        while found := current[:1]:
            close_rows(found[0])

    current = [rows()]
    threads = [threading.Thread(target=close, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + float(sys.argv[1])
    while time.monotonic() < end:
        taken = current[0] = rows()
        for _ in taken:
            pass
    current.clear()
    for thread in threads:
        thread.join()
"""


@pytest.mark.parametrize("seconds", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_a_scan_is_never_closed_while_another_thread_executes_it(run_python: Run, seconds: float) -> None:
    """Python 3.11 and 3.12 may crash then; the release waits until the thread is between two rows."""
    run = run_python(CLOSED_WHILE_EXECUTING, str(seconds))
    assert (run.returncode, run.stderr) == (0, "")


BULK_WRITERS = """
import sys, threading
import saferocks

sys.setswitchinterval(1e-6)
written = set()

def write(bulk, first):
    for number in range(first, 3000, 2):
        key = b"%05d" % number
        try:
            bulk[key] = b"v"
        except saferocks.HandleClosedError:
            continue  # the other thread had written the batch, and this one is told
        written.add(key)

with saferocks.open("db") as db:
    with db.bulk_writer(flush_bytes=200) as bulk:
        threads = [threading.Thread(target=write, args=(bulk, first)) for first in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with db.keys() as keys:
        print(len(written - set(keys)))
"""


def test_two_threads_lose_no_row_of_a_bulk_writer(run_python: Run) -> None:
    """What either of two threads has written with one bulk writer, without an error, is in the database."""
    done = run_python(BULK_WRITERS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")
