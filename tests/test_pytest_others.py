"""The pytest plugin beside others: xdist, reruns, asyncio, unittest, doctests, and other ways to import tests."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

if TYPE_CHECKING:
    from conftest import LeakSuite

# --------------------------------------------------------------------------- xdist

SPREAD = """
    @pytest.fixture(scope="module")
    def leaky(session_db):
        HELD.append(session_db.write_batch().__enter__())
    @pytest.mark.parametrize("number", range(4))
    def test_clean(db, number):
        with db.items() as items:
            assert len(list(items)) == 2
    @pytest.mark.parametrize("number", range(2))
    def test_leaks(db, number):
        HELD.append(db.items().__enter__())
    @pytest.mark.xfail(strict=True)
    def test_xfail(db):
        db.snapshot().__enter__()
        assert False
    @pytest.mark.allow_leaks("iterator", reason="shown")
    def test_allowed(db):
        HELD.append(db.items().__enter__())
    def test_failed(db):
        HELD.append(db.items().__enter__())
        assert False, "mine"
"""


def test_leaks_in_workers_of_xdist_are_errors_of_their_tests(suite: LeakSuite) -> None:
    """With two workers each leak is an error of the test that leaked, and the controller lists all of them by line."""
    suite.configure("", "xdist")
    run = suite.run_child(SPREAD, "-n", "2", "-W", "error", "--junitxml=report.xml")
    run.result.assert_outcomes(passed=7, xfailed=1, failed=1, errors=3)
    assert sorted(run.blamed) == ["test_failed", "test_leaks[0]", "test_leaks[1]", "test_xfail"]
    run.result.stdout.fnmatch_lines(
        [
            "*= saferocks: leaked handles by line =*",
            "test_it.py:12: 2 iterator handles",
            "    leaked by: *test_leaks[[]*, *test_leaks[[]*",
        ]
    )
    run.result.stdout.fnmatch_lines_random(["test_it.py:15: 1 snapshot handle", "test_it.py:21: 1 iterator handle"])
    run.result.stdout.fnmatch_lines(["*saferocks leaks*", "saferocks: this test leaked 1 handle"])
    cases = ET.parse(suite.pytester.path / "report.xml").iter("testcase")  # noqa: S314 - our own
    erring = sorted(case.get("name") or "" for case in cases if case.find("error") is not None)
    assert erring == ["test_leaks[0]", "test_leaks[1]", "test_xfail"]
    assert str(run.result.stderr) == ""


def test_leaks_of_wide_fixtures_and_sessions_of_workers_reach_the_controller(suite: LeakSuite) -> None:
    """What a worker's module fixture or session leaks is told in the controller, and makes the run fail."""
    suite.configure("", "xdist")
    source = """
        BATCH = saferocks.WriteBatch().__enter__()
        @pytest.fixture(scope="module")
        def leaky(session_db):
            HELD.append(session_db.snapshot().__enter__())
        def test_one(leaky):
            pass
        def test_two(leaky):
            pass
    """
    run = suite.run_child(source, "-n", "2", "--dist", "each", "-W", "error")
    assert run.result.ret == pytest.ExitCode.TESTS_FAILED
    run.result.assert_outcomes(passed=4, errors=3)
    assert sorted(run.blamed) == ["saferocks", "test_two", "test_two"]
    run.result.stdout.fnmatch_lines_random(
        [
            "saferocks: the session of gw0 leaked 1 handle",
            "saferocks: the session of gw1 leaked 1 handle",
            "saferocks: fixture 'leaky' (module scope, test_it.py:4) leaked 1 handle",
            "test_it.py:3: 2 write_batch handles",
            "    leaked by: the session of gw?, the session of gw?",
            "test_it.py:6: 2 snapshot handles",
        ]
    )


def test_session_leaks_of_workers_alone_fail_the_run(suite: LeakSuite) -> None:
    """A run whose tests all pass fails if a worker's session has leaked; under `warn` it does not, and lists it."""
    suite.configure("", "xdist")
    source = "BATCH = saferocks.WriteBatch().__enter__()\ndef test_it():\n    pass"
    run = suite.run_child(source, "-n", "1")
    run.result.assert_outcomes(passed=1, errors=1)
    assert run.result.ret == pytest.ExitCode.TESTS_FAILED
    warned = suite.run_child(source, "-n", "1", "--saferocks-leaks=warn")
    warned.result.assert_outcomes(passed=1)
    assert warned.result.ret == pytest.ExitCode.OK
    warned.result.stdout.fnmatch_lines(["test_it.py:3: 1 write_batch handle", "    leaked by: the session of gw0"])


def test_a_clean_run_under_xdist_is_clean(suite: LeakSuite) -> None:
    """Two workers that leak nothing give no alarm, strict or not."""
    suite.configure("saferocks_strict = true", "xdist")
    source = SPREAD[: SPREAD.index('    @pytest.mark.parametrize("number", range(2))')]
    run = suite.run_child(source, "-n", "2", "-W", "error")
    run.result.assert_outcomes(passed=4)
    run.result.stdout.no_fnmatch_line("*saferocks: *")
    assert str(run.result.stderr) == ""


def test_xdist_stops_at_the_first_leak(suite: LeakSuite) -> None:
    """Under `-x` and xdist, too, a leak ends the run, and `--lf` runs the leaking test alone."""
    suite.configure("", "xdist")
    source = """
        def test_leaks(db):
            HELD.append(db.items().__enter__())
        @pytest.mark.parametrize("number", range(30))
        def test_next(db, number):
            pass
    """
    run = suite.run_child(source, "-n", "1", "-x")
    assert run.blamed == ["test_leaks"]
    assert run.result.parseoutcomes()["passed"] < 31
    again = suite.run_child(source, "-n", "1", "--lf")
    again.result.assert_outcomes(passed=1, errors=1)


def test_a_bad_marker_ends_a_run_under_xdist(suite: LeakSuite) -> None:
    """A marker with an unknown kind, which workers find, ends the whole run before its first test."""
    suite.configure("", "xdist")
    run = suite.run_child(
        "@pytest.mark.allow_leaks('iterators')\ndef test_marked():\n    pass\ndef test_next():\n    pass", "-n", "2"
    )
    assert run.result.ret != pytest.ExitCode.OK
    assert "passed" not in run.result.parseoutcomes()
    text = str(run.result.stdout) + str(run.result.stderr)
    assert "test_it.py::test_marked: allow_leaks: unknown kind of handle 'iterators'; there are 'iterator'" in text


# --------------------------------------------------------------------------- reruns


def test_a_rerun_is_judged_for_itself(suite: LeakSuite) -> None:
    """A test that leaks at first and not when it is run again passes; one that always leaks has an error."""
    suite.configure("", "rerunfailures")
    source = """
        RUNS = []
        def test_mends_itself(db):
            RUNS.append(1)
            if len(RUNS) == 1:
                HELD.append(db.items().__enter__())
        def test_always(db):
            HELD.append(db.items().__enter__())
        def test_flaky(db):
            with db.items() as items:
                RUNS.append(1)
                assert len(RUNS) > 3
        def test_next(db):
            with db.items() as items:
                pass
    """
    run = suite.run(source, "--reruns", "1", "-W", "error")
    assert run.blamed == ["test_always"]
    assert run.result.ret == pytest.ExitCode.TESTS_FAILED
    outcomes = run.result.parseoutcomes()
    assert outcomes["errors"] == 1
    assert outcomes["rerun"] == 3
    assert run.errors["test_always"].startswith("saferocks: this test leaked 1 handle")


def test_a_failure_that_leaks_is_blamed_in_the_run_that_leaked(suite: LeakSuite) -> None:
    """What a first, failing run leaves open is not told of the second one, which passes."""
    suite.configure("", "rerunfailures")
    source = """
        RUNS = []
        def test_it(db):
            RUNS.append(1)
            if len(RUNS) == 1:
                HELD.append(db.items().__enter__())
                assert False
        def test_next(db):
            pass
    """
    run = suite.run(source, "--reruns", "2", "-W", "error")
    run.result.assert_outcomes(passed=2)
    assert run.blamed == []


# --------------------------------------------------------------------------- asyncio

#: pytest-asyncio warns where this is not set, and where it does not know it.
ASYNC_INI = "" if int(pytest.__version__.split(".")[0]) < 9 else "asyncio_default_fixture_loop_scope = function"

ASYNC = """
    import asyncio, pytest_asyncio

    @pytest_asyncio.fixture
    async def snap(session_db):
        with session_db.snapshot() as snap:
            yield snap
    @pytest_asyncio.fixture
    async def forgetful(session_db):
        HELD.append(session_db.snapshot().__enter__())
        yield
    async def rows(db):
        with db.items() as items:
            for row in items:
                await asyncio.sleep(0)
                yield row
    @pytest.mark.asyncio
    async def test_clean(session_db, snap):
        assert snap[b"a"] == b"1"
        assert [row async for row in rows(session_db)] == [(b"a", b"1"), (b"b", b"2")]
        await asyncio.gather(*(asyncio.to_thread(session_db.get, b"a") for _ in range(3)))
    @pytest.mark.asyncio
    async def test_broken_off(session_db):
        begun = rows(session_db)
        async for row in begun:
            break
        await begun.aclose()
    @pytest.mark.asyncio
    async def test_leaks(session_db):
        await asyncio.sleep(0)
        HELD.append(session_db.items().__enter__())
    @pytest.mark.asyncio
    async def test_drops(session_db):
        session_db.items()
        await asyncio.sleep(0)
    @pytest.mark.asyncio
    async def test_suspended(session_db):
        HELD.append(rows(session_db))
        await HELD[-1].__anext__()
    @pytest.mark.asyncio
    async def test_task(session_db):
        async def scan():
            session_db.snapshot().__enter__()
        await asyncio.create_task(scan())
    @pytest.mark.asyncio
    async def test_in_thread(session_db):
        HELD.append(await asyncio.to_thread(lambda: session_db.items().__enter__()))
    @pytest.mark.asyncio
    async def test_fixture(forgetful):
        pass
    @pytest.mark.asyncio
    async def test_last(session_db, snap):
        gc.collect()
"""


def test_coroutine_tests_are_judged_like_others(suite: LeakSuite) -> None:
    """Under pytest-asyncio a leak in a coroutine, its tasks, threads and async fixtures is its test's."""
    suite.configure(ASYNC_INI, "asyncio")
    run = suite.run_child(ASYNC, "-W", "error::ResourceWarning", "-W", "error::pytest.PytestUnraisableExceptionWarning")
    leaking = ["test_leaks", "test_drops", "test_task", "test_in_thread", "test_fixture"]
    assert [name for name in run.blamed if name != "test_suspended"] == leaking
    run.result.assert_outcomes(passed=9, errors=len(run.blamed))


@pytest.mark.skipif(int(pytest.__version__.split(".")[0]) < 9, reason="loop scopes came with newer versions")
def test_a_modules_async_fixture_is_blamed_for_itself(suite: LeakSuite) -> None:
    """A module-wide async fixture owns what it opens, and is asked when it is torn down."""
    suite.configure(ASYNC_INI, "asyncio")
    run = suite.run_child("""
        import pytest_asyncio
        @pytest_asyncio.fixture(scope="module", loop_scope="module")
        async def wide(session_db):
            HELD.append(session_db.snapshot().__enter__())
            with session_db.items() as items:
                yield items
        @pytest.mark.asyncio(loop_scope="module")
        async def test_first(wide):
            next(wide)
        @pytest.mark.asyncio(loop_scope="module")
        async def test_last(wide):
            next(wide)
    """)
    run.result.assert_outcomes(passed=2, errors=1)
    assert run.blamed == ["test_last"]
    assert run.errors["test_last"].startswith("saferocks: fixture 'wide' (module scope, test_it.py:4) leaked 1 handle")


# --------------------------------------------------------------------------- unittest

UNITTEST = """
    import tempfile, unittest

    class TestIt(unittest.TestCase):
        @classmethod
        def setUpClass(cls):
            cls.db = saferocks.open(tempfile.mkdtemp() + "/db").__enter__()
            cls.addClassCleanup(cls.db.close)
            HELD.append(cls.db.snapshot().__enter__())
        def setUp(self):
            self.items = self.db.items().__enter__()
            if self._testMethodName != "test_in_setup":
                self.addCleanup(self.items.__exit__, None, None, None)
        def test_clean(self):
            list(self.items)
        def test_in_setup(self):
            pass
        def test_leaks(self):
            HELD.append(self.db.write_batch().__enter__())
        @unittest.expectedFailure
        def test_expected(self):
            HELD.append(self.db.write_batch().__enter__())
            self.fail()
        def test_skips(self):
            self.skipTest("not here")
        def test_subtests(self):
            for number in range(2):
                with self.subTest(number=number), self.db.items() as items:
                    next(items, None)
        def test_zz_last(self):
            gc.collect()
"""


def test_test_cases_of_unittest_are_judged_like_others(suite: LeakSuite) -> None:
    """Leaks of test methods and of `setUp` are their tests', those of `setUpClass` the class's."""
    run = suite.run(UNITTEST, "-W", "error")
    assert run.blamed == ["test_expected", "test_in_setup", "test_leaks", "test_zz_last"]
    outcomes = run.result.parseoutcomes()
    assert outcomes["errors"] == 4
    assert outcomes["xfailed"] == 1
    assert outcomes["skipped"] == 1
    assert run.errors["test_in_setup"].startswith("saferocks: this test leaked 1 handle\n  iterator opened at ")
    assert run.errors["test_zz_last"].startswith("saferocks: setUpClass/tearDownClass of TestIt leaked 1 handle\n")


# --------------------------------------------------------------------------- other ways to write and find tests


def test_doctests_are_judged_like_others(suite: LeakSuite) -> None:
    """A doctest that leaks has an error, and one that does not has none."""
    suite.pytester.makepyfile(
        jobs='''
        import saferocks
        HELD = []
        def clean():
            """
            >>> with saferocks.WriteBatch(raw_mode=True) as batch:
            ...     len(batch)
            0
            """
        def leaks():
            """
            >>> HELD.append(saferocks.WriteBatch(raw_mode=True).__enter__())
            """
        '''
    )
    run = suite.run("def test_it():\n    pass", "--doctest-modules", "-W", "error")
    run.result.assert_outcomes(passed=3, errors=1)
    assert run.blamed == ["jobs.leaks"]
    run.result.stdout.fnmatch_lines(["saferocks: this test leaked 1 handle", "  write_batch opened at *:1 was *"])


@pytest.mark.parametrize("mode", ["prepend", "append", "importlib"])
def test_every_import_mode_will_do(suite: LeakSuite, mode: str) -> None:
    """Tests are judged alike however they are imported, files of one name in two directories included."""
    test = "import saferocks\nHELD = []\ndef test_it(db):\n    HELD.append(db.items().__enter__())\n"
    for name in ("one", "two"):
        folder = suite.pytester.mkpydir(name)
        (folder / "test_same.py").write_text(test + f"def test_{name}(db):\n    pass\n")
    run = suite.pytester.runpytest_inprocess(f"--import-mode={mode}", "-W", "error")
    run.assert_outcomes(passed=4, errors=2)
    run.stdout.fnmatch_lines(["one/test_same.py:4: 1 iterator handle", "two/test_same.py:4: 1 iterator handle"])


def test_hypothesis_tests_are_judged_as_one(suite: LeakSuite) -> None:
    """A property that leaks in each of its examples has one error, with their number."""
    suite.configure("", "hypothesispytest")
    run = suite.run("""
        from hypothesis import given, settings, strategies, HealthCheck
        @settings(max_examples=5, database=None, suppress_health_check=list(HealthCheck))
        @given(strategies.integers())
        def test_leaks(session_db, number):
            session_db.items().__enter__()
        @settings(max_examples=5, database=None, suppress_health_check=list(HealthCheck))
        @given(strategies.integers())
        def test_clean(session_db, number):
            with session_db.items() as items:
                next(items)
    """)
    run.result.assert_outcomes(passed=2, errors=1)
    assert run.blamed == ["test_leaks"]


def test_stepwise_stops_at_a_leak_and_goes_on_there(suite: LeakSuite) -> None:
    """`--stepwise` stops at a test that leaks, and starts with it the next time."""
    source = """
        def test_first(db):
            pass
        def test_leaks(db):
            HELD.append(db.items().__enter__())
        def test_last(db):
            pass
    """
    first = suite.run(source, "--stepwise")
    assert first.blamed == ["test_leaks"]
    assert first.result.parseoutcomes()["passed"] == 2
    second = suite.run(source.replace("HELD.append(db.items().__enter__())", "pass"), "--stepwise")
    second.result.assert_outcomes(passed=2, deselected=1)


def test_a_run_inside_a_test_leaves_the_outer_one_alone(suite: LeakSuite) -> None:
    """A test that runs pytest itself is not blamed for what the inner run has found, and is for its own."""
    suite.configure("")
    run = suite.run('''
        pytest_plugins = ["pytester"]
        def test_inner(pytester, db):
            pytester.makepyfile("""
                import saferocks
                HELD = []
                def test_it():
                    HELD.append(saferocks.WriteBatch().__enter__())
            """)
            pytester.runpytest_inprocess("-p", "no:asyncio").assert_outcomes(passed=1, errors=1)
        def test_next(db):
            HELD.append(db.items().__enter__())
        def test_last(db):
            pass
    ''')
    run.result.assert_outcomes(passed=3, errors=1)
    assert run.blamed == ["test_next"]
