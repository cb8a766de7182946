"""What threads do with a database while it is being raced: each use knows what it may see."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS = [b"k%03d" % number for number in range(60)]
ROWS = [(key, b"v") for key in KEYS]
#: Seconds for which handles with a lease may be open: shorter than some uses take, and longer than others.
LEASE = 0.002


class WrongAnswerError(Exception):
    """A use came to an end, and to something that was never so."""


class Arena:
    """What the threads of one race share.

    Attributes:
        db: The database.
        family: A column family of it, which may be dropped.
        snap: A snapshot that may be released.
        attempted: The highest number that each thread has tried to write.
        acknowledged: The highest number that each has written.
    """

    def __init__(self, db: Any, snap: Any) -> None:
        self.db = db
        self.family = db.get_column_family("f")
        self.snap = snap
        self.attempted: Counter[int] = Counter()
        self.acknowledged: Counter[int] = Counter()


def expect(found: Any, expected: Any, what: str) -> None:
    """Raise unless what was found is what had to be."""
    if found != expected:
        raise WrongAnswerError(f"{what} gave {found!r:.200}")


def _base(rows: list[Any]) -> list[Any]:
    """Leave out what the writers write in front of the rows that stay."""
    return [row for row in rows if (row[0] if isinstance(row, tuple) else row)[:1] == b"k"]


def _scan(arena: Arena, number: int) -> None:
    with arena.db.items() as items:
        expect(_base([row for row in items]), ROWS, "a scan")  # noqa: C416 - row by row, as programs do


def _backward_scan(arena: Arena, number: int) -> None:
    with arena.db.keys(backwards=True, prefix=b"k0") as keys:
        expect(list(keys), KEYS[::-1], "a backward scan")


def _leased_scan(arena: Arena, number: int) -> None:
    with arena.db.items(expire_after=LEASE) as items:
        expect(_base(list(items)), ROWS, "a scan with a lease")


def _cursor(arena: Arena, number: int) -> None:
    with arena.db.iter() as cursor:
        cursor.seek(KEYS[10])
        for key in KEYS[10:25]:
            expect((cursor.key(), cursor.value()), (key, b"v"), "a cursor")
            cursor.next()


def _snapshot(arena: Arena, number: int) -> None:
    with arena.db.snapshot(expire_after=LEASE if number % 2 else None) as snap, snap.keys() as keys:
        first = snap.get(b"a%d" % number)
        expect(_base(list(keys)), KEYS, "a scan of a snapshot")
        expect(snap.get(b"a%d" % number), first, "a snapshot")


def _shared_snapshot(arena: Arena, number: int) -> None:
    with arena.snap.keys(prefix=b"k") as keys:
        expect(arena.snap[KEYS[3]], b"v", "a shared snapshot")
        expect(list(keys), KEYS, "a scan of a shared snapshot")
    expect(arena.snap.get(b"a%d" % number), None, "a shared snapshot")


def _get(arena: Arena, number: int) -> None:
    expect((arena.db[KEYS[7]], b"none" in arena.db), (b"v", False), "a get")


def _multi_get(arena: Arena, number: int) -> None:
    expect(arena.db.get([*KEYS, b"none"] * 3), [*[b"v"] * len(KEYS), None] * 3, "a multi-get")


def _family(arena: Arena, number: int) -> None:
    arena.family[b"n%d" % number] = b"v"
    expect(arena.family.get([b"n%d" % number, b"k"]), [b"v", b"v"], "a column family")


def _put(arena: Arena, number: int) -> None:
    written = arena.attempted[number] = arena.attempted[number] + 1
    arena.db[b"a%d" % number] = b"%d" % written
    arena.acknowledged[number] = written


def _batch(arena: Arena, number: int) -> None:
    written = arena.attempted[number] = arena.attempted[number] + 1
    with arena.db.write_batch(expire_after=LEASE if written % 4 == 0 else None) as batch:
        batch[b"b%d" % number] = batch[b"a%d" % number] = b"%d" % written
    arena.acknowledged[number] = written


def _bulk(arena: Arena, number: int) -> None:
    written = arena.attempted[number] = arena.attempted[number] + 1
    with arena.db.bulk_writer(flush_bytes=64) as bulk:
        for _ in range(5):
            bulk.delete(b"none")
        bulk[b"a%d" % number] = b"%d" % written
    arena.acknowledged[number] = written


USES: dict[str, Callable[[Arena, int], None]] = {
    "scan": _scan, "backward scan": _backward_scan, "leased scan": _leased_scan, "cursor": _cursor,
    "snapshot": _snapshot, "shared snapshot": _shared_snapshot, "get": _get, "multi-get": _multi_get,
    "family": _family, "put": _put, "batch": _batch, "bulk": _bulk,
}  # fmt: skip
