"""The scenarios on a real RocksDB: each leg comes out as it must, and broken ones are caught."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from stress import jobs
from stress.jobs import LegJob, LegOutcome, run_leg
from stress.judging import EXPECTED, LegReport, Status
from stress.record import Plan, Record
from stress.reduction import after_warm_up
from stress.runner import carry_out, prepare
from stress.running import ENOUGH_ROUNDS, PLANTED
from stress.samples import LegData
from stress.scenario import LEGS, all_scenarios
from stress.verdict import Verdict

ROOT = Path(__file__).resolve().parent.parent
NAMES = tuple(all_scenarios())
SECONDS = 1.0
#: The events that tell of handles that escaped; the others are of leases, of which one may run out at a time.
ESCAPES = ("saferocks.handle_leaked", "saferocks.handle_outlived_database")


def run_legs(scenario: str, directory: Path) -> Record:
    """Run the legs of a scenario at once, for a short time."""
    plan = Plan((scenario,), LEGS, SECONDS, 1)
    record = prepare(plan, str(directory), datetime.now(timezone.utc))
    with ThreadPoolExecutor(len(record.jobs)) as executor:
        carry_out(record, executor=executor)
    return record


@dataclass(frozen=True)
class Legs:
    """What came out of the legs of a scenario."""

    reports: dict[str, LegReport]

    def series(self, leg: str, signal: str) -> list[float]:
        """The samples of a signal."""
        return self.reports[leg].data.series[signal]

    def last(self, signal: str) -> tuple[float, ...]:
        """The last sample of a signal in each leg: raw, guarded, scoped."""
        return tuple(self.series(leg, signal)[-1] for leg in LEGS)

    def table(self, leg: str) -> dict[str, tuple[Any, ...]]:
        """The rows of the leg's table by their first column."""
        return {row[0]: tuple(row[1:]) for row in self.reports[leg].data.table["rows"]}


def batches_cost_what_they_hold(legs: Legs) -> None:
    """The peak grows with the rows of a batch, and not with those of a bulk writer."""
    raw, scoped = legs.table("raw"), legs.table("scoped")
    for table in (raw, scoped):
        assert table["1,000"][2] < table["5,000"][2] < table["10,000"][2]
    assert next(row for name, row in raw.items() if name.startswith("endless"))[2] > 10
    assert scoped["bulk_writer 20,000"][2] < scoped["10,000"][2]
    assert all(latency > 0 and rate > 0 for _, latency, _, rate in scoped.values())


def reopenings_are_refused_in_the_raw_leg_alone(legs: Legs) -> None:
    """Every request after the first is refused by the lock; on saferocks none is."""
    refused, served = legs.last("refused_reopenings"), legs.last("reopenings")
    assert (served[0], refused[1:]) == (1, (0, 0))
    assert refused[0] > 10
    assert min(served[1:]) >= 15
    for report in legs.reports.values():
        (seconds,) = (each for each in report.judgements if each.signal == "reopen_seconds")
        assert 0 < seconds.figure < seconds.budget


def nothing_stays_with_a_thread(legs: Legs) -> None:
    """Hundreds of threads have come and gone; in the raw leg alone something of them is still open."""
    begun, holding = legs.last("threads_begun"), legs.last("threads_holding")
    assert min(begun) > ENOUGH_ROUNDS
    assert holding[0] > 10
    assert holding[1:] == (0, 0)


def forgotten_iterators_pin_memtables(legs: Legs) -> None:
    """Bare iterators pin memtables without end; guarded and scoped ones leave nothing pinned."""
    pinned = legs.last("pinned_memtables")
    assert pinned[0] > 4 << 20
    assert pinned[1:] == (0, 0)
    assert max(legs.series("raw", "open_handles")) <= PLANTED


def sessions_are_as_many_as_snapshots(legs: Legs) -> None:
    """Snapshots without a session are there in the raw leg alone."""
    unaccounted = [max(legs.series(leg, "unaccounted_handles")) for leg in LEGS]
    assert unaccounted[0] > 10
    assert unaccounted[1:] == [0, 0]


def a_held_snapshot_ages(legs: Legs) -> None:
    """It ages in the raw leg and the variants; the guarded leg's is called overdue, and then expires."""
    held = {leg: set(legs.series(leg, "snapshots")) for leg in legs.reports}
    # Whether a lease of a tenth of a second is ever sampled is up to the machine; that it was held is in its events.
    assert held.pop("guarded") in ({1.0, 0.0}, {0.0})
    assert held == {"raw": {1.0}, "scoped": {0.0}, "scans": {1.0}, "points": {1.0}}
    for leg, snapshots in held.items():
        ages = legs.series(leg, "oldest_age")
        assert ages == sorted(ages)
        assert ages[-1] > 0.8 * SECONDS if snapshots == {1.0} else ages[-1] == 0
    assert max(after_warm_up(legs.series("guarded", "oldest_age"))) == 0
    events = [leak["text"].split()[0] for leak in legs.reports["guarded"].data.leaks if leak["source"] == "event"]
    assert events == ["saferocks.handle_overdue", "saferocks.handle_expired"]
    assert legs.series("scans", "pinned_memtables")[-1] > 0
    assert legs.series("points", "pinned_memtables")[-1] == 0


def one_path_alone_forgets_its_buffers(legs: Legs) -> None:
    """Buffers of transfers that time out are left in the raw leg; those of every other path are freed."""
    for path in ("complete", "rejected", "cancelled"):
        assert legs.last(f"unfreed_{path}") == (0, 0, 0)
    unfreed = legs.last("unfreed_timed_out")
    assert unfreed[0] > 10
    assert unfreed[1:] == (0, 0)


def a_deadline_is_for_one_holder(legs: Legs) -> None:
    """Timers pile up and hit others in the raw leg; a lease has one deadline, and refuses what is no duration."""
    # Timers that come due while the machine stands still come all at once, and hit one holder between them.
    for signal, least in (("pending_deadlines", 2), ("wrong_expiries", 1), ("accepted_durations", 10)):
        highest = [max(legs.series(leg, signal)) for leg in LEGS]
        assert highest[0] >= least
        assert highest[1:] == ([1, 1] if signal == "pending_deadlines" else [0, 0])


#: What is to be seen of each scenario beyond its verdicts.
SHOWN = {
    "batch-memory": batches_cost_what_they_hold,
    "db-reuse": reopenings_are_refused_in_the_raw_leg_alone,
    "handle-threads": nothing_stays_with_a_thread,
    "iterator-leak": forgotten_iterators_pin_memtables,
    "reserved-session": sessions_are_as_many_as_snapshots,
    "snapshot-age": a_held_snapshot_ages,
    "transfer-buffers": one_path_alone_forgets_its_buffers,
    "ttl-overwrite": a_deadline_is_for_one_holder,
}


def test_every_scenario_is_looked_at() -> None:
    """A new scenario says here what is to be seen of it."""
    assert set(SHOWN) == set(NAMES)


@pytest.mark.parametrize("scenario", NAMES)
def test_every_leg_comes_out_as_it_must(scenario: str, tmp_path: Path) -> None:
    """The raw leg is seen to leak, the others are not, the guard names the line, and the run is recorded."""
    record = run_legs(scenario, tmp_path)
    legs = Legs({report.job.leg: report for report in record.reports})
    found = {leg: (report.status, report.verdict) for leg, report in legs.reports.items()}
    assert found == {leg: (Status.GREEN, EXPECTED[leg]) for leg in all_scenarios()[scenario].legs(LEGS)}
    assert [EXPECTED[leg] for leg in LEGS] == [Verdict.FAIL, Verdict.PASS, Verdict.PASS]
    assert_named(legs.reports["guarded"].data, all_scenarios()[scenario].opening_line)
    SHOWN[scenario](legs)
    assert_recorded(record)


def assert_named(data: LegData, line: str) -> None:
    """The line named is the one that opened what escaped, by warning and by event."""
    assert data.named == (line,)
    events = [leak for leak in data.leaks if leak["source"] == "event"]
    assert {leak["opened_at"] for leak in events} == {line}
    escaped = [leak["count"] for leak in events if leak["event"] in ESCAPES]
    assert not escaped or sum(escaped) >= 10


def assert_recorded(record: Record) -> None:
    """`run.json` has the verdicts, every series, the versions, the seed and the command to replay it."""
    found = json.loads(Path(record.file).read_text())
    (scenario,) = found["scenarios"]
    assert (found["status"], found["seed"]) == ("green", 1)
    assert found["command"] == f"python -m stress run {scenario} --seconds {SECONDS} --seed 1"
    assert {"saferocks", "rocksdict", "python"} <= set(found["versions"])
    assert sorted(leg["leg"] for leg in found["results"]) == sorted(all_scenarios()[scenario].legs(LEGS))
    signals = [set(leg["series"]) for leg in found["results"]]
    assert all(names == signals[0] for names in signals)
    assert {"time", "heap", "rss", "uss", "sst_live", "sst_total", "scan_seconds", "oldest_age"} <= signals[0]
    assert {*all_scenarios()[scenario].limits, *all_scenarios()[scenario].usual} <= signals[0]
    for leg in found["results"]:
        assert len({len(values) for values in leg["series"].values()}) == 1
        assert (leg["table"] is not None) is (scenario == "batch-memory")


def test_jobs_and_outcomes_can_be_sent_anywhere() -> None:
    """A job and its outcome survive pickling, which is all that an executor asks for."""
    job = LegJob("iterator-leak", "raw", 1.0, 1, "file")
    outcome = LegOutcome(0, "")
    assert pickle.loads(pickle.dumps((run_leg, job, outcome))) == (run_leg, job, outcome)


def test_settings_in_the_environment_do_not_reach_a_leg(monkeypatch) -> None:
    """A policy set for the shell neither silences nor sharpens the guard of a leg."""
    monkeypatch.setenv("SAFEROCKS_POLICY", "ignore")
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    found = jobs._environment()
    assert not any(name.startswith("SAFEROCKS_") for name in found)
    assert found["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "elsewhere"]


def test_a_leg_that_crashes_is_red_and_says_why(tmp_path) -> None:
    """A job that its process cannot carry out ends with its status and the end of its stderr."""
    outcome = run_leg(LegJob("nonsense", "raw", 0.2, 1, str(tmp_path / "leg.jsonl")))
    assert outcome.status == 1
    assert "KeyError" in outcome.errors


@pytest.mark.slow
def test_legs_run_on_a_pool_of_processes(tmp_path) -> None:
    """Any executor will do."""
    record = prepare(Plan(("iterator-leak",), LEGS, SECONDS, 1), str(tmp_path), datetime.now(timezone.utc))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        carry_out(record, executor=executor)
    assert record.status.status is Status.GREEN


# --------------------------------------------------------------------------- what is broken is caught


@dataclass(frozen=True)
class Mutation:
    """A change to the harness that has to turn the run red.

    Attributes:
        leg: The leg to run.
        file: What is changed, in `stress/`.
        old: The text there, which must be there once.
        new: The text in its place.
        status: The exit status that must come of it.
        reason: What the run must say.
    """

    leg: str
    file: str
    old: str
    new: str
    status: int
    reason: str


NOT_SEEN, NOT_NAMED = "the planted leak was not seen in", "the guard named nothing"
ITERATORS, SNAPSHOTS = "scenarios/iterator_leak.py", "scenarios/snapshot_age.py"
LEAK = """
            if leg.is_due():
                leg.__dict__.setdefault("leaked", []).append(db.{opener}().__enter__())
"""
SILENCED = Mutation("guarded", "guarded.py", 'policy="warn"', 'policy="ignore"', 1, NOT_NAMED)
SNAPSHOT_HELD = Mutation(
    "scoped",
    SNAPSHOTS,
    "\n                snapshot.get(_ROW)\n\n\ndef scans",
    "\n                snapshot.get(_ROW)" + LEAK.format(opener="snapshot") + "\n\ndef scans",
    1,
    "snapshots",
)
#: The fix taken out of the right code, for each scenario.
UNFIXED = {
    "batch-memory": Mutation(
        "scoped",
        "scenarios/batch_memory.py",
        "partial(db.bulk_writer, flush_bytes=_FLUSH_BYTES)",
        "db.write_batch",
        1,
        "load_peak",
    ),
    "db-reuse": Mutation(
        "scoped",
        "scenarios/db_reuse.py",
        "with db.iter() as cursor:\n                cursor.seek",
        "if cursor := db.iter().__enter__():\n                cursor.seek",
        1,
        "the guard named",
    ),
    "handle-threads": Mutation(
        "scoped",
        "scenarios/handle_threads.py",
        "with scope as cursor:\n            cursor.seek(_START)",
        "with contextlib.ExitStack() as stack:\n"
        "            stack.enter_context(scope).seek(_START)\n"
        "            if leg.is_due():\n"
        "                leg.__dict__.setdefault('leaked', []).append(stack.pop_all())",
        1,
        "threads_holding",
    ),
    "iterator-leak": Mutation(
        "scoped",
        ITERATORS,
        "\n            with db.iter() as cursor:\n                cursor.seek(_START)\n",
        LEAK.format(opener="iter"),
        1,
        "pinned_memtables",
    ),
    "reserved-session": Mutation(
        "scoped",
        "scenarios/reserved_session.py",
        "                proxy.alive.update(clients)\n",
        "                proxy.alive.update(clients)\n"
        "                if leg.is_due():\n"
        "                    leg.__dict__.setdefault('leaked', []).append(reservations.pop_all())\n",
        1,
        "unaccounted_handles",
    ),
    "snapshot-age": SNAPSHOT_HELD,
    "transfer-buffers": Mutation(
        "scoped",
        "scenarios/transfer_buffers.py",
        "db.write_batch(label=path_of(failure)) as buffer:\n",
        "contextlib.ExitStack() as stack:\n"
        "                    buffer = stack.enter_context(db.write_batch(label=path_of(failure)))\n"
        "                    if failure is TimedOutError:\n"
        "                        leg.__dict__.setdefault('leaked', []).append(stack.pop_all())\n",
        1,
        "unfreed_timed_out",
    ),
    "ttl-overwrite": Mutation(
        "scoped",
        "scenarios/ttl_overwrite.py",
        "with deadlines.held(ttl) as term, db.snapshot(expire_after=ttl) as holder:\n",
        "with deadlines.held(ttl) as term, contextlib.ExitStack() as stack:\n"
        "                holder = stack.enter_context(db.snapshot(expire_after=ttl))\n"
        "                if leg.is_due():\n"
        "                    leg.__dict__.setdefault('leaked', []).append(stack.pop_all())\n",
        1,
        "pending_deadlines",
    ),
}
#: What else can break: a leak that is not planted, a guard that says nothing, or the wrong thing, a crash.
MUTATIONS = {
    "planted-leak-removed": (
        "iterator-leak",
        Mutation("raw", ITERATORS, "database.keep(iterator)", "del iterator", 1, NOT_SEEN),
    ),
    "guard-silenced": ("iterator-leak", SILENCED),
    "heap-reads-zero": (
        "iterator-leak",
        Mutation("raw", "probe.py", "return inspection.heap_used() or 0", "return 0", 3, f"{NOT_SEEN} heap"),
    ),
    "closing-waits": (
        "db-reuse",
        Mutation(
            "scoped",
            "guarded.py",
            "        yield db\n",
            "        yield db\n    __import__('time').sleep(0.6)\n",
            1,
            "reopen_seconds: 0.",
        ),
    ),
    "property-unknown": (
        "iterator-leak",
        Mutation("raw", "probe.py", "rocksdb.num-live-versions", "rocksdb.nonsense", 3, f"{NOT_SEEN} live_versions"),
    ),
    "property-unknown-in-the-right-code": (
        "iterator-leak",
        Mutation("scoped", "probe.py", "rocksdb.num-live-versions", "rocksdb.nonsense", 3, "some samples are missing"),
    ),
}
SLOW_MUTATIONS = {
    "opening-waits": (
        "db-reuse",
        Mutation(
            "guarded",
            "guarded.py",
            "    with saferocks.open",
            "    __import__('time').sleep(0.6)\n    with saferocks.open",
            1,
            "reopen_seconds: 0.",
        ),
    ),
    "deadlines-outlive-their-handles": (
        "ttl-overwrite",
        Mutation(
            "scoped",
            "../saferocks/_leases.py",
            "lease = pending.pop(record.id, None)",
            "lease = pending.get(record.id)",
            1,
            "pending_deadlines",
        ),
    ),
    "renewal-does-nothing": (
        "ttl-overwrite",
        Mutation(
            "scoped",
            "../saferocks/_leases.py",
            "if not _begin_again(record, lease):",
            "if lease.term is None:",
            1,
            "wrong_expiries",
        ),
    ),
    "held-snapshot-removed": (
        "snapshot-age",
        Mutation("raw", SNAPSHOTS, "database.keep(database.db.snapshot())", "database.db.snapshot()", 1, NOT_SEEN),
    ),
    "guard-silenced": ("snapshot-age", SILENCED),
    "lease-without-end": (
        "snapshot-age",
        Mutation(
            "guarded",
            SNAPSHOTS,
            "_WARN_AFTER, _EXPIRE_AFTER = 0.05, 0.12",
            "_WARN_AFTER, _EXPIRE_AFTER = 0.05, 99",
            1,
            "snapshots",
        ),
    ),
    "guard-loses-the-line": (
        "snapshot-age",
        Mutation("guarded", "guarded.py", 'trace="site"', 'trace="off"', 1, "where it had to name"),
    ),
    "leg-crashes": (
        "snapshot-age",
        Mutation("scoped", SNAPSHOTS, "snapshot.get(_ROW)\n\n\ndef scans", "1 / 0\n\n\ndef scans", 1, "ZeroDiv"),
    ),
}


def run_mutated(mutation: Mutation, scenario: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run one leg of a copy of the harness that has the mutation."""
    copy = Path(shutil.copytree(ROOT / "stress", directory / "stress"))
    shutil.copytree(ROOT / "saferocks", directory / "saferocks")
    source = (copy / mutation.file).read_text()
    assert source.count(mutation.old) == 1
    mutated = source.replace(mutation.old, mutation.new)
    (copy / mutation.file).write_text(mutated.replace("annotations\n", "annotations\n\nimport contextlib\n", 1))
    command = (sys.executable, "-m", "stress", "run", scenario, "--seconds", str(SECONDS), "--leg", mutation.leg)
    return subprocess.run((*command, "--json"), cwd=directory, capture_output=True, text=True, timeout=120, check=False)


def assert_caught(mutation: Mutation, done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == mutation.status, done.stderr
    found = json.loads(done.stdout)
    assert found["status"] == {1: "red", 3: "inconclusive"}[mutation.status]
    assert mutation.reason in found["reason"]


@pytest.mark.parametrize("scenario", NAMES)
def test_a_scenario_without_its_fix_is_caught(scenario: str, tmp_path: Path) -> None:
    """The release taken out of the right code turns the run red, in the signal in which it shows."""
    assert_caught(UNFIXED[scenario], run_mutated(UNFIXED[scenario], scenario, tmp_path))


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_harness_is_caught(name: str, tmp_path: Path) -> None:
    """A leak that is not planted, a silent guard, a heap that is not read: each turns the run red."""
    scenario, mutation = MUTATIONS[name]
    assert_caught(mutation, run_mutated(mutation, scenario, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_MUTATIONS)
def test_a_broken_snapshot_age_is_caught(name: str, tmp_path: Path) -> None:
    """A snapshot that is not held, a silent guard, one without the line, a crash: each turns the run red."""
    scenario, mutation = SLOW_MUTATIONS[name]
    assert_caught(mutation, run_mutated(mutation, scenario, tmp_path))


@pytest.mark.slow
def test_the_harness_as_it_is_is_green(tmp_path: Path) -> None:
    """The copy that the mutations are made in is green without one."""
    shutil.copytree(ROOT / "stress", tmp_path / "stress")
    shutil.copytree(ROOT / "saferocks", tmp_path / "saferocks")
    command = (sys.executable, "-m", "stress", "quick", "--json")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["reason"] == "every leg came out as it must"


def test_a_checkout_may_be_reached_through_a_symbolic_link(tmp_path: Path) -> None:
    """The line that the guard names is compared as this process knows it."""
    link = tmp_path / "link"
    link.symlink_to(ROOT)
    command = [sys.executable, "-m", "stress", "run", "iterator-leak", "--leg", "guarded", "--seconds", "1"]
    environment = {**os.environ, "PYTHONPATH": str(link)}
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "out"), "--json"],
        capture_output=True, text=True, cwd=tmp_path, env=environment, check=False, timeout=120,
    )  # fmt: skip
    (result,) = json.loads(done.stdout)["results"]
    assert result["status"] == "green", result["reason"]
    assert result["named"][0].startswith(str(link))


ENDINGS = {
    "hangs": (
        "import faulthandler; faulthandler.enable(); print(5, flush=True); threading.Event().wait()",
        -6,
        ("it hung, and was ended after 0.6 s", "Fatal Python error: Aborted", "threading.py"),
    ),
    "panics": (
        "sys.stderr.buffer.write(b'panic \\xff in RocksDB'); sys.stderr.flush(); os.abort()",
        -6,
        ("panic \\xff in RocksDB",),
    ),
    "prints": ("print('[1]'); print('no JSON'); sys.stdout.flush(); os._exit(3)", 3, ()),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_how_a_leg_ended_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    """A leg that hangs, that writes bytes that are no text, or that prints: status and last words are its own."""
    program, status, words = ENDINGS[ending]
    leg = tmp_path / "leg"
    leg.write_text(f"#!{sys.executable}\nimport os, sys, threading\n{program}\n")
    leg.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(leg))
    monkeypatch.setattr(jobs, "_GRACE_SECONDS", 0.5 if ending == "hangs" else 60)
    outcome = run_leg(LegJob("iterator-leak", "raw", 0.05, 1, str(tmp_path / "samples.jsonl")))
    assert outcome.status == status
    assert all(word in outcome.errors for word in words), outcome.errors
