"""From samples to curves: scaled to their unit, thinned, with axes that suit all legs of a chart."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import itemgetter
from statistics import median
from typing import TYPE_CHECKING

from stress.reduction import after_warm_up
from stress.report.signals import AGE, GROWING, TIME, Signal, drawn
from stress.report.thinning import kept_dots, kept_indices
from stress.report.ticks import Unit, number, quantity, ticks, ticks_within, unit_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from stress.report.source import LegResult

#: Points of a curve that uPlot draws; the page of a night has to stay readable on a phone.
MOST_POINTS = 240
#: A budget that is so many times above everything seen is not worth the height of the chart.
_BUDGET_IN_SIGHT = 3.0
#: An axis that would be shorter is of length 1, with everything at its start.
_SHORTEST = 1e-9

Values = list[float | None]


@dataclass(frozen=True)
class Curve:
    """The samples of one leg, in the units of its chart.

    Attributes:
        leg: The leg's name.
        colour: The number of its colour.
        xs: Time or age, strictly ascending.
        ys: The signal; None is a gap.
        dots: Whether to draw dots and no line, because the samples are in no order along x.
    """

    leg: str
    colour: int
    xs: list[float]
    ys: Values
    dots: bool = False

    @property
    def dot_size(self) -> float:
        """How wide its dots are; of single dots in one place, each leg's is to be seen around the next one's."""
        return 5.0 if len(self.xs) > 1 else max(5.0, 13.0 - 4.0 * self.colour)


@dataclass(frozen=True)
class Budget:
    """The most that is allowed: at which height, and how it is said."""

    at: float
    said: str


@dataclass(frozen=True)
class Chart:
    """One signal, for all legs of a scenario.

    Attributes:
        signal: What is drawn.
        x_title: What the x axis is, with its unit.
        x_unit: The unit alone.
        y_unit: The unit of the y axis; empty for counts.
        x_ticks: From 0, to the last sample at most.
        y_ticks: They hold 0 and everything drawn.
        x_end: Where the x axis ends.
        warm_up: Where the warm-up ends; None if the chart has none.
        budget: The most that is allowed, if it is in sight.
        curves: The legs.
    """

    signal: Signal
    x_title: str
    x_unit: str
    y_unit: str
    x_ticks: tuple[float, ...]
    y_ticks: tuple[float, ...]
    x_end: float
    warm_up: float | None
    budget: Budget | None
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Charts:
    """The charts of a scenario.

    Attributes:
        over_time: A signal each, over time.
        over_age: A signal each, against the age of the oldest handle.
        quiet: Titles of the signals that were 0 throughout.
    """

    over_time: tuple[Chart, ...]
    over_age: tuple[Chart, ...]
    quiet: tuple[str, ...]


def charts_of(results: Sequence[LegResult], colours: Mapping[str, int]) -> Charts:
    """Draw up the charts of a scenario."""
    signals = drawn(name for result in results for name in result.series)
    shown = [signal for signal in signals if signal.always or _ever(results, signal.name)]
    aged = [signal for signal in shown if signal.against_age] if _ever(results, AGE) else []
    over_time = (_chart(signal, results, colours, TIME) for signal in shown)
    over_age = (_chart(signal, results, colours, AGE) for signal in aged)
    return Charts(
        tuple(chart for chart in over_time if chart.curves),
        tuple(chart for chart in over_age if chart.curves),
        tuple(signal.title for signal in signals if signal not in shown),
    )


def _ever(results: Iterable[LegResult], name: str) -> bool:
    return any(value for result in results for value in result.series.get(name, ()))


def _chart(signal: Signal, results: Sequence[LegResult], colours: Mapping[str, int], along: str) -> Chart:
    x_unit = unit_for("time", _highest(result.series.get(along, ()) for result in results))
    y_high = _highest(result.series.get(signal.name, ()) for result in results)
    budget = _budget(signal, results, y_high)
    y_unit = unit_for(signal.kind, max(y_high, budget.at if budget else 0.0))
    curves = [_curve(signal, result, colours[result.leg], along, x_unit, y_unit) for result in results]
    there = tuple(curve for curve in curves if curve.xs)
    x_end = max((curve.xs[-1] for curve in there), default=0.0)
    x_end = x_end if x_end > _SHORTEST else 1.0
    top = max(y_high, budget.at if budget else 0.0) / y_unit.size
    return Chart(
        signal,
        f"{'time' if along == TIME else 'age of the oldest handle'}, {x_unit.name}",
        x_unit.name,
        y_unit.name,
        tuple(ticks_within(x_end)),
        tuple(ticks(top, 4, _lowest(there), whole=signal.kind == "count" and not y_unit.name)),
        x_end,
        _warm_up(results, x_unit, x_end) if along == TIME else None,
        Budget(budget.at / y_unit.size, budget.said) if budget else None,
        there,
    )


def _highest(series: Iterable[Iterable[float | None]]) -> float:
    return max((value for values in series for value in values if value is not None), default=0.0)


def _lowest(curves: Iterable[Curve]) -> float:
    return min((value for curve in curves for value in curve.ys if value is not None), default=0.0)


def _warm_up(results: Iterable[LegResult], unit: Unit, x_end: float) -> float | None:
    """Return where the last leg's warm-up ended: at the first of its samples that is judged."""
    times = [[time for time in result.series.get(TIME, ()) if time is not None] for result in results]
    ends = [judged[0] for each in times if (judged := after_warm_up(each))]
    return min(max(ends) / unit.size, x_end) if ends else None


def _curve(signal: Signal, result: LegResult, colour: int, along: str, x_unit: Unit, y_unit: Unit) -> Curve:
    places, values = result.series.get(along, []), result.series.get(signal.name, [])
    samples = [(place, value) for place, value in zip(places, values, strict=False) if place is not None]
    dots = along == AGE and not _is_ascending([place for place, _ in samples])
    merged = _merged(samples) if dots or along == AGE else samples
    kept = (kept_dots if dots else kept_indices)([value for _, value in merged], MOST_POINTS)
    xs = [_short(merged[index][0] / x_unit.size) for index in kept]
    ys = [None if (value := merged[index][1]) is None else _short(value / y_unit.size) for index in kept]
    return Curve(result.leg, colour, *_distinct(xs, ys), dots or len(xs) == 1)


def _is_ascending(places: Sequence[float]) -> bool:
    return all(earlier <= later for earlier, later in pairwise(places))


def _merged(samples: Iterable[tuple[float, float | None]]) -> list[tuple[float, float | None]]:
    """Put samples in the order of their age, and one median in place of those of the same age."""
    groups = groupby(sorted(samples, key=itemgetter(0)), key=itemgetter(0))
    return [(place, _median([value for _, value in group])) for place, group in groups]


def _median(values: Values) -> float | None:
    there = [value for value in values if value is not None]
    return median(there) if there else None


def _distinct(xs: list[float], ys: Values) -> tuple[list[float], Values]:
    """Drop what rounding has put in one place with the sample before it."""
    kept_xs: list[float] = []
    kept_ys: Values = []
    for x, y in zip(xs, ys, strict=True):
        if not kept_xs or x > kept_xs[-1]:
            kept_xs.append(x)
            kept_ys.append(y)
    return kept_xs, kept_ys


def _short(value: float) -> float:
    """Keep the digits that a chart can show."""
    return float(f"{value:.5g}")


def _budget(signal: Signal, results: Sequence[LegResult], highest: float) -> Budget | None:
    """Return the signal's budget as a height: a level as it is, a growth above where a healthy leg began."""
    allowed = [judged.budget for result in results for judged in result.judgements if judged.signal == signal.name]
    known = [budget for budget in allowed if budget is not None]
    if not known:
        return None
    most = max(known)
    at, said = most, f"at most {quantity(signal.kind, most)}"
    if signal.name in GROWING:
        at, said = most + _healthy_start(signal, results), f"budget: +{quantity(signal.kind, most)}"
    return Budget(at, said) if at <= max(highest, most) * _BUDGET_IN_SIGHT else None


def _healthy_start(signal: Signal, results: Sequence[LegResult]) -> float:
    """Return where the lowest leg was when its warm-up ended."""
    starts = []
    for result in results:
        values = result.series.get(signal.name, [])
        after = [value for value in after_warm_up(values) if value is not None]
        starts += after[:1]
    return min(starts, default=0.0)


def described(chart: Chart) -> str:
    """Say in words what a chart shows, for those who do not see it."""
    return "; ".join(_described(curve, chart.y_unit) for curve in chart.curves)


def _described(curve: Curve, unit: str) -> str:
    values = [value for value in curve.ys if value is not None]
    if not values:
        return f"{curve.leg}: every sample is missing"
    first, last, most = (f"{number(value)} {unit}".strip() for value in (values[0], values[-1], max(values)))
    return f"{curve.leg}: from {first} to {last}, at most {most}"
