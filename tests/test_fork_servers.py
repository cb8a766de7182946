"""Servers that fork their workers: opened before the fork is an error that says so, opened after it works (D14)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import saferocks
from tests.systems import needs_fork

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 60.0
UWSGI = Path(sys.prefix) / "bin" / "uwsgi"

ANSWER = """
def app(environ, start_response):
    try:
        database()[b"key"] = b"value"
        answer = str(database()[b"key"])
    except saferocks.SaferocksError as error:
        answer = f"{type(error).__name__}: {error}"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [answer.encode()]
"""
AT_IMPORT = f"""
import saferocks
db = saferocks.open("db").__enter__()
def database():
    return db
{ANSWER}
"""
AT_FIRST_REQUEST = f"""
import functools, os, saferocks
@functools.cache
def database():
    return saferocks.open(f"db-{{os.getpid()}}").__enter__()
{ANSWER}
"""
AFTER_FORK = f"""
import os, saferocks, uwsgidecorators
@uwsgidecorators.postfork
def begin():
    global db
    db = saferocks.open(f"db-{{os.getpid()}}").__enter__()
def database():
    return db
{ANSWER}
"""
MULE = """
import saferocks, time
with saferocks.open("mule") as db:
    db[b"key"] = b"value"
    db.flush()
    print("mule has", db[b"key"], flush=True)
while True:
    time.sleep(60)
"""


class Served:
    """A server in a process of its own, and what it has written."""

    def __init__(self, child: subprocess.Popen[str], listening: str) -> None:
        self.child = child
        self.output = ""
        assert child.stdout is not None
        for line in child.stdout:
            self.output += line
            found = re.search(listening, line)
            if found:
                self.port = int(found[1])
                return
        raise AssertionError(self.output)

    def ask(self) -> str:
        """Return what a worker answers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=SECONDS) as answer:
            return str(answer.read().decode())

    def end(self) -> int:
        """End the server as an operator does; returns its exit status."""
        self.child.send_signal(signal.SIGTERM)
        self.output += self.child.communicate(timeout=SECONDS)[0]
        return self.child.returncode


@contextmanager
def served(tmp_path: Path, program: str, listening: str, *command: str) -> Iterator[Served]:
    """Serve a program; what does not end by itself is ended."""
    (tmp_path / "served.py").write_text(program)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("SAFEROCKS_", "PYTEST_"))}
    child = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    alarm = threading.Timer(SECONDS, os.killpg, (child.pid, signal.SIGKILL))
    alarm.start()
    try:
        yield Served(child, listening)
    finally:
        alarm.cancel()
        alarm.join()
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate(timeout=SECONDS)


@contextmanager
def gunicorn(tmp_path: Path, program: str, *options: str) -> Iterator[Served]:
    """Serve a program under gunicorn."""
    known = subprocess.run([sys.executable, "-m", "gunicorn", "--help"], capture_output=True, text=True, check=True)
    quiet = ["--no-control-socket"] if "--no-control-socket" in known.stdout else []
    command = [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0", *quiet, *options, "served:app"]
    with served(tmp_path, program, r"Listening at: http://127.0.0.1:(\d+)", *command) as server:
        yield server


@contextmanager
def uwsgi(tmp_path: Path, program: str, *options: str, master: bool = True) -> Iterator[Served]:
    """Serve a program under uWSGI, with a master process or without."""
    if not UWSGI.exists():
        pytest.skip("uWSGI is not installed: pip install pyuwsgi")
    command = [str(UWSGI), "--http-socket", "127.0.0.1:0", *(["--master"] if master else []), "--die-on-term"]
    command += ["--home", sys.prefix, "--wsgi-file", "served.py", "--callable", "app", *options]
    with served(tmp_path, program, r"bound to TCP address 127.0.0.1:(\d+)", *command) as server:
        yield server


def test_gunicorn_workers_open_their_own(tmp_path: Path) -> None:
    """Workers that open at their first request work, also where the program was loaded before the fork."""
    with gunicorn(tmp_path, AT_FIRST_REQUEST, "--preload") as server:
        assert server.ask() == "b'value'"
        assert server.end() == 0


def test_gunicorn_preload_is_told(tmp_path: Path) -> None:
    """A database that was opened before the fork is refused in the worker, with its line and the remedy."""
    with gunicorn(tmp_path, AT_IMPORT, "--preload") as server:
        answer = server.ask()
        assert answer.startswith("ForkedHandleError: database opened at ")
        assert "served.py:3 belongs to the process" in answer
        assert server.end() == 0


def test_uwsgi_refuses_before_it_forks(tmp_path: Path) -> None:
    """An opening before uWSGI forks, of which it tells Python nothing, is refused, with the remedy."""
    with uwsgi(tmp_path, AT_IMPORT, "--need-app") as server:
        output = server.child.communicate(timeout=SECONDS)[0]
        assert "ForkedProcessError: uWSGI is to fork its workers from this process without telling Python" in output
        assert "lazy-apps" in output
        assert not (tmp_path / "db").exists()


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="uWSGI's workers die there of that option, whatever they run")
def test_uwsgi_that_tells_python_is_as_any_other(tmp_path: Path) -> None:
    """With `py-call-osafterfork` the opening is allowed, and the worker's use of it refused."""
    with uwsgi(tmp_path, AT_IMPORT, "--py-call-osafterfork") as server:
        assert server.ask().startswith("ForkedHandleError: database opened at ")
        assert server.end() == 0


@pytest.mark.parametrize("program", [AT_FIRST_REQUEST, AFTER_FORK])
def test_uwsgi_workers_open_their_own(tmp_path: Path, program: str) -> None:
    """Workers that open after the fork work, and with `skip-atexit` they end."""
    with uwsgi(tmp_path, program, "--skip-atexit") as server:
        assert server.ask() == "b'value'"
        assert server.end() == 0


def test_uwsgi_lazy_apps_open_as_they_are_loaded(tmp_path: Path) -> None:
    """With `lazy-apps` the program may open as it is loaded; what was written is there, though nobody has closed."""
    with uwsgi(tmp_path, AT_IMPORT, "--lazy-apps", "--skip-atexit") as server:
        assert server.ask() == "b'value'"
        assert server.end() == 0
    with saferocks.open(tmp_path / "db") as db:
        assert db[b"key"] == b"value"


def test_a_mule_of_uwsgi_opens_its_own(tmp_path: Path) -> None:
    """A mule, which has no worker's number and is forked from the master too, may open a database."""
    (tmp_path / "mule.py").write_text(MULE)
    with uwsgi(tmp_path, AT_FIRST_REQUEST, "--skip-atexit", "--mule=mule.py") as server:
        assert server.child.stdout is not None
        assert any("mule has b'value'" in line for line in server.child.stdout)


def test_uwsgi_without_a_master_forks_nothing(tmp_path: Path) -> None:
    """A single process of uWSGI is never forked, and may open as it is loaded."""
    with uwsgi(tmp_path, AT_IMPORT, master=False) as server:
        assert server.ask() == "b'value'"


POOL = """
import concurrent.futures, multiprocessing, sys
import saferocks
def begin():
    global db
    db = saferocks.open("db").__enter__()
def put(number):
    db[b"key"] = b"%d" % number
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context, initializer=begin) as pool:
        list(pool.map(put, range(3)))
    with saferocks.open("db") as db:
        print(db[b"key"])
"""


@needs_fork
@pytest.mark.parametrize("way", ["fork", "forkserver", "spawn"])
def test_workers_of_a_pool_that_do_not_close_lose_nothing(tmp_path: Path, way: str) -> None:
    """What such a worker wrote is there; that it did not close is told where Python runs its exit handlers."""
    (tmp_path / "program.py").write_text(POOL)
    command = [sys.executable, "-W", "default", "program.py", way]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "b'2'\n"), done.stderr
    has_exit_handlers = way == "spawn" or sys.version_info >= (3, 13)
    assert done.stderr.count("still open at interpreter exit") == has_exit_handlers, done.stderr
