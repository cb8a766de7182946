"""Whose a handle is: watches against a model of them, in many threads, and asked at any moment."""

from __future__ import annotations

import gc
import threading
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings, strategies as st

import saferocks
from saferocks import _registry, _watch
from saferocks._registry import Owner, Record
from saferocks._watch import Watch, exempt_for_good, is_exempt, whose
from saferocks.testing import assert_no_leaks
from tests.intrusions import run_with_intrusion

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    Run = Callable[..., subprocess.CompletedProcess[str]]

SECONDS = 20.0


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No watches but the test's own, and nothing exempt."""
    monkeypatch.setattr(_watch, "watches", ())
    monkeypatch.setattr(_watch, "exempt", frozenset())


@pytest.fixture
def opened() -> Iterator[Callable[[], Record]]:
    """Make records of handles, which are gone when the test ends."""
    owner = Owner("nowhere", trace="off")
    yield lambda: Record(owner)
    for number in owner.children:
        _registry.records.pop(number, None)


class Worker:
    """A thread that runs one function after another."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._results: SimpleQueue[Any] = SimpleQueue()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()
        self.ident = self._thread.ident

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            self._results.put(task())

    def run(self, task: Callable[[], Any]) -> Any:
        """Run a function on the thread, and return what it returns."""
        self._tasks.put(task)
        return self._results.get(timeout=SECONDS)

    def end(self) -> None:
        """Wait until the thread has ended."""
        self._tasks.put(None)
        self._thread.join(SECONDS)


class Here:
    """The thread of the test, as a worker."""

    def __init__(self) -> None:
        self.ident = threading.get_ident()

    def run(self, task: Callable[[], Any]) -> Any:
        """Run a function."""
        return task()

    def end(self) -> None:
        """Do nothing: the test goes on."""


# --------------------------------------------------------------------------- against a model


@dataclass
class WatchModel:
    """What should be true of a watch.

    Attributes:
        watch: The watch.
        thread: The number of its thread.
        older: How many threads there were before it.
        spans: From when to when it was on.
        opened: Whether anything was opened while it was on.
    """

    watch: Watch
    thread: int
    older: int
    spans: list[list[float]]
    opened: bool = False

    def is_on(self) -> bool:
        """Tell whether it is on."""
        return self.spans[-1][1] == float("inf")

    def since(self, when: float, thread: int) -> float:
        """Return since when it was on for a handle that a thread has opened."""
        if self.watch.what != "session" and thread != self.thread and thread < self.older:
            return -1
        return next((first for first, last in self.spans if first < when < last), -1)


@dataclass
class World:
    """Threads, watches and handles, and what should be true of them."""

    owner: Owner = field(default_factory=lambda: Owner("nowhere", trace="off"))
    workers: list[Worker | Here] = field(default_factory=lambda: [Here()])
    watches: list[WatchModel] = field(default_factory=list)
    records: list[tuple[Record, float, int]] = field(default_factory=list)
    now: float = 0

    def step(self, what: str, which: int, other: int) -> None:
        """Let something happen."""
        self.now += 1
        thread = which % len(self.workers)
        if what == "thread":
            if len(self.workers) < 4:
                self.workers.append(Worker())
        elif what == "open":
            record = self.workers[thread].run(lambda: Record(self.owner))
            self.records.append((record, self.now, thread))
            for each in self.watches:
                each.opened |= each.is_on()
        elif what in ("block", "session"):
            watch = self.workers[thread].run(lambda: Watch(what))
            self.watches.append(WatchModel(watch, thread, len(self.workers), [[self.now, float("inf")]]))
        elif what == "test":  # of another thread, as the plugin makes them
            ident = self.workers[other % len(self.workers)].ident
            watch = self.workers[thread].run(lambda: Watch(what, thread=ident))
            model = WatchModel(watch, other % len(self.workers), len(self.workers), [[self.now, float("inf")]])
            self.watches.append(model)
        elif self.watches:
            self.change(what, self.watches[which % len(self.watches)])

    def change(self, what: str, each: WatchModel) -> None:
        """Let something happen to a watch."""
        worker = self.workers[each.thread]
        if what == "off":
            worker.run(each.watch.off)
            each.spans[-1][1] = min(each.spans[-1][1], self.now)
        elif what == "on" and not each.is_on():
            worker.run(each.watch.on)
            each.spans.append([self.now, float("inf")])
        elif what == "end":
            worker.run(each.watch.end)
            self.watches.remove(each)

    def owner_of(self, when: float, thread: int) -> Watch | None:
        """Return whose a handle should be."""
        found = [(each.since(when, thread), each.watch) for each in self.watches]
        since, owner = max(found, key=lambda pair: pair[0], default=(-1, None))
        return owner if since >= 0 else None

    def check(self) -> None:
        """Check that all is as it should be."""
        assert set(_watch.watches) == {each.watch for each in self.watches}
        for record, when, thread in self.records:
            assert whose(record) is self.owner_of(when, thread)
        for thread, worker in enumerate(self.workers):
            assert worker.run(_watch.current) is self.owner_of(self.now + 0.5, thread)
        for each in self.watches:
            assert each.watch.may_own() or not each.opened

    def end(self) -> None:
        """Leave nothing behind."""
        for worker in self.workers:
            worker.end()
        for record, _, _ in self.records:
            _registry.records.pop(record.id, None)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["thread", "open", "open", "block", "block", "test", "session", "off", "on", "on", "end"]),
        st.integers(0, 5),
        st.integers(0, 3),
    ),
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@example(steps=[("block", 0, 0), ("thread", 0, 0), ("block", 1, 0), ("open", 0, 0), ("open", 1, 0)])
@example(steps=[("block", 0, 0), ("off", 0, 0), ("block", 0, 0), ("on", 0, 0), ("open", 0, 0), ("end", 0, 0)])
@given(steps=STEPS)
def test_whose_is_what_the_model_says(steps: list[tuple[str, int, int]]) -> None:
    """A handle is the innermost watch's that was on for its thread as it was opened, whatever came before or since."""
    before = _watch.watches
    _watch.watches = ()
    world = World()
    try:
        for what, which, other in steps:
            world.step(what, which, other)
            world.check()
    finally:
        world.end()
        _watch.watches = before


@pytest.mark.usefixtures("alone")
def test_nobody_watches(opened: Callable[[], Record]) -> None:
    """Without watches a handle is nobody's, and not exempt."""
    record = opened()
    assert (whose(record), _watch.current(), is_exempt(record)) == (None, None, False)


@pytest.mark.usefixtures("alone")
def test_a_watch_off_owns_what_it_owned(opened: Callable[[], Record]) -> None:
    """A watch that is off owns what was opened while it was on, and after its end nothing."""
    before = opened()
    watch = Watch("block")
    assert not watch.may_own()
    inside = opened()
    watch.off()
    watch.off()
    after = opened()
    assert [whose(each) for each in (before, inside, after)] == [None, watch, None]
    watch.on()
    again = opened()
    assert [whose(each) for each in (before, inside, after, again)] == [None, watch, None, watch]
    assert watch.may_own()
    watch.end()
    watch.end()
    assert [whose(each) for each in (inside, again)] == [None, None]
    assert _watch.watches == ()


@pytest.mark.usefixtures("alone")
def test_a_watch_off_may_own_nothing(opened: Callable[[], Record]) -> None:
    """A watch over nothing does not take what was opened before it and after it for its own."""
    opened()
    watch = Watch("block")
    watch.off()
    opened()
    assert not watch.may_own()
    watch.end()


@pytest.mark.usefixtures("alone")
def test_a_watch_may_own_a_single_handle(opened: Callable[[], Record]) -> None:
    """One handle is enough for a watch to be asked, whether it is on yet or off."""
    watch = Watch("block")
    record = opened()
    watch.off()
    assert watch.may_own()
    assert whose(record) is watch
    watch.end()


# --------------------------------------------------------------------------- what is exempt


@pytest.mark.usefixtures("alone")
def test_exempt_for_good(db: saferocks.Rdict) -> None:
    """What is exempt stays so while it is open, whoever watches, and is forgotten once it is gone."""
    with db.items(), db.snapshot(), db.keys():
        items, snap, keys = _registry.snapshot()[-3:]
        exempt_for_good([items, snap])
        assert _watch.exempt == {items.id, snap.id}
        watch = Watch("block")
        assert [is_exempt(each) for each in (items, snap, keys)] == [True, True, False]
        watch.end()
        exempt_for_good([keys])
        exempt_for_good([])
        assert _watch.exempt == {items.id, snap.id, keys.id}
    assert is_exempt(items)  # as it is being released
    exempt_for_good([keys])  # too late: it is gone
    assert _watch.exempt == frozenset()


@pytest.mark.usefixtures("alone")
def test_allowed_kinds_are_exempt(db: saferocks.Rdict) -> None:
    """What a watch allows is exempt among its own handles, not among those of a watch inside."""
    outer = Watch("test", frozenset({"iterator"}))
    with db.items(), db.snapshot():
        inner = Watch("block")
        with db.items():
            records = _registry.snapshot()[-3:]
            assert [is_exempt(each) for each in records] == [True, False, False]
            inner.end()
            assert [is_exempt(each) for each in records] == [True, False, True]
    outer.end()


@pytest.mark.usefixtures("alone")
def test_what_is_exempt_is_pruned_in_long_runs(db: saferocks.Rdict) -> None:
    """Many blocks that are allowed to leave handles do not fill the memory with the numbers of those that are gone."""
    for _ in range(50):
        with assert_no_leaks(allow=["iterator"]):
            kept = db.items().__enter__()
        assert len(_watch.exempt) == 1
        kept.__exit__(None, None, None)


# --------------------------------------------------------------------------- many threads


#: Runs `work(number)` in four threads at once, which take turns as often as they can, and collect as often as they can.
TOGETHER = """
import faulthandler, gc, sys, threading
import saferocks
from saferocks import _registry, _watch
from saferocks._watch import Watch, exempt_for_good, whose
from saferocks.testing import assert_no_leaks

faulthandler.dump_traceback_later(20, exit=True)
gc.callbacks.append(lambda phase, info: [None for _ in range(1000)])  # time for others to get their turn
gc.freeze()  # what there is already is left out, which makes collections fast
gc.set_threshold(1, 1000, 1000)

def together(work):
    barrier = threading.Barrier(4)
    results = [None] * 4

    def run(number):
        barrier.wait()
        try:
            results[number] = work(number)
        except BaseException as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    sys.setswitchinterval(1e-6)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(results)
"""


def lines_of(run: Run, program: str) -> list[str]:
    """Return what a program prints, which ends well and complains of nothing."""
    done = run(TOGETHER + program, flags=("-W", "error"))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


class Slow(threading.Thread):
    """A thread that `threading` has not listed yet when it waits for leave to go on."""

    def __init__(self, run: Callable[[], Any]) -> None:
        super().__init__(target=run)
        self.is_starting, self.may_start = threading.Event(), threading.Event()

    def _set_ident(self) -> None:
        self.is_starting.set()
        assert self.may_start.wait(SECONDS)
        super()._set_ident()  # type: ignore[misc]  # of `threading`'s own


@pytest.mark.usefixtures("alone")
def test_a_thread_that_was_being_started_is_older(opened: Callable[[], Record]) -> None:
    """A block does not answer for a thread whose start had begun before it."""
    owners: list[Watch | None] = []
    slow = Slow(lambda: owners.append(whose(opened())))
    starter = threading.Thread(target=slow.start)
    starter.start()
    assert slow.is_starting.wait(SECONDS)
    watch = Watch("block")
    slow.may_start.set()
    starter.join(SECONDS)
    slow.join(SECONDS)
    assert owners == [None]
    watch.end()


class Another:
    """A thread that makes a watch, and opens a handle when it is told to."""

    def __init__(self, opened: Callable[[], Record]) -> None:
        self.opened = opened
        self.is_ready, self.may_open = threading.Event(), threading.Event()
        self.is_right: bool | None = None
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        watch = Watch("block")
        self.is_ready.set()
        assert self.may_open.wait(SECONDS)
        self.is_right = whose(self.opened()) is watch
        watch.end()

    def end(self) -> None:
        """Let it open its handle."""
        assert self.is_ready.wait(SECONDS)
        self.may_open.set()
        self.thread.join(SECONDS)


@pytest.mark.usefixtures("alone")
def test_a_watch_that_is_made_in_the_midst_of_another(opened: Callable[[], Record]) -> None:
    """At whatever instruction of making a watch another thread starts and makes its own: each owns what it opens."""
    others: list[Another] = []

    def start_another() -> None:
        others.append(Another(opened))
        if not _watch._writing._is_owned():  # type: ignore[attr-defined]  # or it waits until this watch is made
            assert others[-1].is_ready.wait(SECONDS)

    def look() -> None:
        for mine in made:
            assert whose(opened()) is mine
            for another in others:
                another.end()
            mine.end()
        assert [another.is_right for another in others] == [True] * len(others)
        others.clear()
        made.clear()

    def work() -> Callable[[], Any]:
        look()
        return lambda: made.append(Watch("block"))

    made: list[Watch] = []
    assert at_each_moment(work, start_another) > 20
    look()


WATCHES = """
def work(number):
    wrong = 0
    for _ in range(400):
        watch = Watch("block")
        record = _registry.Record(_registry.PROCESS)
        wrong += whose(record) is not watch
        watch.end()
        del _registry.records[record.id]
    return wrong

together(work)
print(_watch.watches)
"""


def test_watches_of_many_threads_do_not_lose_each_other(run_python: Run) -> None:
    """Threads that make and end watches at the same time each find their own there, and leave none behind."""
    assert lines_of(run_python, WATCHES) == ["[0, 0, 0, 0]", "()"]


BLOCKS = """
def work(number):
    right = 0
    for turn in range(60):
        try:
            with assert_no_leaks(grace=0):
                for _ in range(turn % 3):
                    db.items(label=str(number))
        except saferocks.LeakedHandlesError as error:
            # As collected or as still open: another thread that asks for all frames keeps them for a moment.
            told = [leak.label for leak in error.leaks for _ in range(leak.count)]
            right += told == [str(number)] * (turn % 3)
        else:
            right += turn % 3 == 0
    return right

with saferocks.open("db", policy="raise") as db:
    together(work)
    print(db.handles())
print(_watch.watches)
"""


def test_blocks_of_many_threads_blame_their_own(run_python: Run) -> None:
    """Blocks of many threads at the same time each tell exactly what was leaked in them."""
    assert lines_of(run_python, BLOCKS) == ["[60, 60, 60, 60]", "()", "()"]


EXEMPTIONS = """
records = [[_registry.Record(_registry.PROCESS) for _ in range(100)] for _ in range(4)]

def work(number):
    for record in records[number]:
        exempt_for_good([record])

together(work)
print(_watch.exempt == {record.id for some in records for record in some})
_registry.records.clear()
"""


def test_exemptions_of_many_threads_do_not_lose_each_other(run_python: Run) -> None:
    """Threads that exempt handles at the same time lose none of each other's."""
    assert lines_of(run_python, EXEMPTIONS) == ["[None, None, None, None]", "True"]


# --------------------------------------------------------------------------- at any moment


def at_each_moment(work: Callable[[], Callable[[], Any]], intrude: Callable[[], None]) -> int:
    """Run functions of `_watch` again and again, each time with an intrusion one instruction later.

    Args:
        work: Prepares a run, and returns what to run.
        intrude: What comes in between, once a run.

    Returns:
        At how many instructions it came in between.
    """
    moment, reached = 0, True
    while reached:
        reached = run_with_intrusion(work(), intrude, moment, {_watch.__file__})
        moment += 1
    return moment - 1


@dataclass
class Asker:
    """Asks whose handles are, as a finalizer of another thread would.

    Attributes:
        records: Of which handles.
        answers: What it was told.
    """

    records: list[Record]
    answers: list[Any] = field(default_factory=list)

    def ask(self) -> None:
        """Ask on another thread, which must not be made to wait."""
        thread = threading.Thread(target=self._ask, daemon=True)
        thread.start()
        thread.join(SECONDS)
        assert not thread.is_alive()

    def _ask(self) -> None:
        try:
            self.answers.append([(whose(each), is_exempt(each)) for each in self.records])
        except BaseException as error:
            self.answers.append(error)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("change", ["on", "off", "end", "exempt"])
def test_whose_may_be_asked_in_the_midst_of_a_change(change: str, opened: Callable[[], Record]) -> None:
    """At every instruction of a change another thread is told, without waiting, what was true before or is after it."""
    outer = Watch("test")
    watch = Watch("block")
    inside = opened()
    watch.off()
    changes: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {  # how to prepare it, and the change
        "on": (watch.end, watch.on),
        "off": (watch.on, watch.off),
        "end": (watch.on, watch.end),
        "exempt": (lambda: setattr(_watch, "exempt", frozenset()), lambda: exempt_for_good([inside])),
    }
    prepare, run = changes[change]
    asker = Asker([inside])

    def work() -> Callable[[], Any]:
        prepare()
        return run

    moments = at_each_moment(work, asker.ask)
    possible = {
        "on": [[(outer, False)], [(watch, False)]],
        "off": [[(watch, False)]],
        "end": [[(watch, False)], [(outer, False)]],
        "exempt": [[(watch, False)], [(watch, True)]],
    }[change]
    assert moments > 5
    assert [answer for answer in asker.answers if answer not in possible] == []
    assert asker.answers[0] == possible[0]
    assert asker.answers[-1] == possible[-1]


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("change", ["the last one ends", "the inner one ends", "another one begins"])
def test_watches_may_change_in_the_midst_of_an_answer(change: str, opened: Callable[[], Record]) -> None:
    """At every instruction of an answer another thread may make or end watches; the answer is an old or a new one."""
    outer = Watch("test")
    inner = Watch("block")
    record = opened()
    changes = {"another one begins": lambda: Watch("block")}
    answers: list[Any] = []

    def intrude() -> None:
        changed = threading.Thread(target=changes.get(change, inner.end))
        changed.start()
        changed.join(SECONDS)

    def work() -> Callable[[], Any]:
        _watch.watches = (inner,) if change == "the last one ends" else (outer, inner)
        return lambda: answers.append((whose(record), is_exempt(record)))

    assert at_each_moment(work, intrude) > 5
    owners = {"the last one ends": {inner, None}, "the inner one ends": {inner, outer}, "another one begins": {inner}}
    assert {owner for owner, _ in answers} == owners[change]
    assert {exempt for _, exempt in answers} == {False}


class Node:
    """Refers to itself and to what it is given, so that only the collector can free it."""

    def __init__(self, held: Any) -> None:
        self.held = held
        self.itself = self


@pytest.fixture
def eager_collector() -> Iterator[None]:
    """Collect garbage at nearly every allocation; what there is already is left out, which makes it fast."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(1, 1, 1)
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.mark.usefixtures("eager_collector")
def test_a_finalizer_in_the_midst_of_a_block(db: saferocks.Rdict) -> None:
    """Handles that are collected as blocks begin and end are blamed on the block that opened them, each once."""
    found: dict[str, int] = {}
    for number in range(20):
        try:
            with assert_no_leaks(grace=0):
                Node(db.items(label=f"outer {number}").__enter__())
                try:
                    with assert_no_leaks(grace=0):
                        Node(db.snapshot(label=f"inner {number}").__enter__())
                except saferocks.LeakedHandlesError as error:
                    found.update((f"{leak.label} in inner", leak.count) for leak in error.leaks)
        except saferocks.LeakedHandlesError as error:
            found.update((f"{leak.label} in outer", leak.count) for leak in error.leaks)
    expected = [f"{where} {number} in {where}" for number in range(20) for where in ("outer", "inner")]
    assert found == dict.fromkeys(expected, 1)
