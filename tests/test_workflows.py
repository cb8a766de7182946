"""Continuous integration runs what the project says that it supports."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
#: The classifier of each system that continuous integration runs on.
SYSTEMS = {"ubuntu": "POSIX :: Linux", "macos": "MacOS", "windows": "Microsoft :: Windows"}


def load(file: Path) -> dict[str, Any]:
    """Read a workflow; YAML takes the key `on` for a truth."""
    text = yaml.safe_load(file.read_text(encoding="utf-8"))
    return {"on" if key is True else key: value for key, value in text.items()}


def jobs() -> dict[str, Any]:
    """Return the jobs of every push."""
    return load(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]


def commands(job: Any) -> list[str]:
    """Return the lines that the steps of a job run."""
    return [line.strip() for step in job["steps"] for line in step.get("run", "").splitlines()]


def test_the_matrix_is_what_the_classifiers_say() -> None:
    """Each Python and each system that the project names is one that the tests run on, and the other way round."""
    matrix = jobs()["tests"]["strategy"]["matrix"]
    assert matrix["python"] == re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PYPROJECT)
    systems = [SYSTEMS[system.partition("-")[0]] for system in matrix["system"]]
    assert sorted(systems) == sorted(re.findall(r'"Operating System :: (.+)"', PYPROJECT))
    assert jobs()["wheel"]["strategy"]["matrix"]["system"] == matrix["system"]


def test_the_oldest_python_is_the_one_that_is_required() -> None:
    """The matrix begins with the Python that `requires-python` demands, for which ruff and pyright look as well."""
    first = jobs()["tests"]["strategy"]["matrix"]["python"][0]
    assert f'requires-python = ">={first}"' in PYPROJECT
    assert f'pythonVersion = "{first}"' in PYPROJECT
    assert f'target-version = "py{first.replace(".", "")}"' in PYPROJECT


def test_every_push_is_tested_linted_and_built() -> None:
    """All that has to pass before anything lands is a step: the tests, the slow ones, lint, types and the wheel."""
    assert "python -m pytest -n 2" in commands(jobs()["tests"])
    assert "python -m pytest -n 2 -m slow" in commands(jobs()["slow"])
    assert {"ruff check .", "ruff format --check .", "mypy", "pyright"} <= set(commands(jobs()["lint"]))
    assert {"python -m pytest -m slow tests/test_packaging.py", "twine check --strict dist/*"} <= set(
        commands(jobs()["wheel"])
    )
    assert {"push", "pull_request"} <= set(load(ROOT / ".github" / "workflows" / "ci.yml")["on"])


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_each_workflow_is_bounded_and_may_do_no_more_than_it_must(file: Path) -> None:
    """Each job ends in a time, reads the repository and no more, and is made of steps that use or run something."""
    workflow = load(file)
    assert set(workflow["permissions"].values()) == {"read"}
    for job in workflow["jobs"].values():
        assert 0 < job["timeout-minutes"] <= 360
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/checkout@v4"))


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_what_a_workflow_refers_to_is_there(file: Path) -> None:
    """Every `matrix.` name is one of its job's matrix, and every test file and extra that is named exists."""
    for job in load(file)["jobs"].values():
        text = yaml.safe_dump(job)
        names = set(job.get("strategy", {}).get("matrix", {}))
        assert set(re.findall(r"\$\{\{ matrix\.(\w+) \}\}", text)) == names
        assert [name for name in re.findall(r"tests/\w+\.py", text) if not (ROOT / name).is_file()] == []
        extras = {extra for found in re.findall(r"\.\[([\w,]+)\]", text) for extra in found.split(",")}
        assert extras <= set(re.findall(r"^(\w+) = \[", PYPROJECT, re.MULTILINE))
