"""Bare rocksdict, as the raw legs and the benchmark use it; the only module here that imports it."""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import rocksdict

from stress.probe import Probe
from stress.workload import configure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

T = TypeVar("T")

WriteBatch = rocksdict.WriteBatch
Checkpoint = rocksdict.Checkpoint

_TICKER = re.compile(r"^rocksdb\.num\.iterator\.(created|deleted) COUNT : (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class RawDatabase:
    """A bare database, and what the buggy program on it has kept.

    Attributes:
        db: The database.
        options: What it was opened with; its statistics are read through them.
        kept: The native objects that were never released, with the times of their opening.
    """

    db: rocksdict.Rdict
    options: rocksdict.Options
    kept: list[tuple[float, Any]] = field(default_factory=list)

    def keep(self, native: T) -> T:
        """Forget to release a native object: a list somewhere holds it for ever."""
        self.kept.append((time.monotonic(), native))
        return native

    def release(self, native: object) -> None:
        """Remember, after all, to let go of what was kept."""
        self.kept[:] = [entry for entry in self.kept if entry[1] is not native]

    def live_iterators(self) -> int:
        """Return RocksDB's own count of live iterators."""
        counts = dict(_TICKER.findall(self.options.get_statistics() or ""))
        return int(counts.get("created", 0)) - int(counts.get("deleted", 0))

    def ages(self) -> list[float]:
        """Return for how many seconds each kept object has been open."""
        now = time.monotonic()
        return [now - opened for opened, _ in self.kept]

    def probe(self, start: bytes, extra: Callable[[], Mapping[str, float]] = dict) -> Probe:
        """Return what the sampler reads, with a scan from `start` to be timed."""
        return Probe(self.db, self.live_iterators, self.ages, lambda rows: self._scan(start, rows), extra)

    def _scan(self, start: bytes, rows: int) -> int:
        return sum(1 for _ in islice(self.db.items(from_key=start), rows))


@contextmanager
def open_raw(path: str) -> Iterator[RawDatabase]:
    """Open a bare database for a raw leg; what was kept is dropped at the end."""
    options = configure(rocksdict.Options(raw_mode=True))
    options.enable_statistics()
    database = RawDatabase(rocksdict.Rdict(path, options), options)
    try:
        yield database
    finally:
        database.kept.clear()
        database.db.close()


class Refused:
    """What there is in place of a database whose opening was refused: nothing to be measured."""

    def property_int_value(self, name: str, /) -> int:
        """Have nothing of any property."""
        return 0

    def items(self, *, from_key: bytes) -> tuple[()]:
        """Hold no rows."""
        return ()


class RawService:
    """A bare database that is opened for each request and closed after it.

    Args:
        path: Where it is.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._options = configure(rocksdict.Options(raw_mode=True))
        self._options.enable_statistics()
        self._kept: list[tuple[float, Any]] = []

    def open(self) -> RawDatabase | None:
        """Open the database; None if RocksDB says that this process has it open already."""
        try:
            db = rocksdict.Rdict(self._path, self._options)
        except Exception as error:
            if "lock hold by current process" not in str(error):
                raise
            return None
        return RawDatabase(db, self._options, self._kept)

    def probe(self, database: RawDatabase | None, start: bytes, extra: Callable[[], Mapping[str, float]]) -> Probe:
        """Return what the sampler reads in a request, be it served or refused."""
        nothing: Any = Refused()
        return (database or RawDatabase(nothing, self._options, self._kept)).probe(start, extra)


@contextmanager
def open_plain(path: str) -> Iterator[rocksdict.Rdict]:
    """Open a bare raw-mode database with rocksdict's own settings, for the benchmark."""
    database = rocksdict.Rdict(path, rocksdict.Options(raw_mode=True))
    try:
        yield database
    finally:
        database.close()
