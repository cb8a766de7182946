"""What type checkers say of code that uses the package: unentered use is an error before it runs.

Every snippet is a file of its own, and each checker runs once over all of them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent
CHECK_SECONDS = 240.0

#: Lines that need the entered handle, each with words that a checker says of it (mypy's, pyright's).
REFUSED: dict[str, tuple[str, str, str]] = {
    "reading an unentered database": ('saferocks.open("p")[b"k"]', "not indexable", "__getitem__"),
    "writing to an unentered database": ('saferocks.open("p")[b"k"] = b"v"', "indexed assignment", "__setitem__"),
    "asking an unentered database for a key": ('b"k" in saferocks.open("p")', "in", "not supported"),
    "a method of an unentered database": ('saferocks.open("p").items()', '"items"', '"items"'),
    "reading an unentered snapshot": ('db.snapshot()[b"k"]', "not indexable", "__getitem__"),
    "a method of an unentered snapshot": ('db.snapshot().get(b"k")', '"get"', '"get"'),
    "iterating over unentered items": ("for row in db.items(): print(row)", "not iterable", "not iterable"),
    "iterating over unentered keys": ("for row in db.keys(): print(row)", "not iterable", "not iterable"),
    "iterating over unentered values": ("for row in db.values(): print(row)", "not iterable", "not iterable"),
    "iterating over unentered columns": ("for row in db.columns(): print(row)", "not iterable", "not iterable"),
    "iterating over unentered entities": ("for row in db.entities(): print(row)", "not iterable", "not iterable"),
    "listing unentered items": ("list(db.items())", "matches argument type", "cannot be assigned"),
    "stepping through unentered items": ("next(db.items())", "matches argument type", "cannot be assigned"),
    "moving an unentered cursor": ('db.iter().seek(b"")', '"seek"', '"seek"'),
    "filling an unentered batch": ('db.write_batch().put(b"k", b"v")', '"put"', '"put"'),
    "assigning to an unentered batch": ('db.write_batch()[b"k"] = b"v"', "indexed assignment", "__setitem__"),
    "filling an unentered bulk writer": ('db.bulk_writer().put(b"k", b"v")', '"put"', '"put"'),
    "using an unentered checkpoint": ('db.checkpoint().create("copy")', '"create"', '"create"'),
    "scanning an unentered snapshot": ("db.snapshot().items()", '"items"', '"items"'),
    "iterating over unentered items of a snapshot": (
        "for row in snap.items(): print(row)", "not iterable", "not iterable",
    ),
    "moving an unentered cursor of a snapshot": ('snap.iter().seek(b"")', '"seek"', '"seek"'),
    "iterating over unentered items of a view": (
        'for row in snap.get_column_family("f").items(): print(row)', "not iterable", "not iterable",
    ),
    "iterating over unentered items of a family": (
        'for row in db.get_column_family("f").items(): print(row)', "not iterable", "not iterable",
    ),
    "passing a scope where a handle is wanted": ("read(db.snapshot())", "incompatible type", "cannot be assigned"),
    "writing an unentered batch": ("db.write(db.write_batch())", "incompatible type", "cannot be assigned"),
    "a policy that does not exist": ('saferocks.open("p", policy="loud")', "incompatible type", "cannot be assigned"),
    "renewing an unentered snapshot": ("db.snapshot(expire_after=5).renew()", '"renew"', '"renew"'),
    "renewing a database": ("db.renew()", '"renew"', '"renew"'),
    "a duration that is text": ('db.items(warn_after="5")', "incompatible type", "cannot be assigned"),
    "a parameter that does not exist": ("db.items(reverse=True)", "Unexpected keyword", "No parameter named"),
}  # fmt: skip

#: Programs that must pass.
ACCEPTED: dict[str, str] = {
    "the tour of the README": """
        with saferocks.open("events.db") as db:
            db[b"k"] = b"v"
            db.get(b"k")
            b"k" in db
            del db[b"k"]
            with db.items(prefix=b"user:") as items:
                for key, value in items:
                    print(key, value)
            with db.keys(lower_bound=b"a", upper_bound=b"m", backwards=True) as keys:
                print(list(keys))
            with db.iter() as cursor:
                cursor.seek(b"k")
                while cursor.valid():
                    print(cursor.key(), cursor.value())
                    cursor.next()
            with db.snapshot() as snap:
                print(snap[b"k"], snap.get(b"x"), b"k" in snap)
                with snap.items() as items:
                    print(list(items))
            with db.write_batch() as batch:
                batch[b"a"] = b"1"
                batch.delete(b"b")
            with db.bulk_writer(flush_bytes=8 << 20) as bulk:
                bulk[b"a"] = b"1"
            with db.checkpoint() as checkpoint:
                checkpoint.create("backup")
            print([handle.opened_at for handle in db.handles()], db.memory().rss, db.audit().ok)
    """,
    "every keyword of open": """
        with saferocks.open(
            "p",
            options=saferocks.Options(raw_mode=True),
            column_families={"default": saferocks.Options(raw_mode=True)},
            access_type=saferocks.AccessType.read_write(),
            raw_mode=True,
            allow_pickle=False,
            statistics=True,
            lock_timeout=1,
            close_timeout=30.0,
            policy="raise",
            trace="stack",
            warn_after=30,
            expire_after=None,
        ) as db:
            print(db.path())
    """,
    "the constructor, as rocksdict has it": """
        db = saferocks.Rdict("p", saferocks.Options(), None, saferocks.AccessType.read_write())
        db["k"] = 1
        db.close()
        with saferocks.Rdict("p") as db:
            print(db["k"])
    """,
    "annotations": """
        def count(db: saferocks.Rdict, snap: saferocks.Snapshot, family: saferocks.ColumnFamily) -> int:
            with db.keys() as keys:
                return sum(1 for _ in keys)

        def enter(scope: saferocks.Scope[saferocks.Snapshot]) -> bytes:
            with scope as snap:
                found: bytes = snap[b"k"]
            return found

        def opener(db: saferocks.Rdict) -> saferocks.Scope[saferocks.RdictItems]:
            return db.items(prefix=b"user:")

        def scan(items: saferocks.RdictItems, cursor: saferocks.RdictIter) -> list[object]:
            return [items, cursor, *items]

        def write(batch: saferocks.WriteBatch, bulk: saferocks.BulkWriter) -> None:
            batch.put(b"k", b"v")
            bulk.put(b"k", b"v")
    """,
    "leases": """
        saferocks.configure(warn_after=30, expire_after=2.5e3)
        saferocks.configure(expire_after=None)
        with saferocks.Rdict("p", warn_after=5, expire_after=None) as db:
            with db.items(warn_after=None, expire_after=9.5) as items, db.iter(warn_after=1) as cursor:
                items.renew()
                cursor.renew()
            with db.snapshot(expire_after=5) as snap, snap.keys(expire_after=4) as keys:
                snap.renew()
                keys.renew()
            with db.write_batch(expire_after=5) as batch, db.bulk_writer(warn_after=5) as bulk:
                batch.renew()
                bulk.renew()
            with db.checkpoint(expire_after=60) as checkpoint, saferocks.SstFileWriter(warn_after=9) as writer:
                checkpoint.renew()
                writer.renew()
            left: list[float | None] = [handle.expires_in for handle in db.handles()]
            print(left, saferocks.inspection.pending_deadlines())
    """,
    "an ExitStack": """
        from contextlib import ExitStack

        with ExitStack() as stack:
            db = stack.enter_context(saferocks.open("p"))
            snap: saferocks.Snapshot = stack.enter_context(db.snapshot())
            items = stack.enter_context(snap.items())
            print(snap[b"k"], list(items), db[b"k"])
    """,
    "parentheses around several scopes": """
        with saferocks.open("p") as db, db.snapshot(column_families=["users"]) as snap, snap.items() as items:
            print(list(items), snap.get_column_family("users").get(b"k"))
    """,
    "column families and batches that name them": """
        with saferocks.open("p") as db:
            users = db.create_column_family("users")
            users[b"k"] = b"v"
            handle = db.get_column_family_handle("users")
            with db.write_batch() as batch:
                batch.put(b"k", b"v", handle)
                batch.put(b"k", b"v", column_family=handle)
            with saferocks.WriteBatch(raw_mode=True) as loose:
                loose[b"k"] = b"v"
                db.write(loose)
            db.drop_column_family("users")
    """,
    "errors and warnings": """
        import warnings

        warnings.simplefilter("error", saferocks.LeakedHandleWarning)
        try:
            with saferocks.strict(), saferocks.open("p") as db:
                db[b"k"]
        except saferocks.LeakedHandlesError as error:
            print([leak.opened_at for leak in error.leaks])
        except saferocks.EngineError as error:
            print(error.code, error.subcode)
        except saferocks.DbClosedError as error:
            print(error)
        saferocks.configure(policy="warn", trace="site")
        saferocks.check()
    """,
    "sst files": """
        with saferocks.SstFileWriter(saferocks.Options(raw_mode=True)) as writer:
            writer.open("rows.sst")
            writer[b"k"] = b"v"
        with saferocks.open("p") as db:
            db.ingest_external_file(["rows.sst"])
    """,
    "code after a with is reached": """
        def first(db: saferocks.Rdict) -> int:
            with db.items():
                pass
            return 1

        def sure(db: saferocks.Rdict) -> int:
            with db.items() as items:
                for _ in items:
                    raise ValueError
                return 1
    """,
}
#: Types that a checker must find, by the expression.
REVEALED = {
    'saferocks.open("p").__enter__()': "Rdict",
    "db.snapshot().__enter__()": "Snapshot",
    "db.items().__enter__()": "RdictItems",
    "db.keys().__enter__()": "RdictKeys",
    "db.values().__enter__()": "RdictValues",
    "db.columns().__enter__()": "RdictColumns",
    "db.entities().__enter__()": "RdictEntities",
    "db.iter().__enter__()": "RdictIter",
    "db.write_batch().__enter__()": "WriteBatch",
    "db.bulk_writer().__enter__()": "BulkWriter",
    "db.checkpoint().__enter__()": "Checkpoint",
    "snap.items().__enter__()": "RdictItems",
    'db.get_column_family("f")': "Rdict",
    'db.get_column_family_handle("f")': "ColumnFamily",
    'snap.get_column_family("f")': "SnapshotFamily",
}

REFUSED_FILE = """
import saferocks

def read(snap: saferocks.Snapshot) -> None: ...

def use(db: saferocks.Rdict, snap: saferocks.Snapshot) -> None:
    {line}
"""
REVEALED_FILE = """
import saferocks

def use(db: saferocks.Rdict, snap: saferocks.Snapshot) -> None:
    reveal_type({expression})
"""


def file_names(snippets: dict[str, str], prefix: str) -> dict[str, str]:
    """Return a file name for each snippet."""
    return {name: f"{prefix}_{number}.py" for number, name in enumerate(snippets)}


REFUSED_FILES = file_names({name: line for name, (line, _, _) in REFUSED.items()}, "refused")
ACCEPTED_FILES = file_names(ACCEPTED, "accepted")
REVEALED_FILES = file_names(REVEALED, "revealed")

#: What a checker says, by file: `[(severity, text), ...]`.
Verdicts = dict[str, list[tuple[str, str]]]


def write_snippets(folder: Path) -> None:
    """Write all snippets as files."""
    for name, (line, _, _) in REFUSED.items():
        (folder / REFUSED_FILES[name]).write_text(REFUSED_FILE.format(line=line))
    for name, program in ACCEPTED.items():
        (folder / ACCEPTED_FILES[name]).write_text("import saferocks\n" + textwrap.dedent(program))
    for expression, file in REVEALED_FILES.items():
        (folder / file).write_text(REVEALED_FILE.format(expression=expression))


def run_checker(folder: Path, *arguments: str) -> str:
    """Run a checker on all snippets; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True,
        text=True,
        timeout=CHECK_SECONDS,
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(ROOT), "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr  # 1: it found errors
    return done.stdout


def mypy(folder: Path) -> Verdicts:
    """Check all snippets with mypy, strictly."""
    quiet = ("--no-error-summary", "--hide-error-context", "--no-color-output")
    arguments = ("--strict", "--follow-imports=silent", *quiet)
    found: Verdicts = {}
    for line in run_checker(folder, "mypy", *arguments, ".").splitlines():
        match = re.match(r"(\w+\.py):\d+: (error|note): (.*)", line)
        if match:
            found.setdefault(match[1], []).append((match[2], match[3]))
    return found


def pyright(folder: Path) -> Verdicts:
    """Check all snippets with pyright."""
    (folder / "pyrightconfig.json").write_text(
        json.dumps({"extraPaths": [str(ROOT)], "reportUnusedExpression": False, "pythonVersion": "3.10"})
    )
    found: Verdicts = {}
    report = json.loads(run_checker(folder, "pyright", "--outputjson", "--pythonpath", sys.executable))
    for each in report["generalDiagnostics"]:
        kind = "note" if each["severity"] == "information" else each["severity"]
        found.setdefault(Path(each["file"]).name, []).append((kind, each["message"]))
    return found


CHECKERS: dict[str, Callable[[Path], Verdicts]] = {"mypy": mypy, "pyright": pyright}


@pytest.fixture(scope="module", params=sorted(CHECKERS))
def checker(request: pytest.FixtureRequest) -> str:
    """The name of a type checker."""
    name: str = request.param
    pytest.importorskip(name)
    return name


@pytest.fixture(scope="module")
def verdicts(checker: str, tmp_path_factory: pytest.TempPathFactory) -> Verdicts:
    """What the checker says of all snippets."""
    folder = tmp_path_factory.mktemp(checker)
    write_snippets(folder)
    return CHECKERS[checker](folder)


def errors(verdicts: Verdicts, file: str) -> list[str]:
    """Return the errors in a file."""
    return [text for kind, text in verdicts.get(file, []) if kind == "error"]


@pytest.mark.parametrize("name", REFUSED)
def test_unentered_use_is_a_type_error(name: str, checker: str, verdicts: Verdicts) -> None:
    """Using what an opener returns without `with` is an error that says what is wrong."""
    _, by_mypy, by_pyright = REFUSED[name]
    words = by_mypy if checker == "mypy" else by_pyright
    found = errors(verdicts, REFUSED_FILES[name])
    assert found != []
    assert any(words in text for text in found), found


@pytest.mark.parametrize("name", ACCEPTED)
def test_right_use_passes(name: str, verdicts: Verdicts) -> None:
    """Code that enters what it opens has no type errors."""
    assert errors(verdicts, ACCEPTED_FILES[name]) == []


@pytest.mark.parametrize("expression", REVEALED)
def test_entering_gives_the_handle_itself(expression: str, verdicts: Verdicts) -> None:
    """What `as` binds is the handle, and not a scope or Any."""
    (told,) = [text for kind, text in verdicts[REVEALED_FILES[expression]] if kind == "note"]
    assert re.search(rf'"(?:[\w.]+\.)?{REVEALED[expression]}"$', told), told
