"""Legs on a Dask cluster, through the executor that its client has.

The workers need this same harness and saferocks; they may be on other machines and share no
directory with us. A worker that dies takes its leg with it: Dask would run it again elsewhere,
unseen, so each leg is claimed on the scheduler before it begins, and a second claim is an error.
"""

from __future__ import annotations

import logging
import platform
import shutil
import tempfile
import threading
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from stress.disk import LEG_BYTES
from stress.envelope import EnvelopeExecutor
from stress.errors import UsageError
from stress.jobs import LegOutcome, run_leg_away, stop_legs
from stress.machine import machine, versions
from stress.scenario import all_scenarios

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor

    from stress.jobs import LegJob

#: How long to try to reach a scheduler, and how long its workers have to answer.
CONNECT_SECONDS = 5
_STOP_SECONDS = 8.0
#: How long a cluster may be without a worker before its legs are given up; a nanny needs a second or two.
NO_WORKER_SECONDS = 20.0
_LOOK_SECONDS = 1.0
_MIB = 1 << 20
#: What must be the same on a worker for its figures to be comparable with those of another.
_COMPARED = ("saferocks", "rocksdict", "python")


class WorkerDiedError(RuntimeError):
    """The worker that ran a leg has died; the leg is not run again."""


@dataclass(frozen=True)
class AwayLeg:
    """Runs a leg on a worker, once.

    Attributes:
        group: The name of the run; legs of other runs on the same cluster are left alone.
    """

    group: str

    def __call__(self, job: LegJob) -> LegOutcome:
        """Claim the leg and run it.

        Raises:
            WorkerDiedError: If another worker has claimed it before.
        """
        from distributed import Event  # late, because the extra need not be installed

        claim = Event(self.claim(job.title))
        if claim.is_set():
            raise WorkerDiedError("the worker that ran this leg has died")
        claim.set()
        return run_leg_away(job, self.group)

    def claim(self, title: str) -> str:
        """Return the name of the claim to a leg."""
        return f"{self.group} {title}"


@dataclass(frozen=True)
class Cluster:
    """A Dask cluster that legs can run on.

    Attributes:
        executor: Where they are handed in.
        work: What is handed in.
        workers: What each worker is: its address, versions, machine and free disk.
        slots: How many legs run at once.
        client: The connection.
    """

    executor: Executor
    work: AwayLeg
    workers: tuple[dict[str, Any], ...]
    slots: int
    client: Any

    def stop(self) -> None:
        """End the legs of this run on every worker, and let no other start."""
        _within(_STOP_SECONDS, lambda: self.client.run(stop_legs, self.work.group, on_error="ignore"))

    def forget(self) -> None:
        """Take the claims off the scheduler, which would keep them for as long as it lives."""
        _within(_STOP_SECONDS, self._forget)

    def _forget(self) -> None:
        from distributed import Event  # late, because the extra need not be installed

        for scenario in all_scenarios().values():
            for leg in scenario.leg_names:
                Event(self.work.claim(f"{scenario.name} {leg}"), client=self.client).clear()

    def strangers(self) -> Iterator[str]:
        """Yield a line for each version on a worker that differs from ours."""
        own = versions()
        for worker in self.workers:
            for name in _COMPARED:
                found = worker["versions"].get(name)
                if found != own[name]:
                    yield f"the worker at {worker['address']} has {name} {found}, and here it is {own[name]}"


def _within(seconds: float, ask: Callable[[], object]) -> None:
    """Ask a cluster for something, and wait no longer than that: it may be gone, and then has nothing to do."""

    def try_to() -> None:
        with suppress(Exception):
            ask()

    thread = threading.Thread(target=try_to, daemon=True)
    thread.start()
    thread.join(seconds)


def describe_worker() -> dict[str, Any]:
    """Return what a worker is; runs on it."""
    return {
        "host": platform.node(),
        "versions": versions(),
        "machine": machine(),
        "free_disk": shutil.disk_usage(tempfile.gettempdir()).free,
    }


@contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """Connect to a cluster for the length of a block.

    Args:
        address: Its scheduler's, as `tcp://host:port`.

    Raises:
        UsageError: If distributed is not installed, the scheduler cannot be reached, or its workers cannot
            run legs.
    """
    client = _client(address)
    done = threading.Event()
    try:
        threads = {worker: info["nthreads"] for worker, info in _workers(client).items()}
        if not threads:
            raise UsageError(f"the scheduler at {address!r} has no workers; start some with: dask worker {address}")
        workers = _described(client)
        _check_room(workers)
        executor = EnvelopeExecutor(client.get_executor(pure=False, retries=0))
        cluster = Cluster(executor, AwayLeg(f"saferocks-{uuid.uuid4().hex}"), workers, sum(threads.values()), client)
        watch = threading.Thread(target=_give_up_without_workers, args=(client, executor, done), daemon=True)
        watch.start()
        try:
            yield cluster
        finally:
            cluster.forget()
    finally:
        done.set()
        client.close(timeout=CONNECT_SECONDS)


def _client(address: str) -> Any:
    if find_spec("distributed") is None:
        raise UsageError("--scheduler needs Dask's distributed; install saferocks with its extra: saferocks[cluster]")
    from distributed import Client  # late, because the extra need not be installed

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # we say ourselves what went wrong
    try:
        return Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"cannot reach a scheduler at {address!r} ({why}); give the address that `dask scheduler` "
            "has printed, as tcp://host:8786"
        ) from None


def _workers(client: Any) -> dict[str, Any]:
    workers: dict[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
    return workers


def _described(client: Any) -> tuple[dict[str, Any], ...]:
    try:
        found: dict[str, dict[str, Any]] = client.run(describe_worker)
    except Exception as error:  # noqa: BLE001 - whatever a worker raises, it cannot run legs
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"the workers cannot run legs ({type(error).__name__}: {why}); start them at the top of this same "
            "project, with saferocks[stress,cluster] installed"
        ) from None
    return tuple({"address": address, **facts} for address, facts in sorted(found.items()))


def _check_room(workers: tuple[dict[str, Any], ...]) -> None:
    for worker in workers:
        if worker["free_disk"] < LEG_BYTES:
            raise UsageError(
                f"the worker at {worker['address']} has {worker['free_disk'] / _MIB:,.0f} MiB free in its temporary "
                f"directory and a leg may take {LEG_BYTES / _MIB:,.0f} MiB; point its TMPDIR at a disk with more room"
            )


def _give_up_without_workers(client: Any, executor: Executor, done: threading.Event) -> None:
    """Give up the legs once the cluster has had no worker for a while: nobody would ever run them."""
    without = 0.0
    while not done.wait(_LOOK_SECONDS):
        without = 0.0 if _has_workers(client) else without + _LOOK_SECONDS
        if without >= NO_WORKER_SECONDS:
            executor.shutdown(wait=False)
            return


def _has_workers(client: Any) -> bool:
    try:
        return bool(_workers(client))
    except Exception:  # noqa: BLE001 - the scheduler is gone, and its workers with it
        return False
