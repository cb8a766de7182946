"""D5, what outlives the close of its database: what saferocks does, and a canary for each kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import rocksdict

import saferocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Job = Callable[[], Any]


@pytest.fixture
def lenient_db(path: str) -> Iterator[saferocks.Rdict]:
    """An entered database with a few rows that says nothing of handles that outlive it."""
    with saferocks.open(path, policy="ignore") as db:
        db.create_column_family("users")[b"k"] = b"v"
        for number in range(100):
            db[b"k%02d" % number] = b"v"
        yield db


def partly_read(db: saferocks.Rdict, method: str) -> Any:
    """Return a scan of which one row was read."""
    scan = getattr(db, method)().__enter__()
    next(scan)
    return scan


def positioned(db: Any) -> Any:
    """Return a cursor on its first row."""
    cursor = db.iter().__enter__()
    cursor.seek_to_first()
    return cursor


def with_scan(snap: Any) -> Any:
    """Return a snapshot with a scan of it that is half read."""
    return snap, partly_read(snap, "items")


def with_default_family(db: saferocks.Rdict) -> Any:
    """Return a batch that writes to a column family unless told otherwise."""
    batch = db.write_batch().__enter__()
    batch.set_default_column_family(db.get_column_family_handle("users"))
    batch[b"a"] = b"1"
    return batch


SURVIVORS: dict[str, Callable[[saferocks.Rdict], Any]] = {
    "items": lambda db: partly_read(db, "items"),
    "keys": lambda db: partly_read(db, "keys"),
    "values": lambda db: partly_read(db, "values"),
    "columns": lambda db: partly_read(db, "columns"),
    "entities": lambda db: partly_read(db, "entities"),
    "bounded scan": lambda db: db.items(lower_bound=b"k10", upper_bound=b"k20").__enter__(),
    "python iterator": lambda db: iter(db.items().__enter__()),
    "cursor": positioned,
    "bounded cursor": lambda db: db.iter(prefix=b"k").__enter__(),
    "never entered": lambda db: [db.items(), db.iter(), db.snapshot(), db.write_batch()],
    "snapshot": lambda db: db.snapshot().__enter__(),
    "point snapshot": lambda db: db.snapshot(point_reads_only=True).__enter__(),
    "snapshot of two families": lambda db: db.snapshot(column_families=["users"]).__enter__(),
    "scan of a snapshot": lambda db: with_scan(db.snapshot().__enter__()),
    "cursor of a snapshot": lambda db: positioned(db.snapshot().__enter__()),
    "column family": lambda db: db.get_column_family("users"),
    "scan of a column family": lambda db: partly_read(db.get_column_family("users"), "items"),
    "column family handle": lambda db: db.get_column_family_handle("users"),
    "checkpoint": lambda db: db.checkpoint().__enter__(),
    "batch with a default family": with_default_family,
    "bulk writer": lambda db: db.bulk_writer().__enter__(),
    "bound methods": lambda db: [db.get, db.items, db.get_column_family("users").put, positioned(db).next],
}


@pytest.mark.parametrize("kind", SURVIVORS)
def test_d05_the_path_reopens_while_a_handle_survives(path: str, lenient_db: saferocks.Rdict, kind: str) -> None:
    """After the close the path can be opened at once, whatever handle the caller still refers to."""
    survivor = SURVIVORS[kind](lenient_db)
    lenient_db.close()
    with saferocks.open(path) as again:
        assert again[b"k00"] == b"v"
    del survivor


def test_d05_survivors_of_every_kind_at_once_do_not_hold_the_path(path: str, lenient_db: saferocks.Rdict) -> None:
    """With one survivor of every database-bound kind alive at once, the path still reopens at once."""
    survivors = [make(lenient_db) for make in SURVIVORS.values()]
    lenient_db.close()
    with saferocks.open(path) as again:
        assert again[b"k00"] == b"v"
    del survivors


def test_d05_a_free_standing_batch_does_not_hold_the_path(path: str, lenient_db: saferocks.Rdict) -> None:
    """A batch of no database that writes to a column family by default leaves the path free, and tells of its loss."""
    with (
        pytest.raises(saferocks.HandleClosedError, match="released when its database closed"),
        saferocks.WriteBatch(raw_mode=True) as batch,
    ):
        batch.set_default_column_family(lenient_db.get_column_family_handle("users"))
        batch[b"a"] = b"1"
        lenient_db.close()
        with saferocks.open(path) as again:
            assert again[b"k00"] == b"v"


def test_d05_survivors_raise_and_never_crash(lenient_db: saferocks.Rdict) -> None:
    """Every survivor of a close raises HandleClosedError when it is used."""
    items, cursor = partly_read(lenient_db, "items"), positioned(lenient_db)
    snap, users = lenient_db.snapshot().__enter__(), lenient_db.get_column_family("users")
    batch, checkpoint = lenient_db.write_batch().__enter__(), lenient_db.checkpoint().__enter__()
    lenient_db.close()
    uses: list[Job] = [
        lambda: next(items),
        lambda: list(items),
        cursor.next,
        cursor.key,
        lambda: snap[b"k00"],
        snap.items,
        lambda: users[b"k"],
        lambda: users.put(b"k", b"v"),
        lambda: batch.put(b"k", b"v"),
        lambda: checkpoint.create("copy"),
        lambda: lenient_db[b"k00"],
    ]
    for use in uses:
        with pytest.raises(saferocks.HandleClosedError, match="closed"):
            use()


BARE_SURVIVORS: dict[str, Callable[[Any], Any]] = {
    "items": lambda db: db.items(),
    "keys": lambda db: db.keys(),
    "values": lambda db: db.values(),
    "cursor": lambda db: db.iter(),
    "snapshot": lambda db: db.snapshot(),
    "column family": lambda db: db.get_column_family("users"),
    "column family handle": lambda db: db.get_column_family_handle("users"),
    "checkpoint": rocksdict.Checkpoint,
    "batch with a default family": lambda db: bare_batch(db),
}


def bare_batch(db: Any) -> Any:
    """Return a batch of bare rocksdict that writes to a column family unless told otherwise."""
    batch = rocksdict.WriteBatch(raw_mode=True)
    batch.set_default_column_family(db.get_column_family_handle("users"))
    return batch


@pytest.mark.parametrize("kind", BARE_SURVIVORS)
def test_d05_canary_a_survivor_holds_the_path(path: str, kind: str) -> None:
    """In rocksdict, each of these keeps LOCK after the close, and the path cannot be opened."""
    bare = rocksdict.Rdict(path, rocksdict.Options(raw_mode=True))
    bare.create_column_family("users", rocksdict.Options(raw_mode=True))
    survivor = BARE_SURVIVORS[kind](bare)
    bare.close()
    with pytest.raises(Exception, match="lock hold by current process"):
        rocksdict.Rdict(path, rocksdict.Options(raw_mode=True)).close()
        pytest.fail(f"D5 is mended for a {kind}: a close in saferocks need not release it before the database")
    del survivor
