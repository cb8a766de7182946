"""Two runs side by side: what is a regression and what is not."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest

from stress import cli
from stress.compare.rules import MORE_GROWTH, compare_runs
from stress.judging import HEAP_BUDGET, Status

HOUR = 3600.0
MIB = float(1 << 20)


def trend(figure: float, width: float = 0.0, seconds: float = HOUR) -> dict[str, float]:
    return {"figure": figure, "low": figure - width, "high": figure + width, "level": 1.0, "seconds": seconds}


def leg(name: str, status: str = "green", **trends: dict[str, float]) -> dict:
    found = {"heap": trend(0.0, MIB), "scan_seconds": trend(1e-3, 1e-4), **trends}
    return {"scenario": "iterator-leak", "leg": name, "status": status, "reason": "as it is", "trends": found}


def run(*legs: dict, **fields: object) -> dict:
    made = {
        "format": 1,
        "command": "python -m stress quick",
        "interrupted": False,
        "seconds": 4800.0,
        "jobs": 1,
        "versions": {"saferocks": "1"},
        "machine": {"cpu": "A", "cores": 2},
        "workers": [],
        "results": list(legs),
    }
    return {**made, **fields}


SAME = run(leg("raw"), leg("guarded"), leg("scoped"))


def test_a_run_is_no_regression_of_itself() -> None:
    """Nothing has become worse, every signal is shown, and there is nothing to note."""
    found = compare_runs(SAME, copy.deepcopy(SAME))
    assert (found.status, found.regressions, found.notes) == (Status.GREEN, (), ())
    assert len(found.lines) == 6


@pytest.mark.parametrize("signal", sorted(MORE_GROWTH))
def test_more_growth_in_any_signal_is_a_regression(signal: str) -> None:
    """Growth above the bound with intervals apart is a regression, in every signal that grows."""
    old = run(leg("scoped", **{signal: trend(0.0, MIB)}))
    new = run(leg("scoped", **{signal: trend(MORE_GROWTH[signal] + MIB, MIB)}))
    found = compare_runs(old, new)
    assert found.status is Status.RED
    assert f"iterator-leak scoped, {signal}: grows by" in found.regressions[0]
    assert compare_runs(new, old).status is Status.GREEN


def test_growth_whose_intervals_touch_is_no_regression() -> None:
    """However large the difference, the intervals must be apart."""
    old, new = run(leg("scoped", heap=trend(0.0, 50 * MIB))), run(leg("scoped", heap=trend(90 * MIB, 50 * MIB)))
    assert compare_runs(old, new).status is Status.GREEN


def test_growth_that_does_not_matter_is_no_regression() -> None:
    """However certain the difference, it must be large enough to matter in the length of the new run."""
    for seconds, status in ((4.5, Status.GREEN), (HOUR, Status.RED)):
        old = run(leg("scoped", heap=trend(0.0, 1.0, seconds)))
        new = run(leg("scoped", heap=trend(HEAP_BUDGET, 1.0, seconds)))
        assert compare_runs(old, new).status is status


def test_slower_scans_are_a_regression_on_the_same_machine_alone() -> None:
    """Twice as slow is a regression; on another machine, or with more legs at once, it is shown and a note says why."""
    slow = leg("scoped", scan_seconds=trend(2e-3, 1e-4))
    assert "2.00 times slower" in compare_runs(SAME, run(slow)).regressions[0]
    for other in ({"machine": {"cpu": "B", "cores": 2}}, {"jobs": 2}, {"workers": [{"machine": {"cpu": "A"}}]}):
        found = compare_runs(SAME, run(slow, **other))
        assert found.status is Status.GREEN
        assert any("shown and not judged" in note for note in found.notes)
    assert compare_runs(SAME, run(leg("scoped", scan_seconds=trend(2e-3, 9e-4)))).status is Status.GREEN


@pytest.mark.parametrize("name", ["raw", "scans", "points"])
def test_a_leg_that_is_to_leak_or_to_hold_may_do_so_as_it_likes(name: str) -> None:
    """Its figures are shown and not judged; that what it holds is seen no longer is a regression."""
    more = leg(name, heap=trend(1e12), scan_seconds=trend(1.0))
    assert compare_runs(run(leg(name)), run(more)).status is Status.GREEN
    assert compare_runs(run(leg(name)), run(leg(name, "red"))).status is Status.RED


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        ("green", "inconclusive", Status.RED),
        ("green", "red", Status.RED),
        ("inconclusive", "red", Status.RED),
        ("red", "red", Status.GREEN),
        ("red", "green", Status.GREEN),
    ],
)
def test_a_verdict_that_got_worse_is_a_regression(old: str, new: str, status: Status) -> None:
    """From green to inconclusive to red is worse; what was red before is no news."""
    assert compare_runs(run(leg("scoped", old)), run(leg("scoped", new))).status is status


def test_an_interrupted_leg_is_not_compared() -> None:
    """It is no regression, and it is said that it was left out."""
    cut = {**leg("scoped", "inconclusive", heap=trend(1e12)), "reason": "interrupted"}
    found = compare_runs(SAME, run(leg("raw"), leg("guarded"), cut, interrupted=True))
    assert found.status is Status.GREEN
    assert found.notes == (
        "the new run was interrupted",
        "not in the new run, so not compared: iterator-leak scoped",
    )


def test_what_makes_the_runs_different_is_said() -> None:
    """Versions, machines and lengths that differ are told, each in a line."""
    other = run(leg("scoped"), versions={"saferocks": "2"}, machine={"cpu": "B", "cores": 2}, seconds=4.5)
    notes = "\n".join(compare_runs(SAME, other).notes)
    for text in ("version of saferocks: 1, now 2", "machine's cpu: A, now B", "legs of 4800 seconds, now 4.5"):
        assert text in notes


def test_runs_with_nothing_in_common_are_inconclusive() -> None:
    """Nothing comparable is not the same as nothing worse."""
    assert compare_runs(run(leg("raw")), run(leg("scoped"))).status is Status.INCONCLUSIVE
    assert compare_runs(run(), run()).status is Status.INCONCLUSIVE


@pytest.fixture
def files(tmp_path: Path):
    """Writes runs to files."""

    def write(*runs: object) -> list[str]:
        names = [str(tmp_path / f"{number}.json") for number in range(len(runs))]
        for name, content in zip(names, runs, strict=True):
            Path(name).write_text(json.dumps(content))
        return names

    return write


WORSE = run(leg("scoped", heap=trend(9e9)))


@pytest.mark.parametrize(("new", "status"), [(SAME, 0), (WORSE, 1), (run(), 3)])
def test_exit_statuses_are_as_documented(files, capsys, new: dict, status: int) -> None:
    """0 for nothing worse, 1 for a regression, 3 for nothing to compare, as a table and as JSON."""
    names = files(SAME, new)
    assert cli.main(["compare", *names]) == status
    shown = capsys.readouterr().out
    assert {0: "GREEN", 1: "RED", 3: "INCONCLUSIVE"}[status] in shown
    assert cli.main(["compare", *names, "--json"]) == status
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == {0: "green", 1: "red", 3: "inconclusive"}[status]
    assert bool(found["regressions"]) is (status == 1)


FIGURES = [{}, None, "1", 10**400, math.nan, math.inf, -math.inf]
DAMAGED = [
    *(run(leg("raw", heap={**trend(1.0), "figure": figure})) for figure in FIGURES),
    *(run(leg("scoped", scan_seconds={**trend(1.0), "low": figure})) for figure in FIGURES),
    run(leg("raw", rss={name: value for name, value in trend(1.0).items() if name != "low"})),
    run({**leg("raw"), "trends": []}),
    run(leg("raw"), seconds="long"),
]


@pytest.mark.parametrize("bad", [{"format": 2, "results": [], "command": ""}, [], {**SAME, "results": [{}]}, *DAMAGED])
@pytest.mark.parametrize("first", [True, False])
def test_what_is_no_run_is_bad_usage(files, capsys, bad: object, first: bool) -> None:
    """A file of another version or kind exits with 2 and one line, whichever of the two it is."""
    names = files(bad, SAME)
    with pytest.raises(SystemExit) as caught:
        cli.main(["compare", *(names if first else reversed(names))])
    shown = capsys.readouterr()
    assert (caught.value.code, shown.out, shown.err.count("\n")) == (2, "", 1)
