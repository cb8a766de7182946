"""Leaks of fixtures that are wider than a test, and leaks that a marker allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import LeakSuite

OPEN_AT_END = "was still open when the fixture ended"

# --------------------------------------------------------------------------- wide fixtures

LEAKING_FIXTURE = """
    @pytest.fixture(scope="{scope}")
    def leaky(session_db):
        HELD.append(session_db.items().__enter__())
        yield HELD[-1]
        {teardown}

    class TestIt:
        def test_first(self, leaky):
            assert next(leaky) == (b"a", b"1")
        def test_second(self, leaky):
            assert next(leaky) == (b"b", b"2")
            gc.collect()
"""


@pytest.mark.parametrize("scope", ["class", "module", "package", "session"])
def test_a_wide_fixture_that_leaks_is_told_when_it_is_torn_down(suite: LeakSuite, scope: str) -> None:
    """A handle that a wide fixture leaves open serves all tests, and is told of the fixture at its teardown."""
    run = suite.run(LEAKING_FIXTURE.format(scope=scope, teardown=""), "-W", "error")
    run.result.assert_outcomes(passed=2, errors=1)
    assert run.blamed == ["test_second"]  # at whose teardown the fixture's takes place
    text = run.errors["test_second"]
    assert f"saferocks: fixture 'leaky' ({scope} scope, test_it.py:3) leaked 1 handle" in text
    assert f"iterator opened at test_it.py:5 {OPEN_AT_END}" in text
    assert "this test leaked" not in text
    assert f"leaked by: fixture 'leaky' ({scope} scope, test_it.py:3)" in str(run.result.stdout)


@pytest.mark.parametrize("scope", ["class", "module", "package", "session"])
def test_a_wide_fixture_that_releases_is_not_blamed(suite: LeakSuite, scope: str) -> None:
    """A wide fixture may open handles in its setup and release them in its teardown."""
    teardown = "HELD.pop().__exit__(None, None, None)"
    run = suite.run(LEAKING_FIXTURE.format(scope=scope, teardown=teardown), "-W", "error")
    run.result.assert_outcomes(passed=2)
    assert run.blamed == []


def test_a_wide_fixtures_handle_that_is_collected_in_a_test_is_the_fixtures(suite: LeakSuite) -> None:
    """A cycle that a module's fixture leaves, and the collector finds in the midst of a test, is not that test's."""
    source = """
        @pytest.fixture(scope="module")
        def leaky(session_db):
            cycle = [session_db.items().__enter__()]
            cycle.append(cycle)
        def test_collects(leaky):
            gc.collect()
        def test_last():
            pass
    """
    run = suite.run(source, "-W", "error")
    run.result.assert_outcomes(passed=2, errors=1)
    assert run.blamed == ["test_last"]
    assert "fixture 'leaky' (module scope, test_it.py:3) leaked 1 handle" in run.errors["test_last"]


def test_what_a_wide_fixtures_teardown_opens_is_the_fixtures(suite: LeakSuite) -> None:
    """A handle that the teardown of a module's fixture leaks is told of the fixture, not of the last test."""
    source = """
        @pytest.fixture(scope="module")
        def leaky(session_db):
            yield
            HELD.append(session_db.snapshot().__enter__())
        def test_it(leaky):
            pass
    """
    run = suite.run(source, "-W", "error")
    run.result.assert_outcomes(passed=1, errors=1)
    assert "saferocks: fixture 'leaky' (module scope, test_it.py:3) leaked 1 handle" in run.errors["test_it"]


def test_what_a_fixture_of_the_test_opens_in_its_teardown_is_the_tests(suite: LeakSuite) -> None:
    """A handle that the teardown of a function-scoped fixture leaks is told of its test."""
    source = """
        @pytest.fixture
        def leaky(db):
            yield
            HELD.append(db.snapshot().__enter__())
        def test_it(leaky):
            pass
        def test_next(db):
            pass
    """
    run = suite.run(source, "-W", "error")
    run.result.assert_outcomes(passed=2, errors=1)
    assert "saferocks: this test leaked 1 handle" in run.errors["test_it"]


def test_a_handle_is_its_openers_wherever_it_is_kept(suite: LeakSuite) -> None:
    """A test that leaves its handle with a module's fixture is blamed, and the fixture is not."""
    source = """
        @pytest.fixture(scope="module")
        def store(session_db):
            return []
        def test_opens(store, session_db):
            store.append(session_db.items().__enter__())
        def test_next(store):
            assert len(store) == 1
    """
    run = suite.run(source, "-W", "error")
    run.result.assert_outcomes(passed=2, errors=1)
    assert run.blamed == ["test_opens"]


def test_of_nested_setups_each_owns_what_it_opens(suite: LeakSuite) -> None:
    """A fixture that asks for a wider one in the midst of its setup is blamed for its own handles only."""
    source = """
        @pytest.fixture(scope="session")
        def wider(session_db):
            HELD.append(session_db.snapshot().__enter__())
        @pytest.fixture(scope="module")
        def wide(request, session_db):
            HELD.append(session_db.items().__enter__())
            request.getfixturevalue("wider")
            HELD.append(session_db.write_batch().__enter__())
        def test_it(wide):
            pass
    """
    run = suite.run(source, "-W", "error")
    run.result.assert_outcomes(passed=1, errors=1)
    of_wide, of_wider = run.errors["test_it"].split("fixture 'wider' (session scope, test_it.py:3)")
    assert "fixture 'wide' (module scope, test_it.py:6) leaked 2 handles" in of_wide
    assert "iterator" in of_wide
    assert "write_batch" in of_wide
    assert "snapshot" in of_wider


def test_a_test_and_a_fixture_that_leak_are_told_together(suite: LeakSuite) -> None:
    """The error of a last test that has leaked tells its own leak and that of the module's fixture."""
    source = """
        @pytest.fixture(scope="module")
        def leaky(session_db):
            HELD.append(session_db.items().__enter__())
        def test_it(leaky, session_db):
            HELD.append(session_db.snapshot().__enter__())
    """
    run = suite.run(source, "-W", "error")
    run.result.assert_outcomes(passed=1, errors=1)
    assert "saferocks: this test leaked 1 handle\n  snapshot opened at test_it.py:7 " in run.errors["test_it"]
    assert "saferocks: fixture 'leaky' (module scope, test_it.py:3) leaked 1 handle" in run.errors["test_it"]


def test_a_fixture_that_leaks_is_told_though_the_last_test_has_failed(suite: LeakSuite) -> None:
    """A failure of the test at whose teardown a module's fixture ends does not hide the fixture's leak."""
    run = suite.run(LEAKING_FIXTURE.format(scope="module", teardown="").replace("gc.collect()", "assert False"))
    run.result.assert_outcomes(passed=1, failed=1, errors=1)
    assert "fixture 'leaky' (module scope, test_it.py:3) leaked 1 handle" in str(run.result.stdout)


def test_a_parametrised_fixture_is_named_with_its_parameter(suite: LeakSuite) -> None:
    """A leak of one parameter, torn down in the setup of a later test, lets that test pass and is told after it."""
    source = """
        @pytest.fixture(scope="module", params=["good", "bad", "last"])
        def wide(request, session_db):
            if request.param == "bad":
                HELD.append(session_db.items().__enter__())
            yield request.param
        def test_first(wide):
            pass
        def test_second(wide):
            pass
    """
    run = suite.run(source, "-W", "error", "-v")
    run.result.assert_outcomes(passed=6, errors=1)
    assert run.blamed == ["test_first[last]"]
    told = "saferocks: fixture \"wide['bad']\" (module scope, test_it.py:3) leaked 1 handle"
    assert told in run.errors["test_first[last]"]


def test_a_wide_fixture_whose_setup_fails_is_blamed_for_what_it_left(suite: LeakSuite) -> None:
    """A handle that a module's fixture opened before its setup failed is told of the fixture, once."""
    source = """
        @pytest.fixture(scope="module")
        def broken(session_db):
            HELD.append(session_db.items().__enter__())
            raise LookupError
        def test_first(broken):
            pass
        def test_second(broken):
            pass
        def test_last():
            pass
    """
    run = suite.run(source, "-W", "error")
    text = str(run.result.stdout)
    assert text.count("saferocks: fixture 'broken' (module scope, test_it.py:3) leaked 1 handle") == 1
    assert "this test leaked" not in text
    assert run.blamed == ["test_first", "test_second", "test_last"]


XUNIT = {
    "setup_module": ("def setup_module(module):\n    OPEN", "setup_module/teardown_module of test_it"),
    "teardown_module": ("def teardown_module(module):\n    OPEN", "setup_module/teardown_module of test_it"),
    "setUpModule": ("def setUpModule():\n    OPEN", "setup_module/teardown_module of test_it"),
    "setup_class": (
        "class TestOther:\n  @classmethod\n  def setup_class(cls):\n    OPEN\n  def test_a(self): pass",
        "setup_class/teardown_class of TestOther",
    ),
    "setup_method": ("class TestOther:\n  def setup_method(self):\n    OPEN\n  def test_a(self): pass", "this test"),
    "setup_function": ("def setup_function(function):\n  if not HELD:\n    OPEN", "this test"),
}


@pytest.mark.parametrize("name", XUNIT)
def test_xunit_fixtures_are_named_as_they_are_written(suite: LeakSuite, name: str) -> None:
    """What `setup_module` and its like leak is told of them, with their module or class; per test, of the test."""
    source, who = XUNIT[name]
    opened = "HELD.append(saferocks.WriteBatch().__enter__())"
    run = suite.run(f"{source.replace('OPEN', opened)}\ndef test_it():\n    pass", "-W", "error")
    assert run.result.parseoutcomes()["errors"] == 1
    run.result.stdout.fnmatch_lines([f"saferocks: {who}* leaked 1 handle"])


# --------------------------------------------------------------------------- the marker

LEAKS_TWO_KINDS = """
    {marked}
    class TestIt:
        def test_leaks(self, db{fixture}):
            {first}
            HELD.append(db.items().__enter__())
            db.snapshot().__enter__()
        def test_next(self, db):
            {after}
"""
BOTH = '"iterator", "snapshot"'


@pytest.mark.parametrize(
    "marks",
    [
        pytest.param({"marked": f"@pytest.mark.allow_leaks({BOTH})"}, id="on the class"),
        pytest.param({"marked": f"pytestmark = pytest.mark.allow_leaks({BOTH}, reason='cached')"}, id="on the module"),
        pytest.param(
            {"marked": "pytestmark = pytest.mark.allow_leaks('iterator')\n    @pytest.mark.allow_leaks('snapshot')"},
            id="one kind on the module, one on the class",
        ),
        pytest.param(
            {"fixture": ", request", "first": f"request.node.add_marker(pytest.mark.allow_leaks({BOTH}))"},
            id="added by the test",
        ),
    ],
)
@pytest.mark.parametrize("strict", ["true", "false"])
def test_what_a_marker_allows_is_not_blamed(suite: LeakSuite, marks: dict[str, str], strict: str) -> None:
    """Open handles and dropped ones of the kinds that markers name may be left, and the open ones stay usable."""
    source = LEAKS_TWO_KINDS.format(
        **{"marked": "", "fixture": "", "first": "pass", "after": "assert next(HELD[0]) == (b'a', b'1')", **marks}
    )
    run = suite.run(source, "-W", "error", "--strict-markers", "-o", f"saferocks_strict={strict}")
    run.result.assert_outcomes(passed=2)
    assert run.result.ret == 0
    run.result.stdout.no_fnmatch_line("*saferocks: *")


def test_a_marker_allows_only_the_kinds_that_it_names(suite: LeakSuite) -> None:
    """Of two leaks, the one whose kind the marker does not name fails the test, and is the only one told."""
    source = LEAKS_TWO_KINDS.format(
        marked="@pytest.mark.allow_leaks('iterator')", fixture="", first="pass", after="next(HELD[0])"
    )
    run = suite.run(source, "-W", "error")
    run.result.assert_outcomes(passed=2, errors=1)
    assert run.blamed == ["test_leaks"]
    assert "this test leaked 1 handle\n  snapshot opened" in run.errors["test_leaks"]


def test_a_marker_allows_nothing_to_the_next_test(suite: LeakSuite) -> None:
    """The test after one that is marked is judged as ever, at the same line too."""
    source = """
        def leak(db):
            HELD.append(db.items().__enter__())
        @pytest.mark.allow_leaks("iterator")
        def test_marked(db):
            leak(db)
        def test_next(db):
            leak(db)
        def test_last(db):
            next(HELD[0])
    """
    run = suite.run(source, "-W", "error")
    run.result.assert_outcomes(passed=3, errors=1)
    assert run.blamed == ["test_next"]
    assert "leaked 1 handle" in run.errors["test_next"]


@pytest.mark.parametrize("fixture", ["db", "session_db"])
@pytest.mark.parametrize("strict", ["true", "false"])
def test_an_allowed_leak_is_never_told_afterwards(suite: LeakSuite, fixture: str, strict: str) -> None:
    """Neither its collection in a later test, nor its database's close, nor the interpreter's end tells of it."""
    source = f"""
        @pytest.mark.allow_leaks("iterator", "snapshot", "write_batch", "database")
        def test_leaks({fixture}, tmp_path):
            HELD.extend([{fixture}.items().__enter__() for _ in range(2)])
            HELD.append({fixture}.snapshot().__enter__())
            HELD.append(saferocks.WriteBatch(raw_mode=True).__enter__())
            HELD.append(saferocks.open(tmp_path / "own").__enter__())
        def test_collects():
            del HELD[0]
            gc.collect()
        def test_uses():
            next(HELD[0])
    """
    run = suite.run_child(source, "-W", "error", "-o", f"saferocks_strict={strict}")
    run.result.assert_outcomes(passed=3)
    assert run.result.ret == 0
    run.result.stdout.no_fnmatch_line("*saferocks: *")
    assert str(run.result.stderr) == ""


def test_what_a_marker_allows_may_outlive_its_database_within_the_test(suite: LeakSuite) -> None:
    """In a strict run the close of a database, in the test itself, does not raise what the marker allows."""
    source = """
        @pytest.mark.allow_leaks("iterator")
        def test_it(tmp_path):
            with saferocks.open(tmp_path / "own") as db:
                HELD.append(db.items().__enter__())
    """
    run = suite.run(source, "-W", "error", "-o", "saferocks_strict=true")
    run.result.assert_outcomes(passed=1)
    assert run.blamed == []


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("allow_leaks", "name what may be left open: 'iterator', 'snapshot', *'database'"),
        ("allow_leaks()", "name what may be left open: 'iterator', 'snapshot', *'database'"),
        ("allow_leaks(reason='none')", "name what may be left open: 'iterator', *"),
        ("allow_leaks('iterators')", "unknown kind of handle 'iterators'; there are 'iterator', 'snapshot', *"),
        ("allow_leaks('iterator', 5)", "unknown kind of handle 5; there are 'iterator', *"),
        ("allow_leaks('iterator', why='so')", "unknown argument 'why'; there is 'reason'"),
    ],
)
def test_a_bad_marker_is_a_usage_error(suite: LeakSuite, marker: str, message: str) -> None:
    """A marker without kinds, or with ones that there are not, ends the run before its first test."""
    run = suite.run(f"@pytest.mark.{marker}\ndef test_marked():\n    print('has run')\n")
    assert run.result.ret == pytest.ExitCode.USAGE_ERROR
    run.result.stderr.fnmatch_lines([f"ERROR: test_it.py::test_marked: allow_leaks: {message}"])
    run.result.stdout.no_fnmatch_line("*has run*")


def test_a_bad_marker_that_a_test_adds_is_an_error_of_that_test(suite: LeakSuite) -> None:
    """A test that marks itself with an unknown kind has an error that says so; the next one runs."""
    run = suite.run("""
        def test_it(db, request):
            request.node.add_marker(pytest.mark.allow_leaks("iterators"))
            HELD.append(db.items().__enter__())
        def test_next(db):
            pass
    """)
    assert "test_it" in run.blamed
    assert "test_next" not in run.blamed
    run.result.stdout.fnmatch_lines(["*allow_leaks: unknown kind of handle 'iterators'*"])
