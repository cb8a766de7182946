"""Runs the legs of a plan on an executor, and records what comes out as it comes out."""

from __future__ import annotations

import os
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from typing import TYPE_CHECKING, Protocol

from stress.jobs import LegJob, LegOutcome, allow_legs, bring_home, run_leg, stop_legs
from stress.judging import LegReport, judge_leg
from stress.record import Plan, Record, new_directory
from stress.samples import read_leg
from stress.scenario import all_scenarios

if TYPE_CHECKING:
    from collections.abc import Callable
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


def carry_out(
    record: Record,
    observer: Observer | None = None,
    executor: Executor | None = None,
    *,
    work: Callable[[LegJob], LegOutcome] = run_leg,
    stop: Callable[[], None] = stop_legs,
) -> None:
    """Run every leg, and save the record after each.

    Args:
        record: The run, from `prepare`.
        observer: Who is told of the progress.
        executor: Where the legs run. By default here, as many at once as the plan says.
        work: What the executor is given to run a leg.
        stop: Ends the legs that run, and lets no other start.

    Raises:
        KeyboardInterrupt: Once what was done until then is recorded.
        OSError: If it cannot be recorded; the legs are ended.
    """
    allow_legs()
    own = executor or ThreadPoolExecutor(max_workers=record.plan.jobs)
    futures = {own.submit(work, job): job for job in record.jobs}
    try:
        _collect(record, futures, observer or Silent())
    except BaseException:
        record.interrupted = True
        _interrupt(record, futures, stop)
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
            report = _judge(record, futures[future], _outcome(future))
            observer.finish(report)


def _outcome(future: Future[LegOutcome]) -> LegOutcome:
    """Return how a leg ended; of one that the executor lost nothing is known."""
    try:
        return future.result()
    except (Exception, CancelledError) as error:  # noqa: BLE001 - whatever an executor raises, the leg has not run
        said = (str(error).splitlines() or ["the executor has given it up"])[0]
        return LegOutcome(0, "", failure=f"{type(error).__name__}: {said}")


def _judge(record: Record, job: LegJob, outcome: LegOutcome) -> LegReport:
    bring_home(job, outcome)
    report = judge_leg(all_scenarios()[job.scenario], job, outcome, read_leg(job.file))
    record.add(report)
    record.save()
    return report


def _interrupt(record: Record, futures: dict[Future[LegOutcome], LegJob], stop: Callable[[], None]) -> None:
    """End what runs, and record what there is of it."""
    try:
        record.save()  # at once: whatever happens now, what was done is kept
    finally:
        stop()  # also where nothing can be saved: nobody waits for a night whose record is lost
    done, lost = wait(futures, timeout=_STOP_SECONDS)  # legs that have not begun end at once, too
    for future in lost:
        future.cancel()  # on a machine that is beyond our reach
    reported = {report.job for report in record.reports}
    for future in sorted(done, key=list(futures).index):
        outcome = _outcome(future)
        if futures[future] not in reported and outcome.begun:
            _judge(record, futures[future], outcome)
    record.save()
