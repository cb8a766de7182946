"""What the `saferocks` command says is to be done: never to restore a backup of what is whole."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import saferocks
from saferocks import _checkup, _manifest, _shadow, _temporary
from saferocks._log_reader import _crc32c
from saferocks.errors import NoSpaceError

if TYPE_CHECKING:
    from collections.abc import Callable

    Command = Callable[..., subprocess.CompletedProcess[str]]

ROOT = Path(__file__).resolve().parent.parent
CHILD_SECONDS = 60.0
RESTORE = "restore a backup"


@pytest.fixture
def command(temporary: Path) -> Command:
    """Run the command as a module, and see that nothing temporary stays behind."""

    def run(*arguments: str, prefix: tuple[str, ...] = (), **env: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SAFEROCKS_", "PYTEST_"))}
        done = subprocess.run(
            [*prefix, sys.executable, "-W", "error", "-m", "saferocks", *arguments],
            capture_output=True,
            text=True,
            timeout=CHILD_SECONDS,
            env={**kept, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), **env},
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert list(temporary.iterdir()) == []
        assert "Traceback" not in done.stderr
        return done

    return run


def problems(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return what doctor or verify has named a problem."""
    return [line.removeprefix("problem ") for line in done.stdout.splitlines() if line.startswith("problem ")]


KILLED = """
import os, sys
import saferocks
db = saferocks.open(sys.argv[1]).__enter__()
other = db.create_column_family("other")
other[b"k"] = b"v"
other.flush()
for number in range(1000):
    db[b"flushed%04d" % number] = b"v" * 40
db.flush()
for number in range(3000):
    db[b"logged%04d" % number] = b"v" * 40
os._exit(0)
"""


@pytest.fixture
def killed(run_python: Command, path: str) -> str:
    """A database of a program that was killed: rows in files of two column families, and 3,000 in the log."""
    assert run_python(KILLED, path).returncode == 0
    return path


def options_files(path: str) -> list[Path]:
    """Return the OPTIONS files, the newest last."""
    return sorted(Path(path).glob("OPTIONS-*"))


# --------------------------------------------------------------------------- what is kept beside the data


def test_damage_is_found_where_there_are_no_options(command: Command, killed: str) -> None:
    """Without an OPTIONS file damage in the log is found all the same, and what is left can be read."""
    for file in options_files(killed):
        file.unlink()
    assert command("verify", killed).stdout.startswith("ok      default: 4000 rows\n")
    log = max(Path(killed).glob("*.log"), key=lambda file: file.stat().st_size)
    with log.open("r+b") as file:
        file.seek(40_000)
        file.write(b"damage")
    done = command("verify", killed)
    assert (done.returncode, len(problems(done))) == (1, 1)
    assert problems(done)[0].startswith("it cannot be opened: Corruption: ")
    table = next(file for file in _manifest.read_manifest(killed).files if file.family == "default")
    Path(killed, table.name).unlink()
    done = command("scan", killed, "--column-family", "other", "--damaged")
    assert (done.returncode, done.stdout) == (0, "k\tv\n")


def test_no_row_is_left_out_without_a_word(command: Command, killed: str) -> None:
    """What RocksDB leaves out after damage in a log doctor tells of, and a scan that is not asked for less refuses."""
    assert len(command("scan", killed).stdout.splitlines()) == 4000
    log = max(Path(killed).glob("*.log"), key=lambda file: file.stat().st_size)
    with log.open("r+b") as file:
        file.seek(40_000)
        file.write(b"damage")
    done = command("scan", killed)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.endswith("; --damaged shows what can be read\n")
    done = command("scan", killed, "--damaged")
    assert (done.returncode, 1000 < len(done.stdout.splitlines()) < 4000) == (0, True)
    done = command("doctor", killed)
    (problem,) = problems(done)
    assert problem.startswith("opening it leaves out, without a word, a part of its write-ahead log: ")
    assert "; copy it before anybody opens it for writing; restore a backup, or try" in problem
    os.truncate(log, 39_000)  # as a crash may leave it
    assert command("doctor", killed).returncode == 0


CONFIGURATIONS = {
    "lost": None,
    "no JSON": "nonsense",
    "a list": "[]",
    "empty": "{}",
    "wrong": '{"raw_mode": true, "prefix_extractors": {}}',
}


@pytest.mark.parametrize("what", CONFIGURATIONS)
def test_a_configuration_that_is_lost_or_wrong(command: Command, path: str, what: str) -> None:
    """Its rows are whole and are read; the one thing to be done is to write what doctor says, and that mends it."""
    with saferocks.open(path, raw_mode=False) as db:
        db["k"] = 1
    config, content = Path(path, "rocksdict-config.json"), CONFIGURATIONS[what]
    config.unlink()
    if content is not None:
        config.write_text(content)
    assert command("scan", path).stdout == '"k"\t1\n'
    assert command("verify", path).returncode == 0
    assert command("inspect", path).returncode == 0
    done = command("doctor", path)
    (problem,) = problems(done)
    assert done.returncode == 1
    assert (config.read_text() if config.exists() else None) == content
    config.write_text(problem[problem.index("{") : problem.rindex("}") + 1])
    assert command("doctor", path).returncode == 0
    with saferocks.open(path, raw_mode=False) as db:
        assert db["k"] == 1


def test_a_configuration_that_is_lost_of_raw_bytes(command: Command, path: str) -> None:
    """The next opening makes one of raw bytes, as doctor says."""
    with saferocks.open(path) as db:
        db[b"k"] = b"v"
    Path(path, "rocksdict-config.json").unlink()
    done = command("doctor", path)
    assert "note    there is no rocksdict-config.json; the next opening for writing makes one\n" in done.stdout
    with saferocks.open(path) as db:
        assert db[b"k"] == b"v"
    assert "there is no rocksdict-config.json" not in command("doctor", path).stdout


def spoil_options(path: str, change: Callable[[str], str]) -> None:
    """Write the newest OPTIONS file anew."""
    newest = options_files(path)[-1]
    newest.write_text(change(newest.read_text()))


OPTIONS: dict[str, tuple[Callable[[str], str], str]] = {
    "cut short": (lambda text: text[:900], "its newest OPTIONS file is damaged; restore that, or move it elsewhere"),
    "no options": (lambda text: "nonsense\n" * 20, "its newest OPTIONS file is damaged; restore that, or move it"),
    "newer": (
        lambda text: text.replace("  max_open_files=", "  an_option_of_the_future=1\n  max_open_files="),
        "its OPTIONS file is of another version of RocksDB; open it with the program that wrote it",
    ),
}


@pytest.mark.parametrize("what", OPTIONS)
def test_options_that_cannot_be_used(command: Command, killed: str, what: str) -> None:
    """They keep the database from being opened; no row is lost, and nobody is told to restore all of it."""
    change, remedy = OPTIONS[what]
    spoil_options(killed, change)
    done = command("doctor", killed)
    (problem,) = problems(done)
    assert problem.startswith("it does not open: ")
    assert remedy in problem
    assert RESTORE not in done.stdout
    done = command("verify", killed)
    assert (done.returncode, done.stdout.splitlines()[1:3]) == (
        1,
        ["ok      default: 4000 rows", "ok      other: 1 row"],
    )
    assert remedy in done.stdout.splitlines()[-1]
    assert RESTORE not in done.stdout
    assert len(command("scan", killed, "--damaged").stdout.splitlines()) == 4000
    if "move it" in remedy:
        options_files(killed)[-1].rename(f"{killed}.OPTIONS")
        assert problems(command("doctor", killed)) == []
        with saferocks.open(killed) as db:
            assert db[b"logged2999"] == b"v" * 40


# --------------------------------------------------------------------------- what only its own program has


@pytest.mark.parametrize("name", ["inspect", "scan", "doctor", "verify"])
def test_a_column_family_of_another_order(command: Command, killed: str, name: str) -> None:
    """A column family with a comparator of its program's is named, and is no damage."""
    manifest = Path(killed, _manifest.current_name(killed))
    before, mark, after = manifest.read_bytes().rpartition(b"leveldb.BytewiseComparator")
    manifest.write_bytes(before + mark.replace(b"leveldb", b"another") + after)
    done = command(name, killed)
    assert (done.returncode, RESTORE in done.stdout) == (2, False)
    assert done.stderr == (
        f"saferocks {name}: column family 'other' is ordered by 'another.BytewiseComparator', which rocksdict lacks; "
        "read it with the program that made it\n"
    )


def logged(content: bytes) -> bytes:
    """Return a record of a write-ahead log."""
    crc = _crc32c(b"\x01" + content)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return masked.to_bytes(4, "little") + len(content).to_bytes(2, "little") + b"\x01" + content


def test_a_merge_operator_that_is_not_here(command: Command, killed: str) -> None:
    """Operands of a merge operator that rocksdict lacks are no damage: their own program can read them."""
    with max(Path(killed).glob("*.log"), key=lambda file: file.stat().st_size).open("ab") as log:
        log.write(logged((10_000).to_bytes(8, "little") + (1).to_bytes(4, "little") + b"\x02\x01m\x01x"))
    done = command("verify", killed)
    assert done.returncode == 1
    assert "cannot be opened: it was written with a merge operator that rocksdict lacks; read it with" in done.stdout
    assert RESTORE not in done.stdout
    done = command("doctor", killed)
    assert (done.returncode, "; it was written with a merge operator" in done.stdout, RESTORE in done.stdout) == (
        1,
        True,
        False,
    )
    assert command("scan", killed).returncode == 1


def test_logs_that_are_elsewhere(command: Command, tmp_path: Path) -> None:
    """Where the directory of the logs is not found, what is to be done is to run the command where it is."""
    options = saferocks.Options(raw_mode=True)
    options.set_wal_dir(str(tmp_path / "logs"))
    with saferocks.open(str(tmp_path / "db"), options=options) as db:
        db[b"k"] = b"v"
    (tmp_path / "logs").rename(tmp_path / "moved")
    for name in ("doctor", "verify"):
        done = command(name, str(tmp_path / "db"))
        assert "there is no such directory here; run this where" in problems(done)[0]
        assert (done.returncode, RESTORE in done.stdout) == (1, False)


def test_nothing_that_could_be_saved(command: Command, killed: str) -> None:
    """Where nothing can be read, nobody is sent to save what can be read; a backup or a repair is what is left."""
    manifest = Path(killed, _manifest.current_name(killed))
    content = bytearray(manifest.read_bytes())
    content[-30] ^= 0xFF
    manifest.write_bytes(content)
    done = command("verify", killed)
    assert (done.returncode, "--damaged" in done.stdout) == (1, False)
    assert "nothing could be read: restore a backup, or try saferocks.Rdict.repair on a copy" in done.stdout
    done = command("doctor", killed)
    assert problems(done)[-1].endswith("; restore a backup, or try saferocks.Rdict.repair on a copy")


# --------------------------------------------------------------------------- what is temporary


MOUNT = 'mount -t tmpfs -o "size=$0" tmpfs "$1" && shift && exec "$@"'


@pytest.mark.parametrize("name", ["inspect", "scan", "doctor", "verify"])
def test_no_room_for_temporary_files(command: Command, killed: str, tmp_path: Path, name: str) -> None:
    """That there is no room for temporary files says nothing of the database: one line names their directory."""
    small = tmp_path / "small"
    small.mkdir()
    on_small = ("unshare", "--user", "--map-root-user", "--mount", "bash", "-c", MOUNT, "8k", str(small))
    if shutil.which("unshare") is None or subprocess.run([*on_small, "true"], check=False).returncode:
        pytest.skip("no mount namespace is permitted here")
    done = command(name, killed, prefix=on_small, TMPDIR=str(small))
    assert (done.returncode, problems(done)) == (2, [])
    assert done.stderr == (
        f"saferocks {name}: there is no room for temporary files in '{small}' (No space left on device); "
        "set TMPDIR to another directory\n"
    )


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "full"), OSError(errno.EROFS, "read-only"), NoSpaceError("IO error: No space left")],
)
def test_errors_for_lack_of_room(error: Exception) -> None:
    """Whoever finds no room, Python or RocksDB, the directory is named; other errors stay what they are."""
    with pytest.raises(_temporary.NoRoomError, match="'/there'"), _temporary.for_lack_of_room("/there/saferocks-1"):
        raise error
    with pytest.raises(PermissionError), _temporary.for_lack_of_room("/there/saferocks-1"):
        raise PermissionError(errno.EACCES, "not allowed")


def interrupted_at(moment: int, database: str) -> bool:
    """Make a directory and remove it, interrupted at one of the moments on the way; False if over before.

    The moments are those of `interrupts.py`, in the standard library's functions too.
    """
    seen = 0

    def interrupt(frame: Any, event: str, argument: Any) -> None:
        nonlocal seen
        seen += event in ("call", "c_return")
        if seen == moment and event in ("call", "c_return"):
            sys.setprofile(None)
            raise KeyboardInterrupt

    try:
        sys.setprofile(interrupt)
        with _temporary.temporary_directory(database) as room:
            Path(room, "file").touch()
    except (KeyboardInterrupt, OSError):  # which `shutil.rmtree` makes of it where it closes a descriptor once more
        return True
    finally:
        sys.setprofile(None)
    return False


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there signal handlers run between any two instructions")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of what `shutil.rmtree` leaves open
def test_a_signal_leaves_nothing_temporary(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At whatever moment a signal comes, also while the directory is made or removed, nothing of it stays."""
    monkeypatch.setenv("TMPDIR", str(temporary))
    interrupted_at(0, str(tmp_path / "db"))
    moments = 0
    for moment in itertools.count(1):
        if not interrupted_at(moment, str(tmp_path / "db")):
            break
        assert list(temporary.iterdir()) == [], f"moment {moment}"
        moments = moment
    assert moments > 50


# --------------------------------------------------------------------------- large ones, and odd names


def test_a_large_database_is_not_held_in_memory(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a database that is larger than a limit, only so many files are open, and so held in memory, at a time."""
    options = saferocks.Options(raw_mode=True)
    options.set_disable_auto_compactions(True)
    options.set_level_zero_slowdown_writes_trigger(1000)
    options.set_level_zero_stop_writes_trigger(1000)
    with saferocks.open(path, options=options) as db:
        for part in range(400):
            db[b"%04d" % part] = os.urandom(100)
            db.flush()
    held, rows = [], []
    for limit in (1 << 40, 1 << 14):
        monkeypatch.setattr(_shadow, "_OPEN_BYTES", limit)
        with _shadow.open_unchanged(path) as reading:
            family = reading.families["default"]
            with family.keys() as keys:
                rows.append(sum(1 for _ in keys))
            held.append(family.property_int_value("rocksdb.estimate-table-readers-mem"))
    assert rows == [400, 400]
    assert held[1] < held[0] / 4


def test_letters_that_the_terminal_lacks(command: Command, path: str) -> None:
    """What an encoding lacks is not written as a byte that a key might have, and can be given back as it is shown."""
    with saferocks.open(path) as db:
        db["é€😀".encode()] = b"letters"
        db[b"\xe9"] = b"byte"
    rows = command("scan", path, PYTHONIOENCODING="ascii").stdout.splitlines()
    assert rows == ["\\u00e9\\u20ac\\U0001f600\tletters", "\\xe9\tbyte"]
    for row in rows:
        found = command("scan", path, "--prefix", row.partition("\t")[0], PYTHONIOENCODING="ascii")
        assert found.stdout == f"{row}\n"


def test_an_info_log_elsewhere(command: Command, tmp_path: Path) -> None:
    """The info log is found in another directory, under the name that RocksDB makes of any path."""
    options = saferocks.Options(raw_mode=True)
    options.set_db_log_dir(str(tmp_path / "logs"))
    (tmp_path / "logs").mkdir()
    path = str(tmp_path / "a (b)-é.db")
    with saferocks.open(path, options=options) as db:
        db[b"k"] = b"v"
    (log,) = (tmp_path / "logs").iterdir()
    assert "ok      no errors in the info log\n" in command("doctor", path).stdout
    with log.open("a") as file:
        file.write("2030/01/02-03:04:05.678901 42 [ERROR] [db/error.cc:1] failed\n")
    assert problems(command("doctor", path)) == ["2030/01/02-03:04:05.678901 [db/error.cc:1] failed; see the info log"]


def test_what_is_no_file_at_all(command: Command, path: str) -> None:
    """A pipe or a directory that is named like an SST file is not opened, and is none that a writer did not finish."""
    with saferocks.open(path) as db:
        db[b"k"] = b"v"
    os.mkfifo(f"{path}/pipe.sst")
    os.mkdir(f"{path}/folder.sst")
    done = command("doctor", path)
    assert (done.returncode, problems(done)) == (0, [])
    for name in ("pipe.sst", "folder.sst"):
        assert f"note    {name} is no file of RocksDB; move it elsewhere if it is yours\n" in done.stdout


def test_a_manifest_that_may_not_be_read(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the MANIFEST cannot be read is no reason to restore it; that it is damaged is."""
    with saferocks.open(path):
        pass

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(_manifest, "read_manifest", refuse)
    assert [finding.remedy for finding in _checkup.findings(path) if finding.level == "problem"] == [
        "change its owner or mode"
    ]
