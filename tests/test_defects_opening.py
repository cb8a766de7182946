"""Defects of rocksdict in what an opening may do (D8, D9, D10): what saferocks does, and a canary for each."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import rocksdict

import saferocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

READERS = {
    "read_only": lambda path: saferocks.AccessType.read_only(),
    "secondary": lambda path: saferocks.AccessType.secondary(f"{path}-secondary"),
}


def fingerprint(path: str, *, info_log: bool = False) -> dict[str, str]:
    """Hash every file of a directory; RocksDB's info log only on demand."""
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(Path(path).rglob("*"))
        if file.is_file() and (info_log or not file.name.startswith("LOG"))
    }


@pytest.fixture
def primary(path: str) -> Iterator[saferocks.Rdict]:
    """A database open for writing, with a column family and a hundred flushed rows in each."""
    with saferocks.open(path) as db:
        users = db.create_column_family("users")
        for number in range(100):
            db[b"k%02d" % number] = users[b"k%02d" % number] = b"v"
        db.flush()
        users.flush()
        yield db


@pytest.fixture
def sst_file(tmp_path: Path) -> str:
    """An SST file of one row."""
    file = str(tmp_path / "row.sst")
    with saferocks.SstFileWriter(saferocks.Options(raw_mode=True)) as writer:
        writer.open(file)
        writer[b"z"] = b"1"
    return file


@pytest.fixture
def small_buffer() -> rocksdict.Options:
    """Raw options with a write buffer of one MiB."""
    options = rocksdict.Options(raw_mode=True)
    options.set_write_buffer_size(1 << 20)
    return options


# --------------------------------------------------------------------------- D8

#: Every way to write, on a database and the path of an SST file.
WRITES: dict[str, Callable[[saferocks.Rdict, str], Any]] = {
    "assignment": lambda db, file: db.__setitem__(b"z", b"1"),
    "deletion": lambda db, file: db.__delitem__(b"k00"),
    "put": lambda db, file: db.put(b"z", b"1"),
    "put with options": lambda db, file: db.put(b"z", b"1", saferocks.WriteOptions()),
    "put_entity": lambda db, file: db.put_entity(b"z", [b"a"], [b"1"]),
    "delete": lambda db, file: db.delete(b"k00"),
    "delete_range": lambda db, file: db.delete_range(b"k00", b"k50"),
    "write_batch": lambda db, file: db.write_batch(),
    "bulk_writer": lambda db, file: db.bulk_writer(),
    "ingest": lambda db, file: db.ingest_external_file([file]),
    "flush": lambda db, file: db.flush(),
    "flush_wal": lambda db, file: db.flush_wal(),
    "compact_range": lambda db, file: db.compact_range(None, None),
    "set_options": lambda db, file: db.set_options({"disable_auto_compactions": "true"}),
    "create_column_family": lambda db, file: db.create_column_family("new"),
    "drop_column_family": lambda db, file: db.drop_column_family("users"),
}


@pytest.mark.parametrize("access", READERS)
@pytest.mark.parametrize("live_primary", [True, False])
def test_d08_every_write_through_a_reader_is_refused(
    path: str, primary: saferocks.Rdict, sst_file: str, access: str, live_primary: bool
) -> None:
    """Each kind of write through a read-only or secondary handle raises ReadOnlyError, and no byte on disk changes."""
    if not live_primary:
        primary.close()
    with saferocks.open(path, access_type=READERS[access](path)) as reader:
        users, before = reader.get_column_family("users"), fingerprint(path)
        for target in (reader, users):
            for write in WRITES.values():
                with pytest.raises(saferocks.ReadOnlyError, match=rf"is a write.*open as {access}.*read_write\(\)"):
                    write(target, sst_file)
        with saferocks.WriteBatch(raw_mode=True) as batch:
            batch.put(b"z", b"1")
            with pytest.raises(saferocks.ReadOnlyError, match=access):
                reader.write(batch)
            batch.clear()  # the refusal has left it as it was
        assert fingerprint(path) == before
        assert reader.get([b"k00", b"z"]) == [b"v", None]


@pytest.mark.parametrize("access", READERS)
def test_d08_a_batch_that_names_a_family_is_refused_too(path: str, primary: saferocks.Rdict, access: str) -> None:
    """A batch with a column family handle, written through a reader, raises ReadOnlyError and changes nothing."""
    with saferocks.open(path, access_type=READERS[access](path)) as reader:
        before = fingerprint(path)
        with saferocks.WriteBatch(raw_mode=True) as batch:
            batch.put(b"z", b"1", reader.get_column_family_handle("users"))
            with pytest.raises(saferocks.ReadOnlyError, match=access):
                reader.write(batch)
            batch.clear()  # the refusal has left it as it was
        assert fingerprint(path) == before


@pytest.mark.parametrize("access", READERS)
def test_d08_the_primary_keeps_every_acknowledged_row(path: str, access: str) -> None:
    """With a reader that tries to make a column family in between, no row of the primary is lost."""
    with saferocks.open(path) as db:
        for number in range(1000):
            db[b"a%04d" % number] = b"v"
        db.flush()
        with saferocks.open(path, access_type=READERS[access](path)) as reader:
            with pytest.raises(saferocks.ReadOnlyError):
                reader.create_column_family("new")
            for number in range(5000):
                db[b"b%04d" % number] = b"v"
            db.flush()
    with saferocks.open(path) as db, db.keys() as keys:
        assert sum(1 for _ in keys) == 6000


def test_d08_canary_a_family_made_through_a_reader_loses_rows(path: str) -> None:
    """In rocksdict, a read-only handle that makes a column family loses the primary's acknowledged rows."""
    raw = rocksdict.Options(raw_mode=True)
    bare = rocksdict.Rdict(path, raw)
    for number in range(1000):
        bare[b"a%04d" % number] = b"v"
    bare.flush()
    reader = rocksdict.Rdict(path, raw, access_type=rocksdict.AccessType.read_only())
    with suppress(Exception):
        reader.create_column_family("new", raw)
    for number in range(5000):
        bare[b"b%04d" % number] = b"v"
    bare.flush()
    reader.close()
    bare.close()
    again = rocksdict.Rdict(path, raw)
    count = len(list(again.keys()))
    again.close()
    assert count == 1000, "D8 is mended: saferocks need not refuse create_column_family() through readers by itself"


# --------------------------------------------------------------------------- D9


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize(
    "wrongly",
    [
        lambda path, raw: saferocks.open(path, raw_mode=not raw),
        lambda path, raw: saferocks.open(path, options=saferocks.Options(raw_mode=not raw)),
        lambda path, raw: saferocks.open(path, column_families={"default": saferocks.Options(raw_mode=not raw)}),
        lambda path, raw: saferocks.open(path, raw_mode=not raw, access_type=saferocks.AccessType.read_only()),
        lambda path, raw: saferocks.open(path, raw_mode=not raw, access_type=READERS["secondary"](path)),
        lambda path, raw: saferocks.open(path, raw_mode=not raw, access_type=saferocks.AccessType.with_ttl(100)),
        lambda path, raw: saferocks.Rdict(path, saferocks.Options(raw_mode=not raw)),
    ],
)
def test_d09_the_wrong_mode_is_refused(tmp_path: Path, raw: bool, wrongly: Callable[[str, bool], Any]) -> None:
    """An opening in the wrong mode raises ModeMismatchError with both modes; no byte in the directory changes."""
    path = str(tmp_path / "db")
    with saferocks.open(path, raw_mode=raw) as db:
        db[b"k"] = b"v"
    before, beside = fingerprint(path, info_log=True), sorted(tmp_path.iterdir())
    modes = "holds raw bytes.*opened as typed" if raw else "holds typed keys and values.*opened as raw"
    with pytest.raises(saferocks.ModeMismatchError, match=f"{modes}; open it with raw_mode={raw}"):
        wrongly(path, raw)
    assert (fingerprint(path, info_log=True), sorted(tmp_path.iterdir())) == (before, beside)
    with saferocks.open(path, raw_mode=raw) as db:
        assert db[b"k"] == b"v"


def test_d09_without_a_mode_the_disk_decides(tmp_path: Path) -> None:
    """An opening that names no mode takes that of the database on disk."""
    for raw, key in ((True, b"k"), (False, 5)):
        path = str(tmp_path / f"db-{raw}")
        with saferocks.open(path, raw_mode=raw) as db:
            db[key] = b"v"
        with saferocks.open(path) as db:
            assert db[key] == b"v"
        database = saferocks.Rdict(path)
        assert database[key] == b"v"
        database.close()


def test_d09_canary_the_wrong_mode_succeeds_once(path: str) -> None:
    """In rocksdict, a typed database opens as raw once, and afterwards not as typed any more."""
    rocksdict.Rdict(path, rocksdict.Options()).close()
    with suppress(Exception):
        rocksdict.Rdict(path, rocksdict.Options(raw_mode=True)).close()
    with pytest.raises(Exception, match="does not match existing comparator rocksdict"):
        rocksdict.Rdict(path, rocksdict.Options()).close()
        pytest.fail("D9 is mended: saferocks._directory.check_mode can go")


# --------------------------------------------------------------------------- D10


def write_buffer_sizes(path: str) -> list[str]:
    """Return the write buffer size of each column family, as the newest OPTIONS file has it."""
    newest = max(Path(path).glob("OPTIONS-*"), key=lambda file: int(file.name.removeprefix("OPTIONS-")))
    lines = (line.strip() for line in newest.read_text().splitlines())
    return [line.partition("=")[2] for line in lines if line.startswith("write_buffer_size=")]


@pytest.mark.parametrize("access", [saferocks.AccessType.read_write(), saferocks.AccessType.with_ttl(1000)])
def test_d10_options_given_on_reopening_are_in_force(
    path: str, small_buffer: rocksdict.Options, access: saferocks.AccessType
) -> None:
    """Options of the default column family that are given on a reopening are those in the OPTIONS file."""
    with saferocks.open(path, access_type=access) as db:
        db[b"k"] = b"v"
    with saferocks.open(path, options=small_buffer, access_type=access) as db:
        assert db[b"k"] == b"v"
    assert write_buffer_sizes(path) == ["1048576"]


def test_d10_options_on_reopening_through_the_constructor_are_in_force(
    path: str, small_buffer: rocksdict.Options
) -> None:
    """The drop-in constructor brings given options into force as well."""
    for options in (rocksdict.Options(raw_mode=True), small_buffer):
        database = saferocks.Rdict(path, options)
        database.close()
    assert write_buffer_sizes(path) == ["1048576"]


def test_d10_other_families_keep_their_options(path: str, small_buffer: rocksdict.Options) -> None:
    """Options given on a reopening apply to the default column family alone, and stay in force afterwards."""
    with saferocks.open(path) as db:
        db.create_column_family("users")
    with saferocks.open(path, options=small_buffer) as db:
        assert db.column_families == ("default", "users")
    given = write_buffer_sizes(path)
    with saferocks.open(path) as db:
        db[b"k"] = b"v"
    assert (given, write_buffer_sizes(path)) == (["1048576", "67108864"], ["1048576", "67108864"])


def test_d10_options_of_a_named_family_are_in_force(path: str, small_buffer: rocksdict.Options) -> None:
    """Options given for a column family by name are in force, and the default one keeps its own."""
    raw = rocksdict.Options(raw_mode=True)
    with saferocks.open(path) as db:
        db.create_column_family("users")
    with saferocks.open(path, column_families={"default": raw, "users": small_buffer}) as db:
        db[b"k"] = b"v"
    assert write_buffer_sizes(path) == ["67108864", "1048576"]


def test_d10_canary_options_given_on_reopening_are_dropped(path: str, small_buffer: rocksdict.Options) -> None:
    """In rocksdict, the options of the default column family that are given on a reopening are dropped."""
    rocksdict.Rdict(path, rocksdict.Options(raw_mode=True)).close()
    rocksdict.Rdict(path, small_buffer).close()
    assert write_buffer_sizes(path) == ["67108864"], "D10 is mended: saferocks._engine.families_in_force can go"
