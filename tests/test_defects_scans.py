"""Defects of rocksdict in scans (D1, D2, D3, D20, D21): what saferocks does, and a canary for each.

A canary shows that bare rocksdict still has the defect; its failure says which workaround can go.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import rocksdict

import saferocks

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

KEYS = [b"k%04d" % number for number in range(1000)]
PREFIXED_KEYS = [b"%s%04d" % (prefix * 4, number) for prefix in (b"a", b"b", b"c", b"d") for number in range(1000)]
TYPED_KEYS = [b"bytes", "str", -5, 0, 7, 1.5, -1.5, False, True]


@pytest.fixture
def bare(path: str) -> Iterator[rocksdict.Rdict]:
    """A raw database of bare rocksdict."""
    database = rocksdict.Rdict(path, rocksdict.Options(raw_mode=True))
    yield database
    with suppress(Exception):
        database.close()


@pytest.fixture
def thousand(db: saferocks.Rdict) -> saferocks.Rdict:
    """A raw database with the keys k0000 to k0999, each its own value."""
    for key in KEYS:
        db[key] = key
    return db


@pytest.fixture
def typed(typed_db: saferocks.Rdict) -> saferocks.Rdict:
    """A typed database with keys of every type, in whose order TYPED_KEYS is."""
    for key in TYPED_KEYS:
        typed_db[key] = 1
    return typed_db


@pytest.fixture
def options_with_prefixes() -> rocksdict.Options:
    """Raw options with a prefix extractor of four bytes and a bloom filter."""
    options = rocksdict.Options(raw_mode=True)
    options.set_prefix_extractor(rocksdict.SliceTransform.create_fixed_prefix(4))
    table = rocksdict.BlockBasedOptions()
    table.set_bloom_filter(10, False)
    options.set_block_based_table_factory(table)
    return options


@pytest.fixture
def prefixed(path: str, options_with_prefixes: rocksdict.Options) -> Iterator[saferocks.Rdict]:
    """A database with a prefix extractor, and an SST file for each of four prefixes."""
    with saferocks.open(path, options=options_with_prefixes) as database:
        fill_by_prefix(database)
        yield database


def fill_by_prefix(database: Any) -> None:
    """Write PREFIXED_KEYS into four SST files."""
    for number, key in enumerate(PREFIXED_KEYS, 1):
        database[key] = b"v"
        if number % 1000 == 0:
            database.flush()


def listed(scope: saferocks.Scope[Any]) -> list[Any]:
    """Return all that a scan yields."""
    with scope as scan:
        return list(scan)


# --------------------------------------------------------------------------- D1


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("items", [(b"a", b"old"), (b"c", b"3")]),
        ("keys", [b"a", b"c"]),
        ("values", [b"old", b"3"]),
        ("columns", [[(b"", b"old")], [(b"", b"3")]]),
        ("entities", [(b"a", [(b"", b"old")]), (b"c", [(b"", b"3")])]),
    ],
)
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("flushed", [False, True])
def test_d01_scans_of_a_snapshot_see_the_snapshot(
    db: saferocks.Rdict, method: str, expected: list[Any], backwards: bool, flushed: bool
) -> None:
    """A scan of a snapshot shows no row written, changed or deleted after it."""
    db[b"a"], db[b"c"] = b"old", b"3"
    with db.snapshot() as snap:
        db[b"a"], db[b"b"] = b"new", b"1"
        del db[b"c"]
        if flushed:
            db.flush()
            db.compact_range(None, None)
        found = listed(getattr(snap, method)(backwards))
    assert found == (expected[::-1] if backwards else expected)


def test_d01_a_cursor_of_a_snapshot_sees_the_snapshot(db: saferocks.Rdict) -> None:
    """A cursor of a snapshot finds the old value, and nothing beyond the old rows."""
    db[b"a"] = b"old"
    with db.snapshot() as snap:
        db[b"a"], db[b"b"] = b"new", b"1"
        with snap.iter() as cursor:
            cursor.seek(b"a")
            row = cursor.key(), cursor.value()
            cursor.next()
            assert (row, cursor.valid()) == ((b"a", b"old"), False)


def test_d01_a_snapshot_of_a_column_family_is_isolated(db: saferocks.Rdict) -> None:
    """A scan of a snapshot's second column family shows the state of the snapshot as well."""
    users = db.create_column_family("users")
    users[b"a"] = b"old"
    with db.snapshot(column_families=["users"]) as snap:
        users[b"a"], users[b"b"] = b"new", b"1"
        assert listed(snap.get_column_family("users").items()) == [(b"a", b"old")]


def test_d01_canary_scans_of_a_snapshot_read_live_data(bare: rocksdict.Rdict) -> None:
    """In rocksdict, `Snapshot.items`, `keys` and `values` show what was written after the snapshot."""
    bare[b"a"] = b"old"
    snap = bare.snapshot()
    bare[b"a"], bare[b"b"] = b"new", b"1"
    found = list(snap.items()), list(snap.keys()), list(snap.values()), snap[b"a"]
    assert found == ([(b"a", b"new"), (b"b", b"1")], [b"a", b"b"], [b"new", b"1"], b"old"), (
        "D1 is mended: the pinned cursors of saferocks' snapshots (_engine.open_snapshot) can go"
    )


# --------------------------------------------------------------------------- D2, D3


@pytest.mark.parametrize("backwards", [False, True])
def test_d02_a_lower_bound_is_a_lower_bound(thousand: saferocks.Rdict, backwards: bool) -> None:
    """A lower bound in the read options leaves the rows from it on, in either direction."""
    options = saferocks.ReadOptions()
    options.set_iterate_lower_bound(b"k0900")
    found = listed(thousand.keys(backwards, read_opt=options))
    assert found == (KEYS[:899:-1] if backwards else KEYS[900:])


def test_d02_a_cursor_keeps_to_its_lower_bound(thousand: saferocks.Rdict) -> None:
    """A cursor with a lower bound starts at it, and is off the rows before it."""
    options = saferocks.ReadOptions()
    options.set_iterate_lower_bound(b"k0900")
    with thousand.iter(options) as cursor:
        cursor.seek_to_first()
        first = cursor.key()
        cursor.seek(b"k0000")
        sought = cursor.key()
        cursor.prev()
        assert (first, sought, cursor.valid()) == (b"k0900", b"k0900", False)


@pytest.mark.parametrize("backwards", [False, True])
def test_d02_a_lower_bound_follows_the_order_of_types(typed: saferocks.Rdict, backwards: bool) -> None:
    """A lower bound in a typed database counts bytes before str, then int, float and bool."""
    found = listed(typed.keys(backwards, lower_bound=0))
    assert found == (TYPED_KEYS[:2:-1] if backwards else TYPED_KEYS[3:])


def test_d02_canary_the_lower_bound_sets_the_upper_one(bare: rocksdict.Rdict) -> None:
    """In rocksdict, a lower bound returns the 900 rows before it."""
    for key in KEYS:
        bare[key] = b"v"
    options, bound = rocksdict.ReadOptions(), b"k0900"
    options.set_iterate_lower_bound(bound)
    assert list(bare.keys(read_opt=options)) == KEYS[:900], (
        "D2 is mended: native lower bounds can take the place of those of saferocks._cursor"
    )


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("kept", [False, True])
def test_d03_an_upper_bound_outlives_its_options(thousand: saferocks.Rdict, backwards: bool, kept: bool) -> None:
    """An upper bound holds whether or not anybody keeps the options and its bytes."""
    options = saferocks.ReadOptions()
    options.set_iterate_upper_bound(b"k%04d" % int("100"))
    scope = thousand.keys(backwards, read_opt=options)
    if not kept:
        del options
    found = listed(scope)
    assert found == (KEYS[99::-1] if backwards else KEYS[:100])


@pytest.mark.parametrize("backwards", [False, True])
def test_d03_an_upper_bound_holds_in_a_typed_database(typed: saferocks.Rdict, backwards: bool) -> None:
    """An upper bound holds in a typed database, where rocksdict ignores it."""
    options = saferocks.ReadOptions()
    options.set_iterate_upper_bound(7)
    found = listed(typed.keys(backwards, read_opt=options))
    assert found == ([0, -5, "str", b"bytes"] if backwards else [b"bytes", "str", -5, 0])


def test_d03_a_cursor_keeps_to_its_upper_bound(thousand: saferocks.Rdict) -> None:
    """A cursor with an upper bound ends before it, from wherever it came."""
    with thousand.iter(upper_bound=b"k0100") as cursor:
        cursor.seek_to_last()
        last = cursor.key()
        cursor.seek_for_prev(b"k0500")
        sought = cursor.key()
        cursor.next()
        assert (last, sought, cursor.valid()) == (b"k0099", b"k0099", False)


def test_d03_canary_the_upper_bound_is_ignored(path: str) -> None:
    """In a typed database of rocksdict, the upper bound points to freed memory and all rows come back."""
    bare = rocksdict.Rdict(path)
    for key in KEYS:
        bare[key] = b"v"
    counts = set()
    for _ in range(20):
        options = rocksdict.ReadOptions()
        options.set_iterate_upper_bound(b"k0100")
        counts.add(len(list(bare.keys(read_opt=options))))
    bare.close()
    assert counts != {100}, "D3 is mended: native upper bounds can take the place of those of saferocks._cursor"


# --------------------------------------------------------------------------- D20


@pytest.mark.parametrize("method", ["items", "keys", "values", "columns", "entities"])
@pytest.mark.parametrize("backwards", [False, True])
def test_d20_a_prefix_extractor_loses_no_rows(prefixed: saferocks.Rdict, method: str, backwards: bool) -> None:
    """A scan from a key whose prefix no row has returns all rows that follow."""
    start = b"ccdd" if backwards else b"aabb"
    assert len(listed(getattr(prefixed, method)(backwards, start))) == 3000


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"lower_bound": b"aabb"}, PREFIXED_KEYS[1000:]),
        ({"upper_bound": b"ccdd", "backwards": True}, PREFIXED_KEYS[2999::-1]),
        ({"prefix": b"bb"}, PREFIXED_KEYS[1000:2000]),
        ({"lower_bound": b"aaaa0500", "upper_bound": b"cccc0500"}, PREFIXED_KEYS[500:2500]),
        ({"from_key": b"aaaa0999"}, PREFIXED_KEYS[999:]),
    ],
)
def test_d20_bounds_and_prefixes_cross_the_extractors_prefixes(
    prefixed: saferocks.Rdict, arguments: dict[str, Any], expected: list[bytes]
) -> None:
    """Bounds, prefixes and starting keys return the same rows as without a prefix extractor."""
    assert listed(prefixed.keys(**arguments)) == expected


def test_d20_cursors_and_snapshots_lose_no_rows(prefixed: saferocks.Rdict) -> None:
    """A cursor finds the next row beyond a prefix, and a scan of a snapshot finds all."""
    with prefixed.iter() as cursor:
        cursor.seek(b"aabb")
        following = cursor.key()
        cursor.seek_for_prev(b"ccdd")
        assert (following, cursor.key()) == (b"bbbb0000", b"cccc0999")
    with prefixed.snapshot() as snap:
        assert listed(snap.keys(from_key=b"aabb")) == PREFIXED_KEYS[1000:]


def test_d20_options_of_the_callers_own_lose_no_rows(prefixed: saferocks.Rdict) -> None:
    """Read options that do not mention the order of seeks keep the total order."""
    options = saferocks.ReadOptions()
    options.set_verify_checksums(True)
    assert listed(prefixed.keys(from_key=b"aabb", read_opt=options)) == PREFIXED_KEYS[1000:]


def test_d20_after_reopening_without_options_no_rows_are_lost(path: str, prefixed: saferocks.Rdict) -> None:
    """The prefix extractor that comes back from the disk loses no rows either."""
    prefixed.close()
    with saferocks.open(path) as db:
        assert listed(db.keys(from_key=b"aabb")) == PREFIXED_KEYS[1000:]


def test_d20_canary_a_prefix_extractor_loses_rows(path: str, options_with_prefixes: rocksdict.Options) -> None:
    """In rocksdict, a seek to a prefix that no row has returns nothing, forwards and backwards."""
    bare = rocksdict.Rdict(path, options_with_prefixes)
    fill_by_prefix(bare)
    forward = len(list(bare.items(from_key=b"aabb")))
    backward = len(list(bare.items(backwards=True, from_key=b"ccdd")))
    bare.close()
    assert (forward, backward) == (0, 0), "D20 is mended: saferocks._options need not ask for total_order_seek any more"


# --------------------------------------------------------------------------- D21


@pytest.mark.parametrize("source", ["db.iter()", "db.iter(lower_bound=b'a')", "users.iter()", "snap.iter()"])
def test_d21_a_step_off_the_rows_is_refused(
    run_python: Callable[..., subprocess.CompletedProcess[str]], source: str
) -> None:
    """`next` and `prev` on a cursor that is on no row raise InvalidArgumentError, and the cursor stays usable."""
    child = run_python(
        f"""
        import saferocks

        PLACES = {{
            "unpositioned": lambda cursor: None,
            "past the end": lambda cursor: (cursor.seek_to_last(), cursor.next()),
            "before the start": lambda cursor: (cursor.seek_to_first(), cursor.prev()),
            "nowhere": lambda cursor: cursor.seek(b"z"),
        }}

        with saferocks.open("child") as db:
            users = db.create_column_family("users")
            db[b"a"] = users[b"a"] = b"1"
            for place, go in PLACES.items():
                for step in ("next", "prev"):
                    with db.snapshot() as snap, {source} as cursor:
                        go(cursor)
                        try:
                            getattr(cursor, step)()
                        except saferocks.InvalidArgumentError as error:
                            assert f"{{step}}() on an iterator that is not on a row" in str(error), error
                            assert "seek first" in str(error), error
                            cursor.seek_to_first()
                            print(place, step, cursor.value().decode(), flush=True)
        """,
        flags=("-W", "error"),
    )
    assert (child.returncode, child.stderr) == (0, "")
    assert child.stdout.splitlines() == [
        "unpositioned next 1",
        "unpositioned prev 1",
        "past the end next 1",
        "past the end prev 1",
        "before the start next 1",
        "before the start prev 1",
        "nowhere next 1",
        "nowhere prev 1",
    ]


@pytest.mark.parametrize("position", ["", "cursor.seek_to_last(); cursor.next()"])
def test_d21_canary_a_step_off_the_rows_crashes(
    run_python: Callable[..., subprocess.CompletedProcess[str]], position: str
) -> None:
    """In rocksdict, `next` on a cursor that is on no row ends the process with SIGSEGV."""
    child = run_python(
        f"""
        import sys, rocksdict
        db = rocksdict.Rdict("child", rocksdict.Options(raw_mode=True))
        db[b"a"] = b"1"
        cursor = db.iter()
        {position}
        cursor.next()
        print("survived")
        """
    )
    assert (child.returncode, child.stdout) == (-11, ""), (
        "D21 is mended: saferocks' RdictIter.next and prev need not check valid() first"
    )
