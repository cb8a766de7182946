"""How fast the signals of a leg rise, and how slow its scans are: what two runs are compared by."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from stress.reduction import MIN_BLOCKS, Measured
from stress.verdict import rise

if TYPE_CHECKING:
    from stress.samples import LegData

#: The signals whose growth is compared, in the order in which they are shown; all are bytes.
GROWING = ("heap", "rss", "uss", "pinned_memtables", "sst_total")
LATENCY = "scan_seconds"
_HOUR = 3600.0
#: Half the width of a normal distribution's 95 % interval, in standard deviations.
_NORMAL_95 = 1.96


@dataclass(frozen=True)
class Trend:
    """One signal of one leg, whatever the length of the run.

    Attributes:
        figure: Growth in bytes per hour; for the scans the median of the blocks' medians, in seconds.
        low: Lower end of its confidence interval.
        high: Upper end of it.
        level: The median of the blocks' lowest samples, in the unit of the signal.
        seconds: How long it was measured.
    """

    figure: float
    low: float
    high: float
    level: float
    seconds: float


def trends(data: LegData) -> dict[str, dict[str, Any]]:
    """Return the trend of each signal that has one, as JSON has it."""
    found = {name: growth(data.measured(name)) for name in GROWING}
    found[LATENCY] = latency(data.measured(LATENCY))
    return {name: asdict(trend) for name, trend in found.items() if trend is not None}


def growth(measured: Measured) -> Trend | None:
    """Return the growth per hour of a signal, or None if too little was measured to tell."""
    if len(measured.floor) < MIN_BLOCKS or measured.span <= 0:
        return None
    found, hours = rise(measured), measured.span / _HOUR
    return Trend(found.middle / hours, found.low / hours, found.high / hours, median(measured.floor), measured.span)


def latency(measured: Measured) -> Trend | None:
    """Return the median of the blocks' medians, or None if too little was measured to tell.

    The interval is that of the order statistics: it holds for any distribution.
    """
    count = len(measured.medians)
    if count < MIN_BLOCKS or measured.span <= 0:
        return None
    ordered = sorted(measured.medians)
    reach = _NORMAL_95 * math.sqrt(count) / 2
    low = ordered[max(0, math.floor(count / 2 - reach))]
    high = ordered[min(count - 1, math.ceil(count / 2 + reach))]
    return Trend(median(measured.medians), low, high, median(measured.floor), measured.span)
