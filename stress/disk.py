"""Whether there is room for a run, asked before anything is started."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from stress.errors import UsageError
from stress.running import planned_samples
from stress.scenario import all_scenarios

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stress.record import Plan

_MIB = 1 << 20
#: The most that the database of a leg takes while it runs: its raw leg holds up to a hundred iterators, each
#: of which keeps the table files of its moment.
LEG_BYTES = 1 << 30
#: The most that a leg's samples take: bytes for each, and what its thinned series add to `run.json` twice
#: (the new file is written beside the old one) and to the page.
_SAMPLE_BYTES = 600
_RECORD_BYTES = 1 << 20


def output_bytes(plan: Plan) -> int:
    """Return how many bytes a run's directory may take."""
    samples = planned_samples(plan.seconds)
    legs = sum(len(all_scenarios()[name].legs(plan.legs)) for name in plan.scenarios)
    return int(legs * (samples * _SAMPLE_BYTES + _RECORD_BYTES))


def check_room(plan: Plan, output: str, temporary: str | None) -> None:
    """Refuse a run for which there is too little room.

    Args:
        plan: The run.
        output: Where its directory will be; it need not exist yet.
        temporary: Where the databases of the legs will be, or None if they are on other machines.

    Raises:
        UsageError: If one of the places has less free than the run may take.
    """
    needs = [(output, "--output", output_bytes(plan))]
    if temporary is not None:
        needs.append((temporary, "TMPDIR", plan.jobs * LEG_BYTES))
    check_places(needs)


def check_places(needs: Iterable[tuple[str, str, int]]) -> None:
    """Refuse a run where there is too little room.

    Args:
        needs: Each place, which need not exist yet, what points at it, and the bytes that the run may take there.

    Raises:
        UsageError: If one of the places has less free than the run may take.
    """
    needs = sorted(needs, key=lambda each: -each[2])  # where they share a disk, what takes most of it is named
    for (place, remedy, _), need in zip(needs, _with_neighbours(needs), strict=True):
        free = shutil.disk_usage(_existing(place)).free
        if free < need:
            raise UsageError(
                f"{place!r} has {free / _MIB:,.0f} MiB free and this run may take {need / _MIB:,.0f} MiB; "
                f"point {remedy} at a disk with more room, or run for a shorter time or with fewer --jobs"
            )


def _with_neighbours(needs: Iterable[tuple[str, str, int]]) -> list[int]:
    """Return for each place what is needed on its disk, which another place may share."""
    devices = [(os.stat(_existing(place)).st_dev, need) for place, _, need in needs]
    return [sum(need for other, need in devices if other == device) for device, _ in devices]


def _existing(path: str) -> str:
    """Return the nearest directory that is there already, in which a path would be made."""
    found = os.path.abspath(path)
    while not os.path.exists(found):
        found = os.path.dirname(found)
    return found
