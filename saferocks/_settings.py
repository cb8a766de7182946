"""Settings of the process: policy, trace and leases, and how they are changed."""

from __future__ import annotations

import math
import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Iterator


class Inherited(Enum):
    """Stands for a duration that was not given; None is one that was: none at all."""

    INHERITED = "that of the next level"

    def __repr__(self) -> str:
        return "INHERITED"


INHERITED = Inherited.INHERITED

#: `warn_after` or `expire_after` as a caller gives it: seconds, None for never, or nothing.
Duration = float | Inherited | None

Policy = Literal["warn", "raise", "ignore"]
Trace = Literal["off", "site", "stack"]

POLICIES: tuple[str, ...] = get_args(Policy)
TRACES: tuple[str, ...] = get_args(Trace)


@dataclass(frozen=True, slots=True)
class Settings:
    """What applies to every database that does not say otherwise.

    Attributes:
        policy: What happens to handles that escape.
        trace: What is remembered of each opening.
        warn_after: Seconds after which an open handle is overdue, or None.
        expire_after: Seconds after which it is released, or None.
    """

    policy: Policy = "warn"
    trace: Trace = "site"
    warn_after: float | None = None
    expire_after: float | None = None


def checked(name: str, value: object, allowed: tuple[str, ...]) -> str:
    """Return `value` if it is allowed, else raise a ValueError that lists what is."""
    if isinstance(value, str) and value in allowed:
        return value
    raise ValueError(f"{name} is {value!r}; allowed are {', '.join(map(repr, allowed))}")


def policy_or_none(value: object) -> Policy | None:
    """Check a policy argument; None stands for the setting of the process."""
    return None if value is None else checked("policy", value, POLICIES)  # type: ignore[return-value]


def trace_or_none(value: object) -> Trace | None:
    """Check a trace argument; None stands for the setting of the process."""
    return None if value is None else checked("trace", value, TRACES)  # type: ignore[return-value]


def seconds(name: str, value: Any, *, zero: bool = False) -> float:
    """Return a duration in seconds that is finite and positive (or zero, where that has a meaning).

    Raises:
        TypeError: If it is no number.
        ValueError: If it is negative, infinite or not a number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is {value!r}; give seconds as a number")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found) or found < 0 or (found == 0 and not zero):
        allowed = "non-negative" if zero else "positive"
        raise ValueError(f"{name} is {value!r}; give a {allowed}, finite number of seconds")
    return found


def duration(name: str, value: Any) -> Duration:
    """Check a `warn_after` or `expire_after`: seconds, None or left out."""
    return value if value is None or value is INHERITED else seconds(name, value)


def lease_defaults(warn_after: Any, expire_after: Any) -> tuple[Duration, Duration]:
    """Check the durations that a database is opened with, beside those of the process."""
    own = duration("warn_after", warn_after), duration("expire_after", expire_after)
    if own != (INHERITED, INHERITED):
        check_order(given(own[0], current.warn_after), given(own[1], current.expire_after))
    return own


def check_order(warn_after: float | None, expire_after: float | None) -> None:
    """Refuse a warning that could never come.

    Raises:
        ValueError: If `warn_after` is not shorter than `expire_after`.
    """
    if not is_ordered(warn_after, expire_after):
        raise ValueError(
            f"warn_after is {warn_after:g} and expire_after {expire_after:g}, so that the warning could never come; "
            "give a warn_after that is shorter, or None for one of the two"
        )


def is_ordered(warn_after: float | None, expire_after: float | None) -> bool:
    """Tell whether a handle that has both is warned of before it expires."""
    return warn_after is None or expire_after is None or warn_after < expire_after


def _from_environment() -> Settings:
    policy = checked("SAFEROCKS_POLICY", os.environ.get("SAFEROCKS_POLICY", "warn"), POLICIES)
    trace = checked("SAFEROCKS_TRACE", os.environ.get("SAFEROCKS_TRACE", "site"), TRACES)
    return Settings(policy, trace)  # type: ignore[arg-type]


#: The settings in force. Replaced as a whole, never changed in place, so that a reader needs no lock.
current: Settings = _from_environment()


#: Set once a default for leases has been given anywhere, and never unset: openers then ask at every level.
#: Until then they need not, which is what leases cost a program that has none.
has_lease_defaults = False


def expect_leases() -> None:
    """Make openers look for defaults of `warn_after` and `expire_after` from now on."""
    global has_lease_defaults  # noqa: PLW0603 - set once
    has_lease_defaults = True


def configure(
    *,
    policy: Policy | None = None,
    trace: Trace | None = None,
    warn_after: Duration = INHERITED,
    expire_after: Duration = INHERITED,
    **unknown: object,
) -> None:
    """Change the settings of the process; what is not given stays.

    Policy and trace apply at once to every database that was not opened with a setting of its own,
    leases to every handle that is opened from now on.

    Args:
        policy: `warn` (warn and log), `raise` (strict) or `ignore` (count only).
        trace: What is remembered of each opening: nothing (`off`), the line (`site`) or eight
            frames (`stack`).
        warn_after: Seconds after which an open handle is overdue: warned of, and logged; None for never.
        expire_after: Seconds after which an open handle is released; None for never.
        **unknown: Refused, with the names that there are.

    Raises:
        ValueError: If a value is not one of those, or `warn_after` is not shorter than `expire_after`.
        TypeError: If a setting is unknown, or a duration is no number.

    Example:
        >>> import saferocks
        >>> saferocks.configure(policy="warn", trace="site")
    """
    global current  # noqa: PLW0603 - one binding, replaced whole; see above
    if unknown:
        names = ", ".join(map(repr, unknown))
        raise TypeError(f"configure() got an unexpected keyword argument: {names}; there are {_NAMES}")
    new = replace(
        current,
        policy=policy_or_none(policy) or current.policy,
        trace=trace_or_none(trace) or current.trace,
        warn_after=given(duration("warn_after", warn_after), current.warn_after),
        expire_after=given(duration("expire_after", expire_after), current.expire_after),
    )
    check_order(new.warn_after, new.expire_after)
    if new.warn_after is not None or new.expire_after is not None:
        expect_leases()
    current = new


_NAMES = "'policy', 'trace', 'warn_after' and 'expire_after'"


def given(value: Duration, otherwise: float | None) -> float | None:
    """Return a duration, or that of the next level if it was left out."""
    return otherwise if isinstance(value, Inherited) else value


@contextmanager
def strict() -> Iterator[None]:
    """Put the whole process under the policy `raise` for the length of a block.

    Databases opened with a `policy=` of their own keep it.

    Example:
        >>> import saferocks
        >>> with saferocks.strict():
        ...     pass  # an unentered or leaked handle raises in here
    """
    global current  # noqa: PLW0603 - see `configure`
    before = current
    current = replace(before, policy="raise")
    try:
        yield
    finally:
        current = replace(current, policy=before.policy)
