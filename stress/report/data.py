"""From the record of a run to what its page shows: legs in their colours, charts, tables."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stress.judging import EXPECTED
from stress.report.charts import Chart, charts_of
from stress.report.notices import Notices, notices_of
from stress.report.source import LegResult, LegTable, RunResult
from stress.report.tables import Figures, Row, figures_of, judgement_rows, rocksdb_rows
from stress.scenario import LEGS, all_scenarios

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stress.scenario import Scenario

#: The scenario that is about age: its curves against age come first.
CENTRE = "snapshot-age"
#: The colours in the style sheet; legs beyond them share the last.
COLOURS = 8


@dataclass(frozen=True)
class LegView:
    """A leg, as the page shows it.

    Attributes:
        name: `raw`, `guarded`, `scoped` or a variant's.
        colour: The number of its colour, the same on the whole page.
        verdict: What it came out as, or that it was not run.
        must: What it had to come out as; empty if nobody knows.
        status: `green`, `red` or `inconclusive`.
        reason: Why.
        figures: The key figures.
        notices: What the guard said.
        table: The table that it reported, if any.
    """

    name: str
    colour: int
    verdict: str
    must: str
    status: str
    reason: str
    figures: Figures
    notices: Notices
    table: LegTable | None


@dataclass(frozen=True)
class ScenarioView:
    """A scenario, as the page shows it.

    Attributes:
        anchor: Where the page has it.
        name: Its name.
        summary: The bug, in one line; empty if this version has no such scenario.
        story: Where the bug is from.
        legs: Its legs, with those that were planned and did not run.
        over_time: The charts over time.
        over_age: The charts against the age of the oldest handle; none if no leg held one.
        quiet: Titles of the signals that were 0 throughout, and are not drawn.
        judged: The legs' verdicts on each signal.
        rocksdb: RocksDB's own numbers for each leg.
        age_first: Whether the charts against age come first.
    """

    anchor: str
    name: str
    summary: str
    story: str
    legs: tuple[LegView, ...]
    over_time: tuple[Chart, ...]
    over_age: tuple[Chart, ...]
    quiet: tuple[str, ...]
    judged: tuple[Row, ...]
    rocksdb: tuple[Row, ...]
    age_first: bool

    @property
    def status(self) -> str:
        """The worst of its legs' statuses."""
        found = {leg.status for leg in self.legs}
        return next((status for status in ("red", "inconclusive") if status in found), "green")


def leg_order(run: RunResult) -> list[str]:
    """Return the names of all legs: the three of every scenario first, then variants as they come."""
    planned = [leg for name in run.scenarios for leg in _planned(name, run)]
    found = [*run.legs, *(result.leg for result in run.results), *planned]
    return [*LEGS, *dict.fromkeys(name for name in found if name not in LEGS)]


def _planned(name: str, run: RunResult) -> Sequence[str]:
    """Return the legs of a scenario that the run was to have; of one that this version does not know, the chosen."""
    if name not in run.scenarios:
        return ()
    scenario = all_scenarios().get(name)
    return scenario.legs(tuple(run.legs)) if scenario else run.legs


def scenario_views(run: RunResult) -> list[ScenarioView]:
    """Return every scenario of a run, in the order in which it was planned."""
    colours = {name: min(number, COLOURS - 1) for number, name in enumerate(leg_order(run))}
    names = dict.fromkeys([*run.scenarios, *(result.scenario for result in run.results)])
    return [_scenario_view(f"scenario-{number}", name, run, colours) for number, name in enumerate(names, 1)]


def _scenario_view(anchor: str, name: str, run: RunResult, colours: dict[str, int]) -> ScenarioView:
    results = sorted(
        (result for result in run.results if result.scenario == name), key=lambda result: colours[result.leg]
    )
    there = {result.leg for result in results}
    legs = [_leg_view(result, colours[result.leg]) for result in results]
    scenario = all_scenarios().get(name)
    legs += [_not_run(leg, colours[leg], run) for leg in _planned(name, run) if leg not in there]
    drawn = charts_of(results, colours)
    return ScenarioView(
        anchor,
        name,
        scenario.summary if scenario else "",
        _story(scenario) if scenario else "",
        tuple(sorted(legs, key=lambda leg: leg.colour)),
        drawn.over_time,
        drawn.over_age,
        drawn.quiet,
        judgement_rows(results),
        rocksdb_rows(results),
        name == CENTRE,
    )


def _leg_view(result: LegResult, colour: int) -> LegView:
    must = result.expected or (EXPECTED[result.leg].value if result.leg in EXPECTED else "")
    return LegView(
        result.leg,
        colour,
        result.verdict,
        must,
        result.status,
        result.reason,
        figures_of(result),
        notices_of(result),
        result.table,
    )


def _not_run(leg: str, colour: int, run: RunResult) -> LegView:
    must = EXPECTED[leg].value if leg in EXPECTED else ""
    why = "interrupted before it came out" if run.interrupted else "no result is recorded"
    return LegView(leg, colour, "not run", must, "inconclusive", why, Figures(), Notices((), 0), None)


def _story(scenario: Scenario) -> str:
    """Return where the bug is from: what the scenario's module says of itself, after its first line."""
    module = sys.modules[scenario.raw.__module__]
    return inspect.cleandoc(module.__doc__ or "").partition("\n\n")[2].replace("\n", " ")
