"""The command line of the stress harness."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest

from stress import cli, disk, session
from stress.jobs import run_leg
from stress.record import Plan, new_directory
from stress.runner import Silent, carry_out, prepare
from stress.samples import latest_sample
from stress.scenario import all_scenarios

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
SNAPSHOTS = "snapshot-age"
ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["run", "nonsense"], "there are batch-memory, db-reuse, "),
        (["run", "iterator-leak", "--leg", "nonsense"], "there are raw, guarded, scoped"),
        (["run", "iterator-leak", "--leg", "scans"], "iterator-leak has no leg scans; it has raw, guarded, scoped"),
        (["run", "iterator-leak", "--leg", "raw", "--leg", "scans"], "iterator-leak has no leg scans; it has raw"),
        (["run", "iterator-leak", "snapshot-age", "--leg", "scans", "--leg", "points"], "has no leg scans or points;"),
        (["run", "iterator-leak", "--seconds", "0"], "give a positive number of seconds"),
        (["run", "iterator-leak", "--seconds", "-1"], "give a positive number of seconds"),
        (["run", "iterator-leak", "--seconds", "nan"], "give a positive number of seconds"),
        (["run", "iterator-leak", "--seconds", "inf"], "give a positive number of seconds"),
        (["run", "iterator-leak", "--seconds", "soon"], "give a positive number of seconds"),
        (["run", "iterator-leak", "--seconds", "1e308"], "give a positive number of seconds"),
        (["nightly", "--hours", "1e306"], "give a positive number of hours"),
        (["nightly"], "required: --hours"),
        (["nightly", "--hours", "0"], "give a positive number of hours"),
        (["nightly", "--hours", "-4"], "give a positive number of hours"),
        (["nightly", "--hours", "nan"], "give a positive number of hours"),
        (["nightly", "--hours", "inf"], "give a positive number of hours"),
        (["nightly", "--hours", "four"], "give a positive number of hours"),
        (["quick", "--jobs", "0"], "give a whole number, 1 or more"),
        (["quick", "--jobs", "-1"], "give a whole number, 1 or more"),
        (["quick", "--jobs", "1.5"], "give a whole number, 1 or more"),
        (["quick", "--jobs", "two"], "give a whole number, 1 or more"),
        (["quick", "--jobs", "2", "--scheduler", "tcp://host:8786"], "not allowed with argument --jobs"),
        (["quick", "--scheduler", "host:8786"], "give it as tcp://host:8786"),
        (["quick", "--scheduler", "tcp://host"], "give it as tcp://host:8786"),
        (["quick", "--scheduler", "tcp://host:99999"], "give it as tcp://host:8786"),
        (["quick", "--scheduler", "nonsense://host:8786"], "give it as tcp://host:8786"),
        (["run", "iterator-leak", "--seconds", "1e15"], "point --output at a disk with more room"),
        (["nightly", "--hours", "1e15"], "point --output at a disk with more room"),
        (["compare"], "required: OLD, NEW"),
        (["compare", "nowhere.json", "nowhere.json"], "there is no file nowhere.json"),
        (["compare", "/", "/"], "give the run.json in it"),
        (["quick", "--seed", "-1"], "give a whole number"),
        (["quick", "--seed", "1.5"], "give a whole number"),
        (["run"], "required: scenario"),
        (["nonsense"], "'quick', 'run', 'nightly', 'report', 'compare', 'list', 'bench'"),
        ([], "give quick, run NAME, nightly, report RUN, compare OLD NEW, list, bench or faults"),
        (["quick", "--nonsense"], "--nonsense"),
    ],
)
def test_bad_usage_is_one_line_with_its_remedy(arguments: list[str], remedy: str, capsys) -> None:
    """Bad usage exits with 2 and one line that says what would be right."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    shown = capsys.readouterr()
    assert caught.value.code == 2
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert remedy.replace("'", "") in shown.err.replace("'", "")  # quoted or not, by Python's version


def test_an_output_directory_that_cannot_be_made_is_bad_usage(tmp_path, capsys) -> None:
    """A path through a file exits with 2 and names the path."""
    (tmp_path / "file").write_text("")
    output = str(tmp_path / "file" / "results")
    with pytest.raises(SystemExit) as caught:
        cli.main(["quick", "--output", output])
    shown = capsys.readouterr()
    assert caught.value.code == 2
    assert shown.err.count("\n") == 1
    assert repr(output) in shown.err
    assert "--output" in shown.err


def test_an_output_that_is_a_file_is_bad_usage(tmp_path, capsys) -> None:
    """A file in the place of the directory exits with 2, and stays as it is."""
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(SystemExit) as caught:
        cli.main(["quick", "--output", str(file)])
    assert caught.value.code == 2
    assert repr(str(file)) in capsys.readouterr().err
    assert file.read_text() == "mine"


@pytest.mark.parametrize(("part", "remedy"), [("output", "--output"), ("temporary", "TMPDIR")])
def test_too_little_disk_is_refused_before_anything_is_made(tmp_path, capsys, monkeypatch, part, remedy) -> None:
    """A run that may take more than is free, of its results or of its databases, begins with nothing."""
    monkeypatch.setattr(disk, "LEG_BYTES" if part == "temporary" else "_RECORD_BYTES", 1 << 60)
    with pytest.raises(SystemExit) as caught:
        cli.main(["quick", "--output", str(tmp_path / "results")])
    shown = capsys.readouterr().err
    assert caught.value.code == 2
    assert shown.count("\n") == 1
    assert f"point {remedy} at a disk with more room" in shown
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_two_needs_share_must_hold_both(tmp_path) -> None:
    """What is free is not counted twice where results and databases are on one disk."""
    needs = [(str(tmp_path), "", 3), (str(tmp_path / "not" / "yet"), "", 4), ("/proc", "", 5)]
    assert disk._with_neighbours(needs) == [7, 7, 5]


def test_list_names_every_scenario(capsys) -> None:
    """`list` exits with 0 and shows each scenario in a line, with all its legs."""
    assert cli.main(["list"]) == 0
    lines = [line.partition(":")[0].split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert {name: tuple(legs.split(", ")) for name, legs in lines} == {
        name: scenario.leg_names for name, scenario in all_scenarios().items()
    }


@pytest.mark.parametrize(
    ("scenarios", "legs", "planned"),
    [
        ([SNAPSHOTS], ["scans"], {"scans"}),
        ([SNAPSHOTS], ["points", "raw"], {"raw", "points"}),
        ([SNAPSHOTS, "iterator-leak"], ["scans", "raw"], {"raw", "scans", "iterator-leak raw"}),
        ([SNAPSHOTS], ["raw", "guarded", "scoped"], {"raw", "guarded", "scoped", "scans", "points"}),
        ([SNAPSHOTS], [], {"raw", "guarded", "scoped", "scans", "points"}),
    ],
)
def test_a_variant_is_a_leg_that_can_be_chosen(tmp_path, scenarios: list[str], legs: list[str], planned) -> None:
    """`--leg` takes the legs of every scenario, and each scenario runs those of them that it has."""
    options = cli._parser().parse_args(["run", *scenarios, *(word for leg in legs for word in ("--leg", leg))])
    plan = session.plan_of(options, None)
    record = prepare(plan, str(tmp_path), NOW)
    assert {job.title.removeprefix(f"{SNAPSHOTS} ") for job in record.jobs} == planned
    replayed = session.plan_of(cli._parser().parse_args(plan.command.split()[3:]), None)
    assert replayed == plan


def test_the_module_can_be_run() -> None:
    """`python -m stress` reaches the command line, and help exits with 0."""
    done = subprocess.run(
        [sys.executable, "-m", "stress", "--help"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0
    assert "quick" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["list"], 0),
        (["run", "iterator-leak", "--seconds", "1", "--leg", "scoped"], 3),
        (["run", "iterator-leak", "--seconds", "1", "--leg", "scoped", "--json"], 3),
    ],
)
def test_a_reader_that_goes_away_changes_nothing(arguments: list[str], status: int, tmp_path) -> None:
    """With nobody at the other end of the pipe the status is that of the run, and its page is drawn."""
    reading, writing = os.pipe()
    os.close(reading)
    place = ["--output", str(tmp_path)] if "run" in arguments else []
    command = [sys.executable, "-m", "stress", *arguments, *place]
    done = subprocess.run(
        command, stdout=writing, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False, timeout=120
    )
    os.close(writing)
    assert (done.returncode, "Error" in done.stderr) == (status, False), done.stderr
    assert len(list(tmp_path.glob("*/report.html"))) == len(place) / 2


BENCH = """
import sys
from stress import cli
from stress.bench import report
from stress.bench.record import Row
report.measure = lambda sizes, asked: iter([Row("in", "SST", 1.5, "x", 1.4, 1.6, 1.1)] * 1000)
sys.exit(cli.main(["bench", *sys.argv[1:]]))
"""


@pytest.fixture
def run_file(tmp_path: Path) -> str:
    """The record of a run in which nothing came out."""
    return prepare(Plan(("iterator-leak",), ("raw",), 1.0, 1), str(tmp_path), NOW).file


@pytest.mark.parametrize(
    ("program", "status"),
    [
        (["-m", "stress", "--help"], 0),
        (["-m", "stress", "run", "--help"], 0),
        (["-m", "stress", "report", "RUN"], 0),
        (["-m", "stress", "report", "nowhere"], 2),
        (["-m", "stress", "compare", "RUN", "RUN"], 3),
        (["-m", "stress", "compare", "RUN", "RUN", "--json"], 3),
        (["-m", "stress", "nonsense"], 2),
        (["-c", BENCH], 1),
        (["-c", BENCH, "--json", "-"], 1),
        (["-c", BENCH, "--markdown"], 1),
    ],
)
@pytest.mark.parametrize("gone", ["stdout", "both"])
def test_no_command_minds_a_reader_that_goes_away(program: list[str], status: int, gone: str, run_file: str) -> None:
    """Whatever is printed, and be it what is wrong: the status is as ever, and nothing is told of a broken pipe."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, *(run_file if word == "RUN" else word for word in program)]
    errors = subprocess.PIPE if gone == "stdout" else writing
    done = subprocess.run(command, stdout=writing, stderr=errors, text=True, cwd=ROOT, check=False, timeout=60)
    os.close(writing)
    assert done.returncode == status, done.stderr
    assert "BrokenPipe" not in (done.stderr or "")


def test_two_runs_in_one_second_get_a_directory_each(tmp_path) -> None:
    """No run overwrites another."""
    made = {new_directory(str(tmp_path), NOW) for _ in range(3)}
    assert len(made) == 3


def test_the_replayed_command_makes_the_same_plan() -> None:
    """The command in the record, given to the command line, plans the same run."""
    for plan in (
        Plan(("iterator-leak", "snapshot-age"), ("raw", "guarded", "scoped"), 4.5, 99),
        Plan(("snapshot-age",), ("raw", "scoped"), 0.123456789, 0),
    ):
        assert session.plan_of(cli._parser().parse_args(plan.command.split()[3:]), None) == plan


class Impatient(Silent):
    """Presses Ctrl-C as soon as the first sample is in."""

    def __init__(self, file: str) -> None:
        self.file = file

    def refresh(self) -> None:
        if latest_sample(self.file):
            raise KeyboardInterrupt


def test_ctrl_c_leaves_a_valid_record(tmp_path) -> None:
    """A run that is interrupted records what there is, ends its processes and is inconclusive."""
    record = prepare(Plan(("iterator-leak",), ("raw", "scoped"), 60.0, 1), str(tmp_path), NOW)
    with pytest.raises(KeyboardInterrupt):
        carry_out(record, Impatient(record.jobs[0].file))
    found = json.loads(Path(record.file).read_text())
    assert (found["status"], found["interrupted"]) == ("inconclusive", True)
    assert [(leg["leg"], leg["status"]) for leg in found["results"]] == [("raw", "inconclusive")]
    assert found["results"][0]["series"]["heap"]


def test_legs_can_start_again_after_an_interrupt(tmp_path) -> None:
    """An interrupted run does not keep a later one in the same process from running."""
    stopped = prepare(Plan(("iterator-leak",), ("raw",), 60.0, 1), str(tmp_path), NOW)
    with pytest.raises(KeyboardInterrupt):
        carry_out(stopped, Impatient(stopped.jobs[0].file))
    assert run_leg(stopped.jobs[0]).interrupted
    later = prepare(Plan(("iterator-leak",), ("scoped",), 0.3, 1), str(tmp_path), NOW)
    carry_out(later)
    assert later.reports[0].data.series["time"]


def test_an_interrupt_at_the_command_line_exits_with_3(tmp_path, monkeypatch, capsys) -> None:
    """Ctrl-C prints what was done and exits as inconclusive, with JSON on stdout if asked for."""

    def interrupted(record, watch, executor, **place) -> None:
        record.interrupted = True
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "carry_out", interrupted)
    for json_too in ([], ["--json"]):
        assert cli.main(["quick", "--output", str(tmp_path), *json_too]) == 3
    shown = capsys.readouterr().out
    assert json.loads(shown[shown.index("{") :])["status"] == "inconclusive"
