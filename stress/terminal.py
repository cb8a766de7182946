"""What a run shows in the terminal: live progress of each leg, then the table of verdicts."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from statistics import median
from typing import IO, TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from stress.judging import EXPECTED, HEAP_BUDGET, LegReport, Status
from stress.samples import latest_sample
from stress.verdict import Judgement, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from stress.jobs import LegJob
    from stress.record import Record

_MIB = 1 << 20
_COLORS = {Status.GREEN: "green", Status.RED: "bold red", Status.INCONCLUSIVE: "yellow"}


class Screen(Console):
    """A console whose reader may go away: what is found and recorded does not depend on who looks on."""

    def on_broken_pipe(self) -> None:
        """Let what is still shown go nowhere, instead of ending the program."""
        _forsake(self.file)


def say(text: str, stream: IO[str] | None = None) -> None:
    """Print to stdout, or to another stream, whose reader may have gone away."""
    target = sys.stdout if stream is None else stream
    try:
        print(text, file=target, flush=True)
    except BrokenPipeError:
        _forsake(target)


def _forsake(stream: IO[str]) -> None:
    """Point a stream at nothing; what it still holds is written there, also at the end of the program."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, stream.fileno())
    os.close(nothing)


class Watch:
    """The live progress of the legs, read from the files that they stream to."""

    def __init__(self, progress: Progress, jobs: Iterable[LegJob]) -> None:
        self._progress = progress
        self._tasks = {
            job: progress.add_task(job.title, total=job.seconds, start=False, details="waiting") for job in jobs
        }
        self._begun: set[LegJob] = set()

    def refresh(self) -> None:
        """Show the latest samples."""
        for job, task in self._tasks.items():
            sample = latest_sample(job.file)
            if not sample:
                continue
            if job not in self._begun:
                self._begun.add(job)
                self._progress.start_task(task)
            self._progress.update(task, completed=sample["time"], details=_details(sample))

    def finish(self, report: LegReport) -> None:
        """Show what came out of a leg."""
        task = self._tasks.pop(report.job)
        shown = f"[{_COLORS[report.status]}]{report.verdict.name}[/]"
        self._progress.update(task, completed=report.job.seconds, details=shown)
        self._progress.stop_task(task)


def _details(sample: dict[str, float]) -> str:
    return (
        f"heap {sample['heap'] / _MIB:.1f} MiB, pinned {sample['pinned_memtables'] / _MIB:.1f} MiB, "
        f"{sample['open_handles']:.0f} open"
    )


@contextmanager
def watching(console: Console, jobs: Iterable[LegJob]) -> Iterator[Watch]:
    """Show live progress for the length of a block."""
    columns = (
        TextColumn("{task.description:21}"),
        BarColumn(12),
        TimeElapsedColumn(),
        TextColumn("{task.fields[details]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield Watch(progress, jobs)


def verdict_table(reports: Iterable[LegReport]) -> Table:
    """Return the table of verdicts; what is at the right of the heap is shown and not judged."""
    title = f"verdicts (the heap may grow by {HEAP_BUDGET / _MIB:g} MiB)"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, collapse_padding=True)
    table.add_column("scenario", no_wrap=True)
    table.add_column("leg", no_wrap=True)
    table.add_column("verdict", min_width=max(len(verdict.name) for verdict in Verdict))
    for name in (
        "held",
        "pinned\nMiB",
        "heap\n+MiB",
        "RSS\nMiB",
        "SST\nMiB",
        "scan\nms",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for report in reports:
        table.add_row(report.job.scenario, report.job.leg, _verdict(report), *_figures(report))
    return table


def _verdict(report: LegReport) -> str:
    must = EXPECTED[report.job.leg]
    said = report.verdict.name if report.verdict is must else f"{report.verdict.name}\nmust be {must.name}"
    return f"[{_COLORS[report.status]}]{said}[/]"


def _figures(report: LegReport) -> tuple[str, ...]:
    judged = {judgement.signal: judgement for judgement in report.judgements}
    return (
        f"{_late(report, 'open_handles'):.0f}",
        f"{_late(report, 'pinned_memtables') / _MIB:.1f}",
        _growth(judged["heap"]),
        f"{_late(report, 'rss') / _MIB:.0f}",
        f"{_late(report, 'sst_total') / _MIB:.0f}",
        f"{_late(report, 'scan_seconds') * 1000:.2f}",
    )


def _late(report: LegReport, signal: str) -> float:
    """Return the median of a signal over the last tenth of the leg."""
    values = report.data.series.get(signal, [])
    return median(values[-max(1, len(values) // 10) :]) if values else 0.0


def _growth(heap: Judgement) -> str:
    unknown = heap.low == heap.high == 0 and heap.verdict is Verdict.INCONCLUSIVE
    return "?" if unknown else f"{heap.figure / _MIB:.1f}"


def _leg_table(title: str, content: dict[str, Any]) -> Table:
    """Return the table that a leg has made."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for name in content["columns"]:
        table.add_column(escape(str(name)), justify="right")
    for row in content["rows"]:
        table.add_row(*(escape(_cell(cell)) for cell in row))
    return table


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)


def show_result(console: Console, record: Record) -> None:
    """Print the table, the lines that the guard named, and what came out."""
    console.print(verdict_table(record.reports))
    for report in record.reports:
        if report.data.table is not None:
            console.print(_leg_table(report.job.title, report.data.table))
    for report in record.reports:
        if report.job.leg == "guarded" or report.status is not Status.GREEN:
            console.print(f"[{_COLORS[report.status]}]{report.job.title}[/]: {escape(report.reason)}", soft_wrap=True)
    status = record.status
    console.print(f"[{_COLORS[status.status]}]{status.status.name}[/]: {escape(status.reason)}", soft_wrap=True)
    console.print(f"record: {escape(record.file)}\nreplay: {escape(record.plan.command)}", soft_wrap=True)
