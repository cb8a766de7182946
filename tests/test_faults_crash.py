"""The fault `crash`: its verdict is seen to fail on databases that were prepared wrongly, and to pass on right ones."""

from __future__ import annotations

import json
from itertools import islice
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st

import saferocks
from stress import cli
from stress.faults import crash
from stress.faults.crash_check import Reckoned, apply, check, differences, matched, reckon
from stress.faults.crash_reads import read_differences
from stress.faults.crash_stream import PASSING, STEADY, Kind, Row, Step, Stream, number_of
from stress.faults.crash_writer import Settings, _Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SETTINGS = Settings(memtable=8 << 10, trigger=2, wal=0, atomic_flush=False, pipelined=False, recycled=0)
STEPS = 300
BATCH = Step(Kind.BATCH, (Row("left", b"a/0001", b"9001:x"), Row("right", b"a/0001", b"9002:x")))
BULK = Step(
    Kind.BULK,
    tuple(Row("left", b"b/%04d" % number, b"%d:y" % (9003 + number)) for number in range(6)),
    "left",
    False,
    40,
)


def steps(seed: int = 1, families: Sequence[str] = ("default",), number: int = 0) -> Iterator[Step]:
    """Return a writer's stream without its reopenings."""
    found = Stream(Random(seed), families, number).steps()
    return (step for step in found if step.kind is not Kind.REOPEN)


@pytest.fixture
def written(path: str) -> Reckoned:
    """A database that a writer has left, and what it must hold."""
    reckoned = Reckoned({"default": {}})
    with saferocks.open(path, options=SETTINGS.options()) as db:
        writer = _Writer(db, SETTINGS)
        for step in islice(steps(), STEPS):
            writer.carry_out(step)
            apply(reckoned.state, step)
        if PASSING in db.column_families:
            db.drop_column_family(PASSING)
            del reckoned.state[PASSING]
    return reckoned


def carry_out(path: str, *done: Step) -> None:
    """Change the database behind the oracle's back."""
    with saferocks.open(path) as db:
        writer = _Writer(db, SETTINGS)
        for step in done:
            writer.carry_out(step)


def found_wrong(path: str, reckoned: Reckoned) -> str:
    return "; ".join(check(path, reckoned, Random(1), read_only=False).wrong)


@pytest.mark.parametrize("read_only", [False, True])
def test_what_was_acknowledged_and_is_there_is_right(path: str, written: Reckoned, read_only: bool) -> None:
    """A database that holds all that was acknowledged, and nothing else, is found right, and its rows are compared."""
    found = check(path, written, Random(1), read_only=read_only)
    assert (found.wrong, found.recovered) == ((), 0)
    assert found.rows == sum(map(len, written.state.values())) > 100


@pytest.mark.parametrize("pending", [BATCH, BULK], ids=["batch", "bulk"])
def test_what_was_pending_may_be_there_up_to_any_of_its_batches(path: str, written: Reckoned, pending: Step) -> None:
    """A step that was begun is there up to the end of a batch, or not at all; how far is told."""
    written.pending = pending
    for units in range(len(pending.units()) + 1):
        if units:
            rows = pending.units()[units - 1]
            carry_out(path, Step(Kind.BATCH, rows))
        found = check(path, written, Random(1), read_only=False)
        assert (found.wrong, found.recovered) == ((), units)


@pytest.mark.parametrize("kind", [Kind.CREATE, Kind.DROP])
def test_a_pending_change_of_the_families_may_be_there(path: str, written: Reckoned, kind: Kind) -> None:
    """A column family whose making or dropping was begun may be there or not."""
    family = PASSING if kind is Kind.CREATE else "left"
    written.pending = Step(kind, family=family)
    assert check(path, written, Random(1), read_only=False).recovered == 0
    carry_out(path, written.pending)
    found = check(path, written, Random(1), read_only=False)
    assert (found.wrong, found.recovered) == ((), 1)


def some_row(reckoned: Reckoned) -> tuple[bytes, bytes]:
    """Return a row of a column family that is not its last written one."""
    return sorted(reckoned.state["left"].items(), key=lambda row: number_of(row[1]))[3]


def lost(path: str, reckoned: Reckoned) -> None:
    key, _ = some_row(reckoned)
    carry_out(path, Step(Kind.DELETE, (Row("left", key, None),)))


def stale(path: str, reckoned: Reckoned) -> None:
    key, _ = some_row(reckoned)
    carry_out(path, Step(Kind.PUT, (Row("left", key, b"0:older"),)))


def never_issued(path: str, reckoned: Reckoned) -> None:
    key, _ = some_row(reckoned)
    carry_out(path, Step(Kind.PUT, (Row("left", key, b"99999:foreign"),)))


def damaged_value(path: str, reckoned: Reckoned) -> None:
    key, value = some_row(reckoned)
    carry_out(path, Step(Kind.PUT, (Row("left", key, value + b"!"),)))


def deletion_undone(path: str, reckoned: Reckoned) -> None:
    carry_out(path, Step(Kind.PUT, (Row("left", b"c/9999", b"5:back"),)))


def half_a_batch(path: str, reckoned: Reckoned) -> None:
    reckoned.pending = BATCH
    carry_out(path, Step(Kind.PUT, BATCH.rows[:1]))


def half_a_bulk_batch(path: str, reckoned: Reckoned) -> None:
    reckoned.pending = BULK
    carry_out(path, Step(Kind.BATCH, (*BULK.units()[0], *BULK.units()[1][:1])))


def later_batch_alone(path: str, reckoned: Reckoned) -> None:
    reckoned.pending = BULK
    carry_out(path, Step(Kind.BATCH, BULK.units()[1]))


def pending_but_not_acknowledged(path: str, reckoned: Reckoned) -> None:
    reckoned.pending = BATCH
    key, _ = some_row(reckoned)
    carry_out(path, BATCH, Step(Kind.DELETE, (Row("left", key, None),)))


def family_lost(path: str, reckoned: Reckoned) -> None:
    carry_out(path, Step(Kind.DROP, family="right"))


def family_back(path: str, reckoned: Reckoned) -> None:
    carry_out(path, Step(Kind.CREATE, family=PASSING))


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (lost, "was lost: write"),
        (lost, ", a hole: write "),
        (stale, "is stale: write 0, though write "),
        (never_issued, "which was never issued for it"),
        (damaged_value, "which was never issued for it"),
        (deletion_undone, "is there from write 5, though it was deleted or never written"),
        (half_a_batch, "a pending batch of 2 writes is there by half"),
        (half_a_bulk_batch, "a pending bulk of 6 writes is there by half"),
        (later_batch_alone, "of a pending bulk, a later batch is there and an earlier one is not"),
        (pending_but_not_acknowledged, "was lost: write"),
        (family_lost, "column family 'right' was lost"),
        (family_back, "column family 'passing' is back, though its drop was acknowledged"),
    ],
)
def test_a_database_that_was_prepared_wrongly_is_found(
    path: str, written: Reckoned, tamper: Callable[[str, Reckoned], None], said: str
) -> None:
    """A lost row, a hole, a stale or foreign value, half a batch, a lost column family: each is told as such."""
    assert found_wrong(path, written) == ""
    tamper(path, written)
    assert said in found_wrong(path, written)


def test_many_differences_are_summed_up(path: str, written: Reckoned) -> None:
    """Of a database that lost a lot, some are told and the rest is counted."""
    carry_out(path, *(Step(Kind.DELETE, (Row("left", key, None),)) for key in list(written.state["left"])))
    told = check(path, written, Random(1), read_only=False).wrong
    assert len(told) == 6
    assert told[-1] == f"and {len(written.state['left']) - 5} more like these"


def test_every_way_of_reading_is_compared(path: str, written: Reckoned) -> None:
    """A row that is missing, or too many, is seen by each scan and each point read, live and in a snapshot."""
    with saferocks.open(path) as db:
        assert list(read_differences(db, written.state, Random(1))) == []
        for prefix in (b"a/", b"b/", b"c/"):
            written.state["left"][prefix + b"0064x"] = b"1:missing"
        told = [line for seed in range(20) for line in read_differences(db, written.state, Random(seed))]
    ways = ("items", "items backwards", "keys", "values", "bounded items", "bounded items backwards")
    more = ("items of a prefix", "items of a prefix backwards", "items from a key")
    for way in ways + more:
        for place in ("'left'", "'left' in a snapshot"):
            assert any(line.startswith(f"{way} of {place}:") for line in told), (way, place)
    for text in ("'left': a point read", "'left' in a snapshot: a point read", "a multi-get of 'left'"):
        assert any(text in line for line in told), text


@pytest.mark.parametrize("family", STEADY)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_a_bulk_writer_writes_where_its_rows_are_cut(tmp_path_factory, family: str, seed: int) -> None:
    """The batches that are reckoned for a bulk writer are those that it writes, to the row."""
    random = Random(seed)
    rows = tuple(
        Row(family, b"%d" % number, None if random.random() < 0.3 else random.randbytes(random.randrange(300)))
        for number in range(random.randint(1, 60))
    )
    step = Step(Kind.BULK, rows, family, False, random.randint(1, 2000))
    cuts: list[int] = []
    with saferocks.open(str(tmp_path_factory.mktemp("bulk") / "db")) as db:
        for name in STEADY[1:]:
            db.create_column_family(name)
        before = db.latest_sequence_number()
        with db.get_column_family(family).bulk_writer(flush_bytes=step.flush_bytes) as bulk:
            for _, key, value in rows:
                if value is None:
                    bulk.delete(key)
                else:
                    bulk[key] = value
                cuts.append(db.latest_sequence_number() - before)
        cuts.append(db.latest_sequence_number() - before)
    ends = [sum(map(len, step.units()[: number + 1])) for number in range(len(step.units()))]
    assert sorted(set(cuts) - {0}) == ends


@given(seed=st.integers(0, 2**32), committed=st.integers(0, 3000))
@settings(max_examples=25, deadline=None)
def test_a_stream_follows_from_its_seed(seed: int, committed: int) -> None:
    """Two streams of a seed are the same, their writes are numbered without a gap, and families come before rows."""
    first, second = (list(islice(Stream(Random(seed), ("default",), 7).steps(), 200)) for _ in range(2))
    assert first == second
    families, number = {"default"}, 7
    for step in first:
        if step.kind is Kind.CREATE:
            assert step.family not in families
            families.add(step.family)
        elif step.kind is Kind.DROP:
            families.remove(step.family)
        for offset, row in enumerate(step.rows):
            assert row.family in families
            assert row.value is None or number_of(row.value) == number + offset
        number += step.writes
    assert {row for step in first for unit in step.units() for row in unit} == {r for s in first for r in s.rows}


def test_what_is_reckoned_ends_where_the_oracle_says() -> None:
    """The acknowledged writes are in the state, the one that was begun is pending; a torn count is no state at all."""
    whole = list(islice(steps(), 40))
    committed = sum(step.writes for step in whole)
    following = next(step for step in islice(steps(), 40, None) if step.writes)
    reckoned = reckon({"default": {}}, steps(), committed, committed + following.writes)
    assert reckoned.pending == following
    expected = Reckoned({"default": {}})
    for step in whole:
        apply(expected.state, step)
    assert reckoned.state == expected.state
    assert reckon({"default": {}}, steps(), committed, committed).pending is None
    with pytest.raises(AssertionError, match="where the oracle has"):
        reckon({"default": {}}, steps(), committed, committed + following.writes + 1)


def test_a_state_that_may_be_is_told_from_all_others() -> None:
    """Of a pending bulk writer's states the ends of its batches match, and the differences of others are told."""
    reckoned = Reckoned({"default": {}, "left": {b"k": b"1:v"}}, BULK)
    assert len(BULK.units()) > 2
    state: dict[str, dict[bytes, bytes]] = {"default": {}, "left": {b"k": b"1:v"}}
    ends = {sum(map(len, BULK.units()[:number])) for number in range(len(BULK.units()) + 1)}
    for count in range(len(BULK.rows) + 1):
        assert (matched(state, reckoned)[0] is not None) == (count in ends)
        assert bool(differences(state, reckoned)) or count in ends
        if count < len(BULK.rows):
            _, key, value = BULK.rows[count]
            state["left"][key] = value or b""


ORACLE = """
    import os, signal
    from stress.faults.children import Child, ChildError, forked
    from stress.faults.crash_oracle import Oracle
    from stress.faults.crash_stream import Kind, Row, Step
    from stress.faults.process import CrashedError

    oracle = Oracle()
    batch = Step(Kind.BATCH, (Row("default", b"a", b"1"), Row("default", b"b", None)), sync=True)

    def work():
        oracle.issue(batch); oracle.commit(batch)
        oracle.issue(batch)
        signal.pause()

    child = Child("the writer", work)
    while oracle.issued < 4 and not child.has_ended():
        pass
    child.kill()
    print(oracle.issued, oracle.committed, oracle.synced, oracle.kind)

    def told(work, kill=False):
        child = Child("the child", work)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        try:
            return child.kill() if kill else child.result()
        except (ChildError, CrashedError) as error:
            return f"{type(error).__name__}: {error}"

    for kill in (False, True):
        print(told(lambda: 1 // 0, kill))
        print(told(lambda: os.kill(os.getpid(), signal.SIGSEGV), kill))
        print(told(lambda: os._exit(3), kill))
    print(forked("the child", lambda: b"x" * 200_000) == b"x" * 200_000)
"""


def test_the_oracle_outlives_the_writer_and_no_death_but_ours_is_let_pass(run_python) -> None:
    """After SIGKILL the counts are there; a child that raised or died by itself is an error."""
    done = run_python(ORACLE)
    said = [
        "ChildError: the child: ZeroDivisionError: integer division or modulo by zero",
        "CrashedError: the child died of SIGSEGV",
        "CrashedError: the child ended with status 3 and no result",
    ]
    assert done.stdout.splitlines() == ["4 2 1 Kind.BATCH", *said, *said, "True"]


def test_some_rounds_come_out_right(run_python, tmp_path) -> None:
    """A short run: writers are killed in the midst of their writes, and every acknowledged row is there."""
    program = "import sys; from stress.cli import main; sys.exit(main(sys.argv[1:]))"
    done = run_python(program, "faults", "--crash", "--rounds", "4", "--output", str(tmp_path / "results"))
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = (json.loads(file.read_text()) for file in tmp_path.glob("results/*/faults.json"))
    (tally,) = found["faults"]
    assert (tally["rounds"], tally["right"]) == (4, 4)
    assert tally["counts"]["kills"] >= 8
    assert tally["counts"]["acknowledged writes"] > 100
    assert tally["counts"]["rows compared"] > 100


def test_a_thousand_rounds_are_what_is_asked_for() -> None:
    """Without --rounds there are 1,000 rounds of it."""
    options = cli._parser().parse_args(["faults", "--crash"])
    assert (options.only, options.rounds, crash.FAULT.rounds) == (["crash"], None, 1000)
