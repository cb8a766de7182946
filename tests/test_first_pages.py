"""What a newcomer reads first is true: the files that README, tutorial and the page on testing have you save."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from saferocks import _allowances, pytest_plugin

if TYPE_CHECKING:
    from collections.abc import Callable
    from subprocess import CompletedProcess

    from tests.conftest import LeakSuite

    Run = Callable[..., CompletedProcess[str]]

ROOT = Path(__file__).resolve().parent.parent
FILE = re.compile(r"^<!-- file: (\w+\.py) -->\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHOWN_WARNING = re.compile(r"^\w+\.py:\d+: \w+Warning: .*?'with db\.\w+\(\) as \w+:'", re.MULTILINE | re.DOTALL)


def text_of(page: str) -> str:
    """Return the text of a page."""
    return (ROOT / page).read_text()


def files(page: str, name: str) -> list[str]:
    """Return the files of a name that a page has its reader save, in their order."""
    return [text for each, text in FILE.findall(text_of(page)) if each == name]


def normalized(text: str) -> str:
    """Return a text on one line, with an age in place of all ages."""
    return re.sub(r"after \d+ ms", "after 1 ms", " ".join(text.split()))


@pytest.mark.parametrize("page", ["docs/tutorial.md", "docs/migrate.md", "docs/testing.md"])
def test_the_pages_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples of a page do what they show, all of them, in one session from its top to its end."""
    monkeypatch.chdir(tmp_path)
    failures, tried = doctest.testfile(str(ROOT / page), module_relative=False)
    assert (failures, tried) == (0, text_of(page).count(">>> "))


@pytest.mark.parametrize(("page", "name"), [("README.md", "jobs.py"), ("docs/tutorial.md", "forgetful.py")])
def test_a_forgotten_with_is_told_as_shown(run_python: Run, tmp_path: Path, page: str, name: str) -> None:
    """The program that forgets a `with` gets the two warnings that the page shows, in that order, and no other."""
    (program,) = files(page, name)
    run_python(
        'import saferocks\nwith saferocks.open("shop.db") as db: db[b"user:1"] = b"ann"', name="earlier.py"
    ).check_returncode()
    run = run_python(program, flags=("-W", "default"), name=name)
    assert run.returncode == 0
    told = [line.replace(f"{tmp_path}/", "") for line in run.stderr.splitlines() if "Warning: " in line]
    shown = SHOWN_WARNING.findall(text_of(page))
    assert len(shown) == 2
    assert [normalized(line) for line in told] == [normalized(text) for text in shown]
    assert run_python(program, name=name).stderr.count("Warning: ") == 0


def test_a_program_without_logging_gets_the_events_as_shown(run_python: Run, tmp_path: Path) -> None:
    """The tutorial's forgetful program, without `-W default`, writes the two events that the tutorial shows."""
    (program,) = files("docs/tutorial.md", "forgetful.py")
    run = run_python(program, name="forgetful.py")
    told = re.sub(r"age=\d\.\d+", "age=0.0", run.stderr.replace(f"{tmp_path}/", ""))
    (shown,) = re.findall(
        r"^(saferocks\.handle_unscoped .*?)^```", text_of("docs/tutorial.md"), re.MULTILINE | re.DOTALL
    )
    assert normalized(told) == normalized(shown)


def test_mypy_finds_what_the_tutorial_leaves_unentered(run_python: Run, tmp_path: Path) -> None:
    """Mypy refuses the tutorial's program at the line, and by the type, that it shows."""
    pytest.importorskip("mypy")
    (tmp_path / "unentered.py").write_text(files("docs/tutorial.md", "unentered.py")[0])
    run = run_python("import runpy; runpy.run_module('mypy', run_name='__main__')", "unentered.py", timeout=240)
    told, shown = (re.findall(r"^unentered\.py:(\d+): error: .*(Scope\[\w+\])", text, re.MULTILINE) for text in
                   (run.stdout, text_of("docs/tutorial.md")))  # fmt: skip
    assert told == shown == [("4", "Scope[RdictKeys]")]


@pytest.fixture
def inner(pytester: pytest.Pytester, suite: LeakSuite) -> Callable[[str], pytest.RunResult]:
    """Run a file of tests as it stands, with pytest's and saferocks' default settings."""

    def run(source: str) -> pytest.RunResult:
        pytester.makepyfile(test_shop=source)
        return pytester.runpytest_subprocess("-p", "no:xdist")

    return run


def test_the_tutorials_test_fails_as_shown_and_passes_once_mended(inner: Callable[[str], pytest.RunResult]) -> None:
    """The tutorial's first test leaks, with the words that it shows, and the second, which it has one write, passes."""
    leaking, mended = files("docs/tutorial.md", "test_shop.py")
    run = inner(leaking)
    run.assert_outcomes(passed=1, errors=1)
    page = text_of("docs/tutorial.md")
    shown = page[page.index("saferocks: this test leaked") :].split("```")[0].splitlines()
    assert len(shown) == 4
    run.stdout.fnmatch_lines([line.replace("after 1 ms", "after * ms") for line in shown], consecutive=True)
    inner(mended).assert_outcomes(passed=1)


def test_the_fixtures_work_as_the_page_on_testing_shows(inner: Callable[[str], pytest.RunResult]) -> None:
    """The page's tests with the plugin's two fixtures pass, in a run that is not strict otherwise."""
    inner(files("docs/testing.md", "test_fixtures.py")[0]).assert_outcomes(passed=2)


def test_the_test_case_of_the_page_on_testing_passes(run_python: Run) -> None:
    """The page's TestCase passes under unittest, and fails once it may no longer leave its snapshot."""
    (program,) = files("docs/testing.md", "test_sweep.py")
    program += "\nif __name__ == '__main__':\n    unittest.main()\n"
    assert "Ran 2 tests" in run_python(program, name="test_sweep.py").stderr
    assert run_python(program, name="test_sweep.py").returncode == 0
    stricter = program.replace('allow=["snapshot"], ', "")
    assert stricter != program
    run = run_python(stricter, name="test_sweep.py")
    assert run.returncode == 1
    assert "LeakedHandlesError: 1 leaked handle" in run.stderr


def test_the_page_on_testing_names_all_that_the_plugin_has() -> None:
    """Options, ini keys, fixtures, modes and kinds of handles each stand on the page."""
    page = text_of("docs/testing.md")
    source = Path(pytest_plugin.__file__).read_text()
    names = re.findall(r'(?:addoption|addini)\(\s*"([\w-]+)"', source)
    fixtures = re.findall(r"@pytest\.fixture\ndef (\w+)", source)
    assert (len(names), len(fixtures)) == (4, 2)
    missing = [name for name in (*names, *fixtures, *_allowances.KINDS, *pytest_plugin._MODES) if name not in page]
    assert missing == []
    assert f"saferocks_leak_grace = {_allowances.GRACE}" in page


def test_the_two_tables_of_defects_have_the_same_rows() -> None:
    """Each defect stands in the table at a glance and in that with the details, in the order of the numbers."""
    glance, details = text_of("docs/rocksdict-defects.md").split("## In detail")
    numbers = [
        [int(number) for number in re.findall(r"^\| D(\d+) \|", part, re.MULTILINE)] for part in (glance, details)
    ]
    assert numbers[0] == numbers[1] == list(range(1, len(numbers[0]) + 1))
    assert len(numbers[0]) >= 25
