"""Tests say what they need of a system, and are skipped with that reason where it is not there."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import systems

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent
#: What a test has to have a mark for, wherever in it or in a program that it runs this stands.
NEEDS = {
    r"\bos\.fork\(": {"needs_fork"},
    r"\bsignal\.(SIGUSR[12]|SIGBUS|SIGALRM)\b": {"needs_signals"},
    r"\bsignal\.SIGKILL\b": {"needs_sigkill", "needs_signals"},
    r"\bresource\.[gs]etrlimit\b": {"needs_limits"},
    r"\bos\.symlink\(": {"needs_links"},
    r"\bos\.mkfifo\(": {"needs_signals"},
    r"\bos\.chmod\(": {"needs_modes"},
}
#: These say so by a mark of the whole file, cannot be loaded without, or are about it.
WHOLE = re.compile(r"^pytestmark = .*\bneeds_\w+", re.MULTILINE)
ABOUT = {"test_systems.py"}
FILES = [
    file
    for file in sorted((ROOT / "tests").glob("test_*.py"))
    if file.name not in ABOUT
    and not any(file.match(pattern) for pattern in systems.FILES)
    and not WHOLE.search(file.read_text(encoding="utf-8"))
]


def texts(tree: ast.Module) -> dict[str, str]:
    """Return what stands behind each name of a file that is no test: constants, helpers and fixtures."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = ast.unparse(node)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("test_"):
            found[node.name] = ast.unparse(node)
    return found


def unmarked(file: Path) -> Iterator[str]:
    """Yield the tests of a file that use what not every system has, and do not say so."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    helpers = texts(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
            names |= {argument.arg for argument in node.args.args}
            text = "\n".join([ast.unparse(node), *(helpers[name] for name in names & set(helpers))])
            marks = {ast.unparse(each) for each in node.decorator_list}
            for need, any_of in NEEDS.items():
                if re.search(need, text) and not marks & any_of:
                    yield f"{node.name}: {need}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_not_every_system_has_is_marked(file: Path) -> None:
    """A test that forks, sends SIGUSR1 or SIGKILL, limits resources or makes links says so by a mark."""
    assert list(unmarked(file)) == []


def test_a_test_without_its_mark_is_found(tmp_path: Path) -> None:
    """The check sees a need in the test, in a program that it runs and in a fixture that it asks for."""
    file = tmp_path / "test_it.py"
    file.write_text(
        "PROGRAM = 'import os; os.fork()'\n"
        "@pytest.fixture\ndef limited():\n    resource.setrlimit(1, 2)\n"
        "def test_one():\n    run(PROGRAM)\n"
        "@needs_fork\ndef test_two():\n    run(PROGRAM)\n"
        "def test_three(limited):\n    pass\n"
    )
    assert [each.partition(":")[0] for each in unmarked(file)] == ["test_one", "test_three"]


@systems.needs_fork
def test_a_file_that_cannot_be_loaded_is_skipped_with_its_reason(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """Where there is no `resource`, files of tests that import it are skipped, and the summary says why."""
    program = f"""
        import os, sys
        import psutil, pytest
        sys.modules["resource"] = None
        os.chdir({str(ROOT)!r})
        sys.exit(pytest.main(["-q", "-n", "0", "-p", "no:cacheprovider", "-p", "no:asyncio",
                              "tests/test_command.py", "tests/test_stress_cli.py", "tests/test_smoke.py"]))
    """
    done = run_python(program)
    assert "1 passed, 2 skipped" in done.stdout, done.stdout + done.stderr
    assert systems.NO_LIMITS in done.stdout
    assert "the stress harness is for systems with limits" in done.stdout
