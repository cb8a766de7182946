"""Real threads, real time: leases against use, renewal, release, close, collection, exit and fork.

Each test runs a child process, so that a crash is a failed test, with a watchdog that prints all stacks
and ends the child when it hangs.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.systems import needs_fork, needs_limits

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    Run = Callable[..., subprocess.CompletedProcess[str]]

EAGER, USUAL = "1e-6", "0.005"  # seconds after which the interpreter switches threads

PRELUDE = """
    from saferocks import _deadlines, _leases
    from saferocks.inspection import pending_deadlines

    faulthandler.dump_traceback_later(100, exit=True)
    unraised = []
    sys.unraisablehook = lambda unraisable: unraised.append(repr(unraisable.exc_value))
    told = []

    class Keep(logging.Handler):
        def emit(self, record):
            told.append((record.getMessage().split()[0].removeprefix("saferocks.handle_"), record.saferocks))

    logging.getLogger("saferocks").addHandler(Keep())

    def watchers():
        return [thread for thread in threading.enumerate() if thread.name == "saferocks-deadlines"]
"""

MIXED = """
    sys.setswitchinterval(float(sys.argv[1]))
    gc.set_threshold(50)
    _deadlines.LINGER_SECONDS = 0.0005
    path, seconds = sys.argv[2], float(sys.argv[3])
    KEYS = [b"k%03d" % number for number in range(120)]
    stop = threading.Event()
    attempted, acknowledged = collections.Counter(), collections.Counter()

    def whole(rows):
        assert [row for row in rows if row[:1] == b"k"] == KEYS

    def scan(db, number, **terms):
        with db.keys(**terms) as keys:
            whole([key for key in keys])

    def bounded_scan(db, number, **terms):
        with db.items(prefix=b"k", backwards=True, **terms) as items:
            whole([key for key, value in items][::-1])

    def cursor(db, number, **terms):
        with db.iter(**terms) as cursor:
            cursor.seek(KEYS[0])
            for key in KEYS[:40]:
                assert cursor.key() == key
                cursor.next()
                if terms and random.random() < 0.1:
                    cursor.renew()

    def snapshot(db, number, **terms):
        with db.snapshot(**terms) as snap, snap.keys(**terms) as keys, snap.keys() as others:
            assert snap[KEYS[7]] == b"v"
            whole([key for pair in zip(keys, others) for key in pair][::2])

    def point_snapshot(db, number, **terms):
        with db.snapshot(point_reads_only=True, **terms) as snap:
            for key in KEYS[:40]:
                assert snap[key] == b"v"
                if terms:
                    snap.renew()

    def batch(db, number, **terms):
        written = attempted[number] = attempted[number] + 1
        with db.write_batch(**terms) as batch:
            for letter in b"abcd":
                batch[b"%c%d" % (letter, number)] = b"%d" % written
        acknowledged[number] = written

    def bulk(db, number, **terms):
        with db.bulk_writer(flush_bytes=200, **terms) as bulk:
            for step in range(20):
                bulk[b"x%d" % number] = b"%d" % step
        assert db[b"x%d" % number] == b"19"

    def dropped(db, number, **terms):
        db.items(**terms).__enter__()

    def shared(db, number, **terms):
        with db.iter(**terms) as cursor:
            other = threading.Thread(target=lambda: attempt(lambda *_, **__: cursor.seek(KEYS[5]), db, number))
            other.start()
            try:
                cursor.seek(KEYS[3])
            finally:
                other.join()

    USES = [scan, bounded_scan, cursor, snapshot, point_snapshot, batch, bulk, dropped, shared]

    def attempt(use, db, number, **terms):
        try:
            use(db, number, **terms)
        except saferocks.HandleExpiredError:
            count("expired")
        except saferocks.DatabaseClosedError:
            count("closed")
        except saferocks.ConcurrentUseError:
            count("concurrent")
        except saferocks.HandleClosedError as error:
            assert "database closed" in str(error) or "snapshot was released" in str(error), error
            count("closed")
        else:
            count("done")
        if use is batch:
            check_batch(db, number)

    def check_batch(db, number):  # written as one or not at all, and all that was acknowledged
        try:
            values = {db.get(b"%c%d" % (letter, number)) for letter in b"abcd"}
        except saferocks.DatabaseClosedError:
            return
        assert len(values) == 1, values
        value = values.pop()
        assert int(value or 0) >= acknowledged[number], (value, acknowledged[number])
        if value is not None and int(value) != acknowledged[number]:
            acknowledged[number] = int(value)  # the commit was done when the error came, at the very end

    def work(number):
        try:
            while not stop.is_set():
                warn, expire = sorted(random.uniform(0.00001, 0.004) for _ in range(2))
                terms = random.choice([dict(warn_after=warn, expire_after=expire), dict(expire_after=expire),
                                       dict(warn_after=warn), {}])
                attempt(random.choice(USES), current[0], number, **terms)
        except BaseException:
            import traceback
            traceback.print_exc()
            fail("worker")

    saferocks.configure(policy="ignore")
    first = saferocks.open(path, statistics=True)
    current = [first.__enter__()]
    for key in KEYS:
        current[0][key] = b"v"
    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        stop.wait(0.2)  # the workers work; then the database is closed under them
        current[0].close()
        current[0] = saferocks.open(path, statistics=True).__enter__()
        count("reopened")
    stop.set()
    join(workers)
    assert current[0].audit().ok, current[0].audit()
    gc.collect()
    assert pending_deadlines() == 0 and not _leases.pending, _leases.pending
    current[0].close()
    join(watchers())
    names = collections.Counter(name for name, fields in told)
    assert not unraised, unraised[:3]
    print(json.dumps({**out, **names}))
"""


@pytest.mark.parametrize("interval", [EAGER, USUAL])
def test_leases_against_everything(run_race: Run, tmp_path: object, interval: str) -> None:
    """Short leases under all kinds of use give right results or typed errors; nothing leaks, hangs or is lost."""
    child = run_race(PRELUDE + MIXED, interval, f"{tmp_path}/db", "4", timeout=110)
    assert (child.returncode, child.stderr) == (0, ""), child.stdout + child.stderr[-4000:]
    counts = json.loads(child.stdout)
    assert min(counts[name] for name in ("done", "expired", "closed", "reopened", "overdue", "returned")) > 0, counts


RENEW = """
    sys.setswitchinterval(float(sys.argv[1]))
    saferocks.configure(policy="ignore")
    TERM = 0.004

    def renew(batch, last):
        while True:
            began = time.monotonic()
            try:
                batch.renew()
            except saferocks.HandleExpiredError:
                now = time.monotonic()
                assert now >= max(last) + TERM, (now, last)
                count("expired")
                return
            last.append(began)
            del last[:-8]
            count("renewed")
            until = time.monotonic() + TERM * random.choice([0, 0.9, 1, 1.02, 2])
            while time.monotonic() < until:
                pass

    def renewing(batch, last):
        try:
            renew(batch, last)
        except BaseException as error:
            fail(repr(error))

    for _ in range(int(sys.argv[2])):
        last = [time.monotonic()]
        try:
            batch = saferocks.WriteBatch(raw_mode=True, expire_after=TERM)
            batch.__enter__()
        except saferocks.HandleExpiredError:  # this machine is busy
            continue
        threads = [threading.Thread(target=renewing, args=(batch, last)) for _ in range(2)]
        for thread in threads:
            thread.start()
        join(threads)
        batch.__exit__(None, None, None)
    deadline = time.monotonic() + 30
    while (expired := sum(name == "expired" for name, _ in told)) < int(sys.argv[2]) and time.monotonic() < deadline:
        time.sleep(0)  # the watcher logs what a release has queued
    assert expired == int(sys.argv[2]), expired
    assert pending_deadlines() == 0
    print(json.dumps(out))
"""


@pytest.mark.parametrize("interval", [EAGER, USUAL])
def test_renewed_or_expired_never_both(run_race: Run, interval: str) -> None:
    """After a renewal that went through a handle lasts for its whole new term; after an expiry none goes through."""
    child = run_race(PRELUDE + RENEW, interval, "150", timeout=110)
    assert (child.returncode, child.stderr) == (0, ""), child.stdout + child.stderr[-4000:]
    assert json.loads(child.stdout)["renewed"] > 100


ENDING = """
    sys.setswitchinterval(float(sys.argv[1]))
    _deadlines.LINGER_SECONDS = 0.0
    saferocks.configure(policy="ignore")

    def cycle(number):
        for step in range(int(sys.argv[2])):
            with contextlib.suppress(saferocks.HandleExpiredError):  # at the opening already, that is
                with saferocks.WriteBatch(raw_mode=True, expire_after=random.choice([1e-6, 1e-4, 1e-3])) as batch:
                    until = time.monotonic() + 30
                    while batch._record.reason is None:
                        if time.monotonic() > until:
                            faulthandler.dump_traceback(all_threads=True)
                            fail("a deadline was forgotten")
                        time.sleep(0)

    threads = [threading.Thread(target=cycle, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    join(threads)
    join(watchers())
    assert pending_deadlines() == 0 and not unraised, unraised
    print(sum(name == "expired" for name, _ in told))
"""


@pytest.mark.parametrize("interval", [EAGER, USUAL])
def test_a_watcher_that_ends_forgets_no_deadline(run_race: Run, interval: str) -> None:
    """A handle opened at the moment at which the watcher ends is watched all the same."""
    child = run_race(PRELUDE + ENDING, interval, "400", timeout=110)
    assert (child.returncode, child.stderr) == (0, ""), child.stdout + child.stderr[-4000:]
    assert int(child.stdout) == 1200


REENTRY = """
    # Finalizers of a cycle release and renew handles wherever the collector strikes, in the watcher's thread too.
    saferocks.configure(policy="ignore")
    _deadlines.LINGER_SECONDS = 0.0
    steady = saferocks.WriteBatch(raw_mode=True, expire_after=60)
    steady.__enter__()

    class Ring:
        def __init__(self):
            self.me = self
            self.batch = None
            with contextlib.suppress(saferocks.HandleExpiredError):  # at the opening already, that is
                self.batch = saferocks.WriteBatch(
                    raw_mode=True, warn_after=1e-6, expire_after=random.choice([1e-5, 60])
                )
                self.batch.__enter__()

        def __del__(self):
            with contextlib.suppress(saferocks.HandleClosedError):  # the last are collected after it was left
                steady.renew()
            if self.batch is not None:
                self.batch.__exit__(None, None, None)
            with contextlib.suppress(saferocks.HandleExpiredError):
                saferocks.WriteBatch(raw_mode=True, expire_after=random.choice([1e-5, 60])).__enter__()
            finalized.append(None)

    finalized = []
    gc.set_threshold(3, 2, 2)
    for _ in range(3000):
        Ring()
    until = time.monotonic() + 30
    while len(finalized) < 3000 and time.monotonic() < until:  # some run in the watcher's thread
        gc.collect()
    steady.__exit__(None, None, None)
    gc.collect()
    while pending_deadlines() and time.monotonic() < until:
        time.sleep(0)
    assert pending_deadlines() == 0 and not unraised, unraised[:3]
    print("fine")
"""


def test_finalizers_run_into_no_lock(run_race: Run) -> None:
    """Handles are opened, renewed and released in finalizers, wherever the collector runs, and nothing blocks."""
    child = run_race(PRELUDE + REENTRY, timeout=110)
    assert (child.returncode, child.stdout, child.stderr) == (0, "fine\n", ""), child.stdout + child.stderr[-4000:]


EXIT = """
    import atexit
    saferocks.configure(policy="warn")
    db = saferocks.Rdict(sys.argv[1])
    with db.snapshot(warn_after=float(sys.argv[2]), expire_after=3600) as snap:
        with db.keys(warn_after=float(sys.argv[2]), expire_after=3600) as keys:
            started = time.monotonic()
            atexit.register(lambda: db.close())
            sys.exit(7)
"""


@pytest.mark.parametrize("warn_after", ["1e-6", "3000"])
def test_the_watcher_does_not_delay_the_exit(run_race: Run, tmp_path: object, warn_after: str) -> None:
    """A program ends at once, with its own status and in silence, whatever the watcher is waiting for or doing."""
    child = run_race(PRELUDE + EXIT, f"{tmp_path}/db", warn_after, timeout=30)
    assert (child.returncode, child.stdout, child.stderr) == (7, "", "")


LATE = """
    import atexit
    saferocks.configure(policy="warn")
    def late():  # no thread can be started any more, from Python 3.12 on
        with saferocks.WriteBatch(raw_mode=True, expire_after=60) as batch:
            batch[b"k"] = b"v"
            print(batch.len())
            batch.clear()
    atexit.register(late)
"""


def test_a_lease_at_exit_opens_all_the_same(run_race: Run) -> None:
    """A handle with a lease that is opened by an exit handler works, though nobody watches it any more."""
    child = run_race(PRELUDE + LATE, timeout=30)
    assert (child.returncode, child.stdout, child.stderr) == (0, "1\n", "")


IN_C = """
    saferocks.configure(policy="ignore")
    scanned = sys.argv[1]
    with saferocks.open("db") as db:
        with db.bulk_writer() as bulk:
            for number in range(200_000):
                bulk[b"%08d" % number] = b"v"
        reached = 0
        while reached < 5:  # a busy machine may let the lease run out before
            with contextlib.ExitStack() as stack:
                source, terms = db, {"expire_after": 0.005}
                try:
                    if scanned == "snapshot":
                        source, terms = stack.enter_context(db.snapshot(expire_after=0.005)), {}
                    elif scanned == "scan of a snapshot":
                        source = stack.enter_context(db.snapshot())
                    with source.items(**terms) as items:
                        rows = iter(items)
                        next(rows)
                        reached += 1
                        assert len(list(rows)) == 199_999  # if the machine gave the watcher no time at all
                except saferocks.HandleExpiredError as error:
                    if "list(rows)" in traceback.format_exc():
                        print("expired in its midst")
                        break
"""


@pytest.mark.parametrize("scanned", ["database", "scan of a snapshot", "snapshot"])
def test_a_scan_expires_in_the_midst_of_a_loop_in_c(run_race: Run, scanned: str) -> None:
    """`list`, and the like, which never let go of a scan between two rows, get HandleExpiredError all the same."""
    child = run_race(PRELUDE + "    import traceback\n" + IN_C, scanned, timeout=100)
    assert (child.returncode, child.stdout) == (0, "expired in its midst\n"), child.stderr[-3000:]


EXITING_HANDLER = """
    class Exits(logging.Handler):
        def emit(self, record):
            if "overdue" in record.getMessage():
                sys.exit(3)
    logging.getLogger("saferocks").addHandler(Exits())
    usual, ahead = _leases.watcher.clock.now, 0.0
    _leases.watcher.clock.now = lambda: usual() + ahead
    with saferocks.WriteBatch(True, warn_after=1000, expire_after=2000) as first:
        with saferocks.WriteBatch(True, expire_after=3000) as second:
            ahead = 5000.0  # so that no lease runs out before, however slow the machine is
            _leases.watcher._alarm.ring()
            deadline = time.monotonic() + 30
            while not (first._record.reason and second._record.reason) and time.monotonic() < deadline:
                time.sleep(0)
    print(first._record.reason, second._record.reason, unraised)
"""


def test_a_handler_that_exits_does_not_end_the_watcher(run_race: Run) -> None:
    """What a logging handler raises, SystemExit too, is handed over, and all handles expire in their time."""
    child = run_race(PRELUDE + EXITING_HANDLER, timeout=60)
    assert child.stdout == "Reason.EXPIRED Reason.EXPIRED ['SystemExit(3)']\n", child.stdout + child.stderr


LATEST = """
    saferocks.configure(policy="ignore")
    gc.set_threshold(10**6)
    class Last:  # it is collected once no other thread runs any more, just before the modules are cleared
        def __init__(self):
            self.me = self
        def __del__(self):
            with saferocks.WriteBatch(raw_mode=True, expire_after=60) as batch:
                print(batch.len(), sys.is_finalizing(), flush=True)
    Last()
    _deadlines.LINGER_SECONDS = 0.0
    with saferocks.WriteBatch(raw_mode=True, expire_after=60):
        pass
    join(watchers())
    print("fine")
"""


def test_a_lease_in_the_last_finalizers_waits_for_no_thread(run_race: Run) -> None:
    """A handle with a lease that is opened at the very end of a program does not keep it from ending."""
    child = run_race(PRELUDE + LATEST, timeout=30)
    assert (child.returncode, child.stdout, child.stderr) == (0, "fine\n0 True\n", "")


FORK = """
    saferocks.configure(policy="ignore")
    batch = saferocks.WriteBatch(raw_mode=True, expire_after=3600)
    batch.__enter__()
    assert pending_deadlines() == 1
    faulthandler.cancel_dump_traceback_later()  # whose thread the child would wait for at its end
    child = os.fork()
    if child == 0:
        if sys.argv[1] == "afresh":
            _leases.start_afresh()
            assert pending_deadlines() == 0
            with contextlib.suppress(saferocks.HandleExpiredError):  # at the opening already, that is
                with saferocks.WriteBatch(raw_mode=True, expire_after=1e-3) as mine:
                    while mine._record.reason is None:
                        time.sleep(0)
            while not told:
                time.sleep(0)
            assert [name for name, _ in told] == ["expired"], told
        sys.exit(5)
    status = os.waitpid(child, 0)[1]
    assert os.waitstatus_to_exitcode(status) == 5, status
    assert pending_deadlines() == 1
    batch.__exit__(None, None, None)
    print("fine")
"""


@needs_fork
@pytest.mark.parametrize("how", ["afresh", "as it is"])
def test_a_forked_child_ends(run_race: Run, how: str) -> None:
    """A child of a process with leases exits with its own status; started afresh it watches leases of its own."""
    child = run_race(PRELUDE + FORK, how, timeout=60)
    assert (child.returncode, child.stdout, child.stderr) == (0, "fine\n", ""), child.stderr[-3000:]


MILLION = """
    import resource
    saferocks.configure(policy="ignore", trace="site")
    count = int(sys.argv[1])
    record = saferocks.WriteBatch
    began = time.perf_counter()
    held = [saferocks.WriteBatch(True, warn_after=3600 + number % 1000, expire_after=9000) for number in range(count)]
    opened = time.perf_counter() - began
    for each in held:
        each.__enter__()
    assert pending_deadlines() == count
    began = time.perf_counter()
    for each in held:
        each.renew()
    renewed = time.perf_counter() - began
    assert pending_deadlines() == count
    began = time.perf_counter()
    for each in held:
        each.__exit__(None, None, None)
    released = time.perf_counter() - began
    assert pending_deadlines() == 0 and not _leases.pending
    join(watchers())
    assert len(_leases.watcher._heap) + len(_leases.watcher._arrivals) == 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"opened": opened / count, "renewed": renewed / count, "released": released / count,
                      "peak_kib": peak}))
"""


@needs_limits
@pytest.mark.slow
def test_a_million_leases(run_race: Run) -> None:
    """A million handles with deadlines cost microseconds each, and leave none behind."""
    child = run_race(PRELUDE.replace("later(100", "later(400") + MILLION, "1000000", timeout=420)
    assert (child.returncode, child.stderr) == (0, ""), child.stdout + child.stderr[-3000:]
    figures = json.loads(child.stdout)
    assert max(figures[name] for name in ("opened", "renewed", "released")) < 100e-6, figures
