"""A leg as a job: a description that can be sent anywhere, and the functions that carry it out.

Both start a process of its own for the leg, so any `concurrent.futures.Executor` will do. They
read the leg's samples as they come, add what is better seen from outside (RSS, USS), and stream
them to a file: `run_leg` to the job's own; `run_leg_away`, which may be on another machine, to
one of its own, which comes back with the outcome.
"""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

#: As it was imported, through symbolic links too: the lines that legs name are compared with those of this process.
_ROOT = Path(os.path.abspath(__file__)).parent.parent
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
        begun: Whether it was started at all.
        samples: The file of its samples, compressed, if that is not where the job wants it.
        root: Where the harness is on the machine that ran it, if it was run away.
        failure: What failed outside of the process, so that nothing is known of it; empty if nothing did.
    """

    status: int
    errors: str
    interrupted: bool = False
    begun: bool = True
    samples: bytes = b""
    root: str = ""
    failure: str = ""


#: The processes of legs that this process' threads watch, and the groups that they belong to.
_running: dict[subprocess.Popen[str], str] = {}
#: The groups of legs that are to end and of which no other may start.
_stopped: set[str] = set()


def stop_legs(group: str = "") -> None:
    """End every leg of a group that was started from this process, and let no other start."""
    _stopped.add(group)
    for process, its_group in tuple(_running.items()):
        if its_group == group:
            _end(process)


def allow_legs(group: str = "") -> None:
    """Let legs of a group start again after `stop_legs`."""
    _stopped.discard(group)


def _end(process: subprocess.Popen[str], how: signal.Signals = signal.SIGKILL) -> None:
    """Kill a leg with all that it has started; it has nothing to lose but its own temporary files."""
    if process.returncode is None:  # otherwise the number may be another's by now
        with suppress(ProcessLookupError):
            os.killpg(process.pid, how)


def run_leg(job: LegJob, group: str = "") -> LegOutcome:
    """Run a leg in a process of its own, on a database of its own, and stream its samples to the job's file."""
    if group in _stopped:
        return LegOutcome(0, "", interrupted=True, begun=False)
    with (
        tempfile.TemporaryDirectory(prefix="stress-") as directory,
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="backslashreplace") as errors,
    ):
        with _started(job, directory, errors, group) as process:
            _stream(process, job.file)
        errors.seek(0)
        return LegOutcome(process.returncode, errors.read()[-4000:], group in _stopped)


def run_leg_away(job: LegJob, group: str = "") -> LegOutcome:
    """Run a leg where the job's file cannot be written, and return its samples with the outcome."""
    with tempfile.TemporaryDirectory(prefix="stress-samples-") as directory:
        own = replace(job, file=os.path.join(directory, "samples.jsonl"))
        outcome = run_leg(own, group)
        if not os.path.exists(own.file):
            return outcome
        with open(own.file, "rb") as samples:
            return replace(outcome, samples=gzip.compress(samples.read()), root=str(_ROOT))


def bring_home(job: LegJob, outcome: LegOutcome) -> None:
    """Write what came back from a leg that was run away to the job's file.

    The guard's warnings name lines of the harness as it lies over there; they are made to name
    the same lines here.
    """
    if not outcome.samples:
        return
    with open(job.file, "wb") as file:
        for line in gzip.decompress(outcome.samples).splitlines(keepends=True):
            file.write(_relocated(line, outcome.root) if line.startswith(b'{"leak"') else line)


def _relocated(line: bytes, root: str) -> bytes:
    """Make a leak name the line of this machine's harness instead of that under another root."""
    leak = json.loads(line)["leak"]
    there, away = str(leak.get("opened_at")), root + os.sep
    if there.startswith(away):
        here = os.path.join(_ROOT, there.removeprefix(away))
        leak |= {"opened_at": here, "text": leak["text"].replace(there, here)}
    return json.dumps({"leak": leak}).encode() + b"\n"


@contextmanager
def _started(job: LegJob, directory: str, errors: IO[str], group: str) -> Iterator[subprocess.Popen[str]]:
    command = (sys.executable, "-m", "stress.leg", job.scenario, job.leg, f"{directory}/db", str(job.seconds))
    process = subprocess.Popen(
        (*command, str(job.seed)),
        stdout=subprocess.PIPE,
        stderr=errors,
        encoding="utf-8",
        errors="backslashreplace",  # RocksDB writes keys and paths as they are
        env=_environment(),
        cwd=directory,  # what lies about in our own is not to be imported
        start_new_session=True,  # Ctrl-C in the terminal is for us; we end the leg
    )
    _running[process] = group
    limit = 2 * job.seconds + _GRACE_SECONDS
    watchdog = threading.Timer(limit, _end, (process, signal.SIGABRT))  # which makes it write where it hangs
    watchdog.start()
    try:
        if group in _stopped:  # meanwhile
            _end(process)
        with process:
            try:
                yield process
            except BaseException:
                _end(process)  # nobody listens to it any longer
                raise
        if watchdog.finished.is_set():
            errors.write(f"\nit hung, and was ended after {limit:g} s\n")
    finally:
        watchdog.cancel()
        del _running[process]


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
            if not isinstance(content, dict):  # something else has written to stdout
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
