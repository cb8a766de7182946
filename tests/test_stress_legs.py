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

import pytest

from stress import jobs
from stress.jobs import LegJob, LegOutcome, run_leg
from stress.judging import Status
from stress.leg import PLANTED, sampling_interval
from stress.record import Plan
from stress.runner import carry_out, prepare
from stress.scenario import LEGS, all_scenarios
from stress.verdict import Verdict

ROOT = Path(__file__).resolve().parent.parent
NAMES = tuple(all_scenarios())
SECONDS = 1.0


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """A short run of every leg, two at a time."""
    plan = Plan(NAMES, LEGS, SECONDS, 1)
    made = prepare(plan, str(tmp_path_factory.mktemp("stress")), datetime.now(timezone.utc))
    with ThreadPoolExecutor(2) as executor:
        carry_out(made, executor=executor)
    return made


def leg_of(record, scenario: str, leg: str):
    return next(each for each in record.reports if (each.job.scenario, each.job.leg) == (scenario, leg))


@pytest.mark.parametrize("scenario", NAMES)
@pytest.mark.parametrize("leg", LEGS)
def test_every_leg_comes_out_as_it_must(record, scenario: str, leg: str) -> None:
    """The raw leg is seen to leak, the guarded and the scoped leg are not."""
    found = leg_of(record, scenario, leg)
    assert (found.status, found.verdict) == (Status.GREEN, Verdict.FAIL if leg == "raw" else Verdict.PASS), found.reason


@pytest.mark.parametrize("scenario", NAMES)
def test_the_guard_names_the_opening_line(record, scenario: str) -> None:
    """The line named is the one that opened what escaped, by warning and by event."""
    line = all_scenarios()[scenario].opening_line
    found = leg_of(record, scenario, "guarded").data
    assert found.named == (line,)
    events = [leak for leak in found.leaks if leak["source"] == "event"]
    assert {leak["opened_at"] for leak in events} == {line}
    assert max(leak["count"] for leak in events) >= 10


def test_forgotten_iterators_pin_memtables_in_the_raw_leg_alone(record) -> None:
    """Bare iterators pin memtables without end; guarded and scoped ones leave nothing pinned."""
    pinned = {leg: leg_of(record, "iterator-leak", leg).data.series["pinned_memtables"][-1] for leg in LEGS}
    assert pinned["raw"] > 4 << 20
    assert pinned["guarded"] == pinned["scoped"] == 0


def test_a_held_snapshot_ages_in_the_raw_leg_alone(record) -> None:
    """The raw leg's snapshot is as old as the leg; the others hold none between rounds."""
    for leg in LEGS:
        series = leg_of(record, "snapshot-age", leg).data.series
        held = 1.0 if leg == "raw" else 0.0
        assert set(series["snapshots"]) == {held}
        assert (series["oldest_age"][-1] > 0.8 * SECONDS) is (leg == "raw")


def test_the_run_is_recorded_in_full(record) -> None:
    """`run.json` has the verdicts, every series, the versions, the seed and the command to replay it."""
    found = json.loads(Path(record.file).read_text())
    assert (found["status"], found["seed"]) == ("green", 1)
    assert found["command"] == f"python -m stress run {' '.join(NAMES)} --seconds {SECONDS} --seed 1"
    assert {"saferocks", "rocksdict", "python"} <= set(found["versions"])
    assert {(leg["scenario"], leg["leg"]) for leg in found["results"]} == {
        (name, leg) for name in NAMES for leg in LEGS
    }
    for leg in found["results"]:
        assert len({len(values) for values in leg["series"].values()}) == 1
        assert {"time", "heap", "rss", "uss", "sst_live", "sst_total", "scan_seconds", "oldest_age"} <= set(
            leg["series"]
        )


def test_samples_come_at_least_every_quarter_of_a_second_in_short_runs() -> None:
    """Short runs sample often, long ones every five seconds."""
    assert sampling_interval(0.5) == 0.005
    assert sampling_interval(60) == 0.25
    assert sampling_interval(3600) == 5.0


def test_buggy_legs_plant_no_more_in_longer_runs(record) -> None:
    """The leak is planted at a rate that a night survives."""
    assert max(leg_of(record, "iterator-leak", "raw").data.series["open_handles"]) <= PLANTED


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


ITERATORS, SNAPSHOTS = "scenarios/iterator_leak.py", "scenarios/snapshot_age.py"
NOT_SEEN, NOT_NAMED = "the planted leak was not seen in", "the guard named nothing"
LEAK = """
            if leg.is_due():
                leg.__dict__.setdefault("leaked", []).append(db.{opener}().__enter__())
"""
SILENCED = Mutation("guarded", "guarded.py", 'policy="warn"', 'policy="ignore"', 1, NOT_NAMED)
MUTATIONS = {
    "planted-leak-removed": Mutation("raw", ITERATORS, "database.keep(iterator)", "del iterator", 1, NOT_SEEN),
    "leak-in-scoped": Mutation(
        "scoped",
        ITERATORS,
        "\n            with db.iter() as cursor:\n                cursor.seek(_START)\n",
        LEAK.format(opener="iter"),
        1,
        "pinned_memtables",
    ),
    "guard-silenced": SILENCED,
    "heap-reads-zero": Mutation("raw", "probe.py", "int(heap_info().heap_used)", "0", 3, f"{NOT_SEEN} heap"),
}
SLOW_MUTATIONS = {
    "held-snapshot-removed": Mutation(
        "raw", SNAPSHOTS, "database.keep(database.db.snapshot())", "database.db.snapshot()", 1, NOT_SEEN
    ),
    "leak-in-scoped": Mutation(
        "scoped",
        SNAPSHOTS,
        "\n                snapshot.get(_ROW)\n",
        "\n                snapshot.get(_ROW)" + LEAK.format(opener="snapshot"),
        1,
        "snapshots",
    ),
    "guard-silenced": SILENCED,
    "guard-loses-the-line": Mutation("guarded", "guarded.py", 'trace="site"', 'trace="off"', 1, "where it had to name"),
    "leg-crashes": Mutation(
        "scoped", SNAPSHOTS, "snapshot.get(_ROW)\n\n\nSCENARIO", "1 / 0\n\n\nSCENARIO", 1, "ZeroDiv"
    ),
}


def run_mutated(mutation: Mutation, scenario: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run one leg of a copy of the harness that has the mutation."""
    copy = Path(shutil.copytree(ROOT / "stress", directory / "stress"))
    source = (copy / mutation.file).read_text()
    assert source.count(mutation.old) == 1
    (copy / mutation.file).write_text(source.replace(mutation.old, mutation.new))
    shutil.copytree(ROOT / "saferocks", directory / "saferocks")
    command = (sys.executable, "-m", "stress", "run", scenario, "--seconds", str(SECONDS), "--leg", mutation.leg)
    return subprocess.run((*command, "--json"), cwd=directory, capture_output=True, text=True, timeout=120, check=False)


def assert_caught(mutation: Mutation, done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == mutation.status, done.stderr
    found = json.loads(done.stdout)
    assert found["status"] == {1: "red", 3: "inconclusive"}[mutation.status]
    assert mutation.reason in found["reason"]


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_iterator_leak_is_caught(name: str, tmp_path: Path) -> None:
    """A leak that is not planted, a leak where none may be, a silent guard: each turns the run red."""
    assert_caught(MUTATIONS[name], run_mutated(MUTATIONS[name], "iterator-leak", tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_MUTATIONS)
def test_a_broken_snapshot_age_is_caught(name: str, tmp_path: Path) -> None:
    """A snapshot that is not held, one that is held where none may be, a silent guard: each turns the run red."""
    assert_caught(SLOW_MUTATIONS[name], run_mutated(SLOW_MUTATIONS[name], "snapshot-age", tmp_path))


@pytest.mark.slow
def test_the_harness_as_it_is_is_green(tmp_path: Path) -> None:
    """The copy that the mutations are made in is green without one."""
    shutil.copytree(ROOT / "stress", tmp_path / "stress")
    shutil.copytree(ROOT / "saferocks", tmp_path / "saferocks")
    command = (sys.executable, "-m", "stress", "quick", "--json")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["reason"] == "every leg came out as it must"
