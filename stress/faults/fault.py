"""What a fault is: something that happens to a program, staged in rounds, and what each round finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


class NotStagedError(Exception):
    """A fault cannot be staged on this machine; the text says why. It is told as not run, never as passed."""


@dataclass(frozen=True)
class Round:
    """What a round is given. Each runs in a process of its own, forked from one that never opened a database.

    Attributes:
        seed: Of everything random; a round is repeated by its fault's name and this number.
        directory: An empty directory of its own, removed afterwards.
    """

    seed: int
    directory: Path

    def random(self) -> Random:
        """Return the random numbers of this round, from the first one on."""
        return Random(self.seed)


@dataclass(frozen=True)
class Outcome:
    """What a round found.

    Attributes:
        counts: What was done and what was seen, by name, to be summed over the rounds.
        wrong: What must never be, a sentence each: rows lost, wrong answers, errors without a type.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    wrong: tuple[str, ...] = ()


def _always() -> None:
    """Every machine will do."""


@dataclass(frozen=True)
class Fault:
    """Something that happens to a program.

    Attributes:
        name: As on the command line.
        summary: What happens, in one line.
        rounds: How many rounds prove something.
        stage: Carries out a round. An exception that leaves it is a wrong outcome, too; `NotStagedError` is not.
        limit: In seconds: a round that takes longer hangs.
        check: Raises `NotStagedError` if this machine cannot stage it at all.
    """

    name: str
    summary: str
    rounds: int
    stage: Callable[[Round], Outcome]
    limit: float = 60.0
    check: Callable[[], None] = _always
