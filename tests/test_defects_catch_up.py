"""D26, D27: a secondary that catches up goes on showing overwritten rows, or crashes."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import rocksdict
from hypothesis import HealthCheck, given, settings, strategies as st

import saferocks
from saferocks import _engine, _manifest, _owner, _secondary
from saferocks._files import CheckpointRecord
from saferocks._owner import FamilyRecord
from tests.systems import FORKING, needs_fork

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from types import FrameType

    Run = Callable[..., subprocess.CompletedProcess[str]]

RAW = rocksdict.Options(raw_mode=True)


def open_secondary(path: str, **terms: Any) -> saferocks.Scope[saferocks.Rdict]:
    """Open a saferocks secondary of a database."""
    return saferocks.open(path, access_type=saferocks.AccessType.secondary(f"{path}-secondary"), **terms)


def rows_of(db: saferocks.Rdict) -> dict[bytes, bytes]:
    """Return all rows of a column family, read by one scan and proved equal by the other ways to read."""
    with db.items() as items:
        rows = dict(items)
    with db.items(backwards=True) as items:
        assert dict(items) == rows
    keys = sorted(rows)
    assert db.get(keys) == [rows[key] for key in keys]
    return rows


@pytest.fixture
def secondary(db: saferocks.Rdict, path: str) -> Iterator[saferocks.Rdict]:
    """A secondary that has read three rows of each of two column families out of its primary's log."""
    users = db.create_column_family("users")
    for family in (db, users):
        for key in (b"kept", b"old", b"gone"):
            family[key] = b"1"
    with open_secondary(path) as following:
        assert rows_of(following) == rows_of(following.get_column_family("users")) == rows_of(db)
        yield following


def overwrite(db: saferocks.Rdict) -> None:
    """Change rows of both column families, flush both, and write nothing more."""
    for family in (db, db.get_column_family("users")):
        family[b"old"] = b"2"
        del family[b"gone"]
        family.flush()


# --------------------------------------------------------------------------- what it shows


def test_d26_a_catch_up_shows_what_was_overwritten_and_flushed(db: saferocks.Rdict, secondary: saferocks.Rdict) -> None:
    """After a catch-up, a secondary shows the rows that its primary has overwritten, flushed and left at that."""
    users = secondary.get_column_family("users")
    overwrite(db)
    secondary.try_catch_up_with_primary()
    assert rows_of(secondary) == rows_of(users) == {b"kept": b"1", b"old": b"2"}
    assert b"gone" not in users
    assert users.get(b"gone", b"none") == b"none"
    overwrite(db)
    users.try_catch_up_with_primary()  # through a column family as well
    assert rows_of(secondary) == {b"kept": b"1", b"old": b"2"}


def test_d26_canary_a_catch_up_shows_overwritten_rows(bare: rocksdict.Rdict, path: str) -> None:
    """In rocksdict, a secondary that has read a row out of the log shows it until the primary writes again."""
    bare[b"old"], bare[b"gone"] = b"1", b"1"
    access = rocksdict.AccessType.secondary(f"{path}-secondary")
    secondary = rocksdict.Rdict(path, RAW, access_type=access)
    assert secondary[b"old"] == b"1"
    bare[b"old"] = b"2"
    del bare[b"gone"]
    bare.flush()
    for _ in range(3):
        secondary.try_catch_up_with_primary()
    found = secondary.get([b"old", b"gone"])
    secondary.close()
    assert found == [b"1", b"1"], "D26 is mended: _secondary.catch_up may leave all to try_catch_up_with_primary"


@pytest.mark.parametrize("since", ["", "t[b'a'] = b'2'", "t.flush()"], ids=["idle", "logged", "flushed"])
def test_d27_a_column_family_that_was_made_again(run_python: Run, since: str) -> None:
    """A secondary of a database that has dropped a column family and made it again catches up, time and again."""
    done = run_python(
        f"""
        import saferocks
        for number in range(12):
            with saferocks.open("db%d" % number) as db:
                db.create_column_family("t")[b"a"] = b"0"
                db.drop_column_family("t")
                t = db.create_column_family("t")
                t[b"a"] = b"1"
                access = saferocks.AccessType.secondary("secondary%d" % number)
                with saferocks.open("db%d" % number, access_type=access) as secondary:
                    for _ in range(3):
                        secondary.try_catch_up_with_primary()
                        assert secondary.get_column_family("t")[b"a"] == b"1"
                    {since}
                    secondary.try_catch_up_with_primary()
                    assert secondary.get_column_family("t")[b"a"] == t[b"a"]
        """
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_d27_canary_a_catch_up_crashes(run_python: Run) -> None:
    """In RocksDB, the catch-up of a secondary that has found a column family made again ends the process."""
    done = run_python(
        """
        from rocksdict import AccessType, Options, Rdict

        def raw():
            return Options(raw_mode=True)

        for number in range(40):
            path = "db%d" % number
            db = Rdict(path, raw())
            db.create_column_family("t", raw())
            db.drop_column_family("t")
            db.create_column_family("t", raw())
            families = {"default": raw(), "t": raw()}
            secondary = Rdict(path, raw(), column_families=families, access_type=AccessType.secondary(path + "s"))
            for _ in range(5):
                secondary.try_catch_up_with_primary()
            secondary.close()
            db.close()
        print("survived")
        """
    )
    assert (done.returncode, done.stdout) == (-11, ""), (
        "D27 is mended: `remade` can go, in _manifest and all that asks it"
    )


def test_d27_only_what_was_made_again_since_takes_a_new_instance(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the primary has been opened again since, or another column family was dropped, RocksDB catches up."""
    with saferocks.open(path) as db:
        for _ in range(2):
            db.create_column_family("t")
            db.drop_column_family("t")
        db.create_column_family("t")
        assert _manifest.read_manifest(path).remade == {"t"}
    with saferocks.open(path) as db:
        db.create_column_family("gone")
        db.drop_column_family("gone")
        assert _manifest.read_manifest(path).remade == set()
        with open_secondary(path) as secondary:
            monkeypatch.setattr("saferocks._secondary._open_anew", lambda *_: pytest.fail("opened anew"))
            db.get_column_family("t")[b"k"] = b"1"
            secondary.try_catch_up_with_primary()
            assert secondary.get_column_family("t")[b"k"] == b"1"


def test_d26_rows_of_the_log_alone_take_no_new_instance(
    db: saferocks.Rdict, secondary: saferocks.Rdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the primary has flushed nothing, RocksDB's own catch-up does, and nothing is opened."""
    monkeypatch.setattr("saferocks._secondary._open_anew", lambda *_: pytest.fail("opened anew"))
    for number in range(10):
        db[b"old"] = b"%d" % number
        secondary.try_catch_up_with_primary()
        assert rows_of(secondary) == rows_of(db)


def test_d26_a_flush_in_the_midst_of_a_catch_up_is_seen(
    db: saferocks.Rdict, secondary: saferocks.Rdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the primary flushes between the look at it and RocksDB's catch-up, the secondary is opened anew as well."""
    look, looks = _secondary.look, []

    def look_and_be_overtaken(path: str) -> _secondary.Seen | None:
        looks.append(look(path))
        if len(looks) == 1:
            overwrite(db)
        return looks[-1]

    monkeypatch.setattr("saferocks._secondary.look", look_and_be_overtaken)
    secondary.try_catch_up_with_primary()
    assert rows_of(secondary) == {b"kept": b"1", b"old": b"2"}


def test_d26_an_opening_that_is_overtaken_begins_anew(
    db: saferocks.Rdict, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secondary whose primary flushes in the midst of the opening is opened again, until it rests."""
    db[b"k"] = b"1"
    opened, open_native = [], _engine.open_native

    def open_and_be_overtaken(*given: Any) -> Any:
        opened.append(open_native(*given))
        if len(opened) <= 2:
            db[b"k"] = b"%d" % len(opened)
            db.flush()
        return opened[-1]

    monkeypatch.setattr("saferocks._engine.open_native", open_and_be_overtaken)
    with open_secondary(path) as secondary:
        assert (len(opened), secondary[b"k"]) == (3, b"2")
        opened.clear()


@pytest.mark.parametrize("limit", ["ATTEMPTS", "SECONDS"])
def test_d26_a_primary_that_never_rests_is_told(
    db: saferocks.Rdict, path: str, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """A secondary that its primary overtakes on each try raises BusyError, and leaves nothing open."""
    open_native = _engine.open_native

    def open_and_be_overtaken(*given: Any) -> Any:
        try:
            return open_native(*given)
        finally:
            db[b"k"] = b"v"
            db.flush()

    monkeypatch.setattr("saferocks._engine.open_native", open_and_be_overtaken)
    monkeypatch.setattr(f"saferocks._secondary.OPENING_{limit}", 0.3 if limit == "SECONDS" else 3)
    with pytest.raises(saferocks.BusyError, match="flushed again each time"):
        open_secondary(path)
    assert [handle.kind for handle in saferocks.open_handles()] == ["database"]
    assert len(list(Path(f"{path}-secondary").glob("LOG*"))) <= 2


# --------------------------------------------------------------------------- what is open meanwhile


def test_d26_open_scans_go_on_as_they_were(db: saferocks.Rdict, secondary: saferocks.Rdict) -> None:
    """Scans and cursors of a secondary go on from the state of their opening, through any number of catch-ups."""
    users = secondary.get_column_family("users")
    with users.items() as items, secondary.iter() as cursor, secondary.keys(prefix=b"g") as unread:
        first = next(iter(items))
        cursor.seek(b"old")
        for _ in range(3):
            overwrite(db)
            secondary.try_catch_up_with_primary()
        assert [first, *items] == [(b"gone", b"1"), (b"kept", b"1"), (b"old", b"1")]
        assert cursor.value() == b"1"
        cursor.seek(b"gone")
        assert cursor.value() == b"1"
        assert list(unread) == [b"gone"]
    assert users[b"old"] == b"2"


def test_d26_settings_go_over(path: str) -> None:
    """What a handle was set to encode, decode and read with holds after a catch-up; a column family keeps its own."""
    with saferocks.open(path, raw_mode=False, allow_pickle=True) as primary:
        primary.create_column_family("users")
        with open_secondary(path, allow_pickle=True) as secondary:
            first = secondary.get_column_family("users")
            secondary.set_loads(lambda data: "early")
            early = secondary.get_column_family("users")
            secondary.set_loads(lambda data: "late")
            late = secondary.get_column_family("users")
            own = secondary.get_column_family("users")
            own.set_loads(lambda data: "own")
            own.set_read_options(saferocks.ReadOptions())
            own.set_write_options(saferocks.WriteOptions())
            for _ in range(2):
                for family in (primary, primary.get_column_family("users")):
                    family["k"] = (1,)
                    family.flush()
                secondary.try_catch_up_with_primary()
                assert [each["k"] for each in (secondary, early, late, own)] == ["late", "early", "late", "own"]
                assert first["k"] == (1,)
            assert secondary.get_column_family("users")["k"] == "late"


def test_d26_pickles_stay_refused(path: str) -> None:
    """A secondary that refuses to unpickle does so after a catch-up too."""
    with saferocks.open(path, raw_mode=False, allow_pickle=True) as primary, open_secondary(path) as secondary:
        primary["k"] = (1,)
        primary.flush()
        secondary.try_catch_up_with_primary()
        with pytest.raises(saferocks.NotSupportedError, match="a value holds a pickle"):
            secondary["k"]


def test_d26_a_checkpoint_is_of_the_state_now(db: saferocks.Rdict, secondary: saferocks.Rdict, tmp_path: Path) -> None:
    """A checkpoint object of a secondary copies what that shows since the last catch-up."""
    with secondary.checkpoint() as entered:
        waiting = secondary.checkpoint()
        overwrite(db)
        secondary.try_catch_up_with_primary()
        entered.create(tmp_path / "entered")
        with waiting as checkpoint:
            checkpoint.create(tmp_path / "waiting")
    for name in ("entered", "waiting"):
        with saferocks.open(str(tmp_path / name)) as copy:
            assert rows_of(copy) == {b"kept": b"1", b"old": b"2"}


def test_d26_column_families_come_and_go(db: saferocks.Rdict, secondary: saferocks.Rdict) -> None:
    """A catch-up shows column families that the primary has made, and ends the handles of those that it has dropped."""
    users, handle = secondary.get_column_family("users"), secondary.get_column_family_handle("users")
    with users.items() as items:
        db.drop_column_family("users")
        db.create_column_family("orders")[b"o"] = b"1"
        secondary.try_catch_up_with_primary()
        assert secondary.column_families == ("default", "orders")
        assert secondary.get_column_family("orders")[b"o"] == b"1"
        for use in (lambda: users[b"old"], lambda: handle._native()):
            with pytest.raises(saferocks.ColumnFamilyDroppedError, match="its primary has dropped it"):
                use()
        with pytest.raises(saferocks.ColumnFamilyNotFoundError):
            secondary.get_column_family("users")
        assert len(list(items)) == 3


def test_d26_named_column_families_are_all_that_is_shown(db: saferocks.Rdict, path: str) -> None:
    """A secondary that was opened with some column families shows those that are left of them, and no new ones."""
    for name in ("users", "orders"):
        db.create_column_family(name)[b"k"] = b"1"
    options = {name: saferocks.Options(raw_mode=True) for name in ("default", "users")}
    with open_secondary(path, column_families=options) as secondary:
        db.create_column_family("more")
        overwrite(db)
        secondary.try_catch_up_with_primary()
        assert secondary.column_families == ("default", "users")
        assert secondary.get_column_family("users")[b"old"] == b"2"
        db.drop_column_family("users")
        secondary.try_catch_up_with_primary()
        assert secondary.column_families == ("default",)


def test_d26_counts_stay_true(db: saferocks.Rdict, path: str) -> None:
    """RocksDB's counts and saferocks' own agree across catch-ups, scans of earlier instances among them."""
    db[b"k"] = b"1"
    with open_secondary(path, statistics=True) as secondary, secondary.items():
        for _ in range(3):
            overwrite_default(db)
            secondary.try_catch_up_with_primary()
            with secondary.keys():
                report = secondary.audit()
                assert report.ok
        assert secondary.memory()


def overwrite_default(db: saferocks.Rdict) -> None:
    """Change a row and flush it."""
    db[b"k"] = b"2"
    db.flush()


# --------------------------------------------------------------------------- what is left behind


def descriptors() -> int:
    """Count the open files of this process."""
    return len(os.listdir("/proc/self/fd"))


def test_d26_nothing_is_left_of_earlier_instances(db: saferocks.Rdict, secondary: saferocks.Rdict, path: str) -> None:
    """However often a secondary catches up: no native object, open file or info log of earlier instances is left."""
    users, log = secondary.get_column_family("users"), Path(f"{path}-secondary")
    overwrite(db)
    secondary.try_catch_up_with_primary()
    gc.collect()
    before, logs = descriptors(), sorted(log.iterdir())
    for _ in range(20):
        users[b"kept"]
        overwrite(db)
        db.compact_range(None, None)
        db.get_column_family("users").compact_range(None, None)
        secondary.try_catch_up_with_primary()
        assert secondary._record.owner.spares.get("users", {}) == {}
    assert descriptors() <= before + 4  # as many SST files, but for those that are being compacted
    assert sorted(log.iterdir()) == logs


@pytest.mark.about_leaks
def test_d26_a_close_ends_what_scans_have_held(db: saferocks.Rdict, path: str) -> None:
    """Closing a secondary ends the earlier instances that open scans have kept, whatever the program still holds."""
    overwrite_default(db)
    before, held = descriptors(), []
    secondary = open_secondary(path).__enter__()
    for _ in range(3):
        held.append(secondary.items().__enter__())
        overwrite_default(db)
        secondary.try_catch_up_with_primary()
    assert descriptors() > before + 3
    with pytest.warns(saferocks.LeakedHandleWarning, match="3 iterator handles"):
        secondary.close()
    assert descriptors() <= before + 3  # the primary's own new files


# --------------------------------------------------------------------------- other threads


def in_thread(work: Callable[[], None]) -> None:
    """Do something in another thread, to its end."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()


@pytest.fixture
def overtaken(db: saferocks.Rdict, secondary: saferocks.Rdict, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the next activation of a kind of record be overtaken by a catch-up in another thread."""

    def arrange(kind: type[Any]) -> None:
        activate, overtakers = kind.activate, [secondary.try_catch_up_with_primary]

        def overtaken_activate(record: Any, native: Any) -> Any:
            live = activate(record, native)
            if overtakers:
                in_thread(overtakers.pop())
            return live

        overwrite(db)
        monkeypatch.setattr(kind, "activate", overtaken_activate)

    return arrange


def test_d26_a_handle_that_is_entered_meanwhile_goes_over(
    secondary: saferocks.Rdict, overtaken: Callable[..., None]
) -> None:
    """A column family that is being entered while another thread catches up shows the new state."""
    users = secondary.get_column_family("users")
    overtaken(FamilyRecord)
    with users:
        assert users[b"old"] == b"2"


def test_d26_a_handle_that_is_first_used_meanwhile_goes_over(
    secondary: saferocks.Rdict, overtaken: Callable[..., None]
) -> None:
    """A column family whose first use another thread's catch-up overtakes shows the new state."""
    users = secondary.get_column_family("users")
    overtaken(FamilyRecord)
    assert users[b"old"] == b"2"


def test_d26_a_handle_that_is_resumed_meanwhile_goes_over(
    secondary: saferocks.Rdict, overtaken: Callable[..., None]
) -> None:
    """A use that a catch-up overtakes may end in the old state; the next one shows the new one."""
    users = secondary.get_column_family("users")
    users[b"old"]
    users._record.disable()
    overtaken(FamilyRecord)
    users[b"old"]
    assert users[b"old"] == b"2"


def test_d26_a_checkpoint_that_is_entered_meanwhile_goes_over(
    secondary: saferocks.Rdict, overtaken: Callable[..., None], tmp_path: Path
) -> None:
    """A checkpoint that is being entered while another thread catches up copies the new state."""
    checkpoint = secondary.checkpoint()
    overtaken(CheckpointRecord)
    with checkpoint as entered:
        entered.create(tmp_path / "copy")
    with saferocks.open(str(tmp_path / "copy")) as copy:
        assert copy[b"old"] == b"2"


def test_d26_a_handle_that_is_released_meanwhile_stays_released(
    db: saferocks.Rdict, secondary: saferocks.Rdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column family that another thread closes in the midst of a catch-up holds nothing native, nor do the spares."""
    users = secondary.get_column_family("users")
    record, native_for = users._record, _secondary._native_for

    def release_and_make(found: Any, main: Any) -> Any:
        made = native_for(found, main)
        if found is record:
            in_thread(users.close)
        return made

    monkeypatch.setattr("saferocks._secondary._native_for", release_and_make)
    overwrite(db)
    secondary.try_catch_up_with_primary()
    assert (record.native, record.keeper) == (None, None)
    assert secondary.get_column_family("users")[b"old"] == b"2"


@pytest.mark.parametrize("first", ["catch-up", "release"])
def test_d26_what_a_handle_leaves_in_the_midst_of_a_catch_up_is_kept_once(
    db: saferocks.Rdict, secondary: saferocks.Rdict, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """A column family that is closed while a catch-up takes its place leaves nothing that a close would wait for."""
    users = secondary.get_column_family("users")
    dispose = FamilyRecord.dispose

    def dispose_in_between(record: FamilyRecord, native: Any) -> None:
        if first == "release":
            dispose(record, native)
        in_thread(secondary.try_catch_up_with_primary)
        if first == "catch-up":
            dispose(record, native)

    overwrite(db)
    with monkeypatch.context() as patched:
        patched.setattr(FamilyRecord, "dispose", dispose_in_between)
        users.close()
    secondary._record.owner.wait_for_spares(time.monotonic())


@pytest.mark.skipif(
    sys.version_info < (3, 11), reason="there a profile function leaves a copy of its variables in each frame"
)
def test_d26_an_alarm_in_the_midst_of_a_catch_up_holds_up_no_close(db: saferocks.Rdict, path: str) -> None:
    """What an alarm has come out of keeps nothing of the earlier instance, for which a close would wait."""

    def alarm(frame: FrameType, event: str, function: Any) -> None:
        code = frame.f_code
        if event == "c_return" and function.__name__ == "get" and code.co_filename == _owner.__file__:
            sys.setprofile(None)
            del frame, function
            raise TimeoutError

    with open_secondary(path, close_timeout=0.5) as following:
        assert rows_of(following) == {}
        overwrite_default(db)
        with pytest.raises(TimeoutError) as raised:
            sys.setprofile(alarm)
            following.try_catch_up_with_primary()
        following.close()
        del raised


def test_d26_a_call_in_flight_ends_in_the_old_instance(path: str) -> None:
    """A catch-up does not wait for calls that are under way; a close does, and says so if they last too long."""
    inside, go_on, found = threading.Event(), threading.Event(), []

    def loads(data: bytes) -> str:
        inside.set()
        assert go_on.wait(60)
        return "decoded"

    with saferocks.open(path, raw_mode=False, allow_pickle=True) as primary:
        primary["k"] = (1,)
        with open_secondary(path, allow_pickle=True, close_timeout=0.2) as secondary:
            secondary.set_loads(loads)
            reader = threading.Thread(target=lambda: found.append(secondary["k"]))
            reader.start()
            assert inside.wait(60)
            primary["k"] = "new"
            primary.flush()
            secondary.try_catch_up_with_primary()
            assert secondary["k"] == "new"
            with pytest.raises(saferocks.BusyError, match="still running"):
                secondary.close()
            assert secondary["k"] == "new"
            go_on.set()
            reader.join(60)
        assert found == ["decoded"]


def test_d26_what_a_released_handle_leaves_is_not_handed_out_again(path: str) -> None:
    """A column family that was closed in the midst of a call has left what no later handle gets after a catch-up."""
    inside, go_on, found = threading.Event(), threading.Event(), []

    def loads(data: bytes) -> str:
        inside.set()
        assert go_on.wait(60)
        return "decoded"

    with saferocks.open(path, raw_mode=False, allow_pickle=True) as primary:
        family = primary.create_column_family("users")
        family["k"] = (1,)
        with open_secondary(path, allow_pickle=True) as secondary:
            secondary.set_loads(loads)
            users = secondary.get_column_family("users")
            reader = threading.Thread(target=lambda: found.append(users["k"]))
            reader.start()
            assert inside.wait(60)
            users.close()
            family["k"] = "new"
            family.flush()
            secondary.try_catch_up_with_primary()
            go_on.set()
            reader.join(60)
            assert secondary.get_column_family("users")["k"] == "new"
        assert found == ["decoded"]


def test_d26_no_catch_up_comes_into_the_opening_of_a_checkpoint(
    secondary: saferocks.Rdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a checkpoint is being opened, its thread has the lock that a catch-up in another one would wait for."""
    lock, make, free = secondary._record.owner.lock, _engine.new_checkpoint, []

    def make_and_look(rdict: Any) -> Any:
        in_thread(lambda: free.append(lock.acquire(blocking=False)))
        return make(rdict)

    monkeypatch.setattr("saferocks._engine.new_checkpoint", make_and_look)
    with secondary.checkpoint():
        assert free == [False]


READERS = """
    rounds, interval = int(sys.argv[1]), float(sys.argv[2])
    sys.setswitchinterval(interval)
    KEYS = [b"%02d" % number for number in range(20)]
    shown, ended = 0, False  # what every read shows at the least

    def read(open_one):
        highest = 0
        while not ended:
            least = max(shown, highest)
            with open_one() as family, family.items() as items:
                values = {int(value) for _, value in items}
                if len(values) != 1:
                    fail("a scan of several states", values)
                highest = values.pop()
                if highest < least:
                    fail("a scan went back", highest, least)
                point = int(family[KEYS[3]])
                if point < highest:
                    fail("a read went back", point, highest)
                highest = point
                count("reads")

    class Lent:  # a handle that is not closed when the block ends
        def __init__(self, handle): self.handle = handle
        def __enter__(self): return self.handle
        def __exit__(self, *_): pass

    def write(number):
        with primary.write_batch() as batch:
            for handle in handles:
                for key in KEYS:
                    batch.put(key, b"%d" % number, handle)

    access = saferocks.AccessType.secondary("secondary")
    with saferocks.open("db") as primary:
        primary.create_column_family("f")
        handles = [primary.get_column_family_handle(name) for name in ("default", "f")]
        write(1)
        with saferocks.open("db", access_type=access) as db:
            kept = db.get_column_family("f")
            openers = [lambda: Lent(db), lambda: Lent(kept), lambda: db.get_column_family("f")]
            threads = [threading.Thread(target=read, args=(opener,), daemon=True) for opener in openers]
            for thread in threads:
                thread.start()
            for round in timed(rounds):
                write(round + 2)
                if round % 3:
                    primary.flush()
                    primary.get_column_family("f").flush()
                db.try_catch_up_with_primary()
                shown = round + 2
                for family in (db, kept):
                    if int(family[KEYS[0]]) != shown:
                        fail("after the catch-up", family[KEYS[0]], shown)
            ended = True
            join(threads)
        if [handle for handle in saferocks.open_handles() if handle.database == "db"][1:-2]:
            fail(saferocks.open_handles())
    print(json.dumps(out))
"""


@pytest.mark.parametrize(
    ("rounds", "interval"),
    [(60, 0.005), (60, 1e-6), pytest.param(300, 1e-5, marks=pytest.mark.slow)],
    ids=["usual", "eager", "long"],
)
def test_d26_readers_never_go_back(run_race: Run, rounds: int, interval: float) -> None:
    """While one thread catches up, scans of others are of one state, and no read shows less than the last catch-up."""
    done = run_race(READERS, str(rounds), str(interval), timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["reads"] > 0


#: A primary in a process of its own that writes until it is killed, and says in a file how far it is. It flushes as
#: often as that file allows: RocksDB does not come to the end of a MANIFEST to which is written faster than it reads.
BUSY_PRIMARY = """
import mmap, os, sys
import saferocks

parent = os.getppid()
with open("written", "r+b") as file, saferocks.open("db") as db:
    written = mmap.mmap(file.fileno(), 16)
    number = flushes = 0
    while os.getppid() == parent:
        number += 1
        db[b"%06d" % (number % 500)] = db[b"last"] = b"%d" % number
        written[:8] = number.to_bytes(8, "little")
        if number % int(sys.argv[1]) == 0 and flushes < int.from_bytes(written[8:], "little"):
            db.flush()
            flushes += 1
"""

BESIDE = """
    import mmap, pathlib, subprocess

    rounds, every = int(sys.argv[1]), sys.argv[2]
    pathlib.Path("written").write_bytes(bytes(16))
    file = open("written", "r+b")
    written = mmap.mmap(file.fileno(), 16)
    progress = lambda: int.from_bytes(written[:8], "little")
    primary = subprocess.Popen([sys.executable, "primary.py", every])
    access = saferocks.AccessType.secondary("secondary")
    try:
        while progress() < 10:
            if primary.poll() is not None:
                fail("the primary has ended")
            time.sleep(0.01)
        with saferocks.open("db", access_type=access) as db:
            for round in timed(rounds):
                least = progress()
                written[8:] = (30 * (round + 1)).to_bytes(8, "little")
                try:
                    db.try_catch_up_with_primary()
                except saferocks.BusyError:
                    count("busy")
                    continue
                with db.items() as items:
                    rows = dict(items)
                last = int(rows.pop(b"last"))
                if last < least:
                    fail("the last row is", last, "and was", least)
                for number in range(max(1, last - 499), last + 1):
                    if int(rows[b"%06d" % (number % 500)]) not in (number, number + 500):
                        fail("a hole at", number, "of", last, rows[b"%06d" % (number % 500)])
                count("caught up")
    finally:
        primary.kill()
        primary.wait()
        file.close()
    print(json.dumps(out))
"""


@pytest.mark.parametrize(
    ("rounds", "every"),
    [(20, 7), (20, 200), pytest.param(100, 20, marks=pytest.mark.slow)],
    ids=["flushing", "writing", "long"],
)
def test_d26_no_hole_beside_a_busy_primary(run_race: Run, tmp_path: Path, rounds: int, every: int) -> None:
    """Beside a primary that writes and flushes all the time, a catch-up shows every row that was written before it."""
    (tmp_path / "primary.py").write_text(BUSY_PRIMARY)
    done = run_race(BESIDE, str(rounds), str(every), timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["caught up"] > 0


FORKS = """
    import os, sys
    import saferocks

    access = saferocks.AccessType.secondary("secondary")
    with saferocks.open("db") as primary:
        primary[b"k"] = b"1"
        with saferocks.open("db", access_type=access) as db, db.items() as items:
            primary[b"k"] = b"2"
            primary.flush()
            db.try_catch_up_with_primary()
            child = os.fork()
            if not child:
                for use in (lambda: db[b"k"], db.try_catch_up_with_primary, lambda: list(items)):
                    try:
                        use()
                    except saferocks.ForkedHandleError:
                        continue
                    os._exit(3)
                sys.exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert (db[b"k"], list(items)) == (b"2", [(b"k", b"1")])
"""


@needs_fork
def test_d26_a_forked_child_ends(run_python: Run) -> None:
    """A child that is forked after a catch-up, with a scan in the earlier instance, refuses all use and ends."""
    done = run_python(FORKS, flags=FORKING)
    assert (done.returncode, done.stderr) == (0, "")


# --------------------------------------------------------------------------- what goes wrong


@pytest.fixture
def copied(db: saferocks.Rdict, path: str, tmp_path: Path) -> Iterator[tuple[saferocks.Rdict, str]]:
    """A secondary of a copy of a database, which nobody writes, and the path of the copy."""
    db[b"k"] = b"1"
    db.flush()
    copy = str(tmp_path / "copy")
    with db.checkpoint() as checkpoint:
        checkpoint.create(copy)
    with open_secondary(copy) as secondary:
        with saferocks.open(copy) as primary:
            primary[b"k"] = b"2"
        yield secondary, copy


def damage(copy: str) -> None:
    """Cut the newest SST file of a database."""
    os.truncate(max(Path(copy).glob("*.sst")), 50)


@pytest.mark.parametrize(
    ("harm", "error"),
    [(damage, saferocks.CorruptionError), (shutil.rmtree, saferocks.IOFailedError)],
    ids=["damaged", "gone"],
)
def test_d26_a_catch_up_that_fails_changes_nothing(
    copied: tuple[saferocks.Rdict, str], tmp_path: Path, harm: Any, error: type[Exception]
) -> None:
    """Where a secondary cannot be opened anew it says why, shows what it did before, and may try again."""
    secondary, copy = copied
    shutil.copytree(copy, tmp_path / "whole")
    family = secondary.get_column_family("default")
    harm(copy)
    for _ in range(2):
        with pytest.raises(error), secondary.keys() as keys:
            assert list(keys) == [b"k"]
            secondary.try_catch_up_with_primary()
        assert (secondary[b"k"], family[b"k"]) == (b"1", b"1")
    shutil.copytree(tmp_path / "whole", copy, dirs_exist_ok=True)
    secondary.try_catch_up_with_primary()
    assert (secondary[b"k"], family[b"k"]) == (b"2", b"2")


def test_d26_another_database_in_the_place_is_refused(copied: tuple[saferocks.Rdict, str]) -> None:
    """Where there is a database of the other mode now, a catch-up raises, and reads go on as before."""
    secondary, copy = copied
    shutil.rmtree(copy)
    with saferocks.open(copy, raw_mode=False) as other:
        other["k"] = 1
    with pytest.raises(saferocks.ModeMismatchError):
        secondary.try_catch_up_with_primary()
    assert secondary[b"k"] == b"1"


def test_d26_a_closed_secondary_says_so(db: saferocks.Rdict, path: str) -> None:
    """A catch-up after the close, and one of what is no secondary, raise what they always have."""
    with open_secondary(path) as secondary:
        pass
    with pytest.raises(saferocks.DatabaseClosedError):
        secondary.try_catch_up_with_primary()
    with pytest.raises(saferocks.NotSupportedError):
        db.try_catch_up_with_primary()


# --------------------------------------------------------------------------- any history

KEYS = [b"a", b"b", b"c", b"d"]
FAMILIES = ["default", "one", "two"]
STEPS = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(FAMILIES), st.sampled_from(KEYS), st.integers(0, 9)),
    st.tuples(st.just("put"), st.sampled_from(FAMILIES), st.sampled_from(KEYS), st.integers(0, 9)),
    st.tuples(st.just("delete"), st.sampled_from(FAMILIES), st.sampled_from(KEYS)),
    st.tuples(st.just("delete_range"), st.sampled_from(FAMILIES), st.sampled_from(KEYS)),
    st.tuples(st.sampled_from(["flush", "compact"]), st.sampled_from(FAMILIES)),
    st.tuples(st.sampled_from(["make", "drop"]), st.sampled_from(FAMILIES[1:])),
    st.tuples(st.sampled_from(["catch up", "catch up", "catch up", "reopen"])),
)


class Pair:
    """A primary, its secondary, and what both of them are to hold after a catch-up."""

    def __init__(self, folder: str, stack: ExitStack) -> None:
        self.path = os.path.join(folder, "db")
        self.model: dict[str, dict[bytes, bytes]] = {"default": {}}
        self.primary = saferocks.open(self.path).__enter__()
        stack.callback(lambda: self.primary.close())
        self.secondary = stack.enter_context(open_secondary(self.path))
        self.handles: dict[str, saferocks.Rdict] = {}
        self.scans: list[tuple[Any, dict[bytes, bytes]]] = []
        self.stack = stack

    def take(self, step: str, family: str = "", key: bytes = b"", value: int = 0) -> None:
        """Take one step of a history, if the column family is there."""
        if step == "catch up":
            self.catch_up()
        elif step == "reopen":
            self.primary.close()
            self.primary = saferocks.open(self.path).__enter__()
        elif step == "make":
            if family not in self.model:
                self.primary.create_column_family(family)
                self.model[family] = {}
        elif family in self.model:
            if step == "drop":
                self.primary.drop_column_family(family)
                del self.model[family]
            else:
                self.write(step, self.primary.get_column_family(family), self.model[family], key, value)

    def write(self, step: str, table: saferocks.Rdict, rows: dict[bytes, bytes], key: bytes, value: int) -> None:
        """Do a step to a column family, and the same to its model."""
        if step == "put":
            table[key] = rows[key] = b"%d" % value
        elif step == "delete":
            del table[key]
            rows.pop(key, None)
        elif step == "delete_range":
            table.delete_range(b"a", key)
            for each in [each for each in rows if each < key]:
                del rows[each]
        elif step == "flush":
            table.flush()
        else:
            table.compact_range(None, None)

    def catch_up(self) -> None:
        """Let the secondary catch up: it holds what the model does, and scans from before hold still."""
        self.secondary.try_catch_up_with_primary()
        assert set(self.secondary.column_families) == set(self.model)
        for family, rows in self.model.items():
            table = self.secondary.get_column_family(family)
            assert rows_of(table) == rows
            if family not in self.handles:
                self.handles[family] = table
            assert rows_of(self.handles[family]) == rows
            assert table.get(KEYS) == [rows.get(key) for key in KEYS]
        for family in [family for family in self.handles if family not in self.model]:
            with pytest.raises(saferocks.ColumnFamilyDroppedError):
                self.handles.pop(family)[b"a"]
        for items, expected in self.scans:
            assert dict(items) == expected
        self.scans = [
            (self.stack.enter_context(self.secondary.get_column_family(family).items()), dict(rows))
            for family, rows in self.model.items()
        ]


def follow(history: list[tuple[Any, ...]]) -> None:
    """Let a primary and its secondary go through a history, with a catch-up at its end."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        pair = Pair(folder, stack)
        for step in history:
            pair.take(*step)
        pair.catch_up()


HISTORIES = st.lists(STEPS, min_size=5, max_size=40)
CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large]


@given(HISTORIES)
@settings(max_examples=40, deadline=None, suppress_health_check=CHECKS)
def test_d26_primary_and_secondary_agree_after_any_history(history: list[tuple[Any, ...]]) -> None:
    """After every catch-up of any history, the secondary holds what the primary does, in every way to read it."""
    follow(history)


@pytest.mark.slow
@given(HISTORIES)
@settings(max_examples=1000, deadline=None, suppress_health_check=CHECKS)
def test_d26_primary_and_secondary_agree_after_a_thousand_histories(history: list[tuple[Any, ...]]) -> None:
    """The same for a thousand histories."""
    follow(history)
