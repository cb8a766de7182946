"""Events: what saferocks tells the logs of the program that uses it, and hooks for whatever else should hear.

Events go to structlog where the program has configured it, otherwise to the standard library's
logger `saferocks`; never to stdout. saferocks configures neither. `set_hooks` puts other listeners in
their place, adds some, or silences them.

| event | level | when |
|---|---|---|
| `saferocks.handle_leaked` | warning | a handle was collected while open: of each line and label the 1st, 10th, ... |
| `saferocks.handle_outlived_database` | warning | a handle was still open when its database closed |
| `saferocks.handle_unscoped` | warning | a handle was used without `with`, once a line |
| `saferocks.handle_overdue` | warning | a handle was open for longer than its `warn_after`, once a term |
| `saferocks.handle_returned` | warning | a handle that was overdue has been released: takes that back |
| `saferocks.handle_expired` | warning | a handle was open for longer than its `expire_after`, and was released |
| `saferocks.database_opened` | debug | |
| `saferocks.database_closed` | debug | |

What finalizers find is queued and told by the next ordinary call. So is what comes up inside a call of a
logger or of a hook, which a signal handler or a finalizer may interrupt while it holds its lock. What a hook
does itself when it is told of something that a hook has done is not told: a hook that opens a database
each time would never come to an end.
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context
from dataclasses import dataclass, field
from functools import partial
from inspect import iscoroutinefunction, signature
from threading import get_ident
from typing import TYPE_CHECKING, Any

from saferocks._deadlines import hand_over
from saferocks._process import forking, see

if TYPE_CHECKING:
    from collections.abc import Mapping

    from saferocks._bound import Bound

__all__ = ["Event", "Hook", "get_hooks", "log", "log_to_logging", "log_to_structlog", "set_hooks"]

_logger = logging.getLogger("saferocks")
#: Names that are not for others: structlog's `bind` takes the first for itself, and its processors the rest.
_TAKEN = frozenset({"self", "level", "event"})
#: structlog's methods by level; each of its loggers has these, whatever it is configured to wrap them in.
_METHODS = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error"}
#: Packages whose functions may hold the lock of a logger while they run.
_LOGGERS = frozenset({"logging", "structlog"})


@dataclass(frozen=True)
class Event:
    """Something that saferocks has to tell.

    Attributes:
        name: Such as `saferocks.handle_leaked`.
        level: A level of the standard library's logging.
        fields: What belongs to it; strings, numbers or None.
        bound: What was bound to structlog's context variables when the handle was opened, a request's
            identifier for instance. Of values that are neither text, numbers nor the like, their type only.
    """

    name: str
    level: int
    fields: Mapping[str, Any]
    bound: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return all there is to tell in one dict; fields come before what was bound to the same name."""
        return {**self.fields, **{name: value for name, value in self.bound.items() if name not in self.fields}}


#: What hears of events: a function that takes one. It may run on any thread, the one of the leases included,
#: and never in a finalizer. Its errors go to `sys.unraisablehook`, and disturb nobody.
Hook = Callable[[Event], object]


# --------------------------------------------------------------------------- hooks


def log_to_structlog(event: Event) -> None:
    """Log an event by structlog, whether it is configured or not.

    Args:
        event: What is to be told.
    """
    import structlog  # so that only who wants it pays for it

    fields = {name: value for name, value in event.as_dict().items() if name not in _TAKEN}
    wrapper = structlog.get_config()["wrapper_class"]
    if wrapper is getattr(structlog.stdlib, "AsyncBoundLogger", ...):  # nobody here could await what it returns
        wrapper = structlog.stdlib.BoundLogger
    name = ("saferocks",) if _takes_name(structlog.get_config()["logger_factory"]) else ()
    logger = structlog.wrap_logger(None, wrapper_class=wrapper, logger_factory_args=name)
    # Bound first: `method_name` and others are names of parameters that loggers hand on among themselves.
    logger = logger.bind(**fields)
    method = _METHODS.get(event.level)
    if method is None:
        logger.log(event.level, event.name)
    else:
        getattr(logger, method)(event.name)


def _takes_name(factory: Callable[..., object]) -> bool:
    """Tell whether a factory of loggers takes a name; one of a program that gives its loggers none may not."""
    try:
        signature(factory).bind("saferocks")
    except TypeError:
        return False
    except ValueError:  # one of C, which does not tell
        return True
    return True


def log_to_logging(event: Event) -> None:
    """Log an event by the standard library's logger `saferocks`; the record has its fields as `saferocks`.

    Args:
        event: What is to be told.
    """
    if _logger.isEnabledFor(event.level):
        fields = event.as_dict()
        details = " ".join(f"{name}={value!r}" for name, value in fields.items() if value is not None)
        _logger.log(event.level, "%s %s", event.name, details, extra={"saferocks": fields})


def log(event: Event) -> None:
    """Log an event where the program's logs are: by structlog if it is configured, else by `logging`.

    This is the hook that is set unless others are.

    Args:
        event: What is to be told.
    """
    # A program that has configured structlog has imported it; importing it here would cost
    # every other program its import time.
    is_configured = getattr(sys.modules.get("structlog"), "is_configured", None)  # None in the midst of its import
    if is_configured is not None and is_configured():
        log_to_structlog(event)
    else:
        log_to_logging(event)


_DEFAULT: tuple[Hook, ...] = (log,)
#: Replaced as a whole, so that who reads it needs no lock.
_hooks: tuple[Hook, ...] = _DEFAULT


def set_hooks(hooks: Iterable[Hook] | None) -> None:
    """Set what hears of events, in place of what did.

    Args:
        hooks: Functions that take an event, called in this order; none to silence all events, and None
            for the default, which is `log` alone.

    Raises:
        TypeError: If that is no iterable of functions, or one is async; what was set stays.

    Example:
        >>> from saferocks import events
        >>> seen = []
        >>> events.set_hooks([events.log, seen.append])
        >>> events.set_hooks([])
        >>> events.get_hooks()
        ()
        >>> events.set_hooks(None)
    """
    global _hooks  # noqa: PLW0603 - one binding, replaced whole
    if hooks is None:
        _hooks = _DEFAULT
        return
    if not isinstance(hooks, Iterable):
        raise TypeError(f"hooks is {hooks!r}; give a list of functions, [] for none, or None for the default")
    given = tuple(hooks)
    for hook in given:
        if not callable(hook):
            raise TypeError(f"hooks has {hook!r} in it; give functions that take an event")
        if iscoroutinefunction(hook) or iscoroutinefunction(getattr(hook, "__call__", None)):  # noqa: B004 - a class may have an async one
            raise TypeError(f"hooks has {hook!r} in it, which nobody would await; give a function that is not async")
    _hooks = given


def get_hooks() -> tuple[Hook, ...]:
    """Return what hears of events.

    Example:
        >>> from saferocks import events
        >>> events.get_hooks() == (events.log,)
        True
    """
    return _hooks


# --------------------------------------------------------------------------- telling

# Found where nothing may be told: a finalizer can run while its own thread holds a
# handler's lock. `deque.append` is atomic; `drain` is called from ordinary code.
pending: deque[Callable[[], object]] = deque()
#: The threads that call hooks at this moment, and of which generation the event is: 1 if a hook has caused it.
_telling: dict[int, int] = {}


def defer(event: Event) -> None:
    """Queue an event from a finalizer, unless a hook causes events without end; takes no lock and never blocks."""
    generation = _telling.get(get_ident(), -1) + 1
    if generation <= 1:
        pending.append(partial(_tell, event, generation))


def defer_call(function: Callable[..., object], *arguments: Any) -> None:
    """Queue a call from a finalizer; what it raises goes to `sys.unraisablehook`."""
    pending.append(partial(function, *arguments))


def drain() -> None:
    """Tell what has been queued, by this process."""
    if forking:
        see()
    if pending and is_within_logging():
        return  # whoever drains next does it
    while pending:
        try:
            tell = pending.popleft()
        except IndexError:  # another thread took it
            return
        try:
            tell()
        except Exception as error:  # noqa: BLE001 - handed over; it is none of this caller's making
            hand_over(error)


def emit(event: Event) -> None:
    """Tell an event from ordinary code."""
    if is_within_logging():
        defer(event)
    else:
        _tell(event, 0)


def is_within_logging() -> bool:
    """Tell whether this thread may hold the lock of a logger or of a hook at this moment.

    A signal handler, a finalizer or a `__repr__` that is being logged may run in the midst of one.
    To take such a lock again would wait for ever, and be waited for by all who log.
    """
    frame = sys._getframe(1)
    while True:
        if frame.f_code is _CALL or str(frame.f_globals.get("__name__")).partition(".")[0] in _LOGGERS:
            return True
        if frame.f_back is None:
            return False
        frame = frame.f_back


def _tell(event: Event, generation: int) -> None:
    thread = get_ident()
    try:
        _telling[thread] = generation
        # In a context of its own: what happens to be bound in the thread that tells an event, perhaps for
        # another request, has nothing to do with it.
        Context().run(_call_hooks, event)
    finally:
        _telling.pop(thread, None)


def _call_hooks(event: Event) -> None:
    structlog = sys.modules.get("structlog")
    if structlog is not None and event.bound:
        structlog.contextvars.bind_contextvars(**event.bound)
    for hook in _hooks:
        try:
            hook(event)
        except Exception as error:  # noqa: BLE001 - the other hooks are to hear of it all the same
            hand_over(error)


_CALL = _call_hooks.__code__


def start_afresh() -> None:
    """Forget, in a forked child, what its parent had to tell, and the threads that are not there."""
    pending.clear()
    own = get_ident()  # which may fork in a hook, and then goes on in it
    for thread in [other for other in _telling if other != own]:
        del _telling[thread]


def warning(name: str, bound: Bound, fields: Mapping[str, Any]) -> Event:
    """Return an event of the level WARNING."""
    return Event(name, logging.WARNING, fields, dict(bound))


def debug(name: str, bound: Bound, fields: Mapping[str, Any]) -> Event:
    """Return an event of the level DEBUG."""
    return Event(name, logging.DEBUG, fields, dict(bound))
