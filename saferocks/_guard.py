"""What happens when a handle has escaped: it is warned about, logged, and raised by policy.

Everything that a finalizer can reach here works without blocking locks and without logging:
events are queued.
"""

from __future__ import annotations

import atexit
import io
import sys
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

from saferocks import _registry, _telling, _watch, events
from saferocks._tally import AT_EXIT, OUTLIVED, Telling, identity
from saferocks.errors import (
    LeakedHandlesError,
    LeakedHandleWarning,
    NotEnteredError,
    UnscopedHandleWarning,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from saferocks._registry import Owner, Record, Site
    from saferocks._tally import Tally
    from saferocks.errors import Leak

_EVENTS = {OUTLIVED: "saferocks.handle_outlived_database"}


def report_collected(found: Tally, number: int) -> None:
    """Report what a finalizer has found, at the counts 1, 10, 100, ... of each line and label.

    What is watched is left to the watch: a finalizer may run in the midst of anybody's test.

    Raises:
        LeakedHandlesError: Under the policy `raise`; the finalizer's caller hands it to `sys.unraisablehook`.
        LeakedHandleWarning: If warnings are errors; likewise.
    """
    if found.watch is not None:
        found.told = number
        return
    try:
        if is_milestone(number):
            report(found, number, in_finalizer=True)
    except LeakedHandleWarning:
        if found.policy != "raise":
            raise
    if found.policy == "raise":
        raise LeakedHandlesError((found.as_leak(),))


def settle(owner: Owner) -> None:
    """Report, as its database closes, what an owner's tallies have not told yet, and raise by policy.

    Raises:
        LeakedHandlesError: Under the policy `raise`.
        LeakedHandleWarning: If warnings are errors.
    """
    warnings_raised = report_untold(owner)
    events.drain()
    leaks = take_leaks(owner)
    if leaks:
        raise LeakedHandlesError(leaks)
    if warnings_raised:
        raise warnings_raised.pop(0)


def report_untold(owner: Owner, *, in_finalizer: bool = False) -> list[LeakedHandleWarning]:
    """Report what an owner's tallies have not told yet; returns the warnings that are errors."""
    raised: list[LeakedHandleWarning] = []
    if exited:  # the summary has told it
        return raised
    for found in list(owner.leaks.values()):
        number = found.count
        try:
            if found.told < number and not _is_left_to_watch(found):
                report(found, number, in_finalizer=in_finalizer)
        except LeakedHandleWarning as warning:
            raised.append(warning)
    return raised


def report(found: Tally, number: int, *, in_finalizer: bool = False) -> None:
    """Warn of an escape, the `number`-th of its line, and queue its event.

    In a finalizer the warning is queued as well if it would be logged.

    Raises:
        LeakedHandleWarning: If warnings are errors.
    """
    if found.policy == "ignore":
        return
    leak = replace(found.as_leak(), count=number)
    found.told = number
    events.defer(_event_of(found, leak))
    stack = "".join(f"\n    {line}" for line in leak.stack)
    text = f"{leak.headline}; open it inside '{found.remedy}'{stack}"
    if in_finalizer and warnings_are_logged():
        events.defer_call(warn, text, LeakedHandleWarning, found.site)
    else:
        warn(text, LeakedHandleWarning, found.site)


def _event_of(found: Tally, leak: Leak) -> events.Event:
    fields = {
        "kind": leak.kind,
        "database": leak.database,
        "opened_at": leak.opened_at,
        "age": round(leak.age, 3),
        "count": leak.count,
        "label": leak.label,
        "thread": found.thread,
        "escape": leak.escape,
        "note": leak.note,
        "stack": "\n".join(leak.stack) or None,
    }
    return events.warning(_EVENTS.get(leak.escape, "saferocks.handle_leaked"), found.bound, fields)


def is_milestone(count: int) -> bool:
    """Tell whether a count is 1, 10, 100, ...: each line is told of that often."""
    while count >= 10 and count % 10 == 0:  # noqa: PLR2004 - powers of ten
        count //= 10
    return count == 1


#: What has no lock that the thread which writes to it may hold already.
_PLAIN_STREAMS = (io.TextIOWrapper, io.StringIO, type(None))


def warnings_are_logged() -> bool:
    """Tell whether warnings go where locks may be taken: `logging.captureWarnings`, or a program's own stderr."""
    if getattr(warnings.showwarning, "__module__", None) not in ("warnings", "_py_warnings"):
        return True
    return not isinstance(sys.stderr, _PLAIN_STREAMS)


def warn(text: str, category: type[Warning], site: Site) -> None:
    """Issue a warning as if the opening line had issued it, or queue it where it might wait for a logger's lock."""
    if warnings_are_logged() and events.is_within_logging():
        events.defer_call(warn, text, category, site)
        return
    code = site[0]
    filename = "<unknown>" if code is None else code.co_filename
    warnings.warn_explicit(text, category, filename, _registry.line_of(site))


def take_leaks(owner: Owner) -> tuple[Leak, ...]:
    """Forget what has escaped from an owner, and return what the policy `raise` wants raised of it."""
    taken: list[Tally] = []
    while owner.leaks:
        try:
            taken.append(owner.leaks.popitem()[1])
        except KeyError:  # another thread took the last one
            break
    taken.reverse()
    return tuple(found.as_leak() for found in taken if found.policy == "raise" and not _is_left_to_watch(found))


def _is_left_to_watch(found: Tally) -> bool:
    """Tell whether the one whose leak it is will be asked for it, and not whoever closes the database."""
    return found.watch is not None and (found.watch.speaks or found.watch is not _watch.current())


def is_asked_for(found: Tally) -> bool:
    """Tell whether a leak is raised or blamed on somebody once it has been reported; others are done with then."""
    return found.policy == "raise" or found.watch is not None


def leave_to_watches(owner: Owner) -> None:
    """Tell nothing in a finalizer of what is watched: it may run in the midst of anybody's test."""
    for found in list(owner.leaks.values()):
        if found.watch is not None:
            found.told = found.count


def forget(tallies: Iterable[Tally]) -> None:
    """Say nothing more of what these tallies have counted."""
    gone = {id(found) for found in tallies}
    owners = {id(record.owner): record.owner for record in _registry.snapshot()}
    for owner in (_registry.PROCESS, *owners.values()):
        for key, found in list(owner.leaks.items()):
            if id(found) in gone:
                owner.leaks.pop(key, None)


_MOST_TOLD = 10_000
# Lines that have been told once that they use a handle without `with`.
_told: dict[tuple[str, tuple[int, int]], Site] = {}


def unscoped(record: Record) -> None:
    """Apply the policy to a handle that is used without having been entered.

    Raises:
        NotEnteredError: Under the policy `raise`.
    """
    policy = record.owner.policy
    where = _registry.format_site(record.site)
    if policy == "raise":
        raise NotEnteredError(f"{record.kind} opened at {where} was used without 'with'; write '{record.remedy}'")
    if policy == "ignore" or (record.kind, identity(record.site)) in _told:
        return
    if len(_told) >= _MOST_TOLD:  # a program that compiles code as it runs has ever new lines
        _told.clear()
    _told[record.kind, identity(record.site)] = record.site
    events.drain()
    events.defer(events.warning("saferocks.handle_unscoped", record.bound, _telling.fields_of(record)))
    warn(
        f"{record.kind} opened at {where} is used without 'with'; write '{record.remedy}'",
        UnscopedHandleWarning,
        record.site,
    )


def check() -> None:
    """Raise everything that has leaked so far under the policy `raise`, and forget it.

    Raises:
        LeakedHandlesError: If anything has.

    Example:
        >>> import saferocks
        >>> saferocks.check()  # raises nothing: nothing has leaked
    """
    events.drain()
    owners = {id(record.owner): record.owner for record in _registry.snapshot()}
    leaks = [leak for owner in (_registry.PROCESS, *owners.values()) for leak in take_leaks(owner)]
    if leaks:
        raise LeakedHandlesError(tuple(leaks))


# --------------------------------------------------------------------------- interpreter exit

#: Set when the exit summary has been given: what is collected after it says no more.
exited = False


def _summarize_at_exit() -> None:
    """Say once, on stderr, what is still open; runs before module globals are cleared."""
    global exited  # noqa: PLW0603 - set once, at the very end
    exited = True
    events.drain()
    # What has leaked without a database is never settled otherwise.
    tallies = {id(found): found for found in list(_registry.PROCESS.leaks.values()) if found.told < found.count}
    tallies = {key: found for key, found in tallies.items() if found.policy != "ignore"}
    raising = any(found.policy == "raise" for found in tallies.values())
    for record in _registry.snapshot():
        if record.kind == "column_family" or record.owner.policy == "ignore" or _watch.is_exempt(record):
            continue
        raising = raising or record.owner.policy == "raise"
        with Telling(record, AT_EXIT) as told:
            if told is not None:
                tallies[id(told[0])] = told[0]
    leaks = tuple(found.as_leak() for found in tallies.values())
    if leaks and raising:
        raise LeakedHandlesError(leaks)  # atexit hands it to sys.unraisablehook
    if leaks and sys.stderr is not None:
        total = sum(leak.count for leak in leaks)
        lines = "".join(f"\n  {leak}" for leak in leaks)
        sys.stderr.write(f"saferocks: {total} handle{'' if total == 1 else 's'} leaked:{lines}\n")


atexit.register(_summarize_at_exit)
