"""`saferocks.dump()` and `dump_on_signal`: what is open, as text, wherever a program is."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

import saferocks
from saferocks import _dump
from tests.systems import needs_signals

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., subprocess.CompletedProcess[str]]

HERE = __file__


def lines_of(text: str) -> list[str]:
    """Return the lines of a dump with ages and line numbers left out."""
    return [re.sub(r"oldest [\d.]+ m?s", "oldest", re.sub(r"(\.py:)\d+", r"\1", line)) for line in text.splitlines()]


def test_a_dump_groups_by_line(db: saferocks.Rdict, path: str) -> None:
    """The total comes first, then each line with how many it has opened, most first, with the age of the oldest."""
    opened = [db.items(label=f"reader {number}") for number in range(5)]
    with opened[0], opened[1], opened[2], opened[3], opened[4], db.snapshot():
        found = lines_of(saferocks.dump())
    assert found[0] == "saferocks: 7 open handles"
    assert found[2:4] == [
        f"5 iterator [reader 0] [reader 1] [reader 2], oldest, {path}",
        f"    {HERE}: in <listcomp>" if sys.version_info < (3, 12) else f"    {HERE}: in test_a_dump_groups_by_line",
    ]
    assert f"1 snapshot, oldest, {path}" in found
    assert f"1 database, oldest, {path}" in found


def test_a_dump_has_the_whole_stack(path: str) -> None:
    """Under `trace="stack"` each group has the frames of the opening, and two ways to one line are two groups."""

    def open_it(db: saferocks.Rdict) -> saferocks.Scope[saferocks.RdictItems]:
        return db.items()

    with saferocks.open(path, trace="stack") as db:
        first = open_it(db)
        second = open_it(db)
        with first, second:
            found = [part.splitlines() for part in saferocks.dump().split("\n\n")]
    iterators = [part for part in found if part[0].startswith("1 iterator")]
    assert len(iterators) == 2
    for part in iterators:
        assert "in open_it" in part[1]
        assert "in test_a_dump_has_the_whole_stack" in part[2]
        assert len(part) == 9


def test_two_calls_on_one_line_are_one_group(db: saferocks.Rdict) -> None:
    """What reads the same is counted as one, though Python tells the two calls apart."""
    with db.items(), db.items():
        assert "\n2 iterator, oldest" in saferocks.dump()


def test_a_dump_obeys_no_label(db: saferocks.Rdict) -> None:
    """Labels that would move a cursor or turn the direction of writing come out as escapes."""
    with db.items(label="\x1b[2J\u202e\n\udcff"):
        text = saferocks.dump()
    assert "[\\x1b[2J\\u202e\\x0a\\udcff]" in text
    assert all(line.isprintable() for line in text.splitlines())


def test_a_dump_shows_the_ends_of_a_long_label(db: saferocks.Rdict) -> None:
    """A dump may come on a terminal: of a label of any length it has the two ends."""
    with db.items(label=f"begins {'x' * 1_000_000} ends"):
        (line,) = [line for line in saferocks.dump().splitlines() if line.startswith("1 iterator")]
    assert re.match(r"1 iterator \[begins x+\.\.\.x+ ends\], oldest", line)
    assert len(line) < 1000


def test_a_dump_without_a_trace(path: str) -> None:
    """Where no lines are kept there is nothing to group by, and the dump says so."""
    with saferocks.open(path, trace="off") as db, db.items(), db.items():
        assert "2 iterator, oldest" in saferocks.dump()
        assert "    an unrecorded line\n" in saferocks.dump()


# --------------------------------------------------------------------------- on a signal


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """A file for dumps."""
    return tmp_path / "dumps"


@pytest.fixture(autouse=True)
def handler_stays() -> object:
    """Fail a test that leaves another handler of the signal."""
    number = getattr(signal, "SIGUSR1", signal.SIGINT)  # where there is none, no test sends it
    before = signal.getsignal(number)
    yield
    assert signal.getsignal(number) == before


@needs_signals
def test_a_signal_writes_a_dump(db: saferocks.Rdict, told: Path) -> None:
    """Each signal appends what is open then, and none does after the end."""
    with saferocks.dump_on_signal(signal.SIGUSR1, told), db.items(label="mine"):
        assert told.read_text() == ""
        signal.raise_signal(signal.SIGUSR1)
        assert "1 iterator [mine]" in told.read_text()
        told.unlink()  # rotated away
        signal.raise_signal(signal.SIGUSR1)
        assert told.read_text().count("saferocks: 2 open handles") == 1


@needs_signals
def test_a_signal_tells_process_and_time(told: Path) -> None:
    """Of several dumps in one file each tells whose it is and of when, and is the dump otherwise."""
    with saferocks.dump_on_signal(signal.SIGUSR1, told):
        signal.raise_signal(signal.SIGUSR1)
    pattern = rf"saferocks: 0 open handles in process {os.getpid()}, \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC\n"
    assert re.fullmatch(pattern, told.read_text())


@needs_signals
def test_the_former_handler_is_called_and_put_back(told: Path) -> None:
    """Whoever handled the signal before goes on being called, after the dump, and is put back at the end."""
    calls: list[str] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: calls.append(told.read_text()))
    mine = signal.getsignal(signal.SIGUSR1)
    try:
        with saferocks.dump_on_signal(signal.SIGUSR1, told) as dumps:
            signal.raise_signal(signal.SIGUSR1)
        assert [call[:25] for call in calls] == ["saferocks: 0 open handles"]
        assert signal.getsignal(signal.SIGUSR1) is mine
        dumps.stop()
        signal.raise_signal(signal.SIGUSR1)
        assert (len(calls), len(told.read_text().splitlines())) == (2, 1)
    finally:
        signal.signal(signal.SIGUSR1, before)


@needs_signals
def test_a_later_handler_stays(told: Path) -> None:
    """A handler that was put in place later stays, and the stopped one passes signals on and writes no more."""
    calls: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: calls.append(number))
    try:
        dumps = saferocks.dump_on_signal(signal.SIGUSR1, told)
        ours = signal.getsignal(signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, lambda number, frame: ours(number, frame))
        later = signal.getsignal(signal.SIGUSR1)
        dumps.stop()
        assert signal.getsignal(signal.SIGUSR1) is later
        signal.raise_signal(signal.SIGUSR1)
        assert (calls, told.read_text()) == ([signal.SIGUSR1], "")
    finally:
        signal.signal(signal.SIGUSR1, before)


ANYWHERE = """
import io, logging, os, signal, sys, threading
import faulthandler
faulthandler.dump_traceback_later(40, exit=True)
import saferocks
from saferocks import events

class Slow(io.RawIOBase):
    def writable(self):
        return True
    def write(self, data):
        signal.raise_signal(signal.SIGUSR1)  # in the midst of a write of the buffer, whose lock is held
        return os.write(1, data)

raw = sys.stderr
with saferocks.open("db") as db, db.items(label="held"):
    saferocks.dump_on_signal(signal.SIGUSR1)
    sys.stderr = io.TextIOWrapper(io.BufferedWriter(Slow(), 16), write_through=True)
    print("a long line that overflows the buffer", file=sys.stderr)
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger("saferocks").addHandler(handler)
    events.defer(events.Event("saferocks.handle_leaked", logging.WARNING, {}))  # logged, were it asked for
    holding = threading.Lock()
    handler.lock = holding  # not even a reentrant one
    owner = [record.owner for record in __import__("saferocks")._registry.snapshot()][0]
    others = threading.Thread(target=lambda: (owner.lock.acquire(), locked.set(), over.wait()))
    locked, over = threading.Event(), threading.Event()
    with holding, threading._active_limbo_lock:
        signal.raise_signal(signal.SIGUSR1)
    others.start()
    locked.wait()
    signal.raise_signal(signal.SIGUSR1)
    over.set()
    others.join()
    handler.lock = threading.RLock()
    sys.stderr = raw
    events.pending.clear()
    owner.lock = threading.RLock()
print("done")
"""


@needs_signals
def test_a_signal_with_any_lock_held(run_python: Run) -> None:
    """In the midst of a write to stderr, with the locks of logging, threads and the database held, it is written."""
    done = run_python(ANYWHERE)
    assert done.returncode == 0
    assert "done" in done.stdout
    assert done.stderr.count("1 iterator [held]") >= 3
    assert "Traceback" not in done.stderr


@needs_signals
def test_a_signal_while_a_dump_is_written(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes in the midst of each dump begins no other in there, and still reaches the former handler."""
    calls: list[int] = []
    reckon = _dump.groups

    def interrupted(records: list[Any]) -> Any:
        if len(calls) < 500:  # what is answered in there is answered again, to any depth
            signal.raise_signal(signal.SIGUSR1)
        return reckon(records)

    monkeypatch.setattr(_dump, "groups", interrupted)
    before = signal.signal(signal.SIGUSR1, lambda number, frame: calls.append(number))
    try:
        with saferocks.dump_on_signal(signal.SIGUSR1, told):
            signal.raise_signal(signal.SIGUSR1)
            assert (len(told.read_text().splitlines()), len(calls)) == (1, 2)
            signal.raise_signal(signal.SIGUSR1)
            assert (len(told.read_text().splitlines()), len(calls)) == (2, 4)
    finally:
        signal.signal(signal.SIGUSR1, before)


STORM = """
import faulthandler, itertools, os, signal, sys, threading, time
faulthandler.dump_traceback_later(40, exit=True)
import saferocks
sys.setswitchinterval(1e-4)  # how long the main thread has to wait for the other one at each call
seen = []
signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
saferocks.dump_on_signal(signal.SIGUSR1, "dumps")
stop = threading.Event()
def shoot():
    while not stop.is_set():
        os.kill(os.getpid(), signal.SIGUSR1)
thread = threading.Thread(target=shoot)
with saferocks.open("db") as db:
    thread.start()
    for number in itertools.count():
        with db.items(), db.snapshot() as snap, snap.keys(), db.write_batch() as batch:
            batch[b"k"] = b"v"
            db.flush() if number % 500 == 0 else None
        if len(seen) > 300:
            break
    stop.set()
    thread.join()
with open("dumps") as file:
    text = file.read()
print(0 < text.count("saferocks: ") <= len(seen), text.startswith("saferocks: "))
print(saferocks.open_handles())
"""


@needs_signals
def test_a_storm_of_signals(run_python: Run) -> None:
    """Signals at any step of opening and releasing find a whole registry, and disturb nothing."""
    done = run_python(STORM, flags=("-W", "error"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["True True", "()"]


@needs_signals
def test_a_file_that_goes_away(told: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A dump that cannot be written is told on stderr, and nothing is raised into what was interrupted."""
    folder = told / "sub"
    folder.mkdir(parents=True)
    with saferocks.dump_on_signal(signal.SIGUSR1, folder / "file"):
        (folder / "file").unlink()
        folder.rmdir()
        signal.raise_signal(signal.SIGUSR1)
    errors = capfd.readouterr().err
    assert errors.startswith("saferocks: the dump could not be written: ")
    assert errors.count("\n") == 1


@needs_signals
def test_stderr_is_gone(run_python: Run) -> None:
    """Without a stderr there is nobody to tell, and the program goes on."""
    program = """
    import os, signal
    import saferocks
    saferocks.dump_on_signal(signal.SIGUSR1)
    os.close(2)
    signal.raise_signal(signal.SIGUSR1)
    print("on")
    """
    done = run_python(program)
    assert (done.returncode, done.stdout) == (0, "on\n")


NO_STDERR = """
import os, signal, sys
if len(sys.argv) == 1:
    os.close(2)
    os.execv(sys.executable, [sys.executable, __file__, "again"])
import saferocks
with open("other", "w+") as other, saferocks.dump_on_signal(signal.SIGUSR1):
    assert os.path.sameopenfile(other.fileno(), 2), "the case is not there"
    signal.raise_signal(signal.SIGUSR1)
    other.seek(0)
    print(repr(other.read()))
with open("other", "w+") as other, saferocks.dump_on_signal(signal.SIGUSR1, "dumps"):
    signal.raise_signal(signal.SIGUSR1)
    print(open("dumps").read())
"""


@needs_signals
def test_a_file_with_the_number_of_stderr(run_python: Run) -> None:
    """In a program that was started without a stderr, the file that has got its number is not written to."""
    done = run_python(NO_STDERR)
    assert done.returncode == 0
    nothing, told = done.stdout.splitlines()[:2]
    assert (nothing, told[:25]) == ("''", "saferocks: 0 open handles")


NOT_BLOCKING = """
import os, signal, threading
import faulthandler
faulthandler.dump_traceback_later(40, exit=True)
import saferocks
reading, writing = os.pipe()
os.dup2(writing, 2)
os.close(writing)
os.set_blocking(2, False)
found = []
def read():
    while data := os.read(reading, 1000):
        found.append(data)
thread = threading.Thread(target=read)
long, names = "x" * 300_000, {}
exec(f"def {long}(db): return db.items()", names)
with saferocks.open("db") as db, names[long](db), saferocks.dump_on_signal(signal.SIGUSR1):
    thread.start()
    signal.raise_signal(signal.SIGUSR1)
    expected = saferocks.dump()
os.close(2)
thread.join()
text = b"".join(found).decode()
print(len(text) > 300_000, text.count("open handle"), len(text.splitlines()) == len(expected.splitlines()))
"""


@needs_signals
def test_a_stderr_that_does_not_block(run_python: Run) -> None:
    """Where stderr takes only a part at a time, as others may have arranged, the whole dump is written still."""
    done = run_python(NOT_BLOCKING)
    assert (done.returncode, done.stdout) == (0, "True 1 True\n"), done.stderr


@needs_signals
def test_a_reader_that_reads_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that does not block and stays full is waited for briefly, and then given up."""
    monkeypatch.setattr(_dump, "_PATIENCE", 10)
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        with pytest.raises(BlockingIOError):
            _dump._write_all(writing, b"x" * 1_000_000)
    finally:
        os.close(reading)
        os.close(writing)


@needs_signals
def test_crashes_are_refused(told: Path) -> None:
    """Signals of a crash, which a handler in Python would return to for ever, are refused with what to use instead."""
    for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL):
        with pytest.raises(ValueError, match="use faulthandler"):
            saferocks.dump_on_signal(number, told)
    assert not told.exists()


NAMED_PIPE = """
import os, signal
import saferocks
os.mkfifo("pipe")
try:
    saferocks.dump_on_signal(signal.SIGUSR1, "pipe")
except ValueError as error:
    print(error)
"""


@needs_signals
def test_a_named_pipe_is_refused(run_python: Run) -> None:
    """A named pipe, on which a signal handler would wait for a reader for ever, is refused at the call."""
    done = run_python(NAMED_PIPE, timeout=20)
    assert "is a named pipe, which may have no reader; give a plain file" in done.stdout


@needs_signals
def test_bad_arguments(told: Path) -> None:
    """What is no signal, a signal that cannot be handled, and a file that cannot be written are refused at the call."""
    for number, error in (("SIGUSR1", TypeError), (True, TypeError), (0, ValueError), (999, ValueError)):
        with pytest.raises(error, match=f"{number!r}.*give .*such as signal.SIGUSR1"):
            saferocks.dump_on_signal(number, told)
    for order in (signal.SIGKILL, signal.SIGSTOP):
        with pytest.raises(ValueError, match=f"signal {order:d} cannot be handled by any process; give"):
            saferocks.dump_on_signal(order, told)
    assert not told.exists()
    with pytest.raises(FileNotFoundError):
        saferocks.dump_on_signal(signal.SIGUSR1, told.parent / "missing" / "file")
    with pytest.raises(ValueError, match="empty"):
        saferocks.dump_on_signal(signal.SIGUSR1, "")


@needs_signals
def test_other_threads_are_refused() -> None:
    """Python handles signals in the main thread only, which another one is told."""
    found: list[BaseException] = []

    def ask() -> None:
        try:
            saferocks.dump_on_signal(signal.SIGUSR1)
        except ValueError as error:
            found.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert "main thread" in str(found[0])


def test_a_dump_takes_no_lock_of_a_database(db: saferocks.Rdict) -> None:
    """While another thread holds a database's lock, as a close does, a dump comes at once."""
    lock, over, held = db._record.owner.lock, threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            over.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(30)
    try:
        assert "1 database" in saferocks.dump()
    finally:
        over.set()
        thread.join()
    assert os.getpid() > 0
