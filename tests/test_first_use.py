"""The first use of a handle, and a release by another thread in its midst: nobody gets to see what that has left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import saferocks
from saferocks import _guard, _handle
from saferocks._cursor import PinnedCursor
from saferocks._life import HandleRecord, release
from saferocks._registry import Reason
from saferocks._scan import SharedScanRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Open = Callable[[saferocks.Rdict], Any]

#: One opener for each way in which a record makes what its handle's methods call through.
OPENERS: dict[str, Open] = {
    "plain cursor": lambda db: db.iter(),
    "bounded cursor": lambda db: db.iter(prefix=b"k"),
    "scan": lambda db: db.items(),
    "batch": lambda db: db.write_batch(),
    "snapshot": lambda db: db.snapshot(),
    "point snapshot": lambda db: db.snapshot(point_reads_only=True),
}
every_opener = pytest.mark.parametrize("opener", OPENERS)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What methods could have called through, at any moment of the test."""
    seen: list[Any] = []
    slot = HandleRecord.__dict__["live"]

    class Watched:
        def __get__(self, record: HandleRecord | None, owner: type) -> Any:
            return self if record is None else slot.__get__(record, owner)

        def __set__(self, record: HandleRecord, value: Any) -> None:
            seen.append(getattr(value, "_cursor", value))
            slot.__set__(record, value)

        def __delete__(self, record: HandleRecord) -> None:
            slot.__delete__(record)

    monkeypatch.setattr(HandleRecord, "live", Watched())
    yield seen
    assert None not in seen


@every_opener
def test_released_before_its_first_use_has_begun(
    db: saferocks.Rdict, published: list[Any], monkeypatch: pytest.MonkeyPatch, opener: str
) -> None:
    """A handle that is released while its first use is being allowed says so, and publishes nothing."""
    handle = OPENERS[opener](db)
    monkeypatch.setattr(_guard, "unscoped", lambda record: release(record, Reason.EXITED))
    with pytest.raises(saferocks.HandleClosedError):
        handle._record.live
    assert published == []


@every_opener
def test_released_before_it_is_resumed(db: saferocks.Rdict, published: list[Any], opener: str) -> None:
    """A handle in use that a fork has unset, and that is released before it is set again, says so."""
    with OPENERS[opener](db) as handle:
        record = handle._record
        record.disable()
        published.clear()
        release(record, Reason.EXITED)
        with pytest.raises(saferocks.HandleClosedError):
            record.resume()
    assert published == []


@every_opener
def test_released_while_it_is_entered(db: saferocks.Rdict, published: list[Any], opener: str) -> None:
    """A handle that is released while it is being entered is not let in, and publishes nothing."""
    handle = OPENERS[opener](db)
    record = handle._record
    release(record, Reason.EXITED)
    record.state = _handle.OPEN  # as `__enter__` has seen it
    with pytest.raises(saferocks.HandleClosedError):
        handle.__enter__()
    assert published == []


class _TakenAway:
    """Has its native object once, and then a release has taken that away."""

    __slots__ = ()

    native = property(lambda self: found.pop() if found else None, lambda self, value: None)


#: What `_TakenAway` has.
found: list[Any] = []


class _Pinned(_TakenAway, PinnedCursor):
    __slots__ = ()


class _Scan(_TakenAway, SharedScanRecord):
    __slots__ = ()


def test_a_shared_cursor_taken_away_as_it_is_locked() -> None:
    """A release does not wait for the lock of a snapshot's cursor: who has found it there still has it."""
    found[:] = ["native"]
    assert _Pinned(None).use(lambda cursor: cursor) == "native"


def test_a_shared_cursor_taken_away_as_a_scan_asks_for_its_lease() -> None:
    """A scan that is released while it is asked whether its snapshot has expired answers all the same."""
    record = _Scan.__new__(_Scan)
    record.reason = record.lease = None
    found[:] = [PinnedCursor(None)]
    assert not record.is_expired()
    assert found == []


class _Releasing(SharedScanRecord):
    """Is being released by another thread, because the lease of its snapshot has run out."""

    __slots__ = ()

    reason = property(lambda self: reasons.pop(0) if reasons[1:] else reasons[0], lambda self, value: None)


#: What `_Releasing` says, one look after the other.
reasons: list[Reason | None] = []


@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_scan_whose_snapshot_expires_under_its_looks(before: int) -> None:
    """A scan that has been seen to be expired still is while the release says so: the error is of the same type."""
    record = _Releasing.__new__(_Releasing)
    record.native = pinned = PinnedCursor(None)
    pinned.expired = True
    reasons[:] = [*[None] * before, Reason.SNAPSHOT_EXPIRED]
    assert record.is_expired()
