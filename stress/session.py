"""`quick`, `run` and `nightly`: from what was asked for to a run that is recorded, judged and drawn."""

from __future__ import annotations

import json
import math
import random
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from stress import cluster, night, terminal
from stress.disk import check_room
from stress.errors import UsageError
from stress.interrupts import noticed
from stress.jobs import LegJob, LegOutcome, run_leg, stop_legs
from stress.judging import LegReport
from stress.machine import cores
from stress.record import Plan, Record
from stress.report import write_report
from stress.runfile import RunFileError
from stress.runner import Observer, carry_out, prepare
from stress.scenario import LEGS, all_legs, all_scenarios

if TYPE_CHECKING:
    import argparse
    import threading
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Executor

    from rich.console import Console

QUICK_SECONDS = 4.0
_QUICK_JOBS = 2
_MAX_SEED = 2**32
_HOUR = 3600.0
#: The part of a night in which the faults are staged, before the legs.
FAULTS_SHARE = 1 / 8


@dataclass(frozen=True)
class Place:
    """Where the legs run.

    Attributes:
        slots: How many at once, if the place says so itself.
        executor: Where they are handed in; None is here.
        work: What is handed in.
        stop: Ends those that run.
        workers: What the machines are.
    """

    slots: int | None = None
    executor: Executor | None = None
    work: Callable[[LegJob], LegOutcome] = run_leg
    stop: Callable[[], None] = stop_legs
    workers: tuple[dict[str, Any], ...] = ()


@contextmanager
def place_of(scheduler: str | None) -> Iterator[Place]:
    """Yield the place where legs run: here, or a cluster's scheduler."""
    if scheduler is None:
        yield Place()
        return
    with cluster.connected(scheduler) as found:
        for line in found.strangers():
            terminal.say(f"python -m stress: {line}; its figures may differ", sys.stderr)
        yield Place(found.slots, found.executor, found.work, found.stop, found.workers)


def plan_of(options: argparse.Namespace, slots: int | None) -> Plan:
    """Return the plan that the options describe.

    Args:
        options: From the command line.
        slots: How many legs run at once where they run, if that is not ours to say.
    """
    seed = random.randrange(_MAX_SEED) if options.seed is None else options.seed
    scenarios = all_scenarios() if options.command != "run" else dict.fromkeys(options.scenario)
    chosen = LEGS if getattr(options, "leg", None) is None else tuple(leg for leg in all_legs() if leg in options.leg)
    _check_legs(scenarios, chosen)
    legs = sum(len(all_scenarios()[name].legs(chosen)) for name in scenarios)
    jobs = min(legs, slots or options.jobs or (min(_QUICK_JOBS, cores()) if options.command == "quick" else 1))
    return Plan(tuple(scenarios), chosen, _seconds(options, legs, jobs), seed, jobs, options.scheduler)


def _check_legs(names: Iterable[str], chosen: tuple[str, ...]) -> None:
    """Refuse a leg that none of the scenarios has, and a scenario that has none of the legs."""
    legs = {name: all_scenarios()[name].leg_names for name in names}
    nowhere = [leg for leg in chosen if not any(leg in found for found in legs.values())]
    without = [name for name, found in legs.items() if nowhere or not any(leg in found for leg in chosen)]
    if without:
        name = without[0]
        missed = " or ".join(map(repr, nowhere or chosen))
        raise UsageError(f"{name} has no leg {missed}; it has {', '.join(legs[name])}")


def _seconds(options: argparse.Namespace, legs: int, jobs: int) -> float:
    """Return the length of each leg; the hours of a night are those of the faults and of all its rounds of legs."""
    if options.command == "nightly":
        return float(options.hours * _HOUR * (1 - FAULTS_SHARE) / math.ceil(legs / jobs))
    return QUICK_SECONDS if options.command == "quick" else float(options.seconds)


class Interruptible:
    """Passes on how a run goes, and ends it once the flag is set.

    Args:
        observer: Who is told.
        flag: What SIGINT and SIGTERM set.
    """

    def __init__(self, observer: Observer, flag: threading.Event) -> None:
        self._observer = observer
        self._flag = flag

    def refresh(self) -> None:
        """Pass it on.

        Raises:
            KeyboardInterrupt: If the run is to end.
        """
        if self._flag.is_set():
            raise KeyboardInterrupt
        self._observer.refresh()

    def finish(self, report: LegReport) -> None:
        """Pass it on."""
        self._observer.finish(report)


def run(options: argparse.Namespace) -> int:
    """Carry out `quick`, `run` or `nightly`, and return the exit status.

    Raises:
        UsageError: If it cannot be begun; then nothing has been.
    """
    console = terminal.Screen(stderr=options.json)
    with noticed() as flag, place_of(options.scheduler) as place:
        record = _prepared(options, place)
        if options.command == "nightly":
            record.faults = night.stage_faults(record, options.hours * _HOUR * FAULTS_SHARE, flag)
        try:
            with terminal.watching(console, record.jobs) as watch:
                observer = Interruptible(watch, flag)
                carry_out(record, observer, place.executor, work=place.work, stop=place.stop)
        except KeyboardInterrupt:
            console.print("interrupted")
        except OSError as error:
            why = escape(f"cannot keep the record of the run, so it was ended: {error}")
            console.print(why, soft_wrap=True)
        _show(console, record, options.json)
    return night.worst(record.status.status, record.faults).value


def _prepared(options: argparse.Namespace, place: Place) -> Record:
    plan = plan_of(options, place.slots)
    try:
        check_room(plan, options.output, tempfile.gettempdir() if place.executor is None else None)
        record = prepare(plan, options.output, datetime.now(timezone.utc))
    except OSError as error:
        why = error.strerror or error
        raise UsageError(
            f"cannot write to {options.output!r}: {why}; give --output a directory that can be made"
        ) from None
    record.workers = place.workers
    return record


def _show(console: Console, record: Record, as_json: bool) -> None:
    """Show the result, and draw the page."""
    if as_json:
        terminal.say(json.dumps(record.as_json(series=False), indent=2))
    else:
        terminal.show_result(console, record)
        if record.faults is not None:
            said = f"faults: {record.faults['status'].upper()}: {record.faults['reason']} ({record.faults['file']})"
            console.print(escape(said), soft_wrap=True)
    _draw(console, record)


def _draw(console: Console, record: Record) -> None:
    """Draw the page beside the record; that it cannot be written changes nothing about what the run found."""
    try:
        console.print(f"report: {escape(write_report(record.file))}", soft_wrap=True)
    except (OSError, RunFileError) as error:
        why = getattr(error, "strerror", None) or str(error)
        console.print(f"no report: {escape(why)}", soft_wrap=True)
