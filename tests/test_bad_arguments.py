"""Keys, values, bounds and other arguments of a wrong type: a typed error at the call, and nothing written."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import pytest

import saferocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Call = Callable[[saferocks.Rdict, Any], Any]

METHODS = ["items", "keys", "values", "columns", "entities"]
RAW, TYPED = saferocks.Options(raw_mode=True), saferocks.Options(raw_mode=False)


@pytest.fixture
def filled(db: saferocks.Rdict) -> Iterator[saferocks.Rdict]:
    """A raw database with ten rows, which must all be there, and nothing else, at the end of the test."""
    for number in range(10):
        db[b"k%d" % number] = b"v"
    yield db
    with db.items() as items:
        assert list(items) == [(b"k%d" % number, b"v") for number in range(10)]
    assert db.column_families == ("default",)


def within(scope: saferocks.Scope[Any], use: Callable[[Any], Any]) -> Any:
    """Enter a handle and use it."""
    with scope as handle:
        return use(handle)


#: Every call that takes a key, with the wrong key to be put in.
KEY_CALLS: dict[str, Call] = {
    "item": lambda db, key: db[key],
    "get": lambda db, key: db.get(key),
    "multi-get": lambda db, key: db.get([b"k0", key]),
    "get with options": lambda db, key: db.get(key, None, saferocks.ReadOptions()),
    "multi-get with options": lambda db, key: db.get([b"k0", key], None, saferocks.ReadOptions()),
    "get_many": lambda db, key: db.get_many((b"k0", key)),
    "get_many with options": lambda db, key: db.get_many([b"k0", key], None, saferocks.ReadOptions()),
    "contains": lambda db, key: key in db,
    "get_entity": lambda db, key: db.get_entity(key),
    "get_entity of many": lambda db, key: db.get_entity([b"k0", key]),
    "key_may_exist": lambda db, key: db.key_may_exist(key),
    "assignment": lambda db, key: db.__setitem__(key, b"v"),
    "put": lambda db, key: db.put(key, b"v"),
    "put_entity": lambda db, key: db.put_entity(key, [b"a"], [b"v"]),
    "deletion": lambda db, key: db.__delitem__(key),
    "delete": lambda db, key: db.delete(key),
    "delete_range begin": lambda db, key: db.delete_range(key, b"z"),
    "delete_range end": lambda db, key: db.delete_range(b"a", key),
    "compact_range begin": lambda db, key: db.compact_range(key, None),
    "compact_range end": lambda db, key: db.compact_range(None, key),
    "seek": lambda db, key: within(db.iter(), lambda cursor: cursor.seek(key)),
    "seek_for_prev": lambda db, key: within(db.iter(), lambda cursor: cursor.seek_for_prev(key)),
    "bounded seek": lambda db, key: within(db.iter(lower_bound=b"k"), lambda cursor: cursor.seek(key)),
    "snapshot item": lambda db, key: within(db.snapshot(), lambda snap: snap[key]),
    "snapshot get": lambda db, key: within(db.snapshot(), lambda snap: snap.get(key)),
    "snapshot multi-get": lambda db, key: within(db.snapshot(), lambda snap: snap.get([b"k0", key])),
    "snapshot get_many": lambda db, key: within(db.snapshot(), lambda snap: snap.get_many((b"k0", key))),
    "snapshot contains": lambda db, key: within(db.snapshot(), lambda snap: key in snap),
    "snapshot seek": lambda db, key: within(
        db.snapshot(), lambda snap: within(snap.iter(), lambda cursor: cursor.seek(key))
    ),
    "snapshot from_key": lambda db, key: within(db.snapshot(), lambda snap: snap.items(from_key=key)),
    "batch assignment": lambda db, key: within(db.write_batch(), lambda batch: batch.__setitem__(key, b"v")),
    "batch put": lambda db, key: within(db.write_batch(), lambda batch: batch.put(key, b"v")),
    "batch put_entity": lambda db, key: within(db.write_batch(), lambda batch: batch.put_entity(key, [b"a"], [b"v"])),
    "batch deletion": lambda db, key: within(db.write_batch(), lambda batch: batch.__delitem__(key)),
    "batch delete": lambda db, key: within(db.write_batch(), lambda batch: batch.delete(key)),
    "batch delete_range": lambda db, key: within(db.write_batch(), lambda batch: batch.delete_range(key, b"z")),
    "bulk put": lambda db, key: within(db.bulk_writer(), lambda bulk: bulk.put(key, b"v")),
    "bulk delete": lambda db, key: within(db.bulk_writer(), lambda bulk: bulk.delete(key)),
    "family": lambda db, key: db.get_column_family("default").put(key, b"v"),
}
VALUE_CALLS: dict[str, Call] = {
    "assignment": lambda db, value: db.__setitem__(b"k0", value),
    "put": lambda db, value: db.put(b"k0", value),
    "put_entity value": lambda db, value: db.put_entity(b"k0", [b"a"], [value]),
    "put_entity name": lambda db, value: db.put_entity(b"k0", [value], [b"v"]),
    "batch assignment": lambda db, value: within(db.write_batch(), lambda batch: batch.__setitem__(b"k0", value)),
    "batch put": lambda db, value: within(db.write_batch(), lambda batch: batch.put(b"k0", value)),
    "bulk put": lambda db, value: within(db.bulk_writer(), lambda bulk: bulk.put(b"k0", value)),
    "family": lambda db, value: db.get_column_family("default").put(b"k0", value),
}


def not_refused(db: saferocks.Rdict, calls: dict[str, Call], arguments: list[Any], texts: tuple[str, ...]) -> list[Any]:
    """Return the calls that do not answer each of these arguments with a TypeError that says what is taken."""
    found: list[Any] = []
    for (name, call), argument in product(calls.items(), arguments):
        try:
            found.append((name, argument, call(db, argument)))
        except TypeError as error:
            if not any(text in str(error) for text in texts):
                found.append((name, argument, str(error)))
        except Exception as error:
            found.append((name, argument, repr(error)))
    return found


def test_a_raw_database_takes_only_bytes_as_keys(filled: saferocks.Rdict) -> None:
    """Each method refuses each other type of key with a TypeError that says what is taken, and writes nothing."""
    keys = ["k0", 5, 1.5, True, (b"k0",), bytearray(b"k0"), object()]
    texts = ("raw mode only support bytes; pass keys", "this database holds raw bytes; encode it")
    assert not_refused(filled, KEY_CALLS, keys, texts) == []


def test_a_raw_database_takes_only_bytes_as_values(filled: saferocks.Rdict) -> None:
    """Each writing method refuses each other type of value with a TypeError, and writes nothing."""
    values = ["v", 5, None, [b"v"], bytearray(b"v")]
    texts = ("raw mode only support bytes; pass keys and values", "this database holds raw bytes; encode it")
    assert not_refused(filled, VALUE_CALLS, values, texts) == []


def test_a_typed_database_takes_five_types_as_keys(typed_db: saferocks.Rdict) -> None:
    """Each method of a typed database refuses each other type of key with a TypeError, and writes nothing."""
    texts = "Only support `string`, `int`", "a typed database takes bytes, str, int, float and bool as keys"
    assert not_refused(typed_db, KEY_CALLS, [(1,), frozenset(), object(), bytearray(b"k")], texts) == []
    with typed_db.keys() as keys:
        assert list(keys) == []


@pytest.mark.parametrize("name", ["lower_bound", "upper_bound", "prefix", "from_key"])
def test_bounds_of_a_wrong_type_are_refused_at_the_call(filled: saferocks.Rdict, name: str) -> None:
    """A bound of a wrong type raises a TypeError that names it, before anything is opened."""
    with filled.snapshot() as snap:
        for reader, method, bound in product((filled, snap), METHODS, ("k", 5, [b"k"], bytearray(b"k"))):
            with pytest.raises(TypeError, match=rf"^{name} .*; encode it, or open a typed database"):
                getattr(reader, method)(**{name: bound})
        if name != "from_key":  # a cursor has none: it seeks
            with pytest.raises(TypeError, match=rf"^{name} .*; encode it, or open a typed database"):
                filled.iter(**{name: "k"})
        assert filled.audit().registered_iterators == 1  # that of the snapshot


@pytest.mark.parametrize("bounds", [{"lower_bound": (1,)}, {"upper_bound": object()}, {"prefix": None, "from_key": []}])
def test_bounds_of_a_wrong_type_are_refused_in_a_typed_database(
    typed_db: saferocks.Rdict, bounds: dict[str, Any]
) -> None:
    """A bound that a typed database cannot hold as a key raises a TypeError that lists what it can."""
    with pytest.raises(TypeError, match="a typed database takes bytes, str, int, float and bool as keys"):
        typed_db.items(**bounds)


@pytest.mark.parametrize(("prefix", "error"), [(5, TypeError), (1.5, TypeError), ("", ValueError), (b"", ValueError)])
def test_a_typed_prefix_must_be_text(typed_db: saferocks.Rdict, prefix: Any, error: type[Exception]) -> None:
    """A prefix of a typed scan is text or bytes, and not empty."""
    with pytest.raises(error, match=r"^prefix "):
        typed_db.items(prefix=prefix)


@pytest.mark.parametrize(
    "bounds",
    [
        {"lower_bound": b"k7", "upper_bound": b"k2"},
        {"lower_bound": b"k5", "upper_bound": b"k5"},
        {"lower_bound": b"z"},
        {"upper_bound": b"a"},
        {"prefix": b"x"},
        {"prefix": b"k1", "lower_bound": b"k2"},
    ],
)
def test_bounds_that_leave_nothing_are_no_error(filled: saferocks.Rdict, bounds: dict[str, bytes]) -> None:
    """A lower bound above the upper one, and other empty ranges, give an empty scan, of the database or a snapshot."""
    with filled.snapshot() as snap:
        for reader, method, backwards, start in product((filled, snap), METHODS, (False, True), (None, b"k5")):
            assert within(getattr(reader, method)(backwards, start, **bounds), list) == []


def test_a_cursor_with_bounds_that_leave_nothing_is_never_on_a_row(filled: saferocks.Rdict) -> None:
    """Wherever a cursor with reversed bounds is sent, it is on no row."""
    with filled.iter(lower_bound=b"k7", upper_bound=b"k2") as cursor:
        for move in (cursor.seek_to_first, cursor.seek_to_last, lambda: cursor.seek(b"k5")):
            move()
            assert (cursor.valid(), cursor.key(), cursor.value()) == (False, None, None)


OTHER_CALLS: list[tuple[Callable[[saferocks.Rdict], Any], type[Exception], str]] = [
    (lambda db: db.get(b"k0", None, 5), TypeError, "read_opt is int; use saferocks.ReadOptions"),
    (lambda db: db.items(read_opt=5), TypeError, "read_opt is int; use saferocks.ReadOptions"),
    (lambda db: db.iter(5), TypeError, "read_opt is int"),
    (lambda db: db.set_read_options(5), TypeError, "read_opt is int"),
    (lambda db: db.put(b"k0", b"w", 5), TypeError, "write_opt"),
    (lambda db: db.delete(b"k0", 5), TypeError, "write_opt"),
    (lambda db: db.set_write_options(5), TypeError, "write_opt"),
    (lambda db: db.items("yes"), TypeError, "backwards"),
    (lambda db: db.items(limit=5), TypeError, "limit"),
    (lambda db: db.flush("yes"), TypeError, "wait"),
    (lambda db: db.compact_range(None, None, 5), TypeError, "compact_opt"),
    (lambda db: db.set_options({"disable_auto_compactions": True}), TypeError, "options"),
    (lambda db: db.set_options(5), TypeError, "options"),
    (lambda db: db.set_options({"no_such_option": "1"}), saferocks.InvalidArgumentError, "no_such_option"),
    (lambda db: db.set_options({"write_buffer_size": "much"}), saferocks.EngineError, "write_buffer_size"),
    (lambda db: db.set_dumps(5), TypeError, "dumps"),
    (lambda db: db.set_loads(5), TypeError, "loads"),
    (lambda db: db.put_entity(b"k0", [b"a", b"b"], [b"1"]), ValueError, "same length"),
    (lambda db: db.property_value(5), TypeError, "name"),
    (lambda db: db.property_int_value("rocksdb.stats"), saferocks.EngineError, "Failed to convert property"),
    (lambda db: db.ingest_external_file("rows.sst"), TypeError, "list"),
    (lambda db: db.ingest_external_file([5]), TypeError, "5"),
    (lambda db: db.ingest_external_file([], 5), TypeError, "opts"),
    (lambda db: db.ingest_external_file(["no-such.sst"]), saferocks.IOFailedError, "no-such.sst"),
    (lambda db: db.get_column_family(5), TypeError, "column family 5 is int; give its name as str"),
    (lambda db: db.get_column_family("nobody"), saferocks.ColumnFamilyNotFoundError, "create_column_family('nobody')"),
    (lambda db: db.get_column_family_handle("nobody"), saferocks.ColumnFamilyNotFoundError, "nobody"),
    (lambda db: db.drop_column_family("nobody"), saferocks.ColumnFamilyNotFoundError, "nobody"),
    (lambda db: db.drop_column_family(None), TypeError, "column family None is NoneType"),
    (lambda db: db.create_column_family(b"new"), TypeError, "column family b'new' is bytes"),
    (lambda db: db.create_column_family("new", 5), TypeError, "options"),
    (lambda db: db.create_column_family("new", TYPED), saferocks.ModeMismatchError, "raw_mode=true"),
    (lambda db: db.create_column_family("default"), saferocks.InvalidArgumentError, "already exists: 'default'"),
    (lambda db: db.snapshot(column_families="users"), TypeError, "give a list of names"),
    (lambda db: db.snapshot(column_families=["nobody"]), saferocks.ColumnFamilyNotFoundError, "nobody"),
    (lambda db: db.snapshot(column_families=[5]), TypeError, "column family 5 is int"),
    (lambda db: db.write(5), TypeError, "write_batch is int; give a saferocks.WriteBatch"),
    (lambda db: within(saferocks.WriteBatch(raw_mode=False), db.write), saferocks.ModeMismatchError, "raw_mode=False"),
    (lambda db: within(db.write_batch(), lambda b: b.put(b"k0", b"w", "users")), TypeError, "column_family is str"),
    (lambda db: within(db.write_batch(), lambda b: b.put(b"k0", b"w", db)), TypeError, "column_family is Rdict"),
    (
        lambda db: within(db.write_batch(), lambda b: b.set_default_column_family("users")),
        TypeError,
        "column_family is str; get one with db.get_column_family_handle(name)",
    ),
    (lambda db: saferocks.WriteBatch(raw_mode=1), TypeError, "raw_mode 1 is int; give True or False"),
    (lambda db: db.bulk_writer(flush_bytes=0), ValueError, "flush_bytes is 0; give a positive number of bytes"),
    (lambda db: db.bulk_writer(flush_bytes=-1), ValueError, "flush_bytes is -1"),
    (lambda db: db.bulk_writer(flush_bytes=1.5), TypeError, "flush_bytes is 1.5"),
    (lambda db: db.bulk_writer(flush_bytes=True), TypeError, "flush_bytes is True"),
    (lambda db: saferocks.Checkpoint("db"), TypeError, "db is str; give an open saferocks database"),
    (lambda db: within(db.checkpoint(), lambda c: c.create(5)), TypeError, "path 5 is int"),
    (lambda db: within(db.checkpoint(), lambda c: c.create("")), ValueError, "path '' is empty"),
    (lambda db: within(db.checkpoint(), lambda c: c.create("/")), saferocks.InvalidArgumentError, "give a new path"),
    (lambda db: saferocks.SstFileWriter(5), TypeError, "options"),
    (lambda db: within(saferocks.SstFileWriter(RAW), lambda w: w.open(5)), TypeError, "path 5 is int"),
    (
        lambda db: within(saferocks.SstFileWriter(RAW), lambda w: w.open("no/where")),
        saferocks.IOFailedError,
        "no/where",
    ),
    (lambda db: within(saferocks.SstFileWriter(RAW), lambda w: w.finish()), saferocks.InvalidArgumentError, "not open"),
]


def test_other_bad_arguments_are_named(filled: saferocks.Rdict) -> None:
    """Options, names, paths and sizes of a wrong type or value raise a typed error that names them; nothing changes."""
    wrong = []
    for number, (call, error, text) in enumerate(OTHER_CALLS):
        try:
            wrong.append((number, text, call(filled)))
        except Exception as raised:
            if not isinstance(raised, error) or text not in str(raised):
                wrong.append((number, text, repr(raised)))
    assert wrong == []
    assert [handle.kind for handle in filled.handles() if handle.kind != "column_family"] == []


def test_a_checkpoint_below_nothing_makes_nothing(db: saferocks.Rdict, tmp_path: Path) -> None:
    """A checkpoint into a missing directory, or onto something, raises a typed error, and makes and changes nothing."""
    (tmp_path / "there").mkdir()
    with db.checkpoint() as checkpoint:
        with pytest.raises(saferocks.IOFailedError, match=r"No such directory: .*missing.*make it first"):
            checkpoint.create(str(tmp_path / "missing" / "copy"))
        with pytest.raises(saferocks.InvalidArgumentError, match=r"Directory exists: .*there.*give a new path"):
            checkpoint.create(str(tmp_path / "there"))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["db", "there"]
    assert list((tmp_path / "there").iterdir()) == []


def test_rows_of_an_sst_file_must_ascend(tmp_path: Path) -> None:
    """A key out of order is refused with a typed error, and the rows before it make a good file."""
    with saferocks.SstFileWriter(RAW) as writer:
        writer.open(str(tmp_path / "rows.sst"))
        writer[b"b"] = b"1"
        with pytest.raises(saferocks.InvalidArgumentError, match="order"):
            writer[b"a"] = b"2"
        with pytest.raises(TypeError, match="raw mode only support bytes"):
            writer[5] = b"2"
    with saferocks.open(str(tmp_path / "db")) as db:
        db.ingest_external_file([str(tmp_path / "rows.sst")])
        assert within(db.items(), list) == [(b"b", b"1")]
