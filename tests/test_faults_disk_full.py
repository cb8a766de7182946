"""The fault of a full disk: a few rounds of it, its verdict seen red, and the machine on which it cannot be staged."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

import saferocks
from stress.faults import disk_full
from stress.faults.disk_full import Work

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    Rounds = Callable[..., tuple[list[dict[str, int]], list[str]]]

#: A user namespace in which no mount namespace may be made is what a machine is like that allows none.
DENIED = """
    import ctypes, os, resource
    from pathlib import Path
    from stress.faults import full_disks
    from stress.faults.fault import NotStagedError

    user = os.geteuid()
    if ctypes.CDLL(None).unshare(0x10000000) == 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/sys/user/max_mnt_namespaces").write_text("0")
    print(full_disks.disk(Path.cwd(), limit_first=False).name)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    try:
        full_disks.disk(Path.cwd(), limit_first=False)
    except NotStagedError as error:
        print(error)
"""


def test_nothing_wrong_happens_on_a_full_disk(run_rounds: Rounds, tmp_path: Path) -> None:
    """Rounds of the fault, each in a process of its own and each refused something, find nothing wrong."""
    counts, wrong = run_rounds("disk_full", 0, 1, 3, 6, 10)
    assert wrong == []
    assert min(each["refused"] for each in counts) > 0
    assert not list(tmp_path.glob("round-*/ballast")), "the file system was not of that process alone"


def test_it_is_not_staged_where_neither_is_allowed(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Without mounts files are limited instead; where that cannot be undone either, the reasons are told."""
    child = run_python(DENIED)
    assert (child.returncode, child.stderr) == (0, "")
    instead, reasons = child.stdout.splitlines()
    assert instead == "file size limit"
    assert "mount namespace is not permitted here: " in reasons
    assert "files are limited to 1048576 bytes for good" in reasons


class _Roomy:
    """A disk on which there is always space."""

    name = "file system"
    full = "No space left on device"

    def fill(self, random: Random) -> None: ...

    def give_back(self, random: Random) -> None: ...


@pytest.fixture
def work(tmp_path: Path) -> Work:
    """Work on a database with a hundred acknowledged rows, closed."""
    made = Work(str(tmp_path / "db"), _Roomy(), Random(1))
    with made.open() as db:
        for _ in range(100):
            disk_full._put(made, db)
    return made


def found_after(work: Work, change: Callable[[saferocks.Rdict], object] = lambda db: None) -> str:
    """Change the database, and return what the check afterwards finds."""
    with work.open() as db:
        change(db)
    disk_full._check_afterwards(work)
    return "\n".join(work.findings.wrong)


def test_a_healthy_database_is_found_right(work: Work) -> None:
    """Where nothing was lost nothing is told of."""
    assert found_after(work) == ""
    assert work.findings.right > 500


def test_a_lost_row_is_found(work: Work) -> None:
    """An acknowledged row that is gone is told of."""
    assert "1 acknowledged rows are lost" in found_after(work, lambda db: db.delete(b"k000007"))


def test_a_row_that_was_never_acknowledged_is_found(work: Work) -> None:
    """A row that nobody was promised is told of."""
    assert "1 were never acknowledged" in found_after(work, lambda db: db.put(b"planted", b"v"))


def test_half_a_batch_is_found(work: Work) -> None:
    """A refused batch of which one row is there is told of; one that is there as a whole is not."""
    work.refused.append({b"x1": b"v", b"x2": b"v"})
    assert "1 of the 2 rows of a refused batch" in found_after(work, lambda db: db.put(b"x1", b"v"))
    work.findings.wrong.clear()
    assert found_after(work, lambda db: db.put(b"x2", b"v")) == ""


def test_a_gap_in_a_bulk_writer_is_found(work: Work) -> None:
    """Of a bulk writer that was refused the first rows may be there, not others."""
    work.prefix = [(b"x1", b"v"), (b"x2", b"v")]
    assert "not the first ones" in found_after(work, lambda db: db.put(b"x2", b"v"))


def test_a_held_lock_is_found(work: Work) -> None:
    """A path that is still locked afterwards ends the round with that error."""
    with work.open():
        with pytest.raises(saferocks.LockedError):
            disk_full._check_afterwards(work)
    assert "handles are left open" in work.findings.wrong[0]


def test_an_error_of_another_type_is_found(work: Work) -> None:
    """What a full disk raises is a NoSpaceError and says so; anything else is told of."""
    disk_full._check_error(work, saferocks.NoSpaceError("IO error: No space left on device: While appending"), "put")
    assert work.findings.wrong == []
    disk_full._check_error(work, saferocks.CorruptionError("Corruption: planted"), "put")
    disk_full._check_error(work, saferocks.IOFailedError("IO error: No space left on device"), "put")
    assert len(work.findings.wrong) == 2


def test_unlogged_rows_may_be_lost_only_if_the_close_said_so(work: Work) -> None:
    """Rows without a log that are gone are told of, unless the close raised."""
    gone = {b"u1": b"v"}
    work.rows.update(gone)
    work.unlogged.update(gone)
    assert found_after(work) == ""
    work.unlogged.clear()
    work.rows.update(gone)
    assert "1 acknowledged rows are lost" in found_after(work)


def test_a_refused_read_is_found(work: Work) -> None:
    """A read that raises on a full disk, though typed, is told of."""
    with work.open() as db:
        work.findings.refused["planted"] = 1
        disk_full._read(work, db, "now")
        assert work.findings.wrong == []

        class Refusing:
            def get(self, key: object) -> None:
                raise saferocks.NoSpaceError("IO error: No space left on device")

            def __getattr__(self, name: str) -> object:
                return getattr(db, name)

        disk_full._read(work, Refusing(), "now")  # type: ignore[arg-type]
    assert any("reads were refused now" in text for text in work.findings.wrong)
