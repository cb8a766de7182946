"""The pytest plugin's options, its fixtures, and how a leak comes out of a run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

if TYPE_CHECKING:
    from conftest import LeakSuite

HAS_STRICT_INI = int(pytest.__version__.split(".")[0]) >= 9

LEAKS = """
def test_first(db):
    pass
def test_leaks(db):
    HELD.append(db.items().__enter__())
def test_last(db):
    pass
"""
UNSCOPED = """
def test_unscoped(db):
    with pytest.raises(saferocks.NotEnteredError):
        list(db.items())
"""

INTERRUPTIONS = pytest.mark.parametrize(
    ("interruption", "code"),
    [
        ("raise KeyboardInterrupt", pytest.ExitCode.INTERRUPTED),
        ("pytest.exit('enough')", pytest.ExitCode.INTERRUPTED),
        ("pytest.exit('enough', returncode=7)", 7),
    ],
)

# --------------------------------------------------------------------------- the error


def test_a_leak_is_told_with_all_that_it_takes_to_mend_it(suite: LeakSuite) -> None:
    """The error names kind, count, opening line with its source, way of escape, age, and the `with` to write."""
    run = suite.run(LEAKS)
    run.result.assert_outcomes(passed=3, errors=1)
    assert run.result.ret == pytest.ExitCode.TESTS_FAILED
    expected = r"""saferocks: this test leaked 1 handle
  iterator opened at test_it\.py:6 was still open when the test ended after [\d.]+ m?s
      HELD\.append\(db\.items\(\)\.__enter__\(\)\)
    write: with db\.items\(\) as items:
    database: \S+"""
    assert re.fullmatch(expected, run.errors["test_leaks"]) is not None


def test_a_label_and_what_is_lost_are_told(suite: LeakSuite) -> None:
    """The error of a labelled batch with operations names the label and how much was dropped."""
    run = suite.run("""
        def test_it(db):
            db.write_batch(label="jobs").__enter__()[b"k"] = b"v"
    """)
    assert "[jobs] was collected while open" in run.errors["test_it"]
    assert "1 operation (17 bytes) was dropped" in run.errors["test_it"]


def test_a_failed_test_that_leaks_has_one_error_and_a_section(suite: LeakSuite) -> None:
    """A leak of a test that has failed already is told in a section of its report."""
    run = suite.run("""
        def test_it(db):
            HELD.append(db.items().__enter__())
            assert False, "mine"
        def test_next(db):
            pass
    """)
    run.result.assert_outcomes(passed=1, failed=1)
    run.result.stdout.fnmatch_lines(
        ["*AssertionError: mine", "*saferocks leaks*", "saferocks: this test leaked 1 handle", "  iterator opened at *"]
    )
    assert str(run.result.stdout).count("iterator opened at") == 1


def test_a_test_whose_setup_failed_and_that_leaks_has_one_error(suite: LeakSuite) -> None:
    """A leak of a test whose own fixture has failed is told in a section of that error."""
    run = suite.run("""
        @pytest.fixture
        def broken(db):
            HELD.append(db.items().__enter__())
            raise LookupError
        def test_it(broken):
            pass
        def test_next(db):
            pass
    """)
    run.result.assert_outcomes(passed=1, errors=1)
    run.result.stdout.fnmatch_lines(
        ["*ERROR at setup of test_it*", "*saferocks leaks*", "saferocks: this test leaked 1 *"]
    )


def test_a_test_whose_teardown_failed_and_that_leaks_has_one_error(suite: LeakSuite) -> None:
    """A leak of a test whose fixture fails in its teardown is told in a section of that error."""
    run = suite.run("""
        @pytest.fixture
        def broken(db):
            yield
            raise LookupError
        def test_it(broken, db):
            HELD.append(db.items().__enter__())
        def test_next(db):
            pass
    """)
    run.result.assert_outcomes(passed=2, errors=1)
    assert "LookupError" in run.errors["test_it"]
    assert "saferocks: this test leaked 1 handle" in run.errors["test_it"]


@pytest.mark.parametrize("strict", ["True", "False"])
def test_an_expected_failure_does_not_swallow_a_leak(suite: LeakSuite, strict: str) -> None:
    """A test that fails as expected and leaks has an error; so has one that is expected to, and passes."""
    run = suite.run(f"""
        @pytest.mark.xfail(strict={strict}, reason="known")
        def test_fails(db):
            HELD.append(db.items().__enter__())
            assert False
        @pytest.mark.xfail(strict=False)
        def test_passes(db):
            HELD.append(db.items().__enter__())
        @pytest.mark.xfail(raises=ZeroDivisionError)
        def test_by_error(db):
            HELD.append(db.items().__enter__())
            1 / 0
        def test_by_call(db):
            HELD.append(db.items().__enter__())
            pytest.xfail("known")
        @pytest.mark.xfail
        def test_proper(db):
            with db.items():
                assert False
    """)
    run.result.assert_outcomes(xfailed=4, xpassed=1, errors=4)
    assert run.blamed == ["test_fails", "test_passes", "test_by_error", "test_by_call"]
    assert run.result.ret == pytest.ExitCode.TESTS_FAILED


def test_a_test_that_skips_itself_does_not_swallow_a_leak(suite: LeakSuite) -> None:
    """A test that leaks and then skips has an error; one that is skipped before it runs has none."""
    run = suite.run("""
        def test_it(db):
            HELD.append(db.items().__enter__())
            pytest.skip("not here")
        @pytest.mark.skip
        def test_skipped(db):
            pass
        def test_next(db):
            pass
    """)
    run.result.assert_outcomes(passed=1, skipped=2, errors=1)
    assert run.blamed == ["test_it"]


def test_leaks_are_listed_by_line_at_the_end(suite: LeakSuite) -> None:
    """The last section groups leaks by line, most handles first, with who has leaked them."""
    run = suite.run("""
        @pytest.mark.parametrize("number", range(5))
        def test_many(db, number):
            HELD.extend(db.items().__enter__() for _ in range(2))
        def test_one(db):
            db.snapshot().__enter__()
    """)
    run.result.assert_outcomes(passed=6, errors=6)
    run.result.stdout.fnmatch_lines(
        [
            "*= saferocks: leaked handles by line =*",
            "test_it.py:5: 10 iterator handles",
            "      HELD.extend(*",
            "    write: with db.items() as items:",
            "    leaked by: *test_many[[]0], *test_many[[]1], *test_many[[]2] and 2 more",
            "test_it.py:7: 1 snapshot handle",
            "      db.snapshot().__enter__()",
            "    write: with db.snapshot() as snap:",
            "    leaked by: test_it.py::test_one",
        ],
        consecutive=True,
    )


# --------------------------------------------------------------------------- how the run goes on


@pytest.mark.parametrize("flag", ["-x", "--maxfail=1"])
def test_a_leak_stops_a_run_that_stops_at_the_first_failure(suite: LeakSuite, flag: str) -> None:
    """Under `-x`, and `--maxfail=1`, the test after a leaking one does not run."""
    run = suite.run(LEAKS.replace("pass", "HELD"), flag)
    run.result.assert_outcomes(passed=2, errors=1)
    assert run.blamed == ["test_leaks"]
    run.result.stdout.fnmatch_lines(["*stopping after 1 failures*"])


def test_last_failed_reruns_the_leaking_test_alone(suite: LeakSuite) -> None:
    """A second run with `--lf` runs the test that has leaked and no other, until it leaks no more."""
    suite.run(LEAKS).result.assert_outcomes(passed=3, errors=1)
    again = suite.run(LEAKS, "--lf")
    again.result.assert_outcomes(passed=1, errors=1)
    assert again.blamed == ["test_leaks"]
    mended = LEAKS.replace("HELD.append(db.items().__enter__())", "pass")
    suite.run(mended, "--lf").result.assert_outcomes(passed=1)
    suite.run(mended, "--lf").result.assert_outcomes(passed=3)


def test_a_leak_of_the_session_is_no_test_to_last_failed(suite: LeakSuite) -> None:
    """What the session leaks leaves nothing behind that `--lf` would look for."""
    leaks = "BATCH = saferocks.WriteBatch().__enter__()\ndef test_it():\n    pass\n"
    suite.run(leaks).result.assert_outcomes(passed=1, errors=1)
    again = suite.run(leaks, "--lf")
    again.result.assert_outcomes(passed=1, errors=1)
    again.result.stdout.fnmatch_lines(["run-last-failure: no previously failed tests*"])


def test_junit_xml_has_the_leak_with_its_test(suite: LeakSuite) -> None:
    """The XML report has one error, of the leaking test, with the opening line."""
    suite.run(LEAKS, "--junitxml=report.xml", "-o", "junit_family=xunit2")
    tree = ET.parse(suite.pytester.path / "report.xml")  # noqa: S314 - our own
    cases = {case.get("name"): [child for child in case if child.tag == "error"] for case in tree.iter("testcase")}
    assert {name: len(errors) for name, errors in cases.items() if errors} == {"test_leaks": 1}
    assert set(cases) == {"test_first", "test_leaks", "test_last"}
    assert "iterator opened at test_it.py:6 was still open" in (cases["test_leaks"][0].text or "")


def test_junit_xml_has_the_leaks_of_the_session(suite: LeakSuite) -> None:
    """The XML report has what the session leaks as an error of its own."""
    suite.run("BATCH = saferocks.WriteBatch().__enter__()\ndef test_it():\n    pass", "--junitxml=report.xml")
    tree = ET.parse(suite.pytester.path / "report.xml")  # noqa: S314 - our own
    texts = [error.text or "" for error in tree.iter("error")]
    assert len(texts) == 1
    assert "saferocks: the session leaked 1 handle" in texts[0]


def test_a_run_without_a_terminal_fails_too(suite: LeakSuite) -> None:
    """With `-p no:terminal` a leak makes the run fail, and nothing breaks."""
    run = suite.run(LEAKS, "-p", "no:terminal")
    assert run.result.ret == pytest.ExitCode.TESTS_FAILED
    assert str(run.result.stderr) == ""


@INTERRUPTIONS
def test_a_test_that_is_interrupted_in_its_teardown_is_not_blamed(
    suite: LeakSuite, interruption: str, code: int
) -> None:
    """A run that is interrupted as a fixture is torn down ends with its usual exit code and without a word of leaks."""
    source = f"""
        @pytest.fixture
        def own(session_db):
            with session_db.items() as items:
                yield
                {interruption}
        def test_it(own, session_db):
            HELD.append(session_db.snapshot().__enter__())
    """
    run = suite.run_child(source)
    assert run.result.ret == code
    run.result.stdout.no_fnmatch_line("*leaked*handle*")
    assert run.blamed == []


@INTERRUPTIONS
def test_an_interrupted_test_is_not_blamed(suite: LeakSuite, interruption: str, code: int) -> None:
    """A run that is interrupted within a test's `with` ends with its usual exit code and without a word of leaks."""
    source = f"""
        def test_it(db):
            HELD.append(db.snapshot().__enter__())
            with db.items() as items:
                {interruption}
    """
    run = suite.run_child(source)
    assert run.result.ret == code
    run.result.stdout.no_fnmatch_line("*leaked*handle*")
    assert run.blamed == []


@pytest.mark.parametrize(
    "flags",
    [
        ("--setup-show",),
        ("--capture=no",),
        ("--tb=no",),
        ("--durations=3", "-vv"),
        ("-q", "-q"),
        ("-p", "no:logging"),
        ("-p", "no:cacheprovider"),
        ("-p", "no:unraisableexception"),
        ("-p", "no:threadexception"),
        ("-p", "no:stepwise", "-p", "no:junitxml", "-p", "no:doctest", "-p", "no:unittest"),
    ],
    ids=" ".join,
)
def test_a_leak_is_one_error_with_other_flags_too(suite: LeakSuite, flags: tuple[str, ...]) -> None:
    """A leak is an error of its test however pytest captures and shows, and without plugins of its own."""
    run = suite.run(LEAKS, *flags, "-W", "error", "-rE")
    assert run.blamed == ["test_leaks"]
    assert run.result.ret == pytest.ExitCode.TESTS_FAILED


def test_nothing_is_looked_for_where_nothing_runs(suite: LeakSuite) -> None:
    """A run that only collects ends as ever, and so does one that collects nothing."""
    assert suite.run(LEAKS, "--collect-only").result.ret == pytest.ExitCode.OK
    assert suite.run(LEAKS, "--setup-plan").result.ret == pytest.ExitCode.OK
    assert suite.run("", "-W", "error").result.ret == pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.mark.parametrize(
    ("source", "flags", "code"),
    [
        pytest.param("", (), pytest.ExitCode.NO_TESTS_COLLECTED, id="no tests"),
        pytest.param("def test_it():\n    pass", ("--collect-only",), pytest.ExitCode.OK, id="only collected"),
    ],
)
def test_the_session_of_a_run_that_runs_no_test_is_not_asked(
    suite: LeakSuite, source: str, flags: tuple[str, ...], code: int
) -> None:
    """What an import leaves open is told of the session only if tests have run; else as of any program."""
    run = suite.run_child(f"BATCH = saferocks.WriteBatch().__enter__()\n{source}", *flags)
    assert run.result.ret == code
    assert run.blamed == []
    run.result.stderr.fnmatch_lines(["saferocks: 1 handle leaked:"])


# --------------------------------------------------------------------------- --saferocks-leaks


@pytest.mark.parametrize(
    ("ini", "flags"),
    [
        pytest.param("", ("--saferocks-leaks=warn",), id="option"),
        pytest.param("saferocks_leaks = warn", (), id="ini"),
        pytest.param("saferocks_leaks = fail", ("--saferocks-leaks=warn",), id="option over ini"),
    ],
)
def test_under_warn_leaks_are_listed_and_nothing_fails(suite: LeakSuite, ini: str, flags: tuple[str, ...]) -> None:
    """Under `warn` tests, fixtures and session may leak: all of it is listed at the end, and the run succeeds."""
    suite.configure(ini)
    source = """
        @pytest.fixture(scope="module")
        def leaky(session_db):
            HELD.append(session_db.write_batch().__enter__())
        HELD.append(saferocks.WriteBatch().__enter__())
        def test_leaks(db, leaky):
            HELD.append(db.items().__enter__())
        def test_drops(db):
            db.snapshot()
    """
    run = suite.run(source, "-W", "error", *flags)
    run.result.assert_outcomes(passed=2)
    assert run.result.ret == pytest.ExitCode.OK
    run.result.stdout.fnmatch_lines_random(
        [
            "*= saferocks: leaked handles by line =*",
            "test_it.py:5: 1 write_batch handle",
            "test_it.py:6: 1 write_batch handle",
            "test_it.py:8: 1 iterator handle",
            "test_it.py:10: 1 snapshot handle",
            "    leaked by: test_it.py::test_leaks",
            "    leaked by: the session",
        ]
    )


@pytest.mark.parametrize(
    ("ini", "flags"),
    [
        pytest.param("", ("--saferocks-leaks=off",), id="option"),
        pytest.param("saferocks_leaks = off", (), id="ini"),
        pytest.param("saferocks_leaks = fail", ("--saferocks-leaks=off",), id="option over ini"),
        pytest.param("", ("-p", "no:saferocks"), id="without the plugin"),
    ],
)
def test_under_off_nobody_looks(suite: LeakSuite, ini: str, flags: tuple[str, ...]) -> None:
    """Under `off`, as without the plugin, a test may leak and nothing is said of it but what a program is told."""
    suite.configure(ini)
    source = LEAKS.replace("HELD.append(db.items().__enter__())", "db.items().__enter__()")
    run = suite.run_child(source, "--no-summary", *flags)
    run.result.assert_outcomes(passed=3)
    assert run.result.ret == pytest.ExitCode.OK
    run.result.stdout.no_fnmatch_line("*saferocks: *")


def test_without_the_plugin_its_names_are_unknown(suite: LeakSuite) -> None:
    """With `-p no:saferocks` neither fixtures nor options are there."""
    run = suite.run("def test_it(saferocks_db):\n    pass", "-p", "no:saferocks")
    run.result.assert_outcomes(errors=1)
    run.result.stdout.fnmatch_lines(["*fixture 'saferocks_db' not found*"])


@pytest.mark.parametrize(
    ("ini", "flags", "message"),
    [
        ("", ("--saferocks-leaks=loud",), "*--saferocks-leaks: invalid choice: 'loud' (choose from *fail*warn*off*)"),
        ("saferocks_leaks = loud", (), "ERROR: saferocks_leaks is 'loud'; allowed are 'fail', 'warn', 'off'"),
        ("saferocks_leaks =", (), "ERROR: saferocks_leaks is ''; allowed are 'fail', 'warn', 'off'"),
        ("saferocks_strict = perhaps", (), "ERROR: saferocks_strict: *perhaps*; allowed are true and false"),
        ("saferocks_leak_grace = soon", (), "ERROR: saferocks_leak_grace is 'soon'; give seconds, 0 to 3600"),
        ("saferocks_leak_grace = -1", (), "ERROR: saferocks_leak_grace is '-1'; give seconds, 0 to 3600"),
        ("saferocks_leak_grace = inf", (), "ERROR: saferocks_leak_grace is 'inf'; give seconds, 0 to 3600"),
        ("saferocks_leak_grace = 3601", (), "ERROR: saferocks_leak_grace is '3601'; give seconds, 0 to 3600"),
        ("saferocks_leak_grace = nan", (), "ERROR: saferocks_leak_grace is 'nan'; give seconds, 0 to 3600"),
    ],
)
def test_an_unknown_value_is_a_usage_error(suite: LeakSuite, ini: str, flags: tuple[str, ...], message: str) -> None:
    """A bad option or ini key ends the run with exit code 4 and what is allowed."""
    suite.configure(ini)
    run = suite.run(LEAKS, *flags)
    assert run.result.ret == pytest.ExitCode.USAGE_ERROR
    run.result.stderr.fnmatch_lines([message])
    run.result.stdout.no_fnmatch_line("*passed*")


def test_a_usage_error_is_a_usage_error_of_the_process(suite: LeakSuite) -> None:
    """The process ends with exit code 4 and no traceback."""
    run = suite.run_child(LEAKS, "-o", "saferocks_leaks=loud")
    assert run.result.ret == 4
    run.result.stderr.no_fnmatch_line("*Traceback*")


def test_help_lists_the_options_and_the_marker(suite: LeakSuite) -> None:
    """`--help` shows the option and the ini keys, `--markers` the marker with the kinds that there are."""
    helped = suite.run(LEAKS, "--help").result.stdout
    helped.fnmatch_lines_random(["*--saferocks-leaks=*", "*saferocks_leaks *", "*saferocks_strict *"])
    helped.fnmatch_lines_random(["*saferocks_leak_grace *"])
    marker = suite.run(LEAKS, "--markers").result.stdout
    marker.fnmatch_lines(["@pytest.mark.allow_leaks(*kinds, reason=None): *iterator, snapshot, write_batch, *"])


# --------------------------------------------------------------------------- strictness


@pytest.mark.parametrize(
    "ini",
    [
        "saferocks_strict = true",
        pytest.param(
            "strict = true", marks=pytest.mark.skipif(not HAS_STRICT_INI, reason="pytest before 9 has no ini `strict`")
        ),
    ],
)
def test_a_strict_run_raises_and_shows_stacks(suite: LeakSuite, ini: str) -> None:
    """In a strict run a use without `with` raises, and a leak is told with the way to the line that opened it."""
    suite.configure(ini)
    run = suite.run(
        """
        def opened(db):
            return db.items().__enter__()
        def test_leaks(db):
            HELD.append(opened(db))
        """
        + "\n".join(" " * 8 + line for line in UNSCOPED.splitlines())
    )
    run.result.assert_outcomes(passed=2, errors=1)
    assert run.blamed == ["test_leaks"]
    assert run.errors["test_leaks"].endswith(
        "    opened by:\n      test_it.py:4 in opened\n      test_it.py:6 in test_leaks"
    )


@pytest.mark.parametrize(
    "ini",
    [
        "",
        "saferocks_strict = false",
        pytest.param(
            "strict = true\nsaferocks_strict = false",
            marks=pytest.mark.skipif(not HAS_STRICT_INI, reason="pytest before 9 has no ini `strict`"),
        ),
    ],
)
def test_a_run_that_is_not_strict_leaves_the_policy_alone(suite: LeakSuite, ini: str) -> None:
    """Unless it is strict, a run warns of a use without `with`, also if pytest's own `strict` says otherwise."""
    suite.configure(ini)
    run = suite.run("def test_it(db):\n    assert len(list(db.items())) == 2")
    run.result.assert_outcomes(passed=1, warnings=1)
    run.result.stdout.fnmatch_lines(["*UnscopedHandleWarning: iterator opened at *"])


def test_a_strict_run_leaves_the_settings_as_they_were(suite: LeakSuite) -> None:
    """A strict run inside a process that is not strict does not make it so for good."""
    from saferocks import _settings

    before = _settings.current
    suite.configure("saferocks_strict = true")
    suite.run(UNSCOPED).result.assert_outcomes(passed=1)
    assert _settings.current is before


@pytest.mark.parametrize("policy", ["raise", "warn"])
def test_the_environment_sets_the_policy(suite: LeakSuite, monkeypatch: pytest.MonkeyPatch, policy: str) -> None:
    """`SAFEROCKS_POLICY` is the policy of a run that is not strict, and leaks are told under either."""
    monkeypatch.setenv("SAFEROCKS_POLICY", policy)
    run = suite.run_child(LEAKS + UNSCOPED)
    run.result.assert_outcomes(passed=4 if policy == "raise" else 3, failed=0 if policy == "raise" else 1, errors=1)
    assert "test_leaks" in run.blamed


# --------------------------------------------------------------------------- the fixtures


def test_saferocks_db_is_an_entered_strict_database_of_the_test(suite: LeakSuite) -> None:
    """The fixture `saferocks_db` gives each test an empty, strict database in its `tmp_path`, closed afterwards."""
    run = suite.run("""
        PATHS = []
        def test_it(saferocks_db, tmp_path):
            saferocks_db[b"k"] = b"v"
            with saferocks_db.items() as items:
                assert list(items) == [(b"k", b"v")]
            assert str(tmp_path) in saferocks_db.path()
            PATHS.append(saferocks_db.path())
        def test_strict(saferocks_db):
            assert saferocks_db.path() not in PATHS
            with saferocks_db.items() as items:
                assert list(items) == []
            with pytest.raises(saferocks.NotEnteredError):
                list(saferocks_db.items())
        def test_closed():
            with saferocks.open(PATHS[0]) as db:
                assert db[b"k"] == b"v"
    """)
    run.result.assert_outcomes(passed=3)


def test_a_leak_from_saferocks_db_is_told_once_with_its_stack(suite: LeakSuite) -> None:
    """A test that leaks from `saferocks_db` has one error, with frames; the database's close raises no other."""
    source = """
        def opened(db):
            return db.items().__enter__()
        def test_it(saferocks_db):
            HELD.append(opened(saferocks_db))
        def test_next(saferocks_db):
            pass
    """
    run = suite.run(source, "-W", "error")
    run.result.assert_outcomes(passed=2, errors=1)
    assert run.errors["test_it"].startswith("saferocks: this test leaked 1 handle\n")
    assert "    opened by:\n      test_it.py:4 in opened\n      test_it.py:6 in test_it" in run.errors["test_it"]


def test_saferocks_strict_is_strict_for_one_test(suite: LeakSuite) -> None:
    """The fixture `saferocks_strict` makes a test strict, with stacks in its leaks, and not the next one."""
    run = suite.run("""
        def opened(db):
            return db.items().__enter__()
        def test_strict(session_db, saferocks_strict):
            with pytest.raises(saferocks.NotEnteredError):
                list(session_db.items())
            HELD.append(opened(session_db))
        def test_next(session_db):
            with pytest.warns(saferocks.UnscopedHandleWarning):
                list(session_db.items())
    """)
    run.result.assert_outcomes(passed=2, errors=1)
    assert "      test_it.py:4 in opened\n      test_it.py:8 in test_strict" in run.errors["test_strict"]


# --------------------------------------------------------------------------- what it costs others


@pytest.mark.parametrize("flags", [(), ("-o", "saferocks_strict=true"), ("--saferocks-leaks=warn",)])
def test_a_run_that_does_not_use_saferocks_does_not_load_it(suite: LeakSuite, flags: tuple[str, ...]) -> None:
    """Neither RocksDB nor any module that needs it is imported in a run that has nothing to do with it."""
    suite.pytester.makeconftest("")
    source = """
        import sys
        @pytest.fixture(scope="module")
        def wide():
            pass
        def test_it(wide):
            loaded = {name for name in sys.modules if name.split(".")[0] in ("rocksdict", "saferocks")}
            assert loaded <= {"saferocks"} | {"saferocks." + name for name in (
                "pytest_plugin", "_allow_leaks", "_allowances", "_leak_start", "_startup"
            )}
    """
    run = suite.run_child(source, *flags)
    run.result.assert_outcomes(passed=1)


def test_the_plugin_may_be_loaded_by_name(suite: LeakSuite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where plugins are not found by themselves, `-p` or a conftest's `pytest_plugins` loads this one."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    by_option = suite.run_child(LEAKS, "-p", "saferocks.pytest_plugin")
    by_option.result.assert_outcomes(passed=3, errors=1)
    assert by_option.blamed == ["test_leaks"]
    conftest = suite.pytester.path / "conftest.py"
    conftest.write_text("pytest_plugins = ['saferocks.pytest_plugin']\n" + conftest.read_text())
    by_conftest = suite.run_child(LEAKS)
    by_conftest.result.assert_outcomes(passed=3, errors=1)
    assert by_conftest.blamed == ["test_leaks"]
