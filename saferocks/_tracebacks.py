"""Letting go of what errors hold that are over and told: their frames, and the variables in them.

A scan that a suspended generator in such a variable holds would look as if it had been leaked.
"""

from __future__ import annotations

from contextlib import suppress
from dis import opname
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    import pytest

_RESUMABLE = CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR
_SUSPENDING = ("YIELD_VALUE", "YIELD_FROM", "SEND", "RESUME")


def drop_tracebacks(errors: Iterable[BaseException | None]) -> None:
    """Let go of the frames that errors hold, those of their causes and contexts included.

    Of the variables in them, too: another plugin may hold the traceback.
    """
    kept = list(errors)
    seen: set[int] = set()
    while kept:
        error = kept.pop()
        if error is not None and id(error) not in seen:
            seen.add(id(error))
            _clear_calls(error.__traceback__)
            error.__traceback__ = None
            kept += (error.__cause__, error.__context__, *getattr(error, "exceptions", ()))


def drop_logged_tracebacks(item: pytest.Item) -> None:
    """Let go of the frames that errors hold which a test has logged, and which pytest keeps for `caplog`."""
    try:
        from _pytest.logging import caplog_records_key
    except ImportError:  # it is no part of pytest's interface
        return
    for record in chain.from_iterable(item.stash.get(caplog_records_key, {}).values()):
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            drop_tracebacks((error,))
            record.exc_info = (type(error), error, None)


def _clear_calls(traceback: TracebackType | None) -> None:
    while traceback is not None:
        if _is_over(traceback):
            with suppress(RuntimeError):  # it is running
                traceback.tb_frame.clear()
                traceback.tb_frame.f_locals  # up to Python 3.12 a copy, renewed by looking at it
        traceback = traceback.tb_next


def _is_over(traceback: TracebackType) -> bool:
    """Tell whether a frame cannot go on; to clear that of a suspended generator or coroutine would close it.

    One that an error has ended stands where the error left it, and not where it could be resumed.
    """
    frame = traceback.tb_frame
    if not frame.f_code.co_flags & _RESUMABLE:
        return True
    instruction = opname[frame.f_code.co_code[frame.f_lasti]]
    return frame.f_lasti == traceback.tb_lasti and instruction not in _SUSPENDING
