"""The tables of figures: the key ones of each leg, the verdicts on its signals, RocksDB's own numbers."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from stress.report.signals import GROWING, ROCKSDB, Signal, signal_of
from stress.report.ticks import quantity

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stress.report.source import Judged, LegResult

UNKNOWN = "not known"


@dataclass(frozen=True)
class Figures:
    """The key figures of a leg, written out: the median of its last tenth, and how much its heap grew."""

    held: str = ""
    pinned: str = ""
    heap: str = ""
    rss: str = ""
    sst: str = ""
    scan: str = ""


@dataclass(frozen=True)
class LegCell:
    """What a table says of one leg.

    Attributes:
        text: The figure.
        detail: Its interval, or whatever else there is to it.
        verdict: `pass`, `fail` or `inconclusive`; empty where nothing was judged.
        reason: Why.
    """

    text: str
    detail: str = ""
    verdict: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Row:
    """A signal's row: a cell for each leg, or None where the leg has no such signal."""

    signal: Signal
    allowed: str
    cells: tuple[LegCell | None, ...]


def present(values: Iterable[float | None]) -> list[float]:
    """Return the samples that are not missing."""
    return [value for value in values if value is not None]


def late(values: Sequence[float | None]) -> float | None:
    """Return the median of the last tenth of the samples; None if none is there."""
    kept = present(values[-max(1, len(values) // 10) :])
    return median(kept) if kept else None


def figures_of(result: LegResult) -> Figures:
    """Return the key figures of a leg."""

    def shown(name: str) -> str:
        value = late(result.series.get(name, []))
        return "" if value is None else quantity(signal_of(name).kind, value)

    heap = next((judged for judged in result.judgements if judged.signal == "heap"), None)
    growth = _figure(heap) if heap else ""
    return Figures(
        shown("open_handles"),
        shown("pinned_memtables"),
        growth,
        shown("rss"),
        shown("sst_total"),
        shown("scan_seconds"),
    )


def judgement_rows(results: Sequence[LegResult]) -> tuple[Row, ...]:
    """Return the verdicts on every signal that was judged, a column for each leg."""
    judged = [{found.signal: found for found in result.judgements} for result in results]
    names = dict.fromkeys(name for found in judged for name in found)
    return tuple(_judgement_row(name, [found.get(name) for found in judged]) for name in names)


def _judgement_row(name: str, found: Sequence[Judged | None]) -> Row:
    signal = signal_of(name)
    budget = next((each.budget for each in found if each and _is_known(each) and each.budget is not None), None)
    cells = tuple(None if each is None else _judgement_cell(signal, each) for each in found)
    return Row(signal, "" if budget is None else _allowed(signal, budget), cells)


def _allowed(signal: Signal, budget: float) -> str:
    shown = quantity(signal.kind, budget)
    return f"+{shown}" if signal.name in GROWING else shown


def _judgement_cell(signal: Signal, judged: Judged) -> LegCell:
    detail = ""
    if _is_known(judged) and judged.low is not None and judged.high is not None and judged.low != judged.high:
        detail = f"{quantity(signal.kind, judged.low)} to {quantity(signal.kind, judged.high)}"
    return LegCell(_figure(judged), detail, judged.verdict, judged.reason)


def _figure(judged: Judged) -> str:
    if not _is_known(judged) or judged.figure is None:
        return UNKNOWN
    shown = quantity(signal_of(judged.signal).kind, judged.figure)
    return f"+{shown}" if judged.signal in GROWING and judged.figure > 0 else shown


def _is_known(judged: Judged) -> bool:
    """Tell a figure from the zeros that stand for none."""
    return judged.verdict != "inconclusive" or bool(judged.low or judged.high)


def rocksdb_rows(results: Sequence[LegResult]) -> tuple[Row, ...]:
    """Return RocksDB's own numbers: where each leg ended, and the most there was."""
    names = [name for name in ROCKSDB if any(name in result.series for result in results)]
    return tuple(Row(signal_of(name), "", tuple(_number_cell(name, result) for result in results)) for name in names)


def _number_cell(name: str, result: LegResult) -> LegCell | None:
    kind = signal_of(name).kind
    values = result.series.get(name, [])
    last, everything = late(values), present(values)
    if last is None or not everything:
        return None
    return LegCell(quantity(kind, last), f"most {quantity(kind, max(everything))}")
