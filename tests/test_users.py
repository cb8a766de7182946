"""What a user may expect where neither rocksdict nor RocksDB says."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import saferocks
from tests.systems import needs_links

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from subprocess import CompletedProcess

    Run = Callable[..., CompletedProcess[str]]


@pytest.fixture
def users(db: saferocks.Rdict) -> saferocks.Rdict:
    """A column family of the database."""
    return db.create_column_family("users")


def test_a_batch_of_a_column_family_writes_there(db: saferocks.Rdict, users: saferocks.Rdict) -> None:
    """A batch opened from a column family writes to it, by every method, and elsewhere only if told."""
    other = db.create_column_family("other")
    with users.write_batch() as batch:
        batch[b"a"] = b"1"
        batch.put(b"b", b"2")
        batch.put_entity(b"c", [b"n"], [b"3"])
        batch.put(b"d", b"4", db.get_column_family_handle("other"))
        batch.delete_range(b"x", b"z")
    with users.keys() as keys, db.keys() as defaults, other.keys() as others:
        assert (list(keys), list(defaults), list(others)) == ([b"a", b"b", b"c"], [], [b"d"])


def test_a_bulk_writer_of_a_column_family_writes_there(db: saferocks.Rdict, users: saferocks.Rdict) -> None:
    """A bulk writer opened from a column family writes to it in each of its batches."""
    with users.bulk_writer(flush_bytes=100) as bulk:
        for number in range(100):
            bulk[b"%03d" % number] = b"v" * 20
    with users.keys() as keys, db.keys() as defaults:
        assert (len(list(keys)), list(defaults)) == (100, [])


def test_a_batch_of_a_dropped_column_family_is_refused(db: saferocks.Rdict, users: saferocks.Rdict) -> None:
    """A batch whose column family is dropped before its commit is refused, and the database stays writable."""
    with pytest.raises(saferocks.ColumnFamilyDroppedError), users.write_batch() as batch:
        batch[b"a"] = b"1"
        db.drop_column_family("users")
    db[b"k"] = b"v"
    assert db[b"k"] == b"v"


@pytest.mark.parametrize(
    ("receiver", "method", "remedy"),
    [
        ("db", "items", "with db.items() as items:"),
        ("family", "keys", "with family.keys() as keys:"),
        ("family", "iter", "with family.iter() as cursor:"),
        ("snap", "values", "with snap.values() as values:"),
        ("snap", "iter", "with snap.iter() as cursor:"),
    ],
)
def test_a_remedy_names_what_the_scan_was_opened_from(
    db: saferocks.Rdict, users: saferocks.Rdict, receiver: str, method: str, remedy: str
) -> None:
    """The line to write instead reads the same data: of the snapshot, of the family, of the database."""
    with db.snapshot() as snap:
        handle = getattr({"db": db, "family": users, "snap": snap}[receiver], method)()
        with handle:
            pass
        with pytest.raises(saferocks.HandleClosedError) as caught, handle:
            pass
    assert str(caught.value).endswith(f"use it inside '{remedy}'")


def test_a_refused_use_is_told_once(path: str) -> None:
    """A use that was refused under `raise` is not reported as a leak besides, though its traceback holds the handle."""
    with pytest.raises(saferocks.NotEnteredError) as caught, saferocks.open(path, policy="raise") as db:
        list(db.items())  # type: ignore[call-overload]
    assert getattr(caught.value, "__notes__", []) == []
    saferocks.check()


def test_a_refused_handle_can_still_be_entered(path: str) -> None:
    """A handle whose use was refused works once it is entered."""
    with saferocks.open(path, policy="raise") as db:
        db[b"k"] = b"v"
        scan = db.keys()
        with pytest.raises(saferocks.NotEnteredError):
            next(scan)  # type: ignore[call-overload]
        with scan as keys:
            assert list(keys) == [b"k"]


def test_a_snapshot_reads_wide_columns(db: saferocks.Rdict) -> None:
    """A snapshot's get_entity shows the wide columns of its moment, beside scans that go on."""
    db.put_entity(b"k", [b"n"], [b"old"])
    db[b"l"] = b"plain"
    with db.snapshot() as snap, snap.keys() as keys:
        assert next(keys) == b"k"
        db.put_entity(b"k", [b"n"], [b"new"])
        assert snap.get_entity(b"k") == [(b"n", b"old")]
        assert snap.get_entity([b"l", b"none"], "missing") == [[(b"", b"plain")], "missing"]
        assert list(keys) == [b"l"]


def test_several_keys_are_read_at_once(db: saferocks.Rdict) -> None:
    """`get_many` takes any iterable of keys, and answers in its order: database, column family and snapshot alike."""
    db.create_column_family("f")[b"k"] = b"other"
    db[b"k"], db[b"l"] = b"1", b"2"
    with db.snapshot(column_families=["f"]) as snap, db.get_column_family("f") as family:
        db[b"k"] = b"new"
        for reader, found in ((db, b"new"), (family, b"other"), (snap, b"1"), (snap.get_column_family("f"), b"other")):
            assert reader.get_many(iter([b"x", b"k", b"x", b"k"]), b"none") == [b"none", found, b"none", found]
            assert reader.get_many((b"k", b"x"), read_opt=saferocks.ReadOptions()) == [found, None]
            assert reader.get_many({}) == []


@pytest.mark.parametrize("keys", [b"k", bytearray(b"k"), "k", None, 5])
def test_one_key_is_no_list_of_keys(db: saferocks.Rdict, keys: Any) -> None:
    """`get_many` refuses a single key rather than reading its bytes, and an argument that is no iterable."""
    db[b"k"] = b"1"
    with db.snapshot() as snap:
        for reader in (db, snap):
            with pytest.raises(TypeError, match="give a list of keys"):
                reader.get_many(keys)


def test_no_keys_are_not_read_from_a_closed_database(path: str) -> None:
    """`get_many` of no keys is a use like any other: after the close it raises, with read options too."""
    with saferocks.open(path) as db:
        pass
    for options in (None, saferocks.ReadOptions()):
        with pytest.raises(saferocks.DatabaseClosedError):
            db.get_many([], None, options)


def test_an_iterable_of_keys_that_fails_is_not_masked(db: saferocks.Rdict) -> None:
    """What the caller's own iterable raises comes out of `get_many` as it is."""

    def keys() -> Iterator[bytes]:
        yield b"k"
        raise TypeError("of the caller's")

    with pytest.raises(TypeError, match="of the caller's"):
        db.get_many(keys())


@pytest.mark.about_leaks
def test_events_come_in_order(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """What leaked from a database is logged before its close is."""
    caplog.set_level(logging.DEBUG, logger="saferocks")
    with pytest.warns(saferocks.LeakedHandleWarning), saferocks.open(path) as db:
        db.items().__enter__()
    names = [record.getMessage().split()[0] for record in caplog.records]
    assert names == ["saferocks.database_opened", "saferocks.handle_leaked", "saferocks.database_closed"]


def test_what_is_open_at_exit_is_told_once(run_python: Run) -> None:
    """A handle in a generator that is suspended at exit stands in the summary, and nowhere else."""
    run = run_python(
        """
        import saferocks

        def rows():
            with saferocks.open("db") as db:
                db[b"a"] = b"1"
                with db.items() as items:
                    yield from items

        suspended = rows()
        next(suspended)
        """
    )
    assert run.returncode == 0
    assert run.stderr.count("iterator opened at") == 1


def test_durations_read_as_people_write_them() -> None:
    """A leak says how long it was held in milliseconds or seconds."""
    leaks = [
        saferocks.Leak("iterator", "a.py:1", 1, age, "collected while open") for age in (0.00001, 0.25, 3.21, 260.4)
    ]
    assert [str(leak).rpartition("after ")[2] for leak in leaks] == ["1 ms", "250 ms", "3.2 s", "260 s"]


def test_configure_names_what_it_knows() -> None:
    """An unknown setting is refused with the names that there are."""
    with pytest.raises(TypeError, match="'colour'; there are 'policy', 'trace', 'warn_after' and 'expire_after'"):
        saferocks.configure(colour="red")


@needs_links
def test_a_database_is_not_opened_twice_by_a_link(db: saferocks.Rdict, path: str, tmp_path: Path) -> None:
    """A link to a database that is open in this process is refused, by the line that opened it: both would write."""
    (tmp_path / "link").symlink_to(Path(path).parent)
    linked = str(tmp_path / "link" / Path(path).name)
    with pytest.raises(saferocks.LockedError, match=r"is open in this process, opened at \S+:\d+: close it there"):
        saferocks.open(linked)
    for destructive in (saferocks.Rdict.destroy, saferocks.Rdict.repair):
        with pytest.raises(saferocks.LockedError, match=r"is open in this process, opened at \S+:\d+: close it there"):
            destructive(linked)
    with saferocks.open(linked, access_type=saferocks.AccessType.read_only()) as reader:
        assert reader.get(b"no such key") is None
    db[b"key"] = b"value"
    db.close()
    with saferocks.open(linked) as again:
        assert again[b"key"] == b"value"


@needs_links
def test_a_database_that_is_moved_is_not_opened_twice(db: saferocks.Rdict, path: str, tmp_path: Path) -> None:
    """A database that is renamed while it is open, or of which a link leads elsewhere by now, is open all the same."""
    Path(path).rename(tmp_path / "moved")
    with pytest.raises(saferocks.LockedError, match="is open in this process"):
        saferocks.open(tmp_path / "moved")
    Path(path).symlink_to(tmp_path / "moved")
    with saferocks.open(tmp_path / "one") as one:
        one[b"k"] = b"v"
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "one")
    with saferocks.open(link):
        link.unlink()
        link.symlink_to(tmp_path / "moved")
        with pytest.raises(saferocks.LockedError, match="is open in this process"):
            saferocks.open(tmp_path / "one")


@needs_links
def test_databases_on_a_file_system_without_numbers_are_told_apart(
    db: saferocks.Rdict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all files have the same number, 0, another database is not taken for one that is open; a link is."""
    stat = os.stat

    def unnumbered(path: Any, *arguments: Any, **more: Any) -> os.stat_result:
        mode, _, *rest = stat(path, *arguments, **more)
        return os.stat_result((mode, 0, *rest))

    monkeypatch.setattr(os, "stat", unnumbered)
    with saferocks.open(tmp_path / "other") as other:
        other[b"k"] = b"v"
    with saferocks.open(tmp_path / "other") as other:
        assert (other.get(b"k"), db.get(b"k")) == (b"v", None)
        (tmp_path / "link").symlink_to(tmp_path / "other")
        with pytest.raises(saferocks.LockedError, match="is open in this process"):
            saferocks.open(tmp_path / "link")


def test_a_program_may_watch_what_is_opened(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a program has put a function of its own in place of `open`, a missing file is what it is without."""
    opener = open

    def watched(*arguments: Any, **more: Any) -> Any:
        return opener(*arguments, **more)

    monkeypatch.setattr("builtins.open", watched)
    with saferocks.open(path) as db:
        db[b"k"] = b"v"
    with saferocks.open(path) as db:
        assert db[b"k"] == b"v"
    for manifest in Path(path).glob("MANIFEST-*"):
        manifest.unlink()
    with pytest.raises(saferocks.CorruptionError, match="does not name a readable MANIFEST"):
        saferocks.open(path)


def test_waiting_for_a_lock_leaves_the_holders_directory_alone(db: saferocks.Rdict, path: str) -> None:
    """An open that waits for a database and gives up leaves no file behind, and the holder's LOG in its place."""
    before = {file.name: file.stat().st_ino for file in Path(path).iterdir()}
    with pytest.raises(saferocks.LockedError, match="wait for it with lock_timeout="):
        saferocks.open(path)
    with pytest.raises(saferocks.LockedError, match=r"after waiting 0\.1 s"):
        saferocks.open(path, lock_timeout=0.1)
    assert {file.name: file.stat().st_ino for file in Path(path).iterdir()} == before


@pytest.mark.parametrize("duration", [0, -1, 2**31, 2**32 + 1, 2**64])
def test_a_time_to_live_that_rocksdb_would_cut_is_refused(duration: int) -> None:
    """A duration that does not fit into what RocksDB keeps is refused: it would expire rows too early."""
    with pytest.raises(ValueError, match="give a positive number of seconds, at most 2147483647"):
        saferocks.AccessType.with_ttl(duration)


def test_rows_before_a_row_that_cannot_be_decoded_come_out(path: str) -> None:
    """A scan of a snapshot gives every row before one whose decoding fails, as a scan of the database does."""
    with saferocks.Rdict(path) as pickling:
        for number in range(300):
            pickling[number] = {"a": 1} if number == 100 else number
    seen: dict[str, list[int]] = {"db": [], "snap": []}
    with saferocks.open(path, raw_mode=False) as db, db.snapshot() as snap:
        for name, source in (("db", db), ("snap", snap)):
            with source.keys() as keys, source.values() as values, pytest.raises(saferocks.NotSupportedError):
                for value in values:
                    seen[name].append(value)
            assert len(list(saferocks.open_handles())) == 2
            del keys
    assert seen == {"db": list(range(100)), "snap": list(range(100))}


def test_databases_of_the_same_options_are_not_audited_against_each_other(tmp_path: Path) -> None:
    """An audit says what it cannot tell when RocksDB counts for two databases at once."""
    options = saferocks.Options(raw_mode=True)
    with saferocks.open(tmp_path / "one", options=options, statistics=True) as one:
        with saferocks.open(tmp_path / "two", options=options, statistics=True) as two, two.items():
            assert one.audit().ok
            assert one.audit().unchecked == (
                "iterators: another open database has the same Options, and RocksDB counts for both",
            )
        assert one.audit().unchecked == ()


def test_leaks_of_one_line_from_several_databases_add_up(run_python: Run) -> None:
    """check() tells every handle that went with a database that was dropped, also from the same line."""
    run = run_python(
        """
        import gc, sys
        import saferocks

        sys.unraisablehook = lambda unraisable: None
        saferocks.configure(policy="raise")

        def drop(name):
            cycle = [database := saferocks.Rdict(name), database.items().__enter__()]
            cycle.append(cycle)

        for name in ("a", "b", "c"):
            drop(name)
        gc.collect()
        try:
            saferocks.check()
        except saferocks.LeakedHandlesError as error:
            print(sum(leak.count for leak in error.leaks))
        """
    )
    assert run.stdout == "6\n"


def test_batches_that_were_lost_are_summed_up_at_exit(run_python: Run) -> None:
    """Batches without a database that were dropped with rows in them are all told, the latest at exit."""
    run = run_python(
        """
        import saferocks

        for number in range(5):
            batch = saferocks.WriteBatch(raw_mode=True).__enter__()
            batch[b"k"] = b"v"
            del batch
        """
    )
    assert "5 write_batch handles opened at" in run.stderr


def test_a_batch_at_work_says_what_it_holds(db: saferocks.Rdict) -> None:
    """handles() tells of a batch what is in it, and not that it was dropped."""
    with db.write_batch() as batch:
        batch[b"k"] = b"v"
        (info,) = db.handles()
    assert info.note == "1 operation (17 bytes), not yet written"


def test_a_relative_path_stays_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database opened by a relative path works on when the process changes its directory."""
    monkeypatch.chdir(tmp_path)
    with saferocks.open("db") as db:
        monkeypatch.chdir("/")
        db.create_column_family("users")[b"k"] = b"v"
        db.flush()
        assert db.path() == "db"
    with saferocks.open(tmp_path / "db") as db:
        assert db.get_column_family("users")[b"k"] == b"v"


@pytest.mark.parametrize("name", ["Snapshot", "RdictIter", "RdictItems", "ColumnFamily", "BulkWriter"])
def test_handles_are_not_made_by_hand(name: str) -> None:
    """A class whose objects come from a database refuses to be called, as rocksdict's do."""
    with pytest.raises(TypeError, match=f"{name} has no constructor; open one from a database"):
        getattr(saferocks, name)()
