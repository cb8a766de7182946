"""Databases whose log files are in order: saferocks refuses none, however they were written and wherever it ended."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import saferocks
from saferocks import _log_files
from tests.systems import needs_fork, needs_sigkill

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    Run = Callable[..., subprocess.CompletedProcess[str]]

BLOCK = 32768

#: Makes one database of bare rocksdict for each seed, in a process of its own that ends in its midst: after so
#: many steps, or by SIGALRM, which kills as SIGKILL does, at a random moment. Options for which rocksdict has no setter
#: go into the OPTIONS file.
MAKER = r"""
    import glob, os, random, re, signal, sys
    from rocksdict import AccessType, Options, Rdict, WriteBatch

    def options():
        made = Options(raw_mode=True)
        made.set_write_buffer_size(random.choice([64 << 10, 64 << 20]))
        made.set_writable_file_max_buffer_size(random.choice([4096, 1 << 20]))
        made.set_recycle_log_file_num(random.choice([0, 0, 3]))
        return made

    def edit(path):
        changed = {
            "wal_compression": random.choice(["kNoCompression", "kZSTD"]),
            "manual_wal_flush": random.choice(["false", "true"]),
            "track_and_verify_wals_in_manifest": random.choice(["false", "true"]),
            "recycle_log_file_num": random.choice(["0", "3"]),
            "wal_recovery_mode": random.choice(["kPointInTimeRecovery", "kSkipAnyCorruptedRecords"]),
        }
        file = max(glob.glob(path + "/OPTIONS-*"))
        content = open(file).read()
        for key, value in changed.items():
            content, count = re.subn(r"(?m)^(  %s=).*$" % key, r"\g<1>" + value, content)
            assert count == 1, key
        open(file, "w").write(content)

    def access():
        return random.choice([AccessType.read_write(), AccessType.with_ttl(3600)])

    def value(log):
        start = random.randrange(len(log))
        return random.choice([
            lambda: b"",
            lambda: bytes(random.randrange(300)),
            lambda: random.randbytes(random.randrange(300)),
            lambda: random.randbytes(random.choice([30_000, 100_000])),
            lambda: log[start : start + random.choice([50, 1000, 70_000])],
            lambda: bytes(random.choice([32768, 100_000])),
        ])()

    def step(db, families, log, number):
        key = random.choice([b"%d", b"%040d", log[:60].replace(b"%", b"") + b"%d"]) % number
        target = random.choice([db, *families])
        what = random.randrange(100)
        if what == 0 and len(families) < 5:
            families.append(db.create_column_family("f%d" % number, options()))
        elif what < 3:
            target.flush()
        elif what < 5:
            db.flush_wal(random.random() < 0.5)
        elif what < 10:
            target.put_entity(key, [b"a", b"b"], [value(log), b""])
        elif what < 20:
            batch = WriteBatch(raw_mode=True)
            for part in range(random.randrange(30)):
                batch.put(key + b"-%d" % part, value(log)[:2000])
            db.write(batch)
        elif what < 25:
            target.delete(key)
        else:
            target.put(key, value(log)[: random.choice([100, 100, 100, 100_000])])

    def write(path, steps):
        db = Rdict(path, options())
        db[b"first"] = b"x" * 50
        log = open(max(glob.glob(path + "/*.log")), "rb").read() or b"y"
        db.close()
        edit(path)
        loaded, families = Options.load_latest(path)
        db = Rdict(path, loaded, column_families=families, access_type=access())
        db[b"second"] = b"x" * 50
        log += b"".join(open(file, "rb").read() for file in sorted(glob.glob(path + "/MANIFEST-*"))) or b"y"
        handles = []
        if random.random() < 0.3:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.002, 0.2))
        for number in range(steps):
            step(db, handles, log, number)
        if random.random() < 0.1:
            db.close()

    for seed in map(int, sys.argv[1:]):
        child = os.fork()
        if child == 0:
            random.seed(seed)
            try:
                write("db%d" % seed, random.choice([30, 300, 1000]))
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert status in (0, signal.SIGALRM), (seed, status)
"""

MANIFEST_WRITER = """
    import os, sys
    from rocksdict import Options, Rdict

    def options():
        made = Options(raw_mode=True)
        made.set_disable_auto_compactions(True)
        made.set_level_zero_slowdown_writes_trigger(10**6)
        made.set_level_zero_stop_writes_trigger(10**6)
        return made

    db = Rdict("db", options())
    families = [db.create_column_family("family-%04d" % number, options()) for number in range(20)]
    for number in range(int(sys.argv[1])):
        family = families[number % 20]
        family.put(bytes(200) + b"%d" % number, b"v")
        family.flush()
    db.put(b"last", b"v")
    os._exit(0)
"""

#: Looks at a database while a process forked from it writes, flushes, and removes logs.
LIVE = """
    import os, random, signal, sys
    from rocksdict import Options, Rdict
    from saferocks import _log_files

    def write(opened):
        options = Options(raw_mode=True)
        options.set_write_buffer_size(1 << 20)
        db = Rdict("db", options)
        values = [random.randbytes(random.randrange(4)) for _ in range(1024)]
        os.write(opened, b"x")
        number = 0
        while True:
            db.put(b"k%06d" % number, values[number % 1024])
            number += 1

    opened, opens = os.pipe()
    writer = os.fork()
    if writer == 0:
        write(opens)
    try:
        assert os.read(opened, 1) == b"x"
        for _ in range(int(sys.argv[1])):
            _log_files.check("db")
        assert os.waitpid(writer, os.WNOHANG) == (0, 0)
    finally:
        os.kill(writer, signal.SIGKILL)
"""


def looked_at(path: Path) -> int:
    """Look at a database and at its log files cut off anywhere, none of which may be refused; return how many."""
    _log_files.check(str(path))
    files = [*path.glob("*.log"), *path.glob("MANIFEST-*")]
    for file in files:
        content = file.read_bytes()
        for _ in range(5):
            torn = path / "torn"
            torn.write_bytes(content[: random.randrange(len(content) + 1)])
            found = _log_files.damage_in(str(torn), is_manifest=file.name.startswith("MANIFEST"))
            assert found is None, (file, torn.stat().st_size, found)
            torn.unlink()
    return len(files)


def check_healthy(run_python: Run, tmp_path: Path, seeds: range) -> None:
    """Make databases, and see that none is refused."""
    child = run_python(MAKER, *map(str, seeds), timeout=600)
    assert (child.returncode, child.stderr) == (0, "")
    random.seed(seeds.start)
    for seed in seeds:
        path = tmp_path / f"db{seed}"
        assert looked_at(path) > 0, seed
        saferocks.Rdict.list_cf(str(path))
        shutil.rmtree(path)


def test_d24_no_healthy_database_is_refused(run_python: Run, tmp_path: Path) -> None:
    """Compressed, recycled, half-written, with any values and families, ended at any moment: none is refused."""
    check_healthy(run_python, tmp_path, range(12))


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 1400, 40))
def test_d24_no_healthy_database_is_refused_of_hundreds(run_python: Run, tmp_path: Path, start: int) -> None:
    """Nor is one of some hundreds more."""
    check_healthy(run_python, tmp_path, range(start, start + 40))


def check_long_manifest(run_python: Run, tmp_path: Path, flushes: int) -> None:
    """Make a database with a long MANIFEST, and see that it is not refused, nor cut anywhere."""
    child = run_python(MANIFEST_WRITER, str(flushes), timeout=300)
    assert (child.returncode, child.stderr) == (0, "")
    manifest = max((tmp_path / "db").glob("MANIFEST-*"))
    assert manifest.stat().st_size > flushes * 400
    random.seed(flushes)
    assert looked_at(tmp_path / "db") > 1


def test_d24_a_long_manifest_is_not_refused(run_python: Run, tmp_path: Path) -> None:
    """A MANIFEST of several blocks, whole and torn, with zeros in its keys, is not refused."""
    check_long_manifest(run_python, tmp_path, 100)


@pytest.mark.slow
def test_d24_a_manifest_of_thousands_of_flushes_is_not_refused(run_python: Run, tmp_path: Path) -> None:
    """Nor is one of thousands of flushes."""
    check_long_manifest(run_python, tmp_path, 3000)


@needs_sigkill
@needs_fork
def test_d24_a_live_primary_is_not_refused(run_python: Run) -> None:
    """While another process writes and flushes, its database is neither refused nor followed for ever, nor missed."""
    child = run_python(LIVE, "200")
    assert (child.returncode, child.stderr) == (0, "")


@needs_sigkill
@needs_fork
@pytest.mark.slow
def test_d24_a_live_primary_is_not_refused_in_thousands_of_looks(run_python: Run) -> None:
    """Nor is it in some thousands of looks."""
    child = run_python(LIVE, "3000", timeout=300)
    assert (child.returncode, child.stderr) == (0, "")


def test_d24_the_look_ends_where_the_file_ended_when_it_was_opened(tmp_path: Path) -> None:
    """What is appended while a file is read is not looked at: its blocks stay blocks."""
    file = tmp_path / "growing.log"
    file.write_bytes(bytes(BLOCK + 100))
    with file.open("rb") as opened, file.open("ab", buffering=0) as writer:
        lengths = []
        for block in _log_files._blocks(opened, os.fstat(opened.fileno()).st_size):
            lengths.append(len(block))
            writer.write(bytes(BLOCK))
    assert lengths == [BLOCK, 100]


def test_d24_a_file_that_is_cut_while_it_is_read_ends_there(tmp_path: Path) -> None:
    """A file that has become shorter since its opening comes to an end there, though it grows again."""
    file = tmp_path / "shrinking.log"
    file.write_bytes(bytes(3 * BLOCK))
    with file.open("rb", buffering=0) as opened:
        blocks = _log_files._blocks(opened, 3 * BLOCK)
        assert len(next(blocks)) == BLOCK
        os.truncate(file, BLOCK + 10)
        assert len(next(blocks)) == 10
        os.truncate(file, 3 * BLOCK)
        assert list(blocks) == []
