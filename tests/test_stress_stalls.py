"""Legs whose process stands still for seconds, as on a machine that is suspended or has too much to do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings

from stress.jobs import LegJob, LegOutcome, _environment
from stress.judging import EXPECTED, LegReport, Status, judge_leg
from stress.samples import read_leg
from stress.scenario import LEGS, all_scenarios

ROOT = Path(__file__).resolve().parent.parent
SECONDS, STALL_SECONDS = 1.0, 4.0
#: The round in which a leg stands still, the last that each has: whatever it plants, most of it is planted by then.
STALLED = 23
LIMIT = 60.0

#: A leg that stops itself in the midst of a round, until somebody lets it go on.
STOPPING = f"""
import os, signal, sys
from stress import leg, running

class Stopping(running.Leg):
    def rounds(self, *arguments, **options):
        for number in super().rounds(*arguments, **options):
            if number == {STALLED}:
                os.kill(os.getpid(), signal.SIGSTOP)
            yield number

leg.Leg = Stopping
leg.main(sys.argv[1:])
"""


def stalled(directory: Path, scenario: str, leg: str) -> LegReport:
    """Run a leg that stands still, and judge it."""
    job = LegJob(scenario, leg, SECONDS, 1, str(directory / f"{leg}.jsonl"))
    arguments = (scenario, leg, str(directory / leg), str(SECONDS), "1")
    with open(job.file, "w", encoding="utf-8") as samples:
        process = subprocess.Popen((sys.executable, "-c", STOPPING, *arguments), stdout=samples, env=_environment())
    try:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), f"it ended with {status} before it stood still"
        time.sleep(STALL_SECONDS)
        process.send_signal(signal.SIGCONT)
        ended = process.wait(LIMIT)
    finally:
        process.kill()
    return judge_leg(all_scenarios()[scenario], job, LegOutcome(ended, ""), read_leg(job.file))


def assert_as_it_must_be(report: LegReport) -> None:
    assert (report.status, report.verdict) == (Status.GREEN, EXPECTED[report.job.leg]), report.reason


@pytest.mark.parametrize("leg", LEGS)
def test_a_leg_that_stood_still_comes_out_as_it_must(tmp_path: Path, leg: str) -> None:
    """The planted leak is seen, and none where there is none, though the leg was mostly waiting."""
    assert_as_it_must_be(stalled(tmp_path, "batch-memory", leg))


def test_no_property_is_refused_for_its_time() -> None:
    """A stall in the midst of an example says nothing of it; on CI the examples are the same each time, as ever."""
    assert settings().deadline is None
    program = "import sys; sys.path.insert(0, 'tests'); import conftest, hypothesis; print(hypothesis.settings())"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env={**os.environ, "CI": "true"}, capture_output=True, text=True,
        timeout=LIMIT, check=True,
    )  # fmt: skip
    assert "derandomize=True" in done.stdout
    assert "deadline=None" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("scenario", all_scenarios())
def test_every_leg_that_stood_still_comes_out_as_it_must(tmp_path: Path, scenario: str) -> None:
    """So do the legs of every scenario, those with leases, deadlines and latencies included."""
    with ThreadPoolExecutor() as executor:
        for report in executor.map(partial(stalled, tmp_path, scenario), all_scenarios()[scenario].leg_names):
            assert_as_it_must_be(report)
