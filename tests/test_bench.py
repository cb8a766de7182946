"""The benchmark: that each column does the work it is timed for, and that its verdicts can be red."""

from __future__ import annotations

import gc
import inspect
import itertools
import json
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from rich.console import Console

import saferocks
from saferocks import _groups, _registry, _settings
from stress import cli, disk
from stress.bench import earlier, handles, interpreter_lock, others, report, running, tables
from stress.bench.columns import DEPTH, OPERATIONS, SOUGHT, Bare, Column, Dictlike, Least, Safe, Scoped, drain
from stress.bench.interpreter_lock import Turns
from stress.bench.leased import EXPIRE, WARN, Leased
from stress.bench.least import LeastDatabase
from stress.bench.measure import Figure, Pace, Times, collector_paused, contest
from stress.bench.record import FORMAT, Call, Record, Row
from stress.bench.workloads import TABLES, WORKLOADS, Make, Stage, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "performance.md"
ROWS = 300
KEYS = [running.key_of(number) for number in range(ROWS)]
TINY = report.Sizes(ROWS, 200, 1, Pace(2, 1e-6))

NATIVE = ("bare", "least", "saferocks", "off", "stack", "raise", "leases")
COLUMNS = (*NATIVE, "plyvel", "lmdb", "rocksdb")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[running.Ground]:
    """All columns, on disk and with rows that no test changes."""
    with running.opened(str(tmp_path_factory.mktemp("ground")), TABLES, ROWS) as ground:
        yield ground


@pytest.fixture
def written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[running.Ground]:
    """One column, with rows for a test to change."""
    kinds = running.columns(TABLES)
    monkeypatch.setattr(running, "columns", lambda stage: {name: kinds[name]} if name in kinds else {})
    with running.opened(str(tmp_path), Stage("memory", on_disk=False), ROWS) as ground:
        yield ground


def column_of(ground: running.Ground, name: str, operation: str) -> Any:
    """Return a column that can do something; skip the test where it cannot, or its package is missing."""
    if name not in ground.columns:
        pytest.skip(f"{name} is not installed")
    if not hasattr(ground.columns[name], operation):
        pytest.skip(f"{name} has no {operation}")
    return ground.columns[name]


# --------------------------------------------------------------------------- the work of each column


@pytest.mark.parametrize("name", COLUMNS)
def test_reads_read_each_key(name: str, ground: running.Ground) -> None:
    """A point read gives the row's value, alone and as the last of many, and None for a missing key."""
    column = column_of(ground, name, "reads")
    assert [column.reads([key]) for key in KEYS] == [column.value] * ROWS
    assert (column.reads(KEYS), column.reads([*KEYS, b"none"])) == (column.value, None)
    assert column.reads(ground.make(Make.ABSENT, 50)) is None


@pytest.mark.parametrize("name", NATIVE)
def test_tests_look_for_each_key(name: str, ground: running.Ground) -> None:
    """`in` says of each key whether it is there."""
    column = column_of(ground, name, "tests")
    assert [column.tests([key]) for key in (*KEYS, b"none")] == [True] * ROWS + [False]


@pytest.mark.parametrize("name", COLUMNS)
def test_multi_reads_read_each_key_of_each_chunk(name: str, ground: running.Ground) -> None:
    """A multi-get gives a value for each key, in their order."""
    column = column_of(ground, name, "many")
    for chunk in (KEYS[:100], [*KEYS[:5], b"none", KEYS[7]]):
        assert column.many([KEYS, chunk]) == [column.value if key in KEYS else None for key in chunk]


@pytest.mark.parametrize("name", COLUMNS)
def test_scans_read_every_row(name: str, ground: running.Ground) -> None:
    """A scan gives all rows in order, and one backwards in the other; what is timed reads to the end."""
    column = column_of(ground, name, "scan")
    rows = [(key, column.value) for key in KEYS]
    assert (column.scan(list), column.scan_back(list)) == (rows, rows[::-1])
    assert (column.scan(drain), column.scan_back(drain)) == (rows[-1], rows[0])


@pytest.mark.parametrize("operation", ["seeks", "cursors"])
@pytest.mark.parametrize("name", COLUMNS)
def test_seeks_read_ten_rows_from_each_key_on(name: str, operation: str, ground: running.Ground) -> None:
    """A seek comes to the key, and ten rows are read from there, or as many as there are."""
    column = column_of(ground, name, operation)
    last = [getattr(column, operation)([key]) for key in KEYS]
    assert last == [(KEYS[min(number + SOUGHT, ROWS) - 1], column.value) for number in range(ROWS)]


@pytest.mark.parametrize("name", COLUMNS)
def test_writes_batches_and_deletes_change_each_row(name: str, written: running.Ground) -> None:
    """What is written is there afterwards, what is deleted is not, and nothing else has changed."""
    column = column_of(written, name, "writes")
    column.value = b"new"
    column.writes(KEYS[:10])
    column.batches([KEYS[10:20], [b"x", b"y"]])
    column.deletes([KEYS[30], b"x"])
    expected = dict.fromkeys(KEYS, running.value_of(100)) | dict.fromkeys([*KEYS[:20], b"y"], b"new")
    del expected[KEYS[30]]
    assert dict(column.scan(list)) == expected


def native_calls(action: Callable[[], object]) -> Counter[str]:
    """Count the calls of native methods within an action, by name."""
    counts: Counter[str] = Counter()

    def count(_frame: Any, event: str, what: Any) -> None:
        if event == "c_call" and type(getattr(what, "__self__", None)).__name__ == "Rdict":
            counts[what.__name__] += 1

    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(None)
    return counts


@pytest.mark.parametrize(
    ("operation", "call"), [("iterators", "iter"), ("snapshots", "snapshot"), ("states", "snapshot")]
)
@pytest.mark.parametrize("name", NATIVE)
def test_handles_are_opened_each_time(name: str, operation: str, call: str, ground: running.Ground) -> None:
    """What opens and releases handles calls rocksdict once for each, and leaves none open."""
    column = column_of(ground, name, operation)
    before = len(saferocks.testing.open_handles())
    assert native_calls(lambda: getattr(column, operation)([None] * 7))[call] == 7
    assert len(saferocks.testing.open_handles()) == before


@pytest.mark.parametrize("name", ["plyvel", "lmdb", "rocksdb"])
def test_other_stores_open_handles_as_well(name: str, ground: running.Ground) -> None:
    """The other stores open iterators and snapshots without an error, and can be read afterwards."""
    column = column_of(ground, name, "iterators")
    column.iterators([None] * 7)
    column.snapshots([None] * 7)
    assert column.reads(KEYS) == column.value


def test_the_deep_workload_has_eight_frames_more(ground: running.Ground) -> None:
    """The handles of the workload `trace` are opened below eight frames of the benchmark's own."""
    column = column_of(ground, "stack", "deep")
    depths: list[int] = []
    column.snapshots = lambda times: depths.append(len(inspect.stack(0)))
    try:
        column.snapshots([])
        column.deep([])
    finally:
        del column.snapshots
    assert depths[1] - depths[0] == DEPTH + 1


def test_the_variants_are_what_they_are_called(ground: running.Ground) -> None:
    """Each variant's handles have the trace, policy and lease that its name says, and the others' have none."""
    found = {}

    def look(_items: Any) -> None:
        (group,) = [each for each in _groups.groups(_registry.snapshot()) if each.kind == "iterator"]
        (handle,) = [each for each in saferocks.testing.open_handles() if each.kind == "iterator"]
        frames = min(len(group.stack), 2) if ":" in handle.opened_at else 0
        found[name] = (frames, column.db._record.owner.policy, handle.expire_after is not None)

    for name in NATIVE[2:]:
        column = column_of(ground, name, "scan")
        column.scan(look)
    assert found == {
        "saferocks": (1, "warn", False),
        "off": (0, "warn", False),
        "stack": (2, "warn", False),
        "raise": (1, "raise", False),
        "leases": (1, "warn", True),
    }


class Spy:
    """A database that remembers what its openers were given.

    Attributes:
        given: The keyword arguments of each opening.
    """

    def __init__(self, database: Any) -> None:
        self._database = database
        self.given: list[dict[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        def opener(*arguments: Any, **keywords: Any) -> Any:
            self.given.append(keywords)
            return getattr(self._database, name)(*arguments, **keywords)

        return opener


def test_each_handle_of_the_leased_column_has_a_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the column `leases` opens is given both durations, and it makes no other opener look for some."""
    monkeypatch.setattr(_settings, "has_lease_defaults", False)
    column: Any = Leased(str(tmp_path / "db"), b"v")
    try:
        column.db = spy = Spy(column.db)
        column.batches([KEYS])
        for operation in ("seeks", "cursors", "iterators", "snapshots", "states"):
            getattr(column, operation)(KEYS[:3])
        assert (len(column.scan(list)), len(column.scan_back(list))) == (ROWS, ROWS)
    finally:
        column.close()
    assert [(each["warn_after"], each["expire_after"]) for each in spy.given] == [(WARN, EXPIRE)] * (1 + 5 * 3 + 2)
    assert not _settings.has_lease_defaults


def test_each_column_has_code_of_its_own() -> None:
    """No two kinds of store share a loop, which Python would adapt to the types of both."""
    kinds: list[type[Column]] = [Bare, Least, Safe, *others.installed().values()]
    codes = [getattr(kind, name).__code__ for kind in kinds for name in OPERATIONS if hasattr(kind, name)]
    aliases = sum(kind.states is kind.snapshots for kind in (Bare,))
    assert len(set(map(id, codes))) == len(codes) - aliases
    assert Safe.reads.__code__ is not Scoped.reads.__code__ is not Dictlike.reads.__code__


def test_the_least_handles_release_on_exit(ground: running.Ground) -> None:
    """The least handle holds its native object in its block, and not after it."""
    database = LeastDatabase(ground.columns["least"].native())  # type: ignore[attr-defined]
    for scope in (database.items(), database.iter(), database.snapshot(), database.write_batch()):
        with scope as handle:
            assert handle._native is not None
        assert handle._native is None


# --------------------------------------------------------------------------- the rounds


class Clocked:
    """Contestants on a clock of their own, which says how long each operation takes."""

    def __init__(self, costs: dict[str, float]) -> None:
        self.time = 0.0
        self.begun: list[str] = []
        self.collecting: set[tuple[bool, bool]] = set()
        self.actions = {name: self._action(name, cost) for name, cost in costs.items()}

    def _action(self, name: str, cost: float) -> Any:
        def act(ready: Any) -> None:
            self.begun.append(name)
            self.collecting.add((gc.isenabled(), gc.get_freeze_count() > 0))
            self.time += cost * len(ready)

        return act


def test_a_contest_takes_turns_and_tells_the_medians() -> None:
    """Rounds alternate their order, the first does not count, and costs and ratios are those of the clock."""
    clocked = Clocked({"bare": 2**-20, "saferocks": 1.5 * 2**-20})
    times = contest(clocked.actions, lambda count: [None] * count, Pace(8, 0.02), clock=lambda: clocked.time)
    assert [len(each) for each in times.seconds.values()] == [8, 8]
    assert min(times.seconds["bare"]) >= 0.02
    assert (times.cost("bare"), times.cost("saferocks")) == (1e9 / 2**20, 1.5e9 / 2**20)
    assert times.ratio("saferocks", "bare").median == 1.5
    assert round(times.difference("saferocks", "bare").median, 6) == round(0.5e6 / 2**20, 6)
    turns = clocked.begun[-18:]
    assert turns == ["saferocks", "bare", "bare", "saferocks"] * 4 + ["saferocks", "bare"]
    assert clocked.collecting == {(True, False), (False, True)}


def test_the_fastest_contestant_decides_how_long_a_round_is() -> None:
    """A round has as many operations as keep the fastest busy for its length, though all others take longer."""
    clocked = Clocked({"bare": 2**-18, "least": 2**-20})
    times = contest(clocked.actions, lambda count: [None] * count, Pace(3, 0.02), clock=lambda: clocked.time)
    assert 0.02 <= min(times.seconds["least"]) < 0.05


def test_a_contestant_that_does_nothing_holds_nobody_up() -> None:
    """What takes no time at all does not make the rounds of the others longer and longer."""
    clocked = Clocked({"bare": 1e-5, "least": 0.0})
    times = contest(clocked.actions, lambda count: [None] * count, Pace(3, 0.02), clock=lambda: clocked.time)
    assert 0.02 <= min(times.seconds["bare"]) < 0.5


def test_ratios_are_taken_within_a_round() -> None:
    """A machine that slows down in the midst of a contest changes no ratio."""
    times = Times({"bare": [1.0, 1.0, 9.0, 9.0], "saferocks": [1.1, 1.1, 9.9, 9.9]}, 1)
    figure = times.ratio("saferocks", "bare")
    assert [round(each, 9) for each in (figure.low, figure.median, figure.high)] == [1.1] * 3


def test_a_figure_is_a_median_with_its_quartiles() -> None:
    """The quartiles lie around the median, and one value is all three."""
    assert Figure.of([5, 1, 4, 2, 3]) == Figure(3, 2, 4)
    assert Figure.of([7.0]) == Figure(7.0, 7.0, 7.0)


def test_the_collector_is_as_before_after_a_contest() -> None:
    """An error in a round leaves the cyclic collector on, and nothing frozen."""
    with pytest.raises(ZeroDivisionError), collector_paused():
        assert (gc.isenabled(), gc.get_freeze_count() > 0) == (False, True)
        raise ZeroDivisionError
    assert (gc.isenabled(), gc.get_freeze_count()) == (True, 0)


def test_what_is_made_ready_is_what_it_is_called(ground: running.Ground) -> None:
    """Keys that are to be there are, others are not, chunks are of 100 and batches of 1,000."""
    present, absent, fresh = (ground.make(what, 50) for what in (Make.PRESENT, Make.ABSENT, Make.FRESH))
    assert set(present) <= set(KEYS)
    assert not set(KEYS) & {*absent, *fresh}
    assert (len(present), len(absent), len(fresh)) == (50, 50, 50)
    following = ground.make(Make.NEXT, 50) + ground.make(Make.NEXT, 50)
    assert following == [running.key_of(ROWS + number) for number in range(100)]
    assert [len(chunk) for chunk in ground.make(Make.CHUNKS, 250)] == [100, 100, 50]
    assert [len(chunk) for chunk in ground.make(Make.BATCHES, 2000)] == [1000, 1000]
    assert len(ground.make(Make.PRESENT, 250_000)) == 250_000


def test_threads_share_the_work_and_lose_none(ground: running.Ground) -> None:
    """Each thread gets its part of the keys, and what reads everything runs in each."""
    keys = ground.make(Make.PRESENT, 101)
    parts = running._parts(keys, 8)
    assert (len(parts), sorted(itertools.chain(*parts))) == (8, sorted(keys))
    assert running._parts(drain, 3) == [drain] * 3
    workload = Workload("readseq", TABLES, "scan", Make.WHOLE, threads=2)
    assert running._times(workload, ground, Pace(1, 1e-6)).operations == 2 * ROWS


# --------------------------------------------------------------------------- everything


@pytest.fixture(scope="module")
def everything() -> list[Row | Call]:
    """All that is measured, in small."""
    return list(report.measure(TINY, report.names()))


def test_every_workload_is_measured(everything: list[Row | Call]) -> None:
    """Each name has its rows, each row a name of its own, and a cost that is positive for every column."""
    rows = [found for found in everything if isinstance(found, Row)]
    assert {row.workload for row in rows} | {"gil"} == set(report.names())
    assert len({row.name for row in rows}) == len(rows)
    assert all(cost > 0 for row in rows for cost in row.costs.values())
    assert all(row.low <= row.figure <= row.high for row in rows)
    (scan,) = [row for row in rows if row.name == "readseq, SST"]
    assert set(scan.costs) == set(NATIVE) | set(others.installed())
    assert {row.name for row in rows} >= {
        *("readseq, SST leases", "seekrandom, SST cursor", "readrandom, SST 8 threads", "readrandom, SST 4 KiB"),
        *("overwrite, 4 KiB", "in, memtable", "register, 200 open", "import, first use"),
    }


def test_every_budget_is_judged(everything: list[Row | Call]) -> None:
    """What has a budget is judged, with the budgets that were asked for."""
    budgets = {found.name: (found.budget, found.goal) for found in everything if isinstance(found, Row)}
    assert {name: budgets[name] for name in BUDGETS} == BUDGETS


BUDGETS: dict[str, tuple[float | None, float | None]] = {
    "fillseq, 100 B": (1.1, None),
    "deleterandom, 100 B": (1.1, None),
    "writebatch, 100 B": (1.1, None),
    "readrandom, SST": (1.1, 1.0),
    "in, memtable": (1.1, 1.0),
    "multireadrandom, SST": (1.1, 1.0),
    "readseq, SST": (1.15, 1.05),
    "readseq, SST leases": (1.15, 1.05),
    "seekrandom, SST items": (1.5, 1.25),
    "seekrandom, SST cursor": (1.5, 1.25),
    "newiterator, SST": (3.5, None),
    "snapshot, SST point reads": (1.2, 1.0),
    "trace, SST": (1.5, None),
    "memory, 200 open": (600, None),
    "close, 20 open": (10, None),
    "import": (1.5, None),
}


def test_scaling_is_measured_at_each_power_of_ten() -> None:
    """From a thousand handles on, each ten times as many, up to the most."""
    assert handles._levels(1_000_000) == [1000, 10_000, 100_000, 1_000_000]
    assert (handles._levels(200), handles._levels(5000)) == ([200], [1000])


def test_the_tables_fit_into_100_columns(everything: list[Row | Call]) -> None:
    """No cell is cut off in a terminal of 100 columns, and no line is longer."""
    record = record_of(*everything)
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 - closed with the console
    tables.show(console, record)
    console.file.close()
    text = console.export_text()
    assert "…" not in text
    assert all(row.name in text for row in record.figures)
    assert max(map(len, text.splitlines())) <= 100


def test_the_calls_that_let_other_threads_run() -> None:
    """Those that let go of the interpreter lock are those of which the page says so."""
    calls = [found for found in report.measure(TINY, ("gil",)) if isinstance(found, Call)]
    assert {call.name for call in calls if call.releases} == {"get of a list", "flush_wal", "flush", "compact_range"}


def test_turns_are_had_only_where_the_lock_is_let_go() -> None:
    """A sleep gives the other thread its turns, and a loop of Python none, however long it takes."""
    with Turns() as turns:
        held = interpreter_lock._tried(turns, "loop", lambda: sum(range(1_000_000)), 3)
        released = interpreter_lock._tried(turns, "sleep", lambda: time.sleep(0.02), 3)
    assert (held.releases, held.turns, released.releases) == (False, 0, True)


def test_get_many_lets_other_threads_run_on_databases_and_not_on_snapshots(db: saferocks.Rdict) -> None:
    """`get_many` of a database or column family lets go of the interpreter lock, that of a snapshot does not."""
    keys = [b"%d" % number for number in range(100)]
    for key in keys:
        db[key] = b"v"
    with db.snapshot() as snap, Turns() as turns, db.get_column_family("default") as family:
        found = [
            interpreter_lock._tried(turns, "", lambda reader=reader: reader.get_many(keys), 200).releases  # type: ignore[misc]
            for reader in (db, family, snap)
        ]
    assert found == [True, True, False]


# --------------------------------------------------------------------------- the command


def record_of(*found: Row | Call, **fields: Any) -> Record:
    """Return a record with these figures and calls."""
    rows = [each for each in found if isinstance(each, Row)]
    calls = [each for each in found if isinstance(each, Call)]
    machine = {"cpu": "some", "cores": 2}
    given = {"format": FORMAT, "started": "2030-01-02T03:04:05+00:00", "command": "python -m stress bench"}
    rest = {"interrupted": False, "rounds": 7, "rows": ROWS, "versions": {"saferocks": "1"}, "machine": machine}
    return Record(**{**given, **rest, "figures": rows, "calls": calls, **fields})


def row_of(figure: float, name: str = "in", **fields: Any) -> Row:
    """Return a row with narrow quartiles and a budget of 1.1."""
    return Row(name, "SST", figure, "x", figure - 0.01, figure + 0.01, 1.1, **fields)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run the command on what it is to have measured; returns its exit status and what it has printed to stdout."""

    def run(found: list[Row | Call], *words: str) -> tuple[int, str]:
        monkeypatch.setattr(report, "measure", lambda sizes, asked: iter(found))
        monkeypatch.setattr(disk, "check_places", lambda needs: None)
        status = cli.main(["bench", *words])
        return status, capfd.readouterr().out

    return run


GOOD, BAD = row_of(1.05), row_of(1.5, "readrandom")


@pytest.mark.parametrize(
    ("rows", "status", "said"),
    [
        ([GOOD], 0, "GREEN: 1 figures are judged"),
        ([GOOD, BAD], 1, "RED: over budget: readrandom, SST"),
        ([Row("report", "10 open", 5.0, "ms", 5.0, 5.0)], 0, "GREEN: 0 figures are judged"),
    ],
)
def test_a_figure_over_its_budget_is_red(rows: list[Row | Call], status: int, said: str, bench: Any) -> None:
    """The exit status tells, and the table says it in words: colours are gone in a pipe."""
    found, text = bench(rows)
    assert (found, said in text) == (status, True)
    assert [("over" in line, "1.5" in line) for line in text.splitlines() if line.startswith(" readrandom")] == [
        (True, True) for row in rows if row is BAD
    ]


class SlowGets(Safe):
    """saferocks that reads every key three times."""

    def reads(self, keys: list[bytes]) -> Any:
        """Read each key, and again."""
        return super().reads([key for key in keys for _ in range(3)])


class Idle(Safe):
    """What reads nothing at all."""

    def reads(self, keys: list[bytes]) -> Any:
        """Do nothing."""


@pytest.mark.parametrize(("column", "status"), [(SlowGets, 1), (Idle, 0)])
def test_a_slow_wrapper_is_seen(column: type[Column], status: int, monkeypatch: Any, capfd: Any) -> None:
    """A planted column that reads thrice is over its budget in a real contest; one that does nothing is not."""
    monkeypatch.setattr(running, "columns", lambda stage: {"bare": Bare, "saferocks": column})
    monkeypatch.setattr(report, "WORKLOADS", [each for each in WORKLOADS if each.stage is TABLES and each.threads == 1])
    monkeypatch.setattr(report, "_QUICK", report.Sizes(ROWS, 200, 1, Pace(7, 1e-3)))
    assert cli.main(["bench", "--quick", "--only", "readrandom", "--json", "-"]) == status
    found = {row["detail"]: row for row in json.loads(capfd.readouterr().out)["figures"]}
    assert (found["SST"]["figure"] > 1.5) == bool(status)


def test_the_json_comes_back_as_it_was(bench: Any, tmp_path: Path) -> None:
    """What is written as JSON is read back whole, and repeats its own command."""
    file = tmp_path / "bench.json"
    rows = [row_of(1.05, costs={"bare": 300.0, "saferocks": 315.0}, ratios={"bare": 1.0, "saferocks": 1.05}), BAD]
    calls = [Call("get", False, 0, 9)]
    words = ["--quick", "--only", "in", "--only", "readrandom", "--rounds", "8"]
    assert bench([*rows, *calls], *words, "--json", str(file))[0] == 1
    found = earlier.load(str(file))
    assert (found.figures, found.calls, found.rounds, found.rows, found.interrupted) == (rows, calls, 8, 20_000, False)
    assert found.command == f"python -m stress bench {' '.join(words)}"
    assert found.machine["cores"] >= 1
    assert found.versions["rocksdict"].startswith("0.3.")
    assert list(tmp_path.iterdir()) == [file]
    assert json.loads(bench([*rows, *calls], "--json", "-")[1])["figures"] == msgspec.to_builtins(rows)


def saved(tmp_path: Path, record: Record) -> str:
    """Write a record as an earlier benchmark would have."""
    file = tmp_path / "old.json"
    file.write_bytes(msgspec.json.encode(record))
    return str(file)


@pytest.mark.parametrize(
    ("before", "now", "status"),
    [
        (1.05, 1.05, 0),
        (1.05, 0.5, 0),
        (0.9, 0.98, 0),  # less than a tenth
        (0.9, 1.05, 1),
        (1.5, 1.5, 1),  # no worse, and over its budget
    ],
)
def test_a_figure_that_has_grown_is_worse(before: float, now: float, status: int, bench: Any, tmp_path: Path) -> None:
    """More than a tenth above an earlier figure, and not within its quartiles, is exit 1, and named."""
    old = saved(tmp_path, record_of(row_of(before)))
    found, text = bench([row_of(now)], "--compare", old)
    assert (found, "worse than before: in, SST" in text) == (status, (before, now) == (0.9, 1.05))


def test_quartiles_that_touch_tell_nothing(bench: Any, tmp_path: Path) -> None:
    """A figure that has grown within what its rounds differ is not worse."""
    wide = Row("in", "SST", 0.5, "x", 0.4, 0.9, 1.1)
    assert bench([row_of(0.9)], "--compare", saved(tmp_path, record_of(wide)))[0] == 0


def test_a_comparison_says_what_else_differs(bench: Any, tmp_path: Path) -> None:
    """Another machine, other versions and other sizes are told; nothing in common is exit 3."""
    old = saved(tmp_path, record_of(row_of(1.05, "out"), machine={"cpu": "another", "cores": 99}))
    status, text = bench([row_of(1.05)], "--compare", old)
    assert (status, "no figure in common" in text) == (3, True)
    assert "cores was 99 and is" in text
    assert "saferocks was 1 and is" in text


MARKED = f"# A page\n\n{tables.MARKS[0]}\nold\n{tables.MARKS[1]}\n\nThe rest.\n"


def test_the_figures_on_a_page_are_renewed(bench: Any, tmp_path: Path) -> None:
    """What is between the marks of a page is replaced, again and again, and nothing around it."""
    page = tmp_path / "page.md"
    page.write_text(MARKED)
    for row in (BAD, GOOD):
        bench([row, Call("get", False, 0, 9)], "--markdown", str(page))
        text = page.read_text()
        assert text.startswith(f"# A page\n\n{tables.MARKS[0]}\n\n`python -m stress bench`, ")
        assert text.endswith(f"\n{tables.MARKS[1]}\n\nThe rest.\n")
        assert f"| {row.name} |" in text
        assert "old" not in text
    assert "| get | no | 0 | 9 |" in text
    assert "| in, SST |" in bench([GOOD], "--markdown")[1]


def test_an_interrupt_keeps_what_was_measured(bench: Any, tmp_path: Path) -> None:
    """Ctrl-C ends it with 3, or with 1 if a figure is over its budget, and the JSON has what there is."""

    def interrupted(*rows: Row) -> Iterator[Row]:
        yield from rows
        raise KeyboardInterrupt

    file = tmp_path / "bench.json"
    for rows, status in (((GOOD,), 3), ((GOOD, BAD), 1)):
        assert bench(interrupted(*rows), "--json", str(file))[0] == status
        found = earlier.load(str(file))
        assert (found.interrupted, found.figures) == (True, list(rows))


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["--only", "nonsense"], "there is no workload 'nonsense'; there are fillseq, fillrandom, overwrite, "),
        (["--only", ""], "there is no workload ''; there are "),
        (["--rounds", "0"], "'0' is no number of rounds; give a whole number, 1 or more"),
        (["--rounds=-3"], "'-3' is no number of rounds; give a whole number, 1 or more"),
        (["--rounds", "many"], "'many' is no number of rounds"),
        (["--rounds", "1.5"], "'1.5' is no number of rounds"),
        (["--compare", "nowhere.json"], "there is no file 'nowhere.json'; give a file that"),
        (["--compare", "."], "'.' is a directory; give a file that"),
        (["--compare", "damaged"], "'damaged' is no benchmark ("),
        (["--compare", "binary"], "'binary' is no benchmark ("),
        (["--compare", "run"], "'run' is no benchmark ("),
        (["--compare", "infinite"], "'infinite' is no benchmark ("),
        (["--compare", "later"], "'later' has format 99, and this version reads 1; run it again"),
        (["--compare", "nul\0"], "cannot read 'nul\\x00' ("),
        (["--json", "."], "cannot write '.'; give --json a file"),
        (["--json", "nowhere/bench.json"], "cannot write 'nowhere/bench.json'; give --json a file"),
        (["--markdown", "nowhere.md"], "cannot read 'nowhere.md' ("),
        (["--markdown", "plain"], "'plain' has no place for figures; give --markdown a page with <!-- figures: begin"),
        (["--markdown", "binary"], "cannot read 'binary' ("),
        (["--json", "-", "--markdown"], "both want stdout; give one of them a file"),
    ],
)
def test_bad_usage_is_refused_before_anything_is_measured(
    words: list[str], remedy: str, monkeypatch: Any, capsys: Any, tmp_path: Path
) -> None:
    """One line says what is wrong and what would be right, the status is 2, and nothing was begun or written."""
    monkeypatch.setattr(report, "measure", lambda sizes, asked: pytest.fail("it was begun"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged").write_text('{"format": 1, "fig')
    (tmp_path / "binary").write_bytes(b"\xff\xfe\0")
    (tmp_path / "plain").write_text("# A page\n")
    (tmp_path / "run").write_text('{"format": 1, "results": [], "command": ""}')
    (tmp_path / "later").write_bytes(msgspec.json.encode(record_of(GOOD, format=99)))
    text = msgspec.json.encode(record_of(GOOD)).decode()
    (tmp_path / "infinite").write_text(text.replace("1.05", "1e999"))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", *words])
    shown = capsys.readouterr()
    assert (ended.value.code, shown.out, remedy in shown.err) == (2, "", True), shown.err
    assert len(shown.err.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_too_little_room_is_bad_usage(monkeypatch: Any, capsys: Any) -> None:
    """A disk that the databases would not fit on is refused before anything is made there."""
    monkeypatch.setattr(report, "measure", lambda sizes, asked: pytest.fail("it was begun"))
    monkeypatch.setattr(report, "_QUICK", report.Sizes(disk=1 << 60))
    with pytest.raises(SystemExit):
        cli.main(["bench", "--quick"])
    assert "point TMPDIR at a disk with more room" in capsys.readouterr().err


def test_the_command_runs_as_one_types_it(tmp_path: Path) -> None:
    """`python -m stress bench` measures for real, shows its table in a pipe and leaves nothing behind."""
    command = [sys.executable, "-m", "stress", "bench", "--quick", "--rounds", "1", "--only", "trace"]
    environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, env=environment, check=False)
    assert done.returncode in (0, 1), done.stderr
    assert re.search(r"^ trace, SST +[\d,]+ +[\d,]+ +[+-]\d+\.\d\d us", done.stdout, re.MULTILINE), done.stdout
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------- the page


def test_the_page_has_every_workload_and_its_budget() -> None:
    """The table on the page has each name that `--only` takes, in order, with its budget and its goal."""
    lines = re.findall(
        r"^\| `(\w+)` \| [^|]+ \| ([\d.;]*) ?(?:[\d.]+ )?\| ([\d.]*) ?\|$", PAGE.read_text(), re.MULTILINE
    )
    assert tuple(name for name, *_ in lines) == report.names()
    shown = {name: (budget.rstrip(";"), goal) for name, budget, goal in lines}
    for each in WORKLOADS:
        if each.threads == 1 and each.note != "with scans":
            limits = (each.budget, each.goal)
            assert shown[each.name] == tuple("" if limit is None else f"{limit:g}" for limit in limits), each.name


def test_the_page_says_which_calls_let_others_run(everything: list[Row | Call]) -> None:
    """The page has a yes for exactly the calls that let go of the interpreter lock, and all that are tried."""
    text = PAGE.read_text()
    told = dict(re.findall(r"^\| (`.*) \| (yes|no) \|$", text[text.index("| call of rocksdict |") :], re.MULTILINE))
    found = {call.name: call.releases for call in everything if isinstance(call, Call)}
    for name, releases in found.items():
        answers = {answer for calls, answer in told.items() if _is_told(name, calls)}
        assert answers == {"yes" if releases else "no"}, name


def _is_told(name: str, calls: str) -> bool:
    """Tell whether a row of the page is about a call."""
    plain = re.sub(r" \(.*?\)", "", calls.replace("`", "")).replace("a cursor or a scan", "a cursor, next of a scan")
    return name in re.split(r", ", plain.replace("get of a list of keys", "get of a list"))


def test_the_page_has_a_place_for_its_figures() -> None:
    """The figures on the page can be renewed by the command that it gives."""
    assert tables.renewed(PAGE.read_text(), "") is not None
    assert "bench --markdown docs/performance.md" in PAGE.read_text()
