"""What the writer of the crash test has issued and what was acknowledged, kept where no kill can lose it."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

from stress.faults.crash_stream import Kind

if TYPE_CHECKING:
    from stress.faults.crash_stream import Step

_ISSUED, _COMMITTED, _KIND, _SYNCED = range(4)
_BYTES = 8 * 4


class Oracle:
    """Counts in memory that the writer and the round share; it outlives the writer.

    Each is one aligned word, so the writer's death leaves the old number or the new one. A step is
    issued before its call and committed after it has returned.
    """

    def __init__(self) -> None:
        self._words = memoryview(mmap.mmap(-1, _BYTES)).cast("Q")

    def issue(self, step: Step) -> None:
        """Note that a step is about to be carried out."""
        words = self._words
        words[_KIND] = step.kind.value
        words[_ISSUED] += step.writes

    def commit(self, step: Step) -> None:
        """Note that it was carried out."""
        words = self._words
        words[_COMMITTED] += step.writes
        words[_KIND] = 0
        words[_SYNCED] += step.sync

    @property
    def issued(self) -> int:
        """How many writes were begun."""
        return self._words[_ISSUED]

    @property
    def committed(self) -> int:
        """How many writes were acknowledged."""
        return self._words[_COMMITTED]

    @property
    def synced(self) -> int:
        """How many steps were acknowledged as synced."""
        return self._words[_SYNCED]

    @property
    def kind(self) -> Kind | None:
        """What was being carried out, if anything was."""
        kind = self._words[_KIND]
        return Kind(kind) if kind else None
