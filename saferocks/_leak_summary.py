"""The part of the pytest plugin that reports on a whole run; with xdist, in the controller."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from saferocks._leak_report import Blame, summary, texts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: The attribute of a teardown report that carries leaks, and the entry of a worker's output.
CARRIED = "saferocks_leaks"
#: The name of the section that a report has of leaks, where they are not what has failed.
SECTION = "saferocks leaks"


class LeakSummary:
    """The hooks that gather what has leaked, in this process or in xdist's workers.

    Args:
        config: pytest's.
        fails: Whether a leak that is no test's fails the run, or is only listed.
    """

    def __init__(self, config: pytest.Config, *, fails: bool) -> None:
        self._config = config
        self._fails = fails
        self._found: list[Blame] = []
        self._broken: dict[str, pytest.TestReport] = {}  # setups, by the test's id
        self._of_workers: list[Blame] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Gather what the report of a test carries."""
        if report.when == "setup" and report.failed:
            self._broken[report.nodeid] = report
        elif report.when == "teardown":
            blames = list(map(Blame.from_dict, getattr(report, CARRIED, ())))
            self._found += blames
            broken = self._broken.pop(report.nodeid, None)
            if broken is not None and blames:  # of which pytest shows no section of the teardown
                broken.sections += [section for section in report.sections if SECTION in section[0]]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Gather what the session of one of xdist's workers has leaked."""
        fields = (getattr(node, "workeroutput", None) or {}).get(CARRIED, ())
        found = (Blame.from_dict(each) for each in fields)
        self._of_workers += (Blame(f"{blame.who} of {node.gateway.id}", blame.leak) for blame in found)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Report what the workers' sessions have leaked."""
        self.report_session(session, self._of_workers)

    def report_session(self, session: pytest.Session, blames: Sequence[Blame], failures: Iterable[str] = ()) -> None:
        """Report leaks that are no test's, as an error of the session."""
        self._found += blames
        if not (blames and self._fails):
            return
        report = pytest.TestReport(
            nodeid="saferocks",
            location=("saferocks", None, "the session"),
            keywords={},
            outcome="failed",
            longrepr="\n".join(texts(blames, failures)),
            when="teardown",
        )
        manager = self._config.pluginmanager
        # To those plugins it would be a test, to be counted or to be run again.
        names = ("terminalreporter", "lfplugin", "nfplugin", "stepwiseplugin")
        others = [manager.get_plugin(name) for name in names]
        tell = manager.subset_hook_caller("pytest_runtest_logreport", [each for each in others if each is not None])
        tell(report=report)
        for plugin in manager.get_plugins():
            if type(plugin).__name__ == "LogXML":  # the JUnit report, which has been written by now
                plugin.pytest_sessionfinish()
        terminal = manager.get_plugin("terminalreporter")
        if terminal is not None:
            terminal.stats.setdefault("error", []).append(report)
        if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """List all leaks by the line that opened them."""
        if self._found:
            terminalreporter.section("saferocks: leaked handles by line", red=self._fails, yellow=not self._fails)
            for line in summary(self._found):
                terminalreporter.write_line(line)
