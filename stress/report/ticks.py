"""Axes: where the ticks are, in which unit, and how numbers are written."""

from __future__ import annotations

import math
from dataclasses import dataclass

_STEPS = (1.0, 2.0, 5.0, 10.0)
#: Below it a step would vanish.
_TINY = 1e-300
#: What a float may be short by: 3 * 0.1 is more than 0.3.
_SLACK = 1 - 1e-9


@dataclass(frozen=True)
class Unit:
    """What an axis is labelled in.

    Attributes:
        name: As it is written; empty for plain counts.
        size: How many of the recorded unit it is.
    """

    name: str
    size: float


_UNITS = {
    "bytes": (Unit("B", 1.0), Unit("KiB", 2.0**10), Unit("MiB", 2.0**20), Unit("GiB", 2.0**30)),
    "latency": (Unit("\N{MICRO SIGN}s", 1e-6), Unit("ms", 1e-3), Unit("s", 1.0)),
    "time": (Unit("s", 1.0), Unit("min", 60.0), Unit("h", 3600.0)),
    "count": (Unit("", 1.0), Unit("thousand", 1e3), Unit("million", 1e6)),
}
#: An axis changes to a larger unit once it holds so many of it.
_ENOUGH = {"bytes": 1.0, "latency": 1.0, "time": 3.0, "count": 100.0}


def unit_for(kind: str, highest: float) -> Unit:
    """Return the unit in which an axis up to this value reads best.

    Args:
        kind: `bytes`, `latency`, `time` (of a run) or `count`.
        highest: The highest value, in bytes, seconds or as counted.
    """
    fitting = [unit for unit in _UNITS[kind] if abs(highest) >= _ENOUGH[kind] * unit.size]
    return fitting[-1] if fitting else _UNITS[kind][0]


def step_for(span: float, most: int) -> float:
    """Return the smallest of 1, 2 or 5 times a power of ten that cuts a span into at most `most` parts."""
    least = max(span / most, _TINY)
    power = 10.0 ** math.floor(math.log10(least))
    return next((step * power for step in _STEPS if step * power >= least * _SLACK), 10.0 * power)


def ticks(high: float, most: int = 5, low: float = 0.0, *, whole: bool = False) -> list[float]:
    """Return the ticks of an axis that holds 0: round numbers, evenly spaced, from `low` or below to `high` or above.

    Args:
        high: The highest value to be shown; an axis of nothing goes from 0 to 1.
        most: About how many intervals between ticks.
        low: The lowest value to be shown, if that is below 0.
        whole: Whether there is nothing between whole numbers.
    """
    top, bottom = max(high, 0.0), min(low, 0.0)
    if top == bottom:
        top = 1.0
    step = max(step_for(top - bottom, most), 1.0 if whole else 0.0)
    first, last = (math.floor(bottom / step * _SLACK), math.ceil(top / step * _SLACK))
    return [float(f"{index * step:.12g}") for index in range(first, max(last, first + 1) + 1)]


def ticks_within(high: float, most: int = 6) -> list[float]:
    """Return the ticks of an axis from 0 that ends at `high` itself."""
    return [tick for tick in ticks(high, most) if tick <= high / _SLACK]


def number(value: float) -> str:
    """Write a number for people: three or four digits that count, thousands set apart."""
    if not math.isfinite(value):
        return "not known"
    size = abs(value)
    if size >= 99.95 or value == int(value):
        return _signed(f"{value:,.0f}") if size < 1e15 else _signed(f"{value:.3g}")
    digits = 1 if size >= 9.995 else 2 if size >= 0.1 else 4
    shown = f"{value:.{digits}f}" if size >= 0.001 else f"{value:.2g}"
    return _signed(shown)


def tick_label(value: float) -> str:
    """Write a tick: as short as it is round."""
    return _signed(f"{value:,.10g}" if abs(value) < 1e9 else f"{value:.10g}")


def _signed(shown: str) -> str:
    """Put a real minus sign, and none before nothing."""
    negative = shown.startswith("-") and any(digit in "123456789" for digit in shown.partition("e")[0])
    return f"\N{MINUS SIGN}{shown[1:]}" if negative else shown.removeprefix("-")


def quantity(kind: str, value: float) -> str:
    """Write a value with the unit that reads best."""
    unit = unit_for(kind, value)
    return f"{number(value / unit.size)}\N{NO-BREAK SPACE}{unit.name}" if unit.name else number(value)
