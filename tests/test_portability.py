"""The package where there is no fork, no `resource`, no /proc and none of POSIX's signals: on Windows.

None of these tests runs there, but each runs a program from which all that has been taken away that Windows lacks.
"""

from __future__ import annotations

import json
import ntpath
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import saferocks
from saferocks import _leak_report, _status, _text, errors
from tests.systems import needs_fork

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = needs_fork

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(file.stem for file in (ROOT / "saferocks").glob("*.py") if file.stem not in ("__init__", "__main__"))

#: What Windows lacks and is used all the same: only where it is there, or by the command, which is not for Windows.
GUARDED = {
    *("_directory.ST_RDONLY", "_dump.POLLOUT", "_lock_holder.major", "_shadow_files.O_NONBLOCK"),
    *("_limits.getrlimit", "_limits.setrlimit", "_limits.RLIMIT_NOFILE", "_limits.RLIM_INFINITY"),
}

#: Loads what others need of POSIX, and then takes it away from us.
WINDOWS = r"""
import asyncio, concurrent.futures, ctypes, http.server, importlib, json, logging, os, random, select, shutil, signal
import socket, socketserver, subprocess, sys, tempfile, threading, warnings, wsgiref.simple_server
import psutil, pytest, structlog, rocksdict
import opentelemetry.metrics, prometheus_client

LACKING = {
    os: "O_CLOEXEC O_NONBLOCK ST_RDONLY fork forkpty geteuid major minor mkfifo posix_spawn register_at_fork "
        "sched_yield statvfs wait waitpid",
    signal: "SIGALRM SIGBUS SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGUSR1 SIGUSR2 pthread_kill "
            "pthread_sigmask setitimer siginterrupt sigwait",
    select: "epoll poll",
}
for module, names in LACKING.items():
    for name in names.split():
        if name not in ("wait", "waitpid"):
            delattr(module, name)
for name in ("fcntl", "grp", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"):
    sys.modules[name] = None

def watch(event, arguments):
    # os.symlink is there, and fails for whoever has not the right to it.
    if event in ("open", "os.listdir", "os.scandir") and str(arguments[0]).startswith("/proc"):
        frame = sys._getframe(1)
        while frame is not None and "psutil" not in frame.f_code.co_filename:
            if f"{os.sep}saferocks{os.sep}" in frame.f_code.co_filename:
                raise FileNotFoundError(2, "No such file or directory", arguments[0])
            frame = frame.f_back
    if event == "os.symlink":
        raise OSError("a required privilege is not held by the client")

sys.addaudithook(watch)
warnings.simplefilter("error")
"""


@pytest.fixture
def run_on_windows(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., Any]:
    """Run a program without all that Windows lacks; it has to end well, and returns what it has written."""

    def run(program: str, *arguments: str, status: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
        done = run_python(WINDOWS + program, *arguments, **options)
        assert done.returncode == status, done.stdout + done.stderr
        return done

    return run


def test_what_is_taken_away_is_gone(run_on_windows: Callable[..., Any]) -> None:
    """The tests' own emulation leaves neither fork nor signals nor `resource` nor links nor /proc to the package."""
    done = run_on_windows(
        """
import saferocks._lock_holder as inside
print(hasattr(os, "fork"), hasattr(os, "register_at_fork"), hasattr(signal, "SIGUSR1"), hasattr(select, "poll"))
try:
    import resource
except ImportError:
    print("no resource")
try:
    os.symlink("a", "b")
except OSError as error:
    print(error)
open("LOCK", "w").close()
try:
    inside.lock_holder(os.getcwd())
except FileNotFoundError as error:
    print(error.filename)
"""
    )
    assert done.stdout.splitlines() == [
        "False False False False",
        "no resource",
        "a required privilege is not held by the client",
        "/proc/locks",
    ]


def test_each_module_is_loaded(run_on_windows: Callable[..., Any]) -> None:
    """Every module of the package can be imported."""
    run_on_windows("for name in sys.argv[1:]:\n    importlib.import_module(f'saferocks.{name}')", *MODULES)


def test_every_public_name_is_there(run_on_windows: Callable[..., Any]) -> None:
    """All that the package offers can be had."""
    done = run_on_windows(
        "import saferocks\nprint(json.dumps([n for n in saferocks.__all__ if hasattr(saferocks, n)]))"
    )
    assert json.loads(done.stdout) == saferocks.__all__


def test_a_database_works(run_on_windows: Callable[..., Any]) -> None:
    """Opening, batches, snapshots, scans, families, leases, checkpoints, figures and closing do what they do."""
    done = run_on_windows(
        """
import saferocks
with saferocks.open("db", warn_after=20, expire_after=30) as db:
    db[b"a"] = b"1"
    with db.write_batch() as batch:
        batch[b"b"] = b"2"
    with db.bulk_writer() as bulk:
        bulk[b"c"] = b"3"
    family = db.create_column_family("f")
    family[b"k"] = b"v"
    with db.snapshot() as snap, db.items() as items:
        db[b"d"] = b"4"
        snap.renew()
        with snap.items(prefix=b"b") as some:
            print(list(some), len(list(items)), snap[b"a"], sorted(each.kind for each in db.handles()))
        print(saferocks.dump().splitlines()[0])
    with db.checkpoint() as checkpoint:
        checkpoint.create("copy")
    print(db.memory().rss > 0, db.audit().ok)
    with saferocks.debug.serve(0) as server:
        print(server.url.startswith("http://127.0.0.1:"))
try:
    db[b"a"]
except saferocks.DatabaseClosedError:
    print("closed")
with saferocks.open("db") as db, saferocks.open("copy") as copy:
    print(len(db.get([b"a", b"b", b"c", b"d"])), copy[b"c"], db.get_column_family("f")[b"k"])
"""
    )
    assert done.stdout.splitlines() == [
        "[(b'b', b'2')] 3 b'1' ['column_family', 'snapshot']",
        "saferocks: 3 open handles",
        "True True",
        "True",
        "closed",
        "4 b'3' b'v'",
    ]


def test_a_leak_is_reported(run_on_windows: Callable[..., Any]) -> None:
    """What escapes is released and named by its line, as a warning and, under the policy `raise`, as an error."""
    done = run_on_windows(
        """
import saferocks
def leak(db):
    db.items().__enter__()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    with saferocks.open("db") as db:
        leak(db)
    print(caught[0].category.__name__, caught[0].message)
try:
    with saferocks.open("db", policy="raise") as db:
        leak(db)
except saferocks.LeakedHandlesError as error:
    print("raised", error)
print("handles:", len(saferocks.open_handles()))
"""
    )
    assert re.search(r"LeakedHandleWarning iterator opened at \S+program\.py:\d+ was collected", done.stdout)
    assert re.search(r"raised .*\n.*program\.py:\d+ was collected", done.stdout)
    assert done.stdout.endswith("\nhandles: 0\n")


def test_the_plugin_fails_a_test_that_leaks(run_on_windows: Callable[..., Any], tmp_path: Path) -> None:
    """The pytest plugin works, and names the line."""
    (tmp_path / "test_leak.py").write_text(
        "import saferocks\n\ndef test(tmp_path):\n    with saferocks.open(tmp_path / 'db') as db:\n"
        "        kept.append(db.snapshot().__enter__())\n\nkept = []\n"
    )
    done = run_on_windows(
        "warnings.resetwarnings()\n"  # pytest itself leaves directories that it scans to the collector
        "without = [part for name in ('cacheprovider', 'xdist', 'asyncio') for part in ('-p', f'no:{name}')]\n"
        "sys.exit(pytest.main(['-q', '--basetemp', 'temporary', *without, 'test_leak.py']))",
        status=1,
    )
    assert "saferocks: this test leaked 1 handle" in done.stdout
    assert "snapshot opened at test_leak.py:5" in done.stdout


def test_a_signal_that_there_is_tells_what_is_open(run_on_windows: Callable[..., Any]) -> None:
    """`dump_on_signal` takes a signal that the system has, and of one that it lacks it names one to be given."""
    done = run_on_windows(
        """
import saferocks
with saferocks.dump_on_signal(signal.SIGTERM, "dump.txt"):
    signal.raise_signal(signal.SIGTERM)
print(open("dump.txt").read().startswith("saferocks: 0 open handles in process"))
try:
    saferocks.dump_on_signal(999)
except ValueError as error:
    print(error)
"""
    )
    assert done.stdout.splitlines() == ["True", "there is no signal 999 here; give one such as signal.SIGBREAK"]


@pytest.mark.parametrize("word", ["inspect", "scan", "doctor", "verify"])
def test_the_command_says_that_it_cannot(run_on_windows: Callable[..., Any], word: str) -> None:
    """Each word of the command ends with 2, and with one line that says what to do instead."""
    done = run_on_windows(f"from saferocks._command import main\nsys.exit(main(['{word}', '.']))", status=2)
    assert done.stdout == ""
    assert done.stderr == (
        f"saferocks {word}: there is no such command on Windows, where a database cannot be read without changing it; "
        "make a checkpoint (db.checkpoint()), copy it to a Linux or macOS machine and look at it there\n"
    )


def test_the_command_still_helps(run_on_windows: Callable[..., Any]) -> None:
    """`--help` and mistakes in asking are answered as anywhere."""
    done = run_on_windows("from saferocks._command import main\nsys.exit(main(['--help']))")
    assert "inspect | scan | doctor | verify" in done.stdout


def test_the_command_does_without_proc(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Where there is no /proc, as on macOS, every word of the command works; who has a database open is not known."""
    done = run_python(
        """
        import os, sys
        import psutil, saferocks
        from saferocks import _command
        with saferocks.open("db") as db:
            db[b"k"] = b"v"
        exists = os.path.isdir
        os.path.isdir = lambda path: not str(path).startswith("/proc") and exists(path)
        def watch(event, arguments):
            if event in ("open", "os.listdir") and str(arguments[0]).startswith("/proc"):
                raise FileNotFoundError(2, "No such file or directory", arguments[0])
        sys.addaudithook(watch)
        for word in ("inspect", "scan", "doctor", "verify"):
            print(word, _command.main([word, "db"]))
        """
    )
    assert re.findall(r"^(inspect|scan|doctor|verify) (\d)$", done.stdout, re.MULTILINE) == [
        *(("inspect", "0"), ("scan", "0"), ("doctor", "0"), ("verify", "0"))
    ], done.stdout + done.stderr
    assert "open for writing not known: No such file or directory" in done.stdout
    assert "k\tv" in done.stdout


def test_a_lock_in_the_words_of_windows_is_a_lock() -> None:
    """What RocksDB says there of a database that is open elsewhere is a LockedError, in whatever language."""
    text = r"IO error: Failed to create lock file: C:\jobs\db/LOCK: Der Prozess kann nicht auf die Datei zugreifen."
    assert isinstance(_status.from_text(text), errors.LockedError)


def test_backslashes_of_paths_stay_single(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dump writes the paths of Windows as they are; what is no path has its backslashes doubled."""
    monkeypatch.setattr(_text, "os", SimpleNamespace(sep=ntpath.sep))
    assert _text.printable_path("C:\\jobs\\db.py:17 in f\x1b") == "C:\\jobs\\db.py:17 in f\\x1b"
    assert _text.printable("C:\\jobs") == "C:\\\\jobs"


def test_lines_of_windows_files_are_found_and_shortened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A report of leaks tells the file from the line after the last colon, and cuts off the current directory."""
    monkeypatch.setattr(_leak_report, "os", SimpleNamespace(getcwd=lambda: r"C:\work", sep=ntpath.sep))
    assert _leak_report.shortened(r"C:\work\jobs.py:17") == "jobs.py:17"
    assert _leak_report.shortened(r"C:\workshop\jobs.py:17") == r"C:\workshop\jobs.py:17"
    file = tmp_path / "C:jobs.py"
    file.write_text("first\nsecond\n")
    assert _leak_report.source_line(f"{file}:2") == "second"


@pytest.mark.slow
@pytest.mark.parametrize(("platform", "lacking"), [("win32", GUARDED), ("darwin", set())], ids=["windows", "macos"])
def test_nothing_is_used_that_a_system_lacks(platform: str, lacking: set[str], tmp_path: Path) -> None:
    """Type checked as on another system, the package uses nothing that is not there but behind a guard."""
    command = ["mypy", "--platform", platform, "--cache-dir", str(tmp_path), "-p", "saferocks"]
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stderr == ""
    found = re.findall(
        r"^saferocks[\\/](\w+)\.py:\d+: error: (?:Module has no attribute \"(\w+)\")?", done.stdout, re.M
    )
    assert {f"{module}.{name}" for module, name in found} == lacking, done.stdout


def test_the_program_of_these_tests_is_no_windows() -> None:
    """What is emulated has to be there to be taken away; on Windows itself all of this is tried by all other tests."""
    assert hasattr(os, "fork")
    assert sys.platform != "win32"
