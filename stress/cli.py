"""The command line: `python -m stress`, and one of its commands."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from stress import arguments, bench, compare, report, session, terminal
from stress.errors import UsageError
from stress.faults import command as faults
from stress.judging import Status
from stress.scenario import all_scenarios

if TYPE_CHECKING:
    from collections.abc import Sequence

BAD_USAGE = 2
_RUN_SECONDS = 60.0
_COMMANDS = "quick, run NAME, nightly, report RUN, compare OLD NEW, list, bench or faults"
_EXIT = "exit status: 0 all as it must be, 1 a leak or a wrong verdict, 2 bad usage, 3 nothing can be concluded"


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong and what would be right."""

    def error(self, message: str) -> NoReturn:
        terminal.say(f"{self.prog}: {message}", sys.stderr)
        raise SystemExit(BAD_USAGE)

    def print_help(self, file: Any = None) -> None:
        terminal.say(self.format_help().rstrip("\n"), file)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m stress",
        description="Leaks on a real RocksDB, and what saferocks makes of them.",
        epilog=_EXIT,
    )
    commands = parser.add_subparsers(
        dest="command", metavar="quick | run | nightly | report | compare | list | bench | faults"
    )
    quick = commands.add_parser("quick", help="run every scenario for a few seconds", epilog=_EXIT)
    _add_run_options(quick, "2 where there are 2 cores")
    run = commands.add_parser("run", help="run some scenarios for longer", epilog=_EXIT)
    run.add_argument("scenario", nargs="+", type=arguments.scenario, help="a name from `list`")
    run.add_argument(
        "--seconds", type=arguments.seconds, default=_RUN_SECONDS, help="the length of each leg (default: %(default)s)"
    )
    run.add_argument("--leg", action="append", type=arguments.leg, help="run this leg only; may be given again")
    _add_run_options(run, "1")
    nightly = commands.add_parser("nightly", help="run every scenario, for hours in all", epilog=_EXIT)
    nightly.add_argument(
        "--hours",
        type=arguments.hours,
        required=True,
        help="how long the whole night may take, of which each leg has its share",
    )
    _add_run_options(nightly, "1")
    report.add_options(commands.add_parser("report", help="draw the page of a run anew"))
    compare.add_options(commands.add_parser("compare", help="compare a run with an earlier one"))
    commands.add_parser("list", help="say which scenarios there are")
    bench.add_options(commands.add_parser("bench", help="compare the costs of saferocks with those of bare rocksdict"))
    faults.add_options(commands.add_parser("faults", help="kill, fork, fill the disk, corrupt and race, in rounds"))
    return parser


def _add_run_options(parser: argparse.ArgumentParser, jobs: str) -> None:
    parser.add_argument(
        "--seed", type=arguments.seed, help="the seed of everything random (default: a new one, recorded)"
    )
    parser.add_argument("--output", default="stress-results", help="where the runs are kept (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--jobs", type=arguments.jobs, help=f"how many legs run at once on this machine (default: {jobs})"
    )
    place.add_argument(
        "--scheduler",
        type=arguments.scheduler,
        metavar="ADDRESS",
        help="run the legs on the Dask cluster with this scheduler, as tcp://host:8786",
    )


def _list() -> int:
    for scenario in all_scenarios().values():
        terminal.say(f"{scenario.name:16} {', '.join(scenario.leg_names)}: {scenario.summary}")
    return Status.GREEN.value


def _carry_out(options: argparse.Namespace) -> int:
    if options.command == "list":
        return _list()
    if options.command == "report":
        return report.run(options)
    if options.command == "compare":
        return compare.run(options)
    if options.command == "faults":
        return faults.run(options)
    return bench.run(options) if options.command == "bench" else session.run(options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Returns:
        0 if all is as it must be, 1 for a leak or a wrong verdict, 3 if nothing can be concluded;
        bad usage raises SystemExit with 2.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.error(f"which command? give {_COMMANDS}")
    try:
        return _carry_out(options)
    except UsageError as error:
        parser.error(str(error))
