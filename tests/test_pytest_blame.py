"""Whose a leak is: each way of escape at the right test, wide fixtures for themselves, the session for the rest.

The runs are real ones of pytest inside this one, so the watches of both are nested: what the inner
run should have found and released, and did not, fails the test here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

import saferocks
from saferocks import _settings

if TYPE_CHECKING:
    from collections.abc import Callable

OPENERS = {"iterator": "db.items()", "snapshot": "db.snapshot()", "write_batch": "db.write_batch()"}
COLLECTED = "collected while open"
NEVER_ENTERED = "collected without ever being entered"
OUTLIVED = "still open when its database closed"
OPEN = "still open when the test ended"
NO_OTHER_PLUGINS = "-p no:asyncio -p no:rerunfailures -p no:xdist -p no:hypothesispytest"

CONFTEST = """
    import threading
    import pytest
    import saferocks

    OVER = threading.Event()
    THREADS = []

    def database(tmp_path_factory):
        with saferocks.open(tmp_path_factory.mktemp("db") / "db") as db:
            db[b"a"] = b"1"
            db[b"b"] = b"2"
            yield db

    db = pytest.fixture(scope="module")(database)
    session_db = pytest.fixture(scope="session")(database)

    @pytest.fixture(scope="session")
    def outlive():
        def start(scope, *arguments):
            begun = threading.Event()
            def run():
                with scope(*arguments):
                    begun.set()
                    OVER.wait()
            THREADS.append(threading.Thread(target=run, daemon=True))
            THREADS[-1].start()
            assert begun.wait(30)
        return start

    def pytest_unconfigure():
        OVER.set()
        for thread in THREADS:
            thread.join(30)
"""

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
        OPEN,
    ),
}

#: Follows each of them: collects, and uses a database.
INNOCENT = """
def test_after_{}(db):
    gc.collect()
    with db.items() as items:
        assert len(list(items)) == 2
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A directory for tests with a module-wide database, a session-wide one, and the default settings."""
    saferocks.check()  # a first use in the inner run would make this one strict in its midst
    monkeypatch.setattr(_settings, "current", _settings.Settings())
    for name in ("SAFEROCKS_POLICY", "SAFEROCKS_TRACE"):
        monkeypatch.delenv(name, raising=False)
    pytester.makeini(f"[pytest]\naddopts = {NO_OTHER_PLUGINS}\nfilterwarnings = default\nsaferocks_leak_grace = 0.02\n")
    pytester.makeconftest(CONFTEST)
    return pytester


@pytest.fixture
def run(suite: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    """Run a test file, `test_it.py`, with names for what most of them need."""

    def run_file(source: str, *flags: str) -> pytest.RunResult:
        suite.makepyfile(test_it=f"import gc, threading, pytest, saferocks\nHELD = []\n{_flush_left(source)}")
        return suite.runpytest_inprocess(*flags)

    return run_file


def _flush_left(source: str) -> str:
    lines = source.strip("\n").splitlines()
    margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(line[margin:] for line in lines) + "\n"


def blamed(result: pytest.RunResult) -> list[str]:
    """Return the names of the tests that have errors, or failed, by pytest's own summary; `saferocks` for the session."""
    lines = [line for line in result.outlines if re.match(r"(ERROR|FAILED) ", line)]
    return [line.split(" - ")[0].split(" ", 1)[1].rpartition("::")[2] for line in lines]


def errors(result: pytest.RunResult) -> dict[str, str]:
    """Return the texts of the errors at the teardown of tests, by the tests' names."""
    parts = re.split(r"^_+ ERROR at (?:setup|teardown) of (\S+) _+$", "\n".join(result.outlines), flags=re.MULTILINE)
    texts = (re.split(r"^={5}", text, maxsplit=1, flags=re.MULTILINE)[0] for text in parts[2::2])
    return dict(zip(parts[1::2], texts, strict=True))


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
    run: Callable[..., pytest.RunResult], kind: str, flags: tuple[str, ...]
) -> None:
    """Eight of eight ways of escape are errors of the tests that leaked, and of no test that came after."""
    result = run(routes_through(OPENERS[kind]), *flags)
    assert sorted(blamed(result)) == sorted(f"test_{name}" for name in ROUTES)
    raised_in_body = 1 if flags else 0  # by the `with` of the database that was outlived
    result.assert_outcomes(passed=2 * len(ROUTES) - raised_in_body, failed=raised_in_body, errors=8 - raised_in_body)
    result.stdout.no_fnmatch_line("*Unraisable*")
    for name, text in errors(result).items():
        escape = ROUTES[name.removeprefix("test_")][1]
        assert text.startswith("\nsaferocks: this test leaked 1 handle\n")
        assert re.search(rf"^  {kind} opened at test_it\.py:\d+ was {escape} after \d+ ms", text, re.MULTILINE)
        assert OPENERS[kind] in text
        assert f"    write: with {OPENERS[kind]} as " in text


@pytest.mark.parametrize(
    ("kind", "opener", "remedy"),
    [
        ("database", "saferocks.open(tmp_path / 'own')", "with saferocks.open("),
        ("checkpoint", "db.checkpoint()", "with db.checkpoint() as checkpoint:"),
        ("sst_writer", "saferocks.SstFileWriter(saferocks.Options(raw_mode=True))", "with saferocks.SstFileWriter("),
        ("iterator", "db.iter()", "with db.iter() as cursor:"),
    ],
)
def test_handles_of_other_kinds_are_caught_too(
    run: Callable[..., pytest.RunResult], kind: str, opener: str, remedy: str
) -> None:
    """Databases, checkpoints, SST writers and cursors that stay open or are dropped fail their tests."""
    source = f"""
        def test_open(db, tmp_path):
            HELD.append({opener}.__enter__())
        def test_between(db, tmp_path):
            with {opener}:
                pass
        def test_dropped(db, tmp_path):
            {opener}.__enter__()
    """
    result = run(source, "-W", "error")
    result.assert_outcomes(passed=3, errors=2)
    assert sorted(errors(result)) == ["test_dropped", "test_open"]
    for text in errors(result).values():
        assert f"  {kind} opened at test_it.py:" in text
        assert f"    write: {remedy}" in text


def test_handles_of_one_line_are_counted(run: Callable[..., pytest.RunResult]) -> None:
    """A line that leaks three handles is told once, with their number."""
    result = run("def test_it(db):\n    for _ in range(3):\n        HELD.append(db.items().__enter__())")
    result.assert_outcomes(passed=1, errors=1)
    assert "saferocks: this test leaked 3 handles\n  3 iterator handles opened at test_it.py:5 were " in (
        errors(result)["test_it"]
    )


def test_what_escapes_before_the_teardown_is_told_with_what_is_still_open(
    run: Callable[..., pytest.RunResult],
) -> None:
    """Collected handles and open ones of one test are one error."""
    result = run("""
        def test_it(db):
            db.items().__enter__()
            HELD.append(db.snapshot().__enter__())
        def test_next(db):
            pass
    """)
    result.assert_outcomes(passed=2, errors=1)
    text = errors(result)["test_it"]
    assert "leaked 2 handles" in text
    assert f"iterator opened at test_it.py:4 was {COLLECTED}" in text
    assert f"snapshot opened at test_it.py:5 was {OPEN}" in text


def test_a_leaked_handle_is_released(run: Callable[..., pytest.RunResult]) -> None:
    """The next test finds a leaked handle released, for the reason that it had leaked."""
    result = run("""
        def test_leaks(db):
            HELD.append(db.items().__enter__())
        def test_next(db):
            with pytest.raises(saferocks.HandleClosedError, match="when it was found to have leaked"):
                next(HELD[0])
            assert [each.kind for each in saferocks.open_handles() if each.database == db.path()] == ["database"]
    """)
    result.assert_outcomes(passed=2, errors=1)
    assert blamed(result) == ["test_leaks"]


def test_a_leak_is_told_once(run: Callable[..., pytest.RunResult]) -> None:
    """Neither the close of the database in a wider fixture nor the end of the session tells a leak again."""
    result = run(
        "def test_leaks(db):\n    HELD.append(db.items().__enter__())\ndef test_next(db):\n    pass", "-W", "error"
    )
    result.assert_outcomes(passed=2, errors=1)
    assert blamed(result) == ["test_leaks"]
    assert str(result.stdout).count("iterator opened at") == 1
    assert str(result.stdout).count("1 iterator handle") == 1


def test_clean_checks_cost_no_collection_and_failing_ones_cost_one(run: Callable[..., pytest.RunResult]) -> None:
    """The collector is run once for a test that leaves something open, and never for others."""
    result = run("""
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
    result.assert_outcomes(passed=4, errors=2)


def test_handles_under_the_policy_ignore_are_nobodys(run: Callable[..., pytest.RunResult]) -> None:
    """A database opened under the policy `ignore` may leak."""
    result = run("""
        def test_it(tmp_path):
            with saferocks.open(tmp_path / "db", policy="ignore") as db:
                HELD.append(db.items().__enter__())
                db.snapshot().__enter__()
    """)
    result.assert_outcomes(passed=1)


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
def test_proper_use_is_never_blamed(run: Callable[..., pytest.RunResult], strict: str) -> None:
    """Scopes, generators, kept tracebacks, pools, skips and expected failures give no alarm."""
    result = run(CLEAN, "-W", "error", "-o", f"saferocks_strict={strict}")
    result.assert_outcomes(passed=17, skipped=1, xfailed=1)
    result.stdout.no_fnmatch_line("*saferocks: *")
    assert result.ret == 0
