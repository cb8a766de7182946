"""`run.json`: everything about a run, valid at every moment of it; docs/stress.md names its fields."""

from __future__ import annotations

import json
import math
import os
import shlex
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from stress.judging import LegReport, RunStatus, Status, judge_run
from stress.machine import machine, versions
from stress.runfile import FORMAT
from stress.scenario import LEGS
from stress.trends import trends

if TYPE_CHECKING:
    from stress.jobs import LegJob


@dataclass(frozen=True)
class Plan:
    """What a run is to do.

    Attributes:
        scenarios: Their names.
        legs: The legs of each.
        seconds: How long each leg runs.
        seed: The seed of everything random.
        jobs: How many legs run at once.
        scheduler: The address of the Dask cluster that runs them, if one does.
    """

    scenarios: tuple[str, ...]
    legs: tuple[str, ...]
    seconds: float
    seed: int
    jobs: int = 1
    scheduler: str | None = None

    @property
    def command(self) -> str:
        """The one command that replays it."""
        legs = () if self.legs == LEGS else tuple(word for leg in self.legs for word in ("--leg", leg))
        words = ("run", *self.scenarios, "--seconds", repr(self.seconds), *legs, "--seed", str(self.seed))
        return "python -m stress " + shlex.join((*words, *self._place()))

    def _place(self) -> tuple[str, ...]:
        if self.scheduler is not None:
            return ("--scheduler", self.scheduler)
        return () if self.jobs == 1 else ("--jobs", str(self.jobs))


@dataclass
class Record:
    """A run as it is being recorded.

    Attributes:
        directory: Where `run.json` and the samples are.
        plan: What the run is to do.
        jobs: The legs to be run.
        started: When it began.
        workers: What the workers of a cluster are, each with its address.
        faults: What came out of the faults that a night begins with, if it did.
        interrupted: Whether it was ended before its time.
        reports: What came out so far.
    """

    directory: str
    plan: Plan
    jobs: tuple[LegJob, ...]
    started: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    reports: list[LegReport] = field(default_factory=list)
    interrupted: bool = False
    workers: tuple[dict[str, Any], ...] = ()
    faults: dict[str, Any] | None = None
    machine: dict[str, Any] = field(default_factory=machine)

    @property
    def file(self) -> str:
        """The path of `run.json`."""
        return os.path.join(self.directory, "run.json")

    @property
    def status(self) -> RunStatus:
        """What came out of the run so far; a leg that was found wrong stays so, interrupted or not."""
        found = judge_run(self.reports, self.jobs)
        if self.interrupted and found.status is not Status.RED:
            return RunStatus(Status.INCONCLUSIVE, f"interrupted after {len(self.reports)} of {len(self.jobs)} legs")
        return found

    def add(self, report: LegReport) -> None:
        """Take in what came out of a leg; the legs stay in the order of the plan, whichever ends first."""
        self.reports.append(report)
        self.reports.sort(key=lambda each: self.jobs.index(each.job))

    def save(self) -> None:
        """Write `run.json` as one, so that whatever ends the run leaves a valid file."""
        unfinished = f"{self.file}.new"
        with open(unfinished, "w", encoding="utf-8") as file:
            json.dump(self.as_json(series=True), file)
        os.replace(unfinished, self.file)

    def as_json(self, *, series: bool) -> dict[str, Any]:
        """Return the run as JSON has it, with or without the samples."""
        status = self.status
        return {
            "format": FORMAT,
            "status": status.status.name.lower(),
            "reason": status.reason,
            "interrupted": self.interrupted,
            "started": self.started.isoformat(timespec="seconds"),
            "command": self.plan.command,
            **asdict(self.plan),
            "versions": versions(),
            "machine": self.machine,
            "workers": self.workers,
            "faults": self.faults,
            "results": [_leg_as_json(report, series) for report in self.reports],
            "file": self.file,
        }


def _leg_as_json(report: LegReport, series: bool) -> dict[str, Any]:
    judgements = [{**asdict(judgement), "verdict": judgement.verdict.value} for judgement in report.judgements]
    return {
        "scenario": report.job.scenario,
        "leg": report.job.leg,
        "verdict": report.verdict.value,
        "status": report.status.name.lower(),
        "reason": report.reason,
        "named": report.data.named,
        "judgements": judgements,
        "trends": trends(report.data),
        "table": report.data.table,
        "samples": os.path.basename(report.job.file),
        **({"series": _finite(report.data.series), "leaks": report.data.leaks} if series else {}),
    }


def _finite(series: dict[str, list[float]]) -> dict[str, list[float | None]]:
    """Put null for samples that are missing; JSON knows no NaN."""
    return {name: [None if math.isnan(value) else value for value in values] for name, values in series.items()}


def new_directory(parent: str, now: datetime) -> str:
    """Make the directory of a run, named by its time.

    Raises:
        OSError: If it cannot be made or written to.
    """
    stem = os.path.join(parent, now.strftime("%Y-%m-%dT%H-%M-%S"))
    os.makedirs(parent, exist_ok=True)
    for name in (stem, *(f"{stem}-{number}" for number in range(2, 1000))):
        try:
            os.mkdir(name)
        except FileExistsError:  # two runs in one second
            continue
        return name
    raise FileExistsError(f"a thousand runs in one second at {stem!r}")
