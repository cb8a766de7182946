"""Fixtures of the whole suite."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import rocksdict

import saferocks
from saferocks import _settings, _watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent
CHILD_SECONDS = 60.0


@pytest.fixture(autouse=True)
def _unwatched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test marked `about_leaks` meet the guard as a program does: not strict, and with nobody watching.

    What it leaves open when it ends fails it all the same.
    """
    if request.node.get_closest_marker("about_leaks") is not None:
        monkeypatch.setattr(_watch, "watches", ())
        monkeypatch.setattr(_settings, "current", _settings.Settings())


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A path at which there is no database yet."""
    return str(tmp_path / "db")


@pytest.fixture
def db(path: str) -> Iterator[saferocks.Rdict]:
    """An entered raw database that counts its iterators."""
    with saferocks.open(path, statistics=True) as database:
        yield database


@pytest.fixture
def typed_db(tmp_path: Path) -> Iterator[saferocks.Rdict]:
    """An entered typed database that refuses pickles."""
    with saferocks.open(str(tmp_path / "typed"), raw_mode=False, statistics=True) as database:
        yield database


@pytest.fixture
def bare(path: str) -> Iterator[rocksdict.Rdict]:
    """A raw database of bare rocksdict."""
    database = rocksdict.Rdict(path, rocksdict.Options(raw_mode=True))
    yield database
    with suppress(Exception):
        database.close()


@pytest.fixture
def still_writable(path: str, db: saferocks.Rdict) -> Callable[[], bool]:
    """Tell whether writes, flush, close and reopening of the database work, and nothing is lost."""

    def check() -> bool:
        db[b"after"] = b"1"
        with db.write_batch() as batch:
            batch[b"batched"] = b"2"
        db.flush()
        db.close()
        with saferocks.open(path) as again:
            return again.get([b"after", b"batched"]) == [b"1", b"2"]

    return check


@pytest.fixture
def strict() -> Iterator[None]:
    """The policy `raise` for the length of a test."""
    with saferocks.strict():
        yield


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program in a child process with a time limit; for what may hang, crash or end the interpreter.

    The program is written to a file, `program.py` unless `name=` says otherwise, so that its lines have
    names. `flags` go to the interpreter, `env` is added to the environment.
    """

    def run(
        program: str,
        *arguments: str,
        flags: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
        name: str = "program.py",
        timeout: float = CHILD_SECONDS,
    ) -> subprocess.CompletedProcess[str]:
        file = tmp_path / name
        file.write_text(textwrap.dedent(program))
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("SAFEROCKS_", "PYTEST_"))},
            "PYTHONPATH": str(ROOT),
            **(env or {}),
        }
        return subprocess.run(
            [sys.executable, *flags, str(file), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment,
            cwd=tmp_path,
            check=False,
        )

    return run
