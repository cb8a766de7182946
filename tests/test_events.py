"""Events: to structlog where it is configured, else to the logger `saferocks`, never to stdout."""

from __future__ import annotations

import gc
import json
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest
import structlog

import saferocks
from saferocks import events

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    Run = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.about_leaks


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What is logged, from DEBUG on."""
    caplog.set_level(logging.DEBUG, "saferocks")
    return caplog


@pytest.fixture
def structured() -> Iterator[list[dict[str, Any]]]:
    """What a configured structlog gets."""
    found: list[dict[str, Any]] = []

    def keep(_logger: object, method: str, event: dict[str, Any]) -> str:
        found.append({"level": method, **event})
        raise structlog.DropEvent

    structlog.configure(processors=[keep])
    yield found
    structlog.reset_defaults()


def names(logged: pytest.LogCaptureFixture) -> list[str]:
    """Return the names of the events, in order."""
    return [record.message.partition(" ")[0] for record in logged.records if record.name == "saferocks"]


def test_opening_and_closing_are_debug_events(path: str, logged: pytest.LogCaptureFixture) -> None:
    """Each database logs its opening, with path, line and access, and its closing, at DEBUG and once."""
    with saferocks.open(path) as db:
        opened_at = saferocks.open_handles()[0].opened_at
        db.close()
    assert [(record.levelname, record.message.split()[0]) for record in logged.records] == [
        ("DEBUG", "saferocks.database_opened"),
        ("DEBUG", "saferocks.database_closed"),
    ]
    opened, closed = (dict(record.saferocks) for record in logged.records)  # type: ignore[attr-defined]
    assert 0 <= opened.pop("age") <= closed.pop("age") < 20
    common = {"kind": "database", "database": path, "opened_at": opened_at, "count": 1, "label": None}
    assert opened == {**common, "thread": threading.current_thread().name, "access": "read_write"}
    assert closed == {**common, "thread": threading.current_thread().name}


def test_a_leak_is_a_warning_with_fields(path: str, logged: pytest.LogCaptureFixture) -> None:
    """A leak is logged at WARNING with kind, path, line, count, age, fate, label and note."""
    with saferocks.open(path) as db:
        batch = db.write_batch(label="nightly").__enter__()
        batch.delete(b"k")
        opened_at, size = db.handles()[0].opened_at, batch.size_in_bytes()
        with pytest.warns(saferocks.LeakedHandleWarning):
            del batch
        db.handles()
        (record,) = [record for record in logged.records if record.levelno == logging.WARNING]
    fields = record.saferocks  # type: ignore[attr-defined]
    assert 0 <= fields.pop("age") < 20
    assert fields == {
        "kind": "write_batch",
        "database": path,
        "opened_at": opened_at,
        "count": 1,
        "escape": "collected while open",
        "label": "nightly",
        "thread": threading.current_thread().name,
        "note": f"1 operation ({size} bytes) was dropped",
        "stack": None,
    }
    assert record.message.startswith(f"saferocks.handle_leaked kind='write_batch' database={path!r} opened_at=")


def test_an_outliving_handle_is_an_event_of_its_own(path: str, logged: pytest.LogCaptureFixture) -> None:
    """A handle that outlives its database is logged as such, before the closing is."""
    with pytest.warns(saferocks.LeakedHandleWarning):
        with saferocks.open(path) as db:
            kept = db.items()
    assert sorted(names(logged)) == [
        "saferocks.database_closed",
        "saferocks.database_opened",
        "saferocks.handle_outlived_database",
    ]
    del kept


def use_unentered(db: saferocks.Rdict) -> None:
    """Use a line's handles without `with`, more than once."""
    for _ in range(3):
        list(db.items())  # type: ignore[call-overload]


def test_use_without_with_is_an_event(db: saferocks.Rdict, logged: pytest.LogCaptureFixture) -> None:
    """A line that uses handles without `with` is logged once."""
    with pytest.warns(saferocks.UnscopedHandleWarning):
        use_unentered(db)
    db.handles()
    (record,) = [record for record in logged.records if record.levelno == logging.WARNING]
    fields = record.saferocks  # type: ignore[attr-defined]
    assert record.message.startswith("saferocks.handle_unscoped kind='iterator'")
    assert (fields["kind"], fields["database"]) == ("iterator", db.path())
    assert fields["opened_at"].startswith(f"{__file__}:")


def test_a_finalizer_logs_nothing_itself(db: saferocks.Rdict, logged: pytest.LogCaptureFixture) -> None:
    """An event found by a finalizer waits for the next ordinary call, and then comes once."""
    kept: list[Any] = [db.items().__enter__()]
    kept.append(kept)
    logged.clear()
    del kept
    with pytest.warns(saferocks.LeakedHandleWarning):
        gc.collect()
    assert names(logged) == []
    assert len(events.pending) == 1
    with db.snapshot():
        assert names(logged) == ["saferocks.handle_leaked"]
    db.handles()
    assert names(logged) == ["saferocks.handle_leaked"]
    assert len(events.pending) == 0


DRAINS: dict[str, Callable[[saferocks.Rdict], Any]] = {
    "open a scan": lambda db: db.items().__enter__().__exit__(None, None, None),
    "open a snapshot": lambda db: db.snapshot().__enter__().__exit__(None, None, None),
    "open a batch": lambda db: db.write_batch().__enter__().__exit__(None, None, None),
    "list handles": lambda db: db.handles(),
    "list all handles": lambda db: saferocks.open_handles(),
    "check": lambda db: saferocks.check(),
    "close": lambda db: db.close(),
}


@pytest.mark.parametrize("call", DRAINS)
def test_ordinary_calls_log_what_finalizers_found(
    db: saferocks.Rdict, logged: pytest.LogCaptureFixture, call: str
) -> None:
    """Every opening, listing, check and close logs what finalizers have left."""
    with pytest.warns(saferocks.LeakedHandleWarning):
        db.items()
    assert "saferocks.handle_leaked" not in names(logged)
    DRAINS[call](db)
    assert names(logged).count("saferocks.handle_leaked") == 1


def drop_labelled(db: saferocks.Rdict, *labels: str) -> None:
    """Leak a scan for each label, in order."""
    for label in labels:
        db.items(label=label)


def test_events_of_one_thread_are_logged_in_order(db: saferocks.Rdict, logged: pytest.LogCaptureFixture) -> None:
    """Events that several finalizers have left come in the order in which they were found."""
    with pytest.warns(saferocks.LeakedHandleWarning):
        drop_labelled(db, "first", "second", "third")
    db.handles()
    leaks = [record.saferocks["label"] for record in logged.records if record.levelno == logging.WARNING]  # type: ignore[attr-defined]
    assert leaks == ["first", "second", "third"]


def test_a_level_that_is_off_costs_no_record(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """With the logger at WARNING the debug events are not made."""
    caplog.set_level(logging.WARNING, "saferocks")
    with saferocks.open(path):
        pass
    assert caplog.records == []


def test_a_configured_structlog_gets_the_events(
    path: str, structured: list[dict[str, Any]], logged: pytest.LogCaptureFixture
) -> None:
    """Where structlog is configured it gets every event with its fields and level, and the logger gets none."""
    with saferocks.open(path) as db:
        with pytest.warns(saferocks.LeakedHandleWarning):
            db.snapshot(label="mine")
    assert sorted((event["level"], event["event"]) for event in structured) == [
        ("debug", "saferocks.database_closed"),
        ("debug", "saferocks.database_opened"),
        ("warning", "saferocks.handle_leaked"),
    ]
    (leak,) = [event for event in structured if event["level"] == "warning"]
    assert (leak["kind"], leak["label"], leak["count"], leak["database"]) == ("snapshot", "mine", 1, path)
    assert names(logged) == []


STDOUT = """
    import json, logging, sys, warnings
    warnings.simplefilter("ignore")
    how = sys.argv[1]
    if how == "imported":
        import structlog
    if how == "configured":
        import structlog
        structlog.configure(processors=[structlog.processors.JSONRenderer()],
                            logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    if how == "silent":
        logging.getLogger("saferocks").addHandler(logging.NullHandler())
    import saferocks
    assert how != "plain" or "structlog" not in sys.modules
    with saferocks.open("db") as db:
        db.items()
        kept = db.snapshot().__enter__()
"""


@pytest.mark.parametrize("how", ["plain", "imported", "configured", "silent"])
def test_nothing_goes_to_stdout(run_python: Run, how: str) -> None:
    """Whatever a program has configured, stdout is its own; structlog is not even imported for it."""
    run = run_python(STDOUT, how)
    assert (run.returncode, run.stdout) == (0, "")
    lines = run.stderr.splitlines()
    if how == "configured":
        assert {json.loads(line)["event"] for line in lines} == {
            "saferocks.database_opened",
            "saferocks.handle_leaked",
            "saferocks.handle_outlived_database",
            "saferocks.database_closed",
        }
    elif how == "silent":
        assert lines == []
    else:
        assert sorted(line.partition(" ")[0] for line in lines) == [
            "saferocks.handle_leaked",
            "saferocks.handle_outlived_database",
        ]


def test_logging_is_left_as_it_was(run_python: Run) -> None:
    """Importing and using saferocks adds no handler and sets no level, and does not configure structlog."""
    run = run_python(
        """
        import logging, structlog
        import saferocks
        with saferocks.open("db"):
            pass
        logger = logging.getLogger("saferocks")
        print(logger.handlers, logger.level, logger.propagate, logging.root.handlers, structlog.is_configured())
        """
    )
    assert (run.stdout, run.stderr) == ("[] 0 True [] False\n", "")
