"""What came out of the rounds: kept a line each as they end, and summed up in `faults.json`."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from stress.faults.process import Verdict
from stress.judging import RunStatus, Status
from stress.machine import machine, versions

if TYPE_CHECKING:
    from stress.faults.process import Finding

#: The version of `faults.json`; it goes up whenever a reader of the old one would be misled.
FORMAT = 1
_BAD = (Verdict.WRONG, Verdict.HANG, Verdict.CRASH)


@dataclass(frozen=True)
class FaultPlan:
    """What is to be done.

    Attributes:
        names: The faults.
        rounds: How many rounds of each; None for as many as each fault says, or as fit in the time.
        seconds: How long in all, shared out among the faults; None for as long as the rounds take.
        seed: Of the first round of each.
        jobs: How many rounds at once.
    """

    names: tuple[str, ...]
    rounds: int | None
    seconds: float | None
    seed: int
    jobs: int

    @property
    def command(self) -> str:
        """The one command that replays it."""
        words = [word for name in self.names for word in ("--only", name)]
        for option, value in (("--rounds", self.rounds), ("--seconds", self.seconds)):
            words += [] if value is None else [option, str(value)]
        return "python -m stress faults " + shlex.join((*words, "--seed", str(self.seed), "--jobs", str(self.jobs)))


@dataclass
class Tally:
    """What the rounds of one fault came to.

    Attributes:
        name: The fault's.
        planned: How many rounds there were to be; None for as many as fit in the time.
        seconds: How long they took.
        verdicts: How many rounds came out as what.
        counts: What was done and seen in all.
        reasons: Why rounds were not run, each once.
    """

    name: str
    planned: int | None = None
    seconds: float = 0.0
    verdicts: dict[Verdict, int] = field(default_factory=lambda: dict.fromkeys(Verdict, 0))
    counts: dict[str, int] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    @property
    def rounds(self) -> int:
        """How many rounds were run."""
        return sum(number for verdict, number in self.verdicts.items() if verdict is not Verdict.NOT_RUN)

    @property
    def bad(self) -> int:
        """How many rounds were not right."""
        return sum(self.verdicts[verdict] for verdict in _BAD)

    def add(self, finding: Finding) -> None:
        """Take in what came out of a round."""
        self.verdicts[finding.verdict] += 1
        for name, number in finding.counts.items():
            self.counts[name] = self.counts.get(name, 0) + number
        if finding.verdict is Verdict.NOT_RUN:
            self.reasons += [reason for reason in finding.wrong if reason not in self.reasons]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "fault": self.name,
            "planned": self.planned,
            "rounds": self.rounds,
            "seconds": round(self.seconds, 3),
            **{verdict.value.replace(" ", "_"): number for verdict, number in self.verdicts.items()},
            "counts": self.counts,
            "reasons": self.reasons,
        }


@dataclass
class FaultRecord:
    """A run of faults as it is being recorded.

    Attributes:
        directory: Where `faults.json`, `rounds.jsonl` and the files of rounds that were not right are.
        plan: What is to be done.
        tallies: What came out so far.
        interrupted: Whether it was ended before its time.
        started: When it began.
    """

    directory: str
    plan: FaultPlan
    tallies: list[Tally] = field(default_factory=list)
    interrupted: bool = False
    started: datetime = field(default_factory=lambda: datetime.now(timezone.utc))

    @property
    def file(self) -> str:
        """The path of `faults.json`."""
        return os.path.join(self.directory, "faults.json")

    @property
    def rounds_file(self) -> str:
        """The path of the file with a line for each round."""
        return os.path.join(self.directory, "rounds.jsonl")

    def keep(self, finding: Finding) -> None:
        """Write down what came out of a round, at once.

        Raises:
            OSError: If it cannot be written.
        """
        line = {
            "fault": finding.fault,
            "seed": finding.seed,
            "replay": finding.replay,
            "outcome": finding.verdict.value,
            "seconds": round(finding.seconds, 3),
            "counts": finding.counts,
            "wrong": finding.wrong,
            "kept": finding.kept,
        }
        with open(self.rounds_file, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def save(self) -> None:
        """Write `faults.json` as one, so that whatever ends the run leaves a valid file."""
        unfinished = f"{self.file}.new"
        with open(unfinished, "w", encoding="utf-8") as file:
            json.dump(self.as_json(), file, indent=2)
        os.replace(unfinished, self.file)

    @property
    def status(self) -> RunStatus:
        """What came out so far; a round that was found wrong stays so, interrupted or not."""
        bad = [f"{tally.name}: {tally.bad} of {tally.rounds} rounds" for tally in self.tallies if tally.bad]
        if bad:
            return RunStatus(Status.RED, f"not as it must be: {', '.join(bad)}")
        if self.interrupted:
            return RunStatus(Status.INCONCLUSIVE, "interrupted")
        begun = {tally.name: tally for tally in self.tallies}
        missing = [name for name in self.plan.names if name not in begun or not begun[name].rounds]
        if missing:
            return RunStatus(Status.INCONCLUSIVE, f"not run: {', '.join(missing)}")
        partly = [tally.name for tally in self.tallies if tally.verdicts[Verdict.NOT_RUN]]
        if partly:
            return RunStatus(Status.INCONCLUSIVE, f"some rounds were not run: {', '.join(partly)}")
        return RunStatus(Status.GREEN, "every round came out as it must")

    def as_json(self) -> dict[str, Any]:
        """Return the run as JSON has it."""
        status = self.status
        return {
            "format": FORMAT,
            "status": status.status.name.lower(),
            "reason": status.reason,
            "interrupted": self.interrupted,
            "started": self.started.isoformat(timespec="seconds"),
            "command": self.plan.command,
            "seed": self.plan.seed,
            "jobs": self.plan.jobs,
            "versions": versions(),
            "machine": machine(),
            "faults": [tally.as_json() for tally in self.tallies],
            "file": self.file,
        }
