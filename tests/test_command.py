"""The `saferocks` command, as a child process: what it says, and that it changes nothing."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import pickle
import pty
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyte
import pytest

import saferocks
from saferocks import _checkup, _directory, _lock_holder, _log_files, _manifest, _shadow, _shadow_files

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent
CHILD_SECONDS = 60.0
COMMAND = (sys.executable, "-W", "error", "-m", "saferocks._command")
READING = ("inspect", "scan", "doctor", "verify")


@pytest.fixture
def environment(temporary: Path) -> dict[str, str]:
    """The environment of the command, without what the outer run may have set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SAFEROCKS_", "PYTEST_"))}
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        kept.pop(name, None)
    return {**kept, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)}


@pytest.fixture
def command(environment: dict[str, str], temporary: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command, and see that nothing temporary stays behind."""

    def run(
        *arguments: str, env: dict[str, str] | None = None, cwd: Path | None = None, files: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        limit = () if files is None else ("bash", "-c", f'ulimit -n {files}; exec "$0" "$@"')
        done = subprocess.run(
            [*limit, *COMMAND, *arguments],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=CHILD_SECONDS,
            env={**environment, **(env or {})},
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert list(temporary.iterdir()) == []
        assert "Traceback" not in done.stderr
        return done

    return run


def tree(folder: str) -> dict[str, Any]:
    """Return all that can change in a directory: names, contents, inodes, modes and times of change."""
    found: dict[str, Any] = {}
    for place, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            file = os.path.join(place, name)
            status = os.lstat(file)
            content = hashlib.sha256(Path(file).read_bytes()).hexdigest() if os.path.isfile(file) else None
            times = (status.st_mtime_ns, status.st_ctime_ns)
            found[os.path.normpath(file) + name] = (content, *times, status.st_ino, status.st_mode, status.st_size)
    return found


def without_log(found: dict[str, Any]) -> dict[str, Any]:
    """Leave out the info log of a database that is open: whoever has it open writes it at any time."""
    return {name: what for name, what in found.items() if not name.endswith("LOG")}


def wait_for_one_log(path: str) -> None:
    """Return once RocksDB has deleted the log before a flush: now and then the flush returns a little earlier."""
    deadline = time.monotonic() + CHILD_SECONDS
    while len(logs := list(Path(path).glob("*.log"))) > 1:
        assert time.monotonic() < deadline, logs


@pytest.fixture
def filled(path: str) -> str:
    """A closed database: 2,000 rows in a file, 10 in the log, and a column family with unusual bytes."""
    with saferocks.open(path) as db:
        for number in range(2000):
            db[b"user:%04d" % number] = os.urandom(50)
        db.flush()
        odd = db.create_column_family("odd\x1b[31m")
        odd[b"\xff\x1b[2J"] = b"\x9b \xe2\x80\xae \\ caf\xc3\xa9"
        odd.flush()
        for number in range(10):
            db[b"visit:%d" % number] = b"%d" % number
    return path


class Mischief:
    """Leaves a mark if it is unpickled."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.mark),)


@pytest.fixture
def typed(tmp_path: Path) -> str:
    """A closed typed database with a value of each type; one is a pickle that leaves a mark if it is loaded."""
    path = str(tmp_path / "typed")
    with saferocks.open(path, raw_mode=False, allow_pickle=True) as db:
        db.set_dumps(pickle.dumps)
        db[b"bytes"] = b"\xff"
        db["text\x1b"] = 'a "quote"'
        db["worse"] = Mischief(str(tmp_path / "mark"))
        db[-3] = 10**30
        db[1.5] = float("inf")
        db[True] = False
    return path


# --------------------------------------------------------------------------- it changes nothing


@pytest.mark.parametrize("name", READING)
def test_a_closed_database_stays_as_it_is(command, filled: str, typed: str, name: str) -> None:
    """No byte, name, inode or time of change in the directory of a database is another afterwards."""
    for path in (filled, typed):
        before = tree(path)
        done = command(name, path)
        assert (done.returncode, done.stderr) == (0, "")
        assert tree(path) == before


def test_the_check_sees_a_change(filled: str) -> None:
    """Opened by rocksdict's own way to read, the same directory is not as it was, which the check sees."""
    before = tree(filled)
    with saferocks.open(filled, access_type=saferocks.AccessType.read_only()):
        pass
    assert tree(filled) != before


@pytest.mark.parametrize("name", READING)
def test_logs_elsewhere_stay_as_they_are(command, tmp_path: Path, name: str) -> None:
    """Where the info log and the write-ahead log are in other directories, those do not change either."""
    options = saferocks.Options(raw_mode=True)
    for setting, folder in ((options.set_db_log_dir, "logs"), (options.set_wal_dir, "wal")):
        (tmp_path / "all" / folder).mkdir(parents=True)
        setting(str(tmp_path / "all" / folder))
    with saferocks.open(str(tmp_path / "all" / "db"), options=options) as db:
        db[b"flushed"] = b"1"
        db.flush()
        db[b"logged"] = b"2"
    before = tree(str(tmp_path / "all"))
    assert command(name, str(tmp_path / "all" / "db")).returncode == 0
    assert tree(str(tmp_path / "all")) == before
    rows = command("scan", str(tmp_path / "all" / "db")).stdout
    assert rows == "flushed\t1\nlogged\t2\n"


@pytest.mark.parametrize("name", READING)
def test_a_database_that_is_open_elsewhere(command, path: str, db: saferocks.Rdict, name: str) -> None:
    """It can be read while this process has it open, whose files stay as they are, and which loses nothing (D8)."""
    for number in range(1000):
        db[b"%04d" % number] = b"1"
    db.flush()
    wait_for_one_log(path)
    db[b"logged"] = b"2"
    before = without_log(tree(path))
    done = command(name, path)
    assert (done.returncode, done.stderr) == (0, "")
    assert without_log(tree(path)) == before
    for number in range(1000, 3000):
        db[b"%04d" % number] = b"1"
    db.flush()
    db.close()
    with saferocks.open(path) as again, again.keys() as keys:
        assert len(list(keys)) == 3001


def test_a_database_that_is_written_meanwhile(command, path: str, db: saferocks.Rdict) -> None:
    """While another process writes, flushes and compacts all the time, each reading is of one whole state."""
    stop, failures = threading.Event(), []

    def write() -> None:
        try:
            turn = 0
            while not stop.is_set():
                turn += 1
                with db.write_batch() as batch:
                    for number in range(100):
                        batch[b"%03d" % number] = b"%d" % turn
                db.flush()
                if turn % 4 == 0:
                    db.compact_range(None, None)
        except BaseException as error:
            failures.append(error)

    with db.write_batch() as batch:
        for number in range(100):
            batch[b"%03d" % number] = b"0"
    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(4):
            done = command("scan", path)
            assert (done.returncode, done.stderr) == (0, "")
            values = [line.split("\t")[1] for line in done.stdout.splitlines()]
            assert len(values) == 100
            assert len(set(values)) == 1
            done = command("verify", path)
            assert (done.returncode, done.stderr) == (0, "")
    finally:
        stop.set()
        writer.join(CHILD_SECONDS)
    assert failures == []


@pytest.mark.parametrize("before", [True, False])
def test_tables_that_come_and_go_meanwhile(path: str, db: saferocks.Rdict, monkeypatch, before: bool) -> None:
    """A writer that replaces all tables just before or just after the moment, and again and again, is not too fast."""
    turns = itertools.count(1)

    def replace() -> None:
        for _ in range(2):
            db[b"turn"] = b"%d" % next(turns)
            db.flush()
        db.compact_range(None, None)

    def take(*arguments: Any) -> None:
        if before:
            replace()
        go_on(*arguments)
        if not before:
            replace()

    def read_manifest(*arguments: Any) -> Any:
        replace()
        return read(*arguments)

    go_on, read = _shadow_files._take, _manifest.read_manifest
    replace()
    monkeypatch.setattr(_shadow, "_PATIENCE", 1.0)
    monkeypatch.setattr(_shadow_files, "_take", take)
    monkeypatch.setattr(_manifest, "read_manifest", read_manifest)
    with _shadow.open_unchanged(path) as reading:
        # Up to the end of the newest log that there was: one more row went into it before the next flush.
        assert reading.families["default"][b"turn"] == (b"5" if before else b"3")


def test_logs_that_come_and_go_meanwhile(path: str, db: saferocks.Rdict, monkeypatch) -> None:
    """A writer that begins a new log at each moment is too fast, which says so; nothing is made up of two moments."""
    go_on, calls = _shadow_files._open_manifest, []

    def open_manifest(*arguments: Any) -> Any:
        db[b"turn"] = b"%d" % len(calls)
        db.flush()
        calls.append(arguments)
        return go_on(*arguments)

    monkeypatch.setattr(_shadow, "_PATIENCE", 0.0)
    monkeypatch.setattr(_shadow_files, "_MOMENTS", 5)
    monkeypatch.setattr(_shadow_files, "_open_manifest", open_manifest)
    with (
        pytest.raises(saferocks.BusyError, match="change faster than they can be opened"),
        _shadow.open_unchanged(path),
    ):
        pytest.fail("it was opened")
    assert len(calls) == 5


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("step", ["_open", "_open_manifest"])
def test_a_log_that_is_recycled_meanwhile(tmp_path: Path, path: str, monkeypatch, elsewhere: bool, step: str) -> None:
    """A log that its writer writes over at any step of the opening costs the reading no row of a moment."""
    options = saferocks.Options(raw_mode=True)
    options.set_recycle_log_file_num(2)
    if elsewhere:
        options.set_wal_dir(str(tmp_path / "wal"))
    logs = tmp_path / "wal" if elsewhere else Path(path)
    module = _shadow if step == "_open" else _shadow_files
    go_on, calls = getattr(module, step), []
    with saferocks.open(path, options=options) as db:
        for _ in range(5):
            db[b"flushed"] = b"1"
            db.flush()
        db[b"logged"] = b"1"
        before = {file.stat().st_ino: file.name for file in logs.glob("*.log")}

        def go_on_late(*arguments: Any) -> Any:
            if not calls:
                for _ in range(3):
                    db[b"later"] = b"1"
                    db.flush()
                after = {file.stat().st_ino: file.name for file in logs.glob("*.log")}
                assert all(after.get(inode) != name for inode, name in before.items())  # written over, or deleted
            calls.append(arguments)
            return go_on(*arguments)

        monkeypatch.setattr(module, step, go_on_late)
        with _shadow.open_unchanged(path) as reading, reading.families["default"].keys() as keys:
            found = list(keys)
    if step == "_open":
        assert (found, len(calls)) == ([b"flushed", b"logged"], 1)  # the state before, which had been copied
    else:
        assert found == [b"flushed", b"later", b"logged"]
        assert len(calls) >= 2  # begun anew; and again if RocksDB deletes an old log meanwhile


@pytest.mark.parametrize("module", [_directory, _manifest])
def test_a_manifest_that_is_replaced_meanwhile(path: str, monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    """A MANIFEST that a writer replaces between the look at CURRENT and at itself is no damage."""
    with saferocks.open(path):
        old = _manifest.current_name(path)
    opened: list[str] = []

    def open_late(file: str, *arguments: Any, **more: Any) -> Any:
        if os.path.basename(file) == old and not opened:
            opened.append(file)
            with saferocks.open(path):  # each opening makes a new MANIFEST
                assert not os.path.exists(file)
        return open(file, *arguments, **more)

    monkeypatch.setattr(module, "open", open_late, raising=False)
    assert _shadow.check_database(path) == path
    assert _manifest.read_manifest(path).name != old
    assert len(opened) == 1


def test_doctor_misses_no_file_that_a_writer_deletes(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that a compaction takes away after the MANIFEST was read is not missing; one that is needed is."""
    look = _checkup._wrong
    with saferocks.open(path) as db:
        for _ in range(3):
            db[b"k"] = b"v"
            db.flush()

        first = min(Path(path).glob("*.sst"))

        def look_later(*arguments: Any) -> str | None:
            for _ in range(2000):
                if not first.exists():
                    break
                db[b"k"] = b"v"
                db.flush()  # by the fourth file RocksDB compacts, which deletes the first
            assert not first.exists()
            return look(*arguments)

        monkeypatch.setattr(_checkup, "_wrong", look_later)
        assert [finding.text for finding in _checkup.findings(path) if finding.level == "problem"] == []
    table = Path(path, _manifest.read_manifest(path).files[0].name)
    table.unlink()
    monkeypatch.setattr(_checkup, "_wrong", look)
    problems = [finding.text for finding in _checkup.findings(path) if finding.level == "problem"]
    assert problems == [f"{table.name} of column family default is missing"]


def test_a_log_that_goes_while_it_is_looked_through(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log file that its writer removes in the midst of the look for damage is none, and the rest is looked at."""
    with saferocks.open(path) as db:
        db[b"k"] = b"v"
    gone, look = Path(path) / "999999.log", _log_files.damage_in
    gone.touch()
    seen: list[str] = []

    def remove_and_look(file: str, **kind: bool) -> Any:
        seen.append(os.path.basename(file))
        if file == str(gone):
            gone.unlink()
        return look(file, **kind)

    monkeypatch.setattr(_log_files, "damage_in", remove_and_look)
    _log_files.check(path)
    assert not gone.exists()
    assert gone.name in seen
    assert len(seen) >= 2


def test_blob_files(command, path: str) -> None:
    """Values in blob files, which RocksDB opens only when it comes to them, are read and verified too."""
    options = saferocks.Options(raw_mode=True)
    options.set_enable_blob_files(True)
    with saferocks.open(path, options=options) as db:
        for number in range(100):
            db[b"%03d" % number] = b"value %d" % number
        db.flush()
    assert command("scan", path, "--reverse", "--limit", "1").stdout == "099\tvalue 99\n"
    assert command("verify", path).returncode == 0
    (blob,) = Path(path).glob("*.blob")
    content = blob.read_bytes()
    blob.write_bytes(content.replace(b"value 50", b"value XX"))
    done = command("verify", path)
    assert done.stdout.startswith(
        "problem default: damaged, after 50 rows, the rest was not read: Corruption: Blob CRC"
    )
    assert done.returncode == 1
    blob.unlink()
    assert f"blob file {blob.name} is missing" in command("doctor", path).stdout
    done = command("scan", path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


# --------------------------------------------------------------------------- files that are elsewhere, or too many


LOGGED_ELSEWHERE = """
import os, sys
import saferocks
options = saferocks.Options(raw_mode=True)
options.set_wal_dir("logs")
db = saferocks.open("db", options=options).__enter__()
db[b"flushed"] = b"1"
db.flush()
db[b"logged"] = b"2"
os._exit(0)
"""


def test_logs_that_are_not_there_are_missed(command, run_python, tmp_path: Path, monkeypatch) -> None:
    """Where the directory of the write-ahead log is not found, it is said so, and not that all rows were read."""
    monkeypatch.chdir(tmp_path)
    assert run_python(LOGGED_ELSEWHERE).returncode == 0
    path = str(tmp_path / "db")
    assert command("scan", path, cwd=tmp_path).stdout == "flushed\t1\nlogged\t2\n"
    done = command("scan", path, cwd=tmp_path / "db")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "is in 'logs', and there is no such directory here; run this where" in done.stderr
    for name in ("verify", "doctor"):
        done = command(name, path, cwd=tmp_path / "db")
        assert (done.returncode, done.stderr) == (1, "")
        assert "is in 'logs', and there is no such directory here" in done.stdout
        assert "all rows were read" not in done.stdout


def test_a_checkpoint_has_its_own_logs(command, tmp_path: Path) -> None:
    """Of a checkpoint of a database with its logs elsewhere no row is shown that was written to those later."""
    options = saferocks.Options(raw_mode=True)
    options.set_wal_dir(str(tmp_path / "logs"))
    with saferocks.open(str(tmp_path / "db"), options=options) as db:
        db[b"before"] = b"1"
        with saferocks.Checkpoint(db) as checkpoint:
            checkpoint.create_checkpoint(str(tmp_path / "copy"))
        db[b"later"] = b"1"
        assert command("scan", str(tmp_path / "copy")).stdout == "before\t1\n"
        assert command("scan", str(tmp_path / "db")).stdout == "before\t1\nlater\t1\n"


def test_files_in_other_directories(command, tmp_path: Path) -> None:
    """SST files in the directories of `set_db_paths`, which nothing on disk names, are read where they are given."""
    places = [str(tmp_path / name) for name in ("fast", "slow")]
    for place in places:
        Path(place).mkdir()
    options = saferocks.Options(raw_mode=True)
    options.set_db_paths([saferocks.DBPath(places[0], 30_000), saferocks.DBPath(places[1], 1 << 30)])
    path = str(tmp_path / "db")
    with saferocks.open(path, options=options) as db:
        for _ in range(2000):
            if any(Path(places[1]).glob("*.sst")):
                break
            db[b"k"] = b"v"
            db.flush()  # by the fourth file RocksDB compacts, into the second directory
    assert any(Path(places[1]).glob("*.sst"))
    before = [tree(folder) for folder in (path, *places)]
    for name in READING:
        given = command(name, path, "--db-path", places[0], "--db-path", places[1])
        assert (given.returncode, given.stderr) == (0, "")
        done = command(name, path)
        assert done.returncode == 1
        assert "name those with --db-path" in done.stdout + done.stderr
        assert (" there, in full" in given.stdout) == (name == "doctor")
    assert [tree(folder) for folder in (path, *places)] == before


@pytest.mark.parametrize("name", ["scan", "verify", "doctor"])
def test_more_files_than_may_be_opened(command, path: str, name: str) -> None:
    """What a process may not open is no damage: with room for each file once it is read, with less it is said so."""
    options = saferocks.Options(raw_mode=True)
    options.set_disable_auto_compactions(True)
    options.set_level_zero_slowdown_writes_trigger(1000)
    options.set_level_zero_stop_writes_trigger(1000)
    with saferocks.open(path, options=options) as db:
        for number in range(150):
            db[b"%03d" % number] = b"v"
            db.flush()
    done = command(name, path, files=280)
    assert (done.returncode, done.stderr) == (0, "")
    done = command(name, path, files=120)
    assert "damaged" not in done.stdout
    assert "problem" not in done.stdout
    if name != "doctor":  # which reads no row
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "Too many open files; let it open more (ulimit -n)" in done.stderr


def test_temporary_files_are_never_in_the_database(command, filled: str) -> None:
    """Where TMPDIR is the directory of the database, or in it, another one is taken, and nothing changes."""
    before = tree(filled)
    for folder in (filled, "."):
        assert command("scan", filled, env={"TMPDIR": folder}, cwd=Path(filled)).returncode == 0
        assert tree(filled) == before


# --------------------------------------------------------------------------- scan


def test_a_scan_of_raw_bytes(command, filled: str) -> None:
    """Rows come one a line in order, from the log as well, and options choose and turn them."""
    rows = command("scan", filled).stdout.splitlines()
    assert len(rows) == 2010
    assert rows[-1] == "visit:9\t9"
    assert command("scan", filled, "--prefix", "visit:", "--limit", "2").stdout == "visit:0\t0\nvisit:1\t1\n"
    assert command("scan", filled, "--limit", "9" * 30, "--prefix", "visit:9").stdout == "visit:9\t9\n"
    assert command("scan", filled, "--from", "visit:8").stdout == "visit:8\t8\nvisit:9\t9\n"
    back = command("scan", filled, "--reverse", "--prefix", "visit:", "--from", "visit:1")
    assert back.stdout == "visit:1\t1\nvisit:0\t0\n"


def test_a_scan_shows_no_control_characters(command, filled: str) -> None:
    """Escapes, C1 controls and turned writing come out as what they are, and can be given back as a prefix."""
    shown = "\\xff\\x1b[2J\t\\x9b \\xe2\\x80\\xae \\\\ café\n"
    done = command("scan", filled, "--column-family", "odd\x1b[31m", "--prefix", "\\xff\\x1b[2J")
    assert (done.stdout, done.returncode) == (shown, 0)
    (row,) = map(json.loads, command("scan", filled, "--column-family", "odd\x1b[31m", "--json").stdout.splitlines())
    assert row == {
        "key": "/xtbMko=",
        "key_type": "base64",
        "value": "myDigK4gXCBjYWbDqQ==",
        "value_type": "base64",
    }


def test_a_scan_of_typed_values(command, typed: str, tmp_path: Path) -> None:
    """Each type shows as what it is, and a pickle is named and never loaded."""
    done = command("scan", typed)
    size = len(pickle.dumps(Mischief(str(tmp_path / "mark"))))
    assert done.stdout.splitlines() == [
        'b"bytes"\tb"\\xff"',
        '"text\\x1b"\t"a \\"quote\\""',
        f'"worse"\t<pickle of {size} bytes>',
        "-3\t1000000000000000000000000000000",
        "1.5\tinf",
        "True\tFalse",
    ]
    rows = [json.loads(line) for line in command("scan", typed, "--json").stdout.splitlines()]
    assert [row["key_type"] for row in rows] == ["bytes", "str", "str", "int", "float", "bool"]
    assert [row["value_type"] for row in rows] == ["base64", "str", "pickle", "int", "float", "bool"]
    assert command("verify", typed).returncode == 0
    assert not (tmp_path / "mark").exists()
    assert command("scan", typed, "--from", "1.0", "--key-type", "float").stdout == "1.5\tinf\nTrue\tFalse\n"
    assert command("scan", typed, "--prefix", "wor").stdout.startswith('"worse"')


def test_a_scan_of_wide_columns(command, path: str) -> None:
    """All columns of a row of wide columns are shown, each with its name."""
    with saferocks.open(path) as db:
        db.put_entity(b"k", [b"a", b"b\t"], [b"1", b"2"])
        db[b"plain"] = b""
    assert command("scan", path).stdout == "k\ta=1\tb\\x09=2\nplain\t\n"
    row, plain = map(json.loads, command("scan", path, "--json").stdout.splitlines())
    assert row["columns"][0] == {"name": "a", "name_type": "bytes", "value": "1", "value_type": "bytes"}
    assert plain == {"key": "plain", "key_type": "bytes", "value": "", "value_type": "bytes"}


def test_a_scan_of_typed_values_with_a_time_to_live(command, path: str) -> None:
    """Their keys are shown, and no value, of which rocksdict takes the time for a part."""
    access = saferocks.AccessType.with_ttl(1000)
    with saferocks.open(path, raw_mode=False, access_type=access) as db:
        for value in (5, 1.5, "text"):
            db[str(value)] = value
    done = command("scan", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split("\t") for line in done.stdout.splitlines()] == [
        [f'"{value}"', "<value with a time to live>"] for value in ("1.5", "5", "text")
    ]
    rows = [json.loads(line) for line in command("scan", path, "--json").stdout.splitlines()]
    assert rows[0] == {"key": "1.5", "key_type": "str", "value": None, "value_type": "with_ttl"}


def test_a_scan_of_very_long_numbers(command, path: str) -> None:
    """Numbers of more digits than Python writes in decimal are written in hexadecimal, and read so."""
    with saferocks.open(path, raw_mode=False) as db:
        db[-(2**20000)] = 2**20000
    shown = hex(2**20000)
    assert command("scan", path).stdout == f"-{shown}\t{shown}\n"
    (row,) = map(json.loads, command("scan", path, "--json").stdout.splitlines())
    assert row == {"key": f"-{shown}", "key_type": "int", "value": shown, "value_type": "int"}
    assert command("scan", path, f"--from=-{shown}", "--key-type", "int").stdout == f"-{shown}\t{shown}\n"


def test_a_quote_is_given_as_it_is_shown(command, path: str) -> None:
    """A quote in a typed key is shown with a backslash, and can be given so."""
    with saferocks.open(path, raw_mode=False) as db:
        db['a "b"'] = 1
    assert command("scan", path).stdout == '"a \\"b\\""\t1\n'
    assert command("scan", path, "--prefix", 'a \\"b').stdout == '"a \\"b\\""\t1\n'


# --------------------------------------------------------------------------- inspect, doctor, verify


def test_inspect_says_what_is_there(command, filled: str) -> None:
    """Column families, their entries and files, and options are shown, and names cannot reach the terminal."""
    done = command("inspect", filled)
    words = [line.split() for line in done.stdout.splitlines()]
    assert ["keys", "and", "values", "raw", "bytes"] in words
    assert ["default", "2010"] in [line[:2] for line in words]
    assert ["default", "write_buffer_size", "67108864"] in words
    assert any(line[:1] == ["odd\\x1b[31m"] for line in words)
    assert "\x1b" not in done.stdout
    assert len(command("inspect", filled, "--options").stdout.splitlines()) > len(words) + 200


def test_doctor_names_the_holder(command, path: str, db: saferocks.Rdict) -> None:
    """Who has the database open is named by its process."""
    done = command("doctor", path)
    assert f"open for writing in process {os.getpid()}: " in done.stdout
    db.close()
    assert "no process has it open for writing" in command("doctor", path).stdout


def test_a_lock_of_the_same_number_elsewhere(tmp_path: Path) -> None:
    """A process that holds a lock holds this one only if it has this file open, of which its own files tell."""
    file, other = tmp_path / "LOCK", tmp_path / "other"
    other.touch()
    with file.open("w"):
        assert _lock_holder.may_have_open(os.getpid(), file.stat())
        assert not _lock_holder.may_have_open(os.getpid(), other.stat())
    assert not _lock_holder.may_have_open(os.getpid(), file.stat())


def test_doctor_finds_what_is_wrong(command, filled: str) -> None:
    """A missing file, leftovers of SST writers, a wrong mode and errors in the log are named, with what to do."""
    folder = Path(filled)
    (table,) = (file for file in folder.glob("*.sst") if file.stat().st_size > 10_000)
    table.rename(folder / "whole.sst")
    (folder / "part.sst").write_bytes((folder / "whole.sst").read_bytes()[:999])
    (folder / "rocksdict-config.json").write_text('{"raw_mode": false}')
    (folder / "mine\x1b.txt").touch()
    with (folder / "LOG").open("a") as log:
        log.write("2030/01/02-03:04:05.678901 42 [ERROR] [db/error.cc:1] Failed: No space left on device\n")
    before = tree(filled)
    done = command("doctor", filled)
    found = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    problems = [text for level, text in found if level == "problem"]
    starts = (
        "rocksdict-config.json says raw_mode=False; write {",
        f"{table.name} of column family default is missing; restore it",
        "part.sst is an SST file that its writer did not finish; delete it",
        "2030/01/02-03:04:05.678901 [db/error.cc:1] Failed: No space left on device; make room",
        "it does not open: ",
    )
    assert [text.startswith(start) for text, start in zip(problems, starts, strict=True)] == [True] * len(starts)
    notes = [text for level, text in found if level == "note"]
    assert notes[0].startswith("mine\\x1b.txt is no file of RocksDB")
    assert notes[1].startswith("whole.sst is a finished SST file that was never ingested")
    assert (done.returncode, done.stderr, len(notes)) == (1, "", 2)
    assert tree(filled) == before


@pytest.mark.parametrize(
    ("free", "own", "level"),
    [
        (400 << 30, 1 << 30, "note"),
        (2 << 40, 1 << 30, "ok"),
        (400 << 30, 500 << 30, "problem"),
        (1 << 29, 1, "problem"),
    ],
)
def test_doctor_judges_the_room_on_the_disk(free: int, own: int, level: str) -> None:
    """Too little is what a compaction of this database would not fit in, not a share of a disk of 10 TiB."""
    assert _checkup.room(free, 10 << 40, own).level == level


def test_verify_names_family_and_file(command, filled: str) -> None:
    """A flipped byte in a file is found, named with its column family and its own path; other families are read."""
    (table,) = (file for file in Path(filled).glob("*.sst") if file.stat().st_size > 10_000)
    with table.open("r+b") as file:
        file.seek(40_000)
        file.write(b"damage")
    before = tree(filled)
    done = command("verify", filled)
    first, second, *_ = done.stdout.splitlines()
    assert first.startswith(f"problem default: damaged in {table.name} (level 0 of default), after ")
    assert "Corruption: block checksum mismatch" in first
    assert f"in {table} offset" in first
    assert second == "ok      odd\\x1b[31m: 1 row"
    assert (done.returncode, done.stderr) == (1, "")
    assert tree(filled) == before
    scanned = command("scan", filled)
    assert scanned.returncode == 1
    assert scanned.stderr.startswith("saferocks scan: Corruption: block checksum mismatch")
    assert scanned.stderr.count("\n") == 1


MISCHIEF: dict[str, Callable[[Path], object]] = {
    "missing": lambda table: table.unlink(),
    "cut short": lambda table: os.truncate(table, 500),
    "overwritten": lambda table: table.write_bytes(b"x" * table.stat().st_size),
}


@pytest.mark.parametrize("what", MISCHIEF)
def test_verify_goes_on_after_damage(command, path: str, what: str) -> None:
    """Files that keep a database from being opened are all named, and what else there is is read to its end."""
    with saferocks.open(path) as db:
        families = [db, *(db.create_column_family(name) for name in ("b", "whole"))]
        tables: list[set[Path]] = [set()]
        for family in families:
            for number in range(1000):
                family[b"%04d" % number] = os.urandom(20)
            family.flush()
            tables.append(set(Path(path).glob("*.sst")))
    damaged = [(after - before).pop() for before, after in itertools.pairwise(tables)][:2]
    for table in damaged:
        MISCHIEF[what](table)
    before = tree(path)
    done = command("verify", path)
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"problem it cannot be opened in {damaged[0].name} (level 0 of default): Corruption: ")
    for name, table in zip(("default", "b"), damaged, strict=True):
        start = f"problem {name}: damaged in {table.name} (level 0 of {name}), after 0 rows, the rest was not read: "
        assert [line.startswith(start) for line in lines].count(True) == 1
        wrong = f"problem {table.name} of column family {name} "
        assert [line.startswith(wrong) for line in lines].count(True) == (what != "overwritten")
    assert "ok      whole: 1000 rows" in lines
    assert lines[-1].startswith("2 of 3 column families damaged: restore a backup; ")
    assert "`saferocks scan --damaged --json`" in lines[-1]
    whole = ("scan", path, "--column-family", "whole")
    assert command(*whole).returncode == 1
    assert len(command(*whole, "--damaged", "--json").stdout.splitlines()) == 1000
    assert tree(path) == before


LOGGED = """
import os, sys
import saferocks
db = saferocks.open(sys.argv[1]).__enter__()
for number in range(3000):
    db[b"%04d" % number] = b"v" * 40
os._exit(0)
"""


def test_verify_of_a_damaged_log(command, run_python, path: str) -> None:
    """Damage in the midst of a write-ahead log is found, which RocksDB passes over; what a crash cut off is none."""
    assert run_python(LOGGED, path).returncode == 0
    (log,) = (file for file in Path(path).glob("*.log") if file.stat().st_size > 100_000)
    os.truncate(log, log.stat().st_size - 10)
    assert command("verify", path).stdout.startswith("ok      default: 2999 rows\n")
    with log.open("r+b") as file:
        file.seek(40_000)
        file.write(b"damage")
    before = tree(path)
    done = command("verify", path)
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr, tree(path) == before) == (1, "", True)
    assert lines[0].startswith("problem it cannot be opened: Corruption: ")
    assert lines[1].startswith("ok      default: ")
    assert lines[-1].startswith("every column family can be read to its end, but ")


def test_verify_of_a_log_that_cannot_be_opened(command, run_python, path: str) -> None:
    """Also where damage in a log is such that RocksDB is not let at it, all else is read, up to the damage."""
    assert run_python(LOGGED, path).returncode == 0
    (log,) = (file for file in Path(path).glob("*.log") if file.stat().st_size > 100_000)
    with log.open("r+b") as file:
        file.seek(32768 + 4)  # the rest of a record, in the second block
        file.seek(32768 + 7 + int.from_bytes(file.read(2), "little"))
        file.write(bytes(7))  # the header of the record after it
    before = tree(path)
    done = command("verify", path)
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr, tree(path) == before) == (1, "", True)
    assert lines[0].startswith(f"problem it cannot be opened: Corruption: {log.name} of '{path}' is damaged at byte ")
    assert int(lines[1].removeprefix("ok      default: ").removesuffix(" rows")) > 300
    assert lines[-1].startswith("every column family can be read to its end, but ")
    done = command("doctor", path)
    assert f"problem Corruption: {log.name} of '{path}' is damaged at byte" in done.stdout
    assert (done.returncode, done.stderr) == (1, "")
    done = command("scan", path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


# --------------------------------------------------------------------------- bad input

BAD: dict[str, tuple[Callable[[str], list[str]], str]] = {
    "nothing": (lambda path: [], "saferocks: which command?"),
    "no path": (lambda path: ["scan"], "saferocks: the following arguments are required: path"),
    "unknown command": (lambda path: ["mend", path], "saferocks: argument inspect | scan"),
    "missing": (lambda path: ["inspect", f"{path}-not"], "saferocks inspect: there is no '/"),
    "no database": (lambda path: ["doctor", f"{path}/.."], "saferocks doctor: there is no database in"),
    "a file": (lambda path: ["verify", f"{path}/CURRENT"], "saferocks verify: IO error: '/"),
    "not UTF-8": (lambda path: ["scan", f"{path}\udcff"], "saferocks scan: path '/"),
    "empty": (lambda path: ["scan", ""], "saferocks scan: path '' is empty"),
    "unknown family": (
        lambda path: ["scan", path, "--column-family", "x"],
        "saferocks scan: there is no column family",
    ),
    "empty family": (lambda path: ["scan", path, "--column-family", ""], "saferocks scan: there is no column family"),
    "limit": (lambda path: ["scan", path, "--limit", "0"], "saferocks: argument --limit: '0' is no whole number"),
    "escape": (lambda path: ["scan", path, "--prefix", "\\q"], "saferocks scan: --prefix: "),
    "prefix not UTF-8": (lambda path: ["scan", path, "--prefix", "\udcff"], "saferocks scan: --prefix is not UTF-8"),
    "typed key": (lambda path: ["scan", path, "--from", "1", "--key-type", "int"], "saferocks scan: --key-type is int"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(command, filled: str, name: str) -> None:
    """What makes no sense is said in one line on stderr, nothing on stdout, exit status 2, and nothing changes."""
    arguments, expected = BAD[name]
    before = tree(filled)
    done = command(*arguments(filled))
    assert done.stderr.startswith(expected)
    assert (done.stderr.count("\n"), done.stdout, done.returncode) == (1, "", 2)
    assert tree(filled) == before


def test_a_database_of_another_program(command, filled: str) -> None:
    """One with a comparator that rocksdict lacks is no damage, and is not to be repaired."""
    manifest = Path(filled, _manifest.current_name(filled))
    manifest.write_bytes(manifest.read_bytes().replace(b"leveldb.BytewiseComparator", b"another.BytewiseComparator"))
    for name in READING:
        done = command(name, filled)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert "is ordered by 'another.BytewiseComparator', which rocksdict lacks; read it with the" in done.stderr


@pytest.mark.parametrize("name", READING)
@pytest.mark.parametrize("content", [b"nonsense\n", b"", b"MANIFEST-00000\0\n", b"\xff"])
def test_a_damaged_current_is_damage(command, filled: str, name: str, content: bytes) -> None:
    """Whatever is in CURRENT, it is said in one line that it is damaged."""
    Path(filled, "CURRENT").write_bytes(content)
    done = command(name, filled)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "does not name a readable MANIFEST" in done.stderr


def test_a_family_whose_name_is_not_text(command, path: str) -> None:
    """A column family with a name that rocksdict cannot have is named, and is no damage."""
    with saferocks.open(path) as db:
        db.create_column_family("name#")
    manifest = Path(path, _manifest.current_name(path))
    content = manifest.read_bytes()
    assert b"name#" in content
    manifest.write_bytes(content.replace(b"name#", b"name\xff"))
    for name in READING:
        done = command(name, path)
        assert (done.returncode, done.stderr.count("\n"), "problem" in done.stdout) == (2, 1, False)
        assert "the name of column family 'name\\xff' is not UTF-8, and rocksdict cannot open it" in done.stderr


def test_nobody_to_tell_of_bad_input(environment: dict[str, str], path: str) -> None:
    """Where stderr cannot be written the status is still that of bad input."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "scan", path], stderr=full, timeout=CHILD_SECONDS, env=environment, check=False
        )
    assert done.returncode == 2


@pytest.mark.parametrize("name", ["SAFEROCKS_POLICY", "SAFEROCKS_TRACE"])
def test_a_bad_environment_is_one_line(command, filled: str, name: str) -> None:
    """A setting in the environment that is none is named in one line."""
    done = command("scan", filled, env={name: "loud"})
    assert done.stderr.startswith(f"saferocks scan: {name} is 'loud'")
    assert (done.stderr.count("\n"), done.returncode) == (1, 2)


AS_NOBODY = """
import contextlib, os, sys
from saferocks._command import main
# Once as root, so that all is imported: the interpreter's own files may be root's alone.
with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
    main(sys.argv[1:])
os.setgid(65534)
os.setuid(65534)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize(("mode", "status"), [(0o700, 2), (0o555, 0)])
def test_permissions(environment: dict[str, str], mode: int, status: int) -> None:
    """Whoever may not read a database is told so in one line; who may read and not write it reads all of it."""
    with tempfile.TemporaryDirectory() as folder:  # not pytest's own, which is its user's alone
        Path(folder).chmod(0o777)
        path = f"{folder}/db"
        with saferocks.open(path) as db:
            db[b"k"] = b"v"
        Path(path).chmod(mode)
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, "scan", path],
            capture_output=True,
            text=True,
            timeout=CHILD_SECONDS,
            check=False,
            env={**environment, "TMPDIR": folder},
        )
        assert [each.name for each in Path(folder).iterdir()] == ["db"]
    assert done.returncode == status, done.stderr
    if status:
        assert "no permission to read" in done.stderr
        assert done.stderr.count("\n") == 1
    else:
        assert done.stdout == "k\tv\n"


# --------------------------------------------------------------------------- terminals, pipes, signals


def on_terminal(
    environment: dict[str, str], *arguments: str, rows: int = 200, columns: int = 80, **extra: str
) -> tuple[list[str], bytes, int]:
    """Run the command on a terminal; returns what its screen shows, what was sent to it, and the status."""
    child, terminal = pty.fork()
    if child == 0:
        os.execve(sys.executable, [*COMMAND, *arguments], {**environment, "TERM": "xterm-256color", **extra})  # noqa: S606
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    sent = b""
    try:
        while part := os.read(terminal, 1 << 16):
            sent += part
    except OSError:  # the child has ended
        pass
    os.close(terminal)
    screen = pyte.Screen(columns, rows)
    pyte.ByteStream(screen).feed(sent)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return [line.rstrip() for line in screen.display], sent, status


def test_a_terminal_of_80_columns(filled: str, environment: dict[str, str]) -> None:
    """On a terminal tables fit 80 columns with no name cut off, in colours, and no name reaches the terminal."""
    shown, sent, status = on_terminal(environment, "inspect", filled)
    assert status == 0
    text = "\n".join(shown)
    assert "leveldb.BytewiseComparator" in text
    assert "cache_index_and_filter_blocks  false" in text
    assert "odd\\x1b[31m" in text
    assert b"\x1b[1m" in sent
    shown, sent, status = on_terminal(environment, "doctor", filled)
    assert b"\x1b[32mok" in sent
    assert status == 0


def test_a_terminal_without_colours(filled: str, environment: dict[str, str]) -> None:
    """Under NO_COLOR there are no colours, and on a dumb terminal there is no escape at all."""
    _, sent, _ = on_terminal(environment, "doctor", filled, NO_COLOR="1")
    assert b"\x1b[32m" not in sent
    _, sent, _ = on_terminal(environment, "verify", filled, TERM="dumb")
    assert b"\x1b" not in sent


def test_verify_shows_how_far_it_has_come(path: str, environment: dict[str, str]) -> None:
    """On a terminal a bar runs while rows are read, and is gone at the end."""
    with saferocks.open(path) as db:
        for number in range(30):
            with db.write_batch() as batch:
                for row in range(10_000):
                    batch[b"%08d" % (number * 10_000 + row)] = b"v"
    shown, sent, status = on_terminal(environment, "verify", path)
    assert "default (1 of 1)" in sent.decode()
    assert "━" in sent.decode()
    assert [line for line in shown if line] == [
        "ok      default: 300000 rows",
        "all rows were read, and every checksum on the way was right",
    ]
    assert status == 0


WITHOUT_RICH = """
import sys
sys.modules["rich"] = None
sys.stdout.isatty = sys.stderr.isatty = lambda: True
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "rich" else found(name, *rest)
from saferocks._command import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("name", READING)
def test_without_rich(run_python, filled: str, name: str) -> None:
    """Who has installed saferocks alone has every command, in plain text."""
    done = run_python(WITHOUT_RICH, name, filled, env={"TERM": "xterm"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert done.stdout != ""


def test_a_reader_that_goes_away(filled: str, environment: dict[str, str], temporary: Path) -> None:
    """`| head -1` gets its line, and the command ends at once without a word."""
    script = f'{" ".join(COMMAND)} scan "$0" | head -1; echo "${{PIPESTATUS[0]}}"'
    with saferocks.open(filled) as db:
        for number in range(50_000):
            db[b"z%05d" % number] = b"v"
    done = subprocess.run(
        ["bash", "-c", script, filled],
        capture_output=True,
        text=True,
        timeout=CHILD_SECONDS,
        env=environment,
        check=False,
    )
    first, status = done.stdout.splitlines()
    assert first.startswith("user:0000\t")
    assert (status, done.stderr, list(temporary.iterdir())) == ("141", "", [])


@pytest.mark.parametrize("name", READING)
def test_a_reader_that_was_never_there(filled: str, environment: dict[str, str], name: str) -> None:
    """Output that nobody has read a byte of ends the same way, also if it is so short that only the end writes it."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*COMMAND, name, filled],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=CHILD_SECONDS,
            env=environment,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
@pytest.mark.parametrize(("name", "missing", "status"), [("verify", "", 0), ("scan", "-not", 2)])
def test_closed_streams(
    filled: str, environment: dict[str, str], name: str, missing: str, status: int, closed: tuple[int, ...]
) -> None:
    """Where stdin, stdout or stderr is closed the others have what is theirs, and the status is the same."""
    before = tree(filled)
    closing = " ".join(f"{number}>&-" for number in closed)
    done = subprocess.run(
        ["bash", "-c", f'{" ".join(COMMAND)} {name} "$0" {closing}', filled + missing],
        capture_output=True,
        text=True,
        timeout=CHILD_SECONDS,
        env=environment,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert (done.returncode, tree(filled) == before) == (status, True)
    assert ("ok      default: 2010 rows" in done.stdout) == (name == "verify" and 1 not in closed)
    assert done.stderr.startswith("saferocks scan: there is no '/") == (name == "scan" and 2 not in closed)
    assert done.stderr.count("\n") <= 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt(
    path: str, environment: dict[str, str], temporary: Path, number: signal.Signals, status: int
) -> None:
    """Ctrl-C, a closed terminal and a polite kill end a scan that is under way, without a word, and leave nothing."""
    with saferocks.open(path) as db, db.bulk_writer() as bulk:
        for row in range(100_000):
            bulk[b"%08d" % row] = b"v" * 10
    child = subprocess.Popen(
        [*COMMAND, "scan", path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # which nohup would have it ignore
    )
    assert child.stdout is not None
    child.stdout.readline()  # it is under way, and will wait for a reader
    child.send_signal(number)
    _, errors = child.communicate(timeout=CHILD_SECONDS)
    assert (child.returncode, errors, list(temporary.iterdir())) == (status, "", [])


def test_the_console_script() -> None:
    """The distribution declares the command, and the function that it names is there."""
    declared = 'saferocks = "saferocks._command:main"'
    assert declared in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("name", READING)
def test_help(command, name: str) -> None:
    """Each command explains itself in 80 columns, and says what its exit status means."""
    done = command(name, "--help", env={"COLUMNS": "80"})
    assert done.returncode == 0
    assert "Exit status:" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_database_that_never_flushed_lacks_no_file(
    path: str, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """Of a database that has flushed nothing yet, doctor says that there is no file, not that all 0 are there."""
    with saferocks.open(path) as db:
        db[b"only"] = b"v"
        done = command("doctor", path)
    assert "ok      it has no SST file yet, and none is missing\n" in done.stdout, done.stdout


def test_one_is_no_plural(path: str, command: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """What there is one of is told of in the singular, by each word of the command that counts it."""
    with saferocks.open(path) as db:
        db[b"only"] = b"v"
        db.flush()
    assert "  1 SST file with 1 entry, 0 of them deletions" in command("inspect", path).stdout
    assert "its one file is there, in full" in command("doctor", path).stdout
    assert "ok      default: 1 row\n" in command("verify", path).stdout
    with saferocks.open(path) as db:
        del db[b"only"], db[b"other"]
        db.flush()
    assert "  2 SST files with 3 entries, 2 of them deletions" in command("inspect", path).stdout
    assert "ok      default: 0 rows\n" in command("verify", path).stdout
