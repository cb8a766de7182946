"""Damaged and missing files of a database: a typed error that names the file, and nothing made worse on disk."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import saferocks

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

ROWS = 300


def contents(folder: Path) -> dict[str, str]:
    """Hash every file below a folder; RocksDB's info log is left aside."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.name.startswith("LOG")
    }


def flip(file: Path) -> None:
    """Flip every bit of a file."""
    file.write_bytes(bytes(byte ^ 0xFF for byte in file.read_bytes()))


def flip_middle(file: Path) -> None:
    """Flip 16 bytes in the middle of a file."""
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 16] = bytes(byte ^ 0xFF for byte in content[middle : middle + 16])
    file.write_bytes(content)


def empty(file: Path) -> None:
    """Take away all that a file holds."""
    file.write_bytes(b"")


def cut(file: Path) -> None:
    """Take away the second half of a file, and a little more, so as not to end between two records."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2 - 3])


def remove(file: Path) -> None:
    """Delete a file."""
    file.unlink()


def newest(folder: Path, pattern: str) -> Path:
    """Return the newest file of a kind."""
    return max(folder.glob(pattern), key=lambda file: int("".join(filter(str.isdigit, file.name)) or 0))


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed database with rows in an SST file and a second column family."""
    folder = tmp_path_factory.mktemp("healthy") / "db"
    with saferocks.open(str(folder)) as db:
        db.create_column_family("users")[b"u"] = b"v"
        for number in range(ROWS):
            db[b"k%03d" % number] = b"v"
        db.flush()
    return folder


@pytest.fixture
def folder(healthy: Path, tmp_path: Path) -> Path:
    """A copy of the healthy database, to be damaged."""
    return Path(shutil.copytree(healthy, tmp_path / "db"))


@pytest.fixture
def with_wal(tmp_path: Path, run_python: Callable[..., subprocess.CompletedProcess[str]]) -> Path:
    """A database whose rows are in its write-ahead log alone, because its process died."""
    child = run_python(
        """
        import os, saferocks
        db = saferocks.open("died").__enter__()
        for number in range(300):
            db[b"k%03d" % number] = b"v"
        os._exit(0)
        """
    )
    assert (child.returncode, child.stderr) == (0, "")
    return tmp_path / "died"


OPENERS: dict[str, Callable[[str], Any]] = {
    "open": saferocks.open,
    "Rdict": saferocks.Rdict,
    "read_only": lambda path: saferocks.open(path, access_type=saferocks.AccessType.read_only()),
    "secondary": lambda path: saferocks.open(path, access_type=saferocks.AccessType.secondary(f"{path}-secondary")),
}


DAMAGES: list[tuple[str, Callable[[Path], None], str]] = [
    ("CURRENT", flip, "CURRENT of"),
    ("CURRENT", empty, "CURRENT of"),
    ("CURRENT", cut, "CURRENT of"),
    ("CURRENT", remove, "CURRENT"),
    ("MANIFEST-*", flip, "the MANIFEST of"),
    ("MANIFEST-*", empty, "the MANIFEST of"),
    ("MANIFEST-*", flip_middle, "MANIFEST-"),
    ("MANIFEST-*", remove, "does not name a readable MANIFEST"),
    ("OPTIONS-*", flip, "Option file"),
    ("OPTIONS-*", empty, "Option file"),
    ("*.sst", flip, ".sst"),
    ("*.sst", empty, ".sst"),
    ("*.sst", cut, ".sst"),
    ("*.sst", remove, ".sst"),
]


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize(("pattern", "damage", "text"), DAMAGES)
def test_a_damaged_file_is_named_and_nothing_is_made_worse(
    folder: Path, opener: str, pattern: str, damage: Callable[[Path], None], text: str
) -> None:
    """An opening of a damaged database raises CorruptionError that names the file; no file changes, none is new."""
    damage(newest(folder, pattern))
    before = contents(folder)
    with pytest.raises(saferocks.CorruptionError, match=r"^Corruption: ") as caught:
        OPENERS[opener](str(folder))
    assert text in str(caught.value)
    assert contents(folder) == before
    assert saferocks.open_handles() == ()


def test_a_restored_file_makes_the_database_whole_again(folder: Path, healthy: Path) -> None:
    """After failed openings the database opens with all rows once the damaged file has been restored."""
    for pattern in ("CURRENT", "MANIFEST-*", "*.sst", "OPTIONS-*"):
        file = newest(folder, pattern)
        before = file.read_bytes()
        for damage in (flip, empty) if pattern == "OPTIONS-*" else (flip, empty, remove):
            damage(file)
            with pytest.raises(saferocks.CorruptionError):
                saferocks.open(str(folder))
            file.write_bytes(before)
    assert contents(folder) == contents(healthy)
    with saferocks.open(str(folder)) as db, db.keys() as keys:
        assert len(list(keys)) == ROWS


def test_without_an_options_file_all_families_open(folder: Path) -> None:
    """A database without OPTIONS files opens with all its column families and rows."""
    for file in folder.glob("OPTIONS-*"):
        file.unlink()
    with saferocks.open(str(folder)) as db:
        assert (db.column_families, db[b"k007"], db.get_column_family("users")[b"u"]) == (
            ("default", "users"),
            b"v",
            b"v",
        )


def test_an_older_options_file_hides_no_family(folder: Path) -> None:
    """A database whose newest OPTIONS file is gone opens with all its column families, which the MANIFEST knows."""
    newest(folder, "OPTIONS-*").unlink()
    with saferocks.open(str(folder)) as db:
        assert db.column_families == ("default", "users")
        assert db.get_column_family("users")[b"u"] == b"v"


def test_an_older_options_file_brings_no_family_back(folder: Path) -> None:
    """A program that is killed between a drop and its new OPTIONS file leaves a database that opens without it."""
    older = newest(folder, "OPTIONS-*").read_bytes()
    assert b'[CFOptions "users"]' in older
    with saferocks.open(str(folder)) as db:
        db.drop_column_family("users")
    for file in folder.glob("OPTIONS-*"):
        file.write_bytes(older)
    for options in (None, saferocks.Options(raw_mode=True)):
        with saferocks.open(str(folder), options=options) as db:
            assert (db.column_families, db[b"k007"]) == (("default",), b"v")
    with saferocks.open(str(folder), access_type=saferocks.AccessType.read_only()) as db:
        assert db.column_families == ("default",)


@pytest.mark.parametrize("damage", [flip, empty, cut, remove])
def test_rocksdicts_own_file_is_not_needed(folder: Path, damage: Callable[[Path], None]) -> None:
    """A damaged or missing rocksdict-config.json changes nothing: the mode is read from the MANIFEST."""
    damage(folder / "rocksdict-config.json")
    with saferocks.open(str(folder)) as db:
        assert db[b"k007"] == b"v"
    damage(folder / "rocksdict-config.json")
    with pytest.raises(saferocks.ModeMismatchError):
        saferocks.open(str(folder), raw_mode=False)


def test_a_huge_configuration_is_refused_at_once(folder: Path) -> None:
    """A rocksdict-config.json of gigabytes, which takes rocksdict hours, is refused; without it all is well."""
    config = folder / "rocksdict-config.json"
    with config.open("wb") as file:
        file.truncate(1 << 33)
    with pytest.raises(
        saferocks.CorruptionError, match=r"rocksdict-config\.json of .* has 8589934592 bytes.*remove it"
    ):
        saferocks.open(str(folder))
    config.unlink()
    with saferocks.open(str(folder)) as db:
        assert db[b"k007"] == b"v"


@pytest.mark.parametrize("damage", [flip, flip_middle, cut])
def test_a_damaged_log_is_reported_on_demand(with_wal: Path, damage: Callable[[Path], None]) -> None:
    """With absolute consistency asked for, a damaged write-ahead log raises CorruptionError; no file changes."""
    damage(newest(with_wal, "*.log"))
    before = contents(with_wal)
    options = saferocks.Options(raw_mode=True)
    options.set_wal_recovery_mode(saferocks.DBRecoveryMode.absolute_consistency())
    with pytest.raises(saferocks.CorruptionError):
        saferocks.open(str(with_wal), options=options)
    assert contents(with_wal) == before


@pytest.mark.parametrize("damage", [flip_middle, cut])
def test_a_damaged_log_loses_its_end_and_no_more(with_wal: Path, damage: Callable[[Path], None]) -> None:
    """By default RocksDB reads a write-ahead log up to the damage: the first rows come back, in order."""
    damage(newest(with_wal, "*.log"))
    with saferocks.open(str(with_wal)) as db, db.keys() as keys:
        found = list(keys)
    assert 0 < len(found) < 300
    assert found == [b"k%03d" % number for number in range(len(found))]


def test_an_undamaged_log_loses_nothing(with_wal: Path) -> None:
    """The rows of a process that died come back from the write-ahead log."""
    with saferocks.open(str(with_wal)) as db, db.keys() as keys:
        assert len(list(keys)) == 300


@pytest.mark.parametrize("pattern", ["CURRENT", "MANIFEST-*"])
def test_repair_brings_the_rows_back(folder: Path, pattern: str) -> None:
    """The remedy of the errors works: after `repair` the rows are there again."""
    remove(newest(folder, pattern))
    with pytest.raises(saferocks.CorruptionError, match=r"saferocks\.Rdict\.repair"):
        saferocks.open(str(folder))
    saferocks.Rdict.repair(str(folder))
    with saferocks.open(str(folder)) as db, db.keys() as keys:
        assert len(list(keys)) == ROWS


@pytest.mark.parametrize("damage", [flip_middle, cut, empty])
def test_a_damaged_file_is_not_ingested(tmp_path: Path, db: saferocks.Rdict, damage: Callable[[Path], None]) -> None:
    """An SST file that is damaged is refused as a whole, by a typed error, and the database stays usable."""
    file = tmp_path / "rows.sst"
    with saferocks.SstFileWriter(saferocks.Options(raw_mode=True)) as writer:
        writer.open(str(file))
        for number in range(ROWS):
            writer[b"k%03d" % number] = b"%03d" % number * 30
    damage(file)
    with pytest.raises(saferocks.EngineError, match=r"^(Corruption|Invalid argument): "):
        db.ingest_external_file([str(file)])
        with db.items() as items:  # damage in a data block shows when it is read
            list(items)
    db[b"z"] = b"1"
    assert db[b"z"] == b"1"
