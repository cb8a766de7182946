"""A leg as a job: a description that can be sent anywhere, and the function that carries it out.

`run_leg(job)` starts a process of its own for the leg, so any `concurrent.futures.Executor` will
do: threads here, other machines that share the output directory elsewhere. It reads the leg's
samples as they come, adds what is better seen from outside (RSS, USS), and streams them to a file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = Path(__file__).resolve().parent.parent
_GRACE_SECONDS = 60.0


@dataclass(frozen=True)
class LegJob:
    """One leg to be run.

    Attributes:
        scenario: The name of the scenario.
        leg: `raw`, `guarded` or `scoped`.
        seconds: How long to run.
        seed: The seed of everything random.
        file: Where the samples go, as JSON lines.
    """

    scenario: str
    leg: str
    seconds: float
    seed: int
    file: str

    @property
    def title(self) -> str:
        """The scenario and the leg."""
        return f"{self.scenario} {self.leg}"


@dataclass(frozen=True)
class LegOutcome:
    """How the process of a leg ended.

    Attributes:
        status: Its exit status; negative for a signal, as `subprocess` has it.
        errors: What it wrote to stderr, the end of it.
        interrupted: Whether it was stopped before its time by us.
    """

    status: int
    errors: str
    interrupted: bool = False


#: The processes of legs that run in this process' threads, for `stop_legs`.
_running: set[subprocess.Popen[str]] = set()
_stopping = threading.Event()


def stop_legs() -> None:
    """End every leg that was started from this process, and let no other start."""
    _stopping.set()
    for process in tuple(_running):
        with suppress(ProcessLookupError):
            process.terminate()


def allow_legs() -> None:
    """Let legs start again after `stop_legs`."""
    _stopping.clear()


def run_leg(job: LegJob) -> LegOutcome:
    """Run a leg in a process of its own, on a database of its own, and stream its samples to the job's file."""
    if _stopping.is_set():
        return LegOutcome(0, "", interrupted=True)
    with tempfile.TemporaryDirectory(prefix="stress-") as directory, tempfile.TemporaryFile("w+") as errors:
        with _started(job, directory, errors) as process:
            _stream(process, job.file)
        errors.seek(0)
        return LegOutcome(process.returncode, errors.read()[-4000:], _stopping.is_set())


@contextmanager
def _started(job: LegJob, directory: str, errors: IO[str]) -> Iterator[subprocess.Popen[str]]:
    command = (sys.executable, "-m", "stress.leg", job.scenario, job.leg, f"{directory}/db", str(job.seconds))
    process = subprocess.Popen(
        (*command, str(job.seed)),
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env=_environment(),
        cwd=directory,  # what lies about in our own is not to be imported
        start_new_session=True,  # Ctrl-C in the terminal is for us; we end the leg
    )
    _running.add(process)
    watchdog = threading.Timer(2 * job.seconds + _GRACE_SECONDS, process.kill)
    watchdog.start()
    try:
        if _stopping.is_set():
            process.terminate()
        with process:
            yield process
    finally:
        watchdog.cancel()
        _running.discard(process)


def _environment() -> dict[str, str]:
    """Return the environment of a leg: ours, without settings that would silence the guard."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SAFEROCKS_")}
    paths = (str(_ROOT), kept.get("PYTHONPATH", ""))
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _stream(process: subprocess.Popen[str], file: str) -> None:
    """Copy the leg's lines to a file, with the memory of its process added to each sample."""
    seen = psutil.Process(process.pid)
    with open(file, "w", encoding="utf-8") as samples:
        for line in process.stdout or ():
            try:
                content = json.loads(line)
            except ValueError:  # cut off in the middle, by whatever ended the leg
                continue
            if "sample" in content:
                content["sample"] |= _outside(seen)
            samples.write(json.dumps(content) + "\n")
            samples.flush()


def _outside(process: psutil.Process) -> dict[str, float]:
    with suppress(psutil.Error):
        memory = process.memory_full_info()
        return {"rss": float(memory.rss), "uss": float(memory.uss)}
    return {"rss": float("nan"), "uss": float("nan")}  # it ended meanwhile
