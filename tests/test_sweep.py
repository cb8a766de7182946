"""Every public attribute of every kind of handle, before entering and after release.

The tables below say how each attribute is called. An attribute without an entry fails the sweep,
so that a new method cannot be added without being held to the same rules.
"""

from __future__ import annotations

import copy
import itertools
import logging
import os
import pickle
import shutil
import tempfile
import threading
import warnings
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import saferocks
from saferocks import _settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType


class Plain:
    """A class of no methods."""


#: What every class has, or every class of ours by the way it is made: no way to use a handle.
PLUMBING = frozenset(dir(Plain)) | {
    "__abstractmethods__",
    "__annotations__",
    "__class_getitem__",
    "__del__",
    "__enter__",  # the life of a handle has tests of its own below
    "__exit__",
    "__firstlineno__",
    "__orig_bases__",
    "__parameters__",
    "__slotnames__",
    "__slots__",
    "__static_attributes__",
}


class Tools:
    """What the calls in the tables need: fresh paths, files to ingest, batches to write."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._numbers = itertools.count(1)

    @property
    def template(self) -> str:
        """A closed database with a row in each of three column families."""
        return str(self._folder / "template")

    def path(self) -> str:
        """Return a path at which there is nothing."""
        return str(self._folder / f"new{next(self._numbers)}")

    def database(self) -> str:
        """Return the path of a fresh copy of the template."""
        return shutil.copytree(self.template, self.path())

    def sst(self) -> str:
        """Return the path of an SST file of one row."""
        path = self.path()
        with saferocks.SstFileWriter(saferocks.Options(raw_mode=True)) as writer:
            writer.open(path)
            writer[b"ingested"] = b"1"
        return path

    def batch(self) -> saferocks.WriteBatch:
        """Return an entered batch that belongs to no database."""
        return self._stack.enter_context(saferocks.WriteBatch(raw_mode=True))


Use = "Callable[[Any, Tools], object]"


def in_block(scope: Any) -> None:
    """Enter and leave a handle that a method has opened."""
    with scope:
        pass


SCAN_OPENERS: dict[str, Use] = {
    "columns": lambda handle, tools: in_block(handle.columns()),
    "entities": lambda handle, tools: in_block(handle.entities()),
    "items": lambda handle, tools: in_block(handle.items()),
    "iter": lambda handle, tools: in_block(handle.iter()),
    "keys": lambda handle, tools: in_block(handle.keys()),
    "values": lambda handle, tools: in_block(handle.values()),
}
RDICT: dict[str, Use] = {
    **SCAN_OPENERS,
    "__contains__": lambda handle, tools: b"k" in handle,
    "__delitem__": lambda handle, tools: handle.__delitem__(b"gone"),
    "__getitem__": lambda handle, tools: handle[b"k"],
    "__setitem__": lambda handle, tools: handle.__setitem__(b"new", b"1"),
    "audit": lambda handle, tools: handle.audit(),
    "bulk_writer": lambda handle, tools: in_block(handle.bulk_writer()),
    "cancel_all_background": lambda handle, tools: handle.cancel_all_background(False),
    "checkpoint": lambda handle, tools: in_block(handle.checkpoint()),
    "close": lambda handle, tools: handle.close(),
    "column_families": lambda handle, tools: handle.column_families,
    "compact_range": lambda handle, tools: handle.compact_range(None, None),
    "create_column_family": lambda handle, tools: handle.create_column_family("made"),
    "delete": lambda handle, tools: handle.delete(b"gone"),
    "delete_range": lambda handle, tools: handle.delete_range(b"x", b"y"),
    "destroy": lambda handle, tools: handle.destroy(tools.database()),
    "drop_column_family": lambda handle, tools: handle.drop_column_family("g"),
    "flush": lambda handle, tools: handle.flush(),
    "flush_wal": lambda handle, tools: handle.flush_wal(),
    "get": lambda handle, tools: handle.get(b"k"),
    "get_column_family": lambda handle, tools: handle.get_column_family("f"),
    "get_column_family_handle": lambda handle, tools: handle.get_column_family_handle("f"),
    "get_entity": lambda handle, tools: handle.get_entity(b"k"),
    "get_many": lambda handle, tools: handle.get_many([]),
    "handles": lambda handle, tools: handle.handles(),
    "ingest_external_file": lambda handle, tools: handle.ingest_external_file([tools.sst()]),
    "key_may_exist": lambda handle, tools: handle.key_may_exist(b"k"),
    "latest_sequence_number": lambda handle, tools: handle.latest_sequence_number(),
    "list_cf": lambda handle, tools: handle.list_cf(tools.template),
    "live_files": lambda handle, tools: handle.live_files(),
    "memory": lambda handle, tools: handle.memory(),
    "path": lambda handle, tools: handle.path(),
    "property_int_value": lambda handle, tools: handle.property_int_value("rocksdb.num-snapshots"),
    "property_value": lambda handle, tools: handle.property_value("rocksdb.stats"),
    "put": lambda handle, tools: handle.put(b"new", b"1"),
    "put_entity": lambda handle, tools: handle.put_entity(b"new", [b"column"], [b"1"]),
    "repair": lambda handle, tools: handle.repair(tools.database()),
    "set_dumps": lambda handle, tools: handle.set_dumps(bytes),
    "set_loads": lambda handle, tools: handle.set_loads(bytes),
    "set_options": lambda handle, tools: handle.set_options({"disable_auto_compactions": "true"}),
    "set_read_options": lambda handle, tools: handle.set_read_options(saferocks.ReadOptions()),
    "set_write_options": lambda handle, tools: handle.set_write_options(saferocks.WriteOptions()),
    "snapshot": lambda handle, tools: in_block(handle.snapshot()),
    "try_catch_up_with_primary": lambda handle, tools: handle.try_catch_up_with_primary(),
    "write": lambda handle, tools: handle.write(tools.batch()),
    "write_batch": lambda handle, tools: in_block(handle.write_batch()),
}
RENEW: dict[str, Use] = {"renew": lambda handle, tools: handle.renew()}
SCAN: dict[str, Use] = {
    **RENEW,
    "__iter__": lambda handle, tools: next(iter(handle)),
    "__next__": lambda handle, tools: next(handle),
}
CURSOR: dict[str, Use] = {
    **RENEW,
    "columns": lambda handle, tools: handle.columns(),
    "key": lambda handle, tools: handle.key(),
    "next": lambda handle, tools: handle.next(),
    "prev": lambda handle, tools: handle.prev(),
    "seek": lambda handle, tools: handle.seek(b"k"),
    "seek_for_prev": lambda handle, tools: handle.seek_for_prev(b"k"),
    "seek_to_first": lambda handle, tools: handle.seek_to_first(),
    "seek_to_last": lambda handle, tools: handle.seek_to_last(),
    "status": lambda handle, tools: handle.status(),
    "valid": lambda handle, tools: handle.valid(),
    "value": lambda handle, tools: handle.value(),
}
SNAPSHOT_VIEW: dict[str, Use] = {
    **SCAN_OPENERS,
    "__contains__": lambda handle, tools: b"k" in handle,
    "__getitem__": lambda handle, tools: handle[b"k"],
    "get": lambda handle, tools: handle.get(b"k"),
    "get_entity": lambda handle, tools: handle.get_entity(b"k"),
    "get_many": lambda handle, tools: handle.get_many([]),
}
SNAPSHOT: dict[str, Use] = {
    **RENEW,
    **SNAPSHOT_VIEW,
    "get_column_family": lambda handle, tools: handle.get_column_family("f"),
}
BATCH_WRITES: dict[str, Use] = {
    **RENEW,
    "__delitem__": lambda handle, tools: handle.__delitem__(b"gone"),
    "__setitem__": lambda handle, tools: handle.__setitem__(b"new", b"1"),
    "delete": lambda handle, tools: handle.delete(b"gone"),
    "delete_range": lambda handle, tools: handle.delete_range(b"x", b"y"),
    "put": lambda handle, tools: handle.put(b"new", b"1"),
    "put_entity": lambda handle, tools: handle.put_entity(b"new", [b"column"], [b"1"]),
}
BATCH: dict[str, Use] = {
    **BATCH_WRITES,
    "__len__": lambda handle, tools: len(handle),
    "clear": lambda handle, tools: handle.clear(),
    "is_empty": lambda handle, tools: handle.is_empty(),
    "len": lambda handle, tools: handle.len(),
    "set_default_column_family": lambda handle, tools: handle.set_default_column_family(None),
    "set_dumps": lambda handle, tools: handle.set_dumps(bytes),
    "size_in_bytes": lambda handle, tools: handle.size_in_bytes(),
}
BULK: dict[str, Use] = {**BATCH_WRITES, "flush": lambda handle, tools: handle.flush()}
CHECKPOINT: dict[str, Use] = {
    **RENEW,
    "create": lambda handle, tools: handle.create(tools.path()),
    "create_checkpoint": lambda handle, tools: handle.create_checkpoint(tools.path()),
}
SST: dict[str, Use] = {
    **RENEW,
    "__delitem__": lambda handle, tools: handle.__delitem__(b"gone"),
    "__setitem__": lambda handle, tools: handle.__setitem__(b"new", b"1"),
    "file_size": lambda handle, tools: handle.file_size(),
    "finish": lambda handle, tools: handle.finish(),
    "open": lambda handle, tools: handle.open(tools.path()),
    "set_dumps": lambda handle, tools: handle.set_dumps(bytes),
}


@dataclass(frozen=True)
class Kind:
    """A kind of handle to be swept.

    Attributes:
        name: Its name in the list of tests.
        type: Its class, whose `dir()` is swept.
        kind: How errors and warnings name it.
        opening: The expression that opens one, with `db`, `tools` and `saferocks` at hand.
        uses: A call of each attribute.
        needs_with: Whether it is to be entered before use.
        derived: Makes the object that is swept from the entered handle, where that is another one.
    """

    name: str
    type: type
    kind: str
    opening: str
    uses: dict[str, Use]
    needs_with: bool = True
    derived: Callable[[Any], Any] | None = None

    @property
    def attributes(self) -> list[str]:
        """The attributes to be swept; background work is cancelled for good, so that comes last."""
        names = [name for name in dir(self.type) if name not in PLUMBING and not is_private(name)]
        return sorted(names, key=lambda name: (name == "cancel_all_background", name))


def is_private(name: str) -> bool:
    """Tell whether a name is for the package's own use."""
    return name.startswith("_") and not name.startswith("__")


KINDS = (
    Kind("database", saferocks.Rdict, "database", "saferocks.open(tools.database())", RDICT),
    Kind(
        "database from the constructor", saferocks.Rdict, "database", "saferocks.Rdict(tools.database())", RDICT, False
    ),
    Kind("column family", saferocks.Rdict, "column family 'f'", "db.get_column_family('f')", RDICT, False),
    Kind(
        "column family of batches",
        saferocks.ColumnFamily,
        "column family 'f'",
        "db.get_column_family_handle('f')",
        {"name": lambda handle, tools: handle.name},
        False,
    ),
    Kind("items", saferocks.RdictItems, "iterator", "db.items()", SCAN),
    Kind("keys", saferocks.RdictKeys, "iterator", "db.keys()", SCAN),
    Kind("values", saferocks.RdictValues, "iterator", "db.values()", SCAN),
    Kind("columns", saferocks.RdictColumns, "iterator", "db.columns()", SCAN),
    Kind("entities", saferocks.RdictEntities, "iterator", "db.entities()", SCAN),
    Kind("bounded items", saferocks.RdictItems, "iterator", "db.items(lower_bound=b'a', backwards=True)", SCAN),
    Kind("items of a snapshot", saferocks.RdictItems, "iterator", "snap.items()", SCAN),
    Kind("values of a snapshot view", saferocks.RdictValues, "iterator", "snap.get_column_family('f').values()", SCAN),
    Kind("cursor", saferocks.RdictIter, "iterator", "db.iter()", CURSOR),
    Kind("bounded cursor", saferocks.RdictIter, "iterator", "db.iter(prefix=b'k')", CURSOR),
    Kind("cursor of a snapshot", saferocks.RdictIter, "iterator", "snap.iter()", CURSOR),
    Kind("snapshot", saferocks.Snapshot, "snapshot", "db.snapshot(column_families=['f'])", SNAPSHOT),
    Kind(
        "view of a snapshot",
        saferocks.SnapshotFamily,
        "snapshot",
        "db.snapshot(column_families=['f'])",
        SNAPSHOT_VIEW,
        derived=lambda snapshot: snapshot.get_column_family("f"),
    ),
    Kind("write batch", saferocks.WriteBatch, "write_batch", "db.write_batch()", BATCH),
    Kind(
        "free-standing write batch", saferocks.WriteBatch, "write_batch", "saferocks.WriteBatch(raw_mode=True)", BATCH
    ),
    Kind("bulk writer", saferocks.BulkWriter, "write_batch", "db.bulk_writer()", BULK),
    Kind("checkpoint", saferocks.Checkpoint, "checkpoint", "db.checkpoint()", CHECKPOINT),
    Kind("checkpoint from the constructor", saferocks.Checkpoint, "checkpoint", "saferocks.Checkpoint(db)", CHECKPOINT),
    Kind("sst writer", saferocks.SstFileWriter, "sst_writer", "saferocks.SstFileWriter()", SST),
)
#: Those that have a state before entering; a view exists only once its snapshot has been entered.
SCOPES = tuple(kind for kind in KINDS if kind.needs_with and kind.derived is None)
#: Those that a database's close takes with it.
CHILDREN = tuple(kind for kind in KINDS if "db" in kind.opening or "snap" in kind.opening)
ROWS = (*SCAN, *CURSOR)

#: What may be asked of a database that is not entered, or is closed, with the reason why.
HARMLESS: dict[tuple[type, str], str] = {
    (saferocks.Rdict, "close"): "closing what is closed is no error, and closing needs no `with`",
    (saferocks.Rdict, "destroy"): "a static method: works on a path, not on this database",
    (saferocks.Rdict, "list_cf"): "a static method: works on a path, not on this database",
    (saferocks.Rdict, "repair"): "a static method: works on a path, not on this database",
    (saferocks.ColumnFamily, "name"): "a name, remembered; nothing native is asked",
}
#: What fails even on a handle in use, because the sweep calls each attribute alone.
FAILING: dict[tuple[type | str, str], str] = {
    **{(kind.name, "renew"): "HandleError" for kind in KINDS if "renew" in kind.uses},  # it has no lease
    (saferocks.Rdict, "try_catch_up_with_primary"): "NotSupportedError",  # it is no secondary
    (saferocks.RdictIter, "next"): "InvalidArgumentError",  # it is not on a row yet
    (saferocks.RdictIter, "prev"): "InvalidArgumentError",
    (saferocks.SstFileWriter, "__delitem__"): "InvalidArgumentError",  # it has no open file yet
    (saferocks.SstFileWriter, "__setitem__"): "InvalidArgumentError",
    (saferocks.SstFileWriter, "finish"): "InvalidArgumentError",
    (
        "free-standing write batch",
        "put_entity",
    ): "InvalidArgumentError",  # it has no database to take a column family from
}


# --------------------------------------------------------------------------- opening at a line of one's own


class Opening:
    """A line of code that opens a handle; no two have the same file, number or text."""

    _numbers = itertools.count(1)

    def __init__(self, expression: str) -> None:
        number = next(self._numbers)
        self.where = f"opening_{number}.py:{number}"
        source = "\n" * (number - 1) + f"handle_{number} = {expression}"
        self._name = f"handle_{number}"
        self._code: CodeType = compile(source, f"opening_{number}.py", "exec")

    def __call__(self, scope: dict[str, Any]) -> Any:
        """Run the line; another run is another handle from the same line."""
        exec(self._code, scope)  # noqa: S102 - a line of the tables above
        return scope.pop(self._name)


@dataclass
class Bench:
    """An open database with a snapshot, and what a test opened from it.

    Attributes:
        scope: The names that opening expressions may use.
        tools: What the calls need.
    """

    scope: dict[str, Any]
    tools: Tools
    stack: ExitStack = field(default_factory=ExitStack)

    @property
    def db(self) -> saferocks.Rdict:
        """The database."""
        database: saferocks.Rdict = self.scope["db"]
        return database


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory, in memory if possible: this file opens a thousand databases, and each syncs files."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - a fresh directory in it
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


@pytest.fixture
def template(folder: Path) -> None:
    """A closed database with a row in each of three column families."""
    with saferocks.open(str(folder / "template")) as db:
        db[b"k"] = b"v"
        for name in ("f", "g"):
            db.create_column_family(name)[b"k"] = b"v"


@pytest.fixture
def bench(template: None, folder: Path) -> Iterator[Bench]:
    """An entered database and snapshot; the database may be closed by the test."""
    with ExitStack() as stack:
        tools = Tools(folder, stack)
        db = stack.enter_context(saferocks.open(tools.database(), statistics=True))
        snap = stack.enter_context(db.snapshot(column_families=["f"]))
        yield Bench({"db": db, "snap": snap, "tools": tools, "saferocks": saferocks}, tools)


@contextmanager
def policy(value: Any) -> Iterator[None]:
    """Put the whole process under a policy for the length of a block."""
    before = _settings.current
    saferocks.configure(policy=value)
    try:
        yield
    finally:
        _settings.current = before


def discard(handle: Any) -> None:
    """Release a handle in whatever state it is, without writing anything."""
    if hasattr(handle, "close"):
        handle.close()
        return
    with suppress(saferocks.HandleError):  # it is entered already, or released
        handle.__enter__()
    handle.__exit__(ValueError, ValueError("the body's own"), None)


def outcome(kind: Kind, name: str, handle: Any, tools: Tools) -> str:
    """Call an attribute; return `works` or the name of the exception."""
    assert name in kind.uses, f"give {kind.type.__name__}.{name} an entry in the tables of this file"
    try:
        kind.uses[name](handle, tools)
    except Exception as error:
        return type(error).__name__
    return "works"


def in_use(kind: Kind, name: str) -> str:
    """Return the outcome of an attribute called alone on a handle in use."""
    return FAILING.get((kind.type, name)) or FAILING.get((kind.name, name), "works")


def name_of(kind: Kind) -> str:
    """Name a kind in the list of tests."""
    return kind.name.replace(" ", "-")


every_kind = pytest.mark.parametrize("kind", KINDS, ids=name_of)
every_scope = pytest.mark.parametrize("kind", SCOPES, ids=name_of)
every_child = pytest.mark.parametrize("kind", CHILDREN, ids=name_of)


# --------------------------------------------------------------------------- the tables


@every_kind
def test_every_attribute_has_an_entry(kind: Kind) -> None:
    """The tables call each public attribute of each kind, and nothing that does not exist."""
    assert sorted(kind.uses) == sorted(kind.attributes)


def test_every_class_of_handles_is_swept() -> None:
    """No class that the package exports, and that can be entered or read through, is left out."""
    swept = {kind.type for kind in KINDS}
    exported = [getattr(saferocks, name) for name in saferocks.__all__]
    own = [each for each in exported if isinstance(each, type) and each.__module__.partition(".")[0] == "saferocks"]
    handles = {each for each in own if hasattr(each, "__enter__") or hasattr(each, "_record")} - {saferocks.SignalDump}
    assert handles - {saferocks.Scope} == swept - {saferocks.SnapshotFamily} | (handles & {saferocks.SnapshotFamily})


# --------------------------------------------------------------------------- before entering


@every_scope
def test_unentered_use_is_refused_under_raise(kind: Kind, bench: Bench) -> None:
    """Under the policy `raise`, no attribute works before the handle has been entered."""
    with policy("raise"):
        opening = Opening(kind.opening)
        handle = opening(bench.scope)
        found, texts = {}, set()
        for name in kind.attributes:
            if (kind.type, name) in HARMLESS:
                continue
            try:
                kind.uses[name](handle, bench.tools)
                found[name] = "works"
            except saferocks.HandleError as error:
                found[name] = type(error).__name__
                texts.add(str(error))
        discard(handle)
    assert found == dict.fromkeys(found, "NotEnteredError")
    (text,) = texts
    assert text.startswith(f"{kind.kind} opened at {opening.where} was used without 'with'; write 'with ")


@every_scope
@pytest.mark.about_leaks
def test_unentered_use_warns_once_a_line_under_warn(kind: Kind, bench: Bench) -> None:
    """Under the policy `warn`, each attribute works before entering, and its opening line is told once."""
    found, expected = {}, {}
    for name in kind.attributes:
        opening, told = Opening(kind.opening), []
        for _ in range(2):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                handle = opening(bench.scope)
                result = outcome(kind, name, handle, bench.tools)
                discard(handle)
            told.append([(each.category.__name__, f"{each.filename}:{each.lineno}") for each in caught])
        found[name] = (result, told)
        silent = (kind.type, name) in HARMLESS
        expected[name] = (in_use(kind, name), [[] if silent else [("UnscopedHandleWarning", opening.where)], []])
    assert found == expected


@every_scope
def test_unentered_use_is_silent_under_ignore(kind: Kind, bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Under the policy `ignore`, each attribute works before entering without a warning or an event."""
    caplog.set_level(logging.INFO, "saferocks")
    with policy("ignore"):
        found = {}
        for name in kind.attributes:
            handle = Opening(kind.opening)(bench.scope)
            found[name] = outcome(kind, name, handle, bench.tools)
            discard(handle)
    assert found == {name: in_use(kind, name) for name in kind.attributes}
    assert caplog.messages == []


@pytest.mark.parametrize("value", ["raise", "warn", "ignore"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.needs_with], ids=name_of)
def test_what_needs_no_with_works_without_under_every_policy(kind: Kind, value: str, bench: Bench) -> None:
    """A database from the constructor and a column family are used without `with`, and nothing is said."""
    with policy(value):
        found = {}
        handle = Opening(kind.opening)(bench.scope)
        for name in kind.attributes:
            if name != "close":
                found[name] = outcome(kind, name, handle, bench.tools)
        if hasattr(handle, "close"):
            handle.close()
    assert found == {name: in_use(kind, name) for name in kind.attributes if name != "close"}


@every_kind
def test_entered_handles_work(kind: Kind, bench: Bench) -> None:
    """Inside its `with`, every attribute of a handle does what the tables expect, under the policy `raise`."""
    found = {}
    with policy("raise"):
        for name in kind.attributes:
            handle = Opening(kind.opening)(bench.scope)
            handle.__enter__()
            swept = kind.derived(handle) if kind.derived else handle
            found[name] = outcome(kind, name, swept, bench.tools)
            discard(handle)
    assert found == {name: in_use(kind, name) for name in kind.attributes}


# --------------------------------------------------------------------------- after release


def release_by_exit(handle: Any, bench: Bench) -> None:
    """Leave the handle's block."""
    handle.__exit__(None, None, None)


def release_by_error(handle: Any, bench: Bench) -> None:
    """Leave the handle's block by an exception."""
    error = ValueError("the body's own")
    handle.__exit__(ValueError, error, None)


def release_by_database(handle: Any, bench: Bench) -> None:
    """Close the database under the handle."""
    bench.db.close()


def release_by_close(handle: Any, bench: Bench) -> None:
    """Close the handle itself."""
    handle.close()


def errors_after(kind: Kind, swept: Any, tools: Tools) -> tuple[dict[str, str], set[str]]:
    """Call every attribute of a released handle; return the outcomes and the texts of the errors."""
    found, texts = {}, set()
    for name in kind.attributes:
        if (kind.type, name) in HARMLESS:
            continue
        try:
            found[name] = f"works: {kind.uses[name](swept, tools)!r}"
        except saferocks.HandleError as error:
            found[name] = type(error).__name__
            texts.add(str(error))
    return found, texts


def check_released(kind: Kind, opening: Opening, swept: Any, tools: Tools) -> None:
    """Assert that nothing works any more, and that every error names the kind and the opening line."""
    found, texts = errors_after(kind, swept, tools)
    closed = "DatabaseClosedError" if kind.kind.startswith(("database", "column family")) else "HandleClosedError"
    assert found == dict.fromkeys(found, closed)
    for text in texts:
        assert f"opened at {opening.where} " in text
        assert kind.kind in text


@pytest.mark.parametrize("release", [release_by_exit, release_by_error])
@every_kind
def test_nothing_works_after_exit(kind: Kind, release: Any, bench: Bench) -> None:
    """After its `with`, every attribute of a handle raises, and names the kind and the opening line."""
    opening = Opening(kind.opening)
    handle = opening(bench.scope)
    handle.__enter__()
    swept = kind.derived(handle) if kind.derived else handle
    release(handle, bench)
    check_released(kind, opening, swept, bench.tools)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.type is saferocks.Rdict], ids=name_of)
def test_nothing_works_after_close(kind: Kind, bench: Bench) -> None:
    """After `close()`, every attribute of a database or column family raises, and names the opening line."""
    opening = Opening(kind.opening)
    handle = opening(bench.scope)
    handle.close()
    check_released(kind, opening, handle, bench.tools)


@pytest.mark.parametrize("entered", [True, False], ids=["entered", "never-entered"])
@every_child
def test_nothing_works_after_the_database_is_closed(kind: Kind, entered: bool, bench: Bench) -> None:
    """A handle that outlived its database raises on every use, whether it had been entered or not."""
    with policy("ignore"):
        opening = Opening(kind.opening)
        handle = opening(bench.scope)
        if entered or kind.derived:
            handle.__enter__()
        swept = kind.derived(handle) if kind.derived else handle
        bench.db.close()
        check_released(kind, opening, swept, bench.tools)


@pytest.mark.parametrize("release", [release_by_exit, release_by_database])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.uses is SCAN], ids=name_of)
def test_a_scan_under_way_gives_not_one_more_row_after_release(kind: Kind, release: Any, bench: Bench) -> None:
    """A scan that has more rows, and the iterator of a `for` over it, raise after release."""
    bench.db[b"l"] = b"2"
    bench.db.get_column_family("f")[b"l"] = b"2"
    bench.scope["snap"] = snap = bench.db.snapshot(column_families=["f"])
    with policy("ignore"), ExitStack() as stack:
        stack.enter_context(snap)
        opening = Opening(kind.opening)
        handle = opening(bench.scope)
        handle.__enter__()
        rows = iter(handle)
        next(rows)
        release(handle, bench)
        for _ in range(2):
            with pytest.raises(saferocks.HandleClosedError, match=f"iterator opened at {opening.where} "):
                next(rows)


@pytest.mark.parametrize("release", [release_by_exit, release_by_database])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.uses is SCAN], ids=name_of)
def test_an_exhausted_scan_stays_exhausted(kind: Kind, release: Any, bench: Bench) -> None:
    """A scan that was read to its end raises StopIteration for ever, also after exit and close."""
    handle = Opening(kind.opening)(bench.scope)
    handle.__enter__()
    assert len(list(handle)) == 1
    with policy("ignore"):  # the snapshot of the bench outlives a close
        release(handle, bench)
    assert list(handle) == []
    with pytest.raises(StopIteration):
        next(handle)


def test_views_and_scans_of_a_snapshot_die_with_it(bench: Bench) -> None:
    """A view and a scan of a snapshot raise once the snapshot has been left, and name their own lines."""
    with ExitStack() as stack:
        snapshot = Opening("db.snapshot(column_families=['f'])")
        snap = snapshot(bench.scope)
        with snap:
            view = snap.get_column_family("f")
            scanning = Opening("view.items()")
            scan = stack.enter_context(scanning({**bench.scope, "view": view}))
        with pytest.raises(saferocks.HandleClosedError, match=f"snapshot opened at {snapshot.where} "):
            view[b"k"]
        with pytest.raises(saferocks.HandleClosedError, match=f"iterator opened at {scanning.where} .*its snapshot"):
            next(scan)


def test_a_batch_refuses_a_released_column_family(bench: Bench) -> None:
    """A column family that was closed cannot be named in a batch, by any of the methods that take one."""
    opening = Opening("db.get_column_family_handle('f')")
    family = opening(bench.scope)
    with family:
        pass
    with bench.db.write_batch() as batch:
        for write in (
            lambda: batch.put(b"k", b"v", family),
            lambda: batch.delete(b"k", family),
            lambda: batch.delete_range(b"a", b"b", family),
            lambda: batch.set_default_column_family(family),
        ):
            with pytest.raises(saferocks.DatabaseClosedError, match=f"'f' opened at {opening.where} "):
                write()
        assert batch.is_empty()


@pytest.mark.parametrize("value", ["raise", "warn"])
def test_a_batch_that_was_refused_is_as_it_was(value: str, bench: Bench) -> None:
    """Writing a batch to a closed database leaves it unwritten and open, to be written elsewhere."""
    closed = saferocks.open(bench.tools.database())
    closed.close()  # type: ignore[attr-defined]
    with policy(value), saferocks.WriteBatch(raw_mode=True) as batch:
        batch[b"a"] = b"1"
        with pytest.raises(saferocks.DatabaseClosedError):
            closed.write(batch)  # type: ignore[attr-defined]
        bench.db.write(batch)
    assert bench.db[b"a"] == b"1"


def test_a_batch_that_an_unentered_database_refused_is_as_it_was(bench: Bench) -> None:
    """Under `raise`, a batch that was refused for want of `with` can be written once there is one."""
    with policy("raise"), saferocks.WriteBatch(raw_mode=True) as batch:
        batch[b"a"] = b"1"
        unentered = saferocks.open(bench.tools.database())
        with pytest.raises(saferocks.NotEnteredError):
            unentered.write(batch)  # type: ignore[attr-defined]
        with unentered as db:
            db.write(batch)
            assert db[b"a"] == b"1"


# --------------------------------------------------------------------------- entering and leaving


@every_kind
def test_entering_twice_is_refused(kind: Kind, bench: Bench) -> None:
    """A handle that is entered cannot be entered again, and stays usable."""
    opening = Opening(kind.opening)
    handle = opening(bench.scope)
    handle.__enter__()
    with pytest.raises(saferocks.HandleError, match=f"opened at {opening.where} is entered already") as caught:
        handle.__enter__()
    assert type(caught.value) is saferocks.HandleError
    name = kind.attributes[0]
    swept = kind.derived(handle) if kind.derived else handle
    assert outcome(kind, name, swept, bench.tools) == in_use(kind, name)
    discard(handle)


@every_kind
def test_entering_after_exit_is_refused(kind: Kind, bench: Bench) -> None:
    """A handle is entered once in its life: after its block it raises, and names the opening line."""
    opening = Opening(kind.opening)
    handle = opening(bench.scope)
    with handle:
        pass
    with pytest.raises(saferocks.HandleClosedError, match=f"opened at {opening.where} "):
        handle.__enter__()


@every_child
def test_entering_after_the_database_is_closed_is_refused(kind: Kind, bench: Bench) -> None:
    """A handle whose database has closed cannot be entered."""
    with policy("ignore"):
        opening = Opening(kind.opening)
        handle = opening(bench.scope)
        bench.db.close()
    with pytest.raises(saferocks.HandleClosedError, match=f"opened at {opening.where} "):
        handle.__enter__()


@every_kind
def test_leaving_twice_is_no_error(kind: Kind, bench: Bench) -> None:
    """A second exit does nothing."""
    handle = Opening(kind.opening)(bench.scope)
    with handle:
        pass
    handle.__exit__(None, None, None)
    assert [each.kind for each in bench.db.handles()] == ["snapshot"]


@every_kind
def test_a_handle_used_without_with_may_still_be_entered(kind: Kind, bench: Bench) -> None:
    """What was used before entering, as the policy allows, can be entered and is then released."""
    with policy("ignore"):
        handle = Opening(kind.opening)(bench.scope)
        if kind.derived is None:
            outcome(kind, kind.attributes[0], handle, bench.tools)
        handle.__enter__()
        discard(handle)
        with pytest.raises(saferocks.HandleClosedError):
            handle.__enter__()


@every_kind
def test_repr_tells_kind_line_and_state(kind: Kind, bench: Bench) -> None:
    """repr() works at every stage and says what the handle is, where it was opened and how far it is."""
    opening = Opening(kind.opening)
    handle = opening(bench.scope)
    stages = [repr(handle)]
    with handle:
        stages.append(repr(handle))
    stages.append(repr(handle))
    assert [stage.rpartition(", ")[2] for stage in stages] == ["open>", "entered>", "released>"]
    kinds = kind.kind.split()[0] if "family" not in kind.kind else "column_family"
    for stage in stages:
        assert stage.startswith(f"<saferocks {kinds}")
        assert f" opened at {opening.where}, " in stage


def test_repr_of_a_view_tells_its_snapshot(bench: Bench) -> None:
    """repr() of a snapshot's view names the column family and the line that opened the snapshot."""
    opening = Opening("db.snapshot(column_families=['f'])")
    snap = opening(bench.scope)
    with snap:
        view = snap.get_column_family("f")
        assert "'f'" in repr(view)
        assert opening.where in repr(view)
    assert opening.where in repr(view)


COPIES: dict[str, Callable[[Any], object]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{f"pickle {number}": lambda each, number=number: pickle.dumps(each, number) for number in range(6)},
}


@every_kind
def test_handles_cannot_be_copied(kind: Kind, bench: Bench) -> None:
    """Copying or pickling a handle is a TypeError at every stage of its life."""
    handle = Opening(kind.opening)(bench.scope)

    def refusals(swept: Any) -> dict[str, str]:
        found = {}
        for name, copied in COPIES.items():
            try:
                copied(swept)
                found[name] = "works"
            except TypeError as error:
                found[name] = f"TypeError: {'cannot be pickled or copied' in str(error)}"
        return found

    refused = dict.fromkeys(COPIES, "TypeError: True")
    if kind.derived is None:
        assert refusals(handle) == refused
    with handle:
        swept = kind.derived(handle) if kind.derived else handle
        assert refusals(swept) == refused
    assert refusals(swept) == refused


# --------------------------------------------------------------------------- closing


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.type is saferocks.Rdict], ids=name_of)
def test_closing_twice_is_no_error(kind: Kind, bench: Bench) -> None:
    """A second `close()`, and one from another thread, do nothing."""
    handle = Opening(kind.opening)(bench.scope)
    handle.close()
    handle.close()
    assert run_in_threads([handle.close]) == [None]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.type is saferocks.Rdict], ids=name_of)
def test_closing_from_many_threads_at_once_closes_once(kind: Kind, bench: Bench) -> None:
    """When threads close the same handle together, none fails and the handle is closed."""
    opening = Opening(kind.opening)
    handle = opening(bench.scope)
    assert run_in_threads([handle.close] * 8) == [None] * 8
    check_released(kind, opening, handle, bench.tools)


@every_kind
def test_a_handle_may_be_left_on_another_thread(kind: Kind, bench: Bench) -> None:
    """A handle that was entered here may be released by another thread."""
    opening = Opening(kind.opening)
    handle = opening(bench.scope)
    handle.__enter__()
    swept = kind.derived(handle) if kind.derived else handle
    assert run_in_threads([lambda: handle.__exit__(None, None, None)]) == [None]
    check_released(kind, opening, swept, bench.tools)


def test_a_closed_database_can_be_opened_again_at_once(bench: Bench) -> None:
    """With a handle of every kind still referred to, the path can be reopened as soon as close returns."""
    path = bench.db.path()
    with policy("ignore"):
        left = [Opening(kind.opening)(bench.scope) for kind in CHILDREN]
        for handle in left:
            handle.__enter__()
        views = [handle.get_column_family("f") for handle in left if isinstance(handle, saferocks.Snapshot)]
        bench.db.close()
    with saferocks.open(path) as db:
        assert db[b"k"] == b"v"
    assert len(left) + len(views) == len(CHILDREN) + 2


def run_in_threads(calls: list[Callable[[], object]]) -> list[BaseException | None]:
    """Run calls on threads that start together; return what each raised."""
    failures: list[BaseException | None] = [None] * len(calls)
    start = threading.Barrier(len(calls))

    def run(number: int, call: Callable[[], object]) -> None:
        start.wait()
        try:
            call()
        except BaseException as error:
            failures[number] = error

    threads = [threading.Thread(target=run, args=each) for each in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def test_closing_with_cancelled_background_work_is_no_error(bench: Bench) -> None:
    """A database with unflushed rows closes in silence once its background work is cancelled, and keeps them."""
    path = bench.db.path()
    bench.db[b"unflushed"] = b"1"
    bench.scope["snap"].__exit__(None, None, None)
    bench.db.close(cancel_background=True)
    with saferocks.open(path) as db:
        assert db[b"unflushed"] == b"1"


def test_an_sst_writer_left_by_an_exception_leaves_no_file(bench: Bench) -> None:
    """An SST writer that is left by an exception removes its unfinished file."""
    path = bench.tools.path()
    with pytest.raises(ValueError, match="the body's own"):
        with saferocks.SstFileWriter(saferocks.Options(raw_mode=True)) as writer:
            writer.open(path)
            writer[b"a"] = b"1"
            raise ValueError("the body's own")
    assert not os.path.exists(path)
