"""What operations cost, counted and not timed: calls and instructions in the package, bytes, modules.

A clock tells on a quiet machine how long an operation takes; `python -m stress bench` does. These
counts are the same on every machine and at every run, so that one call too many fails here, in the
change that brings it. The limits are what there is: lower them with the code.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import saferocks
from saferocks import _handle, _registry, _settings, events

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from tests.conftest import MovedClock

    Run = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.about_leaks

PACKAGE = str(Path(saferocks.__file__).parent)
#: The most calls and the most instructions, for each of `VERSIONS`.
Limit = tuple[tuple[float, ...], tuple[float, ...]]
VERSIONS = ((3, 10), (3, 11), (3, 12), (3, 13))
COLUMN = VERSIONS.index(min(sys.version_info[:2], VERSIONS[-1]))
KEY, MISSING, VALUE = b"k050", b"nothing", b"v" * 100
LEASE = 1000.0
FEW, MANY = 10, 10_000
MOST_BYTES = 600


@dataclass(frozen=True)
class Count:
    """What an operation does within the package.

    Attributes:
        calls: How many Python functions it calls, or generators it resumes.
        instructions: How many bytecode instructions it executes.
    """

    calls: float
    instructions: float


def calls_of(action: Callable[[], object]) -> int:
    """Count the functions of the package that an action calls."""
    found = 0

    def profile(frame: Any, event: str, _: Any) -> None:
        nonlocal found
        found += event == "call" and frame.f_code.co_filename.startswith(PACKAGE)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        action()
    finally:
        sys.setprofile(before)
    return found


def instructions_of(action: Callable[[], object]) -> int:
    """Count the instructions of the package that an action executes."""
    found = 0

    def within(frame: Any, event: str, _: Any) -> Any:
        nonlocal found
        found += event == "opcode"
        return within

    def at_call(frame: Any, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace = within  # first: else Python 3.13 does not tell of the instructions
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return within

    before = sys.gettrace()
    sys.settrace(at_call)
    try:
        action()
    finally:
        sys.settrace(before)
    return found


def count(action: Callable[[], object]) -> Count:
    """Count an action that has been done and counted before: what is remembered at a first time is no matter."""
    instructions_of(action)  # of the very first functions that are traced Python 3.12 tells nothing
    return Count(calls_of(action), instructions_of(action))


@dataclass
class World:
    """What operations are done on; all is entered.

    Attributes:
        db: A database with keys k000 to k299.
        cursor: On one of the first.
        snap: A snapshot.
        batch: A batch.
    """

    db: Any
    cursor: Any
    snap: Any
    batch: Any


@pytest.fixture
def world(path: str, clock: MovedClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The world of a program that has neither structlog nor defaults for leases, and whose events have been logged.

    The watcher of leases sleeps, and is not to be woken.
    """
    monkeypatch.setattr(_registry, "modules", {})
    monkeypatch.setattr(_settings, "has_lease_defaults", False)
    with ExitStack() as stack:
        db = stack.enter_context(saferocks.open(path))
        for number in range(300):
            db[b"k%03d" % number] = VALUE
        cursor, snap, batch = (stack.enter_context(each) for each in (db.iter(), db.snapshot(), db.write_batch()))
        cursor.seek_to_first()
        held(db.iter(expire_after=LEASE))
        clock.settle()
        events.drain()
        stack.enter_context(collector_paused())
        yield World(db, cursor, snap, batch)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep finalizers of others from being counted."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def held(scope: Any) -> None:
    """Enter a handle and leave it."""
    with scope:
        pass


#: Operations on a world.
OPERATIONS: dict[str, Callable[[World], object]] = {
    "get": lambda world: world.db.get(KEY),
    "get of a missing key": lambda world: world.db.get(MISSING),
    "db[key]": lambda world: world.db[KEY],
    "key in db": lambda world: KEY in world.db,
    "multi-get": lambda world: world.db.get([KEY, MISSING]),
    "put": lambda world: world.db.put(KEY, VALUE),
    "db[key] = value": lambda world: world.db.__setitem__(KEY, VALUE),
    "delete": lambda world: world.db.delete(MISSING),
    "del db[key]": lambda world: world.db.__delitem__(MISSING),
    "batch[key] = value": lambda world: world.batch.__setitem__(KEY, VALUE),
    "snap[key]": lambda world: world.snap[KEY],
    "seek": lambda world: world.cursor.seek(KEY),
    "valid": lambda world: world.cursor.valid(),
    "key": lambda world: world.cursor.key(),
    "value": lambda world: world.cursor.value(),
    "next": lambda world: world.cursor.next(),
    "iter": lambda world: held(world.db.iter()),
    "iter with a lease": lambda world: held(world.db.iter(expire_after=LEASE)),
    "items": lambda world: held(world.db.items()),
    "items with a lease": lambda world: held(world.db.items(expire_after=LEASE)),
    "snapshot for points": lambda world: held(world.db.snapshot(point_reads_only=True)),
    "snapshot": lambda world: held(world.db.snapshot()),
    "write_batch": lambda world: held(world.db.write_batch()),
}
#: The most calls and the most instructions of each, by version; they are what there is.
LIMITS: dict[str, Limit] = {
    "get": ((1, 1, 1, 1), (15, 13, 13, 13)),
    "get of a missing key": ((1, 1, 1, 1), (15, 13, 13, 13)),
    "db[key]": ((1, 1, 1, 1), (9, 8, 9, 10)),
    "key in db": ((1, 1, 1, 1), (9, 8, 9, 9)),
    "multi-get": ((1, 1, 1, 1), (15, 13, 13, 13)),
    "put": ((1, 1, 1, 1), (14, 14, 13, 13)),
    "db[key] = value": ((1, 1, 1, 1), (11, 10, 10, 10)),
    "delete": ((1, 1, 1, 1), (13, 13, 12, 12)),
    "del db[key]": ((1, 1, 1, 1), (10, 9, 9, 10)),
    "batch[key] = value": ((1, 1, 1, 1), (16, 13, 12, 11)),
    "snap[key]": ((2, 2, 2, 2), (30, 31, 30, 32)),
    "seek": ((1, 1, 1, 1), (25, 22, 20, 21)),
    "valid": ((1, 1, 1, 1), (9, 10, 9, 11)),
    "key": ((1, 1, 1, 1), (16, 14, 13, 14)),
    "value": ((1, 1, 1, 1), (16, 14, 13, 14)),
    "next": ((1, 1, 1, 1), (29, 28, 26, 29)),
    "iter": ((6, 6, 6, 6), (335, 308, 293, 298)),
    "iter with a lease": ((17, 17, 17, 17), (633, 610, 566, 570)),
    "items": ((15, 15, 14, 14), (526, 507, 473, 474)),
    "items with a lease": ((26, 26, 25, 25), (824, 809, 746, 747)),
    "snapshot for points": ((6, 6, 6, 6), (321, 308, 292, 297)),
    "snapshot": ((27, 27, 24, 24), (641, 638, 587, 589)),
    "write_batch": ((41, 41, 41, 41), (803, 771, 718, 726)),
}

#: Scans from a key on; counted for each row, of which there are so many more from one key than from the other.
SCANS: dict[str, Callable[[World, bytes], Any]] = {
    "items": lambda world, start: world.db.items(from_key=start),
    "keys": lambda world, start: world.db.keys(from_key=start),
    "values": lambda world, start: world.db.values(from_key=start),
    "items with a lease": lambda world, start: world.db.items(from_key=start, expire_after=LEASE),
    "items with bounds": lambda world, start: world.db.items(lower_bound=start, upper_bound=b"l"),
    "items of a snapshot": lambda world, start: world.snap.items(from_key=start),
}
EARLY, LATE, MORE_ROWS = b"k020", b"k270", 250
#: On Python 3.10 another generator stands around that of the rows.
SCAN_LIMITS: dict[str, Limit] = {
    "items": ((2, 1, 1, 1), (12, 6, 6, 6)),
    "keys": ((2, 1, 1, 1), (12, 6, 6, 6)),
    "values": ((2, 1, 1, 1), (14, 8, 8, 8)),
    "items with a lease": ((2, 1, 1, 1), (15, 9, 9, 10)),
    "items with bounds": ((2, 1, 1, 1), (38, 28, 27, 30)),
    "items of a snapshot": ((4.09, 3.09, 3.09, 3.09), (113.77, 123.83, 109.7, 109.74)),
}


def check(what: str, found: Count, limit: Limit) -> None:
    """Fail if a count is over its limit."""
    most = Count(limit[0][COLUMN], limit[1][COLUMN])
    assert found.calls <= most.calls, f"{what} makes {found.calls:g} calls, and its limit is {most.calls:g}"
    assert found.instructions <= most.instructions, (
        f"{what} takes {found.instructions:g} instructions, and its limit is {most.instructions:g}"
    )


def count_rows(world: World, scan: Callable[[World, bytes], Any]) -> Count:
    """Count what each row of a scan takes, beyond what the scan does."""

    def read(start: bytes) -> None:
        with scan(world, start) as rows:
            for _ in rows:
                pass

    many, few = (count(partial(read, start)) for start in (EARLY, LATE))
    calls, instructions = many.calls - few.calls, many.instructions - few.instructions
    return Count(calls / MORE_ROWS, instructions / MORE_ROWS)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_keeps_to_its_calls_and_instructions(world: World, name: str) -> None:
    """No operation calls more functions of the package, or takes more instructions in it, than it may."""
    check(name, count(lambda: OPERATIONS[name](world)), LIMITS[name])


@pytest.mark.parametrize("name", SCANS)
def test_a_row_keeps_to_its_calls_and_instructions(world: World, name: str) -> None:
    """No row of a scan resumes more generators, or takes more instructions in them, than it may."""
    check(f"a row of {name}", count_rows(world, SCANS[name]), SCAN_LIMITS[name])


@pytest.mark.parametrize("name", OPERATIONS)
def test_one_call_more_is_over_every_limit(world: World, name: str) -> None:
    """A call that is planted into an operation takes it over its limit: no limit leaves room for one."""
    names: dict[str, Any] = {}
    exec(compile("def plant(): pass", f"{PACKAGE}/_planted.py", "exec"), names)  # noqa: S102 - into the package

    def operation() -> None:
        OPERATIONS[name](world)
        names["plant"]()

    found, (calls, instructions) = count(operation), LIMITS[name]
    assert found.calls > calls[COLUMN]
    assert found.instructions > instructions[COLUMN]


# --------------------------------------------------------------------------- however many are open


def test_a_handle_costs_the_same_however_many_are_open(world: World) -> None:
    """With ten thousand handles open an opening and its release take not one instruction more than with ten."""
    counts = []
    with ExitStack() as stack:
        for number in (FEW, MANY - FEW):
            for _ in range(number):
                stack.enter_context(world.db.snapshot(point_reads_only=True))
            counts.append(
                [count(partial(OPERATIONS[name], world)) for name in ("iter", "items", "snapshot for points")]
            )
    assert counts[0] == counts[1]


def test_bytes_of_a_handle(world: World) -> None:
    """A tracked handle takes no more memory than it may, beyond what rocksdict's own object does."""
    tracked = bytes_of(lambda: world.db.snapshot(point_reads_only=True))
    native = world.db._record.live
    assert tracked - bytes_of(native.snapshot) <= MOST_BYTES
    tracked = bytes_of(lambda: world.db.iter())
    assert tracked - bytes_of(native.iter) <= MOST_BYTES


def bytes_of(opener: Callable[[], Any]) -> float:
    """Weigh what an opener returns, entered if it is a handle."""
    kept: list[Any] = [None] * MANY
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(MANY):
            kept[number] = opener()
            if isinstance(kept[number], _handle.Handle):
                kept[number].__enter__()
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    for each in kept:
        if isinstance(each, _handle.Handle):
            each.__exit__(None, None, None)
    return used / MANY


# --------------------------------------------------------------------------- what no count shows


def classes_of(base: type) -> Iterator[type]:
    """Return a class and all that derive from it."""
    yield base
    for derived in base.__subclasses__():
        yield from classes_of(derived)


OURS = [each for base in (_registry.Record, _handle.Handle) for each in classes_of(base)]


def test_attributes_of_handles_and_records_are_found_at_once() -> None:
    """None of their classes has a `__getattr__` or a `__dict__`: Python 3.11 then takes ten times as long for each."""
    ours = [each for each in OURS if each.__module__.startswith("saferocks.")]
    assert len(ours) > 10
    assert [each for each in ours if hasattr(each, "__getattr__")] == []
    assert [each for each in ours if each.__dictoffset__] == []


# --------------------------------------------------------------------------- importing

#: What it may load of these.
MODULES = ["saferocks"]
IMPORTED = """
import sys
import saferocks
print(*sorted(name for name in sys.modules if name.partition(".")[0] in ("saferocks", "rocksdict", "structlog")))
"""


def test_what_importing_loads(run_python: Run) -> None:
    """`import saferocks` loads neither rocksdict nor structlog, and of its own modules no other."""
    child = run_python(IMPORTED)
    assert child.stdout.split() == MODULES, child.stderr
