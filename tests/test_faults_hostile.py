"""The fault of hostile databases: a few rounds of it, and that what it plants goes off where it may."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import rocksdict

import saferocks
from stress.faults import forged, hostile

if TYPE_CHECKING:
    from collections.abc import Callable

    Rounds = Callable[..., tuple[list[dict[str, int]], list[str]]]


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """The directory that what is planted makes when it is executed."""
    return tmp_path / "executed"


@pytest.fixture
def trapped(path: str, marker: Path) -> str:
    """A typed database with a trap as a value, and as the columns of another row."""
    trap = b"\x06" + forged.trap(str(marker), 2)
    forged.make(path, False, ())
    columns = forged.entity({b"\x02a": b"\x02plain", b"\x02b": trap})
    forged.forge_log(
        path,
        [
            forged.Change(forged.VALUE, 0, b"\x02value", trap),
            forged.Change(forged.VALUE, 0, b"\x02text", b"\x02plain"),
            forged.Change(forged.ENTITY, 0, b"\x02wide", columns),
        ],
    )
    return path


def test_nothing_is_executed_and_errors_are_typed(run_rounds: Rounds) -> None:
    """Rounds of the fault, each in a process of its own, find nothing wrong."""
    _, wrong = run_rounds("hostile", *range(8))
    assert wrong == []


READS: dict[str, Callable[[Any], Any]] = {
    "value": lambda db: db["value"],
    "items": lambda db: list(db.items()),
    "columns": lambda db: db.get_entity("wide"),
}


@pytest.mark.parametrize("read", READS)
def test_the_trap_goes_off_in_rocksdict(trapped: str, marker: Path, read: str) -> None:
    """Bare rocksdict executes what is planted, so that the check of the fault can fail."""
    bare = rocksdict.Rdict(trapped)
    READS[read](bare)
    bare.close()
    assert marker.is_dir(), "D12 is mended: saferocks need not refuse pickles"


def test_the_trap_goes_off_if_pickles_are_allowed(trapped: str, marker: Path) -> None:
    """With allow_pickle=True what is planted is executed, which is why it has to be asked for."""
    with saferocks.open(trapped, raw_mode=False, allow_pickle=True) as db:
        db["value"]
    assert marker.is_dir()


def wrong_in(path: str, **arguments: Any) -> tuple[list[str], Counter[str]]:
    """Read a database in every way, and return what is wrong, and the counts."""
    counts: Counter[str] = Counter()
    with saferocks.open(path, raw_mode=False, **arguments) as db:
        return hostile._read(db, Random(1), counts, restricted=False), counts


def test_every_read_of_the_trap_is_refused_or_harmless(trapped: str, marker: Path) -> None:
    """All reads together refuse the trap, read the plain rows, and execute nothing."""
    wrong, counts = wrong_in(trapped)
    assert wrong == []
    assert counts["reads refused"] > 20
    assert counts["reads"] > 2 * counts["reads refused"]
    assert not marker.exists()


def test_a_restricted_loads_executes_nothing(trapped: str, marker: Path) -> None:
    """A loads that refuses what is looked up by name raises its own error for the trap."""
    counts: Counter[str] = Counter()
    with saferocks.open(trapped, raw_mode=False) as db:
        db.set_loads(hostile.restricted_loads)
        assert hostile._read(db, Random(1), counts, restricted=True) == []
        assert db["text"] == "plain"
    assert counts["reads that loads refused"] > 0
    assert not marker.exists()


def test_an_executed_trap_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round that lets pickles be loaded tells that code was executed."""
    real = saferocks.open
    monkeypatch.setattr(hostile.saferocks, "open", lambda *given, **named: real(*given, allow_pickle=True, **named))
    seed = next(seed for seed in range(100) if Random(seed).random() > 0.4)  # the first that is typed
    assert hostile.stage(hostile.Round(seed, tmp_path)).wrong[0] == "code in the database was executed"


def test_an_untyped_error_is_found(trapped: str) -> None:
    """An error of another type is told of, unless it came from a restricted loads."""

    def fail(data: bytes) -> None:
        raise ValueError("planted")

    with saferocks.open(trapped, raw_mode=False) as db:
        db.set_loads(fail)
        wrong = hostile._read(db, Random(1), Counter(), restricted=False)
    assert wrong
    assert all("untyped ValueError: planted" in text for text in wrong)


def test_a_forged_log_is_read(path: str) -> None:
    """What is forged comes out as rows: values, wide columns, and records longer than a block."""
    forged.make(path, True, ("users",))
    long = os.urandom(100_000)
    changes = [
        forged.Change(forged.VALUE, 0, b"long", long),
        forged.Change(forged.VALUE, 1, b"a", b"b"),
        forged.Change(forged.ENTITY, 0, b"wide", forged.entity({b"x": b"1", b"y": b"2"})),
    ]
    forged.forge_log(path, changes)
    with saferocks.open(path) as db:
        assert (db[b"long"], db[b"plain"]) == (long, b"plain")
        assert db.get_column_family("users")[b"a"] == b"b"
        assert db.get_entity(b"wide") == [(b"x", b"1"), (b"y", b"2")]
