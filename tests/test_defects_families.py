"""Defects of rocksdict with dropped column families (D19, D22): what saferocks does, and a canary for each."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import rocksdict

import saferocks

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable


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
