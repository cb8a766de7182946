"""From the samples of the legs to what a run proves.

A leg's verdict says whether it leaks. Whether that is as it must be depends on the leg: the raw
leg must FAIL, in every signal in which its leak was planted; the scoped leg must PASS; the
guarded leg must PASS and the guard must have named the opening line. Otherwise the run is red.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from stress.verdict import Judgement, Verdict, judge_exact, judge_heap, judge_usual

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stress.jobs import LegJob, LegOutcome
    from stress.samples import LegData
    from stress.scenario import Scenario, Variant

#: How much the C heap may grow over the measured part of a leg; a healthy one wavers by a third of it.
HEAP_BUDGET = 4 << 20
#: Signals that are exact after a collection, and the most that a healthy leg has of each.
EXACT = {"live_iterators": 0, "open_handles": 0, "snapshots": 0, "oldest_age": 0}
#: Exact signals that flushes and compactions hold for a moment, and so are judged by their floor.
EXACT_FLOOR = {"pinned_memtables": 0, "live_versions": 3}
#: What each leg must come out as, the variants of `snapshot-age` included.
EXPECTED = {
    "raw": Verdict.FAIL,
    "guarded": Verdict.PASS,
    "scoped": Verdict.PASS,
    "scans": Verdict.FAIL,
    "points": Verdict.FAIL,
}


class Status(Enum):
    """Whether something is as it must be; the values are the exit statuses."""

    GREEN = 0
    RED = 1
    INCONCLUSIVE = 3


@dataclass(frozen=True)
class LegReport:
    """What came out of one leg.

    Attributes:
        job: What was to be run.
        verdict: Whether it leaks.
        status: Whether that is as it must be.
        reason: Why it is not, or what was seen.
        judgements: The verdict on each signal.
        data: Its samples, and what the guard said.
    """

    job: LegJob
    verdict: Verdict
    status: Status
    reason: str
    judgements: tuple[Judgement, ...]
    data: LegData


@dataclass(frozen=True)
class RunStatus:
    """What came out of a run."""

    status: Status
    reason: str


def judge_leg(scenario: Scenario, job: LegJob, outcome: LegOutcome, data: LegData) -> LegReport:
    """Judge one leg."""
    judgements = judge_signals(scenario, data)
    ended_early = _process_status(outcome)
    if ended_early is not None:
        return LegReport(job, Verdict.INCONCLUSIVE, *ended_early, judgements, data)
    verdict = leg_verdict(judgements)
    status, reason = _leg_status(scenario, job.leg, verdict, judgements, data)
    return LegReport(job, verdict, status, reason, judgements, data)


def judge_signals(scenario: Scenario, data: LegData) -> tuple[Judgement, ...]:
    """Judge every signal that gates, the exact ones first."""
    limits = EXACT | dict(scenario.limits)
    return (
        *(judge_exact(name, data.measured(name), limit) for name, limit in limits.items()),
        *(judge_exact(name, data.measured(name), limit, floor=True) for name, limit in EXACT_FLOOR.items()),
        *(judge_usual(name, data.measured(name), limit) for name, limit in scenario.usual.items()),
        judge_heap(data.measured("heap"), HEAP_BUDGET),
    )


def leg_verdict(judgements: Iterable[Judgement]) -> Verdict:
    """Sum up the signals: one that fails is enough, and all have to pass."""
    verdicts = {judgement.verdict for judgement in judgements}
    if Verdict.FAIL in verdicts:
        return Verdict.FAIL
    return Verdict.PASS if verdicts == {Verdict.PASS} else Verdict.INCONCLUSIVE


def _process_status(outcome: LegOutcome) -> tuple[Status, str] | None:
    """Judge how the process ended, or return None if it ended well."""
    if outcome.failure:
        return Status.RED, f"the harness failed to run it: {outcome.failure}"
    if outcome.interrupted:
        return Status.INCONCLUSIVE, "interrupted"
    if outcome.status == 0:
        return None
    last = outcome.errors.strip().splitlines()[-1:] or ["nothing on stderr"]
    return Status.RED, f"its process ended with status {outcome.status}: {last[0]}"


def _leg_status(
    scenario: Scenario, leg: str, verdict: Verdict, judgements: tuple[Judgement, ...], data: LegData
) -> tuple[Status, str]:
    if leg == "raw":
        return _held_status(scenario.planted, judgements, data)
    variant = scenario.variant(leg)
    if variant is not None:
        return _variant_status(variant, judgements, data)
    status, reason = _flat_status(verdict, judgements)
    if status is not Status.GREEN:
        return status, reason
    return _guard_status((scenario.opening_line,) if leg == "guarded" else (), data.named)


def _held_status(planted: tuple[str, ...], judgements: tuple[Judgement, ...], data: LegData) -> tuple[Status, str]:
    """A raw leg has to be seen to leak, in every signal in which its leak was planted, if it came to plant it all."""
    for verdict, status in ((Verdict.PASS, Status.RED), (Verdict.INCONCLUSIVE, Status.INCONCLUSIVE)):
        missed = _signals(judgements, planted, verdict)
        if missed and data.cut is not None:
            few = f"the machine let the leg through {data.cut['rounds']} of {data.cut['of']} rounds only"
            return Status.INCONCLUSIVE, f"the planted leak was not seen in {', '.join(missed)}; {few}"
        if missed:
            return status, f"the planted leak was not seen in {', '.join(missed)}"
    return Status.GREEN, f"the planted leak was seen in {', '.join(planted)}"


def _variant_status(variant: Variant, judgements: tuple[Judgement, ...], data: LegData) -> tuple[Status, str]:
    """A variant has to be seen to hold what it holds, and nothing of what it is said not to hold."""
    status, reason = _held_status(variant.held, judgements, data)
    if status is not Status.GREEN:
        return status, reason
    for verdict, odd in ((Verdict.FAIL, Status.RED), (Verdict.INCONCLUSIVE, Status.INCONCLUSIVE)):
        surplus = _signals(judgements, variant.flat, verdict)
        if surplus:
            return odd, f"not flat in {', '.join(surplus)}"
    status, guard = _guard_status((), data.named)
    return status, guard if status is not Status.GREEN else f"held in {', '.join(variant.held)} alone"


def _signals(judgements: tuple[Judgement, ...], names: tuple[str, ...], verdict: Verdict) -> list[str]:
    return [each.signal for each in judgements if each.signal in names and each.verdict is verdict]


def _flat_status(verdict: Verdict, judgements: tuple[Judgement, ...]) -> tuple[Status, str]:
    if verdict is Verdict.PASS:
        return Status.GREEN, "nothing held, nothing grows"
    culprits = [f"{judgement.signal}: {judgement.reason}" for judgement in judgements if judgement.verdict is verdict]
    return Status.RED if verdict is Verdict.FAIL else Status.INCONCLUSIVE, "; ".join(culprits)


def _guard_status(expected: tuple[str, ...], named: tuple[str, ...]) -> tuple[Status, str]:
    """The guard has to name the line that leaks, and no other."""
    said, due = (", ".join(lines) or "nothing" for lines in (named, expected))
    if named != expected:
        return Status.RED, f"the guard named {said} where it had to name {due}"
    return Status.GREEN, f"flat, and the guard named {said}"


def judge_run(legs: Iterable[LegReport], planned: Iterable[LegJob]) -> RunStatus:
    """Judge a whole run: every leg as it must be, and for each scenario a raw leg that was seen to leak."""
    reports, jobs = list(legs), list(planned)
    for status in (Status.RED, Status.INCONCLUSIVE):
        odd = [f"{report.job.title}: {report.reason}" for report in reports if report.status is status]
        if odd:
            return RunStatus(status, "; ".join(odd))
    missing = [job.title for job in jobs if job not in {report.job for report in reports}]
    if missing:
        return RunStatus(Status.INCONCLUSIVE, f"not run: {', '.join(missing)}")
    with_raw = {job.scenario for job in jobs if job.leg == "raw"}
    unproven = sorted({job.scenario for job in jobs} - with_raw)
    if unproven:
        names = ", ".join(unproven)
        return RunStatus(Status.INCONCLUSIVE, f"nothing shows that a leak of {names} would be seen; add --leg raw")
    return RunStatus(Status.GREEN, "every leg came out as it must")
