"""A program for tests/test_interleavings.py: every single preemption of a use of a handle, by a release of it.

One thread makes a use; a trace function stops it before its k-th bytecode within the package. There another
thread does the whole of a release, close or expiry, and then the use goes on; and so for every k. This is what
Python 3.10 does between any two bytecodes, and so it is found on any Python.

Arguments: the kinds of handles with commas between them, `quick` or `full`, and perhaps a part of the names of
the cases to run. Prints a line of JSON for each case: its name, at how many bytecodes it was stopped, and what
was wrong where.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import logging
import os
import sys
import threading
import time
import traceback
import warnings
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

import saferocks
from saferocks import _handle, _life
from saferocks._registry import Reason
from saferocks._tracebacks import drop_tracebacks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PACKAGE = os.path.dirname(saferocks.__file__) + os.sep
ROWS = [(b"k%03d" % number, b"v") for number in range(10)]  # a snapshot's scan reads 4, and then 6
KEY, LAST = ROWS[2][0], ROWS[-1][0]
LEASE = 1000.0  # seconds; its expiry is brought about
#: How long a use waits for a release that neither ends nor sleeps: it waits for a lock of the use's own. No
#: assertion depends on it: whatever the other thread has done by then, this is an interleaving like others.
MOST_WAIT = 0.05
HANG = 60.0

real_sleep = time.sleep


# --------------------------------------------------------------------------- two threads


@dataclass
class Outcome:
    """What a call came to.

    Attributes:
        value: What it returned.
        error: What it raised, without its traceback: the frames would keep what is native.
        text: That traceback, printed.
    """

    value: Any = None
    error: BaseException | None = None
    text: str = ""


def outcome_of(call: Callable[[], Any]) -> Outcome:
    """Make a call, and let go at once of the frames of its error, and of the variables in them.

    Up to Python 3.12 these are copied into the frames of calls that are traced, too.
    """
    try:
        return Outcome(call())
    except BaseException as error:
        found = Outcome(error=error, text="".join(traceback.format_exception(type(error), error, error.__traceback__)))
        drop_tracebacks((error,))
        return found


class Other(threading.Thread):
    """Makes a call beside another thread, which goes on once the call has ended, or sleeps.

    A release that waits for the use does so by sleeping; it ends after the use has.
    """

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self.call = call
        self.outcome = Outcome()
        self.rests = threading.Event()

    def run(self) -> None:
        """Make the call."""
        self.outcome = outcome_of(self.call)
        self.rests.set()


def sleep(seconds: float) -> None:
    """Sleep, and let the thread that was stopped go on."""
    thread = threading.current_thread()
    if isinstance(thread, Other):
        thread.rests.set()
    real_sleep(seconds)


@dataclass
class Meeting:
    """What came of a use that was stopped before its k-th bytecode.

    Attributes:
        place: Where that was; None if it has not so many.
        bytecodes: How many it has, if it has not so many.
        use: The use.
        release: What was done meanwhile.
    """

    place: str | None = None
    bytecodes: int = 0
    use: Outcome = field(default_factory=Outcome)
    release: Outcome = field(default_factory=Outcome)


def interleave(use: Callable[[], Any], release: Callable[[], Any], k: int) -> Meeting:
    """Make a use, and before its k-th bytecode within the package let another thread do a release."""
    other = Other(release)
    met = Meeting()
    count = 0

    def before_bytecode(frame: Any, event: str, _: Any) -> Any:
        nonlocal count
        if event == "opcode":
            count += 1
            if count == k:
                sys.settrace(None)
                code = frame.f_code
                met.place = f"{os.path.basename(code.co_filename)}:{frame.f_lineno} in {code.co_name}, bytecode {k}"
                other.start()
                other.rests.wait(MOST_WAIT)
        return before_bytecode

    def at_call(frame: Any, event: str, _: Any) -> Any:
        if met.place is not None or not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace = before_bytecode  # first: else Python 3.13 does not tell of the bytecodes
        frame.f_trace_opcodes = True
        return before_bytecode

    tracing = sys.gettrace()  # coverage's, or a debugger's
    sys.settrace(at_call)
    try:
        met.use = outcome_of(use)
    finally:
        sys.settrace(tracing)
    met.bytecodes = count
    if met.place is not None:
        other.join(HANG)
        if other.is_alive():
            faulthandler.dump_traceback(all_threads=True)
            print(json.dumps({"hangs": met.place}), flush=True)
            os._exit(9)
        met.release = other.outcome
    return met


# --------------------------------------------------------------------------- handles, and their uses


class World:
    """What a round needs: the database, and the snapshot that a handle reads through."""

    database: Any = None

    def __init__(self) -> None:
        if World.database is None or World.database._record.reason is not None:
            World.database = saferocks.open("db", statistics=True).__enter__()
        self.db = World.database
        begun.clear()
        self.snap: Any = None

    def shared(self) -> Any:
        """Open a snapshot with a cursor that handles share."""
        self.snap = self.db.snapshot(expire_after=LEASE).__enter__()
        return self.snap

    def source(self, kind: Kind) -> Any:
        """Return what a kind of handle is opened from."""
        return self.shared() if kind.of_snapshot else self.db


def put(batch: Any) -> int:
    """Add a row to a batch."""
    batch[KEY] = b"v"
    return len(batch)


def write(bulk: Any) -> None:
    """Write a row with a bulk writer."""
    bulk[KEY] = b"v"
    bulk.flush()


def read_scan(scan: Any) -> list[Any]:
    """Open a scan of a snapshot, and read it."""
    with scan:
        return list(scan)


def seek(cursor: Any, method: str, *arguments: Any) -> Any:
    """Move a cursor, and look where it is."""
    getattr(cursor, method)(*arguments)
    return cursor.key()


#: What handles do, and what is right; the first works on a handle that nothing has been done with.
Uses: TypeAlias = "dict[str, tuple[Callable[[Any], Any], Any]]"

#: On a cursor at the second row.
CURSOR: Uses = {
    "seek": (lambda cursor: seek(cursor, "seek", KEY), KEY),
    "value": (lambda cursor: cursor.value(), b"v"),
    "next": (lambda cursor: seek(cursor, "next"), ROWS[2][0]),
    "key": (lambda cursor: cursor.key(), ROWS[1][0]),
    "valid": (lambda cursor: cursor.valid(), True),
    "prev": (lambda cursor: seek(cursor, "prev"), ROWS[0][0]),
    "last": (lambda cursor: seek(cursor, "seek_to_last"), LAST),
    "columns": (lambda cursor: cursor.columns(), [(b"", b"v")]),
}


def begin_loop(scan: Any) -> Any:
    """Take a row as a `for` does, which keeps its iterator."""
    begun.append(iter(scan))
    return next(begun[-1])


#: What a loop iterates over; after a release, not one more row may come out.
begun: list[Any] = []

#: On a scan that may have yielded a row; `rest` is what is left, and `first` the next row.
SCAN: Uses = {
    "next": (lambda scan: next(scan), "first"),
    "list": (lambda scan: list(scan), "rest"),
    "loop": (begin_loop, "first"),
}
#: On a batch of one row.
BATCH: Uses = {"put": (put, 2), "len": (lambda batch: batch.len(), 1)}
BULK: Uses = {"write": (write, None)}
POINTS: Uses = {
    "get": (lambda snap: snap.get(KEY), b"v"),
    "has": (lambda snap: KEY in snap, True),
}
SNAPSHOT: Uses = {
    **POINTS,
    "entity": (lambda snap: snap.get_entity(KEY), [(b"", b"v")]),
    "items": (lambda snap: read_scan(snap.items()), ROWS),
    "bounded": (lambda snap: read_scan(snap.items(prefix=b"k")), ROWS),
    "iter": (lambda snap: snap.iter().__exit__(None, None, None), None),
}


@dataclass(frozen=True)
class Kind:
    """A kind of handle: how it is opened, and what it does."""

    open: Callable[..., Any]
    uses: Uses
    of_snapshot: bool = False

    def begin(self, handle: Any) -> None:
        """Use a handle that has been entered, once."""
        if self.uses is CURSOR:
            handle.seek(ROWS[1][0])
        elif self.uses is SCAN:
            next(handle)
        elif self.uses is BATCH:
            handle[ROWS[0][0]] = b"v"


def items(source: Any, **terms: Any) -> Any:
    """Open a scan."""
    return source.items(**terms)


def cursor(source: Any, **terms: Any) -> Any:
    """Open a cursor."""
    return source.iter(**terms)


def bounded(opener: Callable[..., Any]) -> Callable[..., Any]:
    """Return an opener that gives bounds."""
    return lambda source, **terms: opener(source, prefix=b"k", **terms)


KINDS = {
    "cursor": Kind(cursor, CURSOR),
    "bounded cursor": Kind(bounded(cursor), CURSOR),
    "scan": Kind(items, SCAN),
    "bounded scan": Kind(bounded(items), SCAN),
    "scan of values": Kind(lambda db, **terms: db.values(**terms), SCAN),
    "batch": Kind(lambda db, **terms: db.write_batch(**terms), BATCH),
    "free batch": Kind(lambda db, **terms: saferocks.WriteBatch(raw_mode=True, **terms), BATCH),
    "bulk writer": Kind(lambda db, **terms: db.bulk_writer(**terms), BULK),
    "snapshot": Kind(lambda db, **terms: db.snapshot(**terms), SNAPSHOT),
    "point snapshot": Kind(lambda db, **terms: db.snapshot(point_reads_only=True, **terms), POINTS),
    "shared cursor": Kind(cursor, CURSOR, of_snapshot=True),
    "shared bounded cursor": Kind(bounded(cursor), CURSOR, of_snapshot=True),
    "shared scan": Kind(items, SCAN, of_snapshot=True),
    "shared bounded scan": Kind(bounded(items), SCAN, of_snapshot=True),
}

# --------------------------------------------------------------------------- what happens meanwhile


def leave(handle: Any) -> None:
    """Leave the `with` of a handle."""
    handle.__exit__(None, None, None)


def expire(handle: Any) -> None:
    """Let the lease of a handle run out, as the thread that watches it does, and wait for its release."""
    lease = handle._record.lease
    term = lease.term
    if term is None:  # it has been released
        return
    begun, due = time.monotonic(), term.began + LEASE
    while term.come(due + time.monotonic() - begun) is not None:
        time.sleep(0.0001)


def close(world: World) -> None:
    """Close the database, and open it again, which RocksDB's lock refuses as long as anything native is left of it."""
    world.db.close()
    try:
        World.database = saferocks.open("db", statistics=True).__enter__()
    except saferocks.SaferocksError as error:
        raise AssertionError("something native has survived the close") from error


#: What another thread does, to a handle `h` in a world `w`.
RELEASES: dict[str, Callable[[Any, World], Any]] = {
    "release": lambda h, w: _life.release(h._record, Reason.EXITED),
    "leaving": lambda h, w: leave(h),
    "expiry": lambda h, w: expire(h),
    "close": lambda h, w: close(w),
    "snapshot leaving": lambda h, w: leave(w.snap),
    "snapshot expiry": lambda h, w: expire(w.snap),
}


#: Those that are the end of a `with`.
LEAVING = ("leaving", "snapshot leaving")


def releases_of(kind: Kind, phase: str) -> Iterator[str]:
    """Say what may happen to a handle meanwhile."""
    yield "release" if phase in ("entering", "unentered", "resumed") else "leaving"
    if phase != "expiring":  # one thread brings about all that expires
        yield "expiry"
    if kind is not KINDS["free batch"] and phase != "closing":
        yield "close"
    if kind.of_snapshot:
        yield "snapshot leaving"
    if kind.of_snapshot and phase != "expiring":
        yield "snapshot expiry"


# --------------------------------------------------------------------------- cases

PHASES = ("entering", "unentered", "entered", "resumed", "leaving", "renewing", "expiring", "closing")


@dataclass(frozen=True)
class Case:
    """A use of a handle, and what happens meanwhile.

    Attributes:
        phase: Where in its life the handle is; `resumed` is a first use after a fork, or a close that was given up.
        use: The name of the use; the phase's where it is not one of the kind's.
        release: The name of what happens meanwhile.
        has_lease: Whether the handle has a lease, which makes it another one within.
    """

    kind: str
    phase: str
    use: str
    release: str
    has_lease: bool

    def __str__(self) -> str:
        return f"{self.kind}{' with a lease' if self.has_lease else ''}, {self.phase}: {self.use} | {self.release}"


def cases_of(name: str, full: bool) -> Iterator[Case]:
    """Yield the cases of a kind of handle."""
    kind = KINDS[name]
    for phase in PHASES:
        if phase == "closing" and kind is KINDS["free batch"]:
            continue
        if phase in ("unentered", "entered", "resumed"):
            uses = list(kind.uses) if full or kind.uses is SCAN else list(kind.uses)[:2]
            uses = uses if phase == "entered" else uses[: 3 if full and kind.uses is not CURSOR else 1]
        else:
            uses = [phase]
        for use in uses:
            for release in list(releases_of(kind, phase))[: None if full or phase != "resumed" else 1]:
                yield Case(name, phase, use, release, phase in ("renewing", "expiring") or release == "expiry")


class Round:
    """One handle, used and released at once.

    Attributes:
        wrong: What was wrong, in words.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.kind = KINDS[case.kind]
        self.world = World()
        self.handle = self.kind.open(
            self.world.source(self.kind), **({"expire_after": LEASE} if case.has_lease else {})
        )
        self.begun = case.phase not in ("entering", "unentered")
        if self.begun:
            self.handle.__enter__()
            self.kind.begin(self.handle)
        if case.phase == "resumed":
            self.handle._record.disable()
        self.wrong: list[str] = []

    def use(self) -> Any:
        """Make the use."""
        match self.case.phase:
            case "entering":
                self.handle.__enter__()
            case "leaving":
                leave(self.handle)
            case "renewing":
                self.handle.renew()
            case "expiring":
                expire(self.handle)
            case "closing":
                self.world.db.close()
            case _:
                return self.kind.uses[self.case.use][0](self.handle)

    def right(self) -> Any:
        """Say what the use returns."""
        if self.case.use == self.case.phase:
            return None
        right = self.kind.uses[self.case.use][1]
        if self.kind.uses is BATCH:
            return right if self.begun else right - 1
        if self.kind.uses is not SCAN:
            return right
        rows = ROWS if self.case.kind != "scan of values" else [value for _, value in ROWS]
        rest = rows[1:] if self.begun else rows
        return rest if right == "rest" else rest[0]

    def meet(self, k: int) -> Meeting:
        """Let the use be stopped before its k-th bytecode, and look what comes of it."""
        release = RELEASES[self.case.release]
        met = interleave(self.use, lambda: release(self.handle, self.world), k)
        self._judge("the use", met.use)
        self._judge("the release", met.release)
        if met.use.error is None and met.use.value != self.right():
            self.wrong.append(f"the use returned {met.use.value!r}, not {self.right()!r}")
        for handle in (self.handle, self.world.snap):
            if handle is not None:
                self._judge("the end", outcome_of(lambda: end(handle)))  # noqa: B023 - called at once
                self._judge_record(handle._record)
        for rows in begun:
            found = outcome_of(lambda: next(rows))  # noqa: B023 - called at once
            self._judge("the loop", found)
            if found.error is None:
                self.wrong.append(f"the loop went on with {found.value!r} after the release")
        if self.world.db._record.reason is None:
            self._judge_counts()
        return met

    def _judge(self, what: str, found: Outcome) -> None:
        if found.error is not None and not isinstance(found.error, saferocks.SaferocksError):
            self.wrong.append(f"{what} raised {found.error!r}\n{found.text}")

    def _judge_record(self, record: Any) -> None:
        """See that a record refers to nothing native."""
        parts = ("native", "keeper", "rows", "shared", "direct", "direct_sink")
        left = [name for name in parts if getattr(record, name, None) is not None]
        if left:
            self.wrong.append(f"the {record.kind} still has {' and '.join(left)} (released {record.reason})")

    def _judge_counts(self) -> None:
        """See that nothing native is left, by RocksDB's own count."""
        audit = self.world.db.audit()
        if not audit.ok or audit.live_iterators or audit.live_snapshots:
            self.wrong.append(f"left behind: {audit}")
        if self.world.db.handles():
            self.wrong.append(f"left open: {self.world.db.handles()}")


def end(handle: Any) -> None:
    """Enter a handle that has not been used, and leave its `with`."""
    if handle._record.state is _handle.OPEN:
        handle.__enter__()
    leave(handle)


#: At how many bytecodes of a case to stop, at the most: of a release; of an expiry, or of one of the snapshot's,
#: which is a release and a little more; and of a close, after which the reopening takes tens of milliseconds.
MOST_PLACES = {"quick": (48, 2, 2), "full": (4000, 150, 8)}


def places(case: Case, extent: str, bytecodes: int) -> range:
    """Return the numbers of the bytecodes to stop at: the same each time, and as far apart as it has to be."""
    release, expiry, close = MOST_PLACES[extent]
    most = (
        close
        if case.release == "close" or case.phase == "closing"
        else release
        if case.release in ("release", *LEAVING)
        else expiry
    )
    return range(1, bytecodes + 1, max(1, -(-bytecodes // most)))


def run(case: Case, extent: str, unraised: list[str]) -> dict[str, Any]:
    """Try a case at its places; say at how many, and what was wrong where."""
    saferocks.configure(policy="warn" if extent == "full" and case.release == "release" else "ignore")
    wrong: dict[str, str] = {}

    def meet(k: int) -> Meeting:
        each = Round(case)
        met = each.meet(k)
        each.wrong += [f"unraisable: {text}" for text in unraised]
        unraised.clear()
        for text in each.wrong:
            wrong.setdefault(text, met.place or "not stopped")
        return met

    meet(0)  # once with all the imports that are made late
    whole = meet(0)
    if whole.use.error is not None:
        wrong[f"the use raised {whole.use.error!r}"] = "not stopped"
    stops = places(case, extent, whole.bytecodes)
    for k in stops:
        if meet(k).place is None:
            break  # it has fewer this time: nothing had to be waited for, say
        if len(wrong) > MOST_WRONG:
            break
    return {"case": str(case), "places": len(stops), "wrong": [f"{where}: {text}" for text, where in wrong.items()]}


MOST_WRONG = 3  # a defect shows at many places


def main(names: str, extent: str, only: str = "") -> None:
    """Try the cases of some kinds of handles."""
    faulthandler.enable()
    warnings.simplefilter("ignore")
    logging.getLogger("saferocks").setLevel(logging.CRITICAL)
    unraised: list[str] = []
    sys.unraisablehook = lambda unraisable: unraised.append(f"{unraisable.exc_value!r} in {unraisable.object!r}")
    time.sleep = sleep
    gc.disable()  # a collection is another interleaving, of finalizers, and comes where it will
    with saferocks.open("db") as db:
        for key, value in ROWS:
            db[key] = value
    for case in chain.from_iterable(cases_of(name, extent == "full") for name in names.split(",")):
        if only in str(case):
            print(f"begins: {case}", file=sys.stderr, flush=True)  # so that a crash says in which it was
            began = time.monotonic()
            print(json.dumps(run(case, extent, unraised) | {"seconds": round(time.monotonic() - began, 2)}), flush=True)
    World().db.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
