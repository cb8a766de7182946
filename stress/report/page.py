"""Puts the page together: one file, with its style, its script and its samples inside."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup, escape

from stress.report import ticks
from stress.report.charts import described
from stress.report.data import LegView, ScenarioView, leg_order, scenario_views
from stress.report.svg import HEIGHT, WIDTH, draw

if TYPE_CHECKING:
    from stress.report.charts import Chart
    from stress.report.source import Cell, RunResult

_ASSETS = Path(__file__).resolve().parent / "assets"
#: Nothing may be loaded, sent, framed or submitted; only the style and the script of the page itself are let in.
_POLICY = "default-src 'none'; script-src {script}; style-src {style}; base-uri 'none'; form-action 'none'"
#: What may not stand in an element of script as it is: it could end it, or open a comment in it.
_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def page(run: RunResult) -> str:
    """Return the page of a run, as HTML."""
    scenarios = scenario_views(run)
    style, script = _style(), _script()
    policy = _POLICY.format(script=_hash(script), style=_hash(style))
    return (
        _templates()
        .get_template("page.html.j2")
        .render(
            run=run,
            scenarios=scenarios,
            status_words=STATUS_WORDS,
            legs=_legend(run, scenarios),
            started=_when(run.started),
            measured=_measured(run),
            facts=_facts(run),
            policy=policy,
            style=Markup(style),  # noqa: S704 - our own file
            script=Markup(script),  # noqa: S704 - our own file
            uplot_version=_uplot_version(),
            licence=Markup(_asset("uplot/LICENSE")),  # noqa: S704 - a file of the project
            island=island(scenarios),
        )
    )


#: What the statuses are called, with a sign that does not need its colour.
STATUS_WORDS = {
    "green": ("\N{HEAVY CHECK MARK}", "as it must be"),
    "red": ("\N{HEAVY BALLOT X}", "not as it must be"),
    "inconclusive": ("?", "not known"),
}


def _legend(run: RunResult, scenarios: list[ScenarioView]) -> list[LegView]:
    """Return one leg of each name, for the colours."""
    found = {leg.name: leg for scenario in scenarios for leg in scenario.legs}
    return [found[name] for name in leg_order(run) if name in found]


def _when(started: str) -> str:
    try:
        return datetime.fromisoformat(started).strftime("%d %B %Y, %H:%M:%S %Z").lstrip("0")
    except ValueError:
        return started


def _facts(run: RunResult) -> list[tuple[str, str]]:
    """Return what is to be known of a run besides its verdicts: name and text."""
    versions = {name: value for name, value in run.versions.items() if run.machine.get(name) != value}
    return [
        ("length", f"{ticks.quantity('time', run.seconds)} for each leg"),
        ("seed", str(run.seed)),
        *((name.replace("_", " "), _of_machine(name, value)) for name, value in run.machine.items()),
        *((f"worker {number}", _said(worker)) for number, worker in enumerate(run.workers, 1)),
        *((name, _said(value)) for name, value in versions.items()),
    ]


def _measured(run: RunResult) -> str:
    legs = sum(1 for result in run.results if result.series.get("time"))
    seconds = sum(_last(result.series.get("time", [])) for result in run.results)
    return f"{legs} {'leg' if legs == 1 else 'legs'} measured, for {ticks.quantity('time', seconds)} in all"


def _last(times: list[float | None]) -> float:
    return next((time for time in reversed(times) if time is not None), 0.0)


def _of_machine(name: str, value: Any) -> str:
    return ticks.quantity("bytes", value) if name == "memory" and isinstance(value, int) else _said(value)


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_of_machine(name, part)}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(_said(part) for part in value)
    return str(value)


def island(scenarios: list[ScenarioView]) -> Markup:
    """Return the samples as JSON that may stand in an element of script.

    Curves that were sampled at the same times share them: `xs` holds each once.
    """
    xs: dict[tuple[float, ...], int] = {}
    charts = {
        f"{scenario.name}/{group}/{chart.signal.name}": _chart_as_json(chart, xs)
        for scenario in scenarios
        for group, drawn in (("time", scenario.over_time), ("age", scenario.over_age))
        for chart in drawn
    }
    content = {"xs": [[_plain(x) for x in each] for each in xs], "charts": charts}
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return Markup("".join(_UNSAFE.get(letter, letter) for letter in text))  # noqa: S704 - escaped here


def _chart_as_json(chart: Chart, xs: dict[tuple[float, ...], int]) -> dict[str, Any]:
    return {
        "x": {"title": chart.x_title, "unit": chart.x_unit, "end": chart.x_end},
        "y": {
            "unit": chart.y_unit,
            "start": chart.y_ticks[0],
            "end": chart.y_ticks[-1],
            "whole": chart.signal.kind == "count" and not chart.y_unit,
        },
        "warm": chart.warm_up,
        "budget": chart.budget and [chart.budget.at, chart.budget.said],
        "curves": [
            {
                "leg": curve.leg,
                "colour": curve.colour,
                "dots": curve.dot_size if curve.dots else 0,
                "x": xs.setdefault(tuple(curve.xs), len(xs)),
                "y": [_plain(value) for value in curve.ys],
            }
            for curve in chart.curves
        ],
    }


def _plain(value: float | None) -> float | None:
    """Write whole numbers without their `.0`."""
    return int(value) if value is not None and value == int(value) else value


@cache
def _templates() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        cell=cell, is_figures=is_figures, described=described, draw=draw, sentence=_sentence, words=words
    )
    made.globals.update(width=int(WIDTH), height=int(HEIGHT))
    return made


def words(text: str) -> Markup:
    """Escape a text, and let its lines break after the slashes of its paths."""
    return Markup("/<wbr>").join(escape(part) for part in text.split("/"))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def is_figures(values: list[Cell]) -> bool:
    """Tell whether a column holds numbers and nothing else, and so is set flush right."""
    there = [value for value in values if value is not None]
    return bool(there) and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in there)


def cell(value: Cell) -> str:
    """Write a cell of a leg's own table."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    return value if isinstance(value, str) else ticks.number(value)


@cache
def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _style() -> str:
    return _asset("uplot/uPlot.min.css") + _asset("page.css")


def _script() -> str:
    return _asset("uplot/uPlot.iife.min.js") + _asset("page.js")


def _uplot_version() -> str:
    """Return the version that the head of uPlot's file gives."""
    found = re.search(r"\(v([\d.]+)\)", _asset("uplot/uPlot.iife.min.js")[:200])
    return found[1] if found else "of an unknown version"


def _hash(text: str) -> str:
    """Return the source expression that lets exactly this text in."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
