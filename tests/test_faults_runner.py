"""The runner of the faults: each way for a round to go wrong is told as what it is, and nothing of it survives."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from stress import cli
from stress.faults import catalogue, command

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 60.0

#: Faults that go wrong in every way, and the command with these instead of the real ones.
PLANTED = """
import ctypes, faulthandler, multiprocessing, os, signal, subprocess, sys, tempfile, time
from dataclasses import replace
from pathlib import Path

import saferocks
from stress import cli
from stress.faults import catalogue
from stress.faults.children import Child
from stress.faults.fault import Fault, NotStagedError, Outcome

def right(r):
    with saferocks.open(str(r.directory / "db")) as db:
        db[b"k"] = b"v"
        db.flush()
    return Outcome({"rows": 2})

def alone(r):
    status = Path(f"/proc/{os.getppid()}/status").read_text()
    return Outcome({"threads": int(status.split("Threads:")[1].split()[0])})

def temporary(r):
    context = multiprocessing.get_context("forkserver")
    with context.Pool(1) as pool:
        pool.apply(os.getpid)
    return Outcome({"made": len(os.listdir(tempfile.gettempdir()))})

def noisy(r):
    print("this is no part of the table", flush=True)
    return Outcome({"empty": not os.listdir(r.directory)})

def hang(r):
    child = Child("a child", waits_here)
    (r.directory / "pid").write_text(str(child.pid))
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    waits_here()

def waits_here():
    time.sleep(1000)

def stubborn(r):
    faulthandler.disable()
    signal.signal(signal.SIGABRT, signal.SIG_IGN)
    time.sleep(1000)

def segfault(r):
    ctypes.string_at(0)

def killed(r):
    os.kill(os.getpid(), signal.SIGKILL)

def silent(r):
    os._exit(0)

def raises(r):
    raise saferocks.BusyError("[red]not[/] what it should be")

def leaves_by_exit(r):
    sys.exit(0)

def wrong(r):
    return Outcome({"rows": 1}, (f"a row was lost: {r.random().random()}", "and another"))

def partly(r):
    if r.seed % 2:
        raise NotStagedError("odd seeds cannot be staged")
    return Outcome()

def leaves(r):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
    (r.directory / "pid").write_text(str(child.pid))
    return Outcome({"rows": 1})

def hands_over(r):
    ended, held = os.pipe()
    if os.fork() == 0:
        os.close(held)
        parent_ended, parent_held = os.pipe()
        if os.fork() == 0:
            os.close(parent_held)
            os.read(parent_ended, 1)
            subprocess.run([sys.executable, "-c", ""])
            os._exit(0)
        os.read(ended, 1)
        os._exit(0)
    return Outcome({"rows": 1})

def child_raises(r):
    if os.fork() == 0:
        raise ValueError("in the child")
    os.wait()
    return Outcome({"rows": 1})

def slow(r):
    time.sleep(0.3)
    return Outcome({"rows": 1})

def endless(r):
    if r.seed > 2:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
        if os.fork() == 0:
            time.sleep(1000)
        (r.directory / "begun").touch()
        time.sleep(1000)
    return Outcome({"rows": 1})

def slow_and_wrong(r):
    time.sleep(0.3)
    return Outcome({"rows": 1}, ("a row was lost",) if r.seed % 2 else ())

def no_mounts():
    raise NotStagedError("no mount is allowed here")

STAGES = (
    right, alone, temporary, noisy, hang, stubborn, segfault, killed, silent, raises, leaves_by_exit, wrong, partly,
    leaves, hands_over, child_raises, slow, slow_and_wrong, endless,
)
FAULTS = {each.__name__: Fault(each.__name__, each.__name__, 2, each) for each in STAGES}
for name in ("hang", "stubborn"):
    FAULTS[name] = replace(FAULTS[name], limit=0.7)
FAULTS["never"] = Fault("never", "never", 2, right, check=no_mounts)
catalogue.names = lambda: tuple(FAULTS)
catalogue.load = FAULTS.__getitem__

if __name__ == "__main__":
    sys.exit(cli.main(sys.argv[1:]))
"""


class Staged:
    """A run of planted faults.

    Attributes:
        status: Its exit status.
        out: What it has printed.
        rounds: What its record has of each round, by fault.
        summary: Its `faults.json`.
    """

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        (folder / "planted.py").write_text(PLANTED)
        done = started(folder, *arguments)
        self.out, self.err = done.communicate(timeout=LIMIT)
        self.status = done.returncode
        self.rounds: dict[str, list[dict]] = {}
        (found,) = folder.glob("results/*/rounds.jsonl")
        for line in found.read_text().splitlines():
            each = json.loads(line)
            self.rounds.setdefault(each["fault"], []).append(each)
        self.summary = json.loads((found.parent / "faults.json").read_text())


def started(folder: Path, *arguments: str, temporary: str | None = None) -> subprocess.Popen[str]:
    """Start the command with the planted faults; warnings are errors in it."""
    (folder / "planted.py").write_text(PLANTED)
    (folder / "temporary").mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SAFEROCKS_", "PYTEST_"))}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "planted.py", "faults", "--output", "results", *arguments],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(ROOT), "TMPDIR": temporary or str(folder / "temporary"), "COLUMNS": "80"},
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


PLANTS = ("right", "alone", "noisy", "hang", "stubborn", "segfault", "killed", "silent", "raises", "leaves_by_exit")
MORE_PLANTS = ("wrong", "partly", "leaves", "hands_over", "child_raises", "never")


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Staged:
    """A run of two rounds of each planted fault, with the seeds 7 and 8."""
    chosen = [word for name in PLANTS + MORE_PLANTS for word in ("--only", name)]
    return Staged(tmp_path_factory.mktemp("staged"), *chosen, "--seed", "7", "--jobs", "4")


@pytest.mark.parametrize(
    ("fault", "outcome", "said"),
    [
        ("right", "right", ""),
        ("noisy", "right", ""),
        ("child_raises", "right", ""),
        ("hang", "hang", "it hung, and was ended after 0.7 s; its stacks are in output.txt"),
        ("stubborn", "hang", "it hung, and was ended after 0.7 s"),
        ("segfault", "crash", "its process died of SIGSEGV"),
        ("killed", "crash", "its process died of SIGKILL"),
        ("silent", "crash", "its process ended without a result"),
        ("raises", "wrong", "BusyError: [red]not[/] what it should be"),
        ("leaves_by_exit", "wrong", "SystemExit: 0"),
        ("wrong", "wrong", "a row was lost"),
        ("leaves", "wrong", "it left a process behind"),
        ("hands_over", "right", ""),
    ],
)
def test_a_round_is_told_as_what_it_is(staged: Staged, fault: str, outcome: str, said: str) -> None:
    """Right, wrong, hung and crashed rounds are in the record as such, each with its seed, and counted as such."""
    rounds = staged.rounds[fault]
    assert sorted((each["seed"], each["outcome"]) for each in rounds) == [(7, outcome), (8, outcome)]
    assert all(said in " ".join(each["wrong"]) for each in rounds)
    assert all(bool(each["wrong"]) == bool(said) for each in rounds)
    (found,) = (each for each in staged.summary["faults"] if each["fault"] == fault)
    assert (found["rounds"], found[outcome]) == (2, 2)


def test_what_multiprocessing_leaves_is_removed_with_the_round(tmp_path: Path) -> None:
    """The directory of its sockets, which it would remove at an exit that a round does not have."""
    with tempfile.TemporaryDirectory() as short:  # than which pytest's are longer, and the name of a socket may be
        running = started(tmp_path, "--only", "temporary", "--rounds", "2", temporary=short)
        out, err = running.communicate(timeout=LIMIT)
        assert (running.returncode, err) == (0, ""), out
        assert os.listdir(short) == []
    (record,) = tmp_path.glob("results/*/rounds.jsonl")
    assert all(json.loads(line)["counts"]["made"] for line in record.read_text().splitlines())


def test_any_wrong_round_makes_the_run_red(staged: Staged) -> None:
    """The exit status is 1, and the reason names the faults that are to blame and no other."""
    assert (staged.status, staged.summary["status"]) == (1, "red")
    assert "wrong: 2 of 2 rounds" in staged.summary["reason"]
    assert "right: " not in staged.summary["reason"]


def test_what_cannot_be_staged_is_not_run_and_never_passed(staged: Staged) -> None:
    """A fault that the machine cannot stage is not gone on with; one that some seeds cannot, with others."""
    found = {each["fault"]: each for each in staged.summary["faults"]}
    assert (found["never"]["rounds"], found["never"]["right"]) == (0, 0)
    assert found["never"]["reasons"] == ["no mount is allowed here"]
    assert (found["partly"]["rounds"], found["partly"]["right"], found["partly"]["not_run"]) == (1, 1, 1)
    assert "not run: no mount" in " ".join(staged.out.split())


def test_counts_are_summed_over_the_rounds(staged: Staged) -> None:
    """The summary has the sum of what the rounds counted, wrong rounds included."""
    found = {each["fault"]: each["counts"] for each in staged.summary["faults"]}
    assert (found["right"], found["wrong"], found["noisy"]) == ({"rows": 4}, {"rows": 2}, {"empty": 2})


def test_the_process_that_forks_has_one_thread(staged: Staged) -> None:
    """Otherwise Python warns of each fork from 3.12 on, and a lock may be held for ever in the child."""
    assert [each["counts"] for each in staged.rounds["alone"]] == [{"threads": 1}] * 2


def test_the_stacks_of_a_round_that_hangs_are_kept(staged: Staged) -> None:
    """The file of its output says where each of its processes has hung."""
    for each in staged.rounds["hang"]:
        stacks = Path(staged.folder, each["kept"], "output.txt").read_text()
        assert stacks.count("in waits_here") == 2


def test_nothing_of_a_round_survives(staged: Staged) -> None:
    """Neither a forked child, nor one with a session of its own, nor a directory, but those that are kept and named."""
    for name in ("hang", "leaves"):
        for each in staged.rounds[name]:
            pid = int(Path(staged.folder, each["kept"], "files", "pid").read_text())
            assert not psutil.pid_exists(pid)
    assert list((staged.folder / "temporary").iterdir()) == []
    kept = {each["kept"] for rounds in staged.rounds.values() for each in rounds if each["kept"]}
    (run,) = (staged.folder / "results").iterdir()
    assert {str(each.relative_to(staged.folder)) for each in run.iterdir() if each.is_dir()} == kept
    assert len(kept) == 2 * 9


def test_the_table_is_whole_in_80_columns(staged: Staged) -> None:
    """No line of the table is wider, each fault has a row, and what rounds print is not in it."""
    table = staged.out[staged.out.index("\nfaults") : staged.out.index("RED:")].splitlines()
    assert max(map(len, table)) <= 80
    assert set(PLANTS + MORE_PLANTS) <= {line.split()[0] for line in table if line.strip()}
    assert "no part of the table" not in staged.out


def test_a_round_that_was_not_right_is_shown_with_its_replay(staged: Staged) -> None:
    """The line that repeats a round is shown for those that were not right, and for no other."""
    assert "replay: python -m stress faults --only wrong --seed 8 --rounds 1\n" in staged.out
    assert "--only right --seed" not in staged.out


def test_a_replay_finds_the_same(staged: Staged, tmp_path: Path) -> None:
    """The command that the record has of a round carries out the same round again: its seed is the round's own."""
    first, second = sorted(staged.rounds["wrong"], key=lambda each: each["seed"])
    assert first["wrong"] != second["wrong"]
    again = Staged(tmp_path, *shlex.split(second["replay"])[4:])
    (found,) = again.rounds["wrong"]
    assert (found["seed"], found["wrong"], found["replay"]) == (8, second["wrong"], second["replay"])
    assert again.status == 1


@pytest.mark.parametrize(("names", "status"), [(("right",), 0), (("right", "never"), 3), (("partly",), 3)])
def test_the_exit_status_says_whether_all_was_run(tmp_path: Path, names: tuple[str, ...], status: int) -> None:
    """0 where every round was right; 3 where something was not run, be it a fault or a round."""
    chosen = [word for name in names for word in ("--only", name)]
    run = Staged(tmp_path, *chosen, "--seed", "7", "--jobs", "1")
    assert run.status == status
    assert len(run.rounds.get("never", [])) == ("never" in names)  # the second would come to the same


def test_every_round_is_shown_on_demand(tmp_path: Path) -> None:
    """With --verbose each round has a line and the command that repeats it; --json keeps stdout for the summary."""
    run = Staged(tmp_path, "--only", "right", "--seed", "3", "--rounds", "3", "--verbose", "--json")
    assert [f"--only right --seed {seed} --rounds 1\n" in run.err for seed in (3, 4, 5, 6)] == [True, True, True, False]
    assert json.loads(run.out) == run.summary


def test_a_run_of_some_seconds_makes_as_many_rounds_as_fit(tmp_path: Path) -> None:
    """Each fault has its share of the time, and one round at least however short that is."""
    run = Staged(tmp_path, "--only", "slow", "--only", "right", "--seconds", "2", "--jobs", "1")
    for fault, rounds in run.rounds.items():
        (tally,) = (each for each in run.summary["faults"] if each["fault"] == fault)
        assert tally["seconds"] >= 1, "new rounds are begun until its share is over"
        assert sum(each["seconds"] for each in rounds[:-1]) < 1, "and none after that"
    assert set(run.rounds) == {"slow", "right"}
    short = Staged(mkdir(tmp_path / "short"), "--only", "slow", "--seconds", "0.001", "--jobs", "1")
    assert short.summary["faults"][0]["rounds"] == 1


def mkdir(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.fixture
def running(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A run of slow rounds of which some have ended."""
    run = started(tmp_path, "--only", request.param, "--seed", "1", "--rounds", "1000", "--jobs", "2")
    try:
        deadline = time.monotonic() + LIMIT
        while sum(len(file.read_text().splitlines()) for file in tmp_path.glob("results/*/rounds.jsonl")) < 2:
            assert time.monotonic() < deadline
            assert run.poll() is None
            time.sleep(0.02)
        yield run
    finally:
        run.kill()
        run.communicate()


def rounds_of(run: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the rounds that are under way; between two there may be none."""
    deadline = time.monotonic() + LIMIT
    while not (found := psutil.Process(run.pid).children()):
        assert time.monotonic() < deadline
    return found


@pytest.mark.parametrize(
    ("running", "status", "number"),
    [
        ("slow", 3, signal.SIGINT),
        ("slow_and_wrong", 1, signal.SIGINT),
        ("slow", 3, signal.SIGTERM),
        ("slow", 3, signal.SIGHUP),
    ],
    indirect=["running"],
    ids=["ctrl-c", "ctrl-c-when-red", "kill", "hang-up"],
)
def test_an_interrupt_ends_the_rounds_and_shows_what_was_done(running, status: int, number: int, tmp_path) -> None:
    """The table of what was done is printed; the exit status is 3, or 1 if a round had been wrong before."""
    rounds = rounds_of(running)
    running.send_signal(number)
    out, err = running.communicate(timeout=LIMIT)
    assert (running.returncode, err) == (status, "")
    assert "interrupted" in out
    (found,) = (json.loads(file.read_text()) for file in tmp_path.glob("results/*/faults.json"))
    assert found["interrupted"]
    assert 1 <= found["faults"][0]["rounds"] < 100
    assert f"\n {found['faults'][0]['fault']} " in out
    assert not any(each.is_running() for each in rounds)
    assert list((tmp_path / "temporary").iterdir()) == []


def endless_rounds(folder: Path) -> None:
    """Wait until two rounds that never end have begun, with all that they start."""
    deadline = time.monotonic() + LIMIT
    while len(list((folder / "temporary").glob("*/*/files/begun"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("running", ["endless"], indirect=True)
def test_the_rounds_die_with_a_run_that_is_killed(running, tmp_path: Path) -> None:
    """Nobody would end a round that hangs, or a writer that never stops, once the run itself is gone."""
    endless_rounds(tmp_path)
    rounds = psutil.Process(running.pid).children()
    below = psutil.Process(running.pid).children(recursive=True)
    running.kill()
    _gone, alive = psutil.wait_procs(rounds, timeout=LIMIT)
    for each in set(below) - set(rounds):
        each.kill()
    assert (len(rounds), alive) == (2, [])


@pytest.mark.parametrize("running", ["endless"], indirect=True)
def test_what_a_round_has_forked_ends_with_the_run(running, tmp_path: Path) -> None:
    """On Ctrl-C a child that a round has forked ends with it, also one that has a session of its own."""
    endless_rounds(tmp_path)
    below = psutil.Process(running.pid).children(recursive=True)
    assert len(below) == 6
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=LIMIT)
    assert not any(each.is_running() for each in below)


@pytest.mark.parametrize("running", ["slow"], indirect=True)
def test_a_record_that_cannot_be_kept_ends_the_run(running, tmp_path: Path) -> None:
    """Rounds of which nothing would be known are not gone on with: one line says why, and the status is 3."""
    (record,) = tmp_path.glob("results/*/rounds.jsonl")
    record.unlink()
    record.mkdir()
    out, err = running.communicate(timeout=LIMIT)
    assert (running.returncode, err) == (3, "")
    assert "cannot keep the record of the run, so it was ended: " in out


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["--rounds", "0"], "'0' is no number of rounds; give a whole number, 1 or more"),
        (["--rounds", "many"], "give a whole number, 1 or more"),
        (["--only", "flood"], f"there is no fault 'flood'; there are {', '.join(catalogue.names())}"),
        (["--jobs", "0"], "'0' is no number of rounds at once"),
        (["--seed", "-1"], "give a whole number, 0 or more"),
        (["--seconds", "0"], "give a positive number of seconds"),
        (["--rounds", "1", "--seconds", "1"], "not allowed with"),
        (["extra"], "extra"),
    ],
)
def test_bad_usage_is_one_line_with_its_remedy(arguments: list[str], remedy: str, capsys) -> None:
    """Bad usage exits with 2 and one line that says what would be right."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["faults", *arguments])
    shown = capsys.readouterr()
    assert caught.value.code == 2
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert remedy in shown.err


def test_an_output_that_cannot_be_written_is_bad_usage(tmp_path: Path, capsys) -> None:
    """A path through a file exits with 2 and names the path."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as caught:
        cli.main(["faults", "--output", str(tmp_path / "file" / "results")])
    shown = capsys.readouterr().err
    assert (caught.value.code, shown.count("\n")) == (2, 1)
    assert "give --output a directory that can be made" in shown


@pytest.mark.parametrize(("need", "remedy"), [("_OUTPUT_BYTES", "--output"), ("_ROUND_BYTES", "TMPDIR")])
def test_too_little_disk_is_refused_before_anything_is_made(tmp_path, capsys, monkeypatch, need, remedy) -> None:
    """A run that may take more than is free, of its results or of its databases, begins with nothing."""
    monkeypatch.setattr(command, need, 1 << 60)
    with pytest.raises(SystemExit) as caught:
        cli.main(["faults", "--output", str(tmp_path / "results")])
    assert caught.value.code == 2
    assert f"point {remedy} at a disk with more room" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_every_fault_is_what_its_name_says() -> None:
    """Each name leads to a fault of that name, with rounds and a limit."""
    for name in catalogue.names():
        fault = catalogue.load(name)
        assert (fault.name, fault.rounds > 0, fault.limit > 0) == (name, True, True)
