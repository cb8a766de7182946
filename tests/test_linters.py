"""What the page on linters shows is what they say: mypy, pyright and ruff, on the page's own programs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/linters.md").read_text()
CHECK_SECONDS = 180
FILES = dict(re.findall(r"^<!-- ([\w.]+) -->\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
CONSOLES = dict(re.findall(r"^```console\n\$ (.*?)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with the files of the page."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "pyrightconfig.json").write_text(f'{{"extraPaths": ["{ROOT}"]}}')
    return tmp_path


def run(folder: Path, command: str, *more: str) -> str:
    """Run a tool in the directory of the page; returns what it prints, with paths as of there."""
    tool, *arguments = shlex.split(command)
    done = subprocess.run(
        [sys.executable, "-m", tool, *arguments, *more],
        capture_output=True,
        text=True,
        timeout=CHECK_SECONDS,
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(ROOT), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr  # each of them finds something
    return done.stdout


def lines(text: str, folder: Path) -> list[str]:
    """Return the lines of a tool, without indentation, in which the directory is not named."""
    here = str(folder.resolve())
    told = [line.strip().replace(f"{here}/", "") for line in text.replace("\xa0", " ").splitlines()]
    return [line for line in told if line not in ("", "jobs.py")]


@pytest.mark.parametrize("command", CONSOLES)
def test_each_tool_says_what_the_page_shows(folder: Path, command: str) -> None:
    """Each console block of the page, run on the page's files, says that and nothing else."""
    pytest.importorskip(shlex.split(command)[0])
    more = {"mypy": ("--follow-imports=silent",), "pyright": ("--pythonpath", sys.executable)}
    told = run(folder, command, *more.get(shlex.split(command)[0], ()))
    assert lines(told, folder) == lines(CONSOLES[command], folder)


def test_the_page_shows_four_runs() -> None:
    """The page shows mypy, pyright and both runs of ruff, and none of them is passed over by the pattern."""
    assert [shlex.split(command)[0] for command in CONSOLES] == ["mypy", "pyright", "ruff", "ruff"]
    assert PAGE.count("```console") == len(CONSOLES)
    assert set(FILES) == {"jobs.py", "pyproject.toml", "store.py"}


def test_entering_by_hand_in_a_dunder_method_passes(folder: Path) -> None:
    """The one case that the page leaves to a search is not found by ruff; beside it, the same line elsewhere is."""
    (folder / "worker.py").write_text(
        "class Worker:\n"
        "    def __init__(self, db):\n"
        "        self.jobs = db.items().__enter__()\n"
        "    def begin(self, db):\n"
        "        self.jobs = db.items().__enter__()\n"
    )
    told = run(folder, "ruff check --isolated --preview --select PLC2801 --output-format concise worker.py")
    assert [line.partition(": ")[0] for line in lines(told, folder) if line.startswith("worker.py")] == [
        "worker.py:5:21"
    ]


def test_rules_that_sound_like_it_say_nothing(folder: Path) -> None:
    """SIM115, and all of flake8-bugbear as ruff has it, find nothing in the page's program; SIM115 knows `open`."""
    command = "ruff check --isolated --select SIM115,B --output-format concise"
    (folder / "opens.py").write_text('file = open("x")\nprint(file)\n')
    assert [line for line in lines(run(folder, f"{command} jobs.py opens.py"), folder) if "jobs.py" in line] == []


def test_pylint_leaves_its_list_to_itself(folder: Path) -> None:
    """R1732 of pylint finds `open` and no opener of saferocks; `unnecessary-dunder-call` finds the one by hand."""
    pytest.importorskip("pylint")
    (folder / "opens.py").write_text('file = open("x")\nprint(file)\n')
    told = run_pylint(folder, "jobs.py", "opens.py")
    assert re.findall(r"^(\w+\.py:\d+):\d+: (\w+):", told, re.MULTILINE) == [
        ("jobs.py:22", "C2801"),
        ("opens.py:1", "R1732"),
    ]


def run_pylint(folder: Path, *files: str) -> str:
    """Return what pylint says of some files; its exit status is a sum of bits."""
    done = subprocess.run(
        [sys.executable, "-m", "pylint", "--disable=all", "--enable=R1732,C2801", *files],
        capture_output=True,
        text=True,
        timeout=CHECK_SECONDS,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        check=False,
    )
    return done.stdout
