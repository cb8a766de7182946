"""D5, errors that are held past the close of the database: what saferocks does, and a canary."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import rocksdict

import saferocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROWS = 2000


@pytest.fixture
def lenient_db(path: str) -> Iterator[saferocks.Rdict]:
    """An entered database with a few rows that says nothing of handles that outlive it."""
    with saferocks.open(path, policy="ignore") as db:
        db.create_column_family("users")[b"k"] = b"v"
        for number in range(100):
            db[b"k%02d" % number] = b"v"
        yield db


def run_through(scope: Any) -> None:
    """Read a scan to its end."""
    with scope as scan:
        for _ in scan:
            pass


def walk_through(scope: Any) -> None:
    """Walk a cursor to its end."""
    with scope as cursor:
        cursor.seek_to_first()
        while cursor.valid():
            cursor.next()


def with_error(scope: Any, use: Callable[[Any], Any]) -> None:
    """Enter a handle and let a use of it fail."""
    with scope as handle:
        use(handle)


FAILURES: dict[str, Callable[[saferocks.Rdict], Any]] = {
    "get": lambda db: db.get(5),
    "item": lambda db: db[5],
    "missing": lambda db: db[b"missing"],
    "contains": lambda db: 5 in db,
    "multi-get": lambda db: db.get([b"k00", 5]),
    "get with options": lambda db: db.get(5, None, saferocks.ReadOptions()),
    "get_entity": lambda db: db.get_entity(5),
    "key_may_exist": lambda db: db.key_may_exist(5),
    "put": lambda db: db.put(b"k", 5),
    "assignment": lambda db: db.__setitem__(5, b"v"),
    "deletion": lambda db: db.__delitem__(5),
    "put_entity": lambda db: db.put_entity(b"k", [b"a"], []),
    "reversed range": lambda db: db.delete_range(b"z", b"a"),
    "ingest": lambda db: db.ingest_external_file(["no such file"]),
    "set_options": lambda db: db.set_options({"no such option": "1"}),
    "property": lambda db: db.property_int_value("rocksdb.stats"),
    "unknown family": lambda db: db.get_column_family("nobody"),
    "family made twice": lambda db: db.create_column_family("users"),
    "family key": lambda db: db.get_column_family("users").get(5),
    "family missing": lambda db: db.get_column_family("users")[b"missing"],
    "from_key": lambda db: db.items(from_key=5),
    "bound": lambda db: db.iter(lower_bound=5),
    "cursor seek": lambda db: with_error(db.iter(), lambda cursor: cursor.seek(5)),
    "cursor seek_for_prev": lambda db: with_error(db.iter(), lambda cursor: cursor.seek_for_prev(5)),
    "cursor step": lambda db: with_error(db.iter(), lambda cursor: cursor.next()),
    "bounded cursor seek": lambda db: with_error(db.iter(prefix=b"k"), lambda cursor: cursor.seek(5)),
    "snapshot key": lambda db: with_error(db.snapshot(), lambda snap: snap[5]),
    "snapshot missing": lambda db: with_error(db.snapshot(), lambda snap: snap[b"missing"]),
    "snapshot get": lambda db: with_error(db.snapshot(), lambda snap: snap.get(5)),
    "snapshot cursor": lambda db: with_error(
        db.snapshot(), lambda snap: with_error(snap.iter(), lambda cursor: cursor.seek(5))
    ),
    "snapshot cursor step": lambda db: with_error(
        db.snapshot(), lambda snap: with_error(snap.iter(), lambda cursor: cursor.next())
    ),
    "batch": lambda db: with_error(db.write_batch(), lambda batch: batch.put(5, b"v")),
    "batch entity": lambda db: with_error(db.write_batch(), lambda batch: batch.put_entity(b"k", [b"a"], [])),
    "batch default family": lambda db: with_error(db.write_batch(), lambda batch: batch.set_default_column_family(5)),
    "batch family": lambda db: with_error(
        db.write_batch(), lambda batch: batch.put(5, b"v", db.get_column_family_handle("users"))
    ),
    "bulk writer": lambda db: with_error(db.bulk_writer(), lambda bulk: bulk.put(5, b"v")),
    "checkpoint": lambda db: with_error(db.checkpoint(), lambda checkpoint: checkpoint.create("/proc/checkpoint")),
    "typed batch": lambda db: with_error(saferocks.WriteBatch(raw_mode=False), db.write),
}


def error_of(function: Callable[[Any], Any], argument: Any) -> Exception:
    """Return the exception that a function raises, traceback and all."""
    try:
        function(argument)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("kind", FAILURES)
def test_d05_a_held_error_does_not_hold_the_path(path: str, lenient_db: saferocks.Rdict, kind: str) -> None:
    """After the close the path can be opened at once while an error of a call is still being held."""
    held = error_of(FAILURES[kind], lenient_db)
    lenient_db.close()
    with saferocks.open(path) as again:
        assert again[b"k00"] == b"v"
    assert held.__traceback__ is not None


@pytest.mark.parametrize("kind", FAILURES)
def test_d05_the_path_reopens_while_an_error_is_being_handled(
    path: str, lenient_db: saferocks.Rdict, kind: str
) -> None:
    """Within the `except` block of a failed call, database and path can be closed and opened again."""
    try:
        FAILURES[kind](lenient_db)
    except Exception:
        lenient_db.close()
        with saferocks.open(path) as again:
            assert again[b"k00"] == b"v"
    else:
        pytest.fail("nothing was raised")


READS: dict[str, Callable[[saferocks.Rdict], Any]] = {
    "get": lambda db: [db.get(b"k%04d" % number) for number in range(ROWS)],
    "multi-get": lambda db: db.get([b"k%04d" % number for number in range(ROWS)]),
    "items": lambda db: run_through(db.items()),
    "values backwards": lambda db: run_through(db.values(True)),
    "bounded": lambda db: run_through(db.items(lower_bound=b"k")),
    "cursor": lambda db: walk_through(db.iter()),
    "bounded cursor": lambda db: walk_through(db.iter(lower_bound=b"k")),
    "snapshot get": lambda db: with_error(db.snapshot(), lambda snap: [snap[b"k%04d" % n] for n in range(ROWS)]),
    "snapshot items": lambda db: with_error(db.snapshot(), lambda snap: run_through(snap.items())),
    "snapshot cursor": lambda db: with_error(db.snapshot(), lambda snap: walk_through(snap.iter())),
}


@pytest.mark.parametrize("kind", READS)
def test_d05_a_held_corruption_error_does_not_hold_the_path(path: str, kind: str) -> None:
    """The path reopens while the CorruptionError of a read of any kind is being held."""
    with saferocks.open(path) as db:
        for number in range(ROWS):
            db[b"k%04d" % number] = b"%04d" % number * 50
        db.flush()
    file = next(Path(path).glob("*.sst"))
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 16] = bytes(byte ^ 0xFF for byte in content[middle : middle + 16])
    file.write_bytes(content)
    with saferocks.open(path) as db:
        held = error_of(READS[kind], db)
    with saferocks.open(path):
        assert isinstance(held, saferocks.CorruptionError)


LOADED: dict[str, Callable[[saferocks.Rdict], Any]] = {
    "get": lambda db: db.get("k"),
    "item": lambda db: db["k"],
    "multi-get": lambda db: db.get(["k"]),
    "items": lambda db: run_through(db.items()),
    "values": lambda db: run_through(db.values()),
    "bounded": lambda db: run_through(db.items(prefix="k")),
    "cursor": lambda db: with_error(db.iter(), lambda cursor: (cursor.seek("k"), cursor.value())),
    "family": lambda db: run_through(db.get_column_family("users").items()),
    "bounded cursor": lambda db: with_error(db.iter(prefix="k"), lambda cursor: (cursor.seek("k"), cursor.value())),
    "snapshot get": lambda db: with_error(db.snapshot(), lambda snap: snap["k"]),
    "snapshot cursor": lambda db: with_error(
        db.snapshot(), lambda snap: with_error(snap.iter(), lambda cursor: (cursor.seek("k"), cursor.value()))
    ),
    "snapshot values": lambda db: with_error(db.snapshot(), lambda snap: run_through(snap.values(prefix="k"))),
    "snapshot items": lambda db: with_error(db.snapshot(), lambda snap: run_through(snap.items())),
}


DUMPED: dict[str, Callable[[saferocks.Rdict], Any]] = {
    "put": lambda db: db.put("k", [1]),
    "assignment": lambda db: db.__setitem__("k", [1]),
    "put_entity": lambda db: db.put_entity("k", ["a"], [[1]]),
    "batch": lambda db: with_error(db.write_batch(), lambda batch: batch.put("k", [1])),
    "bulk writer": lambda db: with_error(db.bulk_writer(), lambda bulk: bulk.put("k", [1])),
}


def not_today(value: Any) -> Any:
    """Fail, as the `loads` or `dumps` of a caller may."""
    raise LookupError("not today")


@pytest.mark.parametrize("kind", LOADED)
def test_d05_a_held_error_of_loads_does_not_hold_the_path(path: str, kind: str) -> None:
    """The path reopens while an error raised by the caller's own `loads` is being held, and that error is unchanged."""
    with saferocks.open(path, raw_mode=False) as db:
        users = db.create_column_family("users")
        for family in (db, users):
            family.set_dumps(lambda value: b"encoded")
            family.set_loads(not_today)
            family["k"] = [1, 2]
        held = error_of(LOADED[kind], db)
    with saferocks.open(path, raw_mode=False):
        assert (type(held), held.args) == (LookupError, ("not today",))


@pytest.mark.parametrize("kind", DUMPED)
def test_d05_a_held_error_of_dumps_does_not_hold_the_path(path: str, kind: str) -> None:
    """The path reopens while an error raised by the caller's own `dumps` is being held, and that error is unchanged."""
    with saferocks.open(path, raw_mode=False) as db:
        db.set_dumps(not_today)
        held = error_of(DUMPED[kind], db)
    with saferocks.open(path, raw_mode=False):
        assert (type(held), held.args) == (LookupError, ("not today",))


def test_d05_canary_a_held_error_holds_the_path(path: str) -> None:
    """In rocksdict, a held error whose frame refers to a cursor keeps the path locked after the close."""
    bare = rocksdict.Rdict(path, rocksdict.Options(raw_mode=True))

    def seek(database: Any) -> None:
        cursor = database.iter()
        cursor.seek(5)

    held = error_of(seek, bare)
    bare.close()
    with pytest.raises(Exception, match="lock hold by current process"):
        rocksdict.Rdict(path, rocksdict.Options(raw_mode=True)).close()
        pytest.fail("D5 is mended for cursors: saferocks._engine.failure need not strip tracebacks")
    del held
