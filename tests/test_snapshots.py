"""Snapshots: one state for every read, however many scans interleave and whoever writes meanwhile."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

import saferocks
from saferocks import _views
from saferocks._life import HandleRecord, release
from saferocks._registry import Reason, records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def rows(db: saferocks.Rdict) -> saferocks.Rdict:
    """A database of the rows a=1, b=2, c=3, d=4 and e=5."""
    for number, key in enumerate("abcde", 1):
        db[key.encode()] = b"%d" % number
    return db


def overwrite(db: saferocks.Rdict) -> None:
    """Change, delete and add rows, and take them out of the memtable."""
    db[b"a"] = b"changed"
    del db[b"b"]
    db[b"bb"] = b"new"
    db.delete_range(b"d", b"e")
    db[b"zz"] = b"new"
    db.flush()
    db.compact_range(None, None)


OLD = [(b"a", b"1"), (b"b", b"2"), (b"c", b"3"), (b"d", b"4"), (b"e", b"5")]


def test_point_reads_are_isolated(rows: saferocks.Rdict) -> None:
    """Point reads of a snapshot show the state at its opening, whatever is written afterwards."""
    with rows.snapshot() as snap, rows.snapshot(point_reads_only=True) as light:
        overwrite(rows)
        for each in (snap, light):
            assert each[b"a"] == b"1"
            assert each.get(b"b") == b"2"
            assert b"d" in each
            assert b"bb" not in each
            assert each.get(b"bb", b"none") == b"none"
            assert each.get([b"a", b"bb", b"e"]) == [b"1", None, b"5"]
            assert each[[b"b", b"zz"]] == [b"2", None]
            with pytest.raises(KeyError, match="bb"):
                each[b"bb"]
    assert (rows[b"a"], rows.get(b"b"), rows[b"bb"]) == (b"changed", None, b"new")


SCANS: dict[str, tuple[Callable[[saferocks.Snapshot], Any], list[Any]]] = {
    "items": (lambda snap: snap.items(), OLD),
    "keys": (lambda snap: snap.keys(), [b"a", b"b", b"c", b"d", b"e"]),
    "values": (lambda snap: snap.values(), [b"1", b"2", b"3", b"4", b"5"]),
    "columns": (lambda snap: snap.columns(), [[(b"", b"%d" % number)] for number in range(1, 6)]),
    "entities": (lambda snap: snap.entities(), [(key, [(b"", value)]) for key, value in OLD]),
    "backwards": (lambda snap: snap.keys(backwards=True), [b"e", b"d", b"c", b"b", b"a"]),
    "from_key": (lambda snap: snap.keys(from_key=b"bz"), [b"c", b"d", b"e"]),
    "backwards_from": (lambda snap: snap.keys(True, b"bz"), [b"b", b"a"]),
    "lower": (lambda snap: snap.keys(lower_bound=b"d"), [b"d", b"e"]),
    "upper": (lambda snap: snap.keys(upper_bound=b"c"), [b"a", b"b"]),
    "both": (lambda snap: snap.values(lower_bound=b"b", upper_bound=b"d"), [b"2", b"3"]),
    "backwards_both": (lambda snap: snap.keys(True, lower_bound=b"b", upper_bound=b"d"), [b"c", b"b"]),
    "prefix": (lambda snap: snap.items(prefix=b"d"), [(b"d", b"4")]),
    "nothing": (lambda snap: snap.items(prefix=b"bb"), []),
}


@pytest.mark.parametrize("scan", SCANS)
def test_scans_are_isolated(rows: saferocks.Rdict, scan: str) -> None:
    """Every kind of scan of a snapshot shows the state at the snapshot's opening, and again the second time (D1)."""
    opener, expected = SCANS[scan]
    with rows.snapshot() as snap:
        overwrite(rows)
        for _ in range(2):
            with opener(snap) as found:
                assert list(found) == expected


def test_scans_interleave(rows: saferocks.Rdict) -> None:
    """Any number of scans and cursors share one snapshot, each at its own place, while rows change."""
    with rows.snapshot() as snap:
        with (
            snap.items() as forth,
            snap.keys(backwards=True) as back,
            snap.values(prefix=b"c") as one,
            snap.iter() as cursor,
            snap.iter(lower_bound=b"b", upper_bound=b"e") as bounded,
        ):
            cursor.seek(b"c")
            bounded.seek_to_last()
            seen = []
            for step in range(5):
                rows[b"a%d" % step] = b"new"
                seen.append((next(forth)[0], next(back), snap[b"a"]))
                assert (cursor.key(), cursor.value()) == (b"c", b"3")
                assert (bounded.key(), bounded.value()) == (b"d", b"4")
                if step == 2:
                    assert list(one) == [b"3"]
            assert seen == [
                (b"a", b"e", b"1"),
                (b"b", b"d", b"1"),
                (b"c", b"c", b"1"),
                (b"d", b"b", b"1"),
                (b"e", b"a", b"1"),
            ]
            assert (list(forth), list(back)) == ([], [])


def test_many_interleaved_scans_stay_exact(db: saferocks.Rdict) -> None:
    """Twenty scans of a thousand rows, read in turns over chunk boundaries, each yield every row once."""
    keys = [b"%04d" % number for number in range(1000)]
    for key in keys:
        db[key] = key
    with db.snapshot() as snap:
        scans = [snap.items(backwards=number % 2 == 1).__enter__() for number in range(20)]
        found: list[list[Any]] = [[] for _ in scans]
        for turn in range(1000):
            for number, scan in enumerate(scans):
                found[number].append(next(scan)[0])
            if turn % 100 == 0:
                db[keys[turn]] = b"changed"
        for number, scan in enumerate(scans):
            assert found[number] == (keys[::-1] if number % 2 else keys)
            assert next(scan, None) is None
            scan.__exit__(None, None, None)


def test_a_snapshot_covers_the_writes_before_it_and_none_after(db: saferocks.Rdict) -> None:
    """A snapshot between two batches sees all of the first and nothing of the second."""
    with db.write_batch() as batch:
        batch[b"x"], batch[b"y"] = b"1", b"1"
    with db.snapshot() as snap:
        with db.write_batch() as batch:
            batch[b"x"], batch[b"y"], batch[b"z"] = b"2", b"2", b"2"
        with snap.items() as items:
            assert list(items) == [(b"x", b"1"), (b"y", b"1")]


# --------------------------------------------------------------------------- cursors


def test_a_snapshot_cursor_moves_and_ends_as_others_do(rows: saferocks.Rdict) -> None:
    """A cursor of a snapshot seeks, steps and ends like one of the database, on the old state."""
    with rows.snapshot() as snap, snap.iter() as cursor:
        overwrite(rows)
        assert (cursor.valid(), cursor.key(), cursor.value()) == (False, None, None)
        cursor.seek_to_first()
        assert (cursor.key(), cursor.value()) == (b"a", b"1")
        cursor.next()
        assert (cursor.key(), cursor.value(), cursor.columns()) == (b"b", b"2", [(b"", b"2")])
        cursor.seek(b"bb")
        assert cursor.key() == b"c"
        cursor.seek_for_prev(b"bb")
        assert cursor.key() == b"b"
        cursor.prev()
        cursor.prev()
        assert (cursor.valid(), cursor.key()) == (False, None)
        with pytest.raises(saferocks.InvalidArgumentError, match=r"prev\(\) on an iterator that is not on a row"):
            cursor.prev()
        cursor.seek_to_last()
        assert cursor.key() == b"e"
        cursor.next()
        assert not cursor.valid()
        with pytest.raises(saferocks.InvalidArgumentError, match=r"next\(\) on an iterator that is not on a row"):
            cursor.next()
        cursor.status()


# --------------------------------------------------------------------------- several column families


@pytest.fixture
def accounts(db: saferocks.Rdict) -> saferocks.Rdict:
    """A database in which `default`, `left` and `right` hold 50 of 150 each under the key `sum`."""
    left, right = db.create_column_family("left"), db.create_column_family("right")
    for each in (db, left, right):
        each[b"sum"] = b"50"
    return db


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Let threads take turns often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


def move(db: saferocks.Rdict, amounts: tuple[int, int, int]) -> None:
    """Write other amounts that are 150 together, in one batch."""
    with db.write_batch() as batch:
        batch[b"sum"] = b"%d" % amounts[0]
        batch.put(b"sum", b"%d" % amounts[1], db.get_column_family_handle("left"))
        batch.put(b"sum", b"%d" % amounts[2], db.get_column_family_handle("right"))


@pytest.mark.usefixtures("eager_switching")
@pytest.mark.parametrize("light", [False, True], ids=["scans", "points"])
def test_several_families_are_seen_at_one_instant(accounts: saferocks.Rdict, light: bool) -> None:
    """In every snapshot the amounts of three column families add up, while a thread moves them in batches."""
    stop, moved = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        step = 0
        try:
            while not stop.is_set():
                step += 1
                move(accounts, (step % 50, step % 100, 150 - step % 50 - step % 100))
                moved.set()
        except BaseException as error:
            failures.append(error)
            moved.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    try:
        for _ in range(100):
            assert moved.wait(20)
            moved.clear()
            with accounts.snapshot(column_families=["left", "right"], point_reads_only=light) as snap:
                views = [snap, snap.get_column_family("left"), snap.get_column_family("right")]
                points = [int(view[b"sum"]) for view in views]
                assert sum(points) == 150
                if not light:
                    assert [scanned(view) for view in views] == points
                seen.add(tuple(points))
    finally:
        stop.set()
        writer.join(20)
    assert failures == []
    assert len(seen) > 20


class Meddling:
    """A native column family with which something else happens just before its snapshot is taken."""

    def __init__(self, native: Any, meddle: Callable[[], None]) -> None:
        self.native = native
        self.meddle = meddle

    def snapshot(self) -> Any:
        """Take a snapshot, too late."""
        self.meddle()
        return self.native.snapshot()

    def iter(self, options: Any) -> Any:
        """Open a cursor."""
        return self.native.iter(options)

    def property_int_value(self, name: str) -> int | None:
        """Return a number of RocksDB's."""
        return self.native.property_int_value(name)  # type: ignore[no-any-return]


@pytest.mark.parametrize("cursors", [False, True])
def test_a_write_between_two_views_starts_them_anew(accounts: saferocks.Rdict, cursors: bool) -> None:
    """A batch that comes between the views of two column families is in both of them, and not in one alone."""
    left = accounts.get_column_family("left")
    moves = iter([(10, 90, 50), (20, 80, 50)])

    def meddle() -> None:
        amounts = next(moves, None)
        if amounts is not None:
            move(accounts, amounts)

    families = (accounts._record.live, Meddling(left._record.live, meddle))
    options = [saferocks.ReadOptions().native()] * 2 if cursors else None
    views = _views.open_snapshot(families, accounts._record.owner.changes, options)
    assert [int(view[b"sum"]) for view, _ in views] == [20, 80]
    for _, cursor in views if cursors else ():
        cursor.seek_to_first()
    assert [int(cursor.value()) for _, cursor in views if cursors] == ([20, 80] if cursors else [])


def test_writes_that_never_let_a_snapshot_settle(accounts: saferocks.Rdict) -> None:
    """A snapshot that cannot be taken at one instant is refused as busy, not given away inconsistent."""
    left = accounts.get_column_family("left")
    meddling = Meddling(left._record.live, lambda: accounts.put(b"k", b"v"))
    with pytest.raises(saferocks.BusyError, match=r"^Resource busy: writers came in between on each of 1000 tries"):
        _views.open_snapshot((accounts._record.live, meddling), accounts._record.owner.changes, None)


def scanned(view: Any) -> int:
    """Read the amount of a view by a scan."""
    with view.values() as values:
        return int(next(values))


def test_views_of_families(accounts: saferocks.Rdict) -> None:
    """Views are taken by name, `default` and repetitions included, and end with their snapshot."""
    with accounts.snapshot(column_families=["left", "default", "left"]) as snap:
        accounts.get_column_family("left")[b"new"] = b"1"
        left, default = snap.get_column_family("left"), snap.get_column_family("default")
        with left.items() as of_left, default.keys() as of_default:
            assert (list(of_left), list(of_default)) == ([(b"sum", b"50")], [b"sum"])
        assert b"new" not in left
        with pytest.raises(saferocks.ColumnFamilyNotFoundError, match="does not cover column family 'right'"):
            snap.get_column_family("right")
    with pytest.raises(saferocks.HandleClosedError):
        left[b"sum"]
    with pytest.raises(saferocks.HandleClosedError):
        left.items()


def test_a_snapshot_of_a_family_starts_there(accounts: saferocks.Rdict) -> None:
    """A snapshot opened from a column family reads that one by itself, and can cover the others."""
    accounts.get_column_family("left")[b"own"] = b"1"
    with accounts.get_column_family("left").snapshot(column_families=["right"]) as snap:
        assert (snap[b"own"], snap.get_column_family("right")[b"sum"]) == (b"1", b"50")
        with snap.keys() as keys:
            assert list(keys) == [b"own", b"sum"]


@pytest.mark.parametrize(
    ("families", "error"), [(["none"], saferocks.ColumnFamilyNotFoundError), ("left", TypeError), ([1], TypeError)]
)
def test_families_that_cannot_be_covered(accounts: saferocks.Rdict, families: Any, error: type[Exception]) -> None:
    """A snapshot of an unknown family, or of a str in place of a list, is refused and leaves nothing open."""
    before = accounts.handles()
    with pytest.raises(error):
        accounts.snapshot(column_families=families)
    assert [info.id for info in accounts.handles()] == [info.id for info in before]


# --------------------------------------------------------------------------- what a snapshot costs


def pinned(db: saferocks.Rdict, **arguments: Any) -> int:
    """Return the bytes of memtables that a snapshot pins while rows are written and flushed."""
    with db.snapshot(**arguments):
        for number in range(1000):
            db[b"%04d" % number] = b"v" * 1000
        db.flush()
        return db.memory().pinned_memtables


def test_a_snapshot_for_point_reads_pins_no_memtables(rows: saferocks.Rdict) -> None:
    """With point_reads_only no flushed memtable stays in memory; without it, it stays until the release."""
    assert pinned(rows, point_reads_only=True) == 0
    assert pinned(rows) > 4096
    assert rows.memory().pinned_memtables == 0


@pytest.mark.parametrize("arguments", [{}, {"point_reads_only": True}])
def test_a_snapshot_of_several_column_families_flushes_none(rows: saferocks.Rdict, arguments: dict[str, Any]) -> None:
    """However often column families are covered by a snapshot, their memtables stay what they are."""
    family, before = rows.create_column_family("f"), rows.live_files()
    for number in range(3):
        family[b"k"] = rows[b"k"] = b"%d" % number
        with rows.snapshot(column_families=["f"], **arguments) as snap:
            assert snap[b"k"] == snap.get_column_family("f")[b"k"] == b"%d" % number
        with family.snapshot(column_families=["default"], **arguments) as snap:
            assert snap[b"k"] == snap.get_column_family("default")[b"k"] == b"%d" % number
    assert rows.live_files() == before


def test_snapshots_are_of_the_column_family_of_that_name(rows: saferocks.Rdict) -> None:
    """A column family that was dropped and made again is covered as it is now."""
    for value in (b"old", b"new"):
        family = rows.create_column_family("f")
        family[b"k"] = value
        with rows.snapshot(column_families=["f"]) as snap:
            assert snap.get_column_family("f")[b"k"] == value
        rows.drop_column_family("f")


def test_a_snapshot_does_not_wait_for_who_changes_column_families(rows: saferocks.Rdict) -> None:
    """While another thread holds the lock of column families, which a close does, a snapshot of some is opened."""
    rows.create_column_family("f")[b"k"] = b"v"
    with rows._record.owner.lock:
        found: list[bytes] = []

        def read() -> None:
            with rows.snapshot(column_families=["f"]) as snap:
                found.append(snap.get_column_family("f")[b"k"])

        thread = threading.Thread(target=read)
        thread.start()
        thread.join(60)
    assert found == [b"v"]


def test_a_snapshot_for_point_reads_refuses_scans(rows: saferocks.Rdict) -> None:
    """Scans and cursors of such a snapshot raise NotSupportedError that names the remedy, and leave nothing open."""
    with rows.snapshot(point_reads_only=True) as snap:
        for opener in (snap.items, snap.keys, snap.values, snap.columns, snap.entities, snap.iter):
            with pytest.raises(saferocks.NotSupportedError, match="open it without point_reads_only to scan it"):
                opener()
        assert [info.kind for info in rows.handles()] == ["snapshot"]


def test_a_wide_snapshot_for_point_reads_costs_no_iterator(accounts: saferocks.Rdict) -> None:
    """Over several column families, too, point_reads_only opens a native snapshot each and no iterator."""
    with accounts.snapshot(column_families=["left", "right"], point_reads_only=True):
        report = accounts.audit()
        assert (report.live_iterators, report.live_snapshots, report.ok) == (0, 3, True)
    with accounts.snapshot(column_families=["left", "right"]):
        report = accounts.audit()
        assert (report.live_iterators, report.live_snapshots, report.ok) == (3, 3, True)


@pytest.mark.parametrize(("light", "iterators"), [(True, 0), (False, 1)])
def test_a_snapshot_costs_one_iterator_at_most(rows: saferocks.Rdict, light: bool, iterators: int) -> None:
    """A snapshot holds one native snapshot and, for all its scans together, one native iterator."""
    with rows.snapshot(point_reads_only=light) as snap:
        if not light:
            with snap.items() as items, snap.keys() as keys, snap.iter() as cursor:
                next(items), next(keys), cursor.seek_to_first()
                assert rows.audit().live_iterators == 1
        report = rows.audit()
        assert (report.live_iterators, report.live_snapshots, report.ok) == (iterators, 1, True)
    report = rows.audit()
    assert (report.live_iterators, report.live_snapshots, report.ok) == (0, 0, True)


# --------------------------------------------------------------------------- release


def test_scans_end_with_their_snapshot(rows: saferocks.Rdict) -> None:
    """A scan or cursor that outlives its snapshot raises, in the middle and before its first row."""
    with rows.snapshot() as snap:
        begun, fresh, loop = snap.items().__enter__(), snap.keys().__enter__(), iter(snap.values().__enter__())
        cursor = snap.iter().__enter__()
        cursor.seek_to_first()
        assert (next(begun), next(loop)) == ((b"a", b"1"), b"1")
    for use in (lambda: next(begun), lambda: list(fresh), lambda: next(loop), cursor.key, cursor.next):
        with pytest.raises(saferocks.HandleClosedError, match="was released when its snapshot was released"):
            use()
    with pytest.raises(saferocks.HandleClosedError, match=r"snapshot opened at .* was released when its 'with' block"):
        snap.items()
    assert rows.handles() == ()
    assert rows.audit().live_iterators == 0


def test_a_scan_read_ahead_dies_with_its_snapshot(db: saferocks.Rdict) -> None:
    """Rows that were read ahead in a chunk do not come out after the release."""
    for number in range(1000):
        db[b"%04d" % number] = b"v"
    with db.snapshot() as snap, snap.keys() as keys:
        seen = 0
        with pytest.raises(saferocks.HandleClosedError):
            for _ in keys:
                seen += 1
                if seen == 300:
                    snap.__exit__(None, None, None)
    assert seen == 300


def test_a_complete_scan_stays_complete(rows: saferocks.Rdict) -> None:
    """A scan that was read to its end before its snapshot went yields nothing more, and no error."""
    with rows.snapshot() as snap, snap.keys() as keys:
        assert len(list(keys)) == 5
    assert list(keys) == []


@pytest.mark.parametrize("method", ["iter", "keys"])
def test_a_release_between_acquiring_and_joining(
    rows: saferocks.Rdict, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """A scan released, by another thread's close, while it is being opened says so and leaves nothing behind."""
    acquire = HandleRecord.acquire

    def acquire_and_lose(record: HandleRecord, native: Callable[[], Any], lease: None) -> None:
        acquire(record, native, lease)
        release(record, Reason.DATABASE_CLOSED)

    with rows.snapshot() as snap:
        monkeypatch.setattr(HandleRecord, "acquire", acquire_and_lose)
        with pytest.raises(saferocks.HandleClosedError, match="was released when its database closed"):
            getattr(snap, method)()
        assert snap._record.native[0][1].users == {}


def test_an_end_while_another_thread_releases_names_no_wrong_reason(rows: saferocks.Rdict) -> None:
    """A scan that ends when another thread has begun its release, and not yet said why, claims no reason."""
    with rows.snapshot() as snap, snap.keys() as keys:
        record = records.pop(keys._record.id)  # as `release` begins
        with pytest.raises(saferocks.HandleClosedError, match="was released by another thread at this moment; open"):
            list(keys)
        records[record.id] = record


# --------------------------------------------------------------------------- ways to open


@pytest.fixture
def closed(path: str) -> Iterator[str]:
    """The path of a closed database with the row k=v."""
    with saferocks.open(path) as db:
        db[b"k"] = b"v"
    return path


def test_a_read_only_database_has_snapshots(closed: str) -> None:
    """A database opened read-only gives snapshots for point reads and scans."""
    with saferocks.open(closed, access_type=saferocks.AccessType.read_only()) as db:
        with db.snapshot() as snap, snap.items() as items:
            assert (snap[b"k"], list(items)) == (b"v", [(b"k", b"v")])


@pytest.mark.parametrize("light", [False, True])
def test_a_secondary_refuses_snapshots(closed: str, tmp_path: Any, light: bool) -> None:
    """A secondary, whose snapshots would show newer data after a catch-up, refuses to open one (D15)."""
    access = saferocks.AccessType.secondary(str(tmp_path / "secondary"))
    with saferocks.open(closed, access_type=access) as db:
        with pytest.raises(saferocks.NotSupportedError, match=r"^Not implemented: a snapshot of a secondary"):
            db.snapshot(point_reads_only=light)
        assert db.handles() == ()


def test_a_typed_snapshot(typed_db: saferocks.Rdict) -> None:
    """A snapshot of a typed database reads, bounds and orders keys by their types."""
    typed_db["a"], typed_db[1], typed_db[2], typed_db[2.5], typed_db[True] = 1, "x", "y", b"z", False
    with typed_db.snapshot() as snap:
        typed_db[3] = "new"
        assert (snap[1], snap[True], snap[2.5]) == ("x", False, b"z")
        with snap.keys(lower_bound=1) as keys:
            assert list(keys) == [1, 2, 2.5, True]
        with snap.items(upper_bound=2) as items:
            assert list(items) == [("a", 1), (1, "x")]
        with pytest.raises(TypeError):
            snap[None]


def test_an_option_that_scans_of_a_snapshot_cannot_share(rows: saferocks.Rdict) -> None:
    """Options that change what is returned are refused, hints and bounds are taken."""
    options, hints = saferocks.ReadOptions(), saferocks.ReadOptions()
    options.set_max_skippable_internal_keys(1)
    hints.set_readahead_size(1 << 20)
    hints.set_iterate_lower_bound(b"d")
    with rows.snapshot() as snap:
        with pytest.raises(saferocks.NotSupportedError, match="set_max_skippable_internal_keys"):
            snap.items(read_opt=options)
        with snap.keys(read_opt=hints) as keys:
            assert list(keys) == [b"d", b"e"]


def test_a_list_among_the_keys_is_no_key(db: saferocks.Rdict) -> None:
    """A list among several keys is refused by a snapshot in the words of its database, and not looked up key by key."""
    db[b"a"] = b"1"
    with db.snapshot() as snap:
        for look_up in (db.get_many, snap.get_many, snap.get, db.get):
            with pytest.raises(TypeError, match="key \\[b'a'\\] is list, but this database holds raw bytes"):
                look_up([[b"a"]])
        with pytest.raises(TypeError, match="is list"):
            snap.get_entity([[b"a"]])
