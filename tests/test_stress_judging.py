"""From verdicts to what a run proves: the raw leg must leak, the others must not."""

from __future__ import annotations

import io
import json
import math
from concurrent.futures import CancelledError
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import psutil
import pytest
from rich.console import Console

import saferocks
from stress import guarded
from stress.jobs import LegJob, LegOutcome
from stress.judging import EXACT, EXACT_FLOOR, EXPECTED, Status, judge_leg, judge_run
from stress.probe import Highest, Probe, heap_used
from stress.record import Plan, Record
from stress.runner import carry_out, prepare
from stress.samples import LegData, latest_sample, read_leg
from stress.scenario import LEGS, all_scenarios
from stress.terminal import show_result, verdict_table
from stress.verdict import Verdict

MIB = 1 << 20
SCENARIO = all_scenarios()["iterator-leak"]
LINE = SCENARIO.opening_line
DONE = LegOutcome(0, "")
TIMES = [number / 20 for number in range(100)]


def job(leg: str) -> LegJob:
    return LegJob("iterator-leak", leg, 5.0, 1, f"/nowhere/{leg}.jsonl")


def data(*, named: tuple[str, ...] = (), **series: list[float]) -> LegData:
    healthy = {name: [0.0] * len(TIMES) for name in (*EXACT, *EXACT_FLOOR)}
    found = {"time": TIMES, **healthy, "heap": [5.0 * MIB] * len(TIMES), **series}
    return LegData(found, tuple({"source": "warning", "opened_at": line} for line in named))


def rising(step: float = MIB) -> list[float]:
    return [step * (number + 1) for number in range(len(TIMES))]


LEAKING = {name: rising() for name in SCENARIO.planted}


def report(leg: str, found: LegData, outcome: LegOutcome = DONE):
    return judge_leg(SCENARIO, job(leg), outcome, found)


def test_the_three_legs_as_they_must_be_are_green() -> None:
    """A leaking raw leg, a flat guarded leg with its line named and a flat scoped leg make a green run."""
    reports = [report("raw", data(**LEAKING)), report("guarded", data(named=(LINE,))), report("scoped", data())]
    assert [each.status for each in reports] == [Status.GREEN] * 3
    assert [each.verdict for each in reports] == [Verdict.FAIL, Verdict.PASS, Verdict.PASS]
    assert judge_run(reports, map(job, LEGS)).status is Status.GREEN


@pytest.mark.parametrize("missed", sorted(LEAKING))
def test_a_planted_leak_that_is_missed_in_one_signal_is_red(missed: str) -> None:
    """The raw leg must be seen to leak in every signal in which its leak was planted."""
    found = report("raw", data(**{**LEAKING, missed: data().series[missed]}))
    assert found.status is Status.RED
    assert missed in found.reason


def test_a_planted_leak_is_not_missed_by_a_leg_that_could_not_plant_it() -> None:
    """Where the machine let the leg through too few rounds, nothing can be concluded, and that is said."""
    found = replace(data(**{**LEAKING, "heap": data().series["heap"]}), cut={"rounds": 31, "of": 100})
    assert report("raw", found).status is Status.INCONCLUSIVE
    assert report("raw", found).reason.endswith("heap; the machine let the leg through 31 of 100 rounds only")
    assert report("raw", replace(data(**LEAKING), cut=found.cut)).status is Status.GREEN
    leaking = replace(data(open_handles=rising()), cut=found.cut)
    assert report("scoped", leaking).status is Status.RED


def test_a_planted_leak_that_cannot_be_judged_is_inconclusive() -> None:
    """Under another allocator the raw leg's heap proves nothing, though its handles do."""
    found = report("raw", data(**{**LEAKING, "heap": [0.0] * len(TIMES)}))
    assert (found.verdict, found.status) == (Verdict.FAIL, Status.INCONCLUSIVE)


@pytest.mark.parametrize("leg", ["guarded", "scoped"])
@pytest.mark.parametrize("signal", [*EXACT, *EXACT_FLOOR, "heap"])
def test_a_leak_in_any_signal_of_a_healthy_leg_is_red(leg: str, signal: str) -> None:
    """Each signal alone turns a guarded or scoped leg red, and says so."""
    named = (LINE,) if leg == "guarded" else ()
    found = report(leg, data(named=named, **{signal: rising()}))
    assert (found.verdict, found.status) == (Verdict.FAIL, Status.RED)
    assert signal in found.reason


@pytest.mark.parametrize("named", [(), ("elsewhere.py:1",), (LINE, "elsewhere.py:1")])
def test_a_guard_that_does_not_name_the_line_is_red(named: tuple[str, ...]) -> None:
    """The guard must name the line that leaks, and no other."""
    found = report("guarded", data(named=named))
    assert (found.verdict, found.status) == (Verdict.PASS, Status.RED)
    assert LINE in found.reason


def test_a_guard_that_names_a_line_of_the_right_code_is_red() -> None:
    """Nothing may be reported of code that leaks nothing."""
    assert report("scoped", data(named=(LINE,))).status is Status.RED


TRANSFERS = all_scenarios()["transfer-buffers"]
AGES = all_scenarios()["snapshot-age"]


def test_a_signal_of_the_scenario_is_judged_by_its_limit() -> None:
    """A scenario's own exact signal turns a leg red, and is not asked for in other scenarios."""
    healthy = {name: [float(limit)] * len(TIMES) for name, limit in TRANSFERS.limits.items()}
    scoped = LegJob("transfer-buffers", "scoped", 5.0, 1, "file")
    assert judge_leg(TRANSFERS, scoped, DONE, data(**healthy)).status is Status.GREEN
    for name in TRANSFERS.limits:
        found = judge_leg(TRANSFERS, scoped, DONE, data(**{**healthy, name: rising()}))
        assert (found.verdict, found.status) == (Verdict.FAIL, Status.RED)
        assert name in found.reason


REUSE = all_scenarios()["db-reuse"]


def test_a_latency_is_judged_by_what_it_is_as_a_rule() -> None:
    """A scenario's own latency turns a leg red when it is usually too long, and not by what is slow for a while."""
    (limit,) = REUSE.usual.values()

    def status(*seconds: float) -> Status:
        series = {"reopen_seconds": list(seconds), "refused_reopenings": [0.0] * len(TIMES)}
        return judge_leg(REUSE, LegJob("db-reuse", "scoped", 5.0, 1, "file"), DONE, data(**series)).status

    assert status(*[limit / 10] * len(TIMES)) is Status.GREEN
    assert status(*[limit / 10] * (len(TIMES) - 20), *[9 * limit] * 20) is Status.GREEN
    assert status(*[limit * 1.1] * len(TIMES)) is Status.RED


def test_a_signal_that_was_not_sampled_is_inconclusive() -> None:
    """A scenario's own signal that a leg does not report is no pass."""
    found = judge_leg(TRANSFERS, LegJob("transfer-buffers", "scoped", 5.0, 1, "file"), DONE, data())
    assert (found.verdict, found.status) == (Verdict.INCONCLUSIVE, Status.INCONCLUSIVE)


@pytest.mark.parametrize("variant", AGES.variants, ids=lambda variant: variant.name)
def test_a_variant_holds_what_it_is_said_to_hold_and_nothing_else(variant) -> None:
    """It is red if something is not held, if something else is, and if the guard names anything."""

    def status(found: LegData) -> Status:
        return judge_leg(AGES, LegJob("snapshot-age", variant.name, 5.0, 1, "file"), DONE, found).status

    held = {name: rising() for name in variant.held}
    assert status(data(**held)) is Status.GREEN
    assert status(data(named=(LINE,), **held)) is Status.RED
    for name in variant.held:
        assert status(data(**{**held, name: data().series[name]})) is Status.RED
    for name in variant.flat:
        assert status(data(**held, **{name: rising()})) is Status.RED


def test_variants_are_run_where_all_three_legs_are() -> None:
    """They answer questions beside the three legs, which `--leg` does not ask."""
    assert AGES.legs(LEGS) == (*LEGS, "scans", "points")
    assert AGES.legs(("raw", "scoped")) == ("raw", "scoped")
    assert SCENARIO.legs(LEGS) == LEGS
    assert {variant.name for each in all_scenarios().values() for variant in each.variants} | set(LEGS) == set(EXPECTED)


def test_a_leg_whose_process_died_is_red() -> None:
    """A crash is never a pass, and the end of stderr says why."""
    found = report("scoped", data(), LegOutcome(-11, "first\nSegmentation fault\n"))
    assert (found.verdict, found.status) == (Verdict.INCONCLUSIVE, Status.RED)
    assert "-11: Segmentation fault" in found.reason


@pytest.mark.parametrize("failure", [OSError(28, "no space left"), CancelledError(), RuntimeError()])
def test_what_failed_in_the_harness_is_not_told_of_the_leg(tmp_path: Path, failure: BaseException) -> None:
    """A leg that could not be run or recorded is red, and what failed is said, not that its process had ended."""

    def fail(job: LegJob) -> LegOutcome:
        raise failure

    record = prepare(Plan(("iterator-leak",), ("scoped",), 0.1, 1), str(tmp_path), datetime.now(timezone.utc))
    carry_out(record, work=fail)
    (found,) = record.reports
    assert found.status is Status.RED
    said = str(failure) or "the executor has given it up"
    assert found.reason == f"the harness failed to run it: {type(failure).__name__}: {said}"


def test_an_interrupted_leg_is_inconclusive() -> None:
    """A leg that was stopped proves nothing, however healthy it looks."""
    found = report("scoped", data(), LegOutcome(-15, "", interrupted=True))
    assert (found.verdict, found.status) == (Verdict.INCONCLUSIVE, Status.INCONCLUSIVE)


def test_a_leg_without_samples_is_inconclusive() -> None:
    """A leg that reported nothing is no pass."""
    assert report("scoped", LegData({}, ())).status is Status.INCONCLUSIVE


def test_red_comes_before_inconclusive() -> None:
    """One wrong leg makes a run red, whatever else could not be judged."""
    reports = [report("raw", LegData({}, ())), report("scoped", data(open_handles=rising()))]
    assert judge_run(reports, map(job, ("raw", "scoped"))).status is Status.RED


def test_a_run_without_its_raw_leg_proves_nothing() -> None:
    """Flat legs alone do not show that a leak would be seen."""
    found = judge_run([report("scoped", data())], [job("scoped")])
    assert found.status is Status.INCONCLUSIVE
    assert "--leg raw" in found.reason


def test_a_run_with_a_leg_missing_is_inconclusive() -> None:
    """A run is green only once every planned leg has come out."""
    found = judge_run([report("raw", data(**LEAKING))], map(job, LEGS))
    assert found.status is Status.INCONCLUSIVE
    assert "guarded" in found.reason


def test_exit_statuses_are_as_documented() -> None:
    """0, 1 and 3 are what the command line promises."""
    assert [status.value for status in (Status.GREEN, Status.RED, Status.INCONCLUSIVE)] == [0, 1, 3]


def test_the_opening_line_is_that_of_the_opening() -> None:
    """What the guard must name is the source line with the opener's call."""
    for scenario in all_scenarios().values():
        file, _, number = scenario.opening_line.rpartition(":")
        with open(file, encoding="utf-8") as source:
            assert scenario.opening in source.read().splitlines()[int(number) - 1]


def test_the_record_is_json_without_nan(tmp_path) -> None:
    """Missing samples become null, because JSON knows no NaN; the numbers come back as they were."""
    plan = Plan(("iterator-leak",), LEGS, 0.1234567, 7)
    record = Record(str(tmp_path), plan, (job("raw"),), datetime(2030, 1, 2, tzinfo=timezone.utc))
    record.reports.append(report("raw", data(**LEAKING, rss=[math.nan, *rising()[1:]])))
    record.save()
    found = json.loads((tmp_path / "run.json").read_text(), parse_constant=pytest.fail)
    series = found["results"][0]["series"]
    assert series["rss"][:2] == [None, 2.0 * MIB]
    assert series["heap"] == rising()
    assert found["command"] == "python -m stress run iterator-leak --seconds 0.1234567 --seed 7"


def test_a_table_is_read_back_and_recorded_and_shown(tmp_path) -> None:
    """What a leg has to show besides its curves is in `run.json` and in the terminal; the last one counts."""
    file = tmp_path / "leg.jsonl"
    tables = [{"columns": ["rows", "ms"], "rows": [["endless [1]", None], [number, 1234.5]]} for number in (1, 2000)]
    file.write_text("".join(json.dumps({"table": table}) + "\n" for table in tables))
    found = read_leg(str(file))
    assert found.table == tables[1]
    record = Record(str(tmp_path), Plan(("iterator-leak",), LEGS, 1.0, 7), (job("raw"),))
    record.reports.append(report("raw", LegData(data(**LEAKING).series, (), found.table)))
    record.save()
    assert json.loads((tmp_path / "run.json").read_text())["results"][0]["table"] == tables[1]
    console = Console(file=io.StringIO(), width=200)
    show_result(console, record)
    shown = console.file.getvalue()
    assert all(text in shown for text in ("endless [1]", " - ", "2,000", "1,234.5"))


def test_the_heap_counts_large_blocks_and_reads_zero_under_another_allocator(monkeypatch) -> None:
    """What the allocator takes from `mmap` is on the heap as well; without its figures there are none."""
    for info, heap in (((5, 7), 12), ((0, 7), 0)):
        found = type("Info", (), {"heap_used": info[0], "mmap_used": info[1]})()
        monkeypatch.setattr(psutil, "heap_info", lambda found=found: found, raising=False)
        assert heap_used() == heap
    monkeypatch.delattr(psutil, "heap_info", raising=False)
    assert heap_used() == 0


class Ignorant:
    """A database that knows none of the properties that it is asked for."""

    def property_int_value(self, name: str, /) -> None:
        del name


def test_what_rocksdb_does_not_tell_is_missing_and_no_zero(tmp_path) -> None:
    """A property that there is not, and a count without statistics, read as missing, which is never a pass."""
    found = Probe(Ignorant(), lambda: 0, list, lambda rows: rows).read()
    unknown = {name for name, value in found.items() if math.isnan(value)}
    assert unknown == {"memtables", "live_versions", "snapshots", "sst_live", "sst_total", "pinned_memtables"}
    with saferocks.open(str(tmp_path / "db"), options=saferocks.Options(raw_mode=True)) as db:
        assert math.isnan(guarded.probe(db, b"").read()["live_iterators"])
    assert report("scoped", data(live_versions=[math.nan] * len(TIMES))).status is Status.INCONCLUSIVE


def test_the_highest_value_is_that_since_the_last_reading() -> None:
    """What was seen before a sample does not show in the next one."""
    highest = Highest()
    highest.see(3)
    highest.see(2)
    assert (highest.take(), highest.take()) == (3, 0)


def test_samples_that_are_still_being_written_are_left_out(tmp_path) -> None:
    """A line without its end is not read, by the progress or afterwards."""
    file = tmp_path / "leg.jsonl"
    assert latest_sample(str(file)) == {}
    assert read_leg(str(file)) == LegData({}, ())
    file.write_text('{"sample": {"time": 1.0}}\n{"leak": {"source": "event"}}\n{"sample": {"ti')
    assert latest_sample(str(file)) == {"time": 1.0}
    assert read_leg(str(file)) == LegData({"time": [1.0]}, ({"source": "event", "reports": 1},))


def test_the_table_fits_a_terminal() -> None:
    """In 80 columns every word of it is there in full, the longest too, and however large the figures are."""
    large = data(**{name: [9_000 * MIB] * len(TIMES) for name in ("rss", "sst_total", "pinned_memtables")})
    long = LegJob("reserved-session", "guarded", 60.0, 7, "nowhere")
    reports = [report("scoped", LegData({}, ())), replace(report("guarded", large), job=long)]
    console = Console(file=io.StringIO(), width=80)
    console.print(verdict_table(reports))
    shown = console.file.getvalue()
    assert all(text in shown for text in ("INCONCLUSIVE", "reserved-session", "guarded", "9000.0"))
    assert "…" not in shown
