"""The figures for a reader: tables for the terminal, and the same as Markdown for a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from stress.bench.earlier import Change
    from stress.bench.record import Call, Record, Row

_JUDGED = ("workload", "base ns", "saferocks ns", "least", "figure", "budget", "goal")
#: The columns of the second table: ratios to bare rocksdict.
_COLUMNS = ("off", "saferocks", "stack", "raise", "leases", "least", "plyvel", "lmdb", "rocksdb")
_HEADINGS = {"saferocks": "site"}
MARKS = ("<!-- figures: begin -->", "<!-- figures: end -->")


def show(console: Console, record: Record) -> None:
    """Print the tables of a record."""
    if record.figures:
        console.print(_table("costs: medians of the rounds", _JUDGED, [_judged_cells(row) for row in record.figures]))
    if _compared(record):
        headings, lines = _ratio_lines(record)
        console.print(_table("ratios to bare rocksdict", headings, [(line, "") for line in lines]))
    if record.calls:
        console.print(_table("rocksdict's calls", _CALLS, [(_call_cells(call), "") for call in record.calls]))


def show_changes(console: Console, changes: Sequence[Change], notes: Sequence[str]) -> None:
    """Print what has become of an earlier benchmark's figures."""
    lines = [
        (
            (change.new.name, _figure(change.old), _figure(change.new), "worse" if change.is_worse else ""),
            "bold red" if change.is_worse else "",
        )
        for change in changes
    ]
    console.print(_table("compared with the earlier benchmark", ("workload", "then", "now", ""), lines))
    for note in notes:
        console.print(escape(note), soft_wrap=True)


def _table(title: str, headings: Sequence[str], lines: Sequence[tuple[Sequence[str], str]]) -> Table:
    made = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for number, heading in enumerate(headings):
        made.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for cells, style in lines:
        made.add_row(*map(escape, cells), style=style)
    return made


def _judged_cells(row: Row) -> tuple[tuple[str, ...], str]:
    least = row.ratios.get("least")
    over = " over" if row.is_over else ""
    cells = (
        row.name,
        _cost(row, row.base if row.base in row.costs else "bare"),
        _cost(row, row.judged),
        "" if least is None else f"{least:.2f}",
        _figure(row) + over,
        "" if row.budget is None else f"{row.budget:g}",
        "" if row.goal is None else f"{row.goal:g}",
    )
    return cells, _style(row)


def _style(row: Row) -> str:
    if row.is_over:
        return "bold red"
    if row.budget is None:
        return "dim"
    return "yellow" if row.goal is not None and row.figure > row.goal else "green"


def _cost(row: Row, column: str) -> str:
    cost = row.costs.get(column)
    return "" if cost is None else f"{cost:,.0f}"


def _figure(row: Row) -> str:
    if row.unit == "x":
        return f"{row.figure:.2f}"
    if row.unit == "us" and row.base in row.costs:
        return f"{row.figure:+.2f} us"
    return f"{row.figure:,.0f} bytes" if row.unit == "bytes" else f"{row.figure:,.2f} {row.unit}"


def _compared(record: Record) -> list[Row]:
    """Return the rows that have ratios, each contest once."""
    return [row for row in record.figures if len(row.ratios) > 1 and row.judged == "saferocks"]


def _ratio_lines(record: Record) -> tuple[list[str], list[list[str]]]:
    rows = _compared(record)
    columns = [name for name in _COLUMNS if any(name in row.ratios for row in rows)]
    lines = [[row.name, *(f"{row.ratios[name]:.2f}" if name in row.ratios else "" for name in columns)] for row in rows]
    return ["workload", *(_HEADINGS.get(name, name) for name in columns)], lines


_CALLS = ("call", "other threads run", "their turns", "calls")


def _call_cells(call: Call) -> list[str]:
    return [call.name, "yes" if call.releases else "no", f"{call.turns:,}", f"{call.calls:,}"]


# --------------------------------------------------------------------------- Markdown


def as_markdown(record: Record) -> str:
    """Return the tables of a record as Markdown, between the marks at which they are renewed."""
    machine = record.machine
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items() if name != "platform")
    said = (
        f"`{record.command}`, {record.started[:10]}: {machine['cpu']}, {machine['cores']} cores; {versions}. "
        f"Medians of {record.rounds} rounds; {record.rows:,} rows."
    )
    parts = [MARKS[0], "", said]
    if record.figures:
        parts += ["", *_markdown(_JUDGED, [_judged_cells(row)[0] for row in record.figures])]
    if _compared(record):
        parts += ["", "Each column as a ratio to bare rocksdict:", "", *_markdown(*_ratio_lines(record))]
    if record.calls:
        parts += ["", "Which calls of rocksdict let other threads run:", ""]
        parts += _markdown(_CALLS, [_call_cells(call) for call in record.calls])
    return "\n".join([*parts, "", MARKS[1]])


def _markdown(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---"] + ["---:"] * (len(headings) - 1)
    return [f"| {' | '.join(cells)} |" for cells in (headings, rule, *lines)]


def renewed(page: str, text: str) -> str | None:
    """Return a page with other figures between its marks; None if it has no such place."""
    before, begin, rest = page.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    return before + text + after if begin and end else None
