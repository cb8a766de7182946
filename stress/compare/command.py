"""The command `compare`: its options, its table and its JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
from rich import box
from rich.markup import escape
from rich.table import Table

from stress.compare.rules import Comparison, Line, compare_runs, is_judged
from stress.errors import UsageError
from stress.judging import Status
from stress.runfile import RunFileError, load_run
from stress.terminal import Screen, say
from stress.trends import LATENCY, Trend

if TYPE_CHECKING:
    import argparse

    from rich.console import Console

_MIB = 1 << 20
#: The largest figure that is taken for one.
_LARGEST = 1e100
_COLORS = {Status.GREEN: "green", Status.RED: "bold red", Status.INCONCLUSIVE: "yellow"}
_SAID = {
    Status.GREEN: "nothing has become worse",
    Status.RED: "something has become worse",
    Status.INCONCLUSIVE: "the runs have no measured leg in common, so nothing could be compared",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `compare`."""
    parser.epilog = "exit status: 0 nothing has become worse, 1 something has, 2 bad usage, 3 nothing to compare"
    parser.add_argument("old", metavar="OLD", help="the run.json of the earlier run")
    parser.add_argument("new", metavar="NEW", help="the run.json of the later run")
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")


def run(options: argparse.Namespace) -> int:
    """Compare two runs, and return the exit status.

    Raises:
        UsageError: If one of the files is not the record of a run.
    """
    old, new = _loaded(options.old), _loaded(options.new)
    try:
        found = compare_runs(old, new)
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        text = f"{options.old!r} or {options.new!r} lacks fields of a run ({error!r}); give them as runs have left them"
        raise UsageError(text) from None
    if options.json:
        say(json.dumps(_as_json(found), indent=2))
    else:
        _show(Screen(), found)
    return found.status.value


def _loaded(path: str) -> dict[str, Any]:
    """Load a run, and refuse one with figures that are none: they would compare as neither more nor less."""
    run = load_run(path)
    try:
        found = msgspec.convert([leg["trends"] for leg in run["results"]], list[dict[str, Trend]])
        figures = [figure for trends in found for trend in trends.values() for figure in vars(trend).values()]
        damaged = None if all(abs(figure) <= _LARGEST for figure in figures) else "a figure is no finite number"
    except (msgspec.ValidationError, LookupError, TypeError, OverflowError) as error:
        damaged = f"{type(error).__name__}: {error}"
    if damaged is not None:
        raise RunFileError(f"{path!r} has damaged trends ({damaged}); give the run.json as a run has left it")
    return run


def _as_json(found: Comparison) -> dict[str, object]:
    lines = [{**vars(line), "ratio": line.ratio} for line in found.lines]
    return {
        "status": found.status.name.lower(),
        "regressions": found.regressions,
        "notes": found.notes,
        "lines": lines,
    }


def _show(console: Console, found: Comparison) -> None:
    console.print(_table(found))
    for note in found.notes:
        console.print(escape(note), soft_wrap=True)
    for regression in found.regressions:
        console.print(f"[bold red]worse[/]: {escape(regression)}", soft_wrap=True)
    console.print(f"[{_COLORS[found.status]}]{found.status.name}[/]: {_SAID[found.status]}", soft_wrap=True)


def _table(found: Comparison) -> Table:
    title = "growth in MiB per hour, with its 95 % interval; scans in ms"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("signal", no_wrap=True)
    for name in ("old", "new", "ratio"):
        table.add_column(name, justify="right", overflow="fold")
    shown = ""
    for line in found.lines:
        leg = f"{line.scenario} {line.leg}"
        if leg != shown:
            table.add_row(f"[bold]{leg}[/]" + ("" if is_judged(line.leg) else " (not judged)"))
            shown = leg
        ratio = "" if line.ratio is None else f"{line.ratio:.2f}"
        cells = (f"  {line.signal}", _figure(line, line.old), _figure(line, line.new), ratio)
        table.add_row(*cells, style="bold red" if line.regression else "")
    return table


def _figure(line: Line, trend: dict[str, float]) -> str:
    unit = 1e-3 if line.signal == LATENCY else _MIB
    figure, low, high = (_rounded(trend[name] / unit) for name in ("figure", "low", "high"))
    return figure if figure == low == high else f"{figure} ({low} to {high})"


def _rounded(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"
