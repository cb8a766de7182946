"""The eight ways in which a handle escapes from its `with`, each in a process of its own.

Each program opens an iterator, a snapshot and a write batch, on lines that carry a comment with
their kind, and lets them escape. What is then said must name these lines.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import re
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

import saferocks

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

    RunPython = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.about_leaks

KINDS = ("iterator", "snapshot", "write_batch")
COLLECTED = "collected while open"
NEVER_ENTERED = "collected without ever being entered"
OUTLIVED = "still open when its database closed"
DROPPED = "2 operations (22 bytes) were dropped"

PRELUDE = """
    import contextvars, gc, json, sys, threading
    from contextlib import ExitStack
    import saferocks

    policy, path = sys.argv[1:]
    HELD, AFTERWARDS, told, raised = [], [], [], ()

    def entered(handle):
        handle.__enter__()
        return filled(handle)

    def filled(handle):
        if isinstance(handle, saferocks.WriteBatch):
            handle[b"a"] = b"1"
            handle[b"b"] = b"2"
        return handle

    def as_rows(leaks):
        return [[leak.kind, leak.opened_at.rpartition("/")[2], leak.count, leak.escape, leak.note] for leak in leaks]

    def told_as_unraisable(unraisable):
        assert isinstance(unraisable.exc_value, saferocks.LeakedHandlesError)
        told.extend(as_rows(unraisable.exc_value.leaks))

    if policy == "raise":
        sys.unraisablehook = told_as_unraisable
    try:
        with saferocks.open(path, policy=policy) as db:
            db[b"k"] = b"v"
"""
CONCLUSION = """
    except saferocks.LeakedHandlesError as error:
        raised = as_rows(error.leaks)
    for call in AFTERWARDS:
        call()
    if policy == "raise":
        print(json.dumps([told, raised]))
"""

#: How handles escape, and what is said of them.
ROUTES: dict[str, tuple[str, str]] = {
    "cycle": (
        """
        class Holder:
            def __init__(self, handle):
                self.me, self.handle = self, handle
        Holder(entered(db.items()))  # iterator
        Holder(entered(db.snapshot()))  # snapshot
        Holder(entered(db.write_batch()))  # write_batch
        gc.collect()
        """,
        COLLECTED,
    ),
    "global": (
        """
        HELD.append(entered(db.items()))  # iterator
        HELD.append(entered(db.snapshot()))  # snapshot
        HELD.append(entered(db.write_batch()))  # write_batch
        """,
        OUTLIVED,
    ),
    "suspended generator": (
        """
        def suspended(scope):
            with scope as handle:
                filled(handle)
                yield handle
        HELD.append(suspended(db.items()))  # iterator
        HELD.append(suspended(db.snapshot()))  # snapshot
        HELD.append(suspended(db.write_batch()))  # write_batch
        for generator in HELD:
            next(generator)
        """,
        OUTLIVED,
    ),
    "stored traceback": (
        """
        def fail(handle):
            entered(handle)
            raise ValueError("mine")
        def fail_with_each():
            try:
                fail(db.items())  # iterator
            except ValueError as error:
                HELD.append(error)
            try:
                fail(db.snapshot())  # snapshot
            except ValueError as error:
                HELD.append(error)
            try:
                fail(db.write_batch())  # write_batch
            except ValueError as error:
                HELD.append(error)
        fail_with_each()
        """,
        OUTLIVED,
    ),
    "thread": (
        """
        opened, over = threading.Semaphore(0), threading.Event()
        def hold(handle):
            entered(handle)
            opened.release()
            over.wait()
        HELD.append(threading.Thread(target=lambda: hold(db.items())))  # iterator
        HELD.append(threading.Thread(target=lambda: hold(db.snapshot())))  # snapshot
        HELD.append(threading.Thread(target=lambda: hold(db.write_batch())))  # write_batch
        for thread in HELD:
            thread.start()
            opened.acquire()
        AFTERWARDS.append(over.set)
        """,
        OUTLIVED,
    ),
    "contextvar": (
        """
        contextvars.ContextVar("one").set(entered(db.items()))  # iterator
        contextvars.ContextVar("two").set(entered(db.snapshot()))  # snapshot
        contextvars.ContextVar("three").set(entered(db.write_batch()))  # write_batch
        """,
        OUTLIVED,
    ),
    "never-closed ExitStack": (
        """
        filled(ExitStack().enter_context(db.items()))  # iterator
        filled(ExitStack().enter_context(db.snapshot()))  # snapshot
        stack = ExitStack()
        filled(stack.enter_context(db.write_batch()))  # write_batch
        del stack
        """,
        COLLECTED,
    ),
    "never entered": (
        """
        db.items()  # iterator
        db.snapshot()  # snapshot
        db.write_batch()  # write_batch
        """,
        NEVER_ENTERED,
    ),
}
every_route = pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.replace(" ", "-"))


def program_of(route: str) -> str:
    """Return the program in which handles escape by a route."""
    body = textwrap.indent(textwrap.dedent(ROUTES[route][0]), " " * 12)
    return textwrap.dedent(PRELUDE.rstrip() + body) + textwrap.dedent(CONCLUSION)


def places(program: str) -> dict[str, str]:
    """Return `file:line` of each line of a program that ends in a comment, by the comment's text."""
    lines = textwrap.dedent(program).splitlines()
    found = {}
    for number, line in enumerate(lines, start=1):
        _, mark, comment = line.partition("  # ")
        if mark:
            found[comment] = f"program.py:{number}"
    return found


def note_of(kind: str, escape: str) -> str | None:
    """Return what is said to be lost with a handle of the programs above."""
    return DROPPED if kind == "write_batch" and escape != NEVER_ENTERED else None


def warnings_in(stderr: str) -> list[tuple[str, str, str]]:
    """Return place, category and first line of the text of each warning on stderr."""
    return re.findall(r"^\S*?(\w+\.py:\d+): (\w+Warning): (.*)$", stderr, re.MULTILINE)


def events_in(stderr: str) -> list[tuple[str, str]]:
    """Return kind and place of each event on stderr of an escape that was counted for the first time."""
    event = r"^saferocks\.handle_(?:leaked|outlived_database) kind='(\w+)' .*opened_at='\S*/(\S+)' age=\S+ count=1 "
    return sorted(re.findall(event, stderr, re.MULTILINE))


def without_numbers(text: str) -> str:
    """Take the directory of the program and the ages out of a text."""
    return re.sub(r"after (up to )?[\d.]+ m?s", "after * s", re.sub(r"/\S*/(?=\w+\.py)", "", text))


# --------------------------------------------------------------------------- seven routes, three policies


@every_route
def test_an_escape_is_warned_about(route: str, run_python: RunPython, path: str) -> None:
    """Under `warn`, each handle that escapes is warned about once, by the line that opened it, and logged once."""
    program, escape = program_of(route), ROUTES[route][1]
    done = run_python(program, "warn", path, flags=("-X", "dev"))
    where = places(program)
    remedies = {
        "iterator": "with db.items() as items:",
        "snapshot": "with db.snapshot() as snap:",
        "write_batch": "with db.write_batch() as batch:",
    }
    expected = []
    for kind in KINDS:
        note = note_of(kind, escape)
        lost = f"; {note}" if note else ""
        text = f"{kind} opened at {where[kind]} was {escape} after * s{lost}; open it inside '{remedies[kind]}'"
        expected.append((where[kind], "LeakedHandleWarning", text))
    found = [(place, category, without_numbers(text)) for place, category, text in warnings_in(done.stderr)]
    assert sorted(found) == sorted(expected)
    assert events_in(done.stderr) == sorted((kind, where[kind]) for kind in KINDS)
    assert (done.returncode, done.stdout) == (0, "")
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@every_route
def test_an_escape_is_raised(route: str, run_python: RunPython, path: str) -> None:
    """Under `raise`, the database's exit raises all that escaped; what was collected is an unraisable error at once."""
    program, escape = program_of(route), ROUTES[route][1]
    done = run_python(program, "raise", path)
    where = places(program)
    assert done.returncode == 0
    told, raised = json.loads(done.stdout)
    expected = sorted([kind, where[kind], 1, escape, note_of(kind, escape)] for kind in KINDS)
    assert sorted(raised) == expected
    assert sorted(told) == ([] if escape == OUTLIVED else expected)
    assert events_in(done.stderr) == sorted((kind, where[kind]) for kind in KINDS)
    assert len(done.stderr.splitlines()) == 3


@pytest.mark.parametrize("route", ["global", "cycle"])
def test_an_escape_is_raised_where_warnings_are_errors(route: str, run_python: RunPython, path: str) -> None:
    """Under `raise`, the exit raises LeakedHandlesError and not the warning, though warnings are errors."""
    program, escape = program_of(route), ROUTES[route][1]
    done = run_python(program, "raise", path, flags=("-W", "error"))
    assert done.returncode == 0
    _, raised = json.loads(done.stdout)
    assert sorted(leak[0] for leak in raised) == list(KINDS)
    assert {leak[3] for leak in raised} == {escape}


@every_route
def test_an_escape_is_ignored(route: str, run_python: RunPython, path: str) -> None:
    """Under `ignore`, not a word is said of what escapes."""
    done = run_python(program_of(route), "ignore", path, flags=("-X", "dev"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@every_route
def test_what_escaped_holds_nothing(route: str, run_python: RunPython, path: str) -> None:
    """Whatever still refers to a handle, its database can be opened again, and no iterator of RocksDB is left."""
    program = program_of(route) + textwrap.dedent("""
        with saferocks.open(path, statistics=True) as db:
            assert db[b"k"] == b"v"
            assert b"a" not in db
            assert db.audit().ok
        assert saferocks.open_handles() == ()
    """)
    done = run_python(program, "ignore", path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --------------------------------------------------------------------------- the eighth: interpreter exit

EXIT = """
    import sys, threading, gc
    import saferocks
    policy, path = sys.argv[1:]
    saferocks.configure(policy=policy)
    scope = saferocks.open(path)  # database
    db = scope.__enter__()
    db[b"k"] = b"v"
    class Holder:
        def __init__(self, handle):
            self.me, self.handle = self, handle
    def suspended(scope):
        with scope as handle:
            yield handle
    gc.disable()
    items = db.items()  # iterator
    items.__enter__()
    rows = iter(items)
    next(rows)
    snapshot = Holder(db.snapshot())  # snapshot
    del snapshot
    generator = suspended(db.keys())  # iterator in a generator
    next(generator)
    batch = db.write_batch()  # write_batch
    batch.__enter__()[b"a"] = b"1"
    stopped = threading.Event()
    def wait(handle):
        handle.__enter__()
        stopped.set()
        threading.Event().wait()
    threading.Thread(target=lambda: wait(db.checkpoint()), daemon=True).start()  # checkpoint
    stopped.wait()
"""
LEFT_OPEN = {
    "database": "database",
    "iterator": "iterator",
    "snapshot": "snapshot",
    "iterator in a generator": "iterator",
    "write_batch": "write_batch",
    "checkpoint": "checkpoint",
}


def summary_of(stderr: str) -> list[str]:
    """Return the lines of the summary that name a line of the program, without ages."""
    return [
        without_numbers(line).strip() for line in stderr.splitlines() if line.startswith("  ") and " opened at " in line
    ]


def expected_summary(program: str) -> list[str]:
    """Return what the summary says of the program above."""
    where = places(program)
    lines = []
    for comment, kind in LEFT_OPEN.items():
        lost = "; 1 operation (17 bytes) was dropped" if kind == "write_batch" else ""
        lines.append(f"{kind} opened at {where[comment]} was still open at interpreter exit after * s{lost}")
    return lines


@pytest.mark.parametrize(
    ("ending", "status"), [("", 0), ("sys.exit(7)", 7), ("raise SystemExit('bye')", 1), ("raise ValueError('mine')", 1)]
)
def test_exit_with_everything_open_is_summed_up(ending: str, status: int, run_python: RunPython, path: str) -> None:
    """A program that ends with everything open keeps its exit status, and one summary on stderr names each line."""
    program = textwrap.dedent(EXIT) + ending
    done = run_python(program, "warn", path, flags=("-X", "dev"))
    assert (done.returncode, done.stdout) == (status, "")
    assert summary_of(done.stderr) == expected_summary(program)
    assert done.stderr.count("saferocks: 6 handles leaked:") == 1
    assert done.stderr.count("Traceback") == ("ValueError" in ending)
    assert "Exception ignored" not in done.stderr
    assert warnings_in(done.stderr) == []


def test_exit_with_everything_open_is_an_unraisable_error_under_raise(run_python: RunPython, path: str) -> None:
    """Under `raise`, the summary is one LeakedHandlesError for `sys.unraisablehook`; the exit status stays."""
    program = textwrap.dedent(EXIT) + textwrap.dedent("""
        def told(unraisable):
            sys.stderr.write(f"{type(unraisable.exc_value).__name__}: {unraisable.exc_value}")
        sys.unraisablehook = told
        sys.exit(7)
    """)
    done = run_python(program, "raise", path, flags=("-X", "dev"))
    assert (done.returncode, done.stdout) == (7, "")
    assert done.stderr.startswith("LeakedHandlesError: 6 leaked handles; open each in a 'with' block:\n")
    assert summary_of(done.stderr) == expected_summary(program)
    assert len(done.stderr.splitlines()) == 7


def test_exit_with_everything_open_is_silent_under_ignore(run_python: RunPython, path: str) -> None:
    """Under `ignore`, a program that ends with everything open ends in silence."""
    done = run_python(textwrap.dedent(EXIT) + "sys.exit(7)", "ignore", path, flags=("-X", "dev"))
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")


@pytest.mark.parametrize("stream", ["sys.stderr = None", "sys.stderr.close()", "import os; os.close(2)"])
def test_exit_without_a_stderr_keeps_the_status(stream: str, run_python: RunPython, path: str) -> None:
    """Where the summary cannot be written, the program ends with its own status all the same."""
    done = run_python(textwrap.dedent(EXIT) + f"{stream}\nsys.exit(7)", "warn", path)
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")


def test_what_exit_functions_close_is_not_reported(run_python: RunPython, path: str) -> None:
    """A database that is closed by an exit function of the program is not said to be left open."""
    done = run_python(
        """
        import atexit, sys
        import saferocks
        db = saferocks.Rdict(sys.argv[1])
        atexit.register(db.close)
        db["k"] = "v"
        """,
        path,
        flags=("-X", "dev"),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_finalizers_may_use_the_database_during_shutdown(run_python: RunPython, path: str) -> None:
    """An object that reads, writes and scans in `__del__`, while the interpreter goes down, sees no error."""
    program = """
        import sys
        import saferocks
        class User:
            def __init__(self, db):
                self.me, self.db = self, db
            def __del__(self):
                assert self.db["k"] == "v"
                with self.db.items() as items:
                    assert list(items) == [("k", "v")]
                self.db["l"] = "w"
                self.db.close()
                print("closed")
        db = saferocks.Rdict(sys.argv[1])  # database
        db["k"] = "v"
        user = User(db)
        sys.exit(7)
    """
    done = run_python(program, path, flags=("-X", "dev"))
    assert (done.returncode, done.stdout) == (7, "closed\n")
    (line,) = summary_of(done.stderr)
    assert line == f"database opened at {places(program)['database']} was still open at interpreter exit after * s"
    assert len(done.stderr.splitlines()) == 2


def test_collections_during_shutdown_are_silent(run_python: RunPython, path: str) -> None:
    """What is collected after the summary is not reported a second time, by any policy."""
    program = """
        import atexit, sys
        atexit.register(lambda: HELD.clear())  # runs after the summary: registered before it
        import saferocks
        HELD = []
        db = saferocks.open(sys.argv[1]).__enter__()
        HELD.append(db.items().__enter__())
        HELD.append(db.snapshot().__enter__())
    """
    done = run_python(program, path, flags=("-X", "dev"))
    assert (done.returncode, done.stdout) == (0, "")
    assert len(summary_of(done.stderr)) == 3
    assert len(done.stderr.splitlines()) == 4


# --------------------------------------------------------------------------- loops, notes, places


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What `sys.unraisablehook` is given, as text."""
    told: list[str] = []
    monkeypatch.setattr(
        sys, "unraisablehook", lambda each: told.append(f"{type(each.exc_value).__name__}: {each.exc_value}")
    )
    yield told
    gc.collect()


def here(function: Callable[..., Any], mark: str) -> str:
    """Return `file:line` of the line of a function that ends in a comment."""
    code = function.__code__
    with open(code.co_filename, encoding="utf-8") as file:
        lines = file.read().splitlines()
    number = next(n for n in range(code.co_firstlineno, len(lines)) if lines[n - 1].endswith(f"# {mark}"))
    return f"{code.co_filename}:{number}"


def leak_in_a_loop(db: saferocks.Rdict, times: int) -> None:
    """Open iterators and drop them."""
    for _ in range(times):
        db.items()  # leaks in a loop


def hold_in_a_loop(db: saferocks.Rdict, times: int) -> list[object]:
    """Open iterators and keep them."""
    return [
        db.items().__enter__()  # held in a loop
        for _ in range(times)
    ]


def test_a_leak_in_a_loop_is_one_leak_with_a_count(path: str, unraisable: list[str]) -> None:
    """Handles that one line leaks are raised as one leak with their number."""
    with pytest.raises(saferocks.LeakedHandlesError, match=r"^12 leaked handles; ") as caught:
        with saferocks.open(path, policy="raise") as db:
            leak_in_a_loop(db, 12)
    (leak,) = caught.value.leaks
    assert (leak.kind, leak.opened_at, leak.count) == ("iterator", here(leak_in_a_loop, "leaks in a loop"), 12)
    assert f"12 iterator handles opened at {leak.opened_at} were collected without ever being entered" in str(leak)
    assert len(unraisable) == 12


def test_a_leak_in_a_loop_is_not_warned_about_each_time(path: str) -> None:
    """A line that leaks a hundred times is warned about three times, with the count so far."""
    with saferocks.open(path) as db, pytest.warns(saferocks.LeakedHandleWarning) as caught:
        leak_in_a_loop(db, 100)
    where = here(leak_in_a_loop, "leaks in a loop")
    starts = [f"iterator opened at {where} was", f"10 iterator handles opened at {where} were"]
    starts.append(f"100 iterator handles opened at {where} were")
    assert [str(each.message)[: len(start)] for each, start in zip(caught, starts, strict=True)] == starts


def test_what_a_loop_left_open_is_one_warning_with_a_count(path: str) -> None:
    """Handles of one line that outlive their database are warned about in one line with their number."""
    with pytest.warns(saferocks.LeakedHandleWarning) as caught, saferocks.open(path) as db:
        held = hold_in_a_loop(db, 12)
    assert len(held) == 12
    (warning,) = caught
    where = here(hold_in_a_loop, "held in a loop")
    assert str(warning.message).startswith(f"12 iterator handles opened at {where} were still open when its database")
    assert f"{warning.filename}:{warning.lineno}" == where


def test_a_body_error_is_not_masked_by_leaks(path: str) -> None:
    """The body's own exception comes out of the `with`, with the leaks as a note."""
    held = []
    with pytest.raises(ValueError, match=r"^mine") as caught:
        with saferocks.open(path, policy="raise") as db:
            held.append(db.items().__enter__())
            raise ValueError("mine")
    (note,) = caught.value.__notes__  # type: ignore[attr-defined]  # Python 3.10's errors have it only with a note
    assert note.startswith("besides, leaving the 'with' block failed: 1 leaked handle; open each in a 'with' block:\n")
    assert f"iterator opened at {__file__}:" in note


@pytest.mark.parametrize("opener", ["write_batch", "bulk_writer"])
def test_a_leaked_batch_says_what_was_dropped(opener: str, path: str, unraisable: list[str]) -> None:
    """A batch that is collected with operations in it says how many, and how many bytes."""
    with pytest.raises(saferocks.LeakedHandlesError) as caught:
        with saferocks.open(path, policy="raise") as db:
            batch = getattr(db, opener)().__enter__()
            for number in range(3):
                batch[b"%d" % number] = b"v"
            del batch
    (leak,) = caught.value.leaks
    assert (leak.kind, leak.note) == ("write_batch", "3 operations (27 bytes) were dropped")
    assert len(unraisable) == 1


def test_an_empty_batch_that_leaks_loses_nothing(path: str, unraisable: list[str]) -> None:
    """A batch without operations is a leak, and says of nothing that it was dropped."""
    with pytest.raises(saferocks.LeakedHandlesError) as caught:
        with saferocks.open(path, policy="raise") as db:
            db.write_batch().__enter__()
    (leak,) = caught.value.leaks
    assert (leak.kind, leak.note) == ("write_batch", None)
    assert len(unraisable) == 1


def test_the_frames_of_the_opening_are_told_under_stack(path: str, unraisable: list[str]) -> None:
    """Under `trace="stack"`, a leak says by which road its line was reached, innermost first."""
    with pytest.raises(saferocks.LeakedHandlesError) as caught:
        with saferocks.open(path, policy="raise", trace="stack") as db:
            leak_in_a_loop(db, 1)
    (leak,) = caught.value.leaks
    assert leak.stack[0] == f"{here(leak_in_a_loop, 'leaks in a loop')} in leak_in_a_loop"
    assert leak.stack[1].endswith("in test_the_frames_of_the_opening_are_told_under_stack")


def test_equal_functions_of_two_files_are_told_apart(tmp_path: Path, path: str, unraisable: list[str]) -> None:
    """Leaks from the same line of two files of equal text are two leaks, each with its own file."""
    modules = []
    for name in ("one", "two"):
        file = tmp_path / f"{name}.py"
        file.write_text("def leak(db):\n    db.items()\n")
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        modules.append(module)
    with pytest.raises(saferocks.LeakedHandlesError) as caught:
        with saferocks.open(path, policy="raise") as db:
            for module in modules:
                module.leak(db)
    assert [leak.opened_at for leak in caught.value.leaks] == [f"{tmp_path / name}.py:2" for name in ("one", "two")]


def test_check_raises_what_leaked_so_far_once(path: str, unraisable: list[str]) -> None:
    """`saferocks.check()` raises the leaks of an open database, and neither it nor the exit raises them again."""
    with saferocks.open(path, policy="raise") as db:
        leak_in_a_loop(db, 2)
        with pytest.raises(saferocks.LeakedHandlesError, match=r"^2 leaked handles; "):
            saferocks.check()
        saferocks.check()
    assert len(unraisable) == 2


def test_a_leaked_database_is_raised_by_check(path: str, unraisable: list[str]) -> None:
    """A database that was dropped while open is closed, and raised by `saferocks.check()`."""
    with saferocks.strict():
        saferocks.open(path).__enter__()
        gc.collect()
        with pytest.raises(saferocks.LeakedHandlesError) as caught:
            saferocks.check()
    assert [leak.kind for leak in caught.value.leaks] == ["database"]
    assert len(unraisable) == 1
    with saferocks.open(path) as db:
        assert db.path() == path


def test_warnings_that_are_errors_are_raised_by_the_exit(run_python: RunPython, path: str) -> None:
    """Under `-W error`, the exit of a database that handles outlived raises the warning."""
    program = """
        import sys
        import saferocks
        with saferocks.open(sys.argv[1]) as db:
            held = db.items().__enter__()  # iterator
    """
    done = run_python(program, path, flags=("-W", "error"))
    assert done.returncode == 1
    last = [line for line in done.stderr.splitlines() if "LeakedHandleWarning" in line][-1]
    where = places(program)["iterator"]
    assert re.search(rf"LeakedHandleWarning: iterator opened at \S*/{where} was still open when", last)


# --------------------------------------------------------------------------- where events go

LEAK = """
    import sys
    {before}
    import saferocks
    {after}
    with saferocks.open(sys.argv[1]) as db:
        held = db.items(label="the one").__enter__()  # iterator
"""


def leak_program(before: str = "", after: str = "") -> str:
    """Return a program that leaks one iterator."""
    return textwrap.dedent(LEAK).format(before=before, after=after)


def test_events_go_to_the_standard_logger(run_python: RunPython, path: str) -> None:
    """Without structlog, an event is a record of the logger `saferocks` with the fields beside it."""
    after = (
        "import logging, json\n"
        "class Show(logging.Handler):\n"
        "    def emit(self, record):\n"
        "        fields = record.saferocks\n"
        "        sys.stderr.write(json.dumps([record.name, record.levelname, record.getMessage().split()[0], "
        "fields['kind'], fields['label'], fields['opened_at'].rpartition('/')[2], fields['count']]) + '\\n')\n"
        "logging.getLogger().addHandler(Show())\n"
    )
    program = leak_program(after=after)
    done = run_python(program, path)
    assert (done.returncode, done.stdout) == (0, "")
    assert json.loads(done.stderr) == [
        "saferocks",
        "WARNING",
        "saferocks.handle_outlived_database",
        "iterator",
        "the one",
        places(program)["iterator"],
        1,
    ]


def test_events_go_to_structlog_once_it_is_configured(run_python: RunPython, path: str) -> None:
    """Where the program has configured structlog, the event and its fields go there, and not to the logger."""
    before = (
        "import structlog\n"
        "structlog.configure(processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()],"
        " logger_factory=structlog.PrintLoggerFactory(sys.stderr))\n"
    )
    program = leak_program(before)
    done = run_python(program, path)
    assert (done.returncode, done.stdout) == (0, "")
    events = [json.loads(line) for line in done.stderr.splitlines()]
    warned = [event for event in events if event["level"] == "warning"]
    assert [(event["event"], event["kind"], event["count"]) for event in warned] == [
        ("saferocks.handle_outlived_database", "iterator", 1)
    ]
    assert warned[0]["opened_at"].endswith(places(program)["iterator"])
    assert {event["event"] for event in events} == {
        "saferocks.database_opened",
        "saferocks.database_closed",
        "saferocks.handle_outlived_database",
    }


@pytest.mark.parametrize("before", ["", "import structlog", "import structlog; structlog.get_logger().bind()"])
def test_events_never_go_to_stdout(before: str, run_python: RunPython, path: str) -> None:
    """A structlog that nobody has configured would print to stdout, and is left alone."""
    done = run_python(leak_program(before), path)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("saferocks.handle_outlived_database kind='iterator' ")
    assert len(done.stderr.splitlines()) == 1
