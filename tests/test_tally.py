"""That each escape is told exactly once, though a finalizer finds it in the midst of a block's end or of a close."""

from __future__ import annotations

import gc
import threading
import time
from typing import TYPE_CHECKING

import pytest

import saferocks
from saferocks import _closing, _guard, _handle, _life, _reckoning, _registry, _tally, _watch
from saferocks._watch import Watch
from tests.intrusions import run_with_intrusion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SECONDS = 20.0
#: Where one of the two is stopped.
FILES = {module.__file__ for module in (_closing, _guard, _handle, _life, _reckoning, _registry, _tally)}
#: Every how many instructions one of the two is stopped: less than any hole was wide; at every one no more was found.
STRIDE = 9


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No watches but the test's own, for what leaks in here leaks on purpose; and collections that are fast."""
    monkeypatch.setattr(_watch, "watches", ())
    gc.freeze()
    yield
    gc.unfreeze()


class Escape:
    """A handle that escapes in a block, and two who find it.

    Attributes:
        drop: Lets go of the handle: its finalizer is the one who finds it.
        totals: How many handles have leaked, as metrics tell it.
    """

    def __init__(self, path: Path, *, closes: bool) -> None:
        db = saferocks.open(path).__enter__()
        self.watch = Watch("block")
        self.watch.speaks = True  # a close leaves it to the block to tell
        held = [db.items()]
        self.drop = held.clear
        self.totals = db._record.owner.totals
        self._db, self._closes, self._before = db, closes, self.counted()
        self._found: list[int] = []

    def counted(self) -> int:
        """Return how many scans have leaked, as metrics tell it."""
        return self.totals.of("iterator").leaked

    def end(self) -> None:
        """Close the database if that is to find it, and end the block, which does otherwise."""
        if self._closes:
            self._db.close()
        leaks = _reckoning.reckon(self.watch, 0).leaks
        self._found += [leak.count for leak in leaks if leak.kind == "iterator"]

    def look(self) -> None:
        """It was told once, and counted once."""
        self.watch.end()
        self._db.close()
        assert (sum(self._found), self.counted() - self._before) == (1, 1)


def on_another_thread(run: Callable[[], None]) -> threading.Thread:
    """Run a function on a thread that does not outlive the test."""
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("closes", [False, True], ids=["block", "close"])
def test_collected_in_the_midst_of_a_check(tmp_path: Path, closes: bool) -> None:
    """A handle that another thread's finalizer finds at any instruction of a block's end or a close is told once."""
    moment, reached = 0, True
    while reached:
        escape = Escape(tmp_path / "db", closes=closes)
        reached = run_with_intrusion(
            escape.end, lambda it=escape: on_another_thread(it.drop).join(SECONDS), moment, FILES
        )
        escape.look()
        moment += STRIDE
    assert moment > 300


@pytest.mark.parametrize("closes", [False, True], ids=["block", "close"])
def test_checked_in_the_midst_of_a_collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closes: bool) -> None:
    """A block's end, or a close, at any instruction of another thread's finalizer tells of what that finds, once."""
    waits = threading.Event()
    monkeypatch.setattr(_tally.time, "sleep", lambda seconds, pause=time.sleep: (waits.set(), pause(seconds)))
    moment, reached = 0, True
    while reached:
        escape = Escape(tmp_path / "db", closes=closes)
        enders: list[threading.Thread] = []

        def end(it: Escape = escape, threads: list[threading.Thread] = enders) -> None:
            thread = on_another_thread(it.end)
            threads.append(thread)
            while thread.is_alive() and not waits.is_set():
                pass

        waits.clear()
        reached = run_with_intrusion(escape.drop, end, moment, FILES)
        for thread in enders:
            thread.join(SECONDS)
            assert not thread.is_alive()
        if not enders:
            escape.end()
        escape.look()
        moment += STRIDE
    assert moment > 100
