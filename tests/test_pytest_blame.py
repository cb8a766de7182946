"""Whose a leak is: each way of escape at the right test, wide fixtures for themselves, the session for the rest.

The runs are real ones of pytest inside this one, so the watches of both are nested: what the inner
run should have found and released, and did not, fails the test here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import LeakSuite

OPENERS = {"iterator": "db.items()", "snapshot": "db.snapshot()", "write_batch": "db.write_batch()"}
COLLECTED = "collected while open"
NEVER_ENTERED = "collected without ever being entered"
OUTLIVED = "still open when its database closed"
OPEN = "still open when the test ended"

#: How handles escape, and what is said of them. HANDLE stands for a handle that is not entered.
ROUTES: dict[str, tuple[str, str]] = {
    "dropped": ("def test_dropped(db):\n    HANDLE", NEVER_ENTERED),
    "entered": ("def test_entered(db):\n    HANDLE.__enter__()", COLLECTED),
    "global": ("def test_global(db):\n    HELD.append(HANDLE.__enter__())", OPEN),
    "cycle": ("def test_cycle(db):\n    cycle = [HANDLE.__enter__()]\n    cycle.append(cycle)", COLLECTED),
    "generator": (
        "def suspended(db):\n    with HANDLE as handle:\n        yield handle\n"
        "def test_generator(db):\n    HELD.append(suspended(db))\n    next(HELD[-1])",
        OPEN,
    ),
    "thread": ("def test_thread(db, outlive):\n    outlive(lambda: HANDLE)", OPEN),
    "outlived": (
        "def test_outlived(tmp_path):\n    with saferocks.open(tmp_path / 'own') as db:\n"
        "        HELD.append(HANDLE.__enter__())",
        OUTLIVED,
    ),
    "fixture": (
        "@pytest.fixture\ndef forgetful(db):\n    yield HANDLE.__enter__()\ndef test_fixture(forgetful):\n    pass",
        f"(?:{OPEN}|{COLLECTED})",  # by when pytest drops the fixture's value
    ),
}

#: Follows each of them: collects, and uses a database.
INNOCENT = """
def test_after_{}(db):
    gc.collect()
    with db.items() as items:
        assert len(list(items)) == 2
"""


def routes_through(opener: str) -> str:
    """Return a test file in which a handle escapes each way, and a test with nothing to hide follows each."""
    tests = (text.replace("HANDLE", opener) + "\n" + INNOCENT.format(name) for name, (text, _) in ROUTES.items())
    return "\n".join(tests)


# --------------------------------------------------------------------------- the eight ways of escape


@pytest.mark.parametrize("kind", OPENERS)
@pytest.mark.parametrize(
    "flags",
    [
        pytest.param((), id="default"),
        pytest.param(("-W", "error"), id="warnings are errors"),
        pytest.param(("-o", "saferocks_strict=true"), id="strict"),
        pytest.param(("-o", "saferocks_strict=true", "-W", "error"), id="strict, and warnings are errors"),
    ],
)
def test_each_way_of_escape_is_caught_at_the_test_that_leaked(
    suite: LeakSuite, kind: str, flags: tuple[str, ...]
) -> None:
    """Eight of eight ways of escape are errors of the tests that leaked, and of no test that came after."""
    run = suite.run(routes_through(OPENERS[kind]), *flags)
    assert sorted(run.blamed) == sorted(f"test_{name}" for name in ROUTES)
    raised_in_body = 1 if flags else 0  # by the `with` of the database that was outlived
    run.result.assert_outcomes(
        passed=2 * len(ROUTES) - raised_in_body, failed=raised_in_body, errors=8 - raised_in_body
    )
    run.result.stdout.no_fnmatch_line("*Unraisable*")
    for name, text in run.errors.items():
        escape = ROUTES[name.removeprefix("test_")][1]
        assert text.startswith("saferocks: this test leaked 1 handle\n")
        assert re.search(rf"^  {kind} opened at test_it\.py:\d+ was {escape} after [\d.]+ m?s", text, re.MULTILINE)
        assert OPENERS[kind] in text
        assert f"    write: with {OPENERS[kind]} as " in text


@pytest.mark.parametrize(
    ("kind", "opener", "remedy"),
    [
        ("database", "saferocks.open(tmp_path / 'own')", "with saferocks.open("),
        ("checkpoint", "db.checkpoint()", "with db.checkpoint() as checkpoint:"),
        ("sst_writer", "saferocks.SstFileWriter()", "with saferocks.SstFileWriter(options) as writer:"),
        ("iterator", "db.iter()", "with db.iter() as cursor:"),
    ],
)
def test_handles_of_other_kinds_are_caught_too(suite: LeakSuite, kind: str, opener: str, remedy: str) -> None:
    """Databases, checkpoints, SST writers and cursors that stay open or are dropped fail their tests."""
    source = f"""
        def test_open(db, tmp_path):
            HELD.append({opener}.__enter__())
        def test_between(db, tmp_path):
            with {opener}:
                pass
        def test_dropped(db, tmp_path):
            handle = {opener}.__enter__()
            if {kind == "sst_writer"}:  # one without a file has lost nothing
                handle.open(tmp_path / "rows.sst")
    """
    run = suite.run(source, "-W", "error")
    run.result.assert_outcomes(passed=3, errors=2)
    assert sorted(run.errors) == ["test_dropped", "test_open"]
    for text in run.errors.values():
        assert f"  {kind} opened at test_it.py:" in text
        assert f"    write: {remedy}" in text


def test_handles_of_one_line_are_counted(suite: LeakSuite) -> None:
    """A line that leaks three handles is told once, with their number."""
    run = suite.run("def test_it(db):\n    for _ in range(3):\n        HELD.append(db.items().__enter__())")
    run.result.assert_outcomes(passed=1, errors=1)
    assert (
        "saferocks: this test leaked 3 handles\n  3 iterator handles opened at test_it.py:5 were "
        in (run.errors["test_it"])
    )


def test_what_escapes_before_the_teardown_is_told_with_what_is_still_open(
    suite: LeakSuite,
) -> None:
    """Collected handles and open ones of one test are one error."""
    run = suite.run("""
        def test_it(db):
            db.items().__enter__()
            HELD.append(db.snapshot().__enter__())
        def test_next(db):
            pass
    """)
    run.result.assert_outcomes(passed=2, errors=1)
    text = run.errors["test_it"]
    assert "leaked 2 handles" in text
    assert f"iterator opened at test_it.py:4 was {COLLECTED}" in text
    assert f"snapshot opened at test_it.py:5 was {OPEN}" in text


def test_a_leaked_handle_is_released(suite: LeakSuite) -> None:
    """The next test finds a leaked handle released, for the reason that it had leaked."""
    run = suite.run("""
        def test_leaks(db):
            HELD.append(db.items().__enter__())
        def test_next(db):
            with pytest.raises(saferocks.HandleClosedError, match="when it was found to have leaked"):
                next(HELD[0])
            assert [each.kind for each in saferocks.open_handles() if each.database == db.path()] == ["database"]
    """)
    run.result.assert_outcomes(passed=2, errors=1)
    assert run.blamed == ["test_leaks"]


def test_a_leak_is_told_once(suite: LeakSuite) -> None:
    """Neither the close of the database in a wider fixture nor the end of the session tells a leak again."""
    run = suite.run(
        "def test_leaks(db):\n    HELD.append(db.items().__enter__())\ndef test_next(db):\n    pass", "-W", "error"
    )
    run.result.assert_outcomes(passed=2, errors=1)
    assert run.blamed == ["test_leaks"]
    assert str(run.result.stdout).count("iterator opened at") == 1
    assert str(run.result.stdout).count("1 iterator handle") == 1


def test_clean_checks_cost_no_collection_and_failing_ones_cost_one(suite: LeakSuite) -> None:
    """The collector is run once for a test that leaves something open, and never for others."""
    run = suite.run("""
        COLLECTIONS = []
        def note(phase, info):
            if phase == "start" and info["generation"] == 2:
                COLLECTIONS.append(info)
        @pytest.fixture(scope="module", autouse=True)
        def counted():
            gc.disable()
            gc.callbacks.append(note)
            yield
            gc.callbacks.remove(note)
            gc.enable()
        def test_clean(db):
            with db.items() as items:
                list(items)
        def test_dropped(db):
            db.items()
        def test_leaks(db):
            assert COLLECTIONS == []
            HELD.append(db.items().__enter__())
        def test_count(db):
            assert len(COLLECTIONS) == 1
    """)
    run.result.assert_outcomes(passed=4, errors=2)


def test_handles_under_the_policy_ignore_are_nobodys(suite: LeakSuite) -> None:
    """A database opened under the policy `ignore` may leak."""
    run = suite.run("""
        def test_it(tmp_path):
            with saferocks.open(tmp_path / "db", policy="ignore") as db:
                HELD.append(db.items().__enter__())
                db.snapshot().__enter__()
    """)
    run.result.assert_outcomes(passed=1)


# --------------------------------------------------------------------------- false alarms

CLEAN = """
    import contextlib, concurrent.futures, logging

    @pytest.fixture
    def own(tmp_path):
        with saferocks.open(tmp_path / "own", column_families=None) as own:
            own[b"k"] = b"v"
            yield own

    @pytest.fixture(scope="module")
    def wide(db):
        with db.snapshot() as snap, db.iter() as cursor:
            yield snap, cursor

    @pytest.fixture(scope="class")
    def pool():
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            yield pool

    def rows(db):
        with db.items() as items:
            yield from items

    def test_scopes(own):
        with own.items() as items, own.snapshot() as snap, own.write_batch() as batch, own.iter() as cursor:
            batch[b"x"] = b"y"
            assert list(items)
            with snap.items() as of_snapshot:
                next(of_snapshot)

    @pytest.mark.parametrize("number", range(3))
    def test_wide(wide, number):
        snap, cursor = wide
        cursor.seek(b"a")
        assert snap[b"a"] == b"1" and cursor.key() == b"a"

    def test_generator_left_to_the_collector(db):
        next(rows(db))
        kept = rows(db)
        next(kept)
        cycle = [rows(db)]
        cycle.append(cycle)
        next(cycle[0])

    def test_raises_keeps_a_traceback(db):
        with pytest.raises(ZeroDivisionError) as caught:
            for _ in rows(db):
                1 / 0
        HELD.append(caught)

    def test_logged_traceback(db, caplog):
        try:
            for _ in rows(db):
                1 / 0
        except ZeroDivisionError:
            logging.exception("told")

    def test_raises_in_with(db):
        with pytest.raises(ZeroDivisionError), db.items() as items, db.write_batch() as batch:
            1 / 0

    def test_skipped_in_with(db):
        with db.items() as items:
            pytest.skip("no reason")

    @pytest.mark.xfail
    def test_fails_in_with(db):
        with db.items() as items:
            next(items)
            assert False

    class TestPool:
        def scan(self, db):
            with db.items() as items:
                return len(list(items))
        def test_one(self, pool, db):
            assert pool.submit(self.scan, db).result() == 2
        def test_two(self, pool, db):
            assert [each.result() for each in [pool.submit(self.scan, db) for _ in range(9)]] == [2] * 9

    def test_joined_thread(db):
        thread = threading.Thread(target=lambda: list(rows(db)))
        thread.start()
        thread.join()

    def test_stack(db):
        with contextlib.ExitStack() as stack:
            handles = [stack.enter_context(db.items()) for _ in range(5)]

    def test_families(own):
        users = own.create_column_family("users")
        with users.items() as items:
            assert list(items) == []
        own.drop_column_family("users")

    def test_closed_in_with(tmp_path):
        with saferocks.open(tmp_path / "db") as db:
            with db.items() as items:
                next(items, None)
            db.close()

    def test_free_batch(own):
        with saferocks.WriteBatch(raw_mode=True) as batch:
            batch[b"k"] = b"v"
            own.write(batch)

    def test_refused_opening(tmp_path):
        with pytest.raises(saferocks.SaferocksError):
            saferocks.open(tmp_path / "no" / "such" / "db", access_type=saferocks.AccessType.read_only())

    def test_nothing():
        gc.collect()
"""


@pytest.mark.parametrize("strict", ["true", "false"])
def test_proper_use_is_never_blamed(suite: LeakSuite, strict: str) -> None:
    """Scopes, generators, kept tracebacks, pools, skips and expected failures give no alarm."""
    run = suite.run(CLEAN, "-W", "error", "-o", f"saferocks_strict={strict}")
    run.result.assert_outcomes(passed=17, skipped=1, xfailed=1)
    run.result.stdout.no_fnmatch_line("*saferocks: *")
    assert run.result.ret == 0


# --------------------------------------------------------------------------- threads, and imports


def test_a_thread_older_than_the_test_leaks_for_the_session(suite: LeakSuite) -> None:
    """What a pool's thread opens, which an earlier test has started, is told of the session and of no test."""
    source = """
        import concurrent.futures

        @pytest.fixture(scope="module")
        def pool():
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                yield pool

        def test_starts(pool, session_db):
            pool.submit(list).result()
        def test_opens(pool, session_db):
            HELD.append(pool.submit(lambda: session_db.items().__enter__()).result())
        def test_drops(pool, session_db):
            pool.submit(lambda: session_db.snapshot()).result()
        def test_next(session_db):
            with session_db.items() as items:
                assert len(list(items)) == 2
    """
    run = suite.run(source, "-W", "error")
    run.result.assert_outcomes(passed=4, errors=1)
    assert run.blamed == ["saferocks"]
    assert run.result.ret == pytest.ExitCode.TESTS_FAILED
    text = str(run.result.stdout)
    assert "saferocks: the session leaked 2 handles" in text
    assert "1 snapshot handle" in text
    assert "1 iterator handle" in text


def test_a_thread_that_its_test_has_started_leaks_for_that_test(suite: LeakSuite) -> None:
    """What a test's own thread opens is the test's, though the thread is over by then."""
    run = suite.run("""
        def test_it(session_db):
            thread = threading.Thread(target=lambda: HELD.append(session_db.items().__enter__()))
            thread.start()
            thread.join()
        def test_next(session_db):
            pass
    """)
    run.result.assert_outcomes(passed=2, errors=1)
    assert run.blamed == ["test_it"]


def test_a_thread_may_let_go_within_the_grace(suite: LeakSuite) -> None:
    """A handle that a thread releases while the check waits for it has not leaked."""
    suite.configure("saferocks_leak_grace = 60")
    run = suite.run("""
        import time
        from saferocks import _reckoning

        WAITED_FOR = threading.Event()
        class Clock:
            monotonic = time.monotonic
            def sleep(seconds):
                WAITED_FOR.set()
                time.sleep(seconds)

        def test_it(session_db):
            begun = threading.Event()
            def scan():
                with session_db.items() as items:
                    begun.set()
                    WAITED_FOR.wait(30)
            threading.Thread(target=scan).start()
            begun.wait()
            _reckoning.time = Clock
        def test_next():
            _reckoning.time = time
            assert WAITED_FOR.is_set()
    """)
    run.result.assert_outcomes(passed=2)


def test_the_grace_is_waited_for_a_thread_that_does_not_let_go(suite: LeakSuite) -> None:
    """A handle that a thread goes on holding is a leak once the grace is over, and not before."""
    suite.configure("saferocks_leak_grace = 0.3")
    run = suite.run("""
        def test_it(session_db, outlive):
            outlive(session_db.items)
        def test_next():
            pass
    """)
    run.result.assert_outcomes(passed=2, errors=1)
    assert "was still open when the test ended" in run.errors["test_it"]
    assert run.result.duration >= 0.3


def test_what_an_import_opens_is_the_sessions(suite: LeakSuite) -> None:
    """A handle that a test module opens as it is imported is told of the session, once, and of no test."""
    source = """
        BATCH = saferocks.WriteBatch(raw_mode=True).__enter__()
        saferocks.WriteBatch(raw_mode=True)
        def test_it(db):
            BATCH[b"k"] = b"v"
        def test_next(db):
            BATCH[b"l"] = b"w"
    """
    run = suite.run(source, "-W", "error")
    run.result.assert_outcomes(passed=2, errors=1)
    assert run.blamed == ["saferocks"]
    text = str(run.result.stdout)
    assert "saferocks: the session leaked 2 handles" in text
    assert "write_batch opened at test_it.py:3 was still open when the session ended" in text
    assert "2 operations" in text


def test_a_handle_that_an_import_opens_and_a_test_releases_is_no_leak(suite: LeakSuite) -> None:
    """A module may open a handle as it is imported and release it in a test."""
    run = suite.run("""
        BATCH = saferocks.WriteBatch(raw_mode=True).__enter__()
        def test_it():
            BATCH.__exit__(None, None, None)
    """)
    run.result.assert_outcomes(passed=1)
    assert run.blamed == []


FIRST_USES = {
    "a test": ("def test_it(tmp_path):\n    FIRST_USE\ndef test_next():\n    pass", "test_it", "this test leaked"),
    "a fixture of the test": (
        "@pytest.fixture\ndef own(tmp_path):\n    yield\n    FIRST_USE\ndef test_it(own):\n    pass\n"
        "def test_next():\n    pass",
        "test_it",
        "this test leaked",
    ),
    "a module's fixture": (
        "@pytest.fixture(scope='module', autouse=True)\ndef wide(tmp_path_factory):\n"
        "    tmp_path = tmp_path_factory.mktemp('own')\n    FIRST_USE\n"
        "def test_first():\n    pass\ndef test_it():\n    pass",
        "test_it",
        "fixture 'wide' (module scope, test_it.py:3) leaked",
    ),
    "the teardown of a module's fixture": (
        "@pytest.fixture(scope='module', autouse=True)\ndef wide(tmp_path_factory):\n"
        "    tmp_path = tmp_path_factory.mktemp('own')\n    yield\n    FIRST_USE\n"
        "def test_first():\n    pass\ndef test_it():\n    pass",
        "test_it",
        "fixture 'wide' (module scope, test_it.py:3) leaked",
    ),
    "a test module's import": (
        "import pathlib, tempfile\ntmp_path = pathlib.Path(tempfile.mkdtemp())\nFIRST_USE\ndef test_it():\n    pass\n"
        "def test_next():\n    pass",
        "saferocks",
        "the session leaked",
    ),
}


@pytest.mark.parametrize("where", FIRST_USES)
def test_the_first_use_of_saferocks_may_be_anywhere(suite: LeakSuite, where: str) -> None:
    """What the first use leaks is blamed like any other, though nothing had been looked at until then."""
    suite.pytester.makeconftest("")
    source, blamed, words = FIRST_USES[where]
    first_use = (
        "import sys; assert 'rocksdict' not in sys.modules; HELD.append(saferocks.open(tmp_path / 'own').__enter__())"
    )
    run = suite.run_child(source.replace("FIRST_USE", first_use), "-W", "error")
    run.result.assert_outcomes(passed=2, errors=1)
    assert run.blamed == [blamed]
    run.result.stdout.fnmatch_lines(
        [f"saferocks: {words} 1 handle", "  database opened at test_it.py:* was still open *"]
    )
    assert str(run.result.stderr) == ""


def test_what_a_conftest_opens_is_the_sessions(suite: LeakSuite) -> None:
    """A handle that a conftest opens on import, before the options are known, is told of the session."""
    suite.pytester.makeconftest("import saferocks\nBATCH = saferocks.WriteBatch().__enter__()")
    run = suite.run_child("def test_it():\n    pass")
    run.result.assert_outcomes(passed=1, errors=1)
    assert run.blamed == ["saferocks"]
    run.result.stdout.fnmatch_lines(["  write_batch opened at conftest.py:2 was still open when the session ended *"])


def test_the_end_of_the_interpreter_says_nothing_more(suite: LeakSuite) -> None:
    """After a run in which handles escaped in each way, nothing comes on stderr."""
    run = suite.run_child(routes_through("db.items()"), "-W", "error::pytest.PytestUnraisableExceptionWarning")
    run.result.assert_outcomes(passed=16, errors=8)
    assert sorted(run.blamed) == sorted(f"test_{name}" for name in ROUTES)
    assert str(run.result.stderr) == ""


@pytest.mark.parametrize("flags", [(), ("-o", "saferocks_strict=true")], ids=["default", "strict"])
def test_a_strict_xfail_that_passes_and_leaks_has_one_failure(
    pytester: pytest.Pytester, flags: tuple[str, ...]
) -> None:
    """A test that has failed without an error, since it was expected to fail, is told to leak in a section."""
    pytester.makepyfile(
        test_it="""
        import pytest, saferocks

        HELD = []

        @pytest.mark.xfail(strict=True)
        def test_it(tmp_path):
            HELD.append(saferocks.open(tmp_path / "db").__enter__())
        """
    )
    run = pytester.runpytest_inprocess("-p", "no:asyncio", *flags)
    run.assert_outcomes(failed=1)
    run.stdout.fnmatch_lines(["*[[]XPASS(strict)[]]*", "*Captured saferocks leaks teardown*", "*database opened at *"])
