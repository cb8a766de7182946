"""Charts as drawings: where everything goes in an SVG, which `chart.svg.j2` then writes down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stress.report.thinning import kept_indices
from stress.report.ticks import tick_label

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stress.report.charts import Chart, Curve

WIDTH, HEIGHT = 440.0, 220.0
#: Points of a curve: a drawing does not zoom.
MOST_POINTS = 120
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 12.0, 12.0, 38.0


@dataclass(frozen=True)
class Tick:
    """A tick: where it is, and what stands beside it."""

    at: str
    label: str


@dataclass(frozen=True)
class Line:
    """A leg's curve: the path of its line, and the places and the radius of its dots."""

    colour: int
    path: str
    dots: tuple[tuple[str, str], ...]
    radius: str


@dataclass(frozen=True)
class Drawing:
    """A chart with every place worked out, as text for the attributes of SVG."""

    left: str
    right: str
    top: str
    bottom: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    warm_up: str
    budget: str


def draw(chart: Chart) -> Drawing:
    """Work out where everything in a chart goes."""
    frame = _Frame(chart.x_end, chart.y_ticks[0], chart.y_ticks[-1])
    return Drawing(
        _place(_LEFT),
        _place(WIDTH - _RIGHT),
        _place(_TOP),
        _place(HEIGHT - _BOTTOM),
        tuple(Tick(frame.x(tick), tick_label(tick)) for tick in chart.x_ticks),
        tuple(Tick(frame.y(tick), tick_label(tick)) for tick in chart.y_ticks),
        tuple(_line(curve, frame) for curve in chart.curves),
        "" if chart.warm_up is None else _place(float(frame.x(chart.warm_up)) - _LEFT),
        "" if chart.budget is None else frame.y(chart.budget.at),
    )


@dataclass(frozen=True)
class _Frame:
    """From values to places; the x axis begins at 0."""

    x_end: float
    y_start: float
    y_end: float

    def x(self, value: float) -> str:
        return _place(_LEFT + value / self.x_end * (WIDTH - _LEFT - _RIGHT))

    def y(self, value: float) -> str:
        share = (value - self.y_start) / (self.y_end - self.y_start)
        return _place(HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM))


def _place(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _line(curve: Curve, frame: _Frame) -> Line:
    runs = list(_runs(curve, frame))
    alone = tuple(places[0] for places in runs if len(places) == 1)
    if curve.dots:
        dots = tuple(dict.fromkeys(place for places in runs for place in places))
        return Line(curve.colour, "", dots, _place(curve.dot_size / 2))
    drawn = (" ".join(f"{x} {y}" for x, y in dict.fromkeys(places)) for places in runs if len(places) > 1)
    return Line(curve.colour, "".join(f"M{places}" for places in drawn), alone, "1.5")


def _runs(curve: Curve, frame: _Frame) -> Iterator[list[tuple[str, str]]]:
    """Yield the places of a curve, cut where samples are missing."""
    places: list[tuple[str, str]] = []
    for index in kept_indices(curve.ys, MOST_POINTS):
        x, y = curve.xs[index], curve.ys[index]
        if y is not None:
            places.append((frame.x(x), frame.y(y)))
        elif places:
            yield places
            places = []
    if places:
        yield places
