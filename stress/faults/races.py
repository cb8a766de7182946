"""Races: a database is closed, dropped from, flushed, compacted, copied while threads use it; and Ctrl-C."""

from __future__ import annotations

import gc
import logging
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import saferocks
from stress.faults.fault import Fault, Outcome
from stress.faults.race_uses import KEYS, USES, Arena, WrongAnswerError, expect

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from random import Random

    from stress.faults.fault import Round

#: Races in a round; a process of its own for each would take longer than the races.
RACES = 50
_THREADS = 4
_EAGER = 1e-6
_MOST_SECONDS = 0.004
_JOIN_SECONDS = 30.0
_PAUSE = 0.05
#: One for each interrupt that came inside a finalizer, which Python hands to `sys.unraisablehook`.
_in_finalizers: list[None] = []
_CLOSED = (saferocks.HandleClosedError,)
_DROPPED = (saferocks.ColumnFamilyDroppedError, saferocks.ColumnFamilyNotFoundError, saferocks.HandleClosedError)


def _copy(arena: Arena, path: Path) -> None:
    with arena.db.checkpoint() as checkpoint:
        checkpoint.create(path)
    with saferocks.open(path) as copy, copy.keys(prefix=b"k") as keys:
        expect(list(keys), KEYS, "a checkpoint")


#: What happens to the database meanwhile, and which errors the uses may then meet.
EVENTS: dict[str, tuple[Callable[[Arena, Path], Any], tuple[type[Exception], ...]]] = {
    "close": (lambda arena, path: arena.db.close(), _CLOSED),
    "close at once": (lambda arena, path: arena.db.close(cancel_background=True), _CLOSED),
    "drop": (lambda arena, path: arena.db.drop_column_family("f"), _DROPPED),
    "flush": (lambda arena, path: arena.db.flush(), ()),
    "compact": (lambda arena, path: arena.db.compact_range(None, None), ()),
    "checkpoint": (_copy, ()),
    "snapshot release": (lambda arena, path: arena.snap.__exit__(None, None, None), _CLOSED),
}
#: Errors that any use may meet: leases of a few milliseconds run out.
_ALWAYS = (saferocks.HandleExpiredError,)


class Race:
    """Threads that use a database, and one thing that happens to it.

    Args:
        path: Of the database, which does not exist yet.
        random: The random numbers.
    """

    def __init__(self, path: Path, random: Random) -> None:
        self._path = path
        self._random = random
        self._stop = threading.Event()
        self._counting = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def run(self) -> None:
        """Carry it out, and verify the database."""
        event = self._random.choice(sorted(EVENTS))
        happen, allowed = EVENTS[event]
        with saferocks.open(self._path) as db:
            _fill(db)
            arena = Arena(db, db.snapshot().__enter__())
            barrier = threading.Barrier(_THREADS + 1)
            threads = [self._thread(arena, number, barrier, (*_ALWAYS, *allowed)) for number in range(_THREADS)]
            barrier.wait(_JOIN_SECONDS)
            time.sleep(self._random.random() * _MOST_SECONDS)  # the moment, and not a wait for anything
            self._happen(event, happen, arena)
            self._join(threads)
            arena.snap.__exit__(None, None, None)
        self._verify(arena)
        self.counts[f"races with {event}"] += 1

    def _happen(self, event: str, happen: Callable[[Arena, Path], Any], arena: Arena) -> None:
        try:
            happen(arena, self._path.with_suffix(".copy"))
        except Exception as error:  # noqa: BLE001 - told
            self.wrong.append(f"{event} raised {error!r}")

    def _thread(
        self, arena: Arena, number: int, barrier: threading.Barrier, allowed: tuple[type[Exception], ...]
    ) -> threading.Thread:
        names = self._random.sample(sorted(USES), 4)
        thread = threading.Thread(target=self._use, args=(arena, number, barrier, allowed, names), daemon=True)
        thread.start()
        return thread

    def _use(
        self,
        arena: Arena,
        number: int,
        barrier: threading.Barrier,
        allowed: tuple[type[Exception], ...],
        names: list[str],
    ) -> None:
        barrier.wait(_JOIN_SECONDS)
        done = 0
        while not self._stop.is_set() or done < len(names):
            name = names[done % len(names)]
            done += 1
            try:
                USES[name](arena, number)
            except allowed as error:
                self._count(f"refused with {type(error).__name__}")
                if arena.db._record.reason is not None or arena.db._record.owner.closing:  # nothing else will come
                    return
            except WrongAnswerError as error:
                self.wrong.append(f"{error}")
            except BaseException as error:  # noqa: BLE001 - told
                self.wrong.append(f"{name} raised {error!r}")
            else:
                self._count("right results")

    def _count(self, name: str) -> None:
        """Count one more: the first `+=` of a name calls Python code, in which another thread may have its turn."""
        with self._counting:
            self.counts[name] += 1

    def _join(self, threads: list[threading.Thread]) -> None:
        self._stop.set()
        for thread in threads:
            thread.join(_JOIN_SECONDS)
            if thread.is_alive():
                self.wrong.append("a thread hangs")

    def _verify(self, arena: Arena) -> None:
        """Open the database again, at once, and compare its rows with what was written."""
        with saferocks.open(self._path) as db, db.keys(prefix=b"k") as keys:
            expect(list(keys), KEYS, "a scan after it all")
            for number in range(_THREADS):
                found = int(db.get(b"a%d" % number, b"0"))
                if not arena.acknowledged[number] <= found <= arena.attempted[number]:
                    self.wrong.append(
                        f"writer {number} left {found}, had {arena.acknowledged[number]} acknowledged "
                        f"and {arena.attempted[number]} attempted"
                    )


def _fill(db: Any) -> None:
    with db.write_batch() as batch:
        for key in KEYS:
            batch[key] = b"v"
    db.create_column_family("f")[b"k"] = b"v"


class Interrupt:
    """A real Ctrl-C at a random moment inside a `with`, or as it ends."""

    def __init__(self, path: Path, random: Random) -> None:
        self._path = path
        self._random = random
        self._arrived = threading.Event()
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def run(self) -> None:
        """Carry it out; all must be released, and the database be as it was left."""
        arrived, held, acknowledged = False, None, 0
        sender = threading.Thread(target=self._send, args=(threading.get_ident(),))
        try:
            with saferocks.open(self._path) as db:
                held = db
                _fill(db)
                sender.start()
                turns = self._random.choice((1, 3, 1 << 30))
                for turn in range(turns):
                    self._work(db, turn)
                    acknowledged = turn + 1
            self._arrived.wait(_JOIN_SECONDS)  # the interrupt ends it
        except KeyboardInterrupt:
            arrived = True
            self._arrived.set()
        self._arrived.set()
        sender.join(_JOIN_SECONDS)
        if not arrived:
            self.wrong.append("the interrupt did not arrive")
        self._look(held, acknowledged)
        self.counts["interrupts"] += 1

    def _send(self, thread: int) -> None:
        time.sleep(self._random.random() * _MOST_SECONDS)  # the moment, and not a wait for anything
        met = len(_in_finalizers)
        signal.pthread_kill(thread, signal.SIGINT)
        while not self._arrived.wait(_PAUSE):
            if len(_in_finalizers) > met:  # press it again
                met = len(_in_finalizers)
                self.counts["interrupts that a finalizer met"] += 1
                signal.pthread_kill(thread, signal.SIGINT)

    def _work(self, db: Any, turn: int) -> None:
        with db.snapshot() as snap, snap.keys() as seen, db.items() as items, db.write_batch() as batch:
            batch[b"b"] = b"%d" % turn
            for _ in items:
                next(seen)
        db[b"a"] = b"%d" % (turn + 1)

    def _look(self, held: Any, acknowledged: int) -> None:
        if held is not None and held._record.reason is None:  # it came in the midst of the close, which put all back
            self.counts["interrupts of a close"] += 1
            held.close()
        with saferocks.open(self._path) as db, db.keys(prefix=b"k") as keys:
            expect(list(keys), KEYS, "a scan after an interrupt")
            found = int(db.get(b"a", b"0"))
            if not acknowledged <= found <= acknowledged + 1:
                self.wrong.append(f"after an interrupt {found} was found, and {acknowledged} was acknowledged")


def stage(round_: Round) -> Outcome:
    """Carry out many races, every fourth with threads that are switched all the time, and interrupts."""
    random, counts, wrong = round_.random(), Counter[str](), list[str]()
    interval, hook = sys.getswitchinterval(), sys.unraisablehook
    logging.getLogger("saferocks").addHandler(logging.NullHandler())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.unraisablehook = lambda unraisable: _note(unraisable, wrong)
    saferocks.configure(policy="ignore")
    try:
        for number in range(RACES):
            path = round_.directory / f"race{number}"
            race: Race | Interrupt = Interrupt(path, random) if number % 10 == 9 else Race(path, random)
            sys.setswitchinterval(_EAGER if number % 4 == 0 else interval)
            race.run()
            counts += race.counts
            wrong += race.wrong + _left_behind()
            counts["races"] += 1
    finally:
        sys.setswitchinterval(interval)
        sys.unraisablehook = hook
    return Outcome(dict(counts), tuple(wrong))


def _note(unraisable: Any, wrong: list[str]) -> None:
    """Note what nobody could be raised to; an interrupt that comes inside a `__del__` Python cannot raise."""
    if unraisable.exc_type is KeyboardInterrupt and getattr(unraisable.object, "__name__", "") == "__del__":
        _in_finalizers.append(None)
    else:
        wrong.append(f"unraisable: {unraisable.exc_value!r}")


def _left_behind() -> list[str]:
    gc.collect()
    with suppress(saferocks.LeakedHandlesError):
        saferocks.check()
    return [f"left in the registry: {handle}" for handle in saferocks.open_handles()]


FAULT = Fault(
    name="races",
    summary=f"close, drop, flush, expiry, ... against threads that read and write; {RACES} races a round",
    rounds=200,
    stage=stage,
    limit=120.0,
)
