"""The generators that a scan's rows come from, and closing one that another thread may be executing."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from saferocks import _engine
from saferocks._cursor import NOTHING, PinnedCursor
from saferocks._life import release
from saferocks._process import forking, see
from saferocks._registry import EXHAUSTED
from saferocks.errors import BusyError, IncompleteError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import FrameType

    from saferocks._ordering import Key
    from saferocks._scan import ScanRecord, SharedScanRecord

    Rows = Generator[Any, None, None]

#: The scans that return a part of the native row.
PARTS = frozenset({"values", "columns"})
_FIRST_CHUNK, _LAST_CHUNK = 4, 256
#: How long a release waits for another thread to come out of the generator it is closing.
_CLOSE_SECONDS = 30.0
#: Whether another thread may run, and ask for a row, while a generator is being closed: Python 3.10 looks for
#: one as it enters an `except`. What asks then gets a bare "generator already executing" from its `for`.
_CLOSES_IN_STEPS = sys.version_info < (3, 11)


def _closing_at_once(generate: Callable[..., Rows]) -> Callable[..., Rows]:
    """Have rows yielded from where no `except` stands around the `yield`."""

    def rows(record: ScanRecord) -> Rows:
        """Yield what `generate` does."""
        for row in generate(record):  # noqa: UP028 - `yield from` would be closing them while it counts as running
            yield row

    return rows if _CLOSES_IN_STEPS else generate


# The first three generators below end alike, and are written out all the same: a generator around a
# generator would cost every row a third more, and so would a test for what one of them does not need.
# With a lease they yield rows until it runs out, the one that is being read then included, and the tail
# says that it has.


@_closing_at_once
def whole_rows(record: ScanRecord) -> Rows:
    """Yield the rows of a native scan as they are."""
    view = record.native
    if view is None:  # released before the first row; the tail says so
        return
    rows, cursor = view
    del view
    lease = record.limit()
    row = NOTHING
    try:
        if lease is None:
            for row in rows:
                yield row
        else:
            for row in rows:
                yield row
                if lease.expired:
                    return
        if (yield from _rest(record, cursor, row if row is NOTHING or record.method == "keys" else row[0])):
            return
    except GeneratorExit:
        raise
    except BaseException as error:  # noqa: BLE001 - raised below, see `_engine.failure`
        failure = _failed(record, error)
    else:
        del rows, cursor  # before the release, which leaves nothing native behind
        release(record, EXHAUSTED)
        return
    del rows, cursor
    _engine.throw(failure)


@_closing_at_once
def part_rows(record: ScanRecord) -> Rows:
    """Yield the values, or the wide columns, of the rows of a native scan."""
    view = record.native
    if view is None:  # released before the first row; the tail says so
        return
    rows, cursor = view
    del view
    lease = record.limit()
    row = NOTHING
    try:
        if lease is None:
            for row in rows:
                yield row[1]
        else:
            for row in rows:
                yield row[1]
                if lease.expired:
                    return
        if (yield from _rest(record, cursor, row if row is NOTHING else row[0])):
            return
    except GeneratorExit:
        raise
    except BaseException as error:  # noqa: BLE001 - raised below, see `_engine.failure`
        failure = _failed(record, error)
    else:
        del rows, cursor  # before the release, which leaves nothing native behind
        release(record, EXHAUSTED)
        return
    del rows, cursor
    _engine.throw(failure)


@_closing_at_once
def bounded_rows(record: ScanRecord) -> Rows:
    """Yield the rows of a native scan that lie within its bounds."""
    view = record.native
    if view is None:
        return
    rows, cursor = view
    del view
    bounds, keys, part = record.bounds, record.method == "keys", record.method in PARTS
    outside = bounds.below() if record.backwards else bounds.above()
    skip = bounds.above() if record.backwards else None  # the exclusive bound that was sought
    lease = record.limit()
    last = NOTHING
    try:
        for row in rows:
            key = row if keys else row[0]
            if outside is not None and outside(key):
                break
            if skip is not None:
                if skip(key):
                    continue
                skip = None
            last = key
            yield row[1] if part else row
            if lease is not None and lease.expired:
                return
        else:
            if (yield from _rest(record, cursor, last)):
                return
    except GeneratorExit:
        raise
    except BaseException as error:  # noqa: BLE001 - raised below, see `_engine.failure`
        failure = _failed(record, error)
    else:
        del rows, cursor  # before the release, which leaves nothing native behind
        release(record, EXHAUSTED)
        return
    del rows, cursor
    _engine.throw(failure)


def _rest(record: ScanRecord, cursor: Any, last: Key) -> Generator[Any, None, bool]:
    """Yield what the plain cursor sees beyond the last row of the native scan (D4).

    Nothing, when the scan was complete. The cursor raises if an error cut the scan short, and
    goes on where the scan stopped if the error has passed.

    Returns:
        Whether the lease has run out meanwhile.
    """
    place = record.place()
    place.last = last
    pinned = PinnedCursor(cursor)
    lease = record.limit()
    while rows := pinned.chunk(place, _LAST_CHUNK):
        for row in rows:
            yield row
            if lease is not None and lease.expired:
                return True
    return False


@_closing_at_once
def pinned_rows(record: SharedScanRecord) -> Rows:
    """Yield the rows of a snapshot's scan, read ahead in chunks that start small."""
    pinned, place = record.native, record.place()
    if pinned is None:  # released before the first row; the tail says so
        return
    lease, outer = record.limit(), record.outer
    rows = _FIRST_CHUNK
    try:
        while not pinned.expired and not _is_left(record) and (chunk := pinned.chunk(place, rows)):
            if lease is None and (outer is None or outer.expire_after is None):
                yield from chunk
            else:
                for row in chunk:
                    yield row
                    if pinned.expired or (lease is not None and lease.expired):
                        return
            rows = min(rows * 2, _LAST_CHUNK)
    except GeneratorExit:
        raise
    except BaseException as error:  # noqa: BLE001 - raised below, see `_engine.failure`
        failure = _failed(record, error)
    else:
        if not pinned.expired:
            release(record, EXHAUSTED)
        return
    del pinned, place
    _engine.throw(failure)


def _is_left(record: ScanRecord) -> bool:
    """Tell whether this is a forked child, and the scan its parent's; the tail says so."""
    if forking:
        see()
    return record.reason is not None


def _failed(record: ScanRecord, error: BaseException) -> list[BaseException]:
    """Remember why a scan ended early, and return what to `throw`."""
    failure = _engine.failure(error)
    if isinstance(failure[0], Exception):
        record.failure = failure[0]
    else:
        record.failure = interrupted(type(error).__name__)
    return failure


def interrupted(by: str) -> IncompleteError:
    """Return the error of a scan that something else than RocksDB has cut short."""
    return IncompleteError(f"Result incomplete: the scan was interrupted by {by}", code=7)


def close(rows: Any) -> None:
    """Close a generator, once no other thread is taking a row from it.

    Raises:
        BusyError: If it is running further up this stack, or for too long elsewhere.
    """
    deadline = time.monotonic() + _CLOSE_SECONDS
    while not try_to_close(rows):
        if _is_on_this_stack(rows) or time.monotonic() >= deadline:
            raise BusyError("Resource busy: the iterator is taking a row further up this stack", code=11)
        time.sleep(0)


def try_to_close(rows: Any) -> bool:
    """Close a generator; False if it is executing.

    Python 3.11 and 3.12 may crash when a generator is closed that another thread is executing, instead of raising
    ValueError: they look at its stack if what comes next in its code resembles a `yield from`. So it is asked first;
    nothing that lets another thread run stands between the question and the call.
    """
    try:
        if rows.gi_running:
            return False
        rows.close()
    except ValueError:  # "generator already executing", where Python tells after all
        return False
    return True


def _is_on_this_stack(rows: Any) -> bool:
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame is not rows.gi_frame:
        frame = frame.f_back
    return frame is not None
