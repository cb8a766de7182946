"""The command line: `python -m stress quick | run NAME... | list | bench | report`."""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from datetime import datetime, timezone
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console
from rich.markup import escape

from stress import bench, report, terminal
from stress.judging import Status
from stress.record import Plan, Record
from stress.runner import carry_out, prepare
from stress.scenario import LEGS, all_scenarios

if TYPE_CHECKING:
    from collections.abc import Sequence

BAD_USAGE = 2
_QUICK_SECONDS = 4.5
_RUN_SECONDS = 60.0
_MAX_SEED = 2**32


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong and what would be right."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(BAD_USAGE)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no length of time; give a positive number of seconds")
    return seconds


def _seed(text: str) -> int:
    if not text.isdecimal() or not text.isascii():
        raise argparse.ArgumentTypeError(f"{text!r} is no seed; give a whole number, 0 or more")
    return int(text)


def _scenario(text: str) -> str:
    names = all_scenarios()
    if text not in names:
        raise argparse.ArgumentTypeError(f"there is no scenario {text!r}; there are {', '.join(names)}")
    return text


def _leg(text: str) -> str:
    if text not in LEGS:
        raise argparse.ArgumentTypeError(f"there is no leg {text!r}; there are {', '.join(LEGS)}")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m stress", description="Leaks on a real RocksDB, and what saferocks makes of them.")
    commands = parser.add_subparsers(dest="command", metavar="quick | run | list | bench | report")
    _add_run_options(commands.add_parser("quick", help="run every scenario for a few seconds"))
    run = commands.add_parser("run", help="run some scenarios for longer")
    run.add_argument("scenario", nargs="+", type=_scenario, help="a name from `list`")
    run.add_argument(
        "--seconds", type=_seconds, default=_RUN_SECONDS, help="the length of each leg (default: %(default)s)"
    )
    run.add_argument("--leg", action="append", type=_leg, help="run this leg only; may be given again")
    _add_run_options(run)
    commands.add_parser("list", help="say which scenarios there are")
    bench.add_options(commands.add_parser("bench", help="compare the costs of saferocks with those of bare rocksdict"))
    report.add_options(commands.add_parser("report", help="write the page of a run that has been"))
    return parser


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=_seed, help="the seed of everything random (default: a new one, recorded)")
    parser.add_argument("--output", default="stress-results", help="where the runs are kept (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _plan(options: argparse.Namespace) -> Plan:
    seed = random.randrange(_MAX_SEED) if options.seed is None else options.seed
    if options.command == "quick":
        return Plan(tuple(all_scenarios()), LEGS, _QUICK_SECONDS, seed)
    chosen = LEGS if options.leg is None else tuple(leg for leg in LEGS if leg in options.leg)
    return Plan(tuple(dict.fromkeys(options.scenario)), chosen, options.seconds, seed)


def _prepare(options: argparse.Namespace) -> Record:
    try:
        return prepare(_plan(options), options.output, datetime.now(timezone.utc))
    except OSError as error:
        why = error.strerror or error
        print(
            f"python -m stress: cannot write to {options.output!r}: {why}; give --output a directory that can be made",
            file=sys.stderr,
        )
        raise SystemExit(BAD_USAGE) from None


def _run(options: argparse.Namespace) -> int:
    record = _prepare(options)
    console = Console(stderr=options.json)
    try:
        with terminal.watching(console, record.jobs) as watch:
            carry_out(record, watch)
    except KeyboardInterrupt:
        console.print("interrupted")
    _draw(record, console)
    if options.json:
        print(json.dumps(record.as_json(series=False), indent=2))
    else:
        terminal.show_result(console, record)
    return record.status.status.value


def _draw(record: Record, console: Console) -> None:
    """Write the page of a run; that it cannot be written changes nothing about what the run found."""
    try:
        console.print(f"report: {escape(report.write_report(record.file))}", soft_wrap=True)
    except OSError as error:
        console.print(f"no report: {escape(str(error))}", soft_wrap=True)


def _list() -> int:
    for scenario in all_scenarios().values():
        print(f"{scenario.name:16} {scenario.summary}")
    return Status.GREEN.value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Returns:
        0 if all is as it must be, 1 for a leak or a wrong verdict, 3 if nothing can be concluded;
        bad usage raises SystemExit with 2.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.error("which command? give quick, run NAME, list, bench or report")
    if options.command == "list":
        return _list()
    if options.command == "report":
        return report.run(options)
    return bench.run(options) if options.command == "bench" else _run(options)
