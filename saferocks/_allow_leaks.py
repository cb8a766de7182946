"""The marker `allow_leaks`."""

from __future__ import annotations

import pytest

from saferocks._allowances import KINDS, checked_kinds

#: The kinds that a test may leave open, where there are any.
ALLOWED = pytest.StashKey[frozenset[str]]()

DESCRIPTION = f"allow_leaks(*kinds, reason=None): this test may leave handles of these kinds open ({', '.join(KINDS)})"


def allowed_kinds(item: pytest.Item) -> frozenset[str]:
    """Return the kinds of handles that a test's markers allow it to leave open.

    Raises:
        pytest.UsageError: If a marker names no kind, or one that there is not.
    """
    allowed: frozenset[str] = frozenset()
    for mark in item.iter_markers("allow_leaks"):
        allowed |= _kinds_of(mark, item.nodeid)
    return allowed


def _kinds_of(mark: pytest.Mark, where: str) -> frozenset[str]:
    unknown = mark.kwargs.keys() - {"reason"}
    if unknown:
        raise pytest.UsageError(f"{where}: allow_leaks: unknown argument {unknown.pop()!r}; there is 'reason'")
    try:
        kinds = checked_kinds(mark.args)
    except ValueError as error:
        raise pytest.UsageError(f"{where}: allow_leaks: {error}") from None
    if not kinds:
        raise pytest.UsageError(f"{where}: allow_leaks: name what may be left open: {', '.join(map(repr, KINDS))}")
    return kinds
