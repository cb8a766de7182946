"""The benchmark's command: its options, what it measures, what it prints and writes, and its exit status."""

from __future__ import annotations

import argparse
import os
import shlex
import tempfile
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from importlib import metadata
from typing import TYPE_CHECKING

import msgspec
from rich.markup import escape

from stress import arguments, disk, machine
from stress.bench import earlier, handles, imports, interpreter_lock, others, running, tables
from stress.bench.measure import Pace
from stress.bench.record import FORMAT, Call, Record, Row
from stress.bench.workloads import WORKLOADS
from stress.errors import UsageError
from stress.judging import Status
from stress.terminal import Screen, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

_EXIT = "exit status: 0 all within their budgets, 1 a figure is over its budget or worse than before, 2 bad usage, "
_EXIT_3 = "3 interrupted, or nothing to compare"
_OTHERS = {"plyvel": "plyvel", "lmdb": "lmdb", "rocksdb": "faust-streaming-rocksdb"}
_GIB = 1 << 30
#: Columns of a page that is no terminal: those that the widest table needs.
_WIDTH = 100
#: Standard output, in place of a file.
_STDOUT = "-"


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        rows: Rows of the databases.
        most: Handles that are open at the most; a tenth of them when a database closes.
        disk: Bytes that the databases may take.
        pace: How many rounds, and how long.
    """

    rows: int = 200_000
    most: int = 1_000_000
    disk: int = 10 * _GIB
    pace: Pace = field(default_factory=Pace)


_FULL = Sizes()
_QUICK = Sizes(20_000, 100_000, 3 * _GIB, Pace(7, 0.005))


def names() -> tuple[str, ...]:
    """Return the names that `--only` takes, in the order in which they are measured."""
    found = [workload.name for workload in WORKLOADS]
    return tuple(dict.fromkeys((*found, *handles.NAMES, *imports.NAMES, *interpreter_lock.NAMES)))


def workload(text: str) -> str:
    """Return the name of a workload that there is."""
    if text not in names():
        raise argparse.ArgumentTypeError(f"there is no workload {text!r}; there are {', '.join(names())}")
    return text


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bench` to its parser."""
    parser.epilog = _EXIT + _EXIT_3
    parser.add_argument("--quick", action="store_true", help="measure less: fewer rows and handles, shorter rounds")
    parser.add_argument(
        "--only", metavar="NAME", action="append", type=workload, help="this workload only; may be given again"
    )
    parser.add_argument("--rounds", type=arguments.rounds, help=f"how many rounds (default: {_FULL.pace.rounds})")
    parser.add_argument("--json", metavar="FILE", help="write the figures there as JSON; - for stdout, and no tables")
    parser.add_argument("--compare", metavar="OLD.json", help="compare with what --json has written before")
    parser.add_argument(
        "--markdown",
        metavar="PAGE",
        nargs="?",
        const=_STDOUT,
        help="print the tables as Markdown, or put them between the marks of a page",
    )


def run(options: argparse.Namespace) -> int:
    """Measure, show the figures, and return the exit status.

    Raises:
        UsageError: If a file cannot be read or written; before anything is measured, where that can be told.
    """
    old = None if options.compare is None else earlier.load(options.compare)
    _check_outputs(options)
    record = _measured(options)
    if options.json is not None:
        _write(options.json, msgspec.json.format(msgspec.json.encode(record)).decode())
    if options.markdown is not None:
        _write_markdown(options.markdown, record)
    screen = Screen(stderr=_STDOUT in (options.json, options.markdown))
    if not screen.is_terminal:  # nothing to fit into
        screen.width = _WIDTH
    return _shown(screen, record, old).value


def _shown(screen: Console, record: Record, old: Record | None) -> Status:
    tables.show(screen, record)
    worse: list[str] = []
    changes = []
    if old is not None:
        changes = earlier.changes(old, record)
        worse = [change.new.name for change in changes if change.is_worse]
        tables.show_changes(screen, changes, earlier.notes(old, record))
    over = [row.name for row in record.over]
    said = [f"over budget: {'; '.join(over)}"] * bool(over) + [f"worse than before: {'; '.join(worse)}"] * bool(worse)
    if said:
        status = Status.RED
    elif record.interrupted:
        status, said = Status.INCONCLUSIVE, ["interrupted"]
    elif old is not None and not changes:
        status, said = Status.INCONCLUSIVE, ["the two have no figure in common"]
    else:
        judged = sum(row.budget is not None for row in record.figures)
        status, said = Status.GREEN, [f"{judged} figures are judged, and within their budgets"]
    color = {Status.GREEN: "green", Status.RED: "bold red", Status.INCONCLUSIVE: "yellow"}[status]
    screen.print(f"[{color}]{status.name}[/]: {escape('; '.join(said))}", soft_wrap=True)
    return status


# --------------------------------------------------------------------------- measuring


def _measured(options: argparse.Namespace) -> Record:
    """Measure what was asked for; what an interrupt leaves is kept."""
    sizes = _QUICK if options.quick else _FULL
    if options.rounds is not None:
        sizes = replace(sizes, pace=replace(sizes.pace, rounds=options.rounds))
    asked = tuple(options.only or names())
    disk.check_places([(tempfile.gettempdir(), "TMPDIR", sizes.disk)])
    figures: list[Row] = []
    calls: list[Call] = []
    interrupted = False
    with Screen(stderr=True).status("measuring") as status:
        try:
            for found in measure(sizes, asked):
                (calls if isinstance(found, Call) else figures).append(found)  # type: ignore[arg-type]
                status.update(f"measured: {escape(found.name)}")
        except KeyboardInterrupt:
            interrupted = True
    return Record(
        FORMAT,
        datetime.now(timezone.utc).isoformat(timespec="seconds"),
        _command(options),
        interrupted,
        sizes.pace.rounds,
        sizes.rows,
        _versions(),
        machine.machine(),
        figures,
        calls,
    )


def measure(sizes: Sizes, asked: tuple[str, ...]) -> Iterator[Row | Call]:
    """Measure workloads, on databases that are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="stress-bench-") as directory:
        wanted = [each for each in WORKLOADS if each.name in asked]
        yield from running.measure(directory, wanted, sizes.rows, sizes.pace)
        yield from handles.measure(directory, asked, sizes.most, sizes.pace)
        if not set(asked).isdisjoint(imports.NAMES):
            yield from imports.measure(sizes.pace)
        if not set(asked).isdisjoint(interpreter_lock.NAMES):
            yield from interpreter_lock.measure(directory)


def _versions() -> dict[str, str]:
    found = machine.versions()
    stores = {name: metadata.version(_OTHERS[name]) for name in others.installed()}
    return {name: found[name] for name in ("saferocks", "rocksdict", "python", "platform")} | stores


def _command(options: argparse.Namespace) -> str:
    words = ["--quick"] * options.quick
    words += [word for name in options.only or () for word in ("--only", name)]
    words += ["--rounds", str(options.rounds)] if options.rounds is not None else []
    return shlex.join(["python", "-m", "stress", "bench", *words])


# --------------------------------------------------------------------------- writing


def _check_outputs(options: argparse.Namespace) -> None:
    """Refuse what could not be written, before anything is measured."""
    if options.json not in (None, _STDOUT):
        folder = os.path.dirname(os.path.abspath(options.json))
        if os.path.isdir(options.json) or not os.path.isdir(folder):
            raise UsageError(f"cannot write {options.json!r}; give --json a file in a directory that there is")
    if options.json == options.markdown == _STDOUT:
        raise UsageError("--json - and --markdown both want stdout; give one of them a file")
    if options.markdown not in (None, _STDOUT):
        _page(options.markdown, "")


def _page(path: str, text: str) -> str:
    """Return a page with a text between its marks."""
    try:
        with open(path, encoding="utf-8") as file:
            found = tables.renewed(file.read(), text)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path!r} ({error}); give --markdown a page") from None
    if found is None:
        begin, end = tables.MARKS
        raise UsageError(f"{path!r} has no place for figures; give --markdown a page with {begin} and {end}")
    return found


def _write_markdown(path: str, record: Record) -> None:
    text = tables.as_markdown(record)
    _write(path, text if path == _STDOUT else _page(path, text).rstrip("\n"))


def _write(path: str, text: str) -> None:
    """Write a text, whole or not at all."""
    if path == _STDOUT:
        say(text)
        return
    beside = f"{path}.{os.getpid()}.new"
    try:
        with open(beside, "w", encoding="utf-8") as file:
            file.write(text + "\n")
        os.replace(beside, path)
    except OSError as error:
        raise UsageError(
            f"cannot write {path!r} ({error.strerror or error}); give a file that can be written"
        ) from None
