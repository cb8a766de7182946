"""The command `faults`: its options, the run, its exit status."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import time
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from stress import arguments, terminal
from stress.disk import check_places
from stress.errors import UsageError
from stress.faults import catalogue, show
from stress.faults.process import Finding
from stress.faults.results import FaultPlan, FaultRecord, Tally
from stress.faults.runner import Runner, load_engine
from stress.interrupts import noticed
from stress.machine import cores
from stress.record import new_directory

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from rich.console import Console

_MOST_JOBS = 4
_MAX_SEED = 2**32
#: The most that a round has on disk at once, and that a run leaves behind: its lines, the files of rounds not right.
_ROUND_BYTES = 128 << 20
_OUTPUT_BYTES = 64 << 20


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `faults`."""
    parser.epilog = "exit status: 0 every round right, 1 any other, 2 bad usage, 3 not run or nothing can be concluded"
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--rounds", type=arguments.rounds, help="how many of each fault (default: as each says)")
    length.add_argument(
        "--seconds", type=arguments.seconds, help="as many rounds as fit in this time, shared out among the faults"
    )
    parser.add_argument("--seed", type=arguments.seed, help="of each fault's first round; the next has the next number")
    parser.add_argument("--only", action="append", type=fault_name, help="stage this fault only; may be given again")
    parser.add_argument("--crash", action="append_const", dest="only", const="crash", help="the same as --only crash")
    parser.add_argument("--jobs", type=arguments.rounds_at_once, help="rounds at once (default: the cores, at most 4)")
    parser.add_argument("--output", default="stress-results", help="where the runs are kept (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument(
        "--verbose", action="store_true", help="a line for each round, with the command that repeats it"
    )


def fault_name(text: str) -> str:
    """Return the name of a fault that there is."""
    if text not in catalogue.names():
        raise argparse.ArgumentTypeError(f"there is no fault {text!r}; there are {', '.join(catalogue.names())}")
    return text


def plan_of(options: argparse.Namespace) -> FaultPlan:
    """Return the plan that the options describe."""
    names = tuple(name for name in catalogue.names() if options.only is None or name in options.only)
    seed = random.randrange(_MAX_SEED) if options.seed is None else options.seed
    return FaultPlan(names, options.rounds, options.seconds, seed, options.jobs or min(_MOST_JOBS, cores()))


class _Listener:
    """Records what comes out, and shows it."""

    def __init__(self, record: FaultRecord, watch: show.Watch) -> None:
        self._record = record
        self._watch = watch

    def refresh(self) -> None:
        self._watch.refresh()

    def finish(self, finding: Finding) -> None:
        self._record.tallies[-1].add(finding)
        self._record.keep(finding)
        self._watch.finish(finding)


def run(options: argparse.Namespace) -> int:
    """Carry out the faults, and return the exit status.

    Raises:
        UsageError: If it cannot be begun; then nothing has been.
    """
    console = terminal.Screen(stderr=options.json)
    record = _prepared(plan_of(options), options.output)
    with noticed() as flag, _scratch() as scratch:
        _carry_out(record, console, options.verbose, scratch, flag)
    if options.json:
        terminal.say(json.dumps(record.as_json(), indent=2))
    else:
        show.show_result(console, record)
    return record.status.status.value


@contextmanager
def _scratch() -> Iterator[Path]:
    """Make a directory for the rounds, and remove it at the end.

    A `TemporaryDirectory` would be removed by a finalizer besides: in each child of a round, too, that ends as programs
    do.
    """
    directory = tempfile.mkdtemp(prefix="stress-faults-")
    try:
        yield Path(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _prepared(plan: FaultPlan, output: str) -> FaultRecord:
    check_places([(output, "--output", _OUTPUT_BYTES), (tempfile.gettempdir(), "TMPDIR", plan.jobs * _ROUND_BYTES)])
    try:
        record = FaultRecord(new_directory(output, datetime.now(timezone.utc)), plan)
        record.save()
    except OSError as error:
        why = error.strerror or error
        raise UsageError(f"cannot write to {output!r}: {why}; give --output a directory that can be made") from None
    return record


def _carry_out(record: FaultRecord, console: Console, verbose: bool, scratch: Path, flag: threading.Event) -> None:
    load_engine()
    try:
        with show.watching(console, verbose) as watch:
            runner = Runner(record.plan.jobs, scratch, Path(record.directory), _Listener(record, watch), flag)
            for name in record.plan.names:
                _stage(runner, record, watch, name)
    except KeyboardInterrupt:
        record.interrupted = True
        console.print("interrupted")
    except OSError as error:
        record.interrupted = True
        console.print(escape(f"cannot keep the record of the run, so it was ended: {error}"), soft_wrap=True)
    _save(record, console)


def _stage(runner: Runner, record: FaultRecord, watch: show.Watch, name: str) -> None:
    """Carry out the rounds of one fault."""
    fault, plan = catalogue.load(name), record.plan
    share = None if plan.seconds is None else plan.seconds / len(plan.names)
    rounds = (plan.rounds or fault.rounds) if share is None else None
    tally = Tally(name, rounds)
    record.tallies.append(tally)
    watch.begin(tally)
    begun = time.monotonic()
    try:
        runner.carry_out(fault, plan.seed, rounds, share)
    finally:
        tally.seconds = time.monotonic() - begun
    record.save()


def _save(record: FaultRecord, console: Console) -> None:
    try:
        record.save()
    except OSError as error:
        record.interrupted = True
        console.print(escape(f"cannot write {record.file!r}: {error.strerror or error}"), soft_wrap=True)
