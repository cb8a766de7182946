"""Reading a leg's file: all of it counts, little of it is kept, and memory does not grow with it."""

from __future__ import annotations

import itertools
import json
import math
import random
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from stress.jobs import LegJob, LegOutcome
from stress.judging import EXACT, EXACT_FLOOR, judge_leg
from stress.reduction import MAX_BLOCKS, measure
from stress.samples import MOST_POINTS, Thinner, read_leg
from stress.scenario import all_scenarios
from stress.trends import trends
from stress.verdict import Verdict

MIB = 1 << 20
NIGHT = 2_880  # four hours at five seconds
SIGNALS = (*EXACT, *EXACT_FLOOR, "heap", "rss", "uss", "memtables", "sst_live", "sst_total", "scan_seconds", "rounds")


def write(file: Path, samples: int, leaks: int = 0) -> str:
    """Write the file of a healthy leg with so many samples, and the guard's warnings between them."""
    rng = random.Random(samples)
    warning = {"source": "warning", "opened_at": "work.py:7", "text": "iterator opened at work.py:7"}
    event = {"source": "event", "kind": "iterator", "opened_at": "work.py:7", "count": 3, "text": "leaked"}
    with open(file, "w", encoding="utf-8") as lines:
        for number in range(samples):
            values = dict.fromkeys((*EXACT, *EXACT_FLOOR), 0.0)
            noisy = {name: 20.0 * MIB + rng.gauss(0, MIB / 4) for name in SIGNALS if name not in values}
            lines.write(json.dumps({"sample": {"time": 5.0 * number, **values, **noisy}}) + "\n")
            if number < leaks:
                lines.write(json.dumps({"leak": warning}) + "\n" + json.dumps({"leak": event}) + "\n")
    return str(file)


def peak(file: str) -> int:
    """Return the most bytes that Python held while a file was read."""
    tracemalloc.start()
    try:
        read_leg(file)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_memory_of_reading_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """A file ten times as long, with ten times as many leaks, takes the same memory."""
    few = NIGHT // 2
    short = write(tmp_path / "short.jsonl", few, few)
    long = write(tmp_path / "long.jsonl", 10 * few, 10 * few)
    read_leg(short)  # what is allocated once is
    assert peak(long) <= 1.2 * peak(short)


def test_a_night_is_judged_in_seconds(tmp_path: Path) -> None:
    """The 24 legs of a night, four hours each, are read and judged in less than ten seconds."""
    file = write(tmp_path / "night.jsonl", NIGHT)
    scenario = all_scenarios()["iterator-leak"]
    job = LegJob("iterator-leak", "raw", 14_400.0, 1, file)
    start = time.process_time()
    for _ in range(24):
        report = judge_leg(scenario, job, LegOutcome(0, ""), read_leg(file))
        found = trends(report.data)
    assert time.process_time() - start < 10
    assert report.verdict is Verdict.PASS
    assert set(found) == {"heap", "rss", "uss", "pinned_memtables", "sst_total", "scan_seconds"}


def test_what_is_kept_of_a_night_is_little(tmp_path: Path) -> None:
    """Of each signal there are at most 600 points, and 48 blocks to be judged."""
    data = read_leg(write(tmp_path / "night.jsonl", NIGHT))
    assert {len(values) for values in data.series.values()} == {MOST_POINTS}
    assert len(data.measured("heap").floor) == MAX_BLOCKS
    assert data.measured("heap").count == 0.75 * NIGHT


def test_reading_in_one_go_and_sample_by_sample_measure_the_same(tmp_path: Path) -> None:
    """What is measured of a short file is what its series measure."""
    data = read_leg(write(tmp_path / "leg.jsonl", 500))
    assert len(data.series["heap"]) == 500
    for signal in SIGNALS:
        assert data.measured(signal) == measure(data.series["time"], data.series[signal])


def test_an_exact_signal_is_not_thinned_before_it_is_judged(tmp_path: Path) -> None:
    """One handle in one of thousands of samples is enough to fail."""
    file = Path(write(tmp_path / "night.jsonl", NIGHT))
    lines = file.read_text().splitlines(keepends=True)
    lines[2001] = lines[2001].replace('"open_handles": 0.0', '"open_handles": 1.0')
    file.write_text("".join(lines))
    data = read_leg(str(file))
    assert data.measured("open_handles").highest == 1.0
    assert max(data.series["open_handles"]) == 1.0


def test_what_the_guard_says_is_grouped_by_line(tmp_path: Path) -> None:
    """Thousands of warnings of one line are one entry that says how many there were."""
    data = read_leg(write(tmp_path / "night.jsonl", NIGHT, 1000))
    assert [(leak["source"], leak["opened_at"], leak["reports"]) for leak in data.leaks] == [
        ("warning", "work.py:7", 1000),
        ("event", "work.py:7", 1000),
    ]
    assert data.leaks[1]["count"] == 3000
    assert data.named == ("work.py:7",)


def test_handles_of_a_line_are_counted_once_each(tmp_path: Path) -> None:
    """An event says how many of its line there have been, from one again in each database; they are not summed up."""
    file = tmp_path / "leg.jsonl"
    told = [{"source": "event", "event": "e", "kind": "iterator", "opened_at": "work.py:7", "count": count}
            for count in (1, 10, 100, 123, 1, 10)]  # fmt: skip
    file.write_text("".join(json.dumps({"leak": leak}) + "\n" for leak in told))
    (leak,) = read_leg(str(file)).leaks
    assert (leak["count"], leak["reports"]) == (133, 6)


def test_a_table_is_kept(tmp_path: Path) -> None:
    """What a scenario reports besides its samples comes with them; the last of several stands."""
    file = tmp_path / "leg.jsonl"
    file.write_text('{"table": {"rows": [1]}}\n{"sample": {"time": 1.0}}\n{"table": {"rows": [1, 2]}}\n')
    assert read_leg(str(file)).table == {"rows": [1, 2]}


def test_a_leg_that_was_cut_short_says_so(tmp_path: Path) -> None:
    """How far it came is read back; of a leg that came to its end there is nothing to say."""
    file = tmp_path / "leg.jsonl"
    file.write_text('{"cut": {"rounds": 3, "of": 100}}\n{"sample": {"time": 1.0}}\n{"table": {"rows": [1]}}\n')
    assert read_leg(str(file)).cut == {"rounds": 3, "of": 100}
    file.write_text('{"sample": {"time": 1.0}}\n')
    assert read_leg(str(file)).cut is None


def test_a_signal_that_was_not_sampled_cannot_be_judged(tmp_path: Path) -> None:
    """It is missing, not healthy."""
    data = read_leg(write(tmp_path / "leg.jsonl", 100))
    assert data.measured("nonsense").missing == data.measured("nonsense").count == 75


@given(st.integers(0, 2**32), st.integers(1, 3000), st.floats(0, 0.5))
def test_thinning_keeps_the_extremes(seed: int, samples: int, missing: float) -> None:
    """However long a series, its lowest and highest sample are kept, and no other value is made up."""
    rng = random.Random(seed)
    values = [math.nan if rng.random() < missing else rng.gauss(0, 1) for _ in range(samples)]
    thinner = Thinner(samples)
    for number, value in enumerate(values):
        thinner.add({"time": float(number), "value": value})
    times, kept = thinner.series["time"], thinner.series["value"]
    assert len(times) == len(kept) <= MOST_POINTS
    assert all(earlier <= later for earlier, later in itertools.pairwise(times))
    assert (times[0], times[-1]) == (0.0, samples - 1.0)
    numbers = [value for value in values if not math.isnan(value)]
    shown = [value for value in kept if not math.isnan(value)]
    assert set(shown) <= set(numbers)
    if numbers:
        assert (min(shown), max(shown)) == (min(numbers), max(numbers))


@given(st.integers(601, 5000), st.integers(0, 4999))
def test_thinning_keeps_a_single_spike_in_its_place(samples: int, at: int) -> None:
    """A spike of one sample is shown, no further from its time than a stretch is long."""
    spike = at % samples
    thinner = Thinner(samples)
    for number in range(samples):
        thinner.add({"time": float(number), "value": float(number == spike)})
    shown = thinner.series["time"][thinner.series["value"].index(1.0)]
    assert abs(shown - spike) <= samples / (MOST_POINTS // 2) + 1


@pytest.mark.parametrize("samples", [1, 599, 600])
def test_short_series_are_kept_as_they_are(samples: int) -> None:
    """Nothing is thinned that need not be."""
    thinner = Thinner(samples)
    for number in range(samples):
        thinner.add({"value": float(number)})
    assert thinner.series == {"value": [float(number) for number in range(samples)]}
