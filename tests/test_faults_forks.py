"""The fault `forks`: a round comes out right, and what must not be is seen."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    Run = Callable[..., subprocess.CompletedProcess[str]]
    Stage = Callable[..., dict[str, Any]]

#: The main module is imported again by spawned children, and must do nothing there.
PROGRAM = """
import json, os, pathlib, sys, types

def only_fork(ways):
    ways.fork()
    ways._gather()

def plant(what, forks, fork_child, fork_parent):
    look = fork_parent.Parent._look_at_held

    def touched(change):
        def look_at_held(parent):
            look(parent)
            change(parent)
        return look_at_held

    if what == "a row of the child's":
        fork_parent.Parent._look_at_held = touched(lambda parent: parent.db.put(b"child", b"1"))
    elif what == "a row of a family":
        fork_parent.Parent._look_at_held = touched(lambda parent: parent.held["family"].put(b"child", b"1"))
    elif what == "a lost row":
        fork_parent.Parent._look_at_held = touched(lambda parent: parent.db.delete(b"w0-000001"))
    elif what == "a lost file":
        fork_parent.Parent._look_at_held = lambda parent: (os.remove(parent._directory / "held.sst"), look(parent))
    elif what == "a use that works":
        fork_child.act = lambda held, directory, random: fork_child.use({"db": held["db"]}, random)
        fork_child.USES["db"] = tuple(repr for _ in fork_child.USES["db"])
    elif what == "an untyped error":
        fork_child.act = lambda held, directory, random: fork_child.use({"db": held["db"]}, random)
        fork_child.USES["db"] = tuple(int for _ in fork_child.USES["db"])
    elif what == "an opening":
        fork_child.act = lambda held, directory, random: fork_child.open_one(directory)
        errors = fork_child.saferocks.errors
        fork_child.saferocks = types.SimpleNamespace(
            open=lambda path: open(os.devnull), ForkedProcessError=errors.ForkedProcessError
        )
    elif what == "a status":
        fork_child.Child.run = lambda child: os._exit(150)
    elif what == "a hang":
        forks._CHILD_SECONDS = 0.5
        fork_child.Child.run = lambda child: os.read(os.pipe()[0], 1)

def main():
    from stress.faults import fork_child, fork_parent, forks
    from stress.faults.fault import Round
    forks.Ways.all = only_fork if sys.argv[1] != "nothing" else forks.Ways.all
    forks._workers = forks._workers if sys.argv[1] == "nothing" else lambda *_: None
    plant(sys.argv[1], forks, fork_child, fork_parent)
    os.mkdir("round")
    outcome = forks.stage(Round(int(sys.argv[2]), pathlib.Path("round").absolute()))
    print(json.dumps([outcome.counts, outcome.wrong]))

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def stage(run_python: Run) -> Stage:
    """Stage a round with something planted, and return its counts and what was wrong."""

    def stage(planted: str, seed: int = 1) -> dict[str, Any]:
        done = run_python(PROGRAM, planted, str(seed), timeout=100)
        assert done.returncode == 0, done.stderr
        counts, wrong = json.loads(done.stdout.splitlines()[-1])
        return {"counts": counts, "wrong": wrong}

    return stage


def test_a_round_goes_every_way_and_is_right(stage: Stage) -> None:
    """Each way is gone once, all rows are verified, and nothing is wrong."""
    found = stage("nothing")
    assert found["wrong"] == []
    ways = {name: count for name, count in found["counts"].items() if name.startswith("by ")}
    assert set(ways.values()) == {1}
    assert len(ways) == 8
    assert found["counts"]["rows verified"] > 100


@pytest.mark.parametrize(
    ("planted", "seen"),
    [
        ("a row of the child's", "row b'child' is nobody's, or a child's"),
        ("a row of a family", "a write of a child's reached the parent's database"),
        ("a lost row", "row b'w0-000001' of the parent's is lost"),
        ("a lost file", "a child removed the SST file"),
        ("a use that works", "in a child"),
        ("an untyped error", "raised TypeError"),
        ("an opening", "a child whose parent had opened a database opened one"),
        ("a status", "ended with 150, and was to end with"),
        ("a hang", "a child by fork hung"),
    ],
)
def test_what_must_not_be_is_seen(stage: Stage, planted: str, seen: str) -> None:
    """Whatever is planted makes the round wrong, and it says what was."""
    wrong = stage(planted)["wrong"]
    assert any(seen in sentence for sentence in wrong), wrong
