"""What a run of faults shows in the terminal: its progress, the rounds that were not right, the table."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from stress.faults.process import Finding, Verdict
from stress.judging import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import Console

    from stress.faults.results import FaultRecord, Tally

_COLORS = {Status.GREEN: "green", Status.RED: "bold red", Status.INCONCLUSIVE: "yellow"}
_SHOWN = {
    Verdict.RIGHT: "green",
    Verdict.WRONG: "bold red",
    Verdict.HANG: "bold red",
    Verdict.CRASH: "bold red",
    Verdict.NOT_RUN: "yellow",
}
_BAD = (Verdict.WRONG, Verdict.HANG, Verdict.CRASH)


class Watch:
    """The live progress of one fault after another.

    Args:
        progress: What is shown; it has no thread of its own, which the process that forks must not have.
        verbose: Whether each round has a line.
    """

    def __init__(self, progress: Progress, verbose: bool) -> None:
        self._progress = progress
        self._verbose = verbose
        self._tally: Tally | None = None
        self._task = progress.add_task("", visible=False, total=None)

    def begin(self, tally: Tally) -> None:
        """Show another fault from now on."""
        self._progress.stop_task(self._task)
        self._tally = tally
        self._task = self._progress.add_task(tally.name, total=tally.planned, details="")

    def refresh(self) -> None:
        """Show how far it is; does nothing where there is no terminal."""
        if self._tally is not None and not self._progress.disable:
            bad = f"[bold red]{self._tally.bad} not right[/]" if self._tally.bad else "all right"
            self._progress.update(self._task, completed=sum(self._tally.verdicts.values()), details=bad, visible=True)
            self._progress.refresh()

    def finish(self, finding: Finding) -> None:
        """Show what came out of a round, if it was not right or everything is to be shown."""
        if not self._verbose and finding.verdict not in _BAD:
            return
        said = "; ".join(finding.wrong)
        shown = f"[{_SHOWN[finding.verdict]}]{finding.verdict.value}[/]"
        where = f"\n  its files: {escape(finding.kept)}" if finding.kept else ""
        self._progress.console.print(
            f"{finding.fault} {finding.seed} {shown} {finding.seconds:.2f} s{': ' if said else ''}{escape(said)}\n"
            f"  replay: {escape(finding.replay)}{where}",
            soft_wrap=True,
        )


@contextmanager
def watching(console: Console, verbose: bool) -> Iterator[Watch]:
    """Show live progress for the length of a block."""
    columns = (
        TextColumn("{task.description:10}"),
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[details]}"),
    )
    with Progress(*columns, console=console, auto_refresh=False, disable=not console.is_terminal) as progress:
        yield Watch(progress, verbose)


def show_result(console: Console, record: FaultRecord) -> None:
    """Print the table, what was counted, what came out, and how to repeat it."""
    console.print(fault_table(record.tallies))
    console.print(counted_table(record.tallies))
    status = record.status
    console.print(f"[{_COLORS[status.status]}]{status.status.name}[/]: {escape(status.reason)}", soft_wrap=True)
    console.print(f"record: {escape(record.file)}\nreplay: {escape(record.plan.command)}", soft_wrap=True)


def fault_table(tallies: Iterable[Tally]) -> Table:
    """Return the table of the faults."""
    table = Table(title="faults", title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("fault", no_wrap=True)
    for name in ("rounds", "right", "wrong", "hangs", "crashes", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for tally in tallies:
        table.add_row(escape(tally.name), *_figures(tally))
    return table


def counted_table(tallies: Iterable[Tally]) -> Table:
    """Return what was counted in the rounds of each fault, and why some were not run."""
    table = Table(box=None, padding=(0, 1, 1, 1), pad_edge=False, show_header=False)
    table.add_column("fault", no_wrap=True)
    table.add_column("counted")
    for tally in tallies:
        table.add_row(f" {escape(tally.name)}", _counted(tally))
    return table


def _figures(tally: Tally) -> tuple[str, ...]:
    if not tally.rounds:
        return ("[yellow]not run[/]", "", "", "", "", "")
    bad = tuple(_alarm(tally.verdicts[verdict]) for verdict in _BAD)
    return (f"{tally.rounds:,}", f"{tally.verdicts[Verdict.RIGHT]:,}", *bad, f"{tally.seconds:,.1f}")


def _alarm(number: int) -> str:
    return f"[bold red]{number:,}[/]" if number else "0"


def _counted(tally: Tally) -> str:
    counts = "; ".join(f"{escape(name)} [bold]{number:,}[/]" for name, number in sorted(tally.counts.items()))
    not_run = tally.verdicts[Verdict.NOT_RUN]
    often = f"{not_run:,} rounds not run" if tally.rounds else "not run"
    reasons = [f"[yellow]{often}: {escape(reason)}[/]" for reason in tally.reasons]
    return "\n".join([*([counts] if counts else []), *reasons])
