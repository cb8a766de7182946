"""The faults of a night: `python -m stress faults` in a process of its own, before the legs.

The legs are watched by threads, and a process that forks is to have none.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stress.judging import Status

if TYPE_CHECKING:
    import threading

    from stress.record import Record

_ROOT = Path(os.path.abspath(__file__)).parent.parent
_LOOK_SECONDS = 0.2
#: How long the rounds that are under way when the time is over may take: each fault finishes some.
_MORE_SECONDS = 900.0
_STOP_SECONDS = 30.0


def stage_faults(record: Record, seconds: float, flag: threading.Event) -> dict[str, Any]:
    """Stage the faults for so long, and return their status, its reason and where their record is.

    Args:
        record: The night; the faults have its seed and their results are in its directory.
        seconds: How long, shared out among the faults.
        flag: Ends them once it is set.
    """
    output = os.path.join(record.directory, "faults")
    command = [sys.executable, "-m", "stress", "faults", "--seconds", str(seconds), "--seed", str(record.plan.seed)]
    process = subprocess.Popen(
        [*command, "--output", os.path.abspath(output)],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,  # what it shows is for whoever looks on; stdout may be the record of the night as JSON
        cwd=_ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("SAFEROCKS_")},
    )
    try:
        _wait(process, flag, time.monotonic() + seconds + _MORE_SECONDS)
    finally:
        status = _ended(process)
    return _result(output, status, flag.is_set())


def _ended(process: subprocess.Popen[bytes]) -> int:
    """End the faults, if they have not ended, as Ctrl-C does; return the exit status."""
    process.send_signal(signal.SIGINT)
    try:
        return process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()  # with it its rounds die
        return process.wait()


def _wait(process: subprocess.Popen[bytes], flag: threading.Event, deadline: float) -> None:
    while not flag.is_set() and time.monotonic() < deadline:
        try:
            process.wait(_LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        return


def _result(output: str, status: int, interrupted: bool) -> dict[str, Any]:
    """Return what the record of the faults says; a run that has left none, or died, is red, unless we ended it."""
    for file in Path(output).glob("*/faults.json"):
        found = json.loads(file.read_text(encoding="utf-8"))
        if Status[found["status"].upper()].value == status:
            return {"status": found["status"], "reason": found["reason"], "file": str(file)}
    if interrupted:  # before it had begun
        return {"status": "inconclusive", "reason": "interrupted", "file": None}
    return {"status": "red", "reason": f"its process ended with status {status}", "file": None}


def worst(legs: Status, faults: dict[str, Any] | None) -> Status:
    """Return the worst of both: red, else inconclusive, else green."""
    found = {legs, Status[faults["status"].upper()] if faults else Status.GREEN}
    return next(status for status in (Status.RED, Status.INCONCLUSIVE, Status.GREEN) if status in found)
