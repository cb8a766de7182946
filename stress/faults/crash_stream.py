"""What the writer of the crash test issues: an endless stream of steps that follows from a seed.

The writer carries it out, and whoever checks makes the same stream anew and reckons what the
database must hold. Every value names the number of its write, so that a stale one is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from random import Random

#: Column families that are there from the first steps on, and one that comes and goes.
STEADY = ("default", "left", "right")
PASSING = "passing"
PREFIXES = (b"a/", b"b/", b"c/")
_KEYS = 130
_MOST_PADDING = 160
_BATCH_ROWS = (2, 12)
_BULK_ROWS = (20, 300)
_BULK_BYTES = (500, 8000)
_SYNCED = 0.005
_UNSETTLED = 0.3


class Kind(Enum):
    """What a step does; the values are what the oracle holds of it."""

    PUT = 1
    DELETE = 2
    BATCH = 3
    BULK = 4
    CREATE = 5
    DROP = 6
    FLUSH = 7
    COMPACT = 8
    REOPEN = 9


#: What takes long, as it waits for the disk, is rare: otherwise most kills would find the writer there.
_WEIGHTS = {
    Kind.PUT: 1200,
    Kind.DELETE: 300,
    Kind.BATCH: 240,
    Kind.BULK: 40,
    Kind.CREATE: 3,
    Kind.FLUSH: 5,
    Kind.COMPACT: 2,
    Kind.REOPEN: 1,
}
_KINDS, _WEIGHT = tuple(_WEIGHTS), tuple(_WEIGHTS.values())


class Row(NamedTuple):
    """A row that is written, or deleted."""

    family: str
    key: bytes
    value: bytes | None


@dataclass(frozen=True)
class Step:
    """A call, or a `with` block, of the writer.

    Attributes:
        kind: What it does.
        rows: What it writes.
        family: The column family that it is about; for a bulk writer the one that it is opened from.
        sync: Whether it is synced.
        flush_bytes: Of a bulk writer.
    """

    kind: Kind
    rows: tuple[Row, ...] = ()
    family: str = "default"
    sync: bool = False
    flush_bytes: int = 0

    @property
    def writes(self) -> int:
        """How many writes it counts for: its rows, or that a column family comes or goes."""
        return 1 if self.kind in (Kind.CREATE, Kind.DROP) else len(self.rows)

    def units(self) -> list[tuple[Row, ...]]:
        """Return its rows by what must be there wholly or not at all, in order."""
        if self.kind is Kind.BULK:
            return _batches(self.rows, self.flush_bytes)
        return [self.rows] if self.rows else []


class Stream:
    """The steps of one writer.

    Args:
        random: The random numbers of this writer.
        families: The column families that it finds.
        number: The number of its first write; no two writes of a round have the same.
    """

    def __init__(self, random: Random, families: Iterable[str], number: int) -> None:
        self._random = random
        self._families = list(families)
        self._number = number
        self._padding = random.randbytes(_MOST_PADDING)

    def steps(self) -> Iterator[Step]:
        """Yield the steps, without end."""
        for family in STEADY:
            if family not in self._families:
                yield self._create(family)
        for kind in self._kinds():
            yield self._step(kind)

    def _kinds(self) -> Iterator[Kind]:
        while True:
            yield from self._random.choices(_KINDS, _WEIGHT, k=64)

    def _step(self, kind: Kind) -> Step:
        random = self._random
        if kind is Kind.CREATE:
            return self._create_or_drop()
        family = random.choice(self._families)
        if kind in (Kind.FLUSH, Kind.COMPACT, Kind.REOPEN):
            return Step(kind, family=family)
        if kind is Kind.BULK:
            rows = self._rows(random.randint(*_BULK_ROWS), family)
            return Step(kind, rows, family, flush_bytes=random.randint(*_BULK_BYTES))
        sync = random.random() < _SYNCED
        if kind is Kind.BATCH:
            return Step(kind, self._rows(random.randint(*_BATCH_ROWS)), sync=sync)
        return Step(kind, (self._row(family, kind is Kind.DELETE),), family, sync)

    def _create_or_drop(self) -> Step:
        if PASSING not in self._families:
            return self._create(PASSING)
        self._families.remove(PASSING)
        self._number += 1
        return Step(Kind.DROP, family=PASSING)

    def _create(self, family: str) -> Step:
        self._families.append(family)
        self._number += 1
        return Step(Kind.CREATE, family=family)

    def _rows(self, count: int, family: str | None = None) -> tuple[Row, ...]:
        """Return rows of a batch: of one column family, or of any."""
        random = self._random
        return tuple(
            self._row(family or random.choice(self._families), random.random() < _UNSETTLED) for _ in range(count)
        )

    def _row(self, family: str, deleted: bool) -> Row:
        random = self._random
        number, self._number = self._number, self._number + 1
        key = random.choice(PREFIXES) + b"%04d" % int(random.random() * _KEYS)
        value = None if deleted else b"%d:" % number + self._padding[: int(random.random() * _MOST_PADDING)]
        return Row(family, key, value)


def number_of(value: bytes) -> int:
    """Return the number of the write that a value is from; -1 if it is from none."""
    text = value.partition(b":")[0]
    return int(text) if text.isdigit() else -1


def _batches(rows: Iterable[Row], flush_bytes: int) -> list[tuple[Row, ...]]:
    """Cut the rows of a bulk writer where it writes a batch: each time that it has come to `flush_bytes`."""
    found: list[tuple[Row, ...]] = []
    batch: list[Row] = []
    size = _HEADER_BYTES
    for row in rows:
        batch.append(row)
        size += _record_bytes(row)
        if size >= flush_bytes:
            found.append(tuple(batch))
            batch, size = [], _HEADER_BYTES
    return [*found, tuple(batch)] if batch else found


#: A write batch is its sequence number, its count, and a record for each change.
_HEADER_BYTES = 12


def _record_bytes(row: Row) -> int:
    """Return what a row takes in a write batch: its tag, its column family's number, its key and its value."""
    family = 0 if row.family == "default" else 1
    value = 0 if row.value is None else _sized(row.value)
    return 1 + family + _sized(row.key) + value


def _sized(text: bytes) -> int:
    return len(text) + (1 if len(text) < 128 else 2)
