"""Work that is opened where it is carried out.

Dask's scheduler looks into what passes through it, and so would need this project installed, as the
workers do. It gets an envelope instead: bytes, and `pickle.loads`, which every Python has. What the
bytes are pickled from reduces to a call of the work, so opening the envelope carries it out.
"""

from __future__ import annotations

import pickle
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Envelope:
    """Work that is done when its pickle is loaded, and whose result is what loading returns.

    Attributes:
        work: What is called.
        arguments: With what.
    """

    work: Callable[..., Any]
    arguments: tuple[Any, ...]

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.work, self.arguments


class EnvelopeExecutor(Executor):
    """Hands work in to another executor in envelopes.

    Args:
        inner: The other executor.
    """

    def __init__(self, inner: Executor) -> None:
        self._inner = inner

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **_none: Any) -> Future[Any]:
        """Hand in work; its arguments are positional."""
        return self._inner.submit(pickle.loads, pickle.dumps(Envelope(work, arguments)))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for the work to end, or give it up."""
        self._inner.shutdown(wait and not cancel_futures)
