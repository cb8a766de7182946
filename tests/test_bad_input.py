"""Paths and arguments of an opening that cannot work: a clear error, nothing left on disk, nothing left open."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import saferocks
from saferocks import _settings
from tests.systems import needs_modes

if TYPE_CHECKING:
    from collections.abc import Callable


def contents(folder: Path) -> dict[str, str]:
    """Hash every file below a folder and list its directories; RocksDB's info log is left aside."""
    return {
        str(entry.relative_to(folder)): hashlib.sha256(entry.read_bytes()).hexdigest() if entry.is_file() else ""
        for entry in sorted(folder.rglob("*"))
        if not entry.name.startswith("LOG")
    }


@pytest.fixture
def made(path: str) -> str:
    """A closed raw database of one row, and a second column family."""
    with saferocks.open(path) as db:
        db.create_column_family("users")
        db[b"k"] = b"v"
    return path


@pytest.fixture
def other_things(tmp_path: Path) -> Path:
    """A directory of things that are no database, some of them named like files of one."""
    folder = tmp_path / "things"
    folder.mkdir()
    for name in ("notes.txt", "000012.log", "LOG", "data.sst.bak"):
        (folder / name).write_text("mine")
    return folder


def missing_with(access: saferocks.AccessType) -> Callable[[str], Any]:
    """Return an opener that does not make databases."""
    return lambda path: saferocks.open(path, access_type=access)


def no_creation(path: str) -> Any:
    """Open a database that must exist."""
    options = saferocks.Options(raw_mode=True)
    options.create_if_missing(False)
    return saferocks.open(path, options=options)


OPENERS: dict[str, Callable[[str], Any]] = {
    "open": saferocks.open,
    "Rdict": saferocks.Rdict,
    "typed": lambda path: saferocks.open(path, raw_mode=False),
    "with_ttl": lambda path: saferocks.open(path, access_type=saferocks.AccessType.with_ttl(10)),
    "read_only": missing_with(saferocks.AccessType.read_only()),
    "secondary": lambda path: saferocks.open(path, access_type=saferocks.AccessType.secondary(f"{path}-secondary")),
    "create_if_missing": no_creation,
}


# --------------------------------------------------------------------------- paths


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("below", [False, True])
def test_a_file_is_no_database(tmp_path: Path, opener: str, below: bool) -> None:
    """A path that is a file, or lies below one, raises IOFailedError that names the file; the file is untouched."""
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(saferocks.IOFailedError, match=r"is not a directory.*give another path") as caught:
        OPENERS[opener](str(file / "db" if below else file))
    assert repr(str(file)) in str(caught.value)
    assert (file.read_text(), os.listdir(tmp_path)) == ("mine", ["file"])


@pytest.mark.parametrize("call", [saferocks.Rdict.destroy, saferocks.Rdict.repair, saferocks.Rdict.list_cf])
@pytest.mark.parametrize("below", [False, True])
def test_a_file_is_left_alone_by_maintenance(tmp_path: Path, call: Callable[[str], Any], below: bool) -> None:
    """`destroy`, `repair` and `list_cf` of a file, or below one, raise IOFailedError and leave it untouched."""
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(saferocks.IOFailedError):
        call(str(file / "db" if below else file))
    assert (file.read_text(), os.listdir(tmp_path)) == ("mine", ["file"])


@pytest.mark.parametrize("opener", ["open", "Rdict", "typed", "with_ttl", "create_if_missing"])
@pytest.mark.parametrize("folder", ["/proc", "/sys"])
def test_a_place_where_nothing_can_be_made_is_refused(folder: str, opener: str) -> None:
    """A path in a file system that takes no directories raises IOFailedError that names the path."""
    if not os.path.ismount(folder):
        pytest.skip(f"{folder} is not mounted here")
    path = f"{folder}/saferocks-test"
    with pytest.raises(saferocks.IOFailedError, match=f"^IO error: .*{folder}"):
        OPENERS[opener](path)
    assert not os.path.lexists(path)


@needs_modes
@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_directory_without_permission_is_refused(tmp_path: Path, mode: int) -> None:
    """A directory that may not be written, or not even be read, raises IOFailedError with the remedy."""
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(mode)
    try:
        if os.access(folder, os.W_OK):
            pytest.skip("this user may write everywhere, whatever the permissions say")
        with pytest.raises(saferocks.IOFailedError, match=r"no permission.*change its owner or mode"):
            saferocks.open(str(folder / "db"))
    finally:
        folder.chmod(0o755)
    assert os.listdir(folder) == []


@pytest.mark.parametrize("opener", ["read_only", "secondary", "create_if_missing"])
@pytest.mark.parametrize("nested", ["db", "some/where/db"])
def test_a_missing_database_is_not_made_by_readers(tmp_path: Path, opener: str, nested: str) -> None:
    """Openings that do not create raise an EngineError that names the missing path, and leave nothing on disk."""
    path = str(tmp_path / nested)
    with pytest.raises(saferocks.EngineError) as caught:
        OPENERS[opener](path)
    assert path in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("opener", ["read_only", "secondary", "create_if_missing"])
def test_an_empty_directory_stays_empty(tmp_path: Path, opener: str) -> None:
    """Openings that do not create leave an empty directory as it was."""
    folder = tmp_path / "empty"
    folder.mkdir()
    with pytest.raises(saferocks.EngineError):
        OPENERS[opener](str(folder))
    assert contents(tmp_path) == {"empty": ""}


@pytest.mark.parametrize("call", [saferocks.Rdict.repair, saferocks.Rdict.list_cf])
def test_maintenance_of_a_missing_database_makes_none(tmp_path: Path, call: Callable[[str], Any]) -> None:
    """`repair` and `list_cf` of a missing path raise IOFailedError that names it, and make nothing."""
    path = str(tmp_path / "some" / "db")
    with pytest.raises(saferocks.IOFailedError, match="No such file or directory") as caught:
        call(path)
    assert path in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_destroying_a_missing_database_is_no_error(tmp_path: Path) -> None:
    """`destroy` of a missing path does nothing and makes nothing."""
    saferocks.Rdict.destroy(str(tmp_path / "some" / "db"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", [saferocks.Rdict.destroy, saferocks.Rdict.list_cf])
def test_a_directory_of_other_things_is_left_alone(other_things: Path, call: Callable[[str], Any]) -> None:
    """`destroy` and `list_cf` of a directory of other things raise IOFailedError and change nothing in it."""
    before = contents(other_things.parent)
    with pytest.raises(saferocks.IOFailedError) as caught:
        call(str(other_things))
    assert str(other_things) in str(caught.value)
    assert contents(other_things.parent) == before
    assert (other_things / "LOG").read_text() == "mine"


def test_repair_leaves_a_directory_of_other_things_alone(tmp_path: Path) -> None:
    """`repair` of a directory without any file of a database raises IOFailedError and changes nothing in it."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(saferocks.IOFailedError, match="there is no database to repair"):
        saferocks.Rdict.repair(str(tmp_path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("call", [saferocks.Rdict.destroy, saferocks.Rdict.repair])
def test_maintenance_of_an_open_database_is_refused(made: str, call: Callable[[str], Any]) -> None:
    """`destroy` and `repair` of an open database raise LockedError, and it stays usable."""
    with saferocks.open(made) as db:
        with pytest.raises(saferocks.LockedError, match="lock hold by current process"):
            call(made)
        db[b"l"] = b"w"
        assert db.get([b"k", b"l"]) == [b"v", b"w"]


@pytest.mark.parametrize(("path", "error"), [("", ValueError), ("a\0b", ValueError), (5, TypeError), (None, TypeError)])
@pytest.mark.parametrize(
    "call",
    [
        saferocks.open,
        saferocks.Rdict,
        saferocks.Rdict.destroy,
        saferocks.Rdict.repair,
        saferocks.Rdict.list_cf,
        saferocks.AccessType.secondary,
    ],
)
def test_what_is_no_path_is_refused(path: Any, error: type[Exception], call: Callable[[Any], Any]) -> None:
    """A path that is empty, holds a NUL or is no path raises ValueError or TypeError that shows it."""
    with pytest.raises(error, match=r"^path "):
        call(path)


def test_paths_of_every_kind_are_taken(tmp_path: Path) -> None:
    """A str, bytes or Path opens the same database, whatever its characters."""
    folder = tmp_path / "d\u00e4ta b\u00e4se"
    for path in (str(folder), folder, os.fsencode(folder)):
        with saferocks.open(path) as db:
            db[b"k"] = b"v"
            assert db.path() == str(folder)


# --------------------------------------------------------------------------- a database of another program


def test_a_database_of_plain_rocksdb_opens_raw(made: str) -> None:
    """A database without rocksdict's configuration opens as raw, with and without saying so."""
    for raw_mode in (True, None):
        os.unlink(os.path.join(made, "rocksdict-config.json"))
        with saferocks.open(made, raw_mode=raw_mode) as db:
            assert db[b"k"] == b"v"
            assert db.column_families == ("default", "users")


def test_a_database_of_plain_rocksdb_is_not_typed(made: str) -> None:
    """A database without rocksdict's configuration is refused as typed, with both modes, and left as it was."""
    os.unlink(os.path.join(made, "rocksdict-config.json"))
    before = contents(Path(made))
    with pytest.raises(saferocks.ModeMismatchError, match=r"holds raw bytes.*as typed; open it with raw_mode=True"):
        saferocks.open(made, raw_mode=False)
    assert contents(Path(made)) == before


# --------------------------------------------------------------------------- arguments of an opening

NAN, INFINITY = float("nan"), float("inf")
RAW, TYPED = saferocks.Options(raw_mode=True), saferocks.Options(raw_mode=False)

BAD_ARGUMENTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"options": 5}, TypeError, "options is int; give saferocks.Options"),
    ({"options": {"default": RAW}}, TypeError, "options is dict"),
    ({"options": TYPED, "raw_mode": True}, saferocks.ModeMismatchError, "make them with Options(raw_mode=True)"),
    ({"options": RAW, "raw_mode": False}, saferocks.ModeMismatchError, "make them with Options(raw_mode=False)"),
    ({"options": RAW, "column_families": {"users": TYPED}}, saferocks.ModeMismatchError, "those of 'users'"),
    ({"column_families": {"a": RAW, "b": TYPED}}, saferocks.ModeMismatchError, "those of 'b' have raw_mode=False"),
    ({"column_families": ["users"]}, TypeError, "column_families is list; give a dict of names to Options"),
    ({"column_families": {"users": None}}, TypeError, "column_families has 'users': None"),
    ({"column_families": {5: RAW}}, TypeError, "column_families has 5"),
    ({"access_type": "read_only"}, TypeError, "access_type is str; make one with saferocks.AccessType"),
    ({"access_type": saferocks.AccessType}, TypeError, "access_type is type"),
    ({"raw_mode": "yes"}, TypeError, "raw_mode is 'yes'; give True, False, or None"),
    ({"raw_mode": 1}, TypeError, "raw_mode is 1"),
    ({"allow_pickle": 1}, TypeError, "allow_pickle is 1; give True or False"),
    ({"statistics": "yes"}, TypeError, "statistics is 'yes'; give True or False"),
    ({"lock_timeout": -1}, ValueError, "lock_timeout is -1; give a non-negative, finite number of seconds"),
    ({"lock_timeout": NAN}, ValueError, "lock_timeout is nan"),
    ({"lock_timeout": INFINITY}, ValueError, "lock_timeout is inf"),
    ({"lock_timeout": "1"}, TypeError, "lock_timeout is '1'; give seconds as a number"),
    ({"lock_timeout": True}, TypeError, "lock_timeout is True"),
    ({"lock_timeout": None}, TypeError, "lock_timeout is None"),
    ({"close_timeout": 0}, ValueError, "close_timeout is 0; give a positive, finite number of seconds"),
    ({"close_timeout": -0.5}, ValueError, "close_timeout is -0.5"),
    ({"close_timeout": NAN}, ValueError, "close_timeout is nan"),
    ({"close_timeout": -INFINITY}, ValueError, "close_timeout is -inf"),
    ({"close_timeout": "1"}, TypeError, "close_timeout is '1'"),
    ({"close_timeout": False}, TypeError, "close_timeout is False"),
    ({"policy": "strict"}, ValueError, "policy is 'strict'; allowed are 'warn', 'raise', 'ignore'"),
    ({"policy": 5}, ValueError, "policy is 5"),
    ({"trace": "full"}, ValueError, "trace is 'full'; allowed are 'off', 'site', 'stack'"),
    ({"trace": True}, ValueError, "trace is True"),
    ({"read_only": True}, TypeError, "read_only"),
]


@pytest.mark.parametrize("opener", [saferocks.open, saferocks.Rdict])
@pytest.mark.parametrize("case", range(len(BAD_ARGUMENTS)))
def test_a_bad_argument_is_named_and_nothing_is_made(tmp_path: Path, opener: Callable[..., Any], case: int) -> None:
    """An impossible argument raises a typed error that shows it and says what to give; no database is made."""
    arguments, error, text = BAD_ARGUMENTS[case]
    with pytest.raises(error) as caught:
        opener(str(tmp_path / "db"), **arguments)
    assert text in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert saferocks.open_handles() == ()


@pytest.mark.parametrize(
    ("duration", "error"),
    [(0, ValueError), (-1, ValueError), (1.5, TypeError), (NAN, TypeError), ("1", TypeError), (True, TypeError)],
)
def test_a_bad_ttl_is_refused(duration: Any, error: type[Exception]) -> None:
    """A time to live that is not a positive number of whole seconds is refused where it is made."""
    with pytest.raises(error, match=r"^duration .*give"):
        saferocks.AccessType.with_ttl(duration)


@pytest.mark.parametrize(
    ("setting", "error", "text"),
    [
        ({"policy": "strict"}, ValueError, "policy is 'strict'; allowed are 'warn', 'raise', 'ignore'"),
        ({"policy": ""}, ValueError, "policy is ''"),
        ({"trace": "full"}, ValueError, "trace is 'full'; allowed are 'off', 'site', 'stack'"),
        ({"trace": 8}, ValueError, "trace is 8"),
        ({"polcy": "warn"}, TypeError, "polcy"),
        ({"policy": "raise", "trace": "full"}, ValueError, "trace is 'full'"),
    ],
)
def test_a_bad_setting_changes_nothing(setting: dict[str, Any], error: type[Exception], text: str) -> None:
    """`configure` refuses unknown settings and values, and changes none of the others."""
    before = _settings.current
    with pytest.raises(error) as caught:
        saferocks.configure(**setting)
    assert text in str(caught.value)
    assert _settings.current == before


@pytest.mark.parametrize(("name", "value"), [("SAFEROCKS_POLICY", "strict"), ("SAFEROCKS_TRACE", "")])
def test_a_bad_environment_is_a_clear_error(
    run_python: Callable[..., Any], tmp_path: Path, name: str, value: str
) -> None:
    """A bad value in the environment fails the first use, naming variable, value and what is allowed; no database."""
    child = run_python("import saferocks; saferocks.open('db')", env={name: value})
    assert child.returncode == 1
    assert f"ValueError: {name} is {value!r}; allowed are '" in child.stderr
    assert not (tmp_path / "db").exists()


@pytest.mark.parametrize("opener", ["open", "Rdict"])
def test_unknown_families_are_named(made: str, opener: str) -> None:
    """Opening with too few column families raises InvalidArgumentError with their names and the remedy."""
    with pytest.raises(saferocks.InvalidArgumentError, match="Column families not opened: users") as caught:
        getattr(saferocks, opener)(made, column_families={"default": RAW})
    assert any("add users to column_families=" in note for note in caught.value.__notes__)
    with saferocks.open(made) as db:
        assert db[b"k"] == b"v"
