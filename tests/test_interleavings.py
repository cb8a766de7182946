"""A use of a handle, stopped before each of its bytecodes, and a whole release, close or expiry in between.

The program is `interleaving.py` beside this file; it runs in child processes, so that a crash is a failed test.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    Run = Callable[..., subprocess.CompletedProcess[str]]

PROGRAM = Path(__file__).with_name("interleaving.py").read_text(encoding="utf-8")

#: The kinds of handles, as the program names them; a run for each row.
KINDS = (
    "cursor,bounded cursor",
    "scan,bounded scan,scan of values",
    "batch,free batch,bulk writer",
    "snapshot,point snapshot",
    "shared cursor,shared bounded cursor",
    "shared scan,shared bounded scan",
)


def check(run_python: Run, kinds: str, extent: str, timeout: float, least: int) -> None:
    """Run the cases of some kinds of handles, and fail with all that was wrong: the case, the bytecode, and what."""
    result = run_python(PROGRAM, kinds, extent, timeout=timeout)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-6000:]
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [f"{each['case']}: {text}" for each in found for text in each["wrong"]] == []
    assert sum(each["places"] for each in found) >= least, "hardly anything was stopped"
    assert min(each["places"] for each in found) > 0


@pytest.mark.parametrize("kinds", KINDS)
def test_a_use_of_a_handle_and_its_release_in_between(run_python: Run, kinds: str) -> None:
    """At whatever bytecode a use is stopped for a release: a right result or a typed error, and nothing is left."""
    check(run_python, kinds, "quick", 60, 300)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ",".join(KINDS).split(","))
def test_every_use_of_a_handle_and_its_release_at_every_bytecode(run_python: Run, kind: str) -> None:
    """The same for more uses, at every bytecode for a release of the handle, and farther apart for what is like it."""
    check(run_python, kind, "full", 180, 1500)
