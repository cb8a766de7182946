"""Runs the legs of a plan on an executor, and records what comes out as it comes out."""

from __future__ import annotations

import os
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Protocol

from stress.jobs import LegJob, LegOutcome, allow_legs, run_leg, stop_legs
from stress.judging import LegReport, judge_leg
from stress.record import Plan, Record, new_directory
from stress.samples import read_leg
from stress.scenario import all_scenarios

if TYPE_CHECKING:
    from datetime import datetime

_REFRESH_SECONDS = 0.2
#: How long an interrupted run waits for its legs to end.
_STOP_SECONDS = 10.0


class Observer(Protocol):
    """Who is told how a run goes."""

    def refresh(self) -> None:
        """Look at the samples that have come in."""

    def finish(self, report: LegReport) -> None:
        """Take note of a leg's end."""


class Silent:
    """An observer that shows nothing."""

    def refresh(self) -> None:
        """Show nothing."""

    def finish(self, report: LegReport) -> None:
        """Show nothing."""


def prepare(plan: Plan, output: str, now: datetime) -> Record:
    """Make the directory of a run and the jobs of its legs.

    Raises:
        OSError: If the directory cannot be made or written to.
    """
    directory = new_directory(output, now)
    jobs = tuple(
        LegJob(scenario, leg, plan.seconds, plan.seed, os.path.join(directory, f"{scenario}-{leg}.jsonl"))
        for scenario in plan.scenarios
        for leg in all_scenarios()[scenario].legs(plan.legs)
    )
    record = Record(directory, plan, jobs, now)
    record.save()
    return record


def carry_out(record: Record, observer: Observer | None = None, executor: Executor | None = None) -> None:
    """Run every leg, and save the record after each.

    Args:
        record: The run, from `prepare`.
        observer: Who is told of the progress.
        executor: Where the legs run. By default here, one after the other: each has the machine
            to itself, and its figures are its own.

    Raises:
        KeyboardInterrupt: Once what was done until then is recorded.
    """
    allow_legs()
    own = executor or ThreadPoolExecutor(max_workers=1)
    futures = {own.submit(run_leg, job): job for job in record.jobs}
    try:
        _collect(record, futures, observer or Silent())
    except BaseException:
        record.interrupted = True
        _interrupt(record, futures)
        raise
    finally:
        if executor is None:
            own.shutdown(cancel_futures=True)


def _collect(record: Record, futures: dict[Future[LegOutcome], LegJob], observer: Observer) -> None:
    pending = set(futures)
    while pending:
        done, pending = wait(pending, timeout=_REFRESH_SECONDS, return_when=FIRST_COMPLETED)
        observer.refresh()
        for future in done:
            report = _judge(record, futures[future], future)
            observer.finish(report)


def _judge(record: Record, job: LegJob, future: Future[LegOutcome]) -> LegReport:
    failure = future.exception()
    outcome = future.result() if failure is None else LegOutcome(1, f"{type(failure).__name__}: {failure}")
    report = judge_leg(all_scenarios()[job.scenario], job, outcome, read_leg(job.file))
    record.reports.append(report)
    record.save()
    return report


def _interrupt(record: Record, futures: dict[Future[LegOutcome], LegJob]) -> None:
    """End what runs, and record what there is of it."""
    record.save()  # at once: whoever is impatient may press Ctrl-C again
    for future in futures:
        future.cancel()
    stop_legs()
    wait(futures, timeout=_STOP_SECONDS)  # legs on other machines are beyond our reach
    reported = {report.job for report in record.reports}
    for future, job in futures.items():
        if future.done() and not future.cancelled() and job not in reported:
            _judge(record, job, future)
    record.save()
