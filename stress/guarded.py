"""saferocks, as the guarded and scoped legs use it."""

from __future__ import annotations

import math
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING

import saferocks
from stress.probe import Probe
from stress.workload import configure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


@contextmanager
def open_guarded(path: str) -> Iterator[saferocks.Rdict]:
    """Open a database for a leg on saferocks, with the guard as it is by default."""
    options = configure(saferocks.Options(raw_mode=True))
    with saferocks.open(path, options=options, statistics=True, policy="warn", trace="site") as db:
        yield db


def probe(db: saferocks.Rdict, start: bytes, extra: Callable[[], Mapping[str, float]] = dict) -> Probe:
    """Return what the sampler reads of a database, with a scan from `start` to be timed."""

    def live_iterators() -> float:
        live = db.audit().live_iterators
        return math.nan if live is None else live

    def ages() -> list[float]:
        return [handle.age for handle in db.handles()]

    def scan(rows: int) -> int:
        with db.items(from_key=start) as items:
            return sum(1 for _ in islice(items, rows))

    return Probe(db, live_iterators, ages, scan, extra)
