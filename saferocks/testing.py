"""For tests under any runner: fail a block or a function that leaks handles. Under pytest the plugin does so itself.

Example:
    >>> import saferocks, saferocks.testing, tempfile, os
    >>> path = os.path.join(tempfile.mkdtemp(), "db")
    >>> with saferocks.testing.assert_no_leaks():
    ...     with saferocks.open(path) as db, db.items() as items:
    ...         list(items)
    []
"""

from __future__ import annotations

import functools
import gc
import inspect
from typing import TYPE_CHECKING, Any, TypeVar

from saferocks import _reckoning, _registry
from saferocks._allowances import GRACE, checked_grace, checked_kinds
from saferocks._watch import Watch
from saferocks.errors import LeakedHandlesError, add_note
from saferocks.inspection import HandleInfo, handle_infos

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from typing_extensions import Self  # known to type checkers without being installed

    from saferocks.errors import Leak

__all__ = ["assert_no_leaks", "open_handles"]

CallableT = TypeVar("CallableT", bound="Callable[..., Any]")


class assert_no_leaks:  # noqa: N801 - used as a function is
    """Fail if a handle that is opened in here escapes: a context manager, and a decorator.

    What has escaped is released and forgotten, so that nothing reports it again. Handles of
    threads that were running before are left alone. Tasks of one event loop are not told apart:
    what another task opens meanwhile counts as opened in here.

    Args:
        allow: Kinds of handles that may be left open.
        grace: Seconds for which threads that are running yet may let go of their handles.

    Raises:
        LeakedHandlesError: At the end, if anything has. If the body raises, that error goes on, with a note.
        ValueError: If `allow` names an unknown kind, or `grace` is negative, not finite or over an hour.

    Example:
        >>> import unittest, saferocks.testing
        >>> class TestJobs(unittest.TestCase):
        ...     @saferocks.testing.assert_no_leaks()
        ...     def test_sweep(self): ...
    """

    def __init__(self, *, allow: Iterable[str] = (), grace: float = GRACE) -> None:
        self._allow = checked_kinds(allow)
        self._grace = checked_grace(grace)
        self._watch: Watch | None = None

    def __enter__(self) -> Self:
        if self._watch is not None:
            raise RuntimeError("assert_no_leaks() is entered already; make one for each 'with'")
        self._watch = Watch("block", self._allow)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        watch, self._watch = self._watch, None
        assert watch is not None  # noqa: S101 - `__enter__` has set it
        watch.off()
        try:
            if error is not None:  # what is still open may be held by its traceback alone
                _note(error, _reckoning.collect_escaped(watch))
                return
            found = _reckoning.reckon(watch, self._grace)
        finally:
            watch.end()
        if found.leaks:
            failure = LeakedHandlesError(found.leaks)
            for text in found.failures:
                add_note(failure, text)
            raise failure

    def __call__(self, function: CallableT) -> CallableT:
        """Watch each call of a function, or of a coroutine function."""
        if inspect.isclass(function) or inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"assert_no_leaks() cannot decorate {function!r}; decorate functions, or use it in a 'with' inside"
            )
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def watched_coroutine(*args: Any, **kwargs: Any) -> Any:
                with assert_no_leaks(allow=self._allow, grace=self._grace):
                    return await function(*args, **kwargs)

            return watched_coroutine  # type: ignore[return-value]

        @functools.wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            with assert_no_leaks(allow=self._allow, grace=self._grace):
                return function(*args, **kwargs)

        return watched  # type: ignore[return-value]


def _note(error: BaseException, leaks: tuple[Leak, ...]) -> None:
    told = error.leaks if isinstance(error, LeakedHandlesError) else ()
    untold = tuple(leak for leak in leaks if (leak.kind, leak.opened_at) not in {(e.kind, e.opened_at) for e in told})
    if untold:
        add_note(error, f"besides, the block has leaked: {LeakedHandlesError(untold)}")


def open_handles() -> tuple[HandleInfo, ...]:
    """Return the open handles that would count as leaks if they were left so, oldest first.

    Unlike `saferocks.open_handles` it first collects what is garbage, and leaves out what may be left: column
    families, which are closed with their database, what a marker or `allow=` has allowed, and what is under
    the policy `ignore`.
    """
    if _registry.records:
        gc.collect()
    return handle_infos(
        record
        for record in _registry.snapshot()
        if record.owner.policy != "ignore" and record.is_missed()  # type: ignore[attr-defined]
    )
