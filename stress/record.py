"""`run.json`: everything about a run, valid at every moment of it."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from typing import TYPE_CHECKING, Any

import saferocks
from stress.judging import LegReport, RunStatus, Status, judge_run
from stress.runfile import FORMAT
from stress.scenario import LEGS

if TYPE_CHECKING:
    from stress.jobs import LegJob

_PACKAGES = ("rocksdict", "psutil", "scipy", "rich")


@dataclass(frozen=True)
class Plan:
    """What a run is to do.

    Attributes:
        scenarios: Their names.
        legs: The legs of each.
        seconds: How long each leg runs.
        seed: The seed of everything random.
    """

    scenarios: tuple[str, ...]
    legs: tuple[str, ...]
    seconds: float
    seed: int

    @property
    def command(self) -> str:
        """The one command that replays it."""
        legs = () if self.legs == LEGS else tuple(word for leg in self.legs for word in ("--leg", leg))
        words = ("run", *self.scenarios, "--seconds", repr(self.seconds), *legs, "--seed", str(self.seed))
        return "python -m stress " + shlex.join(words)


@dataclass
class Record:
    """A run as it is being recorded.

    Attributes:
        directory: Where `run.json` and the samples are.
        plan: What the run is to do.
        jobs: The legs to be run.
        started: When it began.
        reports: What came out so far.
        interrupted: Whether it was ended before its time.
    """

    directory: str
    plan: Plan
    jobs: tuple[LegJob, ...]
    started: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    reports: list[LegReport] = field(default_factory=list)
    interrupted: bool = False

    @property
    def file(self) -> str:
        """The path of `run.json`."""
        return os.path.join(self.directory, "run.json")

    @property
    def status(self) -> RunStatus:
        """What came out of the run so far."""
        found = judge_run(self.reports, self.jobs)
        if self.interrupted and found.status is Status.GREEN:
            return RunStatus(Status.INCONCLUSIVE, "interrupted")
        return found

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
            "versions": _versions(),
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
        **({"series": _finite(report.data.series), "leaks": report.data.leaks} if series else {}),
    }


def _finite(series: dict[str, list[float]]) -> dict[str, list[float | None]]:
    """Put null for samples that are missing; JSON knows no NaN."""
    return {name: [None if math.isnan(value) else value for value in values] for name, values in series.items()}


def _versions() -> dict[str, str]:
    found = {name: metadata.version(name) for name in _PACKAGES}
    here = {"python": platform.python_version(), "platform": platform.platform()}
    return {"saferocks": saferocks.__version__, **found, **here}


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
