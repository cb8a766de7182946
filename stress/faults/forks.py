"""Forks of every kind while everything is under way: the child is refused, the parent unharmed."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import subprocess
import sys
import time
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any

import saferocks
from stress.faults.fault import Fault, Outcome
from stress.faults.fork_child import Child, own_database, refused_task, worker
from stress.faults.fork_parent import Parent

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from stress.faults.fault import Round

#: Threads forking is deprecated from Python 3.12 on, for other reasons than RocksDB's.
_DEPRECATED = r"This process \(pid=\d+\) is multi-threaded, use of fork"
_CHILD_SECONDS = 30.0
_POLL_SECONDS = 0.002


class Ways:
    """Starts children in every way that there is, one after the other, and looks at how each ends.

    Args:
        parent: What is under way meanwhile.
        round_: The round.
        random: The random numbers.
    """

    def __init__(self, parent: Parent, round_: Round, random: Random) -> None:
        self._parent = parent
        self._directory = round_.directory
        self._random = random
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def all(self) -> None:
        """Go every way once, in random order, at random moments."""
        ways: list[Callable[[], None]] = [
            self.fork, self.grandchild, self.process_fork, self.process_forkserver, self.process_spawn,
            self.pool, self.program, self.server,
        ]  # fmt: skip
        self._random.shuffle(ways)
        for way in ways:
            time.sleep(self._random.random() * 0.005)  # the moment, and not a wait for anything
            way()
            self.counts[f"by {way.__name__}"] += 1
        self._gather()

    def _child(self) -> Child:
        return Child(self._parent.held, str(self._directory), self._random.getrandbits(32))

    def _gather(self) -> None:
        for file in sorted(self._directory.glob("child-*.txt")):
            self.wrong += file.read_text().splitlines()
            file.unlink()

    def _expect(self, way: str, status: int | None, expected: int) -> None:
        if status != expected:
            self.wrong.append(f"a child by {way} ended with {status}, and was to end with {expected}")

    def _waited(self, way: str, pid: int, expected: int) -> None:
        until = time.monotonic() + _CHILD_SECONDS
        while time.monotonic() < until:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                self._expect(way, os.waitstatus_to_exitcode(status), expected)
                return
            time.sleep(_POLL_SECONDS)
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        self.wrong.append(f"a child by {way} hung")

    def fork(self) -> None:
        """Fork, as `os.fork` does it."""
        child = self._child()
        pid = os.fork()
        if not pid:
            child.run()
        self._waited("fork", pid, child.status)

    def grandchild(self) -> None:
        """Fork, and let the child fork."""
        child = self._child()
        pid = os.fork()
        if not pid:
            child.run_grandchild()
        self._waited("grandchild", pid, child.status)

    def server(self) -> None:
        """Fork workers that live for a while, as a server does that has opened its database too soon."""
        children = [self._child() for _ in range(2)]
        started: list[tuple[int, int, Child]] = []
        for child in children:
            reading, writing = os.pipe()
            pid = os.fork()
            if not pid:
                os.close(writing)
                os.read(reading, 1)
                child.run()
            os.close(reading)
            started.append((pid, writing, child))
        self._parent.db.flush()
        for pid, writing, child in started:
            os.write(writing, b"g")  # and not just closed: a worker that was forked later has that end too
            os.close(writing)
            self._waited("server", pid, child.status)

    def process_fork(self) -> None:
        """Start a process of multiprocessing that is forked."""
        child = self._child()
        self._process("fork", child.run_function, (), child.status)

    def process_forkserver(self) -> None:
        """Start one that the fork server forks, which can open databases."""
        status = self._random.randrange(1, 100)
        self._process("forkserver", own_database, (str(self._directory / "served"), status), status)

    def process_spawn(self) -> None:
        """Start one that is spawned, which can open databases."""
        status = self._random.randrange(1, 100)
        self._process("spawn", own_database, (str(self._directory / "spawned"), status), status)

    def _process(self, way: str, target: Callable[..., None], arguments: tuple[Any, ...], status: int) -> None:
        process = multiprocessing.get_context(way).Process(target=target, args=arguments)  # type: ignore[attr-defined]
        process.start()
        process.join(_CHILD_SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
            self.wrong.append(f"a child by {way} of multiprocessing hung")
        else:
            self._expect(f"{way} of multiprocessing", process.exitcode, status)
        process.close()

    def pool(self) -> None:
        """Start forked workers of a `ProcessPoolExecutor`."""
        context = multiprocessing.get_context("fork")
        seeds = [self._random.getrandbits(32) for _ in range(3)]
        worker.held, worker.directory = self._parent.held, str(self._directory)
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
            for wrong in executor.map(refused_task, seeds, timeout=_CHILD_SECONDS):
                self.wrong += wrong
        worker.held = {}

    def program(self) -> None:
        """Start a program, with and without a function that is called in between."""
        status = self._random.randrange(100)
        before = self._random.choice((None, os.setsid))
        command = [sys.executable, "-S", "-E", "-c", f"raise SystemExit({status})"]
        done = subprocess.run(command, preexec_fn=before, timeout=_CHILD_SECONDS, check=False)
        self._expect("program", done.returncode, status)


def _workers(round_: Round, random: Random, counts: Counter[str], wrong: list[str]) -> None:
    """Fork workers of a server that has not opened anything: each opens a database of its own."""
    started = []
    for number in range(2):
        status = random.randrange(1, 100)
        pid = os.fork()
        if not pid:
            try:
                own_database(str(round_.directory / f"worker{number}"), status)
            finally:
                os._exit(status)
        started.append((pid, status))
    for pid, status in started:
        got = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if got != status:
            wrong.append(f"a worker that opened its own database ended with {got}, and was to end with {status}")
        counts["workers with databases of their own"] += 1
    for number in range(2):
        with saferocks.open(round_.directory / f"worker{number}") as db, db.keys() as keys:
            if len(list(keys)) != 101:
                wrong.append(f"the database of worker {number} does not hold what it wrote")


def stage(round_: Round) -> Outcome:
    """Fork in every way while writers, scans, snapshots, batches and SST writers are under way; verify the parent."""
    warnings.filterwarnings("ignore", message=_DEPRECATED, category=DeprecationWarning)
    random, counts, wrong = round_.random(), Counter[str](), list[str]()
    _workers(round_, random, counts, wrong)
    parent = Parent(round_.directory)
    with parent:
        ways = Ways(parent, round_, random)
        ways.all()
        _stop_servers()
    wrong += ways.wrong + parent.verify()
    return Outcome(dict(counts + ways.counts + parent.counts), tuple(wrong))


def _stop_servers() -> None:
    """End what multiprocessing leaves running until its process ends."""
    for helper in (multiprocessing.forkserver._forkserver, multiprocessing.resource_tracker._resource_tracker):
        stop = getattr(helper, "_stop", None)
        if stop is not None:
            stop()


FAULT = Fault(
    name="forks",
    summary="forks of every kind while everything is under way: the child is refused, the parent unharmed",
    rounds=500,
    stage=stage,
    limit=120.0,
)
