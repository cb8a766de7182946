"""The part of the pytest plugin that starts the check, at the first use of saferocks and not before.

A run that has nothing to do with saferocks then pays for a few assignments a test.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any

import pytest

from saferocks import _startup

if TYPE_CHECKING:
    from collections.abc import Generator

    from saferocks._leak_check import LeakCheck
    from saferocks._leak_summary import LeakSummary
    from saferocks._watch import Watch

    _Fixture = tuple[pytest.FixtureDef[Any], pytest.FixtureRequest]


@dataclass(frozen=True)
class LeakOptions:
    """What the options say.

    Attributes:
        mode: `fail`, `warn` or `off`.
        grace: Seconds for which threads may still let go of their handles.
        strict: Whether the whole run is under the policy `raise`.
    """

    mode: str
    grace: float
    strict: bool


class LeakStart:
    """Waits for the first use of saferocks, and notes who is at work meanwhile."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._thread = get_ident()
        self._options: LeakOptions | None = None
        self._watch: Watch | None = None  # over the session, from the first use on
        self._check: LeakCheck | None = None
        self._is_collecting = False  # or has collected
        self._item: pytest.Item | None = None
        self._at_work: list[_Fixture] = []
        config.add_cleanup(self._stop)
        _startup.when_used(self._begin)

    def configure(self, options: LeakOptions) -> None:
        """Take the options; a conftest may have used saferocks by then."""
        self._options = options
        if self._is_controller():
            self._summarize(options)
        if self._watch is not None:
            self._start(options)
            self.rest()  # what plugins open as the run starts they close as it ends
        else:
            self._config.pluginmanager.register(self)

    def collect(self) -> None:
        """Own, for the session, what the import of tests opens."""
        self._is_collecting = True
        if self._watch is not None:
            self._watch.on()

    def rest(self) -> None:
        """Own, for the session, nothing that is opened from now on."""
        if self._watch is not None:
            self._watch.off()

    def _begin(self) -> None:
        """Own what is opened from now on; called at the first use, by whichever thread."""
        from saferocks._watch import Watch

        self._watch = Watch("session", thread=self._thread)
        if self._options is not None:
            self._config.pluginmanager.unregister(self)
            self._start(self._options)
            if not self._is_collecting:
                self.rest()

    def _stop(self) -> None:
        _startup.forget(self._begin)
        if self._watch is not None:
            self._watch.end()

    def _start(self, options: LeakOptions) -> None:
        if options.strict:
            self._be_strict()
        if options.mode == "off":
            self._stop()
            return
        from saferocks._leak_check import LeakCheck

        assert self._watch is not None  # noqa: S101 - its callers have set it
        is_worker = hasattr(self._config, "workerinput")
        summary = None if is_worker else self._summarize(options)
        self._check = check = LeakCheck(
            self._config, self._watch, fails=options.mode == "fail", grace=options.grace, summary=summary
        )
        if self._item is not None:
            check.begin_test(self._item)
        for fixturedef, request in self._at_work:
            check.begin_fixture(fixturedef, request)
        self._config.pluginmanager.register(check)

    def _be_strict(self) -> None:
        from saferocks import _settings

        before = _settings.current
        self._config.add_cleanup(lambda: setattr(_settings, "current", before))
        _settings.configure(policy="raise", trace="stack")

    def _is_controller(self) -> bool:
        return self._config.getoption("dist", "no") != "no" and not hasattr(self._config, "workerinput")

    def _summarize(self, options: LeakOptions) -> LeakSummary | None:
        from saferocks._leak_summary import LeakSummary

        if options.mode == "off":
            return None
        manager = self._config.pluginmanager
        summary = manager.get_plugin(LeakSummary.__name__) or LeakSummary(self._config, fails=options.mode == "fail")
        if not manager.is_registered(summary):
            manager.register(summary, LeakSummary.__name__)
        return summary

    # ---- until then

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Note which test runs."""
        self._item = item

    def pytest_runtest_logfinish(self) -> None:
        """Note that none runs."""
        self._item = None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """Note which fixtures wider than a test are being set up or torn down."""
        if fixturedef.scope == "function":
            return (yield)
        fixture = (fixturedef, request)
        self._at_work.append(fixture)
        # Finalizers run last in, first out: these two enclose the fixture's own.
        fixturedef.addfinalizer(partial(self._leave, fixture))
        try:
            return (yield)
        finally:
            self._leave(fixture)
            if self._check is not None:  # which has begun meanwhile
                self._check.end_setup(fixturedef)
            else:
                fixturedef.addfinalizer(partial(self._at_work.append, fixture))

    def _leave(self, fixture: _Fixture) -> None:
        if fixture in self._at_work:
            self._at_work.remove(fixture)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Ask a test in whose teardown the check has begun."""
        result = yield
        if self._check is not None:
            self._check.end_test(item)
        return result
