"""What the code of a leg is given: how long it runs, when it plants, what it writes down."""

from __future__ import annotations

import io
import json
import logging
import threading
import warnings
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from saferocks import LeakedHandleWarning, OverdueHandleWarning
from stress import running
from stress.running import PLANTED, Leg, sampling_interval

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
    assert sampling_interval(0.5) == 0.005
    assert sampling_interval(60) == sampling_interval(120) == 0.25
    assert sampling_interval(240) == 0.5
    assert sampling_interval(3600) == 5.0


def test_a_slow_leg_runs_on_until_it_has_had_enough_rounds(leg: Leg) -> None:
    """The time alone does not end a leg that has not come far."""
    assert list(leg.rounds(Counted(), enough=77)) == list(range(77))


def test_a_leg_runs_on_until_it_can_be_judged(channel: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leg whose rounds become slow has too few samples after its warm-up, however many it has had before."""
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(running, "time", clock)
    for number in Leg("raw", "nowhere", 10.0, 1, channel).rounds(Counted(), enough=1):
        clock.now += 0.1 if number < 30 else 1.0
    times = [line["sample"]["time"] for line in lines(channel)]
    assert len([time for time in times if time >= 0.25 * clock.now]) >= 16
    assert 11 < clock.now < 40


def test_a_leg_that_never_gets_there_ends_all_the_same(leg: Leg, monkeypatch: pytest.MonkeyPatch) -> None:
    """Running on has a limit."""
    monkeypatch.setattr(running, "_MORE_SECONDS", 0.01)
    assert list(leg.rounds(enough=10**9))


def test_a_long_run_takes_its_time(monkeypatch: pytest.MonkeyPatch, channel: io.StringIO) -> None:
    """A night neither wears the disk out nor fills it."""
    monkeypatch.setattr(running, "_SHORT_RUN", 0.1)
    monkeypatch.setattr(running, "_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(Leg, "_can_be_judged", lambda self, elapsed: True)
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
