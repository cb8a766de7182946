"""Who waits for saferocks to be used: pytest's plugin, which is loaded in runs that never use it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

_is_used = False
_waiting: list[Callable[[], None]] = []
_modules: dict[str, ModuleType] = {}


def when_used(callback: Callable[[], None]) -> None:
    """Call back when saferocks is first used, before any handle can be open; at once, if it has been."""
    if _is_used:
        # pytester puts `sys.modules` back after a session within a session. A second copy of the
        # registry would know nothing of the handles that the first one's functions open.
        sys.modules.update((name, module) for name, module in _modules.items() if name not in sys.modules)
        callback()
    else:
        _waiting.append(callback)


def forget(callback: Callable[[], None]) -> None:
    """Do not call back any more."""
    if callback in _waiting:
        _waiting.remove(callback)


def is_used() -> None:
    """Call back all who wait; called once, when the modules that open handles are imported."""
    global _is_used  # noqa: PLW0603 - set once
    _is_used = True
    _modules.update((name, module) for name, module in sys.modules.items() if name.startswith("saferocks."))
    while _waiting:
        _waiting.pop(0)()
