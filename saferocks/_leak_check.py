"""The part of the pytest plugin that asks tests, fixtures and the session what they have leaked.

Loaded once saferocks is used.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from functools import partial
from inspect import unwrap
from typing import TYPE_CHECKING, Any

import pytest

from saferocks import _reckoning, _registry
from saferocks._allow_leaks import ALLOWED, allowed_kinds
from saferocks._leak_report import Blame, shortened, text_for, texts
from saferocks._leak_summary import CARRIED, SECTION
from saferocks._tracebacks import drop_logged_tracebacks, drop_tracebacks
from saferocks._watch import Watch

if TYPE_CHECKING:
    from collections.abc import Generator

    from saferocks._leak_summary import LeakSummary

#: How pytest names the fixtures that it makes of `setup_module`, `setUpClass` and the like.
_XUNIT = re.compile(r"_(?:xunit|unittest)_(setup_module|setup_class|setUpClass)_fixture_(.+)")
_TEARDOWNS = {"setup_module": "teardown_module", "setup_class": "teardown_class", "setUpClass": "tearDownClass"}

_UNFINISHED = (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR)


@dataclass(eq=False)
class _Run:
    """One run of a test; reruns have others.

    Attributes:
        item: The test.
        watch: Over what it opens.
        has_failed: Whether a phase of it has failed already.
        blames: What it has leaked.
        failures: What went wrong with releasing that.
        errors: What its phases have ended with.
    """

    item: pytest.Item
    watch: Watch
    has_failed: bool = False
    blames: list[Blame] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)

    def forget_errors(self) -> None:
        """Let go of the frames of calls that are over; reports have been made of them.

        A scan that a generator in such a frame holds would look as if it had been leaked.
        """
        sys.__dict__.pop("last_traceback", None)
        drop_tracebacks(self.errors)
        self.errors.clear()


class LeakCheck:
    """The hooks of a run in which leaks are looked for, once saferocks is used.

    Args:
        config: pytest's.
        session: The watch over what belongs to no test.
        fails: Whether a leak fails its test, or is only listed.
        grace: Seconds for which other threads may let go of their handles.
        summary: Where what is no test's is reported; None in a worker of xdist, which sends it to the controller.
    """

    def __init__(
        self, config: pytest.Config, session: Watch, *, fails: bool, grace: float, summary: LeakSummary | None
    ) -> None:
        self._config = config
        self._session = session
        self._fails = fails
        self._grace = grace
        self._summary = summary
        self._run: _Run | None = None
        self._thread = session.thread
        self._has_run = False  # a test
        self._in_setup: dict[pytest.FixtureDef[Any], Watch] = {}
        self._of_fixtures: list[Blame] = []  # and in no report yet
        self._carried: list[Blame] = []  # by the next teardown report
        self._failure: BaseException | None = None  # the last one raised
        self._failures: list[str] = []

    # ---- tests

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # so that it comes before other wrappers
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Own what is opened from now on."""
        self._drop_run()
        self.begin_test(item)
        return (yield)

    def begin_test(self, item: pytest.Item) -> None:
        """Own what a test opens."""
        self._has_run = not self._config.getoption("setupplan", False)
        self._run = _Run(item, Watch("test", item.stash.get(ALLOWED, None), self._thread))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Fail a test that has leaked, or in whose teardown a wide fixture turned out to have leaked."""
        __tracebackhide__ = True
        run = self._run
        if run is None:  # its setup was not ours
            return (yield)
        bad_marker = _read_markers(item, run)
        run.watch.speaks = True
        if _registry.records:
            run.forget_errors()
        try:
            result = yield
        except (KeyboardInterrupt, pytest.exit.Exception):
            self._drop_run()  # it has not come to releasing what is open
            raise
        except BaseException:
            self._tell(item, run, raises=False)  # one error a phase, and this one came first
            raise
        self._tell(item, run, raises=self._fails and bad_marker is None)
        if bad_marker is not None:
            raise bad_marker
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Remember failures, and see to it that a leak is told with its test, expected failures included."""
        report = yield
        if self._run is not None:
            self._run.has_failed |= report.failed  # without an error, too, as a strict xfail that passes
            if call.excinfo is not None:
                self._run.errors.append(call.excinfo.value)
        if call.when == "teardown" and self._carried:
            setattr(report, CARRIED, [blame.as_dict() for blame in self._carried])
            self._carried = []
            if call.excinfo is not None and call.excinfo.value is self._failure:
                report.outcome = "failed"  # which xfail has made `skipped` of
                vars(report).pop("wasxfail", None)
                self._failure = None
        return report

    def end_test(self, item: pytest.Item) -> None:
        """Fail a test in whose teardown saferocks has been used for the first time, if it has leaked."""
        if self._run is not None:
            self._tell(item, self._run, raises=self._fails)

    def _ask(self, run: _Run) -> None:
        """Find what a test has leaked, once its own fixtures are torn down."""
        if run.watch.may_own() and _registry.records:
            run.forget_errors()
            drop_logged_tracebacks(run.item)
            (getattr(run.item, "funcargs", None) or {}).clear()  # as pytest does after the teardown
        run.blames += self._reckon(run.watch, run.item.nodeid, run.failures)

    def _drop_run(self) -> None:
        """End a run that nobody will ask any more; what it has leaked is the session's."""
        run, self._run = self._run, None
        if run is not None:
            run.watch.end()
            self._session.leaks.update(run.watch.leaks)

    def _tell(self, item: pytest.Item, run: _Run, *, raises: bool) -> None:
        """Raise what has leaked, or add it to the report of a test that has failed already.

        Raises:
            pytest.fail.Exception: Of the test, unless it has failed before; of wide fixtures in any case.
        """
        self._ask(run)
        self._drop_run()
        of_fixtures, self._of_fixtures = self._of_fixtures, []
        self._carried = run.blames + of_fixtures
        if not self._carried:
            return
        told = [text_for("this test", run.blames, run.failures)] if run.blames else []
        told += texts(of_fixtures, self._failures)
        self._failures = []
        if raises and (of_fixtures or not run.has_failed):
            self._failure = pytest.fail.Exception("\n".join(told), pytrace=False)
            raise self._failure
        item.add_report_section("teardown", SECTION, "\n".join(told))

    # ---- fixtures

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """Own, for a fixture wider than a test, what its setup and its teardown open."""
        if fixturedef.scope == "function":
            return (yield)
        self.begin_fixture(fixturedef, request)
        try:
            return (yield)
        finally:
            self.end_setup(fixturedef)

    def begin_fixture(self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> None:
        """Own what the setup of a wide fixture opens."""
        watch = self._in_setup[fixturedef] = Watch("fixture", thread=self._thread)
        # Finalizers run last in, first out: this one and that of `end_setup` enclose the fixture's own.
        fixturedef.addfinalizer(partial(self._check_fixture, watch, fixturedef, _name_of(fixturedef, request)))

    def end_setup(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        """Leave what is opened from now on to others, until the fixture is torn down."""
        watch = self._in_setup.pop(fixturedef)
        watch.off()
        for other in self._in_setup.values():
            other.disown(watch)
        if self._run is not None:  # in whose setup this was; a server that the fixture has started is not its
            self._run.watch.disown(watch)
        fixturedef.addfinalizer(partial(self._enter_teardown, watch))

    def _enter_teardown(self, watch: Watch) -> None:
        if self._run is not None and self._run.watch.speaks:
            # The test in whose teardown this comes is asked first: its own fixtures are torn down by
            # now, and a database that is about to close would tell of its handles in other words.
            self._ask(self._run)
        watch.speaks = True
        watch.on()

    def _check_fixture(self, watch: Watch, fixturedef: pytest.FixtureDef[Any], name: str) -> None:
        self._in_setup.pop(fixturedef, None)  # of one that has begun in its teardown
        self._of_fixtures += self._reckon(watch, name, self._failures)
        watch.end()

    def _reckon(self, watch: Watch, who: str, failures: list[str]) -> list[Blame]:
        if not watch.leaks and not (_registry.records and watch.may_own()):
            return []
        found = _reckoning.reckon(watch, self._grace)
        failures += found.failures
        return [Blame(who, leak) for leak in found.leaks]

    # ---- the session

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Ask the session, once the last fixtures are torn down and conftests have closed what is theirs."""
        result = yield
        self._drop_run()
        # Of a run that was interrupted, or of its fixtures: it is in the midst of what had yet to be released.
        if self._has_run and session.exitstatus not in _UNFINISHED:
            self._finish(session)
        self._session.end()
        return result

    def _finish(self, session: pytest.Session) -> None:
        blames = self._of_fixtures + self._reckon(self._session, "the session", self._failures)
        if self._summary is not None:
            self._summary.report_session(session, blames, self._failures)
        else:
            self._config.workeroutput[CARRIED] = [blame.as_dict() for blame in blames]  # type: ignore[attr-defined]


def _read_markers(item: pytest.Item, run: _Run) -> pytest.UsageError | None:
    """Read the markers that have been added as a test ran; returns the error of a bad one."""
    try:
        if run.watch.leaks or _registry.records:
            run.watch.allowed = allowed_kinds(item)
    except pytest.UsageError as error:
        return error
    return None


def _name_of(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> str:
    """Name a fixture, or what pytest has made a fixture of, with its scope and place."""
    of_class_or_module = _XUNIT.match(fixturedef.argname)
    if of_class_or_module:
        setup, whose = of_class_or_module.groups()
        return f"{setup}/{_TEARDOWNS[setup]} of {whose}"
    parameter = f"[{request.param!r}]" if hasattr(request, "param") else ""
    code = getattr(unwrap(fixturedef.func), "__code__", None)
    place = f", {shortened(code.co_filename)}:{code.co_firstlineno}" if code is not None else ""
    return f"fixture {fixturedef.argname + parameter!r} ({fixturedef.scope} scope{place})"
