"""Settings of the process: policy and trace, and how they are changed."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Iterator

Policy = Literal["warn", "raise", "ignore"]
Trace = Literal["off", "site", "stack"]

POLICIES: tuple[str, ...] = get_args(Policy)
TRACES: tuple[str, ...] = get_args(Trace)


@dataclass(frozen=True, slots=True)
class Settings:
    """What applies to every database that does not say otherwise."""

    policy: Policy = "warn"
    trace: Trace = "site"


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


def _from_environment() -> Settings:
    policy = checked("SAFEROCKS_POLICY", os.environ.get("SAFEROCKS_POLICY", "warn"), POLICIES)
    trace = checked("SAFEROCKS_TRACE", os.environ.get("SAFEROCKS_TRACE", "site"), TRACES)
    return Settings(policy, trace)  # type: ignore[arg-type]


#: The settings in force. Replaced as a whole, never changed in place, so that a reader needs no lock.
current: Settings = _from_environment()


def configure(*, policy: Policy | None = None, trace: Trace | None = None, **unknown: object) -> None:
    """Change the settings of the process; what is not given stays.

    They apply at once to every database that was not opened with a setting of its own.

    Args:
        policy: `warn` (warn and log), `raise` (strict) or `ignore` (count only).
        trace: What is remembered of each opening: nothing (`off`), the line (`site`) or eight
            frames (`stack`).
        **unknown: Refused, with the names that there are.

    Raises:
        ValueError: If a value is not one of those.
        TypeError: If a setting is unknown.

    Example:
        >>> import saferocks
        >>> saferocks.configure(policy="warn", trace="site")
    """
    global current  # noqa: PLW0603 - one binding, replaced whole; see above
    if unknown:
        names = ", ".join(map(repr, unknown))
        raise TypeError(f"configure() got an unexpected keyword argument: {names}; there are 'policy' and 'trace'")
    new_policy = policy_or_none(policy) or current.policy
    new_trace = trace_or_none(trace) or current.trace
    current = replace(current, policy=new_policy, trace=new_trace)


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
