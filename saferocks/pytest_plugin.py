"""The pytest plugin: a test that leaks a handle fails, and the line that opened it is named.

pytest loads it wherever saferocks is installed, so it imports RocksDB only if the tests do.

Whose a leaked handle is was settled when it was opened: the test's, the class-, module-, package- or
session-wide fixture's whose setup or teardown was running, or the session's, if it was opened on
import or by a thread that is older than the test. Each is asked when it ends.
"""

from __future__ import annotations

from inspect import unwrap
from typing import TYPE_CHECKING, Any

import pytest

from saferocks._allow_leaks import ALLOWED, DESCRIPTION, allowed_kinds
from saferocks._allowances import GRACE, checked_grace
from saferocks._leak_start import LeakOptions, LeakStart

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from saferocks import Rdict

_MODES = ("fail", "warn", "off")
_UNSET = "unset"
_USAGE_ERROR = "saferocks_usage_error"
_START: pytest.StashKey[LeakStart] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    group = parser.getgroup("saferocks", "leaked RocksDB handles (saferocks)")
    group.addoption(
        "--saferocks-leaks",
        choices=_MODES,
        help="what becomes of a test that leaks a handle: it fails (the default), it is listed, or nobody looks",
    )
    parser.addini("saferocks_leaks", "as --saferocks-leaks: fail, warn or off", default=_MODES[0])
    parser.addini(
        "saferocks_strict",
        "whether the whole run is under saferocks' policy 'raise', with stacks; as pytest's own 'strict' if unset",
        type="bool",
        default=_UNSET,
    )
    parser.addini(
        "saferocks_leak_grace",
        "seconds for which threads may still let go of their handles when a test has ended",
        default=str(GRACE),
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Begin before the first conftest is imported; what that opens is the session's."""
    early_config.stash[_START] = LeakStart(early_config)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Check the options, and look for leaks from the first use of saferocks on."""
    config.addinivalue_line("markers", DESCRIPTION)
    mode = _ini_mode(config)
    options = LeakOptions(config.getoption("--saferocks-leaks") or mode, _ini_grace(config), _ini_strict(config))
    if _START not in config.stash:  # a conftest has loaded this plugin
        config.stash[_START] = LeakStart(config)
    config.stash[_START].configure(options)


def _ini_mode(config: pytest.Config) -> str:
    mode: str = config.getini("saferocks_leaks")
    if mode not in _MODES:
        raise pytest.UsageError(f"saferocks_leaks is {mode!r}; allowed are {', '.join(map(repr, _MODES))}")
    return mode


def _ini_grace(config: pytest.Config) -> float:
    text = config.getini("saferocks_leak_grace")
    try:
        return checked_grace(float(text))
    except ValueError:
        raise pytest.UsageError(f"saferocks_leak_grace is {text!r}; give seconds, 0 to 3600") from None


def _ini_strict(config: pytest.Config) -> bool:
    try:
        strict = config.getini("saferocks_strict")
    except (TypeError, ValueError, pytest.UsageError) as error:  # which of them depends on pytest
        raise pytest.UsageError(f"saferocks_strict: {error}; allowed are true and false") from None
    if strict != _UNSET:
        return bool(strict)
    try:
        return bool(config.getini("strict"))
    except (KeyError, ValueError):  # pytest before 9 has none
        return False


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Own what the import of tests opens."""
    session.config.stash[_START].collect()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Leave to plugins and conftests what they open as the run ends."""
    try:
        return (yield)
    finally:
        session.config.stash[_START].rest()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check the markers; a bad one ends the run before it starts."""
    try:
        for item in items:
            allowed = allowed_kinds(item)
            if allowed:
                item.stash[ALLOWED] = allowed
    except pytest.UsageError as error:
        output = getattr(config, "workeroutput", None)
        if output is None:
            raise
        items.clear()  # a worker of xdist cannot end the run; its controller can
        output[_USAGE_ERROR] = str(error)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """End the run for a bad marker that one of xdist's workers has met."""
    error = (getattr(node, "workeroutput", None) or {}).get(_USAGE_ERROR)
    if error is not None:
        raise pytest.UsageError(error)


@pytest.fixture
def saferocks_strict() -> Iterator[None]:
    """The policy `raise`, with stacks, for the length of a test."""
    from saferocks import _settings

    before = _settings.current
    _settings.configure(policy="raise", trace="stack")
    try:
        yield
    finally:
        _settings.current = before


@pytest.fixture
def saferocks_db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rdict]:
    """An entered, strict, raw-mode database of this test's own."""
    import saferocks

    with saferocks.open(tmp_path / "saferocks.db", policy="raise", trace="stack") as db:
        code = getattr(unwrap(request.function), "__code__", None)
        if code is not None:  # to whoever reads its name it was opened by the test
            db._record.site, db._record.stack = (code, 0), ()
        yield db
