"""The child process of a leg: runs the scenario's code and writes what it sees to stdout.

Each line is a JSON object: `{"sample": {...}}` or `{"leak": {...}}`. The process that started
it adds what can be seen from outside; see `stress.jobs`.
"""

from __future__ import annotations

import json
import logging
import random
import sys
import time
import warnings
from typing import TYPE_CHECKING, Any, TextIO

from saferocks import LeakedHandleWarning
from stress.scenario import all_scenarios

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stress.probe import Probe

#: How many handles a buggy leg opens, however long it runs: a night must not fill the machine.
PLANTED = 100
#: A leg that a busy machine lets through fewer rounds than these runs on, to some multiple of its time.
_ENOUGH_ROUNDS = 150
_LONGEST = 5
_SHORT_RUN = 300.0
_SAMPLES = 100


def sampling_interval(seconds: float) -> float:
    """Return the seconds between samples: a quarter at most in short runs, five in long ones."""
    return min(0.25, seconds / _SAMPLES) if seconds <= _SHORT_RUN else 5.0


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
        self.random = random.Random(seed)
        self._seconds = seconds
        self._channel = channel
        self._start = 0.0
        self._planted = 0

    def rounds(self, probe: Probe) -> Iterator[int]:
        """Yield the numbers of the rounds until the time is up, and sample between them."""
        interval = sampling_interval(self._seconds)
        self._start = time.monotonic()
        due, number = 0.0, 0
        while not self._is_over(elapsed := time.monotonic() - self._start, number):
            if elapsed >= due:
                due = elapsed + interval
                self._write("sample", {"time": elapsed, "rounds": number, **probe.read()})
            yield number
            number += 1

    def _is_over(self, elapsed: float, rounds: int) -> bool:
        limit = self._seconds if rounds >= _ENOUGH_ROUNDS else self._seconds * _LONGEST
        return elapsed >= limit

    def is_due(self) -> bool:
        """Tell whether the next of the buggy leg's handles is due; they are spread over the run."""
        elapsed = time.monotonic() - self._start
        if self._planted == PLANTED or elapsed * PLANTED < self._planted * self._seconds:
            return False
        self._planted += 1
        return True

    def listen(self) -> None:
        """Write down what the guard says: its warnings, which name the line, and its events."""
        warnings.simplefilter("always", LeakedHandleWarning)
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
        if issubclass(category, LeakedHandleWarning):
            self._write("leak", {"source": "warning", "opened_at": f"{filename}:{lineno}", "text": str(message)})
        else:
            sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))

    def _write(self, kind: str, content: dict[str, Any]) -> None:
        self._channel.write(json.dumps({kind: content}) + "\n")
        self._channel.flush()


class _Events(logging.Handler):
    """Writes the guard's events to the leg's channel."""

    def __init__(self, leg: Leg) -> None:
        super().__init__()
        self._leg = leg

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = getattr(record, "saferocks", {})
        self._leg._write("leak", {"source": "event", "text": record.getMessage(), **fields})


def main(arguments: list[str]) -> None:
    """Run the leg that the arguments describe: scenario, leg, path, seconds, seed."""
    scenario, name, path, seconds, seed = arguments
    leg = Leg(name, path, float(seconds), int(seed), sys.stdout)
    leg.listen()
    all_scenarios()[scenario].run(leg)


if __name__ == "__main__":
    main(sys.argv[1:])
