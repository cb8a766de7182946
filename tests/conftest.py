"""Fixtures of the whole suite."""

from __future__ import annotations

import gc
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import rocksdict

import saferocks
from saferocks import _deadlines, _leases, _registry, _settings, _totals, _watch
from tests import systems

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from selenium.webdriver.chrome.webdriver import WebDriver

saferocks.open  # the first use, with which strictness begins: before the first test, not in the midst of it

# An example takes as long as the machine lets it; what else there is in the profile, on CI say, stays.
hypothesis.settings.register_profile("unhurried", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("unhurried")

if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under `nohup` it is ignored, which child processes inherit

ROOT = Path(__file__).resolve().parent.parent


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Skip, with its reason, a file that cannot be loaded on this system."""
    if systems.lacking(module_path.name) is None:
        return None
    return systems.LackingModule.from_parent(parent, path=module_path)


CHILD_SECONDS = 60.0


@pytest.fixture(autouse=True)
def settings_stay() -> Iterator[None]:
    """Fail a test that leaves the settings of the process changed: those after it would not be strict."""
    before = _settings.current
    yield
    after, _settings.current = _settings.current, before
    assert after == before


@pytest.fixture(autouse=True)
def _uncounted() -> Iterator[None]:
    """Let no test count releases for those after it, which measure what handles take where nobody asks for totals."""
    yield
    _totals.counting.clear()


@pytest.fixture(autouse=True)
def _unwatched(request: pytest.FixtureRequest, settings_stay: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test marked `about_leaks` meet the guard as a program does: not strict, and with nobody watching.

    What it leaves open when it ends fails it all the same.
    """
    if request.node.get_closest_marker("about_leaks") is not None:
        monkeypatch.setattr(_watch, "watches", ())
        monkeypatch.setattr(_settings, "current", _settings.Settings())


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A path at which there is no database yet."""
    return str(tmp_path / "db")


@pytest.fixture
def db(path: str) -> Iterator[saferocks.Rdict]:
    """An entered raw database that counts its iterators."""
    with saferocks.open(path, statistics=True) as database:
        yield database


@pytest.fixture
def typed_db(tmp_path: Path) -> Iterator[saferocks.Rdict]:
    """An entered typed database that refuses pickles."""
    with saferocks.open(str(tmp_path / "typed"), raw_mode=False, statistics=True) as database:
        yield database


@pytest.fixture
def bare(path: str) -> Iterator[rocksdict.Rdict]:
    """A raw database of bare rocksdict."""
    database = rocksdict.Rdict(path, rocksdict.Options(raw_mode=True))
    yield database
    with suppress(Exception):
        database.close()


@pytest.fixture
def still_writable(path: str, db: saferocks.Rdict) -> Callable[[], bool]:
    """Tell whether writes, flush, close and reopening of the database work, and nothing is lost."""

    def check() -> bool:
        db[b"after"] = b"1"
        with db.write_batch() as batch:
            batch[b"batched"] = b"2"
        db.flush()
        db.close()
        with saferocks.open(path) as again:
            return again.get([b"after", b"batched"]) == [b"1", b"2"]

    return check


@pytest.fixture
def fresh_totals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin each test with no totals, as a program does: what other tests have done is no matter."""
    monkeypatch.setattr(_totals, "_databases", {})
    monkeypatch.setattr(_registry.PROCESS.totals, "series", _totals.Totals(None).series)


@pytest.fixture
def strict() -> Iterator[None]:
    """The policy `raise` for the length of a test."""
    with saferocks.strict():
        yield


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program in a child process with a time limit; for what may hang, crash or end the interpreter.

    The program is written to a file, `program.py` unless `name=` says otherwise, so that its lines have
    names. `flags` go to the interpreter, `env` is added to the environment.
    """

    def run(
        program: str,
        *arguments: str,
        flags: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
        name: str = "program.py",
        timeout: float = CHILD_SECONDS,
    ) -> subprocess.CompletedProcess[str]:
        file = tmp_path / name
        file.write_text(textwrap.dedent(program))
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("SAFEROCKS_", "PYTEST_"))},
            "PYTHONPATH": str(ROOT),
            **(env or {}),
        }
        return subprocess.run(
            [sys.executable, *flags, str(file), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment,
            cwd=tmp_path,
            check=False,
        )

    return run


_ROUNDS = """
    import importlib, json, os, sys
    from pathlib import Path
    from stress.faults.fault import Round

    fault = importlib.import_module(sys.argv[1]).FAULT
    for seed in map(int, sys.argv[2:]):
        directory = Path(f"round-{seed}").absolute()
        directory.mkdir()
        child = os.fork()
        if not child:
            outcome = fault.stage(Round(seed, directory))
            print(json.dumps([outcome.counts, outcome.wrong]), flush=True)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, seed
"""


@pytest.fixture
def run_rounds(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., Any]:
    """Stage rounds of a fault, each in a process of its own.

    Takes the name of its module and the seeds; returns the counts of each round, and all that was wrong.
    """

    def run(fault: str, *seeds: int) -> tuple[list[dict[str, int]], list[str]]:
        done = run_python(_ROUNDS, f"stress.faults.{fault}", *map(str, seeds), env={"RUST_BACKTRACE": "0"})
        assert done.returncode == 0, done.stdout + done.stderr
        found = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(found) == len(seeds)
        return [counts for counts, _ in found], [each for _, wrong in found for each in wrong]

    return run


#: What a program of threads that race begins with; it says itself when its stacks are to be printed and it ended.
_RACE = """
    import collections, contextlib, faulthandler, gc, json, logging, os, random, sys, threading, time, warnings
    import saferocks

    faulthandler.enable()
    warnings.simplefilter("ignore")
    random.seed(5)
    out, counting = collections.Counter(), threading.Lock()

    def count(name, number=1):  # a counter's first `+=` of a name calls Python code, in which another thread has a turn
        with counting:
            out[name] += number

    def fail(*what):
        print("FAILED", *what, flush=True)
        os._exit(9)

    def join(threads):
        for thread in threads:
            thread.join(60)
            if thread.is_alive():
                faulthandler.dump_traceback(all_threads=True)
                fail("a thread hangs")

    def timed(rounds):  # what hangs shows its stacks; how long all of them take depends on what else the machine does
        for round in range(rounds):
            faulthandler.dump_traceback_later(60, exit=True)
            yield round
"""


@pytest.fixture
def run_race(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., Any]:
    """Run a program of threads that race, as `run_python` does, with a few things at hand.

    They are the counter `out` and `count(name)`, which adds to it, `fail(*what)`, which ends it at once,
    `join(threads)`, which fails where one hangs and shows the stacks of all, and `timed(rounds)`, whose rounds have
    a limit of time each.
    """

    def run(program: str, *arguments: str, timeout: float = CHILD_SECONDS) -> subprocess.CompletedProcess[str]:
        return run_python(_RACE + program, *arguments, timeout=timeout)

    return run


class LeakRun:
    """What a run of pytest says of leaks.

    Attributes:
        result: All that it said.
        blamed: The names of the tests that have errors or failed, in its own order; `saferocks` is the session.
        errors: The texts of errors at setup and teardown, by the names of the tests.
    """

    def __init__(self, result: pytest.RunResult) -> None:
        self.result = result
        lines = [line for line in result.outlines if re.match(r"(ERROR|FAILED) \S", line)]
        self.blamed = [line.split(" - ")[0].split(" ", 1)[1].rpartition("::")[2] for line in lines]
        heading = re.compile(r"^_+ ERROR at (?:setup|teardown) of (?:\w+\.)*(\S+) _+$", re.MULTILINE)
        _, *parts = heading.split("\n".join(result.outlines))
        texts = (re.split(r"^=====", text, maxsplit=1, flags=re.MULTILINE)[0].strip("\n") for text in parts[1::2])
        self.errors = dict(zip(parts[::2], texts, strict=True))


class LeakSuite:
    """A directory of tests for an inner run of pytest.

    Its conftest has the fixtures `db` and `session_db`, databases with two rows, and `outlive`, which enters what
    it is given in a thread that goes on until the run is over.
    """

    CONFTEST = """
        import threading
        import pytest
        import saferocks

        OVER = threading.Event()
        THREADS = []

        def database(tmp_path_factory):
            with saferocks.open(tmp_path_factory.mktemp("db") / "db") as db:
                db[b"a"] = b"1"
                db[b"b"] = b"2"
                yield db

        db = pytest.fixture(scope="module")(database)
        session_db = pytest.fixture(scope="session")(database)

        @pytest.fixture(scope="session")
        def outlive():
            def start(scope, *arguments):
                begun = threading.Event()
                def run():
                    with scope(*arguments):
                        begun.set()
                        OVER.wait()
                THREADS.append(threading.Thread(target=run, daemon=True))
                THREADS[-1].start()
                assert begun.wait(30)
            return start

        def pytest_unconfigure():
            OVER.set()
            for thread in THREADS:
                thread.join(30)
    """
    #: The inner run has these, each of which takes time to start, only where a test asks for them.
    OTHER_PLUGINS = ("asyncio", "rerunfailures", "xdist", "hypothesispytest")

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.configure("")
        pytester.makeconftest(self.CONFTEST)

    def configure(self, ini: str, *plugins: str) -> None:
        """Write the ini file anew: lines of its own, and other plugins that are to be had."""
        blocked = " ".join(f"-p no:{name}" for name in self.OTHER_PLUGINS if name not in plugins)
        grace = "" if "saferocks_leak_grace" in ini else "saferocks_leak_grace = 0.02\n"
        self.pytester.makeini(
            f"[pytest]\naddopts = {blocked}\nfilterwarnings = default\n{grace}{textwrap.dedent(ini)}\n"
        )

    def write(self, source: str) -> None:
        """Write the test file, `test_it.py`; its first line imports, its second makes the list `HELD`."""
        self.pytester.makepyfile(
            test_it=f"import gc, threading, pytest, saferocks\nHELD = []\n{textwrap.dedent(source).lstrip()}"
        )

    def run(self, source: str, *flags: str) -> LeakRun:
        """Run a test file inside this process."""
        self.write(source)
        return LeakRun(self.pytester.runpytest_inprocess(*flags))

    def run_child(self, source: str, *flags: str) -> LeakRun:
        """Run a test file in a child process."""
        self.write(source)
        return LeakRun(self.pytester.runpytest_subprocess(*flags))


@pytest.fixture
def pytester(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Inner runs print the same wherever the outer one runs: on CI, say, pytest writes longer summaries."""
    for name in ("CI", "BUILD_NUMBER", "COLUMNS", "FORCE_COLOR", "NO_COLOR", "PY_COLORS", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    return pytester


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> LeakSuite:
    """A suite to be run by an inner pytest, under the default settings."""
    saferocks.check()  # a first use in the inner run would make this one strict in its midst
    monkeypatch.setattr(_settings, "current", _settings.Settings())
    for name in ("SAFEROCKS_POLICY", "SAFEROCKS_TRACE"):
        monkeypatch.delenv(name, raising=False)
    return LeakSuite(pytester)


# --------------------------------------------------------------------------- leases


class _MovedAlarm(_deadlines.Alarm):
    """Wakes when it rings, or when the clock has been moved on far enough."""

    def __init__(self, clock: MovedClock) -> None:
        self._clock = clock
        self._rung = False
        self._until: float | None = None

    def ring(self) -> None:
        with self._clock.changed:
            self._rung = True
            self._clock.changed.notify_all()

    def wait(self, seconds: float) -> None:
        with self._clock.changed:
            self._clock.waits += 1
            self._until = self._clock.time + seconds
            self._clock.changed.notify_all()
            self._clock.changed.wait_for(lambda: not self.sleeps())
            self._until, self._rung = None, False

    def sleeps(self) -> bool:
        """Tell whether the watcher sleeps, and will until something happens."""
        return self._until is not None and not self._rung and self._clock.time < self._until


class MovedClock(_deadlines.Clock):
    """A clock that stands still until a test moves it, and then waits until the watcher has done its work.

    Attributes:
        time: Its time, in seconds.
        waits: How often the watcher has gone to sleep.
        running: How many threads have been started to watch and have not ended.
        started: How many have been started.
    """

    def __init__(self) -> None:
        self.time = 1000.0
        self.waits = self.running = self.started = 0
        self.changed = threading.Condition()
        self._alarms: list[_MovedAlarm] = []

    def now(self) -> float:
        return self.time

    def alarm(self) -> _MovedAlarm:
        self._alarms.append(_MovedAlarm(self))
        return self._alarms[-1]

    def advance(self, seconds: float) -> None:
        """Move on, and return once everything that is due by then has been done."""
        with self.changed:
            self.time += seconds
            self.changed.notify_all()
        self.settle()

    def settle(self) -> None:
        """Wait until the watcher sleeps or has ended."""
        with self.changed:
            assert self.changed.wait_for(self._is_quiet, CHILD_SECONDS), "the watcher does not come to rest"

    def _is_quiet(self) -> bool:
        return self.running == 0 or (self.running == 1 and self._alarms[-1].sleeps())


class CountedWatcher(_deadlines.Watcher):
    """A watcher whose threads its clock counts."""

    clock: MovedClock

    def _start(self) -> None:
        with self.clock.changed:
            self.clock.running += 1
            self.clock.started += 1
        super()._start()

    def _run(self) -> None:
        try:
            super()._run()
        finally:
            with self.clock.changed:
                self.clock.running -= 1
                self.clock.changed.notify_all()


@contextmanager
def moved_clock() -> Iterator[MovedClock]:
    """Put a clock that stands still under all leases for the length of a block."""
    clock, before = MovedClock(), _leases.watcher
    _leases._counts.clear()  # each line of a test is new
    _leases.watcher = CountedWatcher(clock, _leases.pending, _leases._awake)
    try:
        yield clock
        gc.collect()
        for _ in range(3):  # after the last handle it stays a moment, twice at the most
            clock.advance(2 * _deadlines.LINGER_SECONDS)
        assert (clock.running, _leases.watcher.pending(), _leases.pending) == (0, 0, {})
    finally:
        _leases.watcher = before


@pytest.fixture
def clock() -> Iterator[MovedClock]:
    """A clock for leases that a test moves; at the end nothing may be left to watch, and the watcher have ended."""
    with moved_clock() as clock:
        yield clock


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[str, dict[str, Any]]]]:
    """Return the events since the last call, at WARNING and above, as names and fields."""
    caplog.set_level(logging.WARNING, "saferocks")

    def take() -> list[tuple[str, dict[str, Any]]]:
        found = [record for record in caplog.records if record.name == "saferocks"]
        caplog.clear()
        return [
            (record.message.split()[0].removeprefix("saferocks."), record.saferocks)  # type: ignore[attr-defined]
            for record in found
        ]

    return take


@pytest.fixture
def overdue() -> Iterator[Callable[[], list[str]]]:
    """Return the texts of the warnings of overdue handles since the last call, from whatever thread."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("error")
        warnings.simplefilter("always", saferocks.OverdueHandleWarning)

        def take() -> list[str]:
            texts = [str(warning.message) for warning in caught]
            caught.clear()
            return texts

        yield take
        assert take() == []


BROWSER_SECONDS = 30
SWITCHES = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)


def found(program: str) -> str:
    """Return where a program is; on the Linux of continuous integration it has to be somewhere."""
    place = shutil.which(program)
    if place is None:
        needed = systems.IS_LINUX and os.environ.get("CI")
        (pytest.fail if needed else pytest.skip)(f"there is no {program} on PATH")
    return place


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Callable[..., WebDriver]]:
    """Start a browser with an empty profile, Chromium from the system; each ends with its test."""
    from selenium import webdriver  # here: few tests need it, and not every environment has it
    from selenium.webdriver.chrome.service import Service

    begun: list[WebDriver] = []
    programs = found("chromium"), found("chromedriver")

    def start(*, javascript: bool = True) -> WebDriver:
        options = webdriver.ChromeOptions()
        options.binary_location = programs[0]
        for switch in (*SWITCHES, f"--user-data-dir={tmp_path / f'profile-{len(begun)}'}", "--window-size=1400,1000"):
            options.add_argument(switch)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        if not javascript:
            blocked = {"profile.managed_default_content_settings.javascript": 2}
            options.add_experimental_option("prefs", blocked)
        driver = webdriver.Chrome(options=options, service=Service(programs[1]))
        begun.append(driver)
        driver.command_executor.client_config.timeout = BROWSER_SECONDS
        driver.set_page_load_timeout(BROWSER_SECONDS)
        driver.set_script_timeout(BROWSER_SECONDS)
        return driver

    yield start
    for driver in begun:
        driver.quit()


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """A directory for what a program has to put somewhere; it must be empty at the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder
