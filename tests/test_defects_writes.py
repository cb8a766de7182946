"""Defects of rocksdict in batches and ranges (D16, D18): what saferocks does, and a canary for each."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import rocksdict

import saferocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


RAW = rocksdict.Options(raw_mode=True)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[saferocks.Rdict]:
    """A second entered database, with a column family of another name."""
    with saferocks.open(str(tmp_path / "other")) as database:
        database.create_column_family("theirs")
        yield database


# --------------------------------------------------------------------------- D16


def with_put(batch: Any, family: Any) -> None:
    """Add a row."""
    batch.put(b"k", b"v", family)


def with_delete(batch: Any, family: Any) -> None:
    """Add a deletion."""
    batch.delete(b"k", family)


def with_delete_range(batch: Any, family: Any) -> None:
    """Add the deletion of a range."""
    batch.delete_range(b"a", b"z", family)


def with_default(batch: Any, family: Any) -> None:
    """Make the family the default one, and add a row."""
    batch.set_default_column_family(family)
    batch[b"k"] = b"v"


ADDITIONS = [with_put, with_delete, with_delete_range, with_default]


@pytest.mark.parametrize(
    ("opener", "add"),
    [
        ("write_batch", with_put),
        ("write_batch", with_delete),
        ("write_batch", with_delete_range),
        ("write_batch", with_default),
        ("bulk_writer", with_put),
        ("bulk_writer", with_delete),
        ("bulk_writer", with_delete_range),
    ],
)
def test_d16_a_foreign_family_is_refused_when_it_is_added(
    db: saferocks.Rdict, other: saferocks.Rdict, opener: str, add: Callable[[Any, Any], None]
) -> None:
    """A batch of one database refuses the column family of another, with both paths, and writes nothing."""
    ours = db.create_column_family("ours")
    ours[b"k"] = b"before"
    theirs = other.get_column_family_handle("theirs")
    with getattr(db, opener)() as batch:
        with pytest.raises(saferocks.InvalidArgumentError) as caught:
            add(batch, theirs)
        batch.put(b"after", b"1")
    assert f"'theirs' belongs to the database at {other.path()!r}" in str(caught.value)
    assert f"not to the one at {db.path()!r}" in str(caught.value)
    assert (ours[b"k"], db[b"after"]) == (b"before", b"1")


@pytest.mark.parametrize("add", ADDITIONS)
def test_d16_a_free_standing_batch_is_refused_when_it_is_written(
    db: saferocks.Rdict, other: saferocks.Rdict, add: Callable[[Any, Any], None]
) -> None:
    """A free-standing batch with a family of one database cannot be written to another, and to its own it can."""
    ours = db.create_column_family("ours")
    ours[b"k"] = b"before"
    theirs = other.get_column_family("theirs")
    theirs[b"k"] = b"before"
    with saferocks.WriteBatch(raw_mode=True) as batch:
        add(batch, other.get_column_family_handle("theirs"))
        with pytest.raises(saferocks.InvalidArgumentError, match="belongs to the database at"):
            db.write(batch)
        other.write(batch)  # the refusal has left it as it was
    assert ours[b"k"] == b"before"
    assert theirs.get(b"k") != b"before"


def test_d16_a_family_of_an_earlier_opening_is_refused(path: str) -> None:
    """A column family handle from before a close is refused by the database that was opened after it."""
    with saferocks.open(path) as db:
        db.create_column_family("users")
        old = db.get_column_family_handle("users")
    with saferocks.open(path) as db, db.write_batch() as batch, pytest.raises(saferocks.HandleClosedError):
        batch.put(b"k", b"v", old)


def test_d16_canary_a_batch_writes_to_whatever_family_has_the_number(path: str, bare: rocksdict.Rdict) -> None:
    """In rocksdict, a batch with another database's column family writes to that of the same number."""
    second = rocksdict.Rdict(f"{path}-second", RAW)
    bare.create_column_family("ours", RAW)
    second.create_column_family("theirs", RAW)
    batch = rocksdict.WriteBatch(raw_mode=True)
    batch.put(b"k", b"v", second.get_column_family_handle("theirs"))
    with suppress(Exception):
        bare.write(batch)
    second.close()
    ours = bare.get_column_family("ours")
    assert ours.get(b"k") == b"v", "D16 is mended: saferocks._batch_writes.foreign_family and its callers can go"


# --------------------------------------------------------------------------- D18


@pytest.mark.parametrize(
    "delete",
    [
        lambda db: db.delete_range(b"z", b"a"),
        lambda db: db.get_column_family("default").delete_range(b"z", b"a"),
        lambda db: in_scope(db.write_batch(), lambda batch: batch.delete_range(b"z", b"a")),
        lambda db: in_scope(db.bulk_writer(), lambda bulk: bulk.delete_range(b"z", b"a")),
        lambda db: in_scope(
            db.write_batch(),
            lambda batch: batch.delete_range(b"z", b"a", db.get_column_family_handle("default")),
        ),
        lambda db: in_scope(
            saferocks.WriteBatch(raw_mode=True), lambda batch: (batch.delete_range(b"z", b"a"), db.write(batch))
        ),
    ],
)
def test_d18_a_reversed_range_is_refused(
    db: saferocks.Rdict, still_writable: Callable[[], bool], delete: Callable[[saferocks.Rdict], Any]
) -> None:
    """A range that ends before it begins raises InvalidArgumentError, and the database stays writable."""
    db[b"m"] = b"1"
    with pytest.raises(saferocks.InvalidArgumentError, match="end key comes before start key"):
        delete(db)
    assert db[b"m"] == b"1"
    assert still_writable()


def in_scope(scope: saferocks.Scope[Any], use: Callable[[Any], Any]) -> None:
    """Enter a handle and use it."""
    with scope as handle:
        use(handle)


@pytest.mark.parametrize(
    ("begin", "end"), [("b", "a"), (2, 1), (1, "z"), (True, 1.5), ("a", b"b"), (-1.5, 1.5), (1.5, 7), ("", b"z")]
)
def test_d18_a_typed_range_follows_the_order_of_types(typed_db: saferocks.Rdict, begin: Any, end: Any) -> None:
    """In a typed database a reversed range is one whose end comes first in the order of types."""
    with pytest.raises(saferocks.InvalidArgumentError, match="end key comes before start key"):
        typed_db.delete_range(begin, end)
    typed_db["k"] = 1
    typed_db.flush()
    assert typed_db["k"] == 1


def test_d18_ranges_in_order_and_empty_ones_are_deleted(db: saferocks.Rdict) -> None:
    """A range in order is deleted without its end, and one whose ends are equal deletes nothing."""
    for key in (b"a", b"b", b"c"):
        db[key] = b"v"
    db.delete_range(b"b", b"b")
    db.delete_range(b"a", b"c")
    assert db.get([b"a", b"b", b"c"]) == [None, None, b"v"]


@pytest.mark.parametrize("batched", [False, True])
def test_d18_canary_a_reversed_range_makes_every_later_write_fail(bare: rocksdict.Rdict, batched: bool) -> None:
    """In rocksdict, a reversed range makes every later write, flush and close fail."""
    batch = rocksdict.WriteBatch(raw_mode=True)
    with suppress(Exception):
        if batched:
            batch.delete_range(b"z", b"a")
            bare.write(batch)
        else:
            bare.delete_range(b"z", b"a")
    for use in (lambda: bare.put(b"k", b"v"), bare.flush, bare.close):
        with pytest.raises(Exception, match="end key comes before start key"):
            use()
            pytest.fail("D18 is mended: saferocks._ordering.check_range can go")
