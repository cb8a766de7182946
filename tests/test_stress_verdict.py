"""The verdict on a series, with leaks and without."""

from __future__ import annotations

import itertools
import math
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from stress.reduction import MAX_BLOCKS, MIN_BLOCKS, after_warm_up, block_minima, count_blocks, measure
from stress.verdict import Verdict, judge_exact, judge_growth, judge_heap

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
BUDGET = 4 * MIB
SAMPLES = 100
TIMES = [4.5 * number / SAMPLES for number in range(SAMPLES)]
SEEDS = 200


def flat(rng: random.Random) -> list[float]:
    return [5 * MIB + rng.gauss(0, MIB) for _ in TIMES]


def autoregressive(rng: random.Random) -> list[float]:
    values, state = [], 0.0
    for _ in TIMES:
        state = 0.9 * state + rng.gauss(0, MIB / 4)
        values.append(20 * MIB + state)
    return values


def sawtooth(rng: random.Random) -> list[float]:
    period = rng.uniform(0.2, 0.6)
    return [4 * MIB + 8 * MIB * math.fmod(time, period) / period for time in TIMES]


def slow_warm_up(rng: random.Random) -> list[float]:
    constant = rng.uniform(0.2, 0.6)
    return [20 * MIB - 10 * MIB * math.exp(-time / constant) + rng.gauss(0, MIB / 4) for time in TIMES]


def stairs(rng: random.Random) -> list[float]:
    step = rng.uniform(1.5, 4.0)
    return [(5 if time < step else 8) * MIB + rng.gauss(0, MIB / 4) for time in TIMES]


HEALTHY = [flat, autoregressive, sawtooth, slow_warm_up, stairs]


def verdicts(shape, leak_mib: float) -> list[Verdict]:
    found = []
    for seed in range(SEEDS):
        values = shape(random.Random(seed))
        leaking = [value + leak_mib * MIB * time / TIMES[-1] for time, value in zip(TIMES, values, strict=True)]
        found.append(judge_growth("heap", measure(TIMES, leaking), BUDGET).verdict)
    return found


@pytest.mark.parametrize("shape", HEALTHY)
def test_healthy_series_are_hardly_ever_failed(shape) -> None:
    """Of 200 healthy series of any shape, none is taken for a leak."""
    assert verdicts(shape, 0).count(Verdict.FAIL) == 0


@pytest.mark.parametrize("shape", [flat, autoregressive, sawtooth, slow_warm_up])
def test_healthy_series_mostly_pass(shape) -> None:
    """Nine of ten healthy series without a step pass outright, rather than leaving it open."""
    assert verdicts(shape, 0).count(Verdict.PASS) >= 0.9 * SEEDS


@pytest.mark.parametrize("shape", HEALTHY)
def test_leaks_are_seen_through_any_noise(shape) -> None:
    """A leak of five budgets is seen in 19 of 20 series of any shape, and never passed."""
    found = verdicts(shape, 5 * BUDGET / MIB / 0.75)
    assert found.count(Verdict.FAIL) >= 0.95 * SEEDS
    assert Verdict.PASS not in found


def test_leaking_stairs_fail() -> None:
    """Memory that only grows in steps is a leak all the same."""
    values = [float(5 * MIB + 4 * MIB * (number // 10)) for number in range(SAMPLES)]
    assert judge_growth("heap", measure(TIMES, values), BUDGET).verdict is Verdict.FAIL


def test_a_leak_of_any_rate_fails_in_a_run_that_is_long_enough() -> None:
    """What is within the budget in a short run exceeds it in a longer one."""
    for length, expected in ((10, Verdict.PASS), (1000, Verdict.FAIL)):
        times = [length * number / SAMPLES for number in range(SAMPLES)]
        values = [5 * MIB + 0.05 * MIB * time for time in times]
        assert judge_growth("heap", measure(times, values), BUDGET).verdict is expected


def test_an_interval_across_the_budget_is_inconclusive() -> None:
    """Growth close to the budget under noise is neither passed nor failed."""
    rng = random.Random(1)
    values = [5 * MIB + BUDGET / 0.75 * time / TIMES[-1] + rng.gauss(0, 2 * MIB) for time in TIMES]
    found = judge_growth("heap", measure(TIMES, values), BUDGET)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.low < BUDGET < found.high


def test_the_warm_up_does_not_count() -> None:
    """Growth that is over after a fifth of the time is not seen."""
    values = [min(number, SAMPLES / 5) * MIB for number in range(SAMPLES)]
    found = judge_growth("heap", measure(TIMES, values), BUDGET)
    assert (found.verdict, found.figure) == (Verdict.PASS, 0.0)


@pytest.mark.parametrize("count", [0, 1, 2, 15])
def test_too_few_samples_are_inconclusive(count: int) -> None:
    """A series that does not fill twelve blocks after the warm-up is not judged."""
    for found in (
        judge_growth("heap", measure(TIMES[:count], [5.0] * count), BUDGET),
        judge_exact("snapshots", measure(TIMES[:count], [0.0] * count), 0),
    ):
        assert found.verdict is Verdict.INCONCLUSIVE


def test_samples_at_one_moment_are_inconclusive() -> None:
    """A clock that stands still proves nothing."""
    assert judge_growth("heap", measure([1.0] * 50, [5.0] * 50), BUDGET).verdict is Verdict.INCONCLUSIVE


def test_missing_samples_are_inconclusive() -> None:
    """A series with holes is not judged."""
    values = [5.0] * (SAMPLES - 1) + [math.nan]
    assert judge_growth("heap", measure(TIMES, values), BUDGET).verdict is Verdict.INCONCLUSIVE
    assert judge_exact("snapshots", measure(TIMES, values), 9).verdict is Verdict.INCONCLUSIVE


def test_a_heap_that_reads_zero_is_inconclusive() -> None:
    """Another allocator, under which heap_info reads 0, is never a silent pass."""
    found = judge_heap(measure(TIMES, [0.0] * SAMPLES), BUDGET)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "allocator" in found.reason
    assert judge_heap(measure(TIMES, [5.0 * MIB] * SAMPLES), BUDGET).verdict is Verdict.PASS
    assert judge_heap(measure([], []), BUDGET).verdict is Verdict.INCONCLUSIVE


def test_exact_signals_fail_at_one_sample() -> None:
    """One handle at one moment after the warm-up is a leak, and one at the limit is not."""
    values = [0.0] * SAMPLES
    assert judge_exact("open_handles", measure(TIMES, values), 0).verdict is Verdict.PASS
    values[-1] = 1.0
    assert judge_exact("open_handles", measure(TIMES, values), 0).verdict is Verdict.FAIL
    assert judge_exact("open_handles", measure(TIMES, values), 1).verdict is Verdict.PASS


def test_the_floor_forgives_moments_and_not_what_stays() -> None:
    """A compaction's hold of a moment passes by the floor; what stays for a block fails."""
    moments = [3.0 if number % 4 else 1.0 for number in range(SAMPLES)]
    assert judge_exact("live_versions", measure(TIMES, moments), 1).verdict is Verdict.FAIL
    assert judge_exact("live_versions", measure(TIMES, moments), 1, floor=True).verdict is Verdict.PASS
    stays = [1.0] * 60 + [3.0] * 40
    assert judge_exact("live_versions", measure(TIMES, stays), 1, floor=True).verdict is Verdict.FAIL


def test_there_are_twelve_blocks_at_least() -> None:
    """The number of blocks grows with the samples, between twelve and forty-eight."""
    counts = [count_blocks(samples) for samples in range(0, 2000, 7)]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (MIN_BLOCKS, MAX_BLOCKS) == (12, 48)


SERIES = st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=80)


@given(SERIES, st.data())
def test_block_minima_are_samples_in_order(values: list[float], data: st.DataObject) -> None:
    """Each minimum is one of the samples, there is one for each block, and they go forward."""
    blocks = data.draw(st.integers(1, len(values)))
    places, low = block_minima(values, blocks)
    assert len(low) == blocks
    assert all(earlier < later for earlier, later in itertools.pairwise(places))
    assert [values[place] for place in places] == list(low)
    assert min(low) == min(values)


@given(SERIES, st.data())
def test_block_minima_ignore_what_rises_above_them(values: list[float], data: st.DataObject) -> None:
    """Raising samples that are not a minimum changes nothing."""
    blocks = data.draw(st.integers(1, len(values)))
    found = block_minima(values, blocks)
    raised = [
        value if place in found[0] else value + data.draw(st.floats(0, 1e12)) for place, value in enumerate(values)
    ]
    assert block_minima(raised, blocks)[1] == found[1]


@given(SERIES, st.data())
def test_block_minima_are_the_lowest_of_consecutive_blocks(values: list[float], data: st.DataObject) -> None:
    """The blocks cover all samples, in order, and differ in length by one at most."""
    blocks = data.draw(st.integers(1, len(values)))
    numbered = [float(number) for number in range(len(values))]
    starts = [int(start) for start in block_minima(numbered, blocks)[1]]
    ends = [*starts[1:], len(values)]
    assert starts[0] == 0
    assert {end - start for start, end in zip(starts, ends, strict=True)} <= {
        len(values) // blocks,
        -(-len(values) // blocks),
    }
    expected = [min(values[start:end]) for start, end in zip(starts, ends, strict=True)]
    assert list(block_minima(values, blocks)[1]) == expected


@given(st.integers(0, 1000))
def test_the_warm_up_is_a_quarter_of_the_samples(count: int) -> None:
    """A quarter is dropped at least, not one sample more than that takes, and only from the beginning."""
    kept = after_warm_up(range(count))
    assert list(kept) == list(range(count - len(kept), count))
    assert count / 4 <= count - len(kept) < count / 4 + 1


STALLS = st.lists(st.tuples(st.integers(0, SAMPLES), st.floats(0.3, 3600)), min_size=1, max_size=3)


@given(STALLS, st.sampled_from(HEALTHY), st.integers(0, 20), st.sampled_from([0, 5 * BUDGET]))
def test_a_machine_that_stands_still_changes_no_verdict(
    stalls: list[tuple[int, float]], shape: Callable[[random.Random], list[float]], seed: int, leak: int
) -> None:
    """Whenever and for however long it does, the samples come out as they do without a gap between them."""
    values = [value + leak * number / SAMPLES for number, value in enumerate(shape(random.Random(seed)))]
    late = [time + sum(length for at, length in stalls if at <= number) for number, time in enumerate(TIMES)]
    assert judge_growth("heap", measure(late, values), BUDGET) == judge_growth("heap", measure(TIMES, values), BUDGET)
