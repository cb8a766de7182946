"""What the README and the docstrings show is true."""

from __future__ import annotations

import doctest
import importlib
import os
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client import REGISTRY

import saferocks
from saferocks import _metrics, _settings, events

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(f"saferocks.{file.stem}" for file in (ROOT / "saferocks").glob("*.py") if file.stem != "__init__")
LINK = re.compile(r"\]\(([^)#:]+)\)")
SHOWN_TEST = r"```toml\n(.*?)```\n\n<!-- test_jobs.py -->\n```python\n(.*?)```\n\n```\n(.*?)```"
CONSOLE = re.compile(r"```console\n(.*?)```", re.DOTALL)
TEST_LINK = re.compile(r"\[(test_d\d\d)\]\((tests/\w+\.py)\)")


def test_the_readme_runs() -> None:
    """The example in the README does what it shows."""
    failures, tried = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert (failures, tried > 0) == (0, True)


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example in a docstring does what it shows, and leaks nothing."""
    monkeypatch.setattr(_settings, "current", _settings.current)  # one of them configures
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert doctest.testmod(importlib.import_module(name)).failed == 0


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a page that are marked as of a language; without a mark for the empty one."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    return [text for mark, text in found if mark == language]


@pytest.fixture
def _fresh_hooks_and_registry() -> Iterator[None]:
    """Put back what the page on observability sets for the whole process."""
    before = set(REGISTRY._collector_to_names)
    yield
    events.set_hooks(None)
    for collector in set(REGISTRY._collector_to_names) - before:
        REGISTRY.unregister(collector)


@pytest.mark.about_leaks
@pytest.mark.usefixtures("_fresh_hooks_and_registry", "fresh_totals")
def test_the_page_on_observability_runs() -> None:
    """The examples on the page do what they show, each block of Python among them."""
    page = "docs/observability.md"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", saferocks.LeakedHandleWarning)
        failures, tried = doctest.testfile(str(ROOT / page), module_relative=False)
    assert (failures, tried) == (0, sum(text.count(">>> ") for text in blocks(page, "python")))


def test_the_commands_on_observability_run() -> None:
    """The page's commands for promtool pass, from where the project is."""
    (commands,) = blocks("docs/observability.md", "")
    for command in commands.splitlines():
        done = subprocess.run(shlex.split(command), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr


def test_the_configuration_on_observability_is_one(tmp_path: Path) -> None:
    """Prometheus accepts the page's configuration, with the alerts beside it."""
    (text,) = blocks("docs/observability.md", "yaml")
    (tmp_path / "prometheus.yml").write_text(text)
    (tmp_path / "alerts.yml").write_text((ROOT / "docs/observability/alerts.yml").read_text())
    command = ["promtool", "check", "config", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "4 rules found" in done.stdout) == (0, True), done.stderr


def test_the_page_on_observability_has_every_metric() -> None:
    """The table of metrics has each that there is, with its type and labels, and no other; that of alerts, too."""
    text = (ROOT / "docs/observability.md").read_text()
    rows = re.findall(r"^\| `(saferocks_\w+)` \| (\w+) \| [^|]* \| ([^|]*)\|", text, re.MULTILINE)
    shown = {(name, kind, tuple(filter(None, labels.strip().split(", ")))) for name, kind, labels in rows}
    expected = {
        (each.name + ("_total" if each.type == "counter" else ""), each.type, each.labels) for each in _metrics.METRICS
    }
    assert shown == expected | {(_metrics.HELD_NAME, "histogram", _metrics.HANDLE_LABELS)}
    alerts = re.findall(r"alert: (\w+)", (ROOT / "docs/observability/alerts.yml").read_text())
    assert re.findall(r"^\| `(Saferocks\w+)`", text, re.MULTILINE) == alerts


def test_the_page_on_observability_has_every_event() -> None:
    """The tables of events on the page and in the module are of the events that the package tells."""
    source = "".join(file.read_text() for file in (ROOT / "saferocks").glob("_*.py"))
    told = set(
        re.findall(
            r"\"(?:saferocks\.)?((?:handle|database)_(?:opened|closed|leaked|out\w+|unscoped|overdue|returned|expired))\"",
            source,
        )
    )
    for text in (events.__doc__ or "", (ROOT / "docs/observability.md").read_text()):
        assert set(re.findall(r"^\| `saferocks\.(\w+)`", text, re.MULTILINE)) == told
    assert len(told) == 8


@pytest.mark.parametrize(
    "page",
    [
        *("README.md", "docs/architecture.md", "docs/rocksdict-defects.md", "docs/stress-scenarios.md"),
        *("docs/debugging.md", "docs/command.md", "docs/observability.md", "docs/performance.md", "docs/stress.md"),
    ],
)
def test_links_lead_somewhere(page: str) -> None:
    """Every link within the project leads to a file that is there."""
    file = ROOT / page
    broken = [link for link in LINK.findall(file.read_text()) if not (file.parent / link).resolve().exists()]
    assert broken == []


def test_each_row_of_the_readme_names_a_file_with_that_test() -> None:
    """Each defect in the README's table links to a file that has its test and its canary."""
    rows = TEST_LINK.findall((ROOT / "README.md").read_text())
    assert len(rows) == 24
    missing = [row for row in rows if f"def {row[0]}_" not in (ROOT / row[1]).read_text()]
    assert missing == []
    texts = "".join(file.read_text() for file in (ROOT / "tests").glob("test_*.py"))
    assert [name for name, _ in rows if f"def {name}_canary_" not in texts] == []


def test_the_readme_has_the_two_commands() -> None:
    """The README gives the two commands as one line each, which is how continuous integration finds them."""
    lines = (ROOT / "README.md").read_text().splitlines()
    assert [line.rpartition("python ")[2] for line in lines if line.startswith("python3 -m venv")] == [
        "-m stress quick",
        "-m pytest -n 2",
    ]


def test_the_readme_shows_what_pytest_says(pytester: pytest.Pytester) -> None:
    """The README's one line and its test file give the error that the README shows, but for paths and times."""
    readme = (ROOT / "README.md").read_text()
    line, test, shown = re.search(SHOWN_TEST, readme, re.DOTALL).groups()
    pytester.makepyprojecttoml(line)
    pytester.makepyfile(test_jobs=test)
    run = pytester.runpytest_subprocess("-p", "no:xdist")
    run.assert_outcomes(passed=1, errors=1)
    variable = ("collected while open after", "database: ")
    expected = [text for text in shown.splitlines() if not any(part in text for part in variable)]
    run.stdout.fnmatch_lines(expected, consecutive=False)
    run.stdout.fnmatch_lines(["  iterator opened at test_jobs.py:7 was collected while open after * ms"])
    run.stdout.fnmatch_lines(["    database: *test_worker0*jobs.db"])


@pytest.mark.parametrize("page", ["docs/debugging.md", "docs/command.md"])
def test_the_pages_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples of a page do what they show, from its top to its end, but for ages and paths."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_settings, "current", _settings.Settings())
    failures, tried = doctest.testfile(
        str(ROOT / page), module_relative=False, optionflags=doctest.ELLIPSIS | doctest.REPORT_NDIFF
    )
    assert (failures, tried > 0) == (0, True)


def test_the_command_says_what_its_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each `$ saferocks ...` of the page, run on the page's own database, writes what stands below it."""
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "command.md"
    doctest.testfile(str(page), module_relative=False)
    shown = [
        part
        for block in CONSOLE.findall(page.read_text())
        for part in re.split(r"^\$ saferocks ", block, flags=re.M)[1:]
    ]
    assert len(shown) == 6
    for part in shown:
        arguments, expected = part.split("\n", 1)
        done = subprocess.run(
            [sys.executable, "-m", "saferocks._command", *arguments.split()],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert doctest.OutputChecker().check_output(expected, done.stdout, doctest.ELLIPSIS), done.stdout
