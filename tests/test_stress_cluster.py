"""Legs on a real Dask cluster on this machine: a scheduler and two workers, each a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

import saferocks
from stress.runfile import load_run
from stress.scenario import all_scenarios

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 60.0


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for something outside of this process."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"still waiting for {what}"
        time.sleep(0.02)


def environment(root: Path | None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTEST_ADDOPTS")}
    return kept if root is None else {**kept, "PYTHONPATH": str(root)}


@dataclass
class Cluster:
    """A scheduler, which does not have the project, and its workers, which have a copy of their own."""

    directory: Path
    address: str = ""
    scheduler: subprocess.Popen[bytes] | None = None
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def nowhere(self) -> Path:
        """A directory without the project."""
        found = self.directory / "nowhere"
        found.mkdir(exist_ok=True)
        return found

    def start(self, workers: int) -> None:
        file = self.directory / "scheduler.json"
        self.scheduler = self._dask(
            "scheduler", None, "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file)
        )
        until(lambda: file.exists() and file.read_text().strip().endswith("}"), "the scheduler")
        self.address = json.loads(file.read_text())["address"]
        for number in range(workers):
            self.workers.append(self._worker(number))
        until(lambda: self.log("scheduler").count("Register worker") == workers, "the workers")

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()

    def _worker(self, number: int) -> subprocess.Popen[bytes]:
        flags = (self.address, "--no-nanny", "--nthreads", "1", "--name", f"w{number}")
        return self._dask("worker", self.directory, *flags, log=f"worker{number}")

    def _dask(self, kind: str, root: Path | None, *flags: str, log: str = "") -> subprocess.Popen[bytes]:
        command = (sys.executable, "-m", f"distributed.cli.dask_{kind}", "--no-dashboard", *flags)
        with open(self.directory / f"{log or kind}.log", "wb") as output:
            return subprocess.Popen(
                command, env=environment(root), cwd=root or self.nowhere, stdout=output, stderr=subprocess.STDOUT
            )

    def legs(self, worker: int) -> list[psutil.Process]:
        """Return the processes of legs that a worker runs."""
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(self.workers[worker].pid).children()
            return [child for child in children if "stress.leg" in child.cmdline()]
        return []

    def stop(self) -> None:
        for process in filter(None, (*self.workers, self.scheduler)):
            process.kill()
            process.wait(LIMIT)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of the project at another path, which says that it is another version."""
    copy = tmp_path_factory.mktemp("elsewhere")
    for name in ("stress", "saferocks"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    init = copy / "saferocks" / "__init__.py"
    version = f'__version__ = "{saferocks.__version__}"'
    assert version in init.read_text()
    init.write_text(init.read_text().replace(version, '__version__ = "9.9.9"'))
    return copy


@pytest.fixture
def start(project: Path) -> Iterator[Callable[[int], Cluster]]:
    """Starts a cluster with so many workers."""
    cluster = Cluster(project)

    def begin(workers: int) -> Cluster:
        cluster.start(workers)
        return cluster

    try:
        yield begin
    finally:
        cluster.stop()
        (project / "scheduler.json").unlink(missing_ok=True)


def command(output: Path, cluster: str, *arguments: str, scenario: str = "iterator-leak") -> tuple[str, ...]:
    run = (sys.executable, "-m", "stress", "run", scenario, "--seed", "1", "--json", "--output", str(output))
    return (*run, "--scheduler", cluster, *arguments)


def begin(output: Path, cluster: str, *arguments: str, scenario: str = "iterator-leak") -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(output, cluster, *arguments, scenario=scenario),
        cwd=ROOT,
        env=environment(ROOT),
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    return process.returncode, out, err


def recorded(output: Path) -> dict:
    return load_run(next(output.glob("*/run.json")))


def test_a_run_on_a_cluster_is_recorded_as_one_here_is(start, tmp_path: Path) -> None:
    """Every leg comes home with its samples, the guard's line is that of our own checkout, and nothing stays behind.

    The workers share no directory with us, have the project at another path, and tell of another version.
    """
    cluster = start(2)
    status, out, err = ended(begin(tmp_path / "away", cluster.address, "--seconds", "1"))
    assert status == 0, err
    away = recorded(tmp_path / "away")
    assert [leg["status"] for leg in away["results"]] == ["green"] * 3
    assert away["results"][1]["named"] == [all_scenarios()["iterator-leak"].opening_line]
    assert (away["scheduler"], away["jobs"]) == (cluster.address, 2)
    assert err.count("has saferocks 9.9.9") == len(away["workers"]) == 2
    assert json.loads(out)["status"] == "green"
    for leg in away["results"]:
        file = next((tmp_path / "away").glob(f"*/{leg['samples']}"))
        assert file.read_text().count('{"sample"') >= len(leg["series"]["time"]) > 12
    here = (*command(tmp_path / "here", "")[:-2], "--seconds", "1")
    assert subprocess.run(here, cwd=ROOT, capture_output=True, timeout=LIMIT, check=False).returncode == 0
    local = recorded(tmp_path / "here")
    assert shape(local) == shape(away)
    assert [cluster.legs(number) for number in range(2)] == [[], []]


def test_a_run_takes_all_its_claims_off_the_scheduler(start, tmp_path: Path) -> None:
    """The claim to a variant's leg, too, is gone after the run, and was there while it ran."""
    cluster = start(1)
    with distributed.Client(cluster.address, set_as_default=False) as client:

        def claims() -> list[str]:
            names = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.extensions["events"]._events))
            return [name for name in names if "saferocks" in name]

        run = begin(tmp_path, cluster.address, "--seconds", "60", "--leg", "scans", scenario="snapshot-age")
        until(lambda: cluster.legs(0), "the leg")
        assert [name.split()[1:] for name in claims()] == [["snapshot-age", "scans"]]
        run.send_signal(signal.SIGINT)
        status, _out, err = ended(run)
        assert status == 3, err
        assert claims() == []


def shape(content: object) -> object:
    """Return what there is in a record, the figures and the workers left aside."""
    if isinstance(content, dict):
        return {key: shape(value) for key, value in content.items() if key not in ("workers", "scheduler", "leaks")}
    if isinstance(content, list):
        return [shape(value) for value in content] if content and isinstance(content[0], dict) else "list"
    return None


@pytest.mark.slow
def test_a_worker_that_dies_makes_its_leg_an_error_and_the_rest_is_kept(start, tmp_path: Path) -> None:
    """The leg of a killed worker is red and not run again by the other one, and its process ends."""
    cluster = start(2)
    run = begin(tmp_path, cluster.address, "--seconds", "6", "--leg", "raw", "--leg", "scoped")
    until(lambda: all(cluster.legs(number) for number in range(2)), "a leg on each worker")
    (lost,) = cluster.legs(0)
    name = next(word for word in lost.cmdline() if word in ("raw", "scoped"))
    cluster.workers[0].kill()
    status, _out, err = ended(run)
    assert status == 1, err
    results = {leg["leg"]: leg for leg in recorded(tmp_path)["results"]}
    (other,) = {"raw", "scoped"} - {name}
    assert results[name]["status"] == "red"
    assert "the harness failed to run it: WorkerDiedError: the worker that ran this leg" in results[name]["reason"]
    assert results[other]["status"] == "green"
    until(lambda: not lost.is_running() or lost.status() == psutil.STATUS_ZOMBIE, "the end of the orphan")


@pytest.mark.slow
def test_a_cluster_that_dies_makes_its_legs_errors(start, tmp_path: Path) -> None:
    """With no worker left, and none coming, the run ends, and is red."""
    cluster = start(1)
    run = begin(tmp_path, cluster.address, "--seconds", "60", "--leg", "scoped")
    until(lambda: cluster.legs(0), "the leg")
    cluster.workers[0].kill()
    status, _out, err = ended(run)
    assert status == 1, err
    (lost,) = recorded(tmp_path)["results"]
    assert lost["status"] == "red"
    assert lost["reason"].startswith("the harness failed to run it: ")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_legs_on_the_workers(start, tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C and a polite kill end what runs on the cluster, and bring home what there is."""
    cluster = start(1)
    run = begin(tmp_path, cluster.address, "--seconds", "60", "--leg", "raw", "--leg", "scoped")
    until(lambda: cluster.legs(0), "the leg")
    (leg,) = cluster.legs(0)
    until(lambda: leg.cpu_times().user > 1.0, "some samples")
    run.send_signal(number)
    run.send_signal(number)  # whoever is impatient presses it twice
    status, _out, err = ended(run)
    assert status == 3, err
    found = recorded(tmp_path)
    assert (found["interrupted"], found["status"]) == (True, "inconclusive")
    assert [each["reason"] for each in found["results"]] == ["interrupted"]
    assert found["results"][0]["series"]["heap"]
    until(lambda: not cluster.legs(0), "the end of the legs")
    assert cluster.workers[0].poll() is None


def refused(*arguments: str, tmp_path: Path) -> str:
    started = time.monotonic()
    status, out, err = ended(begin(tmp_path / "never", *arguments))
    assert time.monotonic() - started < 30
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert not (tmp_path / "never").exists()
    return err


@pytest.mark.slow
def test_a_scheduler_that_cannot_be_reached_is_bad_usage(tmp_path: Path) -> None:
    """An address at which nobody listens is refused within seconds, in a line, and nothing is made."""
    assert "cannot reach a scheduler at 'tcp://127.0.0.1:1'" in refused("tcp://127.0.0.1:1", tmp_path=tmp_path)


@pytest.mark.slow
def test_a_cluster_without_workers_is_bad_usage(start, tmp_path: Path) -> None:
    """A scheduler that would keep us waiting for ever is refused, with the command that starts workers."""
    cluster = start(0)
    assert f"dask worker {cluster.address}" in refused(cluster.address, tmp_path=tmp_path)


@pytest.mark.slow
def test_workers_without_the_project_are_bad_usage(start, tmp_path: Path) -> None:
    """Workers that cannot import the harness are refused, and it is said where to start them."""
    cluster = start(0)
    flags = (cluster.address, "--no-nanny", "--nthreads", "1")
    bare = tmp_path / "bare"  # in the way of an installed project, which this machine has
    (bare / "stress").mkdir(parents=True)
    (bare / "stress" / "__init__.py").write_text("raise ModuleNotFoundError('no module named stress', name='stress')")
    cluster.workers.append(cluster._dask("worker", bare, *flags, log="bare"))
    until(lambda: "Register worker" in cluster.log("scheduler"), "the worker")
    assert "start them at the top of this same project" in refused(cluster.address, tmp_path=tmp_path)


def test_a_missing_package_is_named_with_its_extra(run_python) -> None:
    """Without distributed, `--scheduler` says which extra has it."""
    done = run_python(
        """
        import sys
        sys.modules["distributed"] = None
        from stress import cli
        cli.main(["quick", "--scheduler", "tcp://127.0.0.1:8786"])
        """
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "saferocks[cluster]" in done.stderr
