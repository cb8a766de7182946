"""D24, log files that RocksDB reads for ever: what saferocks does, and a canary for rocksdict."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import saferocks
from saferocks import _log_files, _log_reader
from tests.systems import needs_limits, needs_links

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


def records(content: bytes | bytearray) -> list[int]:
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


def refusal(folder: Path) -> str:
    """Open the database, which is refused, and return what is said."""
    with pytest.raises(saferocks.CorruptionError) as caught:
        saferocks.open(str(folder))
    return str(caught.value)


def test_d24_the_remedy_keeps_what_comes_before(folder: Path) -> None:
    """Cut off as the error says, the log gives the rows before that place."""
    file = log_of(folder)
    at = set_type(file, 700, 5)
    assert f"os.truncate(file, {at})" in refusal(folder)
    os.truncate(file, at)
    assert rows_in(folder) == 1 + 700


@pytest.mark.parametrize("remedy", ["os.truncate", "repair"])
def test_d24_what_a_log_would_lose_in_its_midst_can_be_mended(folder: Path, remedy: str) -> None:
    """A log with a hole may be cut off at it, or repaired: RocksDB then keeps what it can read behind it, too."""
    file = log_of(folder)
    at = damage_header(file, 100, bytes(7))
    assert remedy in refusal(folder)
    if remedy == "repair":
        saferocks.Rdict.repair(str(folder))
    else:
        os.truncate(file, at)
    rows = rows_in(folder)
    assert (100 < rows - 1 < ROWS) if remedy == "repair" else rows == 1 + 100


@pytest.mark.parametrize("header", [b"\x06", bytes(7), b"\xff\x7f\x01"])
def test_d24_a_damaged_manifest_can_be_repaired(folder: Path, header: bytes) -> None:
    """The remedy for a MANIFEST is a repair, which puts it aside unread, and no row is lost."""
    damage_header(log_of(folder, "MANIFEST-*"), 3, header)
    message = refusal(folder)
    assert "repair on a copy" in message
    assert "truncate" not in message
    saferocks.Rdict.repair(str(folder))
    assert rows_in(folder) == 1 + ROWS


def test_d24_a_log_without_an_end_is_not_repaired(folder: Path) -> None:
    """A repair reads the logs, so that it refuses one that would be read for ever."""
    at = set_type(log_of(folder), 700, 5)
    with pytest.raises(saferocks.CorruptionError, match=rf"for ever; .*os.truncate\(file, {at}\)"):
        saferocks.Rdict.repair(str(folder))


@pytest.mark.parametrize("access", ["open", "read_only", "secondary", "list_cf"])
def test_d24_every_way_in_refuses_it(folder: Path, access: str) -> None:
    """Every sort of handle, and the list of families, refuse a MANIFEST with such a record."""
    set_type(log_of(folder, "MANIFEST-*"), 3, 6)
    path = str(folder)
    ways: dict[str, Callable[[], object]] = {
        "open": lambda: saferocks.open(path),
        "read_only": lambda: saferocks.open(path, access_type=saferocks.AccessType.read_only()),
        "secondary": lambda: saferocks.open(path, access_type=saferocks.AccessType.secondary(f"{path}-secondary")),
        "list_cf": lambda: saferocks.Rdict.list_cf(path),
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
    assert _log_files.damage_in(str(file), is_manifest=False) is None
    assert rows_in(folder) <= 1 + ROWS


def test_d24_an_undamaged_log_is_read_to_its_end(folder: Path) -> None:
    """A log of several blocks that nothing has happened to is not refused, and no row of it is lost."""
    assert log_of(folder).stat().st_size > 2 * BLOCK
    assert rows_in(folder) == 1 + ROWS


@pytest.mark.parametrize("damage", ["hole", "checksum"])
def test_d24_a_repair_stops_at_nothing_but_that(folder: Path, damage: str) -> None:
    """A repair reads on behind a hole or a wrong checksum, and comes to what it would read for ever."""
    file = log_of(folder)
    set_type(file, -1, 5)
    content = bytearray(file.read_bytes())
    at = records(content)[100]
    content[at : at + 7] = bytes(7) if damage == "hole" else bytes(4) + content[at + 4 : at + 7]
    file.write_bytes(content)
    with pytest.raises(saferocks.CorruptionError, match=r"for ever"):
        saferocks.Rdict.repair(str(folder))


def record(kind: int, content: bytes = b"content", log_number: bytes = b"") -> bytes:
    """Return a record with the right checksum."""
    crc = _log_reader._crc32c(bytes([kind]) + log_number + content)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return struct.pack("<IHB", masked, len(content), kind) + log_number + content


def recycled(kind: int) -> bytes:
    """Return a record of a log that was written over an older one."""
    return record(kind, log_number=b"\x09\x00\x00\x00")


@pytest.mark.parametrize("first", [b"", record(9), record(10), record(9) + record(10), record(9) + recycled(11)])
@pytest.mark.parametrize("kinds", [[5, 5], [6, 7, 8, 5]])
def test_d24_a_log_written_over_an_older_one_is_not_refused(tmp_path: Path, first: bytes, kinds: list[int]) -> None:
    """A log of which no data came before a record of such a type may hold more of them, and anything behind them."""
    file = tmp_path / "recycled.log"
    written = first + b"".join(map(recycled, kinds))
    file.write_bytes((written + bytes(7) + record(1) * 10).ljust(3 * BLOCK, b"\0"))
    assert _log_files.damage_in(str(file), is_manifest=False) is None


@pytest.mark.parametrize(
    "before", [record(1), record(9) + record(1), record(2) + record(3) + record(4), record(10) + record(1)]
)
def test_d24_after_data_such_a_record_is_read_for_ever(tmp_path: Path, before: bytes) -> None:
    """Notes do not tell how a log is written; the first data does."""
    file = tmp_path / "mixed.log"
    file.write_bytes(before + recycled(5))
    assert _log_files.damage_in(str(file), is_manifest=False) == _log_reader.Damage(len(before), endless=True)


def test_d24_after_half_a_record_such_a_record_is_no_reason_to_refuse(tmp_path: Path) -> None:
    """The first piece of a record is no record yet: RocksDB takes the log for one of that sort."""
    file = tmp_path / "pieces.log"
    file.write_bytes(record(2) + recycled(5) * 3)
    assert _log_files.damage_in(str(file), is_manifest=False) is None


def test_d24_zeros_that_fill_a_block_are_no_damage(tmp_path: Path) -> None:
    """Where a note does not fit into a block, RocksDB fills the rest of it with zeros, and goes on in the next."""
    file = tmp_path / "filled.log"
    file.write_bytes((record(1) * 100).ljust(BLOCK, b"\0") + record(10) + record(1))
    assert _log_files.damage_in(str(file), is_manifest=False) is None


def test_d24_damage_that_rocksdb_reports_is_left_to_it(folder: Path) -> None:
    """After a wrong checksum RocksDB reads one more record and stops: a hole in a later block it does not come to."""
    file = log_of(folder)
    content = bytearray(file.read_bytes())
    begins = records(content)
    later = next(at for at in begins if at > BLOCK)
    content[begins[10]] ^= 1
    content[later : later + 7] = bytes(7)
    file.write_bytes(content)
    assert _log_files.damage_in(str(file), is_manifest=False) is None
    assert rows_in(folder) == 1 + 10


HOLE = bytes(7) + record(1) * 3
TORN = record(1)[:4] + b"\xff\x0f\x01content" + record(1) * 3


@pytest.mark.parametrize(
    ("behind", "is_manifest"),
    [(HOLE.ljust(BLOCK, b"\0"), False), (record(1) + recycled(5), False), (HOLE, True), (TORN, True)],
)
@pytest.mark.parametrize("reported", [False, True])
def test_d24_after_a_report_nothing_is_passed_over(
    tmp_path: Path, behind: bytes, is_manifest: bool, reported: bool
) -> None:
    """What would be refused in the second block is not, if RocksDB stops with an error for what is in the first."""
    first = bytearray(record(1) * 3 + record(1, bytes(BLOCK - 7 - 3 * len(record(1)))))
    assert len(first) == BLOCK
    first[14] ^= reported
    file = tmp_path / "reported.log"
    file.write_bytes(bytes(first) + behind)
    assert (_log_files.damage_in(str(file), is_manifest=is_manifest) is None) is reported


def test_d24_a_report_does_not_stop_the_reader_at_once(folder: Path) -> None:
    """RocksDB goes on after a wrong checksum to the next record: one of such a type it reads for ever."""
    file = log_of(folder)
    begins = records(file.read_bytes())
    later = next(number for number, at in enumerate(begins) if at % BLOCK == 0 and at)
    content = bytearray(file.read_bytes())
    content[begins[10]] ^= 1
    file.write_bytes(content)
    set_type(file, later, 5)
    assert f"at byte {begins[later]}, where RocksDB would try to read on for ever" in refusal(folder)


def test_d24_an_older_manifest_is_not_looked_at(folder: Path) -> None:
    """A MANIFEST that CURRENT does not name is never read, whatever is in it."""
    older = folder / "MANIFEST-000001"
    shutil.copy(log_of(folder, "MANIFEST-*"), older)
    set_type(older, 3, 6)
    assert rows_in(folder) == 1 + ROWS


@needs_links
def test_d24_a_log_that_cannot_be_read_is_left_to_rocksdb(folder: Path) -> None:
    """What has vanished since the directory was listed, or is no file, is no reason to refuse."""
    (folder / "000900.log").symlink_to("gone")
    (folder / "000901.log").mkdir()
    _log_files.check(str(folder))
    _log_files.check_for_repair(str(folder))


def test_d24_a_torn_manifest_with_bytes_of_a_log_is_not_refused(folder: Path) -> None:
    """A last record that is torn is what a crash leaves, though whole records of a log are in what it holds."""
    file = log_of(folder, "MANIFEST-*")
    whole = file.read_bytes()
    last = record(1, b"a key of " + record(1) * 3 + b" and what follows it" * 20)
    for cut in range(len(last)):
        file.write_bytes(whole + last[:cut])
        assert _log_files.damage_in(str(file), is_manifest=True) is None, cut


@pytest.mark.parametrize("content", [b"", b"\x00", b"\x00" * 7, b"\xff" * 6, b"\x00" * BLOCK * 2, b"\xff" * BLOCK])
def test_d24_odd_logs_come_to_an_end(tmp_path: Path, content: bytes) -> None:
    """Empty, short, zeroed and nonsensical files are looked through to their end."""
    file = tmp_path / "odd.log"
    file.write_bytes(content)
    assert _log_files.damage_in(str(file), is_manifest=False) is None


@needs_limits
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


def test_d24_the_last_record_of_a_manifest_is_not_lost(folder: Path) -> None:
    """Its checksum tells that it was whole, and that its length was not."""
    file = log_of(folder, "MANIFEST-*")
    at = damage_header(file, -1, b"\xff\x0f\x01")
    with pytest.raises(saferocks.CorruptionError, match=rf"^Corruption: {file.name} of .* at byte {at}, .*pass over"):
        saferocks.open(str(folder))


@pytest.mark.parametrize("header", [b"\x01\x02\x03\x04\xff\x7f\x01", b"\x01\x02\x03\x04\xff\x0f\xee"])
def test_d24_a_manifest_with_a_header_that_none_can_have_is_refused(folder: Path, header: bytes) -> None:
    """Longer than its block, or of no type: that was not torn, and records after it would be passed over."""
    at = damage_header(log_of(folder, "MANIFEST-*"), 2, header)
    assert f"damaged at byte {at}, and RocksDB would silently pass over" in refusal(folder)


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
    assert (lost, last) == ("None", "b'" + "v" * 40 + "'"), "D24 is mended for zeros: LogReader's zeros can go"
