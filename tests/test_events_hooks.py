"""Hooks hear of events in place of the logs or beside them; what was bound at the opening comes with each."""

from __future__ import annotations

import datetime
import enum
import gc
import logging
import sys
import threading
import uuid
import warnings
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import given, strategies as st

import saferocks
from saferocks import _bound, _closing, _in_use, events
from saferocks.events import Event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MovedClock

pytestmark = pytest.mark.about_leaks


@pytest.fixture
def heard() -> Iterator[list[Event]]:
    """What the one hook that is set hears."""
    found: list[Event] = []
    events.set_hooks([found.append])
    yield found
    events.set_hooks(None)


@pytest.fixture
def restored() -> Iterator[None]:
    """Put back the default hooks after a test, and let nothing be bound in it that stays."""
    yield
    events.set_hooks(None)


@pytest.fixture
def _unbound() -> Iterator[None]:
    """Begin and end with nothing bound to structlog's variables."""
    structlog.contextvars.clear_contextvars()
    yield
    structlog.contextvars.clear_contextvars()


def leak(db: saferocks.Rdict, **terms: Any) -> None:
    """Drop a snapshot that is open."""
    with pytest.warns(saferocks.LeakedHandleWarning):
        db.snapshot(**terms)


def named(heard: list[Event], name: str) -> Event:
    """Return the one event of a name, without the package's prefix."""
    (found,) = [event for event in heard if event.name == f"saferocks.{name}"]
    return found


# --------------------------------------------------------------------------- who hears


def test_hooks_hear_in_place_of_the_logs(
    db: saferocks.Rdict, heard: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    """A hook that is set hears of each event, and the logs do not."""
    caplog.set_level(logging.DEBUG, "saferocks")
    leak(db, label="mine")
    db.handles()
    assert [(event.name, event.level, event.fields["label"]) for event in heard] == [
        ("saferocks.handle_leaked", logging.WARNING, "mine")
    ]
    assert caplog.records == []


@pytest.mark.usefixtures("restored")
def test_hooks_are_called_in_order(db: saferocks.Rdict, caplog: pytest.LogCaptureFixture) -> None:
    """Hooks beside the logs all hear of an event, one after the other as they were given."""
    order: list[str] = []
    events.set_hooks(hook for hook in (lambda _: order.append("first"), events.log, lambda _: order.append("last")))
    leak(db)
    db.handles()
    assert order == ["first", "last"]
    assert [record.message.split()[0] for record in caplog.records] == ["saferocks.handle_leaked"]


@pytest.mark.usefixtures("restored")
def test_no_hooks_is_silence(db: saferocks.Rdict, caplog: pytest.LogCaptureFixture) -> None:
    """With no hook nothing is told, and None brings the default back."""
    events.set_hooks([])
    leak(db)
    db.handles()
    assert (events.get_hooks(), caplog.records) == ((), [])
    events.set_hooks(None)
    assert events.get_hooks() == (events.log,)


async def wait_for_ever(_event: Event) -> None:
    """Is what nobody would await."""


class Awaited:
    """Likewise."""

    async def __call__(self, _event: Event) -> None:
        """Do nothing."""


BAD_HOOKS: dict[str, Any] = {
    "a function": print,
    "a number": 7,
    "a text": "log",
    "names": ["log"],
    "a list with None": [print, None],
    "False": False,
    "a coroutine function": [wait_for_ever],
    "what is called as a coroutine": [Awaited()],
}


@pytest.mark.parametrize("name", BAD_HOOKS)
def test_what_is_no_list_of_functions_is_refused(name: str) -> None:
    """Anything but an iterable of functions is a TypeError at the call, and what was set stays."""
    before = events.get_hooks()
    with pytest.raises(TypeError, match=r"hooks .*; give"):
        events.set_hooks(BAD_HOOKS[name])
    assert events.get_hooks() is before


@pytest.mark.usefixtures("restored")
def test_a_failing_hook_disturbs_nobody(db: saferocks.Rdict, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook's error goes to `sys.unraisablehook`; the other hooks hear, and the call goes on."""
    raised: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: raised.append(repr(unraisable.exc_value)))
    heard: list[Event] = []
    events.set_hooks([lambda _: 1 / 0, heard.append])
    leak(db)
    with db.items() as items:
        assert list(items) == []
    assert raised == ["ZeroDivisionError('division by zero')"]
    assert [event.name for event in heard] == ["saferocks.handle_leaked"]


@pytest.mark.usefixtures("restored")
def test_ctrl_c_in_a_hook_is_not_swallowed(db: saferocks.Rdict) -> None:
    """KeyboardInterrupt in a hook ends the call that told the event, and nothing stays open of it."""

    def interrupted(_event: Event) -> None:
        raise KeyboardInterrupt

    events.set_hooks([interrupted])
    leak(db)
    with pytest.raises(KeyboardInterrupt):
        db.items()
    events.set_hooks(None)  # before the database is closed
    assert db.handles() == ()


@pytest.mark.usefixtures("restored")
def test_a_hook_may_use_the_database(db: saferocks.Rdict) -> None:
    """What a hook does with a database is told after it, not in its midst, and ends."""
    order: list[str] = []

    def use(event: Event) -> None:
        order.append(f"begin {event.fields['label']}")
        if event.fields["label"] == "outer":
            leak(db, label="inner")
            with db.items():
                pass
        order.append(f"end {event.fields['label']}")

    events.set_hooks([use])
    leak(db, label="outer")
    db.handles()
    assert order == ["begin outer", "end outer", "begin inner", "end inner"]


# --------------------------------------------------------------------------- what comes with an event

ALWAYS = {"kind", "database", "opened_at", "age", "count", "label", "thread"}


def test_every_event_has_the_same_fields(path: str, clock: MovedClock, heard: list[Event]) -> None:
    """Each event tells kind, database, line, age, count, label and thread, and under the default trace no more frames.

    The events of one life, from the opening to the last leak, are all there.
    """
    with pytest.warns(ResourceWarning):
        with saferocks.open(path) as db:
            kept = db.snapshot(label="outlives").__enter__()
            db.snapshot(label="leaks")
            list(db.items(label="unscoped"))  # type: ignore[call-overload]
            with db.items(label="returns", warn_after=1):
                clock.advance(2)
            with db.items(label="expires", expire_after=1):
                clock.advance(2)
    clock.settle()
    told = {event.name.removeprefix("saferocks.") for event in heard}
    assert told == {
        "database_opened", "database_closed", "handle_leaked", "handle_outlived_database", "handle_unscoped",
        "handle_overdue", "handle_returned", "handle_expired",
    }  # fmt: skip
    for event in heard:
        assert set(event.fields) >= ALWAYS, event.name
        assert event.fields["opened_at"].startswith(f"{__file__}:")
        assert (event.fields["database"], event.fields["thread"]) == (path, threading.current_thread().name)
        assert event.fields["count"] == 1
        assert 0 <= event.fields["age"] < 60
        assert event.level == (logging.DEBUG if "database_" in event.name.replace("outlived_", "") else logging.WARNING)
    del kept


def test_a_database_that_is_dropped_is_told_as_closed(path: str, heard: list[Event]) -> None:
    """A database that nobody closes, and that is collected, is told as closed with what was bound at its opening."""
    with structlog.contextvars.bound_contextvars(request_id="r"):
        saferocks.Rdict(path, policy="ignore")
    gc.collect()
    saferocks.open_handles()
    assert [event.name for event in heard] == ["saferocks.database_opened", "saferocks.database_closed"]
    assert [event.bound for event in heard] == [{"request_id": "r"}] * 2


def test_a_database_whose_close_fails_is_told_as_closed(
    path: str, heard: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that is closed though RocksDB reports an error on closing is told as closed."""
    close_native = _in_use.close_native

    def fail(*arguments: Any) -> None:
        close_native(*arguments)
        raise saferocks.IOFailedError("IO error: as planned", code=5)

    db = saferocks.Rdict(path)
    with monkeypatch.context() as patched, pytest.raises(saferocks.IOFailedError):
        patched.setattr(_in_use, "close_native", fail)
        db.close()
    saferocks.open_handles()
    named(heard, "database_closed")


@pytest.mark.parametrize("policy", ["warn", "raise", "ignore"])
def test_what_outlives_a_database_whose_close_fails_is_told(
    path: str, heard: list[Event], monkeypatch: pytest.MonkeyPatch, policy: Any
) -> None:
    """A handle that has outlived a database is told of and noted beside the error with which RocksDB closed it."""
    close_native = _in_use.close_native

    def fail(*arguments: Any) -> None:
        close_native(*arguments)
        raise saferocks.IOFailedError("IO error: as planned", code=5)

    with warnings.catch_warnings(record=True) as warned, monkeypatch.context() as patched:
        warnings.simplefilter("always")
        with (
            pytest.raises(saferocks.IOFailedError, match="as planned") as raised,
            saferocks.open(path, policy=policy) as db,
        ):
            kept = db.snapshot(label="kept").__enter__()
            patched.setattr(_in_use, "close_native", fail)
    assert [event.name for event in heard][2:] == ["saferocks.handle_outlived_database"] * (policy != "ignore")
    assert len(warned) == (policy != "ignore")
    if sys.version_info >= (3, 11):
        assert [note for note in getattr(raised.value, "__notes__", ()) if "[kept]" in note] != [] or policy != "raise"
    saferocks.check()
    del kept


def test_ctrl_c_while_an_opening_is_told(path: str) -> None:
    """KeyboardInterrupt in a hook that is told of an opening leaves nothing open, also while its traceback is kept."""

    def interrupted(event: Event) -> None:
        if event.name == "saferocks.database_opened":
            raise KeyboardInterrupt

    events.set_hooks([interrupted])
    try:
        with pytest.raises(KeyboardInterrupt) as raised:
            saferocks.open(path)
        assert saferocks.open_handles() == ()
    finally:
        events.set_hooks(None)
    with saferocks.open(path):
        pass
    del raised


def test_ctrl_c_while_a_closing_is_told(path: str) -> None:
    """What has outlived a database is told though a hook that is told of the closing is interrupted."""
    names: list[str] = []

    def interrupted(event: Event) -> None:
        names.append(event.name.removeprefix("saferocks."))
        if names == ["database_opened", "database_closed"]:
            raise KeyboardInterrupt

    events.set_hooks([interrupted])
    try:
        with (
            pytest.warns(saferocks.LeakedHandleWarning),
            pytest.raises(KeyboardInterrupt),
            saferocks.open(path) as db,
        ):
            kept = db.snapshot().__enter__()
        saferocks.open_handles()
    finally:
        events.set_hooks(None)
    assert names == ["database_opened", "database_closed", "handle_outlived_database"]
    del kept


def test_a_database_that_two_threads_close_is_told_as_closed_once(
    path: str, heard: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two closes at one moment one closes, and one event tells it."""
    close, close_native = _closing.close, _in_use.close_native
    waits = threading.Event()
    db = saferocks.Rdict(path)
    second = threading.Thread(target=db.close)

    def close_second(*arguments: Any, **named: Any) -> None:
        if threading.current_thread() is second:
            waits.set()
        close(*arguments, **named)

    def close_slowly(*arguments: Any) -> None:
        second.start()
        assert waits.wait(60)
        close_native(*arguments)

    monkeypatch.setattr(_closing, "close", close_second)
    monkeypatch.setattr(_in_use, "close_native", close_slowly)
    db.close()
    second.join()
    named(heard, "database_closed")


def test_a_count_is_that_of_the_line(db: saferocks.Rdict, clock: MovedClock, heard: list[Event]) -> None:
    """Overdue, returned and expired handles are counted by the line that opened them, each on its own account."""
    with pytest.warns(saferocks.OverdueHandleWarning):
        for _ in range(3):
            with db.items(warn_after=1, expire_after=10):
                clock.advance(2)
            clock.settle()
        with db.items(warn_after=1, expire_after=10):
            clock.advance(2)
        clock.settle()
    counts = [(event.name.removeprefix("saferocks.handle_"), event.fields["count"]) for event in heard]
    assert counts == [(name, count) for count in (1, 2, 3, 1) for name in ("overdue", "returned")]


def test_the_thread_is_the_opening_one(db: saferocks.Rdict, heard: list[Event]) -> None:
    """A leak is told with the name of the thread that opened the handle, though another one drops it."""
    kept: list[Any] = []
    release = threading.Event()

    def run() -> None:
        kept.append(db.snapshot())
        release.wait(60)

    opener = threading.Thread(target=run, name="opener")
    opener.start()
    while not kept:
        assert opener.is_alive()
    with pytest.warns(saferocks.LeakedHandleWarning):
        kept.clear()
    release.set()
    opener.join()
    db.handles()
    assert named(heard, "handle_leaked").fields["thread"] == "opener"


# --------------------------------------------------------------------------- what was bound


@pytest.mark.usefixtures("_unbound")
def test_what_was_bound_at_the_opening_comes_with_it(db: saferocks.Rdict, heard: list[Event]) -> None:
    """A leak found in another request is told with what was bound when the handle was opened, and only that."""
    structlog.contextvars.bind_contextvars(request_id="first", user=7)
    kept = db.snapshot()
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id="second", path="/other")
    with pytest.warns(saferocks.LeakedHandleWarning):
        del kept
    db.handles()
    assert named(heard, "handle_leaked").bound == {"request_id": "first", "user": 7}


@pytest.mark.usefixtures("_unbound")
def test_every_event_of_a_handle_tells_what_was_bound(path: str, clock: MovedClock, heard: list[Event]) -> None:
    """Leases, databases and uses without `with` are told with what was bound at the opening, whoever tells them."""
    with pytest.warns(ResourceWarning), structlog.contextvars.bound_contextvars(request_id="r"):
        with saferocks.open(path) as db:
            with db.items(warn_after=1):
                clock.advance(2)
            with db.items(expire_after=1):
                clock.advance(2)
            list(db.items())  # type: ignore[call-overload]
            kept = db.snapshot().__enter__()
    clock.settle()
    assert {event.name for event in heard if event.bound != {"request_id": "r"}} == set()
    assert len(heard) == 7
    del kept


@pytest.mark.usefixtures("_unbound", "restored")
@pytest.mark.parametrize("merges", [True, False])
def test_structlog_is_given_what_was_bound(db: saferocks.Rdict, merges: bool) -> None:
    """A configured structlog's entry has what was bound at the opening, with `merge_contextvars` and without.

    What is bound in the thread that tells it does not get into it.
    """
    found: list[dict[str, Any]] = []

    def keep(_logger: object, _method: str, event: dict[str, Any]) -> str:
        found.append(event)
        raise structlog.DropEvent

    structlog.configure(processors=[*([structlog.contextvars.merge_contextvars] if merges else []), keep])
    try:
        structlog.contextvars.bind_contextvars(request_id="first", label="bound", event="odd", level="odd", self="odd")
        kept = db.snapshot()
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(other="second")
        with pytest.warns(saferocks.LeakedHandleWarning):
            del kept
        db.handles()
    finally:
        structlog.reset_defaults()
    (entry,) = found
    assert (entry["event"], entry["request_id"], entry["label"]) == ("saferocks.handle_leaked", "first", None)
    assert "other" not in entry
    assert structlog.contextvars.get_contextvars() == {"other": "second"}


class Named:
    """A logger that knows its names."""

    def __init__(self, *names: str) -> None:
        self.names = names


FACTORIES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "a name": (lambda name: Named(name), ("saferocks",)),
    "anything": (Named, ("saferocks",)),
    "nothing": (lambda: Named(), ()),
}


@pytest.mark.usefixtures("_unbound", "restored")
@pytest.mark.parametrize("takes", FACTORIES)
def test_each_factory_of_structlog_is_used(db: saferocks.Rdict, takes: str) -> None:
    """A factory of loggers is told the name `saferocks`, but if it takes none."""
    factory, expected = FACTORIES[takes]
    found: list[tuple[tuple[str, ...], str]] = []

    def keep(logger: Named, _method: str, event: dict[str, Any]) -> str:
        found.append((logger.names, event["event"]))
        raise structlog.DropEvent

    structlog.configure(processors=[keep], logger_factory=factory)
    try:
        leak(db)
        db.handles()
    finally:
        structlog.reset_defaults()
    assert found == [(expected, "saferocks.handle_leaked")]


WRAPPERS = {
    "generic": structlog.BoundLogger,
    "stdlib": structlog.stdlib.BoundLogger,
    "filtering": structlog.make_filtering_bound_logger(logging.DEBUG),
    "asynchronous": structlog.stdlib.AsyncBoundLogger,  # made only where a loop runs, and its methods are coroutines
}


@pytest.mark.usefixtures("_unbound", "restored")
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_each_logger_of_structlog_is_told(db: saferocks.Rdict, monkeypatch: pytest.MonkeyPatch, wrapper: str) -> None:
    """Whatever structlog wraps its loggers in hears of an event, whatever names were bound."""
    raised: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: raised.append(repr(unraisable.exc_value)))
    found: list[tuple[str, dict[str, Any]]] = []

    def keep(_logger: object, method: str, event: dict[str, Any]) -> str:
        found.append((method, event))
        raise structlog.DropEvent

    odd = {"method_name": "odd", "args": 1, "name": "n", "message": "m", "msg": "q", "kw": 2, "new_values": 3}
    structlog.configure(processors=[keep], wrapper_class=WRAPPERS[wrapper])
    try:
        with structlog.contextvars.bound_contextvars(**odd):
            leak(db)
        db.handles()
    finally:
        structlog.reset_defaults()
    assert raised == []
    ((method, entry),) = found
    assert (method, entry["event"]) == ("warning", "saferocks.handle_leaked")
    assert entry.items() >= odd.items()


@pytest.mark.usefixtures("restored")
def test_a_processor_that_fails_disturbs_nobody(db: saferocks.Rdict, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of structlog's processors goes to `sys.unraisablehook`, and the call goes on."""
    raised: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: raised.append(repr(unraisable.exc_value)))
    structlog.configure(processors=[lambda *_: 1 / 0])  # type: ignore[list-item, return-value]
    try:
        leak(db)
        assert db.handles() == ()
    finally:
        structlog.reset_defaults()
    assert raised == ["ZeroDivisionError('division by zero')"]


@pytest.mark.usefixtures("_unbound")
def test_what_was_bound_is_kept_no_longer_than_the_handle(path: str, heard: list[Event]) -> None:
    """However a handle ends, in its `with`, by a leak, a close or an opening that fails, nothing is kept of it."""
    with pytest.warns(ResourceWarning), structlog.contextvars.bound_contextvars(request_id="r"):
        with saferocks.open(path) as db:
            with db.items(), db.write_batch():
                assert len(_bound.kept) == 3
            with pytest.raises(TypeError):
                db.items(read_opt=7)  # type: ignore[arg-type]
            db.snapshot()
            assert len(_bound.kept) == 1
            outlives = db.snapshot().__enter__()
        with pytest.raises(saferocks.IOFailedError):
            saferocks.open(__file__)
    assert _bound.kept == {}
    assert {event.fields["kind"]: event.bound for event in heard if "leaked" in event.name} == {
        "snapshot": {"request_id": "r"}
    }
    assert outlives._record.bound == ()


@pytest.mark.usefixtures("_unbound", "restored")
def test_a_release_while_the_overdue_handle_is_told(db: saferocks.Rdict, clock: MovedClock) -> None:
    """The return of a handle that ends while it is called overdue is told with what was bound, too."""
    heard: list[Event] = []

    def release(event: Event) -> None:
        heard.append(event)
        cursor.__exit__(None, None, None)

    with structlog.contextvars.bound_contextvars(request_id="r"):
        cursor: Any = db.iter(warn_after=1)
        cursor.__enter__()
    events.set_hooks([release])
    with pytest.warns(saferocks.OverdueHandleWarning):
        clock.advance(2)
        clock.settle()
    assert [event.name for event in heard] == ["saferocks.handle_overdue", "saferocks.handle_returned"]
    assert [event.bound for event in heard] == [{"request_id": "r"}] * 2


@pytest.mark.usefixtures("_unbound")
def test_the_logger_is_given_what_was_bound(db: saferocks.Rdict, caplog: pytest.LogCaptureFixture) -> None:
    """Without a configured structlog the message and the record's fields have what was bound."""
    with structlog.contextvars.bound_contextvars(request_id="first"):
        leak(db)
    db.handles()
    (record,) = caplog.records
    assert record.saferocks["request_id"] == "first"  # type: ignore[attr-defined]
    assert "request_id='first'" in record.message


class Request:
    """A request that keeps a handle, as programs have them."""

    handle: Any = None


state: ContextVar[Request] = ContextVar("state")


@pytest.mark.usefixtures("_unbound")
def test_what_is_bound_keeps_no_handle_alive(db: saferocks.Rdict, heard: list[Event]) -> None:
    """A handle that is kept only by a context it was opened in is collected with it, and told.

    A registry that kept the context would keep the handle, for good and without a word.
    """

    def serve() -> None:
        request = Request()
        state.set(request)
        structlog.contextvars.bind_contextvars(request=request, request_id="r")
        request.handle = db.snapshot().__enter__()

    with pytest.warns(saferocks.LeakedHandleWarning):
        copy_context().run(serve)
        gc.collect()
    db.handles()
    assert named(heard, "handle_leaked").bound == {"request": f"<{__name__}.Request>", "request_id": "r"}


@pytest.mark.usefixtures("_unbound")
@given(
    st.dictionaries(
        st.text(max_size=8),
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary(),
                  st.uuids(), st.datetimes(), st.lists(st.text())),
    )
)  # fmt: skip
def test_plain_values_are_kept_as_they_are(values: dict[str, Any]) -> None:
    """Whatever is bound, plain values are kept as they are and of others the type, by both ways of asking."""
    expected = {name: "<builtins.list>" if isinstance(value, list) else value for name, value in values.items()}

    def ask() -> tuple[dict[str, Any], dict[str, Any]]:
        structlog.contextvars.bind_contextvars(**values)
        quick = dict(_bound.bound())
        with pytest.MonkeyPatch.context() as patched:
            patched.delattr(structlog.contextvars, "_CONTEXT_VARS")
            patched.setattr(structlog.contextvars, "get_contextvars", lambda: values)
            return quick, dict(_bound.bound())

    assert copy_context().run(ask) == (expected, expected)


def test_structlog_still_has_what_the_quick_way_uses() -> None:
    """A canary: without this name each opening asks `get_contextvars`, which takes ten times as long."""
    assert isinstance(structlog.contextvars._CONTEXT_VARS, dict)


class Text(str):
    """Text with more to it, as that of web frameworks."""

    __slots__ = ("handle",)


class Level(enum.IntEnum):
    """A number with a name."""

    HIGH = 3


@pytest.mark.usefixtures("_unbound")
def test_text_and_numbers_with_more_to_them_are_kept_without_it() -> None:
    """Of text and numbers of types of the program's own the plain value is kept, which leads to nothing else."""
    text = Text("r1")
    text.handle = []  # type: ignore[attr-defined]
    with structlog.contextvars.bound_contextvars(request_id=text, level=Level.HIGH, share=type("F", (float,), {})(0.5)):
        values = dict(_bound.bound())
    assert values == {"request_id": "r1", "level": 3, "share": 0.5}
    assert [type(value) for value in values.values()] == [str, int, float]


@pytest.mark.usefixtures("_unbound")
def test_dates_and_identifiers_are_kept() -> None:
    """Identifiers and dates, which many programs bind, are kept as they are."""
    values = {"id": uuid.uuid4(), "at": datetime.datetime.now(tz=datetime.timezone.utc)}
    with structlog.contextvars.bound_contextvars(**values):
        assert dict(_bound.bound()) == values


def test_binding_in_another_thread_does_no_harm() -> None:
    """Asking while other threads bind ever new names never fails."""
    over = threading.Event()

    def bind() -> None:
        number = 0
        while not over.is_set() and number < 20_000:
            structlog.contextvars.bind_contextvars(**{f"name{number}": number})
            number += 1

    before = dict(structlog.contextvars._CONTEXT_VARS)
    binder = threading.Thread(target=bind)
    binder.start()
    try:
        for _ in range(300):
            assert _bound.bound() == ()
    finally:
        over.set()
        binder.join()
        for name in set(structlog.contextvars._CONTEXT_VARS) - set(before):
            del structlog.contextvars._CONTEXT_VARS[name]


def test_an_event_with_its_bound_values_as_one_dict() -> None:
    """`as_dict` has fields and bound values, and of two of one name the field."""
    event = Event("e", logging.INFO, {"a": 1, "b": None}, {"b": 2, "c": 3})
    assert event.as_dict() == {"a": 1, "b": None, "c": 3}
