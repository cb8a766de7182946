"""The database against a model of it: dictionaries, and lists of what must still come out.

Hypothesis draws programs that open, interleave and release handles of every kind; after each step
the registry must hold exactly the model's open handles, and RocksDB's own counts must agree.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import tempfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import saferocks

#: Rows by the place of their key in the order of the database: `{place: (key, value)}`.
Rows = dict[Any, tuple[Any, Any]]

#: Where databases are made: in memory if possible, because each opening and closing syncs files.
IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - `mkdtemp` picks a fresh name in it
DEFAULT = "default"
FAMILIES = ("f", "g")
PICK = st.integers(0, 1000)
#: Mostly None, so that most scans have rows.
MAYBE = st.one_of(st.none(), st.just(None), PICK)

RAW_KEYS = (
    b"",
    b"\0",
    b"a",
    b"a\0",
    b"a1",
    b"a2",
    b"ab",
    b"a\xff",
    b"a\xffz",
    b"b",
    b"b1",
    b"c",
    b"\xfe",
    b"\xff",
    b"\xff\xff",
)
TYPED_KEYS = (
    *(b"", b"a", b"a1", b"\xff"),
    *("", "a", "a1", "a\u00e9", "a\U0010ffffz", "b", "\U0001f600"),
    *(-(2**40), -1, 0, 1, 2, 10, 2**62),
    *(-1.5, -0.0, 0.0, 0.5, 1.0, 2.0, float("inf"), float("-inf")),
    *(False, True),
)
RAW_VALUES = (b"", b"1", b"2", b"x" * 300)
TYPED_VALUES = (b"", b"1", "", "text", 0, -7, 2**40, 1.5, True, False)


def raw_place(key: Any) -> Any:
    """Return what sorts as RocksDB's bytewise comparator sorts keys."""
    return key


def typed_place(key: Any) -> Any:
    """Return what sorts as rocksdict's comparator sorts keys: by type, then within the type."""
    if type(key) is bytes:
        return 0, key
    if type(key) is str:
        return 1, key.encode()
    if type(key) is int:
        return 2, key
    if type(key) is float:
        return 3, struct.pack(">d", key)
    return 4, key


def exact(found: Any) -> Any:
    """Return a value that equals another only if type and bits are the same (1, 1.0 and True are three)."""
    if isinstance(found, (list, tuple)):
        return [exact(each) for each in found]
    return type(found).__name__, struct.pack(">d", found) if isinstance(found, float) else found


@dataclass
class Family:
    """A column family of the model, and the handles to it that are open."""

    rows: Rows = field(default_factory=dict)
    table: Any = None
    in_batches: Any = None
    dropped: bool = False


@dataclass
class Scan:
    """A scan and the rows that it has still to give."""

    handle: Any
    rows: Any
    stack: ExitStack
    left: list[Any]
    snapshot: Snapshot | None
    exhausted: bool = False


@dataclass
class Cursor:
    """A cursor, the rows that it can see, and which of them it is on."""

    handle: Any
    stack: ExitStack
    seen: list[tuple[Any, Any, Any]]
    snapshot: Snapshot | None
    at: int | None = None


@dataclass
class Snapshot:
    """A snapshot and copies of what it covers."""

    handle: Any
    stack: ExitStack
    rows: dict[str, Rows]
    first: str
    scans: bool


@dataclass
class Batch:
    """A write batch or bulk writer, and what it has still to write."""

    handle: Any
    stack: ExitStack
    pending: list[tuple[Any, ...]]
    families: list[Family]
    flushes: bool | None
    """None for a batch; for a bulk writer, whether every row is flushed at once."""


def ordered(rows: Rows) -> list[tuple[Any, Any, Any]]:
    """Return rows in the order of the database, as `(place, key, value)`."""
    return [(place, *rows[place]) for place in sorted(rows)]


def scope() -> st.SearchStrategy[str]:
    """Choose what is asked for of each row."""
    return st.sampled_from(["items", "keys", "values"])


class Database(RuleBasedStateMachine):
    """A database, the handles open on it, and the model of both."""

    raw: ClassVar[bool]
    place: Any
    #: The keys and values that programs use: few, so that they meet.
    all_keys: ClassVar[tuple[Any, ...]]
    all_values: ClassVar[tuple[Any, ...]]
    prefixes: ClassVar[tuple[Any, ...]]

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(dir=IN_MEMORY)
        self.families: dict[str, Family] = {DEFAULT: Family()}
        self.open_everything()

    # ---- opening and closing

    def open_everything(self) -> None:
        """Open the database and a handle to each column family."""
        self.stack = ExitStack()
        opening = saferocks.open(f"{self.folder}/db", raw_mode=self.raw, statistics=True, policy="raise")
        self.db = self.stack.enter_context(opening)
        assert set(self.db.column_families) == set(self.families)
        for name, family in self.families.items():
            family.table = self.db if name == DEFAULT else self.db.get_column_family(name)
            family.in_batches = self.db.get_column_family_handle(name)
        self.scans: list[Scan] = []
        self.cursors: list[Cursor] = []
        self.snapshots: list[Snapshot] = []
        self.batches: list[Batch] = []

    def open_kinds(self) -> Counter[str]:
        """Count the handles that the model holds open, by kind."""
        families = self.families.values()
        counts = Counter(
            {
                "iterator": len(self.cursors) + sum(not scan.exhausted for scan in self.scans),
                "snapshot": len(self.snapshots),
                "write_batch": len(self.batches),
                "column_family": 2 * len(families) - 1,  # the default one is read through the database
            }
        )
        return +counts

    @property
    def guarded(self) -> int:
        """How many handles are worth a report if they outlive the database."""
        return sum(count for kind, count in self.open_kinds().items() if kind != "column_family")

    def release_everything(self) -> None:
        """Leave every block in the order of opening, and discard what batches hold."""
        for each in [*self.scans, *self.cursors, *self.snapshots]:
            each.stack.close()
        for batch in self.batches:
            assert not batch.stack.__exit__(KeyError, KeyError("discard"), None)

    @rule()
    def reopen(self) -> None:
        """Close the database with nothing else open, and open it again."""
        self.release_everything()
        self.stack.close()
        self.open_everything()

    @rule()
    def close_under_everything(self) -> None:
        """Close the database under its handles: each is a leak, is released, and the path is free at once."""
        left = self.guarded
        if left:
            with pytest.raises(saferocks.LeakedHandlesError) as caught:
                self.stack.close()
            assert sum(leak.count for leak in caught.value.leaks) == left
        else:
            self.stack.close()
        for scan in self.scans:
            expected = StopIteration if scan.exhausted else saferocks.HandleClosedError
            with pytest.raises(expected):
                next(scan.rows)
        for cursor in self.cursors:
            with pytest.raises(saferocks.HandleClosedError):
                cursor.handle.valid()
        for snapshot in self.snapshots:
            with pytest.raises(saferocks.HandleClosedError):
                snapshot.handle.get(self.all_keys[0])
        for batch in self.batches:
            with pytest.raises(saferocks.HandleClosedError):
                batch.handle.delete(self.all_keys[0])
        with pytest.raises(saferocks.DatabaseClosedError):
            self.db.get(self.all_keys[0])
        self.release_everything()
        self.open_everything()

    def teardown(self) -> None:
        """Release everything; nothing may be left in the registry then."""
        try:
            self.release_everything()
            self.stack.close()
            assert saferocks.open_handles() == ()
        finally:
            shutil.rmtree(self.folder)

    # ---- what must hold after every step

    @invariant()
    def the_registry_is_the_models(self) -> None:
        """`db.handles()` holds exactly the handles that the model holds open."""
        assert Counter(each.kind for each in self.db.handles()) == self.open_kinds()

    @invariant()
    def rocksdb_counts_the_same(self) -> None:
        """RocksDB's own counts of iterators and snapshots are the registry's."""
        report = self.db.audit()
        assert report.ok, report
        assert report.unchecked == ()
        if not self.open_kinds()["iterator"] and not self.snapshots:
            assert (report.live_iterators, report.live_snapshots) == (0, 0)

    # ---- column families

    def family(self, pick: int) -> Family:
        """Choose a column family."""
        return self.families[sorted(self.families)[pick % len(self.families)]]

    @rule(name=st.sampled_from(FAMILIES))
    def create_or_drop(self, name: str) -> None:
        """Make a column family that is not there, drop one that is."""
        family = self.families.pop(name, None)
        if family is None:
            table = self.db.create_column_family(name)
            self.families[name] = Family({}, table, self.db.get_column_family_handle(name))
            return
        self.db.drop_column_family(name)
        family.dropped = True
        for use in (family.table.get, family.table.delete):
            with pytest.raises(saferocks.ColumnFamilyDroppedError):
                use(self.all_keys[0])
        with pytest.raises(saferocks.ColumnFamilyNotFoundError):
            self.db.get_column_family(name)

    # ---- point reads and writes

    def key(self, pick: int) -> Any:
        """Choose a key."""
        return self.all_keys[pick % len(self.all_keys)]

    def value(self, pick: int) -> Any:
        """Choose a value."""
        return self.all_values[pick % len(self.all_values)]

    def write(self, rows: Rows, operation: tuple[Any, ...]) -> None:
        """Write to the model."""
        if operation[0] == "put":
            rows[self.place(operation[1])] = operation[1:]
        elif operation[0] == "delete":
            rows.pop(self.place(operation[1]), None)
        else:
            begin, end = map(self.place, operation[1:])
            for place in [place for place in rows if begin <= place < end]:
                del rows[place]

    @initialize(seed=PICK, density=st.sampled_from([0.0, 0.5, 1.0]))
    def fill(self, seed: int, density: float) -> None:
        """Start with some rows in two column families, partly on disk."""
        choices = random.Random(seed)
        self.create_or_drop("f")
        for family in self.families.values():
            for key in self.all_keys:
                if choices.random() < density:
                    row = (key, choices.choice(self.all_values))
                    family.table.put(*row)
                    self.write(family.rows, ("put", *row))
            if choices.random() < 0.5:
                family.table.flush()

    @rule(family=PICK, key=PICK, value=PICK, by_method=st.booleans())
    def put(self, family: int, key: int, value: int, by_method: bool) -> None:
        """Write a row."""
        chosen, row = self.family(family), (self.key(key), self.value(value))
        if by_method:
            chosen.table.put(*row)
        else:
            chosen.table[row[0]] = row[1]
        self.write(chosen.rows, ("put", *row))

    @rule(family=PICK, key=PICK, by_method=st.booleans())
    def delete(self, family: int, key: int, by_method: bool) -> None:
        """Delete a row, which may be missing."""
        chosen, gone = self.family(family), self.key(key)
        if by_method:
            chosen.table.delete(gone)
        else:
            del chosen.table[gone]
        self.write(chosen.rows, ("delete", gone))

    @rule(family=PICK, begin=PICK, end=PICK)
    def delete_range(self, family: int, begin: int, end: int) -> None:
        """Delete a range of rows; a reversed one is refused."""
        chosen, ends = self.family(family), (self.key(begin), self.key(end))
        if self.place(ends[1]) < self.place(ends[0]):
            with pytest.raises(saferocks.InvalidArgumentError, match="end key comes before start key"):
                chosen.table.delete_range(*ends)
        else:
            chosen.table.delete_range(*ends)
            self.write(chosen.rows, ("delete_range", *ends))

    @rule(family=PICK, keys=st.lists(PICK, max_size=5))
    def read(self, family: int, keys: list[int]) -> None:
        """Read rows of the present, in every way there is."""
        chosen = self.family(family)
        self.check_reads(chosen.table, chosen.rows, [self.key(key) for key in keys])

    def check_reads(self, reader: Any, rows: Rows, keys: list[Any]) -> None:
        """Read rows, one by one and together."""
        default = object()
        expected = []
        for key in keys:
            _, value = rows.get(self.place(key), (None, default))
            expected.append(None if value is default else value)
            assert (key in reader) == (value is not default)
            found = reader.get(key, default)
            if value is default:
                assert found is default
                with pytest.raises(KeyError):
                    reader[key]
            else:
                assert exact(found) == exact(value) == exact(reader[key])
        if keys:
            assert exact(reader.get(keys)) == exact(expected)

    @rule(family=PICK, compact=st.booleans())
    def settle(self, family: int, compact: bool) -> None:
        """Flush or compact, which changes no row and no view."""
        table = self.family(family).table
        if compact:
            table.compact_range(None, None)
        else:
            table.flush()

    # ---- scans

    def bounds(self, lower: int | None, upper: int | None, prefix: int | None) -> dict[str, Any]:
        """Choose bounds; None leaves an end open."""
        chosen: dict[str, Any] = {}
        if lower is not None:
            chosen["lower_bound"] = self.key(lower)
        if upper is not None:
            chosen["upper_bound"] = self.key(upper)
        if prefix is not None:
            chosen["prefix"] = self.prefixes[prefix % len(self.prefixes)]
        return chosen

    def within(self, rows: Rows, bounds: dict[str, Any]) -> list[tuple[Any, Any, Any]]:
        """Return the rows within bounds, in order."""
        found = ordered(rows)
        if "lower_bound" in bounds:
            found = [row for row in found if row[0] >= self.place(bounds["lower_bound"])]
        if "upper_bound" in bounds:
            found = [row for row in found if row[0] < self.place(bounds["upper_bound"])]
        if "prefix" in bounds:
            prefix = bounds["prefix"]
            found = [row for row in found if type(row[1]) is type(prefix) and row[1].startswith(prefix)]
        return found

    def source(self, family: int, snapshot: int) -> tuple[Any, Rows, Snapshot | None]:
        """Choose what to scan: a column family as it is, or as a snapshot shows it."""
        choices: list[tuple[Any, Rows, Snapshot | None]] = []
        for each in self.snapshots:
            if each.scans:
                for name, rows in each.rows.items():
                    view = each.handle if name == each.first else each.handle.get_column_family(name)
                    choices.append((view, rows, each))
        chosen = self.family(family)
        choices = [(chosen.table, chosen.rows, None)] * (len(choices) or 1) + choices
        return choices[snapshot % len(choices)]

    @rule(
        family=PICK, snapshot=PICK, method=scope(), backwards=st.booleans(), start=MAYBE,
        lower=MAYBE, upper=MAYBE, prefix=MAYBE,
        by_options=st.booleans(), by_for=st.booleans(),
    )  # fmt: skip
    def open_scan(
        self, family: int, snapshot: int, method: str, backwards: bool, start: int | None,
        lower: int | None, upper: int | None, prefix: int | None, by_options: bool, by_for: bool,
    ) -> None:  # fmt: skip
        """Open a scan; it must show the state of this moment for as long as it lives."""
        chosen, bounds = self.source(family, snapshot), self.bounds(lower, upper, prefix)
        self.scans.append(self.start_scan(chosen, bounds, method, backwards, start, by_options, by_for))

    def start_scan(
        self,
        chosen: tuple[Any, Rows, Snapshot | None],
        bounds: dict[str, Any],
        method: str,
        backwards: bool,
        start: int | None,
        by_options: bool,
        by_for: bool,
    ) -> Scan:
        """Open a scan and work out what it has to give."""
        source, rows, owner = chosen
        bounds = dict(bounds)
        expected = self.within(rows, bounds)
        if backwards:
            expected.reverse()
        from_key = None if start is None else self.key(start)
        if from_key is not None:
            limit = self.place(from_key)
            expected = [row for row in expected if (row[0] <= limit if backwards else row[0] >= limit)]
        read_opt = None
        if by_options:
            read_opt = saferocks.ReadOptions()
            read_opt.set_iterate_lower_bound(bounds.pop("lower_bound", None))
            read_opt.set_iterate_upper_bound(bounds.pop("upper_bound", None))
        stack = ExitStack()
        opener = getattr(source, method)
        handle = stack.enter_context(opener(backwards, from_key, read_opt, **bounds))
        part = {"items": slice(1, 3), "keys": 1, "values": 2}[method]
        left = [row[part] for row in expected]
        return Scan(handle, iter(handle) if by_for else handle, stack, left, owner)

    @rule(
        family=PICK, snapshot=PICK, lower=MAYBE, upper=MAYBE, prefix=MAYBE, start=MAYBE,
        by_options=st.booleans(), by_for=st.booleans(), fresh=st.booleans(),
    )  # fmt: skip
    def scan_through(
        self, family: int, snapshot: int, lower: int | None, upper: int | None, prefix: int | None,
        start: int | None, by_options: bool, by_for: bool, fresh: bool,
    ) -> None:  # fmt: skip
        """Read four scans of the same rows to their ends, taking a row of each in turn."""
        chosen, bounds = self.source(family, snapshot), self.bounds(lower, upper, prefix)
        if fresh:  # through a snapshot of this moment, which the scans share
            self.open_snapshot(family, set(), False)
            newest = self.snapshots[-1]
            chosen = newest.handle, newest.rows[newest.first], newest
        turns = [
            self.start_scan(chosen, bounds, method, backwards, start, by_options, by_for)
            for method, backwards in (("items", False), ("items", True), ("keys", False), ("values", True))
        ]
        with ExitStack() as stack:
            for scan in turns:
                stack.push(scan.stack)
                scan.rows = iter(scan.rows)
            while not all(scan.exhausted for scan in turns):
                for scan in turns:
                    self.take(scan)

    @rule(family=PICK, snapshot=PICK, backwards=st.booleans())
    def scan_prefixes(self, family: int, snapshot: int, backwards: bool) -> None:
        """Read the keys of each prefix, which lie between bounds of its own."""
        source, rows, _ = self.source(family, snapshot)
        for prefix in self.prefixes:
            expected = [row[1] for row in self.within(rows, {"prefix": prefix})]
            if backwards:
                expected.reverse()
            with source.keys(backwards, prefix=prefix) as keys:
                assert exact(list(keys)) == exact(expected)

    def take(self, scan: Scan) -> None:
        """Take one row from a scan, or its end."""
        if scan.left:
            assert exact(next(scan.rows)) == exact(scan.left.pop(0))
            return
        with pytest.raises(StopIteration):
            next(scan.rows)
        scan.exhausted = True

    @precondition(lambda self: self.scans)
    @rule(pick=PICK, count=st.sampled_from([1, 2, 5, 40]))
    def advance(self, pick: int, count: int) -> None:
        """Take rows from a scan, perhaps all of them."""
        scan = self.scans[pick % len(self.scans)]
        for _ in range(count):
            self.take(scan)

    @precondition(lambda self: self.scans)
    @rule(pick=PICK)
    def release_scan(self, pick: int) -> None:
        """Leave a scan; not one more row comes out."""
        scan = self.scans.pop(pick % len(self.scans))
        scan.stack.close()
        with pytest.raises(StopIteration if scan.exhausted else saferocks.HandleClosedError):
            next(scan.rows)

    # ---- cursors

    @rule(
        family=PICK, snapshot=PICK, lower=MAYBE, upper=MAYBE, prefix=MAYBE
    )  # fmt: skip
    def open_cursor(self, family: int, snapshot: int, lower: int | None, upper: int | None, prefix: int | None) -> None:
        """Open a cursor, which is on no row yet."""
        source, rows, owner = self.source(family, snapshot)
        bounds = self.bounds(lower, upper, prefix)
        stack = ExitStack()
        handle = stack.enter_context(source.iter(**bounds))
        self.cursors.append(Cursor(handle, stack, self.within(rows, bounds), owner))

    @precondition(lambda self: self.cursors)
    @rule(
        pick=PICK,
        moves=st.lists(
            st.tuples(
                st.sampled_from(["seek_to_first", "seek_to_last", "seek", "seek_for_prev", "next", "prev"]), PICK
            ),
            min_size=1,
            max_size=5,
        ),
    )
    def move(self, pick: int, moves: list[tuple[str, int]]) -> None:
        """Move a cursor about, and read where it is."""
        cursor = self.cursors[pick % len(self.cursors)]
        for method, key in moves:
            self.move_once(cursor, method, self.key(key))
            self.check_position(cursor)

    def move_once(self, cursor: Cursor, method: str, key: Any) -> None:
        """Move a cursor and its model."""
        step = getattr(cursor.handle, method)
        last = len(cursor.seen) - 1
        if method in ("next", "prev"):
            if cursor.at is None:
                with pytest.raises(saferocks.InvalidArgumentError, match="not on a row"):
                    step()
                return
            step()
            moved = cursor.at + (1 if method == "next" else -1)
        elif method.startswith("seek_to"):
            step()
            moved = 0 if method == "seek_to_first" else last
        else:
            step(key)
            limit = self.place(key)
            before = sum(row[0] < limit for row in cursor.seen)
            until = sum(row[0] <= limit for row in cursor.seen)
            moved = before if method == "seek" else until - 1
        cursor.at = moved if 0 <= moved <= last else None

    def check_position(self, cursor: Cursor) -> None:
        """Read the row that a cursor is on, if it is on one."""
        on_row = cursor.at is not None
        assert cursor.handle.valid() == on_row
        key, value = cursor.seen[cursor.at][1:] if cursor.at is not None else (None, None)
        assert exact(cursor.handle.key()) == exact(key)
        assert exact(cursor.handle.value()) == exact(value)
        cursor.handle.status()

    @precondition(lambda self: self.cursors)
    @rule(pick=PICK)
    def release_cursor(self, pick: int) -> None:
        """Leave a cursor."""
        cursor = self.cursors.pop(pick % len(self.cursors))
        cursor.stack.close()
        with pytest.raises(saferocks.HandleClosedError):
            cursor.handle.valid()

    # ---- snapshots

    @rule(first=PICK, others=st.sets(st.sampled_from((DEFAULT, *FAMILIES))), point_reads_only=st.booleans())
    def open_snapshot(self, first: int, others: set[str], point_reads_only: bool) -> None:
        """Open a snapshot of one or more column families."""
        name = sorted(self.families)[first % len(self.families)]
        covered = sorted(others & set(self.families))
        opener = self.families[name].table.snapshot
        stack = ExitStack()
        handle = stack.enter_context(opener(column_families=covered, point_reads_only=point_reads_only))
        rows = {each: dict(self.families[each].rows) for each in (name, *covered)}
        self.snapshots.append(Snapshot(handle, stack, rows, name, not point_reads_only))

    @precondition(lambda self: self.snapshots)
    @rule(pick=PICK, keys=st.lists(PICK, max_size=5))
    def read_snapshot(self, pick: int, keys: list[int]) -> None:
        """Read rows of a snapshot through its views; it scans only if it was opened to."""
        snapshot = self.snapshots[pick % len(self.snapshots)]
        for name, rows in snapshot.rows.items():
            view = snapshot.handle.get_column_family(name)
            self.check_reads(view, rows, [self.key(key) for key in keys])
            if snapshot.scans:
                with view.items() as items:
                    assert exact(list(items)) == exact([row[1:] for row in ordered(rows)])
            else:
                with pytest.raises(saferocks.NotSupportedError, match="point reads only"):
                    view.items()
        self.check_reads(snapshot.handle, snapshot.rows[snapshot.first], [self.key(key) for key in keys])
        for name in {DEFAULT, *FAMILIES} - set(snapshot.rows):
            with pytest.raises(saferocks.ColumnFamilyNotFoundError):
                snapshot.handle.get_column_family(name)

    @precondition(lambda self: self.snapshots)
    @rule(pick=PICK)
    def release_snapshot(self, pick: int) -> None:
        """Leave a snapshot; its scans and cursors go with it."""
        snapshot = self.snapshots.pop(pick % len(self.snapshots))
        snapshot.stack.close()
        with pytest.raises(saferocks.HandleClosedError):
            snapshot.handle.get(self.all_keys[0])
        for scan in [each for each in self.scans if each.snapshot is snapshot]:
            with pytest.raises(StopIteration if scan.exhausted else saferocks.HandleClosedError):
                next(scan.rows)
            scan.stack.close()
            self.scans.remove(scan)
        for cursor in [each for each in self.cursors if each.snapshot is snapshot]:
            with pytest.raises(saferocks.HandleClosedError):
                cursor.handle.valid()
            cursor.stack.close()
            self.cursors.remove(cursor)

    # ---- batches

    @rule(bulk=st.booleans(), flushes=st.booleans())
    def open_batch(self, bulk: bool, flushes: bool) -> None:
        """Open a batch, or a bulk writer that flushes each row or none."""
        stack = ExitStack()
        if bulk:
            handle = stack.enter_context(self.db.bulk_writer(flush_bytes=1 if flushes else 1 << 20))
        else:
            handle = stack.enter_context(self.db.write_batch())
        self.batches.append(Batch(handle, stack, [], [], flushes if bulk else None))

    @precondition(lambda self: self.batches)
    @rule(
        pick=PICK, family=st.none() | PICK, key=PICK, value=PICK,
        operation=st.sampled_from(["put", "put", "set", "delete", "del", "delete_range", "clear", "flush"]),
    )  # fmt: skip
    def add_to_batch(self, pick: int, family: int | None, key: int, value: int, operation: str) -> None:
        """Add to a batch; nothing is written before its time."""
        batch = self.batches[pick % len(self.batches)]
        named = family is not None and operation in ("put", "delete", "delete_range")
        chosen = self.family(family) if named and family is not None else self.families[DEFAULT]
        where = (chosen.in_batches,) if named else ()
        first, second, content = self.key(key), self.key(value), self.value(value)
        if operation == "put":
            added: tuple[Any, ...] = ("put", first, content)
            batch.handle.put(first, content, *where)
        elif operation == "set":
            added = ("put", first, content)
            batch.handle[first] = content
        elif operation == "delete":
            added = ("delete", first)
            batch.handle.delete(first, *where)
        elif operation == "del":
            added = ("delete", first)
            del batch.handle[first]
        elif operation == "delete_range":
            if self.place(second) < self.place(first):
                with pytest.raises(saferocks.InvalidArgumentError, match="end key comes before start key"):
                    batch.handle.delete_range(first, second, *where)
                return
            added = ("delete_range", first, second)
            batch.handle.delete_range(first, second, *where)
        else:
            self.clear_or_flush(batch, operation)
            return
        batch.pending.append((chosen, added))
        if named:
            batch.families.append(chosen)
        if batch.flushes:
            self.commit(batch)
        self.check_size(batch)

    def clear_or_flush(self, batch: Batch, operation: str) -> None:
        """Empty a batch without writing it, or a bulk writer by writing it."""
        if operation == "clear" and batch.flushes is None:
            batch.handle.clear()
            batch.pending.clear()
            batch.families.clear()
        elif operation == "flush" and batch.flushes is not None and not self.refers_to_dropped(batch):
            batch.handle.flush()
            self.commit(batch)
        self.check_size(batch)

    def check_size(self, batch: Batch) -> None:
        """Ask a batch how much it holds."""
        if batch.flushes is None:
            assert len(batch.handle) == batch.handle.len() == len(batch.pending)
            assert batch.handle.is_empty() == (not batch.pending)

    def refers_to_dropped(self, batch: Batch) -> bool:
        """Tell whether a batch names a column family that has been dropped since."""
        return any(family.dropped for family in batch.families)

    def commit(self, batch: Batch) -> None:
        """Write to the model what a batch holds."""
        for family, operation in batch.pending:
            self.write(family.rows, operation)
        batch.pending.clear()
        batch.families.clear()

    @precondition(lambda self: self.batches)
    @rule(pick=PICK, fails=st.booleans())
    def leave_batch(self, pick: int, fails: bool) -> None:
        """Leave a batch: all of it is written on a clean exit, nothing on an exception or a dropped column family."""
        batch = self.batches.pop(pick % len(self.batches))
        if fails:
            assert not batch.stack.__exit__(ValueError, ValueError("the body's own"), None)
        elif self.refers_to_dropped(batch):
            with pytest.raises(saferocks.ColumnFamilyDroppedError):
                batch.stack.close()
        else:
            batch.stack.close()
            self.commit(batch)
        with pytest.raises(saferocks.HandleClosedError):
            batch.handle.delete(self.all_keys[0])


class RawDatabase(Database):
    """A database of raw bytes."""

    raw = True
    place = staticmethod(raw_place)
    all_keys = RAW_KEYS
    all_values = RAW_VALUES
    prefixes = (b"a", b"a1", b"b", b"\xff", b"\xff\xff", b"nothing")


class TypedDatabase(Database):
    """A database of typed keys and values."""

    raw = False
    place = staticmethod(typed_place)
    all_keys = TYPED_KEYS
    all_values = TYPED_VALUES
    prefixes = (b"a", b"\xff", "a", "a1", "b", "nothing")


MACHINES = pytest.mark.parametrize("machine", [RawDatabase, TypedDatabase], ids=["raw", "typed"])
COMMON = settings(
    deadline=None,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    print_blob=True,
)
QUICK = settings(COMMON, max_examples=70, derandomize=True, phases=(Phase.generate, Phase.shrink))
SLOW = settings(COMMON, max_examples=250, stateful_step_count=80, phases=(Phase.generate, Phase.shrink))


@pytest.mark.about_leaks
@MACHINES
def test_the_database_is_its_model(machine: type[Database]) -> None:
    """Programs that hypothesis always draws alike read what the model says, and keep the counts equal."""
    run_state_machine_as_test(machine, settings=QUICK)


@pytest.mark.slow
@pytest.mark.about_leaks
@MACHINES
def test_the_database_is_its_model_in_many_programs(machine: type[Database]) -> None:
    """Longer programs, drawn anew in each run, read what the model says, and keep the counts equal."""
    run_state_machine_as_test(machine, settings=SLOW)
