"""Measure what watching costs: `python tests/measure_observability.py`. No test: figures depend on the machine.

Prints the processor time of a scrape with 100,000 open handles of a database that counts its iterators, which
takes longest (budget: 50 ms; the median of nine), and what an iterator costs that is opened, entered and released,
with nothing to watch it, with metrics, and with two variables bound by structlog; the ways in turn, the least of each.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import structlog

import saferocks
from saferocks import _totals, metrics

if TYPE_CHECKING:
    from collections.abc import Callable

HANDLES = 100_000
ROUNDS, REPEATS = 60, 2_000


def seconds(call: Callable[[], object]) -> float:
    """Return the processor time of a call."""
    begun = time.process_time()
    call()
    return time.process_time() - begun


def scrape(db: saferocks.Rdict) -> float:
    """Return the seconds of a scrape while many handles are open."""
    collector = metrics.Collector()
    with ExitStack() as stack:
        for _ in range(HANDLES):
            stack.enter_context(db.items())
        return statistics.median(seconds(lambda: list(collector.collect())) for _ in range(9))


def iterators(db: saferocks.Rdict) -> dict[str, float]:
    """Return the least nanoseconds of one iterator, by the way it is watched."""

    def use() -> None:
        for _ in range(REPEATS):
            with db.items():
                pass

    least: dict[str, float] = {}
    for _ in range(ROUNDS):
        for way in ("plain", "metrics", "bound"):
            _totals.counting[:] = [None] if way == "metrics" else []
            if way == "bound":
                structlog.contextvars.bind_contextvars(request_id="f3c1", user=7)
            least[way] = min(least.get(way, 1e9), seconds(use) / REPEATS * 1e9)
            structlog.contextvars._CONTEXT_VARS.clear()
    return least


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as directory, saferocks.open(f"{directory}/db", statistics=True) as db:
        print(f"a scrape with {HANDLES} open handles: {scrape(db) * 1e3:.1f} ms")
        for way, found in iterators(db).items():
            print(f"an iterator, {way}: {found:.0f} ns")


if __name__ == "__main__":
    main()
