"""Defects of rocksdict with column families (D19, D22, D25): what saferocks does, and a canary for each."""

from __future__ import annotations

import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import rocksdict

import saferocks
from saferocks._life import release
from saferocks._registry import Reason

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from types import FrameType


RAW = rocksdict.Options(raw_mode=True)


# --------------------------------------------------------------------------- D19


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


def in_batch(db: saferocks.Rdict, add: Callable[[Any], Any]) -> None:
    """Write a batch that drops the column family before the commit."""
    with db.write_batch() as batch:
        add(batch)
        db.drop_column_family("users")


def in_free_batch(db: saferocks.Rdict, add: Callable[[Any], Any]) -> None:
    """Write a free-standing batch whose column family is dropped before."""
    with saferocks.WriteBatch(raw_mode=True) as batch:
        add(batch)
        db.drop_column_family("users")
        db.write(batch)


def into(handle: Any, add: Callable[[Any, Any], None] = with_put) -> Callable[[Any], None]:
    """Return a function that adds something for a column family to a batch."""
    return lambda batch: add(batch, handle)


@pytest.mark.parametrize(
    "write",
    [
        lambda users: users.put(b"k", b"v"),
        lambda users: users.__setitem__(b"k", b"v"),
        lambda users: users.__delitem__(b"k"),
        lambda users: users.delete(b"k"),
        lambda users: users.delete_range(b"a", b"z"),
        lambda users: users.put_entity(b"k", [b"a"], [b"v"]),
        lambda users: users.flush(),
        lambda users: users.compact_range(None, None),
        lambda users: users.get(b"k"),
        lambda users: users.items(),
        lambda users: users.snapshot(),
    ],
)
def test_d19_a_kept_family_is_refused_once_dropped(
    db: saferocks.Rdict, still_writable: Callable[[], bool], write: Callable[[saferocks.Rdict], Any]
) -> None:
    """Any use of a column family that was dropped raises ColumnFamilyDroppedError; the database stays writable."""
    users = db.create_column_family("users")
    again = db.get_column_family("users")
    db.drop_column_family("users")
    for family in (users, again):
        with pytest.raises(saferocks.ColumnFamilyDroppedError, match=r"'users'.*db.create_column_family\('users'\)"):
            write(family)
    assert still_writable()


@pytest.mark.parametrize("write", [in_batch, in_free_batch])
@pytest.mark.parametrize("add", ADDITIONS)
@pytest.mark.filterwarnings("ignore::saferocks.LeakedHandleWarning")
def test_d19_a_batch_for_a_dropped_family_is_refused(
    db: saferocks.Rdict,
    still_writable: Callable[[], bool],
    write: Callable[[saferocks.Rdict, Any], None],
    add: Callable[[Any, Any], None],
) -> None:
    """A batch that refers to a column family dropped meanwhile is refused whole; the database stays writable."""
    db.create_column_family("users")
    handle = db.get_column_family_handle("users")
    with pytest.raises(saferocks.ColumnFamilyDroppedError, match="'users'"):
        write(db, lambda batch: (batch.put(b"beside", b"1"), add(batch, handle)))
    assert b"beside" not in db
    assert still_writable()


def test_d19_a_handle_is_refused_by_a_batch_once_dropped(
    db: saferocks.Rdict, still_writable: Callable[[], bool]
) -> None:
    """A batch refuses the kept handle of a dropped column family, also when one of the same name was made since."""
    db.create_column_family("users")
    handle = db.get_column_family_handle("users")
    db.drop_column_family("users")
    db.create_column_family("users")
    with db.write_batch() as batch, pytest.raises(saferocks.ColumnFamilyDroppedError, match="'users'"):
        batch.put(b"k", b"v", handle)
    with db.write_batch() as batch:
        batch.put(b"k", b"v", db.get_column_family_handle("users"))
    assert db.get_column_family("users")[b"k"] == b"v"
    assert still_writable()


@pytest.mark.parametrize("batched", [False, True])
def test_d19_canary_a_write_to_a_dropped_family_makes_every_later_write_fail(
    bare: rocksdict.Rdict, batched: bool
) -> None:
    """In rocksdict, a write to a dropped column family makes every later write, flush and close fail."""
    users = bare.create_column_family("users", RAW)
    batch = rocksdict.WriteBatch(raw_mode=True)
    batch.put(b"k", b"v", bare.get_column_family_handle("users"))
    bare.drop_column_family("users")
    with suppress(Exception):
        if batched:
            bare.write(batch)
        else:
            users.put(b"k", b"v")
    del users, batch
    for use in (lambda: bare.put(b"k", b"v"), bare.flush, bare.close):
        with pytest.raises(Exception, match="Invalid column family specified in write batch"):
            use()
            pytest.fail("D19 is mended: saferocks need not release the handles of a dropped column family")


# --------------------------------------------------------------------------- D22


@pytest.mark.parametrize("then", ["pass", "users.close()", "del users; gc.collect()"])
def test_d22_scans_of_a_dropped_family_go_on(
    run_python: Callable[..., subprocess.CompletedProcess[str]], then: str
) -> None:
    """Scans, cursors and snapshots that are open when their column family is dropped go on to show all its rows."""
    child = run_python(
        f"""
        import gc, saferocks

        def walk(cursor):
            found = []
            cursor.seek_to_last()
            cursor.seek(b"a")
            while cursor.valid():
                found.append((cursor.key(), cursor.value()))
                cursor.next()
            return found

        def enter(scope, read):
            with scope as handle:
                return read(handle)

        WAYS = {{
            "items": (lambda db, users: users.items(), list),
            "items backwards": (lambda db, users: users.items(True), sorted),
            "bounded items": (lambda db, users: users.items(lower_bound=b"a"), list),
            "another handle": (lambda db, users: db.get_column_family('users').items(), list),
            "cursor": (lambda db, users: users.iter(), walk),
            "bounded cursor": (lambda db, users: users.iter(lower_bound=b"a"), walk),
            "snapshot": (lambda db, users: users.snapshot(), lambda snap: enter(snap.items(), list)),
            "snapshot cursor": (lambda db, users: users.snapshot(), lambda snap: enter(snap.iter(), walk)),
            "snapshot of two": (
                lambda db, users: db.snapshot(column_families=['users']),
                lambda snap: enter(snap.get_column_family("users").items(), list),
            ),
        }}

        with saferocks.open("child") as db:
            for way, (opener, read) in WAYS.items():
                users = db.create_column_family("users")
                users[b"a"], users[b"b"] = b"1", b"2"
                with opener(db, users) as handle:
                    {then}
                    db.drop_column_family("users")
                    assert read(handle) == [(b"a", b"1"), (b"b", b"2")], way
                print(way, flush=True)
            db[b"k"] = b"v"
        with saferocks.open("child") as db:
            print(*db.column_families)
        """,
        flags=("-W", "error"),
    )
    assert (child.returncode, child.stderr) == (0, "")
    assert child.stdout.splitlines() == [
        "items",
        "items backwards",
        "bounded items",
        "another handle",
        "cursor",
        "bounded cursor",
        "snapshot",
        "snapshot cursor",
        "snapshot of two",
        "default",
    ]


def test_d22_canary_a_seek_in_a_dropped_family_crashes(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """In rocksdict, a seek of a cursor whose column family was dropped and let go ends the process with SIGSEGV."""
    child = run_python(
        """
        import rocksdict
        raw = rocksdict.Options(raw_mode=True)
        db = rocksdict.Rdict("child", raw)
        users = db.create_column_family("users", raw)
        users[b"a"] = b"1"
        cursor = users.iter()
        del users
        db.drop_column_family("users")
        cursor.seek(b"a")
        print("survived")
        """
    )
    assert (child.returncode, child.stdout) == (-11, ""), (
        "D22 is mended: saferocks' iterators need not keep their column family's handle"
    )


# --------------------------------------------------------------------------- D25


def collect(family: saferocks.Rdict) -> None:
    """Let go of a handle."""


def leave(family: saferocks.Rdict) -> None:
    """Leave the `with` of a handle."""
    with family:
        pass


def sst_files(db: saferocks.Rdict) -> int:
    """Count the SST files of a database."""
    return len(db.live_files())


@pytest.mark.parametrize("release", [collect, leave, saferocks.Rdict.close])
@pytest.mark.parametrize("name", ["users", "default"])
def test_d25_handles_of_a_column_family_flush_nothing(
    db: saferocks.Rdict, name: str, release: Callable[[saferocks.Rdict], None]
) -> None:
    """A handle for each request makes no SST file for each request, and reads what the others wrote."""
    db.create_column_family("users")
    for number in range(10):
        family = db.get_column_family(name)
        with family.keys() as keys:
            assert len(list(keys)) == number
        family[b"%d" % number] = b"v"
        release(family)
        del family
    assert sst_files(db) == 0


def test_d25_handles_that_are_open_at_once_flush_nothing(db: saferocks.Rdict) -> None:
    """Two handles at once for each of many requests make no SST files either, nor is more kept than were open."""
    db.create_column_family("users").close()
    for number in range(10):
        with db.get_column_family("users") as one, db.get_column_family("users") as other:
            assert one._record.native is not other._record.native
            one[b"%d" % number] = other[b"and %d" % number] = b"v"
    assert sst_files(db) == 0
    assert len(db._record.owner.spares["users"]) == 2


def test_d25_handles_with_settings_of_their_own_do_not_pile_up(db: saferocks.Rdict) -> None:
    """What a handle leaves that no other is to get is let go of when the next one is opened."""
    db.create_column_family("users").close()
    for _ in range(10):
        with db.get_column_family("users") as family:
            family.set_read_options(saferocks.ReadOptions())
    assert len(db._record.owner.spares["users"]) == 1


def test_d25_canary_each_object_that_is_dropped_flushes(path: str) -> None:
    """In rocksdict, a column family is flushed whenever an object of it is dropped."""
    bare = rocksdict.Rdict(path, RAW)
    bare.create_column_family("users", RAW)
    for number in range(10):
        bare.get_column_family("users")[b"%d" % number] = b"v"
    files = len(bare.live_files())
    bare.close()
    assert files == 10, "D25 is mended: saferocks need not keep the native objects of column families"


def test_d25_a_handle_has_no_settings_of_the_last_one(typed_db: saferocks.Rdict) -> None:
    """The encoding of one handle is not that of the next."""
    family = typed_db.create_column_family("users")
    family.set_dumps(lambda value: b"encoded")
    family["k"] = ["value"]
    family.set_loads(bytes.decode)
    assert family["k"] == "encoded"
    family.close()
    with pytest.raises(saferocks.NotSupportedError, match="allow_pickle"):
        typed_db.get_column_family("users")["k"]


@pytest.mark.parametrize("held", [True, False])
def test_d25_a_handle_has_the_settings_of_the_database(typed_db: saferocks.Rdict, held: bool) -> None:
    """A column family begins with the encoding that the database has at the moment, whatever earlier handles had."""
    family = typed_db.create_column_family("users")
    if not held:
        family.close()
    typed_db.set_dumps(lambda value: b"encoded")
    typed_db.set_loads(bytes.decode)
    family.close()
    family = typed_db.get_column_family("users")
    family["k"] = ["value"]
    assert family["k"] == "encoded"


@pytest.mark.parametrize("asked", [True, False])
def test_d25_a_snapshot_has_the_settings_of_the_database(typed_db: saferocks.Rdict, asked: bool) -> None:
    """A snapshot decodes the rows of further column families as the database does, whatever was asked before."""
    typed_db.set_dumps(lambda value: b"encoded")
    typed_db.create_column_family("users")["k"] = ["value"]
    if asked:
        typed_db.memory()
    typed_db.set_loads(bytes.decode)
    with typed_db.snapshot(column_families=["users"]) as snap:
        users = snap.get_column_family("users")
        with users.values() as values:
            assert (users["k"], list(values)) == ("encoded", ["encoded"])


@contextmanager
def calling_once(event: str, name: str, function: Callable[[], None]) -> Iterator[None]:
    """Call a function when Python tells a profiler of an event in a function, or in one of C, of this name."""

    def profile(frame: FrameType, what: str, called: object) -> None:
        found = getattr(called, "__name__", "") if event.startswith("c_") else frame.f_code.co_name
        if (what, found) == (event, name):
            sys.setprofile(None)
            function()

    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)


def interrupt() -> None:
    """Do what Ctrl-C does."""
    raise KeyboardInterrupt


def test_d25_a_handle_that_is_released_while_it_is_changed(typed_db: saferocks.Rdict) -> None:
    """A release that comes as a setting is about to be changed leaves nothing with that setting to the next handle."""
    family = typed_db.create_column_family("users")
    with pytest.raises(saferocks.HandleClosedError), calling_once("call", "_change", family.close):
        family.set_dumps(lambda value: b"encoded")
    with pytest.raises(TypeError, match="allow_pickle"):
        typed_db.get_column_family("users")["k"] = ["value"]


def test_d25_an_interrupt_as_a_setting_of_the_database_changes(typed_db: saferocks.Rdict) -> None:
    """A Ctrl-C that comes once the encoding is changed leaves no handle with the last one."""
    typed_db.set_loads(bytes.decode)
    typed_db.create_column_family("users").close()
    with pytest.raises(KeyboardInterrupt), calling_once("c_return", "set_dumps", interrupt):
        typed_db.set_dumps(lambda value: b"encoded")
    for db in typed_db, typed_db.get_column_family("users"):
        db["k"] = ["value"]
        assert db["k"] == "encoded"


def test_d25_an_interrupted_drop_of_a_column_family(db: saferocks.Rdict) -> None:
    """A Ctrl-C before anything is dropped leaves a column family whose handles flush nothing."""
    db.create_column_family("users").close()
    with pytest.raises(KeyboardInterrupt), calling_once("c_return", "add", interrupt):
        db.drop_column_family("users")
    for number in range(10):
        db.get_column_family("users")[b"%d" % number] = b"v"
    assert sst_files(db) == 0


@pytest.mark.parametrize("event", ["call", "return"])
def test_d25_an_interrupted_release_leaves_one_object(db: saferocks.Rdict, event: str) -> None:
    """A release that a Ctrl-C has done again leaves its native object once, and one handle gets it."""
    family = db.create_column_family("users")
    native = id(family._record.native)
    with pytest.raises(KeyboardInterrupt), calling_once(event, "keep", interrupt):
        family.close()
    one, other = db.get_column_family("users"), db.get_column_family("users")
    assert id(one._record.native) == native != id(other._record.native)
    assert db._record.owner.spares == {"users": {}}


@pytest.mark.parametrize("held", [True, False])
def test_d25_a_column_family_made_again_is_a_new_one(db: saferocks.Rdict, held: bool) -> None:
    """Nothing that a handle has left reaches a column family that was dropped, or made again under its name."""
    family = db.create_column_family("users")
    family[b"k"] = b"v"
    if not held:
        del family
    db.drop_column_family("users")
    with pytest.raises(saferocks.ColumnFamilyNotFoundError):
        db.get_column_family("users")
    db.create_column_family("users")
    again = db.get_column_family("users")
    assert again.get(b"k") is None
    again[b"l"] = b"v"
    with again.keys() as keys:
        assert list(keys) == [b"l"]


def test_d25_a_handle_released_in_the_midst_of_something(db: saferocks.Rdict) -> None:
    """What is released while its column family is dropped or its database closed is not kept."""
    owner = db._record.owner
    for begin, end in (
        (lambda: owner.dropping.add("users"), lambda: owner.dropping.discard("users")),
        (lambda: setattr(owner, "closing", True), lambda: setattr(owner, "closing", False)),
    ):
        family = db.create_column_family("users")
        begin()
        release(family._record, Reason.EXITED)
        end()
        assert owner.spares == {"users": {}}
        db.drop_column_family("users")


def test_d25_the_path_reopens_at_once(db: saferocks.Rdict, path: str) -> None:
    """What is kept holds the database no longer than to its close."""
    db.create_column_family("users").close()
    db.get_column_family("default").close()
    assert sorted(db._record.owner.spares) == ["default", "users"]
    db.close()
    with saferocks.open(path) as again:
        assert again.column_families == ("default", "users")
