"""What the README, the pages and the docstrings show is true."""

from __future__ import annotations

import doctest
import importlib
import os
import re
import shlex
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client import REGISTRY

import saferocks
from saferocks import _metrics, _settings, events
from stress.scenario import all_scenarios
from tests.systems import needs_limits, needs_linux, needs_signals

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(f"saferocks.{file.stem}" for file in (ROOT / "saferocks").glob("*.py") if file.stem != "__init__")
PAGES = ["README.md", *sorted(page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").rglob("*.md"))]
#: Pages whose examples send signals, or need the limits of a process that only POSIX has.
SIGNALS = {"docs/command.md", "docs/debugging.md", "docs/find-a-leak.md", "docs/fork.md"}
#: Pages that show in an example what becomes of a handle that escapes.
LEAK_ON_PURPOSE = {"docs/observability.md"}
BLOCK = re.compile(r"^```([^`\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = r"(?:sketch|(?:file: )?[\w./-]+\.py)"
NAMED_BLOCK = re.compile(rf"^<!-- {NAMED} -->\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLE = re.compile(r"^>>> ", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
#: Rooms whose examples do so.
NEEDING = {"saferocks._dump": needs_signals}
SHOWN_TEST = r"```toml\n(.*?)```\n\n<!-- test_jobs.py -->\n```python\n(.*?)```\n\n```\n(.*?)```"
INCIDENTS = sorted(f"docs/incidents/{file.name}" for file in (ROOT / "docs" / "incidents").glob("*.md"))
CONSOLE = re.compile(r"```console\n(.*?)```", re.DOTALL)
TEST_LINK = re.compile(r"\[(test_d\d\d)\]\(\.\./(tests/\w+\.py)\)")


@pytest.mark.parametrize("name", [pytest.param(name, marks=NEEDING.get(name, ())) for name in MODULES])
def test_docstrings_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example in a docstring does what it shows, and leaks nothing."""
    monkeypatch.setattr(_settings, "current", _settings.current)  # one of them configures
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert doctest.testmod(importlib.import_module(name)).failed == 0


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a page that are marked as of a language; without a mark for the empty one."""
    return [text for mark, text in BLOCK.findall((ROOT / page).read_text()) if mark == language]


@pytest.fixture
def _as_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run a page where nothing is yet, and put back what it sets for the whole process."""
    before = set(REGISTRY._collector_to_names)
    monkeypatch.chdir(tmp_path)
    yield
    events.set_hooks(None)
    for collector in set(REGISTRY._collector_to_names) - before:
        REGISTRY.unregister(collector)


@pytest.mark.about_leaks
@pytest.mark.usefixtures("_as_a_program", "fresh_totals")
@pytest.mark.parametrize("page", [pytest.param(page, marks=needs_signals if page in SIGNALS else ()) for page in PAGES])
def test_each_page_runs(page: str) -> None:
    """The examples of a page do what they show, from its top to its end; all of them are in its blocks of Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if page in LEAK_ON_PURPOSE:
            warnings.simplefilter("ignore", saferocks.LeakedHandleWarning)
        failures, tried = doctest.testfile(
            str(ROOT / page), module_relative=False, optionflags=doctest.ELLIPSIS | doctest.REPORT_NDIFF
        )
    assert (failures, tried) == (0, sum(len(EXAMPLE.findall(text)) for text in blocks(page, "python")))


@pytest.mark.parametrize("page", PAGES)
def test_each_block_of_python_runs_or_is_named(page: str) -> None:
    """A block without examples is named, by a comment, as a file, which a test runs, or as a sketch; both compile."""
    named = set(NAMED_BLOCK.findall((ROOT / page).read_text()))
    plain = [text for text in blocks(page, "python") if not EXAMPLE.search(text)]
    assert [text for text in plain if text not in named] == []
    for text in plain:
        compile(textwrap.dedent(text), page, "exec")


@needs_linux
def test_the_commands_on_observability_run() -> None:
    """The page's commands for promtool pass, from where the project is."""
    (commands,) = blocks("docs/observability.md", "")
    for command in commands.splitlines():
        done = subprocess.run(shlex.split(command), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr


@needs_linux
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


def anchors(page: Path) -> set[str]:
    """Return the names by which links reach the headings of a page."""
    found = [re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings(page)]
    return {name if number == 0 else f"{name}-{number}" for name, number in numbered(found)}


def headings(page: Path) -> list[str]:
    """Return the headings of a page, of what links they hold the texts only."""
    return [re.sub(r"\[(.*?)\]\(.*?\)", r"\1", text) for text in HEADING.findall(BLOCK.sub("", page.read_text()))]


def numbered(names: list[str]) -> Iterator[tuple[str, int]]:
    """Yield each name with how often it has come before."""
    for place, name in enumerate(names):
        yield name, names[:place].count(name)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Every link within the project leads to a file that is there, and to a heading that is in it."""
    file, broken = ROOT / page, []
    for link in LINK.findall(BLOCK.sub("", file.read_text())):
        path, _, anchor = link.partition("#")
        target = (file.parent / path).resolve() if path else file
        if ":" not in link and not (target.exists() and (not anchor or anchor in anchors(target))):
            broken.append(link)
    assert broken == []


def test_each_defect_names_a_file_with_its_test() -> None:
    """Each defect in the page's first table links to a file that has its test and its canary."""
    rows = TEST_LINK.findall((ROOT / "docs/rocksdict-defects.md").read_text())
    assert len(rows) == 27
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


def test_the_page_on_testing_shows_what_pytest_says(pytester: pytest.Pytester) -> None:
    """The page's one line and its test file give the error that it shows, but for paths and times."""
    page = (ROOT / "docs/testing.md").read_text()
    line, test, shown = re.search(SHOWN_TEST, page, re.DOTALL).groups()
    pytester.makepyprojecttoml(line)
    pytester.makepyfile(test_jobs=test)
    run = pytester.runpytest_subprocess("-p", "no:xdist")
    run.assert_outcomes(passed=1, errors=1)
    variable = ("collected while open after", "database: ")
    expected = [text for text in shown.splitlines() if not any(part in text for part in variable)]
    run.stdout.fnmatch_lines(expected, consecutive=False)
    run.stdout.fnmatch_lines(["  iterator opened at test_jobs.py:7 was collected while open after * ms"])
    run.stdout.fnmatch_lines(["    database: *test_worker0*jobs.db"])


@pytest.mark.parametrize("page", INCIDENTS)
def test_the_incidents_name_scenarios(page: str) -> None:
    """Each page says where it is from, and names scenarios that there are, as commands to run them."""
    text = (ROOT / page).read_text()
    commands = re.findall(r"`python -m stress run ([a-z -]+?) --seconds \d+`", text)
    assert commands
    assert {name for command in commands for name in command.split()} <= set(all_scenarios())
    assert re.search(r"\]\(https://github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+\)", text)
    assert "Inference" in text or "inference" in text


def test_every_scenario_has_an_incident() -> None:
    """Each scenario is the shape of something that has happened, of which there is a page."""
    texts = "".join((ROOT / page).read_text() for page in INCIDENTS)
    assert [name for name in all_scenarios() if name not in texts] == []
    assert len(INCIDENTS) == 5


@needs_limits
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
