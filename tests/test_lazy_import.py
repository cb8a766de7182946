"""`import saferocks` costs nothing until one of its names is used, and nobody notices the difference."""

from __future__ import annotations

import pickle
import sys
from typing import TYPE_CHECKING

import pytest

import saferocks
from saferocks import _startup, errors

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    Run = Callable[..., subprocess.CompletedProcess[str]]

#: Tells which of the modules that take time to import are imported.
LOADED = """
import sys
def loaded():
    heavy = {"rocksdict", "structlog", "psutil", "prometheus_client", "opentelemetry", "saferocks.metrics"}
    return sorted((heavy | {"saferocks.otel", "saferocks._api", "saferocks._registry"}) & sys.modules.keys())
"""


def lines_of(run: Run, program: str, **options: object) -> list[str]:
    """Return what a program prints, which ends well and complains of nothing."""
    done = run(LOADED + program, flags=("-W", "error"), **options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


# --------------------------------------------------------------------------- what loads, and what does not

QUIET = {
    "import": "import saferocks",
    "version": "import saferocks; saferocks.__version__",
    "dir": "import saferocks; dir(saferocks)",
    "all": "import saferocks; saferocks.__all__",
    "help": "import saferocks; saferocks.__doc__, saferocks.__file__, saferocks.__path__, saferocks.__spec__",
    "unwrapped": "import saferocks; assert not hasattr(saferocks, '__wrapped__')",
    "inspected": "import inspect, saferocks; inspect.unwrap(saferocks); inspect.getmembers(saferocks.errors)",
    "asked for plugins": "import saferocks; assert not hasattr(saferocks, 'pytest_plugins')",
    "unknown": "import saferocks; assert not hasattr(saferocks, 'opne')",
    "private": "import saferocks; assert not hasattr(saferocks, '_guard')",
    "errors": "import saferocks; saferocks.errors.EngineError, saferocks.events.emit",
    "errors from": "from saferocks.errors import EngineError, LeakedHandlesError; from saferocks import errors, events",
    "plugin": "import saferocks.pytest_plugin",
    "waiting": "from saferocks import _startup; _startup.when_used(print)",
}


@pytest.mark.parametrize("name", QUIET)
def test_what_does_not_load(run_python: Run, name: str) -> None:
    """Importing the package, its errors or its plugin, and looking at it, loads neither RocksDB nor the registry."""
    assert lines_of(run_python, f"{QUIET[name]}\nprint(loaded())") == ["[]"]


USES = {
    "attribute": "import saferocks; saferocks.Rdict",
    "function": "import saferocks; saferocks.check()",
    "warning": "import saferocks; saferocks.LeakedHandleWarning",
    "from": "from saferocks import open",
    "star": "from saferocks import *; Rdict, WriteBatch, LeakedHandlesError, strict",
    "hasattr": "import saferocks; assert hasattr(saferocks, 'WriteBatch')",
}


@pytest.mark.parametrize("name", USES)
def test_what_loads(run_python: Run, name: str) -> None:
    """The first use of any of its names loads the package and RocksDB, and structlog not even then."""
    found = lines_of(run_python, f"{USES[name]}\nprint(loaded())")
    assert found == [str(["psutil", "rocksdict", "saferocks._api", "saferocks._registry"])]


APART = """
import saferocks
with saferocks.open("db") as db, db.items():
    saferocks.dump()
apart = ("saferocks.debug", "saferocks._debug", "saferocks._command", "saferocks._terminal", "saferocks._shadow",
         "rich", "wsgiref", "http.server", "asyncio")
print([name for name in sys.modules if name.startswith(apart)])
"""


def test_what_a_program_that_asks_for_no_page_does_not_load(run_python: Run) -> None:
    """Not even with use does the package load the debug page, the command, or what those need."""
    assert lines_of(run_python, APART) == ["[]"]


STAR = """
before = set(globals())
from saferocks import *
import saferocks
names = set(globals()) - before - {"before", "saferocks"}
print(sorted(names ^ set(saferocks.__all__)))
print(open is saferocks.open, check is saferocks.check, __version__ == saferocks.__version__)
with open("db") as db, db.items() as items:
    print(list(items))
"""


def test_star(run_python: Run) -> None:
    """`from saferocks import *` as the first use gives exactly what `__all__` lists, and it works."""
    assert lines_of(run_python, STAR) == ["[]", "True True True", "[]"]


DIR = """
import saferocks
before = dir(saferocks)
print(before == sorted(set(before)))
saferocks.open
public = lambda names: [name for name in names if not name.startswith("_")]
print(sorted(set(public(dir(saferocks))) - set(public(before))))
print(sorted({*saferocks.__all__, "errors", "events", "inspection", "__file__", "__doc__"} - set(before)))
"""


def test_dir(run_python: Run) -> None:
    """`dir` lists all public names before the first use already, each once."""
    assert lines_of(run_python, DIR) == ["True", "[]", "[]"]


@pytest.mark.parametrize("name", ["debug", "errors", "events", "inspection", "testing"])
def test_public_modules_are_reachable(run_python: Run, name: str) -> None:
    """Every public module is an attribute of the package, without an import of its own."""
    program = f"import saferocks\nprint(saferocks.{name}.__name__, {name!r} in dir(saferocks))"
    assert lines_of(run_python, program) == [f"saferocks.{name} True"]


UNKNOWN = """
import saferocks
for use in (False, True):
    if use:
        saferocks.open
    try:
        saferocks.opne
    except AttributeError as error:
        print(error)
    try:
        from saferocks import opne
    except ImportError as error:
        print(str(error).partition(" (")[0])
    print(getattr(saferocks, "opne", "none"))
"""


def test_unknown_names(run_python: Run) -> None:
    """An unknown name is the AttributeError or ImportError of any module, before the first use and after it."""
    expected = [
        "module 'saferocks' has no attribute 'opne'",
        "cannot import name 'opne' from 'saferocks'",
        "none",
    ]
    assert lines_of(run_python, UNKNOWN) == expected * 2


def test_names_are_found_once() -> None:
    """After the first use the names are the module's own, so that a use costs no call."""
    assert saferocks.open is vars(saferocks)["open"]
    assert set(saferocks.__all__) <= vars(saferocks).keys()


# --------------------------------------------------------------------------- names that programs replace

REPLACED = """
import saferocks
saferocks.open = fake = lambda path: "a fake"
saferocks.check()
print(saferocks.open is fake)
"""

PATCHED = """
from unittest import mock
import saferocks
first = mock.patch("saferocks.check")
second = mock.patch("saferocks.open")
first.start()
fake = second.start()
first.stop()
print(saferocks.open is fake, saferocks.check is saferocks._api.check)
second.stop()
print(saferocks.open is saferocks._api.open)
"""


def test_a_replaced_name_stays(run_python: Run) -> None:
    """A name that a program has set before the first use of another stays as it was set."""
    assert lines_of(run_python, REPLACED) == ["True"]


def test_patches_that_do_not_nest(run_python: Run) -> None:
    """A patch of one name is not undone when an earlier one of another name ends, and both end well."""
    assert lines_of(run_python, PATCHED) == ["True True", "True"]


# --------------------------------------------------------------------------- many at once

RACE = """
import faulthandler, sys, threading
faulthandler.dump_traceback_later(30, exit=True)
sys.setswitchinterval(1e-6)
import saferocks
from saferocks import _startup

calls, results, barrier = [], [], threading.Barrier(8)
_startup.when_used(lambda: calls.append(len(sys.modules["saferocks._registry"].records)))

USES = [
    lambda: saferocks.Rdict.__name__,
    lambda: saferocks.open("db0").__exit__(None, None, None),
    lambda: saferocks.WriteBatch(raw_mode=True).__enter__().__exit__(None, None, None),
    lambda: saferocks.inspection.open_handles,
    lambda: __import__("saferocks.testing").testing.open_handles,
    lambda: saferocks.errors.EngineError("text").args,
    lambda: exec("from saferocks import *", {}),
    lambda: saferocks.check(),
]

def use(each):
    barrier.wait()
    try:
        each()
    except BaseException as error:
        results.append(repr(error))
    else:
        results.append("ok")

threads = [threading.Thread(target=use, args=(each,)) for each in USES]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(results == ["ok"] * 8 or results)
print(calls)
print(saferocks.open_handles())
"""


@pytest.mark.parametrize("attempt", range(3))
def test_first_uses_of_many_threads(run_python: Run, attempt: int) -> None:
    """Eight threads whose first uses of different names come at once all get them, and who waits is called once."""
    assert lines_of(run_python, RACE) == ["True", "[0]", "()"], attempt


# --------------------------------------------------------------------------- errors that travel

TRAVELLED = """
import pickle
with open(sys.argv[1], "rb") as file:
    error = pickle.load(file)
print(type(error).__module__, type(error).__qualname__, repr(str(error)), getattr(error, "code", None))
print(loaded())
import saferocks
print(type(error) is getattr(saferocks, type(error).__name__))
with open(sys.argv[1], "wb") as file:
    pickle.dump(error, file)
"""


@pytest.mark.parametrize("name", ["EngineError", "LockedError", "BusyError", "HandleClosedError", "LeakedHandlesError"])
def test_errors_travel_between_processes(run_python: Run, tmp_path: object, name: str) -> None:
    """An error is unpickled in a process that has not used the package, which loads nothing, and travels back."""
    kind = getattr(saferocks, name)
    leak = saferocks.Leak("iterator", "file.py:1", 1, 0.5, "collected while open")
    if issubclass(kind, saferocks.EngineError):
        error = kind("Busy: text", code=11, subcode="sub")
    else:
        error = kind((leak,)) if name == "LeakedHandlesError" else kind("Busy: text")
    file = f"{tmp_path}/error.pickle"
    with open(file, "wb") as stream:
        pickle.dump(error, stream)
    done = run_python(LOADED + TRAVELLED, file, flags=("-W", "error"))
    assert done.stderr == ""
    code = 11 if issubclass(kind, saferocks.EngineError) else None
    assert done.stdout.splitlines() == [f"saferocks.errors {name} {str(error)!r} {code}", "[]", "True"]
    with open(file, "rb") as stream:
        back = pickle.load(stream)
    assert (type(back), back.args, vars(back)) == (type(error), error.args, vars(error))


SPAWNED = """
import concurrent.futures, multiprocessing
import saferocks

def fail(path):
    import saferocks
    with saferocks.open(path):
        saferocks.open(path)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        error = pool.submit(fail, "db").exception()
    print(type(error).__name__, error.code, loaded())
    print(isinstance(error, saferocks.LockedError), loaded() != [])
"""


def test_an_error_of_a_spawned_process(run_python: Run) -> None:
    """A spawned process hands its LockedError to a parent that has not used the package."""
    assert lines_of(run_python, SPAWNED) == ["LockedError 5 []", "True True"]


# --------------------------------------------------------------------------- who waits for the first use

WAITING = """
import saferocks
from saferocks import _startup

def first():
    registry = sys.modules["saferocks._registry"]
    print("first", len(registry.records), registry.next_number())

def second():
    print("second")
    _startup.when_used(lambda: print("at once"))  # as it is in use by now

def never():
    print("never")

for callback in (first, first, never, second):
    _startup.when_used(callback)
_startup.forget(never)
_startup.forget(never)  # no matter
print("not yet")
saferocks.errors.EngineError
with saferocks.open("db"):
    print("opened")
saferocks.open
saferocks.inspection.open_handles
_startup.when_used(lambda: print("late"))
_startup.forget(print)
"""


def test_callbacks_at_the_first_use(run_python: Run) -> None:
    """Who waits is called at the first use, once, in order and before any handle has a number; later at once."""
    assert lines_of(run_python, WAITING) == [
        "not yet",
        "first 0 1",
        "first 0 2",
        "second",
        "at once",
        "opened",
        "late",
    ]


def test_a_callback_that_opens_a_database(run_python: Run) -> None:
    """A callback of the first use may use the package itself, and the use that came first goes on."""
    program = """
import saferocks
from saferocks import _startup

def use():
    from saferocks._database import open
    with open("inner") as db, db.items() as items:
        print(list(items))

_startup.when_used(use)
with saferocks.open("outer") as db, db.keys() as keys:
    print(list(keys), len(saferocks.open_handles()))
"""
    assert lines_of(run_python, program) == ["[]", "[] 1"]


@pytest.mark.parametrize("module", ["saferocks.testing", "saferocks.inspection", "saferocks._api"])
def test_callbacks_come_before_handles_whatever_is_imported(run_python: Run, module: str) -> None:
    """Whichever module is imported first, who waits is called by the time that a handle can be opened."""
    program = f"""
import saferocks
from saferocks import _startup
_startup.when_used(lambda: print("used", len(sys.modules["saferocks._registry"].records)))
import {module}
with saferocks.open("db"):
    print("opened")
"""
    assert lines_of(run_python, program) == ["used 0", "opened"]


def test_a_use_in_the_midst_of_the_first(run_python: Run) -> None:
    """What comes while the package is being loaded in the same thread, a signal handler say, is told so."""
    program = """
import sys
import saferocks

class Asks:
    def find_spec(self, name, path, target=None):
        if name == "saferocks._handle":
            try:
                saferocks.open
            except AttributeError as error:
                print(error)

sys.meta_path.insert(0, Asks())
with saferocks.open("db"):
    print("opened")
"""
    text = "saferocks.open is not there yet: saferocks is being loaded further up this stack"
    assert lines_of(run_python, program) == [text, "opened"]


def test_in_use_here() -> None:
    """Once the package is in use, who begins to wait is called at once, and nobody is kept waiting."""
    called: list[str] = []
    _startup.when_used(lambda: called.append("called"))
    assert called == ["called"]
    assert _startup._waiting == []


def test_errors_are_those_of_the_package() -> None:
    """The names of the package and of its module of errors are the same objects."""
    assert all(getattr(saferocks, name) is getattr(errors, name) for name in errors.__all__)
    assert sys.modules["saferocks.errors"] is saferocks.errors
