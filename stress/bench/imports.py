"""What it costs to import saferocks, beside what it depends on: child processes that take turns."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

from stress.bench.measure import Figure
from stress.bench.record import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stress.bench.measure import Pace

NAMES = ("import",)
_BUDGET = 1.5
_LIMIT_SECONDS = 60
_BASE = "import rocksdict, psutil, structlog"
#: The import alone loads neither RocksDB nor most of the package; the first use of a public name does.
_STATEMENTS = {"": "import saferocks", "first use": "import saferocks; saferocks.open"}
#: The start of Python itself does not count.
_PROGRAM = "import time; start = time.process_time(); {}; print(time.process_time() - start)"


def measure(pace: Pace) -> Iterator[Row]:
    """Measure the import, and the import with a first use.

    Args:
        pace: How many rounds.
    """
    statements = {"base": _BASE} | _STATEMENTS
    times: dict[str, list[float]] = {name: [] for name in statements}
    with tempfile.TemporaryDirectory(prefix="stress-bench-") as compiled:
        for number in range(-1, pace.rounds):
            for name in sorted(statements, reverse=bool(number % 2)):
                taken = _seconds(statements[name], compiled)
                if number >= 0:  # the first compiles
                    times[name].append(taken)
    for name in _STATEMENTS:
        figure = Figure.of([mine / base for mine, base in zip(times[name], times["base"], strict=True)])
        costs = {"bare": _nanoseconds(times["base"]), "saferocks": _nanoseconds(times[name])}
        yield Row("import", name, figure.median, "x", figure.low, figure.high, _BUDGET, costs=costs, base=_BASE)


def _nanoseconds(times: list[float]) -> float:
    return Figure.of(times).median * 1e9


def _seconds(statement: str, compiled: str) -> float:
    """Return what an import takes of the processor, with compiled files in a directory that all of them share."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", _PROGRAM.format(statement)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_LIMIT_SECONDS, env=environment)
    return float(done.stdout)
