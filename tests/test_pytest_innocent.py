"""Programs that leak nothing, however much it looks like it: no error, no section, nothing pulled from under them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import LeakSuite

ROWS = """
    def rows(db):
        with db.items() as items:
            yield from items
"""


def innocent(suite: LeakSuite, source: str, *flags: str, **outcomes: int) -> None:
    """Run tests, and find no leak in what pytest prints."""
    run = suite.run(ROWS + source, *flags)
    run.result.assert_outcomes(**outcomes)
    run.result.stdout.no_fnmatch_line("*saferocks*leak*")


# --------------------------------------------------------------------------- scans that only a failure keeps


HALF_READ = {
    "a local": """
        half = rows(db)
        next(half)
        {fails}
    """,
    "a loop": """
        for row in rows(db):
            {fails}
    """,
    "a call": """
        def call():
            half = rows(db)
            next(half)
            {fails}
        call()
    """,
    "a context": """
        half = rows(db)
        next(half)
        try:
            {{}}["missing"]
        except KeyError:
            {fails}
    """,
    "a group": """
        def call():
            half = rows(db)
            next(half)
            {fails}
        try:
            call()
        except BaseException as error:
            try:
                from builtins import ExceptionGroup
            except ImportError:
                raise error
            raise ExceptionGroup("group", [error])
    """,
}


@pytest.mark.parametrize("last", [True, False], ids=["last of its module", "not the last"])
@pytest.mark.parametrize("where", HALF_READ)
def test_a_scan_that_the_frames_of_a_failure_hold(suite: LeakSuite, where: str, last: bool) -> None:
    """A generator in the variables of a test that fails ends its `with` as soon as pytest lets go of the error."""
    body = HALF_READ[where].format(fails="raise LookupError('mine')")
    after = "" if last else "\n    def test_next(db):\n        pass\n"
    innocent(suite, f"\n    def test_fails(db):{body}{after}", failed=1, passed=0 if last else 1)


@pytest.mark.parametrize("after", ["", "def test_next(db): pass"], ids=["last of its module", "not the last"])
def test_a_scan_that_the_frames_of_a_logged_error_hold(suite: LeakSuite, after: str) -> None:
    """A generator in the variables of a call whose error was logged is no leak, though pytest keeps the error."""
    source = f"""
    import logging

    def work(db):
        half = rows(db)
        next(half)
        raise LookupError("mine")

    def test_logs(db):
        try:
            work(db)
        except LookupError:
            logging.exception("failed")

    {after}
    """
    run = suite.run_child(ROWS + source)  # in this process its record would be kept by our own run, too
    run.result.assert_outcomes(passed=2 if after else 1)


def test_a_scan_in_a_cycle(suite: LeakSuite) -> None:
    """A generator in a cycle that the last test of a module leaves ends its `with` before the database closes."""
    innocent(
        suite,
        """
    def test_it(db):
        cycle = [rows(db)]
        cycle.append(cycle)
        next(cycle[0])
    """,
        passed=1,
    )


@pytest.mark.parametrize("body", ["raise LookupError('mine')", "raise LookupError('mine'); yield"])
@pytest.mark.parametrize("scope", ["function", "class", "module", "session"])
def test_a_scan_that_a_failed_setup_holds(suite: LeakSuite, scope: str, body: str) -> None:
    """A fixture that fails with a half-read generator in its variables has one error, which is its own."""
    innocent(
        suite,
        f"""
    @pytest.fixture(scope={scope!r})
    def broken(session_db):
        half = rows(session_db)
        next(half)
        {body}

    class TestIt:
        def test_one(self, broken):
            pass

    def test_next(db):
        pass
    """,
        errors=1,
        passed=1,
    )


def test_a_scan_that_is_the_value_of_a_fixture(suite: LeakSuite) -> None:
    """A generator that a fixture returns, and a test reads in part, ends with the fixture."""
    innocent(
        suite,
        """
    @pytest.fixture
    def half(db):
        return rows(db)

    @pytest.fixture
    def box():
        return []

    def test_reads(half):
        next(half)

    def test_puts(box, db):
        box.append(rows(db))
        next(box[0])

    def test_next(db):
        pass
    """,
        passed=3,
    )


def test_what_goes_on_is_not_cleared(suite: LeakSuite) -> None:
    """A fixture whose generator is among the frames of a failure's cause goes on, and its database stays open."""
    run = suite.run("""
        class Pool:
            pass

        @pytest.fixture(scope="session")
        def pool(session_db):
            pool = Pool()
            with session_db.snapshot() as snap:
                try:
                    1 // 0
                except ZeroDivisionError as error:
                    pool.error, pool.snap = error, snap
                yield pool

        def test_fails(pool):
            HELD.append(pool.snap.items().__enter__())
            raise LookupError from pool.error

        def test_next(pool):
            assert pool.snap[b"a"] == b"1"
    """)
    run.result.assert_outcomes(failed=1, passed=1)


def test_what_is_suspended_is_not_cleared(suite: LeakSuite) -> None:
    """A generator goes on that an error was thrown into where it is suspended again."""
    run = suite.run("""
        def service():
            while True:
                try:
                    yield "ready"
                except LookupError as error:
                    errors.append(error)

        errors = []

        @pytest.fixture(scope="session")
        def started():
            generator = service()
            next(generator)
            return generator

        def test_fails(started, db):
            HELD.append(db.items().__enter__())
            started.throw(LookupError("thrown"))
            raise errors[0]

        def test_next(started):
            assert next(started) == "ready"
    """)
    run.result.assert_outcomes(failed=1, passed=1)


# --------------------------------------------------------------------------- what belongs to somebody else


def test_a_server_that_a_session_fixture_starts(suite: LeakSuite) -> None:
    """What a fixture's thread opens during a test is not the test's, in whose setup the fixture was set up."""
    innocent(
        suite,
        """
    import queue

    @pytest.fixture(scope="session")
    def server(session_db):
        jobs, answers = queue.Queue(), queue.Queue()
        def serve():
            jobs.get()
            with session_db.snapshot() as snap:
                answers.put("open")
                while jobs.get() is not None:
                    answers.put(snap[b"a"])
        thread = threading.Thread(target=serve)
        thread.start()
        yield jobs, answers
        jobs.put(None)
        thread.join(30)

    def test_first(server):
        server[0].put("begin")
        assert server[1].get(timeout=30) == "open"

    def test_second(server):
        server[0].put("read")
        assert server[1].get(timeout=30) == b"1"
    """,
        passed=2,
    )


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("pytest_configure(config)", "pytest_unconfigure(config)"),
        ("pytest_configure(config)", "pytest_sessionfinish(session)"),
        ("pytest_sessionstart(session)", "pytest_sessionfinish(session)"),
        ("pytest_sessionstart(session)", "pytest_unconfigure(config)"),
    ],
)
@pytest.mark.parametrize("uses", ["", "saferocks.open"], ids=["first used in the hook", "used on import"])
def test_what_a_conftest_opens_and_closes_in_hooks(suite: LeakSuite, begin: str, end: str, uses: str) -> None:
    """A database that a conftest opens as the run starts is open until the conftest closes it as the run ends."""
    suite.pytester.makeconftest(f"""
        import saferocks
        {uses}
        HELD = []
        def {begin}:
            HELD.append(saferocks.open({str(suite.pytester.path / "theirs")!r}).__enter__())
        def {end}:
            HELD[0][b"last"] = b"words"
            HELD[0].__exit__(None, None, None)
    """)
    run = suite.run_child("def test_it():\n    pass\n")
    run.result.assert_outcomes(passed=1)
    assert run.result.ret == 0
    assert "leak" not in f"{run.result.stdout}{run.result.stderr}"


IMPORTED = """
    import pytest, saferocks, tempfile
    DB = saferocks.open(tempfile.mkdtemp() + "/db").__enter__()

    @pytest.fixture(scope="session", autouse=True)
    def close():
        yield
        DB.close()
"""


@pytest.mark.parametrize("flags", [("--collect-only",), ("--setup-plan",), ("-k", "nothing")], ids=" ".join)
def test_a_run_without_tests_is_not_asked(suite: LeakSuite, flags: tuple[str, ...]) -> None:
    """What an import opens and a fixture closes is no leak of a run in which no fixture is set up."""
    suite.pytester.makeconftest(IMPORTED)
    run = suite.run_child("def test_it():\n    pass\n", *flags)
    assert run.result.ret == (pytest.ExitCode.NO_TESTS_COLLECTED if "-k" in flags else pytest.ExitCode.OK)
    run.result.stdout.no_fnmatch_line("*saferocks: *leaked*")


def test_the_controller_of_workers_is_not_asked(suite: LeakSuite) -> None:
    """What a conftest opens on import is closed by the fixtures of xdist's workers, and in the controller by nobody."""
    suite.configure("", "xdist")
    suite.pytester.makeconftest(IMPORTED)
    run = suite.run_child("def test_it():\n    pass\n", "-n", "2")
    run.result.assert_outcomes(passed=1)
    assert run.result.ret == 0


# --------------------------------------------------------------------------- sessions


def test_sessions_within_one_session_share_one_registry(pytester: pytest.Pytester) -> None:
    """The second inner session of a test finds its leaks as the first does, though pytester drops modules."""
    pytester.makeini("[pytest]\naddopts = -p pytester -p no:asyncio -p no:xdist -p no:rerunfailures\n")
    pytester.makepyfile(
        test_outer='''
        import pytest

        @pytest.mark.parametrize("time", [1, 2, 3])
        def test_it(pytester, time):
            pytester.makepyfile(test_inner="""
                import saferocks
                HELD = []
                def test_it(tmp_path):
                    HELD.append(saferocks.open(tmp_path / "db").__enter__())
            """)
            pytester.runpytest_inprocess("-p", "no:asyncio").assert_outcomes(passed=1, errors=1)
        '''
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=3)


@pytest.mark.parametrize("flags", [(), ("-n", "1")], ids=["alone", "with a worker"])
def test_a_leak_of_the_session_is_nothing_to_run_again(suite: LeakSuite, flags: tuple[str, ...]) -> None:
    """`--lf` after a run in which only the session leaked has no failed test to run, and runs all."""
    suite.configure("", "xdist")
    source = "HELD.append(saferocks.SstFileWriter().__enter__())\ndef test_it():\n    pass\n"
    assert suite.run_child(source, *flags).result.ret == pytest.ExitCode.TESTS_FAILED
    again = suite.run_child(source, "--lf", "-p", "no:xdist")
    again.result.stdout.no_fnmatch_line("*known failure*")
    again.result.assert_outcomes(passed=1, errors=1)


def test_a_scan_that_outlives_the_modules(pytester: pytest.Pytester) -> None:
    """A generator that the interpreter's end finds suspended in a `with` says nothing, as the modules are cleared."""
    pytester.makeini("[pytest]\naddopts = -p no:asyncio\n")
    pytester.makeconftest("""
        import pytest, saferocks

        @pytest.fixture(scope="module")
        def db(tmp_path_factory):
            with saferocks.open(tmp_path_factory.mktemp("db") / "db") as db:
                yield db
    """)
    pytester.makepyfile("""
        KEPT = []

        def test_it(db):
            def rows():
                with db.items() as items:
                    yield from items
            db[b"k"] = b"v"
            KEPT.append(rows())
            next(KEPT[0])
    """)
    run = pytester.runpytest_subprocess()
    run.assert_outcomes(passed=1, errors=1)
    assert str(run.stderr) == ""
