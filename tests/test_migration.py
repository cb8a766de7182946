"""The page on moving a program from rocksdict says the truth: each of its steps is run, on its own program."""

from __future__ import annotations

import doctest
import importlib.util
import os
import random
import re
import shutil
import subprocess
import sys
import textwrap
import time
import warnings
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import rocksdict

import saferocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "docs" / "migration"
PAGE = (ROOT / "docs" / "migrate.md").read_text()
SECONDS = 240.0

COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
TABLE_ROW = re.compile(r"^\| (\d+) \| (\w+) \| `(.*)` \| (\w+) \|$", re.MULTILINE)
EXCERPT = re.compile(r"^<!-- file: (\w+\.py) -->\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WARNING = re.compile(r"^\S*swapped\.py:(\d+): (\w+Warning): (\w+) opened at .*\n  (.*)$", re.MULTILINE)
MYPY_SITE = re.compile(r"^swapped\.py:(\d+): error: .*(Scope\[\w+\])", re.MULTILINE)


@pytest.fixture
def shell(tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Run a line of shell in a copy of the programs' directory, with this Python first on the path."""
    shutil.copytree(PROGRAMS, tmp_path / "build")
    own = {key: value for key, value in os.environ.items() if not key.startswith(("SAFEROCKS_", "PYTEST_"))}
    path = os.pathsep.join([os.path.dirname(sys.executable), own.get("PATH", "")])
    own |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), "PATH": path}

    def run(line: str) -> subprocess.CompletedProcess[str]:
        directory = tmp_path / "build"
        return subprocess.run(
            ["bash", "-c", line], capture_output=True, text=True, timeout=SECONDS, env=own, cwd=directory, check=False
        )  # fmt: skip

    return run


@pytest.fixture
def swapped(shell: Callable[[str], subprocess.CompletedProcess[str]]) -> Callable[..., Any]:
    """The same, with the program whose import is swapped, made by the page's own command."""
    (command,) = [line for line, _ in COMMAND.findall(PAGE) if line.startswith("sed ")]
    assert shell(command).returncode == 0
    return shell


def load(name: str, replace: tuple[str, str] = ("", "")) -> ModuleType:
    """Return one of the programs as a module, with a text replaced."""
    file = PROGRAMS / f"{name}.py"
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader=None))
    exec(compile(file.read_text().replace(*replace), str(file), "exec"), vars(module))  # noqa: S102 - the page's own
    return module


SWAP = ("from rocksdict import", "from saferocks import")

# --------------------------------------------------------------------------- the page's steps


def test_the_commands_of_the_page_say_what_it_shows(
    shell: Callable[[str], subprocess.CompletedProcess[str]],
) -> None:
    """Each `$ ...` of the page, in its order, writes what stands below it; of mypy's words, line and type."""
    pytest.importorskip("mypy")
    blocks = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    commands = [found for block in blocks for found in COMMAND.findall(block)]
    assert len(commands) == 15
    for line, expected in commands:
        if line.endswith("cd build"):  # where the shell is already
            continue
        done = shell(line)
        if line.startswith("mypy"):
            assert MYPY_SITE.findall(done.stdout) == MYPY_SITE.findall(expected), done.stdout
            assert done.stdout.startswith("Success") == expected.startswith("Success")
        else:
            assert doctest.OutputChecker().check_output(expected, done.stdout, doctest.ELLIPSIS), (
                line + "\n" + done.stdout + done.stderr
            )


def test_both_programs_print_the_same(swapped: Callable[[str], subprocess.CompletedProcess[str]]) -> None:
    """Bare, with the import swapped, and moved: the report is the same, and the moved one says nothing else."""
    runs = [
        swapped(f"{sys.executable} {flags} {name}.py $(mktemp -d)")
        for flags, name in (("-W error", "before"), ("", "swapped"), ("-X dev -W error", "after"))
    ]
    assert [run.returncode for run in runs] == [0, 0, 0], [run.stderr for run in runs]
    assert runs[0].stdout.count("\n") == 12
    assert runs[1].stdout == runs[0].stdout == runs[2].stdout
    assert (runs[0].stderr, runs[2].stderr) == ("", "")


def test_the_warnings_are_those_of_the_table(
    swapped: Callable[[str], subprocess.CompletedProcess[str]],
) -> None:
    """With the import swapped, the warnings name the lines that the page lists, each once, and no other."""
    run = swapped(f"{sys.executable} -W default swapped.py $(mktemp -d)")
    told = [(int(line), kind, source, what) for line, what, kind, source in WARNING.findall(run.stderr)]
    shown = [(int(line), kind, source, what) for line, kind, source, what in TABLE_ROW.findall(PAGE)]
    assert sorted(told) == sorted(shown)
    assert len(shown) == run.stderr.count("Warning: ") == 16


def test_mypy_lists_the_sites_of_the_page(swapped: Callable[[str], subprocess.CompletedProcess[str]]) -> None:
    """Mypy accepts the bare program, refuses the swapped one at the page's lines only, and accepts the moved one."""
    pytest.importorskip("mypy")
    shown = MYPY_SITE.findall(PAGE)
    assert len(shown) == 14
    checked = {name: swapped(f"{sys.executable} -m mypy --strict {name}.py") for name in ("before", "swapped", "after")}
    assert (checked["before"].returncode, checked["after"].returncode) == (0, 0), checked["after"].stdout
    assert MYPY_SITE.findall(checked["swapped"].stdout) == shown
    refused = set(re.findall(r"^swapped\.py:(\d+): error", checked["swapped"].stdout, re.MULTILINE))
    assert refused == {line for line, _ in shown}


def test_strictness_stops_the_swapped_program_at_once(
    swapped: Callable[[str], subprocess.CompletedProcess[str]],
) -> None:
    """Under the policy `raise` the program with its import swapped ends at the first line that the page lists."""
    run = swapped(f"SAFEROCKS_POLICY=raise {sys.executable} swapped.py $(mktemp -d)")
    assert (run.returncode, run.stdout) == (1, "")
    (line,) = re.findall(r"NotEnteredError: write_batch opened at \S*swapped\.py:(\d+) ", run.stderr)
    assert line == TABLE_ROW.findall(PAGE)[0][0]


# --------------------------------------------------------------------------- the programs


def test_the_programs_are_what_the_page_says_they_are() -> None:
    """Both have 200 lines and more, and rocksdict is imported by the first alone."""
    before, after = ((PROGRAMS / f"{name}.py").read_text() for name in ("before", "after"))
    assert min(before.count("\n"), after.count("\n")) >= 200
    assert ("saferocks" in before, "rocksdict" in after) == (False, False)


def test_the_excerpts_are_the_programs_lines() -> None:
    """Each excerpt on the page stands in its program, but for its indentation."""
    excerpts = EXCERPT.findall(PAGE)
    assert len(excerpts) == 8
    for name, excerpt in excerpts:
        text = (PROGRAMS / name).read_text()
        assert any(textwrap.indent(excerpt, indent) in text for indent in ("", "    ")), excerpt


@contextmanager
def opened(path: str, module: ModuleType) -> Iterator[Any]:
    """Open a store of either program."""
    if hasattr(module, "open_store"):
        with module.open_store(path) as store:
            yield store
    else:
        store = module.SessionStore(path)
        try:
            yield store
        finally:
            store.close()
            vars(store).clear()  # its column families would keep a bare database open (D5)


def random_call(rng: random.Random, now: int) -> Callable[[Any], Any]:
    """Return a call of a store's method, with arguments that meet each other."""
    session, user = b"s%d" % rng.randrange(12), b"user%d" % rng.randrange(2)
    page, past = b"/%d" % rng.randrange(3), rng.randrange(0, now + 1)
    most = rng.randrange(0, 5)
    calls: list[Callable[[Any], Any]] = [
        lambda store: store.log_in(session, user, now),
        lambda store: store.log_in(session, user, now),
        lambda store: store.touch(session, now),
        lambda store: store.log_out(session),
        lambda store: store.visit(user, page, now),
        lambda store: store.visit(user, page, now),
        lambda store: store.forget_visits(user, past),
        lambda store: store.sweep(past + 1000),
        lambda store: store.next_due(),
        lambda store: store.last_visits(user, past, most),
        lambda store: store.visit_before(user, past + 1),
        lambda store: store.users(),
        lambda store: store.popular_pages(),
        lambda store: store.counts_before_and_after(session, user, now),
    ]
    return rng.choice(calls)


@pytest.mark.parametrize("seed", range(5))
def test_both_programs_answer_alike(tmp_path: Path, seed: int) -> None:
    """A thousand random calls give the same answers on bare rocksdict and moved to saferocks, and leak nothing."""
    rng = random.Random(seed)
    with ExitStack() as stack:
        before = stack.enter_context(opened(str(tmp_path / "before"), load("before")))
        after = stack.enter_context(opened(str(tmp_path / "after"), load("after")))
        for store in (before, after):  # D13: a snapshot's missing key is another error
            store.log_in(b"first", b"user0", 0)
        for step in range(1000):
            call = random_call(rng, step)
            assert call(before) == call(after), step
        assert {handle.kind for handle in after.db.handles()} == {"column_family"}


@pytest.mark.parametrize("kept", ["sessions", "session_handle", "_export"])
def test_what_a_bare_store_keeps_keeps_its_database_open(tmp_path: Path, kept: str) -> None:
    """On bare rocksdict the database cannot be opened again after its close while a scan or column family is left."""
    module, path = load("before"), str(tmp_path / "db")
    store = left_in_the_midst_of_an_export(module, path)
    for name in {*vars(store)} - {kept}:
        delattr(store, name)
    with pytest.raises(Exception, match="lock hold by current process"):
        module.SessionStore(path, 0.0)
    vars(store).clear()
    opened_again = module.SessionStore(path, 0.0)
    opened_again.close()


@pytest.mark.about_leaks
def test_with_the_import_swapped_it_is_closed_and_told(tmp_path: Path) -> None:
    """On saferocks the same store can be opened again at once, and the line of the scan is told at its close."""
    module, path = load("before", SWAP), str(tmp_path / "db")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        store = left_in_the_midst_of_an_export(module, path)
    (leaked,) = [each for each in told if each.category is saferocks.LeakedHandleWarning]
    assert (leaked.lineno, "was still open when its database closed" in str(leaked.message)) == (206, True)
    assert store.db is not None  # the whole store is still there
    module.SessionStore(path, 0.0).close()


def left_in_the_midst_of_an_export(module: ModuleType, path: str) -> Any:
    """Return a store that has been closed after the first page of an export."""
    store = module.SessionStore(path)
    store.visit(b"user", b"/", 1)
    store.visit(b"user", b"/", 2)
    assert len(store.export_page(1)) == 1
    store.close()
    return store


@pytest.mark.parametrize("name", ["before", "after"])
def test_both_wait_for_another_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Each opens the database as soon as whoever had it open closes it."""
    module, path = load(name), str(tmp_path / "db")
    with opened(path, load("after")):
        pass
    pauses: list[float] = []
    with saferocks.open(path) as holder:

        def let_go(seconds: float) -> None:
            pauses.append(seconds)
            holder.close()

        monkeypatch.setattr(time, "sleep", let_go)
        with opened(path, module) as store:
            assert store.users() == []
    assert len(pauses) == 1


@pytest.mark.parametrize("name", ["before", "after"])
def test_both_give_up_on_a_database_that_stays_locked(tmp_path: Path, name: str) -> None:
    """Each waits for the lock, as long as it was told, and then raises RocksDB's own words."""
    module, path = load(name), str(tmp_path / "db")
    with opened(path, module), pytest.raises(Exception, match="lock hold by current process") as caught:
        if name == "after":
            with module.open_store(path, 0.2):
                pass
        else:
            module.SessionStore(path, 0.2)
    assert isinstance(caught.value, saferocks.LockedError) == (name == "after")


def test_an_export_of_the_moved_program_goes_on_where_it_was(tmp_path: Path) -> None:
    """The moved program's export gives its rows page by page from one scan, each once."""
    with opened(str(tmp_path / "db"), load("after")) as store:
        for at in range(25):
            store.visit(b"user", b"/", at)
        with store.export() as rows:
            pages = [list(islice(rows, 10)) for _ in range(4)]
    assert [len(page) for page in pages] == [10, 10, 5, 0]
    assert len({key for page in pages for key, _ in page}) == 25


# --------------------------------------------------------------------------- the files


@pytest.mark.parametrize(("writer", "reader"), [("before", "after"), ("after", "before")])
def test_each_program_opens_what_the_other_has_written(tmp_path: Path, writer: str, reader: str) -> None:
    """What one program has written on disk the other goes on with."""
    path = str(tmp_path / "db")
    with opened(path, load(writer)) as store:
        store.log_in(b"s1", b"ann", 10)
        store.visit(b"ann", b"/", 11)
    with opened(path, load(reader)) as store:
        assert (store.users(), store.next_due(), store.last_visits(b"ann", 0, 9)) == (["ann"], 1810, [(11, b"/")])


def test_what_the_page_says_of_classes() -> None:
    """Option classes are rocksdict's own; handles, read options and access types are saferocks'."""
    assert saferocks.Options is rocksdict.Options
    assert saferocks.WriteOptions is rocksdict.WriteOptions
    for name in ("Rdict", "WriteBatch", "Snapshot", "ReadOptions", "AccessType"):
        assert not issubclass(getattr(saferocks, name), getattr(rocksdict, name))


def test_what_the_page_says_of_what_is_rocksdicts_own(path: str) -> None:
    """Read options and ways of access of rocksdict's own are refused where saferocks' are wanted."""
    with pytest.raises(TypeError, match=r"make one with saferocks\.AccessType"):
        saferocks.Rdict(path, access_type=rocksdict.AccessType.read_write())
    with saferocks.open(path) as db, pytest.raises(TypeError, match=r"use saferocks\.ReadOptions"):
        db.items(read_opt=rocksdict.ReadOptions())


def test_what_the_page_says_of_keys_of_a_wrong_type(bare: rocksdict.Rdict, typed_db: saferocks.Rdict) -> None:
    """A key of a wrong type is a KeyError or an Exception on bare rocksdict, and a TypeError on saferocks."""
    with pytest.raises(KeyError):
        bare["text"] = b"v"
    with rocksdict.Rdict(typed_db.path() + "-bare") as typed, pytest.raises(Exception, match="as keys") as caught:
        typed[None] = 1
    assert type(caught.value) is Exception
    with pytest.raises(TypeError, match="a typed database takes"):
        typed_db[None] = 1
    with saferocks.open(typed_db.path() + "-raw") as raw, pytest.raises(TypeError, match="holds raw bytes"):
        raw["text"] = b"v"
