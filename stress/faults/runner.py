"""Carries out the rounds of a fault, some at once, each in a process of its own.

The process that does this has one thread and never opens a database: its children can open some
because it has not. Whatever a round leaves behind is ended before the next takes its place.
"""

from __future__ import annotations

import selectors
import shutil
import time
from contextlib import suppress
from dataclasses import replace
from itertools import count, islice
from typing import TYPE_CHECKING, Protocol

from stress.faults.orphans import adopted, end_orphans
from stress.faults.process import Finding, RoundProcess, Verdict

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator
    from pathlib import Path

    from stress.faults.fault import Fault

_REFRESH_SECONDS = 0.2
#: The most rounds of a fault whose files are kept; any other is repeated by its seed.
KEPT = 10


class Observer(Protocol):
    """Who is told how the rounds go."""

    def refresh(self) -> None:
        """Look on; called some times in a second."""

    def finish(self, finding: Finding) -> None:
        """Take note of a round's end."""


def load_engine() -> None:
    """Load what every round needs, so that it is loaded once and not in each of them."""
    import rocksdict

    import saferocks

    _ = saferocks.open, rocksdict.Rdict  # the first use of a public name is what loads saferocks


class Runner:
    """Carries out rounds.

    Args:
        jobs: How many at once.
        scratch: Where the rounds have their directories.
        keep: Where the files of rounds that were not right are moved to.
        observer: Who is told.
        flag: Ends the rounds once it is set.
    """

    def __init__(self, jobs: int, scratch: Path, keep: Path, observer: Observer, flag: threading.Event) -> None:
        self._jobs = jobs
        self._scratch = scratch
        self._keep = keep
        self._observer = observer
        self._flag = flag
        self._running: dict[int, RoundProcess] = {}
        self._selector = selectors.DefaultSelector()
        self._strangers: frozenset[int] = frozenset()
        self._kept = 0

    def carry_out(self, fault: Fault, seed: int, rounds: int | None, seconds: float | None = None) -> None:
        """Carry out the rounds of a fault.

        Args:
            fault: The fault.
            seed: Of the first round; each further one has the next.
            rounds: How many; None for as many as fit in the time.
            seconds: How long new rounds are begun; the first one is begun in any case.

        Raises:
            KeyboardInterrupt: Once the flag is set; the rounds that were under way are ended.
            OSError: If the observer cannot keep what came out.
        """
        self._kept = 0
        seeds = islice(count(seed), rounds)
        until = None if seconds is None else time.monotonic() + seconds
        with adopted() as self._strangers:
            try:
                self._loop(fault, seeds, until)
            finally:
                self._end_all()

    def _loop(self, fault: Fault, seeds: Iterator[int], until: float | None) -> None:
        more = True
        begun = False
        while more or self._running:
            while more and len(self._running) < self._jobs:
                more = self._begin(fault, seeds, until if begun else None)
                begun = True
            if not self._wait():
                more = False

    def _begin(self, fault: Fault, seeds: Iterator[int], until: float | None) -> bool:
        """Begin the next round; tell whether there was one to begin."""
        if until is not None and time.monotonic() >= until:
            return False
        seed = next(seeds, None)
        if seed is None:
            return False
        directory = self._scratch / f"{fault.name}-{seed}"
        directory.mkdir()
        process = RoundProcess(fault, seed, directory)
        self._running[process.pid] = process
        self._selector.register(process.ended_fd, selectors.EVENT_READ, process)
        self._selector.register(process.channel, selectors.EVENT_READ, process)
        return True

    def _wait(self) -> bool:
        """Wait until something happens, and see to it; tell whether more rounds are to be begun."""
        left = min((process.check_time() for process in self._running.values()), default=0.0)
        ended = []
        for key, _events in self._selector.select(min(left, _REFRESH_SECONDS)):
            process: RoundProcess = key.data
            if key.fd == process.ended_fd:
                ended.append(process)
            elif not process.read():
                self._selector.unregister(process.channel)
        goes_on = True
        for process in ended:
            finding = self._cleared(process, self._end(process))
            goes_on = goes_on and not finding.at_all
            self._observer.finish(finding)
        self._observer.refresh()
        if self._flag.is_set():
            raise KeyboardInterrupt
        return goes_on

    def _end(self, process: RoundProcess, *, at_once: bool = False) -> Finding:
        """End a round whose process has ended, with all that it has left behind."""
        del self._running[process.pid]
        for each in (process.ended_fd, process.channel):
            with suppress(KeyError):  # it has said all that it will say
                self._selector.unregister(each)
        while process.read():
            pass
        others = self._strangers | self._running.keys()
        left_behind = end_orphans(process.pid, others, at_once=at_once or not (process.has_said or process.hung))
        return process.finding(process.end(), left_behind)

    def _cleared(self, process: RoundProcess, finding: Finding) -> Finding:
        """Remove the directory of a round, or keep it if something was wrong."""
        if finding.verdict in (Verdict.RIGHT, Verdict.NOT_RUN) or self._kept >= KEPT:
            shutil.rmtree(process.directory, ignore_errors=True)  # what resists is removed with the whole scratch
            return finding
        self._kept += 1
        kept = shutil.move(process.directory, self._keep / process.directory.name)
        return replace(finding, kept=str(kept))

    def _end_all(self) -> None:
        """End the rounds that are under way; they came to nothing."""
        for process in tuple(self._running.values()):
            process.kill()
            self._end(process, at_once=True)
            shutil.rmtree(process.directory, ignore_errors=True)
