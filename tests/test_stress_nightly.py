"""The nightly run: its share of time for each leg, and the workflow that runs it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from stress import cli, night, session
from stress.faults import catalogue
from stress.judging import RunStatus, Status
from stress.record import Plan, Record
from stress.scenario import LEGS, all_scenarios

WORKFLOW = Path(__file__).resolve().parent.parent / ".github" / "workflows" / "nightly.yml"


@pytest.fixture(scope="module")
def workflow() -> dict:
    """The workflow; YAML 1.1 takes its key `on` for true."""
    return yaml.safe_load(WORKFLOW.read_text())


@pytest.fixture(scope="module")
def steps(workflow) -> list[dict]:
    """The steps of its one job."""
    (job,) = workflow["jobs"].values()
    return job["steps"]


def step(steps: list[dict], text: str) -> dict:
    (found,) = (each for each in steps if text in each.get("run", "") + each.get("uses", ""))
    return found


def stress_commands(steps: list[dict]) -> list[list[str]]:
    lines = (line.strip() for each in steps for line in each.get("run", "").splitlines())
    return [shlex.split(line)[3:] for line in lines if line.startswith("python -m stress")]


def test_it_runs_every_night_and_on_demand(workflow) -> None:
    """There is a time of day, and a button."""
    (night,) = workflow[True]["schedule"]
    assert re.fullmatch(r"\d+ \d+ \* \* \*", night["cron"])
    assert "workflow_dispatch" in workflow[True]


def test_its_commands_are_commands(steps) -> None:
    """Each `python -m stress` in it is accepted by the parser; it is a night of four hours, and a comparison."""
    found = [cli._parser().parse_args(words) for words in stress_commands(steps)]
    assert [options.command for options in found] == ["nightly", "compare"]
    assert found[0].hours == 4
    assert (found[1].old, found[1].new) == ("last/*/run.json", f"{found[0].output}/*/run.json")


def test_what_was_found_is_kept_and_compared_on_a_bad_night_too(steps) -> None:
    """A red night is compared and kept as a good one is."""
    upload = step(steps, "actions/upload-artifact")
    assert "always()" in upload["if"]
    assert upload["with"]["path"].split() == ["tonight/*/run.json", "tonight/*/report.html", "tonight/*/faults"]
    for text in ("gh run download", "stress compare"):
        assert step(steps, text)["if"] == "${{ !cancelled() }}"
    assert f"--name {upload['with']['name']} " in step(steps, "gh run download")["run"]


def test_it_has_the_time_and_the_rights_that_it_needs(workflow) -> None:
    """Four hours and some fit in its time limit, and it may read the artifacts of earlier nights and write nothing."""
    (job,) = workflow["jobs"].values()
    assert 4 * 60 + 30 < job["timeout-minutes"] <= 360
    assert workflow["permissions"] == {"contents": "read", "actions": "read"}


def test_its_scripts_are_scripts(steps) -> None:
    """The shell can parse every script in it."""
    for each in steps:
        if "run" in each:
            subprocess.run(["bash", "-n"], input=each["run"], text=True, check=True, timeout=30)


def test_the_first_night_passes_with_a_word(steps, tmp_path: Path) -> None:
    """Without an earlier night the comparison says so and is no failure."""
    script = step(steps, "stress compare")["run"]
    done = subprocess.run(["bash", "-e"], input=script, text=True, capture_output=True, cwd=tmp_path, timeout=30)
    assert (done.returncode, done.stdout) == (0, "Nothing to compare with.\n")


@pytest.mark.parametrize(
    ("downloads", "said"), [("mkdir last", ""), ("exit 1", "The record of the last good night is gone")]
)
def test_a_night_whose_forerunner_is_gone_goes_on(steps, tmp_path: Path, downloads: str, said: str) -> None:
    """A record that is kept no longer is no failure: otherwise no later night could ever be a good one."""
    gh = tmp_path / "gh"
    gh.write_text(f'#!/bin/sh\n[ "$2" = list ] && echo 7 && exit\n{downloads}\n')
    gh.chmod(0o755)
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "GITHUB_REF_NAME": "main"}
    script = step(steps, "gh run download")["run"]
    done = subprocess.run(
        ["bash", "-e"], input=script, text=True, capture_output=True, cwd=tmp_path, env=environment, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(said)
    assert (tmp_path / "last").exists() == (not said)


@pytest.mark.parametrize(("hours", "jobs"), [("4", 1), ("0.5", 2), ("1", 5), ("2", 1000)])
def test_the_hours_are_those_of_the_whole_night(hours: str, jobs: int) -> None:
    """The faults and all rounds of legs take the hours that were asked for, however many run at once."""
    options = cli._parser().parse_args(["nightly", "--hours", hours, "--jobs", str(jobs)])
    plan = session.plan_of(options, None)
    legs = sum(len(scenario.legs(LEGS)) for scenario in all_scenarios().values())
    rounds = -(-legs // plan.jobs)
    assert (plan.scenarios, plan.legs) == (tuple(all_scenarios()), LEGS)
    assert plan.jobs == min(jobs, legs)
    assert plan.seconds * rounds + session.FAULTS_SHARE * float(hours) * 3600 == pytest.approx(float(hours) * 3600)


def test_a_cluster_says_how_many_legs_run_at_once() -> None:
    """The night is shared out among the slots of the cluster."""
    options = cli._parser().parse_args(["nightly", "--hours", "1", "--scheduler", "tcp://host:8786"])
    alone, all_at_once = session.plan_of(options, 1), session.plan_of(options, 1000)
    assert alone.seconds * all_at_once.jobs == pytest.approx(all_at_once.seconds) == pytest.approx(3600 * 7 / 8)


def begun_night(folder: Path) -> Record:
    """A night as it is when the faults begin."""
    folder.mkdir(exist_ok=True)
    return Record(str(folder), Plan((), (), 1.0, 7), ())


def test_a_night_begins_with_the_faults(tmp_path: Path) -> None:
    """They are staged in a process of their own with the night's seed, and their record is in the night's directory."""
    record = begun_night(tmp_path / "night")
    found = night.stage_faults(record, 0.01, threading.Event())
    assert (found["status"], found["reason"]) == ("green", "every round came out as it must")
    summary = json.loads(Path(found["file"]).read_text())
    assert Path(found["file"]).parent.parent == tmp_path / "night" / "faults"
    assert summary["seed"] == 7
    assert [(each["fault"], each["right"] > 0) for each in summary["faults"]] == [
        (name, True) for name in catalogue.names()
    ]


class SetOnceBegun(threading.Event):
    """A flag that is set once a round has ended; at once, if no folder is given."""

    def __init__(self, folder: Path | None) -> None:
        super().__init__()
        self.folder = folder

    def is_set(self) -> bool:
        if self.folder is None or any(self.folder.glob("faults/*/rounds.jsonl")):
            self.set()
        return super().is_set()


@pytest.mark.parametrize("begun", [True, False])
def test_an_interrupted_night_ends_its_faults(tmp_path: Path, begun: bool) -> None:
    """Once the flag is set the faults end as by Ctrl-C, begun or not, and nothing is concluded from them."""
    folder = tmp_path / "night"
    found = night.stage_faults(begun_night(folder), 600.0, SetOnceBegun(folder if begun else None))
    assert (found["status"], found["reason"]) == ("inconclusive", "interrupted")
    assert (found["file"] is not None) == begun


@pytest.mark.parametrize("program", ["exit 0", "exit 1", "kill -9 $$"])
def test_faults_that_leave_no_record_are_red(tmp_path: Path, monkeypatch, program: str) -> None:
    """A process of the faults that dies without a record is no pass, whatever its status."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{program}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    found = night.stage_faults(begun_night(tmp_path / "night"), 1.0, threading.Event())
    assert (found["status"], found["file"]) == ("red", None)
    assert "its process ended with status" in found["reason"]


@pytest.mark.parametrize(
    ("legs", "faults", "status"),
    [
        (Status.GREEN, "green", 0),
        (Status.GREEN, "red", 1),
        (Status.RED, "green", 1),
        (Status.INCONCLUSIVE, "green", 3),
        (Status.GREEN, "inconclusive", 3),
        (Status.INCONCLUSIVE, "red", 1),
        (Status.RED, "inconclusive", 1),
    ],
)
def test_a_night_exits_with_the_worst_of_both(tmp_path, monkeypatch, capsys, legs, faults: str, status: int) -> None:
    """The status of the night is the worst of its legs' and its faults'; both are told, and in the record."""
    found = {"status": faults, "reason": "so it is", "file": "faults.json"}
    monkeypatch.setattr(night, "stage_faults", lambda *_: found)
    monkeypatch.setattr(session, "carry_out", lambda record, *_, **__: record.save())
    monkeypatch.setattr(Record, "status", property(lambda _: RunStatus(legs, "as it is")))
    arguments = ["nightly", "--hours", "0.001", "--output", str(tmp_path / "results")]
    assert cli.main(arguments) == status
    assert f"faults: {faults.upper()}: so it is (faults.json)" in capsys.readouterr().out
    (run,) = tmp_path.glob("results/*/run.json")
    assert json.loads(run.read_text())["faults"] == found


@pytest.mark.parametrize("command", [["run", "iterator-leak"], ["quick"]])
def test_other_runs_stage_no_faults(tmp_path, monkeypatch, command: list[str]) -> None:
    """Only a night does."""
    monkeypatch.setattr(night, "stage_faults", lambda *_: pytest.fail("it did"))
    monkeypatch.setattr(session, "carry_out", lambda record, *_, **__: record.save())
    cli.main([*command, "--output", str(tmp_path / "results")])
