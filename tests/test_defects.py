"""Defects of rocksdict in what it raises and promises (D11, D13): what saferocks does, and a canary for each."""

from __future__ import annotations

import random
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import rocksdict

import saferocks
from tests.systems import needs_limits

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    Run = Callable[..., subprocess.CompletedProcess[str]]

RAW = rocksdict.Options(raw_mode=True)
KEYS = [b"k%04d" % number for number in range(2000)]
DAMAGED_KEY = b"k1000"


@pytest.fixture
def damaged(path: str) -> str:
    """A closed database of two overlapping SST files, in both of which one value of 100 bytes has a flipped byte."""
    value = random.Random(7).randbytes(100)  # random, so that RocksDB does not compress it
    with saferocks.open(path) as db:
        for _ in range(2):
            for key in KEYS:
                db[key] = value if key == DAMAGED_KEY else b"v" + key
            db.flush()
    for file in Path(path).glob("*.sst"):
        content = bytearray(file.read_bytes())
        content[content.index(value) + 50] ^= 0xFF
        file.write_bytes(content)
    return path


@pytest.fixture
def unchecked() -> saferocks.ReadOptions:
    """Read options that verify no checksums."""
    options = saferocks.ReadOptions()
    options.set_verify_checksums(False)
    return options


@pytest.fixture
def plain_values(path: str) -> str:
    """A database whose values are too short to hold the time stamp that TTL reads from them."""
    with saferocks.open(path) as db:
        db[b"k"] = b"v"
    return path


def read_all(scope: saferocks.Scope[Any]) -> list[Any]:
    """Return all that a scan yields."""
    with scope as scan:
        return list(scan)


def with_cursor(scope: saferocks.Scope[saferocks.RdictIter]) -> Any:
    """Return the first value of a cursor."""
    with scope as cursor:
        cursor.seek_to_first()
        return cursor.value()


def with_snapshot(db: saferocks.Rdict, read: Callable[[saferocks.Snapshot], Any]) -> Any:
    """Read from a snapshot."""
    with db.snapshot() as snap:
        return read(snap)


# --------------------------------------------------------------------------- D11


@pytest.mark.parametrize(
    "read",
    [
        lambda db: db[b"k"],
        lambda db: db.get(b"k"),
        lambda db: read_all(db.items()),
        lambda db: read_all(db.values(True)),
        lambda db: read_all(db.items(prefix=b"k")),
        lambda db: with_cursor(db.iter()),
        lambda db: with_cursor(db.iter(lower_bound=b"a")),
        lambda db: with_snapshot(db, lambda snap: snap[b"k"]),
        lambda db: with_snapshot(db, lambda snap: read_all(snap.items())),
        lambda db: with_snapshot(db, lambda snap: with_cursor(snap.iter())),
    ],
)
def test_d11_no_panic_escapes(plain_values: str, read: Callable[[saferocks.Rdict], Any]) -> None:
    """Values without time stamps, read with TTL, raise CorruptionError instead of a panic; the path stays usable."""
    with saferocks.open(plain_values, access_type=saferocks.AccessType.with_ttl(100)) as db:
        with pytest.raises(saferocks.CorruptionError, match=r"^Corruption: "):
            read(db)
        db[b"l"] = b"w"
        assert db[b"l"] == b"w"
    with saferocks.open(plain_values) as db:
        assert db[b"k"] == b"v"


@pytest.mark.parametrize(
    ("provoke", "kind", "text", "code"),
    [
        (lambda db: saferocks.open(db.path()), saferocks.LockedError, "IO error: lock hold by current process", 5),
        (
            lambda db: db.set_options({"no_such_option": "1"}),
            saferocks.InvalidArgumentError,
            "Invalid argument: Could not find option",
            4,
        ),
        (lambda db: db.ingest_external_file(["no-such.sst"]), saferocks.IOFailedError, "IO error: No such file", 5),
        (
            lambda db: db.get_column_family("nobody"),
            saferocks.ColumnFamilyNotFoundError,
            "column name `nobody` does not exist, use `create_cf` to creat it",
            None,
        ),
        (
            lambda db: db.drop_column_family("default"),
            saferocks.InvalidArgumentError,
            "Invalid argument: Can't drop default column family",
            4,
        ),
        (
            lambda db: saferocks.open(db.path(), raw_mode=False),
            saferocks.ModeMismatchError,
            "Invalid argument: the database at",
            4,
        ),
    ],
)
def test_d11_errors_are_typed_and_keep_the_text(
    db: saferocks.Rdict,
    provoke: Callable[[saferocks.Rdict], Any],
    kind: type[saferocks.EngineError],
    text: str,
    code: int | None,
) -> None:
    """Each failure has a type and RocksDB's code, and its text begins as RocksDB's or rocksdict's does."""
    with pytest.raises(saferocks.EngineError) as caught:
        provoke(db)
    assert (type(caught.value), caught.value.code, str(caught.value)[: len(text)]) == (kind, code, text)


def test_d11_a_lock_of_another_process_is_the_same_error(
    db: saferocks.Rdict, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """A database that another process holds raises LockedError with RocksDB's text as well."""
    child = run_python(
        """
        import sys, saferocks
        try:
            saferocks.Rdict(sys.argv[1])
        except saferocks.LockedError as error:
            print(error.code, str(error).startswith("IO error: While lock file: "))
        """,
        db.path(),
    )
    assert (child.stdout, child.stderr) == ("5 True\n", "")


def test_d11_a_closed_database_raises_rocksdicts_error_too(db: saferocks.Rdict) -> None:
    """`except rocksdict.DbClosedError` goes on catching the use of a closed database."""
    db.close()
    with pytest.raises(rocksdict.DbClosedError, match="DB instance already closed") as caught:
        db.get(b"k")
    assert isinstance(caught.value, saferocks.DatabaseClosedError)


def test_d11_canary_values_without_time_stamps_panic(plain_values: str) -> None:
    """In rocksdict, a TTL scan over plain values raises a PanicException, which `except Exception` misses."""
    bare = rocksdict.Rdict(plain_values, RAW, access_type=rocksdict.AccessType.with_ttl(100))
    raised: BaseException | None = None
    try:
        list(bare.items())
    except BaseException as error:
        raised = error
    bare.close()
    assert (type(raised).__name__, isinstance(raised, Exception)) == ("PanicException", False), (
        "D11 is mended for TTL: saferocks._engine.translate need not know PanicException"
    )


def test_d11_canary_errors_are_plain_exceptions(bare: rocksdict.Rdict, path: str) -> None:
    """In rocksdict, a locked database raises an Exception of no particular type."""
    raised: Exception | None = None
    try:
        rocksdict.Rdict(path, RAW)
    except Exception as error:
        raised = error
    assert type(raised) is Exception, "D11 is mended: saferocks._engine can use the types of rocksdict's errors"


# --------------------------------------------------------------------------- D13


def test_d13_a_failed_compaction_raises(damaged: str) -> None:
    """A compaction that meets damaged blocks raises an error, and the rows stay readable where they are whole."""
    db = saferocks.Rdict(damaged)
    with pytest.raises(saferocks.CorruptionError, match=r"block checksum.*background error during compact_range"):
        db.compact_range(None, None)
    assert db[b"k0000"] == b"vk0000"
    with suppress(saferocks.CorruptionError):  # RocksDB tells the background error once more
        db.close()


@needs_limits
def test_d13_a_compaction_that_cannot_write_says_so(run_python: Run) -> None:
    """It raises what has stopped it, which is no damage."""
    run = run_python("""
        import os, resource, signal
        import saferocks

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with saferocks.open("db") as db:
            for file in range(3):
                for number in range(1000):
                    db[b"%06d" % (number * 7 % 1000)] = os.urandom(300)
                db.flush()
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (200 << 10, limits[1]))
            try:
                db.compact_range(None, None)
            except saferocks.IOFailedError as error:
                print(error)
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            try:
                db.close()
            except saferocks.IOFailedError:  # RocksDB tells the background error once more
                print("told again")
    """)
    assert (run.returncode, run.stderr) == (0, "")
    assert re.match(r"IO error: .*File too large.*1 background error during compact_range", run.stdout)


def test_d13_a_compaction_that_succeeds_raises_nothing(db: saferocks.Rdict) -> None:
    """A compaction of healthy files returns None."""
    for number in range(3):
        db[b"a"], db[b"z"] = b"%d" % number, b"-"
        db.flush()
    db.compact_range(None, None)
    assert len(db.live_files()) == 1


def test_d13_canary_errors_of_a_compaction_are_swallowed(damaged: str) -> None:
    """In rocksdict, a compaction that fails returns as if it had succeeded."""
    bare = rocksdict.Rdict(damaged, RAW)
    swallowed = False
    with suppress(Exception):
        bare.compact_range(None, None)
        swallowed = bare.property_int_value("rocksdb.background-errors") == 1
    with suppress(Exception):
        bare.close()
    assert swallowed, "D13 is mended: compact_range in saferocks need not count background errors"


def test_d13_dropping_the_default_family_is_refused_without_loss(db: saferocks.Rdict) -> None:
    """A refused drop of the default column family leaves the database usable."""
    db[b"k"] = b"v"
    with pytest.raises(saferocks.InvalidArgumentError, match="Can't drop default column family"):
        db.drop_column_family("default")
    db[b"l"] = b"w"
    assert (db[b"k"], db.get_column_family("default")[b"l"], db.column_families) == (b"v", b"w", ("default",))


def test_d13_canary_a_failed_drop_loses_the_handle(bare: rocksdict.Rdict) -> None:
    """In rocksdict, a refused drop of the default column family makes it unknown."""
    with suppress(Exception):
        bare.drop_column_family("default")
    with pytest.raises(Exception, match="`default` does not exist"):
        bare.get(b"k")
        pytest.fail("D13 is mended: saferocks need not refuse to drop the default column family by itself")


def test_d13_a_multi_get_honours_its_read_options(damaged: str, unchecked: saferocks.ReadOptions) -> None:
    """A multi-get with options that verify no checksums returns what a verifying one refuses."""
    with saferocks.open(damaged) as db:
        with pytest.raises(saferocks.CorruptionError):
            db.get([DAMAGED_KEY])
        assert [len(value) for value in db.get([DAMAGED_KEY], None, unchecked)] == [100]


def test_d13_a_multi_get_with_options_has_defaults(db: saferocks.Rdict, unchecked: saferocks.ReadOptions) -> None:
    """A multi-get with options returns the default for each missing key, in order."""
    db[b"a"], db[b"c"] = b"1", b"3"
    assert db.get([b"a", b"b", b"c"], b"-", unchecked) == [b"1", b"-", b"3"]


def test_d13_canary_a_multi_get_ignores_its_read_options(damaged: str) -> None:
    """In rocksdict, a multi-get verifies checksums even where its options say not to."""
    bare = rocksdict.Rdict(damaged, RAW)
    options = rocksdict.ReadOptions()
    options.set_verify_checksums(False)
    with pytest.raises(Exception, match="block checksum mismatch"):
        bare.get([DAMAGED_KEY], None, options)
        pytest.fail("D13 is mended: saferocks' multi-get with read options can be rocksdict's own")
    bare.close()


def test_d13_snapshots_read_as_mappings_do(db: saferocks.Rdict) -> None:
    """A snapshot has `get` and `in`, and raises KeyError for a missing key."""
    db[b"k"] = b"v"
    with db.snapshot() as snap:
        found = snap[b"k"], snap.get(b"k"), snap.get(b"x"), snap.get(b"x", b"-"), b"k" in snap, b"x" in snap
        assert found == (b"v", b"v", None, b"-", True, False)
        assert (snap[[b"k", b"x"]], snap.get([b"x", b"k"], b"-")) == ([b"v", None], [b"-", b"v"])
        with pytest.raises(KeyError, match="b'x' not found"):
            snap[b"x"]


def test_d13_canary_a_missing_key_of_a_snapshot_is_no_key_error(bare: rocksdict.Rdict) -> None:
    """In rocksdict, a snapshot raises a plain Exception for a missing key, and has no `get`."""
    snap = bare.snapshot()
    raised: Exception | None = None
    try:
        snap[b"x"]
    except Exception as error:
        raised = error
    assert (type(raised), hasattr(snap, "get")) == (Exception, False), (
        "D13 is mended: the point reads of saferocks' snapshots can be rocksdict's own"
    )


def test_d13_get_entity_returns_its_default(db: saferocks.Rdict) -> None:
    """`get_entity` returns the default for a missing key, alone and in a list."""
    db.put_entity(b"k", [b"a"], [b"1"])
    assert db.get_entity(b"k") == [(b"a", b"1")]
    assert (db.get_entity(b"x"), db.get_entity(b"x", "none")) == (None, "none")
    assert db.get_entity([b"x", b"k"], "none") == ["none", [(b"a", b"1")]]


def test_d13_canary_get_entity_raises_for_a_missing_key(bare: rocksdict.Rdict) -> None:
    """In rocksdict, `get_entity` raises for a missing key although it was given a default."""
    with pytest.raises(Exception, match="NotFound"):
        bare.get_entity(b"x", "none")
        pytest.fail("D13 is mended: saferocks' get_entity can be rocksdict's own")
