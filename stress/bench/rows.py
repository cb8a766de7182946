"""The costs of reading and writing rows."""

from __future__ import annotations

import random
from contextlib import ExitStack
from itertools import islice
from typing import TYPE_CHECKING, Any

import saferocks
from stress import raw
from stress.bench.measure import Row, compare

if TYPE_CHECKING:
    from collections.abc import Iterator

    import rocksdict

ROWS = 200_000
_POINT_BUDGET = 1.10
_SCAN_BUDGET = 1.15
_SEEK_BUDGET = 1.5
_SCAN_ROUNDS = 30
_VALUE = b"v" * 100
_KEYS_AT_ONCE, _BATCH_ROWS, _SOUGHT_ROWS = 100, 1000, 10


def _key(number: int) -> bytes:
    return b"%016d" % number


def measure(directory: str, points: int, rows: int) -> Iterator[Row]:
    """Measure on two databases with the same rows.

    Args:
        directory: Where to make them.
        points: How many point operations a round has.
        rows: How many rows the databases have.
    """
    with ExitStack() as stack:
        bare = stack.enter_context(raw.open_plain(f"{directory}/bare"))
        safe = stack.enter_context(saferocks.open(f"{directory}/safe"))
        for database in (bare, safe):
            _fill(database, rows)
        keys = [_key(number) for number in random.Random(0).choices(range(rows), k=points)]
        yield from _scans(bare, safe, keys[: points // 20], rows)
        yield from _points(bare, safe, keys)


def _fill(database: rocksdict.Rdict | saferocks.Rdict, rows: int) -> None:
    for number in range(rows):
        database[_key(number)] = _VALUE
    database.flush()
    database.compact_range(None, None)


def _points(bare: rocksdict.Rdict, safe: saferocks.Rdict, keys: list[bytes]) -> Iterator[Row]:
    budget = _POINT_BUDGET
    yield _ratio("get", bare, safe, _gets, keys, budget)
    yield _ratio("in", bare, safe, _tests, keys, budget)
    chunks = [keys[start : start + _KEYS_AT_ONCE] for start in range(0, len(keys), _KEYS_AT_ONCE)]
    yield _ratio("multi-get of 100", bare, safe, _gets, chunks, budget)
    yield _ratio("put", bare, safe, _puts, keys, budget)
    yield _ratio("delete", bare, safe, _deletes, [key + b"-" for key in keys], budget)
    batches = [keys[start : start + _BATCH_ROWS] for start in range(0, len(keys), _BATCH_ROWS)]
    pair = compare(lambda: _bare_batches(bare, batches), lambda: _safe_batches(safe, batches), len(batches))
    yield pair.ratio("batch of 1,000", budget)


def _ratio(workload: str, bare: Any, safe: Any, work: Any, keys: list[Any], budget: float) -> Row:
    return compare(lambda: work(bare, keys), lambda: work(safe, keys), len(keys)).ratio(workload, budget)


def _gets(database: Any, keys: list[Any]) -> None:
    for key in keys:
        database.get(key)


def _tests(database: Any, keys: list[bytes]) -> None:
    for key in keys:
        _ = key in database


def _puts(database: Any, keys: list[bytes]) -> None:
    for key in keys:
        database[key] = _VALUE


def _deletes(database: Any, keys: list[bytes]) -> None:
    for key in keys:
        del database[key]


def _bare_batches(database: rocksdict.Rdict, batches: list[list[bytes]]) -> None:
    for keys in batches:
        batch = raw.WriteBatch(raw_mode=True)
        for key in keys:
            batch[key] = _VALUE
        database.write(batch)


def _safe_batches(database: saferocks.Rdict, batches: list[list[bytes]]) -> None:
    for keys in batches:
        with database.write_batch() as batch:
            for key in keys:
                batch[key] = _VALUE


def _scans(bare: rocksdict.Rdict, safe: saferocks.Rdict, keys: list[bytes], rows: int) -> Iterator[Row]:
    pair = compare(lambda: _bare_scan(bare), lambda: _safe_scan(safe), rows, _SCAN_ROUNDS)
    yield pair.ratio(f"scan of {rows:,} rows", _SCAN_BUDGET)
    pair = compare(lambda: _bare_items(bare, keys), lambda: _safe_items(safe, keys), len(keys))
    yield pair.ratio("items: seek + 10 rows", _SEEK_BUDGET)
    pair = compare(lambda: _bare_cursor(bare, keys), lambda: _safe_cursor(safe, keys), len(keys))
    yield pair.ratio("cursor: seek + 10 rows", _SEEK_BUDGET)


def _bare_scan(database: rocksdict.Rdict) -> None:
    for _ in database.items():
        pass


def _safe_scan(database: saferocks.Rdict) -> None:
    with database.items() as items:
        for _ in items:
            pass


def _bare_items(database: rocksdict.Rdict, keys: list[bytes]) -> None:
    for key in keys:
        for _ in islice(database.items(from_key=key), _SOUGHT_ROWS):
            pass


def _safe_items(database: saferocks.Rdict, keys: list[bytes]) -> None:
    for key in keys:
        with database.items(from_key=key) as items:
            for _ in islice(items, _SOUGHT_ROWS):
                pass


def _bare_cursor(database: rocksdict.Rdict, keys: list[bytes]) -> None:
    for key in keys:
        _walk(database.iter(), key)


def _safe_cursor(database: saferocks.Rdict, keys: list[bytes]) -> None:
    for key in keys:
        with database.iter() as cursor:
            _walk(cursor, key)


def _walk(cursor: Any, key: bytes) -> None:
    cursor.seek(key)
    for _ in range(_SOUGHT_ROWS):
        if not cursor.valid():
            return
        cursor.key()
        cursor.value()
        cursor.next()
