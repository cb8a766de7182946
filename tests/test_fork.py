"""Forked children: inherited handles are dead, the child ends with its own status, the parent notices nothing (D14)."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

import saferocks
from tests.systems import FORKING, needs_fork

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = needs_fork

#: What each of the programs begins with. `SIGALRM` ends a child that hangs, with a status of its own.
PRELUDE = """
import atexit, contextlib, gc, json, multiprocessing, os, signal, sys, threading
import saferocks

def fork():
    pid = os.fork()
    if not pid:
        signal.alarm(20)
    return pid

def status_of(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def fill(db, rows=1000):
    for number in range(rows):
        db[b"%06d" % number] = b"v" * 50
"""


@pytest.fixture
def run(run_python: Run) -> Run:
    """Run a program that begins with the prelude; warnings are errors, and it must end well and quietly."""

    def run(program: str, *arguments: str, quiet: bool = True) -> subprocess.CompletedProcess[str]:
        done = run_python(PRELUDE + program, *arguments, flags=FORKING)
        assert done.returncode == 0, done.stderr
        assert not quiet or done.stderr == ""
        return done

    return run


USES = """
with contextlib.ExitStack() as stack:
    enter = stack.enter_context
    db = enter(saferocks.open("db", allow_pickle=True))
    fill(db)
    family = db.create_column_family("f")
    family[b"a"] = b"1"
    items, begun, keys = enter(db.items()), enter(db.items()), enter(db.keys(lower_bound=b"000010"))
    snap = enter(db.snapshot(column_families=["f"]))
    points = enter(db.snapshot(point_reads_only=True))
    seen, view = enter(snap.values()), snap.get_column_family("f")
    cursor, bounded, moving = enter(db.iter()), enter(db.iter(prefix=b"0000")), enter(db.iter())
    del moving._record.still  # as by a thread that was moving it, and is not in the child
    batch, bulk, checkpoint = enter(db.write_batch()), enter(db.bulk_writer()), enter(db.checkpoint())
    free, writer = enter(saferocks.WriteBatch(raw_mode=True)), enter(saferocks.SstFileWriter(saferocks.Options(True)))
    writer.open("rows.sst")
    writer[b"a"] = b"1"
    unentered, shared = db.items(), enter(snap.iter())
    chain, chain_seen, chain_keys = iter(begun), iter(seen), iter(keys)
    next(chain), next(chain_seen), next(chain_keys), cursor.seek_to_first()
    batch[b"lost"] = bulk[b"lost"] = b"1"
    free[b"a"] = b"1"
    USES = {
        "get": lambda: db[b"000000"], "get many": lambda: db[[b"000000"]], "in": lambda: b"a" in db,
        "put": lambda: db.put(b"child", b"1"), "assign": lambda: db.__setitem__(b"child", b"1"),
        "delete": lambda: db.__delitem__(b"000001"), "flush": lambda: db.flush(),
        "compact": lambda: db.compact_range(None, None), "memory": lambda: db.memory(), "audit": lambda: db.audit(),
        "handles": lambda: db.handles(), "property": lambda: db.property_value("rocksdb.stats"),
        "family": lambda: family[b"a"], "family put": lambda: family.put(b"a", b"2"),
        "get family": lambda: db.get_column_family("f"), "make family": lambda: db.create_column_family("g"),
        "drop family": lambda: db.drop_column_family("f"),
        "open scan": lambda: db.items(), "open cursor": lambda: db.iter(), "open snapshot": lambda: db.snapshot(),
        "open batch": lambda: db.write_batch(), "open checkpoint": lambda: db.checkpoint(),
        "step": lambda: next(items), "loop": lambda: list(items), "go on": lambda: next(chain),
        "rest": lambda: list(chain), "bounded rest": lambda: list(chain_keys),
        "enter": lambda: unentered.__enter__(), "iterate unentered": lambda: list(unentered),
        "snapshot get": lambda: snap[b"000000"], "snapshot scan": lambda: snap.items(),
        "snapshot rest": lambda: list(chain_seen), "snapshot cursor": lambda: shared.seek(b"a"),
        "view": lambda: view[b"a"], "point snapshot": lambda: points[b"000000"],
        "moving": lambda: moving.next(), "moving seek": lambda: moving.seek(b"a"),
        "seek": lambda: cursor.seek(b"a"), "key": lambda: cursor.key(), "next": lambda: cursor.next(),
        "bounded seek": lambda: bounded.seek_to_first(),
        "batch put": lambda: batch.__setitem__(b"a", b"1"), "batch length": lambda: batch.len(),
        "bulk put": lambda: bulk.__setitem__(b"a", b"1"), "bulk flush": lambda: bulk.flush(),
        "free batch": lambda: free.__setitem__(b"a", b"1"), "write free batch": lambda: db.write(free),
        "copy": lambda: checkpoint.create("copy"),
        "sst put": lambda: writer.__setitem__(b"b", b"1"), "sst finish": lambda: writer.finish(),
    }
    pid = fork()
    if not pid:
        found = {}
        for name, use in USES.items():
            for attempt in (1, 2):
                try:
                    found[name] = repr(use())
                except saferocks.ForkedHandleError as error:
                    found[name] = str(error)
                except BaseException as error:
                    found[name] = repr(error)
        with open("found.json", "w") as file:
            json.dump(found, file)
        db.close()
        unentered.__exit__(None, None, None)
        sys.exit(3)
    assert status_of(pid) == 3
    moving._record.still = None
    assert len(list(chain)) == 999 and snap[b"000000"] and cursor.key() == b"000000"
    assert not db.get(b"child") and db.audit()
    with unentered:
        pass
    writer[b"b"] = b"2"
    db.write(free)
assert os.path.exists("rows.sst") and not os.path.exists("copy")
with saferocks.open("db", column_families=None) as db:
    assert db[b"lost"] == b"1" and b"child" not in db and db[b"000001"]
"""


def test_every_use_of_an_inherited_handle_is_an_error_that_names_its_line(run: Run, tmp_path: Path) -> None:
    """Each method of each kind of handle raises ForkedHandleError, again and again, with line and remedy."""
    run(USES)
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found) > 40
    remedy = "open databases after the fork, or start children with 'spawn' or 'forkserver'"
    odd = {name: text for name, text in found.items() if "program.py:" not in text or remedy not in text}
    assert odd == {}


ENDINGS = {
    "falls off the end": ("pass", 0),
    "exits with 3": ("sys.exit(3)", 3),
    "raises SystemExit 7": ("raise SystemExit(7)", 7),
    "fails": ("sys.excepthook = lambda *_: None; raise LookupError", 1),
    "ends at once": ("os._exit(4)", 4),
    "is killed": ("os.kill(os.getpid(), signal.SIGKILL)", -9),
}
END = """
ending = sys.argv[1]
stop = threading.Event()
running = threading.Barrier(4)

def write(number):
    running.wait()
    turn = 0
    while not stop.is_set():
        db[b"w%d-%d" % (number, turn % 300)] = b"x" * 500
        turn += 1
        if turn % 200 == 0:
            db.flush()

def scan():
    running.wait()
    while not stop.is_set():
        with db.snapshot() as snap, snap.items() as items:
            for row in items:
                if stop.is_set():
                    break

with saferocks.open("db") as db:
    fill(db)
    threads = [threading.Thread(target=write, args=(number,)) for number in (1, 2)] + [threading.Thread(target=scan)]
    for thread in threads:
        thread.start()
    running.wait()
    try:
        with db.items() as items, db.snapshot() as snap, db.write_batch() as batch:
            next(items)
            batch[b"b"] = b"1"
            pids = []
            for round in range(int(sys.argv[2])):
                pid = fork()
                if not pid:
                    atexit.register(lambda: print("at exit", flush=True))
                    exec(ending)
                    break
                assert (got := status_of(pid)) == int(sys.argv[3]), (round, got)
    finally:
        if pid:
            stop.set()
            for thread in threads:
                thread.join()
if pid:
    with saferocks.open("db") as db:
        assert db[b"b"] == b"1"
        fill(db)
"""


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_child_ends_with_its_own_status(run: Run, ending: str) -> None:
    """Whatever the parent's threads do meanwhile, a child ends as it would without a database, quietly."""
    code, status = ENDINGS[ending]
    done = run(END, code, "5", str(status))
    assert done.stdout.count("at exit") == (5 if "at once" not in ending and "killed" not in ending else 0)


@pytest.mark.slow
@pytest.mark.parametrize("switching", ["", "sys.setswitchinterval(1e-6)"])
def test_500_children_end_with_their_own_status(run_python: Run, switching: str) -> None:
    """Five hundred forks in the midst of writes, flushes and scans: none hangs, none crashes, none is noticed."""
    done = run_python(PRELUDE + switching + END, "sys.exit(7)", "500", "7", flags=FORKING, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")


DESTROY_NOTHING = """
options = saferocks.Options(raw_mode=True)
# The child reads the statistics, and a thread of RocksDB's that does so in the parent may hold their lock as it forks.
options.set_stats_dump_period_sec(0)
options.set_stats_persist_period_sec(0)
with saferocks.open("db", options=options, statistics=True) as db:
    fill(db)
    counted = db._record.owner.options

    def live():
        return saferocks._engine.live_iterators(counted)

    local, ready, stop = threading.local(), threading.Event(), threading.Event()

    def hold():
        local.scan = db.items().__enter__()
        local.chain = iter(local.scan)
        next(local.chain)
        ready.set()
        stop.wait()
        local.chain = None
        local.scan.__exit__(None, None, None)

    def dropped():
        cycle = [db.items().__enter__()]
        cycle.append(cycle)
        kept = db.iter()
        with db.items() as items, db.iter() as cursor, db.snapshot() as snap, snap.keys() as keys:
            next(items), next(keys)
            held = live()
            pid = fork()
            if pid:
                with kept:
                    pass
                cycle[0].__exit__(None, None, None)
            return pid, held

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    ready.wait()
    before = live()
    pid, held = dropped()
    if not pid:
        gc.collect()
        os._exit(held - live())
    assert (destroyed := status_of(pid)) == 0, destroyed
    assert held > before == live()
    stop.set()
    thread.join()
"""


def test_a_child_destroys_nothing_native(run: Run) -> None:
    """Left, dropped, in a cycle, or in another thread's locals: RocksDB's own count of iterators stays as it was."""
    run(DESTROY_NOTHING)


ASKED_BEFORE = """
with saferocks.open("db") as db:
    family = db.create_column_family("f")
    family[b"a"] = bytes(100_000)
    left = db.create_column_family("left")
    left[b"a"] = bytes(100_000)
    left.close()  # for the next handle
    held = db.memory().memtables
    if not fork():
        owner = db._record.owner
        assert list(owner.spares) == ["left"]
        for each in owner.natives, owner.spares, owner.children, saferocks._registry.records:
            each.clear()
        del family
        gc.collect()
        sys.exit(3)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 3
    assert db.memory().memtables == held > 200_000
"""


def test_what_rocksdb_was_asked_through_stays_in_a_child(run: Run) -> None:
    """A child that drops what its parent kept of column families does not wait for a flush that never ends."""
    run(ASKED_BEFORE)


SAYS_NOTHING = """
saferocks.configure(policy=sys.argv[1])
with saferocks.open("db") as db:
    fill(db)
    held = db.items().__enter__()
    if not fork():
        del held
        gc.collect()
        saferocks.check()
        sys.exit(0)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
    held.__exit__(None, None, None)
"""


@pytest.mark.parametrize("policy", ["warn", "raise"])
def test_inherited_handles_are_no_leaks_of_the_child(run: Run, policy: str) -> None:
    """A child that drops what it inherited, or ends with it, is told nothing."""
    run(SAYS_NOTHING, policy)


LEAKS_OF_THE_PARENT = """
with saferocks.open("db") as db:
    fill(db)
    db.items().__enter__()
    gc.collect()
    if not fork():
        sys.exit(0)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
"""


def test_leaks_of_the_parent_are_told_by_the_parent_alone(run_python: Run) -> None:
    """What had leaked before the fork is not told a second time by the child."""
    done = run_python(PRELUDE + LEAKS_OF_THE_PARENT, flags=("-W", "always"))
    assert done.returncode == 0
    assert done.stderr.count("LeakedHandleWarning") == 1
    assert done.stderr.count("saferocks.handle_leaked") == 1


RAISED = """
from saferocks.testing import assert_no_leaks
sys.unraisablehook = lambda unraisable: None
raised = 0
try:
    with saferocks.open("db", policy="raise") as db:
        db.items().__enter__()
        gc.collect()
        try:
            with assert_no_leaks():
                db.keys().__enter__()
                gc.collect()
                pid = fork()
        except saferocks.LeakedHandlesError:
            raised += 1
        if not pid:
            saferocks.check()
except saferocks.LeakedHandlesError:
    raised += 1
if not pid:
    os._exit(raised)
assert status_of(pid) == 0 and raised == 2, raised
"""


def test_leaks_of_the_parent_are_raised_in_the_parent_alone(run: Run) -> None:
    """Neither a check, nor a watched block, nor the database's end raises in the child what had leaked before."""
    run(RAISED, quiet=False)


REFUSED = """
def refused(what, function):
    try:
        function()
    except saferocks.ForkedProcessError as error:
        assert "open databases after the fork only" in str(error) and "'spawn'" in str(error), error
    else:
        sys.exit(f"{what} was not refused")

with saferocks.open("db") as db:
    fill(db)
if sys.argv[1] == "open":
    db = saferocks.Rdict("other")
before = sorted(os.listdir())
pid = fork()
if not pid and sys.argv[2] == "grandchild" and (pid := fork()):
    os._exit(status_of(pid))
if not pid:
    refused("new", lambda: saferocks.open("new"))
    refused("old", lambda: saferocks.open("db"))
    refused("read-only", lambda: saferocks.Rdict("db", access_type=saferocks.AccessType.read_only()))
    refused("a file", lambda: saferocks.open("program.py"))
    refused("repair", lambda: saferocks.Rdict.repair("db"))
    refused("destroy", lambda: saferocks.Rdict.destroy("db"))
    assert sorted(os.listdir()) == before
    assert saferocks.Rdict.list_cf("db") == ["default"]
    sys.exit(5)
assert (got := status_of(pid)) == 5, got
if sys.argv[1] == "open":
    db.close()
with saferocks.open("db") as db:
    assert len(list(db.keys().__enter__())) == 1000
"""


@pytest.mark.parametrize("generation", ["child", "grandchild"])
@pytest.mark.parametrize("parents", ["open", "closed"])
def test_opening_is_refused_where_the_parent_had_opened_one(run: Run, parents: str, generation: str) -> None:
    """Opening, repairing and destroying raise ForkedProcessError with the remedy, and touch nothing."""
    run(REFUSED, parents, generation)


ALLOWED = """
options = saferocks.Options(raw_mode=True)
try:
    saferocks.open("missing", access_type=saferocks.AccessType.read_only()).__enter__()
except saferocks.IOFailedError:
    pass  # no database was opened, and no thread of RocksDB started
pids = []
for number in range(4):
    pid = fork()
    if not pid:
        with saferocks.open(f"db{number}", policy="warn") as db:
            fill(db)
            db.flush()
            db.compact_range(None, None)
            held = db.items().__enter__()
            assert [handle.kind for handle in db.handles()] == ["iterator"]
        sys.exit(number)
    pids.append(pid)
assert [status_of(pid) for pid in pids] == [0, 1, 2, 3]
with saferocks.open("db0") as db:
    assert db[b"000000"]
"""


def test_a_child_opens_databases_where_the_parent_had_not(run_python: Run) -> None:
    """Workers of a pre-forking server open their own, and their leaks are told as in any process."""
    done = run_python(PRELUDE + ALLOWED, flags=("-W", "always"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("LeakedHandleWarning: iterator opened at") == 4


WAYS = """
import concurrent.futures, time
def work(number):
    signal.alarm(20)
    try:
        with saferocks.open(f"db{number}") as own:
            fill(own)
            own.flush()
            return "opened"
    except saferocks.ForkedProcessError:
        try:
            db[b"000000"]
        except saferocks.ForkedHandleError:
            return "refused"

def run(way, pool):
    context = multiprocessing.get_context(way)
    if not pool:
        process = context.Process(target=report, args=(1,))
        process.start()
        process.join()
        assert process.exitcode == 0, process.exitcode
        with open("said1") as file:
            return [file.read()]
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
        return list(executor.map(work, range(4)))

def report(number):
    said = work(number)
    with open(f"said{number}", "w") as file:
        file.write(said)

if __name__ == "__main__":
    with saferocks.open("db") as db:
        fill(db)
        said = run(sys.argv[1], sys.argv[2] == "pool")
        assert set(said) == {"refused" if sys.argv[1] == "fork" else "opened"}, said
        fill(db)
"""


@pytest.mark.parametrize("pool", ["process", "pool"])
@pytest.mark.parametrize("way", ["fork", "forkserver", "spawn"])
def test_multiprocessing(run: Run, way: str, pool: str) -> None:
    """Forked workers are refused, those of the fork server and spawned ones open; all of them end."""
    run(WAYS, way, pool)


PREEXEC = """
import subprocess
with saferocks.open("db") as db, db.items() as items:
    fill(db)
    done = subprocess.run([sys.executable, "-c", "print(3)"], preexec_fn=os.setsid, capture_output=True, text=True)
    assert done.stdout == "3\\n" and not done.stderr, done
    fill(db)
"""


def test_starting_a_program_changes_nothing(run: Run) -> None:
    """`subprocess` with a function to run before the program forks, too: parent and program go on."""
    run(PREEXEC)


LOCKED = """
with saferocks.open("db") as db:
    fill(db)
    inside, go_on = threading.Event(), threading.Event()

    def hold():
        with db._record.owner.lock:
            inside.set()
            go_on.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    if not fork():
        db.close()
        db.close(cancel_background=True)
        sys.exit(6)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 6
    go_on.set()
    thread.join()
"""


def test_a_lock_that_another_thread_held_stops_no_child(run: Run) -> None:
    """A child closes what it inherited at once, though the lock was held when it was forked."""
    run(LOCKED)


STREAMS = """
import ctypes
with saferocks.open("db") as db:
    if not fork():
        libc = ctypes.CDLL(None)
        libc.printf(b"from C\\n")
        libc.fopen.restype = ctypes.c_void_p
        libc.fprintf(ctypes.c_void_p(libc.fopen(b"file", b"w")), b"to a file of C's\\n")
        print("from Python")
        sys.exit(0)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
"""


def test_what_a_child_has_printed_arrives(run: Run, tmp_path: Path) -> None:
    """Buffers of Python and of C are written at the end of a child, as at the end of any process."""
    assert sorted(run(STREAMS).stdout.split("\n")) == ["", "from C", "from Python"]
    assert (tmp_path / "file").read_text() == "to a file of C's\n"


MANY = """
with saferocks.open("db") as db, contextlib.ExitStack() as stack:
    fill(db)
    for _ in range(2000):
        stack.enter_context(db.items())
    with db.write_batch() as batch:
        batch[b"a"] = b"1"
        for _ in range(20):
            if not fork():
                sys.exit(2)
            assert os.waitstatus_to_exitcode(os.wait()[1]) == 2
assert not saferocks._process.forking
"""


def test_the_parent_keeps_nothing_for_its_children(run: Run) -> None:
    """Once the fork is over, no native object is kept alive for it."""
    run(MANY)


def test_without_fork_nothing_is_noticed(path: str) -> None:
    """The canary of the process' own state: this one was not forked from a user of RocksDB."""
    with saferocks.open(path) as db:
        db[b"a"] = b"1"
    assert sys.modules["saferocks._engine"].forked is False


CANARY = """
import rocksdict
db = rocksdict.Rdict("db", rocksdict.Options(raw_mode=True))
stop, running = threading.Event(), threading.Barrier(2)

def write():
    running.wait()
    turn = 0
    while not stop.is_set():
        db[b"%d" % (turn % 300)] = b"x" * 500
        turn += 1
        if turn % 200 == 0:
            db.flush()

thread = threading.Thread(target=write)
thread.start()
running.wait()
pid = os.fork()
if not pid:
    signal.alarm(5)
    sys.exit(0)
status = status_of(pid)
stop.set()
thread.join()
db.close()
print(status)
"""


def test_d14_the_child_of_a_bare_program_crashes_or_hangs(run: Run) -> None:
    """The canary: without saferocks, a child cannot end normally."""
    statuses = {int(run(CANARY, quiet=False).stdout) for _ in range(3)}
    if statuses == {0}:
        pytest.fail("D14 is mended: a forked child need not end before RocksDB's destructors")


AMID = """
actions = []
os.register_at_fork(before=lambda: [action() for action in actions])  # runs after saferocks' own
options = saferocks.Options(raw_mode=True)
with saferocks.open("db", options=options, statistics=True) as db:
    fill(db)
    counted = db._record.owner.options
    live = lambda: saferocks._engine.live_iterators(counted)
    closing, opened = db.iter(), []
    closing.__enter__()
    actions.append(lambda: closing.__exit__(None, None, None))
    actions.append(lambda: opened.append(db.iter().__enter__()))
    actions.append(lambda: opened.append(live()))
    pid = fork()
    if not pid:
        scan, held = opened
        del closing
        opened.clear()
        try:
            scan.seek(b"a")
        except saferocks.ForkedHandleError:
            del scan
        os._exit(held - live())
    actions.clear()
    assert (destroyed := status_of(pid)) == 0, destroyed
    assert opened == [opened[0], 1] and live() == 1, (opened, live())
    opened[0].__exit__(None, None, None)
"""


def test_handles_opened_and_released_while_the_fork_is_under_way(run: Run) -> None:
    """What other hooks and threads release or open in between is not destroyed in the child either."""
    run(AMID)


LEASES = """
import logging, time
told = []
logging.getLogger("saferocks").addHandler(handler := logging.Handler())
handler.emit = lambda record: told.append(record.getMessage().split()[0])

def wait_until(is_enough):
    deadline = time.monotonic() + 15
    while not is_enough() and time.monotonic() < deadline:
        time.sleep(0.001)

with saferocks.open("db", warn_after=0.2) as db, db.items(expire_after=0.4) as items:
    begun = time.monotonic()
    pid = fork()
    if not pid:
        told.clear()  # on a busy machine a lease is overdue before the fork
        wait_until(lambda: time.monotonic() > begun + 0.6)
        try:
            items.renew()
        except saferocks.ForkedHandleError:
            print("child", told, threading.active_count(), flush=True)
        with saferocks.WriteBatch(raw_mode=True, expire_after=0.3):
            wait_until(lambda: told)
        print("its own", told, flush=True)
        os._exit(0)
    assert status_of(pid) == 0
    wait_until(lambda: len(told) == 2)
print("parent", told)
"""


def test_the_leases_of_inherited_handles_are_the_parents(run_python: Run) -> None:
    """Nothing inherited expires in the child, its own handles do, and the parent's watcher goes on."""
    done = run_python(PRELUDE + LEASES)
    assert done.returncode == 0, done.stderr
    assert "child [] 1\nits own ['saferocks.handle_expired']\n" in done.stdout
    assert "parent ['saferocks.handle_overdue', 'saferocks.handle_expired']" in done.stdout
