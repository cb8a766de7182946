"""The fault of damaged files: a few rounds of it, and its verdict seen red."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

import saferocks
from stress.faults import corruption, damage, written
from stress.faults.corruption import Case, judge, longest_prefix, recognise
from stress.faults.damage import Damage
from stress.faults.reading import Expected, Findings, read_cursors, read_everything, read_scans

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    Rounds = Callable[..., tuple[list[dict[str, int]], list[str]]]

SEED = 3

MAKER = """
    import sys
    from random import Random
    from stress.faults import written
    written.write(written.plan(Random(int(sys.argv[1]))), "db")
"""


def test_nothing_wrong_comes_out_of_damaged_databases(run_rounds: Rounds) -> None:
    """Rounds of the fault, each in a process of its own, find nothing wrong."""
    _, wrong = run_rounds("corruption", 1, 2, 4, 7, 8)
    assert wrong == []


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made")


@pytest.fixture
def case(_made: Path, tmp_path: Path, run_python: Callable[..., subprocess.CompletedProcess[str]]) -> Case:
    """A database that was written by the plan of a seed, with damage yet to come."""
    if not (_made / "db").exists():
        child = run_python(MAKER, str(SEED))
        assert (child.returncode, child.stderr) == (0, "")
        shutil.move(tmp_path / "db", _made / "db")
    path = shutil.copytree(_made / "db", tmp_path / "case")
    return Case(str(path), written.plan(Random(SEED)), Damage("SST", "none", "none", ""), "read_write")


def expected(case: Case) -> dict[str, Expected]:
    """Return what the database holds."""
    rows = case.plan.rows()
    return {name: Expected(case.plan.raw, rows[name], case.plan.keys(name)) for name in case.plan.families}


def test_a_whole_database_gives_all_that_was_written(case: Case) -> None:
    """Without damage every read is right, in every way, and nothing is refused."""
    findings = Findings()
    with case.open() as db:
        read_everything(findings, db, expected(case), Random(1), snapshots=True)
    assert (findings.wrong, findings.refused) == ([], {})
    assert findings.right > 1000


def changed(case: Case, change: Callable[[Any, Any], None]) -> tuple[str, ...]:
    """Change the database behind the back of the plan, and return what the fault finds."""
    with case.open() as db:
        change(db, sorted(case.plan.rows()["default"], key=written.order)[0])
    return judge(case, Random(1)).wrong


def test_a_wrong_value_is_found(case: Case) -> None:
    """A value that was never written is told of."""
    assert "of no state that there was" in changed(case, lambda db, key: db.put(key, b"planted"))[0]


def test_a_lost_row_is_found(case: Case) -> None:
    """A row that is missing from the files is told of."""
    assert "of no state that there was" in changed(case, lambda db, key: db.delete(key))[0]


def test_a_strange_row_is_found(case: Case) -> None:
    """A row that nobody wrote, which no key of the plan asks for, is told of by the scans."""
    key = b"strange" if case.plan.raw else "strange"
    assert any("rows instead of" in text for text in changed(case, lambda db, _: db.put(key, b"planted")))


class _Short:
    """Reads as bare rocksdict does: a scan that an error cut short looks finished."""

    def __init__(self, reader: Any, rows: int) -> None:
        self._reader, self._rows = reader, rows

    def __getattr__(self, name: str) -> Any:
        if name not in {"items", "keys", "values", "columns", "entities"}:
            return getattr(self._reader, name)
        return lambda **arguments: _Cut(getattr(self._reader, name)(**arguments), self._rows)


class _Cut:
    def __init__(self, scope: Any, rows: int) -> None:
        self._scope, self._left = scope, rows

    def __enter__(self) -> Any:
        rows = iter(self._scope.__enter__())
        return (row for _, row in zip(range(self._left), rows, strict=False))

    def __exit__(self, *error: Any) -> None:
        self._scope.__exit__(*error)


def test_a_silently_short_scan_is_found(case: Case) -> None:
    """Scans that end a row early, without an error, are told of: each method, in each direction."""
    rows = expected(case)["default"]
    findings = Findings()
    with case.open() as db:
        short: Any = _Short(db, len(rows.rows) - 1)
        read_scans(findings, short, Expected(rows.raw, rows.rows, rows.keys[:1]), "db", Random(1))
    assert len([text for text in findings.wrong if "rows instead of" in text]) >= 10


class _Panic(BaseException):
    """As pyo3's PanicException: no `Exception`."""


class _Broken:
    """A reader all of whose methods panic."""

    def __getattr__(self, name: str) -> Any:
        return self._panic

    def _panic(self, *given: Any, **named: Any) -> Any:
        raise _Panic("planted")


def test_an_untyped_error_is_found(case: Case) -> None:
    """Panics of scans and cursors are told of as untyped."""
    rows, findings = expected(case)["default"], Findings()
    broken: Any = _Broken()
    read_scans(findings, broken, rows, "db", Random(1))
    read_cursors(findings, broken, rows, "db", Random(1))
    assert findings.right == 0
    assert all("untyped _Panic: planted" in text for text in findings.wrong)
    assert len(findings.wrong) > 10


def test_a_held_lock_is_found(case: Case) -> None:
    """A path that cannot be opened again at once is told of, and so is what was left open."""
    with case.open():
        wrong = judge(case, Random(1)).wrong
    assert any("still locked" in text for text in wrong)
    assert any("handles are left open" in text for text in wrong)


def test_a_gap_is_no_prefix(case: Case) -> None:
    """Rows after so many writes are recognised, and rows with a write missing in between are not."""
    plan = case.plan
    total = len(list(plan.writes))
    assert longest_prefix(plan, plan.rows(total // 2)) in range(total // 2, total)
    gap = plan.rows()
    family, rows = next((name, rows) for name, rows in gap.items() if rows)
    del rows[next(iter(rows))]
    assert longest_prefix(plan, gap) is None
    findings = Findings()
    found, state = recognise(Case("", plan, Damage("WAL", "bit flip", "", ""), "read_write"), gap, findings)
    assert (found, state) == (plan.rows(), "opened wrong")
    assert family in findings.wrong[0]


@pytest.mark.parametrize("way", damage.WAYS)
def test_damage_changes_just_one_file(case: Case, way: str) -> None:
    """Each kind of damage leaves its file different, or gone, and every other file as it was."""
    before = {name: Path(case.path, name).read_bytes() for name in os.listdir(case.path)}
    done = damage.damage_file(case.path, "CURRENT", way, Random(5))
    after = {name: Path(case.path, name).read_bytes() for name in os.listdir(case.path)}
    assert (done.kind, done.file) == ("CURRENT", "CURRENT")
    assert {name for name in before if before[name] != after.get(name)} == {"CURRENT"}


def test_a_seed_says_everything(case: Case, tmp_path: Path) -> None:
    """The same seed writes the same rows and does the same damage."""
    assert written.plan(Random(SEED)) == case.plan
    copy = shutil.copytree(case.path, tmp_path / "copy")
    assert damage.damage(case.path, Random(9)) == damage.damage(str(copy), Random(9))
    assert saferocks.open_handles() == ()
    assert corruption.FAULT.rounds == 1000
