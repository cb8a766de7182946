"""A program for tests/test_interrupts.py: an exception at each moment at which Python runs a signal handler.

From Python 3.11 on that is when a function is entered, and when a call of one in C has returned (and in loops that
make no call). A profile function is told of both, and what it raises comes out of just there; so the k-th of these
moments within the package is interrupted, for one k after the other, until the work has no more.

Arguments: the name of the work, how many moments to go on by, and the name of the exception. Prints what was wrong,
a line each, and last at how many moments it was interrupted.
"""

from __future__ import annotations

import builtins
import errno
import faulthandler
import gc
import logging
import os
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import saferocks
from saferocks import _closing
from saferocks._tracebacks import drop_tracebacks

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

PACKAGE = os.path.dirname(saferocks.__file__) + os.sep
PATH = "db"
#: More than any of this takes, also where the disk stalls, and less than a close waits for what a frame refers to.
MOST_SECONDS = 20.0
WAIT_SECONDS = 30.0
#: Seconds for all of it.
MOST = 150
ROWS = [(b"k%d" % number, b"v%d" % number) for number in range(10)]


class State:
    """Which moment is to be interrupted and with what, how many there were, and where it was."""

    def __init__(self, wanted: int) -> None:
        self.wanted, self.seen, self.place = wanted, 0, ""
        self.kind: type[BaseException] = KeyboardInterrupt
        self.arguments: tuple[Any, ...] = ()


state = State(0)


def interrupt(frame: FrameType, event: str, function: Any) -> None:
    """Raise at one of the moments."""
    if event not in ("call", "c_return") or not frame.f_code.co_filename.startswith(PACKAGE):
        return
    state.seen += 1
    if state.seen == state.wanted:
        sys.setprofile(None)
        name = f"{event} {getattr(function, '__qualname__', '')}".strip()
        state.place = f"{frame.f_code.co_filename[len(PACKAGE) :]}:{frame.f_lineno} {frame.f_code.co_name} ({name})"
        del frame, function  # a handler is not given the function, which may belong to what is native
        raise state.kind(*state.arguments)


def disguise() -> None:
    """Let the frame of `interrupt` pass for one of the package's: Python's own handler is in C and has none."""
    interrupt.__code__ = interrupt.__code__.replace(co_filename=f"{PACKAGE}interrupt.py")


def nothing(db: Any) -> None:
    """Leave the database alone: what is interrupted is its close."""


def reads(db: Any) -> None:
    """A snapshot, two scans, a batch."""
    with db.snapshot() as snap, snap.keys() as seen, db.items() as items, db.write_batch() as batch:
        batch[b"b"] = b"1"
        for _ in items:
            next(seen)
    db[b"a"] = b"1"


def cursors(db: Any) -> None:
    """Cursors with bounds and without."""
    with db.iter(prefix=b"k") as bounded, db.iter() as cursor:
        bounded.seek_to_first()
        bounded.value()
        bounded.next()
        cursor.seek(b"k3")
        cursor.key()
        cursor.next()


def shared(db: Any) -> None:
    """Cursors and scans of a snapshot."""
    with db.snapshot() as snap, snap.iter(prefix=b"k") as bounded, snap.iter() as cursor, snap.items() as items:
        bounded.seek_to_first()
        bounded.value()
        cursor.seek(b"k")
        cursor.next()
        next(items)
        snap.get(b"k1")


def writes(db: Any) -> None:
    """A bulk writer and a batch."""
    with db.bulk_writer() as bulk:
        bulk[b"x"] = b"1"
        bulk.flush()
        bulk[b"y"] = b"2"
    with db.write_batch() as batch:
        batch.put(b"z", b"3")


def families(db: Any) -> None:
    """A column family."""
    family = db.get_column_family("f")
    family[b"a"] = b"1"
    family.get(b"a")
    with family.items() as items:
        list(items)


def fails(db: Any) -> NoReturn:
    """A body that leaves with an error of its own."""
    raise Failure


class Failure(Exception):  # noqa: N818 - as the tests name it
    """What the body has left with."""


def scans(db: Any) -> None:
    """Scans with a bound and a lease."""
    with db.items(prefix=b"k") as items:
        list(items)
    with db.values(from_key=b"k3", expire_after=100) as values:
        next(values)
        values.renew()


def follows(db: Any) -> None:
    """A secondary that is opened anew, with a scan, a column family and a checkpoint."""
    for log in (*Path(PATH).glob("LOG.old.*"), *Path("following").glob("LOG.old.*")):
        log.unlink()  # openings list them, and each adds one
    sys.setprofile(None)  # the opening of a database is not what is interrupted here
    access = saferocks.AccessType.secondary("following")
    with saferocks.open(PATH, access_type=access) as secondary, secondary.items() as items:
        sys.setprofile(interrupt)
        family = secondary.get_column_family("f")
        with secondary.checkpoint():
            db[b"a"] = db.get_column_family("f")[b"a"] = b"%d" % state.wanted
            db.flush()
            secondary.try_catch_up_with_primary()
            next(items)
            assert secondary[b"a"] == family[b"a"] == b"%d" % state.wanted


def opens(db: Any) -> None:
    """The opening of a secondary."""
    for log in (*Path(PATH).glob("LOG.old.*"), *Path("following").glob("LOG.old.*")):
        log.unlink()
    with saferocks.open(PATH, access_type=saferocks.AccessType.secondary("following")) as secondary:
        sys.setprofile(None)
        assert secondary[b"k1"] == b"v1"


def makes(db: Any) -> None:
    """The opening of a new database."""
    shutil.rmtree("new", ignore_errors=True)
    with saferocks.open("new"):
        sys.setprofile(None)


def goes_on(use: Callable[[], Any], check: Callable[[], None]) -> None:
    """Interrupt a use of handles, and while the interrupt is being handled use them again."""
    try:
        use()
    except state.kind:
        faulthandler.dump_traceback_later(20, exit=True)  # a lock that nobody gives back
        try:
            check()
        except Exception as error:
            print(f"{state.place}: afterwards {error!r}")
            drop_tracebacks((error,))
        faulthandler.dump_traceback_later(MOST, exit=True)
        raise


def cursors_go_on(db: Any) -> None:
    """Cursors of a snapshot that are used again, and a scan of it that is in the midst of its rows."""
    with db.snapshot() as snap, snap.items() as items, snap.iter(prefix=b"k") as bounded, snap.iter() as cursor:
        first = next(items)

        def use() -> None:
            bounded.seek(b"k5")
            cursor.seek(b"k5")
            cursor.next()
            cursor.value()
            snap.get_entity(b"k7")

        def check() -> None:
            expect([first, *items], ROWS)
            for each in (cursor, bounded):
                if each.valid():
                    expect(each.value(), each.key().replace(b"k", b"v"))
                each.seek(b"k1")
                each.next()
                expect((each.key(), each.value()), ROWS[2])
            expect(snap.get_entity(b"k7"), [(b"", b"v7")])

        goes_on(use, check)


def scans_go_on(db: Any) -> None:
    """Scans that are iterated over again; one that has been cut short says so."""
    with db.snapshot() as snap, db.items() as plain, db.values(prefix=b"k") as bounded, snap.items() as shared:
        for scan, rows in ((plain, ROWS), (bounded, [value for _, value in ROWS]), (shared, ROWS)):
            goes_on(partial(begin_loop, scan), partial(expect_rest, scan, rows))


def begin_loop(scan: Any) -> None:
    """Take a row as a `for` does that is then left."""
    for _ in scan:
        break


def expect_rest(scan: Any, rows: list[Any]) -> None:
    """See that a scan goes on with its rows, perhaps without the first, or says what has cut it short."""
    try:
        found = list(scan)
    except (saferocks.IncompleteError, state.kind):
        return
    expect(found, rows[-len(found) :] if len(found) >= len(rows) - 1 else rows)  # it may have taken the first


def expect(found: Any, expected: Any) -> None:
    """Fail unless two things are the same."""
    if found != expected:
        raise ValueError(f"{found!r} instead of {expected!r}")


WORKS: dict[str, Callable[[Any], None]] = {
    function.__name__: function
    for function in (
        nothing, fails, reads, cursors, shared, writes, families, scans, follows, opens, makes, cursors_go_on,
        scans_go_on,
    )
}  # fmt: skip


def carry_out(work: Callable[[Any], None]) -> tuple[bool, Any]:
    """Do the work in a database's `with`, and return whether the interrupt came out of it, and the database."""
    held = None
    try:
        with saferocks.open(PATH) as db:
            held = db
            sys.setprofile(interrupt)
            work(db)
    except state.kind as arrived:
        if work is fails and not isinstance(arrived.__context__, Failure):
            print(f"{state.place}: the body's error was lost: {arrived.__context__!r}")
        return True, held
    except Failure as failure:
        if getattr(failure, "__notes__", ()):
            print(f"{state.place}: {failure.__notes__}")  # type: ignore[attr-defined]
    finally:
        sys.setprofile(None)
    return False, held


def look(arrived: bool, held: Any, met: list[Any]) -> list[str]:
    """Say what is wrong after an interrupt."""
    wrong = []
    # What comes in a `__del__`, or as a generator is dropped, Python tells nobody else.
    if not arrived and not met:
        wrong.append("the interrupt was lost")
    if held._record.reason is None:
        if "__exit__ (call)" not in state.place:  # it came before the first instruction of the end of the `with`
            wrong.append("the database was left open")
        held.close()
    if held._record.reason is None:
        wrong.append("the database cannot be closed")
    wrong += [f"left in the registry: {handle}" for handle in saferocks.open_handles()]
    try:
        with saferocks.open(PATH) as db, db.keys(prefix=b"k") as keys:
            if len(list(keys)) != len(ROWS):
                wrong.append("rows are missing")
    except saferocks.EngineError as error:
        wrong.append(f"it cannot be opened again: {error}")
    return wrong


def main(name: str, stride: int, kind: str) -> None:
    """Interrupt the work at its moments, one after the other."""
    state.kind = getattr(builtins, kind)
    if state.kind is FileNotFoundError:  # what a handler may meet that reads a configuration again
        state.arguments = (errno.ENOENT, os.strerror(errno.ENOENT), "/etc/no/such.conf")
    if state.kind is KeyboardInterrupt:
        disguise()
    met: list[Any] = []
    sys.unraisablehook = lambda unraisable: met.append(type(unraisable.exc_value))  # and not what it happened in
    saferocks.configure(policy="ignore")
    _closing._LAST_CALLS_SECONDS = WAIT_SECONDS
    logging.getLogger("saferocks").addHandler(logging.NullHandler())
    with saferocks.open(PATH) as db:
        db.create_column_family("f")
        for key, value in ROWS:
            db[key] = value
    moment, places = 1, 0
    while True:
        state.wanted, state.seen, state.place = moment, 0, ""
        began = time.monotonic()
        arrived, held = carry_out(WORKS[name])
        seconds = time.monotonic() - began
        if not state.place:
            break
        wrong = look(arrived, held, met)
        if seconds > MOST_SECONDS:
            wrong.append(f"it took {seconds:.1f} s")
        for each in wrong:
            print(f"{name}, moment {moment}, {state.place}: {each}")
        met.clear()
        del held
        gc.collect()
        moment, places = moment + stride, places + 1
    print(places)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(MOST, exit=True)
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
