"""The costs of tracking: opening and releasing handles, few or many at a time."""

from __future__ import annotations

import gc
import tracemalloc
from contextlib import ExitStack
from statistics import median
from typing import TYPE_CHECKING

import saferocks
from stress import raw
from stress.bench.measure import Row, collector_paused, compare, processor_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import rocksdict

    from saferocks import Scope, Snapshot

_ITERATOR_BUDGET = 3.5
_SNAPSHOT_BUDGET_US = 1.2
_STACK_BUDGET_US = 1.5
_SCALE_BUDGET = 1.3
_BYTES_BUDGET = 600
_CLOSE_BUDGET_US = 10
_FEW = 1000
_WEIGHED = 10_000
_DEPTH = 8
_CLOSES = 3


def measure(directory: str, repeats: int, many: int, closing: int) -> Iterator[Row]:
    """Measure on small databases, one SST file and a memtable each.

    Args:
        directory: Where to make them.
        repeats: How many handles a round opens and releases.
        many: How many handles are held open while others are opened and released.
        closing: How many handles are open when their database closes.
    """
    with ExitStack() as stack:
        bare = stack.enter_context(raw.open_plain(f"{directory}/bare"))
        safe = stack.enter_context(saferocks.open(f"{directory}/safe"))
        deep = stack.enter_context(saferocks.open(f"{directory}/deep", trace="stack"))
        for database in (bare, safe, deep):
            database[b"a"] = b"v"
            database.flush()
            database[b"b"] = b"v"
        yield from _one_at_a_time(bare, safe, repeats)
        yield _traces(safe, deep, repeats)
        yield _weight(bare, safe)
        yield _many_open(safe, repeats, many)
    yield _close(directory, closing)


def _one_at_a_time(bare: rocksdict.Rdict, safe: saferocks.Rdict, repeats: int) -> Iterator[Row]:
    pair = compare(lambda: _bare_iterators(bare, repeats), lambda: _safe_iterators(safe, repeats), repeats)
    yield pair.ratio("iterator: enter + exit", _ITERATOR_BUDGET)
    pair = compare(lambda: _bare_snapshots(bare, repeats), lambda: _safe_snapshots(safe, repeats), repeats)
    yield pair.difference("snapshot: enter + exit", _SNAPSHOT_BUDGET_US)


def _bare_iterators(database: rocksdict.Rdict, repeats: int) -> None:
    for _ in range(repeats):
        database.iter()


def _safe_iterators(database: saferocks.Rdict, repeats: int) -> None:
    for _ in range(repeats):
        with database.iter():
            pass


def _bare_snapshots(database: rocksdict.Rdict, repeats: int) -> None:
    for _ in range(repeats):
        database.snapshot()


def _safe_snapshots(database: saferocks.Rdict, repeats: int) -> None:
    for _ in range(repeats):
        with database.snapshot(point_reads_only=True):
            pass


def _traces(site: saferocks.Rdict, stack: saferocks.Rdict, repeats: int) -> Row:
    def at_depth(depth: int, action: Callable[[], None]) -> None:
        at_depth(depth - 1, action) if depth else action()

    pair = compare(
        lambda: at_depth(_DEPTH, lambda: _safe_snapshots(site, repeats)),
        lambda: at_depth(_DEPTH, lambda: _safe_snapshots(stack, repeats)),
        repeats,
    )
    return pair.difference("trace: stack against site", _STACK_BUDGET_US)


def _weight(bare: rocksdict.Rdict, safe: saferocks.Rdict) -> Row:
    """Weigh what Python allocates for a tracked snapshot, beyond what it does for a bare one."""
    untracked = _bytes_of(bare.snapshot)
    tracked = _bytes_of(lambda: safe.snapshot(point_reads_only=True).__enter__())
    return Row("memory of a handle", None, None, tracked - untracked, "bytes", _BYTES_BUDGET)


def _bytes_of(opener: Callable[[], object]) -> float:
    kept: list[object] = [None] * _WEIGHED
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(_WEIGHED):
            kept[number] = opener()
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    _release(kept)
    return used / _WEIGHED


def _release(kept: list[object]) -> None:
    for handle in kept:
        if isinstance(handle, saferocks.Snapshot):
            handle.__exit__(None, None, None)


def _many_open(safe: saferocks.Rdict, repeats: int, many: int) -> Row:
    """Open and release with few handles open, then with many; both on one database, one after the other."""
    few_open = _with_open(safe, repeats, _FEW)
    many_open = _with_open(safe, repeats, many)
    return Row(f"{many:,} open against {_FEW:,}", few_open, many_open, many_open / few_open, "x", _SCALE_BUDGET)


def _with_open(safe: saferocks.Rdict, repeats: int, handles: int) -> float:
    held: list[Scope[Snapshot]] = [safe.snapshot(point_reads_only=True) for _ in range(handles)]
    for scope in held:
        scope.__enter__()
    cost = compare(lambda: None, lambda: _safe_snapshots(safe, repeats), repeats).cost
    for scope in held:
        scope.__exit__(None, None, None)
    return cost


def _close(directory: str, handles: int) -> Row:
    """Close with many handles open, and with a tenth of them: each must cost the same."""
    tenth, each = (
        median(_close_once(f"{directory}/close-{count}-{number}", count) for number in range(_CLOSES))
        for count in (handles // 10, handles)
    )
    return Row(f"close with {handles:,} open", tenth * 1e9, each * 1e9, each * 1e6, "us", _CLOSE_BUDGET_US)


def _close_once(path: str, handles: int) -> float:
    """Return the seconds that a close takes for each handle that is open."""
    database = saferocks.Rdict(path, raw_mode=True, policy="ignore")
    held = [database.snapshot(point_reads_only=True).__enter__() for _ in range(handles)]
    with collector_paused():
        taken = processor_seconds(database.close)
    del held
    return taken / handles
