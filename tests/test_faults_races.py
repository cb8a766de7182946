"""The fault `races`: its races come out right, and what must not be is seen."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    Run = Callable[..., subprocess.CompletedProcess[str]]
    Stage = Callable[..., tuple[dict[str, int], list[str]]]

PROGRAM = """
import json, os, pathlib, signal, sys
import saferocks
from stress.faults import race_uses, races
from stress.faults.fault import Round

what, races.RACES = sys.argv[1], int(sys.argv[2])
HELD = []

def fail(error):
    raise error

PLANTED = {
    "a wrong value": lambda arena, number: race_uses.expect(arena.db[b"k000"], b"other", "a get"),
    "an untyped error": lambda arena, number: fail(RuntimeError("untyped")),
    "an error without cause": lambda arena, number: fail(saferocks.CorruptionError("Corruption: planted")),
    "a handle left": lambda arena, number: HELD or HELD.append(saferocks.WriteBatch(raw_mode=True)),
    "a lost write": lambda arena, number: arena.acknowledged.update({number: 1}),
    "a lost row": lambda arena, number: arena.db.delete(b"k007"),
}
if what in PLANTED:
    races.EVENTS = {"flush": races.EVENTS["flush"]}  # a close may come before anything is used
    for name in race_uses.USES:
        race_uses.USES[name] = PLANTED[what]
elif what == "a failing event":
    races.EVENTS = {"close": (lambda arena, path: fail(LookupError("planted")), ())}
elif what == "a hang":
    races._JOIN_SECONDS = 1
    for name in race_uses.USES:
        race_uses.USES[name] = lambda arena, number: os.read(os.pipe()[0], 1)
os.mkdir("round")
outcome = races.stage(Round(3, pathlib.Path("round").absolute()))
print(json.dumps([outcome.counts, outcome.wrong]), flush=True)
os._exit(0)  # threads that hang are not waited for
"""


@pytest.fixture
def stage(run_python: Run) -> Stage:
    """Stage some races with something planted, and return the counts and what was wrong."""

    def stage(planted: str, number: int) -> tuple[dict[str, int], list[str]]:
        done = run_python(PROGRAM, planted, str(number), timeout=100)
        assert done.returncode == 0, done.stderr
        counts, wrong = json.loads(done.stdout.splitlines()[-1])
        return counts, wrong

    return stage


def test_races_come_out_right(stage: Stage) -> None:
    """Some of all kinds, interrupts among them: right results, typed errors, and nothing left."""
    counts, wrong = stage("nothing", 20)
    assert wrong == []
    assert (counts["races"], counts["interrupts"]) == (20, 2)
    assert counts["right results"] > 0


@pytest.mark.parametrize(
    ("planted", "seen"),
    [
        ("a wrong value", "a get gave b'v'"),
        ("an untyped error", "raised RuntimeError('untyped')"),
        ("an error without cause", "raised CorruptionError"),
        ("a handle left", "left in the registry"),
        ("a lost write", "acknowledged"),
        ("a failing event", "raised LookupError"),
        ("a hang", "a thread hangs"),
    ],
)
def test_what_must_not_be_is_seen(stage: Stage, planted: str, seen: str) -> None:
    """Whatever is planted makes the round wrong, and it says what was."""
    wrong = stage(planted, 1)[1]
    assert any(seen in sentence for sentence in wrong), wrong


def test_lost_rows_end_the_round(run_python: Run) -> None:
    """A row that is missing afterwards is an exception that leaves the round."""
    done = run_python(PROGRAM, "a lost row", "1", timeout=100)
    assert "WrongAnswerError: a scan after it all gave" in done.stderr
