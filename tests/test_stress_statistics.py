"""How often the verdict and the comparison are wrong, on series as long and as noisy as real ones."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache

import numpy as np
import pytest
from scipy.signal import lfilter

from stress.compare.rules import MORE_GROWTH, grows_more, slower
from stress.judging import HEAP_BUDGET
from stress.reduction import WARM_UP, measure
from stress.trends import growth, latency
from stress.verdict import Verdict, judge_growth

MIB = float(1 << 20)
SEEDS = 200
#: The length of a leg and its number of samples: a leg of `quick`, and one of four hours at five seconds.
LENGTHS = {"quick": (4.5, 100), "four hours": (14_400.0, 2_880)}


def flat(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    return 20 * MIB + rng.normal(0, MIB, len(times))


def autoregressive(memory: float):
    """Return a kind of noise of 1 MiB that forgets by so much from one sample to the next."""

    def made(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
        pushes = rng.normal(0, MIB * np.sqrt(1 - memory**2), len(times) + 500)
        return 20 * MIB + lfilter([1.0], [1.0, -memory], pushes)[500:]

    return made


def sawtooth(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    period = rng.uniform(0.03, 0.12) * times[-1]
    return 4 * MIB + 8 * MIB * np.mod(times + rng.uniform(0, period), period) / period


def slow_warm_up(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    constant = rng.uniform(0.05, 0.3) * times[-1]
    return 20 * MIB - 10 * MIB * np.exp(-times / constant) + rng.normal(0, MIB / 4, len(times))


def stairs(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    steps = rng.uniform(0, times[-1], 3)
    return 5 * MIB + MIB * (times[:, None] > steps).sum(1) + rng.normal(0, MIB / 4, len(times))


KINDS = {
    "flat": flat,
    "AR(0.9)": autoregressive(0.9),
    "AR(0.98)": autoregressive(0.98),
    "sawtooth": sawtooth,
    "slow warm-up": slow_warm_up,
    "stairs": stairs,
}


def series(kind: str, length: str, leak: float, seed: int) -> tuple[list[float], list[float]]:
    """Return times and values of a series that leaks so many bytes from the end of the warm-up on."""
    seconds, samples = LENGTHS[length]
    times = np.linspace(0.0, seconds, samples)
    healthy = KINDS[kind](np.random.default_rng(seed), times)
    return times.tolist(), (healthy + leak / (1 - WARM_UP) * times / seconds).tolist()


@cache
def verdicts(kind: str, length: str, leak: float) -> tuple[Verdict, ...]:
    found = (measure(*series(kind, length, leak, seed)) for seed in range(SEEDS))
    return tuple(judge_growth("heap", each, HEAP_BUDGET).verdict for each in found)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_healthy_series_are_hardly_ever_taken_for_leaks(kind: str, length: str) -> None:
    """Of 200 healthy series one in twenty may be failed at most; while the warm-up lasts, one in four."""
    most = 0.25 if kind == "slow warm-up" else 0.05
    assert verdicts(kind, length, 0.0).count(Verdict.FAIL) <= most * SEEDS


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_leak_of_three_budgets_is_never_passed(kind: str, length: str) -> None:
    """Whatever the noise, none of 200 series that leak three times the budget comes out as healthy."""
    assert Verdict.PASS not in verdicts(kind, length, 3.0 * HEAP_BUDGET)


@pytest.mark.parametrize("kind", KINDS)
def test_ten_mebibytes_an_hour_are_seen_in_four_hours(kind: str) -> None:
    """Such a leak is failed in 19 of 20 series, and passed in none."""
    found = verdicts(kind, "four hours", 30 * MIB)
    assert found.count(Verdict.FAIL) >= 0.95 * SEEDS
    assert Verdict.PASS not in found


@pytest.mark.parametrize("kind", ["flat", "AR(0.9)", "sawtooth"])
def test_healthy_series_mostly_pass(kind: str) -> None:
    """A night that is healthy is not left open in more than one of ten series."""
    assert verdicts(kind, "four hours", 0.0).count(Verdict.PASS) >= 0.9 * SEEDS


# --------------------------------------------------------------------------- two runs


def trend(kind: str, leak: float, seed: int) -> dict[str, float]:
    found = growth(measure(*series(kind, "four hours", leak, seed)))
    assert found is not None
    return asdict(found)


def told_apart(kind: str, before: float, after: float) -> int:
    pairs = ((trend(kind, before, seed), trend(kind, after, SEEDS + seed)) for seed in range(SEEDS))
    return sum(bool(grows_more(old, new, MORE_GROWTH["heap"])) for old, new in pairs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("leak", [0.0, 8 * MIB])
def test_two_runs_of_the_same_code_are_hardly_ever_a_regression(kind: str, leak: float) -> None:
    """Of 200 pairs that grow alike, one in twenty at most is told apart."""
    assert told_apart(kind, leak, leak) <= 0.05 * SEEDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_leak_that_has_doubled_is_a_regression(kind: str) -> None:
    """A leak of two budgets that has become one of four is seen in 19 of 20 pairs."""
    assert told_apart(kind, 2.0 * HEAP_BUDGET, 4.0 * HEAP_BUDGET) >= 0.95 * SEEDS


def scans(seed: int, factor: float) -> dict[str, float]:
    """Return the trend of scans whose latency has the long tail that latencies have."""
    rng = np.random.default_rng(seed)
    times = np.linspace(0.0, 4.5, 100)
    found = latency(measure(times.tolist(), (factor * rng.lognormal(-8.0, 0.5, len(times))).tolist()))
    assert found is not None
    return asdict(found)


def test_scans_are_only_slower_when_they_are() -> None:
    """Scans of the same code are told apart in one of twenty pairs at most, scans three times as slow in 19 of 20."""
    same = sum(bool(slower(scans(seed, 1.0), scans(SEEDS + seed, 1.0))) for seed in range(SEEDS))
    thrice = sum(bool(slower(scans(seed, 1.0), scans(SEEDS + seed, 3.0))) for seed in range(SEEDS))
    assert same <= 0.05 * SEEDS
    assert thrice >= 0.95 * SEEDS
