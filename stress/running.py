"""What the code of a leg is given: its rounds, its samples, its random numbers, and what it tells.

What it tells are lines of JSON: `{"sample": {...}}`, `{"leak": {...}}`, `{"table": {...}}` or `{"cut": {...}}`.
"""

from __future__ import annotations

import json
import logging
import math
import random
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any, TextIO

from saferocks import LeakedHandleWarning, OverdueHandleWarning

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stress.probe import Probe

#: How many handles a buggy leg opens, however long it runs: a night must not fill the machine.
PLANTED = 100
#: A leg that a busy machine lets through fewer rounds than these runs on, for so many seconds at most.
ENOUGH_ROUNDS = 100
_MORE_SECONDS = 30.0
#: What a round may take of these: that the machine stood still in it says nothing about the leg.
_LONGEST_ROUND = 1.0
#: What the guard, or the watcher of the leases, says of a line.
_SAID = (LeakedHandleWarning, OverdueHandleWarning)
#: In seconds: the longest run that is sampled as often as can be, and goes at full speed.
_SHORT_RUN = 120.0
#: The fewest samples that are planned of a run, and the most seconds between them.
_SAMPLES, _LONG_SAMPLES = 100, 480
_SHORT_INTERVAL, _LONG_INTERVAL = 0.25, 5.0
#: Seconds between the rounds of long runs: at full speed a night would write a terabyte, and mark a hundred million
#: rows as deleted under the one snapshot that it holds.
_PAUSE_SECONDS = 0.05


def planned_samples(seconds: float) -> int:
    """Return how many samples a leg takes at most: one in a quarter of a second in short runs, in five in long ones."""
    if seconds <= _SHORT_RUN:
        return max(_SAMPLES, math.ceil(seconds / _SHORT_INTERVAL))
    return max(_LONG_SAMPLES, math.ceil(seconds / _LONG_INTERVAL))


class Leg:
    """What the code of a leg is given.

    How far it has come is reckoned in rounds, of which each counts for the part of the leg's time that it
    took, and for one of `enough` at most. So neither a slow machine nor one that stood still for seconds
    takes anything away from it: whatever is planted and sampled is spread over as many rounds as there have
    to be, and a stall is one long round.

    Args:
        name: `raw`, `guarded` or `scoped`.
        path: Where to make the database.
        seconds: How long to run.
        seed: The seed of everything random.
        channel: Where to write the samples.
    """

    def __init__(self, name: str, path: str, seconds: float, seed: int, channel: TextIO) -> None:
        self.name = name
        self.path = path
        self.seconds = seconds
        self.random = random.Random(seed)
        self._channel = channel
        self._lock = threading.RLock()  # warnings come from the watcher of the leases and from finalizers, too
        self._start = self._round_start = 0.0
        self._enough = ENOUGH_ROUNDS
        self._number = 0
        self._progress = 0.0  # in rounds; at `_enough` the leg is over
        self._spent = 0.0
        self._next_sample = 0.0
        self._planted = 0

    def rounds(self, probe: Probe | None = None, enough: int = ENOUGH_ROUNDS) -> Iterator[int]:
        """Yield the numbers of the rounds until the time is up.

        Args:
            probe: What to sample between the rounds; without one, the round calls `sample` itself.
            enough: How many rounds there have to be; until then it runs on, for half a minute at most.
        """
        self._start = self._round_start = time.monotonic()
        self._enough = enough
        while self._progress < enough and self._spent < self.seconds + _MORE_SECONDS:
            if probe is not None:
                self.sample(probe)
            yield self._number
            self._number += 1
            if self.seconds > _SHORT_RUN:
                time.sleep(_PAUSE_SECONDS)
            self._end_round()
        if self._progress < enough:
            self._write("cut", {"rounds": self._number, "of": enough})

    def _end_round(self) -> None:
        now = time.monotonic()
        taken, self._round_start = now - self._round_start, now
        self._spent += min(taken, _LONGEST_ROUND)
        self._progress += min(taken / self.seconds * self._enough, 1.0)

    def sample(self, probe: Probe) -> None:
        """Read and write down every signal, if a sample is due."""
        if self._progress >= self._next_sample:
            # On from where it was due, not from where it is: rounds do not end there, and what is over adds up.
            self._next_sample = max(self._progress, self._next_sample + self._enough / planned_samples(self.seconds))
            elapsed = time.monotonic() - self._start
            self._write("sample", {"time": elapsed, "rounds": self._number, **probe.read()})

    def is_due(self) -> bool:
        """Tell whether the next of the buggy leg's handles is due.

        They are spread over the whole leg, as its samples are: a leak that was all planted at its
        beginning, or while nobody looked, would not be seen to grow.
        """
        if self._planted == PLANTED or self._progress / self._enough * PLANTED < self._planted:
            return False
        self._planted += 1
        return True

    def show_table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Hand over a table, to be shown beside the verdicts; the last one counts."""
        self._write("table", {"columns": list(columns), "rows": [list(row) for row in rows]})

    def listen(self) -> None:
        """Write down what the guard says: its warnings, which name the line, and its events."""
        for category in _SAID:
            warnings.simplefilter("always", category)
        warnings.showwarning = self._warned
        logging.getLogger("saferocks").addHandler(_Events(self))

    def _warned(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, _SAID):
            self._write("leak", {"source": "warning", "opened_at": f"{filename}:{lineno}", "text": str(message)})
        else:
            sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))

    def _write(self, kind: str, content: dict[str, Any]) -> None:
        line = json.dumps({kind: content}) + "\n"
        with self._lock:
            self._channel.write(line)
            self._channel.flush()


class _Events(logging.Handler):
    """Writes the guard's events to the leg's channel."""

    def __init__(self, leg: Leg) -> None:
        super().__init__()
        self._leg = leg

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = getattr(record, "saferocks", {})
        text = record.getMessage()
        self._leg._write("leak", {"source": "event", "event": text.partition(" ")[0], "text": text, **fields})
