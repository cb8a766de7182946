"""What of a run has become worse.

The rules are made so that two runs of the same code are hardly ever told apart: for growth the
confidence intervals must not touch, and the difference must be large enough to matter; for the
latency of scans even the most favourable reading of both intervals must be over the bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stress.judging import EXPECTED, HEAP_BUDGET, Status
from stress.trends import GROWING, LATENCY
from stress.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

#: By how much more than before a signal may grow, over the measured part of the new run: three quarters of what the
#: verdict allows. The size of the files goes up and down with compactions, by more than memory does.
MORE_GROWTH = dict.fromkeys(GROWING, 0.75 * HEAP_BUDGET) | {"sst_total": 4.0 * HEAP_BUDGET}
#: By what factor scans may become slower.
SLOWER = 1.5
_HOUR = 3600.0
_WORSE = {Status.GREEN.name: 0, Status.INCONCLUSIVE.name: 1, Status.RED.name: 2}


@dataclass(frozen=True)
class Line:
    """One signal of one leg in both runs.

    Attributes:
        scenario: The scenario.
        leg: The leg.
        signal: The signal, as in `run.json`.
        old: Its trend in the old run, as `stress.trends` has it.
        new: Its trend in the new one.
        regression: Why it counts as a regression, or nothing.
    """

    scenario: str
    leg: str
    signal: str
    old: dict[str, float]
    new: dict[str, float]
    regression: str = ""

    @property
    def ratio(self) -> float | None:
        """The new figure to the old one; None where the old one is 0 or their signs differ."""
        old, new = self.old["figure"], self.new["figure"]
        return new / old if old * new > 0 else None


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side.

    Attributes:
        lines: What both have.
        worse: Legs that came out worse than before, a line for each.
        notes: What makes the runs different, and what could not be compared.
    """

    lines: tuple[Line, ...]
    worse: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def regressions(self) -> tuple[str, ...]:
        """Everything that counts as a regression, a line for each."""
        found = (
            f"{line.scenario} {line.leg}, {line.signal}: {line.regression}" for line in self.lines if line.regression
        )
        return (*self.worse, *found)

    @property
    def status(self) -> Status:
        """RED for a regression, INCONCLUSIVE where there was nothing to compare."""
        if self.regressions:
            return Status.RED
        return Status.GREEN if self.lines else Status.INCONCLUSIVE


def compare_runs(old: dict[str, Any], new: dict[str, Any]) -> Comparison:
    """Compare two runs, as `load_run` returns them."""
    before, after = _legs(old), _legs(new)
    both = [leg for leg in after if leg in before]
    same = _same_machine(old, new)
    lines = [line for leg in both for line in _lines(leg, before[leg], after[leg], same)]
    worse = [text for leg in both for text in _worse(leg, before[leg], after[leg])]
    return Comparison(tuple(lines), tuple(worse), (*_differences(old, new), *_missing(old, new, before, after)))


def _legs(run: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the legs that came to their end, by scenario and leg."""
    return {(leg["scenario"], leg["leg"]): leg for leg in run["results"] if leg["reason"] != "interrupted"}


def _lines(leg: tuple[str, str], old: dict[str, Any], new: dict[str, Any], same_machine: bool) -> Iterator[Line]:
    for signal in (*GROWING, LATENCY):
        if signal in old["trends"] and signal in new["trends"]:
            before, after = old["trends"][signal], new["trends"][signal]
            yield Line(*leg, signal, before, after, _regression(leg[1], signal, before, after, same_machine))


def _regression(leg: str, signal: str, old: dict[str, float], new: dict[str, float], same_machine: bool) -> str:
    """Say why a signal has regressed, or return nothing."""
    if not is_judged(leg):
        return ""
    if signal == LATENCY:
        return slower(old, new) if same_machine else ""
    return grows_more(old, new, MORE_GROWTH[signal])


def is_judged(leg: str) -> bool:
    """Tell whether the figures of a leg are judged; those of one that is to leak, or to hold, are only shown."""
    return EXPECTED.get(leg) is not Verdict.FAIL


def grows_more(old: dict[str, float], new: dict[str, float], most: float) -> str:
    """Say so if a signal grows more than before: intervals apart, and over the new run by more than `most` bytes."""
    more = (new["figure"] - old["figure"]) * new["seconds"] / _HOUR
    if new["low"] > old["high"] and more > most:
        return f"grows by {more:,.0f} bytes more than before, where {most:,.0f} more are allowed"
    return ""


def slower(old: dict[str, float], new: dict[str, float]) -> str:
    """Say so if scans are slower than before by more than the bound, whichever ends of the intervals are true."""
    if new["low"] > SLOWER * old["high"]:
        return f"{new['figure'] / old['figure']:.2f} times slower than before, where {SLOWER:g} is allowed"
    return ""


def _worse(leg: tuple[str, str], old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    if _WORSE[new["status"].upper()] > _WORSE[old["status"].upper()]:
        yield f"{' '.join(leg)}: was {old['status']} and is {new['status']}: {new['reason']}"


def _same_machine(old: dict[str, Any], new: dict[str, Any]) -> bool:
    return all(old[name] == new[name] for name in ("machine", "jobs")) and _workers(old) == _workers(new)


def _workers(run: dict[str, Any]) -> list[Any]:
    return [worker["machine"] for worker in run["workers"]]


def _differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    for name, text in (("versions", "version of {}"), ("machine", "machine's {}")):
        for key in sorted(old[name].keys() | new[name].keys()):
            before, after = old[name].get(key), new[name].get(key)
            if before != after:
                yield f"another {text.format(key)}: {before}, now {after}"
    if _workers(old) != _workers(new):
        yield f"other workers: {len(old['workers'])}, now {len(new['workers'])}"
    if old["jobs"] != new["jobs"]:
        yield f"another number of legs at once: {old['jobs']}, now {new['jobs']}"
    if old["seconds"] != new["seconds"]:
        yield f"legs of {old['seconds']:g} seconds, now {new['seconds']:g}: growth is per hour"
    if not _same_machine(old, new):
        yield "the latency of scans is shown and not judged, because the machine is not the same"


def _missing(
    old: dict[str, Any], new: dict[str, Any], before: dict[tuple[str, str], Any], after: dict[tuple[str, str], Any]
) -> Iterator[str]:
    for name, run in (("old", old), ("new", new)):
        if run["interrupted"]:
            yield f"the {name} run was interrupted"
    for name, here, there in (("new", after, before), ("old", before, after)):
        missing = [" ".join(leg) for leg in there if leg not in here]
        if missing:
            yield f"not in the {name} run, so not compared: {', '.join(missing)}"
