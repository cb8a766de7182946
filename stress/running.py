"""What the code of a leg is given: its rounds, its samples, its random numbers, and what it tells.

What it tells are lines of JSON: `{"sample": {...}}`, `{"leak": {...}}` or `{"table": {...}}`.
"""

from __future__ import annotations

import json
import logging
import random
import sys
import threading
import time
import warnings
from collections import deque
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
#: So does one that, having become slow, has fewer samples than these after the warm-up, its first quarter, which is
#: not judged.
_ENOUGH_SAMPLES = 16
_WARM_UP = 0.25
#: What the guard, or the watcher of the leases, says of a line.
_SAID = (LeakedHandleWarning, OverdueHandleWarning)
#: In seconds: the longest run that is sampled as often as can be, and goes at full speed.
_SHORT_RUN = 120.0
_SAMPLES, _LONG_SAMPLES = 100, 480
_SHORT_INTERVAL, _LONG_INTERVAL = 0.25, 5.0
#: Seconds between the rounds of long runs: at full speed a night would write a terabyte, and mark a hundred million
#: rows as deleted under the one snapshot that it holds.
_PAUSE_SECONDS = 0.05


def sampling_interval(seconds: float) -> float:
    """Return the seconds between samples: a quarter at most in short runs, five at most in long ones."""
    if seconds <= _SHORT_RUN:
        return min(_SHORT_INTERVAL, seconds / _SAMPLES)
    return min(_LONG_INTERVAL, seconds / _LONG_SAMPLES)


class Leg:
    """What the code of a leg is given.

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
        self._start = 0.0
        self._enough = ENOUGH_ROUNDS
        self._number = 0
        self._next_sample = 0.0
        self._latest: deque[float] = deque(maxlen=_ENOUGH_SAMPLES)
        self._planted = 0

    def rounds(self, probe: Probe | None = None, enough: int = ENOUGH_ROUNDS) -> Iterator[int]:
        """Yield the numbers of the rounds until the time is up.

        Args:
            probe: What to sample between the rounds; without one, the round calls `sample` itself.
            enough: Run on, for half a minute at most, until there were so many rounds, and samples to judge.
        """
        self._start = time.monotonic()
        self._enough = enough
        while not self._is_over():
            if probe is not None:
                self.sample(probe)
            yield self._number
            self._number += 1
            if self.seconds > _SHORT_RUN:
                time.sleep(_PAUSE_SECONDS)

    def sample(self, probe: Probe) -> None:
        """Read and write down every signal, if a sample is due."""
        elapsed = time.monotonic() - self._start
        if elapsed >= self._next_sample:
            self._next_sample = elapsed + sampling_interval(self.seconds)
            self._latest.append(elapsed)
            self._write("sample", {"time": elapsed, "rounds": self._number, **probe.read()})

    def _is_over(self) -> bool:
        elapsed = time.monotonic() - self._start
        if self._number < self._enough or not self._can_be_judged(elapsed):
            return elapsed >= self.seconds + _MORE_SECONDS
        return elapsed >= self.seconds

    def _can_be_judged(self, elapsed: float) -> bool:
        return len(self._latest) == _ENOUGH_SAMPLES and self._latest[0] >= _WARM_UP * elapsed

    def is_due(self) -> bool:
        """Tell whether the next of the buggy leg's handles is due.

        They are spread over the whole run, also over one that runs on because it is slow: a leak
        that was all planted at its beginning would not be seen to grow.
        """
        progress = min((time.monotonic() - self._start) / self.seconds, self._number / self._enough)
        if self._planted == PLANTED or progress * PLANTED < self._planted:
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
