"""What the code of a leg is given: how long it runs, when it plants, what it writes down."""

from __future__ import annotations

import io
import itertools
import json
import logging
import threading
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from saferocks import LeakedHandleWarning, OverdueHandleWarning
from stress import running
from stress.reduction import warm_up_samples
from stress.running import PLANTED, Leg, planned_samples

if TYPE_CHECKING:
    from collections.abc import Iterator

SOON = 1e-9


@dataclass
class Counted:
    """A probe that counts its readings."""

    read_times: int = 0

    def read(self) -> dict[str, float]:
        self.read_times += 1
        return {"heap": 1.0}


@pytest.fixture
def channel() -> io.StringIO:
    """Where a leg writes."""
    return io.StringIO()


@pytest.fixture
def leg(channel: io.StringIO) -> Leg:
    """A leg that is over at once, if it has had enough rounds."""
    return Leg("raw", "nowhere", SOON, 1, channel)


def lines(channel: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in channel.getvalue().splitlines()]


def test_samples_come_at_least_every_quarter_of_a_second_in_short_runs() -> None:
    """Short runs sample often, long ones every five seconds, and those in between in between."""
    assert planned_samples(0.5) == planned_samples(25) == 100
    assert (planned_samples(60), planned_samples(120)) == (240, 480)
    assert planned_samples(240) == 480
    assert planned_samples(3600) == 720


def test_a_slow_leg_runs_on_until_it_has_had_enough_rounds(leg: Leg) -> None:
    """The time alone does not end a leg that has not come far."""
    assert list(leg.rounds(Counted(), enough=77)) == list(range(77))


@dataclass
class Clock:
    """A clock that is moved on by hand, in place of the module `time`."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the legs of a test."""
    made = Clock()
    monkeypatch.setattr(running, "time", made)
    return made


def carried_out(clock: Clock, seconds: float, enough: int, rounds: Iterator[float]) -> tuple[list[float], list[int]]:
    """Run a leg whose rounds take so long; return the times of its samples, and what was planted by each of them."""
    channel, probe, planted, counts = io.StringIO(), Counted(), 0, []
    leg = Leg("raw", "nowhere", seconds, 1, channel)
    for _, taken in zip(leg.rounds(probe, enough), rounds, strict=False):
        counts.extend([planted] * (probe.read_times - len(counts)))
        while leg.is_due():
            planted += 1
        clock.now += taken
    return [line["sample"]["time"] for line in lines(channel) if "sample" in line], counts


def assert_planted_and_sampled_evenly(counts: list[int], enough: int) -> None:
    """There is enough to be judged, and of the leak three quarters are planted in it, but for a few rounds'."""
    assert len(counts) - warm_up_samples(len(counts)) >= 18
    before, after = counts[warm_up_samples(len(counts))], counts[-1]
    assert after >= PLANTED * (1 - 3 / enough)
    assert before <= PLANTED * (1 / 4 + 3 / enough)
    assert max(later - earlier for earlier, later in itertools.pairwise(counts)) <= 2 * PLANTED / enough + 1


@given(
    usual=st.floats(0.004, 0.06),
    stalls=st.dictionaries(st.integers(0, 200), st.floats(0.3, 60.0), max_size=3),
    enough=st.sampled_from([24, 40, 100]),
    seconds=st.sampled_from([1.0, 2.0, 4.0]),
    start=st.floats(0.0, 1e6),
)
@example(
    usual=0.004,
    stalls={198: 32.25608573844096, 102: 41.78630916582441, 178: 32.25608573844096},
    enough=100,
    seconds=2.0,
    start=6.318160053332078,
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_machine_that_stands_still_takes_nothing_from_a_leg(
    clock: Clock, usual: float, stalls: dict[int, float], enough: int, seconds: float, start: float
) -> None:
    """However long it does and whenever, the leg plants and samples on as evenly as if it had not."""
    clock.now = start
    rounds = (stalls.get(number, 0.0) + usual for number in itertools.count())
    _, counts = carried_out(clock, seconds, enough, rounds)
    assert_planted_and_sampled_evenly(counts, enough)


def test_a_leg_that_becomes_slow_runs_on(clock: Clock) -> None:
    """A leg whose rounds become slow goes on planting and sampling, however many samples it has had before."""
    rounds = (0.01 if number < 50 else 0.1 for number in itertools.count())
    times, counts = carried_out(clock, 1.0, 100, rounds)
    assert_planted_and_sampled_evenly(counts, 100)
    assert 5 < times[-1] < 6


def test_a_leg_that_never_gets_there_ends_all_the_same(
    leg: Leg, channel: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running on has a limit, and the leg says how far it came; one that gets there says nothing."""
    monkeypatch.setattr(running, "_MORE_SECONDS", 0.01)
    come = len(list(leg.rounds(enough=10**9)))
    assert lines(channel) == [{"cut": {"rounds": come, "of": 10**9}}]
    assert list(Leg("raw", "nowhere", SOON, 1, channel).rounds(enough=3)) == [0, 1, 2]
    assert len(lines(channel)) == 1


def test_a_leg_that_is_slow_throughout_ends_all_the_same(clock: Clock) -> None:
    """A machine that never lets it go on as it should is not one that stood still."""
    times, _ = carried_out(clock, 1.0, 100, itertools.repeat(1.0))
    assert 30 <= times[-1] <= 31


def test_a_long_run_takes_its_time(monkeypatch: pytest.MonkeyPatch, channel: io.StringIO) -> None:
    """A night neither wears the disk out nor fills it."""
    monkeypatch.setattr(running, "_SHORT_RUN", 0.1)
    monkeypatch.setattr(running, "_PAUSE_SECONDS", 0.05)
    assert len(list(Leg("raw", "nowhere", 0.2, 1, channel).rounds(Counted(), enough=1))) <= 4
    assert len(list(Leg("raw", "nowhere", 0.1, 1, channel).rounds(Counted(), enough=1))) > 4


def test_a_leak_is_planted_over_the_whole_of_a_leg_that_runs_on(leg: Leg) -> None:
    """A leak that was all planted at the beginning would not be seen to grow."""
    planted = 0
    for number in leg.rounds(Counted(), enough=PLANTED):
        while leg.is_due():
            planted += 1
        assert number <= planted <= number + 1


def test_a_leg_plants_no_more_than_a_night_survives(leg: Leg) -> None:
    """However many rounds there are, the leak has its limit."""
    planted = 0
    for _ in leg.rounds(Counted(), enough=3 * PLANTED):
        while leg.is_due():
            planted += 1
    assert planted == PLANTED


def test_a_round_is_sampled_where_it_says(leg: Leg, channel: io.StringIO) -> None:
    """Without a probe for the rounds, the round takes its samples itself."""
    probe = Counted()
    for number in leg.rounds(enough=40):
        if number >= 5:
            leg.sample(probe)
    samples = [line["sample"] for line in lines(channel)]
    assert [sample["rounds"] for sample in samples] == list(range(5, 40))
    assert samples[0]["heap"] == 1.0
    assert probe.read_times == len(samples)


def test_a_table_is_written_as_one_line(leg: Leg, channel: io.StringIO) -> None:
    """What a leg has to show besides its curves goes the way of its samples."""
    leg.show_table(("rows", "ms"), [("endless", None), (1, 2.5)])
    assert lines(channel) == [{"table": {"columns": ["rows", "ms"], "rows": [["endless", None], [1, 2.5]]}}]


@pytest.mark.parametrize("category", [LeakedHandleWarning, OverdueHandleWarning])
def test_what_the_guard_says_is_written_down(
    leg: Leg, channel: io.StringIO, category: type[Warning], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Warnings of leaks and of overdue handles name their line, from whatever thread they come."""
    monkeypatch.setattr(logging.getLogger("saferocks"), "handlers", [])
    with warnings.catch_warnings():
        leg.listen()
        for _ in range(2):
            say = threading.Thread(target=warnings.warn_explicit, args=("text", category, "jobs.py", 7))
            say.start()
            say.join()
    assert lines(channel) == [{"leak": {"source": "warning", "opened_at": "jobs.py:7", "text": "text"}}] * 2
