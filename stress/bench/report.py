"""The benchmark's command and its table."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from stress.bench import handles, rows
from stress.terminal import Screen, say

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from stress.bench.measure import Row


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        points: Point operations in a round.
        rows: Rows of the databases that are read.
        repeats: Handles that a round opens and releases.
        many: Handles held open in the scaling test.
        closing: Handles open when a database closes.
    """

    points: int = 1000
    rows: int = rows.ROWS
    repeats: int = 1000
    many: int = 1_000_000
    closing: int = 100_000


_FULL = Sizes()
_QUICK = Sizes(many=100_000)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bench` to its parser."""
    parser.add_argument("--quick", action="store_true", help="measure less: 100,000 handles open rather than 1,000,000")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a figure is over its budget")


def run(options: argparse.Namespace) -> int:
    """Measure, print the figures, and return the exit status."""
    console = Screen(stderr=True)
    with console.status("measuring") as status:
        measured: list[Row] = []
        for row in measure(_QUICK if options.quick else _FULL):
            measured.append(row)
            status.update(f"measured: {row.workload}")
    if options.json:
        say(json.dumps([{**asdict(row), "over": row.is_over} for row in measured], indent=2))
    else:
        Screen().print(table(measured))
    return int(options.check and any(row.is_over for row in measured))


def measure(sizes: Sizes) -> Iterator[Row]:
    """Measure everything, on databases that are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="stress-bench-") as directory:
        yield from rows.measure(directory, sizes.points, sizes.rows)
    with tempfile.TemporaryDirectory(prefix="stress-bench-") as directory:
        yield from handles.measure(directory, sizes.repeats, sizes.many, sizes.closing)


def table(measured: list[Row]) -> Table:
    """Return the table of figures, red where they are over their budget."""
    made = Table(box=box.SIMPLE)
    made.add_column("workload", no_wrap=True)
    for name in ("bare ns", "saferocks ns", "ratio", "budget"):
        made.add_column(name, justify="right", no_wrap=True)
    for row in measured:
        costs = ("" if cost is None else f"{cost:,.0f}" for cost in (row.base, row.cost))
        color = "bold red" if row.is_over else "green"
        made.add_row(row.workload, *costs, f"[{color}]{_figure(row)}[/]", f"{row.budget:g}")
    return made


def _figure(row: Row) -> str:
    if row.unit == "bytes":
        return f"{row.figure:.0f} bytes"
    return f"{row.figure:.2f}" if row.unit == "x" else f"{row.figure:+.2f} us"
