"""D12, values from disk that run code when they are read: what saferocks does, and a canary for rocksdict."""

from __future__ import annotations

import io
import pickle
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import rocksdict

import saferocks

if TYPE_CHECKING:
    from collections.abc import Callable


class Touch:
    """Makes a file when it is unpickled, as hostile data would."""

    def __init__(self, file: str) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(self.file),)


class OnlyLists(pickle.Unpickler):
    """Unpickles plain containers and refuses every global."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """The file that the pickle on disk would make."""
    return tmp_path / "trap"


@pytest.fixture
def hostile(path: str, trap: Path) -> str:
    """A typed database with a value whose unpickling makes a file, and a harmless list."""
    bare = rocksdict.Rdict(path)
    bare["evil"] = Touch(str(trap))
    bare["list"] = [1, 2]
    bare["text"] = "plain"
    bare.close()
    return path


READS: dict[str, Callable[[saferocks.Rdict], Any]] = {
    "item": lambda db: db["evil"],
    "get": lambda db: db.get("evil"),
    "multi-get": lambda db: db.get(["text", "evil"]),
    "get with options": lambda db: db.get("evil", None, saferocks.ReadOptions()),
    "key_may_exist": lambda db: fetch_from_cache(db),
    "items": lambda db: read_all(db.items()),
    "values": lambda db: read_all(db.values()),
    "items backwards": lambda db: read_all(db.items(True, "evil")),
    "bounded items": lambda db: read_all(db.items(prefix="evil")),
    "columns": lambda db: read_all(db.columns()),
    "entities": lambda db: read_all(db.entities()),
    "get_entity": lambda db: db.get_entity("evil"),
    "family": lambda db: db.get_column_family("default")["evil"],
}


def fetch_from_cache(db: saferocks.Rdict) -> Any:
    """Ask whether the key may exist, once a read has brought its block into the cache."""
    with suppress(saferocks.NotSupportedError):
        db.get("evil")
    return db.key_may_exist("evil", fetch=True)


def read_all(scope: saferocks.Scope[Any]) -> list[Any]:
    """Return all that a scan yields."""
    with scope as scan:
        return list(scan)


@pytest.mark.parametrize("read", READS)
def test_d12_nothing_is_unpickled_unasked(hostile: str, trap: Path, read: str) -> None:
    """A read of a pickled value raises NotSupportedError with the remedy, and runs none of its code."""
    with saferocks.open(hostile, raw_mode=False) as db:
        with pytest.raises(saferocks.NotSupportedError, match=r"holds a pickle.*allow_pickle=True.*set_loads"):
            READS[read](db)
        assert db["text"] == "plain"
    assert not trap.exists()


def test_d12_snapshots_and_cursors_unpickle_nothing(hostile: str, trap: Path) -> None:
    """Snapshots, their scans and cursors refuse a pickled value as well."""
    with saferocks.open(hostile, raw_mode=False) as db, db.snapshot() as snap, db.iter() as cursor:
        cursor.seek("evil")
        for read in (cursor.value, lambda: snap["evil"], lambda: snap.get("evil"), lambda: read_all(snap.items())):
            with pytest.raises(saferocks.NotSupportedError, match="holds a pickle"):
                read()
    assert not trap.exists()


def test_d12_families_made_or_fetched_later_unpickle_nothing(path: str, trap: Path) -> None:
    """A column family refuses pickles like the database that it was fetched from, in both directions."""
    bare = rocksdict.Rdict(path)
    bare.create_column_family("users")["evil"] = Touch(str(trap))
    bare.close()
    with saferocks.open(path, raw_mode=False) as db:
        for users in (db.get_column_family("users"), db.create_column_family("new")):
            with pytest.raises(TypeError, match=r"list would have to be pickled.*allow_pickle=True"):
                users["list"] = [1]
        with pytest.raises(saferocks.NotSupportedError, match="holds a pickle"):
            db.get_column_family("users")["evil"]
    assert not trap.exists()


@pytest.mark.parametrize(
    "write",
    [
        lambda db: db.put("k", [1]),
        lambda db: db.__setitem__("k", [1]),
        lambda db: db.put_entity("k", ["a"], [[1]]),
        lambda db: write_in(db.write_batch()),
        lambda db: write_in(db.bulk_writer()),
    ],
)
def test_d12_nothing_is_pickled_unasked(path: str, write: Callable[[saferocks.Rdict], Any]) -> None:
    """A value that would have to be pickled is refused with a TypeError and not written."""
    with saferocks.open(path, raw_mode=False) as db:
        with pytest.raises(TypeError, match=r"list would have to be pickled.*allow_pickle=True"):
            write(db)
        assert "k" not in db


def write_in(scope: saferocks.Scope[Any]) -> None:
    """Put a list through a batch."""
    with scope as batch:
        batch.put("k", [1])


def test_d12_pickles_are_loaded_on_demand(path: str) -> None:
    """With allow_pickle=True any value comes back as it was."""
    with saferocks.open(path, raw_mode=False, allow_pickle=True) as db:
        db["k"] = {"a": [1, 2]}
        with db.write_batch() as batch:
            batch["l"] = [3]
        assert (db["k"], db["l"]) == ({"a": [1, 2]}, [3])


def test_d12_the_drop_in_constructor_pickles_as_rocksdict_does(hostile: str, trap: Path) -> None:
    """`saferocks.Rdict(path)` unpickles by default, because rocksdict does and programs rely on it."""
    database = saferocks.Rdict(hostile)
    found = database["list"], trap.exists()
    database["evil"]
    database.close()
    assert (found, trap.exists()) == (([1, 2], False), True)


def test_d12_a_restricted_loader_can_be_given(hostile: str, trap: Path) -> None:
    """With set_loads and a restricted unpickler harmless values come back, and the hostile one raises its error."""
    with saferocks.open(hostile, raw_mode=False) as db:
        db.set_loads(lambda data: OnlyLists(io.BytesIO(data)).load())
        assert db["list"] == [1, 2]
        with pytest.raises(pickle.UnpicklingError, match="is not allowed"):
            db["evil"]
    assert not trap.exists()


def test_d12_canary_reading_a_value_runs_its_code(hostile: str, trap: Path) -> None:
    """In rocksdict, reading a value from disk unpickles it, and so runs the code in it."""
    bare = rocksdict.Rdict(hostile)
    with suppress(Exception):
        bare["evil"]
    bare.close()
    assert trap.exists(), "D12 is mended: saferocks._engine.forbid_pickle can go"
