"""D24, log files that RocksDB reads for ever: what saferocks does, and a canary for rocksdict."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import saferocks
from saferocks import _log_files

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

ROWS = 1500
RECYCLED = [5, 6, 7, 8, 11]
OTHERS = [0, 2, 3, 4, 9, 10, 12, 255]
BLOCK = 32768

WRITER = f"""
    import os, saferocks
    db = saferocks.open("db").__enter__()
    db[b"flushed"] = b"v"
    db.flush()
    for number in range({ROWS}):
        db[b"k%04d" % number] = b"v" * 40
    os._exit(0)
"""


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made")


@pytest.fixture
def folder(_made: Path, tmp_path: Path, run_python: Callable[..., subprocess.CompletedProcess[str]]) -> Path:
    """A database whose process died: rows in a file, and more than a block of them in the log alone."""
    if not (_made / "db").exists():
        child = run_python(WRITER)
        assert (child.returncode, child.stderr) == (0, "")
        shutil.move(tmp_path / "db", _made / "db")
    return Path(shutil.copytree(_made / "db", tmp_path / "database"))


def log_of(folder: Path, pattern: str = "*.log") -> Path:
    """Return the newest log file."""
    return max(folder.glob(pattern))


def records(content: bytes) -> list[int]:
    """Return where the records of a log begin."""
    found, at = [], 0
    while at + 7 <= len(content):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        found.append(at)
        at += 7 + struct.unpack_from("<H", content, at + 4)[0]
    return found


def set_type(file: Path, record: int, kind: int) -> int:
    """Change the type of one record, and return where it begins."""
    content = bytearray(file.read_bytes())
    at = records(content)[record]
    content[at + 6] = kind
    file.write_bytes(content)
    return at


def rows_in(folder: Path) -> int:
    """Open the database and count its rows."""
    with saferocks.open(str(folder)) as db, db.keys() as keys:
        return len(list(keys))


@pytest.mark.parametrize("kind", RECYCLED)
@pytest.mark.parametrize("record", [1, 700, -1])
def test_d24_a_log_that_would_be_read_for_ever_is_refused(folder: Path, kind: int, record: int) -> None:
    """A log whose record claims to be written over an older log raises CorruptionError with the file and the place."""
    file = log_of(folder)
    at = set_type(file, record, kind)
    before = file.read_bytes()
    with pytest.raises(saferocks.CorruptionError, match=rf"^Corruption: {file.name} of .* at byte {at}, .*for ever"):
        saferocks.open(str(folder))
    assert file.read_bytes() == before
    assert saferocks.open_handles() == ()


def test_d24_the_remedy_keeps_what_comes_before(folder: Path) -> None:
    """Cut off where the error says, the log gives the rows before that place."""
    file = log_of(folder)
    at = set_type(file, 700, 5)
    file.write_bytes(file.read_bytes()[:at])
    assert rows_in(folder) == 1 + 700


@pytest.mark.parametrize("access", ["read_only", "secondary", "list_cf", "repair"])
def test_d24_every_way_in_refuses_it(folder: Path, access: str) -> None:
    """Read-only and secondary handles, the list of families and a repair refuse a MANIFEST with such a record."""
    set_type(log_of(folder, "MANIFEST-*"), 3, 6)
    path = str(folder)
    ways: dict[str, Callable[[], object]] = {
        "read_only": lambda: saferocks.open(path, access_type=saferocks.AccessType.read_only()),
        "secondary": lambda: saferocks.open(path, access_type=saferocks.AccessType.secondary(f"{path}-secondary")),
        "list_cf": lambda: saferocks.Rdict.list_cf(path),
        "repair": lambda: saferocks.Rdict.repair(path),
    }
    with pytest.raises(saferocks.CorruptionError, match=r"MANIFEST-\d+ of .*for ever"):
        ways[access]()


@pytest.mark.parametrize("kind", OTHERS)
def test_d24_other_damage_is_left_to_rocksdb(folder: Path, kind: int) -> None:
    """A record of any other type ends the log, as RocksDB's recovery has it."""
    set_type(log_of(folder), 700, kind)
    assert rows_in(folder) <= 1 + 700


@pytest.mark.parametrize("record", [0, 700])
def test_d24_what_rocksdb_does_not_come_to_is_no_reason_to_refuse(folder: Path, record: int) -> None:
    """After a record with a wrong checksum RocksDB skips the block: such a record behind it does no harm."""
    file = log_of(folder)
    content = bytearray(file.read_bytes())
    at = records(content)[record]
    content[at] ^= 1
    file.write_bytes(content)
    set_type(file, record + 2, 5)
    assert _log_files.endless_at(str(file)) is None
    assert rows_in(folder) <= 1 + ROWS


def test_d24_an_undamaged_log_is_read_to_its_end(folder: Path) -> None:
    """A log of several blocks that nothing has happened to is not refused, and no row of it is lost."""
    assert log_of(folder).stat().st_size > 2 * BLOCK
    assert rows_in(folder) == 1 + ROWS


def test_d24_a_log_written_over_an_older_one_is_not_refused(tmp_path: Path) -> None:
    """A log that begins with a record of such a type may hold more of them."""
    file = tmp_path / "recycled.log"
    file.write_bytes(b"".join(struct.pack("<IHBI", 0, 5, 5, 9) + b"12345" for _ in range(10)))
    assert _log_files.endless_at(str(file)) is None


@pytest.mark.parametrize("content", [b"", b"\x00", b"\x00" * 7, b"\xff" * 6, b"\x00" * BLOCK * 2, b"\xff" * BLOCK])
def test_d24_odd_logs_come_to_an_end(tmp_path: Path, content: bytes) -> None:
    """Empty, short, zeroed and nonsensical files are looked through to their end."""
    file = tmp_path / "odd.log"
    file.write_bytes(content)
    assert _log_files.endless_at(str(file)) is None


def test_d24_canary_rocksdict_reads_it_for_ever(
    folder: Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """In rocksdict, opening a log with one bit flipped uses up whatever processor time there is."""
    set_type(log_of(folder), 700, 5)
    child = run_python(
        """
        import resource, sys, rocksdict
        resource.setrlimit(resource.RLIMIT_CPU, (2, 2))
        rocksdict.Rdict(sys.argv[1], rocksdict.Options(raw_mode=True))
        """,
        str(folder),
    )
    assert child.returncode < 0, "D24 is mended: saferocks._log_files can go"


@pytest.mark.parametrize("content", [bytes(16), b"MANIFEST-\x00\x00\n", b"MANIFEST-000005\x00"])
def test_a_current_with_a_nul_is_damaged(folder: Path, content: bytes) -> None:
    """A CURRENT with zeros in it raises CorruptionError that names it."""
    (folder / "CURRENT").write_bytes(content)
    with pytest.raises(saferocks.CorruptionError, match=r"^Corruption: CURRENT of"):
        saferocks.open(str(folder))


def damage_header(file: Path, record: int, header: bytes) -> int:
    """Write over the header of a record from its checksum on, and return where that is."""
    content = bytearray(file.read_bytes())
    at = records(content)[record]
    content[at + 7 - len(header) : at + 7] = header
    file.write_bytes(content)
    return at


@pytest.mark.parametrize("header", [b"\xff\x7f\x01", bytes(3)])
@pytest.mark.parametrize("record", [1, 3, -2])
def test_d24_a_manifest_is_not_left_in_its_midst(folder: Path, header: bytes, record: int) -> None:
    """A MANIFEST record with a length beyond the file, or zeroed, raises CorruptionError: files would be forgotten."""
    file = log_of(folder, "MANIFEST-*")
    at = damage_header(file, record, header)
    with pytest.raises(saferocks.CorruptionError, match=rf"^Corruption: {file.name} of .* at byte {at}, .*pass over"):
        saferocks.open(str(folder))


def test_d24_a_log_loses_no_rows_in_its_midst(folder: Path) -> None:
    """A zeroed header in a block of the log before the last raises CorruptionError: rows behind it would go on."""
    file = log_of(folder)
    at = damage_header(file, 100, bytes(7))
    with pytest.raises(saferocks.CorruptionError, match=rf"^Corruption: {file.name} of .* at byte {at}, .*pass over"):
        saferocks.open(str(folder))


@pytest.mark.parametrize("header", [b"\xff\x7f\x01", bytes(7)])
def test_d24_the_end_of_a_log_may_be_lost(folder: Path, header: bytes) -> None:
    """In its last block the rows from such a place on are dropped, as recovery has it, and no others."""
    file = log_of(folder)
    record = len(records(file.read_bytes())) - 5
    damage_header(file, record, header)
    assert ROWS - 10 < rows_in(folder) <= 1 + ROWS - 5


@pytest.mark.parametrize("rest", [bytes(1000), b"\x00" * 7, b"\x01\x02\x03\x04\xff\x7f\x01", b"\x01\x02"])
def test_d24_a_manifest_that_was_being_written_is_not_refused(folder: Path, rest: bytes) -> None:
    """Zeros and a torn record at the end of a MANIFEST are what a crash leaves: all rows are there."""
    with log_of(folder, "MANIFEST-*").open("ab") as file:
        file.write(rest)
    assert rows_in(folder) == 1 + ROWS


def test_d24_canary_rocksdict_passes_over_rows(
    folder: Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """In rocksdict, a zeroed header in a log loses the rows of its block, and those behind come back."""
    damage_header(log_of(folder), 100, bytes(7))
    child = run_python(
        """
        import sys, rocksdict
        db = rocksdict.Rdict(sys.argv[1], rocksdict.Options(raw_mode=True))
        print(len(list(db.keys())), db.get(b"k0101"), db.get(b"k1499"))
        db.close()
        """,
        str(folder),
    )
    rows, lost, last = child.stdout.split()
    assert int(rows) < 1 + ROWS
    assert (lost, last) == ("None", "b'" + "v" * 40 + "'"), "D24 is mended for zeros: _log_files.passed_over_at can go"
