"""What a scenario is, and which there are: every module in `stress.scenarios` that has a SCENARIO."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from stress import scenarios

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stress.running import Leg

LEGS = ("raw", "guarded", "scoped")


@dataclass(frozen=True)
class Variant:
    """One leg more, for a question of its own; it is run when all three legs are.

    Attributes:
        name: The name of the leg.
        run: Runs it.
        held: The signals in which it must be seen to hold something.
        flat: The signals in which it must hold nothing.
    """

    name: str
    run: Callable[[Leg], None]
    held: tuple[str, ...]
    flat: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scenario:
    """One bug, written three times.

    Attributes:
        name: As on the command line.
        summary: The bug, in one line.
        raw: The bug on bare rocksdict.
        guarded: The same bug on saferocks.
        scoped: The right code on saferocks.
        planted: The signals in which the raw leg must be seen to leak.
        opener: The function of the guarded leg whose handles escape.
        opening: The text of the opening in it, which the guard has to name the line of.
        limits: The scenario's own exact signals, with the most that a healthy leg has of each.
        usual: Its own latencies, in seconds, with the most that a healthy leg takes as a rule.
        variants: Legs beside the three.
    """

    name: str
    summary: str
    raw: Callable[[Leg], None]
    guarded: Callable[[Leg], None]
    scoped: Callable[[Leg], None]
    planted: tuple[str, ...]
    opener: Callable[..., Any]
    opening: str
    limits: Mapping[str, float] = field(default_factory=dict)
    usual: Mapping[str, float] = field(default_factory=dict)
    variants: tuple[Variant, ...] = ()

    def run(self, leg: Leg) -> None:
        """Run the leg of this scenario that has this name."""
        legs = {"raw": self.raw, "guarded": self.guarded, "scoped": self.scoped}
        (legs | {variant.name: variant.run for variant in self.variants})[leg.name](leg)

    @property
    def leg_names(self) -> tuple[str, ...]:
        """The three legs and the variants."""
        return (*LEGS, *(variant.name for variant in self.variants))

    def legs(self, chosen: tuple[str, ...]) -> tuple[str, ...]:
        """Return its legs to be run where these were chosen: all of them for the three, otherwise those it has."""
        return self.leg_names if chosen == LEGS else tuple(leg for leg in self.leg_names if leg in chosen)

    def variant(self, leg: str) -> Variant | None:
        """Return the variant of that name, if it is one."""
        return next((variant for variant in self.variants if variant.name == leg), None)

    @property
    def opening_line(self) -> str:
        """The `file:line` that the guard has to name.

        Raises:
            LookupError: If the opening's text is not on exactly one line of the opener.
        """
        lines, first = inspect.getsourcelines(self.opener)
        found = [number for number, line in enumerate(lines, first) if self.opening in line]
        if len(found) != 1:
            raise LookupError(f"{self.opening!r} is on {len(found)} lines of {self.opener.__qualname__}, not on one")
        return f"{self.opener.__code__.co_filename}:{found[0]}"


def all_legs() -> tuple[str, ...]:
    """Return the names of the legs of all scenarios: the three that each has, then the variants."""
    return tuple(dict.fromkeys((*LEGS, *(leg for each in all_scenarios().values() for leg in each.leg_names))))


@cache
def all_scenarios() -> dict[str, Scenario]:
    """Return every scenario by name, in alphabetical order."""
    found: dict[str, Scenario] = {}
    for module in pkgutil.iter_modules(scenarios.__path__):
        scenario: Scenario = importlib.import_module(f"{scenarios.__name__}.{module.name}").SCENARIO
        found[scenario.name] = scenario
    return dict(sorted(found.items()))
